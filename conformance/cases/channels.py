"""Channels, extensions, keep-alives and timeouts."""

import time

from dat import wire
from dat.cipher import discovery_key
from dat.peer import Closed
from suite.case import DEFACTO, MUST, SHOULD, case, register
from suite.stage import WHOLE, words

SOURCE = "DEP-0010 (Multiple feeds); hypercore-protocol 6.12"
STRANGER = bytes(range(32))


@case("dep-0010.channels/own-numbers", "channels", MUST, "hypercore-protocol 6.12 against DEP-0010's open question",
      "Each side numbers its channels itself: a feed that the peer calls 0 may be our 3",
      "The race for a number that DEP 0010 asks about cannot occur: the two numbers of a feed are joined by its discovery key.", "E7")
def _(stage):
    stage.feeds = [stage.feed(seed=1), stage.feed(seed=2)]
    peer = stage.serves(*stage.feeds).meets()
    other = stage.feeds[1]
    peer.open(other.key, channel=3)
    peer.send(wire.request(2), 3)
    got = peer.until(wire.Data, expected="Data of the feed on our channel 3", key=other.key)
    if got.value != other.blocks[2]:
        peer.fail("block 2 of the feed on our channel 3", words(got))


@case("dep-0010.channels/second-feed-opens", "channels", MUST, SOURCE,
      "A peer with two feeds opens the second one on a channel of its own, without a nonce",
      "One connection carries a drive's two feeds.")
def _(stage):
    feeds = [stage.feed(seed=1), stage.feed(seed=2)]
    peer = stage.serves(*feeds).meets()
    if not peer.remote_feeds.get(1) == discovery_key(feeds[1].key):
        peer.open(feeds[1].key)
        got = peer._await(lambda: peer.wait_for(wire.Feed), "a Feed for the second feed")
        if got.channel == 0 or got.message.discoveryKey != discovery_key(feeds[1].key):
            peer.fail("a Feed for the second feed on another channel", words(got))
        if got.message.nonce:
            peer.fail("a Feed without a nonce", words(got))


@case("dep-0010.channels/nonce-again", "channels", MUST, SOURCE,
      "A nonce in a later Feed changes nothing",
      "The streams have their nonces already.")
def _(stage):
    feeds = [stage.feed(seed=1), stage.feed(seed=2)]
    peer = stage.serves(*feeds).meets()
    peer.open(feeds[1].key, nonce=bytes(24))
    peer.send(wire.request(2), 1)
    peer.until(wire.Data, key=feeds[1].key, expected="Data of the second feed")
    peer.ask(3)


@case("dep-0010.channels/unknown-feed", "channels", DEFACTO, "hypercore-protocol 6.12",
      "A Feed that the peer does not know gets no answer, and the connection goes on",
      "Either side may offer a feed that the other may want later, or never.")
def _(stage):
    peer = stage.serves().meets()
    peer.open(STRANGER)
    peer.nothing_before(3, wire.Feed, why="no Feed for a feed that it does not have")


@case("dep-0010.channels/unknown-feed-17-messages", "channels", DEFACTO, "hypercore-protocol 6.12: 16 and one more are kept",
      "17 messages on a feed that is not open yet are no fault",
      "The other side cannot know yet whether its feed is wanted.")
def _(stage):
    peer = stage.serves().meets()
    channel = peer.open(STRANGER)
    for _ in range(17):
        peer.send(wire.Have(1), channel)
    peer.ask(3)


@case("dep-0010.channels/unknown-feed-18-messages", "channels", DEFACTO, "hypercore-protocol 6.12: 16 and one more are kept",
      "The 18th message on a feed that is not open closes the connection",
      "What is kept for later must have a bound.")
def _(stage):
    peer = stage.serves().meets()
    channel = peer.open(STRANGER)
    for _ in range(18):
        peer.send(wire.Have(1), channel)
    peer.closed()


for number in (1, 2, 7, 8, 127, 255):
    def run(stage, number=number):
        peer = stage.serves().meets()
        peer.send(wire.Want(0, WHOLE), number)
        peer.closed()
        stage.connect().meets().ask(3)
    register("dep-0010.channels/never-opened-%d" % number, "channels", DEFACTO, "hypercore-protocol 6.12",
             "A message on channel %d, which was never opened, closes the connection" % number,
             "Nothing says which feed is meant: the two sides no longer agree.", run)


@case("dep-0010.channels/never-opened-largest", "channels", MUST, "robustness; hypercore-protocol 6.12",
      "A message on channel 2^28 - 1 closes the connection and harms no other",
      "A table that is indexed by a number from the wire needs a bound.")
