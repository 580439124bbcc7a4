"""The packets by which peers find each other: DNS messages, to the group and to discovery servers, and the DHT's.

docs/PROTOCOL.md, chapters 22 to 26. Strict where deployed code is lenient: what raises PacketError is none of these
packets. Nothing here sends or decides anything.
"""

import base64
import struct
from typing import NamedTuple, Optional


class PacketError(ValueError):
    """These bytes are no packet, or no packet can be made of this."""


def need(truth, what):
    if not truth:
        raise PacketError(what)


# ---- names and addresses --------------------------------------------------------------------------

DOMAIN = (b"dat", b"local")
NAME_BYTES = 20


def labels(text):
    """Of a name with dots between its labels; the empty text is the root."""
    return tuple(label.encode("latin-1") for label in text.split(".")) if text else ()


def dotted(name):
    return b".".join(name).decode("latin-1")


def feed_of(name):
    """The 20 bytes that a name means: 40 lower-case hex digits in dat.local. None: it means none."""
    if len(name) != 3 or name[1:] != DOMAIN or len(name[0]) != 2 * NAME_BYTES or name[0].strip(b"0123456789abcdef"):
        return None
    return bytes.fromhex(name[0].decode())


def name_of(feed):
    return (feed.hex().encode(),) + DOMAIN


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self):
        return "%s:%d" % self

    @classmethod
    def parse(cls, text):
        host, _, port = text.partition(":")
        return cls(".".join(map(str, host_bytes(host))), decimal(port.encode(), 65535))


def host_bytes(text):
    parts = text.split(".")
    need(len(parts) == 4, "no IPv4 address: %s" % text)
    return bytes(decimal(p.encode(), 255) for p in parts)


def decimal(text, most):
    """A number without a sign or needless zeros."""
    need(text and not text.strip(b"0123456789") and (text[:1] != b"0" or len(text) == 1) and len(text) <= 10, "no number: %r" % text)
    need(int(text) <= most, "more than %d: %s" % (most, int(text)))
    return int(text)


def pack(address):
    return host_bytes(address.host) + struct.pack(">H", address.port)


def unpack(data):
    need(len(data) == 6, "an address of %d bytes" % len(data))
    return Address(".".join(map(str, data[:4])), struct.unpack(">H", data[4:])[0])


# ---- DNS messages ---------------------------------------------------------------------------------

INTERNET, GROUP_BIT = 1, 0x8000  # the class, and a bit of it that means something else in the group
A, TXT, SRV = 1, 16, 33
PARTS = ("question", "answer", "authority", "additional")
HEADER, MAX_NAME, MAX_LABEL, MAX_STRING = 12, 255, 63, 255
MAX_PEERS = 31  # base64 of more, behind `peers=`, is no string
KEYS = ("subscribe", "token", "host", "port", "peers", "announce", "unannounce")  # as they are written


class Item(NamedTuple):
    """A question or record. `value`: of TXT its strings, of SRV an Address whose host is None if it is no IPv4 address,
    of A the host, of others bytes, of a question None."""
    part: str
    name: tuple
    type: int
    cls: int = INTERNET
    ttl: int = 0
    value: object = None


class Packet(NamedTuple):
    id: int
    flags: int
    items: tuple


def read_name(data, at):
    """(labels, where it ends). A pointer leads backwards from where the last one led, so each name ends."""
    found, end, least, size = [], None, at, 1
    while True:
        need(at < len(data), "a name beyond the packet")
        length = data[at]
        if length >= 0xc0:
            need(at + 1 < len(data), "half a pointer")
            end = at + 2 if end is None else end
            at = (length & 63) << 8 | data[at + 1]
            need(HEADER <= at < least, "a pointer that does not lead back")
            least = at
            continue
        need(length <= MAX_LABEL, "a label of %d bytes" % length)
        need(at + 1 + length <= len(data), "a label beyond the packet")
        if not length:
            return tuple(found), at + 1 if end is None else end
        size += 1 + length
        need(size <= MAX_NAME, "a name of more than 255 bytes")
        found.append(data[at + 1:at + 1 + length])
        at += 1 + length


def write_name(name):
    for label in name:
        need(0 < len(label) <= MAX_LABEL, "a label of %d bytes" % len(label))
    data = b"".join(bytes([len(label)]) + label for label in name) + b"\0"
    need(len(data) <= MAX_NAME, "a name of %d bytes" % len(data))
    return data


