"""The first Feed, the nonces and the switch from clear to cipher; the Handshake."""

import time

from dat import wire
from dat.cipher import discovery_key
from dat.peer import PeerError, TimedOut
from suite.case import DEFACTO, MUST, SHOULD, case, register
from suite.stage import Departure, words

SOURCE = "DEP-0010 (Feed); hypercore-protocol 6.12"
CLEAR = 62  # bytes of the first Feed: length, header, two fields


def first_feed(peer, silent=False):
    """The remote's first frame, as a Feed. A listener may wait for ours: it has to know which feed is meant."""
    if not silent:
        peer.start()
    got = peer._await(peer.receive, "a Feed in the clear")
    if not isinstance(got.message, wire.Feed) or got.channel != 0:
        peer.fail("a Feed on channel 0, in the clear", words(got))
    return got


@case("dep-0010.feed/speaks-first-dialling", "opening", DEFACTO, "hypercore-protocol 6.12",
      "A peer that dials sends Feed and Handshake before the other side has said a word",
      "A listener may have many feeds and wait to hear which is meant: where both wait nothing ever happens.")
def _(stage):
    peer = stage.clones()
    first_feed(peer, silent=True)
    peer.start()
    stage.serve()
    stage.exits(0)


@case("dep-0010.feed/discovery-key", "opening", MUST, "hypercore 6.26 (hypercore-crypto) against DEP-0002",
      "The discovery key is BLAKE2b-256 of `hypercore`, keyed with the public key",
      "With another one no peer knows which feed is meant.", "E1")
def _(stage):
    peer = stage.serves()
    got = first_feed(peer).message.discoveryKey
    if got != discovery_key(stage.feeds[0].key):
        peer.fail("discovery key %s" % discovery_key(stage.feeds[0].key).hex(), got.hex())


@case("dep-0010.feed/nonce-of-24-bytes", "opening", MUST, "hypercore-protocol 6.12 against DEP-0010",
      "The first Feed carries a nonce of 24 bytes",
      "XSalsa20 takes 24; any other size closes a deployed peer's connection.", "E2")
def _(stage):
    peer = stage.serves()
    try:
        nonce = first_feed(peer).message.nonce
    except wire.CodecError as error:
        raise Departure("a Feed with a nonce of 24 bytes", str(error)) from None
    if nonce is None or len(nonce) != 24:
        peer.fail("a nonce of 24 bytes", nonce.hex() if nonce else "none")


@case("dep-0010.feed/fresh-nonce", "opening", MUST, "DEP-0010 (Feed): random nonce",
      "Each connection has a nonce of its own",
      "The same key and nonce twice: two streams that, xored, lie open.")
def _(stage):
    stage.serves()
    seen = set()
    for i in range(8):
        peer = stage.connections[0] if i == 0 else stage.connect()
        seen.add(first_feed(peer).message.nonce)
    if len(seen) != 8:
        raise Departure("8 different nonces on 8 connections", "%d" % len(seen))


def opening_bytes(peer, *messages):
    """Feed, Handshake and what follows, as they go on the wire; the log has them too."""
    sent = []
    peer.tamper_wire = lambda data: sent.append(data) or []
    peer.start()
    for message in messages:
        peer.send(message)
    peer.tamper_wire = None
    return b"".join(sent)


def split(cuts):
    def run(stage):
        peer = stage.serves()
        data = opening_bytes(peer, wire.request(3))
        places = [0] + (list(range(1, len(data))) if cuts == "all" else cuts) + [len(data)]
        for a, b in zip(places, places[1:]):
            peer.send_wire(data[a:b])
            if cuts != "all":
                time.sleep(0.03)  # let it be read apart
        peer.meets().data(3)
    return run


WHY_SPLIT = "The switch falls behind the Feed's last byte, wherever the network cuts the stream."
register("dep-0010.feed/in-one-write", "opening", MUST, SOURCE, "Feed, Handshake and Request in one write are read",
         "The clear part and the first cipher bytes often arrive in one read.", split([]))
register("dep-0010.feed/byte-by-byte", "opening", MUST, SOURCE, "The opening is read a byte at a time", WHY_SPLIT, split("all"))
for offset in range(-8, 9):
    register("dep-0010.feed/split-%s-%d" % ("before" if offset < 0 else "after", abs(offset)), "opening", MUST, SOURCE,
             "The opening is read in two parts, cut %d bytes %s the switch to cipher"
             % (abs(offset), "before" if offset < 0 else "after"), WHY_SPLIT, split([CLEAR + offset]))
