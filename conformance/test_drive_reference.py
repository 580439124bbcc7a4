"""The suite's own drives (dat/drive.py) held against vectors/drives.json and vectors/drives/.

They were recorded from hyperdrive 9.16, append-tree 2.4 and dat-storage 1.1, and by dat 13.
"""

import hashlib
import json
import os
import random
import shutil

import pytest

from dat import drive, peer, sodium, wire
from dat.content import VECTORS, content
from dat.drive import BadIndex, Drive, DriveError, Log, Node, NotFound, Stat


def load(name):
    with open(os.path.join(VECTORS, name), encoding="utf-8") as file:
        return json.load(file)


VECTOR, FOLDERS = load("drives.json"), load("drives/index.json")
HISTORIES = {h["id"]: h for h in VECTOR["histories"]}
BYTES = ("content", "value", "paths")


def fields(message):
    return {name: value.hex() if name in BYTES else value
            for name, value in vars(message).items() if value is not None}


def ids(entries, name="id"):
    return {"argvalues": entries, "ids": [e[name] for e in entries]}


# ---- messages and indexes -------------------------------------------------------------------------

@pytest.mark.parametrize("case", **ids(VECTOR["codecs"]))
def test_message(case):
    type, data = getattr(drive, case["type"]), bytes.fromhex(case["hex"])
    if case["result"] == "invalid":
        with pytest.raises(wire.CodecError):
            type.decode(data)
    elif case["result"] == "valid":
        message = type.decode(data)
        assert fields(message) == case["fields"]
        again = type(**{k: bytes.fromhex(v) if k in BYTES else v for k, v in case["fields"].items()})
        assert again == message and type.decode(again.encode()) == message
        if "jsValue" not in case:  # JS wrote it
            assert again.encode() == data
    else:
        try:
            assert fields(type.decode(data)) == case.get("fields", fields(type.decode(data)))
        except wire.CodecError:
            pass


@pytest.mark.parametrize("case", **ids(VECTOR["indexes"]))
def test_index(case):
    data = bytes.fromhex(case["hex"])
    if case["result"] == "invalid":
        with pytest.raises(BadIndex):
            drive.inflate(case["number"], data)
        return
    assert drive.inflate(case["number"], data) == case["index"]
    if case["result"] == "valid":
        assert drive.deflate(case["number"], case["index"]) == data


def test_index_cut_anywhere_is_bad_or_shorter():
    for case in VECTOR["indexes"]:
        whole = bytes.fromhex(case["hex"])
        for end in range(len(whole) if case["result"] == "valid" else 0):
            try:
                index = drive.inflate(case["number"], whole[:end])
            except BadIndex:
                continue
            assert index == case["index"][:len(index)]  # cut between two lists


# ---- histories ------------------------------------------------------------------------------------

