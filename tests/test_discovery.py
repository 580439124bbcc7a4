"""discovery.c through its driver, tests/discovery.c: packets, multicast DNS, the client of discovery servers, and a server.

Time is the tests' own, so that nothing here waits. Environment: DATSYNC_DISCOVERY is the driver (build/asan/discovery).
"""

import base64
import hashlib
import json
import os
import struct
import subprocess
from collections import namedtuple

import pytest
from probe import ROOT, VECTORS, WRAPPER

DRIVER = os.environ.get("DATSYNC_DISCOVERY", os.path.join(ROOT, "build", "asan", "discovery"))
with open(os.path.join(VECTORS, "discovery.json"), encoding="utf-8") as _file:
    RECORDED = json.load(_file)
PACKETS = {p["id"]: p for p in RECORDED["packets"] if p["way"] in ("dns", "mdns")}
NAME, OTHER = RECORDED["name"], "11" * 20
SECRETS = "".join(RECORDED["serverSecrets"])
MESSAGE, TOO_BIG, INVALID, SPACE, NOT_FOUND, TIMEOUT = -22, -4, -2, -23, -40, -62
A, TXT, SRV = 1, 16, 33
QUESTION, ANSWER, AUTHORITY, ADDITIONAL = range(4)
ELSEWHERE, DOMAIN, BELOW, OF_FEED = range(4)
ASKED, ANSWERS, SILENT = range(3)
MINUTE = 60000

Sent = namedtuple("Sent", "engine to via bytes")
Found = namedtuple("Found", "engine name peer informant")
Item = namedtuple("Item", "part about type cls ttl name domain subscribe token host port announce unannounce target peers")