for place in (1, 2, 3, 20):
    register("dep-0010.feed/split-at-%d" % place, "opening", MUST, SOURCE,
             "The opening is read in two parts, cut behind byte %d" % place,
             "Half a length or half a header is no reason to guess.", split([place]))


def raw_feed(*fields, channel=0):
    return wire.encode_frame(channel, 0, b"".join(wire.encode_raw(tag, value) for tag, value in fields))


def wrong_first(id, make, title, why, level=MUST, erratum=None, source=SOURCE):
    """First bytes that must close the connection, and harm no other."""
    def run(stage):
        peer = stage.serves()
        peer.send_wire(make(stage.feeds[0]))
        peer.closed(timeout=8)  # at once, or as one that never got to its Feed
        stage.connect().meets().ask(3)
    register("dep-0010.feed/" + id, "opening", level, source, title, why, run, erratum)


DK = lambda feed: discovery_key(feed.key)
for size in (0, 16, 23, 25, 32):
    wrong_first("nonce-of-%d-bytes" % size, lambda feed, size=size: raw_feed((1, DK(feed)), (2, bytes(size))),
                "A first Feed with a nonce of %d bytes closes the connection" % size,
                "No keystream can be made of it.", DEFACTO, "E2" if size == 32 else None)
wrong_first("no-nonce", lambda feed: raw_feed((1, DK(feed))), "A first Feed without a nonce closes the connection",
            "What follows could not be read.")
for size in (0, 31, 33):
    wrong_first("discovery-key-of-%d-bytes" % size, lambda feed, size=size: raw_feed((1, bytes(size)), (2, bytes(24))),
                "A first Feed with a discovery key of %d bytes closes the connection" % size,
                "It names no feed.", DEFACTO)
wrong_first("no-discovery-key", lambda feed: raw_feed((2, bytes(24))), "A Feed without its required field closes the connection",
            "There is nothing to talk about.")
wrong_first("other-feed", lambda feed: raw_feed((1, bytes(32)), (2, bytes(24))) + bytes(40),
            "A first Feed that the peer does not have closes the connection, or gets nothing",
            "The first feed's key is the cipher's: without it nothing can be read.")
wrong_first("not-a-feed", lambda feed: wire.encode_message(0, wire.Handshake(bytes(32), False)),
            "A first message that is no Feed closes the connection", "It cannot be for us.")
wrong_first("http", lambda feed: b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html, text/plain\r\nUser-Agent: a browser\r\n\r\n", "Another protocol closes the connection",
            "Ports are probed all day.")
wrong_first("does-not-decode", lambda feed: wire.encode_frame(0, 0, b"\x0a\x7f" + bytes(30)),
            "A Feed that does not decode closes the connection", "Unlike other messages: what follows needs it.")


@case("dep-0010.feed/nonce-before-key", "opening", MUST, "protobuf: fields in any order",
      "A Feed with its fields in the other order is read",
      "Protobuf fixes no order.")
def _(stage):
    peer = stage.serves()
    feed = stage.feeds[0]
    peer.tamper_plain = lambda plain: raw_feed((2, bytes(range(24))), (1, DK(feed)))
    peer.open(nonce=bytes(range(24)))
    peer.tamper_plain = None
    peer.handshake()
    peer.meets().ask(3)


@case("dep-0010.feed/unknown-fields", "opening", MUST, "protobuf: unknown fields are skipped",
      "A first Feed with fields of the future is read",
      "That is how protobuf messages grow.")
def _(stage):
    peer = stage.serves()
    peer.tamper_plain = lambda plain: wire.encode_frame(0, 0, plain[2:] + wire.encode_raw(9, 5) + wire.encode_raw(15, b"new"))
    peer.open()
    peer.tamper_plain = None
    peer.handshake()
    peer.meets().ask(3)


@case("dep-0010.feed/keep-alive-first", "opening", DEFACTO, "hypercore-protocol 6.12",
      "Keep-alives in the clear before the Feed are skipped",
      "A timer may fire before anything else was sent.")
def _(stage):
    peer = stage.serves()
    peer.send_wire(b"\x00\x00\x00")
    peer.meets().ask(3)


@case("dep-0010.feed/zero-nonce", "opening", MUST, SOURCE, "A nonce of zeros is a nonce like any other",
      "No value of it has a meaning.")
def _(stage):
    peer = stage.serves()
    peer.start(nonce=bytes(24))
    peer.meets().ask(3)


@case("dep-0010.feed/the-remotes-nonce", "opening", MUST, SOURCE,
      "Each direction has the nonce of its sender, even where both are equal",
      "Each side enciphers with what it announced itself.")
def _(stage):
    peer = stage.clones()
    peer.start(nonce=first_feed(peer, silent=True).message.nonce)
    stage.serve()
    stage.exits(0)


