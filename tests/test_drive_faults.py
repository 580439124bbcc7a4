"""Drives whose file system fails, whose memory ends, whose power is cut: on a file system in memory (probe.c), at each of its
operations in turn. Whatever happens, no half file is seen in its place, nothing is claimed that is not there, what the user
changed is kept, an owner never forks, and the next try completes it.
"""

import re

import pytest

import probe as driver
from dat import evil, sleep
from dat.drive import Drive, Log, only
from probe import (ACCESS, ARCHIVE, BOTH, CHANGED, CREATE, EV_FAILED, EV_REFUSED, EV_VERSION, IO, IS_FOLDER, NAME, NO_SPACE,
                   NOMEM, Drives, ProbeError)
from test_drive import SECRET, T0, code_of, expected_files, load_feed, only_files, small, sound

KINDS = ["open", "read", "write", "stat", "list", "mkdir", "rename", "unlink", "rmdir", "set", "sync",
         "store-read", "store-write", "store-sync", "store-truncate"]
ERRORS = [NO_SPACE, ACCESS, NAME, IO]
NAMING = ("open", "mkdir", "rename", "stat")  # only these can say that a name is none
OWN = {"mine": b"of the user", "c": b"changed by the user"}


@pytest.fixture
def drives(probe):
    return Drives(probe)


class Scene:
    """A served drive (drive 0) and a world as it is before a pull (world 9); `prepare` makes it world 1 again."""

    def __init__(self, drives, update, flags=CREATE):
        self.drives, self.flags, self.made = drives, flags, Drive(secret_key=SECRET)
        made, self.own = self.made, {}
        for name in "abc":
            small(made, "/" + name, b"%s of version one, " % name.encode() * 2)
        small(made, "/sub/x", b"x" * 25)
        small(made, "/gone/y", b"y" * 15)
        made.put("/sub/empty", b"", mtime=T0)
        made.mkdir("/hollow", mtime=T0)
        drives.load(0, made)
        drives.share(0, BOTH)
        drives.world(9)
        if update:
            self.pull(9)
            for path, data in OWN.items():
                drives.write(9, path, data)
            self.own = OWN
            small(made, "/a", b"a of version two" * 2)
            small(made, "/c", b"c of version two" * 2)
            made.delete("/gone/y")
            made.delete("/b")
            small(made, "/b/inner", b"b is a folder now")
            small(made, "/new/n", b"new" * 9)
            made.put_stat("/again", made.log.find("/sub/x").stat)
            drives.extend(0, made)
        self.refused = {"/c"} if update else set()
        self.expected = expected_files(made, **self.own)

    def begin(self):
        """World 9 is left in the midst of the pull."""
        made, drives = self.made, self.drives
        small(made, "/long", bytes(range(256)) * 20, 40)
        self.expected["long"] = made.file("/long")
        drives.extend(0, made)
        drives.open(1, "world:9", 0, made.key)
        drives.share(1, BOTH, 0)
        while not any(name.startswith(".dat/partial/") for name in drives.dump(9)):
            assert not drives.run(1, most=5)
        drives.unshare(1)
        drives.close(1)

    def prepare(self):
        self.drives.cut(9, 1, 1 << 40)

    def pull(self, w=1, counted=False, memory=0):
        """(errors that it returned or told, {path: error} of what was refused, whether it told the version)."""
        drives, errors, refused, told = self.drives, [], {}, False
        drives.probe.ask("memory-fail", memory)
        try:
            drives.open(1, "world:%d" % w, self.flags, self.made.key, counted=counted)
        except ProbeError as error:
            drives.probe.ask("memory-fail", 0)
            return [error.code], {}, False
        code = code_of(drives.share, 1, BOTH, 0, counted=counted)
        if code:
            errors.append(code)
        else:
            _, returned, told = drives.probe.numbers("drive.run", 20000, 1, 1)
            events, _ = drives.events(1)
            errors += [e.error for e in events if e.type == EV_FAILED] + [returned] * (returned < 0)
            refused = {e.path: e.error for e in events if e.type == EV_REFUSED}
            told = any(e.type == EV_VERSION and e.index == self.made.version for e in events)
            errors += filter(None, [code_of(drives.unshare, 1)])
        errors += filter(None, [code_of(drives.close, 1)])
        drives.probe.ask("memory-fail", 0)
        return errors, refused, told

    def drop_torn_keys(self, w):
        """A key that was cut off while it was written is not a key, and says so; the user deletes it."""
        for path in (".dat/metadata.key", ".dat/content.key"):
            thing = self.drives.dump(w).get(path)
            if thing and len(thing.data) < 32:
                self.drives.delete(w, path)

    def complete(self, w=1):
        self.drop_torn_keys(w)
        errors, refused, told = self.pull(w)
        if refused.get("/b") == IS_FOLDER:  # the old file could not go in the first run; its folder has come since
            del refused["/b"]
        assert told and errors == [] and refused.keys() == self.refused and all(e == CHANGED for e in refused.values())
        assert only_files(self.drives, w) == self.expected
        self.sound(w)

    def sound(self, w=1):
        sound(self.drives, w, self.made, self.own)


