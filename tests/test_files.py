"""The operating system's files beneath a folder (datsync_os_files) and its secret keys (datsync_os_secrets).

What is asked for is beneath the root or it is an error: no link is followed, whatever else happens there meanwhile.
"""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

import pytest

import probe as drive
from probe import CREATE, INVALID, NOT_FOUND, READ_ONLY, READ_ONLY_FEED, STATE, TOO_BIG, Probe, ProbeError

KEY = -49
ACCESS, NO_ENTRY = -82, -83
NAME, LINK, NOT_FOLDER, IS_FOLDER = -105, -106, -107, -108

GIB = 1 << 30
FILE, FOLDER, SYMLINK = 0o100000, 0o040000, 0o120000


def raw(path):
    return path if isinstance(path, bytes) else str(path).encode("utf-8", "surrogateescape")


class Tree:
    """Tree 0 of a driver. What can fail raises ProbeError; code() is its number."""

    def __init__(self, probe, root, flags=0, number=0):
        self.probe, self.number = probe, number
        self.case_folds = probe.number("files.new", number, raw(root), flags)

    def ask(self, command, *words):
        return self.probe.ask("files." + command, self.number,
                              *(raw(w) if isinstance(w, (str, bytes)) else w for w in words))

    def code(self, command, *words):
        try:
            self.ask(command, *words)
        except ProbeError as error:
            return error.code
        return 0

    def open_code(self, path, write=0):
        """0 or an error; nothing stays open."""
        code = self.code("open", 9, path, write)
        if code == 0:
            self.probe.ask("files.close", 9)
        return code

    def write(self, path, content, offset=0):
        self.ask("open", 9, path, 1)
        try:
            self.probe.ask("files.write", 9, offset, content)
        finally:
            self.probe.ask("files.close", 9)

    def read(self, path, offset=0, length=1 << 16):
        self.ask("open", 9, path, 0)
        try:
            return self.probe.bytes("files.read", 9, offset, length)
        finally:
            self.probe.ask("files.close", 9)

    def stat(self, path):
        return tuple(map(int, self.ask("stat", path)))

    def list(self, path, most=0):
        """{name: result of its stat}, and what list returned."""
        *names, result = self.ask("list", path, most)
        pairs = [n.split(":") for n in names]
        found = {drive.unhex(n): int(code) for n, code in pairs}
        assert len(found) == len(pairs)
        return found, int(result)

    def free(self):
        self.probe.ask("files.free", self.number)


@pytest.fixture
def root(tmp_path):
    """A root that has a neighbour, where nothing may ever come or go."""
    folder = tmp_path / "root"
    folder.mkdir()
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_bytes(b"private")
    (outside / "folder" / "file").write_bytes(b"private")
    yield folder
    left = sorted(str(p.relative_to(outside)) for p in outside.rglob("*"))
    assert left == ["file", "folder", "folder/file"]
    for path in (outside / "file", outside / "folder" / "file"):
        assert path.read_bytes() == b"private"


@pytest.fixture
def tree(probe, root):
    return Tree(probe, root)


EVERYTHING = [("open", 9, 0), ("open", 9, 1), ("stat",), ("list", 0), ("mkdir",), ("unlink",), ("rmdir",),
              ("set", 0o600, 1000), ("rename-from",), ("rename-to",)]
NAMES = [" ".join(map(str, c)) for c in EVERYTHING]


def call(tree, command, path):
    """The result of any function with this path; the file that open opened is closed."""
    name, *rest = command
    if name == "open":
        return tree.open_code(path, rest[1])
    if name == "rename-from":
        return tree.code("rename", path, "new name")
    if name == "rename-to":
        tree.write("old name", b"x")
        return tree.code("rename", "old name", path)
    if name == "list":
        return tree.code("list", path, 0)
    return tree.code(name, path, *rest)


# ---- files -----------------------------------------------------------------------------------------------------

def test_a_file(tree, root):
    tree.write("file", b"some bytes")
    assert (root / "file").read_bytes() == b"some bytes"
    assert tree.read("file") == b"some bytes"
    assert tree.read("file", 5) == b"bytes"
    assert tree.read("file", 2, 3) == b"me "
    assert tree.read("file", 10) == tree.read("file", 11) == tree.read("file", 1 << 40) == b""
    mode, size, _ = tree.stat("file")
    assert stat.S_IFMT(mode) == FILE and size == 10


def test_opening_for_writing_makes_a_file_but_never_empties_it(tree, root):
    assert tree.open_code("file") == NO_ENTRY
    assert not (root / "file").exists()
    assert tree.open_code("file", 1) == 0
    assert (root / "file").read_bytes() == b""
    tree.write("file", b"0123456789")
    tree.write("file", b"ab", 4)
    assert tree.read("file") == b"0123ab6789"
    assert tree.open_code("no folder/file", 1) == NO_ENTRY
    assert not (root / "no folder").exists()


def test_a_new_file_has_the_mode_that_the_umask_leaves(probe, root):
    before = os.umask(0o027)
    try:
        driver = Probe()
    finally:
        os.umask(before)
    tree = Tree(driver, root)
    tree.write("file", b"x")
    tree.ask("mkdir", "folder")
    assert tree.stat("file")[0] == FILE | 0o640
    assert tree.stat("folder")[0] == FOLDER | 0o750
    driver.close()


