"""The adapter's optional `codec` command: JSON lines in, JSON lines out, held against the recorded vectors.

What a connection cannot show one at a time: every vector of vectors/, each valid one read and written, each invalid one
refused. An adapter without it exits 89; then these cases are UNSUPPORTED.
"""

import json
import os

from dat import flat, wire
from dat.bitfield import rle_decode
from suite.case import DEFACTO, MUST, SHOULD, register
from suite.stage import Adapter, Departure, Unsupported

VECTORS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "vectors")


def vectors(name):
    with open(os.path.join(VECTORS, name), encoding="utf-8") as file:
        return json.load(file)


class Codec:
    def __init__(self, stage):
        self.stage = stage
        stage.adapter = Adapter(stage.command, ["codec"], stage.env)

    def __call__(self, **question):
        adapter = self.stage.adapter
        adapter.tell(json.dumps(question))
        line = adapter.line(self.stage.patience)
        if line is None:
            adapter.wait(self.stage.patience)
            raise Departure("an answer to %s" % json.dumps(question)[:200], "the end of the output")
        answer = json.loads(line)
        if answer.get("unsupported"):
            raise Unsupported("codec: no operation %s" % question["op"])
        return answer


def refused(answer):
    return "error" in answer or answer.get("ignored") is True


def fields_of(entry):
    """The fields that a vector has, as the codec answers them: numbers as decimal text."""
    def one(kind, value):
        if kind == wire.UINT:
            return str(int(value))
        if kind == wire.NODE:
            return [{"index": str(int(n["index"])), "hash": n["hash"], "size": str(int(n["size"]))} for n in value]
        return value
    cls = getattr(wire, entry["type"])
    kinds = {f.name: f.kind for f in getattr(cls, "FIELDS", ())} or {"id": wire.UINT}
    return {name: one(kinds.get(name), value) for name, value in entry["fields"].items()}


def with_defaults(type, fields):
    """A decoder need not tell an absent field from its default."""
    cls = getattr(wire, type)
    out = {}
    for f in getattr(cls, "FIELDS", ()):
        default = str(f.default) if f.kind == wire.UINT else list(f.default) if f.rule == "repeated" else f.default
        out[f.name] = fields.get(f.name, default)
    return out or dict(fields)


def frame_of(entry):
    """The frame without its length."""
    frame = bytes.fromhex(entry["hex"]) + bytes(entry.get("zeros", 0))
    try:
        _, start = wire.decode_varint(frame)
    except wire.CodecError:
        return None
    return frame[start:]


def entries(type, result):
    """Vectors of one type that are about a frame's content: others show only on a connection."""
    session = {"TooManyChannels", "ShortFrame", "Padded", "Utf8", "TooLarge", "Unsafe"}
    return [e for e in vectors("messages.json")["entries"] if e["type"] == type and e["result"] == result
            and not session & set(e["flags"]) and frame_of(e) is not None and len(frame_of(e)) < 1 << 16]