def read_strings(data):
    found, at = [], 0
    while at < len(data):
        need(at + 1 + data[at] <= len(data), "a string beyond its record")
        found.append(data[at + 1:at + 1 + data[at]])
        at += 1 + data[at]
    return found


def read_value(type, data, at, end):
    if type == TXT:
        return read_strings(data[at:end])
    if type == A:
        need(end - at == 4, "an IPv4 address of %d bytes" % (end - at))
        return ".".join(map(str, data[at:end]))
    if type != SRV:
        return data[at:end]
    need(end - at >= 7, "a service of %d bytes" % (end - at))
    port = struct.unpack(">H", data[at + 4:at + 6])[0]
    target, behind = read_name(data[:end], at + 6)
    need(behind == end, "a service whose name ends elsewhere")
    try:
        return Address(".".join(map(str, host_bytes(dotted(target)))), port)
    except PacketError:
        return Address(None, port)


def write_value(item):
    if item.type == TXT:
        for each in item.value:
            need(len(each) <= MAX_STRING, "a string of %d bytes" % len(each))
        return b"".join(bytes([len(each)]) + each for each in item.value)
    if item.type == A:
        return host_bytes(item.value)
    if item.type != SRV:
        return item.value
    host_bytes(item.value.host or "")
    return struct.pack(">3H", 0, 0, item.value.port) + write_name(labels(item.value.host))


def read_item(data, at, part):
    name, at = read_name(data, at)
    need(at + 4 <= len(data), "a record that is cut off")
    type, cls = struct.unpack(">HH", data[at:at + 4])
    at += 4
    if part == "question":
        return Item(part, name, type, cls), at
    need(at + 6 <= len(data), "a record that is cut off")
    ttl, size = struct.unpack(">IH", data[at:at + 6])
    at += 6
    need(at + size <= len(data), "a record beyond the packet")
    item = Item(part, name, type, cls, ttl, read_value(type, data, at, at + size))
    says(item)
    return item, at + size


def read(data):
    need(len(data) >= HEADER, "a packet of %d bytes" % len(data))
    id, flags, *counts = struct.unpack(">6H", data[:HEADER])
    items, at = [], HEADER
    for part, count in zip(PARTS, counts):
        for _ in range(count):
            item, at = read_item(data, at, part)
            items.append(item)
    need(at == len(data), "bytes behind the last record")
    return Packet(id, flags, tuple(items))


def write(packet):
    places = [PARTS.index(i.part) for i in packet.items]
    need(places == sorted(places), "parts in disorder")
    data = struct.pack(">6H", packet.id, packet.flags, *(places.count(p) for p in range(4)))
    for item in packet.items:
        data += write_name(item.name) + struct.pack(">HH", item.type, item.cls)
        if item.part != "question":
            value = write_value(item)
            data += struct.pack(">IH", item.ttl, len(value)) + value
    return data


def says(item):
    """{key: value} of a TXT record in dat.local: True, bytes, numbers, and a list of addresses. Of others nothing."""
    found = {}
    if item.type != TXT or item.part == "question" or item.cls & ~GROUP_BIT != INTERNET or item.name[-2:] != DOMAIN:
        return found
    for string in item.value:
        key, _, value = string.partition(b"=")
        key = key.decode("latin-1")
        if key == "subscribe":
            found[key] = True
        elif key in ("token", "host"):
            found[key] = value
        elif key in ("port", "announce", "unannounce"):
            found[key] = decimal(value, 65535)
        elif key == "peers":
            found[key] = read_peers(value)
    return found


def strings(said):
    """Those of `says`, as they are written."""
    found = []
    need(set(said) <= set(KEYS), "no such string")
    for key in KEYS:
        if key in said:
            value = said[key]
            value = b"true" if key == "subscribe" else write_peers(value) if key == "peers" else value
            found.append(key.encode() + b"=" + (value if isinstance(value, bytes) else b"%d" % value))
    return found


def read_peers(text):
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise PacketError("no base64: %r" % text) from None
    need(len(data) % 6 == 0, "peers of %d bytes" % len(data))
    return [unpack(data[i:i + 6]) for i in range(0, len(data), 6)]


def write_peers(peers):
    need(len(peers) <= MAX_PEERS, "%d peers" % len(peers))
    for peer in peers:
        need(peer.port, "a peer with port 0")
    return base64.b64encode(b"".join(map(pack, peers)))


# ---- bencode --------------------------------------------------------------------------------------

MAX_DEPTH, MAX_DIGITS = 16, 18


