"""A link alone: the command on several hosts, in namespaces (hosts.py), that find each other by each way.

Nothing that is sent leaves them, which each test looks at in the end. Where a system has no namespaces, or not for this user, all is
left out.
"""

import json
import os
import time

import pytest

import hosts
import tools
from dat import sodium
from hosts import PATIENCE
from tools import DATSYNC, DONE, NO_PEER

pytestmark = [pytest.mark.posix, pytest.mark.drive, pytest.mark.synchronizer,
              pytest.mark.skipif(bool(tools.WRAPPER), reason="one processor's programs are enough here")]

ANYWHERE = "0.0.0.0"
MDNS, DNS, DHT, USUAL = 5353, 5300, 6881, 3282


class Place(hosts.Hosts):
    """Hosts, and datsync on them; what was begun there ends with the test."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.processes = []

    def start(self, host, *args, argv=None, **options):
        process = tools.Process(argv=argv or self.at(host, DATSYNC, *args), env=self.environment(host), **options)
        process.args = (host, *args)
        self.processes.append(process)
        return process

    def run(self, host, *args, code=DONE, patience=PATIENCE):
        return self.start(host, *args).finish(code, patience)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def create(self, host="A", files=("a.txt", "b.bin")):
        """A new drive of this host: its folder and key."""
        folder = self.path("drive-" + host)
        os.makedirs(folder)
        for name in files:
            self.write(folder, name)
        done = self.run(host, "create", folder)
        return folder, done.out[-1][len("dat://"):]

    def write(self, folder, name, size=100000):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(os.urandom(size))

    def share(self, host, folder, *options, listening=True):
        process = self.start(host, "share", *options, folder)
        if listening:
            process.line("listening on", PATIENCE)
        return process

    def clone(self, host, key, *options, code=DONE, folder=None, patience=PATIENCE):
        """Finds the drive: its folder and the events that were told."""
        folder = folder or self.path("copy-%d" % len(self.processes))
        done = self.run(host, "clone", "--json", *options, key, folder, code=code, patience=patience)
        return folder, [json.loads(line) for line in done.out], "\n".join(done.err)

    def server(self, host="T", port=DNS):
        process = self.start(host, "discover", "--listen", "%s:%d" % (self.address(host), port))
        process.line("listening on", PATIENCE)
        return process

    def node(self, host="T", port=DHT):
        """A node of the DHT: a datsync that shares something else."""
        folder = self.path("other")
        os.makedirs(folder)
        process = self.share(host, folder, "--no-mdns", "--no-server", "--listen", "%s:%d" % (ANYWHERE, port),
                             "--dht-bootstrap", "%s:%d" % (self.address(host), port))
        return process

    def name_server(self):
        """All names lead to T."""
        self.start("T", argv=self.role("T", "names", self.address("T"), self.folder))
        self.until(lambda: os.path.exists(self.path("ready")))

    def run_there(self, host, *argv):
        """A program that is not datsync."""
        self.start(host, argv=self.at(host, *argv)).finish(0, PATIENCE)

    def role_at(self, host, first, *words):
        self.start(host, argv=self.role(host, *words)).line(first, PATIENCE)

    def close(self):
        for process in self.processes:
            process.kill()
        super().close()


@pytest.fixture
def place(tmp_path):
    """place(hosts...) makes them."""
    made = []

    def make(*names, **options):
        try:
            made.append(Place(tmp_path, *names, **options))
        except hosts.NoHosts as error:
            pytest.skip(str(error))
        return made[-1]
    yield make
    for one in made:
        try:
            assert one.outside() == []
        finally:
            one.close()


def same(one, other):
    """Two folders hold the same files."""
    def held(folder):
        found = {}
        for name in os.listdir(folder):
            if name != ".dat":
                with open(os.path.join(folder, name), "rb") as file:
                    found[name] = file.read()
        return found
    return len(held(one)) > 0 and held(one) == held(other)


def sources(events):
    return {e["source"] for e in events if e["event"] == "peer"}


def name_of(key):
    return sodium.generichash(b"hypercore", bytes.fromhex(key)).hex()[:40] + ".dat.local"


ALONE = {"mdns": ["--lan"], "server": ["--no-mdns", "--no-dht", "--discovery-server", "10.79.0.1"],
         "dht": ["--no-mdns", "--no-server", "--dht-bootstrap", "10.79.0.1:%d" % DHT]}
PORTS = {"mdns": MDNS, "server": DNS, "dht": DHT}


@pytest.mark.parametrize("way", ALONE)
def test_by_one_way_alone(way, place):
    """The status names it, and no other way's port is spoken to."""
    here = place("A", "B")
    folder, key = here.create()
    if way == "server":
        here.server()
    if way == "dht":
        here.node()
    shared = here.share("A", folder, *ALONE[way])
    copy, events, _ = here.clone("B", key, *ALONE[way])
    assert same(folder, copy)
    assert sources(events) == {way}
    assert {e["way"] for e in events if e["event"] == "discovery"} <= {way}
    assert here.datagrams("B", PORTS[way])
    assert not any(here.datagrams("B", port) for name, port in PORTS.items() if name != way)
    shared.stop()


