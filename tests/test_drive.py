"""Drives in C: their blocks and listings against the vectors and dat/drive.py, imports, look-ups in sparse metadata, bad
entries, and what is laid out on a file system in memory. Failing calls and power cuts are in test_drive_faults.py.
"""

import contextlib
import hashlib
import os
import random
import shutil
import stat as modes

import pytest

import probe as driver
from dat import drive, evil, sleep, sodium
from dat.drive import Drive, Stat
from probe import (ACCESS, ADDED, ARCHIVE, BOTH, CHANGED, CREATE, ENTRY, EV_AWAY, EV_BACK, EV_ENTRY, EV_FAILED, EV_PLAN, EV_REFUSED,
                   EV_REMOVED, EV_VERSION, FILE, FOLDER, INDEX, INVALID, IO, IS_FOLDER, LINK, MORE, NOMEM, NO_ENTRY, NOT_FOLDER,
                   NOT_FOUND, PARTIAL, PATH, RANGE, READ_ONLY, READ_ONLY_FEED, REFUSED, REMOVED, SYMLINK, UPDATED, UPLOAD, VECTORS, Drives,
                   ProbeError)
from test_drive_reference import FOLDERS, VECTOR, data_of, ids
from test_drive_reference import replay as python_replay

SEED = 20191101
SECRET = sodium.keypair(b"\x31" * 32)[1]
T0 = 1500000000000


@pytest.fixture
def drives(probe):
    return Drives(probe)


def code_of(call, *args, **options):
    """0, or the number of the error that a call ends with."""
    try:
        call(*args, **options)
    except ProbeError as error:
        return error.code
    return 0


# ---- the format -----------------------------------------------------------------------------------------

def write_history(drives, history, expected):
    """The ops of a history on drive 0. What is deleted and not there is written by the deployed code only: its block is
    then taken over as it is."""
    drives.world(0)
    drives.open(0, "world:0", CREATE | ARCHIVE, None, bytes.fromhex(history["secretKey"]))
    there = {}
    for number, op in enumerate(history["ops"], 1):
        op = {**history.get("defaults", {}), **op}
        path = op["path"]
        if op["op"] == "del" and path not in there:
            assert code_of(drives.remove, 0, path) == NOT_FOUND
            assert drives.version(0) == number - 1
            if number > 1:
                drives.feeds(0, 0)
                drives.probe.ask("append", 0, expected[number])
                drives.close(0)
                drives.open(0, "world:0", 0)
        elif op["op"] == "del":
            assert drives.remove(0, path) == number
            del there[path]
        else:
            folder = op["op"] == "mkdir"
            there[path] = drives.put(0, path, b"" if folder else data_of(op), op["mode"] | (FOLDER if folder else FILE),
                                     op["mtime"], op["ctime"], op.get("uid") or 0, op.get("gid") or 0)
            assert there[path] == number
    return there


@pytest.mark.parametrize("history", **ids(VECTOR["histories"]))
def test_history_is_written_and_read_as_recorded(history, drives):
    """Each block is that of the deployed code; where that loses entries, it is that of the deletion that keeps them."""
    lost = "Lost" in history["flags"]
    made, expected_there = python_replay(history, deployed=not lost)
    expected = [made.metadata.blocks[i] for i in range(made.metadata.length)]
    there = write_history(drives, history, expected)
    assert there == expected_there
    version, _, writable, archive, key, content_key = drives.info(0)
    assert (key.hex(), content_key.hex()) == (history["key"], history["contentKey"]) and writable and archive
    drives.flush(0)
    drives.feeds(0, 0, 1)
    blocks = drives.blocks(0)
    assert blocks == expected
    if not lost and "blocks" in history:
        assert [b.hex() for b in blocks] == history["blocks"]
    elif not lost:
        assert [hashlib.sha256(b).hexdigest()[:16] for b in blocks] == history["hashes"]
    assert drives.probe.numbers("count", 1, 0, 1 << 20) == [history["contentLength"]]
    assert version == made.version
    for number in range(version + 1) if version < 200 else [int(v) for v in history["listings"]]:
        listing = made.log.listing(number)
        assert drives.listing(0, number) == listing
        if not lost and "versions" in history and number:
            assert listing == history["versions"][number - 1]
        for path, entry in listing.items() if version < 200 else ():
            assert drives.find(0, path, number).version == entry
    for path, entry in history["lookups"].items() if not lost else ():
        if entry is None:
            assert code_of(drives.find, 0, path) == NOT_FOUND
        else:
            assert drives.find(0, path).version == entry
    for path, number in list(there.items())[:80]:
        found, stat = drives.find(0, path), made.log.entry(number).stat
        assert found.stat == tuple(stat.read(f.name) for f in Stat.FIELDS)
        if stat.is_file:
            assert drives.read(0, path) == made.file(path)


@pytest.mark.parametrize("history", [h for h in VECTOR["histories"] if "Lost" in h["flags"]], ids=lambda h: h["id"])
def test_lost_entries_are_read_as_the_deployed_code_reads_them(history, drives):
    made, _ = python_replay(history)
    drives.load(0, made)
    for number, listing in enumerate(history["versions"], 1):
        assert drives.listing(0, number) == listing
    for path, entry in history["lookups"].items():
        assert (NOT_FOUND if entry is None else entry) == \
            (code_of(drives.find, 0, path) or drives.find(0, path).version)


@pytest.mark.parametrize("folder", **ids(FOLDERS["entries"], "name"))
def test_recorded_folder(folder, drives, tmp_path):
    """A folder of the deployed code opens as it is: every version is listed, every file that is here is right, and an owner
    goes on with it."""
    where, secrets = tmp_path / "drive", tmp_path / "secrets"
    shutil.copytree(os.path.join(VECTORS, "drives", folder["name"]), where)
    shutil.copytree(os.path.join(VECTORS, "drives", "secret_keys"), secrets)
    drives.open(0, "dir:%s:%s" % (where, secrets), 0)
    version, laid_out, writable, archive, key, content_key = drives.info(0)
    assert (version, key.hex(), content_key.hex()) == (folder["version"], folder["key"], folder["contentKey"])
    assert (bool(writable), archive) == (folder["writable"], 0)
    assert laid_out == version
    read = drive.read_folder(where).drive
    for number in range(version + 1):
        assert drives.listing(0, number) == read.log.listing(number)
    assert drives.listing(0) == folder["listing"]
    good, faults = drives.verify(0)
    if "Sparse" not in folder["flags"]:
        assert not faults or ("NoEmptyFiles" in folder["flags"]
                              and all(read.log.find(p).stat.read("size") == 0 for p in faults)), faults
        assert good == len(folder["listing"]) - len(faults)
    for path in folder["listing"]:
        file = where / path[1:]
        if file.exists() and file.stat().st_size == read.log.find(path).stat.read("size"):
            assert drives.read(0, path) == file.read_bytes()
    drives.feeds(0, 0, 1)
    assert driver.ranges(drives.probe.ask("held", 0)) == [tuple(r) for r in folder["metadataBlocks"]]
    assert driver.ranges(drives.probe.ask("held", 1)) == [tuple(r) for r in folder["contentBlocks"]]
    if folder["writable"]:
        for path in folder["listing"]:  # permissions are not kept in this repository
            os.chmod(where / path[1:], read.log.find(path).stat.mode & 0o777)
        (where / "new").write_bytes(b"new")
        assert [(c.change, c.path) for c in drives.import_(0)] == [(ADDED, "/new")]
        assert drives.find(0, "/new").version == version + 1
    drives.close(0)
    assert drive.audit_folder(where) == []


# ---- random histories -----------------------------------------------------------------------------------

def name_of(rng, wide):
    return rng.choice(["a", "b", "c", "d", "ab", "e.txt", "\u00e9", "a b"][:wide])


def random_history(rng, made, turns):
    """Ops, each as (kind, path, data, mtime), and what is there behind each."""
    ops, there, used = [], {}, []
    wide, deep = rng.randint(2, 8), rng.randint(1, 6)
    for turn in range(turns):
        if used and rng.random() < 0.35:
            path = rng.choice(used)
            if rng.random() < 0.3:
                path = path + "/" + name_of(rng, wide)
            elif rng.random() < 0.2 and path.count("/") > 1:
                path = path.rpartition("/")[0]
        else:
            path = "".join("/" + name_of(rng, wide) for _ in range(rng.randint(1, deep)))
        used.append(path)
        if there and rng.random() < 0.4:
            path = rng.choice(sorted(there))
            ops.append(("del", path, None, 0))
            made.delete(path)
            del there[path]
        elif rng.random() < 0.15:
            ops.append(("mkdir", path, None, T0 + turn))
            there[path] = made.mkdir(path, mtime=T0 + turn)
        else:
            data = rng.randbytes(rng.choice([0, 1, 5, 300]))
            ops.append(("put", path, data, T0 + turn))
            there[path] = made.put(path, data, mtime=T0 + turn)
    return ops, there, used


def shallow(listing, folder):
    """{name: (entries of that name, files beneath)} of a folder, out of a whole listing."""
    prefix, found = folder.rstrip("/") + "/", {}
    for path, number in listing.items():
        if path.startswith(prefix):
            first, _, rest = path[len(prefix):].partition("/")
            entry, beneath = found.get(first, (None, False))
            found[first] = (entry, True) if rest else (number, beneath)
    return found


def check_shallow(drives, d, version, listing, log, folder):
    expected = shallow(listing, folder)
    if not expected and folder != "/":
        assert code_of(drives.list, d, version, folder, False) == NOT_FOUND, (folder, version)
        return
    told = {}
    for e in drives.list(d, version, folder, False):
        told.setdefault(e.path.rpartition("/")[2], []).append(e)
    assert told.keys() == expected.keys(), (folder, version)
    for first, entries in told.items():
        number, beneath = expected[first]
        is_folder = number is not None and log.entry(number).stat.is_folder
        want = ([number] if number is not None else []) + ([0] if beneath and not is_folder else [])
        assert sorted(e.version for e in entries) == sorted(want), (folder, first, version)
        assert all(e.stat[0] & FOLDER for e in entries if e.version == 0)


