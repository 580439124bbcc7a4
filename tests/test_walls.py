"""The rooms of datsync.c stand one upon the other: each is made of what lies above it in the file, and of nothing below.

A room begins with a banner (`/* ==== name ==== */`); README.md's map and the head of the file name them in their order.
"""

import os
import re
import shutil
import subprocess

import pytest

import tools

SOURCE = os.path.join(tools.ROOT, "datsync.c")
SODIUM = subprocess.run(["pkg-config", "--cflags", "libsodium"], stdout=subprocess.PIPE, check=False, encoding="utf-8").stdout.split() \
    if shutil.which("pkg-config") else []
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
# What a room above has for those below is not used yet where the file is cut off.
CUT = ["-Wno-unused-function", "-Wno-unused-const-variable", "-Wno-unused-macros"]
BANNER = re.compile(r"^/\* =+ (.*?) =+ \*/$", re.M)
ELSEWHERE = re.compile(r"crypto_|sodium_|randombytes_buf$|mem(cpy|move|set|cmp|chr)$|str(len|cmp|ncmp|chr|rchr|cpy|spn)$|"
                       r"(realloc|free|qsort|bsearch|snprintf)$|_")

def has_gcc():
    """Elsewhere clang goes by that name."""
    version = shutil.which("gcc") and subprocess.run(["gcc", "--version"], stdout=subprocess.PIPE, check=False, encoding="utf-8").stdout
    return bool(version and "Free Software Foundation" in version and shutil.which("nm"))


pytestmark = pytest.mark.skipif(not has_gcc(), reason="gcc or nm is missing")


def text():
    with open(SOURCE, encoding="utf-8") as file:
        return file.read()


def rooms():
    """[(name, where it ends)]."""
    found = list(BANNER.finditer(text()))
    return list(zip([m.group(1) for m in found], [m.start() for m in found[1:]] + [len(text())]))


@pytest.mark.parametrize("name, end", rooms(), ids=[name.replace(" ", "-") for name, _ in rooms()])
def test_the_file_up_to_a_room_stands_by_itself(name, end, tmp_path):
    """It compiles, it defines what it declares, and it calls no public function of a later room."""
    (tmp_path / "part.c").write_text(text()[:end], encoding="utf-8")
    done = subprocess.run(["gcc", *STRICT, *CUT, *SODIUM, "-fkeep-static-functions", "-I", tools.ROOT, "-c", "part.c"],
                          cwd=str(tmp_path), stderr=subprocess.PIPE, encoding="utf-8")
    assert done.returncode == 0, done.stderr[:2000]
    symbols = subprocess.run(["nm", "-u", "part.o"], cwd=str(tmp_path), check=True, stdout=subprocess.PIPE, encoding="utf-8")
    assert [s for s in symbols.stdout.split() if s != "U" and not ELSEWHERE.match(s)] == []


def test_what_is_declared_is_defined_in_the_same_room():
    """A declaration ahead is for functions that call each other, and for nothing else."""
    source, begin = text(), 0
    for name, end in rooms():
        room = source[begin:end]
        for function in re.findall(r"^static [^;{(]*?(\w+)\([^;{]*\);", room, re.M):
            assert re.search(r"^static [^;{(]*?\b%s\([^;{]*\)\s*\{" % function, room, re.M), (name, function)
        begin = end


def listed(words):
    """The rooms of a list like `feed: tree cache, commit · peer: state`."""
    found = []
    for group in words.split("·"):
        house, _, names = group.strip().rpartition(": ")
        found += [(house + ": " if house else "") + " ".join(n.split()) for n in names.split(",")]
    return found


def test_the_head_of_the_file_names_the_rooms():
    words = re.search(r"in this file:\n \*\n(.*?)\n \*\n", text(), re.S).group(1)
    assert listed(re.sub(r"\n? \*  +", " ", words)) == [name for name, _ in rooms()]


def test_the_map_names_the_rooms():
    with open(os.path.join(tools.ROOT, "README.md"), encoding="utf-8") as file:
        rows = re.findall(r"^\| · (.*?) \|", file.read(), re.M)
    assert listed(" · ".join(rows)) == [name for name, _ in rooms()]
