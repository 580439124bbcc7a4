"""Hosts in namespaces, joined by bridges, and what some of them do beside datsync (run as a program: see `roles`).

The namespaces have no name outside and live as long as a process of theirs: who holds them ends when whoever made them does.
"""

import base64
import contextlib
import ipaddress
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE = 60  # seconds: who waits so long waits in vain
MDNS = {4: "224.0.0.251", 6: "ff02::fb"}
NETWORK = ipaddress.ip_network("10.79.0.0/16")

# T has a bridge for each segment, and the address 1 in each. The other hosts have eth0 in their first segment, eth1 in their second.
# No address makes itself, and each host has a route to everywhere by T, which leads nowhere.
SETUP = """
set -e
mount -t tmpfs none /run
mkdir -p /run/netns
ip link set lo up
for s in 0 1; do
    ip link add br$s type bridge mcast_snooping 0
    ip link set br$s addrgenmode none
    test "$1" = 6 || ip addr add 10.79.$s.1/24 dev br$s
    test "$1" = 4 || ip addr add fe80::$s:1/64 dev br$s nodad
    ip link set br$s up
done
test "$1" = 6 || ip route add 224.0.0.0/4 dev br0
test "$1" = 6 || mount --bind "$2/resolv.conf" /etc/resolv.conf
test "$1" = 6 || test ! -e /etc/nsswitch.conf || mount --bind "$2/nsswitch.conf" /etc/nsswitch.conf
family=$1
shift 2
n=2
for host in "$@"; do
    name=${host%%:*}
    ip netns add $name
    i=0
    for s in $(echo ${host#*:} | sed 's/./& /g'); do
        ip link add v$name$i type veth peer name eth$i netns $name
        ip link set v$name$i addrgenmode none
        ip link set v$name$i master br$s up
        ip -n $name link set eth$i addrgenmode none
        test $family = 6 || ip -n $name addr add 10.79.$s.$n/24 dev eth$i
        test $family = 4 || ip -n $name addr add fe80::$s:$n/64 dev eth$i nodad
        ip -n $name link set eth$i up
        i=$((i + 1))
    done
    ip -n $name link set lo up
    test $family = 6 || ip -n $name route add default via 10.79.${s}.1
    n=$((n + 1))
done
echo ready
read end
"""


class NoHosts(Exception):
    """Why there are none here."""


def own_environment(home):
    """Of a program that looks for peers: of those here alone."""
    os.makedirs(home, exist_ok=True)
    return {"DATSYNC_NO_DISCOVERY": "", "HOME": home, "NO_UPDATE_NOTIFIER": "1", "CI": "1"}


