"""Bits, the run-length code of Have.bitfield, and the page of the SLEEP bitfield file.

Everywhere the most significant bit of a byte comes first: bit i is in byte i / 8, mask
80h >> (i & 7). (PROTOCOL 10.7, 17.3, 17.4; DEP 0009.)
"""

from . import flat
from .wire import CodecError, decode_varint, encode_varint

PAGE_BLOCKS = 8192
DATA_BYTES, TREE_BYTES, INDEX_BYTES = 1024, 2048, 512
PAGE_BYTES = DATA_BYTES + TREE_BYTES + INDEX_BYTES  # 3584
OLD_PAGE_BYTES = 3328  # what versions before 6.22.1 write; all can read it
MAX_DECODED = 1 << 20  # bytes: 8 Mi blocks, eight times the largest Want that is sent


class Bits:
    """A bit set that grows as needed."""

    def __init__(self, data=b""):
        self._bytes = bytearray(data)

    def get(self, i):
        return i >> 3 < len(self._bytes) and bool(self._bytes[i >> 3] & 0x80 >> (i & 7))

    def set(self, i, value=True):
        """Returns whether this changed anything."""
        if self.get(i) == bool(value):
            return False
        if i >> 3 >= len(self._bytes):
            self._bytes += bytes((i >> 3) + 1 - len(self._bytes))
        self._bytes[i >> 3] ^= 0x80 >> (i & 7)
        return True

    def bytes(self, start, length):
        """`length` bytes from byte `start` on, zeros beyond the end."""
        part = bytes(self._bytes[start:start + length])
        return part + bytes(length - len(part))

    def replace(self, start, data):
        """Overwrite whole bytes from byte `start` on."""
        if len(self._bytes) < start + len(data):
            self._bytes += bytes(start + len(data) - len(self._bytes))
        self._bytes[start:start + len(data)] = data

    def __bytes__(self):
        """All bytes up to the last one that is not zero."""
        return bytes(self._bytes).rstrip(b"\x00")

    def __iter__(self):
        for i, byte in enumerate(self._bytes):
            if byte:
                yield from (8 * i + j for j in range(8) if byte & 0x80 >> j)

    def __len__(self):
        """One more than the highest set bit."""
        data = bytes(self)
        if not data:
            return 0
        low = data[-1] & -data[-1]  # the last bit of the last byte
        return 8 * len(data) - low.bit_length() + 1

    def count(self):
        return sum(bin(byte).count("1") for byte in self._bytes)


# ---- the run-length code ----------------------------------------------------------------------

def _runs(data):
    """(first, end) of each maximal stretch of equal bytes that are all 00 or all ff."""
    start = 0
    while start < len(data):
        end = start + 1
        if data[start] in (0x00, 0xFF):
            while end < len(data) and data[end] == data[start]:
                end += 1
            yield start, end
        start = end


def _literal(data):
    return encode_varint(len(data) << 1) + data if data else b""


def rle_encode(data):
    """Runs `varint(bytes << 2 | bit << 1 | 1)`, literals `varint(bytes << 1)` and the bytes.

    Zero bytes at the end are left out. A run is written as one only where that is shorter than
    making it part of the literal which is pending before it.
    """
    data = bytes(data).rstrip(b"\x00")
    out, pending = [], 0
    for start, end in _runs(data):
        head = _literal(data[pending:start])
        run = encode_varint(end - start << 2 | (data[start] & 1) << 1 | 1)
        if len(head) + len(run) < len(_literal(data[pending:end])):
            out += [head, run]
            pending = end
    out.append(_literal(data[pending:]))
    return b"".join(out)


def rle_decode(code, align=1, limit=MAX_DECODED):
    """The bytes, padded with zeros to a multiple of `align` (4 in replication).

    CodecError for a code that is cut off or would decode to more than `limit` bytes.
    """
    out, position = bytearray(), 0
    while position < len(code):
        head, position = decode_varint(code, position)
        if head & 1:
            size, fill = head >> 2, b"\xff" if head & 2 else b"\x00"
        else:
            size = head >> 1
            if size > len(code) - position:
                raise CodecError("a bitfield's literal is cut off")
        if size > limit - len(out):
            raise CodecError("a bitfield decodes to more than %d bytes" % limit)
        if head & 1:
            out += fill * size
        else:
            out += code[position:position + size]
            position += size
    return bytes(out) + bytes(-len(out) % align)


# ---- the SLEEP bitfield file ------------------------------------------------------------------

def _two_bits(byte):
    """A data byte in the index: 11 all set, 00 none, 01 mixed."""
    return 3 if byte == 0xFF else 1 if byte else 0


def _half(nibble):
    return 3 if nibble == 15 else 1 if nibble else 0


def _nibble(byte):
    """An index byte in its parent: each of its two halves reduced to two bits."""
    return _half(byte >> 4) << 2 | _half(byte & 15)


def index_bytes(data):
    """The index over all pages' block bits: a flat tree with a leaf for each four bytes."""
    index = bytearray(len(data) // 2)
    for leaf in range(0, len(index), 2):
        a, b, c, d = data[2 * leaf:2 * leaf + 4]
        index[leaf] = _two_bits(a) << 6 | _two_bits(b) << 4 | _two_bits(c) << 2 | _two_bits(d)
    depth = 1
    while (1 << depth) - 1 < len(index):  # the parents of one depth after the other
        for node in range((1 << depth) - 1, len(index), 2 << depth):
            left, right = flat.children(node)
            index[node] = _nibble(index[left]) << 4
            if right < len(index):
                index[node] |= _nibble(index[right])
        depth += 1
    return bytes(index)


def encode_pages(blocks, tree, page_bytes=PAGE_BYTES):
    """The pages of the bitfield file (what follows its header) from the two bit sets.

    The index is cut to what `page_bytes` leaves for it.
    """
    pages = max(-(-len(blocks) // PAGE_BLOCKS), -(-len(tree) // (2 * PAGE_BLOCKS)))
    index = index_bytes(blocks.bytes(0, pages * DATA_BYTES))
    room = page_bytes - DATA_BYTES - TREE_BYTES
    out = []
    for page in range(pages):
        out.append(blocks.bytes(page * DATA_BYTES, DATA_BYTES))
        out.append(tree.bytes(page * TREE_BYTES, TREE_BYTES))
        out.append(index[page * room:(page + 1) * room].ljust(room, b"\x00"))
    return b"".join(out)


def decode_pages(content, page_bytes=PAGE_BYTES):
    """(block bits, tree bits, index bytes) from the pages; a cut page reads as zeros."""
    blocks, tree, index = bytearray(), bytearray(), bytearray()
    for start in range(0, len(content), page_bytes):
        page = content[start:start + page_bytes].ljust(page_bytes, b"\x00")
        blocks += page[:DATA_BYTES]
        tree += page[DATA_BYTES:DATA_BYTES + TREE_BYTES]
        index += page[DATA_BYTES + TREE_BYTES:]
    return Bits(blocks), Bits(tree), bytes(index)
