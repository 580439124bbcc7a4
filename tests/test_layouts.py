"""Folders whose feeds lie elsewhere than `dat` 13 puts them: hyperdrive's own, those of dat-node 3.0.0 and of `latest: false`, and
Beaker's. They are read, cloned on and served; nothing is laid out in them, and nothing imported."""

import hashlib
import json
import os
import shutil
import stat
import subprocess

import pytest

import test_drive_js
import tools
from dat import drive as drives
from dat import evil, sleep
from test_cli_drive import CLOSED, Home, origin, owner, read, reader, write  # noqa: F401 (fixtures)
from tools import DONE, FAILED, NO_PEER, one_line

PARTS = {"hyperdrive": ("metadata/", "content/"), "dat-node 3.0": (".dat/metadata/", ".dat/content/"),
         "flat": ("metadata.", "content."), "beaker": ("metadata/", "content/")}
LAYOUTS = sorted(PARTS)
RECORDED = os.path.join(tools.ROOT, "vectors", "drives")
ABOUT = json.dumps({"title": "Old things", "description": "", "url": ""}).encode()


def made_drive():
    made = drives.Drive(seed=b"L" * 32)
    made.put("/dat.json", ABOUT, mtime=1500000000000)
    made.put("/a.txt", b"one")
    made.put("/sub/b.bin", tools.block(3, 0, 150000))
    made.put("/sub/gone", b"gone")
    made.put("/empty", b"")
    made.put("/a.txt", b"two and more")
    made.delete("/sub/gone")
    return made


def inner(folder, layout, key):
    """The drive's own folder, which in Beaker's profile is of the key's digits."""
    return os.path.join(str(folder), "Archives", "Meta", key.hex()[:2], key.hex()[2:]) if layout == "beaker" else str(folder)


def place(folder, layout, made, secret=False, metadata=None, content=None):
    """Put a drive into a new folder: a reader's with these blocks (None: all), or with `secret` the owner's. Returns its folder."""
    folder = inner(folder, layout, made.key)
    for prefix, feed, blocks in zip(PARTS[layout], (made.metadata, made.content), (metadata, content)):
        if blocks == []:
            feed = drives.Feed(feed.key)
        files = sleep.files(drives.only(feed, set(range(feed.length)) if blocks is None else set(blocks)))
        if secret and feed is made.metadata:
            files["secret_key"] = made.metadata.secret_key
        write(folder, {prefix + name: data for name, data in files.items()})
    return folder


def feeds_of(folder, layout):
    """Both feeds as they lie there, every claim of them held against the hashes."""
    found = []
    for prefix in PARTS[layout]:
        at, name = os.path.split(os.path.join(folder, prefix))
        assert sleep.audit(at, name) == []
        found.append(sleep.read(at, name))
    return found


def held(feed):
    return [i for i in range(feed.length) if feed.has(i)]


def hashes(folder):
    found = {}
    for at, folders, names in os.walk(str(folder)):
        for name in names:
            with open(os.path.join(at, name), "rb") as file:
                found[os.path.join(at, name)] = hashlib.sha256(file.read()).hexdigest()
        found.update((os.path.join(at, name), None) for name in folders)
    return found


def state(home, folder):
    return home("status", "--json", folder).events[0]


def without_layout(folder, layout):
    """What lies beside the feeds."""
    return {name for name in hashes(folder)} - {name for name in hashes(folder) if any(
        name.startswith(os.path.join(str(folder), prefix).rstrip("/")) for prefix in PARTS[layout])}


# ---- looking --------------------------------------------------------------------------------------

