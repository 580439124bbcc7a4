"""A drive: a folder of files in two feeds (PROTOCOL 18; hyperdrive 9, append-tree 2.4).

Block 0 of the metadata feed is an Index, which names the content feed; each other block is a Node,
one change of one path. A Node's `paths` index every folder on the way to it: for the root, then
for each segment of the path, the newest entries of what is in there. So the last block of a
version tells all of that version, and only blocks before it are ever pointed to.

    Index, Node, Stat   the messages
    inflate, deflate    the index of a Node
    Log                 the metadata blocks: look-up, listing, history, and what put and delete append
    Drive               both feeds, with files; write_folder and read_folder keep it as `dat` does
    serve, clone        a drive on one connection
"""

import os
import stat as modes
from dataclasses import dataclass
from typing import NamedTuple, Optional

from . import sleep, sodium, wire
from .bitfield import PAGE_BYTES, Bits
from .cipher import discovery_key
from .feed import Feed, content_key_pair
from .peer import MAX_BLOCKS, Conversation, _Channel
from .tree import VerifyError
from .wire import BYTES, STRING, UINT, CodecError, Message, encode_varint, optional, required

TYPE = "hyperdrive"
BLOCK_BYTES = 65536  # into which files are cut when they are imported
MAX_PATH = 4096
MAX_NAME = 255
MAX_UINT32 = (1 << 32) - 1
FILE, FOLDER = 0o100000, 0o040000


class DriveError(ValueError):
    """These blocks are no drive, or no entry of one."""


class BadIndex(DriveError):
    """An entry's index does not decode, or does not point back at entries of the same folder."""


class NotFound(DriveError):
    """This version has no such entry."""


# ---- messages -----------------------------------------------------------------------------------

@dataclass
class Index(Message):
    """Block 0 of the metadata."""
    type: str
    content: Optional[bytes] = None
    FIELDS = (required(STRING, "type", 1), optional(BYTES, "content", 2))


@dataclass
class Stat(Message):
    """What is known of a file. Times are in ms; offset and blocks count content blocks."""
    mode: int
    uid: Optional[int] = None
    gid: Optional[int] = None
    size: Optional[int] = None
    blocks: Optional[int] = None
    offset: Optional[int] = None
    byteOffset: Optional[int] = None
    mtime: Optional[int] = None
    ctime: Optional[int] = None
    FIELDS = (required(UINT, "mode", 1), optional(UINT, "uid", 2), optional(UINT, "gid", 3),
              optional(UINT, "size", 4), optional(UINT, "blocks", 5), optional(UINT, "offset", 6),
              optional(UINT, "byteOffset", 7), optional(UINT, "mtime", 8), optional(UINT, "ctime", 9))

    def check(self):
        super().check()
        for name in ("mode", "uid", "gid"):
            if self.read(name) > MAX_UINT32:
                raise CodecError("Stat.%s has more than 32 bits" % name)

    @property
    def is_file(self):
        return modes.S_IFMT(self.mode) == FILE

    @property
    def is_folder(self):
        return modes.S_IFMT(self.mode) == FOLDER

    @property
    def range(self):
        """(first, end) of its content blocks."""
        return self.read("offset"), self.read("offset") + self.read("blocks")


@dataclass
class Node(Message):
    """An entry. Without a value it deletes; a value of no bytes is there, and is no Stat."""
    name: str
    value: Optional[bytes] = None
    paths: Optional[bytes] = None
    FIELDS = (required(STRING, "name", 1), optional(BYTES, "value", 2), optional(BYTES, "paths", 3))

    @property
    def stat(self):
        return None if self.value is None else Stat.decode(self.value)


def content_key(metadata_block_0):
    """The content feed's key, from the metadata's first block."""
    try:
        index = Index.decode(metadata_block_0)
    except CodecError as error:
        raise DriveError("block 0 is no header: %s" % error) from None
    if index.type != TYPE:
        raise DriveError("a header of type %r" % index.type)
    if index.content is None or len(index.content) != sodium.KEY_BYTES:
        raise DriveError("the header has no content key")
    return index.content


# ---- paths --------------------------------------------------------------------------------------

