"""Static feeds, several feeds on one connection, the ending, live updates, resuming."""

import socket
import time

from dat import feed as feeds
from dat import peer as peers
from dat import wire
from dat.tree import Holding
from cases.data import settle
from suite.case import DEFACTO, MUST, case, register
from suite.stage import WHOLE, Adapter, Departure, ranges, words

# ---- static feeds -----------------------------------------------------------------------------------

STATIC = "hypercore 6.26 (live: false); absent from the DEPs"

for blocks in (1, 2, 7, 20):
    def serve(stage, blocks=blocks):
        stage.serves(stage.feed(blocks, live=False))
        stage.copies()

    def clone(stage, blocks=blocks):
        stage.clones(stage.feed(blocks, live=False))
        stage.serve()
        stage.exits(0)
        stage.holds(stage.feeds[0])
    register("hypercore.static/serve-%d" % blocks, "static", DEFACTO, STATIC, "A static feed of %d blocks is served, without signatures" % blocks,
             "Its key is the hash of its roots: nobody has to sign, and nobody can append.", serve, "E11")
    register("hypercore.static/clone-%d" % blocks, "static", DEFACTO, STATIC, "A static feed of %d blocks is cloned" % blocks,
             "Its key is the hash of its roots: nobody has to sign, and nobody can append.", clone, "E11")


@case("hypercore.static/no-signature-sent", "static", DEFACTO, STATIC,
      "Data of a static feed carries no signature",
      "There is none.", "E11")
def _(stage):
    peer = stage.serves(stage.feed(5, live=False)).meets()
    got = peer.ask(2)
    if got.signature is not None:
        peer.fail("no signature", words(got))


@case("hypercore.static/tampered", "static", MUST, STATIC,
      "A static feed's block that does not hash up to the key is refused",
      "The key is all that a reader trusts, here too.", "E11")
def _(stage):
    feed = stage.feed(5, live=False)
    false = stage.feed(5, seed=2, live=False)
    peer = stage.wanted(feed)
    peer.send(wire.Have(0, 5))
    request = peer.until(wire.Request)
    peer.send(false.answer(wire.request(request.index)))
    settle(peer)
    stage.stop()
    found = stage.stored(feed)
    if found.blocks:
        peer.fail("no block", "blocks %s" % ranges(found.blocks))


# ---- several feeds ------------------------------------------------------------------------------------

MULTI = "DEP-0010 (multiple feeds); hypercore-protocol 6.12"


for count in (2, 3, 5):
    def serve(stage, count=count):
        stage.serves(*[stage.feed(3 + 2 * i, seed=i + 1) for i in range(count)])
        stage.copies()

    def clone(stage, count=count):
        stage.clones(*[stage.feed(3 + 2 * i, seed=i + 1) for i in range(count)])
        stage.serve()
        stage.exits(0)
        for i, feed in enumerate(stage.feeds):
            stage.holds(feed, i)
    register("dep-0010.feeds/serve-%d" % count, "feeds", MUST, MULTI, "%d feeds are served on one connection" % count,
             "A drive has two; archives of archives more.", serve)
    register("dep-0010.feeds/clone-%d" % count, "feeds", MUST, MULTI, "%d feeds are cloned on one connection, and it ends" % count,
             "A drive has two; syncs of several feeds that never ended were a known fault.", clone)


@case("dep-0010.feeds/second-opens-late", "feeds", MUST, MULTI,
      "A second feed that the remote opens half a second later is cloned too",
      "A drive's content key is known only once its metadata's first block is there.")
def _(stage):
    stage.feeds = [stage.feed(seed=1), stage.feed(seed=2)]
    peer = stage.clones(*stage.feeds)
    peer.start()
    peer.meets()
    time.sleep(0.5)
    stage.serve()
    stage.exits(0)
    for i, feed in enumerate(stage.feeds):
        stage.holds(feed, i)


@case("dep-0010.feeds/second-never-opens", "feeds", DEFACTO, MULTI,
      "Where the remote has only the first of two feeds, that one is cloned",
      "Not everybody has everything.")