def test_an_open_file_can_be_read_and_written(tree, probe, root):
    tree.ask("open", 1, "file", 1)
    probe.ask("files.write", 1, 0, b"abcdef")
    assert probe.bytes("files.read", 1, 2, 3) == b"cde"
    probe.ask("files.truncate", 1, 3)
    assert (root / "file").read_bytes() == b"abc"
    probe.ask("files.truncate", 1, 5)
    assert probe.bytes("files.read", 1, 0, 99) == b"abc\0\0"
    tree.ask("open", 2, "file", 0)
    assert probe.code("files.write", 2, 0, b"x") < 0
    assert probe.code("files.truncate", 2, 0) < 0
    assert (root / "file").read_bytes() == b"abc\0\0"


@pytest.mark.parametrize("at", [4 * GIB - 3, 4 * GIB, 6 * GIB + 1])
def test_beyond_four_gib(tree, probe, root, at):
    tree.ask("open", 1, "file", 1)
    probe.ask("files.write", 1, at, b"behind")
    assert probe.bytes("files.read", 1, at - 2, 99) == b"\0\0behind"
    assert probe.bytes("files.read", 1, (at + 3) % (4 * GIB), 8) == bytes(8)
    assert tree.stat("file")[1] == at + 6
    probe.ask("files.truncate", 1, at + 2)
    assert tree.stat("file")[1] == at + 2 == (root / "file").stat().st_size
    probe.ask("files.truncate", 1, at + 4)
    assert probe.bytes("files.read", 1, at, 99) == b"be\0\0"


def test_offsets_that_no_system_has(tree, probe):
    tree.ask("open", 1, "file", 1)
    most = (1 << 63) - 1
    assert probe.code("files.write", 1, most, b"xy") == TOO_BIG
    assert probe.code("files.write", 1, 1 << 63, b"x") == TOO_BIG
    assert probe.code("files.read", 1, (1 << 64) - 1, 2) == TOO_BIG
    assert probe.code("files.truncate", 1, 1 << 63) == TOO_BIG
    assert tree.stat("file")[1] == 0


# ---- links and other things in the way ---------------------------------------------------------------------------

TARGETS = {"a file": "../outside/file", "a folder": "../outside/folder", "nothing": "../outside/missing",
           "a file beneath the root": "real/file", "a folder beneath the root": "real", "itself": "link"}


def link_to(root, target):
    (root / "real").mkdir()
    (root / "real" / "file").write_bytes(b"own")
    os.symlink(target, root / "link")


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("command", EVERYTHING, ids=NAMES)
def test_a_link_at_the_end(tree, root, command, target, absolute):
    target = TARGETS[target]
    target = os.path.normpath(str(root / target)) if absolute else target
    link_to(root, target)
    before = os.lstat(root / "link")
    code = call(tree, command, "link")
    if command[0] == "stat":
        assert code == 0
        assert stat.S_IFMT(tree.stat("link")[0]) == SYMLINK
    elif command[0] == "rename-from":  # it is the link that has another name now
        assert code == 0
        assert os.readlink(root / "new name") == target
        return
    else:
        assert code == LINK
    assert os.readlink(root / "link") == target
    assert os.lstat(root / "link").st_mtime_ns == before.st_mtime_ns
    assert (root / "real" / "file").read_bytes() == b"own"


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize("command", EVERYTHING, ids=NAMES)
def test_a_link_on_the_way(tree, root, command, depth, absolute):
    """a/b/c/file, where one of a, b, c is a link to a folder that has the rest of it."""
    names = ["a", "b", "c"]
    rest = root.joinpath("moved", *names[depth + 1:])
    rest.mkdir(parents=True)
    (rest / "file").write_bytes(b"own")
    (rest / "folder").mkdir()
    above = root.joinpath(*names[:depth])
    above.mkdir(parents=True, exist_ok=True)
    target = str(root / "moved") if absolute else "../" * depth + "moved"
    os.symlink(target, above / names[depth])
    assert (root / "a" / "b" / "c" / "file").exists()
    for last in ("file", "folder", "missing"):
        assert call(tree, command, "a/b/c/" + last) == LINK
        assert call(tree, command, "a/b/c/" + last) == LINK  # nothing of it was kept
    assert sorted(os.listdir(rest)) == ["file", "folder"]
    assert (rest / "file").read_bytes() == b"own"


def test_links_that_lead_out(tree, root):
    os.symlink("../outside", root / "up")
    os.symlink(root.parent / "outside", root / "absolute")
    os.symlink("..", root / "parent")
    for path in ("up/file", "up/folder/file", "absolute/folder/file", "parent/outside/file", "up/new",
                 "absolute/folder/new"):
        for command in EVERYTHING:
            assert call(tree, command, path) == LINK, (command, path)


def test_the_root_itself_may_be_reached_through_a_link(probe, root, tmp_path):
    os.symlink("root", tmp_path / "way")
    tree = Tree(probe, tmp_path / "way")
    tree.write("file", b"x")
    assert (root / "file").exists()
    os.unlink(tmp_path / "way")  # and is held from then on
    tree.write("other", b"y")
    assert (root / "other").exists()