@pytest.mark.parametrize("secret", [False, True], ids=["reader", "owner"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_command_that_looks(layout, secret, reader, tmp_path):
    made = made_drive()
    folder = place(tmp_path / "it", layout, made, secret)
    before = hashes(tmp_path / "it")
    told = state(reader, folder)
    assert told["layout"] == layout and told["key"] == made.key.hex() and told["title"] == "Old things"
    assert told["version"] == told["laid_out"] == made.version and told["complete"] and told["files"] == told["whole"] == 4
    assert told["held"] == told["blocks"] == 5 and told["writable"] == secret and told["archive"]
    assert not {"added", "updated", "removed", "key_missing", "not_whole"} & set(told)
    assert "layout: %s (%s*, %s*)" % ((layout,) + PARTS[layout]) in reader("status", folder).lines
    assert sorted(reader("ls", "--recursive", folder).lines) == ["a.txt", "dat.json", "empty", "sub/b.bin"]
    assert reader("cat", folder, "sub/b.bin").raw == tools.block(3, 0, 150000)
    assert reader("cat", folder, "a.txt").raw == b"two and more"
    assert reader("cat", folder, "a.txt", "--checkout", "2").raw == b"one"
    assert len(reader("log", "--json", folder).events) == made.version
    assert reader("verify", folder).lines == ["ok 4"]
    assert made.key.hex() in reader("keys", folder).out
    exported = reader("keys", "export", folder, code=DONE if secret else FAILED)
    assert exported.out.strip() == (made.metadata.secret_key.hex() if secret else "")
    assert hashes(tmp_path / "it") == before


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["owner", "half", "dat-13-clone"])
def test_recorded_folders_in_another_layout(name, layout, reader, tmp_path):
    """The files that the deployed implementation wrote, under the other names; their content put together."""
    old = drives.read_folder(os.path.join(RECORDED, name)).drive
    folder = inner(tmp_path / "it", layout, old.key)
    for prefix, part in zip(PARTS[layout], ("metadata.", "content.")):
        files = sleep.read_files(os.path.join(RECORDED, name, ".dat"), part)
        if part == "content.":
            files["data"] = bytearray()
            for i, data in old.content.blocks.items():
                start = old.content.tree.byte_offset(i)
                files["data"].extend(bytes(max(0, start + len(data) - len(files["data"]))))
                files["data"][start:start + len(data)] = data
        write(folder, {prefix + one: data for one, data in files.items()})
    before = hashes(tmp_path / "it")
    told = state(reader, folder)
    assert told["layout"] == layout and told["version"] == old.version and not told["writable"]
    assert told["complete"] == (name != "half")
    result = reader("verify", folder, code=FAILED if name == "half" else DONE)
    assert ("bad /sub/deep/two.bin" in result.out) == (name == "half")
    for path, number in old.log.listing().items():
        first, end = old.log.entry(number).stat.range
        whole = all(old.content.has(i) for i in range(first, end))
        shown = reader("cat", folder, path, code=DONE if whole else FAILED)
        assert not whole or shown.raw == old.file(path)
    assert hashes(tmp_path / "it") == before


def test_the_usual_layout_has_a_name_too(owner, origin):
    write(origin, {"metadata/key": b"k" * 32, "content/key": b"k" * 32, "metadata.key": b"k" * 32})  # files as any other
    assert state(owner, origin)["layout"] == "dat" and state(owner, origin)["added"] == 3
    assert "layout: dat (.dat/metadata.*, .dat/content.*)" in owner("status", origin).lines


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_feed_command_names_the_other_kind(layout, reader, tmp_path):
    folder = place(tmp_path / "it", layout, made_drive())
    assert "but a drive" in one_line(tools.feed("info", folder, code=FAILED))


# ---- damage ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("layout", LAYOUTS)
def test_verify_names_what_is_not_whole_and_forgets_nothing(layout, reader, tmp_path):
    made = made_drive()
    assert made.log.find("/sub/b.bin").stat.range == (2, 5)
    folder = place(tmp_path / "it", layout, made, content=[0, 2, 3, 6])
    told = state(reader, folder)
    assert not told["complete"] and told["not_whole"] == ["/sub/b.bin"] and told["held"] == 4 and told["whole"] == 3
    before = hashes(tmp_path / "it")
    assert [e for e in reader("verify", folder, code=FAILED).lines if not e.startswith("ok")] == [
        "bad /sub/b.bin: not all of it was downloaded"]
    data = os.path.join(folder, PARTS[layout][1] + "data")
    os.rename(data, data + ".away")
    assert "bad /a.txt" in reader("verify", folder, code=FAILED).out
    os.rename(data + ".away", data)
    tools.flip(data, 0)
    result = reader("verify", folder, code=FAILED)
    assert result.lines == ["bad 0 content.data", "bad /dat.json: a hash does not match", "bad /sub/b.bin: not all of it was downloaded"]
    assert "good entries: 2" in one_line(result)
    tools.flip(data, 0)
    assert hashes(tmp_path / "it") == before and state(reader, folder) == told


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_whose_size_is_not_that_of_its_blocks(layout, reader, tmp_path):
    made = made_drive()
    made.put_stat("/lies", drives.Stat(0o100644, 0, 0, 5, 1, 1, len(ABOUT)))
    folder = place(tmp_path / "it", layout, made)
    assert [line[:11] for line in reader("verify", folder, code=FAILED).lines] == ["bad /lies: "]


# ---- going on -------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["pull", "clone"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_download_goes_on(layout, how, reader, tmp_path):
    """From a part, and again when there is more; nothing but the two feeds is written."""
    made = made_drive()
    folder = place(tmp_path / "it", layout, made, content=[2, 3])
    os.remove(os.path.join(folder, PARTS[layout][1] + "data"))
    write(folder, {PARTS[layout][1] + "data": bytes(made.content.tree.byte_offset(2)) + made.content.blocks[2] + made.content.blocks[3]})
    words = ["pull", folder] if how == "pull" else ["clone", "dat://" + made.key.hex(), folder]
    with evil.Server(made) as server:
        told = reader(*words, "--json", "--peer", "127.0.0.1:%d" % server.port).events
    assert {e["path"] for e in told if e["event"] == "entry"} >= {"/dat.json", "/a.txt"}
    metadata, content = feeds_of(folder, layout)
    assert held(metadata) == list(range(made.version + 1)) and set(held(content)) >= made.needed()
    made.put("/sub/new.bin", tools.block(4, 0, 70000))
    with evil.Server(made) as server:
        told = reader(*words, "--json", "--peer", "127.0.0.1:%d" % server.port).events
    assert told[-1]["event"] == "complete" and told[-1]["bytes"] < 75000
    assert reader("verify", folder).lines == ["ok 5"] and state(reader, folder)["complete"]
    assert reader("cat", folder, "sub/new.bin").raw == tools.block(4, 0, 70000)
    metadata, content = feeds_of(folder, layout)
    assert metadata.length == made.metadata.length and not without_layout(folder, layout) - {os.path.join(folder, ".dat")}
    with reader.share(folder) as again:
        reader.clone(again, tmp_path / "copy")
        again.stop()
    assert set(read(tmp_path / "copy")) == {"a.txt", "empty", "sub/b.bin", "sub/new.bin"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_that_knows_no_more_than_the_link(layout, reader, tmp_path):
    """The other peers make content's part once the header is there."""
    made = made_drive()
    folder = place(tmp_path / "it", layout, made, metadata=[])
    for name in list(hashes(folder)):
        if os.path.isfile(name) and name.startswith(os.path.join(folder, PARTS[layout][1])):
            os.remove(name)
    if layout != "flat":
        os.rmdir(os.path.join(folder, PARTS[layout][1].rstrip("/")))
    before = hashes(tmp_path / "it")
    told = state(reader, folder)
    assert told["layout"] == layout and not told["complete"] and told["version"] == 0
    assert "missing_entries" in told and hashes(tmp_path / "it") == before
    reader("pull", "--timeout", "2", "--peer", CLOSED, folder, code=NO_PEER)
    with evil.Server(made) as server:
        reader("pull", "--peer", "127.0.0.1:%d" % server.port, folder)
    assert reader("verify", folder).lines == ["ok 4"] and set(held(feeds_of(folder, layout)[1])) == made.needed()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_selection_is_kept(layout, reader, tmp_path):
    made = made_drive()
    folder = place(tmp_path / "it", layout, made, content=[])
    with evil.Server(made) as server:
        reader("pull", "--select", "a.txt", "--peer", "127.0.0.1:%d" % server.port, folder)
        assert held(feeds_of(folder, layout)[1]) == [6]
        told = state(reader, folder)
        assert told["selection"] == ["a.txt"] and told["complete"] and told["files"] == 1
        reader("pull", "--peer", "127.0.0.1:%d" % server.port, folder)
        assert held(feeds_of(folder, layout)[1]) == [6]
        reader("pull", "--all", "--peer", "127.0.0.1:%d" % server.port, folder)
        assert set(held(feeds_of(folder, layout)[1])) == made.needed()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_clone_of_something_else_is_refused(layout, reader, tmp_path):
    made = made_drive()
    folder = place(tmp_path / "it", layout, made)
    before = hashes(tmp_path / "it")
    result = reader("clone", "--peer", CLOSED, "ab" * 32, folder, code=FAILED)
    assert "holds another drive, dat://" + made.key.hex() in one_line(result)
    assert "is a drive already" in one_line(reader("create", folder, code=FAILED))
    assert hashes(tmp_path / "it") == before


# ---- the owner's ----------------------------------------------------------------------------------

@pytest.mark.parametrize("command", ["share", "sync"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_owner_serves_and_imports_nothing(layout, command, reader, tmp_path):
    made = made_drive()
    folder = place(tmp_path / "it", layout, made, secret=True)
    write(folder, {"beside.txt": b"no part of the drive"})
    before = hashes(tmp_path / "it")
    with reader.serve(command, folder) as server:
        reader.clone(server, tmp_path / "copy")
        server.stop()
        assert len([line for line in server.err if "nothing is imported" in line and "layout: " + layout in line]) == 1
    assert read(tmp_path / "copy") == {"a.txt": b"two and more", "empty": b"", "sub/b.bin": tools.block(3, 0, 150000)}
    assert hashes(tmp_path / "it") == before
    result = reader("pull", "--peer", CLOSED, folder, code=FAILED)
    assert "is where this drive is written" in one_line(result)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_secret_key_makes_no_owner(layout, reader, tmp_path):
    made = made_drive()
    folder = place(tmp_path / "it", layout, made)
    secret = os.path.join(folder, PARTS[layout][0] + "secret_key")
    open(secret, "w").close()
    assert not state(reader, folder)["writable"]
    with reader.share(folder) as server:
        server.stop()
        assert not [line for line in server.err if "imported" in line]
    made.put("/later", b"1")
    with evil.Server(made) as server:
        reader("pull", "--peer", "127.0.0.1:%d" % server.port, folder)
    assert reader("cat", folder, "later").raw == b"1" and os.path.getsize(secret) == 0
    for wrong in (bytes(64), drives.Drive(seed=b"x" * 32).metadata.secret_key):
        write(folder, {PARTS[layout][0] + "secret_key": wrong})
        assert PARTS[layout][0] + "secret_key: this is not the secret key" in one_line(reader("status", folder, code=FAILED))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_key_is_imported_into_the_store_itself(layout, reader, tmp_path):
    made = made_drive()
    secret = made.metadata.secret_key
    folder = place(tmp_path / "it", layout, made, content=[0])
    assert "/a.txt" in reader("keys", "import", folder, stdin=secret, code=FAILED).err
    assert not state(reader, folder)["writable"]
    with evil.Server(made) as server:
        reader("pull", "--peer", "127.0.0.1:%d" % server.port, folder)
    reader("keys", "import", folder, stdin=secret)
    name = os.path.join(folder, PARTS[layout][0] + "secret_key")
    with open(name, "rb") as file:
        assert file.read() == secret
    assert state(reader, folder)["writable"] and reader("keys", "export", folder).out.strip() == secret.hex()


@pytest.mark.posix
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_imported_key_is_for_its_owner_alone(layout, reader, tmp_path):
    made = made_drive()
    folder = place(tmp_path / "it", layout, made)
    reader("keys", "import", folder, stdin=made.metadata.secret_key)
    assert stat.S_IMODE(os.stat(os.path.join(folder, PARTS[layout][0] + "secret_key")).st_mode) == 0o600


# ---- Beaker's -------------------------------------------------------------------------------------

@pytest.fixture
def profile(tmp_path):
    """Beaker's profile with two drives, the first of them whole."""
    first, second = made_drive(), drives.Drive(seed=b"M" * 32)
    second.put("/b.txt", b"of the second")
    place(tmp_path / "profile", "beaker", first)
    place(tmp_path / "profile", "beaker", second, content=[])
    write(tmp_path / "profile", {"Cookies": b"private", "Archives/Meta/aa/x/metadata/key": b"k" * 32, "Archives/Meta/readme": b""})
    return first, second


@pytest.mark.parametrize("at", ["", "Archives", "Archives/Meta"])
def test_the_profile_names_the_drives_that_are_there(at, profile, reader, tmp_path):
    root = tmp_path / "profile"
    before = hashes(root)
    given = os.path.join(str(root), at) if at else str(root)
    for words in (["status"], ["ls"], ["verify"], ["create"], ["pull", "--peer", CLOSED], ["share", "--listen", "127.0.0.1:0"],
                  ["sync", "--listen", "127.0.0.1:0"]):
        result = reader(*words, given, code=FAILED)
        lines = result.err.splitlines()
        assert len(lines) == 3 and "holds 2 drives" in lines[-1] and not result.raw
        for made in profile:
            folder = inner(root, "beaker", made.key)
            found = [line for line in lines[:2] if line.replace("\\", "/").endswith("%s: dat://%s" % (folder, made.key.hex()))]
            assert len(found) == 1, lines
        assert hashes(root) == before


@pytest.mark.parametrize("at", ["", "Archives", "Archives/Meta"])
def test_a_link_finds_its_folder_in_the_profile(at, profile, reader, tmp_path):
    root, (_, second) = tmp_path / "profile", profile
    given = os.path.join(str(root), at) if at else str(root)
    with evil.Server(second) as server:
        reader("clone", "--select", "b.txt", "--peer", "127.0.0.1:%d" % server.port, second.key.hex(), given)
    folder = inner(root, "beaker", second.key)
    assert reader("cat", folder, "b.txt").raw == b"of the second" and state(reader, folder)["layout"] == "beaker"
    assert not os.path.exists(os.path.join(given, ".dat")) and not os.path.exists(os.path.join(given, "b.txt"))
    result = reader("clone", "--peer", CLOSED, "ab" * 32, given, code=FAILED)
    assert "is not empty" in one_line(result) and not os.path.exists(os.path.join(given, ".dat"))


def test_beakers_folder_from_inside(profile, reader, tmp_path):
    folder = inner(tmp_path / "profile", "beaker", profile[0].key)
    assert "layout: beaker (metadata/*, content/*)" in reader("status", cwd=folder).lines
    shutil.copytree(folder, str(tmp_path / "elsewhere"))
    assert state(reader, tmp_path / "elsewhere")["layout"] == "hyperdrive"


@pytest.mark.parametrize("part", ["content/data", "metadata/data", "content/signatures", "metadata/signatures"])
@pytest.mark.parametrize("layout", ["hyperdrive", "beaker"])
def test_indexed_files_are_refused_by_name(layout, part, reader, tmp_path):
    folder = place(tmp_path / "it", layout, made_drive())
    write(folder, {part + ".index": b"index"})
    before = hashes(tmp_path / "it")
    for words in (["status", folder], ["cat", folder, "a.txt"], ["verify", folder], ["share", "--listen", "127.0.0.1:0", folder],
                  ["pull", "--peer", CLOSED, folder], ["clone", "--peer", CLOSED, made_drive().key.hex(), folder]):
        line = one_line(reader(*words, code=FAILED))
        assert part + ": is an indexed file" in line and "Beaker" in line
    assert hashes(tmp_path / "it") == before


# ---- the deployed implementation ------------------------------------------------------------------

needs_js = [pytest.mark.interop, pytest.mark.skipif(test_drive_js.NODE is None or test_drive_js.DEPS is None, reason=test_drive_js.REASON)]
SCRIPT = os.path.join(tools.SUITE, "js", "layout.js")


def js(command, layout, folder, *args):
    done = subprocess.run([test_drive_js.NODE, SCRIPT, command, layout, str(folder)] + [str(a) for a in args], timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, DEPS=test_drive_js.DEPS))
    assert done.returncode == 0, (command, layout, done.stderr.decode())
    return json.loads(done.stdout)


class TestDeployed:
    pytestmark = needs_js

    @pytest.mark.parametrize("layout", ["hyperdrive", "flat", "dat-node 3.0"])
    def test_both_ways(self, layout, reader, tmp_path):
        """hyperdrive's own folder is served, cloned by hyperdrive into another of its own, gone on with here, and read there."""
        folder, copy, files = tmp_path / "it", tmp_path / "copy", {"/a.txt": b"hello".hex(), "/sub/b.bin": tools.block(1, 0, 200000).hex()}
        (tmp_path / "files.json").write_text(json.dumps(files))
        told = js("write", layout, folder, tmp_path / "files.json")
        state_here = state(reader, folder)
        assert state_here["layout"] == layout and state_here["key"] == told["key"] and state_here["writable"] and state_here["complete"]
        before = hashes(folder)
        assert reader("verify", folder).lines == ["ok 2"] and hashes(folder) == before
        with reader.share(folder) as server:
            assert js("clone", layout, copy, told["key"], server.peer.split(":")[1], "/a.txt") == {"/a.txt": files["/a.txt"]}
            assert not state(reader, copy)["complete"]
            reader.pull(server, copy)
            server.stop()
        assert js("read", layout, folder) == js("read", layout, copy) == files
        more = dict(files, **{"/later": b"more".hex()})
        (tmp_path / "files.json").write_text(json.dumps({"/later": more["/later"]}))
        assert js("write", layout, folder, tmp_path / "files.json")["version"] == 3  # its owner goes on
        with reader.share(folder) as server:
            reader.pull(server, copy)
            server.stop()
        assert js("read", layout, copy) == more and reader("verify", copy).lines == ["ok 3"]
