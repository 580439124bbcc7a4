"""Folders and peers as people have them: half there, moved, copied, left by older versions."""

import contextlib
import hashlib
import os
import shutil
import socket
import threading

import pytest

import tools
from dat import drive as drives
from dat import peer as peers
from test_cli_drive import Home, origin, owner, read, reader, write  # noqa: F401 (fixtures)
from tools import DONE, FAILED, NO_PEER


class Silent:
    """Accepts connections, says nothing and keeps them open."""

    def __init__(self):
        self.listener = socket.create_server((peers.LOOPBACK, 0))
        self.port = self.listener.getsockname()[1]
        self.taken = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                self.taken.append(self.listener.accept()[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for one in self.taken:
            one.close()


# ---- when a clone ends ----------------------------------------------------------------------------

def test_a_feed_from_an_honest_peer_beside_a_silent_one(tmp_path):
    made = tools.make_folder(str(tmp_path / "source"), 20)
    with tools.share(str(tmp_path / "source")) as server, Silent() as silent:
        tools.feed("clone", "--timeout", "20", "--peer", "127.0.0.1:%d" % silent.port,
                   "--peer", "127.0.0.1:%d" % server.port, made.key.hex(), tmp_path / "copy")
        assert silent.taken
    tools.assert_folder(str(tmp_path / "copy"), made)


def test_a_clone_does_not_end_while_a_peer_is_untried(tmp_path):
    """The one that answers at once has less than the one that takes its time."""
    long = tools.make(30)
    with tools.Server(tools.make(10)) as quick, tools.Server(long, live=False) as slow:
        slow_port = slow.port
        gate = socket.create_server((peers.LOOPBACK, 0))
        passed = threading.Event()

        def pump(a, b):
            with contextlib.suppress(OSError):
                while True:
                    data = a.recv(65536)
                    if not data:
                        break
                    b.sendall(data)
                b.shutdown(socket.SHUT_WR)

        def late():
            one = gate.accept()[0]
            passed.wait(30)
            two = socket.create_connection((peers.LOOPBACK, slow_port))
            threading.Thread(target=pump, args=(one, two), daemon=True).start()
            pump(two, one)

        threading.Thread(target=late, daemon=True).start()
        with tools.clone(long.key, str(tmp_path / "copy"), "--json", ports=[quick.port, gate.getsockname()[1]]) as client:
            client.event("feed")
            tools.eventually(lambda: len(quick.requests) >= 10)
            tools.time.sleep(2.5)  # longer than a connection has to say what it offers
            assert client.running
            passed.set()
            client.finish(DONE)
        gate.close()
    tools.assert_folder(str(tmp_path / "copy"), long)


def test_a_drive_without_its_header_is_not_complete(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        key, empty = server.key, tmp_path / "empty"
        with reader.start("clone", "--peer", "127.0.0.1:1", "--timeout", "1", key, empty) as first:
            first.finish(NO_PEER)
    with reader.share(empty) as nothing:
        done = reader("clone", "--peer", nothing.peer, "--timeout", "2", key, tmp_path / "copy", code=NO_PEER)
        assert "no peer served this drive" in done.err
        assert "complete" not in done.err


# ---- looking harms nothing ------------------------------------------------------------------------

LOOKING = [["verify"], ["status"], ["status", "--json"], ["log"], ["keys"], ["ls"], ["ls", "--recursive"]]


def inside(folder):
    """Every byte under .dat."""
    found = {}
    for at, _, names in os.walk(os.path.join(str(folder), ".dat")):
        for name in names:
            with open(os.path.join(at, name), "rb") as file:
                found[os.path.join(at, name)] = hashlib.sha256(file.read()).hexdigest()
    return found


@pytest.fixture
def clone(owner, reader, origin, tmp_path):
    """A complete clone of FILES."""
    folder = tmp_path / "copy"
    with owner.share(origin) as server:
        reader.clone(server, folder)
        server.stop()
    return folder


def take_away(folder, what):
    away = str(folder) + ".away"
    os.rename(os.path.join(str(folder), what), away)

    def back():
        os.rename(away, os.path.join(str(folder), what))
    return back


def serves(home, folder, tmp_path, name, select=None, code=DONE):
    """What a new clone gets of a folder."""
    got = tmp_path / name
    with home.share(folder) as server:
        home.clone(server, got, "--timeout", "3", *(["--select", select] if select else []), code=code)
        server.stop()
    return read(got)


@pytest.mark.parametrize("what", ["a.txt", "sub", "sub/big.bin"])
def test_a_file_that_is_away_for_a_moment_is_not_forgotten(what, clone, reader, tmp_path):
    whole = inside(clone)
    back = take_away(clone, what)
    for _ in range(2):
        result = reader("verify", clone, code=FAILED)
        assert any(line.startswith("bad /" + what) for line in result.lines)
    state = reader("status", "--json", clone).events[0]
    assert not state["complete"] and state["laid_out"] == 0 and any(p.startswith("/" + what) for p in state["not_whole"])
    with reader.share(clone) as server:
        server.stop()
        assert any("/" + what in line and "not served" in line for line in server.err)
    for words in LOOKING:
        reader(*words, clone, code=None)
    assert inside(clone) == whole
    back()
    assert reader("verify", clone).out == "ok %d\n" % len(drives_of(clone))
    state = reader("status", "--json", clone).events[0]
    assert state["complete"] and state["held"] == state["blocks"] and "not_whole" not in state
    assert serves(reader, clone, tmp_path, "third") == read(clone)
    assert inside(clone) == whole


def drives_of(folder):
    return drives.read_folder(str(folder)).drive.log.listing(None)


def test_looking_at_an_owners_folder_whose_files_are_away(owner, origin):
    whole = inside(origin)
    back = take_away(origin, "sub")
    for words in LOOKING:
        owner(*words, origin, code=None)
    assert "bad /sub/big.bin" in owner("verify", origin, code=FAILED).out
    assert inside(origin) == whole
    back()
    assert owner("verify", origin).out.startswith("ok ")


# ---- content decides ------------------------------------------------------------------------------

@pytest.mark.parametrize("latest", [2, 0, 1 << 40])
def test_a_stale_latest_version(latest, clone, reader, tmp_path):
    with open(str(clone / ".dat" / "metadata.latest"), "wb") as file:
        file.write(latest.to_bytes(8, "big"))
    whole = inside(clone)
    assert reader("verify", clone).out.startswith("ok ")
    assert reader("cat", clone, "sub/big.bin").raw == read(clone)["sub/big.bin"]
    state = reader("status", "--json", clone).events[0]
    assert state["complete"] and state["laid_out"] == state["version"] and state["held"] == state["blocks"]
    assert inside(clone) == whole
    assert serves(reader, clone, tmp_path, "third") == read(clone)


def test_files_whose_times_differ(clone, reader, tmp_path):
    """As after a copy by version control: the bytes are read while the rest is served."""
    before = read(clone)
    for name in before:
        os.utime(str(clone / name), (1e9, 1e9))
    assert reader("verify", clone).out.startswith("ok ")
    assert reader("cat", clone, "sub/big.bin").raw == before["sub/big.bin"]
    assert reader("status", "--json", clone).events[0]["complete"]
    assert serves(reader, clone, tmp_path, "third") == before


def test_an_edit_that_keeps_the_size(clone, reader, tmp_path):
    """Its time tells that it must be read, and reading tells that it is not served."""
    write(clone, {"sub/deep/c.csv": read(clone)["sub/deep/c.csv"].replace(b"1", b"7")})
    with reader.share(clone) as server:
        tools.eventually(lambda: any("/sub/deep/c.csv: not served" in line for line in server.err))
        got = reader.clone(server, tmp_path / "third", "--timeout", "3", code=FAILED)
        server.stop()
    assert "/sub/deep/c.csv" in got.err
    assert read(tmp_path / "third").keys() == read(clone).keys() - {"sub/deep/c.csv"}
    assert reader("verify", tmp_path / "third", code=FAILED).lines == ["bad /sub/deep/c.csv: not all of it was downloaded"]
    assert reader("status", "--json", tmp_path / "third").events[0]["not_whole"] == ["/sub/deep/c.csv"]


def test_an_owner_is_told_which_file_is_not_served(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        write(origin, {"a.txt": b"HELLO\n", "sub/big.bin": b"short"})
        got = reader.clone(server, tmp_path / "copy", "--timeout", "3", code=FAILED)
        tools.eventually(lambda: sum("not served" in line for line in server.err) == 2)
        server.stop()
    for name in ("/a.txt", "/sub/big.bin"):
        assert name in got.err and any(name in line for line in server.err)
    assert owner("status", "--json", origin).events[0]["updated"] == 2


# ---- half a drive ---------------------------------------------------------------------------------

def sparse(reader, server, folder, *ranges):
    """A drive's folder of which only these entries were downloaded, as a feed."""
    for part in ranges:
        tools.feed("clone", "--peer", server.peer, *part, server.key, folder)
    os.makedirs(str(folder / ".dat"))
    for name in ("key", "tree", "bitfield", "signatures", "data"):
        os.rename(str(folder / name), str(folder / ".dat" / ("metadata." + name)))


@pytest.mark.parametrize("ranges, missing", [([["--range", "0:5"]], "5:6"), ([["--range", "1:6"]], "0:1"),
                                             ([["--range", "0:2", "--range", "3:6"]], "2:3")])
def test_sparse_metadata(ranges, missing, clone, owner, reader, origin, tmp_path):
    """What can be known is listed, checked and served; what is missing is named."""
    part = tmp_path / "part"
    with owner.share(origin) as server:
        sparse(reader, server, part, *ranges)
        server.stop()
    for name in os.listdir(str(clone / ".dat")):
        if name.startswith("content."):
            shutil.copy(str(clone / ".dat" / name), str(part / ".dat" / name))
    for name in os.listdir(str(clone)):
        if name != ".dat":
            (shutil.copytree if os.path.isdir(str(clone / name)) else shutil.copy2)(str(clone / name), str(part / name))
    whole = inside(part)
    known = len([i for i in range(1, 6) if not int(missing.split(":")[0]) <= i < int(missing.split(":")[1])])
    done = reader("verify", part, code=FAILED)
    assert done.lines == ["missing %s metadata" % missing]
    assert "good entries: %d" % known in done.err
    assert len(reader("ls", "--recursive", part, code=None).lines) == known
    state = reader("status", "--json", part).events[0]
    assert not state["complete"] and state["files"] == known and state["missing_entries"] == 1
    assert inside(part) == whole
    with reader.share(part) as server:
        tools.feed("clone", "--timeout", "3", "--peer", server.peer, server.key, tmp_path / "again", code=None)
        assert tools.feed("info", tmp_path / "again").lines[5] == "blocks held: 5"
        server.stop()


# ---- who is the owner -----------------------------------------------------------------------------

def test_an_empty_mark_makes_no_owner(owner, origin, tmp_path):
    """random-access-file 1 makes what it opens: an empty metadata.ogd, with the key at hand, forked the feed."""
    folder = tmp_path / "copy"
    with owner.share(origin) as server:
        owner.clone(server, folder)
        server.stop()
    open(str(folder / ".dat" / "metadata.ogd"), "wb").close()
    write(folder, {"new": b"1"})
    with owner.share(folder) as server:
        server.stop()
    state = owner("status", "--json", folder).events[0]
    assert state["version"] == 5 and not state["writable"]


def test_a_local_edit_that_looks_like_the_new_file(owner, reader, origin, tmp_path):
    """Size and time are those of the file that comes; only the bytes can tell."""
    folder = tmp_path / "copy"
    os.utime(str(origin / "a.txt"), (1e9, 1e9))
    with owner.share(origin, "--quiet") as server:
        reader.clone(server, folder)
        server.stop()
    write(origin, {"a.txt": b"new one\n"})
    os.utime(str(origin / "a.txt"), (1.1e9, 1.1e9))
    write(folder, {"a.txt": b"my text\n"})
    os.utime(str(folder / "a.txt"), (1.1e9, 1.1e9))
    with owner.share(origin, "--quiet") as server:
        assert "/a.txt" in reader.pull(server, folder, code=FAILED).err
        assert read(folder)["a.txt"] == b"my text\n"
        reader.pull(server, folder, "--force")
        assert read(folder)["a.txt"] == b"new one\n"
        server.stop()


def test_verify_of_an_interrupted_clone_calls_no_empty_file_bad(reader, tmp_path):
    made = drives.Drive(seed=b"1" * 32)
    made.put("/x", b"1" * 1000)
    for i in range(3):
        made.put("/empty%d" % i, b"")
    with tools.Server([made.metadata]) as server:
        reader("clone", "--timeout", "1", "--peer", "127.0.0.1:%d" % server.port, made.key.hex(), tmp_path / "b", code=FAILED)
    for i in range(3):
        with contextlib.suppress(FileNotFoundError):
            os.remove(str(tmp_path / "b" / ("empty%d" % i)))
    assert reader("verify", tmp_path / "b", code=FAILED).lines == ["bad /x: not all of it was downloaded"]
    state = reader("status", "--json", tmp_path / "b").events[0]
    assert {"version": 4, "laid_out": 0, "complete": False, "files": 4, "whole": 3, "held": 0, "blocks": 1,
            "not_whole": ["/x"]}.items() <= state.items()