def test_paths_that_were_not_checked(tree, root):
    (root / "folder").mkdir()
    for path in ("..", "../outside/file", "folder/../../outside/file", "folder/..", "/etc/passwd",
                 str(root.parent / "outside" / "file"), ".", "./file", "folder/.", "folder//file", "folder/", "/"):
        for command in EVERYTHING:
            assert call(tree, command, path) == INVALID, (command, path)
    for command in EVERYTHING:
        if command[0] not in ("stat", "list"):
            assert call(tree, command, "") == INVALID, command
    assert tree.open_code("..file", 1) == tree.open_code("...", 1) == tree.open_code("folder/.file", 1) == 0


def special(root, kind):
    path = root / "thing"
    if kind == "socket":
        here = os.getcwd()
        with socket.socket(socket.AF_UNIX) as s:
            os.chdir(root)  # a socket's name must be short
            try:
                s.bind("thing")
            finally:
                os.chdir(here)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        except OSError:
            pytest.skip("devices cannot be made here")
    return path


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_what_is_neither_file_nor_folder(tree, probe, root, kind):
    path = special(root, kind)
    before = os.lstat(path)
    for command in EVERYTHING:
        hangs = threading.Timer(10, probe._process.kill)
        hangs.start()
        try:
            code = call(tree, command, "thing")
        finally:
            hangs.cancel()
        if command[0] == "stat":
            assert code == 0 and stat.S_IFMT(tree.stat("thing")[0]) not in (FILE, FOLDER, SYMLINK)
        elif command[0] == "rename-from":
            assert code == 0
            os.rename(root / "new name", path)
        else:
            assert code == LINK, command
        assert call(tree, command, "thing/file") == LINK, command
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode, before.st_mtime_ns) == (after.st_ino, after.st_mode, after.st_mtime_ns)


def test_a_fifo_with_a_writer_is_not_read(tree, root):
    path = special(root, "fifo")
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(fd, b"x")
        assert tree.open_code("thing") == tree.open_code("thing", 1) == LINK
        assert os.read(fd, 9) == b"x"
    finally:
        os.close(fd)


# ---- folders and files in each other's place -----------------------------------------------------------------------

def test_a_file_where_a_folder_must_be(tree, root):
    (root / "file").write_bytes(b"own")
    for command in EVERYTHING:
        assert call(tree, command, "file/below") == NOT_FOLDER, command
        assert call(tree, command, "file/further/below") == NOT_FOLDER, command
    for command in [("list", 0), ("mkdir",), ("rmdir",)]:
        assert call(tree, command, "file") == NOT_FOLDER, command
    assert (root / "file").read_bytes() == b"own"


def test_a_folder_where_a_file_must_be(tree, root):
    (root / "folder").mkdir()
    for command in [("open", 9, 0), ("open", 9, 1), ("unlink",), ("rename-to",)]:
        assert call(tree, command, "folder") == IS_FOLDER, command
    (root / "folder" / "file").write_bytes(b"own")
    for command in [("open", 9, 0), ("open", 9, 1), ("unlink",), ("rename-to",)]:
        assert call(tree, command, "folder") == IS_FOLDER, command
    (root / "other").mkdir()
    assert tree.code("rename", "other", "folder") == IS_FOLDER
    assert tree.code("rename", "folder", "other") == IS_FOLDER
    assert (root / "folder" / "file").read_bytes() == b"own"


def test_what_is_not_there(tree):
    for command in EVERYTHING:
        for path in ("missing", "missing/file"):
            expected = NO_ENTRY
            if path == "missing" and command[0] in ("mkdir", "rename-to") or command == ("open", 9, 1):
                continue
            assert call(tree, command, path) == expected, (command, path)
    assert tree.open_code("missing folder/file", 1) == NO_ENTRY


def test_folders(tree, root):
    for _ in range(2):
        assert tree.code("mkdir", "a") == 0
        assert tree.code("mkdir", "a/b") == 0
    assert tree.code("mkdir", "x/y") == NO_ENTRY
    assert stat.S_IFMT(tree.stat("a/b")[0]) == FOLDER
    assert stat.S_IFMT(tree.stat("")[0]) == FOLDER
    tree.write("a/b/file", b"x")
    assert tree.code("rmdir", "a/b") == STATE
    assert tree.code("unlink", "a/b/file") == 0
    assert tree.code("rmdir", "a/b") == 0
    assert os.listdir(root / "a") == []
    assert tree.code("rmdir", "a/b") == NO_ENTRY


def test_rename(tree, root):
    tree.write("one", b"1")
    tree.write("two", b"2")
    assert tree.code("rename", "one", "two") == 0
    assert os.listdir(root) == ["two"] and tree.read("two") == b"1"
    for folder in ("a", "a/b", "c"):
        tree.ask("mkdir", folder)
    for to in ("a/file", "a/b/file", "c/file", "file", "a/b/file", "file"):  # each from where it was
        assert tree.code("rename", tree_file(root), to) == 0
        assert tree_file(root) == to and tree.read(to) == b"1"
    assert tree.code("rename", "file", "missing/file") == NO_ENTRY
    assert tree.code("rename", "a/missing", "file") == NO_ENTRY
    assert tree.code("rename", "file/file", "c/file") == NOT_FOLDER
    assert tree.code("rename", "file", "../file") == tree.code("rename", "../outside/file", "file") == INVALID
    assert tree.code("rename", "a", "file") == NOT_FOLDER
    assert tree.read("file") == b"1"
    assert tree.code("rename", "a", "c/a") == 0
    assert (root / "c" / "a" / "b").is_dir() and not (root / "a").exists()


