"""Clones from sources that lack blocks, over loopback, and what an import makes of what it can't read."""

import copy
import os
import random
import signal
import subprocess
import time

import pytest

import tools
from dat import drive, evil
from test_cli_drive import Home
from tools import FAILED

BLOCK = 65536
MTIME = 1500000000000


@pytest.fixture
def reader(tmp_path):
    return Home(tmp_path / "reader")


def served(made, blocks):
    """A peer that has these content blocks only."""
    part = copy.copy(made)
    part.content = drive.only(made.content, set(blocks))
    return evil.Server(part)


def clone(reader, made, folder, server, *args, **options):
    return reader("clone", "--peer", "127.0.0.1:%d" % server.port, *args, made.key.hex(), folder, **options)


def test_a_map_of_an_earlier_download_is_not_believed(reader, tmp_path):
    """What is noted of a file that was on its way is held against the tree, and goes when the file is whole."""
    made, folder = drive.Drive(seed=b"\x31" * 32), tmp_path / "copy"
    data = random.Random(1).randbytes(BLOCK * 64)
    made.put("/big", data, mtime=MTIME)
    with served(made, range(32)) as server:
        process = reader.start("clone", "--peer", "127.0.0.1:%d" % server.port, made.key.hex(), folder)
        tools.eventually(lambda: (folder / ".dat/partial/1.bits").exists(), 10)
        process.stop(130)
    noted = (folder / ".dat/partial/1.bits").read_bytes()
    with served(made, range(64)) as server:
        clone(reader, made, folder, server)
    assert (folder / "big").read_bytes() == data and os.listdir(folder / ".dat/partial") == []
    os.unlink(folder / "big")  # the map, and a file of the right size, come back from somewhere
    (folder / ".dat/partial/1.bits").write_bytes(noted)
    (folder / ".dat/partial/1").write_bytes(bytes(len(data)))
    with served(made, range(64)) as server:
        clone(reader, made, folder, server)
    assert (folder / "big").read_bytes() == data
    assert reader("verify", folder).out == "ok 1\n"


@pytest.mark.parametrize("first", [set(range(32)), {0, 1, 2, 3, 9, 10, 17, 40, 55, 63}])
def test_a_download_goes_on_with_what_was_laid_aside(first, reader, tmp_path):
    """A second source that has just the rest is enough; the first block of the file is not that of the feed."""
    made, folder = drive.Drive(seed=b"\x33" * 32), tmp_path / "copy"
    data = random.Random(3).randbytes(BLOCK * 64)
    made.put("/small", b"small", mtime=MTIME)
    made.put("/big", data, mtime=MTIME)
    with served(made, {0} | {1 + i for i in first}) as server:
        process = reader.start("clone", "--peer", "127.0.0.1:%d" % server.port, made.key.hex(), folder)
        tools.eventually(lambda: len(first) == held_aside(folder), 10)
        process.stop(130)
    assert not (folder / "big").exists()
    with served(made, {1 + i for i in range(64) if i not in first}) as server:
        clone(reader, made, folder, server)
    assert (folder / "big").read_bytes() == data and (folder / "small").read_bytes() == b"small"
    assert reader("verify", folder).out == "ok 2\n"


def held_aside(folder):
    """How many blocks of the second entry are noted as laid aside."""
    try:
        return bin(int.from_bytes((folder / ".dat/partial/2.bits").read_bytes(), "big")).count("1")
    except OSError:
        return 0


def test_an_archive_claims_only_what_its_store_holds(reader, tmp_path):
    """The files are there already; the bytes must be in content.data all the same."""
    made, folder = drive.Drive(seed=b"\x32" * 32), tmp_path / "copy"
    folder.mkdir()
    files = {"f%d" % i: b"file %d\n" % i * 50 for i in range(8)}
    for name, data in files.items():
        made.put("/" + name, data, mtime=MTIME)
        (folder / name).write_bytes(data)
    with served(made, [0, 2, 4, 6]) as server:
        clone(reader, made, folder, server, "--archive", "--force", "--timeout", "2", code=FAILED)
    with served(made, range(8)) as server:
        clone(reader, made, folder, server, "--archive", "--force")
    assert (folder / ".dat/content.data").read_bytes() == b"".join(files.values())
    assert reader("verify", folder).out == "ok 8\n"


def test_an_empty_file_within_the_blocks_of_another(reader, tmp_path):
    made, folder = evil.fresh(), tmp_path / "copy"
    first = made.content.length
    evil.add(made, "/mid", random.Random(2).randbytes(BLOCK * 6))
    evil.add(made, "/none", b"", offset=first + 3, blocks=0, size=0)
    with evil.Server(made) as server:
        clone(reader, made, folder, server)
    assert (folder / "mid").read_bytes() == made.file("/mid") and (folder / "none").read_bytes() == b""


def test_a_file_that_nobody_has_does_not_hold_up_the_others(reader, tmp_path):
    made, folder = drive.Drive(seed=b"\x35" * 32), tmp_path / "copy"
    made.put("/a big one", bytes(BLOCK) * 5000, mtime=MTIME)
    made.put("/small", b"small\n", mtime=MTIME)
    with served(made, [5000]) as server:
        clone(reader, made, folder, server, "--timeout", "3", code=FAILED, timeout=40)
    assert (folder / "small").read_bytes() == b"small\n" and not (folder / "a big one").exists()


def test_a_source_without_content_is_no_end(reader, tmp_path):
    """It is not the entries' fault: nothing is laid out, and nothing is called so."""
    made, folder = drive.Drive(seed=b"\x36" * 32), tmp_path / "copy"
    made.put("/a", b"a" * 100, mtime=MTIME)
    with served(made, []) as server:
        result = clone(reader, made, folder, server, "--timeout", "4", code=FAILED, timeout=40)
    assert "nothing came" in result.err and "complete" not in result.err


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user, which root alone may")
def test_what_cannot_be_looked_at_is_not_deleted(reader, tmp_path):
    """A folder whose files can be listed and not looked at: the drive keeps what it has of them."""
    nobody = 65534
    folder = tmp_path / "own"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_bytes(b"a")
    for where in [tmp_path, *tmp_path.parents[:3]]:
        os.chmod(where, os.stat(where).st_mode | 0o011)
    reader("create", folder)
    for where, _, files in os.walk(tmp_path):
        for name in [where] + [os.path.join(where, f) for f in files]:
            os.chown(name, nobody, nobody)
    os.chmod(folder / "sub", 0o444)
    share = tools.command("share", "--secret-dir", reader.secrets, "--no-listen", "--peer", "127.0.0.1:1", str(folder))
    done = subprocess.Popen(share, user=nobody, group=nobody, extra_groups=[], env=tools.environment(reader.env),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1.5)
    done.send_signal(signal.SIGINT)
    _, err = done.communicate(timeout=20)
    assert b"/sub/a" in err and b"permission denied" in err, err
    os.chmod(folder / "sub", 0o755)
    assert "[del]" not in reader("log", folder).out
