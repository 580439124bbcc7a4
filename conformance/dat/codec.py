"""The codecs, one question at a time: the `codec` command of an adapter (a dict in, a dict out).

uints are decimal strings, bytes are hex, names of extensions are text. An absent optional field is absent. What is
refused raises; `answer` makes an {"error"} of it, and {"unsupported"} of an op that is not here.
"""

import json

from . import bitfield, discovery, drive, sodium, wire
from .cipher import discovery_key, keystream_xor
from .tree import Holding, VerifyError, leaf_node, parent_node, proof_indexes, root_hash

MAX_CHANNELS = 256
NAMES = {m.__name__: m for m in wire.MESSAGES.values()}
FIELDS = {m: {f.name: f for f in getattr(m, "FIELDS", ())} for m in wire.MESSAGES.values()}
FIELDS[wire.Extension] = {"id": wire.required(wire.UINT, "id", 0), "payload": wire.required(wire.BYTES, "payload", 0)}


# ---- JSON and back ----------------------------------------------------------------------------

def number(value):
    found = int(str(value), 10)
    if not 0 <= found <= wire.MAX_UINT:
        raise ValueError("not a number of 64 bits: %s" % value)
    return found


def octets(value):
    return bytes.fromhex(value)


def node_out(node):
    return {"index": str(node.index), "hash": node.hash.hex(), "size": str(node.size)}


def node_in(value):
    hash = octets(value["hash"])
    if len(hash) != sodium.HASH_BYTES:
        raise ValueError("a hash of %d bytes" % len(hash))
    return wire.Node(number(value.get("index", 0)), hash, number(value["size"]))


def _out(kind, value):
    if isinstance(value, (list, tuple)):
        return [_out(kind, v) for v in value]
    return {wire.UINT: str, wire.BYTES: lambda b: bytes(b).hex(), wire.NODE: node_out}.get(kind, lambda v: v)(value)


def _in(kind, value):
    if isinstance(value, list):
        return [_in(kind, v) for v in value]
    if kind == wire.BOOL and not isinstance(value, bool):
        raise ValueError("neither true nor false: %s" % value)
    return {wire.UINT: number, wire.BYTES: octets, wire.NODE: node_in}.get(kind, lambda v: v)(value)


# ---- messages ---------------------------------------------------------------------------------

def decode(frame):
    data = octets(frame)
    if len(data) > wire.MAX_FRAME:
        raise wire.CodecError("a frame of %d bytes" % len(data))
    found = wire.FrameDecoder().feed(wire.encode_varint(len(data)) + data)[0]
    if not found.is_message:
        return {"ignored": True}
    if found.channel >= MAX_CHANNELS:
        raise wire.CodecError("channel %d is too high" % found.channel)
    if found.type not in wire.MESSAGES:
        return {"ignored": True}
    message = found.message()
    fields = {name: _out(f.kind, getattr(message, name)) for name, f in FIELDS[type(message)].items()
              if getattr(message, name) is not None and getattr(message, name) != []}
    return {"channel": str(found.channel), "type": str(found.type), "message": type(message).__name__, "fields": fields}


def encode(type=None, fields=None, channel="0", message=None):
    name = message if message is not None else type
    kind = NAMES.get(name) or wire.MESSAGES[number(name)]
    values = {n: _in(FIELDS[kind][n].kind, v) for n, v in (fields or {}).items()}
    made = kind(**values)
    if isinstance(made, wire.Message):
        made.check()
    frame = wire.encode_message(number(channel), made)
    return {"frame": frame[wire.decode_varint(frame)[1]:].hex()}


# ---- the rest ---------------------------------------------------------------------------------

def rle_decode(bytes, limit=None):
    limit = bitfield.MAX_DECODED if limit is None else number(limit)
    return {"bits": bitfield.rle_decode(octets(bytes), limit=limit).hex()}


def rle_encode(bits):
    return {"bytes": bitfield.rle_encode(octets(bits)).hex()}


def leaf(data):
    return {"hash": leaf_node(0, octets(data)).hash.hex()}


def parent(left, right):
    a, b = node_in(left), node_in(right)
    made = parent_node(wire.Node(0, a.hash, a.size), wire.Node(2, b.hash, b.size))
    return {"hash": made.hash.hex(), "size": str(made.size)}


def verify(key, message, signature):
    return {"valid": sodium.verify(octets(message), octets(signature), octets(key))}


def keystream(key, nonce, offset, length):
    return {"bytes": keystream_xor(bytes(number(length)), octets(nonce), octets(key), number(offset)).hex()}


def holding(length=None, held=()):
    """Whoever has every block below `length`, and the tree indexes of these half-open ranges."""
    indexes = [2 * i for i in range(0 if length is None else number(length))]
    return Holding(indexes + [i for start, end in held for i in range(number(start), number(end))])


def digest(index, held=(), length=None):
    return {"digest": str(holding(length, held).digest(2 * number(index)))}


