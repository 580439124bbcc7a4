"""`datsync doctor`: what it finds in networks that are as they should be, and in others.

Each network is one of namespaces: this machine's own is not touched, and nothing leaves it. Where a system has no namespaces, or not
for this user, these are left out.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tools
from tools import DONE, FAILED, HERE, INTERRUPTED, NO_PEER, USAGE

pytestmark = [pytest.mark.synchronizer, pytest.mark.posix]

PATIENCE = 60  # seconds: who waits so long waits in vain
LINK = "dat://" + 32 * "ab"

# A has v0 with 192.0.2.1, B has v1 with 192.0.2.2 to 4; the two are a cable. Names are asked at 127.0.0.1 of each.
NETWORK = """
set -e
ip link set lo up
unshare -n sh -c 'ip link set lo up; echo > "$1/up"; exec sleep 1000' sh "$1" &
b=$!
while test ! -e "$1/up"; do sleep 0.05; done
ip link add v0 type veth peer name v1 netns $b
ip addr add 192.0.2.1/24 dev v0
ip addr add fe80::a/64 dev v0 nodad
ip link set v0 up
nsenter -t $b -n sh -ec '
for n in 2 3 4; do ip addr add 192.0.2.$n/24 dev v1; done
ip addr add fe80::b/64 dev v1 nodad
ip link set v1 up
'
mount --bind "$1/resolv.conf" /etc/resolv.conf
test ! -e /etc/nsswitch.conf || mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
echo $b > "$1/b.new"
mv "$1/b.new" "$1/b"
exec sleep 1000
"""

# Answers on UDP: `HOST:PORT=SEEN:PORT[=PEER:PORT]` tells who asks, by DNS or BEP 5, that it is seen there, and of a peer; `=junk` is
# another server; `=silent` none.
ANSWERING = """
import base64, selectors, socket, struct, sys

def packed(at):
    host, port = at.split(":")
    return socket.inet_aton(host) + struct.pack(">H", int(port))

def reply(query, seen, peer):
    if seen == "junk":
        return query[:2] + struct.pack(">HHHHH", 0x8180, 0, 0, 0, 0)
    if query[:1] == b"d":
        at = query.index(b"1:t2:") + 5
        return b"d2:ip6:" + packed(seen) + b"1:rd2:id20:" + bytes(20) + b"e1:t2:" + query[at:at + 2] + b"1:y1:re"
    end = query.index(b"\\0", 12) + 5
    texts = [b"token=abc", b"host=" + seen.split(":")[0].encode(), b"port=" + seen.split(":")[1].encode()]
    if peer:
        texts.append(b"peers=" + base64.b64encode(packed(peer)))
    data = b"".join(bytes([len(text)]) + text for text in texts)
    return (query[:2] + struct.pack(">HHHHH", 0x8000, 1, 1, 0, 0) + query[12:end] + query[12:end - 4] +
            struct.pack(">HHIH", 16, 1, 0, len(data)) + data)

answers = selectors.DefaultSelector()
for word in sys.argv[1:]:
    at, seen, peer = (word.split("=") + [None])[:3]
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((at.split(":")[0], int(at.split(":")[1])))
    answers.register(s, selectors.EVENT_READ, (seen, peer))
print("ready", flush=True)
while True:
    for key, _ in answers.select():
        query, client = key.fileobj.recvfrom(2000)
        if key.data[0] != "silent":
            key.fileobj.sendto(reply(query, *key.data), client)
"""

HOLDING = """
import socket, sys
six = sys.argv[1] == "udp6"
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM)
if six:
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
s.bind(("::" if six else "0.0.0.0", int(sys.argv[2])))
if sys.argv[1] == "tcp":
    s.listen(1)
