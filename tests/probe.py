"""Talks to the test driver, tests/probe.c, which tells each command beside its function.

Environment: DATSYNC_PROBE is the driver (build/asan/probe), DATSYNC_WRAPPER what stands before it.
"""

import os
import select
import shlex
import subprocess
from typing import NamedTuple

from dat import wire
from dat.content import VECTORS, content, secret_key, sizes  # noqa: F401 (for the tests)
from dat.wire import Node

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PROBE = os.environ.get("DATSYNC_PROBE", os.path.join(ROOT, "build", "asan", "probe"))
WRAPPER = shlex.split(os.environ.get("DATSYNC_WRAPPER", ""))

KEY, SECRET_KEY, TREE, SIGNATURES, BITFIELD, DATA = range(6)
PARTS = {"key": KEY, "secret_key": SECRET_KEY, "tree": TREE, "signatures": SIGNATURES,
         "bitfield": BITFIELD, "data": DATA}
CREATE, READ_ONLY, NO_SYNC, STATIC = 1, 2, 4, 8
DOWNLOAD, UPLOAD = 1, 2
BOTH = DOWNLOAD | UPLOAD

NOMEM, INVALID, STATE, TOO_BIG = -1, -2, -3, -4
MORE, FRAME, MESSAGE, SPACE, RLE = -20, -21, -22, -23, -24
NOT_FOUND, HASH, SIGNATURE, NO_SIGNATURE, PROOF, OTHER_FEED, LOCKED, READ_ONLY_FEED, CORRUPT = \
    range(-40, -49, -1)
KEY_ERROR, OVERWRITTEN = -49, -50
CLOSED, PROTOCOL, TIMEOUT, FIRST_FEED, SELF, DUPLICATE, EARLY, DONE, UNKNOWN_FEED, SLOW, \
    BAD_DATA = range(-60, -71, -1)
IO, NO_SPACE = -80, -81


LIMIT = 300  # seconds; no command takes a fraction of that, under valgrind or an emulator either


class ProbeError(Exception):
    """The driver answered with an error of the library."""

    def __init__(self, command, code, text):
        super().__init__("%s: %d %s" % (command[:200], code, text[:200]))
        self.code, self.text = code, text


