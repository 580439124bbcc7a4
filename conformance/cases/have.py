"""Have, Want and the run-length code of bitfields."""

from dat import peer as peers
from dat import wire
from dat.bitfield import rle_decode
from dat.wire import encode_varint
from suite.case import DEFACTO, MUST, SHOULD, case, register
from suite.stage import WHOLE, ranges, words

SOURCE = "DEP-0010 (Have, Want); hypercore 6.26"


def answer(peer, held, start=0, length=WHOLE):
    """Want this range, and judge the answer; returns the Haves that come before it."""
    peer.send(wire.Want(start, length))
    return answered(peer, held, start, length)


def answered(peer, held, start=0, length=WHOLE):
    """The answer to a Want of this range, which tells just these blocks; returns the Haves that come before it.

    It is Have{start, length, bitfield} of that range; or, from hypercore before 6.22.1, the whole bitfield whatever the
    Want says, without a length.
    """
    got = peer.messages_until(wire.Have, where=lambda h: h.bitfield is not None,
                              expected="a Have with a bitfield from %d on" % start)
    have = got[-1].message
    if is_whole(have):
        told = set(held)
    elif (have.start, have.length) == (start, length):
        told = {i - start for i in held if start <= i < start + length}
    else:
        peer.fail("Have{start: %d, length: %d, bitfield}, or the whole bitfield without a length" % (start, length), words(have))
    bits = rle_decode(have.bitfield)
    if bits.rstrip(b"\0") != bits_of(told, max(1, len(bits))):
        peer.fail("the bits of blocks %s" % ranges(told), "%d bytes, %s" % (len(bits), bits[:64].hex()))
    return [g.message for g in got[:-1] if isinstance(g.message, wire.Have)]


def is_whole(have):
    """Whether this is the answer of hypercore before 6.22.1."""
    return have.bitfield is not None and have.start == 0 and have.length is None


def bits_of(held, size):
    return bytes(sum(0x80 >> j for j in range(8) if 8 * i + j in held) for i in range(size)).rstrip(b"\0")


# ---- what a server answers ----------------------------------------------------------------------------

HELD = {
    "one-block": (1, None), "seven-blocks": (7, None), "eight-blocks": (8, None), "nine-blocks": (9, None),
    "64-blocks": (64, None), "1000-blocks": (1000, None), "8193-blocks": (8193, None),
    "gaps": (40, set(range(0, 40, 3))), "last-missing": (20, set(range(19))), "first-missing": (20, set(range(1, 20))),
    "only-last": (33, {32}), "one-in-the-middle": (33, {16}),
}
for slug, (blocks, held) in HELD.items():
    def run(stage, blocks=blocks, held=held):
        feed = stage.feed(blocks, 5, batch=blocks)
        if held is not None:
            for i in set(range(blocks)) - held:
                feed.bitfield.set(i, False)
                del feed.blocks[i]
        peer = stage.serves(feed).meets()
        answer(peer, feed.blocks)
    register("dep-0010.have/answers-%s" % slug, "have", MUST, SOURCE,
             "A Want of everything is answered with the bits of what is held (%s)" % slug.replace("-", " "),
             "Who is told of too few misses blocks, who is told of too many asks in vain.", run)


@case("dep-0010.have/empty-feed", "have", DEFACTO, "hypercore 6.26",
      "A Want to an empty feed is answered with a present, empty bitfield",
      "Without the field, the length 1048576 would claim every block.")
def _(stage):
    peer = stage.serves(stage.feed(0)).meets()
    before = answer(peer, ())
    if before:
        peer.fail("an empty bitfield, and nothing before it", "it comes after %s" % words(before))


@case("dep-0010.have/last-block-first", "have", DEFACTO, "hypercore 6.26",
      "The first Want is answered by Have{start: length - 1} before the bitfield, or by the whole bitfield at once",
      "The asker knows the length at once, and asks for the newest block while the bitfield is made.")
