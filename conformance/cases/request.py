"""Requests by byte and by hash, of what is not there, in great number; Cancel."""

from dat import feed as feeds
from dat import peer as peers
from dat import sodium, wire
from dat.peer import Closed
from suite.case import DEFACTO, MUST, case, register
from suite.stage import words

SOURCE = "hypercore 6.26; DEP-0010 (Request)"
SIZES = (5, 0, 7, 1, 12, 3)  # of the blocks of a feed with an empty one


def uneven():
    feed = feeds.Feed(*sodium.keypair(b"\x07" * 32))
    for i, size in enumerate(SIZES):
        feed.append(bytes([65 + i]) * size)
    return feed


for offset in (1, 4, 5, 6, 11, 12, 13, 24, 25, 27):
    def run(stage, offset=offset):
        feed = uneven()
        peer = stage.serves(feed).meets()
        request = wire.request(0, bytes=offset)
        peer.send(request)
        got, expected = peer.until(wire.Data), feed.answer(request)
        if got != expected:
            peer.fail(words(expected), words(got))
    register("dep-0010.bytes-request/offset-%d" % offset, "request", DEFACTO, SOURCE,
             "A Request of byte %d (blocks of 5, 0, 7, 1, 12 and 3 bytes) gets the block that holds it, with its index" % offset,
             "How a player seeks in a file whose blocks it does not know.", run)


@case("dep-0010.bytes-request/zero", "request", DEFACTO, SOURCE,
      "bytes: 0 counts as absent: the index decides",
      "The deployed code writes it in every Request.")
def _(stage):
    stage.serves(uneven()).meets().ask(4, bytes=0)


@case("dep-0010.bytes-request/beyond", "request", DEFACTO, "hypercore 6.26",
      "A byte beyond the end falls back to the index",
      "6.26 answers so; 7.7.1 closes for the byte just beyond the end.")
def _(stage):
    stage.serves(uneven()).meets().ask(2, bytes=1000)


@case("dep-0010.bytes-request/nodes-do-not-count", "request", DEFACTO, "hypercore 6.26",
      "A Request by byte is answered as if its nodes were 0",
      "The asker cannot say what it holds around a block that it does not know.")
def _(stage):
    feed = uneven()
    peer = stage.serves(feed).meets()
    peer.send(wire.Request(0, 6, False, 5))
    got, expected = peer.until(wire.Data), feed.answer(wire.request(0, bytes=6))
    if got != expected:
        peer.fail(words(expected), words(got))


@case("dep-0010.bytes-request/repeat", "request", DEFACTO, "hypercore 6.26",
      "A second Request of the same byte is not answered again",
      "Its asker has not read the answer yet.")
def _(stage):
    peer = stage.serves(uneven()).meets()
    peer.send(wire.request(0, bytes=6))
    peer.send(wire.request(0, bytes=6))
    peer.data(2)
    peer.nothing_before(4, wire.Data, why="one Data for the two")


@case("dep-0010.hash-request/no-value", "request", MUST, SOURCE,
      "A Request with hash: true gets no value",
      "Who asks for a hash does not want the block's megabytes.")
def _(stage):
    peer = stage.serves().meets()
    got = peer.ask(3, hash=True)
    if got.value is not None or not got.nodes or got.nodes[0].index != 6:
        peer.fail("Data without a value, its first node the leaf 6", words(got))


@case("dep-0010.request/again", "request", MUST, SOURCE,
      "A block that is asked for twice is sent twice, at the latest after an Unhave",
      "The first may have been lost on the asker's disk. (hypercore before 6.18.2 waits for the Unhave.)")
def _(stage):
    peer = stage.serves().meets()
    value = peer.ask(3).value
    peer.asked.clear()
    peer.send(wire.request(3))
    again = [g.message for g in peer.before(5, wire.Data)]
    if not again:
        again = [peer.ask(3)]
        stage.loosely("a second answer", "none before Unhave{start: 3}", peer)
    if [d.value for d in again] != [value]:
        peer.fail("the same block", words(again))


@case("dep-0010.request/absent-block", "request", DEFACTO, "hypercore 6.26",
      "A block that is not held, but whose leaf is, gets no answer, and the connection goes on, or closes",
      "No error is known to the protocol; hypercore before 6.6.1 closes.")