def tree_file(root):
    """The path of the only file."""
    path, = [p for p in root.rglob("*") if p.is_file()]
    return str(path.relative_to(root))


# ---- names ---------------------------------------------------------------------------------------------------------

def test_long_names(tree, root):
    longest = "n" * 255
    tree.write(longest, b"x")
    assert tree.read(longest) == b"x"
    for command in EVERYTHING:
        assert call(tree, command, "n" * 256) == NAME, command
        assert call(tree, command, "n" * 256 + "/file") == NAME, command
        assert call(tree, command, "ö" * 128) == NAME, command
        assert call(tree, command, "n" * 5000) == NAME, command
    assert sorted(os.listdir(root)) == [longest, "old name"]


def test_deep_paths(tree, root):
    """As long as a path in a drive may be, which is more than the system takes in one piece."""
    path, at = "", []
    while len(path) + 2 <= 4096:
        path += "/d" if path else "d"
        at.append(path)
    assert len(path) == 4095
    # Whoever is asked for one looks at all folders above it, a thousand of them: most are made and removed from the last one.
    asked = [n < 40 or n % 40 == 0 or n > len(at) - 40 for n in range(len(at) - 1)]
    there = os.open(root, os.O_RDONLY)
    for folder, ask in zip(at, asked):
        tree.ask("mkdir", folder) if ask else os.mkdir("d", dir_fd=there)
        there, above = os.open("d", os.O_RDONLY, dir_fd=there), there
        os.close(above)
    tree.write(path, b"deep")
    assert tree.read(path) == b"deep"
    assert tree.stat(path)[1] == 4
    assert tree.list(at[-2]) == ({b"d": 0}, 0)
    assert tree.open_code(path + "/d", 1) == NAME  # too long, and beneath a file
    assert tree.code("unlink", path) == 0
    for folder, ask in reversed(list(zip(at, asked))):
        there, below = os.open("..", os.O_RDONLY, dir_fd=there), there
        os.close(below)
        tree.ask("rmdir", folder) if ask else os.rmdir("d", dir_fd=there)
    os.close(there)
    assert os.listdir(root) == []


def test_any_bytes(tree, root):
    try:
        (root / os.fsdecode(b"\xff")).write_bytes(b"")
        os.unlink(root / os.fsdecode(b"\xff"))
    except OSError:  # then what the tree says of it is told
        assert tree.open_code(b"\xff\xfe", 1) == NAME
        return
    for name in (b"\xff\xfe", b"\xc3\x28", b"\n", b"a\\b", b" ", b"~", "\u202e".encode(), b"\x01"):
        tree.ask("mkdir", b"folder")
        for path in (name, b"folder/" + name):
            tree.write(path, name)
            assert tree.read(path) == name
            assert tree.list(os.path.dirname(path))[0][name] == 0
            with open(os.path.join(os.fsencode(root), path), "rb") as f:
                assert f.read() == name


# ---- what stat tells and set sets ------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["file", "folder", "folder/file"])
def test_set(tree, root, name):
    (root / "folder").mkdir()
    if name != "folder":
        (root / name).write_bytes(b"abc")
    kind, size = (FOLDER, 0) if name == "folder" else (FILE, 3)
    modes = [0o600, 0o444, 0o777, 0o400, 0o755] if kind == FILE else [0o700, 0o555, 0o777]
    for mode in modes:
        for mtime in (0, 1, 999, 1000, 1500000000123, 2208988800000, 4294967296789):
            tree.ask("set", name, mode, mtime)
            assert tree.stat(name) == (kind | mode, size, mtime)
            assert os.stat(root / name).st_mtime_ns == mtime * 1000000
    os.utime(root / name, ns=(1234567890 * 10**9, 0))
    tree.ask("set", name, 0o700, 5)
    assert os.stat(root / name).st_atime_ns == 1234567890 * 10**9


def test_set_takes_the_lowest_nine_bits(tree, root):
    (root / "file").write_bytes(b"")
    (root / "folder").mkdir()
    tree.ask("set", "file", 0o104755, 1)
    assert tree.stat("file")[0] == FILE | 0o755
    tree.ask("set", "folder", 0o177777, 1)
    assert tree.stat("folder")[0] == FOLDER | 0o777
    os.chmod(root / "folder", 0o2750)
    if os.stat(root / "folder").st_mode & 0o2000:
        tree.ask("set", "folder", 0o755, 1)  # what is made in it keeps its group
        assert tree.stat("folder")[0] == FOLDER | 0o2755