print("ready", flush=True)
sys.stdin.read()
"""


def environment():
    return {"DATSYNC_NO_DISCOVERY": ""}


class Net:
    """Programs in the namespaces."""

    def __init__(self, process, folder, stack):
        self.folder, self.stack = folder, stack
        self.pids = {"a": process.pid, "b": int((folder / "b").read_text())}

    def before(self, where):
        user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        # The mounts are A's, in both.
        return ["nsenter", *user, "-m", "-t", str(self.pids["a"]), "nsenter", "--net=/proc/%d/ns/net" % self.pids[where]]

    def start(self, where, *argv):
        return self.stack.enter_context(tools.Process(*argv, argv=[*self.before(where), *argv], stdin=subprocess.PIPE, env=environment()))

    def ip(self, where, *words):
        subprocess.run([*self.before(where), "ip", *words], check=True, timeout=PATIENCE)

    def answer(self, where, *words):
        self.start(where, sys.executable, "-c", ANSWERING, *words).line("^ready$")

    def hold(self, where, kind, port):
        self.start(where, sys.executable, "-c", HOLDING, kind, str(port)).line("^ready$")

    def name_server(self):
        self.start("a", sys.executable, os.path.join(HERE, "names.py"), str(self.folder))
        until((self.folder / "ready").exists)

    def discover(self, where, *at):
        for one in at:
            self.start(where, *tools.command("discover", "--listen", one)).line("^listening on ")

    def doctor(self, *words, where="a", code=None, env=None):
        """(exit code, {event: its objects}); in time, and what it says in words and by --json agrees."""
        argv = [*self.before(where), *tools.command("doctor", *words)]
        found = []
        for more in ([], ["--json"]):
            began = time.monotonic()
            done = subprocess.run(argv + more, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE,
                                  env=tools.environment({**environment(), **(env or {})}), check=False)
            result = tools.Result(argv, done.returncode, done.stdout, done.stderr.decode())
            tools.assert_sane(result.code, result.err, argv)
            assert code is None or result.code == code, result
            result.took = time.monotonic() - began
            found.append(result)
        words, objects = found
        assert words.code == objects.code and words.took < 15 * tools.PATIENCE + 10
        events = {}
        for event in objects.events:
            events.setdefault(event.pop("event"), []).append(event)
            if "advice" in event:
                assert event["advice"] in words.out, words
        return events, words


def until(what):
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.02)


@pytest.fixture
def net(tmp_path):
    if not sys.platform.startswith("linux") or None in map(shutil.which, ("unshare", "nsenter", "ip")):
        pytest.skip("there are no namespaces, or no ip")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    alone = ["unshare", "-n", "-m"] + ([] if os.geteuid() == 0 else ["-r"])
    with open(str(tmp_path / "log"), "wb") as log:
        process = subprocess.Popen([*alone, "sh", "-c", NETWORK, "sh", str(tmp_path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)
    try:
        until(lambda: (tmp_path / "b").exists() or process.poll() is not None)
        if process.poll() is not None:
            pytest.skip("no namespaces with networks for this user: " + (tmp_path / "log").read_text().strip())
        with contextlib.ExitStack() as stack:
            yield Net(process, tmp_path, stack)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def by(events, member):
    return {event[member]: event for event in events}


# ---- what is wrong usage -----------------------------------------------------------------------------

@pytest.mark.parametrize("words", [
    ["--wait", LINK], ["--wait", "--no-listen"], ["--wait", "--no-discovery"], [LINK, "--no-discovery"], ["--lan", "--no-mdns"],
    [LINK, LINK], ["no link"], ["--discovery-server", "h", "--no-server"], ["--dht-bootstrap", "h"], ["--peer", "h:1"],
], ids=" ".join)
def test_wrong_usage(words):
    assert tools.one_line(tools.run("doctor", *words, code=USAGE, env=environment()))


def test_the_environment_says_so():
    assert "DATSYNC_NO_DISCOVERY" in tools.one_line(tools.run("doctor", LINK, code=USAGE, env={"DATSYNC_NO_DISCOVERY": "1"}))


# ---- the network at hand -----------------------------------------------------------------------------

def test_no_network(net):
    net.ip("a", "link", "set", "v0", "down")
    events, words = net.doctor(code=FAILED)
    assert set(events) == {"listen", "interface", "nat", "checked", "error"}
    assert [(one["protocol"], one["ok"]) for one in events["listen"]] == [("TCP", True), ("UDP", True)]
    assert {one["name"] for one in events["interface"]} == {"lo"} and all(one["loopback"] for one in events["interface"])
    assert events["checked"] == [{"ok": False, "listen": True, "mdns": False, "server": False, "dht": False}]
    assert "there is no network here" in events["error"][0]["message"] and "there is no network here" in words.out


def test_a_local_network(net):
    """Multicast comes back; the usual servers have names that nobody here knows, and that is no fault of the local network."""
    net.name_server()
    events, words = net.doctor(code=DONE)
    assert {(one["interface"], one["family"], one["ok"]) for one in events["multicast"]} == {("v0", 4, True), ("v0", 6, True)}
    assert len(events["multicast"]) == 2
    v0 = next(one for one in events["interface"] if one["address"] == "192.0.2.1")
    assert v0 == {"name": "v0", "address": "192.0.2.1", "prefix": 24, "loopback": False, "multicast": True}
    assert "fe80::a" in {one["address"] for one in events["interface"]}
    assert len(events["server"]) == 2 and len(events["bootstrap"]) == 6
    for one in events["server"] + events["bootstrap"]:
        assert (one["ok"], one["code"]) == (False, -87) and "address" not in one and one["advice"]
    assert events["nat"] == [{"kind": "unknown"}]
    assert events["checked"] == [{"ok": True, "listen": True, "mdns": True, "server": False, "dht": False}]
    assert "peers can be met in the local network" in words.out


def test_only_the_local_network(net):
    events, _ = net.doctor("--lan", code=DONE)
    assert set(events) == {"listen", "interface", "multicast", "checked"} and len(events["listen"]) == 1


def test_nothing_but_peers_by_name(net):
    events, words = net.doctor("--no-discovery", code=DONE)
    assert set(events) == {"listen", "interface", "checked"} and "--peer" in words.out
    assert net.doctor(code=DONE, env={"DATSYNC_NO_DISCOVERY": "1"})[0] == events


def test_who_does_not_share_5353(net):
    net.hold("a", "udp", 5353)
    events, words = net.doctor("--lan", code=DONE)
    four, six = (by(events["multicast"], "family")[family] for family in (4, 6))
    assert (four["ok"], four["code"], six["ok"]) == (False, -84, True) and "5353" in four["advice"] and "share" in four["advice"]
    assert "IPv4: does not come back" in words.out and "IPv6: comes back" in words.out
    net.hold("a", "udp6", 5353)
    events, _ = net.doctor("--lan", code=FAILED)
    assert [(one["ok"], one["code"]) for one in events["multicast"]] == [(False, -84), (False, -84)]


def test_multicast_that_has_no_way_out(net):
    net.ip("a", "link", "set", "v0", "multicast", "off")
    events, words = net.doctor("--lan", code=FAILED)
    assert "multicast" not in events and "no multicast" in words.out
    assert not next(one for one in events["interface"] if one["name"] == "v0")["multicast"]


def test_a_group_that_cannot_be_joined(net):
    done = subprocess.run([*net.before("a"), "sh", "-c", "echo 0 > /proc/sys/net/ipv4/igmp_max_memberships"], stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        pytest.skip("this user may not forbid groups")
    events, words = net.doctor("--lan", code=DONE)
    found = by(events["multicast"], "family")
    assert (found[4]["ok"], found[6]["ok"]) == (False, True) and found[4]["code"] < 0
    assert "5353" in found[4]["advice"] and "--peer" in found[4]["advice"] and "IPv4: does not come back" in words.out


def test_a_port_that_is_taken(net):
    net.hold("a", "tcp", 3282)
    events, _ = net.doctor("--lan", code=DONE)
    tcp, = events["listen"]
    assert (tcp["address"], tcp["ok"], tcp["code"]) == (":3282", False, -84) and "--listen" in tcp["advice"]
    net.hold("a", "udp", 4000)
    tcp, udp = net.doctor("--listen", "4000", "--no-dht", "--discovery-server", "192.0.2.2", code=DONE)[0]["listen"]
    assert (tcp["address"], tcp["ok"]) == (":4000", True) and (udp["ok"], udp["code"]) == (False, -84)
    net.hold("a", "tcp", 4001)
    events, words = net.doctor("--listen", "4001", "--lan", code=FAILED)
    assert not events["checked"][0]["listen"] and events["checked"][0]["mdns"] and "can't listen" in words.err
    events, _ = net.doctor("--listen", "198.51.100.7:4002", "--lan", code=FAILED)
    assert events["listen"][0]["code"] == -87 and events["listen"][0]["advice"]
    assert "listen" not in net.doctor("--no-listen", "--lan", code=DONE)[0]


# ---- servers and bootstraps --------------------------------------------------------------------------

def test_two_servers_and_no_nat(net):
    net.discover("b", "192.0.2.2:5300", "192.0.2.3:7000")
    events, words = net.doctor("--no-mdns", "--no-dht", "--discovery-server", "192.0.2.2", "--discovery-server", "192.0.2.3:7000", code=DONE)
    found = by(events["server"], "address")
    assert set(found) == {"192.0.2.2:5300", "192.0.2.2:53", "192.0.2.3:7000"}
    for at in ("192.0.2.2:5300", "192.0.2.3:7000"):
        assert found[at]["ok"] and found[at]["seen_as"] == "192.0.2.1:3282" and found[at]["ms"] >= 0 and "advice" not in found[at]
    assert not found["192.0.2.2:53"]["ok"] and "advice" not in found["192.0.2.2:53"]
    assert events["nat"][0]["kind"] == "none" and "TCP port 3282" in events["nat"][0]["advice"]
    assert events["checked"] == [{"ok": True, "listen": True, "mdns": False, "server": True, "dht": False}]
    assert "answers in" in words.out and "no NAT" in words.out


def test_the_port_that_was_chosen(net):
    net.discover("b", "192.0.2.2:5300")
    nat, = net.doctor("--no-mdns", "--no-dht", "--discovery-server", "192.0.2.2:5300", "--listen", "4100", code=DONE)[0]["nat"]
    assert nat["seen_as"] == "192.0.2.1:4100" and "4100" in nat["advice"]
    nat, = net.doctor("--no-mdns", "--no-dht", "--discovery-server", "192.0.2.2:5300", "--no-listen", code=DONE)[0]["nat"]
    assert nat["kind"] == "none" and "advice" not in nat


@pytest.mark.parametrize("seen, kind", [
    (("203.0.113.9:4000", "203.0.113.9:4000"), "keeps"), (("203.0.113.9:4000", "203.0.113.9:4001"), "changes"),
    (("203.0.113.9:4000", "203.0.113.8:4000"), "changes"), (("203.0.113.9:4000", "silent"), "unknown"),
    (("203.0.113.9:4000", "10.0.0.1:77"), "unknown"), (("10.0.0.1:77", "10.0.0.1:77"), "keeps"), (("silent", "junk"), "unknown"),
])
def test_nats(net, seen, kind):
    """As two servers tell; what one in a private network sees does not count beside what the public one sees."""
    net.answer("b", "192.0.2.2:5300=" + seen[0], "192.0.2.3:5300=" + seen[1])
    events, words = net.doctor("--no-mdns", "--no-dht", "--discovery-server", "192.0.2.2:5300", "--discovery-server", "192.0.2.3:5300",
                               code=FAILED if "junk" in seen else DONE)
    nat, = events["nat"]
    assert nat["kind"] == kind and ("seen_as" in nat) == ("junk" not in seen) == ("advice" in nat)
    if kind == "changes":
        assert "others can't connect" in nat["advice"]
    if "junk" in seen:
        assert "something else" in words.out
    for n, one in zip((2, 3), seen):
        server = by(events["server"], "host")["192.0.2.%d:5300" % n]
        assert server["ok"] == (one[0] in "0123456789") and server.get("seen_as") == (one if server["ok"] else None)
        assert server["ok"] or (server["code"] == {"silent": -62, "junk": -22}[one] and "datsync discover" in server["advice"])


def test_a_server_at_53_alone(net):
    net.answer("b", "192.0.2.2:53=203.0.113.9:4000")
    events, _ = net.doctor("--no-mdns", "--no-dht", "--discovery-server", "192.0.2.2", code=DONE)
    found = by(events["server"], "address")
    assert found["192.0.2.2:53"]["ok"] and not found["192.0.2.2:5300"]["ok"]
    assert "port 53" in found["192.0.2.2:5300"]["advice"] and events["checked"][0]["server"]


def test_bootstraps(net):
    """Nodes count as witnesses of a NAT, too."""
    net.answer("b", "192.0.2.2:6881=203.0.113.9:4000", "192.0.2.3:6881=203.0.113.9:4001", "192.0.2.4:6881=silent")
    hosts = ["192.0.2.%d:6881" % n for n in (2, 3, 4)]
    events, _ = net.doctor("--no-mdns", "--no-server", *(word for host in hosts for word in ("--dht-bootstrap", host)), code=DONE)
    found = by(events["bootstrap"], "host")
    assert [found[host]["ok"] for host in hosts] == [True, True, False] and found[hosts[0]]["seen_as"] == "203.0.113.9:4000"
    assert found[hosts[2]]["code"] == -62 and found[hosts[2]]["advice"]
    assert events["nat"][0]["kind"] == "changes" and events["checked"][0]["dht"]


def test_names(net):
    """One that is, though its address is not here; one that is none; and one about which nobody says a word is given up."""
    net.name_server()
    events, _ = net.doctor("--no-mdns", "--no-dht", *(word for name in ("three", "none", "slow7") for word in ("--discovery-server", name + ".test")),
                           code=FAILED)
    found = by(events["server"], "host")
    assert [found[name + ".test"]["code"] for name in ("none", "slow7")] == [-87, -62]
    assert [one["address"].split(":")[1] for one in events["server"] if one["host"] == "three.test"] == ["5300", "53"]
    assert "no way of finding them answers" in events["error"][0]["message"]


def test_no_name_server(net):
    events, _ = net.doctor(code=DONE)
    assert {one["code"] for one in events["server"] + events["bootstrap"]} == {-88} and events["checked"][0]["mdns"]


def test_interrupted(net):
    net.name_server()
    with net.start("a", *tools.command("doctor", "--json", "--no-mdns", "--no-dht", "--discovery-server", "slow1.test")) as process:
        process.event("interface")
        process.stop(INTERRUPTED)


# ---- another machine ---------------------------------------------------------------------------------

class Waiting:
    """`doctor --wait` in A, findable by `options`, beside a server and a node of the DHT in B."""

    def __init__(self, net, *options):
        net.discover("b", "192.0.2.2:5300")
        nowhere = ["--no-mdns", "--no-server", "--dht-bootstrap", "192.0.2.99:9"]
        net.start("b", *tools.command("doctor", "--wait", "--listen", "6881", *nowhere)).line("^listening on ")
        self.process = net.start("a", *tools.command("doctor", "--wait", *options))
        self.typed = self.process.line("^on the other machine: datsync doctor(.*) (dat://[0-9a-f]{64})$")
        self.link = self.typed.group(2)
        self.process.line("^listening on ")


WAYS = {"mdns": ["--lan"], "server": ["--no-mdns", "--no-dht", "--discovery-server", "192.0.2.2:5300"],
        "dht": ["--no-mdns", "--no-server", "--dht-bootstrap", "192.0.2.2:6881"]}


def visit(net, *words):
    """Until it fetches: an announcement needs its time."""
    end = time.monotonic() + PATIENCE
    while True:
        events, said = net.doctor(*words, where="b")
        if said.code == DONE and all(one["ok"] for one in events["tried"]):
            return events, said
        assert time.monotonic() < end, said


@pytest.mark.parametrize("way", WAYS)
def test_one_waits_and_one_comes(net, way):
    waiting = Waiting(net, *WAYS[way])
    assert waiting.typed.group(1).split() == WAYS[way]
    events, words = visit(net, *WAYS[way], waiting.link)
    tried, = events["tried"]
    assert tried["way"] == way and tried["address"] == "192.0.2.1:3282" and tried["peers"] >= 1 and tried["ms"] >= 0
    assert re.search("found 192.0.2.1:3282, and fetched a block in [0-9]+ ms", words.out)
    until(lambda: [line for line in waiting.process.err if line.startswith("192.0.2.2:") and "connected" in line])
    waiting.process.stop(DONE)


def test_all_ways_at_once(net):
    options = ["--discovery-server", "192.0.2.2:5300", "--dht-bootstrap", "192.0.2.2:6881"]
    waiting = Waiting(net, *options)
    events, _ = visit(net, *options, waiting.link)
    assert [(one["way"], one["ok"]) for one in events["tried"]] == [("mdns", True), ("server", True), ("dht", True)]
    waiting.process.stop(DONE)


def test_waiting_by_json(net):
    with net.start("a", *tools.command("doctor", "--wait", "--lan", "--json")) as process:
        key = process.event("feed")["key"]
        assert process.event("listening")["address"].endswith(":3282")
        events, _ = visit(net, "--lan", key)
        assert set(events) <= {"tried", "discovery"}
        assert process.event("peer")["source"] == "incoming"
        process.stop(DONE)


def test_a_real_feed(net, tmp_path):
    made = tools.make_folder(str(tmp_path / "feed"), 3)
    net.start("a", *tools.command("feed", "share", "--lan", str(tmp_path / "feed"))).line("^listening on ")
    visit(net, "--lan", made.key.hex())


def test_nobody(net):
    net.discover("b", "192.0.2.2:5300")
    events, words = net.doctor("--no-dht", "--discovery-server", "192.0.2.2:5300", LINK, code=NO_PEER)
    assert [(one["way"], one["ok"], one["peers"], one["code"]) for one in events["tried"]] == [("mdns", False, 0, -40), ("server", False, 0, -40)]
    assert all(one["advice"] for one in events["tried"]) and "nobody was found" in words.out and "nobody was found" in words.err


@pytest.mark.parametrize("peer, code", [("192.0.2.2:9", -85), ("192.0.2.77:3282", -88)], ids=["refused", "unreachable"])
def test_found_and_not_reached(net, peer, code):
    net.answer("b", "192.0.2.2:5300=192.0.2.1:3282=" + peer)
    events, words = net.doctor("--no-mdns", "--no-dht", "--discovery-server", "192.0.2.2:5300", LINK, code=FAILED)
    tried, = events["tried"]
    assert by(events["unreachable"], "address")[peer]["code"] == code and peer + " (found by a discovery server)" in words.err
    assert (tried["ok"], tried["code"], tried["address"]) == (False, code, peer) and tried["peers"] >= 1
    assert ("router" if code == -85 else "firewall") in tried["advice"] and "not reached" in words.out


def test_another_feed_is_there(net, tmp_path):
    tools.make_folder(str(tmp_path / "feed"), 3)
    net.start("b", *tools.command("feed", "share", "--no-discovery", str(tmp_path / "feed"))).line("^listening on ")
    net.answer("b", "192.0.2.2:5300=192.0.2.1:3282=192.0.2.3:3282")
    events, _ = net.doctor("--no-mdns", "--no-dht", "--discovery-server", "192.0.2.2:5300", LINK, code=FAILED)
    assert not events["tried"][0]["ok"] and events["tried"][0]["address"] == "192.0.2.3:3282"