def _(stage):
    stage.feeds = [stage.feed(seed=1), stage.feed(seed=2)]
    peer = stage.clones(*stage.feeds, options=("--live",))
    conversation = stage.serve(peer, stage.feeds[0], wait=False, live=True)
    _until_sent(conversation, peer, 8)
    conversation.stop()
    stage.join(conversation)
    stage.stop()
    stage.holds(stage.feeds[0])


@case("dep-0010.feeds/other-first", "feeds", MUST, "hypercore-protocol 6.12",
      "A remote whose first feed is our second is served it, or the connection closes; others are served",
      "The first discovery key must be the same on both sides, for its key is the cipher's. Who dials chooses it.")
def _(stage):
    one, two = stage.feed(seed=1), stage.feed(seed=2)
    stage.serves(one, two).close()
    stage.feeds = [two]
    peer = stage.connect()
    peer.start()
    try:
        peer.send(wire.request(3))
        got = peer.wait_for(wire.Data).message
        if got.value != two.blocks[3]:
            peer.fail("block 3 of that feed", words(got))
    except peers.Closed:
        stage.note("it closes")
    except wire.CodecError:  # it opened with the other one: we cannot read it, nor it us
        peer.closed()
    stage.feeds = [one, two]
    stage.connect().meets().ask(3)


# ---- the ending ----------------------------------------------------------------------------------------

END = "hypercore 6.26; not in the DEPs"


@case("hypercore.ending/downloader-says-so", "ending", DEFACTO, END,
      "A downloader that has everything sends Info{uploading: true, downloading: false}, or closes",
      "The server learns that the conversation is over.")
def _(stage):
    peer = stage.clones()
    stage.serve(peer)
    infos = [e.message for e in peer.log if e.direction == "received" and isinstance(e.message, wire.Info)]
    if infos and (infos[-1].read("downloading") or not infos[-1].read("uploading")):
        peer.fail("Info{uploading: true, downloading: false}", words(infos[-1]))
    stage.exits(0)


@case("hypercore.ending/server-agrees", "ending", DEFACTO, END,
      "A server that does not stay answers downloading: false with Info{false, false}, and ends; or just ends",
      "Whoever has said so and heard so closes. (hypercore before 6.3.8 waits for the other side, 6.3.8 to 6.12.5 just end.)")
def _(stage):
    peer = stage.serves(options=()).meets()
    peer.ask(3)
    peer.send(wire.Info(True, False))
    try:
        got = peer.wait_for(wire.Info).message
    except peers.Closed:
        peer.close()
        return stage.exits(0)
    except peers.TimedOut:
        peer.fail("Info{uploading: false, downloading: false}, or an end", "neither in %.3g s" % peer.timeout)
    if got.read("uploading") or got.read("downloading"):
        peer.fail("Info{uploading: false, downloading: false}", words(got))
    try:
        peer.expect_close(2)
    except peers.TimedOut:
        stage.loosely("the connection closed", "it waits for us to close it", peer)
    peer.close()
    stage.exits(0)


@case("hypercore.ending/server-exits", "ending", DEFACTO, END,
      "A server that does not stay exits 0 when its conversation has ended",
      "`dat share --exit` and its kin.")
def _(stage):
    stage.serves(options=())
    stage.copies()
    stage.exits(0)


@case("hypercore.ending/live-server-stays", "ending", DEFACTO, END,
      "A live server stays after the downloader said that it is done",
      "live is each side's own choice: it may append in a minute.")
def _(stage):
    peer = stage.serves().meets()
    peer.ask(3)
    peer.send(wire.Info(True, False))
    peer.ask(5)
    stage.connect().meets().ask(3)


@case("hypercore.ending/empty-info-is-done", "ending", DEFACTO, "hypercore 6.26: absent reads as false",
      "Info{uploading: true} without downloading is the same as downloading: false",
      "An absent bool is false.")
def _(stage):
    peer = stage.serves(options=()).meets()
    peer.ask(3)
    peer.send_body(0, 2, b"\x08\x01")
    try:
        peer.wait_for(wire.Info)  # the answer to it; some say nothing and just end, as above
    except peers.Closed:
        return
    except peers.TimedOut:
        peer.fail("an answer, or an end", "neither in %.3g s" % peer.timeout)


@case("hypercore.ending/still-downloading", "ending", DEFACTO, END,
      "Info{downloading: true} ends nothing",
      "Only false is the end.")