@pytest.mark.parametrize("part", range(4))
def test_random_histories(part, probe):
    """200 of them: blocks, listings, look-ups and folders of every version are those of dat/drive.py."""
    drives, rng = Drives(probe), random.Random(SEED + part)
    for _ in range(50):
        made = Drive(secret_key=SECRET)
        ops, there, used = random_history(rng, made, rng.randint(2, 40))
        drives.world(0)
        drives.open(0, "world:0", CREATE | ARCHIVE, None, SECRET)
        for number, (kind, path, data, mtime) in enumerate(ops, 1):
            if kind == "del":
                assert drives.remove(0, path) == number
            else:
                mode = FOLDER | 0o755 if kind == "mkdir" else FILE | 0o644
                assert drives.put(0, path, data, mode, mtime, step=rng.choice([1, 7, 65536])) == number
            if rng.random() < 0.08:
                drives.close(0)
                drives.open(0, "world:0", 0)
        drives.feeds(0, 0)
        blocks = drives.blocks(0)
        assert blocks == [made.metadata.blocks[i] for i in range(made.metadata.length)], ops
        everything = sorted(set(used) | {p.rpartition("/")[0] for p in used} - {""})
        versions = range(made.version + 1)
        for version in versions if len(versions) < 12 else rng.sample(versions, 6) + [made.version]:
            listing = made.log.listing(version)
            assert drives.listing(0, version) == listing, ops
            for path in rng.sample(everything, min(len(everything), 8)):
                found = code_of(drives.find, 0, path, version) or drives.find(0, path, version).version
                assert found == listing.get(path, NOT_FOUND), (path, version, ops)
                check_shallow(drives, 0, version, listing, made.log, path)
                if shallow(listing, path):
                    beneath = {e.path: e.version for e in drives.list(0, version, path)}
                    assert beneath == {p: n for p, n in listing.items() if p.startswith(path + "/")}
            check_shallow(drives, 0, version, listing, made.log, "/")
        assert there == made.log.listing()
        for path in there:
            if made.log.find(path).stat.is_file:
                assert drives.read(0, path) == made.file(path)
        drives.close(0)


def test_a_list_can_be_ended(drives):
    made = Drive(secret_key=SECRET)
    for i in range(9):
        made.put("/d%d/f%d" % (i % 3, i))
    drives.load(0, made)
    every = drives.list(0)
    assert [drives.list(0, stop=n) for n in range(1, 10)] == [every[:n] for n in range(1, 10)]
    folders = drives.list(0, deep=False)
    assert [drives.list(0, deep=False, stop=n) for n in range(1, 4)] == [folders[:n] for n in range(1, 4)]


# ---- imports --------------------------------------------------------------------------------------------