def split(name):
    """`/a/b` -> [a, b]. One slash before and one behind are dropped, no more: `//a` has three
    segments less one, the first of them empty."""
    names = name.split("/")
    if names and names[0] == "":
        del names[0]
    if names and names[-1] == "":
        del names[-1]
    return names


def join(names):
    return "/" + "/".join(names)


def common(a, b):
    """How many segments two paths share."""
    count = 0
    while count < len(a) and count < len(b) and a[count] == b[count]:
        count += 1
    return count


def path_problem(name):
    """Why an entry of this name must not be laid out, as a sentence; None if it may be.

    A backslash is a letter like any other where it does not part names.
    """
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    raw = name.encode("utf-8", "surrogateescape")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return "it is not UTF-8"
    if not name.startswith("/"):
        return "it does not begin with a slash"
    if "\x00" in name:
        return "it has a NUL"
    names = name[1:].split("/")
    if "" in names:
        return "it has an empty segment"
    if "." in names or ".." in names:
        return "it has a segment of dots"
    if names[0].lower() == ".dat":
        return "it is where the drive's own files are"
    if len(raw) >= MAX_PATH:
        return "it is too long"
    if any(len(n.encode()) > MAX_NAME for n in names):
        return "a segment of it is too long"
    return None


# ---- the index ----------------------------------------------------------------------------------

def deflate(number, index):
    """Bytes of an index: a list of entry numbers for each level, ascending.

    Bit 0 of the header says that every list ends with the entry's own number, which is left out.
    """
    own_at_end = all(level and level[-1] == number for level in index)
    out = [encode_varint(int(own_at_end))]
    for level in index:
        level = level[:-1] if own_at_end else level
        out.append(encode_varint(len(level)))
        out += [encode_varint(b - a) for a, b in zip([0] + list(level), level)]
    return b"".join(out)


def inflate(number, data):
    """The lists of an index. BadIndex for one that is cut off, claims more numbers than it has
    bytes, or points at the header, at one entry twice, or beyond its own entry."""
    if data is None:
        raise BadIndex("entry %d has no index" % number)
    try:
        header, at = wire.decode_varint(data)
        index = []
        while at < len(data):
            count, at = wire.decode_varint(data, at)
            if count > len(data) - at:
                raise BadIndex("a list of %d entries in %d bytes" % (count, len(data) - at))
            level, last = [], 0
            for _ in range(count):
                step, at = wire.decode_varint(data, at)
                last += step
                if step == 0:
                    raise BadIndex("entry %d lists %d twice, or the header" % (number, last))
                if last > number:
                    raise BadIndex("entry %d points forward, at %d" % (number, last))
                level.append(last)
            if header & 1:
                if level and level[-1] == number:
                    raise BadIndex("entry %d lists itself twice" % number)
                level.append(number)
            index.append(level)
    except CodecError as error:
        raise BadIndex("the index of entry %d: %s" % (number, error)) from None
    return index


# ---- the log ------------------------------------------------------------------------------------

class Entry(NamedTuple):
    """A Node, read: its number, its name in segments, and its index."""
    number: int
    node: Node
    names: list
    index: list

    @property
    def name(self):
        return self.node.name

    @property
    def live(self):
        return self.node.value is not None

    @property
    def stat(self):
        return self.node.stat

    def level(self, k):
        return self.index[k] if k < len(self.index) else []