def _(stage):
    peer = stage.serves(options=()).meets()
    peer.send(wire.Info(True, True))
    peer.ask(3)


@case("hypercore.ending/remote-just-leaves", "ending", MUST, "dat 13: clone exits without a word",
      "A server outlives a downloader that just closes",
      "Which is what `dat clone` does.")
def _(stage):
    for i in range(3):
        peer = stage.serves().meets() if i == 0 else stage.connect().meets()
        peer.ask(i)
        peer.close()
    stage.connect().meets().ask(3)


@case("hypercore.ending/complete-then-closed", "ending", MUST, END,
      "A clone whose remote closes after the last block ends with exit 0",
      "What is complete is complete, however the remote leaves.")
def _(stage):
    feed = stage.feed(3)
    peer = stage.clones(feed).meets()
    peer.until(wire.Want)
    peer.send(wire.Have(2))
    peer.send(wire.Have(0, WHOLE, b"\x02\xe0"))
    for _ in range(3):
        request = peer.until(wire.Request)
        peer.send(feed.answer(request, None))
    try:
        peer.wait_for(wire.Info, timeout=2)
    except peers.PeerError:
        pass
    peer.close()
    stage.exits(0)
    stage.holds(feed)


@case("hypercore.ending/closed-before", "ending", MUST, END,
      "A clone whose remote closes before the last block exits 1, and keeps what it has",
      "An incomplete copy that reports success is lost data.")
def _(stage):
    feed = stage.feed(8)
    peer = stage.clones(feed).meets()
    peer.until(wire.Want)
    peer.send(wire.Have(0, WHOLE, b"\x07"))
    for _ in range(3):
        peer.send(feed.answer(peer.until(wire.Request), None))
    time.sleep(0.3)
    peer.close()
    stage.exits(1)
    stage.stored(feed)


@case("hypercore.ending/empty-feed", "ending", MUST, END,
      "The clone of an empty feed ends with exit 0",
      "Nothing is missing of it.")
def _(stage):
    stage.clones(stage.feed(0))
    stage.serve()
    stage.exits(0)


@case("hypercore.ending/nobody-there", "ending", MUST, "the adapter's contract",
      "A clone that finds nobody at its port exits 1",
      "A failure that is not told is taken for a copy.")
def _(stage):
    feed = stage.feed(1)
    with socket.socket() as sock:
        sock.bind((peers.LOOPBACK, 0))
        port = sock.getsockname()[1]
    stage.adapter = Adapter(stage.command, ["clone", "--key", feed.key.hex(), "--store", stage.store, "--port", str(port)], stage.env)
    stage.exits(1, 10)


# ---- live updates ------------------------------------------------------------------------------------------

LIVE = "hypercore 6.26; DEP-0010 (Have)"


