"""SLEEP folders: a feed on disk (PROTOCOL 17; DEP 0009).

Each file but key, secret_key and data starts with a 32-byte header: `05 02 57`, the file's type,
version 0, u16be entry size, name length, name, zeros.
"""

import os

from . import flat, sodium
from .bitfield import PAGE_BYTES, Bits, decode_pages, encode_pages
from .feed import Feed
from .tree import Tree, VerifyError
from .wire import Node

HEADER_BYTES = 32
MAGIC = b"\x05\x02\x57"
BITFIELD, SIGNATURES, TREE = 0, 1, 2
ENTRY = {BITFIELD: PAGE_BYTES, SIGNATURES: 64, TREE: 40}
NAME = {BITFIELD: b"", SIGNATURES: b"Ed25519", TREE: b"BLAKE2b"}


class SleepError(ValueError):
    """A folder that cannot be read as a feed."""


def encode_header(type, entry=None):
    entry = ENTRY[type] if entry is None else entry
    name = NAME[type]
    head = MAGIC + bytes([type, 0]) + entry.to_bytes(2, "big") + bytes([len(name)]) + name
    return head.ljust(HEADER_BYTES, b"\x00")


def decode_header(data, type):
    """The entry size; SleepError if this is not a header of this type."""
    if len(data) < HEADER_BYTES or data[:3] != MAGIC:
        raise SleepError("not a SLEEP header")
    if data[3] != type or data[4] != 0:
        raise SleepError("a SLEEP header of type %d, version %d" % (data[3], data[4]))
    entry = int.from_bytes(data[5:7], "big")
    if entry != ENTRY[type] and not (type == BITFIELD and 3072 < entry):
        raise SleepError("entries of %d bytes" % entry)
    name = data[8:8 + data[7]]
    if name != NAME[type] or any(data[8 + data[7]:HEADER_BYTES]):
        raise SleepError("the header's name is %r" % bytes(name))
    return entry


# ---- files from a feed, and back --------------------------------------------------------------

def _entries(type, items):
    """A file of fixed entries: those that are not there are zeros, and nothing follows the last."""
    size = ENTRY[type]
    content = bytearray(size * (max(items) + 1)) if items else bytearray()
    for i, entry in items.items():
        content[i * size:(i + 1) * size] = entry
    return encode_header(type) + bytes(content)


def files(feed, page_bytes=PAGE_BYTES):
    """The feed as {file name: bytes}, byte for byte as the deployed code leaves them.

    Versions before 6.22.1 made pages of 3328 bytes, and read no others.
    """
    data = bytearray()
    for i in sorted(i for i in feed.blocks if feed.blocks[i]):
        start = feed.tree.byte_offset(i)
        data += bytes(max(0, start + len(feed.blocks[i]) - len(data)))
        data[start:start + len(feed.blocks[i])] = feed.blocks[i]
    out = {
        "bitfield": encode_header(BITFIELD, page_bytes) + encode_pages(feed.bitfield, held_bits(feed.tree), page_bytes),
        "signatures": _entries(SIGNATURES, feed.signatures),
        "tree": _entries(TREE, {i: n.hash + n.size.to_bytes(8, "big")
                                for i, n in feed.tree.nodes.items()}),
    }
    if feed.blocks:  # until the first block there is no such file
        out["data"] = bytes(data)
    if feed.key is not None:
        out["key"] = feed.key
    if feed.secret_key is not None:
        out["secret_key"] = feed.secret_key
    return out


def held_bits(tree):
    """The tree bits of the bitfield file."""
    bits = Bits()
    for i in tree.holding:
        bits.set(i)
    return bits


def write(feed, folder, prefix="", page_bytes=PAGE_BYTES):
    """Write a feed into a folder; `prefix` is `metadata.` or `content.` in a dat folder."""
    os.makedirs(folder, exist_ok=True)
    for name, content in files(feed, page_bytes).items():
        with open(os.path.join(folder, prefix + name), "wb") as file:
            file.write(content)


def read_files(folder, prefix=""):
    """{file name: bytes} of those of a feed's files that exist."""
    found = {}
    for name in ("key", "secret_key", "tree", "data", "bitfield", "signatures"):
        try:
            with open(os.path.join(folder, prefix + name), "rb") as file:
                found[name] = file.read()
        except FileNotFoundError:
            pass
    return found


