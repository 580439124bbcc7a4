"""What a downloader must take and must refuse: nothing that the owner of the key did not sign reaches its disk."""

from dataclasses import replace

from dat import feed as feeds
from dat import peer as peers
from dat import sodium, wire
from dat.bitfield import rle_encode
from dat.wire import Node
from suite.case import DEFACTO, MUST, SHOULD, case, register
from suite.stage import WHOLE, Departure, words

SOURCE = "DEP-0002 (verification); hypercore 6.26"
VICTIM = 5  # of 8 blocks


def settle(peer):
    """As long as the downloader takes to close, to ask again or to be bored."""
    try:
        while True:
            peer.wait_for(wire.Request, timeout=0.4)
    except (peers.Closed, peers.TimedOut):
        pass


def tampered(slug, change, title, why, level=MUST, victim=VICTIM, first=False):
    """One Data is false, the others honest: the false block is not stored, and nothing false is claimed.

    The downloader may drop the connection, ask again or wait: all that counts is its folder.
    """
    def run(stage):
        feed = stage.feed(8)
        peer = stage.wanted(feed)
        if not first:  # it has verified the feed's last block by then
            peer.send(wire.Have(7))
            request = peer.until(wire.Request, where=lambda r: r.index == 7)
            peer.send(feed.answer(request))
        peer.send(wire.Have(victim))
        request = peer.until(wire.Request, where=lambda r: r.index == victim, expected="a Request of block %d" % victim)
        false = change(feed, feed.answer(request))
        peer.send(false)
        settle(peer)
        stage.stop()
        try:
            found = stage.stored(feed)
        except Departure as error:
            peer.fail("a folder without a fault after false Data", error.got)
        for i, value in found.blocks.items():
            if value != feed.blocks[i]:
                peer.fail("no block that the owner did not sign", "block %d of other bytes" % i)
        for i in found.tree.nodes:
            if i not in feed.tree or found.tree.get(i) != feed.tree.get(i):
                peer.fail("no node that is not the feed's", "node %d" % i)
        if found.has(victim):
            peer.fail("block %d refused" % victim, "it is claimed")
    register("dep-0002.verify/" + slug, "data", level, SOURCE, "Data with %s is refused" % title, why, run)


def flip(data, at=0):
    return bytes(b ^ (0x40 if i == at % len(data) else 0) for i, b in enumerate(data))


def with_nodes(data, change):
    return replace(data, nodes=[change(i, n) for i, n in enumerate(data.nodes)])


def other_owner(feed, data):
    """The same content, signed by somebody else."""
    forged = feeds.Feed(*sodium.keypair(b"\x66" * 32))
    forged.append(*[b"evil %d" % i for i in range(8)])
    return forged.answer(wire.request(data.index))


TRUST = "The key is all that a reader trusts."
for first, when in ((True, "first"), (False, "later")):
    extra = " (as the first word of the feed)" if first else " (when the feed's end is verified already)"
    tampered("value-flipped-" + when, lambda f, d: replace(d, value=flip(d.value)), "one bit of the value changed" + extra, TRUST, first=first)
    tampered("value-longer-" + when, lambda f, d: replace(d, value=d.value + b"\0"), "a value that is one byte longer" + extra, TRUST, first=first)
    tampered("value-shorter-" + when, lambda f, d: replace(d, value=d.value[:-1]), "a value that is one byte shorter" + extra, TRUST, first=first)
    tampered("value-empty-" + when, lambda f, d: replace(d, value=b""), "an empty value" + extra, TRUST, first=first)
    tampered("value-of-another-block-" + when, lambda f, d: replace(d, value=f.blocks[2]), "the value of another block" + extra,
             "The leaf hash does not hold the index: the place in the tree does.", first=first)
    tampered("other-owner-" + when, other_owner, "another owner's block, nodes and signature" + extra, TRUST, first=first)
    tampered("node-hash-" + when, lambda f, d: with_nodes(d, lambda i, n: Node(n.index, flip(n.hash), n.size) if i == 0 else n) if d.nodes else replace(d, value=flip(d.value)),
             "one bit of the first node's hash changed" + extra, "A node is as good as the signature above it.", first=first)
    tampered("node-size-" + when, lambda f, d: with_nodes(d, lambda i, n: Node(n.index, n.hash, n.size + 1) if i == 0 else n) if d.nodes else replace(d, value=flip(d.value)),
             "one node's size changed" + extra, "Sizes tell where each block lies in the data file.", first=first)
    tampered("no-nodes-" + when, lambda f, d: replace(d, nodes=[], value=flip(d.value)), "a false value and no nodes" + extra, TRUST, first=first)

