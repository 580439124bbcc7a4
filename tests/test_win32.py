"""What only Windows does. DATSYNC is datsync.exe: make check-win32, which also runs what every build must pass.

Links are not tested: wine goes through those of the system below it without a word.
"""

import pytest

import tools
from test_cli_drive import Home, write
from test_drive_interop import tree
from test_everywhere import Native
from tools import DONE, FAILED, feed

pytestmark = [pytest.mark.everywhere, pytest.mark.skipif(not tools.DATSYNC.endswith(".exe"), reason="not the Windows build: make check-win32")]


@pytest.fixture
def windows(tmp_path):
    return Home(tmp_path / "windows")


@pytest.fixture
def linux(tmp_path):
    return Native(tmp_path / "linux")


@pytest.fixture
def origin(tmp_path):
    write(tmp_path / "origin", {"a.txt": b"hello\n", "sub/a.txt": b"another\n"})
    return tmp_path / "origin"


@pytest.mark.parametrize("name", ["con", "NUL.txt", "com1", "a:b", "a.", "a ", "x\\y", 'q"', "DAT~1/metadata.key", "LONGNA~1.TXT", "a*b"])
def test_names_that_windows_takes_for_others_are_not_laid_out(name, windows, linux, origin, tmp_path):
    write(origin, {name: b"evil"})
    linux("create", origin)
    with linux.share(origin) as server:
        result = windows.clone(server, tmp_path / "copy", code=FAILED)
    assert "the file system cannot hold this name" in result.err
    assert tree(tmp_path / "copy") == {n: data for n, data in tree(origin).items() if n != name}


def test_a_long_path(windows, linux, tmp_path):
    deep = "/".join(["a-folder-with-a-long-name-%02d" % i for i in range(20)]) + "/file"
    write(tmp_path / "origin", {deep: b"deep"})
    linux("create", tmp_path / "origin")
    with linux.share(tmp_path / "origin") as server:
        windows.clone(server, tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(tmp_path / "origin")
    long = tmp_path / "/".join("a-root-with-a-long-name-%02d" % i for i in range(15))
    long.parent.mkdir(parents=True)
    feed("create", long)
    assert len(str(long)) > 300 and feed("verify", long).out == "ok 0\n"


def test_who_shares_keeps_writers_out_and_readers_in(tmp_path):
    tools.make_folder(str(tmp_path / "source"), 3)
    with tools.share(tmp_path / "source") as server:
        refused = feed("append", tmp_path / "source", stdin=b"x", code=FAILED)
        assert "another process has this feed open" in refused.err
        assert "length: 3" in feed("info", tmp_path / "source").out
        server.stop()
    feed("append", tmp_path / "source", stdin=b"x")


def test_ctrl_c_ends_it_in_order(tmp_path):
    tools.make_folder(str(tmp_path / "source"), 3)
    with tools.share(tmp_path / "source") as server:
        server.stop(DONE)
    assert any(line.startswith("sent") for line in server.err)


def test_unix_sockets_are_not_here(tmp_path):
    tools.make_folder(str(tmp_path / "source"), 1)
    result = feed("share", "--listen", "unix:" + str(tmp_path / "socket"), tmp_path / "source", code=None, timeout=10)
    assert result.code == FAILED and result.err.startswith("datsync: ")