def digits(data, at, stop):
    end = data.find(stop, at, at + MAX_DIGITS + 1)
    need(end > at, "a number without an end")
    text = data[at:end]
    need(not text.strip(b"0123456789") and (text[:1] != b"0" or len(text) == 1), "no number: %r" % text)
    return int(text), end + 1


def bdecode(data, at=0, depth=0):
    """(a number, bytes, list or dict; where it ends). Of equal keys the last one counts."""
    first = data[at:at + 1]
    if first == b"i":
        minus = data[at + 1:at + 2] == b"-"
        number, at = digits(data, at + 1 + minus, b"e")
        need(number or not minus, "a zero below zero")
        return -number if minus else number, at
    if first not in (b"l", b"d"):
        length, at = digits(data, at, b":")
        need(at + length <= len(data), "a string beyond the packet")
        return data[at:at + length], at + length
    need(depth < MAX_DEPTH, "too deep")
    at, found = at + 1, []
    while data[at:at + 1] != b"e":
        key = b""
        if first == b"d":
            need(data[at:at + 1].isdigit(), "a key that is no string")
            key, at = bdecode(data, at)
        value, at = bdecode(data, at, depth + 1)
        found.append((key, value))
    return (dict(found) if first == b"d" else [value for _, value in found]), at + 1


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


# ---- messages of the DHT --------------------------------------------------------------------------

KINDS = {b"q": "query", b"r": "answer", b"e": "error"}
NODE_BYTES = 26


class Message(NamedTuple):
    """`query` is the name of a query. What is absent is None; `nodes` are pairs of an id and an Address."""
    kind: str
    transaction: bytes
    query: Optional[bytes] = None
    id: Optional[bytes] = None
    target: Optional[bytes] = None
    feed: Optional[bytes] = None
    token: Optional[bytes] = None
    nodes: Optional[list] = None
    peers: Optional[list] = None
    port: Optional[int] = None
    implied_port: Optional[int] = None
    code: Optional[int] = None
    text: Optional[bytes] = None


FIELDS = {"id": b"id", "target": b"target", "feed": b"info_hash", "token": b"token", "nodes": b"nodes", "peers": b"values",
          "port": b"port", "implied_port": b"implied_port"}


def read_field(name, value):
    """None: it is of another type or length than it should be, which is passed over."""
    if name in ("id", "target", "feed"):
        return value if isinstance(value, bytes) and len(value) == NAME_BYTES else None
    if name == "token":
        return value if isinstance(value, bytes) else None
    if name in ("port", "implied_port"):
        return value if isinstance(value, int) and value >= 0 else None
    if name == "peers":
        return [unpack(v) for v in value if isinstance(v, bytes) and len(v) == 6] if isinstance(value, list) else None
    if not isinstance(value, bytes):
        return None
    whole = [value[i:i + NODE_BYTES] for i in range(0, len(value) - NODE_BYTES + 1, NODE_BYTES)]
    return [(n[:NAME_BYTES], unpack(n[NAME_BYTES:])) for n in whole]


def read_message(data):
    need(data[:1] == b"d", "no dictionary")
    top, _ = bdecode(data)
    kind, transaction, query = top.get(b"y"), top.get(b"t"), top.get(b"q")
    need(isinstance(kind, bytes) and kind in KINDS and isinstance(transaction, bytes), "neither query, answer nor error")
    if kind == b"e":
        code, text = (list(top[b"e"]) + [None, None])[:2] if isinstance(top.get(b"e"), list) else (None, None)
        return Message("error", transaction, code=code if isinstance(code, int) else None, text=text if isinstance(text, bytes) else None)
    need(kind == b"r" or isinstance(query, bytes), "a query without a name")
    inner = top.get(b"r" if kind == b"r" else b"a")
    inner = inner if isinstance(inner, dict) else {}
    values = {name: read_field(name, inner[key]) for name, key in FIELDS.items() if key in inner}
    return Message(KINDS[kind], transaction, query if kind == b"q" else None, **values)


def write_message(message):
    inner = {key: getattr(message, name) for name, key in FIELDS.items() if getattr(message, name) is not None}
    if message.nodes is not None:
        inner[b"nodes"] = b"".join(id + pack(at) for id, at in message.nodes)
    if message.peers is not None:
        inner[b"values"] = [pack(at) for at in message.peers]
    top = {b"t": message.transaction, b"y": message.kind[:1].encode() if message.kind != "answer" else b"r"}
    if message.kind == "query":
        top.update({b"a": inner, b"q": message.query})
    elif message.kind == "answer":
        top[b"r"] = inner
    else:
        top[b"e"] = [message.code, message.text]
    return bencode(top)
