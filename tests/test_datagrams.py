"""The operating system's datagrams, interfaces and resolver (datsync_os_net), and internet addresses as text.

What needs networks or names of its own runs in namespaces, with a server of names (names.py). Where a system has no namespaces, or
not for this user, it is left out.
"""

import ipaddress
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from probe import HERE, TOO_BIG, WRAPPER, Probe, ProbeError, unhex

pytestmark = pytest.mark.synchronizer

IN_USE, REFUSED, AGAIN, ADDRESS, UNREACHABLE = range(-84, -89, -1)
READ, WRITE = 1, 2
PATIENCE = 60  # seconds: who waits so long waits in vain
SOON = 300  # milliseconds in which what must not come does not come
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
ANY = {4: "0.0.0.0", 6: "::"}
GROUP = {4: "239.1.2.3", 6: "ff02::4444"}


class Address(NamedTuple):
    host: str
    port: int
    via: int


def address(word):
    host, port, via = word.split(":")
    return Address(str(ipaddress.ip_address(unhex(host))), int(port), int(via))


class Interface(NamedTuple):
    name: str
    host: str
    prefix: int
    via: int
    loopback: bool
    multicast: bool


class Net:
    """The driver's network; its handles are numbers."""

    def __init__(self, probe):
        self.probe = probe
        self.free = list(range(63, -1, -1))

    def words(self, host, port=0, via=0):
        return ipaddress.ip_address(host).packed, port, via

    def open(self, host, port=0, shared=0, via=0):
        n = self.free[-1]
        port = self.probe.number("net.open", n, *self.words(host, port, via), shared)
        self.free.pop()
        return Datagrams(self, n, port)

    def open_code(self, *args, **options):
        try:
            self.open(*args, **options).close()
        except ProbeError as error:
            return error.code
        return 0

    def interfaces(self, cap=1000):
        count, *rest = self.probe.ask("net.interfaces", cap)
        assert len(rest) == min(cap, int(count))
        for word in rest:
            *at, prefix, loopback, multicast, name = word.split(":")
            host, port, via = address(":".join(at))
            assert port == 0
            yield Interface(unhex(name).decode(), host, int(prefix), via, loopback == "1", multicast == "1")

    def loopback(self):
        return next(i.via for i in self.interfaces() if i.host == "127.0.0.1")

    def resolve(self, host):
        n = self.free[-1]
        self.probe.ask("net.resolve", n, host.encode())
        self.free.pop()
        return Lookup(self, n)

    def resolve_code(self, host):
        """That of the call; what it began is closed."""
        try:
            self.resolve(host).close()
        except ProbeError as error:
            return error.code
        return 0

    def hosts(self, host):
        """What a name stands for, or an error."""
        lookup = self.resolve(host)
        assert lookup.wait()
        try:
            return [a.host for a in lookup.addresses()]
        except ProbeError as error:
            return error.code
        finally:
            lookup.close()


class Handle:
    def __init__(self, net, number):
        self.net, self.number = net, number

    def ask(self, command, *words):
        return self.net.probe.ask("net." + command, self.number, *words)

    def code(self, command, *words):
        return self.net.probe.code("net." + command, self.number, *words)

    def wait(self, events=READ, ms=PATIENCE * 1000):
        return int(self.ask("wait", events, ms)[0])

    def close(self):
        self.ask("close")
        self.net.free.append(self.number)


class Datagrams(Handle):
    def __init__(self, net, number, port):
        super().__init__(net, number)
        self.port = port

    def send(self, host, port, data, via=0):
        return self.code("send", *self.net.words(host, port, via), data)

    def receive(self, cap=2000):
        """(from, bytes) of what must come."""
        assert self.wait() & READ
        source, data = self.ask("receive", cap)
        return address(source), unhex(data)

    def is_quiet(self):
        return self.wait(ms=SOON) == 0 and self.code("receive", 100) == AGAIN

    def join(self, host, via):
        return self.code("join", *self.net.words(host, 0, via))

    def leave(self, host, via):
        return self.code("leave", *self.net.words(host, 0, via))


class Lookup(Handle):
    def addresses(self, cap=64):
        count, *rest = self.ask("resolved", cap)
        assert len(rest) == min(cap, int(count))
        return [address(word) for word in rest]


