"""A peer and its discovery server, which the suite plays: what it asks, what it makes of the answers, what it announces.

The adapter's option --discovery-server N names the port on loopback at which the server is. An adapter without it exits 89; then
these cases are UNSUPPORTED.
"""

import queue
import socket
import threading

from dat import cipher, discovery
from dat import peer as peers
from dat.discovery import DOMAIN, SRV, TXT, Address, Item, Packet, PacketError
from suite.case import DEFACTO, MUST, SHOULD, case
from suite.stage import Departure

QUERY, ANSWER = 0x100, 0x8000
TOKEN = b"a token as good as any other, of this server"
SOURCE = "dns-discovery 6.2, as in vectors/discovery.json"


class Server:
    """Answers on a thread of its own. `asked` gets each look-up that came; those of number `deaf` and below get no answer. `replies`
    makes the packets that go out for one: one answer with the peers, unless told."""

    def __init__(self, stage, peers=(), replies=None, deaf=0):
        self.stage, self.peers, self.deaf = stage, list(peers), deaf
        self.replies = replies or (lambda query: [self.answer(query)])
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(0.1)
        self.over = False
        self.port = self.sock.getsockname()[1]
        self.asked, self.acknowledged, self.client, self.count = queue.Queue(), queue.Queue(), None, 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join()
        self.sock.close()

    def run(self):
        while not self.over:
            try:
                data, sender = self.sock.recvfrom(65536)
                packet = discovery.read(data)
            except (OSError, PacketError):  # nothing came for a while, or what is none
                continue
            if packet.flags & ANSWER:
                self.acknowledged.put(packet)
            elif packet.items:
                self.take(packet, sender)

    def take(self, packet, sender):
        if packet.items[0].name == DOMAIN:
            host = {"host": sender[0].encode(), "port": sender[1]}
            return self.send(self.answer(packet, dict(host, token=TOKEN)), sender)
        self.client, self.count = sender, self.count + 1
        if self.count > self.deaf:
            for reply in self.replies(packet):
                self.send(reply, sender)
        self.asked.put((packet, {k: v for item in packet.items for k, v in discovery.says(item).items()}))

    def send(self, packet, to):
        try:
            self.sock.sendto(packet if isinstance(packet, bytes) else discovery.write(packet), to)
        except OSError:
            pass

    def answer(self, query, said=None, id=None, name=None):
        """To this query; with its id and name, the token and the peers unless told."""
        name = name or query.items[0].name
        if said is None:
            said = {"token": TOKEN, "peers": self.peers} if self.peers else {"token": TOKEN}
        question, record = Item("question", name, TXT), Item("answer", name, TXT, value=discovery.strings(said))
        return Packet(query.id if id is None else id, ANSWER, (question, record))

    def push(self, feed, address, id=0x5001):
        self.send(Packet(id, QUERY, (Item("additional", name_of(feed), SRV, value=address),)), self.client)

    def look_up(self, expected="a look-up of the name", fits=lambda said: True):
        """The next look-up that came, and what it says."""
        for _ in range(50):
            try:
                packet, said = self.asked.get(timeout=self.stage.patience * 2)
            except queue.Empty:
                if not self.stage.adapter.running:
                    self.stage.ended(expected, self.stage.adapter.wait(1))
                break
            if fits(said):
                return packet, said
        raise Departure(expected, "none in %.3g s" % (self.stage.patience * 2))


def name_of(feed):
    return discovery.name_of(cipher.discovery_key(feed.key)[:20])


def clones_by(stage, server, *options):
    """A downloader that knows the server alone; we are a peer, at the address that is returned."""
    feed = stage.feed()
    stage.feeds = [feed]
    stage.start("clone", [feed.key], *options, dial=True, server=server.port)
    return Address("127.0.0.1", stage.listener.port)


def gets_all(stage):
    """It dials us, gets all blocks, and is content."""
    stage.connect()
    stage.serve(live=False)
    stage.exits(0)


@case("discovery.server/clone-finds", "discovery", MUST, SOURCE, "A downloader looks the name up, dials the peer that it is told, and gets all",
      "It is what discovery is for.")
def _(stage):
    with Server(stage) as server:
        ready = threading.Event()
        server.replies = lambda query: [server.answer(query)] if ready.wait(stage.patience) else []
        server.peers = [clones_by(stage, server)]
        ready.set()
        packet, _ = server.look_up()
        if packet.items[0].name != name_of(stage.feeds[0]) or packet.items[0].type != TXT or packet.flags != QUERY:
            raise Departure("flags 0100, the question TXT %s" % discovery.dotted(name_of(stage.feeds[0])), repr(packet)[:400])
        gets_all(stage)