class Hosts:
    """T, and those of `hosts`: NAME or NAME:SEGMENTS, as `A:01` for one in both. What goes over their wires is kept."""

    def __init__(self, folder, *hosts, family=4):
        if not sys.platform.startswith("linux") or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
            raise NoHosts("there are no namespaces, or no ip")
        self.folder, self.family = str(folder), family
        self.names = [host.split(":")[0] for host in hosts]
        for name, text in (("resolv.conf", "nameserver 10.79.0.1\n"), ("nsswitch.conf", "hosts: dns\n")):
            with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        root = os.geteuid() == 0
        setup = ["sh", "-c", SETUP, "sh", str(family), self.folder, *(h if ":" in h else h + ":0" for h in hosts)]
        self.holder = subprocess.Popen(["unshare", "-n", "-m", *([] if root else ["-r"]), *setup], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.enter = ["nsenter", "-t", str(self.holder.pid), *([] if root else ["-U", "--preserve-credentials"]), "-n", "-m"]
        self.frames, self.sniffer, self._reader = [], None, None
        if self.holder.stdout.readline() != b"ready\n":
            raise NoHosts("no namespaces with networks for this user: %s" % self.holder.communicate()[1].decode().strip())
        self._capture()

    def at(self, host, *argv):
        """The words that run a program on a host."""
        there = [] if host == "T" else ["ip", "netns", "exec", host]
        return self.enter + there + [str(word) for word in argv]

    def role(self, host, *words):
        """The words that let a host do what is below."""
        return self.at(host, sys.executable, os.path.abspath(__file__), *words)

    def environment(self, host):
        return own_environment(os.path.join(self.folder, "home-" + host))

    def address(self, host, segment=0):
        n = 1 if host == "T" else 2 + self.names.index(host)
        return str(ipaddress.ip_address("10.79.%d.%d" % (segment, n) if self.family == 4 else "fe80::%d:%d" % (segment, n)))

    # ---- what was sent

    def _capture(self):
        self.sniffer = subprocess.Popen(self.role("T", "sniff"), stdout=subprocess.PIPE)
        assert self.sniffer.stdout.readline() == b"sniffing\n"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.sniffer.stdout:
            self.frames.append(json.loads(line))

    def datagrams(self, sender=None, port=None):
        """The UDP packets so far: of one host, to or from one port."""
        return [f for f in list(self.frames) if f["protocol"] == 17 and (sender is None or f["from"] == self.address(sender)) and
                (port is None or port in f["ports"])]

    def outside(self):
        """Packets to whoever is not here."""
        def is_here(host):
            ip = ipaddress.ip_address(host)
            return ip.is_multicast or (ip in NETWORK if ip.version == 4 else ip.is_link_local)
        return [f for f in list(self.frames) if not is_here(f["to"])]

    def until(self, what, patience=PATIENCE):
        end = time.monotonic() + patience
        while not what():
            assert time.monotonic() < end, "it does not come to pass"
            time.sleep(0.02)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            if self.sniffer is not None:
                self.sniffer.kill()
                self.sniffer.wait()
        for pipe in (self.holder.stdin, self.holder.stdout, self.holder.stderr, self.sniffer and self.sniffer.stdout):
            if pipe:
                if pipe is self.sniffer.stdout:
                    self._reader.join(PATIENCE)
                pipe.close()
        self.holder.kill()
        self.holder.wait()


# ---- roles ---------------------------------------------------------------------------------------------

def packet_of(frame):
    """Of an IP packet: from, to, protocol, ports, and the size of what it carries; None: it is none."""
    kind, ip = struct.unpack(">H", frame[12:14])[0], frame[14:]
    if kind == 0x0800 and len(ip) >= 20:
        source, to, protocol, rest = ip[12:16], ip[16:20], ip[9], ip[(ip[0] & 15) * 4:struct.unpack(">H", ip[2:4])[0]]
        if struct.unpack(">H", ip[6:8])[0] & 0x1fff:
            protocol = -1  # a later part of one
    elif kind == 0x86dd and len(ip) >= 40:
        source, to, protocol, rest = ip[8:24], ip[24:40], ip[6], ip[40:]
    else:
        return None
    ports = struct.unpack(">HH", rest[:4]) if protocol in (6, 17) else ()
    return {"from": str(ipaddress.ip_address(source)), "to": str(ipaddress.ip_address(to)), "protocol": protocol, "ports": ports,
            "data": rest[8:].hex() if protocol == 17 else ""}


def sniff():
    """A line of JSON for each packet that a host sent, once; those of T as they leave its bridges."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        print("sniffing", flush=True)
        while True:
            frame, (name, _, kind, *_) = s.recvfrom(65536)
            if name == "lo" or name.startswith("br") != (kind == 4):
                continue
            packet = packet_of(frame)
            if packet is not None:
                print(json.dumps(dict(packet, name=name)), flush=True)


def names_of(host, folder):
    """Every name stands for this host: those too where the deployed peers look."""
    import names
    names.records = lambda name: (0, [(1, ipaddress.ip_address(host).packed)])
    names.serve(folder, host)


def text_name(name):
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def false_answer(name, peers, id=0):
    """An answer that tells of these peers."""
    words = ([b"token=" + b"x" * 32] if id else []) + ([b"peers=" + base64.b64encode(b"".join(peers))] if peers else [])
    text = b"".join(bytes([len(one)]) + one for one in words)
    head = struct.pack(">HHHHHH", id, 0x8400, 0, 1, 0, 0)
    return head + text_name(name) + struct.pack(">HHIH", 16, 1, 0, len(text)) + text


def false_peers(chance, count):
    """Of this network: most of them on no host's segment."""
    return [bytes([10, 79, chance.randrange(256), chance.randrange(20, 255)]) + struct.pack(">H", chance.randrange(1, 65536))
            for _ in range(count)]


def flood(name, host):
    """A neighbour, and discovery server, that tells 10,000 false peers of a name in each second: to the group, and to who asks."""
    chance, askers = random.Random(5353), []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
        server.bind((host, 5300))
        server.setblocking(False)
        print("flooding", flush=True)
        began, sent = time.monotonic(), 0
        while True:
            while True:
                try:
                    query, asker = server.recvfrom(2000)
                except OSError:
                    break
                id = struct.unpack(">H", query[:2])[0]
                if text_name(name) in query:
                    askers = [asker] + [one for one in askers if one != asker][:3]
                    server.sendto(false_answer(name, false_peers(chance, 30), id), asker)
                else:
                    server.sendto(false_answer("dat.local", [], id), asker)
            while sent < (time.monotonic() - began) * 10000:
                s.sendto(false_answer(name, false_peers(chance, 30)), (MDNS[4], 5353))
                sent += 30
                for asker in askers:
                    with contextlib.suppress(OSError):
                        server.sendto(false_answer(name, false_peers(chance, 30), chance.randrange(1, 65536)), asker)
            time.sleep(0.005)


def late(name, host, peer, port, after):
    """A discovery server that tells each asker of one peer, some milliseconds after it was asked."""
    told = socket.inet_aton(peer) + struct.pack(">H", int(port))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((host, 5300))
        print("serving", flush=True)
        while True:
            query, asker = s.recvfrom(2000)
            id = struct.unpack(">H", query[:2])[0]
            if text_name(name) in query:
                time.sleep(int(after) / 1000)
                s.sendto(false_answer(name, [told], id), asker)
            else:
                s.sendto(false_answer("dat.local", [], id), asker)


def hold(port):
    """Take a port, and serve nothing."""
    with socket.socket() as s:
        s.bind(("0.0.0.0", int(port)))
        s.listen()
        print("holding", flush=True)
        while True:
            s.accept()[0].close()


if __name__ == "__main__":
    roles = {"sniff": sniff, "names": names_of, "flood": flood, "late": late, "hold": hold}
    roles[sys.argv[1]](*sys.argv[2:])