@pytest.fixture
def net(probe):
    return Net(probe)


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.bind(("::1", 0))
    except OSError:
        return False
    return True


WINE = bool(WRAPPER) and "wine" in os.path.basename(WRAPPER[-1])
# What goes beside a datagram, and the numbers of interfaces, it passes on as they are, in the wrong order of bytes.
not_in_qemu = pytest.mark.skipif(bool(WRAPPER) and "qemu" in WRAPPER[0], reason="qemu does not translate the numbers of interfaces")
FAMILIES = [4, pytest.param(6, marks=pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here"))]


# ---- datagrams ---------------------------------------------------------------------------------------

@not_in_qemu
@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(net, family):
    a, b = net.open(ANY[family]), net.open(LOOPBACK[family])
    assert a.port and b.port and a.port != b.port
    assert a.code("receive", 100) == AGAIN and a.wait(ms=0) == 0 and a.wait(READ | WRITE) == WRITE
    assert b.send(LOOPBACK[family], a.port, b"there") == 0
    source, data = a.receive()
    assert (source.host, source.port, data) == (LOOPBACK[family], b.port, b"there")
    assert source.via == net.loopback()
    assert a.send(source.host, source.port, b"and back", source.via) == 0
    assert b.receive() == (Address(LOOPBACK[family], a.port, source.via), b"and back")
    assert a.code("receive", 100) == AGAIN


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes(net, family):
    """A datagram is one piece, also an empty one; what is longer than the room is cut, and none of it is left over."""
    a, b = net.open(LOOPBACK[family]), net.open(LOOPBACK[family])
    for data in (b"", b"abcdefgh", b"", b"second", bytes(range(256)) * 180):
        assert b.send(LOOPBACK[family], a.port, data) == 0
    source, data = a.receive()
    assert (source.port, data) == (b.port, b"")
    source, data = a.receive(4)
    assert (source.port, data) == (b.port, b"abcd")
    assert a.receive(4)[1] == b""
    assert a.receive(0)[1] == b""
    assert a.receive(1 << 16)[1] == bytes(range(256)) * 180
    assert a.code("receive", 100) == AGAIN
    assert b.send(LOOPBACK[family], a.port, bytes(70000)) == TOO_BIG
    assert a.is_quiet()


def test_the_families_are_apart(net):
    """A socket of one takes none of the other, and each may have the same port."""
    if not has_ipv6():
        pytest.skip("there is no IPv6 here")
    six = net.open("::")
    four = net.open("0.0.0.0", six.port)
    sender = net.open("127.0.0.1")
    assert sender.send("127.0.0.1", six.port, b"x") == 0
    assert four.receive()[1] == b"x" and six.is_quiet()
    assert sender.send("::1", six.port, b"x") < 0


def test_a_port_that_is_taken(net):
    alone = net.open("0.0.0.0")
    assert net.open_code("0.0.0.0", alone.port) == IN_USE
    assert net.open_code("127.0.0.1", alone.port) == IN_USE
    assert net.open_code("0.0.0.0", alone.port, shared=1) == IN_USE
    port = alone.port
    alone.close()
    first = net.open("0.0.0.0", port, shared=1)
    assert net.open_code("0.0.0.0", port) == IN_USE
    second = net.open("0.0.0.0", port, shared=1)
    assert first.port == second.port == port


def test_an_address_that_is_not_here(net):
    assert WINE or net.open_code("203.0.113.77") == ADDRESS  # wine takes another
    assert net.probe.code("net.open", 0, b"", 0, 0, 0) == ADDRESS
    assert net.probe.code("net.open", 0, bytes(5), 0, 0, 0) == ADDRESS
    a = net.open("127.0.0.1")
    assert a.code("send", b"abc", 1, 0, b"x") == ADDRESS


def test_nobody_there_is_no_end(net):
    """Of a datagram that found nobody a system may tell, once; what comes then comes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        closed = s.getsockname()[1]
    a, b = net.open("127.0.0.1"), net.open("127.0.0.1")
    for _ in range(3):
        assert a.send("127.0.0.1", closed, b"x") in (0, REFUSED)
        a.wait(ms=100)
        assert a.code("receive", 100) in (AGAIN, REFUSED)
    assert a.send("127.0.0.1", b.port, b"still here") in (0, REFUSED)
    assert b.receive()[1] == b"still here"
    assert b.send("127.0.0.1", a.port, b"and here") == 0
    assert a.wait() & READ and a.receive()[1] == b"and here"


@not_in_qemu
@pytest.mark.posix
@pytest.mark.parametrize("options", [["SO_REUSEADDR"], ["SO_REUSEPORT"], ["SO_REUSEADDR", "SO_REUSEPORT"]], ids=" ".join)
def test_shared_with_others(net, options):
    """Who shares asks for both options of the system, for others have the one or the other (PROTOCOL.md)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        for option in options:
            other.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        other.bind(("0.0.0.0", 0))
        port = other.getsockname()[1]
        assert net.open_code("0.0.0.0", port) == IN_USE
        ours = net.open("0.0.0.0", port, shared=1)
        loopback = net.loopback()
        assert ours.join(GROUP[4], loopback) == 0
        other.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP[4]) + socket.inet_aton("127.0.0.1"))
        other.settimeout(PATIENCE)
        assert net.open("0.0.0.0").send(GROUP[4], port, b"to both", loopback) == 0
        assert ours.receive()[1] == b"to both" and other.recv(100) == b"to both"