SOURCE = "vectors/messages.json, recorded from hypercore-protocol 6.12"
TYPES = ("Feed", "Handshake", "Info", "Have", "Unhave", "Want", "Unwant", "Request", "Cancel", "Data", "Extension")
for type in TYPES:
    def reads(stage, type=type):
        codec = Codec(stage)
        for entry in entries(type, "valid"):
            got = codec(op="decode", frame=frame_of(entry).hex())
            expected = fields_of(entry)
            if got.get("message") != type or got.get("channel") != str(entry["channel"]) \
                    or with_defaults(type, got.get("fields", {})) != with_defaults(type, expected):
                raise Departure("%s (%s): %s" % (entry["id"], entry["meaning"], json.dumps(expected)[:400]), json.dumps(got)[:400], entry["hex"][:200])

    def writes(stage, type=type):
        codec = Codec(stage)
        for entry in entries(type, "valid"):
            if entry["flags"]:
                continue
            got = codec(op="encode", channel=str(entry["channel"]), type=str(getattr(wire, type).TYPE), message=type, fields=fields_of(entry))
            if got.get("frame") != frame_of(entry).hex():
                raise Departure("%s: %s" % (entry["id"], frame_of(entry).hex()[:400]), json.dumps(got)[:400], json.dumps(fields_of(entry))[:300])

    def refuses(stage, type=type):
        codec = Codec(stage)
        for entry in entries(type, "invalid"):
            if {"WrongSize"} & set(entry["flags"]):
                continue  # the session refuses these
            got = codec(op="decode", frame=frame_of(entry).hex())
            if not refused(got) and not stage.looser:
                stage.looser.append({"sent": entry["hex"][:200], "expected": "%s (%s) refused" % (entry["id"], entry["meaning"]), "got": json.dumps(got)[:300]})
    register("codec.decode/" + type.lower(), "codec", MUST, SOURCE, "Every valid vector of %s is read" % type,
             "One at a time, with all fields, beyond what a conversation shows.", reads)
    register("codec.encode/" + type.lower(), "codec", MUST, SOURCE, "%s is written as the deployed encoder writes it" % type,
             "Fields in the order of their numbers; absent ones left out.", writes)
    if entries(type, "invalid"):
        register("codec.refuse/" + type.lower(), "codec", SHOULD, SOURCE, "Every invalid vector of %s is refused" % type,
                 "Bytes that mean nothing should not be given a meaning. (The deployed decoder is lenient: it ignores wire types.)", refuses)


def pieces(bits):
    return b"".join(bytes.fromhex(piece) * times for piece, times in bits)