class Log:
    """The blocks of a metadata feed: any object with len() and blocks[i] as bytes.

    Versions are entry numbers: version v is what was there when block v was the last one, and
    version 0 is the empty drive. Without a version the newest is meant.
    """

    def __init__(self, blocks=None):
        self.blocks = [] if blocks is None else blocks
        self._entries = {}

    @property
    def version(self):
        return max(0, len(self.blocks) - 1)

    def content_key(self):
        if not len(self.blocks):
            raise DriveError("there is no header")
        return content_key(self.blocks[0])

    def entry(self, number):
        if not 1 <= number < len(self.blocks):
            raise NotFound("there is no entry %d" % number)
        if number not in self._entries:
            try:
                node = Node.decode(self.blocks[number])
            except CodecError as error:
                raise DriveError("entry %d: %s" % (number, error)) from None
            names, index = split(node.name), inflate(number, node.paths)
            if len(index) > len(names) + 1:
                raise BadIndex("entry %d has more levels than its path" % number)
            self._entries[number] = Entry(number, node, names, index)
        return self._entries[number]

    def _head(self, version):
        version = self.version if version is None else version
        return self.entry(version) if version else None

    def _members(self, entry, k):
        """The entries that the index of `entry` lists on level k, which must be of that folder."""
        found = []
        for number in entry.level(k):
            member = entry if number == entry.number else self.entry(number)
            if member.names[:k] != entry.names[:k]:
                raise BadIndex("entry %d lists entry %d, of another folder" % (entry.number, number))
            found.append(member)
        return found

    def _members_of(self, names, version):
        """The entries that stand for what is in a folder: the newest of each of its children, and
        the entry of the folder's own name if it has one."""
        entry = self._head(version)
        while entry is not None:
            k = common(entry.names, names)
            if k == len(names):
                return self._members(entry, k)
            entry = next((m for m in self._members(entry, k) if m.number != entry.number
                          and k < len(m.names) and m.names[k] == names[k]), None)
        return []

    def find(self, path, version=None):
        """The entry of this path. NotFound if there is none in this version, or it was deleted."""
        names, entry = split(path), self._head(version)
        while entry is not None and entry.names != names:
            k = common(entry.names, names)
            target = names[k] if k < len(names) else None
            entry = next((m for m in self._members(entry, k) if m.number != entry.number
                          and (m.names[k] if k < len(m.names) else None) == target), None)
        if entry is None or not entry.live:
            raise NotFound("%s is not there" % join(names))
        return entry

    def list(self, path="/", version=None):
        """The names in a folder, sorted."""
        names = split(path)
        return sorted({m.names[len(names)] for m in self._members_of(names, version)
                       if len(m.names) > len(names)})

    def listing(self, version=None):
        """Everything in a version: {path: entry number}."""
        head, found, stack = self._head(version), {}, []
        if head is not None:
            stack.append((head, 0))
        while stack:
            entry, k = stack.pop()
            for member in self._members(entry, k):
                if len(member.names) <= k + 1 and member.live:
                    found[join(member.names)] = member.number
                if len(member.names) > k and k + 1 < len(member.index):
                    stack.append((member, k + 1))
        return found

    def history(self):
        """Every change: (number, "put" or "del", path)."""
        for number in range(1, len(self.blocks)):
            entry = self.entry(number)
            yield number, "put" if entry.live else "del", entry.name

    # -- what an owner appends --

    def put(self, path, value):
        """The block that puts `value` (a Stat, or its bytes) at a path."""
        names, number = split(path), len(self.blocks)
        index = []
        for k in range(len(names) + 1):
            name = names[k] if k < len(names) else None
            index.append([m.number for m in self._members_of(names[:k], None)
                          if (m.names[k] if k < len(m.names) else None) != name] + [number])
        value = value.encode() if isinstance(value, Message) else bytes(value)
        return Node(join(names), value, deflate(number, index)).encode()

    def delete(self, path, deployed=True):
        """The block that deletes a path; it need not be there. None in an empty log.

        The index ends with the deepest folder that has something else in it. What the deployed
        code takes for such are only entries that are not deletions themselves, so that a folder
        whose newest change was a deletion is passed over, and with it all that is still in there
        is lost (`deployed`); else whatever is listed counts, but what stands for the way to the
        deleted entry itself.
        """
        if not self.version:
            return None
        names, number = split(path), len(self.blocks)
        gone, depth = join(names), 1
        for k in range(len(names), -1, -1):
            others = [m for m in self._members_of(names[:k], None) if m.name != gone]
            if deployed:
                others = [m for m in others if m.live]
            else:
                others = [m for m in others
                          if k == len(names) or k >= len(m.names) or m.names[k] != names[k]]
            if others:
                depth = common(names, others[-1].names) + 1
                break
        index = []
        for k in range(min(depth, len(names) + 1)):
            name = names[k] if k < len(names) else None
            level = [m.number for m in self._members_of(names[:k], None) if m.name != gone
                     and (m.names[k] if k < len(m.names) else None) != name]
            index.append(level + [number] if k + 1 < depth else level)
        return Node(gone, None, deflate(number, index)).encode()