def stat_of(op, kind, log_content):
    offset, start = log_content
    data = data_of(op)
    folder = kind == "mkdir"
    blocks = None if folder else -(-len(data) // drive.BLOCK_BYTES)
    return Stat(op["mode"] | (drive.FOLDER if folder else drive.FILE), op.get("uid"), op.get("gid"),
                None if folder else len(data), blocks, offset, start, op["mtime"], op["ctime"])


def data_of(op):
    if "seed" in op:
        return content(op["seed"], 0, op["size"])
    return bytes.fromhex(op.get("hex", ""))


def replay(history, deployed=True):
    """The same ops on a drive of our own: (the drive, the paths that should be there)."""
    made = Drive(secret_key=bytes.fromhex(history["secretKey"]), deployed=deployed)
    there = {}
    for op in history["ops"]:
        op = {**history.get("defaults", {}), **op}
        if op["op"] == "del":
            made.delete(op["path"])
            there.pop(op["path"], None)
        elif op["op"] == "put":
            there[op["path"]] = made.put(op["path"], data_of(op), op["mode"] | drive.FILE, op["mtime"],
                                         op["ctime"], op["uid"], op["gid"])
        else:
            there[op["path"]] = made.mkdir(op["path"], op["mode"] | drive.FOLDER, op["mtime"], op["ctime"])
    return made, there


@pytest.mark.parametrize("history", **ids(VECTOR["histories"]))
def test_history_is_written_as_recorded(history):
    made, there = replay(history)
    assert made.key.hex() == history["key"] and made.content.key.hex() == history["contentKey"]
    assert made.content.length == history["contentLength"]
    assert made.content.byte_length == history["contentByteLength"]
    blocks = [made.metadata.blocks[i] for i in range(made.metadata.length)]
    if "blocks" in history:
        assert [b.hex() for b in blocks] == history["blocks"]
    else:
        assert [hashlib.sha256(b).hexdigest()[:16] for b in blocks] == history["hashes"]
    assert (made.log.listing() == there) == ("Lost" not in history["flags"])
    assert made.audit() == []


@pytest.mark.parametrize("history", **ids(VECTOR["histories"]))
def test_every_version_reads_as_recorded(history):
    made, _ = replay(history)
    if "blocks" in history:
        log = Log([bytes.fromhex(b) for b in history["blocks"]])
        assert log.content_key().hex() == history["contentKey"]
        for version, listing in enumerate(history["versions"], 1):
            assert log.listing(version) == listing
            for path, number in listing.items():
                assert log.find(path, version).number == number
                folder, _, name = path.rpartition("/")
                assert name in log.list(folder or "/", version)
        assert log.listing(0) == {} and log.list("/", 0) == []
    else:
        log = made.log
        for version, expected in history["listings"].items():
            lines = "".join("%d %s\n" % (n, p)
                            for p, n in sorted(log.listing(int(version)).items(), key=lambda e: e[::-1]))
            assert hashlib.sha256(lines.encode()).hexdigest() == expected
    for path, number in history["lookups"].items():
        if number is None:
            with pytest.raises(NotFound):
                log.find(path)
        else:
            assert log.find(path).number == number
    changes = [("del" if op["op"] == "del" else "put", op["path"]) for op in history["ops"]]
    assert [(kind, path) for _, kind, path in log.history()] == changes


@pytest.mark.parametrize("history", **ids(VECTOR["histories"]))
def test_deletions_that_lose_nothing(history):
    made, there = replay(history, deployed=False)
    assert made.log.listing() == there
    assert made.audit() == []


def test_random_histories_lose_nothing():
    rng = random.Random(20190102)
    for _ in range(300):
        log, there = Log([drive.Index(drive.TYPE, bytes(32)).encode()]), {}
        wide, deep = rng.randint(2, 4), rng.randint(1, 5)
        for _ in range(rng.randint(2, 30)):
            path = "".join("/" + rng.choice("abcd"[:wide]) for _ in range(rng.randint(1, deep)))
            if there and rng.random() < 0.45:
                path = rng.choice(sorted(there)) if rng.random() < 0.9 else path
                there.pop(path, None)
                log.blocks.append(log.delete(path, deployed=False))
            else:
                there[path] = len(log.blocks)
                log.blocks.append(log.put(path, Stat(0o100644)))
            assert log.listing() == there
            assert all(log.find(p).number == n for p, n in there.items())


def test_deployed_deletion_loses_what_is_below_a_newer_deletion():
    for deployed, left in ((True, {}), (False, {"/a/b/x": 1})):
        log = Log([b""])
        for path in ("/a/b/x", "/a/b/y", "/a/c"):
            log.blocks.append(log.put(path, Stat(0o100644)))
        for path in ("/a/b/y", "/a/c"):
            log.blocks.append(log.delete(path, deployed))
        assert log.listing() == left


# ---- bad drives -----------------------------------------------------------------------------------

def entry(name, index, number, value=b"\x08\xa4\x83\x02"):
    return Node(name, value, index if isinstance(index, bytes) else drive.deflate(number, index)).encode()


@pytest.mark.parametrize("blocks, what", [
    ([entry("/a", [[2], [1]], 1)], "forward"),
    ([entry("/a", [[1], [1]], 1), entry("/b", [[1, 3], [2]], 2)], "forward"),
    ([entry("/a/x", [[1], [1], [1]], 1), entry("/b/y", [[1, 2], [1, 2], [2]], 2)], "another folder"),
    ([entry("/a", b"\x01\xff\xff\xff\xff\x0f", 1)], "bytes"),
    ([entry("/a", b"\x00\x03\x01\x00\x00", 1)], "twice"),
    ([Node("/a", b"\x08\xa4\x83\x02").encode()], "no index"),
], ids=["itself-forward", "forward", "other-folder", "endless", "twice", "none"])
def test_bad_index(blocks, what):
    log = Log([b""] + blocks)
    with pytest.raises(BadIndex, match=what):
        log.listing()
    with pytest.raises(BadIndex):
        log.find("/b/z")


def test_content_key():
    good = drive.Index(drive.TYPE, b"k" * 32)
    assert drive.content_key(good.encode()) == b"k" * 32
    for bad in (b"", b"\x00", drive.Index("hypertrie", b"k" * 32).encode(), drive.Index(drive.TYPE).encode(),
                drive.Index(drive.TYPE, b"k" * 31).encode()):
        with pytest.raises(DriveError):
            drive.content_key(bad)
    made = Drive(sodium.keypair()[0])
    with pytest.raises(DriveError):
        made.open_content()


def test_paths():
    for good in ("/a", "/a/b", "/.data", "/a/.dat", "/...", "/a b", "/a\\b", "/\u00e9", "/" + "n" * 255):
        assert drive.path_problem(good) is None, good
    for bad in ("", "a", "/", "//a", "/a/", "/a//b", "/.", "/..", "/a/../b", "/a/./b", "/a\x00b", "/.dat",
                "/.dat/metadata.key", "/.DAT/x", b"/\xff", "/" + "n" * 256, "/a" * 2048):
        assert drive.path_problem(bad), bad


# ---- folders --------------------------------------------------------------------------------------

def indexes(ranges):
    return [i for start, end in ranges for i in range(start, end)]


def folder(name):
    return os.path.join(VECTORS, "drives", name)


@pytest.mark.parametrize("case", **ids(FOLDERS["entries"], "name"))
def test_recorded_folder(case):
    where, secrets = folder(case["name"]), folder("secret_keys")
    for name, told in case["files"].items():
        with open(os.path.join(where, name), "rb") as file:
            data = file.read()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (told["size"], told["sha256"])
    read = drive.read_folder(where, secrets)
    made = read.drive
    assert drive.audit_folder(where) == []
    assert (made.key.hex(), made.content.key.hex()) == (case["key"], case["contentKey"])
    assert read.owner == case["writable"] and (read.latest is None) == read.owner and not read.archive
    if read.owner:
        assert made.metadata.secret_key[32:] == made.key
    else:
        assert read.latest == case["version"]
    assert made.log.listing() == case["listing"] and made.audit() == []
    assert list(made.metadata.bitfield) == indexes(case["metadataBlocks"])
    assert list(made.content.bitfield) == indexes(case["contentBlocks"])
    assert set(made.content.blocks) == set(made.content.bitfield)
    assert made.complete() == ("Sparse" not in case["flags"])
    if not made.complete():
        return
    for path, number in case["listing"].items():
        there = case["files"].get(path[1:])
        if there is None:
            assert made.log.entry(number).stat.size == 0 and "NoEmptyFiles" in case["flags"]
        else:
            assert hashlib.sha256(made.file(path)).hexdigest() == there["sha256"]


@pytest.mark.parametrize("name", ["owner", "clone", "dat-13"])
def test_folder_is_written_as_recorded(name, tmp_path):
    """Byte for byte, but for the last signatures and nodes that only an owner has."""
    case = next(e for e in FOLDERS["entries"] if e["name"] == name)
    made = drive.read_folder(folder(name), folder("secret_keys")).drive
    again, secrets = tmp_path / "again", tmp_path / "secrets"
    drive.write_folder(made, again, secrets if case["writable"] else None)
    for file in case["files"]:
        with open(os.path.join(folder(name), file), "rb") as a, open(again / file, "rb") as b:
            assert a.read() == b.read(), file
    if case["writable"]:
        with open(drive.secret_file(folder("secret_keys"), made.key), "rb") as a:
            with open(drive.secret_file(str(secrets), made.key), "rb") as b:
                assert a.read() == b.read()


def test_audit_finds_a_changed_file(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder("owner"), copy)
    with open(copy / "hello.txt", "r+b") as file:
        file.write(b"J")
    assert drive.audit_folder(copy) and not drive.audit_folder(folder("owner"))


# ---- on a connection ------------------------------------------------------------------------------

def test_clone_of_a_drive():
    made = Drive(seed=b"\x05" * 32)
    for i in range(40):
        made.put("/d%d/f%d" % (i % 5, i), b"%d" % i * i, mtime=i)
    made.put("/d1/f1", b"x" * 150000)
    made.delete("/d2/f2")
    with peer.Listener([made.key, made.content.key]) as listener:
        server = peer.Background(lambda: drive.serve(listener.accept(), made))
        copy = drive.clone(peer.connect(listener.port, [made.key]), made.key)
        server.join()
    assert copy.files() == made.files() and copy.complete() and copy.audit() == []
    assert copy.metadata.audit() == [] and copy.content.audit() == []
