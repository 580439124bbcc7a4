"""datsync and hypercore of other years, both ways, and each going on in the other's folder; and a drive of 2018.

Needs node and the packages of js/package.json and js/old/package.json (make interop). 6.0.0 has no row: npm has no hypercore 6 before
6.3.8, which stands here for it. DATSYNC_BIG=1 adds a feed of 1,048,577 blocks, which takes many minutes.
"""

import os
import shutil
import subprocess

import pytest

import test_drive_js as drives
import tools
from test_cli_drive import Home, key_of, write
from test_drive_interop import TREE, js_share, listing, port_of, tree, with_content
from test_interop import DEPS, NODE, REASON, Js, js, js_argv, js_make, same_blocks
from tools import DONE, clone, feed, share

OLD = DEPS is not None and os.path.isdir(os.path.join(DEPS, "old", "node_modules"))
pytestmark = [pytest.mark.interop, pytest.mark.skipif(NODE is None or DEPS is None, reason=REASON),
              pytest.mark.skipif(not OLD, reason="the packages of js/old are not installed: make interop")]

VERSIONS = ["6.3.8", "6.6.6", "6.12.7", "6.20.2", "6.22.1", "6.24.0", "6.26.0", "7.2.0", "7.7.1"]
each = pytest.mark.parametrize("version", VERSIONS)
BIG = pytest.mark.skipif(not os.environ.get("DATSYNC_BIG"), reason="DATSYNC_BIG is not set: a million blocks take a minute")
BLOCKS = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(version, to): a copy of the feed of 40 blocks that this version wrote; its key."""
    there = {}

    def get(version, to):
        if version not in there:
            folder = str(tmp_path_factory.mktemp("made") / "feed")
            there[version] = folder, js_make(version, folder, BLOCKS, "1-200")
        folder, key = there[version]
        shutil.copytree(folder, to)
        return key
    return get


def checks(version, folder, blocks):
    report = js(version, "check", folder)
    assert (report["length"], report["valid"], report["invalid"], report["badNodes"]) == (blocks, blocks, 0, 0)
    assert report["signed"] is True


def new_feed(folder):
    return bytes.fromhex(feed("create", folder).out.strip()[len("dat://"):])


@each
def test_datsync_clones_until_the_end(version, made, tmp_path):
    source, copy = str(tmp_path / "source"), str(tmp_path / "copy")
    key = made(version, source)
    with Js(version, "serve", key, source) as server, clone(key, copy, ports=[server.port]) as client:
        client.finish(DONE, 60)
    assert feed("verify", copy).out == "ok %d\n" % BLOCKS
    checks(version, copy, BLOCKS)


@each
def test_datsync_clones_what_is_appended(version, made, tmp_path):
    source, copy = str(tmp_path / "source"), str(tmp_path / "copy")
    key = made(version, source)
    with Js(version, "serve", key, source, "--live") as server:
        with clone(key, copy, "--live", "--json", ports=[server.port]) as client:
            client.event("complete", where=lambda e: e["held"] == BLOCKS)
            for i in range(3):
                server.append(b"new %d" % i)
                client.event("complete", where=lambda e: e["held"] == BLOCKS + 1 + i)
            client.interrupt()
            client.finish(None)
    assert feed("verify", copy).out == "ok %d\n" % (BLOCKS + 3)
    same_blocks(source, copy)


@each
def test_an_empty_feed(version, tmp_path):
    """Served by it, and by datsync; and the first block that it appends."""
    source, copy = str(tmp_path / "source"), str(tmp_path / "copy")
    theirs, far = str(tmp_path / "theirs"), str(tmp_path / "far")
    key = new_feed(source)
    shutil.copytree(source, theirs)
    with Js(version, "serve", key, theirs, "--live") as server:
        with clone(key, copy, ports=[server.port]) as client:
            client.finish(DONE, 60)
        assert feed("verify", copy).out == "ok 0\n"
        server.append(b"first")
        with clone(key, copy, "--live", "--json", ports=[server.port]) as client:
            client.event("complete", where=lambda e: e["held"] == 1)
    with share(source, "--quiet") as server, Js(version, "clone", key, far, port=server.port) as client:
        client.finish(0, 60)
    assert feed("verify", far).out == "ok 0\n"


@each
def test_sparse_ones(version, made, tmp_path):
    """It takes block 3 of 40 from datsync, datsync adds block 0 to that folder, it serves both. The versions 6.22.1 to 6.25.1 tell of
    block 39 too, and close when asked for it."""
    source, part, copy = (str(tmp_path / name) for name in ("source", "part", "copy"))
    key = made(version, source)
    with share(source, "--quiet") as server:
        with Js(version, "clone", key, part, "--sparse", "3:4", port=server.port) as client:
            client.finish(0, 60)
        with clone(key, part, "--range", "0:1", ports=[server.port]) as client:
            client.finish(DONE, 60)
    with Js(version, "serve", key, part, "--live") as server:
        with clone(key, copy, "--range", "0:1", "--range", "3:4", ports=[server.port]) as client:
            client.finish(DONE, 60)
        with clone(key, copy, "--timeout", "1", ports=[server.port]) as client:
            client.finish(1, 60)
    assert feed("verify", copy).out == "ok 2\n"
    assert "the connection ended" not in str(client)


@each
@pytest.mark.parametrize("live", [False, True], ids=["ends", "live"])
def test_it_clones_from_datsync(version, live, made, tmp_path):
    source, copy = str(tmp_path / "source"), str(tmp_path / "copy")
    key = made(version, source)

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
    assert feed("verify", copy).out == "ok %d\n" % BLOCKS
    same_blocks(source, copy)


@each
def test_each_goes_on_in_the_other_s_folder(version, tmp_path):
    """In one that datsync made; whoever has written last; and in a copy that both have made a part of."""
    source, copy, far = (str(tmp_path / name) for name in ("source", "copy", "far"))
    key = new_feed(source)
    for _ in range(2):
        assert feed("append", source, stdin=b"by datsync").code == 0
        js(version, "append", source, b"by it".hex(), b"again".hex())
    assert feed("verify", source).out == "ok 6\n"
    checks(version, source, 6)
    with Js(version, "serve", key, source) as server, clone(key, copy, "--range", "0:4", ports=[server.port]) as client:
        client.finish(DONE, 60)
    with share(source, "--quiet") as server, Js(version, "clone", key, copy, port=server.port) as client:
        client.finish(0, 60)
    checks(version, copy, 6)
    same_blocks(source, copy)


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


def bytes_of(folder):
    return {name: open(os.path.join(folder, name), "rb").read() for name in os.listdir(folder)}


@pytest.mark.parametrize("version", ["6.24.0", "6.26.0", "7.2.0"])
def test_overwrite_leaves_a_folder_that_is_refused_and_verified(version, made, tmp_path):
    """`overwrite` with the same keys and one append: block 0 is forked, all else is as it was, and only `verify` tells so. Opened once
    more, it gets a header that says that pages have no bytes."""
    source = str(tmp_path / "source")
    made(version, source)
    js(version, "append", source, b"fork".hex(), "--overwrite")
    for header in (bytes(32), b"\5\2\x57" + bytes(29)):
        before = bytes_of(source)
        assert before["bitfield"][:32] == header
        for command in (("info", source), ("append", source), ("cat", source)):
            assert "verify tells what is here without it" in feed(*command, code=1).err
        told = feed("verify", source, code=1)
        assert told.out == "bad 0 tree\nbad 1 tree\n" and "good blocks: %d;" % (BLOCKS - 2) in told.err
        assert bytes_of(source) == before
        js(version, "check", source, code=None)


@BIG
def test_1048577_blocks(tmp_path):
    """One more than a Want of a newer version asks about; older ones ask about all, and tell of all."""
    source, copy, far = (str(tmp_path / name) for name in ("source", "copy", "far"))
    key = js_make("6.20.2", source, 1048577, 1, 1, 8192)
    with Js("6.20.2", "serve", key, source, "--live") as server, clone(key, copy, "--quiet", ports=[server.port]) as client:
        client.finish(DONE, 1500)
    assert feed("verify", copy, timeout=120).out == "ok 1048577\n"
    same_blocks(source, copy)
    with share(source, "--quiet") as server, Js("6.20.2", "clone", key, far, port=server.port) as client:
        client.finish(0, 1500)
    assert feed("verify", far, timeout=120).out == "ok 1048577\n"
    same_blocks(source, far)


# ---- a drive: hyperdrive 9.14.0 on hypercore 6.20.2 -------------------------------------------------------

THAT_DRIVE = ["--hyperdrive", "9.14.0"]


def by_it(*args, **more):
    return drives.js(*args, *THAT_DRIVE, **more)


def shared_by_it(folder, *options):
    return js_share(folder, *options, *THAT_DRIVE)


def cloned_by_datsync(home, key, folder, port):
    home("clone", "--quiet", "--timeout", "20", "--peer", "127.0.0.1:%d" % port, key, folder, timeout=60)


def all_there(folder, home, files, version):
    """Both programs find these files, whole, in this folder."""
    assert with_content(tree(folder)) == with_content(files)
    there = by_it("all", folder)
    assert there["version"] == version and there["bad"] == [] and there["valid"] == there["blocks"]
    assert listing(folder, home) == {path: e["seq"] for path, e in there["entries"].items()}
    assert there["entries"].keys() == {"/" + name for name in files}


def test_a_drive_from_an_old_one_and_datsync_s_part_in_its_folder(tmp_path):
    owner, reader = Home(tmp_path / "owner"), Home(tmp_path / "reader")
    origin, copy, far, last = (tmp_path / name for name in ("origin", "copy", "far", "last"))
    write(origin, TREE)
    files = dict(TREE)
    key = by_it("import", origin, "--secret-dir", owner.secrets, "--mtime")["key"]
    with shared_by_it(origin, "--secret-dir", owner.secrets) as server:  # it ends
        cloned_by_datsync(reader, key, copy, server.port)
        server.finish(0)
    all_there(copy, reader, files, len(TREE))
    for step in range(2):  # the owner's, now by datsync, then by it; and the clone's folder served by the other one
        files["step%d" % step] = b"by %d" % step * 30000
        write(origin, {"step%d" % step: files["step%d" % step]})
        if step:
            by_it("import", origin, "--secret-dir", owner.secrets, "--mtime")
            with shared_by_it(origin, "--secret-dir", owner.secrets, "--live") as server:
                reader("pull", "--quiet", "--peer", "127.0.0.1:%d" % server.port, copy)
        else:
            with owner.share(origin) as server:
                by_it("clone", copy, "--key", key, "--port", port_of(server), stdin=None)
        all_there(copy, reader, files, len(TREE) + step + 1)
    all_there(origin, owner, files, len(TREE) + 2)
    with reader.share(copy) as server:  # a clone that both have made, to it; and its clone to datsync
        by_it("clone", far, "--key", key, "--port", port_of(server), stdin=None)
    all_there(far, reader, files, len(TREE) + 2)
    with shared_by_it(far) as server:
        cloned_by_datsync(Home(tmp_path / "third"), key, last, server.port)
    all_there(last, reader, files, len(TREE) + 2)


def test_a_drive_to_an_old_one_and_its_part_in_datsync_s_folder(tmp_path):
    owner, reader = Home(tmp_path / "owner"), Home(tmp_path / "reader")
    origin, copy, far = tmp_path / "origin", tmp_path / "copy", tmp_path / "far"
    write(origin, TREE)
    files = dict(TREE)
    owner("create", "--quiet", origin)
    key = key_of(origin)
    files["dat.json"] = (origin / "dat.json").read_bytes()
    with owner.share(origin) as server, drives_process("clone", copy, "--key", key, "--port", port_of(server), "--live") as client:
        tools.eventually(lambda: with_content(tree(copy)) == with_content(files), 30)
        client.write("stop\n")
        client.finish(0)
    all_there(copy, reader, files, len(files))
    files.update({"by it": b"x" * 70000, "a.txt": b"changed"})
    write(origin, {name: files[name] for name in ("by it", "a.txt")})
    assert by_it("import", origin, "--secret-dir", owner.secrets, "--mtime")["puts"] == 2
    with owner.share(origin) as server:  # what it has imported, served by datsync, pulled in its own clone
        reader("pull", "--quiet", "--peer", server.peer, copy)
    all_there(copy, reader, files, len(TREE) + 3)
    with reader.share(copy) as server:
        by_it("clone", far, "--key", key, "--port", port_of(server), stdin=None)
    all_there(far, reader, files, len(TREE) + 3)


def test_a_folder_of_datsync_shared_by_an_old_one(tmp_path):
    """It takes the index of the larger bitfield pages for blocks: it offers some that are none, and closes when asked for one."""
    owner, reader = Home(tmp_path / "owner"), Home(tmp_path / "reader")
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    write(origin, TREE)
    owner("create", "--quiet", origin)
    with owner.share(origin) as server:
        server.stop()
    write(origin, {"by it": b"x" * 70000})
    by_it("import", origin, "--secret-dir", owner.secrets, "--mtime")
    with shared_by_it(origin, "--secret-dir", owner.secrets, "--live") as server:
        cloned_by_datsync(reader, key_of(origin), copy, server.port)
    files = dict(TREE, **{"by it": b"x" * 70000, "dat.json": (origin / "dat.json").read_bytes()})
    all_there(copy, reader, files, len(TREE) + 2)


def test_an_empty_drive_of_an_old_one(tmp_path):
    """Its metadata has no block, or the header alone; what is put then comes."""
    owner, reader = Home(tmp_path / "owner"), Home(tmp_path / "reader")
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    os.makedirs(origin)
    key = by_it("import", origin, "--secret-dir", owner.secrets)["key"]
    with shared_by_it(origin, "--secret-dir", owner.secrets, "--live") as server, \
            reader.start("clone", "--live", "--json", "--peer", "127.0.0.1:%d" % server.port, key, copy) as client:
        server.write('{"op":"put","path":"/a","text":"first"}\n')
        client.event("complete", 30, lambda e: e["version"] == 1)
        client.stop(None)
    all_there(copy, reader, {"a": b"first"}, 1)


def drives_process(*args):
    return tools.Process(argv=drives.js_argv(*args, *THAT_DRIVE), stdin=subprocess.PIPE, env={"DEPS": DEPS})