def test_with_no_option(place):
    """By the names where the deployed peers look, and by multicast: all are asked, and all answer."""
    here = place("A", "B")
    here.name_server()
    here.server()
    here.node()
    folder, key = here.create()
    shared = here.share("A", folder)
    here.until(lambda: any("answers" in line and "DHT" in line for line in list(shared.err)))
    copy, events, _ = here.clone("B", key)
    assert same(folder, copy)
    assert sources(events) <= {"mdns", "server", "dht"} and sources(events)
    assert all(here.datagrams("B", port) for port in PORTS.values())
    assert any("announced in the local network, at the public discovery servers, in the DHT" in line for line in shared.err)
    shared.stop()


def test_two_are_a_dht(place):
    """Who looks begins at who shares: there is no other node."""
    here = place("A", "B")
    folder, key = here.create()
    here.share("A", folder, "--no-mdns", "--no-server", "--dht-bootstrap", "%s:%d" % (here.address("T"), DHT))
    copy, events, _ = here.clone("B", key, "--no-mdns", "--no-server", "--dht-bootstrap", "%s:%d" % (here.address("A"), USUAL),
                                 "--timeout", "300")
    assert same(folder, copy) and sources(events) == {"dht"}


def test_what_the_dht_knew_is_kept(place):
    """The next run needs no bootstrap: it asks the nodes that it met."""
    here = place("A", "B", "C")
    here.name_server()
    node = here.node()
    alone = "--no-mdns", "--no-server", "--timeout", "300"
    here.share("C", here.create("C")[0], *alone[:2])
    folder, key = here.create()
    here.share("A", folder, *alone[:2])
    copy, events, _ = here.clone("B", key, *alone)
    assert same(folder, copy) and sources(events) == {"dht"}
    kept = here.path("home-B", ".dat", "dht.data")
    with open(kept, "rb") as file:
        first = file.read()
    assert len(first) > 30
    node.stop()
    copy, events, _ = here.clone("B", key, *alone)
    assert same(folder, copy) and sources(events) == {"dht"}
    with open(kept, "rb") as file:
        assert file.read()[:25] == first[:25]  # the same node as before
    with open(kept, "wb") as file:
        file.write(b"nonsense" * 2000)
    done = here.clone("B", key, "--peer", "%s:%d" % (here.address("A"), USUAL), *alone)
    assert same(folder, done[0])


def test_each_command_that_reads(place):
    """ls, cat and pull find what they need as clone does."""
    here = place("A", "B")
    folder, key = here.create()
    here.share("A", folder, "--lan", "--watch")
    listed = here.run("B", "ls", "--lan", key).out
    assert len(listed) == 3 and any("a.txt" in line for line in listed)
    with open(os.path.join(folder, "c.txt"), "w", encoding="utf-8") as file:
        file.write("words\n")
    copy, *_ = here.clone("B", key, "--lan")
    here.until(lambda: here.run("B", "pull", "--lan", copy) and os.path.exists(os.path.join(copy, "c.txt")))
    assert here.run("B", "cat", "--lan", key, "c.txt").out == ["words"]
    assert same(folder, copy)


def test_an_interface_that_comes_later(place):
    """A machine that joins a network is found there, and finds."""
    here = place("A", "B")
    folder, key = here.create()
    for host in "AB":
        here.run_there(host, "ip", "link", "set", "eth0", "down")
    here.share("A", folder, "--lan")
    client = here.start("B", "clone", "--lan", "--timeout", "300", key, here.path("copy"))
    time.sleep(1)
    assert client.running and here.datagrams() == []
    for host in "AB":
        here.run_there(host, "ip", "link", "set", "eth0", "up")
    client.finish(DONE, PATIENCE)
    assert same(folder, here.path("copy"))


def test_one_of_two_addresses_goes(place):
    """The interface is in the group as long as it has one."""
    here = place("A", "B")
    folder, key = here.create()
    here.run_there("A", "ip", "addr", "add", "10.79.0.77/24", "dev", "eth0")
    here.share("A", folder, "--lan")
    time.sleep(1)
    here.run_there("A", "ip", "addr", "del", "10.79.0.77/24", "dev", "eth0")
    time.sleep(7)  # interfaces are looked at each 5 s
    before = len(here.datagrams("A", MDNS))
    copy, *_ = here.clone("B", key, "--lan", "--timeout", "300")
    assert same(folder, copy) and len(here.datagrams("A", MDNS)) > before  # it was asked, and answered