def test_times(tree, root):
    (root / "file").write_bytes(b"")
    for ns, ms in ((1999999, 1), (999999, 0), (-1, 0), (-10**18, 0), (1500000000999999999, 1500000000999)):
        os.utime(root / "file", ns=(0, ns))
        if os.stat(root / "file").st_mtime_ns == ns:
            assert tree.stat("file")[2] == ms
    tree.ask("set", "file", 0o644, (1 << 64) - 1)  # as far as the file system can
    assert tree.stat("file")[2] > 4102444800000


def test_set_of_a_file_of_mode_zero_and_a_folder_that_only_lets_through(nobody):
    """As a user for whom permissions count."""
    tree, root = nobody
    tree.write("file", b"x")
    tree.ask("set", "file", 0, 5000)
    assert tree.open_code("file") == tree.open_code("file", 1) == ACCESS
    tree.ask("set", "file", 0o444, 6000)
    assert tree.stat("file") == (FILE | 0o444, 1, 6000)
    assert tree.open_code("file", 1) == ACCESS
    tree.ask("set", "file", 0o600, 7000)
    tree.ask("mkdir", "folder")
    tree.write("folder/file", b"y")
    tree.ask("mkdir", "folder/below")
    tree.ask("set", "folder", 0o300, 8000)
    assert tree.code("list", "folder", 0) == ACCESS
    if sys.platform.startswith("linux"):
        tree.ask("mkdir", "other")  # another folder is kept meanwhile
        tree.write("other/file", b"z")
        assert tree.read("folder/file") == b"y"
        assert tree.stat("folder/below")[0] & FOLDER
    tree.ask("set", "folder", 0o500, 9000)
    assert tree.open_code("folder/new", 1) == ACCESS
    assert tree.code("unlink", "folder/file") == tree.code("mkdir", "folder/new") == ACCESS
    tree.ask("set", "folder", 0o700, 9000)
    for command in [("open", 9, 1), ("set", 0, 0)]:
        os.symlink("file", os.path.join(root, "link"))
        assert call(tree, command, "link") == LINK
        os.unlink(os.path.join(root, "link"))


@pytest.fixture
def nobody():
    """A tree of somebody without privileges, in a folder of their own; and the folder."""
    with other_user() as (driver, folder):
        yield Tree(driver, folder), folder


class other_user:
    """A driver that runs as a user who has no home and no name, unless this is not root; and a folder of theirs."""
    UID = 54321

    def __init__(self, *environment):
        self.environment = environment

    def __enter__(self):
        self.folder = tempfile.mkdtemp()
        wrapper = drive.WRAPPER
        if os.geteuid() == 0:
            if not shutil.which("setpriv"):
                pytest.skip("there is no setpriv")
            os.chown(self.folder, self.UID, self.UID)
            prefix = ["setpriv", "--reuid=%d" % self.UID, "--regid=%d" % self.UID, "--clear-groups"]
            if subprocess.run(prefix + ["test", "-x", drive.PROBE], capture_output=True).returncode:
                pytest.skip("another user cannot run the driver")
            wrapper = prefix + wrapper
        before, drive.WRAPPER = drive.WRAPPER, list(self.environment) + wrapper
        try:
            self.driver = Probe()
        finally:
            drive.WRAPPER = before
        return self.driver, self.folder

    def __exit__(self, *error):
        try:
            self.driver.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


# ---- lists -----------------------------------------------------------------------------------------------------------

def test_list(tree, root):
    assert tree.list("") == ({}, 0)
    (root / "folder").mkdir()
    assert tree.list("folder") == ({}, 0)
    names = {b"%d" % i for i in range(300)} | {b".hidden", b"..two", b"...", "ö".encode()}
    for name in names:
        (root / "folder" / os.fsdecode(name)).write_bytes(b"")
    os.symlink("nowhere", root / "folder" / "link")
    os.mkfifo(root / "folder" / "fifo")
    names |= {b"link", b"fifo"}
    for _ in range(2):  # from its beginning each time
        assert tree.list("folder") == (dict.fromkeys(names, 0), 0)
        assert tree.list("") == ({b"folder": 0}, 0)
    found, result = tree.list("folder", 3)
    assert len(found) == 3 and set(found) <= names and result == 77
    assert len(tree.list("folder", 300)[0]) == 300
    assert tree.code("list", "missing", 0) == NO_ENTRY


# ---- the folder that is kept open -------------------------------------------------------------------------------------

def others_are_done():
    """What others do to a kept folder is noticed after 5 ms."""
    time.sleep(0.02)


def test_a_folder_is_removed_and_made_again(tree, root):
    for content in (b"1", b"2", b"3"):
        tree.ask("mkdir", "a")
        tree.ask("mkdir", "a/b")
        tree.write("a/b/file", content)
        assert (root / "a" / "b" / "file").read_bytes() == content
        tree.ask("unlink", "a/b/file")
        tree.ask("rmdir", "a/b")
        assert tree.open_code("a/b/file", 1) == NO_ENTRY
        tree.ask("rmdir", "a")
        assert tree.open_code("a/b/file", 1) == tree.code("stat", "a/b/file") == NO_ENTRY
    assert os.listdir(root) == []


