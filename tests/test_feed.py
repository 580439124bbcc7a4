"""The feed: trees and proofs against the Python implementation, refusals, faults, power cuts."""

import random

import pytest

import probe as drive
from dat import feed as feeds, flat, sleep, wire
from dat.tree import Tree, proof_indexes, verify
from probe import (BITFIELD, CREATE, DATA, NO_SPACE, PARTS, SIGNATURES, STATIC, TREE, ProbeError, content,
                   members, node, on_disk, ranges, secret_key, unhex)

SEED, LOW, HIGH = 5, 0, 20
SIZE = "%d-%d" % (LOW, HIGH)
SECRET = secret_key(SEED)
PUBLIC = SECRET[32:]


def python_feed(blocks, batch=None):
    feed = feeds.Feed(secret_key=SECRET)
    for start in range(0, blocks, batch or blocks or 1):
        feed.append(*[content(SEED, i, SIZE)
                      for i in range(start, min(blocks, start + (batch or blocks)))])
    return feed


SALVAGE = 32


def owner(probe, number, blocks, batch=None, where="memory"):
    probe.ask("open", number, where, CREATE, None, SECRET)
    if blocks:
        probe.ask("grow", number, SEED, blocks, LOW, HIGH, batch or blocks)


def reader(probe, number, where="memory", flags=CREATE):
    probe.ask("open", number, where, flags, PUBLIC, None)


def readers_disk(probe, blocks):
    """Disk 0 becomes that of a reader who has everything. Returns its data part."""
    probe.ask("disk", 0)
    owner(probe, 0, blocks, where="disk:0")
    probe.ask("close", 0)
    probe.ask("disk-set", 0, drive.SECRET_KEY, b"")
    return probe.bytes("disk-get", 0, DATA)


def check(probe, number, held=None):
    """Every block that is claimed reads as its content; returns how many there are."""
    count, good = probe.numbers("check", number, SEED, LOW, HIGH)
    assert count == good
    assert held is None or count == held
    return count


def audited(probe, number, held):
    """The audit finds all that is claimed good; it may tell of blocks that opening dropped."""
    claimed = members(probe.ask("held", number))
    *faults, good = probe.ask("audit", number)
    assert int(good) == held == len(claimed), faults
    assert not claimed & {int(f.split(":")[0]) for f in faults}
    assert members(probe.ask("held", number)) == claimed


def sound(probe, disk):
    """What lies on the disk, judged by the Python auditor. A signature of a shorter length may be
    left from an append that failed: nobody reads it."""
    feed = sleep.load(on_disk(probe, disk))
    assert not [p for p in feed.audit() if not p.startswith("length ") or
                p.startswith("length %d " % feed.length) or "length %d:" % feed.length in p]
    return feed


# ---- what the feed keeps its claims in ----------------------------------------------------------

@pytest.mark.parametrize("seed", range(4))
def test_bit_sets(probe, seed):
    """Set, fill, count, search and read against an array; and the memory that they say they take."""
    done, _, lost = probe.numbers("model-bits", seed, 300)
    assert (done, lost) == (300, 0)


@pytest.mark.parametrize("seed", range(3))
def test_sets_of_promised_nodes(probe, seed):
    assert probe.numbers("model-promises", seed, 6000) == [6000]


# ---- trees, digests, proofs ---------------------------------------------------------------------

def test_trees_of_all_lengths(probe):
    """Length 1 to 200, one append after the other: roots, their hash, its signature."""
    mine = feeds.Feed(secret_key=SECRET)
    owner(probe, 0, 0)
    for length in range(1, 201):
        mine.append(content(SEED, length - 1, SIZE))
        assert probe.number("grow", 0, SEED, 1, LOW, HIGH, 1) == length
        roots = flat.full_roots(length)
        assert probe.numbers("roots", length) == roots
        for i in roots:
            assert node(probe.ask("node", 0, i)[0]) == mine.tree.get(i)
        proven, signature, *_ = probe.ask("proof", 0, length - 1, 0, 0)
        assert int(proven) == length and unhex(signature) == mine.signatures[length - 1]
    assert probe.ask("info", 0)[0] == "200"
    assert members(probe.ask("nodes", 0)) == set(mine.tree.holding)


def proof_of(probe, index, digest, hash):
    try:
        length, signature, *nodes = probe.ask("proof", 0, index, digest, hash)
    except ProbeError as error:
        assert error.code in (drive.NOT_FOUND, drive.NO_SIGNATURE)
        return None
    return [node(n).index for n in nodes], int(length)


def expected_proof(holding, index, digest, hash, signed):
    """Where several trees can be verified from here, and only one is signed, both sides may differ
    in which they find; the deployed rule decides."""
    want = proof_indexes(holding, 2 * index, digest, bool(hash))
    return None if want is None or want[1] and want[1] not in signed else want


@pytest.mark.parametrize("seed", range(6))
def test_digests_and_proofs_of_sparse_holdings(probe, seed):
    """Feeds of 1 to 200 blocks of which random ones were taken: every digest, and the proof for
    every digest that occurs."""
    rng = random.Random(seed)
    for blocks in [1 + rng.randrange(200) for _ in range(6)]:
        source = python_feed(blocks)
        mine = feeds.Feed(key=PUBLIC)
        reader(probe, 0)
        for index in rng.sample(range(blocks), rng.randint(1, min(blocks, 12))):
            data = source.answer(wire.request(index, mine.digest(index)))
            if mine.has(index):
                continue
            mine.put(data)
            probe.ask("put", 0, index, data.value, data.signature, *data.nodes)
        assert members(probe.ask("nodes", 0)) == set(mine.tree.holding)
        digests = probe.numbers("digests", 0, 0, blocks + 3)
        assert digests == [mine.digest(i) for i in range(blocks + 3)], blocks
        asked = sorted(set(digests)) + [rng.randrange(1 << 9) for _ in range(4)]
        for index in rng.sample(range(blocks), min(blocks, 12)):
            for digest in asked:
                hash = rng.randrange(2)
                assert proof_of(probe, index, digest, hash) == \
                    expected_proof(mine.tree.holding, index, digest, hash, {blocks}), (blocks, index)
        probe.ask("close", 0)