tampered("no-signature", lambda f, d: replace(d, signature=None), "no signature", "Nothing vouches for the roots.", first=True)
tampered("signature-flipped", lambda f, d: replace(d, signature=flip(d.signature)), "one bit of the signature changed", TRUST, first=True)
tampered("signature-last-bit", lambda f, d: replace(d, signature=flip(d.signature, 63)), "one bit of the signature's last byte changed", TRUST, first=True)
tampered("signature-of-63-bytes", lambda f, d: replace(d, signature=d.signature[:63]), "a signature of 63 bytes", "It stops hypercore 6.26.", first=True)
tampered("signature-of-65-bytes", lambda f, d: replace(d, signature=d.signature + b"\0"), "a signature of 65 bytes",
         "Ed25519 signatures have 64; where the 65th byte is dropped nothing false is taken.", level=SHOULD, first=True)
tampered("signature-empty", lambda f, d: replace(d, signature=b""), "an empty signature", "Nothing vouches for the roots.", first=True)
tampered("signature-of-another-length", lambda f, d: replace(d, signature=f.signatures[3]), "the owner's signature of another length",
         "A signature is of one length's roots.", first=True)
tampered("node-missing", lambda f, d: replace(d, nodes=d.nodes[1:]), "its first node left out", "What is missing cannot be checked.", first=True)
tampered("last-node-missing", lambda f, d: replace(d, nodes=d.nodes[:-1]), "its last node left out", "What is missing cannot be checked.", first=True)
tampered("nodes-swapped", lambda f, d: replace(d, nodes=[Node(a.index, b.hash, b.size) for a, b in zip(d.nodes, d.nodes[1:] + d.nodes[:1])]),
         "its nodes' hashes exchanged", "A hash belongs to its place.", first=True)
tampered("hash-of-31-bytes", lambda f, d: with_nodes(d, lambda i, n: Node(n.index, n.hash[:31], n.size)), "node hashes of 31 bytes",
         "A short hash moves all that is hashed behind it.", first=True)
tampered("size-largest", lambda f, d: with_nodes(d, lambda i, n: Node(n.index, n.hash, (1 << 64) - 1)), "node sizes of 2^64 - 1",
         "Sums of sizes must not wrap around.", first=True)
tampered("node-index-largest", lambda f, d: with_nodes(d, lambda i, n: Node((1 << 64) - 1, n.hash, n.size)), "node indexes of 2^64 - 1",
         "Room for a node is not to be made before it is verified.", first=True)
tampered("shifted", lambda f, d: replace(d, value=f.blocks[4], nodes=f.answer(wire.request(4)).nodes), "the block, nodes and signature of its neighbour",
         "All of it is genuine but the index.", first=True)
tampered("only-value", lambda f, d: wire.Data(d.index, d.value), "a value and nothing else", "Nothing vouches for it.", first=True)


for slug, value in (("unlinked-block", b"evil"), ("unlinked-empty-block", b"")):
    def run(stage, value=value):
        feed = stage.feed(8)
        peer = stage.wanted(feed)
        peer.send(wire.Have(VICTIM))
        peer.until(wire.Request)
        peer.send(wire.Data(VICTIM, value, [feed.tree.get(7)], feed.signatures[7]))
        settle(peer)
        stage.stop()
        try:
            found = stage.stored(feed)
        except Departure as error:
            peer.fail("a folder without a fault", error.got)
        if found.has(VICTIM):
            peer.fail("block %d refused" % VICTIM, "it is claimed")
    register("dep-0002.verify/" + slug, "data", MUST, SOURCE,
             "A false block%s is refused when the roots and signature sent with it are genuine but do not cover it"
             % ("" if value else " of no bytes"),
             "A signature vouches for roots; the block must hash up to one of them. (hypercore 6.26 takes an empty block so.)", run)


@case("dep-0002.verify/unasked", "data", MUST, SOURCE,
      "Data that nobody asked for is not stored, true or false",
      "A remote that chooses what a reader stores fills its disk.")
def _(stage):
    feed = stage.feed(8)
    peer = stage.wanted(feed)
    peer.send(wire.Have(1))
    peer.until(wire.Request)
    peer.send(replace(feed.answer(wire.request(6)), value=b"false"))
    try:
        peer.wait_for(wire.Have, timeout=0.5)
    except (peers.Closed, peers.TimedOut):
        pass
    stage.stop()
    found = stage.stored(feed)
    if found.has(6):
        peer.fail("block 6 not stored", "it is claimed")


@case("dep-0002.verify/late-truth", "data", MUST, SOURCE,
      "After false Data on one connection the feed can be had whole on the next",
      "One liar must not spoil what honest peers bring.")