@case("dep-0010.feed/slow", "opening", DEFACTO, "hypercore-protocol 6.12: nothing is said of the order in time",
      "A Feed that comes two seconds after the connection is not too late",
      "Far peers are slow.")
def _(stage):
    peer = stage.serves()
    time.sleep(2)
    peer.meets().ask(3)


@case("dep-0010.feed/nothing-said", "opening", MUST, "robustness",
      "Connections that end before a byte was sent harm nobody",
      "Ports are probed all day.")
def _(stage):
    stage.serves().close()
    for _ in range(5):
        stage.connect().reset()
    stage.connect().meets().ask(3)


@case("dep-0010.feed/wrong-cipher", "opening", MUST, "DEP-0010 (Encryption)",
      "Bytes enciphered with another key get no block and stop nobody",
      "A peer that knows the discovery key alone cannot read, nor say anything.")
def _(stage):
    peer = stage.serves()
    peer.open()
    peer.send_wire(bytes(200))
    try:
        while True:
            if isinstance(peer.receive(1).message, wire.Data):
                peer.fail("nothing but an end", "Data")
    except (PeerError, wire.CodecError):
        pass
    stage.connect().meets().ask(3)


@case("dep-0010.encryption/long-stream", "opening", MUST, "DEP-0010 (Encryption): one keystream for each direction",
      "The keystreams run on over many messages, in both directions",
      "A keystream that is restarted, or counted in messages, breaks somewhere behind the first.")
def _(stage):
    feed = stage.feed(64, 1000)
    peer = stage.serves(feed).meets()
    for i in range(64):
        if peer.ask(i).value != feed.blocks[i]:
            peer.fail("block %d as published" % i, "other bytes")
        if i % 7 == 0:
            peer.ping()


@case("dep-0010.encryption/first-feed-only-is-clear", "opening", MUST, "DEP-0010 (Encryption)",
      "Everything behind the first Feed is enciphered",
      "A Handshake in the clear tells who is talking.")
def _(stage):
    peer = stage.serves().meets()
    clear = peer.wire_bytes("received")
    plain = b"".join(e.plain for e in peer.log if e.direction == "received")
    if clear[CLEAR:CLEAR + 20] == plain[CLEAR:CLEAR + 20]:
        peer.fail("cipher behind the first Feed", "clear bytes %s" % clear[CLEAR:CLEAR + 20].hex())


# ---- the Handshake --------------------------------------------------------------------------------

HAND = "DEP-0010 (Handshake); hypercore-protocol 6.12"


@case("dep-0010.handshake/second-message", "handshake", DEFACTO, HAND,
      "The Handshake is the message behind the first Feed, on channel 0",
      "A deployed downloader asks for nothing before it.")
def _(stage):
    peer = stage.serves()
    first_feed(peer)
    got = peer._await(peer.receive, "a Handshake on channel 0")
    if not isinstance(got.message, wire.Handshake) or got.channel != 0:
        peer.fail("a Handshake on channel 0", words(got))


@case("dep-0010.handshake/id", "handshake", SHOULD, HAND,
      "It carries an id of 32 bytes",
      "By it a peer knows a connection to itself, and the second one to the same peer.")
def _(stage):
    peer = stage.serves().meets()
    id = peer.remote_handshake.id
    if id is None or len(id) != 32:
        peer.fail("an id of 32 bytes", id.hex() if id else "none")


@case("dep-0010.handshake/live", "handshake", DEFACTO, HAND,
      "A peer that stays on says live: true",
      "The other side knows that the end of this conversation is not the end of the feed.")
def _(stage):
    peer = stage.serves().meets()
    if not peer.remote_handshake.live:
        peer.fail("live: true", "live: %s" % peer.remote_handshake.live)


@case("dep-0010.handshake/not-live", "handshake", DEFACTO, HAND,
      "A peer that does not stay on says live: false or nothing",
      "live is each side's own choice.")
def _(stage):
    peer = stage.serves(options=()).meets()
    if peer.remote_handshake.live:
        peer.fail("live: false", "live: true")


@case("dep-0010.handshake/sorted-extensions", "handshake", SHOULD, "hypercore-protocol 6.12 (issue 27)",
      "Names of extensions are sorted",
      "The deployed code matches both lists in one sorted pass: an unsorted one is misread.")
def _(stage):
    peer = stage.serves().meets()
    names = peer.remote_handshake.extensions
    if names != sorted(names):
        peer.fail("sorted names", ", ".join(names))