def _(stage):
    peer = stage.serves().meets()
    before = answer(peer, range(8))
    if not before and is_whole(last_have(peer)):
        return
    if [(h.start, h.length, h.bitfield) for h in before] != [(7, None, None)] and [h.start for h in before] != [7]:
        peer.fail("Have{start: 7} first", words(before))


@case("dep-0010.have/last-block-once", "have", DEFACTO, "hypercore 6.26",
      "The second Want is answered by the bitfield alone",
      "The length is known by then.")
def _(stage):
    peer = stage.serves().meets()
    answer(peer, range(8))
    before = answer(peer, range(8))
    if before:
        peer.fail("the bitfield alone", words(before))


@case("dep-0010.have/nothing-unasked", "have", DEFACTO, "hypercore 6.26",
      "Who sends no Want is told of nothing",
      "A writer needs no Haves; a flood of them on a feed that is not open yet closed connections.")
def _(stage):
    peer = stage.serves().meets()
    peer.nothing_before(3, wire.Have, wire.Unhave, why="no Have")


@case("dep-0010.have/echoes-length", "have", DEFACTO, "hypercore 6.26",
      "The answer repeats the Want's length, 1048576, or has none and tells everything",
      "The deployed asker counts an answer by seeing this number, or takes it for the only one.")
def _(stage):
    answer(stage.serves().meets(), range(8))


for slug, start, length in (("8192", 0, 8192), ("16384", 0, 16384), ("from-8192", 8192, 8192), ("beyond-the-end", WHOLE, WHOLE),
                            ("far-beyond", 1 << 40, WHOLE)):
    def run(stage, start=start, length=length):
        feed = stage.feed(9000, 1, batch=9000)
        peer = stage.serves(feed).meets()
        answer(peer, range(9000), start, length)
    register("dep-0010.want/range-%s" % slug, "have", DEFACTO, "hypercore 6.26",
             "A Want of %d blocks from %d on is answered with the bits of that range, or with the whole bitfield" % (length, start),
             "Long feeds are asked for a range at a time.", run)

for slug, start, length in (("start-1", 1, WHOLE), ("start-8", 8, WHOLE), ("start-1024", 1024, WHOLE), ("length-1", 0, 1),
                            ("length-8191", 0, 8191), ("length-8193", 0, 8193), ("length-100", 0, 100)):
    def run(stage, start=start, length=length):
        peer = stage.serves().meets()
        peer.send(wire.Want(start, length))
        got = [g.message for g in peer.before(3, wire.Have)]
        if not all(map(is_whole, got)):
            peer.fail("no answer to a Want{%d, %d}, or the whole bitfield without a length" % (start, length), words(got))
        answer(peer, range(8))
    register("dep-0010.want/ignored-%s" % slug, "have", DEFACTO, "hypercore 6.26 against DEP-0010's any range",
             "A Want with %s is ignored, or answered with the whole bitfield" % slug.replace("-", " "),
             "Start and length must be multiples of 8192: a peer that relies on others being answered waits for ever.", run, "E9")


@case("dep-0010.want/no-length", "have", DEFACTO, "hypercore 6.26",
      "A Want from 0 on without a length is answered with the whole bitfield, length 0",
      "Absent is 0 here, and 0 means all.")
def _(stage):
    peer = stage.serves().meets()
    peer.send(wire.Want(0))
    have = peer.until(wire.Have, where=lambda h: h.bitfield is not None, expected="a Have with a bitfield")
    if have.start != 0 or have.read("length") not in (0,) and have.length is not None or rle_decode(have.bitfield) != b"\xff":
        peer.fail("Have{start: 0, length: 0, bitfield: 07}", words(have))


@case("dep-0010.want/sixteen", "have", DEFACTO, "hypercore 6.26",
      "Sixteen Wants at once are answered, one Have with a bitfield each",
      "A downloader of a long feed keeps as many outstanding.")
def _(stage):
    peer = stage.serves().meets()
    for i in range(16):
        peer.send(wire.Want(i * WHOLE, WHOLE))
    got = [peer.until(wire.Have, where=lambda h: h.bitfield is not None, expected="16 answers") for _ in range(16)]
    if sorted(h.start for h in got) != [i * WHOLE for i in range(16)] and not all(map(is_whole, got)):
        peer.fail("answers from 0, 1048576, ... 15728640 on, or the whole bitfield 16 times", words(got))