def _(stage):
    peer = stage.serves().meets()
    peer.send(wire.Want(0, WHOLE), (1 << 28) - 1)
    peer.closed()
    stage.connect().meets().ask(3)


@case("dep-0010.channels/feed-twice-on-one-number", "channels", DEFACTO, "hypercore-protocol 6.12",
      "A second Feed on the number of an open channel closes the connection",
      "There is no close message: a number stands for one feed to the end.")
def _(stage):
    peer = stage.serves().meets()
    peer.send(wire.Feed(discovery_key(stage.feeds[0].key)), 0)
    peer.closed()
    stage.connect().meets().ask(3)


@case("dep-0010.channels/unknown-feed-twice-on-one-number", "channels", MUST, "robustness: stops hypercore-protocol 6.12",
      "A second Feed with an unknown key on one number closes the connection, and that alone",
      "One connection's fault must not end the process that serves the others.")
def _(stage):
    peer = stage.serves().meets()
    peer.open(STRANGER, channel=1)
    peer.open(STRANGER, channel=1)
    peer.closes_or_serves(3)
    stage.connect().meets().ask(3)


@case("dep-0010.channels/feed-on-two-numbers", "channels", MUST, "robustness",
      "One feed on two numbers closes the connection, or all goes on",
      "It makes no sense, and must not take anybody down.")
def _(stage):
    peer = stage.serves().meets()
    peer.send(wire.Feed(discovery_key(stage.feeds[0].key)), 1)
    peer.closes_or_serves(3)
    stage.connect().meets().ask(3)


@case("dep-0010.channels/number-255", "channels", DEFACTO, "hypercore-protocol 6.12",
      "Channel 255 may be opened",
      "The deployed limit is 256 channels.")
def _(stage):
    feeds = [stage.feed(seed=1), stage.feed(seed=2)]
    peer = stage.serves(*feeds).meets()
    peer.open(feeds[1].key, channel=255)
    peer.send(wire.request(2), 255)
    peer.until(wire.Data, key=feeds[1].key, expected="Data of the feed on our channel 255")


@case("dep-0010.channels/number-257", "channels", SHOULD, "hypercore-protocol 6.12",
      "Channel 257 is refused",
      "The deployed limit is 256 channels; without one a peer can be filled with them.")
def _(stage):
    peer = stage.serves().meets()
    peer.open(STRANGER, channel=257)
    if peer.closes_or_serves(3):
        stage.loosely("the connection closed", "the channel is taken", peer)


@case("dep-0010.channels/no-messages-mixed", "channels", MUST, SOURCE,
      "What is asked on one channel is answered on the channel of the same feed",
      "Data of the wrong feed never verifies.")
def _(stage):
    feeds = [stage.feed(seed=s) for s in (1, 2, 3)]
    peer = stage.serves(*feeds).meets()
    for feed in feeds[1:]:
        peer.open(feed.key)
    for i in (7, 0, 3):
        for feed in feeds:
            peer.send(wire.request(i), peer.channels[feed.key])
        for _ in feeds:
            got = peer._await(lambda: peer.wait_for(wire.Data), "Data of three feeds")
            feed = next((f for f in feeds if f.key == got.key), None)
            if feed is None or got.message.index != i or got.message.value != feed.blocks[i]:
                peer.fail("block %d of the feed of that channel" % i, words(got))


# ---- extensions -----------------------------------------------------------------------------------

for slug, body, title in (("unnamed", b"\x00payload", "with a number that was never named"),
                          ("large-number", wire.encode_varint((1 << 64) - 1) + b"x", "with the number 2^64 - 1"),
                          ("no-payload", b"\x05", "without a payload"),
                          ("large", b"\x00" + bytes(1 << 20), "of a megabyte")):
    def run(stage, body=body):
        peer = stage.serves().meets()
        peer.send_body(0, 15, body)
        peer.ask(3)
    register("dep-0010.extension/" + slug, "extension", MUST, "DEP-0010 (Extension); hypercore-protocol 6.12",
             "An Extension message %s is ignored" % title,
             "The remote may speak of what we do not know; that is what extensions are for.", run)

for slug, body, title in (("cut-off", b"\xff", "whose varint is cut off"), ("varint-of-11-bytes", b"\xff" * 11, "whose varint has 11 bytes")):
    def run(stage, body=body):
        peer = stage.serves().meets()
        peer.send_body(0, 15, body)
        time.sleep(0.2)  # it must be read alone: what comes behind could pass for its end
        if not peer.closes_or_serves(3):
            stage.connect().meets().ask(3)
    register("dep-0010.extension/" + slug, "extension", MUST, "robustness: stops hypercore-protocol 6.12",
             "An Extension %s closes the connection at most" % title,
             "One message of four bytes must not end a process.", run)


