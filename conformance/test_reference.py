"""The suite's own implementation, held against the protocol's facts and recorded vectors.

What is called RECORDED was written by hypercore 6.26.0 and hypercore-protocol 6.12.0. Where it
can be, the other side of a comparison is neither of the two: hashlib, or a slow definition.
"""

import hashlib
import os
import random

import pytest

from dat import bitfield, cipher, flat, peer, sleep, sodium, tree, wire
from dat.feed import Feed, content_key_pair
from dat.wire import (Cancel, Data, Extension, Handshake, Have, Info, Node, Request, Unhave, Unwant,
                      Want)

SEED = 20190101
SECRET = sodium.keypair(b"\x09" * 32)[1]
KEY = SECRET[32:]


def make_feed(sizes, live=True):
    """The feed of the recorded folders: a batch for each list, block = its size, size times."""
    feed = Feed(secret_key=SECRET) if live else Feed(live=False)
    for batch in sizes:
        feed.append(*[bytes([n & 255]) * n for n in batch])
    if not live:
        feed.finalize()
    return feed


def random_feed(rng, blocks):
    feed = Feed(secret_key=SECRET)
    while feed.length < blocks:
        batch = [rng.randbytes(rng.randrange(40)) for _ in range(rng.randint(1, 5))]
        feed.append(*batch[:blocks - feed.length])
    return feed


def fetch(source, target, index, **how):
    target.put(source.answer(wire.request(index, target.digest(index), **how)))


# ---- libsodium --------------------------------------------------------------------------------

def test_hashes_agree_with_hashlib():
    rng = random.Random(SEED)
    for size in (0, 1, 63, 64, 127, 128, 129, 1000):
        message, key = rng.randbytes(size), rng.randbytes(32)
        plain = hashlib.blake2b(message, digest_size=32).digest()
        keyed = hashlib.blake2b(message, digest_size=32, key=key).digest()
        assert sodium.generichash(message) == plain
        assert sodium.generichash(message, key=key) == keyed
        cut = rng.randint(0, size)
        assert sodium.Hash().update(message[:cut]).update(message[cut:]).final() == plain
        assert sodium.Hash(key=key).update(message[:cut]).update(message[cut:]).final() == keyed


def test_signatures_agree_with_rfc_8032():
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public, secret = sodium.keypair(seed)
    assert public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = sodium.sign(b"", secret)
    assert signature.hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701c"
        "f9b46bd25bf5f0595bbe24655141438e7a100b")
    assert sodium.verify(b"", signature, public)
    assert not sodium.verify(b"x", signature, public)
    for size in (0, 63, 65):
        assert not sodium.verify(b"", signature.ljust(65, b"\0")[:size], public)
    a, b = sodium.keypair(), sodium.keypair()
    assert a != b and sodium.verify(b"m", sodium.sign(b"m", a[1]), a[0])
    with pytest.raises(ValueError):
        sodium.sign(b"", secret[:63])


def test_missing_libsodium_is_one_clear_line():
    with pytest.raises(sodium.SodiumMissing) as caught:
        sodium.load(["no-such-library.so"])
    assert "install it" in str(caught.value) and "\n" not in str(caught.value)


def test_discovery_key_and_content_keys():
    assert cipher.discovery_key(KEY) == hashlib.blake2b(b"hypercore", digest_size=32,
                                                        key=KEY).digest()
    seed = hashlib.blake2b(b"", digest_size=32, key=SECRET[:32], salt=bytes([1] + [0] * 15),
                           person=b"hyperdri" + bytes(8)).digest()
    assert content_key_pair(SECRET) == sodium.keypair(seed)


# ---- the cipher -------------------------------------------------------------------------------

def test_xsalsa20_keystream_and_any_offset():
    key = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    nonce = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    stream = cipher.keystream_xor(bytes(1000), nonce, key)
    assert stream[:32].hex() == "eea6a7251c1e72916d11c2cb214d3c252539121d8e234e652d651fa4c8cff880"
    for offset in range(0, 300):
        assert cipher.keystream_xor(bytes(70), nonce, key, offset) == stream[offset:offset + 70]
    rng, running, out = random.Random(SEED), cipher.Cipher(nonce, key), b""
    while len(out) < 900:
        out += running.xor(bytes(rng.randrange(90)))
    assert out[:900] == stream[:900]


def opening_stream():
    """One direction from its first byte: (bytes, the frames in it)."""
    messages = [(0, wire.Feed(cipher.discovery_key(KEY), bytes(range(24)))),
                (0, Handshake(b"i" * 32, True, None, [], False)), (1, wire.Feed(bytes(32))),
                (0, Have(4)), (0, Have(0, 1 << 20, b"\x02\xf8")), (0, wire.request(4))]
    sender = cipher.Sender(KEY, bytes(range(24)))
    frames = [wire.encode_message(*m) for m in messages] + [wire.KEEP_ALIVE]
    return b"".join(map(sender.encode, frames)), frames


def test_switch_from_clear_to_cipher_at_every_split():
    stream, frames = opening_stream()
    assert len(frames[0]) == 62 and stream[:62] == frames[0]
    assert stream[62:] == cipher.keystream_xor(b"".join(frames[1:]), bytes(range(24)), KEY)
    for cut in range(len(stream) + 1):
        receiver = cipher.Receiver(KEY)
        got = receiver.feed(stream[:cut]) + receiver.feed(stream[cut:])
        assert [f.raw for f in got] == frames
    receiver = cipher.Receiver(KEY)
    got = [f for i in range(len(stream)) for f in receiver.feed(stream[i:i + 1])]
    assert [f.raw for f in got] == frames


@pytest.mark.parametrize("first", [
    wire.encode_message(0, wire.Feed(cipher.discovery_key(KEY))),  # no nonce
    wire.encode_message(0, wire.Feed(bytes(32), bytes(24))),  # another feed
    wire.encode_message(0, Have(1)),
    wire.encode_frame(0, 0, wire.encode_raw(1, cipher.discovery_key(KEY)) +
                      wire.encode_raw(2, bytes(32))),  # the 32 bytes of the DEP
])
def test_bad_openings(first):
    with pytest.raises(wire.CodecError):
        cipher.Receiver(KEY).feed(first)


# ---- varints and frames -----------------------------------------------------------------------

