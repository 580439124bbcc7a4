"""datsync and hypercore of other years, both ways, and each going on in the other's folder.

Needs node and the packages of js/package.json and js/old/package.json (make interop). Two versions are in no row: 6.0.0, which the
registry has no more (6.3.8 is the oldest that installs, and stands here for it), and so nothing before that.
"""

import os
import shutil

import pytest

import tools
from test_interop import DEPS, NODE, REASON, Js, js, js_make, same_blocks
from tools import DONE, clone, feed, share

OLD = DEPS is not None and os.path.isdir(os.path.join(DEPS, "old", "node_modules"))
pytestmark = [pytest.mark.interop, pytest.mark.skipif(NODE is None or DEPS is None, reason=REASON),
              pytest.mark.skipif(not OLD, reason="the packages of js/old are not installed: make interop")]

VERSIONS = ["6.3.8", "6.6.6", "6.12.7", "6.20.2", "6.22.1", "6.24.0", "6.26.0", "7.2.0", "7.7.1"]
each = pytest.mark.parametrize("version", VERSIONS)


def checks(version, folder, blocks):
    report = js(version, "check", folder)
    assert (report["length"], report["valid"], report["invalid"], report["badNodes"]) == (blocks, blocks, 0, 0)
    assert report["signed"] is True


@each
def test_datsync_clones_until_the_end(version, tmp_path):
    """Of a feed, and of an empty one."""
    for blocks in (40, 0):
        source, copy = str(tmp_path / ("source%d" % blocks)), str(tmp_path / ("copy%d" % blocks))
        key = js_make(version, source, blocks, "1-200")
        with Js(version, "serve", key, source) as server, clone(key, copy, ports=[server.port]) as client:
            client.finish(DONE, 60)
        assert feed("verify", copy).out == "ok %d\n" % blocks
        if blocks:
            checks(version, copy, blocks)


@each
def test_datsync_clones_what_is_appended(version, tmp_path):
    source, copy = str(tmp_path / "source"), str(tmp_path / "copy")
    key = js_make(version, source, 3, 10)
    with Js(version, "serve", key, source, "--live") as server:
        with clone(key, copy, "--live", "--json", ports=[server.port]) as client:
            client.event("complete", where=lambda e: e["held"] == 3)
            for i in range(3):
                server.append(b"new %d" % i)
                client.event("complete", where=lambda e: e["held"] == 4 + i)
            client.interrupt()
            client.finish(None)
    checks(version, copy, 6)


@each
def test_datsync_clones_from_a_sparse_one(version, tmp_path):
    """Blocks 0 and 3 of 40. The versions 6.22.1 to 6.25.1 tell of block 39 too, and close when asked for it."""
    source, part, copy = (str(tmp_path / name) for name in ("source", "part", "copy"))
    key = js_make(version, source, 40, "1-200")
    with share(source, "--quiet") as server:
        for wanted in ("0:1", "3:4"):
            with Js(version, "clone", key, part, "--sparse", wanted, port=server.port) as client:
                client.finish(0, 60)
    with Js(version, "serve", key, part, "--live") as server:
        with clone(key, copy, "--range", "0:1", "--range", "3:4", ports=[server.port]) as client:
            client.finish(DONE, 60)
        with clone(key, copy, "--timeout", "2", ports=[server.port]) as client:
            client.finish(1, 60)
    assert feed("verify", copy).out == "ok 2\n"
    assert "the connection ended" not in str(client)


@each
@pytest.mark.parametrize("live", [False, True], ids=["ends", "live"])
def test_it_clones_from_datsync(version, live, tmp_path):
    source, copy = str(tmp_path / "source"), str(tmp_path / "copy")
    key = js_make(version, source, 40, "1-200")

    def there():
        try:
            with open(os.path.join(source, "data"), "rb") as a, open(os.path.join(copy, "data"), "rb") as b:
                return a.read() == b.read()
        except FileNotFoundError:
            return False

    with share(source, "--quiet") as server:
        with Js(version, "clone", key, copy, *["--live"] * live, port=server.port) as client:
            if live:
                tools.eventually(there, 30)
                client.write("stop\n")
            client.finish(0, 60)
    assert feed("verify", copy).out == "ok 40\n"
    same_blocks(source, copy)


@each
def test_each_goes_on_in_the_other_s_folder(version, tmp_path):
    """Whoever has written last; and what both have written is cloned by both."""
    source, copy, far = (str(tmp_path / name) for name in ("source", "copy", "far"))
    key = js_make(version, source, 5, "1-200")
    for i in range(2):
        assert feed("append", source, stdin=b"by datsync").code == 0
        js(version, "append", source, b"by it".hex(), b"again".hex())
        checks(version, source, 8 + 3 * i)
        assert feed("verify", source).out == "ok %d\n" % (8 + 3 * i)
    with Js(version, "serve", key, source) as server, clone(key, copy, ports=[server.port]) as client:
        client.finish(DONE, 60)
    checks(version, copy, 11)
    with share(copy, "--quiet") as server, Js(version, "clone", key, far, port=server.port) as client:
        client.finish(0, 60)
    same_blocks(source, far)


@pytest.mark.parametrize("version", ["6.12.7", "6.20.2"])
def test_an_old_version_opened_a_folder_of_larger_pages(version, tmp_path):
    """It wrote 3328 into the header of a bitfield whose pages have 3584 bytes: no version opens that right, but datsync does; and
    then those can that know the larger ones."""
    source = str(tmp_path / "source")
    js_make("6.26.0", source, 9000, 1)
    js(version, "check", source, code=None)
    with open(os.path.join(source, "bitfield"), "rb") as file:
        assert file.read()[5:7] == (3328).to_bytes(2, "big")
    assert feed("verify", source).out == "ok 9000\n"
    assert feed("append", source, stdin=b"x").code == 0
    with open(os.path.join(source, "bitfield"), "rb") as file:
        assert file.read()[5:7] == (3584).to_bytes(2, "big")
    checks("6.26.0", source, 9001)
    checks("7.7.1", source, 9001)