def test_the_environment_leaves_the_ways_that_are_named(place):
    here = place("A", "B")
    here.name_server()
    folder, _ = here.create()
    off = dict(here.environment("A"), DATSYNC_NO_DISCOVERY="1")
    here.environment = lambda host: off
    here.server()
    here.share("A", folder, "--discovery-server", here.address("T"))
    here.until(lambda: here.datagrams("A", DNS))
    time.sleep(2)
    assert not here.datagrams("A", MDNS) and not here.datagrams("A", DHT)
    del here.environment


def test_the_names_lead_nowhere(place):
    """Nobody resolves them: multicast alone finds, and the others hold nobody up for long."""
    here = place("A", "B")
    folder, key = here.create()
    shared = here.share("A", folder)
    copy, events, _ = here.clone("B", key)
    assert same(folder, copy) and sources(events) == {"mdns"}
    shared.stop()


def test_ipv6_alone(place):
    """No host has an address of IPv4: the group of IPv6, and addresses of a link."""
    if not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("there is no IPv6 here")
    here = place("A", "B", family=6)
    folder, key = here.create()
    shared = here.share("A", folder, "--lan", "--listen", "[::]:3282")
    copy, events, _ = here.clone("B", key, "--lan")
    assert same(folder, copy) and sources(events) == {"mdns"}
    asked = {f["to"] for f in here.datagrams("B", MDNS)}
    assert asked == {hosts.MDNS[6]}
    shared.stop()


def test_two_processes_on_one_host(place):
    here = place("A", "B")
    folder, key = here.create()
    shared = here.share("A", folder, "--lan")
    copy, events, _ = here.clone("A", key, "--lan")
    assert same(folder, copy) and sources(events) == {"mdns"}
    shared.stop()


@pytest.mark.parametrize("of_two", ["shares", "clones"])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_two_interfaces(of_two, first, place):
    """One host is in two segments, and the other in the second of them: the question goes into both, and the announcement too,
    whoever is there first."""
    here = place("A:01" if of_two == "shares" else "A:1", "B:1" if of_two == "shares" else "B:01")
    folder, key = here.create()
    if first:
        here.share("A", folder, "--lan")
        copy, events, _ = here.clone("B", key, "--lan")
    else:
        copy = here.path("copy")
        client = here.start("B", "clone", "--json", "--lan", "--timeout", "300", key, copy)
        here.until(lambda: [f for f in here.datagrams(port=MDNS) if f["name"].startswith("vB")])
        time.sleep(1)
        here.share("A", folder, "--lan")
        client.finish(DONE, PATIENCE)
        events = [json.loads(line) for line in client.out]
    assert same(folder, copy) and sources(events) == {"mdns"}
    two = "A" if of_two == "shares" else "B"
    assert {f["name"] for f in here.datagrams(port=MDNS) if f["name"].startswith("v" + two)} == {"v%s0" % two, "v%s1" % two}


def test_one_of_three_leaves_and_returns(place):
    """The others go on, and get from each other what it brought; what it changed meanwhile they get when it is back."""
    here = place("A", "B", "C")
    folder, key = here.create()
    owner = here.share("A", folder, "--lan")
    copies = []
    for host in "BC":
        copy, *_ = here.clone(host, key, "--lan")
        copies.append(copy)
        if host == "B":
            owner.stop()  # C gets it from B
            syncing = [here.start("B", "sync", "--lan", copy)]
            syncing[0].line("listening on", PATIENCE)
    assert all(same(folder, copy) for copy in copies)
    syncing.append(here.start("C", "sync", "--lan", copies[1]))
    syncing[1].line("listening on", PATIENCE)
    here.write(folder, "new.bin")
    owner = here.share("A", folder, "--lan")
    here.until(lambda: all(os.path.exists(os.path.join(copy, "new.bin")) and same(folder, copy) for copy in copies))
    for process in (owner, *syncing):
        process.stop()


def test_a_server_dies_and_comes_back(place):
    """Who was announced there is announced again soon after it is back, though it has forgotten all."""
    here = place("A", "B")
    server = here.server()
    folder, key = here.create()
    lone = here.share("A", folder, *ALONE["server"])
    here.clone("B", key, *ALONE["server"])
    lone.stop()
    server.kill()
    here.share("A", folder, *ALONE["server"])
    here.until(lambda: len(here.datagrams("A", DNS)) > 8)
    client = here.start("B", "clone", "--timeout", "300", *ALONE["server"], key, here.path("copy"))
    before = len(here.datagrams("B", DNS))
    here.until(lambda: len(here.datagrams("B", DNS)) > before + 1)
    assert client.running
    here.server()
    client.finish(DONE, 2 * PATIENCE)
    assert same(folder, here.path("copy"))