def _split(content, type):
    """{index: entry} of the entries that are not all zeros; a cut last entry is not one."""
    entry = decode_header(content, type)
    body = content[HEADER_BYTES:]
    every = (body[i:i + entry] for i in range(0, len(body) - entry + 1, entry))
    return {i: bytes(e) for i, e in enumerate(every) if any(e)}


def load(found):
    """A Feed from {file name: bytes}, taken at its word: `audit` judges it.

    The length is found as the deployed code finds it, from the tree bits. A block whose bytes
    are not in the data file keeps its bit and is missing in `blocks`. An empty secret_key, which
    random-access-file 1 leaves behind, is none.
    """
    for name in ("key", "tree", "bitfield", "signatures"):
        if name not in found:
            raise SleepError("the file %s is missing" % name)
    if len(found["key"]) != sodium.KEY_BYTES:
        raise SleepError("the key has %d bytes" % len(found["key"]))
    entry = decode_header(found["bitfield"], BITFIELD)
    blocks, tree_bits, _ = decode_pages(found["bitfield"][HEADER_BYTES:], entry)
    nodes = _split(found["tree"], TREE)
    feed = Feed(bytes(found["key"]), found.get("secret_key") or None)
    feed.bitfield = blocks
    feed.tree = Tree(Node(i, e[:32], int.from_bytes(e[32:], "big"))
                     for i, e in nodes.items() if tree_bits.get(i))
    for i in tree_bits:
        feed.tree.holding.set(i)
    feed.length = feed.tree.holding.length()
    feed.signatures = _split(found["signatures"], SIGNATURES)
    feed.live = feed.length == 0 or feed.length - 1 in feed.signatures
    data = found.get("data", b"")
    for i in blocks:
        try:
            start = feed.tree.byte_offset(i)
            end = start + feed.tree.get(2 * i).size
        except (VerifyError, KeyError):
            continue
        if end <= len(data):
            feed.blocks[i] = bytes(data[start:end])
    return feed


def read(folder, prefix=""):
    return load(read_files(folder, prefix))


# ---- audit ------------------------------------------------------------------------------------

def audit(folder, prefix="", data=True, unfinished=False):
    """What is wrong with a feed on disk, as sentences; an empty list if nothing is.

    With `data=False` the blocks' bytes are not looked at: a drive's content feed keeps them in
    the files themselves. With `unfinished` a signature beyond the claimed length is no fault: the
    write that it belongs to was cut short, and nobody reads it.
    """
    found = read_files(folder, prefix)
    try:
        feed = load(found)
    except SleepError as error:
        return [str(error)]
    if unfinished:
        feed.signatures = {i: s for i, s in feed.signatures.items() if i < feed.length}
    problems = [p for p in feed.audit() if data or not p.endswith("without its data")]
    problems += ["node %d has a bit and no hash" % i
                 for i in feed.tree.holding if i not in feed.tree]
    entry = decode_header(found["bitfield"], BITFIELD)
    _, _, index = decode_pages(found["bitfield"][HEADER_BYTES:], entry)
    problems += _audit_index(feed.bitfield, index)
    if found.get("secret_key") and not _belongs(found["secret_key"], found["key"]):
        problems.append("the secret key is not that of the key")
    return problems


def _belongs(secret_key, key):
    return len(secret_key) == sodium.SECRET_KEY_BYTES and \
        sodium.verify(b"", sodium.sign(b"", secret_key), key)


def _audit_index(blocks, index):
    """An index that says 'all set' where a block is missing hides it; zeros are safe.

    Two bits of an even index byte stand for one byte of block bits.
    """
    problems = []
    for leaf in range(0, len(index), 2):
        for k, byte in enumerate(blocks.bytes(2 * leaf, 4)):
            if index[leaf] >> 6 - 2 * k & 3 == 3 and byte != 0xFF:
                problems.append("the index says that blocks %d to %d are all there"
                                % (8 * (2 * leaf + k), 8 * (2 * leaf + k) + 7))
    for node in range(1, len(index), 2):
        for child, nibble in zip(flat.children(node), (index[node] >> 4, index[node] & 15)):
            below = index[child] if child < len(index) else 0
            if nibble >> 2 == 3 and below >> 4 != 15 or nibble & 3 == 3 and below & 15 != 15:
                problems.append("the index byte %d claims more than the one below it" % node)
                break
    return problems