def test_varints():
    for number, code in ((0, "00"), (127, "7f"), (128, "8001"), (1 << 20, "808040"),
                         (1 << 40, "808080808020"), ((1 << 64) - 1, "ffffffffffffffffff01")):
        assert wire.encode_varint(number).hex() == code
        assert wire.decode_varint(bytes.fromhex(code)) == (number, len(code) // 2)
    assert wire.decode_varint(bytes.fromhex("8000")) == (0, 2)
    for code in ("", "80", "ffffffffffffffffff02", "80808080808080808080", "ff" * 10 + "00"):
        with pytest.raises(wire.CodecError):
            wire.decode_varint(bytes.fromhex(code))
    for number in (-1, 1 << 64):
        with pytest.raises(wire.CodecError):
            wire.encode_varint(number)


def test_largest_frame_and_length():
    frame = wire.encode_frame(0, 15, bytes(wire.MAX_FRAME - 1))
    assert frame[:4] == b"\x80\x80\x80\x04" and len(frame) == 4 + 8388608
    decoder = wire.FrameDecoder()
    assert decoder.feed(frame[:-1]) == []
    [got] = decoder.feed(frame[-1:])
    assert got.length == 8388608 and len(got.body) == 8388607
    with pytest.raises(wire.CodecError):
        wire.encode_frame(0, 15, bytes(wire.MAX_FRAME))
    for head in ("81808004", "8080808000", "ffffffff", "80808080"):
        with pytest.raises(wire.CodecError):
            wire.FrameDecoder().feed(bytes.fromhex(head))
    assert wire.FrameDecoder().feed(bytes.fromhex("808080")) == []


def test_keep_alive_ignored_frames_and_headers():
    def feed(code):
        return wire.FrameDecoder().feed(bytes.fromhex(code))
    assert [f.is_keep_alive for f in feed("008000")] == [True, True]
    for code in ("0101", "0180", "810002"):  # one byte: not even an empty Handshake
        [frame] = feed(code)
        assert not frame.is_message and not frame.is_keep_alive
    [frame] = feed("028201")  # channel 8, Info, an empty body
    assert (frame.channel, frame.message()) == (8, Info())
    [frame] = feed("031a0800")
    assert (frame.channel, frame.type) == (1, 10)
    for code in ("02808080", "0680808080100a", "0bffffffffffffffffffff0100"):
        with pytest.raises(wire.CodecError):
            feed(code)
    for kind in range(10, 15):
        with pytest.raises(wire.CodecError):
            feed(wire.encode_frame(0, kind, b"\x08\x00").hex())[0].message()


# ---- messages ---------------------------------------------------------------------------------

NODE_A, NODE_B = Node(6, b"\x04" * 32, 300), Node(1, b"\x05" * 32, 0)
RECORDED_BODIES = [
    (wire.Feed(b"\x01" * 32, b"\x02" * 24), "0a20" + "01" * 32 + "1218" + "02" * 24),
    (wire.Feed(b"\x01" * 32), "0a20" + "01" * 32),
    (Handshake(b"\x03" * 32, True, b"hi", ["a", "b"], False),
     "0a20" + "03" * 32 + "10011a0268692201612201622800"),
    (Handshake(b"\x03" * 32, False, None, [], False), "0a20" + "03" * 32 + "10002800"),
    (Info(True, False), "08011000"),
    (Have(5, 7, b"\x02\xf8", True), "080510071a0202f82001"),
    (Have(0, 1 << 20, b""), "0800108080401a00"),
    (Have(1 << 40), "08808080808020"),
    (Unhave(1, 2), "08011002"),
    (Want(8192, 1 << 20), "08804010808040"),
    (Unwant(0, 0), "08001000"),
    (wire.request(4), "0804100018002000"),
    (Request(300, 70000, True, (1 << 35) + 3), "08ac0210f0a204180120838080808001"),
    (Cancel(9, 0, True), "080910001801"),
    (Data(2, b"abc", [NODE_A, NODE_B], b"\x06" * 64),
     "080212036162631a2708061220" + "04" * 32 + "18ac021a2608011220" + "05" * 32 + "18002240"
     + "06" * 64),
    (Data(2), "0802"),
    (Data(2, b""), "08021200"),
    (Extension(300, b"payload"), "ac02" + b"payload".hex()),
]
IDS = ["%s-%d" % (type(m).__name__, i) for i, (m, _) in enumerate(RECORDED_BODIES)]


@pytest.mark.parametrize("message, code", RECORDED_BODIES, ids=IDS)
def test_recorded_bodies(message, code):
    assert message.encode().hex() == code
    assert type(message).decode(bytes.fromhex(code)) == message


@pytest.mark.parametrize("channel, message, code", [
    (0, Handshake(b"\x03" * 32, True, None, [], False), "27010a20" + "03" * 32 + "10012800"),
    (0, Want(0, 1 << 20), "0705080010808040"),
    (0, Have(4), "03030804"),
    (0, wire.request(4), "09070804100018002000"),
    (0, Have(0, 1 << 20, b"\x02\xf8"), "0b030800108080401a0202f8"),
])
def test_frames_of_the_recorded_conversation(channel, message, code):
    assert wire.encode_message(channel, message).hex() == code
    [frame] = wire.FrameDecoder().feed(bytes.fromhex(code))
    assert (frame.channel, frame.message(), frame.raw.hex()) == (channel, message, code)


def test_defaults_of_absent_fields():
    assert Info.decode(b"").read("downloading") is False
    assert Have.decode(b"\x08\x01").read("length") == 1
    assert Unhave.decode(b"\x08\x01").read("length") == 1
    assert Want.decode(b"\x08\x01").read("length") == 0
    assert Request.decode(b"\x08\x01").read("nodes") == 0
    assert Have.decode(b"\x08\x01").bitfield is None
    assert Have.decode(b"\x08\x01\x1a\x00").bitfield == b""


def random_message(rng):
    """A message of a random type, each optional field there or not."""
    def value(f):
        if f.kind == wire.UINT:
            return rng.getrandbits(rng.choice((1, 7, 8, 20, 32, 53, 64)))
        if f.kind == wire.BOOL:
            return rng.random() < 0.5
        if f.kind == wire.STRING:
            return rng.choice(("", "hypercore/ext", "\u00e9\u4e16", "\udcff"))
        if f.kind == wire.NODE:
            return Node(*(value(g) for g in Node.FIELDS))
        return rng.randbytes({"discoveryKey": 32, "nonce": 24}.get(f.name, rng.randrange(80)))
    kind = rng.choice(list(wire.MESSAGES.values()))
    if kind is Extension:
        return Extension(rng.getrandbits(20), rng.randbytes(20))
    values = {}
    for f in kind.FIELDS:
        if f.rule == "repeated":
            values[f.name] = [value(f) for _ in range(rng.randrange(4))]
        elif f.rule == "required" or rng.random() < 0.6:
            values[f.name] = value(f)
    return kind(**values)


def test_random_messages_round_trip_through_every_split():
    rng = random.Random(SEED)
    seen = set()
    for _ in range(300):
        message, channel = random_message(rng), rng.choice((0, 1, 7, 8, 255))
        seen.add(type(message))
        frame = wire.encode_message(channel, message)
        for cut in range(0, len(frame), 7):
            decoder = wire.FrameDecoder()
            got = decoder.feed(frame[:cut]) + decoder.feed(frame[cut:])
            assert [g.channel for g in got if g.is_message] == [channel] * (len(frame) > 2)
        if len(frame) > 2:
            assert got[0].message() == message and got[0].message().encode() == message.encode()
    assert seen == set(wire.MESSAGES.values())


@pytest.mark.parametrize("message, code", RECORDED_BODIES, ids=IDS)
def test_damaged_bodies_raise_only_the_codecs_error(message, code):
    """Every truncation and every bit flip; what still decodes encodes to what decodes alike."""
    body = bytes.fromhex(code)
    damaged = [body[:i] for i in range(len(body))]
    damaged += [body[:i] + bytes([body[i] ^ 1 << b]) + body[i + 1:]
                for i in range(len(body)) for b in range(8)]
    refused = 0
    for bad in damaged:
        try:
            got = type(message).decode(bad)
        except wire.CodecError:
            refused += 1
        else:
            assert type(message).decode(got.encode()) == got
    assert refused > 0


def test_damaged_streams_raise_only_the_codecs_error():
    stream, _ = opening_stream()
    refused = 0
    for i in range(len(stream)):
        for bit in range(8):
            bad = stream[:i] + bytes([stream[i] ^ 1 << bit]) + stream[i + 1:]
            try:
                for frame in cipher.Receiver(KEY).feed(bad):
                    if frame.is_message:
                        frame.message()
            except wire.CodecError:
                refused += 1
    assert refused > 8 * 32  # a flip in the discovery key at least is always seen


def test_unknown_fields_are_skipped_and_last_value_counts():
    extra = (wire.encode_raw(9, 77) + wire.encode_raw(10, b"abc") + b"\x59" + bytes(8)
             + b"\x65" + bytes(4))
    body = Have(5, 7, b"\x02\xf8").encode()
    assert Have.decode(extra + body + extra) == Have(5, 7, b"\x02\xf8")
    node = wire.encode_raw(3, NODE_A.encode() + extra)
    assert Data.decode(b"\x08\x02" + node).nodes == [NODE_A]
    assert Have.decode(body + wire.encode_raw(1, 6)).start == 6


@pytest.mark.parametrize("code", [
    "",  # nothing: start is required
    "1005",  # start is missing
    "08051a05aabb",  # an inner length beyond the message
    "08051affffffffffffffffff01aa",  # an enormous one
    "0805190000",  # fixed64 cut off
    "08052d0000",  # fixed32 cut off
    "0805" + "63" + "64",  # groups
    "08056f", "08056e",  # wire types that do not exist
    "0a0105",  # start with another wire type
    "08050001",  # field number 0
    "0880",  # a varint cut off
])
def test_bodies_that_do_not_decode(code):
    with pytest.raises(wire.CodecError):
        Have.decode(bytes.fromhex(code))


def test_sizes_in_feed_and_truncated_inner_messages():
    for body in (wire.encode_raw(1, bytes(31)), wire.encode_raw(1, bytes(32)) +
                 wire.encode_raw(2, bytes(32)), wire.encode_raw(2, bytes(24))):
        with pytest.raises(wire.CodecError):
            wire.Feed.decode(body)
    inner = NODE_A.encode()
    for cut in range(len(inner)):
        with pytest.raises(wire.CodecError):
            Data.decode(b"\x08\x02" + wire.encode_raw(3, inner[:cut]))
    for code in ("", "80", "ffffffffffffffffffff01"):
        with pytest.raises(wire.CodecError):
            Extension.decode(bytes.fromhex(code))


def test_messages_that_cannot_be_encoded():
    for message in (Have(None), Have(-1), Have(1 << 64), Have(1, bitfield="text"),
                    Data(1, nodes=[None]), Data(1, nodes=[Node(1, None, 1)]),
                    Handshake(userData=3)):
        with pytest.raises(wire.CodecError):
            message.encode()


# ---- flat tree --------------------------------------------------------------------------------

def test_flat_tree_numbers():
    assert [flat.index(0, 3), flat.index(1, 1), flat.index(2, 0), flat.index(3, 1)] == [6, 5, 3, 23]
    assert [flat.parent(i) for i in (0, 2, 4, 6, 1, 5, 3, 11)] == [1, 1, 5, 5, 3, 3, 7, 7]
    assert flat.children(3) == (1, 5) and flat.children(4) is None
    assert (flat.left_span(11), flat.right_span(11)) == (8, 14)
    for blocks, roots in ((0, []), (1, [0]), (5, [3, 8]), (7, [3, 9, 12]), (8, [7])):
        assert flat.full_roots(blocks) == roots


def test_flat_tree_relations():
    for i in range(2000):
        assert flat.index(flat.depth(i), flat.offset(i)) == i
        assert flat.sibling(flat.sibling(i)) == i != flat.sibling(i)
        assert flat.children(flat.parent(i)) == tuple(sorted((i, flat.sibling(i))))
        below = [i]
        while below[0] % 2:
            below = [c for node in below for c in flat.children(node)]
        assert below == list(range(flat.left_span(i), flat.right_span(i) + 1, 2))
    for blocks in range(1, 300):
        leaves = []
        for root in flat.full_roots(blocks):
            leaves += range(flat.left_span(root), flat.right_span(root) + 1, 2)
        assert leaves == list(range(0, 2 * blocks, 2))
        depths = [flat.depth(r) for r in flat.full_roots(blocks)]
        assert depths == sorted(set(depths), reverse=True)


# ---- bits, run lengths, pages -----------------------------------------------------------------

def test_bits():
    bits, model, rng = bitfield.Bits(), set(), random.Random(SEED)
    for _ in range(2000):
        i, on = rng.randrange(3000), rng.random() < 0.6
        assert bits.set(i, on) == ((i in model) != on)
        (model.add if on else model.discard)(i)
    assert list(bits) == sorted(model) and bits.count() == len(model)
    assert len(bits) == max(model) + 1 and not bits.get(10 ** 9)
    bits = bitfield.Bits()
    bits.set(0), bits.set(11)
    assert bytes(bits) == b"\x80\x10" and bits.bytes(1, 3) == b"\x10\0\0" and len(bits) == 12
    assert len(bitfield.Bits(bytes(5))) == 0
    bits.replace(3, b"\x01")
    assert list(bits) == [0, 11, 31]


RLE = [  # recorded
    ("f8", "02f8"), ("ff" * 8, "23"), ("0000000001", "110201"),
    ("a0" + "ff" * 10 + "80", "02a02b0280"), ("", ""), ("00" * 50, ""), ("fc", "02fc"),
    ("ff" * 12 + "f8", "3302f8"),
]


@pytest.mark.parametrize("plain, code", RLE)
def test_recorded_run_lengths(plain, code):
    plain, code = bytes.fromhex(plain), bytes.fromhex(code)
    assert bitfield.rle_encode(plain) == code
    decoded = plain.rstrip(b"\0")
    assert bitfield.rle_decode(code) == decoded
    assert bitfield.rle_decode(code, align=4) == decoded + bytes(-len(decoded) % 4)


def test_random_run_lengths_round_trip():
    rng = random.Random(SEED)
    for _ in range(1000):
        plain = b"".join(rng.choice((b"\0", b"\xff", rng.randbytes(1))) * rng.choice((1, 2, 5, 70))
                         for _ in range(rng.randrange(12)))
        code = bitfield.rle_encode(plain)
        assert bitfield.rle_decode(code) == plain.rstrip(b"\0")
        assert len(code) <= len(plain) + 3  # never longer than one literal
        assert bitfield.rle_encode(plain + b"\0\0") == code


def test_hostile_run_lengths():
    run = wire.encode_varint((1 << 40) << 2 | 3)
    literal = wire.encode_varint((1 << 40) << 1)
    for code in (run, literal, b"\x04\xaa", b"\x80", b"\x02", b"\xff" * 11, run * 100,
                 wire.encode_varint(600 << 2 | 1) * 2):
        with pytest.raises(wire.CodecError):
            bitfield.rle_decode(code, limit=1024)
    assert bitfield.rle_decode(wire.encode_varint(1024 << 2 | 3), limit=1024) == b"\xff" * 1024
    assert bitfield.rle_decode(b"\x00\x01\x03") == b""  # empty literal and runs: nothing
    good = bitfield.rle_encode(b"\xa0" + b"\xff" * 10 + b"\x80" + bytes(9) + b"\x01")
    for cut in range(len(good)):
        try:
            assert len(bitfield.rle_decode(good[:cut])) <= 21
        except wire.CodecError:
            pass


def page_by_definition(blocks, held, pages):
    """The bitfield pages, bit by bit and each index byte from its whole range of blocks."""
    out = bytearray(pages * 3584)
    for b in blocks:
        out[b // 8192 * 3584 + b % 8192 // 8] |= 0x80 >> (b & 7)
    for i in held:
        out[i // 16384 * 3584 + 1024 + i % 16384 // 8] |= 0x80 >> (i & 7)

    def state(first, count):
        there = sum(1 for b in range(first, first + count) if b in blocks)
        return 3 if there == count else 1 if there else 0

    for j in range(pages * 512):
        value = 0
        if j % 2 == 0:
            parts = [(16 * j + 8 * k, 8) for k in range(4)]
        else:  # a quarter of its blocks for every two bits
            width = 8 << flat.depth(j)
            first = flat.left_span(j) * 16
            parts = [(first + k * width, width) for k in range(4)]
        for first, count in parts:
            value = value << 2 | state(first, count)
        out[j // 512 * 3584 + 3072 + j % 512] = value
    return bytes(out)


def test_bitfield_page_by_definition():
    rng = random.Random(SEED)
    cases = [set(range(n)) for n in (0, 1, 7, 8, 31, 32, 33, 100, 8191, 8192, 8193, 16384)]
    cases += [set(rng.sample(range(9000), n)) for n in (5, 3000)]
    cases += [set(range(64, 4096)) | {5000, 8200}]
    for blocks in cases:
        bits, held = bitfield.Bits(), bitfield.Bits()
        for b in blocks:
            bits.set(b), held.set(2 * b)
        pages = -(-len(bits) // 8192)
        content = bitfield.encode_pages(bits, held)
        assert content == page_by_definition(blocks, {2 * b for b in blocks}, pages)
        back = bitfield.decode_pages(content)
        assert (set(back[0]), list(back[1])) == (blocks, list(held))
    assert len(bitfield.encode_pages(bits, held, 3328)) == 2 * 3328
    assert set(bitfield.decode_pages(bitfield.encode_pages(bits, held, 3328), 3328)[0]) == blocks


# ---- the tree ---------------------------------------------------------------------------------

def b2(*parts):
    return hashlib.blake2b(b"".join(parts), digest_size=32).digest()


def u64(n):
    return n.to_bytes(8, "big")


def test_hashes_by_definition():
    a, b, c = (tree.leaf_node(i, data) for i, data in enumerate((b"hello", b"", b"!")))
    assert a == Node(0, b2(b"\0", u64(5), b"hello"), 5) and b == Node(2, b2(b"\0", u64(0)), 0)
    p = tree.parent_node(b, a)  # in either order
    assert p == tree.parent_node(a, b) == Node(1, b2(b"\1", u64(5), a.hash, b.hash), 5)
    assert tree.root_hash([p, c]) == b2(b"\2", p.hash, u64(1), u64(5), c.hash, u64(4), u64(1))
    feed = Feed(secret_key=SECRET)
    feed.append(b"hello", b"", b"!")
    assert feed.tree.nodes == {0: a, 1: p, 2: b, 4: c} and feed.root_hash() == \
        tree.root_hash([p, c])
    assert list(feed.signatures) == [2]
    assert sodium.verify(feed.root_hash(), feed.signatures[2], KEY)


@pytest.mark.parametrize("held, digest", [
    ((3, 4), 0b1011), ((1, 4), 0b110), ((3,), 0b1001), ((5,), 0b101), ((6,), 1), ((), 0),
    ((4, 5), 1),  # all ones
    ((4,), 0b10), ((1,), 0b100),
])
def test_recorded_digests_of_index_6(held, digest):
    assert tree.Holding(held).digest(6) == digest


def test_recorded_digests_of_later_appends():
    assert tree.Holding((3,)).digest(8) == 8
    assert tree.Holding((3, 9)).digest(12) == 12
    assert tree.Holding((3, 8)).digest(10) == 10


def test_two_held_children_imply_their_parent():
    held = tree.Holding((0, 4, 6))
    assert list(held) == [0, 4, 5, 6]
    held.set(2)
    assert list(held) == [0, 1, 2, 3, 4, 5, 6]


def test_recorded_proofs():
    full = tree.Holding(2 * b for b in range(5))  # the metadata feed of the conversation below
    remote = tree.Holding()
    for block, nodes in ((4, [3]), (0, [2, 5, 8]), (3, [4, 1, 8]), (1, [0, 5, 8]), (2, [6, 1, 8])):
        assert tree.proof_indexes(full, 2 * block, 0, remote=remote) == (nodes, 5)
    assert tree.proof_indexes(full, 8, 8) == ([], 5)
    content = tree.Holding(2 * b for b in range(6))
    for block, nodes in ((5, [8, 3]), (0, [2, 5, 9]), (4, [10, 3]), (1, [0, 5, 9]), (3, [4, 1, 9])):
        assert tree.proof_indexes(content, 2 * block) == (nodes, 6)
    assert tree.proof_indexes(tree.Holding(2 * b for b in range(7)), 12, 12) == ([], 7)


def test_what_a_digest_said_is_remembered():
    full, remote = tree.Holding(2 * b for b in range(5)), tree.Holding()
    tree.proof_indexes(full, 6, 0b1011, remote=remote)
    assert tree.proof_indexes(full, 0, 0, remote=remote) == ([2, 5], 0)
    assert tree.proof_indexes(full, 0, 0) == ([2, 5, 8], 5)


def test_a_held_parent_says_only_that_the_roots_left_of_it_are_held():
    remote = tree.Holding()
    remote.learn(4, 0b101, tree.Holding((3, 5)))  # 5 is held; its left sibling 1 we lack
    assert list(remote) == [5]
    remote.learn(8, 0b101, tree.Holding((3, 7, 9)))  # 9 is held, so 3 is
    assert list(remote) == [3, 5, 9]


def test_proof_of_a_held_leaf_of_a_hash_and_of_nothing():
    full = tree.Holding((0, 2, 4))
    assert tree.proof_indexes(full, 0, 1) == ([], 0)
    assert tree.proof_indexes(full, 0, 1, hash=True) == ([0], 0)
    assert tree.proof_indexes(full, 0, 0, hash=True) == ([0, 2, 4], 3)
    assert tree.proof_indexes(full, 6) is None
    assert tree.proof_indexes(full, 0, (1 << 64) - 1) == ([4], 3)


def test_digests_and_proofs_as_recorded_for_64_lengths():
    """2,080 digests and 4,160 proofs, with and without memory, against their recorded hash."""
    lines = hashlib.sha256()
    for length in range(1, 65):
        full = tree.Holding(2 * b for b in range(length))
        remote, mine = tree.Holding(), tree.Holding()
        assert full.length() == length
        for k in range(length):
            block = (k * 37 + length * 11) % length
            digest, hash = mine.digest(2 * block), k % 5 == 0
            kept, kept_by = tree.proof_indexes(full, 2 * block, digest, hash, remote)
            fresh, fresh_by = tree.proof_indexes(full, 2 * block, digest, hash)
            lines.update(b"%d %d %d %s %d %s %d\n" % (
                length, block, digest, ",".join(map(str, kept)).encode(), 2 * kept_by,
                ",".join(map(str, fresh)).encode(), 2 * fresh_by))
            for i in [2 * block] + fresh:
                mine.set(i)
    assert lines.hexdigest() == "77f8a1737d0e775009ff0c67af6f1f82c5e6181c587e8f2537c27fa881ebddba"


def test_verified_length_of_partial_trees():
    held = tree.Holding((3, 8))
    assert held.verified_length(3) == held.length() == 5
    assert held.verified_length(8) == 5 and held.verified_length(0) == 0
    assert tree.Holding((3, 9, 12)).length() == 7
    assert tree.Holding().length() == 0 and tree.Holding((0,)).length() == 1
    assert tree.Holding((4,)).length() == 0  # nothing on the left edge


def test_blocks_in_any_order_from_partial_holders():
    """A whole feed passes from its writer through a chain of two random partial holders."""
    rng = random.Random(SEED)
    for length in list(range(1, 20)) + [33, 64, 100]:
        writer = random_feed(rng, length)
        middle, last = Feed(KEY), Feed(KEY)
        remembered = tree.Holding()
        for i in rng.sample(range(length), length):
            if rng.random() < 0.3:
                fetch(writer, middle, i, hash=True)
                assert 2 * i in middle.tree and not middle.has(i)
            request = wire.request(i, middle.digest(i))
            middle.put(writer.answer(request, remembered))  # what the server remembers is enough
            assert middle.blocks[i] == writer.blocks[i] and middle.audit() == []
            if rng.random() < 0.5:
                answer = middle.answer(wire.request(i, last.digest(i)))
                last.put(answer)
                assert last.blocks[i] == writer.blocks[i] and last.audit() == []
        assert middle.blocks == writer.blocks and middle.length == length and middle.complete
        assert middle.tree.nodes == writer.tree.nodes


def test_growing_feed_is_followed():
    rng, writer, reader = random.Random(SEED), Feed(secret_key=SECRET), Feed(KEY)
    for _ in range(60):
        writer.append(*[rng.randbytes(5) for _ in range(rng.randint(1, 4))])
        i = rng.randrange(writer.length)
        if not reader.has(i):
            fetch(writer, reader, i)
            assert reader.audit() == []
    fetch(writer, reader, writer.length - 1)
    assert reader.length == writer.length


def test_every_tampering_is_refused_and_changes_nothing():
    rng = random.Random(SEED)
    writer = random_feed(rng, 11)
    good = writer.answer(wire.request(4))
    assert len(good.nodes) == 5 and good.signature

    def damaged():
        for i in range(len(good.value)):
            yield Data(4, good.value[:i] + bytes([good.value[i] ^ 1]) + good.value[i + 1:],
                       good.nodes, good.signature)
        yield Data(4, good.value + b"\0", good.nodes, good.signature)
        yield Data(4, None, good.nodes, good.signature)
        yield Data(4, None, [], None)
        yield Data(4, good.value, good.nodes, None)
        for size in (0, 63, 65):
            yield Data(4, good.value, good.nodes, good.signature.ljust(65, b"\0")[:size])
        for i in range(64):
            flipped = good.signature[:i] + bytes([good.signature[i] ^ 1]) + good.signature[i + 1:]
            yield Data(4, good.value, good.nodes, flipped)
        for i, node in enumerate(good.nodes):
            others = good.nodes[:i], good.nodes[i + 1:]
            yield Data(4, good.value, others[0] + others[1], good.signature)
            for bad in (Node(node.index, node.hash, node.size + 1),
                        Node(node.index, node.hash, (1 << 64) - 1),
                        Node(node.index, node.hash[:31], node.size),
                        Node(node.index, node.hash[::-1], node.size),
                        Node(node.index ^ 4, node.hash, node.size),
                        Node((1 << 64) - 1, node.hash, node.size)):
                yield Data(4, good.value, others[0] + [bad] + others[1], good.signature)
        for index in (3, 5, 11, 1 << 53, (1 << 64) - 1):
            yield Data(index, good.value, good.nodes, good.signature)
        yield Data(4, good.value, good.nodes[::-1], good.signature)

    for data in damaged():
        reader = Feed(KEY)
        with pytest.raises(tree.VerifyError):
            reader.put(data)
        assert (reader.length, reader.blocks, reader.tree.nodes) == (0, {}, {})
    reader = Feed(KEY)
    reader.put(good)
    assert reader.blocks == {4: good.value}
    with pytest.raises(tree.VerifyError):  # what was verified once cannot be replaced
        reader.put(Data(4, b"other", good.nodes, good.signature))
    assert reader.blocks == {4: good.value}


def test_reasons_for_refusal():
    writer = random_feed(random.Random(SEED), 11)
    good, leaf = writer.answer(wire.request(4)), writer.answer(wire.request(3, hash=True))
    first, rest = good.nodes[0], good.nodes[1:]
    for data, why in (
            (Data(2, None, leaf.nodes, leaf.signature), "not the leaf"),  # a true proof of 3
            (Data(4, good.value, [Node(first.index, first.hash[:31], first.size)] + rest,
                  good.signature), "hash of 31 bytes"),
            (Data(4, good.value, good.nodes + [Node(1 << 60, first.hash, 1)], good.signature),
             "node .* out of range"),
            (Data(1 << 60, good.value, good.nodes, good.signature), "block .* out of range"),
            (Data(4, good.value, [Node(first.index, first.hash, (1 << 64) - 1)] + rest,
                  good.signature), "64 bits"),
            (Data(4, good.value, good.nodes[:-1], good.signature), "signature does not verify"),
            (Data(4, good.value, good.nodes[:2] + good.nodes[3:], good.signature), "not linked|missing"),
            (Data(4), "neither"), (Data(4, good.value, good.nodes), "no signature")):
        with pytest.raises(tree.VerifyError, match=why):
            Feed(KEY).put(data)


@pytest.mark.parametrize("value", [b"evil", b""])
def test_a_block_that_genuine_roots_do_not_cover_is_refused(value):
    """All that is sent beside it is signed, and says nothing of it."""
    writer, reader = make_feed([[1] * 8]), Feed(KEY)
    with pytest.raises(tree.VerifyError, match="not linked"):
        reader.put(Data(5, value, [writer.tree.get(7)], writer.signatures[7]))
    assert (reader.length, reader.blocks, reader.tree.nodes) == (0, {}, {})


def test_an_old_proof_does_not_shorten_a_feed():
    old, new, reader = make_feed([[1] * 5]), make_feed([[1] * 5, [2] * 7]), Feed(KEY)
    fetch(new, reader, 11)
    assert reader.length == 12
    reader.put(old.answer(wire.request(0)))
    assert reader.length == 12 and reader.has(0) and reader.audit() == []


def test_an_empty_batch_signs_nothing():
    feed = Feed(secret_key=SECRET)
    assert feed.append() == 0 and feed.signatures == {}


def test_a_signature_whose_write_was_not_finished(tmp_path):
    feed = make_feed([[1] * 3])
    sleep.write(feed, str(tmp_path))
    with open(str(tmp_path / "signatures"), "ab") as file:
        file.write(bytes(64) + feed.signatures[2])  # of block 4, which is not there
    assert any("length 5" in p for p in sleep.audit(str(tmp_path)))
    assert sleep.audit(str(tmp_path), unfinished=True) == []


def test_static_feed():
    feed = make_feed([[1, 2, 3, 4, 5]], live=False)
    assert feed.key == feed.root_hash() and feed.signatures == {}
    reader = Feed(feed.key)
    for i in (3, 0, 4, 2, 1):
        data = feed.answer(wire.request(i, reader.digest(i)))
        assert data.signature is None
        reader.put(data)
    assert reader.blocks == feed.blocks and not reader.live and reader.audit() == []
    with pytest.raises(tree.VerifyError):
        Feed(feed.key).put(Data(0, b"x", feed.answer(wire.request(0)).nodes))


def test_requests_by_byte_offset():
    feed = Feed(secret_key=SECRET)
    feed.append(b"abc", b"", b"de", b"f", b"ghij")
    found = [feed.answer(wire.request(0, bytes=n)).index for n in range(1, 10)]
    assert found == [0, 0, 2, 2, 3, 4, 4, 4, 4]
    assert feed.answer(wire.request(1, bytes=10)).index == 1  # beyond the end: by index
    assert feed.answer(wire.request(3, nodes=1, bytes=1)).nodes != []  # as if nodes were 0
    assert feed.answer(wire.request(2, bytes=0)).index == 2
    assert [feed.tree.byte_offset(i) for i in range(6)] == [0, 3, 3, 5, 6, 10]


def test_absent_blocks_and_leaves_are_not_answered():
    writer, reader = make_feed([[1] * 8]), Feed(KEY)
    fetch(writer, reader, 2)
    assert reader.answer(wire.request(3)) is None  # its leaf is there, the block is not
    assert reader.answer(wire.request(3, hash=True)).nodes[0].index == 6
    assert reader.answer(wire.request(5)) is None  # inside the length, but no leaf
    assert reader.answer(wire.request(8)) is None
    assert reader.answer(wire.request(1 << 63)) is None


# ---- SLEEP ------------------------------------------------------------------------------------

FOLDERS = {  # recorded: BLAKE2b-128 of each file
    "one": ([[5]], {
        "bitfield": "805d45debd91b1ff8ecba1473afec486", "data": "e27309f5e8eaf3a016f83af5a1658599",
        "key": "71f0b52353f22458e65952129de25dbf", "tree": "913d868b5c18a5612f61fdb3b2179411",
        "secret_key": "998501ca3ee148d8a7b3d8bc6edeb31a",
        "signatures": "46ba89ebb07c0aed162ec9e33e946f52"}),
    "empty blocks": ([[0], [3], [0]], {
        "bitfield": "9ff622e2aa19e0ca3e17a5d2881fe1ce", "data": "2c17820775af7f09e13d832019e095e7",
        "key": "71f0b52353f22458e65952129de25dbf", "tree": "96466c7a61675fc6e6664bed59abed41",
        "secret_key": "998501ca3ee148d8a7b3d8bc6edeb31a",
        "signatures": "7fec4f1f13bfdcc2461afa0d007871d4"}),
    "batches": ([[1, 2, 3], [4], [5, 6, 7, 8, 9], [10, 0, 11], [300, 2]], {
        "bitfield": "440fe8a0f129b6440f5fa9601a4c45ca", "data": "198b0add5df0945318341e16f1a3e6fd",
        "key": "71f0b52353f22458e65952129de25dbf", "tree": "dc245eb6dfd4cab4f9ba8b1755328cee",
        "secret_key": "998501ca3ee148d8a7b3d8bc6edeb31a",
        "signatures": "7abe5e97500aaa59daa018c50cff8859"}),
    "more batches": ([[27, 7, 14, 11, 18, 20], [5, 18, 0], [23, 22, 12], [15, 7, 8, 25],
                      [17, 1, 26]], {
        "bitfield": "deda743efccf4f08af0b8c41b64a7f8a", "data": "aa15ea44c1eea600a91d25c8fba15289",
        "key": "71f0b52353f22458e65952129de25dbf", "tree": "e3927962362bd829bbf8bb0a0a808772",
        "secret_key": "998501ca3ee148d8a7b3d8bc6edeb31a",
        "signatures": "6a8f3f2fbc93e7daa2a3e9df7e707e7d"}),
    "static": ([[1, 2, 3, 4, 5]], {
        "bitfield": "c3ae0a7e9d4e3602ad7e7ea180452893", "data": "2cd362b4363851bc244df083ce871323",
        "key": "4eb4ea9c12661e4c8de3527a01467f7c", "tree": "04067974ca95e7884681548c1fa70d00",
        "signatures": "db346280160cbcccc3d73c75cf600504"}),
}
CLONES = {  # recorded: partial clones, blocks put in this order
    "batches": ([0, 2, 4, 7, 13, 8, 12, 10, 1], {
        "bitfield": "7bd04e6f40d8fc56ac3725a7434211f0", "data": "3af79b6b133c500843735380e8cb425c",
        "key": "71f0b52353f22458e65952129de25dbf", "tree": "dc245eb6dfd4cab4f9ba8b1755328cee",
        "signatures": "4363ea0097159c8f7e50c9bf8361c7d4"}),
    "more batches": ([15, 10, 9, 2, 1, 5], {
        "bitfield": "440774e76c4355ced5dedb0216c6d190", "data": "ac4950665337f03953f1d018f0980e53",
        "key": "71f0b52353f22458e65952129de25dbf", "tree": "ede5b185be69ed6345e63de5b3913cd2",
        "signatures": "264c7a1db1097ed7c889a9d4071e8e76"}),
    "static": ([4, 3, 0], {
        "bitfield": "c88c1cc5498b9bc16702a27c46016367", "data": "dca0d85a5ac36af14993a57c14948929",
        "key": "4eb4ea9c12661e4c8de3527a01467f7c", "tree": "04067974ca95e7884681548c1fa70d00",
        "signatures": "db346280160cbcccc3d73c75cf600504"}),
}
LARGE = ([20000, 3, 9000, 8191, 8192, 16384, 100, 21000] + list(range(8193, 8256)), {
    "bitfield": "1663336aa2ab1431b12d0ccf726538f7", "data": "ca08a39904600511c5fd8a61a940ac26",
    "key": "71f0b52353f22458e65952129de25dbf", "tree": "e515b93f47184c543c08ebb6702bd26a",
    "signatures": "3d3109a47f510e027be69bc3d909129d"})


def fingerprints(files):
    return {name: hashlib.blake2b(content, digest_size=16).hexdigest()
            for name, content in files.items()}


def test_headers():
    assert sleep.encode_header(0).hex() == "0502570000" + "0e00" + "00" * 25
    for type, code in ((1, b"\x05\x02\x57\x01\0\0\x40\x07Ed25519"),
                       (2, b"\x05\x02\x57\x02\0\0\x28\x07BLAKE2b")):
        assert sleep.encode_header(type) == code.ljust(32, b"\0")
    assert sleep.decode_header(sleep.encode_header(0, 3328), 0) == 3328
    for i in range(5):
        bad = bytearray(sleep.encode_header(2))
        bad[i] ^= 1
        with pytest.raises(sleep.SleepError):
            sleep.decode_header(bytes(bad), 2)
    for bad in (b"", sleep.encode_header(2)[:31], sleep.encode_header(2, 41),
                sleep.encode_header(0, 9)):
        with pytest.raises(sleep.SleepError):
            sleep.decode_header(bad, bad[3] if bad else 0)


@pytest.mark.parametrize("name", FOLDERS)
def test_recorded_folders(name, tmp_path):
    sizes, recorded = FOLDERS[name]
    feed = make_feed(sizes, live=name != "static")
    assert fingerprints(sleep.files(feed)) == recorded
    sleep.write(feed, tmp_path)
    assert sleep.audit(tmp_path) == []
    back = sleep.read(tmp_path)
    assert (back.length, back.blocks) == (feed.length, feed.blocks)
    assert back.tree.nodes == feed.tree.nodes
    assert sleep.files(back) == sleep.files(feed)


@pytest.mark.parametrize("name", CLONES)
def test_recorded_partial_clones(name, tmp_path):
    order, recorded = CLONES[name]
    source = make_feed(FOLDERS[name][0], live=name != "static")
    clone = Feed(source.key)
    for i in order:
        fetch(source, clone, i)
    assert fingerprints(sleep.files(clone)) == recorded
    sleep.write(clone, tmp_path, prefix="metadata.")
    assert sleep.audit(tmp_path, prefix="metadata.") == []
    back = sleep.read(tmp_path, prefix="metadata.")
    assert (back.length, back.blocks) == (source.length, {i: source.blocks[i] for i in order})


def test_recorded_clone_over_three_pages():
    source, clone = make_feed([[1] * (1000 + 7 * i) for i in range(20)]), Feed(KEY)
    for i in LARGE[0]:
        fetch(source, clone, i)
    assert fingerprints(sleep.files(clone)) == LARGE[1]


def test_empty_feed_has_no_data_file(tmp_path):
    feed = Feed(secret_key=SECRET)
    assert sorted(sleep.files(feed)) == ["bitfield", "key", "secret_key", "signatures", "tree"]
    sleep.write(feed, tmp_path)
    assert sleep.read(tmp_path).length == 0 and sleep.audit(tmp_path) == []


def test_a_read_feed_can_be_appended_to(tmp_path):
    once, twice = make_feed([[1, 2, 3], [4, 5]]), make_feed([[1, 2, 3]])
    sleep.write(twice, tmp_path)
    twice = sleep.read(tmp_path)
    twice.append(b"\4" * 4, b"\5" * 5)
    assert sleep.files(twice) == sleep.files(once)


def test_an_empty_secret_key_is_none(tmp_path):
    """random-access-file 1 leaves such a file wherever one was looked for."""
    sleep.write(make_feed([[1, 2, 3]]), tmp_path)
    with open(str(tmp_path / "secret_key"), "wb"):
        pass
    assert sleep.audit(tmp_path) == []
    assert sleep.read(tmp_path).secret_key is None


def test_pages_of_older_versions(tmp_path):
    feed = make_feed([[1, 2, 3]])
    sleep.write(feed, tmp_path, page_bytes=bitfield.OLD_PAGE_BYTES)
    with open(str(tmp_path / "bitfield"), "rb") as file:
        assert file.read(32) == sleep.encode_header(sleep.BITFIELD, 3328)
    assert sleep.audit(tmp_path) == [] and sleep.read(tmp_path).blocks == feed.blocks


@pytest.mark.parametrize("file, offset, mask, what", [
    ("data", 0, 1, "block 0 does not hash"),
    ("data", -1, 1, "block 13 does not hash"),
    ("tree", 32, 1, "block 0 does not hash"),
    ("tree", 32 + 39, 1, "block 0 does not hash"),
    ("tree", 32 + 40, 1, "does not hash to its parent"),
    ("tree", 32 + 40 * 25, 1, "signature does not verify"),
    ("signatures", -1, 1, "signature does not verify"),
    ("bitfield", 32 + 1, 1, "block 15 is claimed beyond"),
    ("bitfield", 32 + 1024, 0x80, "block 0 is claimed without its leaf"),
    ("bitfield", 32 + 1024, 0x40, "not linked to a root"),
    ("bitfield", 32 + 1024 + 3, 0x04, "has a bit and no hash"),
    ("bitfield", 32 + 3072, 0x20, "index says that blocks 8 to 15"),
    ("bitfield", 32 + 3072 + 1, 0x80, "claims more than the one below"),
    ("secret_key", 0, 1, "secret key"),
    ("key", 0, 1, "signature does not verify"),
    ("tree", 0, 1, "header"),
])
def test_audit_finds_planted_damage(file, offset, mask, what, tmp_path):
    sleep.write(make_feed(FOLDERS["batches"][0]), tmp_path)
    path = tmp_path / file
    content = bytearray(path.read_bytes())
    content[offset] ^= mask
    path.write_bytes(content)
    assert any(what in problem for problem in sleep.audit(tmp_path)), sleep.audit(tmp_path)


def test_audit_of_lost_and_cut_files(tmp_path):
    feed = make_feed(FOLDERS["batches"][0])
    whole = sleep.files(feed)

    def audit_with(**changed):
        for name, content in {**whole, **changed}.items():
            (tmp_path / name).write_bytes(content)
        return sleep.audit(tmp_path)

    assert audit_with() == []
    assert audit_with(data=whole["data"][:-1]) == ["block 13 is claimed without its data"]
    unsigned = audit_with(signatures=whole["signatures"][:32])  # read as a static feed
    assert "length 14: no signature, and the roots do not hash to the key" in unsigned
    assert any("node 26 has a bit and no hash" in p for p in audit_with(tree=whole["tree"][:-1]))
    audit_with()
    os.remove(tmp_path / "data")
    assert len(sleep.audit(tmp_path)) == 14
    assert sleep.audit(tmp_path, data=False) == []
    for name in ("key", "tree", "bitfield", "signatures"):
        audit_with()
        os.remove(tmp_path / name)
        assert sleep.audit(tmp_path) == ["the file %s is missing" % name]


def test_audit_of_sizes_beyond_64_bits(tmp_path):
    sleep.write(make_feed([[1, 2, 3, 4]]), tmp_path)
    content = bytearray((tmp_path / "tree").read_bytes())
    content[32 + 32:32 + 40] = content[32 + 112:32 + 120] = b"\xff" * 8  # of the leaves 0 and 2
    (tmp_path / "tree").write_bytes(content)
    assert "node 0 does not hash to its parent" in sleep.audit(tmp_path)


def test_damaged_folders_never_break_the_auditor(tmp_path):
    """Random damage to any file: an audit ends with a list, and a damaged block is never sound."""
    rng = random.Random(SEED)
    feed = make_feed(FOLDERS["batches"][0])
    whole, found = sleep.files(feed), 0
    for _ in range(150):
        files = dict(whole)
        name = rng.choice(sorted(files))
        content = bytearray(files[name])
        if rng.random() < 0.3:
            del content[rng.randrange(len(content)):]
        else:
            for _ in range(rng.randint(1, 4)):
                content[rng.randrange(min(len(content), 1600))] = rng.randrange(256)
        files[name] = bytes(content)
        for other, body in files.items():
            (tmp_path / other).write_bytes(body)
        problems = sleep.audit(tmp_path)
        assert all(isinstance(p, str) for p in problems)
        found += bool(problems)
        if name == "data" and files["data"] != whole["data"]:
            assert problems
    assert found > 100


# ---- peers on a socket ------------------------------------------------------------------------

def served(feed, **options):
    """A Listener whose first visitor is served in the background: (listener, thread)."""
    listener = peer.Listener(feed.key)
    return listener, peer.Background(lambda: peer.serve(listener.accept(), feed, **options))


@pytest.mark.parametrize("sizes, live", [
    ([[5]], True), ([[1, 2, 3], [4], [0, 6]], True), ([[100] * 70], True), ([], True),
    ([[1, 2, 3, 4, 5]], False)])
def test_serve_and_clone(sizes, live):
    source = make_feed(sizes, live)
    listener, thread = served(source)
    target = Feed(source.key)
    visitor = peer.connect(listener.port, source.key)
    peer.clone(visitor, target)
    thread.join()
    listener.close()
    assert target.blocks == source.blocks and target.length == source.length
    assert target.audit() == []
    assert Info(True, False) in [e.message for e in visitor.log if e.direction == "sent"]
    assert Info(False, False) in [e.message for e in visitor.log if e.direction == "received"]


def test_clone_of_two_feeds_on_one_connection():
    first, second = make_feed([[1, 2, 3]]), Feed(secret_key=sodium.keypair(b"\x05" * 32)[1])
    second.append(b"second", b"feed")
    keys = [first.key, second.key]
    with peer.Listener(keys) as listener:
        thread = peer.Background(lambda: peer.serve(listener.accept(), [first, second]))
        copies = [Feed(key) for key in keys]
        peer.clone(peer.connect(listener.port, keys), copies)
        thread.join()
    assert [c.blocks for c in copies] == [first.blocks, second.blocks]


def test_conversation_as_recorded():
    """The frames of a conversation of dat 13 between a scripted downloader and our server."""
    listener, thread = served(make_feed([[3] * 5]))
    with peer.connect(listener.port, KEY) as visitor:
        visitor.start(live=True)
        assert visitor.expect(wire.Feed).message.discoveryKey == cipher.discovery_key(KEY)
        visitor.expect(Handshake)
        visitor.send(Want(0, 1 << 20))
        assert visitor.expect(Have).frame.raw.hex() == "03030804"
        assert visitor.expect(Have).frame.raw.hex() == "0b030800108080401a0202f8"
        visitor.send(wire.request(0))
        data = visitor.expect(Data).message
        assert [n.index for n in data.nodes] == [2, 5, 8] and len(data.signature) == 64
        visitor.send(wire.request(3, nodes=0b1011))
        data = visitor.expect(Data).message
        assert ([n.index for n in data.nodes], data.signature) == ([1], None)
        sent = [e.plain for e in visitor.log if e.direction == "sent"]
        assert sent[2].hex() == "0705080010808040"
        assert visitor.wire_bytes("sent") == sent[0] + cipher.keystream_xor(
            b"".join(sent[1:]), sent[0][-24:], KEY)
        assert "Want{start: 0, length: 1048576}" in visitor.transcript()
    thread.join()
    listener.close()


def test_wants_and_repeated_byte_requests():
    listener, thread = served(make_feed([[3] * 5]))
    with peer.connect(listener.port, KEY) as visitor:
        visitor.start()
        visitor.expect(wire.Feed)
        visitor.expect(Handshake)
        for bad in (Want(3, 8192), Want(0, 8191), Want(8192, 1)):
            visitor.send(bad)
        visitor.send(Want(8192, 8192))
        assert visitor.expect(Have).message == Have(4)
        assert visitor.expect(Have).message == Have(8192, 8192, b"")
        visitor.send(Want(0))
        assert visitor.expect(Have).message == Have(0, 0, b"\x02\xf8")
        visitor.send(Request(0, 4, False, 0))
        visitor.send(Request(0, 4, False, 0))
        visitor.send(Request(0, 7, False, 0))
        assert [visitor.expect(Data).message.index for _ in range(2)] == [1, 2]
        visitor.expect_silence(0.1)
    thread.join()
    listener.close()


def test_live_append_is_announced_and_followed():
    source, target = make_feed([[1, 2]]), Feed(KEY)
    with peer.Listener(KEY) as listener:
        dialled = peer.connect(listener.port, KEY)
        server = peer.Conversation(listener.accept(), source, live=True)
        serving = peer.Background(server.run)
        arrived = []

        def on_block(feed, index):
            arrived.append(index)
            if len(arrived) == 2:
                server.append(source, b"new", b"blocks")
            if len(arrived) == 4:
                server.append(source, b"one more")
            if len(arrived) == 5:
                client.stop()

        client = peer.Conversation(dialled, target, download=True, live=True, on_block=on_block)
        client.run()
        serving.join()
    assert arrived[-1] == 4 and target.blocks == source.blocks
    haves = [e.message for e in dialled.log
             if isinstance(e.message, Have) and not e.message.bitfield]
    assert haves == [Have(1), Have(2, 2), Have(4)]


HOSTILE = {  # each stops the deployed code
    "a truncated bitfield": [Have(0, 1 << 20, b"\x04\xaa")],
    "a run of 2^40": [Have(0, 1 << 20, wire.encode_varint((1 << 40) << 2 | 3))],
    "a Have of 2^40": [Have(0, 1 << 40)],
    "a Have of more than a Want": [Have(0, (1 << 20) + 1)],
    "a bitfield of more than a Want": [Have(0, 1 << 21, wire.encode_varint((1 << 18) << 2 | 3))],
    "a Have from 2^63": [Have(1 << 63, 1 << 63)],
    "a bitfield from block 3": [Have(3, 1 << 20, b"\x02\xf8")],
    "an Unhave of 2^60": [Unhave(0, 1 << 60)],
    "a Want of 2^43": [Want(0, 1 << 43)],
    "a Want from the middle": [Want(3, 8192)],
    "Data of nothing": [Data(0)],
    "a short signature": [Data(0, b"x", [], b"s" * 63)],
    "a truncated Extension": [(15, b"\x80\x80")],
    "an unknown feed twice": [wire.Feed(bytes(32)), wire.Feed(bytes(32))],
    "a body that does not decode": [(3, b"\xff\xff")],
    "an undefined type": [(12, b"\x08\x00")],
    "a Request beyond all": [wire.request((1 << 64) - 1, (1 << 64) - 1)],
    "a byte offset of 2^64": [Request(0, (1 << 64) - 1, False, 0)],
}


def send_hostile(channel, items, other):
    for item in items:
        if isinstance(item, tuple):
            other.send_body(channel, *item)
        elif isinstance(item, wire.Feed):
            other.send(item, 1)
        else:
            other.send(item, channel)


@pytest.mark.parametrize("name", HOSTILE)
def test_our_server_shrugs(name):
    source = make_feed([[3] * 5])
    listener, thread = served(source)
    with peer.connect(listener.port, KEY) as visitor:
        visitor.start()
        send_hostile(0, HOSTILE[name], visitor)
        visitor.send(wire.request(2))
        got = visitor.wait_for(Data, where=lambda m: m.index == 2)
        assert got.message.value == source.blocks[2]
    thread.join()
    listener.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_our_downloader_shrugs(name):
    source, target = make_feed([[3] * 5]), Feed(KEY)
    with peer.Listener(KEY) as listener:
        cloning = peer.Background(lambda: peer.clone(peer.connect(listener.port, KEY), target))
        with listener.accept() as visitor:
            visitor.start()
            visitor.wait_for(Want)
            send_hostile(0, HOSTILE[name], visitor)
            visitor.send(Have(0, 1 << 20, b"\x02\xf8"))
            for _ in range(5):
                request = visitor.wait_for(Request).message
                visitor.send(source.answer(request))
            visitor.wait_for(Info)
            visitor.send(Info(False, False))
            visitor.expect_close()
        cloning.join()
    assert target.blocks == source.blocks


def test_tampered_data_ends_the_download():
    def lie(channel, message):
        if isinstance(message, Data) and message.value:
            message.value = bytes([message.value[0] ^ 1]) + message.value[1:]
        return message

    source, target = make_feed([[3] * 5]), Feed(KEY)
    with peer.Listener(KEY) as listener:
        def serve():
            liar = listener.accept()
            liar.tamper_message = lie
            peer.serve(liar, source)
        thread = peer.Background(serve)
        with pytest.raises(tree.VerifyError):
            peer.clone(peer.connect(listener.port, KEY), target)
        thread.join()
    assert target.blocks == {}


def test_tampering_hooks_and_raw_sending():
    source = make_feed([[3] * 5])
    listener, thread = served(source)
    with peer.connect(listener.port, KEY) as visitor:
        visitor.tamper_wire = lambda data: [data[i:i + 1] for i in range(len(data))]
        visitor.start()
        visitor.tamper_wire = None
        visitor.tamper_message = lambda c, m: None if isinstance(m, Want) else m
        visitor.send(Want(0, 1 << 20))  # swallowed
        visitor.tamper_plain = lambda plain: plain.replace(b"\x08\x04", b"\x08\x03", 1)
        visitor.send(wire.request(4))  # asks for block 3
        visitor.tamper_plain = None
        assert visitor.wait_for(Have, Data).message.index == 3
        visitor.send_plain(bytes.fromhex("0009070801100018002000"))  # keep-alive, Request 1
        assert visitor.expect(Data).message.index == 1
        visitor.expect_silence(0.2)
        with pytest.raises(peer.Unexpected):
            visitor.send(wire.request(0))
            visitor.expect(Have)
        with pytest.raises(peer.TimedOut):
            visitor.receive(0.05)
    thread.join()
    listener.close()


@pytest.mark.parametrize("break_it", [
    lambda v: v.send(Have(0), 3),  # a channel that was never opened
    lambda v: v.send_body(1, 0, wire.encode_raw(1, bytes(5))),  # a Feed that does not decode
    lambda v: v.send_body(0, 0, b"\x08\x01"),  # likewise, on a channel that is open
    lambda v: v.send_plain(bytes.fromhex("ffffffff7f")),  # too large
    lambda v: v.send(wire.Feed(bytes(32)), 256),  # one channel too many
    lambda v: v.send_wire(  # the same, past the cipher, at the place where its keystream is
        cipher.keystream_xor(b"\xff" * 5, bytes(24), KEY, len(v.wire_bytes("sent")) - 62)),
])
def test_our_server_closes(break_it):
    listener, thread = served(make_feed([[3] * 5]))
    with peer.connect(listener.port, KEY) as visitor:
        visitor.start(nonce=bytes(24))
        visitor.expect(wire.Feed)
        break_it(visitor)
        assert all(isinstance(g.message, Handshake) for g in visitor.expect_close())
    with pytest.raises((peer.PeerError, wire.CodecError)):
        thread.join()
    listener.close()


def test_keep_alive_goes_out_while_waiting():
    with peer.Listener(KEY, ping_after=0.05) as listener, peer.connect(listener.port, KEY) as quiet:
        quiet.start()
        with listener.accept() as other:
            other.start()
            with pytest.raises(peer.TimedOut):
                other.expect_close(timeout=0.3)
        with pytest.raises(peer.Closed):
            while True:
                quiet.receive()
    pings = [e for e in quiet.log if e.plain == wire.KEEP_ALIVE]
    assert 3 <= len(pings) <= 6 and all(e.direction == "received" for e in pings)
