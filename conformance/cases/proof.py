"""Digests and proofs: what a downloader says that it holds, and what a server sends for it.

For every feed of up to 33 blocks each index is asked for with each digest that can occur, and the answer compared node
by node.
"""

import random
import socket

from dat import feed as feeds
from dat import flat, wire
from dat import peer as peers
from dat.cipher import Receiver, Sender
from dat.tree import Holding, VerifyError
from suite.case import DEFACTO, MUST, SHOULD, case, register
from suite.stage import WANT_STEP, Departure, ranges, words

SOURCE = "hypercore 6.26 (tree-index); DEP-0002 and DEP-0010 say less"
FIXED = bytes(24)


def digests(index, length):
    """Every digest that a downloader of this feed can send for a block: which uncles are held up to where.

    Below its full root every level's uncle may be held or not, and the way ends where a parent is held.
    """
    node, depth = 2 * index, 0
    while flat.right_span(flat.parent(node)) < 2 * length and flat.left_span(flat.parent(node)) >= 0:
        if flat.right_span(flat.parent(node)) >= 2 * length:
            break
        node, depth = flat.parent(node), depth + 1
    found = {1}
    for levels in range(depth + 1):
        for uncles in range(1 << levels):
            found.add(uncles << 1)  # no parent held
            if levels:  # the parent at the last of these levels is held, and that level's uncle too, or not
                digest = 1 << levels + 1 | (uncles & (1 << levels) - 1) << 1 | 1
                found.add(1 if digest + 1 == 1 << levels + 2 else digest)
    return sorted(found)


def chains(index, length):
    """All digests for a block, in rows each of which says more than the one before.

    A server remembers what its asker said. Along such a row that changes nothing: what a digest says holds all that
    the earlier ones said, so each is answered as if it were the first word, and one connection does for the row.
    """
    mine, rows = Holding(), []
    for i in range(length):
        mine.set(2 * i)
    for digest in digests(index, length)[1:]:  # all but 1, which says that the leaf itself is held
        said = Holding()
        said.learn(2 * index, digest, mine)
        said = frozenset(said)
        rows.append((len(said), digest, said))
    out = []
    for _, digest, said in sorted(rows, key=lambda row: row[:2]):
        for row in out:
            if row[-1][1] <= said:
                row.append((digest, said))
                break
        else:
            out.append([(digest, said)])
    out[0].append((1, None))
    return [[digest for digest, _ in row] for row in out]


class Asker:
    """Asks one thing after the other on a connection: a peer with no more than is needed for thousands of them."""

    def __init__(self, stage):
        self.feed, self.port, self.patience = stage.feeds[0], stage.port, stage.patience
        sender = Sender(self.feed.key, FIXED)
        self.opening = sender.encode(wire.encode_message(0, wire.Feed(self.feed.discovery_key, FIXED)))
        self.cipher = sender.cipher
        self.hand = wire.encode_message(0, wire.Handshake(bytes(32), False)) + wire.encode_message(0, wire.Have(0, WANT_STEP, b""))

    def ask(self, *requests):
        """Yields the Data for each of these Requests; None, and the end, where none comes."""
        self.cipher.offset, plain = 0, self.hand
        receiver, got, asked = Receiver(self.feed.key), [], set()
        with socket.create_connection((peers.LOOPBACK, self.port), self.patience) as sock:
            sock.sendall(self.opening)
            for request in requests:
                if request.index in asked:  # see Connection._again
                    plain += wire.encode_message(0, wire.Unhave(request.index))
                asked.add(request.index)
                sock.sendall(self.cipher.xor(plain + wire.encode_message(0, request)))
                plain = b""
                while not got:
                    try:
                        chunk = sock.recv(65536)
                    except OSError:
                        chunk = b""
                    if not chunk:
                        yield None
                        return
                    got = [f.message() for f in receiver.feed(chunk) if f.is_message and f.type == wire.Data.TYPE]
                yield got.pop(0)


def compare(stage, request, got):
    expected = stage.feeds[0].answer(request)
    if got != expected:
        raise Departure(words(expected), words(got) if got else "no Data", words(request))


def verifies(stage, request, got, holding):
    """A downloader that holds these nodes can check this Data."""
    feed, mine = stage.feeds[0], feeds.Feed(stage.feeds[0].key)
    for i in holding:
        mine.tree.put(feed.tree.get(i))
    try:
        mine.put(got)
    except VerifyError as error:
        raise Departure("Data that verifies with nodes %s" % ranges(holding), "%s: %s" % (words(got), error), words(request)) from None


