"""Drives that no honest owner would make, for tests: signed as they should be, and false in their entries.

`CASES` maps a name to a function that makes an `Evil`; `make(name)` calls it. Each drive also has honest files,
`/good.txt` first and `/zz/last.txt` last, unless nothing of it may be read at all (`fatal`).

    evil = make("dotdot")
    write_folder(evil, folder)           an owner's .dat folder; nothing is laid out
    with Server(evil) as server:         serves on loopback: server.port
        ...
"""

import threading
from dataclasses import dataclass, field
from typing import Dict, List

from . import drive as drives
from . import peer, sleep, sodium, wire
from .drive import FILE, Drive, Index, Node, Stat, deflate
from .wire import encode_raw

GOOD = {"/good.txt": b"good\n", "/zz/last.txt": b"the last\n"}


@dataclass
class Evil:
    """`good` must arrive, path to bytes; `bad` are the entries' names (bytes) that must not, and should be named.

    With `fatal` nothing can be laid out: the header or an index that all depends on is false. With `either`, the bad
    entries may be laid out or refused, as the file system can. `plant`: what must be in the target folder before
    (path to link target or None for an empty folder).
    """
    meaning: str
    drive: Drive
    good: Dict[str, bytes] = field(default_factory=dict)
    bad: List[bytes] = field(default_factory=list)
    fatal: bool = False
    either: bool = False
    plant: Dict[str, str] = field(default_factory=dict)

    @property
    def key(self):
        return self.drive.key

    @property
    def feeds(self):
        return [self.drive.metadata] + ([self.drive.content] if self.drive.content else [])


CASES = {}


def case(function):
    CASES[function.__name__.strip("_").replace("_", "-")] = function
    return function


def make(name):
    return CASES[name]()


def write_folder(evil, folder, secret_dir=None):
    """The owner's .dat folder of it, with no file laid out; content.data holds the content."""
    drives.write_folder(evil.drive, folder, secret_dir, lay_out=False, version=0)
    for name, data in sleep.files(evil.drive.content).items() if evil.drive.content else ():
        if name != "secret_key":
            with open("%s/.dat/content.%s" % (folder, name), "wb") as file:
                file.write(data)


class Server:
    """Serves an Evil, or any Drive, on a loopback port, to any number of connections one after the other."""

    conversation = drives.DriveConversation

    def __init__(self, evil, **options):
        self.drive = getattr(evil, "drive", evil)
        self.options = dict({"live": True}, **options)
        self.errors, self._closed, self.running = [], False, []
        self.listener = peer.Listener([self.drive.key] + ([self.drive.content.key] if self.drive.content else []))
        self.port = self.listener.port
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        while not self._closed:
            try:
                conversation = self.conversation(self.listener.accept(0.2), self.drive, **self.options)
            except peer.TimedOut:
                continue
            except OSError:
                return
            self.running.append(conversation)
            threading.Thread(target=self._run, args=(conversation,), daemon=True).start()

    def _run(self, conversation):
        try:
            conversation.run()
        except (peer.PeerError, ValueError, OSError) as error:
            self.errors.append(error)

    def close(self):
        self._closed = True
        self.listener.close()
        for conversation in self.running:
            conversation.stop()
        self._thread.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---- making them ----------------------------------------------------------------------------------

def fresh(seed=b"\x66"):
    made = Drive(seed=seed * 32)
    made.put("/good.txt", GOOD["/good.txt"], mtime=1500000000000)
    return made


def finish(meaning, made, bad=(), **more):
    made.put("/zz/last.txt", GOOD["/zz/last.txt"], mtime=1500000000000)
    bad = [name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name for name in bad]
    return Evil(meaning, made, dict(GOOD), bad, **more)


def raw_node(name, value, paths):
    """A Node's bytes; name may be bytes that are no UTF-8."""
    name = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return encode_raw(1, name) + (encode_raw(2, value) if value is not None else b"") + encode_raw(3, paths)


def add(made, name, data=b"evil\n", **stat):
    """An entry whose name goes into the metadata as it stands, indexed by what lies between its slashes."""
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    offset, start = made.content.length, made.content.byte_length
    blocks = [data[i:i + drives.BLOCK_BYTES] for i in range(0, len(data), drives.BLOCK_BYTES)]
    if blocks:
        made.content.append(*blocks)
    values = dict(mode=FILE | 0o644, uid=0, gid=0, size=len(data), blocks=len(blocks), offset=offset, byteOffset=start,
                  mtime=1500000000000, ctime=1500000000000)
    values.update(stat)
    indexed = Node.decode(made.log.put(text, b""))
    made.append(raw_node(name, Stat(**values).encode(), indexed.paths))


