"""Peers of other years: what hypercore 6.0.0 (April 2017) to 6.25 did otherwise than 6.26, and both sides must cope with.

dat/peer.py plays them (`MANNERS`). Feeds of more than 1,048,576 blocks are not cloned whole here: making one takes longer than a
case may. `make interop` does that between living peers.
"""

from cases.drives import assert_files, clones_drive, drive_of, serves_drive
from cases.feeds import _until_sent, part_of
from cases.have import bits_of, wants_everything
from dat import drive as drives
from dat import feed as feeds
from dat import flat, sodium, wire
from dat import peer as peers
from dat.bitfield import rle_encode
from dat.tree import leaf_node, parent_node
from suite.case import MUST, SHOULD, case, register
from suite.stage import WHOLE, block, ranges, words

YEARS = {  # what is played, and for which versions it stands
    "6.0.0": "hypercore 6.0.0 to 6.3.7 (2017)",
    "6.6.6": "hypercore 6.6.1 to 6.10.2 (2017)",
    "6.12.7": "hypercore 6.12.6 to 6.18.1 (2018)",
    "6.20.2": "hypercore 6.18.2 to 6.21.0 (2018)",
    "6.22.1": "hypercore 6.22.1 to 6.25.1 (2018, 2019)",
}
WHY = "Peers of that time are what is left to clone from, and their bundles are never updated."


class OldDrive(peers.Elder, drives.DriveConversation):
    def __init__(self, peer, drive, manner, **options):
        self.manner = peers.MANNERS[manner]
        super().__init__(peer, drive, **options)


def begin(conversation):
    conversation.thread = peers.Background(conversation.run)
    return conversation


def serve(stage, peer, manner, wait=True, **options):
    """Serve the stage's feeds as that version does."""
    conversation = begin(peers.OldConversation(peer, stage.feeds, manner, timeout=stage.patience * 2, **options))
    if wait:
        stage.join(conversation)
    return conversation


def copy(stage, peer, made, manner, **options):
    """Download these as that version does; to the end."""
    kind = OldDrive if isinstance(made, drives.Drive) else peers.OldConversation
    stage.join(begin(kind(peer, made, manner, download=True, timeout=stage.patience, **options)))
    if not complete(made):
        peer.fail("all blocks with their proofs", "some")


def complete(made):
    return made.complete() if isinstance(made, drives.Drive) else all(f.complete for f in made)


for manner, name in YEARS.items():
    slug = manner.replace(".", "-")

    def clone(stage, manner=manner):
        peer = stage.clones(stage.feed(20))
        serve(stage, peer, manner, wait=False)
        stage.exits(0)
        stage.holds(stage.feeds[0])

    def empty(stage, manner=manner):
        serve(stage, stage.clones(stage.feed(0)), manner, wait=False)
        stage.exits(0)

    def several(stage, manner=manner):
        serve(stage, stage.clones(stage.feed(5, seed=1), stage.feed(12, seed=2)), manner, wait=False)
        stage.exits(0)
        for i, feed in enumerate(stage.feeds):
            stage.holds(feed, i)

    def resume(stage, manner=manner):
        feed = stage.feed(20)
        stage.lay(part_of(feed, range(0, 20, 2)))
        serve(stage, stage.clones(feed), manner, wait=False)
        stage.exits(0)
        stage.holds(feed)

    def follow(stage, manner=manner):
        feed = stage.feed(3)
        peer = stage.clones(feed, options=("--live",))
        conversation = serve(stage, peer, manner, wait=False, live=True)
        _until_sent(conversation, peer, 3)
        conversation.append(feed, b"later 1", b"later 2")
        _until_sent(conversation, peer, 5)
        conversation.stop()
        stage.join(conversation)
        stage.stop()
        stage.holds(feed)

    def upload(stage, manner=manner):
        stage.serves(stage.feed(20), options=())
        copy(stage, stage.connections[-1], [feeds.Feed(stage.feeds[0].key)], manner)
        stage.exits(0)

    def drive_from(stage, manner=manner):
        made = drive_of()
        begin(OldDrive(clones_drive(stage, made), made, manner, timeout=stage.patience * 2))
        stage.exits(0)
        assert_files(stage, made)

    def drive_to(stage, manner=manner):
        made = drive_of()
        peer = serves_drive(stage, made)
        got = drives.Drive(made.key)
        copy(stage, peer, got, manner)
        if got.files() != made.files():
            peer.fail("the drive's files", "others")

    for id, run, title, only in (  # one version stands for all where they differ in nothing that the case could show
            ("clone", clone, "A feed is cloned whole from %s, and the command ends", None),
            ("follow", follow, "A live clone fetches what %s appends", None),
            ("upload", upload, "A feed is served whole to %s, and the command ends", None),
            ("drive", drive_from, "A drive is cloned and laid out from %s", None),
            ("empty", empty, "The clone of an empty feed from %s ends", ("6.0.0", "6.22.1")),
            ("several", several, "Two feeds are cloned on one connection from %s", ("6.0.0",)),
            ("resume", resume, "A clone that holds every other block goes on with %s", ("6.0.0",)),
            ("drive-upload", drive_to, "A drive is served to %s", ("6.0.0",))):
        if only is None or manner in only:
            register("hypercore.years/%s-%s" % (id, slug), "years", MUST, name, title % name, WHY, run)