@pytest.mark.parametrize("by", ["tree", "other"])
@pytest.mark.parametrize("what", ["a", "a/b", "a/b/c"])
def test_a_folder_is_renamed_and_made_again(tree, root, what, by):
    for folder in ("a", "a/b", "a/b/c"):
        tree.ask("mkdir", folder)
    tree.write("a/b/c/file", b"old")
    if by == "tree":
        tree.ask("rename", what, "moved")
    else:
        os.rename(root / what, root / "moved")
        others_are_done()
    inside = "moved" + "a/b/c"[len(what):] + "/file"
    assert tree.open_code("a/b/c/file") == tree.open_code("a/b/c/new", 1) == NO_ENTRY
    assert tree.read(inside) == b"old"
    (root / "a" / "b" / "c").mkdir(parents=True, exist_ok=True)
    others_are_done()
    tree.write("a/b/c/file", b"new")
    assert (root / "a" / "b" / "c" / "file").read_bytes() == b"new"
    assert (root / inside).read_bytes() == b"old"
    tree.write(inside, b"OLD")
    assert tree.read("a/b/c/file") == b"new"


@pytest.mark.parametrize("same", [False, True], ids=["to a folder outside", "to itself, moved outside"])
@pytest.mark.parametrize("what", ["a", "a/b", "a/b/c"])
@pytest.mark.parametrize("command", EVERYTHING, ids=NAMES)
def test_another_replaces_a_kept_folder_by_a_link(tree, root, tmp_path, command, what, same):
    for folder in ("a", "a/b", "a/b/c"):
        tree.ask("mkdir", folder)
    tree.write("a/b/c/file", b"own")
    away = tmp_path / "away"
    os.rename(root / what, away)
    target = away
    if not same:
        target = tmp_path / "else"
        target.joinpath(*"a/b/c"[len(what) + 1:].split("/")).mkdir(parents=True)
        (target.joinpath(*"a/b/c"[len(what) + 1:].split("/")) / "file").write_bytes(b"private")
    os.symlink(target, root / what)
    others_are_done()
    before = sorted((str(p), os.lstat(p).st_mode, os.lstat(p).st_mtime_ns) for p in tmp_path.glob("[ae][wl]*/**/*"))
    for last in ("file", "new"):
        assert call(tree, command, "a/b/c/" + last) == LINK
    assert before == sorted((str(p), os.lstat(p).st_mode, os.lstat(p).st_mtime_ns)
                            for p in tmp_path.glob("[ae][wl]*/**/*"))
    os.unlink(root / what)
    os.rename(away, root / what)  # all is well again
    others_are_done()
    assert tree.read("a/b/c/file") == b"own"


@pytest.mark.parametrize("what", ["a", "a/b", "a/b/c"])
def test_another_replaces_a_kept_folder_by_a_new_one(tree, root, tmp_path, what):
    for folder in ("a", "a/b", "a/b/c"):
        tree.ask("mkdir", folder)
    tree.write("a/b/c/file", b"old")
    os.rename(root / what, tmp_path / "away")
    (root / "a" / "b" / "c").mkdir(parents=True)
    others_are_done()
    assert tree.open_code("a/b/c/file") == NO_ENTRY
    tree.write("a/b/c/file", b"new")
    assert (root / "a" / "b" / "c" / "file").read_bytes() == b"new"
    path, = [p for p in (tmp_path / "away").rglob("*") if p.is_file()]
    assert path.read_bytes() == b"old"


def test_a_kept_folder_becomes_a_file(tree, root):
    tree.ask("mkdir", "a")
    tree.write("a/file", b"x")
    shutil.rmtree(root / "a")
    (root / "a").write_bytes(b"own")
    others_are_done()
    assert tree.open_code("a/file", 1) == NOT_FOLDER
    os.unlink(root / "a")
    others_are_done()
    assert tree.open_code("a/file", 1) == NO_ENTRY


def test_a_link_that_comes_and_goes_is_never_followed(tree, root):
    """Somebody swaps a folder for a link to the outside, again and again, while files are made in it."""
    (root / "a").mkdir()
    (root / "a" / "b").mkdir()
    end = threading.Event()

    def swap():
        """The folder stands for a moment, and so does the link: each is met, however the two threads take turns."""
        while not end.is_set():
            time.sleep(0.0001)
            os.rename(root / "a", root / "real")
            os.symlink("../outside", root / "a")
            time.sleep(0.0001)
            os.unlink(root / "a")
            os.rename(root / "real", root / "a")

    (root.parent / "outside" / "b").mkdir()
    thread = threading.Thread(target=swap)
    thread.start()
    codes = {}
    tries, give_up_at = 0, time.monotonic() + 60
    try:
        while (tries < 1500 or not {0, LINK} <= set(codes)) and time.monotonic() < give_up_at:
            for command in [("open", 9, 1), ("unlink",), ("mkdir",), ("rmdir",)]:
                code = call(tree, command, "a/%d" % tries if tries % 2 else "a/b/%d" % tries)
                codes[code] = codes.get(code, 0) + 1
            tries += 1
    finally:
        end.set()
        thread.join()
    (root.parent / "outside" / "b").rmdir()  # it is empty; the fixture looks after the rest
    assert {0, LINK} <= set(codes) <= {0, LINK, NO_ENTRY, NOT_FOLDER, IS_FOLDER}, codes


@pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace")
@pytest.mark.parametrize("folder", ["a", "a/b", "a/b/c"])
def test_many_files_in_one_folder_take_few_calls(root, folder, tmp_path):
    """Three for the file itself, its check, and one for each folder on the way."""
    log = tmp_path / "log"
    (root / folder).mkdir(parents=True)
    before, drive.WRAPPER = drive.WRAPPER, ["strace", "-f", "-c", "-o", str(log)] + drive.WRAPPER
    try:
        os.environ["ASAN_OPTIONS"], old = "detect_leaks=0", os.environ.get("ASAN_OPTIONS")
        driver = Probe()
    finally:
        drive.WRAPPER = before
        os.environ.pop("ASAN_OPTIONS")
        if old is not None:
            os.environ["ASAN_OPTIONS"] = old
    Tree(driver, root).ask("fill", folder, 2000)
    driver.close()
    calls = {}
    for line in log.read_text().splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit():
            calls[words[-1]] = int(words[3])
    assert len(os.listdir(root / folder)) == 2000
    assert calls["openat"] < 2200
    assert sum(calls.get(name, 0) for name in ("fstatat64", "newfstatat", "fstat", "statx")) \
        < 2000 * (2 + folder.count("/")) + 500


# ---- flags, sync -----------------------------------------------------------------------------------------------------

def test_the_root_is_made_if_asked(probe, tmp_path):
    assert probe.code("files.new", 1, raw(tmp_path / "new"), 0) == NO_ENTRY
    assert probe.code("files.new", 1, raw(tmp_path / "new"), CREATE | READ_ONLY) == NO_ENTRY
    assert probe.code("files.new", 1, raw(tmp_path / "new" / "deep"), CREATE) == NO_ENTRY
    assert os.listdir(tmp_path) == []
    tree = Tree(probe, tmp_path / "new", CREATE)
    tree.write("file", b"x")
    tree.ask("sync")
    again = Tree(probe, tmp_path / "new", CREATE, 1)
    assert again.read("file") == b"x"
    assert probe.code("files.new", 2, raw(tmp_path / "new" / "file"), 0) == NOT_FOLDER
    assert probe.code("files.new", 2, raw(tmp_path / "new" / "file"), CREATE) == NOT_FOLDER


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems fold")
def test_names_do_not_fold_here(tree):
    assert tree.case_folds == 0


def test_read_only(probe, root):
    (root / "folder").mkdir()
    (root / "folder" / "file").write_bytes(b"own")
    before = {p: (p.lstat().st_mode, p.lstat().st_mtime_ns) for p in [root, *root.rglob("*")]}
    tree = Tree(probe, root, READ_ONLY)
    assert tree.read("folder/file") == b"own"
    assert tree.list("") == ({b"folder": 0}, 0)
    assert tree.stat("folder/file")[1] == 3
    for path in ("folder/file", "folder/new", "new"):
        assert tree.open_code(path, 1) == READ_ONLY_FEED
        for words in (("mkdir", path), ("unlink", path), ("rmdir", path), ("set", path, 0o600, 1),
                      ("rename", path, "other"), ("rename", "folder/file", path)):
            assert tree.code(*words) == READ_ONLY_FEED, words
    tree.ask("open", 1, "folder/file", 0)
    assert probe.code("files.write", 1, 0, b"x") == READ_ONLY_FEED
    assert probe.code("files.truncate", 1, 0) == READ_ONLY_FEED
    assert tree.code("sync") == 0
    assert before == {p: (p.lstat().st_mode, p.lstat().st_mtime_ns) for p in [root, *root.rglob("*")]}


def test_sync_of_open_and_closed_files_and_of_what_went(tree, probe):
    tree.ask("mkdir", "a")
    tree.write("a/closed", b"x")
    tree.ask("open", 1, "a/open", 1)
    tree.ask("open", 2, "a/other", 1)
    probe.ask("files.write", 1, 0, b"y")
    assert tree.code("sync") == 0
    probe.ask("files.close", 1)
    tree.ask("unlink", "a/open")
    tree.ask("rename", "a/other", "other")
    assert tree.code("sync") == 0
    tree.ask("unlink", "a/closed")
    tree.ask("rmdir", "a")
    assert tree.code("sync") == tree.code("sync") == 0


def test_descriptors_are_given_back(tree, probe, root):
    """Neither success nor failure leaves one open: 3000 calls would be too many."""
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(b"")
    os.symlink("b", root / "a" / "link")
    os.mkfifo(root / "a" / "fifo")
    folder = "/proc/%d/fd" % probe._process.pid
    for command in EVERYTHING:
        for i in range(20):
            for path in ("a/b/file", "a/b", "a/link/file", "a/fifo", "a/b/file/x", "x/y", "a/link", "a/fifo/x"):
                call(tree, command, path)
                (root / "a" / "b").mkdir(parents=True, exist_ok=True)
    if os.path.isdir(folder):
        assert len(os.listdir(folder)) <= 3 + 2 + 2  # the standard ones, the root, the kept, and a sanitizer's


# ---- secret keys -----------------------------------------------------------------------------------------------------