def exhaustive(length, indexes, part=""):
    def run(stage):
        stage.serves(stage.feed(length, 3)).close()
        asker, asked = Asker(stage), 0
        for index in indexes:
            for row in chains(index, length):
                requests = [wire.request(index, digest) for digest in row]
                for request, got in zip(requests, asker.ask(*requests)):
                    compare(stage, request, got)
                    asked += 1
        stage.note("%d Requests" % asked)
    register("dep-0002.proof/%d-blocks%s" % (length, part and "-" + part), "proof", DEFACTO, SOURCE,
             "In a feed of %d block%s, %s with every digest gets exactly the nodes that lack, and the signature if needed"
             % (length, "s" if length > 1 else "", "each index of the %s half" % part if part else "every index"),
             "A node too few and nothing verifies; a node too many is bytes that nobody needs.", run)


for length in range(1, 34):
    if length < 20:
        exhaustive(length, range(length))
    else:  # in halves: each must be done in a case's time
        exhaustive(length, range(length // 2), "left")
        exhaustive(length, range(length // 2, length), "right")

for length in (1, 2, 3, 4, 5, 7, 8, 12, 16, 21, 32, 33):
    def run(stage, length=length):
        stage.serves(stage.feed(length, 3)).close()
        asker, rng = Asker(stage), random.Random(length)
        for _ in range(60):
            holder = feeds.Feed(stage.feeds[0].key)
            for i in rng.sample(range(length), rng.randrange(length)):
                holder.put(stage.feeds[0].answer(wire.request(i, holder.digest(i)), Holding(holder.tree.holding)))
            index = rng.randrange(length)
            if holder.has(index):
                continue
            request = wire.request(index, holder.digest(index))
            got = next(asker.ask(request))
            if not got:
                raise Departure("Data of block %d" % index, "none", words(request))
            verifies(stage, request, got, list(holder.tree.nodes))
    register("dep-0002.proof/verifies-%d" % length, "proof", MUST, "DEP-0002; hypercore 6.26",
             "In a feed of %d blocks, what is sent verifies for downloaders that hold any part of it" % length,
             "Whatever else is sent: this is what proofs are for.", run)

for length in (64, 100, 255, 1000, 1025):
    def run(stage, length=length):
        stage.serves(stage.feed(length, 3, batch=8)).close()
        asker, rng = Asker(stage), random.Random(length)
        pairs = [(i, d) for i in {0, 1, length // 2, length - 2, length - 1, *rng.sample(range(length), 20)} for d in
                 rng.sample(digests(i, length), min(12, len(digests(i, length))))]
        for index, digest in pairs:
            request = wire.request(index, digest)
            expected = stage.feeds[0].answer(request)
            if expected is None:
                continue  # the length that this peer must prove has no signature: see batch below
            compare(stage, request, next(asker.ask(request)))
    register("dep-0002.proof/sampled-%d" % length, "proof", DEFACTO, SOURCE,
             "In a feed of %d blocks signed by eights, sampled indexes and digests get exactly what lacks" % length,
             "Larger trees, and signatures that only some lengths have.", run)

for length in (1, 2, 5, 8, 13, 33):
    def run(stage, length=length):
        stage.serves(stage.feed(length, 3)).close()
        asker = Asker(stage)
        for index in range(length):
            for digest in digests(index, length)[:24]:
                request = wire.request(index, digest, hash=True)
                compare(stage, request, next(asker.ask(request)))
    register("dep-0002.hash-request/%d-blocks" % length, "request", DEFACTO, SOURCE,
             "In a feed of %d block%s, a Request of a hash gets the leaf first, then the nodes that lack, and no value"
             % (length, "s" if length > 1 else ""),
             "So a downloader learns the tree without the blocks.", run)


@case("dep-0002.proof/remembers", "proof", SHOULD, "hypercore 6.26",
      "What an earlier digest on the channel said is not sent again for a later Request",
      "The deployed server remembers what its asker holds: a later nodes: 0 withdraws nothing. Who forgets sends bytes too many.")
def _(stage):
    stage.serves().close()
    asker, feed, rng = Asker(stage), stage.feeds[0], random.Random(5)
    for _ in range(40):
        one, two = rng.sample(range(8), 2)
        requests = [wire.request(i, rng.choice(digests(i, 8))) for i in (one, two)]
        remote = Holding()
        expected = [feed.answer(r, remote) for r in requests]
        for request, data, got in zip(requests, expected, asker.ask(*requests)):
            if got == data:
                continue
            sent = ", then ".join(map(words, requests))
            if got != feed.answer(request):  # nor as if it were the first word
                raise Departure(words(data), words(got) if got else "no Data", sent)
            if not stage.looser:
                stage.looser.append({"sent": sent, "expected": words(data), "got": words(got)})


@case("dep-0002.proof/partial-server", "proof", DEFACTO, "hypercore 6.26",
      "A server that holds a part of the tree proves what it holds with the nodes that it has",
      "Clones serve before they are complete.")
def _(stage):
    whole = stage.feed(16, 3)
    part = feeds.Feed(whole.key)
    for i in (15, 2, 9):
        part.put(whole.answer(wire.request(i, part.digest(i))))
    stage.serves(part).close()
    asker = Asker(stage)
    for i in (15, 2, 9):
        request = wire.request(i)
        compare(stage, request, next(asker.ask(request)))


@case("dep-0002.proof/signature-of-length", "proof", DEFACTO, "hypercore 6.26",
      "Blocks of a feed that is signed batch by batch are proven with a signature that there is",
      "Only the last block of a batch has one; a signature of another length never verifies.")
def _(stage):
    stage.serves(stage.feed(12, 3, batch=4)).close()
    asker = Asker(stage)
    for index in range(12):
        request = wire.request(index)
        compare(stage, request, next(asker.ask(request)))


def _hold(holding, data):
    """Note the nodes that this Data brings, and those on the way up that it proves."""
    for node in data.nodes:
        holding.set(node.index)
    holding.set(2 * data.index)


# ---- what a downloader says that it holds -----------------------------------------------------------------

for length in (1, 2, 3, 5, 6, 8, 11, 15, 16):
    def run(stage, length=length):
        feed, rng = stage.feed(length, 3), random.Random(length)
        holder = feeds.Feed(feed.key)
        for i in rng.sample(range(length), length // 2):
            holder.put(feed.answer(wire.request(i, holder.digest(i)), Holding(holder.tree.holding)))
        stage.lay(holder)
        peer = stage.wanted(feed)
        peer.send(wire.Have(0, length))
        missing = set(range(length)) - set(holder.blocks)
        # What it will hold once its earlier Requests are answered, in their order, may count already, or not yet.
        later, remote, before = Holding(holder.tree.holding), Holding(), [Holding(holder.tree.holding)]
        while missing:
            request = peer.until(wire.Request, expected="Requests of blocks %s" % ranges(missing))
            i, nodes = request.index, request.nodes or 0
            if i not in missing:
                peer.fail("Requests of blocks %s" % ranges(missing), words(request))
            if nodes not in [h.digest(2 * i) for h in before + [later]]:
                peer.fail("Request{index: %d, nodes: %d} by one that holds nodes %s" % (i, holder.digest(i), ranges(holder.tree.holding)),
                          "nodes: %d" % nodes)
            missing.discard(i)
            data = feed.answer(request, remote)
            _hold(later, data)
            peer.send(data)
            holder.put(data)
            before.append(Holding(holder.tree.holding))
    register("dep-0002.digest/part-of-%d" % length, "digest", DEFACTO, SOURCE,
             "A downloader that holds part of a feed of %d block%s says just what it holds in each Request"
             % (length, "s" if length > 1 else ""),
             "Too much and the proof cannot be checked; too little and known nodes come again.", run)


for length in range(2, 34):
    def run(stage, length=length):
        feed = stage.feed(length, 3)
        peer = stage.clones(feed, options=("--live",), dial=False).meets().offers_nothing()
        # Another connection hears when a block is in: only then does the next Request tell of it.
        other = stage.connect().meets()
        other.wants()
        mine, order = feeds.Feed(feed.key), list(range(length))
        random.Random(length).shuffle(order)
        for i in order:
            peer.send(wire.Have(i))
            request = peer.until(wire.Request, where=lambda r: r.index == i, expected="a Request of block %d" % i)
            if (request.nodes or 0) != mine.digest(i):
                peer.fail("nodes: %d by one that holds nodes %s" % (mine.digest(i), ranges(mine.tree.holding)), words(request))
            data = feed.answer(request)
            peer.send(data)
            mine.put(data)
            other.until(wire.Have, where=lambda h: h.start == i, expected="a Have of block %d" % i)
    register("dep-0002.digest/growing-%d" % length, "digest", DEFACTO, SOURCE,
             "A downloader of %d blocks, told of one after the other in any order, says in each Request what it holds by then" % length,
             "Each block brings nodes; the digest tells them all.", run)
