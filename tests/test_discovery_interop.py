"""datsync and what finds peers for the deployed Dat, on hosts in namespaces (hosts.py): dns-discovery 6.2.3, bittorrent-dht 7.10,
discovery-swarm 5.1.4 with hyperdrive, and dat 13 itself with the names where it looks by itself.

Needs node and the packages of js/discovery/package.json (make interop).
"""

import os
import subprocess

import pytest

import tools
from hosts import PATIENCE
from javascript import NODE, REAL_DAT, REASON
from test_discovery_hosts import ALONE, DHT, DNS, USUAL, name_of, place, same, sources  # noqa: F401 (a fixture)
from tools import DONE

pytestmark = [pytest.mark.interop, pytest.mark.skipif(NODE is None, reason=REASON),
              pytest.mark.skipif(REAL_DAT is None, reason="the packages of js/discovery are not installed: make interop")]

FINDING = os.path.join(tools.SUITE, "js", "finding.js")
NAME = "6e9f1d0a5bb4e0a1c2d3e4f5061728394a5b6c7d"
WHOSE = pytest.mark.parametrize("whose", ["theirs", "ours"])
T_NODE = "10.79.0.1:%d" % DHT


def js(here, host, *words):
    """finding.js on a host, once it listens."""
    process = here.start(host, *words, argv=here.at(host, "env", "REAL=" + REAL_DAT, NODE, FINDING, *words), stdin=subprocess.PIPE)
    if words[:2] == ("swarm", "share"):
        process.key = process.line(r"^KEY ([0-9a-f]{64})$", PATIENCE).group(1)
    process.line("^listening$", PATIENCE)
    return process


def ask(process, *words):
    """What it was told while it did that, and how many answered."""
    process.write(" ".join(map(str, words)) + "\n")
    return process.line(r"^done %s ?(.*)$" % words[0], PATIENCE).group(1)


def dat(here, host, folder, *words):
    """dat, in this folder (who enters a namespace stands in its root)."""
    program = os.path.join(REAL_DAT, "node_modules", "dat", "bin", "cli.js")
    there = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", folder]
    return here.start(host, *words, argv=here.at(host, *there, NODE, program, *words), stdin=subprocess.PIPE)


def server(here, whose, port=DNS):
    return here.server(port=port) if whose == "ours" else js(here, "T", "dns", port)


def node(here, whose):
    return here.node() if whose == "ours" else js(here, "T", "dht", DHT)


WAYS = {"mdns": ["--multicast"], "server": ["--server", "10.79.0.1"], "dht": ["--bootstrap", T_NODE]}
CASES = [("mdns", "nobody's"), ("server", "theirs"), ("server", "ours"), ("dht", "theirs"), ("dht", "ours")]


def middle(here, way, whose):
    """Who stands between the two."""
    if way == "server":
        return server(here, whose)
    return node(here, whose) if way == "dht" else None


# ---- pieces ----------------------------------------------------------------------------------------------

def test_their_server_and_our_command(place):
    """Announced, found, and no longer held when who shared has left."""
    here = place("A", "B")
    there = server(here, "theirs")
    folder, key = here.create()
    name = name_of(key)[:40]
    shared = here.share("A", folder, *ALONE["server"])
    there.line("^peer %s 10.79.0.2:3282$" % name, PATIENCE)
    copy, events, _ = here.clone("B", key, *ALONE["server"])
    assert same(folder, copy) and sources(events) == {"server"}
    there.write("held %s\n" % name)
    assert "10.79.0.2:3282" in there.line("^held(.*)", PATIENCE).group(1)
    shared.stop()

    def is_gone():
        there.write("held %s\n" % name)
        return "10.79.0.2" not in there.line("^held(.*)", PATIENCE).group(1)
    here.until(is_gone)


def test_our_server_and_their_clients(place):
    """Announce, look up, be pushed to, and leave."""
    here = place("A", "B", "C")
    here.server()
    first, second = (js(here, host, "dns", USUAL, *WAYS["server"]) for host in "AB")
    ask(first, "announce", NAME, 3282)
    second.write("lookup %s\n" % NAME)
    second.line("^peer %s 10.79.0.2:3282$" % NAME, PATIENCE)
    second.line("^done lookup", PATIENCE)
    ask(first, "announce", NAME, 4444)  # it is pushed to who has looked up
    second.line("^peer %s 10.79.0.2:4444$" % NAME, PATIENCE)
    ask(first, "unannounce", NAME, 3282)
    ask(first, "unannounce", NAME, 4444)
    third = js(here, "C", "dns", USUAL, *WAYS["server"])
    ask(third, "lookup", NAME)
    assert not any(line.startswith("peer") for line in third.out)