@pytest.mark.parametrize("blocks", [100003, 131072])
def test_long_feeds(probe, blocks):
    """Above 100,000 blocks: proofs and digests at the ends and between."""
    probe.ask("open", 0, "memory", CREATE, None, SECRET)
    probe.ask("grow", 0, SEED, blocks, 1, 1, 4096)
    probe.ask("flush", 0)
    reader(probe, 1)
    mine = Tree()
    rng = random.Random(blocks)
    for index in [0, blocks - 1, blocks // 2, 65535, 65536] + rng.sample(range(blocks), 20):
        digest = probe.number("digests", 1, index, index + 1)
        assert digest == mine.holding.digest(2 * index)
        length, signature, *nodes = probe.ask("proof", 0, index, digest, 0)
        data = wire.Data(index, content(SEED, index, 1), list(map(node, nodes)),
                         unhex(signature) or None)
        for n in verify(mine, PUBLIC, data).nodes:
            mine.put(n)
        assert probe.ask("put", 1, index, data.value, data.signature, *nodes) in (["1"], ["0"])
    assert members(probe.ask("nodes", 1)) == set(mine.holding)
    assert probe.ask("info", 1)[:2] == [str(blocks)] * 2
    assert probe.numbers("check", 0, SEED, 1, 1) == [blocks, blocks]


@pytest.mark.parametrize("seed", range(4))
def test_blocks_in_any_order(probe, seed):
    """Random orders, some blocks as a hash first: the same six files as the Python writer's."""
    rng = random.Random(seed)
    blocks = rng.choice([1, 7, 64, 97, 200])
    owner(probe, 0, blocks)
    probe.ask("disk", 1)
    reader(probe, 1, "disk:1")
    order = rng.sample(range(blocks), blocks)
    hashes = rng.sample(range(blocks), blocks // 3)
    for index in hashes:
        probe.ask("give", 1, 0, 1, index)
    assert probe.ask("held", 1) == []
    for index in order:
        assert probe.ask("give", 1, 0, 0, index) == ["1"]
    check(probe, 1, blocks)
    probe.ask("close", 1)
    written, source = on_disk(probe, 1), sleep.files(python_feed(blocks))
    assert written == {k: v for k, v in source.items() if k != "secret_key"}


def test_bytes_of_batches_and_seeks(probe):
    """seek finds each byte's block; beyond the end and without the nodes it says so."""
    owner(probe, 0, 30, 7)
    starts, at = [], 0
    for i in range(30):
        starts.append(at)
        at += len(content(SEED, i, SIZE))
    for offset in range(at):
        index, inside = probe.numbers("seek", 0, offset)
        assert starts[index] + inside == offset and inside < len(content(SEED, index, SIZE))
    assert probe.code("seek", 0, at) == drive.INVALID
    reader(probe, 1)
    probe.ask("give", 1, 0, 0, 29)
    assert probe.code("seek", 1, 0) == drive.NOT_FOUND


def test_growing_source_is_followed(probe):
    owner(probe, 0, 0)
    reader(probe, 1)
    rng, length = random.Random(1), 0
    for _ in range(25):
        length += rng.randint(1, 9)
        probe.ask("grow", 0, SEED, length - int(probe.ask("info", 0)[0]), LOW, HIGH, 100)
        for index in rng.sample(range(length), min(3, length)):
            probe.ask("give", 1, 0, 0, index)
        probe.ask("give", 1, 0, 0, length - 1)
        assert probe.ask("info", 1)[0] == str(length)
    probe.ask("give", 1, 0, 0, *range(length))
    check(probe, 1, length)


def test_static_feed(probe):
    mine = feeds.Feed(live=False)
    mine.append(*[content(SEED, i, SIZE) for i in range(11)])
    mine.finalize()
    probe.ask("open", 0, "memory", CREATE | STATIC, None, None)
    probe.ask("grow", 0, SEED, 11, LOW, HIGH, 4)
    probe.ask("finalize", 0)
    assert probe.ask("info", 0)[5] == mine.key.hex()
    assert probe.code("grow", 0, SEED, 1, 1, 1, 1) == drive.READ_ONLY_FEED
    assert probe.code("finalize", 0) == drive.STATE
    probe.ask("disk", 1)
    probe.ask("open", 1, "disk:1", CREATE, mine.key, None)
    for index in (5, 10, 0):
        data = mine.answer(wire.request(index, probe.number("digests", 1, index, index + 1)))
        assert data.signature is None
        bad = bytes([1]) + (data.value or b"")[1:] + b"x"
        assert probe.code("put", 1, index, bad, None, *data.nodes) < 0
        probe.ask("put", 1, index, data.value, None, *data.nodes)
    # its key says that it has 11 blocks: what hangs beside them proves nothing
    assert probe.code("put", 1, 12, b"more", None, wire.Node(19, bytes(32), 9)) == drive.PROOF
    probe.ask("close", 1)
    probe.ask("open", 1, "disk:1", 0, None, None)
    info = probe.ask("info", 1)
    assert info[0] == "11" and info[4] == "1"
    assert ranges(probe.ask("held", 1)) == [(0, 1), (5, 6), (10, 11)]


# ---- refusals -----------------------------------------------------------------------------------

REFUSALS = (drive.HASH, drive.SIGNATURE, drive.NO_SIGNATURE, drive.PROOF, drive.TOO_BIG)


def state(probe, number):
    return (probe.ask("info", number)[:2], probe.ask("held", number), probe.ask("nodes", number))


def spoilt(data):
    """Every part of a Data falsified, one at a time."""
    flipped = lambda b: bytes([b[0] ^ 1]) + b[1:]  # noqa: E731
    yield "value", data.value + b"x", data.nodes, data.signature
    yield "value", flipped(data.value), data.nodes, data.signature
    for i, n in enumerate(data.nodes):
        rest = lambda m: data.nodes[:i] + [m] + data.nodes[i + 1:]  # noqa: E731
        yield "hash", data.value, rest(wire.Node(n.index, flipped(n.hash), n.size)), data.signature
        yield "size", data.value, rest(wire.Node(n.index, n.hash, n.size + 1)), data.signature
        yield "huge", data.value, rest(wire.Node(n.index, n.hash, 2**64 - 1)), data.signature
        yield "index", data.value, rest(wire.Node(n.index + 2, n.hash, n.size)), data.signature
        yield "missing", data.value, data.nodes[:i] + data.nodes[i + 1:], data.signature
    if data.signature:
        yield "signature", data.value, data.nodes, flipped(data.signature)
        yield "no signature", data.value, data.nodes, None


@pytest.mark.parametrize("before", [[], [12], [0, 12]])
@pytest.mark.parametrize("index", [5, 9])
def test_tampering_is_refused(probe, before, index):
    source = python_feed(13)
    probe.ask("disk", 0)
    reader(probe, 0, "disk:0")
    for i in before:
        data = source.answer(wire.request(i, probe.number("digests", 0, i, i + 1)))
        probe.ask("put", 0, i, data.value, data.signature, *data.nodes)
    probe.ask("flush", 0)
    files = on_disk(probe, 0)
    was, tried = state(probe, 0), 0
    data = source.answer(wire.request(index, probe.number("digests", 0, index, index + 1)))
    assert len(data.value) > 1
    for what, value, nodes, signature in spoilt(data):
        code = probe.code("put", 0, index, value, signature, *nodes)
        assert code in REFUSALS, (what, code)
        assert state(probe, 0) == was, what
        tried += 1
    probe.ask("flush", 0)
    assert on_disk(probe, 0) == files and tried > 6
    assert probe.ask("put", 0, index, data.value, data.signature, *data.nodes) == ["1"]
    assert probe.ask("put", 0, index, data.value, data.signature, *data.nodes) == ["0"]


def test_a_signed_tree_that_lacks_the_block_is_refused(probe):
    """A good signature over roots among which the block's own top is not: the deployed
    implementation takes it."""
    source = python_feed(13, batch=1)
    reader(probe, 0)
    roots = [source.tree.get(i) for i in flat.full_roots(12)]
    for length in (8, 12, 13):
        nodes = [source.tree.get(i) for i in flat.full_roots(length)]
        for index in (0, 3, 11, 12, 13, 40):
            code = probe.code("put", 0, index, b"false", source.signatures[length - 1], *nodes)
            assert code in (drive.PROOF, drive.SIGNATURE, drive.HASH), (length, index)
    # The same where its roots are held already.
    data = source.answer(wire.request(12, 0))
    probe.ask("put", 0, 12, data.value, data.signature, *data.nodes)
    was = state(probe, 0)
    for index in (0, 7, 11, 13, 14, 100):
        for nodes in ([], roots, [source.tree.get(24)], [source.tree.get(19), source.tree.get(24)]):
            code = probe.code("put", 0, index, b"false", source.signatures[12], *nodes)
            assert code in (drive.PROOF, drive.SIGNATURE, drive.HASH), (index, code)
    assert state(probe, 0) == was


def test_indexes_out_of_range(probe):
    reader(probe, 0)
    for index in (2**32, 2**40, 2**63, 2**64 - 1):
        assert probe.code("put", 0, index, b"x", bytes(64)) == drive.INVALID
        assert probe.code("proof", 0, index, 0, 0) == drive.NOT_FOUND
        assert probe.code("get", 0, index) == drive.NOT_FOUND
    top = wire.Node(2**33 - 2, bytes(32), 1)
    assert probe.code("put", 0, 5, b"x", bytes(64), top) < 0
    assert probe.code("put", 0, 5, b"x", bytes(64), wire.Node(2**63, bytes(32), 1)) < 0
    live, peak, _ = probe.numbers("memory")
    assert peak < 3 << 20


def test_keys_that_do_not_belong_together(probe):
    other = secret_key(SEED + 1)
    assert probe.code("open", 0, "memory", CREATE, PUBLIC, other) == -49
    assert probe.code("open", 0, "memory", CREATE, None, SECRET[:32] + other[32:]) == -49
    probe.ask("disk", 0)
    assert probe.code("open", 0, "disk:0", 0, PUBLIC, None) == drive.NOT_FOUND
    owner(probe, 0, 3, where="disk:0")
    assert probe.code("open", 1, "disk:0", 0, None, None) == drive.LOCKED
    probe.ask("close", 0)
    assert probe.code("open", 0, "disk:0", 0, other[32:], None) == drive.OTHER_FEED
    probe.ask("open", 0, "disk:0", drive.READ_ONLY, None, None)
    assert probe.code("grow", 0, SEED, 1, 1, 1, 1) == drive.READ_ONLY_FEED
    assert probe.code("clear", 0, 0, 1) == drive.READ_ONLY_FEED
    check(probe, 0, 3)


def test_largest_block(probe):
    largest = 8388608 - 8192
    probe.ask("open", 0, "memory", CREATE, None, SECRET)
    assert probe.ask("append", 0, bytes(largest)) == ["1"]
    assert probe.code("append", 0, b"x", bytes(largest + 1)) == drive.TOO_BIG
    assert probe.ask("info", 0)[:2] == ["1", str(largest)]
    assert probe.ask("append", 0, b"x") == ["2"] and probe.bytes("get", 0, 1) == b"x"


# ---- clear, audit -------------------------------------------------------------------------------

@pytest.mark.parametrize("start, end", [(0, 20), (0, 1), (5, 9), (19, 20), (15, 99), (7, 7)])
def test_clear(probe, start, end):
    probe.ask("disk", 0)
    owner(probe, 0, 20, where="disk:0")
    probe.ask("clear", 0, start, end)
    kept = set(range(20)) - set(range(start, end))
    assert members(probe.ask("held", 0)) == kept
    check(probe, 0, len(kept))
    probe.ask("grow", 0, SEED, 4, LOW, HIGH, 4)
    probe.ask("close", 0)
    owner(probe, 0, 0, where="disk:0")
    kept |= set(range(20, 24))
    assert members(probe.ask("held", 0)) == kept and probe.ask("info", 0)[0] == "24"
    check(probe, 0, len(kept))
    assert probe.ask("audit", 0) == [str(len(kept))]
    probe.ask("close", 0)
    sound(probe, 0)


def test_cleared_blocks_come_again(probe):
    owner(probe, 0, 20)
    reader(probe, 1)
    probe.ask("give", 1, 0, 0, *range(20))
    probe.ask("clear", 1, 3, 17)
    assert probe.number("missing", 1) == 14
    probe.ask("give", 1, 0, 0, *range(20))
    check(probe, 1, 20)


def test_an_index_above_pages_follows_each_of_them(probe):
    """What it says of the second page lies in the first, in which nothing else changes."""
    probe.ask("disk", 0)
    owner(probe, 0, 20000, where="disk:0")
    probe.ask("flush", 0)
    before = probe.bytes("disk-get", 0, BITFIELD)
    probe.ask("clear", 0, 9000, 9100)
    probe.ask("flush", 0)
    after = probe.bytes("disk-get", 0, BITFIELD)
    assert after[32:] == b"".join(probe.bytes("page", 0, page) for page in range(3))
    assert before[32:32 + 3072] == after[32:32 + 3072] and before[32:32 + 3584] != after[32:32 + 3584]


@pytest.mark.parametrize("part, header", [(DATA, 0), (TREE, 32), (SIGNATURES, 32)])
def test_audit_finds_each_flipped_byte(probe, part, header):
    """Of data, tree and signature: whatever byte is flipped, it is found, and a second look finds
    nothing that is claimed wrongly."""
    probe.ask("disk", 0)
    owner(probe, 0, 6, where="disk:0")
    probe.ask("close", 0)
    good = on_disk(probe, 0)
    name = next(n for n, p in PARTS.items() if p == part)
    body = good[name]
    offsets = range(header, len(body))
    if part == SIGNATURES:
        offsets = range(len(body) - 64, len(body))
    for offset in offsets:
        if part == TREE and (offset - 32) // 40 == 7:
            continue  # of longer trees
        probe.ask("disk", 1)
        for n, data in good.items():
            if n != "secret_key":
                probe.ask("disk-set", 1, PARTS[n], data)
        probe.ask("disk-flip", 1, part, offset, 1 << offset % 8)
        if part == SIGNATURES or part == TREE and (offset - 32) // 40 in (3, 9):
            # The signature, or a root: nothing can be verified any more, and opening tells so.
            assert probe.code("open", 1, "disk:1", 0, PUBLIC, None) == drive.CORRUPT
            continue
        reader(probe, 1, "disk:1", 0)
        faults = probe.ask("audit", 1)
        assert int(faults[-1]) < 6 and len(faults) > 1, offset
        assert len(faults) - 1 + int(faults[-1]) == 6 or faults[0].startswith("5:"), offset
        if part == DATA:
            assert check(probe, 1) == 5 and faults[0].endswith(":%d" % DATA)
        probe.ask("close", 1)


def test_an_owner_whose_claims_lie_behind_what_verifies_does_not_open(probe):
    """The first page of the bitfield is gone and an early block is wrong, so no signature is found again: opened as an
    empty feed, the next block appended would be a fork."""
    probe.ask("disk", 0)
    owner(probe, 0, 8292, where="disk:0")
    probe.ask("close", 0)
    bitfield = probe.bytes("disk-get", 0, BITFIELD)
    probe.ask("disk-set", 0, BITFIELD, bitfield[:32] + bytes(3328) + bitfield[32 + 3328:])
    probe.ask("open", 0, "disk:0", 0, None, None)  # what was appended is found by its signature
    assert check(probe, 0, 8292) == 8292
    probe.ask("close", 0)
    probe.ask("disk-set", 0, BITFIELD, bitfield[:32] + bytes(3328) + bitfield[32 + 3328:])
    probe.ask("disk-flip", 0, DATA, 30, 1)
    before = on_disk(probe, 0)
    assert probe.code("open", 0, "disk:0", 0, None, None) == drive.CORRUPT
    assert on_disk(probe, 0) == before


def test_an_audit_that_cannot_write_what_was_appended(probe):
    probe.ask("disk", 0)
    owner(probe, 0, 20, where="disk:0")
    probe.ask("disk-fail", 0, "write", 1, -drive.IO)
    assert probe.code("audit", 0) == drive.IO and probe.ask("audit", 0) == ["20"]


def test_audit_of_a_read_only_feed_changes_nothing(probe):
    probe.ask("disk", 0)
    owner(probe, 0, 6, where="disk:0")
    probe.ask("close", 0)
    probe.ask("disk-flip", 0, DATA, 0, 1)
    before = on_disk(probe, 0)
    probe.ask("open", 0, "disk:0", drive.READ_ONLY, None, None)
    assert int(probe.ask("audit", 0)[-1]) == 5
    probe.ask("close", 0)
    assert on_disk(probe, 0) == before


def test_audit_of_two_faults_side_by_side(probe):
    """Block 0's bytes are false and so is the node above block 1: read-only, both are told."""
    probe.ask("disk", 0)
    owner(probe, 0, 8, where="disk:0")
    probe.ask("close", 0)
    first = next(i for i in range(0, 8, 2) if len(content(SEED, i, SIZE)))
    offset = sum(len(content(SEED, i, SIZE)) for i in range(first))
    probe.ask("disk-flip", 0, DATA, offset, 1)
    probe.ask("disk-flip", 0, TREE, 32 + 40 * (2 * first + 1), 1)
    probe.ask("open", 0, "disk:0", drive.READ_ONLY, None, None)
    faults = {f.split(":")[0] for f in probe.ask("audit", 0)[:-1]}
    assert {str(first), str(first + 1)} <= faults


# ---- stored sizes that are wrong --------------------------------------------------------------------

def damage_sizes(probe, nodes):
    """On disk 1 lies what lies on disk 0, with {node: what is added to its size}."""
    tree = bytearray(probe.bytes("disk-get", 0, TREE))
    probe.ask("disk", 1)
    for name, data in on_disk(probe, 0).items():
        probe.ask("disk-set", 1, PARTS[name], data)
    for index, more in nodes.items():
        at = 32 + 40 * index + 32
        tree[at:at + 8] = ((int.from_bytes(tree[at:at + 8], "big") + more) % 2**64).to_bytes(8, "big")
    probe.ask("disk-set", 1, TREE, tree)


def right_or_refused(probe, number, first, end):
    """What is read of these blocks is right, or refused; the number of those that are read."""
    read = 0
    for index in range(first, end):
        try:
            assert probe.bytes("get", number, index) == content(SEED, index, SIZE), index
            read += 1
        except ProbeError as error:
            assert error.code in (drive.CORRUPT, drive.NOT_FOUND, drive.TOO_BIG), (index, error.code)
    return read


DAMAGES = [{0: 5}, {0: -3}, {2: 4}, {8: 2**63}, {14: 7}, {14: -1}, {12: 9}, {28: 40}, {28: -7}, {26: 3}, {1: 6}, {13: -2}, {3: 11}, {11: -9}, {7: 1},
           {25: 12}, {0: 5, 2: -5}, {28: 5, 30: -5}, {1: 2, 5: -2}, {0: 3, 1: 3}, {19: 1, 23: 2**40}, {30: 1}, {30: -1}, {30: -9}]


@pytest.mark.parametrize("audit", [False, True], ids=["as it is", "audited"])
@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_appended_where_stored_sizes_are_wrong(damage, audit, probe):
    """What is appended is written to the right place and read from there, whatever was read before; and whatever is read beside a
    damaged node is right, or refused. Two sizes that make up for each other show only where the bytes are hashed: by the audit."""
    probe.ask("disk", 0)
    owner(probe, 0, 16, 4, where="disk:0")
    probe.ask("close", 0)
    damage_sizes(probe, damage)
    if probe.code("open", 1, "disk:1", 0, None, SECRET) == drive.CORRUPT:
        return  # refused
    length = int(probe.ask("info", 1)[0])
    leaves_alike = sum(damage.values()) == 0 and not any(node & 1 for node in damage)
    if audit:
        probe.ask("audit", 1)
    elif leaves_alike:
        for index in range(length):
            probe.code("get", 1, index)
    else:
        read = right_or_refused(probe, 1, 0, length)
        assert len(damage) > 1 or read >= length - 1
    probe.ask("grow", 1, SEED, 3, LOW, HIGH, 1)
    for _ in range(2):
        assert right_or_refused(probe, 1, length, length + 3) == 3
        if audit or not leaves_alike:
            right_or_refused(probe, 1, 0, length)
        probe.ask("close", 1)
        probe.ask("open", 1, "disk:1", 0, None, SECRET)


@pytest.mark.parametrize("leaf", [0, 5, 15])
def test_a_leaf_of_a_wrong_size_proves_nothing(leaf, probe):
    """Neither asked for by its hash nor beside its neighbour: it would be taken for a lie."""
    probe.ask("disk", 0)
    owner(probe, 0, 16, 4, where="disk:0")
    probe.ask("close", 0)
    damage_sizes(probe, {2 * leaf: 5})
    probe.ask("open", 1, "disk:1", 0, PUBLIC, None)
    for block in (leaf, leaf ^ 1):
        assert probe.code("proof", 1, block, 0, 1) == drive.CORRUPT, block
    assert probe.code("proof", 1, (leaf + 4) % 16, 0, 1) == 0


def test_a_data_part_that_comes_back_is_served_again(probe):
    """As far as it is there; it is looked at each minute."""
    data = readers_disk(probe, 20)
    ends = [sum(len(content(SEED, i, SIZE)) for i in range(n)) for n in range(21)]
    probe.ask("disk-set", 0, DATA, data[:ends[5]])
    reader(probe, 0, "disk:0", 0)
    for now, there, held in ((60000, 5, 5), (119999, 12, 5), (120000, 12, 12), (180000, 20, 20)):
        probe.ask("disk-set", 0, DATA, data[:ends[there]])
        assert probe.number("tick-feed", 0, now) == 0
        assert check(probe, 0) == held and members(probe.ask("held", 0)) == set(range(held))


def test_the_claims_of_an_empty_data_part_end_with_an_audit(probe):
    """Part of it is damaged, all of it too; if the part is not there at all, it may be away."""
    data = readers_disk(probe, 20)
    probe.ask("disk-set", 0, DATA, b"")
    reader(probe, 0, "disk:0", 0)
    *faults, good = probe.ask("audit", 0)
    probe.ask("close", 0)
    empty = {i for i in range(20) if not content(SEED, i, SIZE)}
    assert len(faults) == 20 - len(empty) and int(good) == len(empty)
    probe.ask("disk-set", 0, DATA, data)
    reader(probe, 0, "disk:0", 0)
    assert members(probe.ask("held", 0)) == empty


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_downloaded_where_stored_sizes_are_wrong(damage, probe):
    """A reader who holds every third block goes on: nothing is written over what he holds, and what the blocks prove is mended."""
    owner(probe, 2, 16, 4)
    probe.ask("disk", 0)
    reader(probe, 0, "disk:0")
    held = list(range(0, 16, 3))
    probe.ask("give", 0, 2, 0, *held)
    probe.ask("close", 0)
    damage_sizes(probe, damage)
    if probe.code("open", 1, "disk:1", 0, PUBLIC, None) == drive.CORRUPT:
        return
    for index in range(16):
        probe.code("give", 1, 2, 0, index)
        right_or_refused(probe, 1, index, index + 1)
    probe.ask("audit", 1)
    for index in range(16):
        probe.code("give", 1, 2, 0, index)
    probe.ask("audit", 1)
    right_or_refused(probe, 1, 0, 16)
    probe.ask("close", 1)


# ---- every I/O call fails once ------------------------------------------------------------------

def append_work(probe):
    probe.ask("grow", 0, SEED, 5, LOW, HIGH, 5)
    probe.ask("grow", 0, SEED, 40, LOW, HIGH, 10)
    probe.ask("flush", 0)


def put_work(probe):
    probe.ask("give", 0, 9, 0, 7, 3, 0, 19)
    probe.ask("flush", 0)
    probe.ask("give", 0, 9, 0, *range(20))
    probe.ask("flush", 0)


def clear_work(probe):
    probe.ask("clear", 0, 3, 9)
    probe.ask("clear", 0, 15, 20)


def read_work(probe):
    for i in range(20):
        probe.ask("get", 0, i)
        probe.ask("proof", 0, i, 0, 0)
    probe.ask("audit", 0)


def nothing(probe):
    pass


# what is on the disk before, who opens it, what is done
WORK = {"append": (0, SECRET, append_work), "append-more": (20, SECRET, append_work),
        "put": (0, None, put_work), "clear": (20, SECRET, clear_work),
        "clear-reader": (-20, None, clear_work), "read": (20, SECRET, read_work),
        "open": (20, SECRET, nothing), "open-reader": (-20, None, nothing)}


def prepare(probe, blocks, disk=0):
    """A disk with a feed of so many blocks; fewer than 0: a reader's."""
    probe.ask("disk", disk)
    if blocks >= 0:
        owner(probe, 0, blocks, where="disk:%d" % disk)
    else:
        owner(probe, 1, -blocks)
        reader(probe, 0, "disk:%d" % disk)
        probe.ask("give", 0, 1, 0, *range(-blocks))
        probe.ask("close", 1)
    probe.ask("close", 0)
    probe.ask("disk-calls", disk)


@pytest.mark.parametrize("kind", ["read", "write", "sync", "truncate"])
@pytest.mark.parametrize("name", WORK)
def test_every_call_of_the_store_fails_once(probe, name, kind):
    """The error comes out; what is left opens, claims nothing that is not there, and goes on."""
    blocks, secret, work = WORK[name]
    owner(probe, 9, 20)
    failures, n = 0, 0
    while True:
        n += 1
        prepare(probe, blocks)
        probe.ask("disk-fail", 0, kind, n, -NO_SPACE)
        codes = [probe.code("open", 0, "disk:0", CREATE, PUBLIC, secret)]
        if codes[0] == 0:
            try:
                work(probe)
            except ProbeError as error:
                codes.append(error.code)
            codes.append(probe.code("close", 0))
        left = probe.number("disk-fail", 0, kind, 0, 0)
        if left == 0:  # it did fail
            failures += 1
            assert NO_SPACE in codes, (n, codes)
        assert set(codes) <= {0, NO_SPACE, drive.NOT_FOUND}, (n, codes)
        probe.ask("open", 0, "disk:0", CREATE, PUBLIC, secret)
        length = int(probe.ask("info", 0)[0])
        assert length >= abs(blocks), n
        held = check(probe, 0)
        assert held >= abs(blocks) or "clear" in name, "a failed call lost blocks that were there"
        audited(probe, 0, held)
        if secret:
            probe.ask("grow", 0, SEED, 7, LOW, HIGH, 7)
            assert int(probe.ask("info", 0)[0]) == length + 7
        elif name == "put":
            probe.ask("give", 0, 9, 0, *range(20))
            check(probe, 0, 20)
        probe.ask("close", 0)
        sound(probe, 0)
        if left:
            break
    if (name, kind) not in {("put", "truncate"), ("append", "truncate"), ("append-more", "truncate"),
                            ("read", "write"), ("read", "sync"), ("read", "truncate"),
                            ("clear", "read"), ("clear-reader", "read")} and \
            not (name.startswith("open") and kind != "read") and not kind == "truncate":
        assert failures, "nothing was made to fail"


@pytest.mark.parametrize("kind", ["write", "sync", "read"])
def test_work_goes_on_after_a_failed_call(probe, kind):
    """The same object is used on after the failure, and what it commits then is all there."""
    owner(probe, 9, 20)
    for n in range(1, 40):
        prepare(probe, 0)
        probe.ask("open", 0, "disk:0", CREATE, PUBLIC, None)
        probe.ask("disk-fail", 0, kind, n, -NO_SPACE)
        probe.code("give", 0, 9, 0, 7, 3)
        probe.code("flush", 0)
        probe.code("give", 0, 9, 0, 11, 4, 5)
        probe.code("flush", 0)
        left = probe.number("disk-fail", 0, kind, 0, 0)
        probe.ask("give", 0, 9, 0, *range(20))
        check(probe, 0, 20)
        probe.ask("flush", 0)
        probe.ask("close", 0)
        assert sound(probe, 0).length == 20
        reader(probe, 0, "disk:0", 0)
        assert probe.ask("info", 0)[0] == "20", n
        check(probe, 0, 20)
        probe.ask("close", 0)
        if left:
            break


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_an_owner_goes_on_after_a_failed_call(probe, kind):
    for n in range(1, 60):
        prepare(probe, 3)
        owner(probe, 0, 0, where="disk:0")
        probe.ask("disk-fail", 0, kind, n, -NO_SPACE)
        for _ in range(4):
            probe.code("grow", 0, SEED, 3, LOW, HIGH, 3)
            probe.code("flush", 0)
        left = probe.number("disk-fail", 0, kind, 0, 0)
        length = probe.number("grow", 0, SEED, 2, LOW, HIGH, 2)
        probe.ask("flush", 0)
        check(probe, 0, length)
        probe.ask("close", 0)
        assert sound(probe, 0).length == length
        owner(probe, 0, 0, where="disk:0")
        assert int(probe.ask("info", 0)[0]) == length
        check(probe, 0, length)
        probe.ask("close", 0)
        if left:
            break


# ---- power cuts ---------------------------------------------------------------------------------

def owner_history(probe):
    """Appends and a clear; [(operations so far, committed length)] after each step."""
    probe.ask("disk", 0)
    owner(probe, 0, 0, where="disk:0")
    history = [(ops(probe), 0)]
    for count, batch, flush in [(3, 1, 1), (4, 4, 0), (6, 2, 1), (1, 1, 0), (1, 1, 0), (9, 9, 1), (2, 2, 1)]:
        probe.ask("grow", 0, SEED, count, LOW, HIGH, batch)
        if flush:
            probe.ask("flush", 0)
        history.append((ops(probe), int(probe.ask("info", 0)[2])))
    probe.ask("clear", 0, 4, 11)
    history.append((ops(probe), int(probe.ask("info", 0)[2])))
    probe.ask("grow", 0, SEED, 5, LOW, HIGH, 5)
    probe.ask("close", 0)
    return history


def ops(probe):
    return probe.numbers("disk-calls", 0)[-1]


@pytest.mark.parametrize("seeds", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], ids=str)
def test_power_cut_of_an_owner(probe, seeds):
    """At every operation: the feed opens, its length is never below what was committed, its
    blocks are right, and it goes on."""
    history = owner_history(probe)
    total = ops(probe)
    for cut in range(history[0][0], total + 1):
        committed = max(length for at, length in history if at <= cut)
        for seed in seeds:
            probe.ask("disk-cut", 0, 1, cut, seed)
            owner(probe, 1, 0, where="disk:1")
            length = int(probe.ask("info", 1)[0])
            assert length >= committed, (cut, seed)
            held = check(probe, 1)
            assert held >= committed - 7 - (length - committed), (cut, seed)
            audited(probe, 1, held)
            probe.ask("grow", 1, SEED, 3, LOW, HIGH, 2)
            probe.ask("close", 1)
            assert sound(probe, 1).length == length + 3


def reader_history(probe):
    owner(probe, 9, 30, 10)
    probe.ask("disk", 0)
    reader(probe, 0, "disk:0")
    history = [(ops(probe), set())]
    rng = random.Random(3)
    done = set()
    for part in (rng.sample(range(30), 4), [29, 0, 1], rng.sample(range(30), 12), range(30)):
        probe.ask("give", 0, 9, 0, *part)
        done |= set(part)
        probe.ask("flush", 0)
        history.append((ops(probe), set(done)))
    probe.ask("close", 0)
    return history


@pytest.mark.parametrize("seeds", [[0, 1, 2, 3], [4, 5, 6, 7]], ids=str)
def test_power_cut_of_a_reader(probe, seeds):
    """What was committed is there, what is claimed is right, and the rest can be fetched."""
    history = reader_history(probe)
    total = ops(probe)
    for cut in range(history[0][0], total + 1):
        committed = set().union(*[done for at, done in history if at <= cut])
        for seed in seeds:
            probe.ask("disk-cut", 0, 1, cut, seed)
            reader(probe, 1, "disk:1")
            held = members(probe.ask("held", 1))
            assert committed <= held, (cut, seed)
            assert check(probe, 1) == len(held)
            audited(probe, 1, len(held))
            probe.ask("give", 1, 9, 0, *range(30))
            check(probe, 1, 30)
            probe.ask("close", 1)
            assert sound(probe, 1).length == 30


@pytest.mark.parametrize("secret", [SECRET, None], ids=["owner", "reader"])
def test_power_cut_while_a_feed_is_made(probe, secret):
    """The files of a new feed: it opens again, with its key, or is made anew."""
    probe.ask("disk", 0)
    probe.ask("open", 0, "disk:0", CREATE, PUBLIC, secret)
    probe.ask("close", 0)
    for cut in range(ops(probe) + 1):
        for seed in range(8):
            probe.ask("disk-cut", 0, 1, cut, seed)
            code = probe.code("open", 1, "disk:1", CREATE, PUBLIC, secret)
            if code:  # half a key file: it says so, and does not make up another
                assert code == drive.CORRUPT and 0 < len(probe.bytes("disk-get", 1, drive.KEY)) < 32
                continue
            assert probe.ask("info", 1)[0] == "0" and probe.ask("info", 1)[5] == PUBLIC.hex()
            probe.ask("close", 1)


def test_lost_bitfield_does_not_fork(probe):
    """The deployed owner opens shorter and forks; here the blocks are found again."""
    probe.ask("disk", 0)
    owner(probe, 0, 20, 5, where="disk:0")
    probe.ask("close", 0)
    probe.ask("disk-set", 0, BITFIELD, b"")
    owner(probe, 0, 0, where="disk:0")
    assert probe.ask("info", 0)[0] == "20"
    check(probe, 0, 20)


@pytest.mark.parametrize("torn", range(0, 39))
def test_torn_node_of_an_unclaimed_tail(probe, torn):
    """Blocks, signatures and tree were written but not claimed, and one node is false: the blocks
    tell what it must be, or are not claimed. The feed is never made worse than it was."""
    probe.ask("disk", 0)
    owner(probe, 0, 20, 5, where="disk:0")
    probe.ask("close", 0)
    probe.ask("disk-set", 0, BITFIELD, b"")
    probe.ask("disk-flip", 0, TREE, 32 + 40 * torn, 1)
    probe.ask("open", 0, "disk:0", 0, None, SECRET)
    source = python_feed(20)
    for index in members(probe.ask("nodes", 0)):
        assert node(probe.ask("node", 0, index)[0]) == source.tree.get(index), index
    audited(probe, 0, check(probe, 0))
    probe.ask("close", 0)
    probe.ask("open", 0, "disk:0", 0, None, SECRET)


@pytest.mark.parametrize("first, more", [(9000, 8000), (8192, 1), (8190, 3)])
def test_a_crash_between_the_pages_of_a_bitfield(first, more, probe):
    """Node 16383 lies in the first page and its blocks in the second: whichever of the pages written
    by the last commit are there, the owner opens with all of his blocks."""
    probe.ask("disk", 0)
    owner(probe, 0, 0, where="disk:0")
    probe.ask("grow", 0, SEED, first, 1, 1, first)
    probe.ask("flush", 0)
    before = probe.bytes("disk-get", 0, BITFIELD)
    probe.ask("grow", 0, SEED, more, 1, 1, more)
    probe.ask("close", 0)
    after = probe.bytes("disk-get", 0, BITFIELD)
    pages, length = range(0, (len(after) - 32) // 3584), first + more
    assert len(pages) == (length + 8191) // 8192 and len(before) < len(after)
    for kept in range(1 << len(pages)):
        parts = [after if kept >> page & 1 else before.ljust(len(after), b"\0") for page in pages]
        probe.ask("disk-set", 0, BITFIELD, after[:32] + b"".join(
            part[32 + 3584 * page:32 + 3584 * (page + 1)] for page, part in zip(pages, parts)))
        owner(probe, 0, 0, where="disk:0")
        assert probe.number("info", 0) == length
        assert probe.numbers("check", 0, SEED, 1, 1) == [length, length], kept
        probe.ask("close", 0)
        found = probe.bytes("disk-get", 0, BITFIELD)
        for page in pages:  # an index byte above two pages may be that of before, if nothing of its page had changed
            assert found[32 + 3584 * page:][:3072] == after[32 + 3584 * page:][:3072], (kept, page)
        assert kept or found == after


def test_a_lost_page_is_not_claimed_again_where_a_block_of_it_is_wrong(probe):
    """All of it is looked at before any of it is claimed, and the tree stays as it was signed."""
    probe.ask("disk", 0)
    owner(probe, 0, 20000, where="disk:0")
    probe.ask("close", 0)
    bitfield, tree, data = (probe.bytes("disk-get", 0, part) for part in (BITFIELD, TREE, DATA))
    at = 32 + 3584
    probe.ask("disk-set", 0, BITFIELD, bitfield[:at] + bytes(3584) + bitfield[at + 3584:])
    at = sum(len(content(SEED, i, SIZE)) for i in range(10000))
    probe.ask("disk-set", 0, DATA, data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
    owner(probe, 0, 0, where="disk:0")
    assert probe.number("info", 0) == 20000
    assert members(probe.ask("held", 0)) == {i for i in range(20000) if i // 8192 != 1}
    probe.ask("close", 0)
    assert probe.bytes("disk-get", 0, TREE) == tree


def reader_with_blank_nodes(probe, blocks, first, count):
    """Disk 0 has all of these blocks, no secret key, and zeros where these nodes were."""
    probe.ask("disk", 0)
    owner(probe, 0, blocks, where="disk:0")
    probe.ask("close", 0)
    tree = probe.bytes("disk-get", 0, TREE)
    probe.ask("disk-set", 0, TREE, tree[:32 + 40 * first] + bytes(40 * count) + tree[32 + 40 * (first + count):])
    probe.ask("disk-set", 0, drive.SECRET_KEY, b"")


@pytest.mark.parametrize("first, count", [(2, 1), (5002, 1), (8194, 1), (12286, 1), (0, 8192)])
def test_blank_nodes_are_not_claimed(probe, first, count):
    """Claims of nodes whose place in the tree is blank go, with their blocks. Without the roots no other can be read either."""
    reader_with_blank_nodes(probe, 7000, first, count)
    blank = set(range(first, first + count))
    left = {i for i in range(7000) if 2 * i not in blank} if count == 1 else set()
    for _ in range(2):  # and it is written down: the next one finds it so
        reader(probe, 0, "disk:0", 0)
        assert members(probe.ask("held", 0)) == left and not members(probe.ask("nodes", 0)) & blank
        check(probe, 0, len(left))
        probe.ask("close", 0)
    bits = sleep.load(on_disk(probe, 0))
    assert not set(bits.tree.holding) & blank and set(bits.blocks) == left


def test_a_blank_place_is_no_node(probe):
    """Whatever claims it, and whatever stands behind it."""
    owner(probe, 1, 8)
    reader(probe, 0)
    probe.ask("give", 0, 1, 0, 0)
    assert members(probe.ask("nodes", 0)) == {0, 1, 2, 3, 5, 7, 11}
    probe.ask("claim-node", 0, 4, 5)
    assert probe.code("node", 0, 4) == drive.NOT_FOUND and probe.code("node", 0, 5) == 0


def test_a_read_that_fails_while_it_is_opened_drops_nothing(probe):
    probe.ask("disk", 0)
    owner(probe, 0, 20, where="disk:0")
    probe.ask("close", 0)
    failed = 0
    for _ in range(2):  # as the owner, and without the secret key
        for n in range(1, 60):
            probe.ask("disk-fail", 0, "read", n, -drive.IO)
            code = probe.code("open", 0, "disk:0", 0, PUBLIC, None)
            left = probe.number("disk-fail", 0, "any", 0, 0)
            failed += code != 0
            assert code == (drive.IO if left == 0 else 0)
            if code == 0:
                probe.ask("close", 0)
            reader(probe, 0, "disk:0", 0)
            check(probe, 0, 20)
            probe.ask("close", 0)
        probe.ask("disk-set", 0, drive.SECRET_KEY, b"")
    assert failed > 10


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_feed_that_cannot_be_written_is_not_made(kind, probe):
    """Whichever write of a new feed fails, it is told; and the next try makes it, but for half a key, which is told again."""
    failed = 0
    for n in range(1, 12):
        probe.ask("disk", 0)
        probe.ask("disk-fail", 0, kind, n, -drive.IO)
        code = probe.code("open", 0, "disk:0", CREATE, None, SECRET)
        assert code == (drive.IO if probe.number("disk-fail", 0, "any", 0, 0) == 0 else 0), n
        failed += code != 0
        if code == 0:
            probe.ask("close", 0)
        if 0 < len(on_disk(probe, 0).get("key", b"")) < 32:
            assert probe.code("open", 0, "disk:0", CREATE, None, SECRET) == drive.CORRUPT
            continue
        owner(probe, 0, 3, where="disk:0")
        check(probe, 0, 3)
        probe.ask("close", 0)
    assert failed > 4


def test_a_block_whose_place_is_not_known(probe):
    """The leaf to its left is blank and so is their parent: the tree is at fault, and the block is not taken for one that can be read."""
    reader_with_blank_nodes(probe, 9, 0, 2)
    reader(probe, 0, "disk:0", 0)
    assert members(probe.ask("held", 0)) == set(range(1, 9)) and probe.code("get", 0, 1) == drive.NOT_FOUND
    *faults, good = probe.ask("audit", 0)
    assert int(good) == 5 and "1:%d" % TREE in faults


def test_a_block_whose_place_its_parent_knows(probe):
    """The leaf to its left is blank, but the parent of both tells where it ends."""
    reader_with_blank_nodes(probe, 9, 0, 1)
    reader(probe, 0, "disk:0", 0)
    assert members(probe.ask("held", 0)) == set(range(1, 9))
    check(probe, 0, 8)


@pytest.mark.parametrize("secret", [True, False])
def test_opening_writes_nothing(probe, secret):
    probe.ask("disk", 0)
    owner(probe, 0, 20, where="disk:0")
    probe.ask("close", 0)
    before = on_disk(probe, 0)
    if not secret:
        probe.ask("disk-set", 0, drive.SECRET_KEY, b"")
    probe.ask("disk-calls", 0)
    probe.ask("open", 0, "disk:0", 0, PUBLIC, None)
    reads, writes, _, truncates, _ = probe.numbers("disk-calls", 0)
    assert reads > 0 and (writes, truncates) == (0, 0)
    check(probe, 0, 20)
    probe.ask("close", 0)
    assert {**on_disk(probe, 0), "secret_key": before["secret_key"]} == before


def test_recovery_syncs_what_it_claims(probe):
    """The process was killed between writing and claiming; then, after recovery, the power fails."""
    probe.ask("disk", 0)
    owner(probe, 0, 0, where="disk:0")
    probe.ask("grow", 0, SEED, 5, LOW, HIGH, 5)
    begun = ops(probe)
    probe.ask("close", 0)
    recovered = 0
    for cut in range(begun, ops(probe) + 1):
        probe.ask("disk-cut", 0, 1, cut, 0)
        claimed = len(probe.bytes("disk-get", 1, BITFIELD)) > 32
        probe.ask("disk-calls", 1)
        owner(probe, 1, 0, where="disk:1")
        if probe.ask("info", 1)[0] == "5" and not claimed:
            recovered += 1
            assert probe.numbers("disk-calls", 1)[2] >= 4, "data, tree, signatures, bitfield"
        probe.ask("close", 1)
    assert recovered


@pytest.mark.parametrize("node", [0, 2, 4])
@pytest.mark.parametrize("size", [2**64 - 15, 2**64 - 10, 2**63, 2**40])
def test_a_size_on_the_disk_that_cannot_be(probe, node, size):
    """An error or a fault that is told, and never a read outside of what is there."""
    probe.ask("disk", 0)
    owner(probe, 0, 0, where="disk:0")
    probe.ask("grow", 0, SEED, 5, 15, 15, 5)
    probe.ask("close", 0)
    tree = probe.bytes("disk-get", 0, TREE)
    at = 32 + 40 * node + 32
    probe.ask("disk-set", 0, TREE, tree[:at] + size.to_bytes(8, "big") + tree[at + 8:])
    for flags in (CREATE, 2):
        if probe.code("open", 0, "disk:0", flags, None, None) < 0:
            continue
        for block in range(5):
            assert probe.code("get", 0, block) in (0, drive.NOT_FOUND, drive.CORRUPT, drive.TOO_BIG)
        probe.code("audit", 0)
        probe.ask("close", 0)


def test_false_sizes_of_hashes_alone_are_set_right(probe):
    """The parent's hash binds the sum of two sizes only: what a hash alone says of each is settled by
    the block, and a held leaf is never replaced."""
    feed = python_feed(8)
    for first in (0, 1):
        reader(probe, 0)
        proof = feed.answer(wire.request(0, hash=True))
        two = feed.tree.get(2).size
        nodes = [wire.Node(n.index, n.hash, n.size + {0: two, 2: -two}.get(n.index, 0)) for n in proof.nodes]
        assert two and nodes[1].size == 0
        probe.ask("put", 0, 0, "none", proof.signature, *nodes)
        for index in (first, 1 - first, 5):
            data = feed.answer(wire.request(index))
            probe.ask("put", 0, index, data.value, data.signature, *data.nodes)
        for index in (0, 2):
            assert node(probe.ask("node", 0, index)[0]) == feed.tree.get(index)
        assert probe.numbers("check", 0, SEED, LOW, HIGH) == [3, 3]
        # now both are held: no hash alone changes them
        assert probe.code("put", 0, 0, "none", proof.signature, *nodes) in (0, drive.HASH)
        assert node(probe.ask("node", 0, 0)[0]) == feed.tree.get(0)
        probe.ask("close", 0)


def test_a_failed_signature_is_written_by_the_next_put(probe):
    """The first write, of the signature, fails; the blocks that come then need it."""
    owner(probe, 9, 20)
    probe.ask("disk", 0)
    reader(probe, 0, "disk:0")
    probe.ask("disk-fail", 0, "write", 1, -NO_SPACE)
    assert probe.code("give", 0, 9, 0, 7) == NO_SPACE
    probe.ask("give", 0, 9, 0, *range(20))
    probe.ask("close", 0)
    reader(probe, 0, "disk:0", 0)
    assert probe.ask("info", 0)[0] == "20"
    check(probe, 0, 20)


def test_a_read_that_fails_is_no_fault_of_the_block(probe):
    """The audit says that it could not read; no block loses its claim."""
    for n in range(1, 100):
        prepare(probe, 20)
        owner(probe, 0, 0, where="disk:0")
        probe.ask("disk-fail", 0, "read", n, -drive.IO)
        code = probe.code("audit", 0)
        left = probe.number("disk-fail", 0, "read", 0, 0)
        assert code == (0 if left else drive.IO)
        check(probe, 0, 20)
        probe.ask("close", 0)
        if left:
            break
    assert n > 2


def test_lost_signatures_of_an_owner_are_no_feed(probe):
    probe.ask("disk", 0)
    owner(probe, 0, 20, 5, where="disk:0")
    probe.ask("close", 0)
    probe.ask("disk-set", 0, SIGNATURES, b"")
    assert probe.code("open", 0, "disk:0", 0, None, SECRET) == drive.CORRUPT


# ---- every allocation fails once ----------------------------------------------------------------

def everything(probe, number):
    """A bit of all; the errors that came."""
    yield probe.code("open", number, "disk:%d" % number, CREATE, PUBLIC, SECRET)
    for words in (["grow", number, SEED, 6, LOW, HIGH, 3], ["flush", number], ["get", number, 2],
                  ["proof", number, 3, 0, 0], ["digests", number, 0, 9], ["clear", number, 1, 3],
                  ["seek", number, 9], ["grow", number, SEED, 2, LOW, HIGH, 2], ["audit", number],
                  ["want", number, 3, 5], ["close", number]):
        yield probe.code(*words)


@pytest.mark.parametrize("flavour", ["owner", "reader"])
def test_every_allocation_fails_once(probe, flavour):
    owner(probe, 9, 20)
    reader(probe, 8)
    probe.ask("give", 8, 9, 0, *range(20))  # now its buffers are as large as they get
    base = probe.numbers("memory")[0]
    failures, n = 0, 0
    while True:
        n += 1
        probe.ask("disk", 0)
        probe.ask("memory-fail", n)
        codes = []
        if flavour == "owner":
            for code in everything(probe, 0):
                codes.append(code)
                if len(codes) == 1 and code:
                    break
        else:
            codes.append(probe.code("open", 0, "disk:0", CREATE, PUBLIC, None))
            if not codes[0]:
                for words in (["give", 0, 9, 0, 7, 3, 19], ["flush", 0], ["give", 0, 9, 0, *range(20)],
                              ["get", 0, 5], ["get", 0, 6], ["close", 0]):
                    codes.append(probe.code(*words))
        left = probe.number("memory-fail", 0)
        assert set(codes) <= {0, drive.NOMEM, drive.NOT_FOUND, drive.STATE, drive.INVALID}, (n, codes)
        if left == 0:
            failures += 1
            assert drive.NOMEM in codes, (n, codes)
        assert probe.numbers("memory")[0] == base, n
        owner(probe, 0, 0, where="disk:0") if flavour == "owner" else reader(probe, 0, "disk:0")
        held = check(probe, 0)
        audited(probe, 0, held)
        probe.ask("close", 0)
        sound(probe, 0)
        if left:
            break
    assert failures > 5


# ---- folders of other years -----------------------------------------------------------------------

@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("blocks", [1, 8193, 20000])
@pytest.mark.parametrize("true, stated", [(3584, 3328), (3328, 3584), (3584, 3584), (3328, 3328), (3073, 3073)])
def test_a_header_that_lies_about_the_pages_of_the_bitfield(probe, true, stated, blocks, cut):
    """The versions to 6.22.0 write 3328 whenever they open. The content decides, also where the file's end is cut off; the header is
    put right."""
    probe.ask("disk", 0)
    owner(probe, 0, 0, where="disk:0")
    probe.ask("entry", 0, true)
    probe.ask("grow", 0, SEED, blocks, 1, 1, blocks)
    probe.ask("close", 0)
    honest = probe.bytes("disk-get", 0, BITFIELD)
    honest = sleep.encode_header(sleep.BITFIELD, true) + honest[32:]
    assert (len(honest) - 32) % true == 0
    bitfield = sleep.encode_header(sleep.BITFIELD, stated) + honest[32:len(honest) - cut]
    probe.ask("disk-set", 0, BITFIELD, bitfield)
    secret = probe.bytes("disk-get", 0, drive.SECRET_KEY)
    for key in (secret, b"", secret):  # an owner would mend what is read wrong
        probe.ask("disk-set", 0, drive.SECRET_KEY, key)
        probe.ask("open", 0, "disk:0", drive.READ_ONLY, None, None)
        assert probe.number("info", 0) == blocks
        assert probe.numbers("check", 0, SEED, 1, 1) == [blocks, blocks]
        probe.ask("close", 0)
        assert probe.bytes("disk-get", 0, BITFIELD) == bitfield
    owner(probe, 0, 0, where="disk:0")
    assert probe.number("info", 0) == blocks
    assert probe.numbers("check", 0, SEED, 1, 1) == [blocks, blocks]
    probe.ask("grow", 0, SEED, 1, 1, 1, 1)
    probe.ask("close", 0)
    found = probe.bytes("disk-get", 0, BITFIELD)
    if blocks > 8192 or not cut:
        assert found[:32] == honest[:32] and (len(found) - 32) % true == 0
    probe.ask("open", 0, "disk:0", 0, None, None)
    assert probe.numbers("check", 0, SEED, 1, 1) == [blocks + 1, blocks + 1]


@pytest.mark.parametrize("true, stated", [(3584, 3328), (3328, 3584)])
def test_few_blocks_tell_how_large_the_pages_are(true, stated, probe):
    """None of them at the begin of a byte, and the file's end is cut off."""
    owner(probe, 1, 20000)
    probe.ask("disk", 0)
    reader(probe, 0, "disk:0")
    probe.ask("entry", 0, true)
    held = range(8195, 10000, 8)
    probe.ask("give", 0, 1, 0, *held)
    probe.ask("close", 0)
    bitfield = probe.bytes("disk-get", 0, BITFIELD)
    probe.ask("disk-set", 0, BITFIELD, sleep.encode_header(sleep.BITFIELD, stated) + bitfield[32:-1])
    reader(probe, 0, "disk:0", drive.READ_ONLY)
    assert members(probe.ask("held", 0)) == set(held)


def test_pages_without_room_for_an_index_are_none(probe):
    probe.ask("disk", 0)
    owner(probe, 0, 3, where="disk:0")
    probe.ask("close", 0)
    body = probe.bytes("disk-get", 0, BITFIELD)[32:]
    for size in (1, 1024, 3072):
        probe.ask("disk-set", 0, BITFIELD, sleep.encode_header(sleep.BITFIELD, size) + body)
        assert probe.code("open", 0, "disk:0", 0, None, None) == drive.CORRUPT


@pytest.mark.parametrize("flags", [0, CREATE, drive.READ_ONLY])
@pytest.mark.parametrize("pages", [True, False])
def test_a_zeroed_header_is_no_empty_feed(probe, flags, pages):
    """Hypercore 6.23.1 to 7.4.0 leave it so after `overwrite`, and open an empty feed, to which anything can be appended. Without
    the file the owner's blocks are found by their signatures."""
    probe.ask("disk", 0)
    owner(probe, 0, 20, 5, where="disk:0")
    probe.ask("close", 0)
    before = probe.bytes("disk-get", 0, BITFIELD)
    probe.ask("disk-set", 0, BITFIELD, bytes(32) + before[32:] * pages)
    assert probe.code("open", 0, "disk:0", flags, None, SECRET) == drive.OVERWRITTEN
    assert probe.bytes("disk-get", 0, BITFIELD) == bytes(32) + before[32:] * pages
    probe.ask("disk-set", 0, BITFIELD, b"")
    owner(probe, 0, 0, where="disk:0")
    assert check(probe, 0, 20)


@pytest.mark.parametrize("held", [range(20), (3, 4, 5, 19)], ids=["whole", "sparse"])
@pytest.mark.parametrize("header", [bytes(32), b"\5\2\x57" + bytes(29)], ids=["zeroed", "opened again"])
def test_salvage_tells_what_is_good_without_the_bitfield(probe, header, held):
    owner(probe, 1, 20, 5)
    probe.ask("disk", 0)
    reader(probe, 0, "disk:0")
    probe.ask("give", 0, 1, 0, *held)
    probe.ask("close", 0)
    probe.ask("disk-set", 0, BITFIELD, header + probe.bytes("disk-get", 0, BITFIELD)[32:])
    before = on_disk(probe, 0)
    for flags in (0, CREATE, SALVAGE, drive.READ_ONLY):
        assert probe.code("open", 0, "disk:0", flags, PUBLIC, None) == drive.OVERWRITTEN
    probe.ask("open", 0, "disk:0", drive.READ_ONLY | SALVAGE, PUBLIC, None)
    assert probe.ask("info", 0)[0] == "20"
    *faults, good = probe.ask("audit", 0)
    bad = {int(fault.split(":")[0]) for fault in faults}
    assert int(good) == len(set(held)) and not bad & set(held), faults
    probe.ask("close", 0)
    assert on_disk(probe, 0) == before


def test_salvage_ends_where_the_signatures_do(probe):
    """What lies behind the last length that is signed is of another time."""
    probe.ask("disk", 0)
    owner(probe, 0, 20, 5, where="disk:0")
    probe.ask("close", 0)
    probe.ask("disk-set", 0, BITFIELD, bytes(32))
    probe.ask("disk-set", 0, SIGNATURES, probe.bytes("disk-get", 0, SIGNATURES)[:32 + 15 * 64])
    probe.ask("open", 0, "disk:0", drive.READ_ONLY | SALVAGE, PUBLIC, None)
    assert probe.number("info", 0) == 15 and members(probe.ask("held", 0)) == set(range(15))
    assert members(probe.ask("nodes", 0)) == set(range(29)) - {15, 23, 27} and probe.ask("audit", 0) == ["15"]


def test_an_empty_secret_key_is_none(probe):
    """random-access-file 1 creates what it opens."""
    probe.ask("disk", 0)
    owner(probe, 0, 20, 5, where="disk:0")
    probe.ask("close", 0)
    probe.ask("disk-set", 0, drive.SECRET_KEY, b"")
    probe.ask("open", 0, "disk:0", CREATE, None, None)
    assert probe.number("info", 0) == 20 and probe.code("append", 0, b"x") == drive.READ_ONLY_FEED
    probe.ask("close", 0)
    assert probe.bytes("disk-get", 0, drive.SECRET_KEY) == b""
    probe.ask("open", 0, "disk:0", 0, None, SECRET)  # given, it is written there
    assert probe.number("append", 0, b"x") == 21