def names(meaning, *bad, **more):
    made = fresh()
    for name in bad:
        add(made, name)
    return finish(meaning, made, bad, **more)


# ---- names ----------------------------------------------------------------------------------------

@case
def dotdot():
    return names("segments that lead out of the folder", "/../evil1", "/a/../../evil2", "/..", "/a/b/../../../evil3")


@case
def dot():
    return names("segments that stay where they are", "/./evil1", "/a/./evil2", "/.")


@case
def not_absolute():
    return names("names without a leading slash that lead out", "../evil1", "a/../../evil2")


@case
def slashes():
    return names("a slash too few or too many at the ends: the deployed code reads them as if it were right", "evil1",
                 "a/evil2", "/evil3/", either=True)


@case
def absolute():
    return names("names of files elsewhere", "//tmp/evil1", "//evil2")


@case
def empty_segment():
    return names("empty segments", "/a//evil1", "/a/evil2//")


@case
def root():
    return names("the folder itself as a file: nothing that could be laid out", "/", either=True)


@case
def empty_name():
    return names("no name at all: the same", "", either=True)


@case
def nul():
    return names("a NUL in the name", "/evil\x00.txt", "/a\x00b/evil", "/\x00")


@case
def dat():
    return names("the drive's own files", "/.dat/metadata.key", "/.dat/metadata.ogd", "/.dat/evil", "/.dat")


@case
def dat_case():
    return names("the drive's own files where upper and lower case are one", "/.DAT/metadata.key", "/.Dat/evil", either=True)


@case
def symlink():
    made = fresh()
    add(made, "/link/evil")
    add(made, "/sub/deep/link/evil")
    return finish("names through links that are there already", made, ["/link/evil", "/sub/deep/link/evil"],
                  plant={"/link": "OUTSIDE", "/sub/deep/link": "OUTSIDE"})


@case
def file_and_folder():
    """One of the two has to go; which one is the reader's choice."""
    made = fresh()
    add(made, "/twin", b"a file\n")
    add(made, "/twin/below", b"in the folder\n")
    return finish("a file where a folder must be", made, ["/twin", "/twin/below"], either=True)


@case
def long_names():
    return names("a segment of 300 bytes, and a path of 5,000", "/" + "n" * 300, "/" + "/".join(["d" * 99] * 50))


@case
def not_utf8():
    return names("names that are not UTF-8", b"/evil\xff", b"/\xc0\xae\xc0\xae/evil", b"/\xed\xa0\x80/evil")


@case
def backslash():
    return names("backslashes: letters here, separators elsewhere", "/..\\evil", "/a\\..\\..\\evil", either=True)


@case
def control():
    return names("what a terminal would obey", "/\x1b[2Jevil", "/evil\nok 5", "/evil\r", either=True)


# ---- stats ----------------------------------------------------------------------------------------

def stats(meaning, *changes, **more):
    """Entries /bad0, /bad1, ..., each with some of its Stat changed."""
    made = fresh()
    bad = []
    for i, change in enumerate(changes):
        bad.append("/bad%d" % i)
        add(made, bad[-1], b"some bytes of %d\n" % i, **change)
    return finish(meaning, made, bad, **more)


@case
def beyond():
    return stats("content that is not there", {"offset": 1000}, {"blocks": 1000}, {"size": 1 << 40},
                 {"offset": 1 << 52}, {"blocks": 1 << 52}, {"offset": (1 << 64) - 1}, {"offset": (1 << 64) - 1, "blocks": 2},
                 {"size": (1 << 64) - 1})


@case
def false_size():
    return stats("a size that is not that of the blocks", {"size": 3}, {"size": 100}, {"size": 0}, {"blocks": 0})


@case
def false_byte_offset():
    return stats("a byteOffset that is not that of the blocks", {"byteOffset": 0}, {"byteOffset": 1 << 50},
                 {"byteOffset": (1 << 64) - 1})


@case
def overlap():
    """All of them read well; they only share blocks."""
    made = fresh()
    add(made, "/one", b"x" * (2 * drives.BLOCK_BYTES))
    first = made.log.find("/one").stat
    add(made, "/same", b"", size=first.size, blocks=2, offset=first.offset, byteOffset=first.byteOffset)
    add(made, "/half", b"", size=drives.BLOCK_BYTES, blocks=1, offset=first.offset + 1,
        byteOffset=first.byteOffset + drives.BLOCK_BYTES)
    return finish("entries that share blocks", made, ["/one", "/same", "/half"], either=True)


