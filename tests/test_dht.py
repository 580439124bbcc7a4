"""The DHT's node (discovery_dht.c), by dht.c: its messages against recorded ones of bittorrent-dht; one node that is asked, lied to and
flooded; and many of them on virtual time, over a network that loses datagrams.
"""

import json
import os
import shlex
import subprocess

import pytest

import tools
from dat.discovery import bdecode, bencode
from probe import VECTORS

WRAPPER = shlex.split(os.environ.get("DATSYNC_WRAPPER", ""))
DHT = os.environ.get("DATSYNC_DHT", os.path.join(tools.ROOT, "build", "asan", "dht"))

with open(os.path.join(VECTORS, "discovery.json"), encoding="utf-8") as file:
    RECORDED = json.load(file)
PACKETS = {packet["id"]: bytes.fromhex(packet["hex"]) for packet in RECORDED["packets"] if packet["way"] == "dht"}
NAME = RECORDED["name"]
BROKEN = ["error -22"]
PING, FIND_NODE, GET_PEERS, ANNOUNCE_PEER, OTHER, ANSWER, ERROR = range(1, 8)


class Net:
    """The driver: a command goes in, the lines that it brings come out."""

    def __init__(self):
        self.process = subprocess.Popen([*WRAPPER, DHT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="ascii")

    def __call__(self, *words):
        lines = []
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        while True:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()[-3000:]
            if line.strip() == ".":
                return lines
            lines.append(line.strip())

    def close(self):
        _, errors = self.process.communicate(timeout=600)
        assert (self.process.returncode, errors) == (0, "")

    def give(self, node, sender, packet):
        """A datagram arrives: what the node returns, and what it sends as [(to, bytes)]."""
        lines = self("from", node, sender, packet.hex() or "-")
        sent = [(line.split()[2], bytes.fromhex(line.split()[3])) for line in lines if line.startswith("sent")]
        return int(lines[-1].split()[1]), sent

    def wait(self, ms):
        return [(line.split()[2], bytes.fromhex(line.split()[3])) for line in self("run", ms) if line.startswith("sent")]

    def status(self, node):
        words = self("status", node)[0].split()
        return dict(zip(words[::2], (int(word) if word.isdigit() else word for word in words[1::2])))

    def found(self, node):
        return [(line.split()[2], line.split()[3]) for line in self("found", node)]


@pytest.fixture
def net():
    driver = Net()
    yield driver
    driver.close()


def message(data):
    """A second reading of bencode, by the suite."""
    return bdecode(data)[0]


def query(kind, transaction=b"tt", sender=b"Q" * 20, **fields):
    return bencode({b"t": transaction, b"y": b"q", b"q": kind.encode(), b"a": {b"id": sender, **{k.encode(): v for k, v in fields.items()}}})


def answer(to, sender=b"A" * 20, **fields):
    """What answers one of the node's own queries."""
    return bencode({b"t": message(to)[b"t"], b"y": b"r", b"r": {b"id": sender, **{k.encode(): v for k, v in fields.items()}}})


def at(address):
    host, port = address.split(":")
    return bytes(int(part) for part in host.split(".")) + int(port).to_bytes(2, "big")


def lines(packet):
    """What the driver should tell of a message, by the second reading."""
    top = message(packet)
    inner = top.get(b"a", top.get(b"r", {}))
    kinds = {b"ping": PING, b"find_node": FIND_NODE, b"get_peers": GET_PEERS, b"announce_peer": ANNOUNCE_PEER}
    want = ["kind %d" % (ANSWER if top[b"y"] == b"r" else ERROR if top[b"y"] == b"e" else kinds.get(top[b"q"], OTHER)), "transaction " + top[b"t"].hex()]
    for key, name in ((b"id", "id"), (b"target", "target"), (b"info_hash", "name"), (b"token", "token")):
        want += ["%s %s" % (name, inner[key].hex())] if key in inner else []
    text = top.get(b"q", top.get(b"e", [0, None])[1])
    want += ["text " + text.hex()] if text is not None else []
    for key in (b"port", b"implied_port"):
        want += ["%s %d" % (key.decode(), inner[key])] if key in inner else []
    want += ["code %d" % top[b"e"][0]] if b"e" in top else []
    nodes = inner.get(b"nodes", b"")
    want += ["node %s %s" % (nodes[i:i + 20].hex(), place(nodes[i + 20:i + 26])) for i in range(0, len(nodes), 26)]
    return want + ["peer " + place(peer) for peer in inner.get(b"values", [])] + ["bytes " + packet.hex()]


def asked(sent, kind):
    return [(to, data) for to, data in sent if message(data).get(b"q") == kind.encode()]


def place(six):
    return ".".join(str(byte) for byte in six[:4]) + ":%d" % int.from_bytes(six[4:], "big")


# ---------------------------------------------------------------- messages --------------------------------------------------


@pytest.mark.parametrize("name", sorted(PACKETS))
def test_a_recorded_message_is_read_and_written_to_the_same_bytes(net, name):
    assert net("parse", PACKETS[name].hex()) == lines(PACKETS[name])


def test_all_fields(net):
    packet = bencode({b"a": {b"id": b"i" * 20, b"implied_port": 1, b"info_hash": b"h" * 20, b"port": 65535, b"token": b""}, b"ip": b"ipad12",
                      b"q": b"announce_peer", b"ro": 1, b"t": b"", b"y": b"q"})
    told = net("parse", packet.hex())
    assert "seen " + b"ipad12".hex() in told and "read_only 1" in told and "token" in told and told[-1] == "bytes " + packet.hex()


END = b"1:t2:tt1:y1:qe"  # of a ping
@pytest.mark.parametrize("packet", [
    b"", b"d", b"de", b"le", b"i1e", b"4:spam", b"d1:ae", b"d1:q4:ping1:y1:qe", b"d1:q4:ping1:t2:tte", b"d1:t2:tt1:y1:qe", b"d1:q4:ping1:t2:tt1:y1:xe",
    b"d1:q4:ping1:xi1" + END, b"d1:q4:ping1:xi-0e" + END, b"d1:q4:ping1:xi01e" + END, b"d1:q4:ping1:xie" + END, b"d1:q4:ping1:xi--1e" + END,
    b"d1:q4:ping1:xi" + b"9" * 30 + b"e" + END, b"d1:q4:ping1:x" + b"9" * 30 + b":" + END, b"d1:q4:ping1:x999:" + END, b"d1:q4:ping1:x-1:" + END,
    b"d1:q4:ping1:x01:a" + END, b"d1:q4:ping1:x18446744073709551615:" + END, b"d1:q4:ping1:x" + b"l" * 17 + b"e" * 17 + END, b"d1:q4:ping1:x" + b"l" * 1000 + b"e" * 1000 + END,
    b"d1:q4:ping1:x" + b"d1:a" * 1000 + b"de" + b"e" * 1000 + END, b"d1:q4:ping1:x" + b"l" * 60000, b"d1:q4:ping1:xdi1ei2ee" + END,
    b"d1:q4:ping1:xd1:ae" + END, b"di1e1:q1:q4:ping" + END, b"d1:q4:pingle" + END,
], ids=lambda packet: packet[:24].decode() or "nothing")
def test_what_is_no_message(net, packet):
    assert net("parse", packet.hex() or "-") == BROKEN


@pytest.mark.parametrize("packet, line", [
    (b"d1:y1:q1:t2:tt1:q4:ping1:ad2:id20:" + b"i" * 20 + b"ee", "id " + (b"i" * 20).hex()),                       # not in order
    (b"d1:ad2:id20:" + b"i" * 20 + b"2:id20:" + b"j" * 20 + b"e1:q4:ping" + END, "id " + (b"j" * 20).hex()),         # the last counts
    (b"d1:ade1:q4:ping" + END + b"and more", "kind 1"),
    (b"d1:ai5e1:q4:ping" + END, "kind 1"),                                                                           # of another type
    (b"d1:q4:ping1:x" + b"l" * 16 + b"e" * 16 + END, "kind 1"),
    (b"d1:q4:ping1:xd1:ald1:bi-5eeee" + END, "kind 1"),
    (b"d1:ele1:t2:tt1:y1:ee", "kind 7"), (b"d1:eli203ee1:t2:tt1:y1:ee", "code 203"), (b"d1:el1:xi5ee1:t2:tt1:y1:ee", "kind 7"),
], ids=lambda value: value[:24].decode() if isinstance(value, bytes) else "")
def test_what_deployed_nodes_take_too(net, packet, line):
    assert line in net("parse", packet.hex())


@pytest.mark.parametrize("inner", [{b"id": b"i" * 19}, {b"id": 5}, {b"id": [b"i" * 20]}, {b"nodes": b"n" * 25}, {b"values": b"v" * 6},
                                   {b"values": [5, b"four", [b"sixsix"], {}]}], ids=str)
def test_what_has_another_shape_is_absent(net, inner):
    packet = bencode({b"t": b"tt", b"y": b"r", b"r": inner})
    assert [line.split()[0] for line in net("parse", packet.hex()) if line.split()[0] in ("id", "node", "peer")] == []


def test_peers_among_what_are_none(net):
    packet = bencode({b"t": b"tt", b"y": b"r", b"r": {b"values": [b"x", at("1.2.3.4:5"), 7, [[]], at("6.7.8.9:10"), b"y" * 18]}})
    assert [line for line in net("parse", packet.hex()) if line.startswith("peer")] == ["peer 1.2.3.4:5", "peer 6.7.8.9:10"]


def test_every_truncation_and_flip(net):
    """Each is read in memory of just its size, written and read again, and given to a node; a sanitizer looks on."""
    for packet in PACKETS.values():
        read, refused = (int(word) for word in net("chew", packet.hex())[0].split()[1::2])
        assert read + refused == 9 * len(packet) + 1
        assert refused >= len(packet) and read > len(packet)  # all truncations; and most flips are within a string


# ---------------------------------------------------------------- one node is asked -----------------------------------------

HERE = "20.1.1.1:6881"


@pytest.fixture
def node(net):
    net("node", 0, HERE)
    return net


def ask(net, packet, sender="30.1.1.1:4000", node=0):
    """The one answer; what the node asks on its own account is left out."""
    returned, sent = net.give(node, sender, packet)
    sent = [data for to, data in sent if to == sender and message(data)[b"y"] != b"q"]
    assert returned == 1 and len(sent) <= 1 and all(len(data) <= 3 * len(packet) for data in sent)
    return message(sent[0]) if sent else None


def announce(net, sender, port=3282, name=NAME, token=None, **fields):
    token = token if token is not None else ask(net, query("get_peers", info_hash=bytes.fromhex(name)), sender)[b"r"][b"token"]
    return ask(net, query("announce_peer", info_hash=bytes.fromhex(name), port=port, token=token, **fields), sender)


def peers(net, sender="30.9.9.9:4000", name=NAME):
    return {place(peer) for peer in ask(net, query("get_peers", info_hash=bytes.fromhex(name)), sender)[b"r"].get(b"values", [])}


def test_recorded_questions_get_the_recorded_kinds_of_answers(node):
    own = ask(node, PACKETS["dht-19"])[b"r"][b"id"]

    def like(question, recorded, change):
        """The recorded answer with our id in place of theirs, and a change."""
        _, sent = node.give(0, "30.1.1.2:4000", PACKETS[question])
        want = message(PACKETS[recorded])
        if b"r" in want:
            want[b"r"][b"id"] = own
        change(want)
        assert sent[0][1] == bencode(want)

    like("dht-19", "dht-20", lambda want: None)
    like("dht-01", "dht-02", lambda want: want[b"r"].update(nodes=b"") or want[b"r"].update({b"nodes": b""}) or want[b"r"].pop("nodes"))
    like("dht-21", "dht-22", lambda want: want[b"e"].__setitem__(1, b"bad token"))
    like("dht-23", "dht-24", lambda want: want[b"e"].__setitem__(1, b"bad info_hash"))
    assert ask(node, PACKETS["dht-25"]) is None
    assert set(ask(node, PACKETS["dht-03"])[b"r"]) == set(message(PACKETS["dht-04"])[b"r"])


def test_errors_and_silence(node):
    for kind in ("ping", "find_node", "get_peers", "announce_peer"):
        assert ask(node, bencode({b"t": b"tt", b"y": b"q", b"q": kind.encode(), b"a": {}}))[b"e"] == [203, b"bad id"]
    assert ask(node, query("find_node"))[b"e"] == [203, b"bad target"]
    assert ask(node, query("ping", transaction=b"x" * 32))[b"t"] == b"x" * 32
    assert ask(node, query("ping", transaction=b"x" * 33)) is None
    assert ask(node, query("ping", transaction=b""))[b"t"] == b""


def test_what_is_none_of_its_datagrams(node):
    for data in (b"", b"d", b"d1", b"\0" * 12, b"x1:ad", b"d1\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00", b"\x01\x00" * 10, b"l1:ae"):
        assert node.give(0, "30.1.1.1:4000", data) == (0, [])
    assert node.give(0, "30.1.1.1:4000", b"d1:ad2:id20:") == (-22, [])
    assert node.give(0, "30.1.1.1:0", query("ping")) == (1, [])
    assert node.give(0, "224.0.0.1:53", query("ping")) == (1, [])


def test_a_peer_is_kept_for_others(node):
    assert announce(node, "30.1.1.1:4000")[b"r"].keys() == {b"id"}
    assert announce(node, "30.1.1.2:4001", implied_port=1)[b"y"] == b"r"
    assert announce(node, "30.1.1.3:4001", implied_port=0, port=7)[b"y"] == b"r"
    assert peers(node) == {"30.1.1.1:3282", "30.1.1.2:4001", "30.1.1.3:7"}
    assert peers(node, name="00" * 20) == set()


@pytest.mark.parametrize("port", [0, -1, 65536, 2 ** 40])
def test_no_such_port(node, port):
    assert announce(node, "30.1.1.1:4000", port=port)[b"e"] == [203, b"bad port"]
    assert peers(node) == set()


def test_a_token_is_for_one_address_and_some_minutes(node):
    def token():
        return ask(node, query("get_peers", info_hash=bytes.fromhex(NAME)))[b"r"][b"token"]
    first = token()
    assert token() == first
    assert announce(node, "30.1.1.1:9", token=first)[b"y"] == b"r"  # another port of the address
    for bad in (first[:-1], first + b"x", b"", bytes(8), first[:-1] + bytes([first[-1] ^ 1])):
        assert announce(node, "30.1.1.1:4000", token=bad)[b"e"] == [203, b"bad token"]
    assert announce(node, "30.1.1.2:4000", token=first)[b"e"] == [203, b"bad token"]
    node.wait(300000)
    assert token() != first
    assert announce(node, "30.1.1.1:4000", token=first)[b"y"] == b"r"
    node.wait(300000)
    assert announce(node, "30.1.1.1:4000", token=first)[b"e"] == [203, b"bad token"]
    later = token()
    node.wait(3600000)
    assert announce(node, "30.1.1.1:4000", token=later)[b"e"] == [203, b"bad token"]


def test_a_peer_expires_unless_it_is_announced_again(node):
    announce(node, "30.1.1.1:4000")
    announce(node, "30.1.1.2:4000")
    node.wait(1000000)
    announce(node, "30.1.1.2:4000")
    assert len(peers(node)) == 2
    node.wait(900000)
    assert peers(node) == {"30.1.1.2:3282"}


def test_nobody_pushes_others_out(node):
    announce(node, "30.1.1.1:4000")
    for i in range(100):
        announce(node, "31.%d.1.1:4000" % i)
        announce(node, "30.1.1.2:4000", port=1000 + i)
        node.wait(1000)
    assert node.status(0)["peers"] == 64 and len(peers(node)) >= 20
    seen = set()
    for _ in range(40):
        node.wait(100)
        seen |= peers(node)
    assert "30.1.1.1:3282" in seen and len(seen) == 64
    assert sum(peer.startswith("30.1.1.2:") for peer in seen) == 4
    for i in range(300):
        announce(node, "32.1.1.1:4000", name="%040x" % i)
        node.wait(1000)
    assert node.status(0)["peers"] == 64 + 256


def test_what_is_full_has_room_again_when_something_expires(node):
    for i in range(64):
        announce(node, "31.%d.1.1:4000" % i)
        node.wait(1000)
    announce(node, "32.1.1.1:4000")
    assert node.status(0)["peers"] == 64
    node.wait(1800000)
    announce(node, "32.1.1.1:4000")
    assert node.status(0)["peers"] == 1


def test_what_it_holds_it_finds_at_once(node):
    announce(node, "30.1.1.1:4000")
    node("add", 0, NAME, 0)
    assert node("answered", 0, NAME) == ["result 0"]
    node.wait(0)
    assert node.found(0) == [("30.1.1.1:3282", "30.1.1.1:3282")] and node("answered", 0, NAME) == ["result 1"]
    announce(node, "30.1.1.2:4000")
    assert node.found(0) == [("30.1.1.2:3282", "30.1.1.2:4000")]


def test_floods_of_announcements_stay_in_bounds(net):
    told = net("flood", 20000, 1000)[0].split()
    kept, held, nodes, memory = (int(word) for word in told[1::2])
    assert kept == 20000 and nodes <= 256 and held == 8192 and memory < 1000000
    told = net("forge", 200000)[0].split()
    kept, held, nodes, memory = (int(word) for word in told[1::2])
    assert (kept, held) == (0, 0) and nodes <= 256 and memory < 250000


def count(net, sender, packet):
    return sum(to == sender and message(data)[b"y"] == b"r" for to, data in net.give(0, sender, packet)[1])


def test_one_address_is_answered_so_often(node):
    assert sum(count(node, "30.1.1.1:%d" % (1000 + i), query("ping")) for i in range(500)) == 64
    assert count(node, "30.2.2.2:1", query("ping")) == 1
    node.wait(1000)
    assert sum(count(node, "30.1.1.1:4000", query("ping")) for _ in range(100)) == 16
    node.wait(3600000)
    assert sum(count(node, "30.1.1.1:4000", query("ping")) for _ in range(100)) == 64


def test_all_together_are_answered_so_often(node):
    assert sum(count(node, "30.%d.%d.1:1" % (i % 250, i // 250), query("ping")) for i in range(1000)) == 256
    node.wait(500)
    assert sum(count(node, "31.%d.%d.1:1" % (i % 250, i // 250), query("ping")) for i in range(1000)) == 128


def test_strangers_are_pinged_so_often(node):
    """Whose address an attacker forges is not flooded, and the table is not."""
    own = ask(node, query("ping"))[b"r"][b"id"]
    node.wait(10000)
    pings = []
    for i in range(240):
        near = bytearray(own)
        near[i // 8 // 8] ^= 0x80 >> i // 8 % 8
        near[19] ^= 1 + i
        pings += asked(node.give(0, "30.%d.1.1:4000" % i, query("ping", sender=bytes(near)))[1], "ping")
    status = node.status(0)
    assert 25 <= len(pings) <= 32 and 200 <= status["nodes"] <= 256 and status["good"] == 0
    assert ask(node, query("find_node", target=own), "40.1.1.1:4000")[b"r"][b"nodes"] == b""  # none of them is told to others


# ---------------------------------------------------------------- one node asks ---------------------------------------------

BOOT = "30.5.5.5:6881"


def begin(net, port=3282, boot=BOOT):
    """A node with one bootstrap and one name: what it sends first."""
    net("node", 0, HERE)
    net("boot", 0, boot)
    net("add", 0, NAME, port)
    return net.wait(0)


def test_its_queries_are_those_of_the_deployed_peer(net):
    sent = begin(net)
    own = message(sent[0][1])[b"a"][b"id"]

    def recorded(name, question, **fields):
        want = message(PACKETS[name])
        want[b"a"].update({b"id": own, **{key.encode(): value for key, value in fields.items()}})
        assert question == bencode({**want, b"t": message(question)[b"t"]}) and len(message(question)[b"t"]) == 2

    assert {to for to, _ in sent} == {BOOT} and len(sent) == 2
    recorded("dht-01", asked(sent, "find_node")[0][1], target=own)
    recorded("dht-03", asked(sent, "get_peers")[0][1])
    assert net("answered", 0, NAME) == ["result 0"]
    _, sent = net.give(0, BOOT, answer(asked(sent, "get_peers")[0][1], token=b"their token", nodes=b"", values=[at("60.1.1.1:9")]))
    recorded("dht-05", asked(sent, "announce_peer")[0][1], token=b"their token")
    net.give(0, BOOT, answer(asked(sent, "announce_peer")[0][1]))
    assert net("answered", 0, NAME) == ["result 1"] and net.status(0)["good"] == 1
    again = net.wait(590000)
    assert not asked(again, "get_peers")
    assert asked(net.wait(320000), "get_peers")  # anew after 10 to 15 minutes


def test_who_only_looks_announces_nothing(net):
    sent = begin(net, port=0)
    _, sent = net.give(0, BOOT, answer(asked(sent, "get_peers")[0][1], token=b"their token", values=[at("40.1.1.1:3282")]))
    assert sent == [] and net.found(0) == [("40.1.1.1:3282", BOOT)] and net("answered", 0, NAME) == ["result 1"]
    assert not asked(net.wait(3600000), "announce_peer")


def test_an_answer_must_come_from_whom_it_was_asked(net):
    question = asked(begin(net, port=0), "get_peers")[0][1]
    good = answer(question, token=b"t", values=[at("40.1.1.1:3282")])
    for sender in ("30.5.5.5:6882", "30.5.5.6:6881", "127.0.0.1:6881"):
        assert net.give(0, sender, good) == (1, [])
    first, second = message(good)[b"t"]
    for bad in (bencode({**message(good), b"t": bytes([first ^ 1, second])}), bencode({**message(good), b"t": bytes([first, second ^ 1])}),
                bencode({**message(good), b"t": message(good)[b"t"] + b"x"}), bencode({**message(good), b"t": message(good)[b"t"][:1]})):
        assert net.give(0, BOOT, bad) == (1, [])
    assert net.found(0) == [] and net.status(0)["nodes"] == 0
    net.give(0, BOOT, good)
    assert net.found(0) == [("40.1.1.1:3282", BOOT)] and net.status(0)["good"] == 1
    net.give(0, BOOT, good)
    assert net.found(0) == []  # once


def test_one_that_does_not_answer_in_time_is_forgotten(net):
    question = asked(begin(net, port=0), "get_peers")[0][1]
    assert net.wait(2400) == []
    net.wait(200)
    assert net("answered", 0, NAME) == ["result 1"] and net.status(0)["in_flight"] == 0
    net.give(0, BOOT, answer(question, values=[at("40.1.1.1:3282")]))
    assert net.found(0) == []
    again = [asked(net.wait(1000), "get_peers") for _ in range(300)]
    times = [i for i, sent in enumerate(again) if sent]
    assert 3 <= len(times) <= 12 and times[0] <= 3 and times[-1] - times[-2] > 2 * (times[1] - times[0])  # less and less often


def test_without_a_bootstrap_it_waits_and_with_one_it_begins(net):
    net("node", 0, HERE)
    net("add", 0, NAME, 0)
    assert net.wait(1000) == []
    assert int(net("deadline", 0)[0].split()[1]) > 60000
    assert net("boot", 0, "224.0.0.1:5") == net("boot", 0, "30.5.5.5:0") == ["result -87"]
    net("boot", 0, BOOT)
    assert {to for to, _ in net.wait(0)} == {BOOT}
    for i in range(1, 17):
        assert net("boot", 0, "30.%d.5.5:6881" % i)[-1] == "result 0"
    assert net("boot", 0, "30.1.5.5:6881") == ["result 0"] and net("boot", 0, "30.17.5.5:6881") == ["result -4"]


def test_where_nobody_can_be_asked_no_answer_is_waited_for(net):
    """And where one can be again, it is."""
    net("node", 0, HERE)
    net("add", 0, NAME, 0)
    net.wait(1)
    assert net("answered", 0, NAME) == ["result 1"]
    net("boot", 0, BOOT)
    assert net("answered", 0, NAME) == ["result 0"]


def test_all_that_were_named_are_asked(net):
    """Also three neighbours, and two of one host: who named them meant them."""
    net("node", 0, HERE)
    named = {"30.5.5.%d:6881" % i for i in range(4)} | {"30.5.5.0:6882"}
    for to in named:
        net("boot", 0, to)
    net("add", 0, NAME, 0)
    assert {to for to, _ in net.wait(20000)} == named


def test_no_deadline_has_passed_while_a_lookup_runs(net):
    begin(net, port=0)
    net.wait(1500)
    net("boot", 0, "30.6.6.6:6881")
    net("boot", 0, "30.7.7.7:6881")
    net.wait(0)
    assert int(net("deadline", 0)[0].split()[1]) > 0


def test_names_come_and_go(net):
    begin(net)
    assert net("remove", 0, NAME) == ["result 0"] and net("remove", 0, NAME) == net("answered", 0, NAME) == ["result -40"]
    assert not asked(net.wait(100000), "get_peers")
    assert {net("add", 0, "%040x" % i, 1)[0] for i in range(256)} == {"result 0"}
    assert net("add", 0, NAME, 1) == ["result -4"]
    most = 0
    for _ in range(200):
        net.wait(500)
        most = max(most, net.status(0)["in_flight"])
    assert 0 < most <= 64


def test_a_new_port_is_announced_at_once(net):
    sent = begin(net, port=0)
    net.give(0, BOOT, answer(asked(sent, "get_peers")[0][1], token=b"t"))
    net("add", 0, NAME, 77)
    sent = asked(net.wait(0), "get_peers")
    _, sent = net.give(0, BOOT, answer(sent[0][1], token=b"t"))
    assert message(asked(sent, "announce_peer")[0][1])[b"a"][b"port"] == 77


def test_one_that_tells_thousands_of_peers_has_its_share(net):
    told = [at("40.%d.%d.1:1" % (i // 250, i % 250)) for i in range(4000)]
    shares = []
    for _ in range(3):
        net.give(0, BOOT, answer(asked(begin(net, port=0), "get_peers")[0][1], values=told))
        shares.append(tuple(net.found(0)))
        net("free", 0)
    assert len(set(shares)) == 3 and all(len(set(share)) == 16 for share in shares)  # not always the first ones


def befriend(net, count):
    """So many nodes of different networks ask, are pinged, and answer that and all else. Their ids, and all that was asked."""
    net("node", 0, HERE)
    ids = {"6%d.%d.1.1:6881" % (i % 10, i): bytes([i * 256 // count]) + b"f" * 19 for i in range(count)}
    waiting = [(to, data) for friend in ids for to, data in net.give(0, friend, query("ping", sender=ids[friend]))[1]]
    asked_all = []
    for _ in range(300):
        waiting += net.wait(100)
        while waiting:
            to, data = waiting.pop(0)
            if message(data)[b"y"] == b"q":
                asked_all.append((to, data))
                waiting += net.give(0, to, answer(data, sender=ids[to]))[1]
    assert net.status(0)["good"] == count
    return ids, asked_all


def test_with_friends_it_asks_them_and_no_bootstrap(net):
    befriend(net, 16)
    net("boot", 0, BOOT)
    net("add", 0, NAME, 0)
    sent = asked(net.wait(0), "get_peers")
    assert len(sent) == 16 and BOOT not in {to for to, _ in sent}
    for i, (to, data) in enumerate(sent):
        nodes = b"".join(bytes([i, k]) * 10 + at("7%d.%d.1.1:1" % (k, i)) for k in range(10))
        _, more = net.give(0, to, answer(data, sender=b"A" * 19 + bytes([i]), nodes=nodes))
        assert BOOT not in {to for to, _ in more} and net.status(0)["in_flight"] <= 16


def test_the_first_that_comes_is_asked(net):
    """A node without a bootstrap has a name to find, and somebody comes."""
    net("node", 0, HERE)
    net("add", 0, NAME, 0)
    net.wait(100000)
    _, sent = net.give(0, BOOT, query("ping"))
    _, sent = net.give(0, BOOT, answer(asked(sent, "ping")[0][1], sender=b"Q" * 20))
    assert {message(data)[b"q"] for _, data in sent} == {b"find_node", b"get_peers"}


def test_a_bootstrap_that_comes_late_is_asked_in_the_lookup_that_runs(net):
    begin(net, port=0)
    net.wait(1000)
    sent = net("boot", 0, "30.6.6.6:6881")
    assert [line.split()[2] for line in sent if line.startswith("sent")] == ["30.6.6.6:6881"] * 2


def test_a_lookup_ends_though_nodes_tell_of_nearer_ones_without_end(net):
    waiting, count = asked(begin(net, port=0), "get_peers"), 0
    for count in range(1000):
        if not waiting:
            break
        to, data = waiting.pop(0)
        nodes = b"".join(bytes.fromhex(NAME)[:12] + (2 ** 60 - 10 * count - k).to_bytes(8, "big") + at("60.%d.%d.1:1" % (count, k)) for k in range(8))
        waiting += asked(net.give(0, to, answer(data, sender=b"%020d" % count, nodes=nodes))[1], "get_peers")
    assert 60 < count <= 128 and net("answered", 0, NAME) == ["result 1"]


def test_who_is_silent_is_told_to_nobody_until_it_answers_again(net):
    ids, _ = befriend(net, 10)

    def told():
        return len(ask(net, query("find_node", target=bytes(20)), "50.1.1.1:1")[b"r"][b"nodes"]) // 26
    assert told() == 8
    for _ in range(200):
        net.wait(10000)
        if not told():
            break
    assert told() == 0 and net.status(0)["good"] == 0
    for _ in range(60):
        for to, data in asked(net.wait(1000), "ping"):
            net.give(0, to, answer(data, sender=ids[to]))
        if told():
            break
    assert told() == 1 and net.status(0)["good"] == 1


def test_the_dead_are_left_alone(net):
    befriend(net, 10)
    sent = net.wait(7200000)
    assert 0 < len(asked(sent, "ping")) <= 30 and len(sent) < 300


def test_at_the_start_it_fills_its_far_buckets(net):
    _, sent = befriend(net, 10)
    own = message(sent[0][1])[b"a"][b"id"]
    targets = [message(data)[b"a"][b"target"] for _, data in asked(sent, "find_node")]
    order = sorted(set(targets), key=targets.index)
    assert [160 - (int.from_bytes(own, "big") ^ int.from_bytes(target, "big")).bit_length() for target in order] == [160, 0, 1, 2]


def test_one_that_is_removed_is_not_announced(net):
    question = asked(begin(net), "get_peers")[0][1]
    net("remove", 0, NAME)
    _, sent = net.give(0, BOOT, answer(question, token=b"t", values=[at("40.1.1.1:1")]))
    assert not asked(sent, "announce_peer") and net.found(0) == []


@pytest.mark.parametrize("boot, want", [(BOOT, {9}), ("10.5.5.5:6881", {0, 1, 2, 3, 4, 9}), ("127.0.0.1:6881", {0, 1, 2, 3, 4, 5, 9})],
                         ids=["public", "private", "loopback"])
def test_private_addresses_are_believed_from_private_ones(net, boot, want):
    told = [at(a) for a in ("10.0.0.1:1", "192.168.1.1:1", "172.16.0.1:1", "169.254.1.1:1", "100.64.0.1:1", "127.0.0.1:1", "0.0.0.1:1", "230.0.0.1:1",
                            "41.1.1.1:0", "41.1.1.1:1")]
    question = asked(begin(net, port=0, boot=boot), "get_peers")[0][1]
    net.give(0, boot, answer(question, values=told))
    assert {peer for peer, _ in net.found(0)} == {place(told[i]) for i in want}
    for i, six in enumerate(told):
        net("free", 0)
        question = asked(begin(net, port=0, boot=boot), "get_peers")[0][1]
        _, sent = net.give(0, boot, answer(question, nodes=b"B" * 20 + six))
        assert [to for to, _ in sent] == ([place(six)] if i in want else [])


def test_who_asks_from_afar_is_not_told_of_private_addresses(node):
    for sender in ("30.1.1.1:4000", "10.1.1.1:4000", "127.0.0.1:4000"):
        _, sent = node.give(0, sender, query("ping", sender=at(sender) + b"x" * 14))
        for to, data in asked(sent, "ping"):
            node.give(0, to, answer(data, sender=at(sender) + b"x" * 14))
        announce(node, sender)
    for sender, want in (("50.1.1.1:1", 1), ("192.168.1.1:1", 2), ("127.0.0.1:1", 3)):
        assert len(peers(node, sender)) == want
        assert len(ask(node, query("find_node", target=b"x" * 20), sender)[b"r"][b"nodes"]) == 26 * want


def test_of_the_nodes_that_one_tells_the_nearest_are_asked(net):
    sent = begin(net, port=0)
    nodes = b"".join(bytes.fromhex(NAME)[:19] + bytes([bytes.fromhex(NAME)[19] ^ 9 - i]) + at("4%d.1.1.1:1" % i) for i in range(10))
    _, sent = net.give(0, BOOT, answer(asked(sent, "get_peers")[0][1], nodes=nodes))
    assert [to for to, _ in sent] == ["4%d.1.1.1:1" % i for i in (9, 8, 7, 6)]


def test_one_network_does_not_fill_a_lookup_or_the_table(net):
    sent = begin(net, port=0)
    nodes = b"".join(bytes.fromhex(NAME)[:19] + bytes([i]) + at("44.4.4.%d:1" % i) for i in range(20))
    _, sent = net.give(0, BOOT, answer(asked(sent, "get_peers")[0][1], nodes=nodes))
    assert len(asked(sent, "get_peers")) == 2
    for i in range(20):
        _, sent = net.give(0, "55.5.5.%d:4000" % i, query("ping", sender=bytes([8 * i]) * 20))
        for to, data in asked(sent, "ping"):
            net.give(0, to, answer(data, sender=bytes([8 * i]) * 20))
    assert net.status(0)["good"] == 3


def test_nodes_that_are_told_twice_or_are_itself_or_the_teller_are_not_asked(net):
    sent = begin(net, port=0)
    own = message(sent[0][1])[b"a"][b"id"]
    nodes = own + at("44.1.1.1:1") + b"A" * 20 + at(BOOT) + (b"B" * 20 + at("45.1.1.1:1")) * 3 + b"C" * 20 + at("45.1.1.1:2")
    _, sent = net.give(0, BOOT, answer(asked(sent, "get_peers")[0][1], nodes=nodes))
    assert [to for to, _ in sent] == ["45.1.1.1:1"]


def test_its_own_id_is_no_node(net):
    sent = begin(net)
    own = message(sent[0][1])[b"a"][b"id"]
    net.give(0, BOOT, answer(sent[0][1], sender=own))
    net.give(0, "31.1.1.1:1", query("ping", sender=own))
    assert net.status(0)["nodes"] == 0


def test_one_that_answers_no_queries_is_no_node(node):
    assert ask(node, bencode({**message(query("ping")), b"ro": 1}))[b"y"] == b"r"
    assert node.status(0)["nodes"] == 0
    ask(node, query("ping"))
    assert node.status(0)["nodes"] == 1


def test_it_learns_its_own_address(net):
    sent = begin(net)
    net.give(0, BOOT, bencode({**message(answer(sent[0][1])), b"ip": at("20.1.1.1:6881")}))
    assert net.status(0)["seen"] == "20.1.1.1:6881"


# ---------------------------------------------------------------- many nodes ------------------------------------------------


def address(i):
    return "%d.%d.%d.1:6881" % (20 + i % 60, i * 7 % 256, i // 3)


def peer_of(i):
    return address(i).replace(":6881", ":3282")


def swarm(net, count, loss=0, seed=1):
    """Nodes that know one of them, and come one after the other."""
    net("seed", seed)
    net("loss", loss)
    for i in range(count):
        net("node", i, address(i))
        if i:
            net("boot", i, address(0))
        net("run", 300)
    net("run", 30000)


def find(net, seekers, peer, seconds):
    """Seconds that each took to find the peer."""
    for i in seekers:
        net("add", i, NAME, 0)
    took = {}
    for second in range(seconds):
        net("run", 1000)
        for i in seekers:
            if any(found == peer for found, _ in net.found(i)):
                took.setdefault(i, second + 1)
    return took


SEEKERS = range(100, 120)


def test_two_hundred_find_a_peer_through_one_bootstrap(net):
    swarm(net, 200)
    net("add", 5, NAME, 3282)
    net("run", 5000)
    assert net("answered", 5, NAME) == ["result 1"]
    holders = [i for i in range(200) if net.status(i)["peers"]]
    assert 16 <= len(holders) <= 20
    took = find(net, SEEKERS, peer_of(5), 3)
    assert len(took) == len(SEEKERS)
    assert all(net.status(i)["good"] >= 8 for i in range(200))
    before = net.status(0)["sends"]
    net("run", 3600000)
    assert (net.status(0)["sends"] - before) / 200 < 1500  # datagrams of one node in an hour in which nobody wants anything new


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_hundred_find_a_peer_with_three_of_ten_datagrams_lost(net, seed):
    swarm(net, 200, loss=30, seed=seed)
    net("add", 5, NAME, 3282)
    net("run", 30000)
    took = find(net, SEEKERS, peer_of(5), 90)
    assert len(took) == len(SEEKERS) and sorted(took.values())[15] <= 5


@pytest.mark.parametrize("count, near", [(20, 0), (8, 3)], ids=["anywhere", "nearest"])
def test_some_that_lie_do_not_hide_a_peer(net, count, near):
    """They tell of nodes that do not exist and would be nearer, of themselves, and of 4,000 peers, wherever they stand. (As many as an
    answer has nodes, and all of them nearest to the name, would: against that the DHT has nothing.)"""
    swarm(net, 200)
    for i in range(count):
        net("evil", 200 + i, address(200 + i), NAME[:2 * near] + "%02x" % (25 * i) + "%0*x" % (38 - 2 * near, 1 + i * 7 ** 30))
    net("run", 30000)
    net("add", 5, NAME, 3282)
    net("run", 30000)
    took = find(net, SEEKERS, peer_of(5), 60)
    assert len(took) == len(SEEKERS)


def test_who_leaves_is_forgotten(net):
    swarm(net, 30)
    net("add", 5, NAME, 3282)
    net("run", 5000)
    assert len(find(net, [20], peer_of(5), 5)) == 1
    net("free", 5)
    net("run", 1000)
    assert len(find(net, [21], peer_of(5), 5)) == 1  # others still tell of it
    net("run", 1860000)
    assert find(net, [22], peer_of(5), 30) == {}
    assert net("answered", 22, NAME) == ["result 1"]
    net("node", 5, address(5))
    net("boot", 5, address(0))
    net("add", 5, NAME, 3282)
    net("run", 10000)
    assert len(find(net, [23], peer_of(5), 10)) == 1


def test_what_was_saved_needs_no_bootstrap(net):
    swarm(net, 40)
    saved = net("save", 20)[1].split()[1]
    assert net("save", 20, len(saved) // 2)[0] == "result 0" and net("save", 20, len(saved) // 2 - 1)[0] == "result -23"
    net("free", 20)
    net("free", 0)  # the bootstrap
    net("add", 5, NAME, 3282)
    net("run", 7200000)
    net("node", 20, address(20), saved)
    assert len(net("save", 20)[1].split()[1]) == len(saved) and net("save", 20)[1].split()[1][:50] == saved[:50]  # its id, for one
    assert net.status(20)["nodes"] >= 8 and net.status(20)["good"] == 0
    assert ask(net, query("find_node", target=b"x" * 20), node=20)[b"r"][b"nodes"] == b""  # it has not asked them yet
    assert len(find(net, [20], peer_of(5), 10)) == 1


def test_what_was_saved_and_is_broken_begins_anew(net):
    swarm(net, 10)
    saved = bytes.fromhex(net("save", 5)[1].split()[1])
    assert saved[:5] == b"DHTn\x01" and len(saved) > 100
    for i in range(len(saved)):
        for broken in (saved[:i], saved[:i] + bytes([saved[i] ^ 1 << i % 8]) + saved[i + 1:]):
            net("node", 20, "21.1.1.1:6881", broken.hex() or "00")
            assert net.status(20)["nodes"] == 0 and bytes.fromhex(net("save", 20)[1].split()[1])[5:25] != saved[5:25]
            net("free", 20)


def test_two_peers_meet_though_the_seeker_was_first(net):
    swarm(net, 3)
    net("add", 1, NAME, 0)
    net("run", 40000)
    assert net.found(1) == []
    net("add", 2, NAME, 3282)
    net("run", 60000)
    assert (peer_of(2), address(0)) in net.found(1)


def test_the_network_is_away_for_a_day(net):
    swarm(net, 20)
    net("loss", 100)
    net("run", 86400000)
    assert all(net.status(i)["good"] == 0 for i in range(20))
    net("loss", 0)
    net("run", 1000000)
    net("add", 5, NAME, 3282)
    net("run", 10000)
    assert len(find(net, [7, 8, 9], peer_of(5), 20)) == 3