@case("dep-0010.want/flood", "have", MUST, "robustness",
      "A hundred Wants whose answers nobody reads do not stop the peer from serving others",
      "Answers wait in memory until they are read: there must be a bound.")
def _(stage):
    peer = stage.serves().meets()
    peer.timeout = 1
    try:
        peer.send_plain(wire.encode_message(0, wire.Want(0, WHOLE)) * 100)
    except peers.PeerError:
        pass
    stage.connect().meets().ask(3)


def last_have(peer):
    """The Have that came last."""
    return next(e.message for e in reversed(peer.log) if e.direction == "received" and isinstance(e.message, wire.Have))


def wants_everything(peer):
    """Whether the remote's Want has no length: hypercore before 6.22.1 sends this one alone."""
    return all(e.message.length is None for e in peer.log if e.direction == "received" and isinstance(e.message, wire.Want))


# ---- what a downloader asks and understands -----------------------------------------------------------

@case("dep-0010.want/first-is-whole", "have", DEFACTO, "hypercore 6.26",
      "A downloader's first Want is {start: 0, length: 1048576}, or {start: 0}",
      "What every deployed server answers: the first range, or (hypercore before 6.22.1) everything.")
def _(stage):
    peer = stage.clones(options=("--live",)).meets()
    want = peer.until(wire.Want)
    if want.start != 0 or want.length not in (WHOLE, None):
        peer.fail("Want{start: 0, length: 1048576}", words(want))


@case("dep-0010.want/next-range", "have", DEFACTO, "hypercore 6.26",
      "A downloader that hears of a block beyond 2^20 asks for the next range",
      "Else it would never hear of the blocks in between. (Whoever wants {start: 0}, everything, has asked.)")
def _(stage):
    peer = stage.wanted(answered=False)
    if wants_everything(peer):
        return
    peer.send(wire.Have(WHOLE + 5))
    peer.send(wire.Have(0, WHOLE, b""))
    want = peer.until(wire.Want)
    if (want.start, want.length) != (WHOLE, WHOLE):
        peer.fail("Want{start: 1048576, length: 1048576}", words(want))


@case("dep-0010.want/at-most-sixteen", "have", DEFACTO, "hypercore 6.26",
      "A downloader that is told of block 2^25 has no more than 16 Wants without an answer",
      "A length is only a claim; each Want costs the server a bitfield.")
def _(stage):
    peer = stage.wanted(answered=False)
    peer.send(wire.Have(1 << 25))
    count = 1
    try:
        while True:
            count += isinstance(peer.receive(0.7).message, wire.Want)
    except peers.TimedOut:
        pass
    if not 2 <= count <= 16 and not (count == 1 and wants_everything(peer)):
        peer.fail("2 to 16 Wants", "%d" % count)


def claims(slug, code, asked, title, why="Runs and literals may follow each other in any way; other encoders cut them otherwise.",
           level=MUST):
    """A downloader reads this bitfield: it asks for these blocks and for none else."""
    def run(stage, asked=list(asked)):
        feed = stage.feed(max(asked) + 1, 3, batch=max(asked) + 1)
        peer = stage.wanted(feed, answered=False)
        peer.send(wire.Have(0, WHOLE, code))
        stage.asked_for(peer, asked)
    register("dep-0010.rle/" + slug, "have", level, "bitfield-rle 2.2; DEP-0010 (Have)", "A downloader reads the bitfield %s" % title, why, run)