@case("discovery.server/clone-is-pushed", "discovery", MUST, SOURCE, "A downloader subscribes, answers a push, and dials the peer that it tells",
      "A peer that comes later is found by it alone, and a push that is not answered comes again.")
def _(stage):
    with Server(stage) as server:
        address = clones_by(stage, server)
        server.look_up("a look-up with subscribe", lambda said: "subscribe" in said)
        server.push(stage.feeds[0], address)
        try:
            packet = server.acknowledged.get(timeout=stage.patience * 2)
        except queue.Empty:
            raise Departure("an answer to the push", "none in %.3g s" % (stage.patience * 2)) from None
        if packet != Packet(0x5001, ANSWER, ()):
            raise Departure("id 5001, flags 8000, nothing more", repr(packet)[:300])
        gets_all(stage)


@case("discovery.server/asks-again", "discovery", MUST, SOURCE, "A look-up that is not answered is sent again",
      "Datagrams are lost.")
def _(stage):
    with Server(stage, deaf=1) as server:
        clones_by(stage, server)
        first, _ = server.look_up()
        again, _ = server.look_up("the same question again")
        if again.items[0].name != first.items[0].name:
            raise Departure("the same question again", repr(again)[:300])


@case("discovery.server/token", "discovery", MUST, SOURCE, "A look-up gives back the token", "Without it nobody is subscribed, and nothing is announced.")
def _(stage):
    with Server(stage) as server:
        clones_by(stage, server)
        server.look_up("a look-up with token=%s" % TOKEN.decode(), lambda said: said.get("token") == TOKEN)


@case("discovery.server/strange-answers", "discovery", SHOULD, SOURCE, "Answers that do not fit are passed over",
      "Anybody can send them in the server's name; the deployed peers dial whatever they are told.")
def _(stage):
    with Server(stage) as server:
        decoy = peers.Listener([])
        try:
            bad = {"token": TOKEN, "peers": [Address("127.0.0.1", decoy.port)]}
            ready, other = threading.Event(), discovery.name_of(bytes(20))

            def replies(query):
                ready.wait(stage.patience)
                return [b"", b"\xff" * 40, bytes(12), server.answer(query, bad, id=query.id ^ 0x800), server.answer(query, bad, name=other), server.answer(query)]
            server.replies = replies
            server.peers = [clones_by(stage, server)]
            ready.set()
            server.look_up()
            gets_all(stage)
            decoy.sock.settimeout(0.01)
            try:
                decoy.sock.accept()[0].close()
            except OSError:
                return
            raise Departure("a peer told by an answer with another id or name not dialled", "it was dialled")
        finally:
            decoy.close()


@case("discovery.server/peer-with-port-0", "discovery", MUST, SOURCE, "A peer with port 0 in an answer or push ends nothing",
      "It kills a deployed peer that speaks uTP.")
def _(stage):
    with Server(stage) as server:
        ready = threading.Event()

        def replies(query):
            ready.wait(stage.patience)
            answer = server.answer(query)
            bad = discovery.pack(Address("127.0.0.9", 0)) + discovery.pack(server.peers[0])
            record = answer.items[1]._replace(value=[b"token=" + TOKEN, b"peers=" + discovery.base64.b64encode(bad)])
            service = Item("additional", query.items[0].name, SRV, value=Address("127.0.0.9", 0))
            return [Packet(0x5002, QUERY, (service,)), Packet(query.id, ANSWER, (answer.items[0], record))]
        server.replies = replies
        server.peers = [clones_by(stage, server)]
        ready.set()
        server.look_up()
        gets_all(stage)


@case("discovery.server/announces", "discovery", DEFACTO, SOURCE, "Who serves announces the port at which he listens, with the token",
      "It is how he is found.")
def _(stage):
    with Server(stage) as server:
        feed = stage.feed()
        stage.feeds = [feed]
        stage.lay(feed)
        stage.start("serve", [feed.key], "--live", server=server.port)
        packet, said = server.look_up("announce=%d with the token" % stage.port, lambda said: "announce" in said)
        if packet.items[0].name != name_of(feed) or said.get("token") != TOKEN or said["announce"] != stage.port:
            raise Departure("%s: announce=%d, token=%s" % (discovery.dotted(name_of(feed)), stage.port, TOKEN.decode()), repr(packet)[:500])
        stage.connect()
        stage.copies()