# ---- a whole drive ------------------------------------------------------------------------------

class Drive:
    """Both feeds of a drive. With a secret key (64 bytes) or a seed it is the owner's.

    `deployed` says which deletions are written: see Log.delete.
    """

    def __init__(self, key=None, secret_key=None, seed=None, deployed=False):
        if key is None and secret_key is None:
            secret_key = sodium.keypair(seed)[1]
        self.deployed = deployed
        self.metadata = Feed(key, secret_key)
        self.content = None
        self.log = Log(_Blocks(self.metadata))
        if self.metadata.writable:
            self.content = Feed(secret_key=content_key_pair(secret_key)[1])
            self.metadata.append(Index(TYPE, self.content.key).encode())

    @property
    def key(self):
        return self.metadata.key

    @property
    def version(self):
        return self.log.version

    def open_content(self):
        """The content feed, from the header; DriveError if there is none."""
        if self.content is None:
            key = self.log.content_key()
            if key == self.key:
                raise DriveError("the content key is the metadata key")
            self.content = Feed(key)
        return self.content

    # -- the owner --

    def put(self, path, data=b"", mode=0o100644, mtime=0, ctime=None, uid=0, gid=0, blocks=None):
        """Put a file, cut into blocks as `dat` cuts it, or into those of a list. Returns the version."""
        if blocks is None:
            blocks = [data[i:i + BLOCK_BYTES] for i in range(0, len(data), BLOCK_BYTES)]
        offset, start = self.content.length, self.content.byte_length
        if blocks:
            self.content.append(*blocks)
        return self.put_stat(path, Stat(mode, uid, gid, sum(map(len, blocks)), len(blocks), offset, start,
                                        mtime, mtime if ctime is None else ctime))

    def mkdir(self, path, mode=0o40755, mtime=0, ctime=None, uid=None, gid=None):
        """Put an entry for a folder; `dat` itself makes none."""
        return self.put_stat(path, Stat(mode, uid, gid, None, None, self.content.length,
                                        self.content.byte_length, mtime,
                                        mtime if ctime is None else ctime))

    def put_stat(self, path, stat):
        """An entry with a Stat of one's own, or any bytes in its place."""
        return self.append(self.log.put(path, stat))

    def delete(self, path):
        return self.append(self.log.delete(path, self.deployed))

    def append(self, block):
        """Any block to the metadata."""
        return self.metadata.append(block) if block is not None else self.version

    # -- everybody --

    def file(self, path, version=None):
        """The bytes of a file; NotFound where a block of it is not here."""
        entry = self.log.find(path, version)
        first, end = entry.stat.range
        try:
            return b"".join(self.content.blocks[i] for i in range(first, end))
        except KeyError as missing:
            raise NotFound("%s: block %s is not here" % (path, missing)) from None

    def files(self, version=None):
        """{path: bytes} of the files of a version."""
        stats = ((path, self.log.entry(n).stat) for path, n in self.log.listing(version).items())
        return {path: self.file(path, version) for path, stat in stats if stat.is_file}

    def needed(self, version=None):
        """The content blocks of a version's files, as a set."""
        blocks = set()
        for number in self.log.listing(version).values():
            first, end = self.log.entry(number).stat.range
            if end - first > MAX_BLOCKS:
                raise DriveError("entry %d has %d blocks" % (number, end - first))
            blocks.update(range(first, end))
        return blocks

    def complete(self, version=None):
        """All metadata, and the content of this version, is here."""
        return self.metadata.complete and self.metadata.length > 0 and self.content is not None \
            and all(map(self.content.has, self.needed(version)))

    def audit(self, version=None):
        """What is wrong with the entries of a version, as sentences: paths, types, ranges."""
        problems, taken = [], {}
        for path, number in sorted(self.log.listing(version).items()):
            entry = self.log.entry(number)
            problem = path_problem(entry.name) or self._audit_stat(entry)
            if problem:
                problems.append("%s: %s" % (entry.name, problem))
                continue
            for i in range(*entry.stat.range):
                if taken.setdefault(i, path) != path:
                    problems.append("%s: it shares block %d with %s" % (path, i, taken[i]))
                    break
        return problems

    def _audit_stat(self, entry):
        try:
            stat = entry.stat
        except CodecError as error:
            return str(error)
        first, end = stat.range
        if stat.is_folder:
            return None
        if not stat.is_file:
            return "it is neither a file nor a folder"
        if end > self.content.length:
            return "its blocks lie outside the content"
        start, size = stat.read("byteOffset"), stat.read("size")
        try:
            if (self.content.tree.byte_offset(first), self.content.tree.byte_offset(end)) != (start, start + size):
                return "its offsets and sizes are not those of its blocks"
        except (VerifyError, KeyError):
            pass  # a reader that lacks the nodes can't tell
        return None