def rle_reads(stage):
    codec = Codec(stage)
    for entry in vectors("rle.json")["entries"]:
        if entry["result"] == "invalid" or sum(len(p) // 2 * n for p, n in entry["bits"]) > 1 << 20:
            continue
        got = codec(op="rle.decode", bytes=entry["hex"])
        if entry["result"] == "acceptable" and refused(got):
            continue
        if bytes.fromhex(got.get("bits", "ff")).rstrip(b"\0") != pieces(entry["bits"]).rstrip(b"\0"):
            raise Departure("%s (%s)" % (entry["id"], entry["meaning"]), json.dumps(got)[:300], entry["hex"][:200])


def rle_writes(stage):
    codec = Codec(stage)
    for entry in vectors("rle.json")["entries"]:
        if entry["result"] != "valid" or entry["flags"] or sum(len(p) // 2 * n for p, n in entry["bits"]) > 1 << 20:
            continue
        got = codec(op="rle.encode", bits=pieces(entry["bits"]).hex())
        if got.get("bytes") != entry["hex"]:
            if rle_decode(bytes.fromhex(got.get("bytes", "ff"))).rstrip(b"\0") != pieces(entry["bits"]).rstrip(b"\0"):
                raise Departure("%s: %s" % (entry["id"], entry["hex"][:200]), json.dumps(got)[:300])
            if not stage.looser:
                stage.looser.append({"sent": entry["id"], "expected": entry["hex"][:200], "got": got["bytes"][:200]})


def rle_refuses(stage):
    codec = Codec(stage)
    for entry in vectors("rle.json")["entries"]:
        if entry["result"] == "invalid":
            got = codec(op="rle.decode", bytes=entry["hex"])
            if not refused(got):
                raise Departure("%s (%s) refused" % (entry["id"], entry["meaning"]), json.dumps(got)[:300], entry["hex"][:200])


RLE = "vectors/rle.json, recorded from bitfield-rle 2.2"
register("codec.rle/read", "codec", MUST, RLE, "Every valid bitfield is read", "What is misread here is asked for in vain, or never.", rle_reads)
register("codec.rle/write", "codec", MUST, RLE, "Every bitfield is written so that it reads the same", "Other bytes than the deployed encoder's are told.", rle_writes)
register("codec.rle/refuse", "codec", MUST, RLE, "Every invalid bitfield is refused", "A bitfield that is cut off, or bombs of 2^40, stop the deployed decoder.", rle_refuses)


def digest_vectors(stage):
    codec = Codec(stage)
    for entry in vectors("digest.json")["digests"]:
        for index, expected in enumerate(entry["digest"]):
            got = codec(op="digest", held=entry["held"], index=str(index))
            if got.get("digest") != str(expected):
                raise Departure("digest %d of block %d, holding %s" % (expected, index, entry["held"]), json.dumps(got)[:200])


register("codec.digest/recorded", "codec", DEFACTO, "vectors/digest.json, recorded from hypercore 6.26",
         "Request.nodes is as recorded, for 137 holdings and every block", "What a downloader says that it holds decides what it is sent.", digest_vectors)


def proof_vectors(stage):
    codec = Codec(stage)
    for entry in vectors("digest.json")["proofs"]:
        for index, nodes, hash, expected, verified in entry["requests"]:
            where = {"length": str(entry["length"])} if "length" in entry else {"held": entry["held"]}
            got = codec(op="proof", index=str(index), digest=str(nodes), hash=bool(hash), **where)
            want = None if expected is None else [str(i) for i in expected]
            if got.get("nodes", "none") != want or want is not None and got.get("verifiedBy") != str(verified):
                raise Departure("nodes %s, verified by %d" % (expected, verified), json.dumps(got)[:300],
                                "block %d, digest %d%s of %s" % (index, nodes, ", hash" if hash else "", where))


register("codec.proof/recorded", "codec", DEFACTO, "vectors/digest.json, recorded from hypercore 6.26",
         "The nodes of each answer are as recorded, for whole and partial senders", "A node too few and nothing verifies.", proof_vectors)


def crypto(op, section, ask, title, why):
    def run(stage):
        codec = Codec(stage)
        for question, expected in ask(vectors("crypto.json")):
            got = codec(op=op, **question)
            if any(got.get(k) != v for k, v in expected.items()):
                raise Departure(json.dumps(expected)[:300], json.dumps(got)[:300], json.dumps(question)[:300])
    register("codec.crypto/" + op, "codec", MUST, "vectors/crypto.json, recorded from hypercore-crypto 1.0", title, why, run,
             "E1" if op == "discovery-key" else None)


def parents(data):
    nodes = {}
    for tree in data["trees"]:
        for index, hash, size in tree["nodes"]:
            nodes[index] = {"index": str(index), "hash": hash, "size": str(size)}
    for index, node in nodes.items():
        if index % 2:
            left, right = flat.children(index)
            yield {"left": nodes[left], "right": nodes[right]}, {"hash": node["hash"], "size": node["size"]}


def roots(data):
    nodes = {}
    for tree in data["trees"]:
        for index, hash, size in tree["nodes"]:
            nodes[index] = {"index": str(index), "hash": hash, "size": str(size)}
        yield {"roots": [nodes[i] for i in tree["roots"]]}, {"hash": tree["root"]}


crypto("discovery-key", "codec", lambda d: [({"key": e["key"]}, {"discoveryKey": e["discoveryKey"]}) for e in d["discoveryKeys"]],
       "The discovery key of a public key is as recorded", "With another one no peer knows which feed is meant.")
crypto("parent", "codec", parents, "The hash and size of a parent are as recorded", "Every proof climbs by it.")
crypto("root", "codec", roots, "The hash of the roots of 1 to 33 blocks is as recorded", "It is what the owner signs.")
crypto("verify", "codec", lambda d: [({"key": e["key"], "message": e["message"], "signature": e["signature"]}, {"valid": e["result"] == "valid"})
                                     for e in d["signatures"] if len(e["signature"]) == 128],
       "Signatures are judged as recorded", "A signature is all that a reader trusts.")
crypto("keystream", "codec", lambda d: [({"key": e["key"], "nonce": e["nonce"], "offset": str(at), "length": len(s) // 2}, {"bytes": s})
                                        for e in d["streams"] for at, s in e["keystream"]],
       "The keystream is as recorded, from any offset on", "All bytes behind the first Feed go through it.")