class Driver:
    """One process of the driver. What engines do lies in `events` until it is taken."""

    def __init__(self):
        env = dict(os.environ)
        env["ASAN_OPTIONS"] = "exitcode=99:quarantine_size_mb=16:" + env.get("ASAN_OPTIONS", "")
        env["UBSAN_OPTIONS"] = "print_stacktrace=1:exitcode=99:" + env.get("UBSAN_OPTIONS", "")
        self._process = subprocess.Popen(WRAPPER + [DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, encoding="ascii",
                                         errors="backslashreplace")
        self.events, self.items, self.now = [], [], 0

    def ask(self, *words):
        """The number behind ok or error, or the words if there are several."""
        self._process.stdin.write(" ".join(str(w.hex() or "-" if isinstance(w, bytes) else w) for w in words) + "\n")
        self._process.stdin.flush()
        while True:
            line = self._process.stdout.readline()
            assert line, "the driver ended: %s" % self._process.wait()
            kind, *rest = line.rstrip("\n").split(" ")
            if kind == "send":
                self.events.append(Sent(int(rest[0]), rest[1], int(rest[2]), bytes.fromhex(rest[3])))
            elif kind == "found":
                self.events.append(Found(int(rest[0]), *rest[1:]))
            elif kind == "item":
                self.items.append(Item(*[int(w) for w in rest[:5]], *rest[5:]))
            elif rest[0] == "hex":
                return rest[1]
            elif len(rest) > 1:
                return [int(w) if w.lstrip("-").isdigit() else w for w in rest]
            else:
                return int(rest[0]) if rest[0].lstrip("-").isdigit() else rest[0]

    def time(self, now):
        self.now = now
        self.ask("time", now)

    def take(self):
        taken, self.events = self.events, []
        return taken

    def parse(self, packet):
        """(id, flags, items), or the error."""
        self.items = []
        said = self.ask("parse", packet)
        return said if isinstance(said, int) else (said[0], said[1], self.items)

    def until(self, engine, end):
        """Let time pass, with a step at each deadline: [(time, what happened)]."""
        told = []
        for _ in range(10000):
            when = self.ask("deadline", engine)
            if when == "never" or when > end:
                self.time(end)
                return told
            self.time(max(when, self.now))
            self.ask("step", engine)
            told += [(self.now, event) for event in self.take()]
        raise AssertionError("it spins")

    def next(self, engine):
        """The step at the next deadline: what happened."""
        self.time(self.ask("deadline", engine))
        self.ask("step", engine)
        return self.take()

    def close(self):
        self._process.stdin.close()
        assert (self._process.stdout.read(), self._process.wait()) == ("", 0)
        self._process.stdout.close()


@pytest.fixture
def driver():
    driver = Driver()
    yield driver
    driver.close()


def packet(name):
    return bytes.fromhex(PACKETS[name]["hex"])


def domain(text):
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def header(number, flags, *counts):
    return struct.pack(">6H", number, flags, *(counts + (0, 0, 0, 0))[:4])


def strings(*texts):
    return b"".join(bytes([len(t)]) + t.encode() for t in texts)


def record(name, kind, data, cls=1):
    return (name if isinstance(name, bytes) else domain(name)) + struct.pack(">HHIH", kind, cls, 0, len(data)) + data


def question(name, kind=TXT, cls=1):
    return (name if isinstance(name, bytes) else domain(name)) + struct.pack(">HH", kind, cls)


def query(*texts, number=0x4001, name=NAME, kind=TXT, flags=0x0100):
    """To a server, with strings added."""
    full = name + ".dat.local" if name else "dat.local"
    added = record(full, TXT, strings(*texts)) if texts else b""
    return header(number, flags, 1, 0, 0, bool(texts)) + question(full, kind) + added


def reply(number, *texts, name=NAME, flags=0x8000):
    full = name + ".dat.local" if name else "dat.local"
    return header(number, flags, 1, 1) + question(full) + record(full, TXT, strings(*texts))


def packed(*peers):
    """A `peers=` string of IP:PORT texts."""
    raw = b"".join(bytes(map(int, ip.split("."))) + struct.pack(">H", int(port)) for ip, _, port in (p.partition(":") for p in peers))
    return "peers=" + base64.b64encode(raw).decode()


def number_of(message):
    return struct.unpack(">H", message[:2])[0]


def token_for(address, secret=1):
    return base64.b64encode(hashlib.sha256(bytes.fromhex(RECORDED["serverSecrets"][secret]) + address.encode()).digest()).decode()


def sent(events):
    return [e for e in events if isinstance(e, Sent)]


def found(events):
    return [e.peer for e in events if isinstance(e, Found)]


# ---- packets ----------------------------------------------------------------------------------------

VALID = [p for p in PACKETS.values() if p["result"] == "valid"]


@pytest.mark.valgrind
def test_recorded_packets_are_read_and_written(driver):
    assert len(VALID) == 63
    for entry in VALID:
        assert not isinstance(driver.parse(bytes.fromhex(entry["hex"])), int), entry["id"]
        assert driver.ask("rewrite", entry["hex"]) == entry["hex"], entry["id"]


def test_what_no_one_can_read(driver):
    assert [p["id"] for p in PACKETS.values() if p["result"] != "valid"] == ["dns-58"]
    assert driver.parse(packet("dns-58")) == MESSAGE


def test_what_a_packet_says(driver):
    number, flags, items = driver.parse(packet("dns-24"))
    assert (number, flags, len(items)) == (0x1005, 0x8000, 2)
    assert items[0][:6] == (QUESTION, OF_FEED, TXT, 1, 0, NAME)
    assert items[1].token == token_for("127.0.0.2") and items[1].peers == "127.0.0.3:3282,127.0.0.2:40000"
    assert items[1][7:14] == ("0", items[1].token, "-", "-", "-", "-", "-")

    number, flags, items = driver.parse(packet("dns-07"))
    assert (number, flags) == (0x2002, 0x0100) and items[1].part == ADDITIONAL
    assert items[1][7:] == ("1", token_for("127.0.0.3"), "-", "-", "3282", "-", "-", "-")
    assert driver.parse(packet("dns-53"))[2][1].unannounce == "3282"
    assert driver.parse(packet("dns-02"))[2][1][8:11] == (token_for("127.0.0.2"), "127.0.0.2", "3282")
    assert [(i.type, i.target, i.peers) for i in driver.parse(packet("dns-08"))[2]] == [(SRV, "127.0.0.3:3282", "127.0.0.3:3282")]
    assert [i.target for i in driver.parse(packet("dns-30"))[2][1:]] == ["127.0.0.3:0", "127.0.0.2:0", "127.0.0.2:0"]
    assert driver.parse(packet("mdns-06"))[2][0].peers == "0.0.0.0:4444"
    lasting = header(0, 0x8400, 0, 1) + domain("dat.local") + struct.pack(">HHIH", TXT, 0x8001, 0x01020304, 0)
    assert driver.parse(lasting)[2][0][2:5] == (TXT, 0x8001, 0x01020304) and driver.ask("rewrite", lasting) == lasting.hex()


def test_which_names_there_are(driver):
    for text, about in ((NAME + ".dat.local", OF_FEED), ("dat.local", DOMAIN), (NAME.upper() + ".dat.local", BELOW), (NAME[1:] + ".dat.local", BELOW),
                        (NAME + ".more.dat.local", BELOW), ("g" + NAME[1:] + ".dat.local", BELOW), (NAME + ".dat.test", ELSEWHERE),
                        (NAME + ".DAT.local", ELSEWHERE), ("local", ELSEWHERE), (NAME, ELSEWHERE), ("xdat.local", ELSEWHERE), ("_http._tcp.local", ELSEWHERE)):
        assert driver.parse(header(0, 0, 1) + question(text))[2][0].about == about, text
    assert driver.parse(header(0, 0, 1) + b"\0" + struct.pack(">HH", TXT, 1))[2][0].about == ELSEWHERE
    assert driver.parse(header(0, 0, 1) + question("dat.local", cls=3))[2][0].about == ELSEWHERE
    assert driver.parse(header(0, 0, 1) + question("dat.local", cls=0x8001))[2][0].about == DOMAIN
    # 3 and 5 are a label's length and its first byte too: a name ends where its labels do.
    assert driver.parse(header(0, 0, 1) + question(bytes([11]) + b"x\3dat\5local" + b"\0"))[2][0].about == ELSEWHERE


def test_compressed_names(driver):
    """As other programs write them in the group, and any resolver may."""
    head = header(0, 0x8400, 1, 2)
    asked = question(NAME + ".dat.local")
    tail = record(b"\xc0\x0c", TXT, strings(packed("0.0.0.0:3282"))) + record(b"\xc0\x0c", SRV, b"\0\0\0\0\x0c\xd2" + domain("10.0.0.1"))
    items = driver.parse(head + asked + tail)[2]
    assert [(i.about, i.name, i.peers) for i in items[1:]] == [(OF_FEED, NAME, "0.0.0.0:3282"), (OF_FEED, NAME, "10.0.0.1:3282")]
    # A label, then a pointer into the middle of a name; and an SRV's target that is a pointer.
    host = header(0, 0x8400, 0, 2) + record("box.local", SRV, b"\0" * 6 + b"\3abc\xc0\x0c") + record(b"\1x\xc0\x10", A, b"\1\2\3\4")
    assert [i.domain for i in driver.parse(host)[2]] == [domain("box.local").hex(), domain("x.local").hex()]


LONG = b"\x3f" + b"a" * 63
BAD = {
    "empty": b"",
    "half a header": bytes(11),
    "a question that is not there": header(0, 0, 1),
    "an answer that is not there": header(0, 0, 1, 1) + question("dat.local"),
    "65535 of each": header(0, 0, 65535, 65535, 65535, 65535) + question("dat.local"),
    "a byte behind the end": header(0, 0, 1) + question("dat.local") + b"\0",
    "a byte behind the header": header(0, 0) + b"\0",
    "a question cut in its type": header(0, 0, 1) + question("dat.local")[:-1],
    "a name without an end": header(0, 0, 1) + b"\3dat\5local",
    "a label of 64 bytes": header(0, 0, 1) + question(b"\x40" + b"a" * 64 + b"\0"),
    "a label of 191 bytes": header(0, 0, 1) + question(b"\xbf" + b"a" * 191 + b"\0"),
    "a name of 256 bytes": header(0, 0, 1) + question(LONG * 3 + b"\x3e" + b"a" * 62 + b"\0"),
    "a pointer to itself": header(0, 0, 1) + question(b"\xc0\x0c"),
    "two pointers to each other": header(0, 0, 2) + question(b"\xc0\x12") + question(b"\xc0\x0c"),
    "a pointer forwards": header(0, 0, 1) + question(b"\xc0\x10") + question("dat.local"),
    "a pointer into the header": header(0, 0, 2) + question("dat.local") + question(b"\xc0\x00"),
    "a pointer beyond the end": header(0, 0, 1) + question(b"\xff\xff"),
    "half a pointer": header(0, 0, 1) + b"\xc0",
    "a loop by way of a label": header(0, 0, 1) + question(b"\1a\xc0\x0c"),
    "a name that pointers make 256 bytes long": header(0, 0, 2) + question(LONG * 3 + b"\0") + question(LONG + b"\xc0\x0c"),
    "a record without data": header(0, 0, 0, 1) + domain("dat.local") + struct.pack(">HHI", TXT, 1, 0),
    "data beyond the packet": header(0, 0, 0, 1) + domain("dat.local") + struct.pack(">HHIH", TXT, 1, 0, 9) + strings("token=a"),
    "data of 65535 bytes": header(0, 0, 0, 1) + domain("dat.local") + struct.pack(">HHIH", TXT, 1, 0, 65535) + strings("token=a"),
    "a string beyond its record": header(0, 0, 0, 1) + record("dat.local", TXT, b"\x08token=a"),
    "a string beyond its record, within the packet": header(0, 0, 0, 2) + record("dat.local", TXT, b"\x08token=a") + record("dat.local", TXT, b""),
    "an address of 5 bytes": header(0, 0, 0, 1) + record("dat.local", A, bytes(5)),
    "an address of 3 bytes": header(0, 0, 0, 1) + record("dat.local", A, bytes(3)),
    "a service of 6 bytes": header(0, 0, 0, 1) + record("dat.local", SRV, bytes(6)),
    "a service whose name is longer": header(0, 0, 0, 2) + record("dat.local", SRV, bytes(6) + b"\5ab") + record("dat.local", A, bytes(4)),
    "a service whose name is shorter": header(0, 0, 0, 1) + record("dat.local", SRV, bytes(6) + b"\0\0"),
    "peers that are no base64": header(0, 0, 0, 1) + record("dat.local", TXT, strings("peers=AAAAAAz!")),
    "half a peer": header(0, 0, 0, 1) + record("dat.local", TXT, strings("peers=AAAA")),
    "a peer and a third": header(0, 0, 0, 1) + record("dat.local", TXT, strings("peers=AAAAAAzSAA==")),
    "a port that is too high": header(0, 0, 0, 1) + record("dat.local", TXT, strings("announce=65536")),
    "a port of six digits": header(0, 0, 0, 1) + record("dat.local", TXT, strings("port=100000")),
    "a negative port": header(0, 0, 0, 1) + record("dat.local", TXT, strings("unannounce=-1")),
    "no port": header(0, 0, 0, 1) + record("dat.local", TXT, strings("announce=")),
    "a port with a zero before it": header(0, 0, 0, 1) + record("dat.local", TXT, strings("announce=03282")),
}


@pytest.mark.valgrind
def test_bad_packets(driver):
    """Nothing but the error, at the parser; nothing at all, at the engines."""
    engines(driver)
    for name, bad in BAD.items():
        assert driver.parse(bad) == MESSAGE, name
        driver.time(driver.now + 1000)
        assert driver.ask("datagram", 1, "10.79.0.3:5353@2", bad) == MESSAGE, name
        assert driver.ask("datagram", 2, "127.0.0.1:5300", bad) == 1, name
        assert driver.ask("datagram", 3, "10.79.0.3:3282", bad) == MESSAGE, name
        assert driver.take() == [], name


def test_good_packets_beside_the_bad(driver):
    """What is just within each limit is read: the errors above are those that they seem to be."""
    for good in (header(0, 0, 1) + question(LONG * 3 + b"\x3d" + b"a" * 61 + b"\0"), header(0, 0, 1) + question(LONG + b"\0"), header(0, 0),
                 header(0, 0, 2) + question(LONG * 3 + b"\0") + question(b"\x3d" + b"a" * 61 + b"\xc0\x0c"),
                 header(0, 0, 0, 1) + record("dat.local", TXT, strings("announce=65535", "peers", "peers=", "nonsense", "", "token=", "unknown=x")),
                 header(0, 0, 0, 1) + record("elsewhere.local", TXT, strings("announce=65536", "peers=!")),
                 header(0, 0, 0, 1) + record("dat.local", TXT, b""), header(0, 0, 0, 0, 1, 1) + record("x", 47, b"\xff") + record("y", 41, b"")):
        assert not isinstance(driver.parse(good), int), good
    chain = domain("a.local") + b"".join(b"\0" * 0 + struct.pack(">HH", TXT, 1) + b"\xc0" + bytes([12 if i == 0 else 25 + 6 * (i - 1)]) for i in range(20))
    # Pointers to pointers: 16 of them, and no more.
    for count, good in ((15, True), (16, True), (17, False), (20, False)):
        whole = header(0, 0, count + 1) + (chain + struct.pack(">HH", TXT, 1))[:9 + 6 * count + 4]
        assert (driver.parse(whole) != MESSAGE) == good, count


def test_what_is_not_written(driver):
    assert driver.ask("write", 1, 4, 31, 44) > 0
    assert driver.ask("write", 1, 4, 32, 44) == TOO_BIG
    assert driver.ask("write", 0, 4, 1, 44) == INVALID, "a peer with port 0"
    assert driver.ask("write", 1, 16, 1, 44) == INVALID
    assert driver.ask("write", 1, 4, 1, 249) > 0
    assert driver.ask("write", 1, 4, 1, 250) == TOO_BIG
    whole = PACKETS["dns-24"]["hex"]
    for room in range(len(whole) // 2):
        assert driver.ask("rewrite", whole, room) == SPACE
    assert driver.ask("rewrite", whole, len(whole) // 2) == whole


def test_which_addresses_are_believed(driver):
    nearness = [["0.0.0.0:1", "0.1.2.3:1", "224.0.0.251:1", "255.255.255.255:1", "[::]:1", "[ff02::fb]:1", "[::ffff:1.2.3.4]:1"],
                ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"],
                ["10.1.2.3:1", "172.16.0.1:1", "172.31.255.1:1", "192.168.1.1:1", "169.254.1.1:1", "100.64.0.1:1", "[fe80::1%3]:1", "[fd00::1]:1"],
                ["8.8.8.8:1", "172.32.0.1:1", "192.169.0.1:1", "100.128.0.1:1", "[2001:db8::1]:1", "11.0.0.1:1", "126.0.0.1:1", "128.0.0.1:1"]]
    for far, peers in enumerate(nearness):
        for peer in peers:
            believed = [driver.ask("believable", peer, informants[0]) for informants in nearness[1:]]
            assert believed == [int(0 < far >= by) for by in (1, 2, 3)], peer


# ---- every truncation, every flip -------------------------------------------------------------------

def engines(driver):
    """1: multicast DNS; 2: a client whose server answers; 3: a server with the recorded secrets."""
    driver.ask("new", 1, "mdns")
    driver.ask("interfaces", 1, "10.79.0.2:0@2")
    driver.ask("add", 1, NAME, 3282)
    driver.ask("id", 0x1001)
    driver.ask("new", 2, "client")
    driver.ask("servers", 2, "127.0.0.1:5300")
    driver.ask("datagram", 2, "127.0.0.1:5300", packet("dns-02"))
    server(driver, 3)
    driver.take()


def server(driver, number=3):
    driver.ask("random", SECRETS)
    driver.ask("id", 0x5001)
    driver.ask("new", number, "server")


@pytest.mark.parametrize("part", range(8))
def test_truncations_and_flips(driver, part):
    packets = [p["hex"] for p in PACKETS.values()][part::8]
    driver.ask("random", SECRETS)
    tries, parsed = driver.ask("fuzz", NAME, *packets)
    assert tries == sum(len(p) // 2 * 9 + 1 for p in packets)
    assert tries // 20 < parsed < tries


# ---- multicast DNS ----------------------------------------------------------------------------------

GROUP, GROUP_6 = "224.0.0.251:5353", "[ff02::fb]:5353"
ASK = packet("mdns-01")


def told(port, name=NAME):
    """The answer of who serves a name."""
    return header(0, 0x8400, 1, 1) + question(name + ".dat.local") + record(name + ".dat.local", TXT, strings(packed("0.0.0.0:%d" % port)))


def mdns(driver, number=1, *interfaces):
    driver.ask("new", number, "mdns")
    driver.ask("interfaces", number, *(interfaces or ("10.79.0.2:0@2",)))


def test_asks_at_the_start_and_each_minute(driver):
    mdns(driver)
    driver.time(5000)
    driver.ask("add", 1, NAME, 0)
    assert driver.take() == [Sent(1, GROUP, 2, ASK)]
    times = []
    for when, event in driver.until(1, 5000 + 10 * 70000):
        assert event == Sent(1, GROUP, 2, ASK)
        times.append(when - 5000)
    assert times[:3] == [1000, 3000, 7000]
    gaps = [b - a for a, b in zip(times[2:], times[3:])]
    assert len(gaps) >= 9 and all(60000 <= gap <= 70000 for gap in gaps) and len(set(gaps)) > 1


def test_announces_unasked_and_when_asked(driver):
    """In the deployed form: the question, then 0.0.0.0 with the port; to the port that asked."""
    mdns(driver)
    driver.ask("add", 1, NAME, 3282)
    assert driver.take() == [Sent(1, GROUP, 2, ASK), Sent(1, GROUP, 2, told(3282))]
    driver.time(100)
    assert driver.ask("datagram", 1, "10.79.0.3:5353@2", ASK) == 0
    assert driver.take() == [Sent(1, GROUP, 2, told(3282))]
    driver.ask("datagram", 1, "10.79.0.3:40000@2", ASK)
    assert driver.take() == [Sent(1, "224.0.0.251:40000", 2, told(3282))]
    for other in (query(name=OTHER, flags=0), query(kind=SRV, flags=0), query(name="", flags=0), header(0, 0, 1) + question(NAME + ".dat.test")):
        driver.ask("datagram", 1, "10.79.0.3:5353@2", other)
    assert driver.take() == []
    driver.ask("remove", 1, NAME)
    driver.ask("datagram", 1, "10.79.0.3:5353@2", ASK)
    assert driver.take() == [] and driver.ask("remove", 1, NAME) == NOT_FOUND and driver.ask("deadline", 1) == "never"


def test_who_is_no_neighbour_is_not_heard(driver):
    """The port is open to the whole internet where this host is (RFC 6762, 11)."""
    mdns(driver, 1, "10.79.1.2:20@2", "[2001:db8::2]:64@2", "192.0.2.1:32@3", "198.51.100.9:0@4p2p")
    driver.ask("interfaces", 1, "10.79.1.2:20@2", "[2001:db8::2]:64@2", "192.0.2.1:32@3")
    driver.ask("add", 1, NAME, 3282)
    driver.take()
    for near, far in (("10.79.0.3", "10.79.16.3"), ("10.79.15.9", "203.0.113.9"), ("[2001:db8::9]", "[2001:db8:0:1::9]"), ("[fe80::9%2]", "[2002::9]"),
                      ("192.0.2.1", "192.0.2.2"), ("127.0.0.1", "8.8.8.8")):
        for host, heard in ((near, True), (far, False)):
            assert driver.ask("datagram", 1, host + (":5353" if "%" in host else ":5353@2"), reply(0, packed("0.0.0.0:7"), flags=0x8400)) == 0
            assert bool(found(driver.take())) == heard, host
            driver.ask("datagram", 1, host + (":5353" if "%" in host else ":5353@2"), ASK)
            assert bool(driver.take()) == heard, host
        driver.time(60000)
        driver.take()


def test_looking_up_alone_tells_nothing(driver):
    mdns(driver)
    driver.ask("add", 1, NAME, 0)
    driver.take()
    driver.ask("datagram", 1, "10.79.0.3:5353@2", ASK)
    assert driver.take() == []


def test_hears_of_peers(driver):
    """Recorded answers, asked for or not; of others' words, what may be dialled."""
    mdns(driver)
    driver.ask("add", 1, NAME, 3282)
    driver.take()
    driver.ask("datagram", 1, "10.79.0.3:5353@2", packet("mdns-05"))
    assert driver.take() == [Found(1, NAME, "10.79.0.3:3282", "10.79.0.3:5353")]
    driver.ask("datagram", 1, "10.80.0.3:5353@2", packet("mdns-06"))
    assert driver.take() == [Found(1, NAME, "10.80.0.3:4444", "10.80.0.3:5353")]
    driver.ask("datagram", 1, "10.79.0.3:5353@2", reply(0, packed("10.79.0.9:1", "0.0.0.0:0", "127.0.0.1:22", "224.0.0.1:5", "8.8.8.8:7"), flags=0x8400))
    assert found(driver.take()) == ["10.79.0.9:1", "8.8.8.8:7"]
    driver.ask("datagram", 1, "10.79.0.3:5353@2", reply(0, packed("10.79.0.9:1"), name=OTHER, flags=0x8400))
    assert driver.take() == []
    service = record(NAME + ".dat.local", SRV, b"\0\0\0\0\x0c\xd2" + domain("0.0.0.0"))
    driver.ask("datagram", 1, "10.79.0.4:5353@2", header(0, 0x8400, 0, 1) + service)
    assert found(driver.take()) == ["10.79.0.4:3282"]
    # A question says nothing of peers.
    driver.ask("datagram", 1, "10.79.0.4:5353@2", header(0, 0, 0, 1) + service)
    assert driver.take() == []


def test_own_packets(driver):
    """They come back from the group. Another process here, with another port, is a peer."""
    mdns(driver, 1, "10.79.0.2:0@2", "[fe80::2%2]:0", "127.0.0.1:0@1lo")
    driver.ask("add", 1, NAME, 3282)
    for event in sent(driver.take()):
        driver.ask("datagram", 1, "10.79.0.2:5353@2" if event.to == GROUP else "[fe80::2%2]:5353", event.bytes)
    assert driver.take() == []
    driver.ask("datagram", 1, "10.79.0.2:5353@2", ASK)
    assert driver.take() == [Sent(1, GROUP, 2, told(3282))], "another process's question is answered"
    driver.ask("datagram", 1, "10.79.0.2:5353@2", told(3283))
    assert found(driver.take()) == ["10.79.0.2:3283"]
    driver.ask("datagram", 1, "10.79.0.3:5353@2", told(3282))
    assert found(driver.take()) == ["10.79.0.3:3282"]
    driver.ask("add", 1, OTHER, 4000)
    driver.take()
    driver.ask("datagram", 1, "127.0.0.1:5353@1", told(4000))
    assert found(driver.take()) == [], "a port that serves another name here"


def test_an_echo_that_never_came_silences_nobody(driver):
    mdns(driver)
    driver.ask("add", 1, NAME, 3282)
    driver.take()
    driver.time(999)
    driver.ask("datagram", 1, "10.79.0.2:40000@2", ASK)
    assert len(driver.take()) == 1, "not from the port that we send from"
    driver.ask("datagram", 1, "10.79.0.2:5353@2", ASK)
    assert driver.take() == []
    driver.ask("step", 1)
    driver.time(2500)
    driver.take()
    driver.ask("datagram", 1, "10.79.0.2:5353@2", ASK)
    assert driver.take() == [Sent(1, GROUP, 2, told(3282))]


def test_interfaces(driver):
    mdns(driver, 1, "127.0.0.1:0@1lo", "10.0.0.1:0@7p2p")
    driver.ask("add", 1, NAME, 3282)
    assert [(e.to, e.via) for e in driver.take()] == [(GROUP, 1)] * 2, "loopback, where there is nothing else"
    driver.ask("interfaces", 1, "127.0.0.1:0@1lo", "10.79.0.2:0@2", "10.79.0.5:0@2", "[fe80::2%2]:0", "[2001:db8::2]:0@2", "10.80.0.2:0@3")
    assert [(e.to, e.via) for e in driver.take()] == [(GROUP, 2)] * 2 + [(GROUP_6, 2)] * 2 + [(GROUP, 3)] * 2
    driver.ask("datagram", 1, "10.80.0.9:5353@3", ASK)
    driver.ask("datagram", 1, "[fe80::9%2]:5353", ASK)
    assert [(e.to, e.via) for e in driver.take()] == [(GROUP, 3), (GROUP_6, 2)], "where it was asked"
    driver.ask("interfaces", 1, "10.79.0.2:0@2")
    driver.ask("datagram", 1, "10.80.0.9:5353@3", ASK)
    assert driver.take() == [], "nothing new, and what is gone is gone"
    driver.ask("interfaces", 1, "10.79.0.2:0@2", "10.80.0.2:0@3")
    assert [(e.to, e.via) for e in driver.take()] == [(GROUP, 3)] * 2, "it came back"
    driver.ask("datagram", 1, "10.79.0.9:5353", ASK)
    assert [(e.to, e.via) for e in driver.take()] == [(GROUP, 2)], "the system can't tell"
    driver.ask("interfaces", 1)
    assert driver.ask("datagram", 1, "10.79.0.9:5353@2", ASK) == 0 and driver.take() == []


def test_a_peer_over_ipv6(driver):
    mdns(driver, 1, "[fe80::2%2]:0")
    driver.ask("add", 1, NAME, 0)
    assert driver.take() == [Sent(1, GROUP_6, 2, ASK)]
    driver.ask("datagram", 1, "[fe80::3%2]:5353", told(3282))
    assert driver.take() == [Found(1, NAME, "[fe80::3%2]:3282", "[fe80::3%2]:5353")]


def test_first_answer(driver):
    mdns(driver)
    driver.time(100)
    assert driver.ask("answered", 1, NAME) == NOT_FOUND
    driver.ask("add", 1, NAME, 3282)
    driver.ask("datagram", 1, "10.79.0.2:5353@2", told(3282))
    driver.time(1099)
    assert driver.ask("answered", 1, NAME) == 0
    driver.time(1100)
    assert driver.ask("answered", 1, NAME) == 1
    driver.ask("add", 1, OTHER, 0)
    assert driver.ask("answered", 1, OTHER) == 0
    driver.ask("datagram", 1, "10.79.0.3:5353@2", told(1, OTHER))
    assert driver.ask("answered", 1, OTHER) == 1


def test_a_limit_on_answers(driver):
    """40 a second on each interface; who is over it is owed, and nobody is kept from his turn."""
    mdns(driver, 1, "10.79.0.2:0@2", "10.80.0.2:0@3")
    for name in (NAME, OTHER):
        driver.ask("add", 1, name, 3282)
    driver.until(1, 10000)
    driver.take()
    for _ in range(1000):
        driver.ask("datagram", 1, "10.79.0.3:5353@2", query(name=OTHER, flags=0))
        driver.ask("datagram", 1, "10.79.0.3:6000@2", query(name=OTHER, flags=0))
    burst = len(driver.take())
    assert 40 <= burst <= 42
    driver.ask("datagram", 1, "10.80.0.3:5353@3", ASK)
    assert [e.via for e in driver.take()] == [3], "the other interface has a rate of its own"
    driver.ask("datagram", 1, "10.79.0.3:5353@2", ASK)
    assert driver.take() == []
    answers = []
    for now in range(10000, 11000, 5):  # the flood goes on
        driver.time(now)
        driver.ask("step", 1)
        driver.ask("datagram", 1, "10.79.0.3:5353@2", query(name=OTHER, flags=0))
        answers += [(now, e.bytes == told(3282)) for e in driver.take()]
    assert 35 <= len(answers) <= 45
    assert [now for now, ours in answers if ours][0] <= 10100


def test_many_names(driver):
    mdns(driver)
    names = ["%040x" % n for n in range(257)]
    assert [driver.ask("add", 1, name, 3282) for name in names] == [0] * 256 + [TOO_BIG]
    assert driver.ask("add", 1, names[0], 3282) == 0
    events = driver.take() + [e for _, e in driver.until(1, 20000)]
    assert len({e.bytes for e in events if e.bytes[2] == 0x84}) == 256, "what is owed is paid"
    for name in names[:256:2]:
        assert driver.ask("remove", 1, name) == 0
    driver.ask("datagram", 1, "10.79.0.3:5353@2", b"".join([header(0, 0, 4)] + [question(name + ".dat.local") for name in names[:4]]))
    assert {e.bytes for e in driver.take()} == {told(3282, names[1]), told(3282, names[3])}


def test_what_is_owed_of_a_name_that_goes(driver):
    mdns(driver)
    names = ["%040x" % n for n in range(80)]
    for name in names:
        driver.ask("add", 1, name, 3282)
    seen = {e.bytes for e in driver.take()}
    owed = {name for name in names if told(3282, name) not in seen}
    assert len(owed) > 30
    gone = sorted(owed)[0]
    driver.ask("remove", 1, gone)
    driver.ask("remove", 1, names[0])
    later = {e.bytes for now, e in driver.until(1, 990)}
    assert {told(3282, name) for name in owed - {gone}} <= later and told(3282, gone) not in later


class Wire:
    """Engines that hear each other; `lost` decides what does not come through."""

    def __init__(self, driver, addresses, lost=lambda: False):
        self.driver, self.addresses, self.lost = driver, addresses, lost
        self.found = []

    def address_of(self, number):
        return next(a for a, n in self.addresses.items() if n == number)

    def carry(self):
        while self.driver.events:
            event = self.driver.events.pop(0)
            if isinstance(event, Found):
                self.found.append((self.driver.now, event))
                continue
            source = self.address_of(event.engine)
            for address, number in self.addresses.items():
                if (event.to.startswith("224.") or event.to == address) and not self.lost():
                    self.driver.ask("datagram", number, source + ("@2" if event.to.startswith("224.") else ""), event.bytes)

    def run(self, end):
        while True:
            self.carry()
            times = [(self.driver.ask("deadline", n), n) for n in set(self.addresses.values())]
            when, number = min(t for t in times if t[0] != "never")
            if when > end:
                self.driver.time(end)
                return
            self.driver.time(max(when, self.driver.now))
            self.driver.ask("step", number)


def test_two_find_each_other_in_the_group(driver):
    wire = Wire(driver, {})
    for number in (1, 2):
        wire.addresses["10.0.0.%d:5353" % number] = number
        driver.time(number * 100)
        mdns(driver, number, "10.0.0.%d:0@2" % number)
        driver.ask("add", number, NAME, 3280 + number)
        wire.carry()
    assert {(e.engine, e.peer) for _, e in wire.found} == {(1, "10.0.0.2:3282"), (2, "10.0.0.1:3281")}
    assert all(now == 200 for now, _ in wire.found)
    wire.run(300000)
    assert {(e.engine, e.peer) for _, e in wire.found} == {(1, "10.0.0.2:3282"), (2, "10.0.0.1:3281")}


# ---- the client of discovery servers ----------------------------------------------------------------

SERVER = "127.0.0.1:5300"
ACK = 0x8000


def client(driver, *places, first=0x1001, number=2):
    driver.ask("id", first)
    driver.ask("new", number, "client")
    driver.ask("servers", number, *(places or (SERVER,)))


def answered(driver, *texts, server=SERVER, number=2, name=NAME):
    """The last question to that server gets an answer: what comes of it."""
    last = [e for e in driver.take() if e.to == server][-1]
    driver.ask("datagram", number, server, reply(number_of(last.bytes), *texts, name=name))


def ready(driver, *places, **more):
    """A client whose server gave a token."""
    client(driver, *places, **more)
    answered(driver, "token=first", "host=8.8.8.8", "port=3282", name="")


def pushed(number, peer, name=NAME):
    ip, _, port = peer.partition(":")
    return header(number, 0x0100, 0, 0, 0, 1) + record(name + ".dat.local", SRV, struct.pack(">HHH", 0, 0, int(port)) + domain(ip))


def test_the_recorded_talk_of_who_looks_up(driver):
    """Client a: all that it sends is as recorded, byte for byte; what it is told is found."""
    def hears(name):
        driver.ask("datagram", 2, SERVER, packet(name))
        return driver.take()

    def sends(*names):
        return [Sent(2, SERVER, 0, packet(name)) for name in names]

    client(driver)
    driver.ask("add", 2, NAME, 0)
    assert driver.take() == sends("dns-01")
    assert hears("dns-02") == sends("dns-03")
    assert hears("dns-04") == []
    assert hears("dns-08") == sends("dns-10") + [Found(2, NAME, "127.0.0.3:3282", SERVER)]
    assert hears("dns-08") == sends("dns-10"), "a push that comes again is told once"
    assert driver.next(2) == sends("dns-11") and 60000 <= driver.now <= 70000
    assert hears("dns-12") == [Found(2, NAME, "127.0.0.3:3282", SERVER)]
    driver.ask("add", 2, NAME, 40000)
    assert driver.take() == sends("dns-15")
    assert hears("dns-17") == sends("dns-20"), "oneself is no peer"
    assert found(hears("dns-18")) == ["127.0.0.3:3282"]
    assert driver.ask("status", 2, 0) == [ANSWERS, SERVER, "127.0.0.2:3282", 0, 3]


def test_the_recorded_talk_of_who_announces(driver):
    def hears(name):
        driver.ask("datagram", 2, SERVER, packet(name))
        return driver.take()

    def sends(*names):
        return [Sent(2, SERVER, 0, packet(name)) for name in names]

    client(driver, first=0x2001)
    driver.ask("add", 2, NAME, 3282)
    assert driver.take() == sends("dns-05")
    assert hears("dns-06") == sends("dns-07")
    assert hears("dns-09") == []
    assert driver.next(2) == sends("dns-13")
    assert hears("dns-14") == [], "told of itself"
    for push, ack, peer in (("dns-16", "dns-19", "127.0.0.2:40000"), ("dns-23", "dns-26", "127.0.0.2:3282"),
                            ("dns-40", "dns-43", "127.0.0.4:5556"), ("dns-46", "dns-49", "127.0.0.4:4000")):
        assert hears(push) == sends(ack) + [Found(2, NAME, peer, SERVER)]
    driver.ask("remove", 2, NAME)
    assert driver.take() == sends("dns-53") and driver.ask("idle", 2) == 0
    assert hears("dns-54") == [] and driver.ask("idle", 2) == 1
    assert driver.ask("deadline", 2) == "never"


def test_ports_and_addresses_are_tried_in_turn(driver):
    """5300 of all, then 53 of all, each three times within 1.75 s; then longer and longer silence."""
    driver.time(1000)
    client(driver, "8.8.4.4:0", "[2001:db8::1]:0")
    first = driver.take()
    tries = [(0, e.to) for e in first] + [(now - 1000, e.to) for now, e in driver.until(2, 8000)]
    places = ["8.8.4.4:5300", "[2001:db8::1]:5300", "8.8.4.4:53", "[2001:db8::1]:53"]
    assert tries == [(1750 * k + t, place) for k, place in enumerate(places) for t in (0, 500, 1500)]
    assert driver.ask("status", 2, 0) == [SILENT, "8.8.4.4:5300", "-", TIMEOUT, 0]
    tries = [now for now, e in driver.until(2, 400000)]
    starts = tries[::12]
    gaps = [b - a - 7000 for a, b in zip([1000] + starts, starts)]
    assert [round(gap / 1000 - 0.5) for gap in gaps[:6]] == [5, 10, 20, 40, 80, 80]


def test_the_place_that_answered_stays(driver):
    client(driver, "8.8.4.4:0")
    driver.until(2, 1800)
    assert driver.ask("status", 2, 0)[:2] == [ASKED, "8.8.4.4:53"]
    driver.ask("add", 2, NAME, 0)
    assert driver.ask("datagram", 2, "8.8.4.4:5300", reply(0x1001, "token=late", name="")) == 0, "too late"
    driver.time(1800)
    driver.ask("datagram", 2, "8.8.4.4:53", reply(0x1002, "token=there", name=""))
    assert [e.to for e in driver.take()] == ["8.8.4.4:53"]
    assert driver.ask("status", 2, 0)[:2] == [ANSWERS, "8.8.4.4:53"]
    later = [e.to for _, e in driver.until(2, 10200)]
    assert set(later) == {"8.8.4.4:53"}, "when it is silent, it is probed there first"
    assert driver.ask("status", 2, 0)[0] == ASKED


def test_a_given_port_is_the_only_one(driver):
    client(driver, "8.8.4.4:7000")
    assert {e.to for _, e in driver.until(2, 100000)} == {"8.8.4.4:7000"}


def test_questions_are_repeated(driver):
    ready(driver)
    driver.time(100)
    driver.ask("add", 2, NAME, 3282)
    first = driver.take()
    again = driver.until(2, 7849)
    assert [now - 100 for now, _ in again] == [500, 1500, 3500] and {e for _, e in again} == set(first)
    assert driver.ask("status", 2, 0)[0] == ANSWERS and driver.ask("deadline", 2) == 7850
    after = driver.until(2, 7850)
    assert len(after[0][1].bytes) == 27, "a probe"
    assert driver.ask("status", 2, 0)[::3] == [ASKED, TIMEOUT]
    assert driver.ask("answered", 2, NAME) == 0
    driver.until(2, 9600)
    assert driver.ask("status", 2, 0)[0] == SILENT and driver.ask("answered", 2, NAME) == 1


def test_a_server_that_dies_and_comes_back(driver):
    """With other secrets: what it gives then is used, and the name is announced anew."""
    ready(driver)
    driver.ask("add", 2, NAME, 3282)
    answered(driver, "token=first", packed("8.8.8.8:1"))
    assert found(driver.take()) == ["8.8.8.8:1"]
    driver.until(2, 300000)
    assert driver.ask("status", 2, 0)[0] == SILENT
    while driver.ask("status", 2, 0)[0] == SILENT:
        driver.time(driver.ask("deadline", 2))
        driver.ask("step", 2)
        if sent(driver.events):
            answered(driver, "token=second", name="")
    assert b"token=second\rannounce=3282" in driver.take()[0].bytes


def test_another_token(driver):
    """What was asked with the one before may not have counted: once more at once, and once only."""
    ready(driver)
    driver.ask("add", 2, NAME, 3282)
    driver.ask("add", 2, OTHER, 3282)
    one, other = driver.take()
    driver.ask("datagram", 2, SERVER, reply(number_of(one.bytes), "token=second"))
    driver.ask("datagram", 2, SERVER, reply(number_of(other.bytes), "token=second", name=OTHER))
    again = driver.take()
    assert [b"token=second" in e.bytes for e in again] == [True, True]
    driver.ask("datagram", 2, SERVER, reply(number_of(again[0].bytes), "token=third"))
    assert driver.take() == []
    driver.ask("datagram", 2, SERVER, reply(number_of(again[1].bytes), "token=second", name=OTHER))
    assert driver.ask("deadline", 2) >= MINUTE


def test_what_is_not_an_answer(driver):
    """Another sender, id or name; an answer that comes twice."""
    ready(driver)
    driver.ask("add", 2, NAME, 0)
    asked = number_of(driver.take()[0].bytes)
    right = reply(asked, "token=first", packed("8.8.8.8:1"))
    for sender in ("127.0.0.1:53", "127.0.0.2:5300", "[::1]:5300", "8.8.8.8:5300"):
        assert driver.ask("datagram", 2, sender, right) == 0
    for wrong in (reply(asked ^ 1, packed("8.8.8.8:1")), reply(asked, packed("8.8.8.8:1"), name=OTHER), header(asked, 0x8000),
                  reply(0x1001, "token=evil", name=""), reply(asked, packed("8.8.8.8:1"), name="")):
        assert driver.ask("datagram", 2, SERVER, wrong) == 1
    assert driver.take() == [] and driver.ask("answered", 2, NAME) == 0
    assert driver.ask("datagram", 2, SERVER, query(name=NAME)) == 0, "a question is for a server"
    driver.ask("datagram", 2, SERVER, right)
    assert found(driver.take()) == ["8.8.8.8:1"] and driver.ask("answered", 2, NAME) == 1
    driver.ask("datagram", 2, SERVER, right)
    assert driver.take() == []


def test_an_answer_that_says_nothing(driver):
    """As of a resolver at port 53, which refuses: it is not the server, and the doctor can tell."""
    client(driver, "8.8.4.4:53")
    driver.ask("datagram", 2, "8.8.4.4:53", header(0x1001, 0x8185, 1) + question("dat.local"))
    driver.ask("datagram", 2, "8.8.4.4:53", reply(0x1001, "token=" + "x" * 129, name=""))
    driver.until(2, 2000)
    assert driver.ask("status", 2, 0)[::3] == [SILENT, MESSAGE]
    driver.until(2, 20000)
    assert driver.ask("status", 2, 0)[::3] == [SILENT, TIMEOUT]
    assert driver.ask("status", 2, 1) == NOT_FOUND


def test_pushes(driver):
    ready(driver)
    driver.ask("add", 2, NAME, 3282)
    answered(driver, "token=first")
    driver.take()
    assert driver.ask("datagram", 2, "127.0.0.1:53", pushed(7, "8.8.8.8:5")) == 0
    assert driver.take() == [], "not from the server"
    for number, peer, expected in ((7, "8.8.4.4:5", ["8.8.4.4:5"]), (8, "8.8.4.4:0", []), (9, "0.0.0.0:5", []), (10, "8.8.8.8:3282", []),
                                   (11, "8.8.8.8:3283", ["8.8.8.8:3283"]), (12, "10.0.0.1:5", ["10.0.0.1:5"])):
        driver.ask("datagram", 2, SERVER, pushed(number, peer))
        events = driver.take()
        assert events[0] == Sent(2, SERVER, 0, header(number, ACK)) and found(events) == expected
    driver.ask("datagram", 2, SERVER, pushed(13, "8.8.4.4:9", OTHER))
    assert driver.take() == [Sent(2, SERVER, 0, header(13, ACK))]
    for _ in range(2):
        driver.ask("datagram", 2, SERVER, pushed(7, "8.8.4.4:5"))
        assert found(driver.take()) == []
    driver.until(2, 20000)
    driver.ask("datagram", 2, SERVER, pushed(7, "8.8.4.4:6"))
    assert found(driver.take()) == ["8.8.4.4:6"], "a number that comes round again"


def test_a_public_server_tells_of_no_private_address(driver):
    for number, server, expected in ((2, "8.8.4.4:5300", ["9.9.9.9:1"]), (3, "192.168.0.1:5300", ["9.9.9.9:1", "10.0.0.1:2"]),
                                     (4, "127.0.0.1:5300", ["9.9.9.9:1", "10.0.0.1:2", "127.0.0.1:3"])):
        client(driver, server, number=number)
        answered(driver, "token=first", server=server, number=number, name="")
        driver.ask("add", number, NAME, 0)
        answered(driver, packed("9.9.9.9:1", "10.0.0.1:2", "127.0.0.1:3", "0.0.0.0:4", "9.9.9.9:0", "239.0.0.1:5"), server=server, number=number)
        assert found(driver.take()) == expected


def test_leaving(driver):
    """The servers that know are told, again until they answer; a name that comes back stays."""
    ready(driver)
    driver.ask("servers", 2, "8.8.4.4:5300")
    driver.ask("add", 2, NAME, 3282)
    driver.ask("add", 2, OTHER, 0)
    driver.take()
    driver.ask("remove", 2, OTHER)
    assert driver.take() == [] and driver.ask("idle", 2) == 1, "nobody knows of who only looks up"
    driver.ask("remove", 2, NAME)
    gone = driver.take()
    assert [e.to for e in gone] == [SERVER] and b"unannounce=3282" in gone[0].bytes and b"subscribe" not in gone[0].bytes
    assert driver.ask("remove", 2, NAME) == NOT_FOUND and driver.ask("answered", 2, NAME) == NOT_FOUND
    driver.time(100)
    driver.ask("add", 2, NAME, 3282)
    back = driver.take()
    assert [b"\rannounce=3282" in e.bytes for e in back] == [True] and driver.ask("idle", 2) == 1
    driver.ask("stop", 2)
    again = [e for e in driver.take() if e.to == SERVER] + [e for _, e in driver.until(2, 1700) if e.to == SERVER]
    assert len(again) == 3 and len(set(again)) == 1
    driver.until(2, 10000)
    assert driver.ask("idle", 2) == 1


def test_ids_that_utp_would_take_are_left_out(driver):
    ids = []
    for start in (0x0ff, 0x40ff, 0x50ff, 0x1101, 0xffff):
        driver.ask("id", start)
        driver.ask("new", 2, "client")
        for n in range(3):
            driver.ask("servers", 2, "8.8.4.%d:53" % n)
        ids.append([number_of(e.bytes) for e in driver.take()])
        driver.ask("free", 2)
    assert ids == [[0xff, 0x103, 0x104], [0x40ff, 0x4103, 0x4104], [0x50ff, 0x5100, 0x5101], [0x1103, 0x1104, 0x1105], [0xffff, 0, 1]]


def test_limits_of_the_client(driver):
    client(driver)
    assert driver.ask("servers", 2) == INVALID
    assert driver.ask("servers", 2, *["8.8.4.4:0"] * 9) == TOO_BIG
    assert [driver.ask("servers", 2, "8.8.4.%d:53" % n) for n in range(8)] == [1, 2, 3, 4, 5, 6, 7, TOO_BIG]
    assert [driver.ask("add", 2, "%040x" % n, 3282) for n in range(257)] == [0] * 256 + [TOO_BIG]
    answered(driver, "token=t", name="")
    asked = driver.take()
    assert len({number_of(e.bytes) for e in asked}) == 256
    driver.ask("stop", 2)
    told_ = driver.take()
    assert len(told_) == 256 and all(b"unannounce=3282" in e.bytes for e in told_)
    for event in told_:
        item = driver.parse(event.bytes)[2][0]
        driver.ask("datagram", 2, SERVER, reply(number_of(event.bytes), name=item.name))
    assert driver.ask("idle", 2) == 1


def test_several_servers(driver):
    """Each has a state of its own, and a first answer is that of each."""
    client(driver)
    driver.ask("servers", 2, "8.8.4.4:53")
    driver.ask("add", 2, NAME, 3282)
    answered(driver, "token=one", "host=9.9.9.9", "port=7", name="")
    answered(driver, "token=one", packed("7.7.7.7:7"))
    assert found(driver.take()) == ["7.7.7.7:7"] and driver.ask("answered", 2, NAME) == 0
    driver.until(2, 1800)
    assert driver.ask("answered", 2, NAME) == 1
    assert driver.ask("status", 2, 0) == [ANSWERS, SERVER, "9.9.9.9:7", 0, 1]
    assert driver.ask("status", 2, 1) == [SILENT, "8.8.4.4:53", "-", TIMEOUT, 0]
    driver.ask("new", 4, "client")
    driver.ask("add", 4, NAME, 1)
    assert driver.ask("answered", 4, NAME) == 1, "without servers there is nothing to wait for"


def test_two_servers_at_one_place(driver):
    """Their names lead to it. Each is asked, and gets the answer to what it was asked."""
    client(driver)
    driver.ask("servers", 2, SERVER)
    driver.ask("add", 2, NAME, 3282)
    probes = driver.take()
    assert [e.to for e in probes] == [SERVER, SERVER]
    for event in reversed(probes):
        driver.ask("datagram", 2, SERVER, reply(number_of(event.bytes), "token=one", name=""))
    questions = driver.take()
    assert len(questions) == 2 and driver.ask("answered", 2, NAME) == 0
    for event in reversed(questions):
        driver.ask("datagram", 2, SERVER, reply(number_of(event.bytes), "token=one", packed("8.8.4.4:1")))
    assert found(driver.take()) == ["8.8.4.4:1"] * 2 and driver.ask("answered", 2, NAME) == 1
    assert [driver.ask("status", 2, i)[::3] for i in range(2)] == [[ANSWERS, 0]] * 2


# ---- a server ---------------------------------------------------------------------------------------

LIMIT = 3  # times the question, without a token


def trusted(address, *texts, name=NAME, number=0x4001, secret=1, kind=TXT):
    return query(*texts, "token=" + token_for(address, secret), name=name, number=number, kind=kind)


def answers(driver, sender, message, number=3):
    """What the server sends: (the answer or None, pushes)."""
    driver.ask("datagram", number, sender, message)
    events = driver.take()
    pushes = [e for e in events if not e.bytes[2] & 0x80]
    replies = [e for e in events if e.bytes[2] & 0x80]
    assert len(replies) <= 1 and events == pushes + replies
    assert not replies or replies[0].to == sender
    return (replies[0].bytes if replies else None), pushes


def peers_of(driver, message):
    return sorted(p for i in driver.parse(message)[2][1:] for p in i.peers.split(",") if p != "-")


def test_the_recorded_talk_of_a_server(driver):
    """Each question gets the recorded answer: to the byte where chance has no part, else the same peers; and the same are told."""
    server(driver)
    talk = [p for p in PACKETS.values() if p["way"] == "dns"]
    compared, same = 0, 0
    for at, entry in enumerate(talk[:54]):
        if entry["from"] == SERVER:
            continue
        driver.time(driver.now + 5)
        answer, pushes = answers(driver, entry["from"], bytes.fromhex(entry["hex"]))
        if entry["meaning"].endswith("answer to the push"):
            assert (answer, pushes) == (None, [])
            continue
        following = []
        for other in talk[at + 1:]:
            if other["from"] != SERVER:
                break
            following.append(other)
        expected = bytes.fromhex(next(p["hex"] for p in following if p["to"] == entry["from"] and int(p["hex"][4:5], 16) & 8))
        assert sorted((e.to, e.bytes[2:]) for e in pushes) == sorted((p["to"], bytes.fromhex(p["hex"])[2:]) for p in following if not int(p["hex"][4:5], 16) & 8)
        if answer == expected:
            same += 1
        elif entry["meaning"].startswith(("question", "name", "announce with a wrong")) or "TXT alone" in entry["meaning"]:
            assert set(peers_of(driver, answer)) <= set(peers_of(driver, expected)) and len(answer) <= LIMIT * len(entry["hex"]) // 2
        else:
            assert len(answer) == len(expected) and peers_of(driver, answer) == peers_of(driver, expected), entry["id"]
        compared += 1
    assert compared == 18 and same >= 9
    counts = driver.ask("counts", 3)
    assert counts[:3] == [1, 3, 1] and counts[3:6] == [18, 18, 9]


def test_31_peers(driver):
    server(driver)
    for n in range(40):
        answers(driver, "9.0.0.%d:4000" % n, trusted("9.0.0.%d" % n, "announce=3282"))
    asked = trusted("127.0.0.2", "subscribe=true", number=0x1006)
    seen = set()
    for _ in range(200):
        driver.time(driver.now + 100)
        answer, _ = answers(driver, "127.0.0.2:3282", asked)
        assert len(answer) == len(packet("dns-56"))
        peers = peers_of(driver, answer)
        assert len(set(peers)) == 31
        seen.update(peers)
    assert len(seen) == 40, "each has its turn"


def test_without_a_token(driver):
    """Little is said, and nothing kept."""
    server(driver)
    for n in range(20):
        answers(driver, "9.0.0.%d:4000" % n, trusted("9.0.0.%d" % n, "announce=3282", "subscribe=true"))
    before = driver.ask("counts", 3)[:3]
    driver.until(3, 3000)
    for kind in (TXT, SRV, A, 28):
        for name in (NAME, OTHER, "", "x", "x" * 63, NAME.upper()):
            for added in ((), ("announce=1", "subscribe=true"), ("token=AAAA", "announce=1"), ("token=" + token_for("9.9.9.8"), "unannounce=3282"),
                          ("token=" + token_for("9.0.0.1"), "subscribe=true")):
                driver.time(driver.now + 100)
                asked = query(*added, name=name, kind=kind)
                answer, pushes = answers(driver, "9.9.9.9:9", asked)
                assert pushes == [] and len(driver.parse(answer)[2]) >= 1
                if name or kind != TXT:
                    assert len(answer) <= LIMIT * len(asked), (kind, name, added)
                else:
                    assert len(answer) <= 131
    assert driver.ask("counts", 3)[:3] == before
    assert len(peers_of(driver, answers(driver, "9.9.9.9:9", query())[0])) == 2
    assert len(peers_of(driver, answers(driver, "9.9.9.9:9", trusted("9.9.9.9"))[0])) == 20
    for kind in (SRV, A):
        assert len(driver.parse(answers(driver, "9.9.9.9:9", trusted("9.9.9.9", kind=kind))[0])[2]) == 11


def test_what_is_no_question(driver):
    server(driver)
    for message in (header(1, 0x0100), header(1, 0x8000), reply(1, packed("1.2.3.4:5")), pushed(5, "8.8.8.8:8"),
                    header(1, 0x0100, 2) + question("dat.local") * 2):
        assert answers(driver, "9.9.9.9:9", message) == (None, [])
    driver.ask("datagram", 3, "9.9.9.9:0", query())
    assert driver.take() == []
    other = header(7, 0x0100, 1) + question(NAME + ".dat.test")
    assert answers(driver, "9.9.9.9:9", other)[0] == header(7, 0x8000, 1) + other[12:]


def test_secrets_change(driver):
    """Every five minutes; a token is good for as long again."""
    server(driver)
    given = []
    for now in (0, 299999, 300000, 599999, 600000, 5000000):
        driver.time(now)
        given.append(driver.parse(answers(driver, "9.9.9.9:9", query(name=""))[0])[2][1].token)
    assert given[0] == given[1] == token_for("9.9.9.9") and given[2] == given[3] and len(set(given)) == 4
    for secret, valid in ((given[5], 1), (given[4], 0), (given[0], 0)):
        answers(driver, "9.9.9.9:9", query("token=" + secret, "announce=1", name="%040x" % len(secret)))
        assert driver.ask("counts", 3)[1] == 1
    server(driver, 4)
    driver.time(driver.now + 300000)
    assert answers(driver, "9.9.9.9:9", trusted("9.9.9.9", "announce=1"), 4)[0] and driver.ask("counts", 4)[1] == 1, "the one before"
    driver.time(driver.now + 300000)
    answers(driver, "9.9.9.9:9", trusted("9.9.9.9", "announce=2"), 4)
    assert driver.ask("counts", 4)[1] == 0


def test_entries_expire(driver):
    server(driver)
    answers(driver, "9.0.0.1:1", trusted("9.0.0.1", "announce=1", "subscribe=true"))
    driver.time(79000)
    driver.ask("step", 3)
    assert driver.ask("counts", 3)[:3] == [1, 1, 1]
    driver.time(100000)
    answers(driver, "9.0.0.2:1", trusted("9.0.0.2", "announce=1"))
    assert driver.ask("counts", 3)[:3] == [1, 2, 0]
    driver.time(179000)
    answers(driver, "9.0.0.1:1", trusted("9.0.0.1", "announce=1"))
    driver.time(279000)
    assert peers_of(driver, answers(driver, "9.0.0.3:1", trusted("9.0.0.3"))[0]) == ["9.0.0.1:1", "9.0.0.2:1"]
    driver.time(281000)
    assert peers_of(driver, answers(driver, "9.0.0.3:1", query("token=x"))[0]) == ["9.0.0.1:1"]
    driver.until(3, 400000)
    assert driver.ask("counts", 3)[:3] == [0, 0, 0]


def test_pushes_of_a_server(driver):
    """To up to 16, again after 0.5 and 1.5 s until acknowledged."""
    server(driver)
    for n in range(20):
        answers(driver, "9.0.0.%d:4000" % n, trusted("9.0.0.%d" % n, "subscribe=true"))
    _, pushes = answers(driver, "9.1.1.1:5", trusted("9.1.1.1", "announce=1000"))
    assert len(pushes) == len({e.to for e in pushes}) == 16
    assert [number_of(e.bytes) for e in pushes] == list(range(0x5001, 0x5011))
    assert pushes[0].bytes == pushed(0x5001, "9.1.1.1:1000")
    assert answers(driver, "9.1.1.1:5", trusted("9.1.1.1", "announce=1000"))[1] == [], "it is known"
    for event in pushes[:14]:
        driver.ask("datagram", 3, event.to, header(number_of(event.bytes), ACK))
    driver.ask("datagram", 3, pushes[0].to, header(number_of(pushes[14].bytes), ACK))  # another's
    again = driver.until(3, 59000)
    assert {e for _, e in again} == set(pushes[14:]) and len(again) == 4
    assert [500 <= now < 600 for now, _ in again[:2]] == [1500 <= now < 1600 for now, _ in again[2:]] == [True, True]


def test_who_leaves_is_told_no_more(driver):
    server(driver)
    answers(driver, "9.0.0.1:1", trusted("9.0.0.1", "subscribe=true", "announce=7"))
    answers(driver, "9.0.0.1:1", trusted("9.0.0.1", "unannounce=8"))
    assert driver.ask("counts", 3)[:3] == [1, 1, 0], "a message without it unsubscribes"
    answers(driver, "9.0.0.1:1", trusted("9.0.0.1", "unannounce=7", "subscribe=anything"))
    assert driver.ask("counts", 3)[:3] == [0, 0, 1]


def test_a_limit_for_each_address(driver):
    server(driver)
    given = sum(answers(driver, "9.9.9.9:%d" % (n + 1), query(name=""))[0] is not None for n in range(1000))
    assert 250 <= given <= 260
    assert answers(driver, "9.9.9.8:1", query(name=""))[0] is not None
    driver.time(10000)
    given = sum(answers(driver, "9.9.9.9:1", query(name=""))[0] is not None for n in range(1000))
    assert 250 <= given <= 260
    assert driver.ask("counts", 3)[6] == 2000 - 2 * given


def test_pushes_are_limited_for_who_causes_them(driver):
    server(driver)
    for n in range(16):
        answers(driver, "9.0.0.%d:4000" % n, trusted("9.0.0.%d" % n, "subscribe=true"))
    pushes = sum(len(answers(driver, "9.1.1.1:5", trusted("9.1.1.1", "announce=%d" % port))[1]) for port in range(1, 200))
    assert 128 <= pushes <= 132


def test_over_ipv6(driver):
    """It is answered, not kept."""
    server(driver)
    answers(driver, "9.0.0.1:1", trusted("9.0.0.1", "announce=1"))
    probe, _ = answers(driver, "[2001:db8::1]:9", query(name=""))
    item = driver.parse(probe)[2][1]
    assert item.host == "-" and len(item.token) == 44
    answer, pushes = answers(driver, "[2001:db8::1]:9", query("token=" + item.token, "announce=5", "subscribe=true"))
    assert peers_of(driver, answer) == ["9.0.0.1:1"] and pushes == []
    assert driver.ask("counts", 3)[:3] == [1, 1, 0]


def test_few_of_one_name_by_one_address(driver):
    """And the newest of each; who has most of a full name loses first."""
    server(driver)
    for port in range(1, 31):
        driver.time(driver.now + 100)
        answers(driver, "9.0.0.1:1", trusted("9.0.0.1", "announce=%d" % port))
    assert driver.ask("counts", 3)[1] == 16
    assert peers_of(driver, answers(driver, "9.0.0.2:1", trusted("9.0.0.2"))[0]) == sorted("9.0.0.1:%d" % p for p in range(15, 31))
    for n in range(10, 300):
        answers(driver, "9.0.0.%d:1" % n if n < 256 else "9.0.1.%d:1" % (n - 256), trusted("9.0.0.%d" % n if n < 256 else "9.0.1.%d" % (n - 256), "announce=1"))
    assert driver.ask("counts", 3)[:2] == [1, 128]
    driver.ask("flood", 3, 0, 0, 1, 1)
    answers(driver, "9.9.9.9:1", trusted("9.9.9.9", "announce=4242"))
    for n in range(100):
        driver.time(driver.now + 200)
        answers(driver, "9.0.2.1:1", trusted("9.0.2.1", "announce=%d" % (n + 1)))
    seen = set()
    for _ in range(60):
        driver.time(driver.now + 100)
        seen.update(peers_of(driver, answers(driver, "9.0.0.2:1", trusted("9.0.0.2"))[0]))
    assert "9.9.9.9:4242" in seen


def test_a_table_that_is_full(driver):
    """300,000 forged announcements: memory does not grow, and nobody else is pushed out."""
    server(driver)
    for n in range(50):
        answers(driver, "9.0.0.%d:1" % n, trusted("9.0.0.%d" % n, "announce=1", "subscribe=true", name="%040x" % n))
    memory = driver.ask("memory")
    assert memory < 56 << 20
    driver.ask("flood", 3, 300000, 0, 2500, 0)
    names, peers, subscriptions, *_, limited, malformed, evicted = driver.ask("counts", 3)
    assert (names, peers, subscriptions, malformed, limited) == (1 << 18, 1 << 18, 1 << 18, 0, 0)
    assert evicted == 2 * (300000 + 50 - (1 << 18)) and driver.ask("memory") == memory
    for n in range(50, 80):
        answers(driver, "9.0.0.%d:1" % n, trusted("9.0.0.%d" % n, "announce=1", name="%040x" % n))
    assert driver.ask("counts", 3)[:2] == [1 << 18, 1 << 18], "who comes now has room too"
    for n in range(80):
        assert peers_of(driver, answers(driver, "9.2.0.%d:1" % n, trusted("9.2.0.%d" % n, name="%040x" % n))[0]) == ["9.0.0.%d:1" % n]
    driver.time(driver.now + 181000)
    driver.ask("step", 3)
    assert driver.ask("counts", 3)[:3] == [0, 0, 0]
    driver.ask("flood", 3, 1000, 5000, 100, 10)
    assert driver.ask("counts", 3)[:2] == [10, 100]


def flooded(number, first, addresses):
    """(name, peer) of announcement `number` of a flood with one name each."""
    at = addresses + number
    who = first + at % addresses
    return "f1" + at.to_bytes(8, "little").hex() + "00" * 11, "11.%d.%d.%d:3282" % (who >> 16, who >> 8 & 255, who & 255)


def test_the_busiest_goes_first(driver):
    """Of a hundred addresses with 250 each, some of each; of thirty thousand with eight, none."""
    server(driver)
    for generation in range(2):
        driver.ask("flood", 3, 25000, 0, 100, 0)
        driver.time(driver.now + 10000)
        driver.ask("flood", 3, 240000, 100000, 30000, 0)
        assert driver.ask("counts", 3)[1] == 1 << 18 and driver.ask("counts", 3)[8] == 2 * (265000 - (1 << 18)) * (generation + 1)
        kept = [flooded(n, 100000, 30000) for n in range(0, 240000, 997)] + [flooded(n, 0, 100) for n in range(25000 - 100 * 127, 25000, 61)]
        for name, peer in kept:
            driver.time(driver.now + 20)
            assert peers_of(driver, answers(driver, "9.2.0.2:1", trusted("9.2.0.2", name=name))[0]) == [peer]
        gone = sum(answers(driver, "9.3.%d.2:1" % n, trusted("9.3.%d.2" % n, name=flooded(n, 0, 100)[0]))[0].count(b"peers=") for n in range(100))
        assert gone < 90, "the oldest of those with most"
        driver.time(driver.now + 181000)
        driver.ask("step", 3)
        assert driver.ask("counts", 3)[:3] == [0, 0, 0]
    for first in (1 << 18, 1 << 19):  # as many addresses as there is room for, and more than that one after the other
        driver.ask("flood", 3, 140000, first, 140000, 0)
        assert driver.ask("counts", 3)[:3] == [140000] * 3
        driver.time(driver.now + 181000)
        driver.ask("step", 3)


def test_without_memory(driver):
    assert [driver.ask("starved", kind) for kind in ("mdns", "client", "server")] == [1, 1, 9]


# ---- client and server ------------------------------------------------------------------------------

@pytest.mark.parametrize("loss", [0, 3])
def test_two_find_each_other_by_a_server(driver, loss):
    """Without addresses but the server's; also where each third datagram is lost."""
    count = [0]

    def lost():
        count[0] += 1
        return bool(loss) and count[0] * 7919 % 10 < loss

    wire = Wire(driver, {"9.0.0.9:5300": 3, "9.0.0.1:3282": 1, "9.0.0.2:3282": 2}, lost)
    server(driver)
    for number in (1, 2):
        driver.ask("new", number, "client")
        driver.ask("add", number, NAME, 3282)
        driver.ask("servers", number, "9.0.0.9:0")
    wire.run(30000 if loss else 0)
    assert {(e.engine, e.peer) for _, e in wire.found} >= {(1, "9.0.0.2:3282"), (2, "9.0.0.1:3282")}
    if loss:
        return
    wire.run(600000)
    assert {e.peer for _, e in wire.found if e.engine == 1} == {"9.0.0.2:3282"}
    assert driver.ask("counts", 3)[:3] == [1, 2, 2], "they announce themselves in time"
    driver.ask("stop", 2)
    wire.run(driver.now + 1000)
    assert driver.ask("idle", 2) == 1 and driver.ask("counts", 3)[:3] == [1, 1, 1]