VARIANTS = {
    "no-id": (b"\x10\x01", "without an id", "It is optional."),
    "long-id": (wire.encode_raw(1, bytes(5000)), "with an id of 5,000 bytes", "Nobody bounds it; nobody has to keep it."),
    "id-only": (wire.encode_raw(1, b"x" * 32), "with an id alone", "Absent fields read as false."),
    "user-data": (wire.encode_raw(1, bytes(32)) + wire.encode_raw(3, b"u" * 3000), "with user data",
                  "It belongs to the application."),
    "extensions": (wire.encode_raw(1, bytes(32)) + b"".join(wire.encode_raw(4, n) for n in (b"a", b"b", b"c")),
                   "with names of extensions", "The remote may have what we have not."),
    "unsorted-extensions": (wire.encode_raw(1, bytes(32)) + b"".join(wire.encode_raw(4, n) for n in (b"z", b"a", b"z", b"")),
                            "with unsorted, doubled and empty names of extensions",
                            "Older peers send them in any order; it must not end the connection."),
    "many-extensions": (b"".join(wire.encode_raw(4, b"ext-%05d" % n) for n in range(5000)),
                        "with 5,000 names of extensions", "A list without a bound must not take the peer down."),
    "ack": (wire.encode_raw(1, bytes(32)) + b"\x28\x01", "that asks for acknowledgements", "hypercore 7.7 asks so where its user does."),
    "bool-of-two": (wire.encode_raw(1, bytes(32)) + b"\x10\x02", "with live written as 2", "Any number but 0 is true."),
    "live-twice": (wire.encode_raw(1, bytes(32)) + b"\x10\x00\x10\x01", "with live twice", "The last one counts in protobuf."),
    "unknown-fields": (wire.encode_raw(1, bytes(32)) + wire.encode_raw(6, 1) + wire.encode_raw(99, b"new"),
                       "with unknown fields", "That is how protobuf messages grow."),
    "reversed": (b"\x28\x00" + wire.encode_raw(3, b"u") + b"\x10\x00" + wire.encode_raw(1, bytes(32)),
                 "with its fields in reverse order", "Protobuf fixes no order."),
}
for slug, (body, title, why) in VARIANTS.items():
    def run(stage, body=body):
        peer = stage.serves()
        peer.open()
        peer.send_body(0, 1, body)
        peer.meets().ask(3)
        peer.wants()
    register("dep-0010.handshake/" + slug, "handshake", MUST, HAND, "A Handshake %s is taken" % title, why, run)


@case("dep-0010.handshake/second-one", "handshake", DEFACTO, "hypercore-protocol 6.12",
      "A second Handshake changes nothing",
      "Only the first one counts: what was agreed stays agreed.")
def _(stage):
    peer = stage.serves().meets()
    peer.handshake(live=True)
    peer.ask(3)
    peer.handshake(live=False, ack=True)
    peer.ask(5)


@case("dep-0010.handshake/does-not-decode", "handshake", DEFACTO, "hypercore-protocol 6.12",
      "A Handshake that does not decode is ignored, and a later one taken",
      "Bodies that do not decode are skipped, but for the Feed's.")
def _(stage):
    peer = stage.serves()
    peer.open()
    peer.send_body(0, 1, b"\x0a\x7f\x00")
    peer.handshake()
    peer.meets().ask(3)


@case("dep-0010.handshake/none", "handshake", DEFACTO, "hypercore 6.26",
      "A Request is answered even before the asker's Handshake",
      "Nothing in a Handshake is needed to answer one; peers that pipeline rely on it.")
def _(stage):
    peer = stage.serves()
    peer.open()
    peer.ask(3)


@case("dep-0010.handshake/no-want-before", "handshake", DEFACTO, "hypercore 6.26",
      "A downloader asks for no block before the remote's Handshake, and sends its Want then at the latest",
      "Until then it does not know whom it talks to. (hypercore before 6.23.0 does not wait with the Want.)")
def _(stage):
    peer = stage.clones()
    peer.open()
    peer._await(lambda: peer.wait_for(wire.Handshake), "a Handshake")
    early = []
    try:
        while True:
            early.append(peer.receive(0.7).message)
            if not isinstance(early[-1], wire.Want):
                peer.fail("no more than a Want before the Handshake", words(early))
    except TimedOut:
        pass
    peer.handshake()
    if not early:
        peer.until(wire.Want)


@case("dep-0010.handshake/downloader-takes-no-id", "handshake", MUST, HAND,
      "A downloader takes a Handshake that has only live",
      "Every field is optional.")
def _(stage):
    peer = stage.clones()
    peer.open()
    peer.send_body(0, 1, b"\x10\x00")
    stage.serve()
    stage.exits(0)
    stage.holds(stage.feeds[0])
