"""The packets of discovery by the Python implementation: all that were recorded, and the limits."""

import base64
import hashlib
import json
import os
import struct

import pytest

from dat import discovery
from dat.content import VECTORS
from dat.discovery import A, SRV, TXT, Address, Item, PacketError

with open(os.path.join(VECTORS, "discovery.json"), encoding="utf-8") as _file:
    RECORDED = json.load(_file)
PACKETS = {p["id"]: p for p in RECORDED["packets"]}
DNS = [p for p in PACKETS.values() if p["way"] in ("dns", "mdns")]
DHT = [p for p in PACKETS.values() if p["way"] == "dht"]
FEED = bytes.fromhex(RECORDED["name"])


def packet(id):
    return bytes.fromhex(PACKETS[id]["hex"])


def refused(data, by=discovery.read):
    with pytest.raises(PacketError):
        by(data)


@pytest.mark.parametrize("entry", DNS, ids=lambda e: e["id"])
def test_recorded_messages_of_dns(entry):
    data = bytes.fromhex(entry["hex"])
    if entry["result"] != "valid":
        return refused(data)
    found = discovery.read(data)
    assert discovery.write(found) == data
    for item in found.items:
        if item.type == TXT and item.part != "question":
            assert discovery.strings(discovery.says(item)) == item.value


@pytest.mark.parametrize("entry", DHT, ids=lambda e: e["id"])
def test_recorded_messages_of_the_dht(entry):
    data = bytes.fromhex(entry["hex"])
    assert discovery.write_message(discovery.read_message(data)) == data
    assert discovery.bdecode(data)[1] == len(data)
    for cut in range(len(data)):
        refused(data[:cut], discovery.read_message)


@pytest.mark.parametrize("entry", [p for p in PACKETS.values() if p["way"] in ("utp", "swarm")], ids=lambda e: e["id"])
def test_other_packets_are_neither(entry):
    for read in (discovery.read, discovery.read_message):
        refused(bytes.fromhex(entry["hex"]), read)


def test_how_many_there_are():
    assert (len(DNS), len(DHT), len(PACKETS)) == (64, 25, 104)
    assert bytes.fromhex(RECORDED["discoveryKey"])[:20] == FEED
    assert discovery.dotted(discovery.name_of(FEED)) == RECORDED["domain"]


def test_what_they_say():
    answer = discovery.read(packet("dns-24"))
    token = base64.b64encode(hashlib.sha256(bytes.fromhex(RECORDED["serverSecrets"][1]) + b"127.0.0.2").digest())
    assert answer[:2] == (0x1005, 0x8000) and [i.part for i in answer.items] == ["question", "answer"]
    assert discovery.feed_of(answer.items[1].name) == FEED
    assert discovery.says(answer.items[1]) == {"token": token, "peers": [Address("127.0.0.3", 3282), Address("127.0.0.2", 40000)]}
    assert discovery.says(discovery.read(packet("dns-07")).items[1])["announce"] == 3282
    assert discovery.read(packet("dns-08")).items[0].value == Address("127.0.0.3", 3282)
    assert [i.value for i in discovery.read(packet("dns-30")).items[1:]] == ["127.0.0.3", "127.0.0.2", "127.0.0.2"]

    found = discovery.read_message(packet("dht-05"))
    token = hashlib.sha1(b"127.0.0.2" + bytes.fromhex(RECORDED["nodeSecrets"][0])).digest()
    assert found[:4] == ("query", b"\0\3", b"announce_peer", b"\x22" * 20)
    assert (found.feed, found.port, found.implied_port, found.token) == (FEED, 3282, 0, token)
    assert discovery.read_message(packet("dht-14")).peers == [Address("127.0.0.2", 3282)]
    assert discovery.read_message(packet("dht-02")).nodes == [(b"\x22" * 20, Address("127.0.0.2", 3283))]
    assert discovery.read_message(packet("dht-22"))[-2:] == (203, b"cannot `announce_peer` with bad token")


def test_names():
    assert discovery.feed_of(discovery.labels("%s.dat.local" % FEED.hex())) == FEED
    for other in ("dat.local", "%s.dat.local" % FEED.hex().upper(), "%s.DAT.local" % FEED.hex(), "%s.dat.test" % FEED.hex(),
                  "%s.dat.local" % FEED.hex()[1:], "x.%s.dat.local" % FEED.hex(), FEED.hex(), ""):
        assert discovery.feed_of(discovery.labels(other)) is None
    longest = (b"a" * 63,) * 3 + (b"a" * 61,)
    assert discovery.read_name(discovery.write_name(longest), 0) == (longest, 255)
    for bad in (longest[:3] + (b"a" * 62,), (b"a" * 64,), (b"",)):
        with pytest.raises(PacketError):
            discovery.write_name(bad)
    data = bytes(12) + b"\3dat\5local\0\1x\xc0\x10\1y\xc0\x17"
    assert [discovery.read_name(data, at)[0] for at in (12, 23, 27)] == [(b"dat", b"local"), (b"x", b"local"), (b"y", b"x", b"local")]
    for at, bad in ((12, b"\xc0\x0c"), (12, b"\1a\xc0\x0c"), (12, b"\xc0\x0e\0"), (12, b"\xc0"), (12, b"\xff\xff"), (12, b"\x40" + b"a" * 64 + b"\0"), (12, b"\2a"),
                    (14, b"\xc0\x0e\xc0\x0c"), (13, b"\0\xc0\x00"), (12, b"")):
        with pytest.raises(PacketError):
            discovery.read_name(bytes(12) + bad, at)