@pytest.fixture(params=["clone", "update", "resumed"])
def scene(request, drives):
    scene = Scene(drives, request.param != "clone")
    if request.param == "resumed":
        scene.begin()
    return scene


@pytest.fixture(params=["clone", "update", "archive"])
def any_scene(request, drives):
    if request.param == "archive":
        return Scene(drives, False, CREATE | ARCHIVE)
    return Scene(drives, request.param == "update")


def check_named(scene, what, error, result):
    """What is not there was told."""
    errors, refused, told = result
    if "/b" in refused:  # the file could not go, so the folder could not come
        refused.pop("/b/inner", None)
    named = set(errors) | {e for p, e in refused.items() if p not in scene.refused}
    if only_files(scene.drives, 1) != scene.expected or not told:
        assert named, "%s failed, and nobody is told: %s" % (what, result)
    assert named <= {error}, "%s failed with %d: %s" % (what, error, result)


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_fails_once(kind, scene, drives):
    """No call may end it in disorder; the next pull mends it."""
    for number, error in enumerate(e for e in ERRORS if e != NAME or kind in NAMING):
        n, step = 1 + number, 1 if number == 0 else 4
        while True:
            scene.prepare()
            drives.fail(1, kind, n, error)
            result = scene.pull()
            left = drives.fail(1, kind, 0)
            scene.sound()
            if left:
                break
            check_named(scene, "%s %d" % (kind, n), error, result)
            scene.complete()
            n += step


@pytest.mark.parametrize("kind", ["write", "open", "rename", "sync", "mkdir", "store-write", "store-sync"])
def test_every_call_fails_from_one_on(kind, scene, drives):
    """The disk is full, and stays so until the next try."""
    n = 1
    while True:
        scene.prepare()
        drives.fail(1, kind, n, NO_SPACE, on=True)
        result = scene.pull()
        left = drives.fail(1, kind, 0)
        scene.sound()
        if left > 1 or (left == 1 and result[2] and not result[0] and result[1].keys() == scene.refused):
            break
        check_named(scene, "%s from %d on" % (kind, n), NO_SPACE, result)
        scene.complete()
        n += 3