def _(stage):
    feed = stage.feed()
    feed.bitfield.set(5, False)
    del feed.blocks[5]
    peer = stage.serves(feed).meets()
    peer.send(wire.request(5))
    if not peer.closes_or_serves(3):
        stage.note("it closes")
        stage.connect().meets().ask(3)
    if any(isinstance(e.message, wire.Data) and e.message.index == 5 and e.direction == "received" for e in peer.log):
        peer.fail("no Data of block 5", "Data of block 5")


@case("dep-0010.request/absent-leaf", "request", DEFACTO, "hypercore 6.26",
      "A block whose leaf is not in the tree gets no Data; the connection may close, and others are served",
      "Asked before the asker could know, or in error.")
def _(stage):
    peer = stage.serves().meets()
    peer.send(wire.request(100))
    try:
        while True:
            got = peer.receive(0.5)
            if isinstance(got.message, wire.Data):
                peer.fail("no Data of block 100", words(got))
    except (Closed, peers.TimedOut):
        stage.after_its_close()
    stage.connect().meets().ask(3)


@case("dep-0010.request/before-want", "request", DEFACTO, "hypercore issue 122",
      "A Request before any Want or Have is answered",
      "hypercore before 6.10.3 dies here; who knows the index may ask at once. All other cases first say what they hold.")
def _(stage):
    peer = stage.serves().meets()
    peer.told.add(0)  # though nothing was said
    peer.ask(3)


@case("dep-0010.request/thousand", "request", MUST, SOURCE,
      "A thousand Requests at once are all answered",
      "A fast downloader on a far line keeps many outstanding.")
def _(stage):
    feed = stage.feed(1000, 30, batch=1000)
    peer = stage.serves(feed).meets()
    peer.tells().send_plain(b"".join(wire.encode_message(0, wire.request(i, 1)) for i in range(1000)))
    missing = set(range(1000))
    while missing:
        got = peer.until(wire.Data, expected="Data of %d more blocks" % len(missing))
        if got.value != feed.blocks[got.index]:
            peer.fail("block %d" % got.index, "other bytes")
        missing.discard(got.index)


@case("dep-0010.request/nobody-reads", "request", MUST, "robustness",
      "Five thousand Requests of an asker that reads nothing do not stop the peer from serving others",
      "Answers must wait in a bounded room. (With blocks of 64 KiB hypercore 6.26 needs 1.5 GB for this.)")
def _(stage):
    peer = stage.serves(stage.feed(8, 4000)).meets()
    peer.tells().timeout = 1
    try:
        for _ in range(5):
            peer.send_plain(wire.encode_message(0, wire.request(3)) * 1000)
    except peers.PeerError:
        pass
    stage.connect().meets().ask(3)


@case("dep-0010.cancel/answered-all-the-same", "request", DEFACTO, "hypercore 6.26 against DEP-0010",
      "A Request that is cancelled later is answered, or not; others are",
      "No deployed peer acts on Cancel; a peer that does must drop that Request alone.", "E10")
def _(stage):
    peer = stage.serves().meets()
    peer.send(wire.request(5))
    peer.send(wire.Cancel(5))
    peer.send(wire.request(3))
    peer.data(3)


@case("dep-0010.unwant/answers-go-on", "request", DEFACTO, "hypercore 6.26 against DEP-0010",
      "After an Unwant, Requests are answered",
      "No deployed peer acts on it.", "E10")
def _(stage):
    peer = stage.serves().meets()
    peer.send(wire.Want(0, 1 << 20))
    peer.send(wire.Unwant(0, 1 << 20))
    peer.ask(3)


@case("dep-0010.request/large-blocks", "request", DEFACTO, "hypercore-protocol 6.12",
      "Blocks of 8,380,416 bytes are sent whole",
      "The largest that is sure to fit a frame with its proof.")
def _(stage):
    feed = stage.feed(2, 8388608 - 8192)
    peer = stage.serves(feed).meets()
    if peer.ask(1).value != feed.blocks[1]:
        peer.fail("block 1 as published", "other bytes")


@case("dep-0010.request/empty-block", "request", MUST, SOURCE,
      "An empty block is sent with a value that is present and empty",
      "Without the field it would be the answer to a hash request.")
def _(stage):
    peer = stage.serves(uneven()).meets()
    got = peer.ask(1)
    if got.value != b"":
        peer.fail("an empty value", words(got))