# ---- the answer without a length ---------------------------------------------------------------------

OLD = "hypercore 6.0.0 to 6.22.0"

for slug, length, how in (("absent", None, "no length"), ("0", 0, "length 0"), ("1", 1, "length 1, which is what an absent one reads as")):
    for blocks in (20, 0):
        def run(stage, length=length, blocks=blocks):
            peer = stage.clones(stage.feed(blocks))

            def other_length(channel, message):
                if isinstance(message, wire.Have) and message.bitfield is not None:
                    return wire.Have(0, length, message.bitfield)
                return message
            peer.tamper_message = other_length
            serve(stage, peer, "6.20.2", wait=False)
            stage.exits(0)
            if blocks:
                stage.holds(stage.feeds[0])
        register("hypercore.years/length-%s%s" % (slug, "" if blocks else "-empty"), "years", MUST, OLD,
                 "A bitfield with %s answers all Wants%s" % (how, "" if blocks else ", also one that tells of nothing"),
                 "Who waits for an answer with the Want's own length never ends.", run)


@case("hypercore.years/sparse", "years", MUST, OLD,
      "Of a whole bitfield with gaps just the blocks that it tells of are asked for",
      "Before 6.6.1 a Request of any other block closes the connection.")
def _(stage):
    held = {0, 3, 17, 38}
    peer = stage.wanted(stage.feed(40), answered=False)
    peer.send(wire.Have(0, None, rle_encode(bits_of(held, 5))))
    stage.asked_for(peer, held)


def huge(length, blocks):
    """A feed of which just these blocks exist. What lies beside the ways up from them is made up, and signed all the same."""
    made = feeds.Feed(*sodium.keypair(b"\x09" * 32))
    made.length = length

    def node(i):
        left, right = flat.left_span(i) // 2, flat.right_span(i) // 2
        if not any(left <= b <= right for b in blocks):
            return wire.Node(i, sodium.generichash(b"made up %d" % i), right - left + 1)
        if i % 2 == 0:
            made.blocks[left] = block(left, 1)
            made.bitfield.set(left)
            found = leaf_node(left, made.blocks[left])
        else:
            below = [node(child) for child in flat.children(i)]
            for child in below:
                made.tree.put(child)
            found = parent_node(*below)
        return found
    for root in flat.full_roots(length):
        made.tree.put(node(root))
    made.signatures[length - 1] = sodium.sign(made.root_hash(), made.secret_key)
    return made


@case("hypercore.years/whole-of-1048577", "years", MUST, OLD,
      "A whole bitfield tells of the blocks beyond 2^20 too",
      "There is but one answer: who reads no more than a range of it misses the rest.")