@pytest.mark.parametrize("kind", ["sync", "store-write", "store-sync"])
def test_a_disk_that_is_full_costs_what_is_not_whole(kind, drives):
    """Where it is found by writing down what came: what is whole is laid out, and nothing fails. If it must, what is not whole goes."""
    made, kept, given_up = Drive(secret_key=SECRET), [], []
    small(made, "/a", b"a" * 400, 40)
    small(made, "/long", bytes(range(256)) * 200, 40)
    files = {".dat/metadata." + name: data for name, data in sleep.files(made.metadata).items()}
    part = only(made.content, set(range(made.content.length - 20)))
    files.update({".dat/content." + name: data for name, data in sleep.files(part).items()})
    drives.world(2, files)
    drives.open(0, "world:2", driver.READ_ONLY | ARCHIVE, made.key)
    drives.share(0, BOTH)
    left, n = 0, 0
    while not left:
        n += 1
        drives.world(1)
        drives.open(1, "world:1", CREATE, made.key)
        drives.share(1, BOTH, 0)
        drives.fail(1, kind, n, NO_SPACE)
        drives.run(1, most=20000)
        left = drives.fail(1, kind, 0)
        events, _ = drives.events(1)
        failed, refused = ([(e.path, e.error) for e in events if e.type == type] for type in (EV_FAILED, EV_REFUSED))
        assert {e for _, e in failed} <= {NO_SPACE}
        if not left and not failed:
            kept.append(n)
            given_up += refused
            assert drives.files(1)["a"] == made.file("/a")
            assert bool(refused) != (".dat/partial/2" in drives.dump(1))
        drives.unshare(1)
        drives.close(1)
    assert kept and given_up == [("/long", NO_SPACE)] * (kind != "sync")