DISCOVERY = bytes(range(0xa0, 0xc0))
SECRET, SECRET2 = bytes(range(64)), bytes(range(64, 128))
PLACE = os.path.join(DISCOVERY.hex()[:2], DISCOVERY.hex()[2:])


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_secrets(probe, tmp_path):
    folder = tmp_path / "x" / "y" / "keys"
    probe.ask("secrets.new", 0, raw(folder))
    assert probe.code("secrets.load", 0, DISCOVERY) == NOT_FOUND
    assert os.listdir(tmp_path) == []
    probe.ask("secrets.save", 0, DISCOVERY, SECRET)
    assert (folder / PLACE).read_bytes() == SECRET
    assert mode_of(folder / PLACE) == 0o600
    for made in (tmp_path / "x", tmp_path / "x" / "y", folder, folder / DISCOVERY.hex()[:2]):
        assert mode_of(made) == 0o700
    assert probe.bytes("secrets.load", 0, DISCOVERY) == SECRET
    other = DISCOVERY[:-1] + b"\0"
    assert probe.code("secrets.load", 0, other) == NOT_FOUND
    probe.ask("secrets.save", 0, other, SECRET2)
    assert probe.bytes("secrets.load", 0, other) == SECRET2
    assert probe.bytes("secrets.load", 0, DISCOVERY) == SECRET
    probe.ask("secrets.free", 0)
    probe.ask("secrets.new", 0, raw(str(folder) + "/"))
    assert probe.bytes("secrets.load", 0, DISCOVERY) == SECRET


def test_secrets_are_replaced_whole(probe, tmp_path):
    """By another file, whatever the mode of the old one; nothing else is left there."""
    probe.ask("secrets.new", 0, raw(tmp_path))
    probe.ask("secrets.save", 0, DISCOVERY, SECRET)
    path = tmp_path / PLACE
    os.chmod(path, 0o444)
    with open(path, "rb") as old:
        probe.ask("secrets.save", 0, DISCOVERY, SECRET2)
        assert old.read() == SECRET
    assert path.read_bytes() == SECRET2 and mode_of(path) == 0o600
    assert os.listdir(path.parent) == [path.name]
    assert mode_of(path.parent) == 0o700


@pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 128])
def test_a_secret_of_another_size(probe, tmp_path, size):
    probe.ask("secrets.new", 0, raw(tmp_path))
    path = tmp_path / PLACE
    path.parent.mkdir()
    path.write_bytes(bytes(range(size)))
    assert probe.code("secrets.load", 0, DISCOVERY) == (KEY if size else NOT_FOUND)  # an empty one is none
    probe.ask("secrets.save", 0, DISCOVERY, SECRET)
    assert probe.bytes("secrets.load", 0, DISCOVERY) == SECRET


def test_a_secret_that_is_no_file(probe, tmp_path):
    probe.ask("secrets.new", 0, raw(tmp_path))
    path = tmp_path / PLACE
    path.mkdir(parents=True)
    assert probe.code("secrets.load", 0, DISCOVERY) == KEY
    assert probe.code("secrets.save", 0, DISCOVERY, SECRET) < 0
    assert os.listdir(path.parent) == [path.name]  # the temporary file is gone
    path.rmdir()
    os.mkfifo(path)
    hangs = threading.Timer(10, probe._process.kill)
    hangs.start()
    try:
        assert probe.code("secrets.load", 0, DISCOVERY) == KEY
    finally:
        hangs.cancel()


def test_secrets_that_cannot_be_kept(probe, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    probe.ask("secrets.new", 0, raw(tmp_path / "file" / "keys"))
    assert probe.code("secrets.save", 0, DISCOVERY, SECRET) < 0
    assert probe.code("secrets.load", 0, DISCOVERY) < 0
    os.symlink("nowhere", tmp_path / "link")
    probe.ask("secrets.new", 1, raw(tmp_path / "link" / "keys"))
    assert probe.code("secrets.save", 1, DISCOVERY, SECRET) < 0  # and does not try for ever
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_secrets_of_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    probe = Probe()
    probe.ask("secrets.new", 0, None)
    probe.ask("secrets.save", 0, DISCOVERY, SECRET)
    assert (tmp_path / ".dat" / "secret_keys" / PLACE).read_bytes() == SECRET
    assert mode_of(tmp_path / ".dat") == mode_of(tmp_path / ".dat" / "secret_keys") == 0o700
    assert probe.bytes("secrets.load", 0, DISCOVERY) == SECRET
    probe.close()


@pytest.mark.parametrize("home", [None, ""])
def test_secrets_without_home_in_the_environment(monkeypatch, home):
    """The user's record tells; nothing is written there."""
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    probe = Probe()
    probe.ask("secrets.new", 0, None)
    assert probe.code("secrets.load", 0, os.urandom(32)) == NOT_FOUND
    probe.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody without a record")
def test_secrets_of_somebody_without_a_home():
    with other_user("env", "-u", "HOME") as (probe, folder):
        assert probe.code("secrets.new", 0, None) == NO_ENTRY
        probe.ask("secrets.new", 0, raw(os.path.join(folder, "keys")))
        probe.ask("secrets.save", 0, DISCOVERY, SECRET)
        assert probe.bytes("secrets.load", 0, DISCOVERY) == SECRET
        os.chmod(os.path.join(folder, "keys", PLACE), 0)
        assert probe.code("secrets.load", 0, DISCOVERY) == ACCESS