class _Blocks:
    """The blocks of a feed as a list; one that is not here is an IndexError."""

    def __init__(self, feed):
        self._feed = feed

    def __len__(self):
        return self._feed.length

    def __getitem__(self, i):
        if i not in self._feed.blocks:
            raise NotFound("metadata block %d is not here" % i)
        return self._feed.blocks[i]


# ---- a dat folder -------------------------------------------------------------------------------

DAT = ".dat"


def secret_file(secret_dir, key):
    """Where the secret key of this metadata key is kept."""
    name = discovery_key(key).hex()
    return os.path.join(secret_dir, name[:2], name[2:])


def _write(name, data):
    os.makedirs(os.path.dirname(name), exist_ok=True)
    with open(name, "wb") as file:
        file.write(data)


def place(folder, path):
    """The file of an entry; its path must be one that may be laid out."""
    problem = path_problem(path)
    if problem:
        raise DriveError("%r: %s" % (path, problem))
    return os.path.join(os.fsencode(folder), path[1:].encode("utf-8", "surrogateescape"))


def write_folder(drive, folder, secret_dir=None, version=None, times=False, lay_out=True, page_bytes=PAGE_BYTES):
    """Keep a drive as `dat` does: the feeds in .dat, the content in the files themselves.

    With `secret_dir` it is the owner's folder, else a reader's, with `version` (the newest) laid
    out. Of the content only the blocks of that version are claimed. Mode and mtime are set with
    `times`; the deployed code sets neither.
    """
    inside = os.path.join(str(folder), DAT)
    for name, data in sleep.files(drive.metadata, page_bytes).items():
        if name != "secret_key":
            _write(os.path.join(inside, "metadata." + name), data)
    if drive.content is not None:
        kept = drive.needed(version)
        for name, data in sleep.files(only(drive.content, kept), page_bytes).items():
            if name not in ("data", "secret_key"):
                _write(os.path.join(inside, "content." + name), data)
    if secret_dir is not None:
        _write(os.path.join(inside, "metadata.ogd"), b"\x00")
        _write(secret_file(str(secret_dir), drive.key), drive.metadata.secret_key)
    else:
        number = drive.version if version is None else version
        _write(os.path.join(inside, "metadata.latest"), number.to_bytes(8, "big"))
    if not lay_out:
        return
    for path, number in sorted(drive.log.listing(version).items()):
        stat, where = drive.log.entry(number).stat, place(folder, path)
        if stat.is_folder:
            os.makedirs(where, exist_ok=True)
            continue
        _write(where, drive.file(path, version))
        if times:
            os.chmod(where, stat.mode & 0o777)
            seconds = stat.read("mtime") * 1000000
            os.utime(where, ns=(seconds, seconds))


def only(feed, blocks):
    """A copy of a feed that claims no more than these of its blocks."""
    part = Feed(feed.key, None, feed.live)
    part.length, part.tree, part.signatures = feed.length, feed.tree, feed.signatures
    part.blocks = {i: data for i, data in feed.blocks.items() if i in blocks}
    part.bitfield = Bits()
    for i in blocks:
        part.bitfield.set(i, feed.has(i))
    return part


class Folder(NamedTuple):
    """A dat folder as it was read."""
    drive: Drive
    owner: bool  # metadata.ogd is there
    latest: Optional[int]  # metadata.latest
    archive: bool  # there is a content.data