# ---- groups ------------------------------------------------------------------------------------------

@not_in_qemu
def test_a_group(net):
    """On the loopback, by its number: joined, joined twice, left; heard by each that joined and by nobody else."""
    loopback = net.loopback()
    a = net.open("0.0.0.0", shared=1)
    b = net.open("0.0.0.0", a.port, shared=1)
    other = net.open("0.0.0.0", a.port, shared=1)
    sender = net.open("0.0.0.0")
    assert a.join(GROUP[4], loopback) == b.join(GROUP[4], loopback) == other.join("239.1.2.4", loopback) == 0
    assert a.join(GROUP[4], loopback) == 0
    assert sender.send(GROUP[4], a.port, b"all", loopback) == 0
    for one in (a, b):
        source, data = one.receive()
        assert (source.port, source.via, data) == (sender.port, loopback, b"all")
        assert one.code("receive", 100) == AGAIN
    assert a.leave(GROUP[4], loopback) == 0
    assert sender.send(GROUP[4], a.port, b"some", loopback) == 0
    assert b.receive()[1] == b"some"
    assert a.leave(GROUP[4], loopback) == ADDRESS
    assert WINE or (a.is_quiet() and other.is_quiet())  # there Linux gives away what others joined for


def test_no_group(net):
    a = net.open("0.0.0.0")
    loopback = net.loopback()
    assert a.join("127.0.0.1", loopback) == a.leave("192.0.2.1", loopback) == ADDRESS
    assert a.code("join", b"abc", 0, loopback) == ADDRESS
    assert a.join(GROUP[4], 99999) == a.leave(GROUP[4], 99999) == ADDRESS
    assert a.send(GROUP[4], 1, b"x", 99999) == ADDRESS


@not_in_qemu
@pytest.mark.posix
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Python has no name for the option")
def test_a_group_is_sent_to_as_far_as_it_may_go(net):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP[4]) + socket.inet_aton("127.0.0.1"))
        other.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        other.bind(("0.0.0.0", 0))
        other.settimeout(PATIENCE)
        assert net.open("0.0.0.0").send(GROUP[4], other.getsockname()[1], b"far", net.loopback()) == 0
        data, beside, _, _ = other.recvmsg(100, 100)
        hops = [struct.unpack("@i", value)[0] for level, type, value in beside if (level, type) == (socket.IPPROTO_IP, socket.IP_TTL)]
        assert (data, hops) == (b"far", [255])


# ---- interfaces --------------------------------------------------------------------------------------

def test_interfaces(net):
    found = list(net.interfaces())
    assert len(set(found)) == len(found) > 0
    lo = next(i for i in found if i.host == "127.0.0.1")
    assert lo.loopback and lo.prefix == 8 and lo.via > 0
    assert all(i.loopback == (i.via == lo.via) for i in found)
    assert list(net.interfaces(0)) == []
    assert list(net.interfaces(1)) == found[:1]
    if has_ipv6():
        assert next(i for i in found if i.host == "::1")[2:5] == (128, lo.via, True)


