"""What datsync makes of drives that no honest owner would make (dat/evil.py): nothing outside the folder, nothing
in .dat, the bad entries named, the rest laid out.
"""

import hashlib
import os
import stat

import pytest

import tools
from dat import drive, evil
from tools import DONE, FAILED


ESCAPES = ["evil%d" % i for i in range(1, 5)]


def snapshot(folder):
    """Everything beneath a folder: path to (type and mode, content or link target)."""
    found = {}
    for where, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            path = os.path.join(where, name)
            info = os.lstat(path)
            what = b""
            if stat.S_ISLNK(info.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    what = hashlib.sha256(file.read()).digest()
            found[os.path.relpath(path, os.fsencode(folder))] = (info.st_mode, what)
    return found


def plant(made, target, outside):
    for path, link in made.plant.items():
        where = os.path.join(target, path[1:])
        os.makedirs(os.path.dirname(where), exist_ok=True)
        os.symlink(outside, where)


def clone(made, tmp_path):
    """Clone it two folders deep in a place of its own: (the result, the target, what lay around it before and after)."""
    around = tmp_path / "around"
    target, outside = around / "one" / "two" / "target", around / "outside"
    for folder in (target, outside):
        os.makedirs(folder)
    (outside / "keep").write_bytes(b"keep")
    if made.plant:  # a clone of its honest beginning is there already, with links in it
        honest = drive.Drive(secret_key=made.drive.metadata.secret_key)
        honest.put("/good.txt", evil.GOOD["/good.txt"], mtime=1500000000000)
        with evil.Server(honest) as server:
            first = tools.run("clone", made.key.hex(), target, "--peer", "127.0.0.1:%d" % server.port,
                              "--secret-dir", tmp_path / "secrets", "--timeout", "5", code=None)
        assert first.code == DONE, first
        plant(made, target, outside)
    before = {p: w for p, w in snapshot(around).items() if not p.startswith(b"one/two/target")}
    with evil.Server(made) as server:
        words = ["pull", target] if made.plant else ["clone", made.key.hex(), target]
        result = tools.run(*words, "--peer", "127.0.0.1:%d" % server.port, "--secret-dir", tmp_path / "secrets",
                           "--timeout", "5", code=None)
    after = {p: w for p, w in snapshot(around).items() if not p.startswith(b"one/two/target")}
    assert after == before, "it wrote outside the folder: %s" % result
    return result, os.fsencode(target)


def printable(name):
    """The longest part of a name that any way of showing it leaves as it is."""
    text = name.decode("latin-1")
    runs = "".join(c if c.isascii() and (c.isalnum() or c in "/._") else " " for c in text).split()
    return max(runs, key=len, default="").rstrip("/")[:60]


@pytest.mark.parametrize("name", sorted(evil.CASES))
def test_evil_drive(name, tmp_path):
    made = evil.make(name)
    result, target = clone(made, tmp_path)
    assert result.code == FAILED or (made.either and result.code == DONE), result
    inside = os.path.join(target, b".dat")
    for file, (mode, _) in snapshot(target).items():
        assert stat.S_ISDIR(mode) or stat.S_ISREG(mode) or made.plant, "%r: neither a file nor a folder" % file
        assert not mode & 0o7000, "%r: %o" % (file, mode)
        assert b".." not in file.split(b"/")
    if os.path.isdir(inside):
        allowed = {"%s.%s" % (feed, part) for feed in ("metadata", "content")
                   for part in ("key", "signatures", "bitfield", "tree", "data", "latest")}
        extra = {f for f in os.listdir(os.fsdecode(inside)) if f not in allowed}
        assert not any("evil" in f or f == "metadata.ogd" for f in extra), extra
        if os.path.exists(os.path.join(inside, b"metadata.key")):
            with open(os.path.join(inside, b"metadata.key"), "rb") as file:
                assert file.read() == made.key
    for path, data in made.good.items():
        with open(os.path.join(target, os.fsencode(path[1:])), "rb") as file:
            assert file.read() == data, (path, result)
    assert "\x1b" not in result.err and "\nok 5" not in result.err, "it writes names to the terminal as they are"
    if made.fatal:
        assert result.code == DONE or result.err.strip(), "it says nothing"
        return
    if made.either:
        return
    for bad in made.bad:
        assert printable(bad) in result.err, "it does not name %r: %s" % (bad, result)
    laid_out = {f for f, (mode, _) in snapshot(target).items() if stat.S_ISREG(mode) and not f.startswith(b".dat/")}
    assert laid_out == {os.fsencode(path[1:]) for path in made.good}, "what is bad was laid out"