class Probe:
    """`before` is what stands before the driver and its wrapper."""

    def __init__(self, before=()):
        env = dict(os.environ)
        env["ASAN_OPTIONS"] = "exitcode=99:" + env.get("ASAN_OPTIONS", "")
        env["UBSAN_OPTIONS"] = "print_stacktrace=1:exitcode=99:" + env.get("UBSAN_OPTIONS", "")
        self._process = subprocess.Popen([*before, *WRAPPER, PROBE], stdin=subprocess.PIPE, env=env,
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @property
    def pid(self):
        return self._process.pid

    def ask(self, *words):
        """The words of the answer; ProbeError if it is an error."""
        line = " ".join(map(word, words))
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        if not select.select([self._process.stdout], [], [], LIMIT)[0]:
            self._process.kill()
            raise AssertionError("the driver did not answer %r" % line[:300])
        reply = self._process.stdout.readline().decode()
        if not reply.endswith("\n"):
            raise AssertionError("the driver died at %r: %s" % (line[:300], self._end()[1]))
        head, *rest = reply.split()
        if head == "error":
            raise ProbeError(line, int(rest[0]), reply.strip())
        return rest

    def number(self, *words):
        return int(self.ask(*words)[0])

    def numbers(self, *words):
        return list(map(int, self.ask(*words)))

    def bytes(self, *words):
        return unhex(self.ask(*words)[0])

    def code(self, *words):
        """0, or the error's number."""
        try:
            self.ask(*words)
        except ProbeError as error:
            return error.code
        return 0

    def _end(self):
        try:
            out, err = self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
        return out.decode(errors="replace"), err.decode(errors="replace")[-6000:]

    def close(self):
        """Ends the driver: it must have nothing to complain about and nothing left to free."""
        if self._process.poll() is not None and self._process.stdout.closed:
            return
        _, err = self._end()
        assert self._process.returncode == 0 and not err, \
            "exit code %s: %s" % (self._process.returncode, err)


def word(value):
    if value is None:
        return "-"
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex() or "-"
    if isinstance(value, Node):
        return "%d:%s:%d" % (value.index, value.hash.hex(), value.size)
    return str(int(value) if isinstance(value, bool) else value)


def unhex(text):
    return b"" if text == "-" else bytes.fromhex(text)


def node(text):
    index, hash, size = text.split(":")
    return Node(int(index), bytes.fromhex(hash), int(size))


def ranges(words):
    """[(start, end), ...] from START-END words."""
    return [tuple(map(int, w.split("-"))) for w in words]


def on_disk(probe, disk):
    """{part: the bytes} of a feed's files on one of the driver's disks."""
    found = {}
    for name, part in PARTS.items():
        try:
            found[name] = probe.bytes("disk-get", disk, part)
        except ProbeError as error:
            assert error.code == NO_ENTRY
    return found


def members(words):
    return {i for start, end in ranges(words) for i in range(start, end)}


def pieces(entry):
    """The bytes of a list of [hex, times]."""
    return b"".join(bytes.fromhex(h) * n for h, n in entry)


# ---- messages as the driver writes them --------------------------------------------------------

def fields(type, words):
    """{field name: value} of decoded FIELD=VALUE words, as the vectors have them."""
    cls, out = wire.MESSAGES[type], {}
    if cls is wire.Extension:
        pairs = dict(w.split("=") for w in words)
        return {"id": int(pairs["id"]), "payload": unhex(pairs["payload"]).hex()}
    by_tag = {f.tag: f for f in cls.FIELDS}
    for w in words:
        tag, value = w.split("=", 1)
        f = by_tag[int(tag)]
        if f.kind == wire.NODE:
            n = node(value)
            value = {"index": n.index, "hash": n.hash.hex(), "size": n.size}
        elif f.kind == wire.UINT:
            value = int(value)
        elif f.kind == wire.BOOL:
            value = bool(int(value))
        else:
            value = unhex(value).hex()
            if f.kind == wire.STRING:
                value = bytes.fromhex(value).decode("utf-8", "surrogateescape")
        if f.rule == "repeated":
            out.setdefault(f.name, []).append(value)
        else:
            out[f.name] = value
    return out


def message_words(channel, message):
    """What `encode` and `peer-send` take, from a message of dat.wire."""
    words = [message.TYPE, channel]
    if isinstance(message, wire.Extension):
        return words + ["id=%d" % message.id, "payload=" + word(message.payload)]
    for f in message.FIELDS:
        value = getattr(message, f.name)
        for v in value if f.rule == "repeated" else [] if value is None else [value]:
            words.append("%d=%s" % (f.tag, word(v.encode() if isinstance(v, str) else v)))
    return words


# ---- drives ------------------------------------------------------------------------------------------

ARCHIVE = 16
ACCESS, NO_ENTRY = -82, -83
DRIVE_HEADER, INDEX, ENTRY, PATH, RANGE, NAME, LINK, NOT_FOLDER, IS_FOLDER, CHANGED, BUSY, PARTIAL = \
    range(-100, -112, -1)
ADDED, UPDATED, REMOVED, UNCHANGED, REFUSED = range(5)
(EV_LISTENING, EV_CONNECTED, EV_PEER, EV_DISCONNECTED, EV_UNREACHABLE, EV_LENGTH, EV_BLOCK, EV_UPLOAD, EV_REJECT, EV_COMPLETE,
 EV_FAILED, EV_TICK, EV_CONTENT, EV_PLAN, EV_ENTRY, EV_REMOVED, EV_REFUSED, EV_VERSION, EV_AWAY, EV_BACK) = range(20)
FILE, FOLDER, SYMLINK = 0o100000, 0o040000, 0o120000


class Entry(NamedTuple):
    """An entry as the driver tells it; stat is (mode, uid, gid, size, blocks, offset, byteOffset, mtime, ctime)."""
    path: str
    version: int
    deleted: bool
    stat: tuple
    error: int


class Event(NamedTuple):
    type: int
    index: int
    size: int
    error: int
    path: str


class Change(NamedTuple):
    """An event of an import."""
    change: int
    size: int
    done: int
    error: int
    path: str


class Thing(NamedTuple):
    """What lies at a path of a world."""
    mode: int
    mtime: int
    data: bytes


def name(path):
    """A path as a word."""
    return os.fsencode(path) if isinstance(path, str) else path


def _text(word):
    return os.fsdecode(unhex(word))


class Drives:
    """The drive.* commands of a driver, by the number of a drive (d) or a world (w)."""

    def __init__(self, probe):
        self.probe = probe

    # -- worlds --

    def world(self, w, files=(), folds=False):
        """A new world with these files: {path: bytes, or None for a folder}."""
        self.probe.ask("drive.world", w, folds)
        for path, data in dict(files).items():
            self.write(w, path, data)

    def write(self, w, path, data=b"", mode=None, mtime=0):
        """What the user writes; folders on the way are made. data None: a folder."""
        parent = os.path.dirname(path)
        if parent and parent not in self.dump(w):
            self.write(w, parent, None)
        kind = FOLDER | 0o755 if data is None else FILE | 0o644
        self.probe.ask("drive.write", w, name(path), kind if mode is None else mode, mtime, data or b"")

    def link(self, w, path):
        self.probe.ask("drive.write", w, name(path), SYMLINK | 0o777, 0, b"")

    def delete(self, w, path):
        self.probe.ask("drive.delete", w, name(path))

    def dump(self, w):
        """{path: Thing} of everything."""
        found = {}
        for each in self.probe.ask("drive.dump", w):
            path, mode, mtime, data = each.split(":")
            found[_text(path)] = Thing(int(mode), int(mtime), unhex(data))
        return found

    def files(self, w):
        """{path: bytes} of the user's files, None for folders."""
        return {p: None if t.mode & FOLDER else t.data for p, t in self.dump(w).items()
                if p != ".dat" and not p.startswith(".dat/")}

    def feed_files(self, w, feed="metadata"):
        """{part: bytes} of a feed, as dat.sleep takes them."""
        return {p[len(feed) + 6:]: t.data for p, t in self.dump(w).items() if p.startswith(".dat/%s." % feed)}

    def fail(self, w, kind, n, error=0, on=False):
        return self.probe.number("drive.fail", w, kind, n, -error, on)

    def calls(self, w):
        """(operations in all, {kind: calls since the last time})."""
        words = self.probe.ask("drive.calls", w)
        return int(words[0]), {k: int(v) for k, v in (each.split("=") for each in words[1:])}

    def ops(self, w):
        return self.calls(w)[0]

    def cut(self, w, copy, n, seed=0):
        self.probe.ask("drive.cut", w, copy, n, seed)

    # -- drives --

    def open(self, d, where="memory", flags=CREATE, key=None, secret=None, counted=False):
        if where.startswith("dir:"):
            folder, secrets = where[4:].split(":")
            where = "dir:%s:%s" % (name(folder).hex(), name(secrets).hex())
        self.probe.ask("drive.open", d, where, flags, key, secret, counted)

    def close(self, d):
        self.probe.ask("drive.close", d)

    def flush(self, d):
        self.probe.ask("drive.flush", d)

    def feeds(self, d, f, g=None):
        """The metadata as feed f, the content as feed g."""
        self.probe.ask("drive.feeds", d, f, *([] if g is None else [g]))

    def info(self, d):
        """(version, laid out, writable, archive, key, content key)."""
        words = self.probe.ask("drive.info", d)
        return (*map(int, words[:4]), unhex(words[4]), unhex(words[5]))

    def version(self, d):
        return self.info(d)[0]

    def blocks(self, f, start=0):
        """All blocks of a feed."""
        return [self.probe.bytes("get", f, i) for i in range(start, int(self.probe.ask("info", f)[0]))]

    @staticmethod
    def _entry(word):
        path, *numbers = word.split(":")
        numbers = list(map(int, numbers))
        return Entry(_text(path), numbers[0], bool(numbers[1]), tuple(numbers[2:11]), numbers[11])

    def entry(self, d, number):
        return self._entry(self.probe.ask("drive.entry", d, number)[0])

    def find(self, d, path, version=None):
        version = self.version(d) if version is None else version
        return self._entry(self.probe.ask("drive.find", d, version, name(path))[0])

    def list(self, d, version=None, path="/", deep=True, stop=0):
        version = self.version(d) if version is None else version
        words = self.probe.ask("drive.list", d, version, name(path), deep, stop)
        assert words[-1] == ("77" if stop and len(words) == stop + 1 else "0"), words[-1]
        return [self._entry(w) for w in words[:-1]]

    def listing(self, d, version=None):
        """{path: entry number} of a version."""
        found = {}
        for e in self.list(d, version):
            assert e.path not in found and not e.deleted
            found[e.path] = e.version
        return found

    def read(self, d, path, version=None, offset=0, size=None):
        version = self.version(d) if version is None else version
        size = self.find(d, path, version).stat[3] if size is None else size
        return self.probe.bytes("drive.read", d, version, name(path), offset, size)

    def put(self, d, path, data=b"", mode=FILE | 0o644, mtime=0, ctime=None, uid=0, gid=0, step=65536, error=0):
        return self.probe.number("drive.put", d, name(path), mode, uid, gid, mtime, mtime if ctime is None else ctime,
                                 data or b"", 0 if data is None else step, -error)

    def remove(self, d, path):
        return self.probe.number("drive.remove", d, name(path))

    def import_(self, d, dry=False, keep=False, stop=0, ignore=(), unready=()):
        """The events, without those of what is unchanged and of what is not done yet. Their number is what it returns."""
        assert not (ignore and unready)
        *words, count = self.probe.ask("drive.import", d, dry, int(keep) + 2 * bool(unready), stop, *map(name, ignore or unready))
        changes = [self._change(w) for w in words]
        last = [c for c in changes if c.change != UNCHANGED and c.done == c.size]
        assert len([c for c in last if c.change != REFUSED]) == int(count)
        return last

    @staticmethod
    def _change(word):
        *numbers, path = word.split(":")
        return Change(*map(int, numbers), _text(path))

    def verify(self, d, deep=True):
        """(how many are good, {path: error})."""
        *words, good = self.probe.ask("drive.verify", d, deep)
        return int(good), {_text(w.split(":")[1]): int(w.split(":")[0]) for w in words}

    # -- on the network in memory --

    def share(self, d, mode, *others, live=True, counted=False):
        self.probe.ask("drive.share", d, mode, live, counted, *others)

    def unshare(self, d):
        self.probe.ask("drive.unshare", d)

    def run(self, d, versions=1, most=60000):
        """Whether so many versions were laid out."""
        return self.probe.numbers("drive.run", most, d, versions)[2] == 1

    def events(self, d):
        """Those of the drive, and how many blocks came."""
        words = self.probe.ask("drive.events", d)
        found = [Event(*map(int, w.split(":")[:4]), _text(w.split(":")[4])) for w in words[2:]]
        return [e for e in found if e.type >= EV_CONTENT or e.type == EV_FAILED], int(words[0])

    def layout(self, d, version=0, force=False, select=None):
        self.probe.ask("drive.layout", d, version, force, *([] if select is None else [name(select)]))

    def load(self, d, made, flags=CREATE):
        """A drive of dat.drive, in memory: all its blocks, whatever they say."""
        self.open(d, "memory", flags, None, made.metadata.secret_key)
        self.feeds(d, 62, 63)
        self.extend(d, made)

    def extend(self, d, made):
        """What that drive has got since. (The feeds must be 62 and 63.)"""
        for feed, f in ((made.content, 63), (made.metadata, 62)):
            have = int(self.probe.ask("info", f)[0])
            new = [feed.blocks[i] for i in range(have, feed.length)]
            if have:
                assert self.probe.bytes("get", f, 0) == feed.blocks[0]
            if new:
                self.probe.ask("append", f, *[b or b"" for b in new])
            self.probe.ask("flush", f)