def on_disk(folder):
    """{path: (mode, mtime in ms, bytes)} of files and of empty folders (bytes None)."""
    found = {}
    for where, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if (where, f) != (str(folder), ".dat")]
        path = where[len(str(folder)):]
        if path and not folders and not files:
            found[path] = (os.stat(where).st_mode, None, None)
        for file in files:
            full = os.path.join(where, file)
            with open(full, "rb") as opened:
                found[path + "/" + file] = (os.stat(full).st_mode, os.stat(full).st_mtime_ns // 1000000, opened.read())
    return found


def random_change(rng, folder, tick):
    """One change that a user makes."""
    there = on_disk(folder)
    files = sorted(p for p, (_, _, data) in there.items() if data is not None)
    kind = rng.choice(["new", "new", "new", "edit", "delete", "touch", "mkdir", "to-folder", "to-file", "mode"])
    if kind in ("edit", "delete", "touch", "to-folder", "mode") and not files:
        kind = "new"
    if kind in ("new", "mkdir"):
        path = folder
        for _ in range(rng.randint(0, 3)):
            path = path / rng.choice("abc")
            if path.is_file():
                return
            path.mkdir(exist_ok=True)
        path = path / rng.choice(["x", "y", "z", "\u00fc"])
        if kind == "mkdir" and not path.exists():
            path.mkdir()
        if kind == "mkdir" or path.is_dir():
            return
    elif kind == "to-file":
        folders = sorted({p.rpartition("/")[0] for p in there} - {""})
        if not folders:
            return
        path = folder / rng.choice(folders)[1:]
        shutil.rmtree(path)
    else:
        path = folder / rng.choice(files)[1:]
    if kind == "delete":
        path.unlink()
    elif kind == "to-folder":
        path.unlink()
        path.mkdir()
    elif kind == "mode":
        path.chmod(rng.choice([0o644, 0o600, 0o755]))
    else:
        data = path.read_bytes() if kind == "touch" else rng.randbytes(rng.choice([0, 3, 2000, 70000]))
        path.write_bytes(data)
        os.utime(path, ns=(0, (T0 + tick * 5000) * 1000000))


def check_import(drives, folder, before):
    """Import it: exactly what changed is told and written, and the listing is the disk."""
    version, after = drives.version(0), on_disk(folder)
    listed = {e.path: e for e in drives.list(0)}
    expected = set()
    for path in before.keys() | after.keys():
        was, now = before.get(path), after.get(path)
        if now is None:
            if path in listed:  # an empty folder that is not empty any more keeps its entry
                is_folder = (folder / path[1:]).is_dir()
                expected |= set() if is_folder and was[2] is None else {(REMOVED, path)}
        elif was is None:
            expected |= set() if now[2] is None and path in listed and listed[path].stat[0] & FOLDER else {(ADDED, path)}
        elif (was[2] is None) != (now[2] is None):
            expected |= {(REMOVED, path), (ADDED, path)}
        elif now[2] is not None and (was[2] != now[2] or was[0] != now[0]):
            expected.add((UPDATED, path))
    dry = drives.import_(0, dry=True)
    assert drives.version(0) == version
    changes = drives.import_(0)
    assert {(c.change, c.path) for c in changes} == expected
    assert {(c.change, c.path) for c in dry} == expected
    assert len(changes) == len(expected) == drives.version(0) - version
    listing = drives.listing(0)
    files = {p: s for p, s in after.items() if s[2] is not None}
    entries = {p: drives.find(0, p) for p in listing}
    assert {p for p, e in entries.items() if not e.stat[0] & FOLDER} == files.keys()
    for path, (mode, _, data) in files.items():
        stat = entries[path].stat
        assert (stat[0], stat[3]) == (FILE | modes.S_IMODE(mode), len(data))
        assert drives.read(0, path) == data
    for path, (_, _, data) in after.items():
        assert path in listing, path
    assert all((folder / p[1:]).is_dir() for p, e in entries.items() if e.stat[0] & FOLDER)
    assert drives.import_(0) == []
    return after


@pytest.mark.parametrize("seed", range(5))
def test_import_of_a_random_folder(seed, drives, tmp_path):
    rng, folder, secrets = random.Random(SEED + seed), tmp_path / "drive", tmp_path / "secrets"
    folder.mkdir()
    where = "dir:%s:%s" % (folder, secrets)
    drives.open(0, where)
    before, tick = {}, 0
    for turn in range(7):
        for _ in range(rng.choice([1, 3, 12])):
            tick += 1
            random_change(rng, folder, tick)
        before = check_import(drives, folder, before)
        if rng.random() < 0.5:
            drives.close(0)
            drives.open(0, where, 0)
    assert drives.verify(0)[1] == {}
    drives.close(0)
    assert drive.audit_folder(folder) == []
    log = drive.read_folder(folder).drive.log
    assert list(log.history()) and {p for p in log.listing()} >= before.keys()


def test_import_leaves_out_and_refuses(drives):
    """`.dat`, ignored paths, links; what is ignored and was imported is removed, unless it is to be kept."""
    drives.world(0, {"a": b"a", "b/c": b"c", "b/d/e": b"e", "f": b"f"})
    drives.link(0, "l")
    drives.open(0, "world:0")
    told = drives.import_(0, ignore=["/b/d"])
    assert {(c.change, c.path, c.error) for c in told} == {
        (ADDED, "/a", 0), (ADDED, "/b/c", 0), (ADDED, "/f", 0), (REFUSED, "/l", LINK)}
    assert drives.listing(0).keys() == {"/a", "/b/c", "/f"}
    drives.delete(0, "f")
    assert {(c.change, c.path) for c in drives.import_(0, keep=True, ignore=["/b", "/l"])} == set()
    assert {(c.change, c.path) for c in drives.import_(0, ignore=["/b", "/l"])} == {(REMOVED, "/b/c"), (REMOVED, "/f")}
    assert drives.listing(0).keys() == {"/a"}


def test_import_leaves_for_later_what_is_not_ready(drives):
    """What is new is not there yet, what is changed stays as it was; what is as it was is not asked for, nor are folders."""
    drives.world(0, {"a": b"a", "b/c": b"c", "same": b"s", "gone": b"g"})
    drives.open(0, "world:0")
    assert {c.path for c in drives.import_(0, unready=["/a"])} == {"/b/c", "/same", "/gone"}
    drives.import_(0)
    version = drives.version(0)
    drives.write(0, "a", b"another, longer", mtime=5)
    drives.write(0, "new/x", b"x")
    drives.delete(0, "gone")
    told = drives.import_(0, unready=["/a", "/new/x", "/same", "/gone", "/new", "/b"])
    assert [(c.change, c.path) for c in told] == [(REMOVED, "/gone")] and drives.version(0) == version + 1
    assert drives.find(0, "/a").stat[3] == 1 and "/new/x" not in drives.listing(0)
    assert {(c.change, c.path) for c in drives.import_(0)} == {(UPDATED, "/a"), (ADDED, "/new/x")}
    drives.write(0, "a", b"Another, longer", mtime=7)  # of the same size
    assert drives.import_(0, unready=["/a"]) == [] and len(drives.import_(0)) == 1


def test_a_name_on_the_disk_that_is_none_is_refused(drives):
    """Not UTF-8, as a path of an entry must be."""
    drives.world(0, {"a": b"a"})
    drives.open(0, "world:0")
    drives.write(0, b"bad\xff", b"x")
    assert {(c.change, c.path, c.error) for c in drives.import_(0)} == {(ADDED, "/a", 0), (REFUSED, "/bad\udcff", PATH)}
    assert drives.listing(0).keys() == {"/a"}


def test_import_is_ended_by_its_caller(drives):
    drives.world(0, {"%d" % i: b"x%d" % i for i in range(20)})
    drives.open(0, "world:0")
    with pytest.raises(ProbeError) as ended:
        drives.import_(0, stop=5)
    assert ended.value.code == -86
    assert 4 <= len(drives.listing(0)) <= 5
    assert len(drives.import_(0)) == 20 - len(drives.listing(0)) or len(drives.listing(0)) == 20
    assert len(drives.listing(0)) == 20


def test_import_into_a_folder_that_has_an_entry(drives):
    """An empty folder is imported, and is filled later: what is in it is known, so that it is not put again and again, and
    goes when it is deleted."""
    drives.world(0, {"b": None, "z": b"z"})
    drives.open(0, "world:0")
    drives.import_(0)
    drives.write(0, "b/x", b"x")
    drives.write(0, "b/y", b"y")
    assert {(c.change, c.path) for c in drives.import_(0)} == {(ADDED, "/b/x"), (ADDED, "/b/y")}
    assert drives.import_(0) == []
    drives.delete(0, "b/x")
    assert {(c.change, c.path) for c in drives.import_(0)} == {(REMOVED, "/b/x")}
    drives.delete(0, "b")
    drives.import_(0)
    assert drives.listing(0).keys() == {"/z"}


def owner_of(drives, made, path, data):
    """The owner of this drive opens it, drive 0, in a folder with one file."""
    drives.world(0)
    drives.open(0, "world:0", CREATE, None, SECRET)
    drives.feeds(0, 62, 63)
    drives.extend(0, made)
    drives.close(0)
    drives.write(0, path, data, mtime=T0)
    drives.open(0, "world:0", 0)


def test_import_where_a_file_was_a_folder_once(drives):
    """The deployed code puts the file first and then deletes what was beneath. What is left is a file and no folder."""
    made = Drive(secret_key=SECRET)
    made.put("/d/b", b"1")
    made.put("/d", b"2")
    made.delete("/d/b")
    made.put("/z", b"z", mtime=T0)
    owner_of(drives, made, "z", b"z")
    assert {e.path: e.version for e in drives.list(0, deep=False)} == {"/d": 2, "/z": 4}
    assert {(c.change, c.path) for c in drives.import_(0)} == {(REMOVED, "/d")}
    assert drives.listing(0) == {"/z": 4}


def test_import_where_a_file_and_a_folder_have_one_name(drives):
    """The drive has both, the disk the folder: the file goes, what is in the folder stays."""
    made = Drive(secret_key=SECRET)
    made.put("/d/b", b"1", mtime=T0)
    made.put("/d", b"22", mtime=T0)
    owner_of(drives, made, "d/b", b"1")
    assert {(c.change, c.path) for c in drives.import_(0)} == {(REMOVED, "/d")}
    assert drives.listing(0).keys() == {"/d/b"} and drives.import_(0) == []


def test_a_file_that_comes_back_is_claimed_again(drives):
    """It was another one for a while, so its blocks were claimed no more; nothing is put anew."""
    data = bytes(range(256)) * 600
    drives.world(0, {"a": data, "b": b"b"})
    drives.open(0, "world:0")
    drives.import_(0)
    version = drives.version(0)
    drives.write(0, "a", data[::-1])
    assert drives.verify(0)[1] == {"/a": CHANGED}
    drives.write(0, "a", data, mtime=T0)
    drives.feeds(0, 62, 63)
    assert driver.members(drives.probe.ask("held", 63)) == {3}
    drives.import_(0, dry=True)
    assert driver.members(drives.probe.ask("held", 63)) == {3}
    assert drives.import_(0) == [] and drives.version(0) == version
    assert driver.members(drives.probe.ask("held", 63)) == set(range(4)) and drives.read(0, "/a") == data
    assert drives.verify(0)[1] == {}


def test_what_is_replaced_or_removed_is_claimed_no_more(drives):
    """Its bytes are nowhere; those of what came into its place are read there at once."""
    drives.world(0, {"a": b"one", "b": b"b"})
    drives.open(0, "world:0")
    drives.feeds(0, 62, 63)

    def held():
        return driver.members(drives.probe.ask("held", 63))
    drives.import_(0)
    assert held() == {0, 1}
    drives.write(0, "a", b"another", mtime=T0)
    drives.import_(0)
    assert held() == {1, 2}
    drives.delete(0, "b")
    drives.import_(0)
    assert held() == {2}
    drives.write(0, "a", b"a third", mtime=T0 + 5000)
    drives.put(0, "/a", b"a third", mtime=T0 + 5000)
    assert held() == {3} and drives.read(0, "/a") == b"a third"
    drives.remove(0, "/a")
    assert held() == set()


def test_import_of_more_files_than_are_gathered(drives):
    """Blocks and entries are written in groups of 1024."""
    files = {"%04d" % i: b"%d" % i for i in range(1030)}
    drives.world(0, files)
    drives.open(0, "world:0")
    assert len(drives.import_(0)) == 1030 and drives.import_(0) == []
    for path in ("0000", "1022", "1023", "1024", "1025", "1029"):
        assert drives.read(0, "/" + path) == files[path]
    drives.close(0)
    drives.open(0, "world:0", 0)
    assert drives.verify(0) == (1030, {})


def test_a_quick_look_reads_no_file(drives):
    """Size and time of a file that was laid out are enough, unless it is to be looked at deeply."""
    drives.world(0, {"a": b"a" * 100, "b": b"b"})
    drives.open(0, "world:0")
    drives.import_(0)
    drives.calls(0)
    assert drives.verify(0, deep=False) == (2, {}) and drives.calls(0)[1]["read"] == 0
    assert drives.verify(0) == (2, {}) and drives.calls(0)[1]["read"] > 0
    drives.write(0, "b", b"c")
    assert drives.verify(0, deep=False) == (1, {"/b": CHANGED})


def test_a_file_that_vanishes_while_it_is_imported(drives):
    """Listed, and gone when it is looked at: what the drive had of it goes, and all others are imported."""
    files = {"a": b"a", "b/c": b"c", "b/d": b"d", "e": b"e"}
    drives.world(0, files)
    drives.open(0, "world:0")
    drives.import_(0)
    gone = set()
    for n in range(1, 30):
        drives.fail(0, "stat", n, NO_ENTRY)
        told = drives.import_(0)
        drives.fail(0, "stat", 0)
        assert len(told) <= 2 and {c.change for c in told} <= {REMOVED}
        gone |= {c.path for c in told}
        assert {(c.change, c.path) for c in drives.import_(0)} == {(ADDED, c.path) for c in told}
        assert {p: drives.read(0, "/" + p) for p in files} == files
    assert gone == {"/a", "/b/c", "/b/d", "/e"}


# ---- look-ups in sparse metadata ------------------------------------------------------------------------

def give_what_is_needed(drives, call, *args):
    """How many blocks it asked for; what it ended with."""
    asked = []
    while True:
        try:
            return asked, call(*args)
        except ProbeError as error:
            if error.code != MORE:
                return asked, error.code
            asked.append(int(error.text.split()[-1]))
            assert asked.count(asked[-1]) == 1, "it asks for a block that it has"
            drives.probe.ask("give", 2, 62, 0, asked[-1])


def test_look_up_asks_for_no_more_than_the_folders_on_the_way(drives):
    rng, made = random.Random(SEED), Drive(secret_key=SECRET)
    for i in range(600):
        made.put("/d%d/e%d/f%d" % (rng.randrange(6), rng.randrange(5), rng.randrange(40)), b"")
    drives.load(0, made)
    log, most = made.log, 0
    paths = sorted(log.listing())
    for path in rng.sample(paths, 25) + ["/d0/e0/none", "/none", "/d1/none/x", "/d2", "/d0/e1"]:
        drives.open(1, "memory", CREATE, made.key)
        drives.feeds(1, 2)
        drives.probe.ask("give", 2, 62, 0, made.version)
        asked, found = give_what_is_needed(drives, drives.find, 1, path)
        expected = log.listing().get(path)
        assert (found if expected is None else found.version) == (NOT_FOUND if expected is None else expected)
        names = drive.split(path)
        bound = sum(len(log.list(drive.join(names[:k]))) if k == 0 or log.list(drive.join(names[:k])) else 0
                    for k in range(len(names) + 1))
        assert len(asked) <= bound + 1, (path, asked)
        most = max(most, len(asked))
        drives.close(1)
    assert 0 < most < 60  # of 600


def test_listing_of_a_folder_asks_for_that_folder_only(drives):
    made = Drive(secret_key=SECRET)
    for i in range(300):
        made.put("/d%d/f%d" % (i % 10, i), b"")
    drives.load(0, made)
    drives.open(1, "memory", CREATE, made.key)
    drives.feeds(1, 2)
    drives.probe.ask("give", 2, 62, 0, made.version)
    asked, found = give_what_is_needed(drives, drives.list, 1, made.version, "/d3")
    assert {e.path for e in found} == {"/d3/f%d" % i for i in range(3, 300, 10)}
    assert len(asked) <= 10 + 30
    assert give_what_is_needed(drives, drives.entry, 1, 7)[0] == [7]


# ---- bad input ------------------------------------------------------------------------------------------

STAT = Stat(FILE | 0o644, 0, 0, 0, 0, 0, 0, T0, T0).encode()


def node(name, paths, value=STAT):
    return evil.raw_node(name, value, paths)


def good_index(number, *levels):
    return drive.deflate(number, list(levels))


BAD_INDEXES = {
    "forward": (lambda n: drive.encode_varint(0) + b"\x02\x01" + drive.encode_varint(n), INDEX),
    "beyond-the-feed": (lambda n: b"\x00\x01" + drive.encode_varint(n + 5), INDEX),
    "huge-number": (lambda n: b"\x00\x01" + drive.encode_varint(2 ** 63), INDEX),
    "wrapping": (lambda n: b"\x00\x02" + drive.encode_varint(1) + drive.encode_varint(2 ** 64 - 1), INDEX),
    "huge-count": (lambda n: b"\x01" + drive.encode_varint(2 ** 63), INDEX),
    "huge-count-32": (lambda n: b"\x01\xff\xff\xff\xff\x0f", INDEX),
    "count-beyond-the-end": (lambda n: b"\x01\x05\x01\x01", INDEX),
    "cut": (lambda n: b"\x01\x02\x01\xff", INDEX),
    "varint-too-long": (lambda n: b"\x01" + b"\xff" * 11, INDEX),
    "nothing": (lambda n: b"", INDEX),
    "the-header": (lambda n: b"\x01\x01\x00", INDEX),
    "twice": (lambda n: b"\x01\x02\x01\x00", INDEX),
    "itself": (lambda n: b"\x00\x02" + drive.encode_varint(n) + b"\x00", INDEX),
}


def with_bad_head(index_of):
    made = Drive(secret_key=SECRET)
    made.put("/a/x", b"1")
    made.put("/b/y", b"2")
    made.append(node("/c/z", index_of(made.version + 1)))
    return made


@pytest.mark.parametrize("name", sorted(BAD_INDEXES))
def test_bad_index(name, drives):
    """An error, no hang, and no memory for what is claimed."""
    index_of, expected = BAD_INDEXES[name]
    made = with_bad_head(index_of)
    drives.open(0, "memory", CREATE, None, SECRET, counted=True)
    drives.feeds(0, 62, 63)
    drives.extend(0, made)
    drives.probe.ask("memory")
    assert code_of(drives.list, 0) == expected
    assert code_of(drives.list, 0, None, "/", False) == expected
    for path in ("/a/x", "/none", "/c/other"):
        found = code_of(drives.find, 0, path)
        assert found in (expected, NOT_FOUND) or (path == "/a/x" and drives.find(0, path).version == 1), path
    assert code_of(drives.entry, 0, made.version) == 0  # its index is not looked at
    assert code_of(drives.put, 0, "/new", b"new") in (0, expected)
    assert code_of(drives.remove, 0, "/b/y") in (0, expected, NOT_FOUND)
    peak = drives.probe.numbers("memory")[1]
    assert peak < 32 << 20, "%d bytes" % peak
    assert drives.listing(0, 2) == {"/a/x": 1, "/b/y": 2}


def test_index_of_another_folder(drives):
    """What lies elsewhere is not taken for a file of this folder; a circle comes to an end."""
    made = Drive(secret_key=SECRET)
    made.put("/a/x", b"1")
    made.append(node("/b/y", good_index(2, [1, 2], [1, 2], [2])))  # lists /a/x in /b
    made.append(node("/b/z", good_index(3, [1, 2, 3], [2, 3], [3])))
    drives.load(0, made)
    assert code_of(drives.list, 0) == INDEX
    assert code_of(drives.list, 0, 2) == INDEX
    assert drives.find(0, "/b/y").version == 2
    made.append(node("/c", good_index(4, [1, 1 + 1, 3, 4], [4])))
    drives.extend(0, made)
    assert code_of(drives.list, 0) == INDEX


def test_an_entry_that_lists_itself_twice_on_each_level(drives):
    """Each is to be told once: twice a level is 2 ** 18 of them, and more than anybody waits for where a path is longer."""
    made = Drive(secret_key=SECRET)
    made.put("/x", b"")
    level = b"\x02" + drive.encode_varint(2) + b"\x00"
    made.append(node("/a" * 18, b"\x00" + level * 19))
    drives.load(0, made)
    try:
        assert len(drives.list(0)) <= 2
    except ProbeError as error:
        assert error.code == INDEX


@pytest.mark.parametrize("bad, expected", [
    (b"", ENTRY), (b"\xff\xff", ENTRY), (b"\x0a\xff\x01/a", ENTRY), (b"\x12\x01a\x1a\x01\x01", ENTRY),
    (b"\x0a\x02/x\x12\x01\x08", INDEX), (b"\x08\x01", ENTRY), (bytes(100), ENTRY), (b"\x0a\x02/x\x1a\x05\x01", ENTRY)])
def test_undecodable_node(bad, expected, drives):
    made = Drive(secret_key=SECRET)
    made.put("/a", b"1")
    made.append(bad)
    drives.load(0, made)
    assert code_of(drives.list, 0) == expected
    assert code_of(drives.find, 0, "/a") == expected
    assert code_of(drives.entry, 0, 2) == (expected if expected == ENTRY else 0)
    assert drives.listing(0, 1) == {"/a": 1}
    assert drives.find(0, "/a", 1).version == 1


def test_a_deletion_without_an_index(drives):
    """What is here shows without it."""
    made = Drive(secret_key=SECRET)
    made.put("/a", b"1")
    made.append(b"\x0a\x02/x")
    drives.load(0, made)
    assert drives.listing(0) == {"/a": 1} and drives.find(0, "/a").version == 1


@pytest.mark.parametrize("stat, expected", [
    (dict(offset=2 ** 40), RANGE), (dict(blocks=2 ** 40), RANGE), (dict(offset=2 ** 64 - 1, blocks=2), RANGE),
    (dict(byteOffset=2 ** 63), RANGE), (dict(size=2 ** 63), RANGE), (dict(byteOffset=2 ** 64 - 1, size=1, blocks=1), RANGE),
    (dict(size=1 << 40, blocks=1), RANGE), (dict(size=5, blocks=0), RANGE),
    (dict(mode=0o120777), ENTRY), (dict(mode=0o010644), ENTRY), (dict(mode=0o060644), ENTRY), (dict(mode=0o020644), ENTRY),
    (dict(mode=0o140644), ENTRY)])
def test_stat_out_of_range(stat, expected, drives):
    made = Drive(secret_key=SECRET)
    made.put("/a", b"1")
    values = dict(mode=FILE | 0o644, size=0, blocks=0, offset=0, byteOffset=0)
    values.update(stat)
    made.put_stat("/b", Stat(**values))
    made.put_stat("/c", b"")
    made.put_stat("/d", b"\xff\xff\xff")
    drives.load(0, made)
    assert [(e.path, e.error) for e in drives.list(0)] == [("/a", 0), ("/b", expected), ("/c", ENTRY), ("/d", ENTRY)]
    for path in ("/b", "/c", "/d"):
        assert drives.find(0, path).error
        assert code_of(drives.read, 0, path, None, 0, 100) == drives.find(0, path).error


@pytest.mark.parametrize("stat, message", [
    (dict(byteOffset=1), "shifted"), (dict(size=2), "short"), (dict(size=10), "long"), (dict(offset=1), "of another"),
    (dict(offset=7), "beyond"), (dict(offset=1, byteOffset=3, size=3, blocks=3), "too many blocks")])
def test_reading_where_offset_and_size_lie(stat, message, drives):
    """Never bytes that are not of the blocks that the entry names."""
    made = Drive(secret_key=SECRET)
    made.put("/a", b"aaa")
    made.put("/b", b"bbb")
    values = dict(mode=FILE | 0o644, size=3, blocks=1, offset=0, byteOffset=0)
    values.update(stat)
    made.put_stat("/c", Stat(**values))
    drives.load(0, made)
    for offset in range(5):
        try:
            got = drives.read(0, "/c", None, offset, 100)
        except ProbeError as error:
            assert error.code in (RANGE, NOT_FOUND, INVALID), message
            continue
        start = values["byteOffset"] + offset
        first, end = values["offset"], values["offset"] + values["blocks"]
        assert got == b"aaabbb"[3 * first:3 * end][max(0, start - 3 * first):][:max(0, values["size"] - offset)], message


def test_reading_what_is_not_here(drives):
    """Without the content feed, and without the blocks."""
    made = Drive(secret_key=SECRET)
    made.put("/a", blocks=[b"one", b"two", b"three"])
    drives.load(0, made)
    drives.feeds(0, 2, 3)
    drives.probe.ask("clear", 3, 1, 2)
    assert drives.read(0, "/a", None, 0, 3) == b"one" and drives.read(0, "/a", None, 6, 9) == b"three"
    assert code_of(drives.read, 0, "/a", None, 0, 4) == code_of(drives.read, 0, "/a", None, 3, 1) == NOT_FOUND
    drives.open(1, "memory", CREATE, made.key)
    drives.feeds(1, 4)
    drives.probe.ask("give", 4, 2, 0, 1)
    assert drives.version(1) == 1 and drives.info(1)[5] == b""
    assert code_of(drives.read, 1, "/a", None, 0, 4) == NOT_FOUND
    assert drives.read(1, "/a", None, 11, 4) == b""


def test_a_content_feed_of_another_key_is_not_written(drives, tmp_path):
    """The owner of the metadata has no secret key for it: he can read what is there."""
    other = Drive(secret_key=sodium.keypair(b"\x32" * 32)[1])
    made = Drive(SECRET[32:])
    made.metadata.secret_key = SECRET
    made.content = other.content
    made.metadata.append(drive.Index(drive.TYPE, other.content.key).encode())
    made.put("/a", b"aaa", mtime=T0)
    evil.write_folder(evil.Evil("a content feed of another key", made), tmp_path / "own", tmp_path / "secrets")
    (tmp_path / "own" / "a").write_bytes(b"aaa")
    drives.open(0, "dir:%s:%s" % (tmp_path / "own", tmp_path / "secrets"), 0)
    assert drives.info(0)[2] == 0 and drives.info(0)[5] == other.content.key
    assert drives.read(0, "/a") == b"aaa"
    assert code_of(drives.put, 0, "/b", b"b") == code_of(drives.remove, 0, "/a") == READ_ONLY_FEED
    assert code_of(drives.import_, 0) == READ_ONLY_FEED


def test_an_owner_who_lacks_the_first_entry_writes_nothing(drives):
    """It says which content is his."""
    drives.world(0, {"a": b"a"})
    drives.open(0, "world:0", CREATE, None, SECRET)
    drives.import_(0)
    drives.feeds(0, 62)
    drives.probe.ask("clear", 62, 0, 1)
    drives.close(0)
    drives.open(0, "world:0", 0)
    assert drives.info(0)[2] == 0 and drives.info(0)[5] == b""
    assert code_of(drives.put, 0, "/b", b"b") == code_of(drives.remove, 0, "/a") == code_of(drives.import_, 0) == READ_ONLY_FEED


@pytest.mark.parametrize("path", [
    "", "/", "//", "a", "/..", "/.", "/a/..", "/../a", "/a/./b", "/a//b", "//a", "/a//", "/.dat", "/.dat/x", "/.dat/metadata.key",
    b"/\xff", b"/a/\xc0\xaf", b"/\xed\xa0\x80", b"/\xf4\x90\x80\x80", b"/a\xe2\x82",
    "/" + "x" * 4096, "/a" * 2048 + "/b"], ids=lambda p: repr(p[:12]))
def test_bad_paths_are_not_put(path, drives):
    drives.open(0, "memory", CREATE, None, SECRET)
    drives.put(0, "/a", b"a")
    assert code_of(drives.put, 0, path, b"x") == PATH
    assert code_of(drives.put, 0, path, None, FOLDER | 0o755) == PATH
    assert code_of(drives.remove, 0, path) == PATH
    assert drives.listing(0) == {"/a": 1} and drives.version(0) == 1
    assert code_of(drives.find, 0, path) in (NOT_FOUND, PATH, INVALID) or path in ("a", "//a")


@pytest.mark.parametrize("path", ["/" + "x" * 255, "/" + "/".join(["y" * 250] * 16), "/.data", "/a/.dat", "/.Dat", "/..a", "/a..",
                                  "/...", "/ ", "/a\\b", "/a:b", "/\u0001", "/\U0001f600", "/CON"], ids=lambda p: repr(p[:12]))
def test_odd_paths_are_put(path, drives):
    made = Drive(secret_key=SECRET)
    made.put(path, b"x", mtime=T0)
    drives.open(0, "memory", CREATE, None, SECRET)
    assert drives.put(0, path, b"x", mtime=T0) == 1
    drives.feeds(0, 0)
    assert drives.blocks(0) == [made.metadata.blocks[0], made.metadata.blocks[1]]
    assert drives.listing(0) == {path: 1} and drives.find(0, path).error == 0 and drives.read(0, path) == b"x"


def test_what_only_an_owner_may(drives):
    made = Drive(secret_key=SECRET)
    made.put("/a", b"a")
    drives.world(0, {"a": b"a"})
    drives.open(0, "world:0", CREATE, made.key)
    for call, args in ((drives.put, ("/b", b"b")), (drives.remove, ("/a",)), (drives.import_, ())):
        assert code_of(call, 0, *args) == READ_ONLY_FEED
    assert drives.info(0)[:3] == (0, 0, 0) and drives.info(0)[5] == b""
    assert code_of(drives.find, 0, "/a", 0) == NOT_FOUND and drives.list(0, 0) == []
    drives.close(0)
    drives.world(1, {"a": b"a"})
    drives.open(0, "world:1", CREATE, None, SECRET)
    drives.import_(0)
    drives.close(0)
    ops = drives.ops(1)
    drives.open(0, "world:1", READ_ONLY)
    for call, args in ((drives.put, ("/b", b"b")), (drives.remove, ("/a",)), (drives.import_, ())):
        assert code_of(call, 0, *args) == READ_ONLY_FEED
    drives.write(1, "a", b"A")
    ops = drives.ops(1)
    assert {c.path for c in drives.import_(0, dry=True)} == {"/a"}
    assert drives.verify(0)[1] == {"/a": CHANGED}
    drives.close(0)
    assert drives.ops(1) == ops, "it wrote"


def test_versions_beyond_the_end(drives):
    drives.open(0, "memory", CREATE, None, SECRET)
    drives.put(0, "/a", b"a")
    for version in (2, 3, 2 ** 32, 2 ** 64 - 1):
        assert code_of(drives.find, 0, "/a", version) == INVALID
        assert code_of(drives.list, 0, version) == INVALID
        assert code_of(drives.entry, 0, version) == NOT_FOUND
    assert code_of(drives.entry, 0, 0) == NOT_FOUND
    assert code_of(drives.list, 0, 1, "/none") == NOT_FOUND
    assert drives.list(0, 0) == [] and code_of(drives.list, 0, 0, "/a") == NOT_FOUND


def test_a_reader_that_fails_leaves_nothing(drives):
    """The bytes that came before are nobody's, and the drive goes on."""
    drives.open(0, "memory", CREATE, None, SECRET)
    assert drives.put(0, "/a", b"aaa") == 1
    for size in (0, 10, 65536, 200000):
        assert code_of(drives.put, 0, "/b", b"x" * size, error=driver.IO) == driver.IO
        assert drives.listing(0) == {"/a": 1}
    assert drives.put(0, "/b", b"bbb") == 2
    assert drives.read(0, "/a") == b"aaa" and drives.read(0, "/b") == b"bbb"


def test_spoilt_metadata(probe):
    """Random damage to entries: every answer is an entry or an error."""
    rng, drives = random.Random(SEED), Drives(probe)
    good = (INDEX, ENTRY, NOT_FOUND, PATH, RANGE, INVALID)
    failed = 0
    for turn in range(150):
        made = Drive(secret_key=SECRET)
        for _ in range(rng.randint(3, 12)):
            made.put("/%s/%s" % (rng.choice("ab"), rng.choice("xyz")), b"")
        blocks = {i: bytearray(made.metadata.blocks[i]) for i in range(made.metadata.length)}
        spoilt = Drive(secret_key=SECRET)
        for i in range(1, len(blocks)):
            for _ in range(rng.choice([0, 0, 1, 3])):
                blocks[i][rng.randrange(len(blocks[i]))] = rng.randrange(256)
            if rng.random() < 0.1:
                del blocks[i][rng.randrange(len(blocks[i])):]
            spoilt.append(bytes(blocks[i]))
        drives.load(0, spoilt)
        for version in range(spoilt.version + 1):
            code = code_of(drives.list, 0, version)
            assert code == 0 or code in good
            failed += code != 0
            assert code_of(drives.list, 0, version, "/a", False) in (0, *good)
            for path in ("/a/x", "/b/z", "/c"):
                assert code_of(drives.find, 0, path, version) in (0, *good)
        assert code_of(drives.put, 0, "/b/x", b"1") in (0, *good)
        drives.close(0)
    assert failed > 50


# ---- what is laid out -----------------------------------------------------------------------------------

def pieces(made):
    """{content block: [(path, offset in the file, bytes)]}: all places where an entry of any version says that it lies."""
    found = {}
    for number in range(1, made.version + 1):
        entry = made.log.entry(number)
        if not entry.live or not entry.stat.is_file:
            continue
        at = 0
        for i in range(*entry.stat.range):
            found.setdefault(i, []).append((entry.name, at, made.content.blocks[i]))
            at += len(made.content.blocks[i])
    return found


def written(made):
    """{path: all contents that it had in any version}."""
    found = {}
    for number in range(1, made.version + 1):
        entry = made.log.entry(number)
        if entry.live and entry.stat.is_file:
            data = b"".join(made.content.blocks[i] for i in range(*entry.stat.range))
            found.setdefault(entry.name[1:], set()).add(data)
    return found


def load_feed(found):
    """A feed's files as dat.sleep has them; None if it was cut off while it was made."""
    if len(found.get("key", b"")) < 32 or any(len(found.get(p, b"")) < 32 for p in ("tree", "signatures", "bitfield")):
        return None
    return sleep.load(found)


def sound(drives, w, made, own=None):
    """What lies in a reader's world: nothing is claimed that is not there, and no file is other than a whole one of some
    version, or the user's own ({path: bytes}), which he may have changed after it was claimed."""
    things, allowed = drives.dump(w), written(made)
    for path, thing in things.items():
        if path.startswith(".dat") or not thing.mode & FILE == FILE or thing.mode & SYMLINK == SYMLINK:
            continue
        assert thing.data in allowed.get(path, ()) or (own or {}).get(path) == thing.data, \
            "%s is neither an old nor a new version: %d bytes" % (path, len(thing.data))
    for path, data in (own or {}).items():
        assert path in things and things[path].data == data, "the user's %s is lost" % path
    metadata = load_feed(drives.feed_files(w, "metadata"))
    for i in metadata.bitfield if metadata else ():  # a page of it may be torn; the bytes must be there
        start = made.metadata.tree.byte_offset(i)
        data = drives.feed_files(w, "metadata")["data"][start:start + len(made.metadata.blocks[i])]
        assert data == made.metadata.blocks[i], "metadata block %d" % i
    content, places = load_feed(drives.feed_files(w, "content")), pieces(made)
    for i in content.bitfield if content and ".dat/content.data" not in things else ():
        assert any(path[1:] in things and (path[1:] in (own or ()) or things[path[1:]].data[at:at + len(data)] == data)
                   for path, at, data in places.get(i, ())), "block %d is claimed and is not in its file" % i


class Source:
    """A drive of dat.drive that is served by drive 0, and a clone of it: drive 1 in a world."""

    def __init__(self, drives, made):
        self.drives, self.made = drives, made
        drives.load(0, made)
        drives.share(0, BOTH)

    def pull(self, w=1, flags=CREATE, force=False, version=0, select=None, fails=False, counted=False):
        """The events of a pull: ({path: error} of what was refused, the others)."""
        drives = self.drives
        drives.extend(0, self.made)
        drives.open(1, "world:%d" % w, flags, self.made.key, counted=counted)
        drives.layout(1, version, force, select)
        drives.share(1, BOTH, 0)
        told = drives.run(1)
        events, self.came = drives.events(1)
        self.laid_out = drives.info(1)[1]
        drives.unshare(1)
        drives.close(1)
        assert fails is None or told != fails, events
        if told:
            end = [e for e in events if e.type == EV_VERSION][-1]
            assert end.index == (version or self.made.version)
            assert end.size == len([e for e in events if e.type == EV_REFUSED])
        return {e.path: e.error for e in events if e.type == EV_REFUSED}, events


def small(made, path, data, size=10, **options):
    """A file of many small blocks."""
    return made.put(path, blocks=[data[i:i + size] for i in range(0, len(data), size)], mtime=T0 + 5000 * made.version, **options)


def expected_files(made, version=None, **other):
    files = {p[1:]: d for p, d in made.files(version).items()}
    files.update(other)
    return {p: d for p, d in files.items() if d is not None}


def only_files(drives, w):
    return {p: d for p, d in drives.files(w).items() if d is not None}


@pytest.fixture
def source(drives):
    made = Drive(secret_key=SECRET)
    for name in "abcdefgh":
        small(made, "/" + name, b"%s of version one, " % name.encode() * 3)
    small(made, "/sub/deep/x", b"x" * 25)
    small(made, "/sub/y", b"y" * 25)
    made.put("/sub/empty", b"", mtime=T0)
    drives.world(1)
    return Source(drives, made)


@contextlib.contextmanager
def laying_out(drives, made, most):
    """Drive 1, whose first file is laid aside, and which nobody gives anything any more; its feeds are 1 and 2. Yields
    what gives it a block of the content."""
    source = Source(drives, made)
    drives.world(1)
    drives.open(1, "world:1", CREATE, made.key)
    drives.share(1, driver.BOTH, 0)
    while not any(path.startswith(".dat/partial/") for path in drives.dump(1)):
        assert not drives.run(1, most=most)
    drives.unshare(0)
    drives.feeds(1, 1, 2)
    yield source, lambda index: drives.probe.ask("give", 2, 63, 0, index)
    drives.unshare(1)
    drives.close(1)


def test_a_block_that_comes_is_read_where_it_is_now(drives):
    """What was read ahead while it was missing held a hole in its place."""
    made = Drive(secret_key=SECRET)
    small(made, "/long", random.Random(1).randbytes(16000), 40)
    with laying_out(drives, made, 5) as (source, give):
        for came in (*range(1, 10), 15):
            give(came)
        for index in (7, 8):
            assert drives.probe.bytes("get", 2, index) == source.made.content.blocks[index]
        give(10)
        assert drives.probe.bytes("get", 2, 10) == source.made.content.blocks[10]


@pytest.mark.parametrize("empty", range(5))
def test_a_block_that_comes_is_read_beside_empty_files(empty, drives):
    """Which have a place among the bytes, and none of their own."""
    made = Drive(secret_key=SECRET)
    for i in range(5):
        if i == empty:
            made.put("/none", b"", mtime=T0)
        small(made, "/%d" % i, b"%d" % i * 25)
    with laying_out(drives, made, 1) as (source, give):
        for came in range(14, -1, -1):
            give(came)
            assert drives.probe.bytes("get", 2, came) == source.made.content.blocks[came]


def test_clone(source, drives):
    refused, events = source.pull()
    assert refused == {} and only_files(drives, 1) == expected_files(source.made)
    assert {e.path for e in events if e.type == EV_ENTRY} == set(source.made.log.listing())
    plan = next(e for e in events if e.type == EV_PLAN)
    assert (plan.index, plan.size) == (source.made.version, source.made.content.byte_length)
    assert source.laid_out == source.made.version
    for path, number in source.made.log.listing().items():
        thing, stat = drives.dump(1)[path[1:]], source.made.log.entry(number).stat
        assert (thing.mode, thing.mtime) == (stat.mode, stat.mtime)
    sound(drives, 1, source.made)
    assert not [p for p in drives.dump(1) if p.startswith(".dat/partial/")]
    assert source.pull()[0] == {} and source.came == 0


def test_a_file_that_is_deleted_upstream_while_it_comes(drives):
    """What had come of it goes, also after another beginning; the next version is laid out."""
    made = Drive(secret_key=SECRET)
    for name in ("/long", "/other"):
        small(made, name, random.Random(name).randbytes(16000), 40)
    Source(drives, made)
    drives.world(1)
    drives.open(1, "world:1", CREATE, made.key)
    drives.share(1, BOTH, 0)
    while ".dat/partial/1" not in drives.dump(1):
        assert not drives.run(1, most=5)
    drives.unshare(1)
    drives.share(1, BOTH, 0)
    assert not drives.run(1, most=20) and ".dat/partial/1" in drives.dump(1)
    made.delete("/long")
    drives.extend(0, made)
    assert drives.run(1) and only_files(drives, 1) == expected_files(made)
    assert not [path for path in drives.dump(1) if path.startswith(".dat/partial/")]
    drives.unshare(1)
    drives.close(1)


@pytest.mark.parametrize("live", [True, False])
def test_content_that_is_not_as_long_as_the_entries_say(live, drives):
    """Who goes on waits for it; else the file is refused, and the others are all that there is."""
    made = Drive(secret_key=SECRET)
    small(made, "/a", b"a" * 40)
    small(made, "/b", b"b" * 40)
    drives.open(0, "memory", CREATE, None, SECRET)
    drives.feeds(0, 62, 63)
    drives.probe.ask("append", 62, *[made.metadata.blocks[i] for i in (1, 2)])
    drives.probe.ask("append", 63, *[made.content.blocks[i] for i in range(4)])
    drives.flush(0)
    drives.share(0, BOTH)
    drives.world(1)
    drives.open(1, "world:1", CREATE, made.key)
    drives.share(1, BOTH, 0, live=live)
    assert drives.run(1, most=10000) is not live and only_files(drives, 1) == {"a": b"a" * 40}
    assert [(e.path, e.error) for e in drives.events(1)[0] if e.type == EV_REFUSED] == [("/b", RANGE)] * (not live)
    if live:
        drives.extend(0, made)
        assert drives.run(1) and only_files(drives, 1) == expected_files(made)
    drives.unshare(1)
    drives.close(1)


def edit_all(drives):
    """What the user makes of the files a to f: {path: bytes} of those that are his now."""
    things = drives.dump(1)
    own = {"a": b"longer or shorter", "b": bytes(len(things["b"].data))}
    for path, data in own.items():
        drives.write(1, path, data)
    for path in "cdef":
        drives.delete(1, path)
    drives.write(1, "d/inside", b"mine")
    drives.link(1, "e")
    drives.write(1, "f", None)  # an empty folder
    drives.write(1, "g", things["g"].data, mtime=T0 + 999999)  # only touched
    return {**own, "d/inside": b"mine"}


@pytest.mark.parametrize("upstream", [False, True])
def test_local_changes_are_kept_and_named(upstream, source, drives):
    source.pull()
    own = edit_all(drives)
    for name in "abcdefg" if upstream else ():
        small(source.made, "/" + name, b"%s of version two. " % name.encode() * 4)
    small(source.made, "/new", b"new")
    refused, _ = source.pull()
    assert refused == {"/a": CHANGED, "/b": CHANGED, "/d": IS_FOLDER, "/e": LINK}
    things = drives.dump(1)
    assert things["e"].mode & SYMLINK == SYMLINK
    for path in "cfgh":
        assert things[path].data == source.made.file("/" + path), path
    assert things["new"].data == b"new" and things["d"].mode & FOLDER
    sound(drives, 1, source.made, own)
    drives.open(0 + 2, "world:1", 0)
    assert drives.verify(2)[1].keys() >= {"/a", "/b"}
    drives.feeds(2, 2, 3)
    held = driver.members(drives.probe.ask("held", 3))
    for path in "abde":
        assert held.isdisjoint(range(*source.made.log.find("/" + path).stat.range)), "what is not here is claimed"
    drives.close(2)


@pytest.mark.parametrize("upstream", [False, True])
def test_force(upstream, source, drives):
    source.pull()
    own = edit_all(drives)
    for name in "abcdefg" if upstream else ():
        small(source.made, "/" + name, b"%s of version two. " % name.encode() * 4)
    refused, _ = source.pull(force=True)
    assert refused == {"/d": IS_FOLDER, "/e": LINK}
    things = drives.dump(1)
    for path in "abcfgh":
        assert things[path].data == source.made.file("/" + path), path
    assert things["e"].mode & SYMLINK == SYMLINK
    sound(drives, 1, source.made, {"d/inside": own["d/inside"]})


@pytest.mark.parametrize("force", [False, True])
def test_deleted_upstream(force, source, drives):
    source.pull()
    own = edit_all(drives)
    for path in sorted(source.made.log.listing()):
        source.made.delete(path)
    refused, events = source.pull(force=force)
    assert refused["/d"] in (IS_FOLDER, CHANGED)
    assert drives.dump(1)["e"].mode & SYMLINK == SYMLINK, "the user's link was deleted"
    assert refused["/e"] in (LINK, CHANGED)
    assert {p: e for p, e in refused.items() if p in ("/a", "/b")} == ({} if force else {"/a": CHANGED, "/b": CHANGED})
    assert set(refused) - {"/a", "/b", "/d", "/e", "/f"} == set()
    removed = {e.path for e in events if e.type == EV_REMOVED}
    assert removed == {"/g", "/h", "/sub/deep/x", "/sub/y", "/sub/empty"} | ({"/a", "/b"} if force else set())
    kept = {} if force else {p: own[p] for p in "ab"}
    assert {p: d for p, d in drives.files(1).items() if p not in ("e", "f")} == {**kept, "d": None, "d/inside": b"mine"}
    sound(drives, 1, source.made, {**kept, "d/inside": b"mine"})


def test_a_deletion_that_loses_others_while_the_drive_is_open(drives):
    """The deployed code's index forgets /a/b/x with /a/c: no file is deleted for that, though an earlier deletion was right."""
    made = Drive(secret_key=SECRET, deployed=True)
    for path in ("/a/b/x", "/a/b/y", "/a/c"):
        made.put(path, path.encode(), mtime=T0)
    drives.load(0, made)
    drives.share(0, BOTH)
    drives.world(1)
    drives.open(1, "world:1", CREATE, made.key)
    drives.share(1, BOTH, 0)
    left = expected_files(made)
    assert drives.run(1) and only_files(drives, 1) == left
    for told, path in ((2, "a/b/y"), (3, "a/c")):
        made.delete("/" + path)
        drives.extend(0, made)
        del left[path]
        assert drives.run(1, told) and only_files(drives, 1) == left
    assert made.log.listing() == {}
    drives.unshare(1)
    drives.close(1)


@pytest.mark.parametrize("order", ["deleted-first", "put-first"])
def test_folder_and_file_change_places_upstream(order, source, drives):
    source.pull()
    made = source.made

    def delete():
        for path in ("/sub/deep/x", "/sub/y", "/sub/empty", "/a"):
            made.delete(path)
    if order == "deleted-first":
        delete()
    small(made, "/sub", b"a file now")
    small(made, "/a/b/c", b"in a folder now")
    if order == "put-first":
        delete()
    assert source.pull()[0] == {}
    assert only_files(drives, 1) == expected_files(made)
    sound(drives, 1, made)
    made.delete("/sub")
    made.delete("/a/b/c")
    small(made, "/sub/again", b"a folder again")
    small(made, "/a", b"a file again")
    assert source.pull()[0] == {}
    assert only_files(drives, 1) == expected_files(made)
    sound(drives, 1, made)


def test_a_folder_whose_files_the_user_deleted_is_not_in_the_way(source, drives):
    """Upstream deletes the rest of it, and a file comes in its place: folders that are empty go."""
    source.pull()
    drives.delete(1, "sub/deep/x")
    for path in ("/sub/deep/x", "/sub/y", "/sub/empty"):
        source.made.delete(path)
    small(source.made, "/sub", b"a file now")
    assert source.pull()[0] == {}
    assert only_files(drives, 1) == expected_files(source.made)


@pytest.mark.parametrize("what, force, refused", [
    ("file", False, {"/sub/deep/x": NOT_FOLDER, "/sub/deep/w": NOT_FOLDER}), ("file", True, {}),
    ("link", False, {"/sub/deep/x": LINK, "/sub/deep/w": LINK}), ("link", True, {"/sub/deep/x": LINK, "/sub/deep/w": LINK})])
def test_what_stands_where_a_folder_must_be(what, force, refused, source, drives):
    """A file of the user's own goes only by force, a link never; what lies beside it comes all the same."""
    source.pull()
    drives.delete(1, "sub/deep")
    if what == "file":
        drives.write(1, "sub/deep", b"my own")
    else:
        drives.link(1, "sub/deep")
    for path in ("/sub/deep/x", "/sub/deep/w", "/sub/y"):
        small(source.made, path, b"%s of version two" % path.encode())
    told, events = source.pull(force=force)
    assert told == refused
    things = drives.dump(1)
    assert things["sub/y"].data == source.made.file("/sub/y")
    if refused:
        assert things["sub/deep"].data == (b"my own" if what == "file" else b"")
    else:
        assert only_files(drives, 1) == expected_files(source.made)
        assert "/sub/deep" in {e.path for e in events if e.type == EV_REMOVED}


def test_a_folder_on_the_way_that_cannot_be_looked_at(source, drives):
    """That is what is told of the file, not that something else stood there; which is kept."""
    source.pull()
    drives.delete(1, "sub/deep")
    drives.write(1, "sub/deep", b"my own")
    small(source.made, "/sub/deep/x", b"of version two")
    told, left, n = [], 0, 1
    while not left:
        n += 1
        drives.fail(1, "stat", n, ACCESS)
        told.append(source.pull()[0])
        left = drives.fail(1, "stat", 0)
        assert drives.files(1)["sub/deep"] == b"my own"
    assert told[-3:] == [{"/sub/deep/x": ACCESS}] * 2 + [{"/sub/deep/x": NOT_FOLDER}]


def test_a_folder_that_is_gone_when_the_file_comes_into_its_place(source, drives):
    """It is made again."""
    source.pull()
    for n in range(1, 6):
        for path in ("/sub/deep/x", "/sub/y", "/a"):
            small(source.made, path, b"%s, the %d." % (path.encode(), n))
        drives.fail(1, "rename", n, NO_ENTRY)
        assert source.pull()[0] == {} and only_files(drives, 1) == expected_files(source.made)
        drives.fail(1, "rename", 0)


def half(drives, source, path, here):
    """What the deployed clone leaves that is stopped: it writes into the files themselves, and claims what it wrote."""
    source.pull()
    stat = source.made.log.find(path).stat
    drives.open(2, "world:1", 0)
    drives.feeds(2, 2, 3)
    data = drives.dump(1)[path[1:]].data
    for i in set(range(stat.blocks)) - set(here):
        drives.probe.ask("claim", 3, stat.offset + i, stat.offset + i + 1, 0)
        data = data[:10 * i] + bytes(10) + data[10 * i + 10:]
    drives.flush(2)
    drives.close(2)
    drives.delete(1, ".dat/metadata.latest")
    return data[:len(source.made.file(path))]


@pytest.mark.parametrize("here, change, kept", [
    ({0, 2}, None, False), ({3}, None, False), ({0, 1, 3}, None, False), ({1}, lambda d: d[:20], False),
    ({0, 1}, lambda d: d[:20], False), ({1}, lambda d: d[:20] + b"\0" * 9 + b"x" + d[30:], True),
    ({1}, lambda d: b"x" + d[1:], True), ({1}, lambda d: d + b"\0", True), ({1}, lambda d: d[:10] + b"x" * 10 + d[20:], True),
    ({1, 2}, lambda d: d[:-1] + b"x", True)])
def test_a_file_that_the_deployed_clone_left_half(here, change, kept, source, drives):
    """Blocks that are claimed lie in their places, and nothing but zeros elsewhere: it is gone on with. Else it is the user's."""
    small(source.made, "/half", bytes(range(65, 65 + 45)))
    data = half(drives, source, "/half", here)
    own = change(data) if change else data
    drives.write(1, "half", own)
    refused, _ = source.pull()
    assert refused == ({"/half": CHANGED} if kept else {})
    assert drives.files(1)["half"] == (own if kept else source.made.file("/half"))
    if not kept:
        assert source.came == 5 - len(here)
    sound(drives, 1, source.made, {"half": own} if kept else None)


@pytest.mark.parametrize("here", [{0, 2}, {2, 3}], ids=str)
def test_a_half_file_that_cannot_be_read(here, source, drives):
    """Whichever of the reads fails, it stays as it is and is refused, or it is gone on with."""
    small(source.made, "/half", bytes(range(65, 65 + 45)))
    own, refused, left, n = half(drives, source, "/half", here), 0, 0, 0
    drives.write(1, "half", own)
    drives.cut(1, 9, 1 << 40)
    while not left:
        n += 1
        drives.cut(9, 1, 1 << 40)
        drives.fail(1, "read", n, ACCESS)
        told, _ = source.pull()
        left = drives.fail(1, "read", 0)
        assert drives.files(1)["half"] == (own if told else source.made.file("/half"))
        assert told == {} or told["/half"] in (ACCESS, CHANGED)
        refused += bool(told)
    assert 3 < refused < n - 1


def test_verify_tells_what_is_left_half_from_what_is_false(source, drives):
    """Of a file that the deployed clone left half, a block that is claimed is not what was signed, and the last one is."""
    small(source.made, "/half", bytes(range(65, 65 + 45)))
    data = half(drives, source, "/half", {0, 1})
    for own, expected in ((data, PARTIAL), (b"x" + data[1:], CHANGED)):
        drives.write(1, "half", own)
        drives.open(1, "world:1", driver.READ_ONLY)
        assert drives.verify(1)[1] == {"/half": expected}
        drives.close(1)


def test_verify_offers_what_is_right_and_nothing_else(source, drives):
    made = source.made
    source.pull()
    good, whole = drives.files(1), {p: set(range(*made.log.find(p).stat.range)) for p in made.log.listing()}
    drives.write(1, "b", good["b"][:-1] + b"!", mtime=drives.dump(1)["b"].mtime)  # its other blocks are right
    drives.delete(1, "d")
    drives.write(1, "d", None)
    drives.delete(1, "e")
    drives.link(1, "e")
    wrong = {"/b": CHANGED, "/d": IS_FOLDER, "/e": LINK}
    drives.open(1, "world:1", 0)
    drives.feeds(1, 1, 2)
    for bad in (wrong, {}):
        assert drives.verify(1) == (len(whole) - len(bad), bad)
        assert driver.members(drives.probe.ask("held", 2)) == set().union(*(whole[p] for p in whole if p not in bad))
        for path in bad:
            drives.delete(1, path[1:])
            drives.write(1, path[1:], good[path[1:]])
    drives.close(1)
    assert drives.verify(0) == (len(whole), {})  # without a tree


@pytest.mark.valgrind
def test_an_old_entry_that_does_not_decode(drives):
    """It is in the way of nothing: what other versions of a file were is known all the same."""
    made = Drive(secret_key=SECRET)
    for path, text in (("/a", b"one"), ("/a", b"two"), ("/b", b"one"), ("/b", b"two")):
        small(made, path, path.encode() + text * 9)
    spoilt = Drive(secret_key=SECRET)
    spoilt.content = made.content
    for i in range(1, made.metadata.length):
        spoilt.append(b"\xff\xff\xff" if i == 1 else made.metadata.blocks[i])
    drives.world(1, {"a": b"mine"})
    source = Source(drives, spoilt)
    for version, text in ((3, b"one"), (0, b"two")):
        assert source.pull(version=version)[0] == {"/a": CHANGED}
        assert drives.files(1) == {"a": b"mine", "b": b"/b" + text * 9}


def test_modes(source, drives):
    """Neither setuid nor sticky; what nobody could read is readable."""
    modes_of = {0o4755: 0o755, 0o2755: 0o755, 0o1777: 0o777, 0o0: 0o644, 0o200: 0o600, 0o111: 0o511, 0o444: 0o444, 0o600: 0o600}
    for mode in modes_of:
        small(source.made, "/m%o" % mode, b"m" * 15, mode=FILE | mode)
        source.made.mkdir("/d%o" % mode, mode=FOLDER | mode, mtime=T0)
    assert source.pull()[0] == {}
    things = drives.dump(1)
    for mode, laid_out in modes_of.items():
        assert things["m%o" % mode].mode == FILE | laid_out, oct(mode)
        assert things["d%o" % mode].mode & 0o7700 == 0o700, oct(mode)
    assert source.pull()[0] == {}
    assert source.came == 0
    for mode in modes_of:
        small(source.made, "/m%o" % mode, b"n" * 25, mode=FILE | mode)
    assert source.pull()[0] == {}
    assert all(drives.dump(1)["m%o" % mode].data == b"n" * 25 for mode in modes_of)


def test_empty_files_and_folders(source, drives):
    made = source.made
    made.put("/none", b"", mtime=T0)
    made.mkdir("/hollow/inner", mtime=T0)
    made.mkdir("/sub", mtime=T0)
    assert source.pull()[0] == {}
    assert drives.files(1)["none"] == b"" and drives.files(1)["hollow/inner"] is None
    made.delete("/hollow/inner")
    made.delete("/none")
    assert source.pull()[0] == {}
    assert not drives.files(1).keys() & {"none", "hollow/inner", "hollow"}
    assert only_files(drives, 1) == expected_files(made)


def test_what_a_version_that_never_came_was_to_replace_is_deleted(source, drives):
    """The next one has no such file: what is there is of the version before both, and nobody's change."""
    made = source.made
    source.pull()
    small(made, "/a", b"a of version two")
    drives.extend(0, made)
    drives.open(1, "world:1", CREATE, made.key)
    drives.share(1, BOTH, 0)
    while drives.info(1)[1] < made.version:
        assert not drives.run(1, most=5)
    drives.unshare(1)
    drives.close(1)
    assert drives.files(1)["a"] == made.files(made.version - 1)["/a"]
    made.delete("/a")
    assert source.pull()[0] == {} and only_files(drives, 1) == expected_files(made)


def test_a_new_folder_is_synced_before_its_version_is_told(source, drives):
    """Where nothing else is new either."""
    source.pull()
    left, n = 0, 0
    while not left:
        n += 1
        source.made.mkdir("/%d" % n, mtime=T0)
        drives.fail(1, "sync", n, IO)
        events = source.pull(fails=None)[1]
        left = drives.fail(1, "sync", 0)
        assert [e.error for e in events if e.type in (EV_FAILED, EV_VERSION)] == [0 if left else IO], n
    assert n > 2


def test_select(source, drives):
    refused, events = source.pull(select="/sub")
    assert refused == {} and only_files(drives, 1) == {p: d for p, d in expected_files(source.made).items() if p.startswith("sub")}
    plan = next(e for e in events if e.type == EV_PLAN)
    assert plan.size == 50
    drives.open(2, "world:1", 0)
    drives.feeds(2, 2, 3)
    held = driver.members(drives.probe.ask("held", 3))
    assert held == {i for p, n in source.made.log.listing().items() if p.startswith("/sub")
                    for i in range(*source.made.log.entry(n).stat.range)}
    drives.close(2)
    assert source.pull()[0] == {} and only_files(drives, 1) == expected_files(source.made)


def test_checkout_of_every_version(source, drives):
    made = source.made
    small(made, "/a", b"a of version two")
    made.delete("/sub/y")
    small(made, "/b/c/d", b"d")  # beside the file b, which goes next
    made.delete("/b")
    small(made, "/a", b"a of version three")
    versions = [v for v in range(1, made.version + 1) if not made.log.listing(v).keys() >= {"/b", "/b/c/d"}]
    rng = random.Random(SEED)
    for version in [*versions, *rng.sample(versions, len(versions)), 0]:
        assert source.pull(version=version)[0] == {}, version
        assert only_files(drives, 1) == expected_files(made, version or None), version
        assert source.laid_out == (version or made.version)
        sound(drives, 1, made)
    source.pull(version=made.version + 1, fails=True)


def test_archive_keeps_the_history(source, drives):
    made = source.made
    small(made, "/a", b"a of version two")
    made.delete("/b")
    assert source.pull(flags=CREATE | ARCHIVE)[0] == {}
    small(made, "/a", b"a of version three, which is longer")
    assert source.pull()[0] == {}
    assert only_files(drives, 1) == expected_files(made)
    drives.write(1, "a", b"spoilt")
    drives.delete(1, "c")
    drives.open(2, "world:1", READ_ONLY)
    assert drives.info(2)[3] == 1
    for version in range(1, made.version + 1):
        for path, data in made.files(version).items():
            assert drives.read(2, path, version) == data
    drives.close(2)
    assert source.pull()[0] == {"/a": CHANGED} and drives.files(1)["c"] == made.file("/c")


def test_entries_that_share_their_content(source, drives):
    made = source.made
    made.put_stat("/copy of a", made.log.find("/a").stat)
    made.put_stat("/sub/copy of a", made.log.find("/a").stat)
    assert source.pull()[0] == {}
    assert only_files(drives, 1) == expected_files(made)
    sound(drives, 1, made)
    made.delete("/a")
    assert source.pull()[0] == {} and only_files(drives, 1) == expected_files(made)
    sound(drives, 1, made)
    made.put_stat("/third", made.log.find("/sub/copy of a").stat)
    made.delete("/copy of a")
    assert source.pull()[0] == {} and only_files(drives, 1) == expected_files(made)
    sound(drives, 1, made)
    drives.open(2, "world:1", 0)
    assert drives.verify(2) == (len(made.log.listing()), {})
    drives.close(2)


@pytest.mark.parametrize("lie", [
    dict(byteOffset=1), dict(byteOffset=10 ** 6), dict(size=11), dict(size=9), dict(size=10 ** 6), dict(blocks=0), dict(blocks=2),
    dict(offset=0, byteOffset=10), dict(blocks=1000), dict(offset=10 ** 6)])
def test_offset_and_size_that_lie(lie, source, drives):
    """The entry is refused, all others are laid out."""
    made = source.made
    small(made, "/true", b"0123456789")
    stat = made.log.find("/true").stat
    values = {f.name: stat.read(f.name) for f in Stat.FIELDS}
    values.update(lie)
    made.put_stat("/false", Stat(**values))
    small(made, "/later", b"later" * 5)
    good = expected_files_without(made, "/false")
    drives.probe.ask("drive.unshare", 0)
    drives.share(0, BOTH, live=False)  # so that it is known that nothing more is to come
    drives.extend(0, made)
    drives.open(1, "world:1", CREATE, made.key)
    drives.share(1, BOTH, 0, live=False)
    assert drives.run(1)
    refused = {e.path for e in drives.events(1)[0] if e.type == EV_REFUSED}
    drives.unshare(1)
    drives.close(1)
    assert refused == {"/false"}
    assert only_files(drives, 1) == good


def expected_files_without(made, bad):
    found = {}
    for path, number in made.log.listing().items():
        if path != bad:
            found[path[1:]] = b"".join(made.content.blocks[i] for i in range(*made.log.entry(number).stat.range))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_random_pulls(seed, drives):
    """A drive that changes, a clone that follows, at times with what its user did to it."""
    rng, made = random.Random(SEED + seed), Drive(secret_key=SECRET)
    small(made, "/first", b"first")
    drives.world(1)
    source = Source(drives, made)
    for turn in range(8):
        for _ in range(rng.choice([1, 4, 15])):
            listing = made.log.listing()
            path = "".join("/" + rng.choice("abc") for _ in range(rng.randint(1, 3)))
            if listing and rng.random() < 0.35:
                made.delete(rng.choice(sorted(listing)))
                continue
            for other in sorted(listing):  # a file or a folder
                if other.startswith(path + "/") or path.startswith(other + "/"):
                    made.delete(other)
            small(made, path, rng.randbytes(rng.choice([0, 3, 10, 35, 90])))
        own = {}
        if rng.random() < 0.5:
            own = {"mine %d" % turn: b"mine"}
            drives.write(1, "mine %d" % turn, b"mine")
            there = [p for p, d in drives.files(1).items() if d is not None and not p.startswith("mine")]
            for path in rng.sample(there, min(len(there), 2)):
                drives.delete(1, path)
        assert source.pull()[0] == {}
        mine = {p: d for p, d in only_files(drives, 1).items() if p.startswith("mine")}
        assert {p: d for p, d in only_files(drives, 1).items() if p not in mine} == expected_files(made)
        assert own.keys() <= mine.keys()
        sound(drives, 1, made, mine)


def test_a_file_that_is_away_is_looked_at_again_each_minute(source, drives):
    """Told once when it is not served, and again when it is; so is one with another time, which is read first."""
    source.pull()
    things = drives.dump(1)
    path, other = "a", "sub/y"
    drives.delete(1, path)
    drives.delete(1, "h")
    drives.write(1, other, things[other].data, things[other].mode, things[other].mtime + 5000)
    drives.open(1, "world:1", 0)
    drives.share(1, UPLOAD)
    drives.run(1, 99, 2000)
    assert [(e.type, e.path, e.error) for e in drives.events(1)[0] if e.type >= EV_AWAY] == [
        (EV_AWAY, "/" + path, NO_ENTRY), (EV_AWAY, "/h", NO_ENTRY)]
    drives.write(1, path, things[path].data, things[path].mode, things[path].mtime)
    drives.run(1, 99, 50000)
    assert not [e for e in drives.events(1)[0] if e.type >= EV_AWAY]
    drives.run(1, 99, 20000)
    assert [(e.type, e.path) for e in drives.events(1)[0] if e.type >= EV_AWAY] == [(EV_BACK, "/" + path)]
    drives.calls(1)
    drives.run(1, 99, 40000)
    assert drives.calls(1)[1]["stat"] == 0
    drives.run(1, 99, 20000)
    assert drives.calls(1)[1]["stat"] == 1  # /h is away still
    drives.unshare(1)
    drives.close(1)


@pytest.mark.parametrize("kind", ["open", "read", "stat"])
def test_a_file_with_another_time_that_cannot_be_read_is_away(kind, source, drives):
    """Whichever call it is by which a share would know that it is the same file. Until the next look, a minute later."""
    source.pull()
    blocks = set(range(*source.made.log.find("/sub/y").stat.range))
    thing = drives.dump(1)["sub/y"]
    drives.write(1, "sub/y", thing.data, thing.mode, thing.mtime + 5000)
    left, n = 0, 0
    while not left:
        n += 1
        drives.open(1, "world:1", 0)
        drives.share(1, UPLOAD)
        drives.fail(1, kind, n, ACCESS)
        drives.run(1, 99, 200)
        left = drives.fail(1, kind, 0)
        told = [(e.path, e.error) for e in drives.events(1)[0] if e.type == EV_AWAY]
        assert told == ([] if left else [("/sub/y", ACCESS)])
        drives.feeds(1, 1, 2)
        offered = driver.members(drives.probe.ask("held", 2)) & blocks
        if not left and kind == "read":  # of a file that was opened, what could be read is given
            assert 0 < len(offered) < len(blocks)
        else:
            assert offered == (blocks if left else set())
            drives.run(1, 99, 70000)  # it is looked at again: nothing was wrong with its bytes
            assert [e.path for e in drives.events(1)[0] if e.type == EV_BACK] == ([] if left else ["/sub/y"])
            assert driver.members(drives.probe.ask("held", 2)) & blocks == blocks
        thing = drives.dump(1)["sub/y"]
        drives.unshare(1)
        drives.close(1)
        drives.write(1, "sub/y", thing.data, thing.mode, thing.mtime + 5000)  # its time was put right
    assert n > 1


def test_memory_that_ends_while_a_share_looks_at_its_files(source, drives):
    """It is told, whichever allocation it is."""
    source.pull()
    thing = drives.dump(1)["sub/y"]
    drives.write(1, "sub/y", thing.data, thing.mode, thing.mtime + 5000)
    left, n = 0, 0
    while not left:
        n += 1
        drives.open(1, "world:1", 0, counted=True)
        drives.share(1, UPLOAD, counted=True)
        drives.probe.ask("memory-fail", n)
        drives.run(1, 99, 200)
        left = drives.probe.number("memory-fail", 0)
        assert [e.error for e in drives.events(1)[0] if e.type == EV_FAILED] == ([] if left else [NOMEM]), n
        drives.unshare(1)
        drives.close(1)
    assert n > 2