def test_every_allocation_fails_once(scene, drives):
    scene.prepare()
    drives.probe.ask("memory")
    assert scene.pull(counted=True)[2]
    calls = drives.probe.numbers("memory")[2]
    step = max(1, calls // 100)
    for n in range(1, calls + 1, step):
        scene.prepare()
        result = scene.pull(counted=True, memory=n)
        scene.sound()
        assert set(result[0]) | set(result[1].values()) <= {NOMEM, CHANGED}, (n, result)
        if not result[2]:
            assert NOMEM in result[0], (n, result)
        scene.complete()
    assert drives.probe.numbers("memory")[0] == 0


def opened(drives, scene, w):
    """What a clone claims when it is opened again, and that it lays out nothing by that."""
    before = only_files(drives, w)
    drives.open(1, "world:%d" % w, 0)
    drives.feeds(1, 1)
    metadata = driver.members(drives.probe.ask("held", 1))
    assert all(drives.probe.bytes("get", 1, i) == scene.made.metadata.blocks[i] for i in metadata)
    drives.verify(1)
    drives.close(1)
    assert only_files(drives, w) == before


@pytest.mark.parametrize("seeds", [(0, 1), (2,), (3, 4, 5)], ids=["kill-and-loss", "names-only", "chance"])
def test_power_cut_of_a_reader(seeds, any_scene, drives):
    """Behind every operation, with what was not synced lost, there, or torn."""
    scene = any_scene
    scene.prepare()
    first = drives.ops(1)
    scene.complete()
    last = drives.ops(1)
    assert last - first > 40
    for cut in range(first, last + 1):
        for seed in seeds:
            drives.cut(1, 2, cut, seed)
            scene.sound(2)
            key = drives.dump(2).get(".dat/metadata.key")
            if (cut + seed) % 5 == 0 and key and len(key.data) == 32:
                opened(drives, scene, 2)
                scene.sound(2)
            if (cut + seed) % 3 == 0:
                scene.drop_torn_keys(2)
                errors, refused, told = scene.pull(2)
                assert told and not errors and refused.keys() == scene.refused, (cut, seed, errors, refused)
                assert only_files(drives, 2) == scene.expected, (cut, seed)
                scene.sound(2)
                if scene.flags & ARCHIVE:
                    continue
                claimed = load_feed(drives.feed_files(2, "content")).bitfield
                needed = set().union(*(range(*scene.made.log.entry(n).stat.range) for p, n in scene.made.log.listing().items()
                                       if p not in scene.refused))
                assert set(claimed) >= needed, (cut, seed)


def test_two_power_cuts_of_a_reader(scene, drives):
    """The second while it goes on after the first."""
    scene.prepare()
    first = drives.ops(1)
    scene.complete()
    for cut in range(first, drives.ops(1), 11):
        drives.cut(1, 2, cut, 6)
        again = drives.ops(2)
        if scene.pull(2)[0]:
            continue
        for second in range(again, drives.ops(2), 13):
            drives.cut(2, 3, second, 7)
            scene.sound(3)
        scene.complete(2)


@pytest.mark.parametrize("path", ["a", "b", "new/n", "gone/y", "fresh"])
def test_a_file_that_the_user_writes_meanwhile_is_kept(path, drives):
    """At any moment of a pull: what he wrote is there afterwards, whether it was named or came too late for that."""
    scene = Scene(drives, True)
    small(scene.made, "/fresh", b"fresh" * 9)
    drives.extend(0, scene.made)
    seen = set()
    for steps in range(30):
        scene.prepare()
        drives.open(1, "world:1", CREATE, scene.made.key)
        drives.share(1, BOTH, 0)
        told = steps and drives.run(1, most=5 * steps)
        things = drives.dump(1)
        if path == "b" and things.get("b") and things["b"].mode & driver.FOLDER:
            drives.delete(1, "b")  # with what came already
        drives.write(1, path, b"written meanwhile")
        assert drives.run(1, most=20000)
        assert drives.dump(1)[path].data == b"written meanwhile", steps
        seen |= {e.error for e in drives.events(1)[0] if e.type == EV_REFUSED and e.path == "/" + path}
        drives.unshare(1)
        drives.close(1)
        assert drives.dump(1)[path].data == b"written meanwhile", steps
        if told:
            break
    assert told
    if path != "b":
        assert CHANGED in seen


# ---- the owner ------------------------------------------------------------------------------------------

FILES = {"a": b"a" * 100, "b": b"b" * 70000, "sub/c": b"c" * 300, "sub/deep/d": b"", "hollow": None}


def owner_session(drives, w, marks=None):
    """An owner's folder, imported, changed, imported. marks: [(operations, metadata blocks)], after each commit."""
    def mark():
        if marks is not None:
            drives.feeds(0, 0, 1)
            marks.append((drives.ops(w), drives.blocks(0), int(drives.probe.ask("info", 1)[0])))
    drives.open(0, "world:%d" % w, CREATE, None, SECRET)
    mark()
    drives.import_(0)
    mark()
    change_files(drives, w)
    drives.import_(0)
    mark()
    drives.write(w, "sub/e", b"e" * 500, mtime=T0 + 9)
    drives.import_(0)
    drives.close(0)
    drives.open(0, "world:%d" % w, 0)
    mark()
    drives.close(0)


def change_files(drives, w):
    drives.write(w, "a", b"A" * 150, mtime=T0 + 7)
    drives.delete(w, "b")
    drives.write(w, "b/inner", b"inner" * 9, mtime=T0 + 8)
    drives.delete(w, "sub/c")


def nothing_is_left(drives, w):
    """Nobody was told of a fault, so all was imported."""
    drives.open(0, "world:%d" % w, driver.READ_ONLY)
    assert drives.import_(0, dry=True) == []
    drives.close(0)


def goes_on(drives, w, must=(), content=0):
    """The owner opens it again and imports: nothing that was told has changed, and the drive is the disk."""
    drives.open(0, "world:%d" % w, CREATE, None, SECRET)
    drives.feeds(0, 0, 1)
    blocks = drives.blocks(0)
    assert blocks[:len(must)] == list(must), "it forked"
    assert content <= int(drives.probe.ask("info", 1)[0])
    drives.import_(0)
    drives.flush(0)
    drives.feeds(0, 0, 1)
    assert drives.blocks(0)[:len(blocks)] == blocks
    listing, files = drives.listing(0), drives.files(w)
    assert {p[1:] for p in listing if not drives.find(0, p).stat[0] & driver.FOLDER} == \
        {p for p, data in files.items() if data is not None}
    for path, data in files.items():
        if data is not None:
            assert drives.read(0, "/" + path) == data, path
    assert drives.verify(0)[1] == {}
    drives.close(0)


def owner_claims_hold(drives, w):
    """On the disk no content block is claimed that an entry has which the disk knows, and whose file is another. Files that
    the user has changed since are found by their size and mtime, so only those that look the same are judged."""
    things = drives.dump(w)
    metadata, content = (load_feed(drives.feed_files(w, f)) for f in ("metadata", "content"))
    if metadata is None or content is None:
        return
    blocks = [metadata.blocks[i] for i in range(metadata.length) if i in metadata.blocks]
    if len(blocks) < metadata.length:
        return
    log = Log(blocks)
    for path, number in log.listing().items():
        stat, thing = log.entry(number).stat, things.get(path[1:])
        if not stat.is_file or thing is None or (len(thing.data), thing.mtime) != (stat.read("size"), stat.read("mtime")):
            continue
        at = 0
        for i in range(*stat.range):
            node = content.tree.nodes.get(2 * i)
            if content.bitfield.get(i):
                assert node is not None and node.size + at <= len(thing.data)
            at += node.size if node else 0


@pytest.mark.parametrize("seeds", [(0, 1, 2), (3, 4)], ids=["plain", "chance"])
def test_power_cut_of_an_owner(seeds, drives):
    """While importing: it never forks, and what was committed stays."""
    drives.world(1, FILES)
    first, marks = drives.ops(1), []
    owner_session(drives, 1, marks)
    last = drives.ops(1)
    for cut in range(first, last + 1):
        done = [m for m in marks if m[0] <= cut]
        must, content = (done[-1][1], done[-1][2]) if done else ((), 0)
        for seed in seeds:
            drives.cut(1, 2, cut, seed)
            owner_claims_hold(drives, 2)
            key = drives.dump(2).get(".dat/metadata.key")
            if key and len(key.data) < 32:  # it was torn while the drive was made
                assert not must
                continue
            goes_on(drives, 2, must, content)


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_of_an_owner_fails_once(kind, drives):
    """Each error comes out of the call or names a file; the next import makes it whole, without a fork."""
    drives.world(9, FILES)
    drives.open(0, "world:9", CREATE, None, SECRET)
    drives.import_(0)
    drives.feeds(0, 0)
    before = drives.blocks(0)
    drives.close(0)
    change_files(drives, 9)
    for number, error in enumerate(e for e in ERRORS if e != NAME or kind in NAMING):
        n, step = 1 + number, 1 if number == 0 else 5
        while True:
            drives.cut(9, 1, 1 << 40)
            drives.fail(1, kind, n, error)
            told = [code_of(drives.open, 0, "world:1", 0)]
            if told == [0]:
                try:
                    told += [c.error for c in drives.import_(0)]
                except ProbeError as failed:
                    told.append(failed.code)
                told.append(code_of(drives.close, 0))
            left = drives.fail(1, kind, 0)
            if left:
                break
            assert set(told) <= {0, error}, (kind, n, told)
            if error not in told:
                assert not kind.endswith("sync"), "%s %d failed, and nobody was told" % (kind, n)
                nothing_is_left(drives, 1)
            goes_on(drives, 1, before)
            n += step


def test_every_allocation_of_an_owner_fails_once(drives):
    drives.world(9, FILES)
    drives.open(0, "world:9", CREATE, None, SECRET)
    drives.import_(0)
    drives.feeds(0, 0)
    before = drives.blocks(0)
    drives.close(0)
    change_files(drives, 9)
    n = 1
    while True:
        drives.cut(9, 1, 1 << 40)
        drives.probe.ask("memory-fail", n)
        told = [code_of(drives.open, 0, "world:1", 0, counted=True)]
        if told == [0]:
            told += [code_of(drives.import_, 0), code_of(drives.close, 0)]
        if drives.probe.number("memory-fail", 0):
            break
        assert set(told) <= {0, NOMEM} and (NOMEM in told or n > 3), (n, told)
        goes_on(drives, 1, before)
        n += 2
    assert n > 30 and drives.probe.numbers("memory")[0] == 0


# ---- who only looks ---------------------------------------------------------------------------------------

SALVAGE = 32
LOOKED = ["store-read", "read", "stat", "list", "open"]


def looked_at(kind):
    """A drive, and the files of a folder of it; what is opened with which flags."""
    made, flags = Drive(secret_key=SECRET), driver.READ_ONLY
    for path in ("/a", "/x/1", "/x/2", "/sub/deep/b"):
        small(made, path, path.encode() * 7)
    made.put("/none", b"", mtime=T0)
    made.mkdir("/hollow", mtime=T0)
    if "deletion" in kind:  # of an old version: the index still has it, and has lost another
        made.append(evil.raw_node("/x/1", None, bytes.fromhex("000102010200")))
    small(made, "/a", b"a of another version")
    held = {0, 1, 2, 4, 5, made.version} if "sparse" in kind else set(range(made.version + 1))
    files = {".dat/metadata." + name: data for name, data in sleep.files(only(made.metadata, held)).items()}
    content = sleep.files(only(made.content, made.needed() if kind != "half" else {i for i in made.needed() if i % 3}))
    if kind != "archive":
        del content["data"]
    else:
        flags |= ARCHIVE
    files.update({".dat/content." + name: data for name, data in content.items()})
    if kind == "zeroed":
        files[".dat/metadata.bitfield"] = bytes(32) + files[".dat/metadata.bitfield"][32:]
        flags |= SALVAGE
    return made, files, flags


def look(drives, made, flags, memory=0):
    """All that is told of a folder: {call: answer or error}."""
    def reply(*words):
        try:
            return " ".join(drives.probe.ask(*words))
        except ProbeError as error:
            return error.text
    told = {}
    drives.probe.ask("memory-fail", memory)
    told["open"] = code_of(drives.open, 1, "world:1", flags, made.key, counted=True)
    if told["open"]:
        drives.probe.ask("memory-fail", 0)
        return told
    for deep in (1, 0, 1):
        told["verify %d %d" % (deep, len(told))] = reply("drive.verify", 1, deep)
    for path in (b"/", b"/x", b"/sub"):
        for deep in (0, 1):
            for here in (0, 1):
                told["list %s %d %d" % (path, deep, here)] = reply("drive.list", 1, made.version, path, deep, 0, here)
    for path in (b"/a", b"/x/1", b"/x/2", b"/sub/deep/b", b"/none", b"/sub", b"/away"):
        for here in (0, 1):
            told["find %s %d" % (path, here)] = reply("drive.find", 1, made.version, path, here)
        told["read %s" % path] = reply("drive.read", 1, made.version, path, 0, 1000)
    told["close"] = code_of(drives.close, 1)
    drives.probe.ask("memory-fail", 0)
    return told


@pytest.mark.parametrize("kind", ["whole", "half", "archive", "zeroed", "sparse", "deletion", "sparse deletion"])
def test_every_call_of_a_look_fails_once(kind, drives):
    """Each answer is the right one, or tells the error; and nothing was written."""
    made, files, flags = looked_at(kind)
    drives.world(1, files)
    for path, number in made.log.listing().items():
        entry = made.log.entry(number)
        if entry.stat.is_file:
            drives.write(1, path[1:], made.file(path) if kind != "half" or number % 2 else b"another", mtime=entry.stat.read("mtime"))
    before = drives.dump(1)
    drives.probe.ask("memory")
    right = look(drives, made, flags)
    assert right["open"] == right["close"] == 0 and right == look(drives, made, flags)
    calls = drives.probe.numbers("memory")[2]

    def judge(told, error, what):
        for call, answer in told.items():
            if answer != right[call]:
                assert re.search(r"(^|[\s:])%d($|[\s:])" % error, str(answer)), (what, call, answer, right[call])
        assert len(told) == len(right) or told["open"] == error, what

    for each in LOOKED:
        n = 1
        while True:
            drives.fail(1, each, n, IO)
            told = look(drives, made, flags)
            left = drives.fail(1, each, 0)
            if left:
                break
            judge(told, IO, (each, n))
            n += 1
    for n in range(1, calls + 1):
        judge(look(drives, made, flags, n), NOMEM, ("memory", n))
    assert drives.dump(1) == before and drives.probe.numbers("memory")[0] == 0