@case("dep-0010.extension/named", "extension", MUST, "DEP-0010 (Extension)",
      "Extension messages that we named ourselves are ignored by a peer that has not got them",
      "Both sides must have one to use it.")
def _(stage):
    peer = stage.serves()
    peer.start(extensions=["hypothetical"])
    peer.meets()
    peer.send(wire.Extension(0, b"hello"))
    peer.nothing_before(3, wire.Extension, why="no Extension in return")


@case("dep-0010.extension/before-handshake", "extension", MUST, "robustness",
      "An Extension before the Handshake does no harm",
      "The list that it counts in has not come.")
def _(stage):
    peer = stage.serves()
    peer.open()
    peer.send(wire.Extension(0, b"early"))
    peer.handshake()
    peer.meets()
    if not peer.closes_or_serves(3):
        stage.connect().meets().ask(3)


# ---- time -----------------------------------------------------------------------------------------

@case("dep-0010.keepalive/sends-them", "time", DEFACTO, "hypercore-protocol 6.12 against DEP-0010's 300 s",
      "An idle peer sends a keep-alive at least every 6 seconds",
      "A deployed peer gives up after 6.25 to 7.5 s of silence; every 300 s, as the DEP has it, is too late.", "E4")
def _(stage):
    peer = stage.serves().meets()
    peer.ask(3)
    came = []
    for _ in range(2):
        began, seen = time.monotonic(), len(peer.log)
        while time.monotonic() - began < 6.2:
            try:
                peer.receive(0.1)
            except Closed as error:
                peer.fail("a keep-alive", str(error))
            except Exception:
                pass
            if any(e.direction == "received" and e.plain == wire.KEEP_ALIVE for e in peer.log[seen:]):
                came.append(time.monotonic() - began)
                break
        else:
            peer.fail("a keep-alive within 6.2 s of the last bytes", "none")
    stage.note("keep-alives came after %.2f and %.2f s" % tuple(came))


@case("dep-0010.keepalive/drops-the-silent", "time", DEFACTO, "hypercore-protocol 6.12 against DEP-0010's 300 s",
      "A remote that sends nothing is dropped, between 5 and 13 seconds of silence",
      "A peer that vanished without a word must not keep its place for ever; one that is slow must not be lost.", "E4")
def _(stage):
    peer = stage.serves().meets()
    peer.ask(3)
    peer.ping_after = None
    began = time.monotonic()
    peer.closed("the silent connection closed within 13 s", 13)
    took = time.monotonic() - began
    stage.note("dropped after %.2f s" % took)
    if took < 5:
        peer.fail("no end before 5 s of silence", "an end after %.2f s" % took)


@case("dep-0010.keepalive/keeps-the-idle", "time", DEFACTO, "DEP-0010 (Keepalive); hypercore-protocol 6.12",
      "A remote that sends keep-alives alone every 4 seconds stays for 12",
      "An idle connection waits for what comes next.")
def _(stage):
    peer = stage.serves().meets()
    peer.ping_after = 4
    began = time.monotonic()
    while time.monotonic() - began < 12:
        try:
            peer.receive(0.5)
        except Closed as error:
            peer.fail("the connection kept", str(error))
        except Exception:
            pass
    peer.ask(3)


@case("dep-0010.keepalive/any-bytes-count", "time", DEFACTO, "hypercore-protocol 6.12",
      "A remote that sends a large frame slowly is not silent",
      "A block of 8 MB on a slow line takes longer than any timeout.")
def _(stage):
    peer = stage.serves().meets()
    peer.ping_after = None
    frame = wire.encode_varint(40) + b"\x0e" + bytes(39)
    began = time.monotonic()
    for byte in range(len(frame)):
        peer.send_plain(frame[byte:byte + 1])
        time.sleep(0.25)
    stage.note("%d bytes in %.1f s" % (len(frame), time.monotonic() - began))
    peer.ask(3)


@case("dep-0010.keepalive/unanswered-request", "time", SHOULD, "hypercore 6.26: 'Request timeout'",
      "A Request that is never answered is given up: asked again, or the connection closed, within 14 seconds",
      "A remote that pings and answers nothing would hold a block for ever.")
def _(stage):
    peer = stage.wanted()
    peer.send(wire.Have(0, WHOLE, b"\x02\x80"))
    peer.until(wire.Request)
    try:
        peer.wait_for(wire.Request, wire.Cancel, timeout=13.5)
    except Closed:
        pass
    except Exception:
        peer.fail("another Request, or an end", "neither in 13.5 s")
