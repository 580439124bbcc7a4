"""Captures decoded: recorded conversations, and captures written here with all that networks do."""

import io
import json
import os
import random
import struct
import subprocess
import sys

import pytest

from dat import decode, pcap, peer, wire
from dat.cipher import Sender, discovery_key
from dat.content import VECTORS

HERE = os.path.dirname(os.path.abspath(__file__))
CONVERSATIONS = os.path.join(VECTORS, "conversations")
NAMES = sorted(n[:-5] for n in os.listdir(CONVERSATIONS) if n != "index.json")


def load(name):
    with open(os.path.join(CONVERSATIONS, name + ".json")) as file:
        return json.load(file)


def chunks(vector):
    """[(from the client, bytes)] in the order in which they were written."""
    return [(side == "c", bytes.fromhex(data)) for side, data in vector["chunks"]]


def run(*arguments):
    """(exit status, standard output, standard error) of the command, in process."""
    out, err = io.StringIO(), io.StringIO()
    try:
        code = decode.main([str(a) for a in arguments], out, err)
    except SystemExit as error:
        code = error.code
    return code, out.getvalue(), err.getvalue()


def events(text):
    return [json.loads(line) for line in text.splitlines()]


def messages(found, side):
    return [e for e in found if e["dir"] == side and e["message"] != "note"]


def troubles(found):
    return [e["fields"]["note"] for e in found if e.get("trouble")]


def assert_all_there(found, vector):
    """Every message of a recorded conversation, in the order of its side."""
    assert troubles(found) == []
    for letter, side in (("c", "sent"), ("s", "received")):
        listed = [m for m in vector["messages"] if m["from"] == letter]
        got = messages(found, side)
        assert [e["hex"] for e in got] == [m["hex"] for m in listed]
        for e, m in zip(got, listed):
            if m["type"] in [c.__name__ for c in wire.MESSAGES.values()]:
                assert (e["message"], e["channel"], e["size"]) == (m["type"], m["channel"], len(m["hex"]) // 2)


# ---- captures, written ------------------------------------------------------------------------------

CLIENT, SERVER = ("10.0.0.1", 40000), ("10.0.0.2", 3282)
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def tcp(source, target, sequence, flags, data=b""):
    return struct.pack(">HHIIBBHHH", source[1], target[1], sequence & 0xFFFFFFFF, 0, 8 << 4, flags, 65535, 0, 0) + \
        b"\x01" * 12 + data  # twelve bytes of options


def ip(source, target, segment, version=4):
    if version == 6:
        address = [b"\xfd" + bytes(14) + bytes([int(a[0].split(".")[3])]) for a in (source, target)]
        hop = bytes([6, 0]) + bytes(6)  # an extension header on the way
        return struct.pack(">IHBB", 6 << 28, len(segment) + 8, 0, 64) + address[0] + address[1] + hop + segment
    address = [bytes(map(int, a[0].split("."))) for a in (source, target)]
    return struct.pack(">BBHHHBBH", 0x46, 0, 24 + len(segment), 0, 0x4000, 64, 6, 0) + address[0] + address[1] + \
        b"\x01\x01\x01\x00" + segment  # four bytes of options


def ethernet(packet):
    return bytes(12) + (b"\x86\xdd" if packet[:1] >= b"\x60" else b"\x08\x00") + packet + b"\xee" * 6  # padding


LINK = {
    "ethernet": (1, ethernet),
    "vlan": (1, lambda p: bytes(12) + b"\x81\x00\x00\x07" + ethernet(p)[12:]),
    "cooked": (113, lambda p: bytes(14) + ethernet(p)[12:14] + p),
    "cooked2": (276, lambda p: ethernet(p)[12:14] + bytes(18) + p),
    "null": (0, lambda p: struct.pack("<I", 30 if p[0] >> 4 == 6 else 2) + p),
    "null-big": (0, lambda p: struct.pack(">I", 24 if p[0] >> 4 == 6 else 2) + p),
    "loop": (108, lambda p: struct.pack(">I", 24 if p[0] >> 4 == 6 else 2) + p),
    "raw": (101, lambda p: p),
}


def packets_of(written, first=(1000, 2000), size=None, version=4):
    """The packets of a conversation, [bytes of IP]: a handshake, then what was written, then the end."""
    ends, at = (CLIENT, SERVER), [n + 1 for n in first]
    out = [ip(CLIENT, SERVER, tcp(CLIENT, SERVER, first[0], SYN), version),
           ip(SERVER, CLIENT, tcp(SERVER, CLIENT, first[1], SYN | ACK), version)]
    for client, data in written:
        me = 0 if client else 1
        for i in range(0, len(data), size or len(data) or 1):
            part = data[i:i + size] if size else data
            out.append(ip(ends[me], ends[1 - me], tcp(ends[me], ends[1 - me], at[me], PSH | ACK, part), version))
            at[me] += len(part)
    out += [ip(ends[me], ends[1 - me], tcp(ends[me], ends[1 - me], at[me], FIN | ACK), version) for me in (0, 1)]
    return out


def pcap_file(packets, link="ethernet", order="<", nano=False):
    number, wrap = LINK[link]
    out = [struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 262144, number)]
    for i, packet in enumerate(packets):
        data = wrap(packet)
        out.append(struct.pack(order + "IIII", 1700000000 + i // 1000, i % 1000 * (10 ** 6 if nano else 1000), len(data),
                               len(data)) + data)
    return b"".join(out)


