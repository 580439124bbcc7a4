#!/usr/bin/env python3
"""Writes vectors/proofs.json: the vectors that this suite's Python implementation makes, where the deployed stack was too
slow to ask for everything, or (false Data) has nothing to record. datsync never makes vectors.

    record.py [FILE]
"""

import json
import os
import sys
from dataclasses import replace

from cases.proof import digests
from dat import feed as feeds
from dat import wire
from dat.content import content, secret_key
from dat.tree import Holding, proof_indexes
from suite import VERSION

HERE = os.path.dirname(os.path.abspath(__file__))
FILE = os.path.join(HERE, "..", "vectors", "proofs.json")
LENGTHS = range(1, 34)
ABOUT = (
    "What an answer must prove, made by the suite's Python implementation (conformance/dat) and held against the deployed one "
    "by the suite. proofs: for a feed of each length, signed at every length, and each of its blocks, every digest that can "
    "occur, as [digest, nodes of the answer in order, verifiedBy]; verifiedBy is twice the length whose signature goes along, "
    "0 for none. data: bodies of Data messages. Their reader has the key of seed (README.md, Content) and holds the blocks "
    "listed in holds of its feed of blocks blocks of size bytes, each signed; result says whether it may take the message.")


def proofs(length):
    """[[digest, nodes, verifiedBy], ...] for each block."""
    mine = Holding()
    for i in range(length):
        mine.set(2 * i)
    rows = []
    for index in range(length):
        found = ((digest, proof_indexes(mine, 2 * index, digest)) for digest in digests(index, length))
        rows.append([[digest, nodes, 2 * verified] for digest, (nodes, verified) in found])
    return rows


def make(blocks, size):
    """A feed of the content that vectors/README.md names, seed 1, each block signed."""
    feed = feeds.Feed(secret_key=secret_key(1))
    for i in range(blocks):
        feed.append(content(1, i, size))
    return feed


def reader(entry):
    """Who is to take the Data of an entry of data: (the reader, what it has taken before)."""
    feed = make(entry["blocks"], entry["size"])
    made = feeds.Feed(feed.key)
    held = [feed.answer(wire.request(i)) for i in entry["holds"]]
    for data in held:
        made.put(data)
    return made, held


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def nodes(data, k, **change):
    """One node of it changed."""
    return replace(data, nodes=[replace(n, **change) if i == k else n for i, n in enumerate(data.nodes)])


def tampered(feed, good):
    """(id, meaning, Data) that nobody may take."""
    yield "value-bit", "one bit of the value", replace(good, value=flip(good.value, 0))
    yield "value-longer", "a byte more", replace(good, value=good.value + b"\0")
    yield "value-shorter", "a byte less", replace(good, value=good.value[:-1])
    yield "value-empty", "no bytes", replace(good, value=b"")
    yield "value-of-another", "the value of another block", replace(good, value=feed.blocks[(good.index + 1) % feed.length])
    yield "index-of-another", "the index of another block", replace(good, index=(good.index + 1) % feed.length)
    yield "index-beyond", "an index beyond what is signed", replace(good, index=feed.length)
    yield "index-2p53", "index 2^53", replace(good, index=1 << 53)
    if good.signature:
        yield "signature-bit", "one bit of the signature", replace(good, signature=flip(good.signature, 3))
        yield "signature-last-bit", "one bit of its last byte", replace(good, signature=flip(good.signature, 63))
        yield "signature-missing", "no signature", replace(good, signature=None)
        yield "signature-of-another-length", "the owner's signature of one block", replace(good, signature=feed.signatures[0])
        yield "signature-short", "63 bytes of it", replace(good, signature=good.signature[:63])
    for k in range(len(good.nodes)):
        n = good.nodes[k]
        yield "node-%d-missing" % k, "node %d left out" % n.index, replace(good, nodes=good.nodes[:k] + good.nodes[k + 1:])
        yield "node-%d-hash" % k, "one bit of the hash of node %d" % n.index, nodes(good, k, hash=flip(n.hash, 9))
        yield "node-%d-size" % k, "the size of node %d" % n.index, nodes(good, k, size=n.size + 1)
        yield "node-%d-size-largest" % k, "the size of node %d is 2^64 - 1" % n.index, nodes(good, k, size=(1 << 64) - 1)
        yield "node-%d-index" % k, "the index of node %d" % n.index, nodes(good, k, index=n.index ^ 4)
        yield "node-%d-short" % k, "31 bytes of hash in node %d" % n.index, nodes(good, k, hash=n.hash[:31])
    if good.signature and feed.length > 1:
        roots = [feed.tree.get(i) for i in (7,)] if feed.length == 8 else []
        if roots:
            yield "unlinked", "genuine roots that do not cover the block", wire.Data(good.index, b"evil", roots, feed.signatures[7])
            yield "unlinked-empty", "the same, of no bytes", wire.Data(good.index, b"", roots, feed.signatures[7])


def data_entries():
    for blocks, size, index, holds in ((1, 10, 0, []), (2, 10, 1, []), (5, 10, 2, []), (8, 10, 5, []), (8, 10, 5, [7]),
                                       (11, 10, 4, []), (11, 10, 4, [10]), (11, 10, 4, [5])):
        feed = make(blocks, size)
        reader = feeds.Feed(feed.key)
        for i in holds:
            reader.put(feed.answer(wire.request(i, reader.digest(i))))
        good = feed.answer(wire.request(index, reader.digest(index)))
        name = "%d-of-%d%s" % (index, blocks, "-holding-%s" % "-".join(map(str, holds)) if holds else "")
        common = {"seed": 1, "blocks": blocks, "size": size, "holds": holds}
        yield dict(common, id=name + "/genuine", meaning="as its owner signed it", result="valid", hex=good.encode().hex())
        for id, meaning, false in tampered(feed, good):
            if false == good:
                continue  # a feed of one block has no other
            yield dict(common, id="%s/%s" % (name, id), meaning=meaning, result="invalid", hex=false.encode().hex())


def document():
    """The file's text: an entry a line."""
    head = {"format": "datsync-vectors/1", "kind": "proofs", "about": ABOUT,
            "recordedFrom": {"conformance/dat": VERSION}, "publicKey": secret_key(1)[32:].hex()}
    lines = ["%s: %s" % (json.dumps(k), json.dumps(v)) for k, v in head.items()]

    def array(name, items):
        return '"%s": [\n  %s\n]' % (name, ",\n  ".join(json.dumps(i, separators=(",", ":")) for i in items))
    lines.append(array("proofs", ({"length": length, "blocks": proofs(length)} for length in LENGTHS)))
    lines.append(array("data", data_entries()))
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    with open(sys.argv[1] if len(sys.argv) > 1 else FILE, "w", encoding="utf-8") as out:
        out.write(document())