def _(stage):
    feed = huge(WHOLE + 1, (5, WHOLE))
    peer = stage.wanted(feed, answered=False)
    peer.send(wire.Have(0, None, rle_encode(feed.bitfield.bytes(0, WHOLE // 8 + 1))))
    stage.asked_for(peer, (5, WHOLE))
    stage.stopped = True  # some would write 150 MB of zeros now


@case("dep-0010.want/both-ranges", "have", MUST, "hypercore 6.26",
      "A feed of 1048577 blocks is asked for in two ranges, and blocks of both come",
      "Blocks of a later range are told of in the answer to its own Want.")
def _(stage):
    feed = huge(WHOLE + 1, (5, WHOLE))
    peer = stage.wanted(feed, answered=False)
    if wants_everything(peer):
        return  # it asks for no ranges: see the case before
    peer.send(wire.Have(WHOLE))
    peer.send(wire.Have(0, WHOLE, rle_encode(b"\x04")))
    asked = {}
    want = None
    while want is None:
        got = peer.until(wire.Want, wire.Request)
        if isinstance(got, wire.Want):
            want = got
        else:
            asked[got.index] = got
    if (want.start, want.length) != (WHOLE, WHOLE):
        peer.fail("Want{start: 1048576, length: 1048576}", words(want))
    peer.send(wire.Have(WHOLE, WHOLE, b"\x02\x80"))
    for request in asked.values():
        peer.send(feed.answer(request))
    while set(asked) != {5, WHOLE}:
        request = peer.until(wire.Request, expected="Requests of blocks 5 and 1048576")
        if request.index not in (5, WHOLE):
            peer.fail("Requests of blocks 5 and 1048576", words(request))
        asked[request.index] = request
        peer.send(feed.answer(request))
    stage.stopped = True


# ---- a last block that is not there ------------------------------------------------------------------

HINTS = "hypercore 6.22.1 to 6.25.1"


def partial_seeder(stage, peer):
    """Tells of block 39, which it lacks, and then of 0 and 3; closes when asked for 39. Returns which blocks were had."""
    feed, had = stage.feeds[0], set()
    peer.until(wire.Want)
    peer.send(wire.Have(39))
    peer.send(wire.Have(0, WHOLE, rle_encode(bits_of({0, 3}, 5))))
    while had != {0, 3}:
        try:
            request = peer.wait_for(wire.Request).message
        except peers.TimedOut:
            peer.fail("Requests of blocks 0 and 3", "of %s in %.3g s" % (ranges(had), peer.timeout))
        if request.index not in (0, 3):
            peer.close()
            break
        peer.send(feed.answer(request))
        had.add(request.index)
    return had


@case("hypercore.years/absent-last-block", "years", SHOULD, HINTS,
      "A last block that is told of ahead of the bitfield, which then lacks it, is not asked for",
      "These versions tell of it whether it is there or not, and close when asked: 6.26 gets nothing of such a partial seeder.")
def _(stage):
    peer = stage.clones(stage.feed(40), options=("--live",), dial=False).meets()
    had = partial_seeder(stage, peer)
    if had != {0, 3}:
        peer.fail("Requests of blocks 0 and 3 alone", "one of block 39")


@case("hypercore.years/absent-last-block-again", "years", SHOULD, HINTS,
      "Who closed when asked for a block is not asked for the same block first on the next connection",
      "Else a partial seeder is never of any use, however often it is met.")
def _(stage):
    peer = stage.clones(stage.feed(40), options=("--live",), dial=False).meets()
    if partial_seeder(stage, peer) == {0, 3}:
        return
    peer = stage.connect().meets()
    if partial_seeder(stage, peer) != {0, 3}:
        peer.fail("Requests of blocks 0 and 3 alone", "one of block 39, again")


@case("dep-0010.have/absent-last-block-untold", "have", SHOULD, "hypercore 6.26",
      "A last block that is not there is not told of",
      "hypercore 6.22.1 to 6.25.1 tells of it all the same, and closes when it is asked for.")
def _(stage):
    feed = stage.feed(20)
    feed.bitfield.set(19, False)
    del feed.blocks[19]
    peer = stage.serves(feed).meets()
    peer.send(wire.Want(0, WHOLE))
    got = peer.messages_until(wire.Have, where=lambda h: h.bitfield is not None, expected="a Have with a bitfield")
    early = [g.message for g in got[:-1] if isinstance(g.message, wire.Have)]
    if early:
        peer.fail("the bitfield alone", "%s before it" % words(early))


# ---- what an old peer asks of a server ---------------------------------------------------------------

@case("hypercore.years/want-everything", "years", MUST, OLD,
      "Want{start: 0}, sent ahead of the Handshake, is answered by one bitfield from 0 on, of everything",
      "Old downloaders do not look at a bitfield's start, and ask no second time.")
def _(stage):
    feed = stage.feed(9000, 1, batch=9000)
    peer = stage.serves(feed)
    peer.open()
    peer.send(wire.Want(0))
    peer.handshake()
    got = [g.message for g in peer.meets().before(3, wire.Have)]
    told = [h for h in got if h.bitfield is not None]
    if len(told) != 1 or told[0].start != 0 or told[0].length not in (None, 0):
        peer.fail("one Have from 0 on with a bitfield and no length", words(got))
    if peers.rle_decode(told[0].bitfield).rstrip(b"\0") != bits_of(range(9000), 1125):
        peer.fail("the bits of blocks 0-8999", words(told))


@case("hypercore.years/want-everything-appends", "years", MUST, OLD,
      "Whoever has wanted everything is told of an append",
      "Its Want has no length; it is a Want all the same.")
def _(stage):
    peer = stage.serves(stage.feed(3), secret=True).meets()
    peer.send(wire.Want(0))
    peer.until(wire.Have, where=lambda h: h.bitfield is not None, expected="the answer to a Want")
    stage.adapter.tell("append " + b"new".hex())
    if peer.until(wire.Have, expected="a Have of block 3").start != 3:
        peer.fail("Have{start: 3}", "another")


@case("hypercore.years/pushes-nothing", "years", MUST, "hypercore before 6.3.0",
      "No Data is sent that was not asked for",
      "These versions store whatever comes; later ones drop it.")
def _(stage):
    peer = stage.serves(stage.feed(3), secret=True).meets()
    peer.wants()
    stage.adapter.tell("append " + b"new".hex())
    peer.until(wire.Have, expected="a Have of block 3")
    peer.nothing_before(1, wire.Data, why="no Data but that of block 1")