def block(order, kind, body):
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def pcapng_file(packets, link="ethernet", order="<", nano=False):
    number, wrap = LINK[link]
    options = struct.pack(order + "HHB3x", 9, 1, 9) + struct.pack(order + "HH", 0, 0) if nano else b""
    out = [block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
           block(order, 5, bytes(12)),  # statistics, which nobody asked for
           block(order, 1, struct.pack(order + "HHI", number, 0, 0) + options)]
    for i, packet in enumerate(packets):
        data = wrap(packet)
        ticks = (1700000000 * 1000 + i) * (10 ** 6 if nano else 1000)
        out.append(block(order, 6, struct.pack(order + "IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data)) + data))
    return b"".join(out)


def decoded(tmp_path, data, vector, *options, code=0):
    """The events of a capture."""
    file = tmp_path / "capture.pcap"
    file.write_bytes(data)
    got, out, err = run(file, "--json", "--full", *[a for f in vector["feeds"] for a in ("--key", f["key"])], *options)
    assert got == code, err + out[-2000:]
    return events(out)


# ---- recorded conversations -------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_conversation_as_raw_files(tmp_path, name):
    vector = load(name)
    for client, file in ((True, "sent"), (False, "received")):
        (tmp_path / file).write_bytes(b"".join(d for c, d in chunks(vector) if c == client))
    code, out, err = run("--key", "dat://" + vector["feeds"][0]["key"], "--sent", tmp_path / "sent", "--received",
                         tmp_path / "received", "--json", "--full")
    assert (code, err) == (0, "")
    assert_all_there(events(out), vector)


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_conversation_as_a_capture(tmp_path, name):
    vector = load(name)
    found = decoded(tmp_path, pcap_file(packets_of(chunks(vector), size=1448)), vector)
    assert_all_there(found, vector)
    assert [e["t"] for e in found] == sorted(e["t"] for e in found)
    assert {e["from"] for e in messages(found, "sent")} == {"10.0.0.1:40000"}
    assert [e["fields"]["note"] for e in found if e["message"] == "note"] == ["closes", "closes"]


def test_one_direction_alone(tmp_path):
    vector = load("clone-1")
    (tmp_path / "r").write_bytes(b"".join(d for c, d in chunks(vector) if not c))
    code, out, _ = run("--key", vector["feeds"][0]["key"], "--received", tmp_path / "r", "--json")
    assert code == 0 and len(messages(events(out), "received")) == sum(m["from"] == "s" for m in vector["messages"])


def test_lines_for_people(tmp_path):
    vector = load("extension")
    file = tmp_path / "c.pcap"
    file.write_bytes(pcap_file(packets_of(chunks(vector))))
    code, out, err = run(file, "--key", vector["feeds"][0]["key"])
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "conversation 1: A = 10.0.0.1:40000, B = 10.0.0.2:3282, dat://" + vector["feeds"][0]["key"]
    assert any(" A>B ch0 Want       start=0  length=1048576  (8 bytes)" in line for line in lines)
    assert any("B>A ch0 Have " in line and "bitfield=0-1 " in line for line in lines)
    assert any("Extension" in line and "name=alpha" in line for line in lines)
    assert "(64 bytes)" in out and max(map(len, lines)) < 300
    long = run(file, "--key", vector["feeds"][0]["key"], "--full")[1]
    assert vector["feeds"][0]["discoveryKey"] in long and "... (" not in long


# ---- what networks do -------------------------------------------------------------------------------

VECTOR = load("two-feeds")


@pytest.mark.parametrize("writer", [pcap_file, pcapng_file])
@pytest.mark.parametrize("link", sorted(LINK))
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("order", "<>")
def test_every_format(tmp_path, writer, link, version, order):
    for nano in (False, True):
        found = decoded(tmp_path, writer(packets_of(chunks(VECTOR), version=version), link, order, nano), VECTOR)
        assert_all_there(found, VECTOR)
        times = [round(e["t"] * 1000) for e in found]
        assert times[0] == 0 and times[-1] == len(chunks(VECTOR)) + 1 and times == sorted(times)  # one a packet


def test_times_in_parts_of_powers_of_two(tmp_path):
    data = pcapng_file(packets_of(chunks(VECTOR)), nano=True)
    old, new = (struct.pack("<HHB3x", 9, 1, r) for r in (9, 0x80 | 30))
    assert data.count(old) == 1
    found = decoded(tmp_path, data.replace(old, new), VECTOR)
    assert_all_there(found, VECTOR)
    assert abs(found[-1]["t"] - (len(chunks(VECTOR)) + 1) * 1e6 / 2 ** 30) < 1e-6


def test_out_of_order_retransmitted_overlapping(tmp_path):
    whole = packets_of(chunks(VECTOR), size=100)
    for seed in range(20):
        dice = random.Random(seed)
        some = whole[:2] + sorted(whole[2:], key=lambda _, places=iter(range(9999)): next(places) + dice.randrange(8))
        for _ in range(10):
            some.insert(dice.randrange(2, len(some)), dice.choice(whole))
        for start in range(0, 700, 130):  # other cuts of the same bytes
            all_sent = b"".join(d for c, d in chunks(VECTOR) if c)
            part = all_sent[start:start + 210]
            some.insert(dice.randrange(2, len(some)), ip(CLIENT, SERVER, tcp(CLIENT, SERVER, 1001 + start, ACK, part)))
        assert_all_there(decoded(tmp_path, pcap_file(some), VECTOR), VECTOR)


def test_keep_alive_probes_are_not_data(tmp_path):
    """A probe repeats the last byte before the next one, or any byte in its place."""
    some = packets_of(chunks(VECTOR))
    size = len(b"".join(d for c, d in chunks(VECTOR) if c))
    some.insert(-2, ip(CLIENT, SERVER, tcp(CLIENT, SERVER, 1000 + size, ACK, b"\x00")))
    some.insert(2, ip(CLIENT, SERVER, tcp(CLIENT, SERVER, 1000, ACK, b"\x00")))
    assert_all_there(decoded(tmp_path, pcap_file(some), VECTOR), VECTOR)


@pytest.mark.parametrize("first", [0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFF0, 0xFFFFFF00, 0x7FFFFFFF, 0])
def test_sequence_numbers_wrap_around(tmp_path, first):
    assert_all_there(decoded(tmp_path, pcap_file(packets_of(chunks(VECTOR), (first, first), 50)), VECTOR), VECTOR)


def test_a_retransmission_that_differs_is_told(tmp_path):
    some = packets_of(chunks(VECTOR))
    some.insert(-2, ip(CLIENT, SERVER, tcp(CLIENT, SERVER, 1001, ACK, b"nonsense")))
    found = decoded(tmp_path, pcap_file(some), VECTOR)
    assert_all_there(found, VECTOR)
    assert any("came again and differ" in e["fields"].get("note", "") for e in found)


@pytest.mark.parametrize("lost", range(4, 12))
def test_a_gap_is_told_and_reading_goes_on_behind_it(tmp_path, lost):
    """One packet of the server's is missing: its bytes are told, and what follows decodes again."""
    some = packets_of(chunks(VECTOR))
    server = [p for p in some if p[12:16] == bytes([10, 0, 0, 2]) and len(p) > 24 + 32]
    if lost >= len(server) - 3:
        pytest.skip("the conversation is shorter")
    some.remove(server[lost])
    found = decoded(tmp_path, pcap_file(some), VECTOR, code=1)
    size = len(server[lost]) - 24 - 32
    assert "%d bytes are missing" % size in troubles(found)
    listed = [m["hex"] for m in VECTOR["messages"] if m["from"] == "s"]
    got = [e["hex"] for e in messages(found, "received")]
    assert set(got) <= set(listed) and got[-1] == listed[-1] and len(listed) - 4 <= len(got) < len(listed)
    assert len(messages(found, "sent")) == sum(m["from"] == "c" for m in VECTOR["messages"])


def test_the_first_packet_is_missing(tmp_path):
    some = packets_of(chunks(VECTOR))
    first = next(p for p in some if p[12:16] == bytes([10, 0, 0, 2]) and len(p) > 24 + 32)
    some.remove(first)
    found = decoded(tmp_path, pcap_file(some), VECTOR, code=1)
    assert any("and with them the nonce" in t for t in troubles(found))
    assert len(messages(found, "sent")) == sum(m["from"] == "c" for m in VECTOR["messages"])


def test_no_handshake_in_the_capture(tmp_path):
    """The capture begins behind the SYNs: the first bytes seen are taken for the first."""
    assert_all_there(decoded(tmp_path, pcap_file(packets_of(chunks(VECTOR))[2:]), VECTOR), VECTOR)


def test_a_snapped_packet_is_a_gap(tmp_path):
    some = packets_of(chunks(VECTOR))
    longest = max(some, key=len)
    some[some.index(longest)] = longest[:-20]
    found = decoded(tmp_path, pcap_file(some, "raw"), VECTOR, code=1)
    assert "20 bytes are missing" in troubles(found)


def test_several_conversations_and_other_traffic(tmp_path):
    """Two on the same ports one after the other, one of another feed, and one that isn't Dat at all."""
    other, web = load("clone-1"), [(True, b"GET / HTTP/1.1\r\n\r\n"), (False, b"HTTP/1.1 200 OK\r\n\r\n")]
    some = packets_of(chunks(VECTOR)) + packets_of(chunks(VECTOR), (77777, 88888))
    some += packets_of(chunks(other), (5, 6)) + packets_of(web, (50, 60))
    some += [b"\x45" + bytes(8) + b"\x11" + bytes(40), b"", b"\x45"]  # no TCP, nothing, too short
    file = tmp_path / "c.pcap"
    file.write_bytes(pcap_file(some))
    code, out, err = run(file, "--key", VECTOR["feeds"][0]["key"], "--json", "--full")
    found = events(out)
    for number in (1, 2):
        assert_all_there([e for e in found if e["conversation"] == number], VECTOR)
    assert {e["conversation"] for e in found} == {1, 2}
    assert other["feeds"][0]["discoveryKey"] in err and err.count("decode: left: ") == 2
    assert "no Feed message at its beginning" in err
    keys = [a for f in (VECTOR["feeds"][0], other["feeds"][0]) for a in ("--key", f["key"])]
    assert {e["conversation"] for e in events(run(file, *keys, "--json")[1])} == {1, 2, 3}


# ---- damage -----------------------------------------------------------------------------------------

def raw(tmp_path, data, key):
    (tmp_path / "raw").write_bytes(data)
    return run("--key", key.hex(), "--sent", tmp_path / "raw", "--json", "--full")


def stream(key, *plain):
    """A direction as it goes out."""
    sender = Sender(key, bytes(24))
    return b"".join(map(sender.encode, [wire.encode_message(0, wire.Feed(discovery_key(key), bytes(24))), *plain]))


KEY = bytes(range(32))
WANT = wire.encode_message(0, wire.Want(0, 8192))


def test_a_frame_that_is_too_long_is_told_and_left(tmp_path):
    code, out, _ = raw(tmp_path, stream(KEY, WANT, b"\xff\xff\xff\xff\x7f" + b"\x99" * 11, WANT * 5), KEY)
    found = events(out)
    assert code == 1 and [e["message"] for e in messages(found, "sent")] == ["Feed"] + 6 * ["Want"]
    assert any("longer than 8388608" in t for t in troubles(found))
    assert [e["offset"] for e in found if e.get("trouble")][0] == 62 + len(WANT)


def test_noise_does_not_pass_for_messages(tmp_path):
    """Extensions that nobody named, and numbers that no encoder writes so long, are not where frames begin again."""
    noise = b"\xff" * 6 + b"\x02\x0f\x05" * 6 + b"\xff" * 6 + b"\x04\x05\x08\x80\x00" * 6 + b"\xff" * 8
    code, out, _ = raw(tmp_path, stream(KEY, WANT, noise, WANT * 4), KEY)
    assert code == 1 and [e["message"] for e in messages(events(out), "sent")] == ["Feed"] + 5 * ["Want"]


def test_what_does_not_decode_is_told_and_the_rest_goes_on(tmp_path):
    code, out, _ = raw(tmp_path, stream(KEY, wire.encode_frame(0, 9, b"\xff\xff"), wire.encode_frame(3, 12, b"abc"),
                                        wire.KEEP_ALIVE, b"\x01\x03", WANT), KEY)
    found = messages(events(out), "sent")
    assert code == 0 and [e["message"] for e in found] == ["Feed", "Data", "type 12", "keep-alive", "empty frame", "Want"]
    assert "cut off" in found[1]["fields"]["error"] and found[2]["channel"] == 3 and found[3]["channel"] is None


@pytest.mark.parametrize("cut", [1, 5, 61, 63, 66, 70])
def test_a_stream_that_is_cut_says_where(tmp_path, cut):
    data = stream(KEY, WANT, WANT)[:cut]
    code, out, _ = raw(tmp_path, data, KEY)
    assert code == 1 and troubles(events(out)), out


def test_an_unknown_key_is_named(tmp_path):
    code, out, _ = raw(tmp_path, stream(KEY, WANT), bytes(32))
    assert code == 1 and any(discovery_key(KEY).hex() in t and "8 bytes behind it" not in t for t in troubles(events(out)))


def test_what_is_no_dat_at_all(tmp_path):
    for data in (b"GET / HTTP/1.1\r\n", b"\xff" * 100, b"\x00" * 50, WANT):
        code, out, err = raw(tmp_path, data, KEY)
        assert code == 1 and troubles(events(out)), data


@pytest.mark.parametrize("seed", range(10))
def test_noise_never_breaks_it(tmp_path, seed):
    dice = random.Random(seed)
    noise = dice.randbytes(2000) if hasattr(dice, "randbytes") else os.urandom(2000)
    code, _, _ = raw(tmp_path, stream(KEY, WANT, noise), KEY)
    assert code in (0, 1)
    for writer in (pcap_file, pcapng_file):
        data = bytearray(writer(packets_of(chunks(load("clone-1")))))
        for _ in range(30):
            data[dice.randrange(len(data))] = dice.randrange(256)
        (tmp_path / "c").write_bytes(data)
        code, _, err = run(tmp_path / "c", "--key", load("clone-1")["feeds"][0]["key"])
        assert code in (0, 1) and "Traceback" not in err


@pytest.mark.parametrize("writer", [pcap_file, pcapng_file])
def test_a_capture_that_is_cut_anywhere(tmp_path, writer):
    vector = load("clone-1")
    data, file = writer(packets_of(chunks(vector)[:6])), tmp_path / "c"
    whole = len(events(run(tmp_path / "c", "--key", vector["feeds"][0]["key"], "--json")[1])) if file.exists() else None
    assert whole is None
    for size in range(len(data)):
        file.write_bytes(data[:size])
        code, out, err = run(file, "--key", vector["feeds"][0]["key"], "--json")
        assert code in (0, 1) and (code == 0 or err or troubles(events(out))), size
        if size < 24:
            assert code == 1 and len(err.splitlines()) >= 1, size


def test_usage_and_errors(tmp_path):
    key = KEY.hex()
    for arguments in ((), ("--key", key), ("--key", "12", "x"), ("x",), ("x", "--key", key, "--sent", "y"),
                      ("--key", key, "--sent")):
        assert run(*arguments)[0] == 2, arguments
    code, out, err = run(tmp_path / "missing", "--key", key)
    assert (code, out) == (1, "") and len(err.splitlines()) == 1 and "No such file" in err
    (tmp_path / "text").write_text("not a capture")
    assert run(tmp_path / "text", "--key", key)[::2] == (1, "decode: %s: no pcap or pcapng file\n" % (tmp_path / "text"))
    assert run(tmp_path, "--key", key)[0] == 1


def test_as_a_script(tmp_path):
    (tmp_path / "raw").write_bytes(stream(KEY, WANT))
    done = subprocess.run([sys.executable, os.path.join(HERE, "decode.py"), "--key", "dat://%s/" % KEY.hex(),
                           "--sent", str(tmp_path / "raw")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30)
    assert done.returncode == 0 and b"Want" in done.stdout and done.stderr == b""


# ---- details ----------------------------------------------------------------------------------------

def test_describe():
    assert decode.describe(0, 3, wire.Have(8, 1 << 20, bytes.fromhex("02f8")).encode()) == \
        ("Have", {"start": 8, "length": 1 << 20, "bitfield": "8-12"})
    assert decode.describe(0, 3, wire.Have(0, 8, b"").encode())[1]["bitfield"] == "none"
    assert "does not decode" in decode.describe(0, 3, wire.Have(0, 8, b"\x20").encode())[1]["bitfield"]
    assert decode.describe(0, 7, wire.Request(1 << 60).encode())[1]["index"] == str(1 << 60)
    assert decode.describe(0, 9, wire.Data(1, bytes(99)).encode(), 4)[1]["value"] == "00000000... (99 bytes)"
    assert decode.describe(None, None, b"") == ("keep-alive", {})
    assert decode.describe(1, 11, b"\x01")[0] == "type 11"
    name, fields = decode.describe(0, 1, wire.Handshake(extensions=["\x1b[2J", "\udcff"]).encode())
    json.dumps(fields).encode("utf-8")
    assert name == "Handshake" and fields["extensions"][1] == "\\xff"


def test_ranges():
    assert decode.ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8" and decode.ranges([]) == "none"
    assert decode.ranges(range(0, 300, 2)).endswith(",and 86 ranges more")
    assert decode.ranges(range(0, 300, 2), None).endswith("298")


def test_streams():
    made = pcap.Stream()
    for offset, data in ((10, b"klm"), (0, b"abc"), (2, b"cdefg"), (6, b"ghijklmnop"), (3, b"XX")):
        made.add(offset, data, offset)
    assert made.pieces() == [(0, b"abcdefghijklmnop")]
    assert [text for _, text in made.notes] == ["bytes at offset 3 came again and differ; the first ones count"]



def test_the_log_of_a_peer():
    """A read has no line of its own; what never became a frame is told at the end."""
    feed, want = wire.Feed(bytes(32), bytes(24)), wire.Want(0, 8192)
    plain = wire.encode_message(0, feed)
    entries = [peer.Entry(0.5, "sent", 0, feed, plain, plain), peer.Entry(0.6, "received", None, None, b"", plain + b"\x05\x01"),
               peer.Entry(0.6, "received", 0, feed, plain, b""), peer.Entry(0.7, "sent", None, None, b"", b"raw"),
               peer.Entry(0.8, "sent", None, None, wire.encode_message(2, want), b"?" * 7),
               peer.Entry(0.9, "sent", 0, None, wire.KEEP_ALIVE, b"?"), peer.Entry(1.0, "sent", 0, None, b"\x00" * 9, b"?" * 9),
               peer.Entry(1.1, "sent", 0, None, b"\xff" * 1000, b"?" * 1000)]
    found = decode.log(entries)
    assert [(e["dir"], e["message"], e["size"]) for e in found] == [
        ("sent", "Feed", 62), ("received", "Feed", 62), ("sent", "bytes", 3), ("sent", "Want", 7), ("sent", "keep-alive", 1),
        ("sent", "bytes", 9), ("sent", "bytes", 1000), ("note", "unread", 0)]
    assert found[0]["fields"] == {"discoveryKey": bytes(32).hex(), "nonce": bytes(24).hex()} and found[0]["t"] == 0.5
    assert found[3]["channel"] == 2 and len(found[6]["hex"]) == 512 and found[7]["fields"]["bytes"] == 2
    assert decode.log(entries, 0.5)[0]["t"] == 0 and decode.log(entries, 1e6)[0]["t"] == 0.5 and decode.log([]) == []
    json.dumps(found)