@pytest.mark.posix
def test_interfaces_are_the_systems(net):
    if shutil.which("ip") is None:
        pytest.skip("there is no ip")
    expected = set()
    for one in json.loads(subprocess.run(["ip", "-j", "addr"], stdout=subprocess.PIPE, check=True).stdout):
        for at in one.get("addr_info", []):
            if "UP" in one["flags"] and at.get("local"):
                expected.add(Interface(one["ifname"], at["local"], at["prefixlen"], one["ifindex"], "LOOPBACK" in one["flags"],
                                       "MULTICAST" in one["flags"]))
    assert expected <= set(net.interfaces())
    assert {(i.name, i.via) for i in net.interfaces()} <= {(name, number) for number, name in socket.if_nameindex()}


# ---- names -------------------------------------------------------------------------------------------

def test_localhost(net):
    found = net.hosts("localhost")
    assert found and set(found) <= {"127.0.0.1", "::1"} and len(set(found)) == len(found)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "192.0.2.55", "2001:db8::5", "255.255.255.255"])
def test_numbers_are_there_at_once(net, host):
    if ":" in host and not has_ipv6():
        pytest.skip("there is no IPv6 here")
    lookup = net.resolve(host)
    assert lookup.addresses() == [Address(host, 0, 0)]
    assert lookup.wait() == READ
    assert lookup.addresses(0) == []
    assert lookup.addresses() == [Address(host, 0, 0)]


@pytest.mark.posix
def test_numbers_with_an_interface(net):
    if not has_ipv6():
        pytest.skip("there is no IPv6 here")
    number, name = socket.if_nameindex()[0]
    assert net.resolve("fe80::1%" + name).addresses() == net.resolve("fe80::1%%%d" % number).addresses() == \
        [Address("fe80::1", 0, number)]


@pytest.mark.parametrize("host", ["", "x" * 256])
def test_no_name(net, host):
    assert net.resolve_code(host) == ADDRESS


def test_a_name_that_is_not(net):
    """Where there is no resolver, nobody knows."""
    assert net.hosts("nonexistent.invalid") in (ADDRESS, UNREACHABLE)


def test_many_names(net):
    lookups = [net.resolve("localhost" if i % 4 else "127.0.0.%d" % (i + 1)) for i in range(64)]
    for i, lookup in enumerate(lookups):
        assert lookup.wait() == READ
        hosts = {a.host for a in lookup.addresses()}
        assert hosts == {"127.0.0.%d" % (i + 1)} if i % 4 == 0 else hosts <= {"127.0.0.1", "::1"}


def open_files(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


def threads(pid):
    return len(os.listdir("/proc/%d/task" % pid))


def until(what):
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.02)


@pytest.mark.posix
def test_nobody_waits_for_the_answer(net):
    """A handle that is closed at once leaves nothing: no file, no thread, no memory (so says the sanitizer)."""
    if not os.path.isdir("/proc/%d/fd" % net.probe.pid):
        pytest.skip("this system does not tell what a process has open")
    assert net.loopback()  # it has begun
    files, tasks = open_files(net.probe.pid), threads(net.probe.pid)
    for _ in range(500):
        for host in ("localhost", "127.0.0.1"):
            while net.resolve_code(host) == AGAIN:
                pass
    until(lambda: (open_files(net.probe.pid), threads(net.probe.pid)) == (files, tasks))


@pytest.mark.posix
@pytest.mark.skipif(not os.path.exists("/proc/self/fdinfo/0") or bool(WRAPPER), reason="nobody tells what a descriptor is like")
def test_descriptors_wait_for_nothing_and_go_to_no_other_program(net):
    assert net.loopback()
    before = set(os.listdir("/proc/%d/fd" % net.probe.pid))
    net.open("127.0.0.1")
    net.resolve("127.0.0.1")
    made = set(os.listdir("/proc/%d/fd" % net.probe.pid)) - before
    assert len(made) == 2
    for fd in made:
        with open("/proc/%d/fdinfo/%s" % (net.probe.pid, fd), encoding="ascii") as file:
            flags = int(next(line.split()[1] for line in file if line.startswith("flags:")), 8)
        assert flags & os.O_NONBLOCK and flags & os.O_CLOEXEC


# ---- in namespaces -----------------------------------------------------------------------------------