@case
def types():
    return stats("neither files nor folders: a link, devices, a socket, a pipe", {"mode": 0o120777},
                 {"mode": 0o060666}, {"mode": 0o020666}, {"mode": 0o140777}, {"mode": 0o010666})


@case
def no_type():
    return stats("permissions alone", {"mode": 0o644}, either=True)


@case
def setuid():
    """They may be laid out, but never with these bits."""
    return stats("set-user-id, set-group-id, sticky", {"mode": 0o104755}, {"mode": 0o102755}, {"mode": 0o101777}, either=True)


@case
def no_stat():
    made = fresh()
    for name, value in (("/bad0", b""), ("/bad1", b"\x20\x05"), ("/bad2", b"\x08\xff"), ("/bad3", b"\xff" * 40)):
        made.append(raw_node(name, value, Node.decode(made.log.put(name, b"")).paths))
    return finish("values that are no Stat", made, ["/bad0", "/bad1", "/bad2", "/bad3"])


# ---- indexes and headers ----------------------------------------------------------------------------

def indexed(meaning, paths):
    """The newest entry has this index, which is a function of its number; nothing can be listed by it."""
    made = fresh()
    number = made.metadata.length
    value = Stat(FILE | 0o644, size=0, blocks=0).encode()
    made.append(raw_node("/evil", value, paths(number)))
    return Evil(meaning, made, {}, [], fatal=True)


@case
def index_forward():
    return indexed("an index that points forward", lambda n: deflate(n, [[1, n + 5], [n]]))


@case
def index_circle():
    """Entry 1 of a new drive points at 2, and 2 at 1."""
    made = Drive(seed=b"\x66" * 32)
    value = Stat(FILE | 0o644, size=0, blocks=0).encode()
    made.append(raw_node("/a/x", value, deflate(1, [[1, 2], [1, 2], [1]])))
    made.append(raw_node("/b/y", value, deflate(2, [[1, 2], [1, 2], [2]])))
    return Evil("indexes that go round", made, {}, [], fatal=True)


@case
def index_other_folder():
    made = fresh()
    made.put("/a/x", b"1")
    made.append(raw_node("/b/y", Stat(FILE | 0o644, size=0, blocks=0).encode(), deflate(3, [[1, 2, 3], [2, 3], [3]])))
    return Evil("an index that lists an entry of another folder", made, {}, [], fatal=True)


@case
def index_duplicates():
    return indexed("one entry, listed 5,000 times", lambda n: b"\x00\x88\x27\x01" + bytes(4999) + b"\x01" + wire.encode_varint(n))


@case
def index_endless():
    return indexed("a list of 2^60 in no bytes", lambda n: b"\x01" + wire.encode_varint(1 << 60))


@case
def index_cut():
    return indexed("an index that ends inside a number", lambda n: b"\x01\x02\x80")


@case
def index_levels():
    made = indexed("100,000 levels: those beyond the path are of no use", lambda n: b"\x01" + bytes(100000))
    made.either = True
    return made


@case
def index_none():
    made = fresh()
    made.append(Node("/evil", Stat(FILE | 0o644).encode()).encode())
    return Evil("an entry without an index", made, {}, [], fatal=True)


@case
def no_node():
    made = fresh()
    made.append(b"\xff\xff\xff")
    return Evil("an entry that does not decode", made, {}, [], fatal=True)


def headed(meaning, header):
    """A drive with another block 0; the content feed is an honest one."""
    secret = sodium.keypair(b"\x66" * 32)[1]
    honest = Drive(secret_key=secret)
    made = Drive(secret[32:])
    made.metadata.secret_key = secret
    made.content = honest.content
    made.metadata.append(header(honest))
    made.put("/good.txt", GOOD["/good.txt"])
    return Evil(meaning, made, {}, [], fatal=True)


@case
def header_type():
    return headed("the header of another type", lambda d: Index("hypertrie", d.content.key).encode())


@case
def header_same_key():
    return headed("the metadata feed as its own content", lambda d: Index(drives.TYPE, d.key).encode())


@case
def header_no_key():
    return headed("a header without a content key", lambda d: Index(drives.TYPE).encode())


@case
def header_short_key():
    return headed("a content key of 31 bytes", lambda d: Index(drives.TYPE, d.content.key[:31]).encode())


@case
def header_missing():
    return headed("an entry where the header must be",
                  lambda d: raw_node("/first", Stat(FILE | 0o644, size=0, blocks=0).encode(), b"\x01\x00\x00"))


@case
def header_empty():
    return headed("a header of no bytes", lambda d: b"")