def test_a_stale_copy_is_found_first(place):
    """Multicast finds a copy that is behind at once; a server tells of the owner a second later. What comes is the owner's."""
    here = place("A", "B", "C")
    folder, key = here.create()
    shared = here.share("A", folder, "--no-discovery")
    copy, *_ = here.clone("C", key, "--no-discovery", "--peer", "%s:%d" % (here.address("A"), USUAL))
    shared.stop()
    here.write(folder, "new.bin")
    here.share("C", copy, "--lan")
    here.share("A", folder, "--no-discovery")
    here.role_at("T", "serving", "late", name_of(key), here.address("T"), here.address("A"), USUAL, 1000)
    found, events, _ = here.clone("B", key, "--no-dht", "--discovery-server", here.address("T"))
    assert sources(events) == {"mdns", "server"}
    assert os.path.exists(os.path.join(found, "new.bin")) and same(folder, found)


def test_nobody_is_found(place):
    """It ends when the time is over, with what each way answered."""
    here = place("A", "B")
    here.server()
    here.node()
    key = "12" * 32
    ways = ["--discovery-server", here.address("T"), "--discovery-server", here.address("A"), "--dht-bootstrap",
            "%s:%d" % (here.address("T"), DHT)]
    began = time.monotonic()
    _, events, err = here.clone("B", key, *ways, "--timeout", "4", code=NO_PEER)
    assert 4 <= time.monotonic() - began
    lines = err.splitlines()
    for way in ("multicast DNS: ", "discovery server %s: 0 peers" % here.address("T"), "discovery server %s: " % here.address("A"),
                "the DHT: 0 peers"):
        assert any(way in line for line in lines), (way, err)
    assert not any("discovery server %s: 0 peers" % here.address("A") in line for line in lines)
    assert sources(events) == set()


@pytest.mark.parametrize("how", ["option", "environment"])
def test_nothing_is_sent_when_nobody_is_looked_for(how, place):
    here = place("A", "B")
    here.name_server()
    folder, key = here.create()
    options = ["--no-discovery"] if how == "option" else []
    silent = here.environment("A") if how == "option" else dict(here.environment("A"), DATSYNC_NO_DISCOVERY="1")
    here.environment = lambda host: silent
    shared = here.share("A", folder, *options)
    copy, *_ = here.clone("B", key, *options, "--peer", "%s:%d" % (here.address("A"), USUAL))
    assert same(folder, copy)
    shared.stop()
    del here.environment
    silent = here.datagrams()
    here.share("A", folder, "--lan")  # what is sent is seen
    here.until(lambda: here.datagrams("A", MDNS))
    assert silent == [] and {f["from"] for f in here.datagrams()} == {here.address("A")}


def test_the_usual_port_is_taken(place):
    """Another one is told, announced and reached."""
    here = place("A", "B")
    here.server()
    here.role_at("A", "holding", "hold", USUAL)
    folder, key = here.create()
    shared = here.share("A", folder, "--discovery-server", here.address("T"), "--no-dht", listening=False)
    port = int(shared.line(r"^listening on .*:(\d+)$", PATIENCE).group(1))
    here.until(lambda: any("port 3282 is taken" in line for line in list(shared.err)))
    assert port != USUAL
    for ways in (["--lan"], ALONE["server"]):
        copy, events, _ = here.clone("B", key, *ways)
        assert same(folder, copy)
        assert {e["address"] for e in events if e["event"] == "peer"} == {"%s:%d" % (here.address("A"), port)}


def test_who_leaves_says_so_to_the_server(place):
    here = place("A", "B")
    here.server()
    folder, key = here.create()
    shared = here.share("A", folder, *ALONE["server"])
    here.clone("B", key, *ALONE["server"])
    shared.stop()
    here.until(lambda: any(b"unannounce=3282" in bytes.fromhex(f["data"]) for f in here.datagrams("A", DNS)))
    *_, err = here.clone("B", key, *ALONE["server"], "--timeout", "5", code=NO_PEER)
    assert "discovery server %s: 0 peers told" % here.address("T") in err


def test_ten_thousand_false_peers_a_second(place):
    """A neighbour and a server lie without end; multicast finds the one that is there, and it is dialled."""
    here = place("A", "B", "C")
    folder, key = here.create()
    here.role_at("C", "flooding", "flood", name_of(key), here.address("C"))
    here.share("A", folder, "--lan")
    copy, events, _ = here.clone("B", key, "--no-dht", "--discovery-server", here.address("C"), "--timeout", "120")
    assert same(folder, copy)
    assert {e["address"] for e in events if e["event"] == "peer"} == {"%s:%d" % (here.address("A"), USUAL)}
    false = sum(30 for f in here.datagrams("C") if b"peers=" in bytes.fromhex(f["data"]))
    assert false > 10000