# Two interfaces that lead nowhere, one that is down, and a resolver that is ours.
INSIDE = """
set -e
ip link set lo up
for one in a b c; do
    ip link add ${one}0 type veth peer name ${one}1
    ip link set ${one}0 addrgenmode none
done
for one in a b; do
    ip link set ${one}0 up
    ip link set ${one}1 up
done
ip addr add 198.51.100.1/25 dev a0
ip addr add 198.51.100.2/25 dev a0
ip addr add 203.0.113.1/24 dev b0
ip addr add 203.0.113.129/25 dev c0
ip addr add fe80::a/64 dev a0 nodad
ip addr add fe80::b/64 dev b0 nodad
mount --bind "$1/resolv.conf" /etc/resolv.conf
test ! -e /etc/nsswitch.conf || mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
"$2" "$3" "$1" &
while test ! -e "$1/ready"; do sleep 0.1; done
shift 3
exec "$@"
"""


@pytest.fixture
def inside(tmp_path):
    """A network in namespaces of its own; `answer()` lets the server of names answer about what begins with `slow`."""
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("there are no namespaces, or no ip")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n")
    alone = ["unshare", "-n", "-m"] + ([] if os.geteuid() == 0 else ["-r"])
    before = [*alone, "sh", "-c", INSIDE, "sh", str(tmp_path), sys.executable, os.path.join(HERE, "names.py")]
    tried = subprocess.run([*before, "true"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", timeout=PATIENCE)
    if tried.returncode != 0:
        pytest.skip("no namespaces with networks for this user: " + tried.stdout.strip())
    until(lambda: not (tmp_path / "ready").exists())  # that server has ended
    driver = Probe(before)
    net = Net(driver)
    net.answer = (tmp_path / "answer").touch
    yield net
    driver.close()


@pytest.mark.posix
def test_which_interfaces_are_up(inside):
    found = {i.host: i for i in inside.interfaces()}
    assert {"127.0.0.1", "198.51.100.1", "198.51.100.2", "203.0.113.1", "fe80::a", "fe80::b"} <= set(found)
    assert "203.0.113.129" not in found
    assert found["198.51.100.1"][2:] == (25, found["fe80::a"].via, False, True)
    assert found["203.0.113.1"].name == "b0" and found["203.0.113.1"].prefix == 24
    assert found["198.51.100.2"].via != found["203.0.113.1"].via
    assert found["fe80::a"].prefix == 64


@not_in_qemu
@pytest.mark.posix
@pytest.mark.parametrize("family", FAMILIES)
def test_each_interface_by_itself(inside, family):
    """A group that was joined on one of them is heard there, and not on the other; what is sent by one goes by no other. Of IPv6,
    Linux gives a socket what another one joined for, but tells by which it came."""
    a, b = (next(i.via for i in inside.interfaces() if i.name == name) for name in ("a0", "b0"))
    on_a = inside.open(ANY[family], shared=1)
    on_both = inside.open(ANY[family], on_a.port, shared=1)
    sender = inside.open(ANY[family])
    assert on_a.join(GROUP[family], a) == on_both.join(GROUP[family], a) == on_both.join(GROUP[family], b) == 0
    for via, host in ((b, {4: "203.0.113.1", 6: "fe80::b"}), (a, {4: "198.51.100.1", 6: "fe80::a"})):
        assert sender.send(GROUP[family], on_a.port, b"by %d" % via, via) == 0
        assert on_both.receive() == (Address(host[family], sender.port, via), b"by %d" % via)
    first = on_a.receive()
    if family == 6 and first[0].via == b:
        first = on_a.receive()
    assert first == (Address({4: "198.51.100.1", 6: "fe80::a"}[family], sender.port, a), b"by %d" % a)
    assert on_both.leave(GROUP[family], a) == 0
    assert sender.send(GROUP[family], on_a.port, b"again", a) == sender.send(GROUP[family], on_a.port, b"still", b) == 0
    assert on_a.receive()[1] == b"again"
    if family == 4:
        assert on_both.receive()[1] == b"still"
        assert on_both.code("receive", 100) == on_a.code("receive", 100) == AGAIN


@not_in_qemu
@pytest.mark.posix
def test_an_address_of_a_link(inside):
    """It goes by its interface."""
    if not has_ipv6():
        pytest.skip("there is no IPv6 here")
    a, b = (next(i.via for i in inside.interfaces() if i.name == name) for name in ("a0", "b0"))
    receiver, sender = inside.open("::"), inside.open("::")
    assert sender.send("fe80::a", receiver.port, b"x", a) == 0
    source, data = receiver.receive()
    assert (source.host, source.port, data) == ("fe80::a", sender.port, b"x")
    assert sender.send("fe80::a", receiver.port, b"x", b) < 0 or receiver.is_quiet()
    assert inside.open_code("fe80::a", receiver.port) < 0 and inside.open_code("fe80::a", via=b) == ADDRESS
    there = inside.open("fe80::a", via=a)
    assert sender.send("fe80::a", there.port, b"y", a) == 0 and there.receive() == (Address("fe80::a", sender.port, a), b"y")


@pytest.mark.posix
def test_what_names_stand_for(inside):
    assert sorted(inside.hosts("three.test")) == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert inside.hosts("twice.test") == ["192.0.2.1"]
    many = inside.hosts("many.test")
    assert len(many) == len(set(many)) == 16 and set(many) <= {"192.0.2.%d" % i for i in range(1, 21)}
    assert inside.hosts("none.test") == ADDRESS
    assert inside.hosts("broken.test") == UNREACHABLE


@pytest.mark.posix
def test_the_resolver_is_slow(inside):
    """Nothing waits for it: 64 names are asked for, and what is written in numbers is there meanwhile."""
    pid = inside.probe.pid
    assert inside.loopback()  # it has begun
    tasks = threads(pid)
    lookups = [inside.resolve("slow%d.test" % i) for i in range(63)]
    assert inside.resolve("192.0.2.9").addresses() == [Address("192.0.2.9", 0, 0)]
    assert all(lookup.code("resolved", 16) == AGAIN for lookup in lookups)
    assert lookups[0].wait(ms=0) == lookups[62].wait(ms=SOON) == 0
    assert threads(pid) <= tasks + 4
    inside.answer()
    for i, lookup in enumerate(lookups):
        assert lookup.wait() == READ
        assert [a.host for a in lookup.addresses()] == ["192.0.2.%d" % (i + 100)]
    until(lambda: threads(pid) == tasks)


@pytest.mark.posix
def test_so_many_names_wait_and_no_more(inside):
    pid = inside.probe.pid
    assert inside.loopback()
    files, tasks = open_files(pid), threads(pid)
    assert all(inside.resolve_code("slow1.test") == 0 for _ in range(4))
    until(lambda: threads(pid) == tasks + 4)
    codes = [inside.resolve_code("slow1.test") for _ in range(300)]
    assert set(codes) == {0, AGAIN} and 252 <= codes.count(0) <= 256  # a thread may not have taken its first yet
    assert inside.resolve("192.0.2.9").addresses() == [Address("192.0.2.9", 0, 0)]
    inside.answer()
    until(lambda: (open_files(pid), threads(pid)) == (files + 1, tasks))
    assert inside.hosts("slow2.test") == ["192.0.2.102"]


@pytest.mark.posix
def test_the_process_ends_before_the_resolver_answers(inside):
    for i in range(8):
        inside.resolve("slow%d.test" % i)
    inside.probe.close()


# ---- addresses as text -------------------------------------------------------------------------------

GOOD = ["0.0.0.0", "127.0.0.1", "255.255.255.255", "192.0.2.1", "::", "::1", "1::", "2001:db8::1", "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1::3:4:5:6:7:8", "1:0:0:4:0:0:7:8", "1:0:0:4:0:0:0:8", "0:0:3::", "fe80::1",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1.2.3.4", "64:ff9b::192.0.2.1", "1:2:3:4:5:6:1.2.3.4", "2001:DB8::AbCd",
        "0001:0203::0", "::0:0"]
BAD = ["", ":", ":1", "1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:99999999999", "1.2.3.4:-1", "1.2.3.4:+1", "1.2.3.4: 1",
       " 1.2.3.4:1", "1.2.3.4:1 ", "1.2.3.4:1x", "1.2.3:1", "1.2.3.4.5:1", "1.2.3.256:1", "01.2.3.4:1", "1.2.3.04:1",
       "1..2.3:1", ".1.2.3:1", "1.2.3.:1", "1.2.3.4%1:1", "::1:80", "::1", "[::1]", "[::1]:", "[::1]80", "[::1", "[::1:80",
       "::1]:80", "[]:1", "[1.2.3.4]:1", "[:]:1", "[:::]:1", "[1:2:3:4:5:6:7]:1", "[1:2:3:4:5:6:7:8:9]:1",
       "[1:2:3:4:5:6:7:8::]:1", "[::1:2:3:4:5:6:7:8]:1", "[1:2:3:4:5:6:7:]:1", "[:2:3:4:5:6:7:8]:1", "[1::2::3]:1",
       "[12345::]:1", "[g::]:1", "[::1.2.3]:1", "[::1.2.3.4.5]:1", "[1:2:3:4:5:6:7:1.2.3.4]:1", "[::1.2.3.4:5]:1",
       "[1.2.3.4::]:1", "[fe80::1%]:1", "[fe80::1%x]:1", "[fe80::1%-1]:1", "[fe80::1%4294967296]:1", "[fe80::1%1x]:1",
       "[[::1]]:1", "localhost:1", "x"]


def text(probe, host, port, via=0):
    return probe.bytes("ip.text", ipaddress.ip_address(host).packed, port, via).decode()


def parse(probe, words):
    """An Address, or None."""
    try:
        return address(probe.ask("ip.parse", words.encode())[0])
    except ProbeError as error:
        assert error.code == ADDRESS
        return None


def shown(host, port):
    at = ipaddress.ip_address(host)
    return ("%s:%d" if at.version == 4 else "[%s]:%d") % (at.compressed, port)


def is_address(host, version):
    try:
        return ipaddress.ip_address(host).version == version and "%" not in host
    except ValueError:
        return False


@pytest.mark.parametrize("host", GOOD)
def test_text_of_an_address(probe, host):
    for port in (0, 1, 3282, 65535):
        expected = shown(host, port)
        assert text(probe, host, port) == expected
        assert parse(probe, expected) == Address(ipaddress.ip_address(host).compressed, port, 0)
        assert parse(probe, ("%s:%d" if "." in host and ":" not in host else "[%s]:%d") % (host, port)) == parse(probe, expected)


@pytest.mark.parametrize("words", BAD)
def test_text_that_is_none(probe, words):
    assert parse(probe, words) is None


def test_text_with_an_interface(probe):
    assert text(probe, "fe80::1", 80, 2) == "[fe80::1%2]:80"
    assert text(probe, "febf::1", 80, 2) == "[febf::1%2]:80"
    assert parse(probe, "[fe80::1%2]:80") == Address("fe80::1", 80, 2)
    assert parse(probe, "[fe80::%123456]:1") == Address("fe80::", 1, 123456)
    assert text(probe, "2001:db8::1", 80, 2) == "[2001:db8::1]:80"  # it needs none
    assert text(probe, "192.0.2.1", 80, 2) == "192.0.2.1:80"
    longest = text(probe, "fe80:1111:2222:3333:4444:5555:6666:7777", 65535, 2 ** 32 - 1)
    assert longest == "[fe80:1111:2222:3333:4444:5555:6666:7777%4294967295]:65535"


def test_text_by_chance(probe):
    """Python is asked about addresses with many zeros, and about texts that are nearly right."""
    chance = random.Random(5952)
    for _ in range(1500):
        raw = bytes(chance.choice((0, 0, 0, 1, chance.randrange(256))) for _ in range(chance.choice((4, 16))))
        host, port = str(ipaddress.ip_address(raw)), chance.randrange(65536)
        if len(raw) == 16 and raw[:12] != bytes(10) + b"\xff\xff":  # which later versions of Python show in another way
            assert text(probe, host, port) == shown(host, port)
        assert parse(probe, text(probe, host, port)) == Address(host, port, 0)
        letters = list(chance.choice(GOOD))
        for _ in range(chance.randrange(1, 4)):
            letters[chance.randrange(len(letters))] = chance.choice(["", ".", ":", "0", "9", "f", "::", "G", "25", "/"])
        near = "".join(letters)
        assert (parse(probe, "[%s]:7" % near) is not None) == is_address(near, 6), near
        assert (parse(probe, "%s:7" % near) is not None) == is_address(near, 4), near