def record(type, data, count=1, size=None):
    return struct.pack(">6H", 1, 0x8000, 0, count, 0, 0) + b"\3dat\5local\0" + struct.pack(">HHIH", type, 1, 0, len(data) if size is None else size) + data


def test_limits_of_records():
    good = record(TXT, b"\x0eannounce=65535\0\7nothing\5peers\6token=")
    assert discovery.says(discovery.read(good).items[0]) == {"announce": 65535, "peers": [], "token": b""}
    for bad in (good[:-1], good + b"\0", record(TXT, b"", 2), record(TXT, b"\0", 1, 2), record(TXT, b"\1"), record(A, bytes(3)), record(A, bytes(5)),
                record(SRV, bytes(6)), record(SRV, bytes(8)), record(TXT, b"\x0eannounce=65536"), record(TXT, b"\x0bannounce=-1"), record(TXT, b"\5port="),
                record(TXT, b"\x07port=01"), record(TXT, b"\x0epeers=AAAAAAz!"), record(TXT, b"\x0apeers=AAAA"), bytes(11)):
        refused(bad)
    assert discovery.read(record(SRV, bytes(6) + b"\3box\0")).items[0].value == Address(None, 0)
    assert discovery.read(record(47, b"any")).items[0].value == b"any"


def test_limits_of_writing():
    peers = [Address("10.0.0.%d" % i, 3282) for i in range(32)]
    assert len(discovery.strings({"peers": peers[:31]})[0]) == 254
    for bad in ({"peers": peers}, {"peers": [Address("10.0.0.1", 0)]}, {"wing": 1}):
        with pytest.raises(PacketError):
            discovery.strings(bad)
    item = Item("answer", discovery.DOMAIN, TXT, value=[b"x" * 256])
    for items in ((item,), (item._replace(value=[]), Item("question", discovery.DOMAIN, TXT))):
        with pytest.raises(PacketError):
            discovery.write(discovery.Packet(1, 0, items))


def test_bencode():
    for value in (0, -7, 10 ** 17, b"", b"spam", [], {}, [1, [b"a"]], {b"b": 1, b"a": [2], b"": {}}):
        data = discovery.bencode(value)
        assert discovery.bdecode(data) == (value, len(data))
    assert discovery.bdecode(b"d1:bi1e1:ai2e1:bi3ee") == ({b"a": 2, b"b": 3}, 20)
    assert discovery.bdecode(b"l" * 16 + b"e" * 16)[1] == 32
    for bad in (b"", b"i", b"ie", b"i-e", b"i-0e", b"i01e", b"i1", b"i1 e", b"i+1e", b"i1234567890123456789e", b"01:a", b"-1:", b"2:a", b"1", b":", b"l", b"d", b"di1ei2ee",
                b"d1:ae", b"l" * 17 + b"e" * 17, b"l" * 50000, b"999999999999999999:a", b"x"):
        refused(bad, discovery.bdecode)


def test_lenient_fields():
    """Of another type or length: passed over. What is behind the end of a message too."""
    inner = b"d2:idi1e5:nodes27:" + b"n" * 27 + b"5:token3:abc6:valuesl18:" + b"6" * 18 + b"6:" + b"4" * 6 + b"i7eee"
    inner = inner.replace(b"2:idi1e", b"2:id2:xx4:porti-1e")
    found = discovery.read_message(b"d1:rd" + inner[1:] + b"1:t1:x1:v4:abcd1:y1:re" + b"more")
    assert found.id is None and found.port is None and found.token == b"abc" and len(found.nodes) == 1 and found.peers == [discovery.unpack(b"4" * 6)]
    for bad in (b"i1e", b"le", b"de", b"d1:t1:xe", b"d1:y1:re", b"d1:t1:x1:y1:qe", b"d1:t1:x1:y1:ze", b"d1:ti1e1:y1:re"):
        refused(bad, discovery.read_message)
    assert discovery.read_message(b"d1:t1:x1:y1:ee").code is None