def proof(index, digest="0", hash=False, length=None, held=(), earlier=()):
    mine, remote = holding(length, held), Holding()
    for block, said in earlier:
        proof_indexes(mine, 2 * number(block), number(said), False, remote)
    found = proof_indexes(mine, 2 * number(index), number(digest), bool(hash), remote)
    if found is None:
        return {"nodes": None, "verifiedBy": "0"}
    return {"nodes": [str(i) for i in found[0]], "verifiedBy": str(2 * found[1])}


def index_decode(bytes, number):
    levels = drive.inflate(int(number), octets(bytes))
    return {"index": [[str(i) for i in level] for level in levels]}


def index_encode(index, number):
    return {"bytes": drive.deflate(int(number), [[int(i) for i in level] for level in index]).hex()}


# ---- discovery --------------------------------------------------------------------------------

def small(value, most=0xffff):
    found = number(value)
    if found > most:
        raise ValueError("more than %d: %d" % (most, found))
    return found


def item_out(item):
    found = {"part": item.part, "name": discovery.dotted(item.name), "type": str(item.type), "class": str(item.cls)}
    feed = discovery.feed_of(item.name) if item.cls & ~discovery.GROUP_BIT == discovery.INTERNET else None
    if feed is not None:
        found["feed"] = feed.hex()
    if item.part == "question":
        return found
    found["ttl"] = str(item.ttl)
    for key, value in discovery.says(item).items():
        found[key] = list(map(str, value)) if key == "peers" else value.hex() if isinstance(value, bytes) else value if value is True else str(value)
    if item.type == discovery.A:
        found["target"] = item.value
    elif item.type == discovery.SRV and item.value.host is not None:
        found["target"] = str(item.value)
    return found


def item_in(given):
    said = {}
    for key in set(given) & set(discovery.KEYS):
        value = given[key]
        said[key] = (list(map(discovery.Address.parse, value)) if key == "peers" else octets(value) if key in ("token", "host")
                     else value if key == "subscribe" else small(value))
    type, target = small(given["type"]), given.get("target")
    value = None
    if given["part"] != "question":
        value = (discovery.strings(said) if type == discovery.TXT else discovery.Address.parse(target) if type == discovery.SRV
                 else target if type == discovery.A else b"")
    return discovery.Item(given["part"], discovery.labels(given["name"]), type, small(given.get("class", 1)), small(given.get("ttl", 0), 0xffffffff), value)


def dns_decode(bytes):
    found = discovery.read(octets(bytes))
    return {"id": str(found.id), "flags": str(found.flags), "items": [item_out(i) for i in found.items]}


def dns_encode(id, flags, items):
    return {"bytes": discovery.write(discovery.Packet(small(id), small(flags), tuple(map(item_in, items)))).hex()}


# What the DHT's messages have, as it is told: a number, text, bytes, addresses, or nodes.
DHT = {"query": "text", "transaction": "bytes", "id": "bytes", "target": "bytes", "feed": "bytes", "token": "bytes", "nodes": "nodes",
       "peers": "peers", "port": "number", "impliedPort": "number", "code": "number", "text": "text"}
DHT_NAMES = {"impliedPort": "implied_port"}


def dht_decode(bytes):
    message = discovery.read_message(octets(bytes))
    out = {"number": str, "text": lambda b: b.decode("latin-1"), "bytes": lambda b: b.hex(), "peers": lambda p: list(map(str, p)),
           "nodes": lambda nodes: [{"id": id.hex(), "address": str(at)} for id, at in nodes]}
    found = {"kind": message.kind}
    for name, kind in DHT.items():
        value = getattr(message, DHT_NAMES.get(name, name))
        if value is not None:
            found[name] = out[kind](value)
    return found


def dht_encode(kind, transaction, **given):
    into = {"number": number, "text": lambda t: t.encode("latin-1"), "bytes": octets,
            "peers": lambda peers: list(map(discovery.Address.parse, peers)),
            "nodes": lambda nodes: [(octets(n["id"]), discovery.Address.parse(n["address"])) for n in nodes]}
    values = {DHT_NAMES.get(name, name): into[DHT[name]](value) for name, value in given.items()}
    return {"bytes": discovery.write_message(discovery.Message(kind, octets(transaction), **values)).hex()}


OPS = {
    "dns.decode": dns_decode, "dns.encode": dns_encode, "dht.decode": dht_decode, "dht.encode": dht_encode,
    "decode": decode, "encode": encode, "rle.decode": rle_decode, "rle.encode": rle_encode, "leaf": leaf,
    "parent": parent, "verify": verify, "keystream": keystream, "digest": digest, "proof": proof,
    "drive.index.decode": index_decode, "drive.index.encode": index_encode,
    "discovery-key": lambda key: {"discoveryKey": discovery_key(octets(key)).hex()},
    "root": lambda roots: {"hash": root_hash([node_in(r) for r in roots]).hex()},
    "sign": lambda secretKey, message: {"signature": sodium.sign(octets(message), octets(secretKey)).hex()},
}


def answer(line):
    """A line's answer, as a line."""
    try:
        question = json.loads(line)
        op = question.pop("op", None)
        given = OPS[op](**question) if op in OPS else {"unsupported": True}
    except (ValueError, TypeError, KeyError, AttributeError, VerifyError) as error:
        given = {"error": "%s: %s" % (type(error).__name__, error)}
    return json.dumps(given)