v = encode_varint
claims("literal", b"\x02\xf8", range(5), "02f8: a literal of one byte")
claims("run-of-ones", b"\x07", range(8), "07: a run of one byte of ones")
claims("two-runs", b"\x05\x07", range(8, 16), "0507: zeros, then ones")
claims("adjacent-runs", b"\x07\x05\x07", list(range(8)) + list(range(16, 24)), "070507: ones, zeros, ones", )
claims("run-then-literal", b"\x11\x02\x01", [39], "110201: four zero bytes, then 01")
claims("literal-run-literal", b"\x02\xa0\x05\x02\x80", [0, 2, 16], "02a0050280: a literal, a run, a literal")
claims("literal-of-two", b"\x04\x80\x01", [0, 15], "048001: a literal of two bytes")
claims("trailing-zeros", b"\x02\x80\x11", [0], "028011: zeros at the end, which nobody has to write")
claims("long-zeros", v(1000 << 2 | 1) + b"\x02\x80", [8000], "of a thousand zero bytes and a literal")
claims("literal-of-zeros", b"\x04\x00\x40", [9], "040040: a literal that begins with zeros")
claims("overlong-header", b"\x82\x00\xc0", [0, 1], "8200c0: a header with a byte more than needed", level=SHOULD)
claims("empty-literal", b"\x00\x02\x20", [2], "000220: an empty literal before another", level=SHOULD)
claims("empty-run", b"\x03\x02\x20", [2], "030220: an empty run before a literal", level=SHOULD)
claims("page-border", v(1024 << 2 | 1) + b"\x02\xc0", [8192, 8193], "of a page of zeros and the first blocks of the next",
       "8192 blocks are a page of the bitfield file.")


@case("dep-0010.have/range", "have", MUST, SOURCE,
      "A Have of a range claims each of its blocks, and no other",
      "How an append of many blocks is told.")
def _(stage):
    peer = stage.wanted(stage.feed(20))
    peer.send(wire.Have(0, WHOLE, b""))
    peer.send(wire.Have(10, 5))
    stage.asked_for(peer, range(10, 15))


def taken_back(message):
    """4,000 blocks are claimed, and taken back while most of them wait to be asked for."""
    def run(stage):
        feed = stage.feed(5001, 3, batch=5001)
        peer = stage.wanted(feed)
        peer.send(wire.Have(0, 4000))
        asked = {}

        def gather():
            try:
                while True:
                    request = peer.wait_for(wire.Request, timeout=0.4).message
                    asked.setdefault(request.index, request)
            except peers.TimedOut:
                pass
        gather()
        if not asked:
            peer.fail("Requests", "none")
        before = dict(asked)
        peer.send(message)
        peer.send(wire.Have(5000))
        gather()
        for i in sorted(before)[:3]:
            peer.send(feed.answer(before[i]))
        gather()
        more = set(asked) - set(before) - {4000, 5000}
        if more:
            peer.fail("Requests of what is still claimed alone", "of blocks %s" % ranges(more))
    return run


register("dep-0010.unhave/not-asked", "have", SHOULD, SOURCE, "What an Unhave took back is not asked for from then on",
         "A peer that drops blocks says so; asking for them waits in vain.", taken_back(wire.Unhave(0, 4000)))
register("dep-0010.have/bitfield-replaces", "have", SHOULD, "hypercore 6.26",
         "What a later bitfield lacks, over the bytes that it decodes to, is not asked for from then on",
         "A bitfield tells what is there now; an earlier Have what was there then.",
         taken_back(wire.Have(0, WHOLE, b"\xd1\x0f\x02\x80")))


@case("dep-0010.want/server-sends-none", "have", DEFACTO, "hypercore 6.26",
      "A server that downloads nothing sends no Want, or a single one of everything, as hypercore before 6.22.1",
      "Only who downloads asks; so a writer is not flooded with Haves.")
def _(stage):
    peer = stage.serves().meets()
    got = [g.message for g in peer.before(3, wire.Want)]
    if got not in ([], [wire.Want(0)]):
        peer.fail("no Want, or Want{start: 0}", words(got))


@case("dep-0010.info/not-on-opening", "have", DEFACTO, "hypercore 6.26 against DEP-0010",
      "No Info is sent when a channel opens",
      "The DEP says it is; a deployed peer takes downloading: false for the end of the conversation.", "E6")
def _(stage):
    peer = stage.serves().meets()
    peer.nothing_before(3, wire.Info, why="no Info")
