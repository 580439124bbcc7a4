"""A peer of a discovery server, on loopback: it looks up one name, announces it, and is told of who comes.

docs/PROTOCOL.md, chapter 25.
"""

import random
import socket
import time

from . import discovery
from .discovery import TXT, Item, Packet, PacketError

QUERY, ANSWER = 0x100, 0x8000
AGAIN = (0.5, 1.0, 2.0, 4.25)  # seconds from one sending of a question to the next; behind the last it has failed
ANEW = 60.0  # seconds until a name is asked anew


class Finder:
    """`found(address)` is called for each peer that was told, `over()` ends it. port: announced; 0: nothing is."""

    def __init__(self, server, feed, port, found, over):
        self.server, self.feed, self.port, self.found, self.over = server, feed, port, found, over
        self.token, self.id = None, random.randrange(0x10000)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((server[0], 0))

    def run(self):
        while not self.over():
            if self.token is None and self.ask(discovery.DOMAIN) is None:
                continue
            self.ask(discovery.name_of(self.feed), self.said())
            self.listen(time.monotonic() + ANEW)

    def said(self):
        said = {"subscribe": True, "token": self.token}
        return dict(said, announce=self.port) if self.port else said

    def ask(self, name, said=None):
        """Ask until there is an answer: its id, or None if there is none."""
        self.id = (self.id + 1) & 0xffff
        items = [Item("question", name, TXT)]
        if said is not None:
            items.append(Item("additional", name, TXT, value=discovery.strings(said)))
        for wait in AGAIN:
            self.send(Packet(self.id, QUERY, tuple(items)))
            if self.listen(time.monotonic() + wait, self.id, name):
                return self.id
        return None

    def send(self, packet):
        try:
            self.sock.sendto(discovery.write(packet), self.server)
        except OSError:
            pass  # nobody is there, or not yet

    def listen(self, end, id=None, name=None):
        """What comes until then; True at once when this question is answered."""
        while not self.over() and time.monotonic() < end:
            self.sock.settimeout(max(0.001, min(0.2, end - time.monotonic())))
            try:
                data, sender = self.sock.recvfrom(65536)
                packet = discovery.read(data)
            except (OSError, PacketError):
                continue
            if sender == self.server and self.take(packet, id, name):
                return True
        return False

    def take(self, packet, id, name):
        if not packet.flags & ANSWER:
            self.pushed(packet)
            return False
        if packet.id != id or [i.name for i in packet.items[:1]] != [name]:
            return False
        for item in packet.items:
            said = discovery.says(item) if item.name == name else {}
            self.token = said.get("token", self.token)
            self.tell(said.get("peers", []))
        return True

    def pushed(self, packet):
        self.tell([i.value for i in packet.items if i.type == discovery.SRV and discovery.feed_of(i.name) == self.feed])
        self.send(Packet(packet.id, ANSWER, ()))

    def tell(self, peers):
        for peer in peers:
            if peer.port and peer.host is not None:
                self.found(peer)