def read_folder(folder, secret_dir=None):
    """Read a dat folder, taken at its word: `audit_folder` judges it. Of the content, the blocks
    that lie in the files of the newest version are found, whether they are right or not."""
    inside = os.path.join(str(folder), DAT)
    metadata = sleep.read(inside, "metadata.")
    owner = os.path.exists(os.path.join(inside, "metadata.ogd"))
    if owner and secret_dir is not None:
        with open(secret_file(str(secret_dir), metadata.key), "rb") as file:
            metadata.secret_key = file.read()
    drive = Drive(metadata.key)
    drive.metadata = metadata
    drive.log = Log(_Blocks(metadata))
    latest = None
    try:
        with open(os.path.join(inside, "metadata.latest"), "rb") as file:
            latest = int.from_bytes(file.read(8), "big")
    except FileNotFoundError:
        pass
    files = sleep.read_files(inside, "content.")
    if "key" in files:
        drive.content = sleep.load(files)
        if "data" not in files:
            _read_content(drive, folder)
    return Folder(drive, owner, latest, "data" in files)


def _read_content(drive, folder):
    try:
        listing = drive.log.listing()
    except DriveError:
        return  # a reader that lacks metadata
    for path, number in listing.items():
        stat = drive.log.entry(number).stat
        if not stat.is_file or path_problem(path):
            continue
        try:
            with open(place(folder, path), "rb") as file:
                data = file.read()
        except OSError:
            continue
        at = 0
        for i in range(*stat.range):
            if not drive.content.has(i):
                node = drive.content.tree.nodes.get(2 * i)
                if node is None:
                    break
                at += node.size
                continue
            size = drive.content.tree.get(2 * i).size
            if at + size <= len(data):
                drive.content.blocks[i] = data[at:at + size]
            at += size


def audit_folder(folder):
    """What is wrong with a dat folder, as sentences: the feeds' files, and every content block
    that is claimed and lies in the file of an entry of the newest version."""
    inside = os.path.join(str(folder), DAT)
    problems = ["metadata: " + p for p in sleep.audit(inside, "metadata.")]
    try:
        read = read_folder(folder)
        drive = read.drive
        if drive.content is None:
            return problems
        problems += ["content: " + p for p in sleep.audit(inside, "content.", data=read.archive)]
        if drive.metadata.has(0) and drive.log.content_key() != drive.content.key:
            problems.append("the content key is not that of the header")
        if not read.archive and drive.metadata.complete:
            claimed = {p.split()[1] for p in drive.content.audit() if p.startswith("block ")}
            needed = drive.needed()
            problems += ["block %s is not in its file" % i for i in sorted(map(int, claimed)) if i in needed]
    except (DriveError, CodecError, sleep.SleepError) as error:
        problems.append(str(error))
    return problems


# ---- on a connection ----------------------------------------------------------------------------

class DriveConversation(Conversation):
    """Serves a drive, or with `download` fills it: all metadata, and as soon as the header is there
    the content. It is complete with the content of the newest version."""

    def __init__(self, peer, drive, download=False, **options):
        self.drive = drive
        more, feeds = options.pop("on_block", None), [drive.metadata]
        if drive.content is not None:
            feeds.append(drive.content)

        def on_block(feed, index):
            if feed is drive.metadata and index == 0 and drive.content is None:
                self._open_content()
            if more:
                more(feed, index)
        super().__init__(peer, feeds, download=download, on_block=on_block, **options)

    def _open_content(self):
        content = self.drive.open_content()
        channel = self.by_key[content.key] = _Channel(content, True)
        self.peer.open(content.key)
        channel.remote_opened = content.discovery_key in self.peer.remote_feeds.values()
        if channel.remote_opened and self.peer.remote_handshake:
            self._send_wants(channel)

    @property
    def complete(self):
        return self.by_key[self.drive.key].answers > 0 and self.drive.complete()

    def _finish(self, channel):
        if self.download and not self.live and self.complete:
            super()._finish(channel)
            for each in self.by_key.values():
                if each.download and not each.info_sent:
                    each.info_sent = True
                    self._send(each, wire.Info(True, False))


def serve(peer, drive, **options):
    """Serve a drive to this peer until the conversation ends."""
    DriveConversation(peer, drive, **options).run()


def clone(peer, key, **options):
    """Download a drive; returns it when the newest version is there."""
    drive = Drive(key)
    DriveConversation(peer, drive, download=True, **options).run()
    return drive