def test_our_node_and_their_tables(place):
    """Through a node of ours alone, theirs find what our command announced, and our command what theirs announced."""
    here = place("A", "B", "C")
    here.node()
    folder, key = here.create()
    name = name_of(key)[:40]
    here.share("A", folder, *ALONE["dht"])
    theirs = js(here, "B", "dht", DHT, *WAYS["dht"])

    def is_found():
        ask(theirs, "lookup", name)
        return any(line == "peer %s 10.79.0.2:3282" % name for line in list(theirs.out))
    here.until(is_found)
    other = "34" * 32
    client = here.start("C", "clone", "--json", "--timeout", "300", *ALONE["dht"], other, here.path("other-copy"))
    ask(theirs, "announce", name_of(other)[:40], 999)
    client.event("unreachable", PATIENCE, lambda e: e["address"] == "10.79.0.3:999")


# ---- swarms ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("way, whose", CASES)
def test_a_swarm_finds_us(way, whose, place):
    here = place("A", "B")
    middle(here, way, whose)
    folder, key = here.create(files=())
    with open(os.path.join(folder, "a.txt"), "w", encoding="utf-8") as file:
        file.write("a small file")
    here.share("A", folder, *ALONE[way])
    theirs = js(here, "B", "swarm", "clone", key, *WAYS[way])
    theirs.line("^content a small file$", PATIENCE)


@pytest.mark.parametrize("way, whose", CASES)
def test_we_find_a_swarm(way, whose, place):
    here = place("A", "B")
    middle(here, way, whose)
    theirs = js(here, "A", "swarm", "share", "-", *WAYS[way])
    copy, events, _ = here.clone("B", theirs.key, *ALONE[way], "--timeout", "60", patience=3 * PATIENCE)
    assert sources(events) == {way}
    with open(os.path.join(copy, "a.txt"), encoding="utf-8") as file:
        assert file.read() == "a small file"


# ---- dat itself ------------------------------------------------------------------------------------------

DEFAULTS = {"all": [], "mdns": ["--lan"], "server": ["--no-mdns", "--no-dht"], "dht": ["--no-mdns", "--no-server"]}


def public(here, whose):
    """What stands behind the names where dat looks: two servers and four nodes, all of which are T."""
    here.name_server()
    server(here, whose)
    return node(here, whose)


@WHOSE
@pytest.mark.parametrize("way", DEFAULTS)
def test_dat_finds_us(way, whose, place):
    """`dat clone LINK` with no option; of datsync's ways those alone that are named."""
    here = place("A", "B")
    public(here, whose)
    folder, key = here.create()
    here.share("A", folder, *DEFAULTS[way])
    said = {"server": b"announce=3282", "dht": b"13:announce_peer"}.get(way, b"")  # dat gives up where nobody is announced yet
    here.until(lambda: any(said in bytes.fromhex(f["data"]) for f in here.datagrams("A")))
    copy = here.path("copy")
    dat(here, "B", here.folder, "clone", key, copy).finish(DONE, 2 * PATIENCE)
    assert same(folder, copy)


@WHOSE
@pytest.mark.parametrize("way", DEFAULTS)
def test_we_find_dat(way, whose, place):
    here = place("A", "B")
    public(here, whose)
    folder = here.path("theirs")
    os.makedirs(folder)
    here.write(folder, "a.bin")
    theirs = dat(here, "A", folder, "share")
    key = theirs.line("dat://([0-9a-f]{64})", PATIENCE).group(1)
    here.until(lambda: any("Watching for file updates" in line for line in list(theirs.out)))
    copy, events, _ = here.clone("B", key, *DEFAULTS[way], "--timeout", "60", patience=3 * PATIENCE)
    assert same(folder, copy)
    assert sources(events) <= ({way} if way != "all" else {"mdns", "server", "dht"}) and sources(events)


@pytest.mark.parametrize("first", ["dat", "datsync"])
def test_both_on_one_host(first, place):
    """They share the group's port, by multicast alone; of the usual port, who comes second takes another. Behind the names is nobody."""
    here = place("A", "B")
    here.name_server()
    folder = here.path("shared")
    os.makedirs(folder)
    here.write(folder, "a.bin")
    copy = here.path("copy")
    if first == "dat":
        theirs = dat(here, "A", folder, "share")
        key = theirs.line("dat://([0-9a-f]{64})", PATIENCE).group(1)
        here.until(lambda: any("Watching for file updates" in line for line in list(theirs.out)))
        here.clone("A", key, "--lan", "--timeout", "60", folder=copy, patience=3 * PATIENCE)
    else:
        key = here.share("A", folder, "--lan").out[0][len("dat://"):]
        dat(here, "A", here.folder, "clone", key, copy).finish(DONE, 2 * PATIENCE)
    assert same(folder, copy)