def _until_sent(conversation, peer, blocks, seconds=8.0):
    """Until so many different blocks were sent to the peer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        sent = {e.message.index for e in list(peer.log) if e.direction == "sent" and isinstance(e.message, wire.Data)}
        if len(sent) >= blocks:
            time.sleep(0.3)
            return
        time.sleep(0.05)
    peer.fail("Requests of %d blocks" % blocks, "of %d" % len(sent))


@case("dep-0010.live/append-is-announced", "live", MUST, LIVE,
      "A block that is appended is announced by Have to who has sent Want, and served",
      "So copies stay current.")
def _(stage):
    feed = stage.feed(3)
    peer = stage.serves(feed, secret=True).meets()
    peer.wants()
    for i in range(3):
        stage.adapter.tell("append " + (b"new block %d" % i).hex())
        have = peer.until(wire.Have, expected="a Have of block %d" % (3 + i))
        if have.start != 3 + i or have.bitfield is not None:
            peer.fail("Have{start: %d}" % (3 + i), words(have))
        feed.append(b"new block %d" % i)
        got = peer.ask(3 + i)
        if got.value != b"new block %d" % i:
            peer.fail("the appended block", words(got))
        copy = feeds.Feed(feed.key)
        try:
            copy.put(got)
        except ValueError as error:
            peer.fail("a proof that verifies", str(error))


@case("dep-0010.live/not-to-who-wants-nothing", "live", DEFACTO, LIVE,
      "A peer that has sent no Want hears nothing of an append",
      "Who does not download is not told.")
def _(stage):
    feed = stage.feed(3)
    peer = stage.serves(feed, secret=True).meets()
    other = stage.connect().meets()
    other.wants()
    stage.adapter.tell("append " + b"new".hex())
    other.until(wire.Have, expected="a Have on the connection that wants")
    peer.nothing_before(1, wire.Have, why="no Have")


@case("dep-0010.live/outside-the-want", "live", DEFACTO, LIVE,
      "After any Want every later Have is sent, whatever its range was",
      "The deployed code does not filter; who filters loses a downloader of the first page alone.")
def _(stage):
    feed = stage.feed(3)
    peer = stage.serves(feed, secret=True).meets()
    peer.send(wire.Want(1 << 22, 8192))
    peer.until(wire.Have, where=lambda h: h.bitfield is not None, expected="the answer to a Want")
    stage.adapter.tell("append " + b"new".hex())
    have = peer.until(wire.Have, expected="a Have of block 3")
    if have.start != 3:
        peer.fail("Have{start: 3}", words(have))


@case("dep-0010.live/to-everybody", "live", MUST, LIVE,
      "An append is announced on every connection",
      "Each downloader keeps its copy current by it.")
def _(stage):
    feed = stage.feed(2)
    all = [stage.serves(feed, secret=True).meets()] + [stage.connect().meets() for _ in range(4)]
    for peer in all:
        peer.wants()
    stage.adapter.tell("append " + b"new".hex())
    for peer in all:
        if peer.until(wire.Have, expected="a Have of block 2").start != 2:
            peer.fail("Have{start: 2}", "another")


@case("dep-0010.live/append-to-empty", "live", MUST, LIVE,
      "The first block of an empty feed is announced and served",
      "A feed begins empty; its readers may be there first.")
def _(stage):
    feed = stage.feed(0)
    peer = stage.serves(feed, secret=True).meets()
    peer.wants()
    stage.adapter.tell("append " + b"the first".hex())
    if peer.until(wire.Have, expected="a Have of block 0").start != 0:
        peer.fail("Have{start: 0}", "another")
    if peer.ask(0).value != b"the first":
        peer.fail("the appended block", "another")


@case("dep-0010.live/appended-files", "live", MUST, LIVE,
      "After appends and stop the folder holds the feed, signed",
      "What was announced must be there after a restart.")
def _(stage):
    feed = stage.feed(3)
    peer = stage.serves(feed, secret=True).meets()
    peer.ask(1)
    for i in range(5):
        stage.adapter.tell("append " + (b"new block %d" % i).hex())
        feed.append(b"new block %d" % i)
    stage.stop()
    found = stage.holds(feed)
    if found.root_hash() != feed.root_hash() or found.signatures.get(7) != feed.signatures[7]:
        raise Departure("the root and signature of these 8 blocks", "others", "append")


@case("dep-0010.live/clone-follows", "live", MUST, LIVE,
      "A live clone fetches what is announced later",
      "So copies stay current.")
def _(stage):
    feed = stage.feed(3)
    peer = stage.clones(feed, options=("--live",))
    conversation = stage.serve(peer, wait=False, live=True)
    _until_sent(conversation, peer, 3)
    conversation.append(feed, b"later 1", b"later 2")
    _until_sent(conversation, peer, 5)
    conversation.append(feed, b"later 3")
    _until_sent(conversation, peer, 6)
    conversation.stop()
    stage.join(conversation)
    stage.stop()
    stage.holds(feed)


@case("dep-0010.live/clone-serves-on", "live", DEFACTO, LIVE,
      "A live clone serves what it has to others",
      "Every reader is a source: that is what peer-to-peer means.")
def _(stage):
    feed = stage.feed(8)
    giver = stage.clones(feed, options=("--live",), dial=False)
    conversation = stage.serve(giver, wait=False, live=True)
    _until_sent(conversation, giver, 8)
    other = stage.connect()
    stage.copies(other)
    conversation.stop()


@case("dep-0010.live/grows-during-clone", "live", DEFACTO, LIVE,
      "A feed that grows while it is cloned is cloned to the end that was offered",
      "A growing archive crashed older clones.")
def _(stage):
    feed = stage.feed(40)
    peer = stage.clones(feed)
    grown = []

    class Growing(peers.Conversation):
        def _on_request(self, channel, request):
            super()._on_request(channel, request)
            if len(grown) < 5:
                grown.append(self.append(feed, b"grown %d" % len(grown)))
    conversation = Growing(peer, [feed], timeout=stage.patience * 2)
    conversation.thread = peers.Background(conversation.run)
    stage.join(conversation)
    stage.exits(0)
    stage.holds(feed)


# ---- resuming --------------------------------------------------------------------------------------------

RESUME = "hypercore 6.26; DEP-0009"


def part_of(feed, blocks):
    held = feeds.Feed(feed.key)
    for i in blocks:
        held.put(feed.answer(wire.request(i, held.digest(i)), Holding(held.tree.holding)))
    return held


PARTS = {"first-half": range(10), "second-half": range(10, 20), "every-third": range(0, 20, 3), "all-but-one": [i for i in range(20) if i != 13],
         "last": [19], "all": range(20)}
for slug, blocks in PARTS.items():
    def run(stage, blocks=list(blocks)):
        feed = stage.feed(20)
        stage.lay(part_of(feed, blocks))
        peer = stage.clones(feed)
        stage.serve()
        stage.exits(0)
        stage.holds(feed)
        again = {e.message.index for e in peer.log if isinstance(e.message, wire.Request) and e.direction == "received"} & set(blocks)
        if again:
            peer.fail("Requests of what is missing alone", "blocks %s asked for again" % ranges(again))
    register("dep-0009.resume/" + slug, "resume", DEFACTO, RESUME, "A clone that holds %s of 20 blocks asks for the others alone" % slug.replace("-", " "),
             "A download that breaks off at 90 % must not begin anew.", run)


@case("dep-0009.resume/second-run", "resume", DEFACTO, RESUME,
      "A clone that was ended half-way goes on where it was",
      "Lines break, machines restart.")
def _(stage):
    feed = stage.feed(20)
    peer = stage.clones(feed).meets()
    peer.until(wire.Want)
    peer.send(wire.Have(0, WHOLE, b"\x07\x07\x02\xf0"))
    sent = []
    while len(sent) < 6:
        request = peer.until(wire.Request)
        peer.send(feed.answer(request, None))
        sent.append(request.index)
    time.sleep(0.5)
    peer.close()
    stage.exits(1)
    held = set(stage.stored(feed).blocks)
    if not held:
        peer.fail("some of blocks %s kept" % ranges(sent), "none")
    stage.adapter.kill()
    stage.listener.close()
    peer = stage.clones(feed)
    stage.serve()
    stage.exits(0)
    stage.holds(feed)
    again = {e.message.index for e in peer.log if isinstance(e.message, wire.Request) and e.direction == "received"} & held
    if again:
        peer.fail("Requests of what is missing alone", "blocks %s asked for again" % ranges(again))


@case("dep-0009.resume/grown-since", "resume", DEFACTO, RESUME,
      "A clone that was complete fetches what was appended since",
      "What `pull` does.")
def _(stage):
    feed = stage.feed(5)
    stage.lay(part_of(feed, range(5)))
    for i in range(4):
        feed.append(b"since %d" % i)
    stage.clones(feed)
    stage.serve()
    stage.exits(0)
    stage.holds(feed)


@case("dep-0009.resume/partial-serves", "resume", DEFACTO, RESUME,
      "A peer that holds a part serves that part",
      "Half a copy helps too.")
def _(stage):
    feed = stage.feed(20)
    part = part_of(feed, [3, 4, 19])
    peer = stage.serves(part).meets()
    for i in (3, 4, 19):
        if peer.ask(i).value != feed.blocks[i]:
            peer.fail("block %d" % i, "other bytes")


@case("dep-0009.resume/reopened-after-append", "resume", MUST, RESUME,
      "A server that is restarted after appends serves them all",
      "The folder is the feed.")
def _(stage):
    feed = stage.feed(3)
    peer = stage.serves(feed, secret=True).meets()
    peer.ask(1)
    stage.adapter.tell("append " + b"four".hex())
    feed.append(b"four")
    stage.stop()
    peer.close()
    stage.start("serve", [feed.key], "--live")
    stage.connect()
    stage.copies()