def _(stage):
    feed = stage.feed(8)
    peer = stage.clones(feed, options=("--live",), dial=False).meets()
    peer.until(wire.Want)
    peer.send(wire.Have(0, 8))
    request = peer.until(wire.Request)
    peer.send(replace(feed.answer(request), value=b"false"))
    try:
        while True:
            peer.wait_for(wire.Request, timeout=0.5)
    except (peers.Closed, peers.TimedOut):
        peer.close()
    second = stage.connect()
    whole = set(feed.blocks)
    told = set()
    conversation = stage.serve(second, wait=False, live=True)
    for _ in range(60):
        told = {e.message.index for e in second.log if e.direction == "sent" and isinstance(e.message, wire.Data)}
        if told >= whole:
            break
        peers.time.sleep(0.1)
    peers.time.sleep(0.3)
    conversation.stop()
    stage.join(conversation)
    stage.stop()
    stage.holds(feed)


@case("dep-0002.verify/hash-only", "data", MUST, SOURCE,
      "Data without a value, where a block was asked for, stores no block",
      "What a hash request brings is the tree alone.")
def _(stage):
    feed = stage.feed(8)
    peer = stage.wanted(feed)
    peer.send(wire.Have(VICTIM))
    request = peer.until(wire.Request)
    peer.send(feed.answer(replace(request, hash=True)))
    settle(peer)
    stage.stop()
    if stage.stored(feed).has(VICTIM):
        peer.fail("no block", "block %d is claimed" % VICTIM)


@case("dep-0002.verify/more-nodes-than-needed", "data", DEFACTO, SOURCE,
      "Nodes that the downloader holds already do no harm, if they are true",
      "A server that forgot what its asker said sends them again.")
def _(stage):
    feed = stage.feed(8)
    conversation = Forgetful(stage.clones(feed), [feed], timeout=stage.patience * 2)
    conversation.thread = peers.Background(conversation.run)
    stage.join(conversation)
    stage.exits(0)
    stage.holds(feed)


class Forgetful(peers.Conversation):
    """Answers each Request as if its asker held nothing."""

    def _on_request(self, channel, request):
        self._send(channel, channel.feed.answer(replace(request, nodes=0)))


for slug, order, title in (("reversed", lambda n: n[::-1], "in reverse order"),
                           ("shuffled", lambda n: n[1::2] + n[::2], "in another order than it was asked for")):
    def run(stage, order=order):
        feed = stage.feed(30)
        peer = stage.clones(feed).meets()
        peer.until(wire.Want)
        peer.send(wire.Have(29))
        peer.send(feed.answer(peer.until(wire.Request)))
        peer.send(wire.Have(0, WHOLE, rle_encode(b"\xff\xff\xff\xfc")))
        given = {29}
        while len(given) < 30:
            asked = [peer.until(wire.Request, expected="Requests of %d more blocks" % (30 - len(given)))]
            try:
                while True:
                    asked.append(peer.wait_for(wire.Request, timeout=0.05).message)
            except peers.TimedOut:
                pass
            for request in order(asked):
                peer.send(feed.answer(replace(request, nodes=0)))
                given.add(request.index)
        stage.exits(0)
        stage.holds(feed)
    register("dep-0002.data/answers-" + slug, "data", MUST, SOURCE, "Data that comes %s is taken" % title,
             "Answers come as disks bring them.", run)


@case("dep-0002.data/unasked-unhave", "data", DEFACTO, "hypercore 6.26",
      "Data of a block that a server neither asked for nor holds is answered with Unhave where the remote has sent Want",
      "So the remote hears that its block went nowhere.")
def _(stage):
    feed, part = stage.feed(8), feeds.Feed(stage.feed(8).key)
    part.put(feed.answer(wire.request(7)))
    stage.lay(part)
    peer = stage.wanted(feed)
    peer.wants()
    peer.send(feed.answer(wire.request(2)))
    got = peer.until(wire.Unhave)
    if got.start != 2 or got.read("length") != 1:
        peer.fail("Unhave{start: 2}", words(got))


@case("dep-0002.data/no-have-back", "data", DEFACTO, "hypercore 6.26",
      "The giver of a block is not told by Have that it was stored, others are",
      "It knows; everybody else can now ask here.")
def _(stage):
    feed = stage.feed(8)
    giver = stage.clones(feed, options=("--live",), dial=False).meets()
    other = stage.connect().meets()
    giver.offers_nothing()
    other.wants()
    giver.wants()
    giver.send(wire.Have(3))
    request = giver.until(wire.Request)
    giver.send(feed.answer(request))
    got = other.until(wire.Have, expected="a Have of block 3 on the other connection")
    if got.start != 3:
        other.fail("Have{start: 3}", words(got))
    try:
        giver.fail("no Have to the giver", words(giver.wait_for(wire.Have, timeout=0.5)))
    except peers.TimedOut:
        pass
