"""What one does not need can be left out: DATSYNC_NO_DRIVE, DATSYNC_NO_SYNCHRONIZER.

`make check-small` runs what does not need the rooms that are left out; here it is what is built, and that it still does its work.
"""

import re
import shutil
import subprocess

import pytest

import tools
from core import libraries
from test_packaging import clones
from test_walls import SODIUM, STRICT

SWITCHES = {"all": [], "no drive": ["-DDATSYNC_NO_DRIVE"], "no synchronizer": ["-DDATSYNC_NO_SYNCHRONIZER"],
            "peers alone": ["-DDATSYNC_NO_DRIVE", "-DDATSYNC_NO_SYNCHRONIZER"]}
DRIVE = re.compile(r"datsync_(drive_|add_drive$)")
SYNCHRONIZER = re.compile(r"datsync_(new|free|add|add_drive|add_source|interest|listen|connect|found|pollfds|deadline|step|poll|run|stop|complete|peers|"
                          r"candidates|offered|memory_net_new|memory_net_free)$")


def compiler(*words):
    done = subprocess.run(words, cwd=tools.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stdout[:2000]
    return done.stdout


def offered(tmp_path, switches):
    """The public functions of what is built with these switches."""
    compiler("cc", *STRICT, *SODIUM, *switches, "-c", "-o", str(tmp_path / "it.o"), "datsync.c")
    return set(re.findall(r" [TD] _?(datsync_\w+)", compiler("nm", str(tmp_path / "it.o"))))


@pytest.mark.parametrize("cc", ["gcc", "clang"])
@pytest.mark.parametrize("name", SWITCHES)
def test_each_builds_without_a_warning(cc, name):
    if not shutil.which(cc):
        pytest.skip(cc + " is missing")
    compiler(cc, *STRICT, *SODIUM, *SWITCHES[name], "-fsyntax-only", "datsync.c")


def test_each_lacks_what_it_says_and_no_more(tmp_path):
    everything = offered(tmp_path, [])
    assert offered(tmp_path, SWITCHES["no drive"]) == {f for f in everything if not DRIVE.match(f)}
    assert offered(tmp_path, SWITCHES["no synchronizer"]) == {f for f in everything if not SYNCHRONIZER.match(f)}
    assert offered(tmp_path, SWITCHES["peers alone"]) == {f for f in everything if not DRIVE.match(f) and not SYNCHRONIZER.match(f)}


def test_an_embedder_without_drives_clones_a_feed(tmp_path):
    compiler("cc", *STRICT, *SODIUM, *SWITCHES["no drive"], "-I.", "-o", str(tmp_path / "embed"), "examples/embed.c",
             "datsync.c", "net_posix.c", *libraries())
    clones(str(tmp_path / "embed"), tmp_path)


def test_two_peers_without_a_synchronizer(tmp_path):
    compiler("cc", *STRICT, *SODIUM, *SWITCHES["peers alone"], "-I.", "-o", str(tmp_path / "bare"), "examples/bare.c", "datsync.c", *libraries())
    assert compiler(str(tmp_path / "bare")) == "no files\nno sockets\nno clock\n"
