"""One connection's session without sockets, in virtual time; and swarms inside one process."""

import random

import pytest

import probe as drive
from dat import cipher, feed as feeds, wire
from dat.bitfield import rle_encode
from dat.wire import Data, Extension, Feed, Handshake, Have, Info, Request, Unhave, Unwant, Want, request
from probe import (Drives, BAD_DATA, BOTH, CREATE, DONE, DOWNLOAD, EARLY, FIRST_FEED, PROTOCOL, SELF, TIMEOUT,
                   content, members, secret_key)

SEED, SIZE = 6, "10"
SECRET = secret_key(SEED)
PUBLIC = SECRET[32:]
NONCE, ID = bytes(range(24)), b"\x11" * 32
RANGE = 1 << 20
NINE = b"\x07\x02\x80"  # nine blocks, run-length encoded


def bitfield(*blocks):
    """Run-length encoded."""
    bits = bytearray(max(blocks, default=0) // 8 + 1)
    for i in blocks:
        bits[i // 8] |= 128 >> i % 8
    return rle_encode(bytes(bits))


def offer(*blocks):
    """What a deployed peer says of its blocks when it gets the first Want."""
    return Have(blocks[-1]), Have(0, RANGE, bitfield(*blocks))


def source(blocks):
    feed = feeds.Feed(secret_key=SECRET)
    if blocks:
        feed.append(*[content(SEED, i, SIZE) for i in range(blocks)])
    return feed


class Remote:
    """The Python side of peer 0 of the driver, which has feed 0 open."""
    at = 0

    def __init__(self, probe, blocks=None, mode=BOTH, live=1, ack=0, timeout=0, extensions=(), names=(),
                 remote_ack=False, shake=True, now=0, owner=True, remote_id=ID):
        self.probe, self.now = probe, now
        secret = SECRET if owner and blocks is not None else None
        probe.ask("disk", 0)
        probe.ask("open", 0, "disk:0", CREATE, PUBLIC, secret)
        if blocks:
            probe.ask("grow", 0, SEED, blocks, 10, 10, blocks)
        probe.ask("seed", 1)
        probe.ask("peer", 0, now, live, ack, timeout, b"\x22" * 32, 0, *extensions)
        probe.ask("peer-open", 0, 0, mode)
        self.receiver, self.sender = cipher.Receiver(PUBLIC), cipher.Sender(PUBLIC, NONCE)
        self.greeting = self.hear()
        if shake:
            self.say(Feed(cipher.discovery_key(PUBLIC), NONCE),
                     Handshake(remote_id, True, None, list(names), remote_ack))

    def hear(self, most=1 << 30):
        """The messages that have come, with their channels."""
        out = self.probe.bytes("peer-out", self.at, self.now, most)
        self.taken = len(out)
        return [(f.channel, f.message()) if f.is_message else "keep-alive" for f in self.receiver.feed(out)]

    def say(self, *messages, channel=0):
        return self.say_frames(*[wire.encode_message(channel, m) for m in messages])

    def say_frames(self, *frames):
        return self.probe.code("peer-in", self.at, self.now, 0, b"".join(map(self.sender.encode, frames)))

    def talk(self, *messages, channel=0):
        """Say, and hear what comes of it: messages on that channel."""
        code = self.say(*messages, channel=channel)
        assert code == 0, code
        return [m for m in self.hear()]

    def tick(self, now):
        self.now = now
        return self.probe.code("peer-tick", self.at, now)

    def events(self):
        return self.probe.ask("peer-events", self.at)

    def has(self, index):
        return self.probe.numbers("peer-feed", 0, 0, index)[2] == 1

    def error(self):
        return self.info()[0]

    def info(self):
        return self.probe.numbers("peer-info", self.at)

    def close(self):
        self.probe.ask("peer-free", self.at)
        self.probe.ask("close", 0)


class Downloaded(Remote):
    """One of several, from each of which the driver downloads its feed `feed`."""

    def __init__(self, probe, at, feed, public):
        self.probe, self.now, self.at = probe, 0, at
        probe.ask("peer", at, 0, 1, 0, 0, bytes([0x40 + at]) * 32, 0)
        probe.ask("peer-open", at, feed, DOWNLOAD)
        self.receiver, self.sender = cipher.Receiver(public), cipher.Sender(public, NONCE)
        self.greeting = self.hear()
        assert self.say(Feed(cipher.discovery_key(public), NONCE), Handshake(ID, True)) == 0

    def close(self):
        self.probe.ask("peer-free", self.at)


def of(cls, heard):
    return [m[1] for m in heard if m != "keep-alive" and isinstance(m[1], cls)]


# ---- opening ------------------------------------------------------------------------------------

def test_opening(probe):
    """Feed in the clear, then Handshake under the cipher, both at once; extensions sorted."""
    remote = Remote(probe, 3, extensions=("zeta", "alpha", "m"), shake=False)
    (_, feed), (_, handshake) = remote.greeting
    assert feed.discoveryKey == cipher.discovery_key(PUBLIC) and len(feed.nonce) == 24
    assert handshake.id == b"\x22" * 32 and handshake.live is True and handshake.ack is False
    assert handshake.extensions == ["alpha", "m", "zeta"]


def test_want_waits_for_the_handshake(probe):
    remote = Remote(probe, shake=False)
    assert remote.say(Feed(cipher.discovery_key(PUBLIC), NONCE)) == 0
    assert remote.hear() == []
    assert of(Want, remote.talk(Handshake(ID, True))) == [Want(0, RANGE)]
    assert of(Want, remote.talk(Handshake(b"\x33" * 32, False))) == []  # only the first counts
    assert [e for e in remote.events() if e == "handshake"] == ["handshake"]


def test_an_owner_asks_for_nothing(probe):
    assert Remote(probe, 3).hear() == []


@pytest.mark.parametrize("first, error", [
    (Feed(bytes(32), NONCE), FIRST_FEED),
    (Feed(cipher.discovery_key(PUBLIC)), PROTOCOL),
    (Have(1), PROTOCOL), (Handshake(ID), PROTOCOL), (request(0), PROTOCOL)], ids=str)
def test_bad_openings(probe, first, error):
    remote = Remote(probe, 3, shake=False)
    assert remote.say(first) == error and remote.error() == error


def test_oneself(probe):
    remote = Remote(probe, 3, remote_id=b"\x22" * 32)
    assert remote.error() == SELF


# ---- time ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("timeout", [5000, 20000])
def test_keep_alive_and_death(probe, timeout):
    """A keep-alive 3/4 to 1 timeout after the last send; death after 3/2 of silence, not before."""
    remote = Remote(probe, 3, timeout=0 if timeout == 5000 else timeout)
    remote.hear()
    heard, sent = [], remote.now
    for now in range(0, timeout * 3, timeout // 20):
        code = remote.tick(now)
        if code:
            break
        for m in remote.hear():
            assert m == "keep-alive"
            heard.append(now - sent)
            sent = now
    assert code == TIMEOUT and timeout * 5 // 4 <= now <= timeout * 3 // 2 + timeout // 20
    assert heard and all(timeout * 3 // 4 <= t <= timeout for t in heard)


def test_a_peer_that_speaks_lives(probe):
    remote = Remote(probe, 3)
    for now in range(0, 60000, 500):
        assert remote.tick(now) == 0
        remote.hear()
        if now % 5000 == 0:
            assert remote.say_frames(wire.KEEP_ALIVE) == 0
    deadline = remote.info()[1]
    assert now < deadline <= now + 5000


def test_the_deadline_is_kept(probe):
    """Ticking only when it says so is enough: keep-alives go out, and the end is in time."""
    remote = Remote(probe, 3)
    remote.hear()
    count = 0
    for _ in range(20):
        now = remote.info()[1]
        if remote.tick(now):
            break
        count += remote.hear().count("keep-alive")
    assert remote.error() == TIMEOUT and now == 7500 and count == 1


def test_no_timeout(probe):
    remote = Remote(probe, 3, timeout=2**32 - 1)
    assert remote.tick(10**9) == 0 and remote.info()[1] == 2**64 - 1


def test_unanswered_requests_are_given_up(probe):
    """A remote that lives but does not answer: the block is free again, and a late answer is kept."""
    remote = Remote(probe)
    feed = source(3)
    remote.talk(*offer(2))
    assert remote.info()[4] == 1
    for now in range(500, 9000, 500):
        assert remote.tick(now) == 0
        remote.say_frames(wire.KEEP_ALIVE)
    assert remote.info()[4] == 0
    assert remote.say(feed.answer(request(2))) == 0
    assert members(probe.ask("held", 0)) == {2}


def alive(remote, until):
    """Keep-alives from the remote, and nothing else; the indexes that are asked for meanwhile."""
    asked = []
    for now in range(remote.now + 500, until + 1, 500):
        assert remote.tick(now) == 0
        asked += [r.index for r in of(Request, remote.hear())]
        remote.say_frames(wire.KEEP_ALIVE)
    return asked


def test_an_unanswered_request_is_made_again(probe):
    """After as long a pause, in which others could be asked; what lies inside the verified length stays offered."""
    remote, feed = Remote(probe), source(9)
    (first,) = of(Request, remote.talk(Have(8), Have(0, RANGE, NINE)))
    (rest,) = {tuple(r.index for r in of(Request, remote.talk(feed.answer(first))))}
    assert set(rest) | {first.index} == set(range(9))
    assert alive(remote, 14000) == []
    again = alive(remote, 16000)
    assert sorted(again) == sorted(rest)


def test_new_requests_do_not_put_off_the_giving_up_of_old_ones(probe):
    """A remote that has new blocks all the time and answers for none is given up as one that is asked once."""
    remote, feed = Remote(probe), source(9)
    (first,) = of(Request, remote.talk(Have(8), Have(0, RANGE, bitfield(8))))
    remote.talk(feed.answer(first))
    for i in range(4):
        assert [r.index for r in of(Request, remote.talk(Have(i)))] == [i]
        assert alive(remote, remote.now + 1500) == [] and remote.info()[4] == i + 1
    assert remote.now == 6000 and alive(remote, 7500) == [] and remote.info()[4] == 0


def test_as_many_requests_as_there_can_be_are_given_up(probe):
    """Also where the oldest is not the first of the ring that they stand in, and one of them was answered; all are made again."""
    remote, feed = Remote(probe), source(2600)
    (first,) = of(Request, remote.talk(Have(2599), Have(0, RANGE, bitfield(*range(2600)))))
    asked = of(Request, remote.talk(feed.answer(first)))
    asked = asked[700:] + of(Request, remote.talk(*[feed.answer(r) for r in asked[:700]]))
    assert remote.info()[4] == len(asked) == 1024
    assert of(Request, remote.talk(feed.answer(asked.pop(9)))) == [] and remote.info()[4] == 1023
    assert alive(remote, 7500) == [] and remote.info()[4] == 0
    assert {r.index for r in asked} <= set(alive(remote, 15000))


def test_what_was_offered_beyond_the_length_is_asked_for_once_that_is_there(probe):
    """A request beyond the verified length that got no answer is no proof that there is a block; a longer tree is."""
    remote, feed = Remote(probe), source(1)
    (first,) = of(Request, remote.talk(*offer(0)))
    remote.talk(feed.answer(first))
    (lost,) = of(Request, remote.talk(Have(1)))
    assert lost.index == 1
    assert alive(remote, 16000) == []
    feed.append(*[content(SEED, i, SIZE) for i in (1, 2)])
    (last,) = of(Request, remote.talk(Have(2)))
    assert last.index == 2
    asked = of(Request, remote.talk(feed.answer(last)))
    assert [r.index for r in asked] == [1]
    remote.talk(feed.answer(asked[0]))
    assert probe.numbers("check", 0, SEED, 10, 10) == [3, 3]


# ---- the conversation ---------------------------------------------------------------------------

def test_download(probe):
    remote, feed = Remote(probe), source(9)
    asked, heard = [], remote.hear()
    heard += remote.talk(Have(8), Have(0, RANGE, NINE))
    mine = feeds.Feed(key=PUBLIC)
    while heard:
        requests = of(Request, heard)
        asked += [r.index for r in requests]
        heard = remote.talk(*[feed.answer(r) for r in requests]) if requests else []
    assert sorted(asked) == list(range(9)) and mine.length == 0
    assert probe.numbers("check", 0, SEED, 10, 10) == [9, 9]
    blocks = [e for e in remote.events() if e.startswith("block")]
    assert len(blocks) == 9 and probe.numbers("peer-feed", 0, 0) == [9, 1]


def pour(remote, feed, turns, pause, order=1):
    """In each turn, all that was asked for is answered after a pause; how many requests are open behind each."""
    asked, counts = of(Request, remote.talk(Have(feed.length - 1), Have(0, RANGE, bitfield(*range(feed.length))))), []
    for _ in range(turns):
        assert remote.tick(remote.now + pause) == 0
        asked = of(Request, remote.talk(*[feed.answer(r) for r in asked[::order]]))
        counts.append(remote.info()[4])
    remote.close()
    return counts


@pytest.fixture(scope="module")
def large_blocks():
    feed = feeds.Feed(secret_key=SECRET)
    feed.append(*[bytes([i % 256]) * 65536 for i in range(400)])
    return feed


def test_as_much_is_asked_for_as_a_remote_brings(probe, large_blocks):
    """A mebibyte, and what came of late in the delay and a tenth of a second; but no more than 2 MiB of a remote whose answers are
    out of order, for they may have to wait for each other."""
    assert pour(Remote(probe), large_blocks, 2, 0) == [16, 16]
    first, *_, last = pour(Remote(probe), large_blocks, 6, 100)
    assert first < 20 and 60 < last < 100
    assert pour(Remote(probe), large_blocks, 6, 100, order=-1)[2:] == [32] * 4


def test_blocks_are_asked_for_one_after_the_other(probe, large_blocks):
    """What is offered anew before them has its turn after them."""
    remote = Remote(probe)
    (first,) = of(Request, remote.talk(Have(20), Have(0, RANGE, bitfield(*range(21)))))
    asked = of(Request, remote.talk(large_blocks.answer(first)))
    asked += of(Request, remote.talk(Unhave(3)))
    remote.talk(Have(3))
    assert [r.index for r in asked] == list(range(1, 18))
    order = []
    for request_ in asked[:2] + asked[3:]:
        order += [r.index for r in of(Request, remote.talk(large_blocks.answer(request_)))]
    assert order == [18, 19, 20, 3]


@pytest.mark.parametrize("order", range(5))
def test_answers_in_any_order(probe, order):
    """The deployed server answers out of order: what cannot be verified yet waits."""
    rng = random.Random(order)
    remote, feed = Remote(probe), source(40)
    requests = of(Request, remote.talk(Have(39), Have(0, RANGE, b"\x17")))
    served = set()
    while requests:
        rng.shuffle(requests)
        take, requests = requests[:7], requests[7:]
        served |= {r.index for r in take}
        requests += of(Request, remote.talk(*[feed.answer(r) for r in take]))
    assert served == set(range(40)) and probe.numbers("check", 0, SEED, 10, 10) == [40, 40]


def test_upload(probe):
    remote, mine = Remote(probe, 9), feeds.Feed(key=PUBLIC)
    heard = remote.talk(Want(0, RANGE))
    assert of(Have, heard) == [Have(8), Have(0, RANGE, NINE)]
    for index in (8, 0, 3, 4):
        (data,) = of(Data, remote.talk(request(index, mine.digest(index))))
        mine.put(data)
    assert sorted(mine.blocks) == [0, 3, 4, 8] and mine.audit() == []
    (data,) = of(Data, remote.talk(request(5, mine.digest(5), hash=True)))
    assert data.value is None and data.nodes[0].index == 10
    mine.put(data)
    (data,) = of(Data, remote.talk(request(0, bytes=75)))
    assert data.index == 7
    mine.put(data)


def test_wants_that_are_not_multiples_of_8192_are_ignored(probe):
    remote = Remote(probe, 9)
    for start, length in ((1, RANGE), (0, 5), (8191, 8192), (0, 2**64 - 1)):
        assert remote.talk(Want(start, length)) == []
    assert of(Have, remote.talk(Want(8192, 8192)))[-1] == Have(8192, 8192, b"")
    assert of(Have, remote.talk(Want(0)))[-1] == Have(0, 0, NINE)


def test_a_want_is_answered_with_its_range_alone(probe):
    remote = Remote(probe, 20000)
    assert of(Have, remote.talk(Want(8192, 8192)))[-1] == Have(8192, 8192, rle_encode(b"\xff" * 1024))
    assert of(Have, remote.talk(Want(16384, 8192)))[-1] == Have(16384, 8192, rle_encode(b"\xff" * 452))


def test_sixteen_wants_at_once(probe):
    """As many as are kept: each is answered, and nothing else is harmed."""
    remote = Remote(probe, 9)
    wants = [Want(8192 * k, 8192) for k in range(16)]
    answers = [h for h in of(Have, remote.talk(*wants)) if h.bitfield is not None]
    assert [(h.start, h.length) for h in answers] == [(w.start, w.length) for w in wants]
    for index in range(9):
        (data,) = of(Data, remote.talk(request(index)))
        assert data.index == index and data.value == content(SEED, index, SIZE)


@pytest.mark.parametrize("unwant, ends", [(Unwant(0), True), (Unwant(0, RANGE), True), (Unwant(0, 3), True),
                                          (Unwant(0, 2), False), (Unwant(1), False), (Unwant(1, RANGE), False)])
def test_unwant_of_all_ends_the_announcing(probe, unwant, ends):
    """Of a part, or from a later block on, it does not: there is one Want for all."""
    remote = Remote(probe, 3)
    remote.talk(Want(0, RANGE))
    assert remote.talk(unwant) == []
    probe.ask("grow", 0, SEED, 1, 10, 10, 1)
    probe.ask("flush", 0)
    assert of(Have, remote.hear()) == ([] if ends else [Have(3)])
    assert of(Unhave, remote.talk(request(7))) == ([] if ends else [Unhave(7)])
    remote.talk(Want(0, RANGE))
    assert of(Unhave, remote.talk(request(7))) == [Unhave(7)]


@pytest.mark.parametrize("hash", [False, True])
def test_what_is_not_there_is_taken_back(probe, hash):
    """Only from a remote that asked what there is."""
    remote = Remote(probe, 3)
    assert remote.talk(request(7, hash=hash)) == []
    remote.talk(Want(0, RANGE))
    assert of(Unhave, remote.talk(request(7, hash=hash))) == [Unhave(7)]
    probe.ask("clear", 0, 1, 2)
    heard = remote.talk(request(1, hash=hash))
    assert of(Data, heard) if hash else Unhave(1) in of(Unhave, heard)


def test_a_hash_alone_as_the_answer_is_no_block(probe):
    """It is kept, and the block is not asked of this remote again; it may be offered anew."""
    remote, feed = Remote(probe), source(3)
    (first,) = of(Request, remote.talk(*offer(2)))
    heard = remote.talk(feed.answer(request(first.index, first.nodes, hash=True)))
    assert of(Request, heard) == [] and probe.ask("nodes", 0) and members(probe.ask("held", 0)) == set()
    assert alive(remote, 16000) == []
    (again,) = of(Request, remote.talk(Have(2)))
    assert again.index == first.index
    remote.talk(feed.answer(again))
    assert members(probe.ask("held", 0)) == {2}


@pytest.mark.parametrize("nodes, stored", [(80, True), (81, False)])
def test_an_answer_with_too_many_nodes_is_false(probe, nodes, stored):
    remote, feed = Remote(probe), source(3)
    (first,) = of(Request, remote.talk(*offer(2)))
    data = feed.answer(first)
    more = [wire.Node(0, bytes([i] * 32), 1) for i in range(nodes - len(data.nodes))]
    code = remote.say(Data(data.index, data.value, list(data.nodes) + more, data.signature))
    assert members(probe.ask("held", 0)) == ({2} if stored else set())
    assert (code == BAD_DATA) is not stored


def test_an_empty_feed_answers_a_present_empty_bitfield(probe):
    assert of(Have, Remote(probe, 0).talk(Want(0, RANGE))) == [Have(0, RANGE, b"")]


def test_appends_and_clears_are_announced(probe):
    """After a Want; and only what is committed, since an owner never forks."""
    remote = Remote(probe, 3)
    probe.ask("grow", 0, SEED, 1, 10, 10, 1)
    assert remote.hear() == []
    remote.talk(Want(0, RANGE))
    probe.ask("grow", 0, SEED, 2, 10, 10, 2)
    assert remote.hear() == []
    probe.ask("flush", 0)
    assert of(Have, remote.hear()) == [Have(4, 2)]
    probe.ask("clear", 0, 1, 3)
    assert of(Unhave, remote.hear()) == [Unhave(1, 2)]
    assert of(Unhave, remote.talk(request(1))) == [Unhave(1)]


def test_what_comes_to_a_reader_is_told_at_once(probe):
    """Before it is committed, for it is the same whatever happens; but not to who has it, nor what lies between and is not here."""
    remote = Remote(probe)
    probe.ask("open", 1, "memory", CREATE, PUBLIC, SECRET)
    probe.ask("grow", 1, SEED, 9, 10, 10, 9)
    remote.talk(Want(0, RANGE))
    remote.talk(*offer(3))
    probe.ask("give", 0, 1, 0, 3, 5)
    assert of(Have, remote.hear()) == [Have(5)]
    probe.ask("flush", 0)
    assert of(Have, remote.hear()) == []


def test_nothing_is_given_before_it_is_synced(probe):
    """When a Data or a Have of an owner goes out, its block is committed."""
    remote = Remote(probe, 3)
    probe.ask("grow", 0, SEED, 4, 10, 10, 4)
    assert int(probe.ask("info", 0)[2]) < 7
    (data,) = of(Data, remote.talk(request(6)))
    assert data.index == 6 and int(probe.ask("info", 0)[2]) == 7


def test_a_failing_store_ends_the_upload(probe):
    remote = Remote(probe, 3)
    probe.ask("grow", 0, SEED, 1, 10, 10, 1)
    probe.ask("disk-fail", 0, "sync", 1, -drive.NO_SPACE)
    assert remote.say(request(3)) in (0, drive.NO_SPACE)
    assert of(Data, remote.hear()) == [] and remote.error() == drive.NO_SPACE


def test_ack_only_after_commit(probe):
    remote, feed = Remote(probe, remote_ack=True), source(3)
    remote.talk(*offer(2))
    heard = remote.talk(feed.answer(request(2)))
    assert not [h for h in of(Have, heard) if h.ack]
    probe.ask("flush", 0)
    assert [h for h in of(Have, remote.hear()) if h.ack] == [Have(2, 1, None, True)]
    assert of(Have, remote.hear()) == []


def test_no_ack_where_none_was_asked(probe):
    remote, feed = Remote(probe), source(3)
    remote.talk(*offer(2))
    remote.talk(feed.answer(request(2)))
    probe.ask("flush", 0)
    assert of(Have, remote.hear()) == []


def test_extensions_are_matched_by_name(probe):
    remote = Remote(probe, 3, extensions=("b", "a", "x"), names=("q", "b", "zz", "a"))
    assert remote.say(Extension(1, b"one"), Extension(3, b"two"), Extension(0, b"no"), Extension(9, b"no")) == 0
    assert [e for e in remote.events() if e.startswith("ext")] == [
        "extension:b:" + b"one".hex(), "extension:a:" + b"two".hex()]
    probe.ask("peer-extension", 0, 0, "b", b"hello")
    assert of(Extension, remote.hear()) == [Extension(1, b"hello")]  # of our own sorted list
    assert probe.code("peer-extension", 0, 0, "x", b"") == -5
    assert probe.code("peer-extension", 0, 0, "unknown", b"") == -5


# ---- the ending ---------------------------------------------------------------------------------

def test_a_downloader_that_has_all_ends(probe):
    remote, feed = Remote(probe, live=0, mode=DOWNLOAD), source(1)
    heard = remote.talk(Have(0), Have(0, RANGE, b"\x02\x80"))
    heard = remote.talk(feed.answer(of(Request, heard)[0]))
    assert of(Info, heard) == [Info(True, False)] and remote.error() == 0
    assert remote.say(Info(False, False)) == DONE
    assert "finished" in remote.events()
    probe.ask("peer-free", 0)
    assert int(probe.ask("info", 0)[2]) == 1  # and what it has is on the disk


def test_an_uploader_ends_with_its_downloader(probe):
    remote = Remote(probe, 3, live=0)
    assert remote.say(Want(0, RANGE), request(1)) == 0
    assert of(Data, remote.hear())
    assert remote.say(Info(True, False)) == DONE
    assert of(Info, remote.hear()) == [Info(False, False)]


def test_absent_fields_of_info_are_false(probe):
    remote = Remote(probe, 3, live=0)
    assert remote.say_frames(wire.encode_frame(0, 2, wire.encode_raw(1, 1))) == DONE


def test_an_empty_feed_is_complete(probe):
    remote = Remote(probe, live=0)
    assert of(Info, remote.talk(Have(0, RANGE, b""))) == [Info(True, False)]


def whole(length, *blocks):
    """The answer of the versions to 6.22.0 to any Want: all they have, from block 0, and no length."""
    return Have(0, length, bitfield(*blocks) if blocks else b"")


@pytest.mark.parametrize("length", [None, 0, 1], ids=str)
@pytest.mark.parametrize("blocks", [0, 1, 9, 40])
def test_a_whole_bitfield_answers_the_want(probe, blocks, length):
    remote, feed = Remote(probe, live=0), source(blocks)
    heard = remote.talk(whole(length, *range(blocks)))
    while of(Request, heard):
        heard = remote.talk(*[feed.answer(r) for r in of(Request, heard)])
    assert of(Info, heard) == [Info(True, False)]
    assert probe.numbers("check", 0, SEED, 10, 10) == [blocks, blocks]
    assert remote.say(Info(False, False)) == DONE


def test_a_whole_bitfield_answers_the_wants_at_and_after_its_start(probe):
    remote = Remote(probe, live=0)
    assert of(Want, remote.talk(Have(2 * RANGE, 2))) == [Want(i * RANGE, RANGE) for i in range(3)]
    assert of(Info, remote.talk(Have(RANGE, 0, b""), Unhave(2 * RANGE, 2))) == []
    assert of(Info, remote.talk(Have(RANGE, 0, b""))) == []
    assert of(Info, remote.talk(Have(0, 0, b""))) == [Info(True, False)]


def test_who_tells_all_is_not_asked_about_later_ranges(probe):
    """It sends every Have from then on; and who tells of one range is asked about the next."""
    remote = Remote(probe)
    remote.talk(whole(0, 0))
    heard = remote.talk(Have(3 * RANGE, 2))
    assert of(Want, heard) == [] and probe.numbers("peer-feed", 0, 0)[0] == 3 * RANGE + 2
    remote.close()
    remote = Remote(probe)
    remote.talk(Have(0, RANGE, bitfield(0)))
    assert of(Want, remote.talk(Have(3 * RANGE, 2))) == [Want(i * RANGE, RANGE) for i in (1, 2, 3)]


@pytest.mark.parametrize("have", [
    Have(8, None, b""), Have(RANGE, 0, b""), Have(2**63, 0, b""), Have(0, 8192, b""), Have(0, RANGE + 8192, b""),
    Have(0, 2, b""), Have(8192, RANGE, b""), Have(RANGE, RANGE, b"")], ids=str)
def test_what_answers_no_want(probe, have):
    """It begins after the Want, or has neither the Want's length nor none."""
    remote = Remote(probe, live=0)
    assert of(Info, remote.talk(have)) == []
    assert of(Info, remote.talk(Have(0, RANGE, b""))) == [Info(True, False)]


def test_one_answer_is_counted_for_one_want(probe):
    remote, feed = Remote(probe, live=0), source(1)
    heard = remote.talk(Have(RANGE, 2), Have(0, RANGE, bitfield(0)))
    assert of(Want, heard) == [Want(0, RANGE), Want(RANGE, RANGE)] and of(Request, heard)[0].index == 0
    assert of(Info, remote.talk(feed.answer(of(Request, heard)[0]), Unhave(RANGE, 2))) == []
    assert of(Info, remote.talk(*[Have(0, RANGE, bitfield(0))] * 3)) == []
    assert of(Info, remote.talk(Have(RANGE, RANGE, b""))) == [Info(True, False)]


def test_answers_to_no_want_are_counted_for_nothing(probe):
    """However many come: a Want that is sent later is open all the same."""
    remote = Remote(probe, live=0)
    assert of(Info, remote.talk(Have(0, RANGE, b""), *[Have(i % 20 * RANGE, RANGE, b"") for i in range(100)])) == [Info(True, False)]
    remote.close()
    remote = Remote(probe, live=0, shake=False)
    assert remote.say(Feed(cipher.discovery_key(PUBLIC), NONCE), *[whole(0)] * 40, *[Have(0, RANGE, b"")] * 40) == 0
    heard = remote.talk(Handshake(ID, True))
    assert of(Want, heard) == [Want(0, RANGE)] and of(Info, heard) == []
    assert of(Info, remote.talk(whole(0))) == [Info(True, False)]


def test_an_answer_tells_of_its_whole_range(probe):
    """The versions 6.22.1 to 6.25.1 tell of their last block before they answer, also if it is not there, and close when asked
    for it. What an answer leaves off at its end is not there either."""
    remote = Remote(probe)
    assert of(Request, remote.talk(Have(39))) == []
    (first,) = of(Request, remote.talk(Have(0, RANGE, bitfield(0, 3))))
    assert first.index == 0
    feed = source(40)
    (next,) = of(Request, remote.talk(feed.answer(first)))
    assert next.index == 3
    assert of(Request, remote.talk(feed.answer(next))) == []
    assert of(Request, remote.talk(Have(39)))[0].index == 39  # now it came


def test_a_bitfield_that_is_no_answer_tells_of_what_is_in_it(probe):
    remote = Remote(probe)
    remote.talk(Have(0, RANGE, b""), Have(39), Have(33), Have(0, RANGE, bitfield(3)))
    assert [remote.has(i) for i in (3, 33, 39)] == [True, True, True]


@pytest.mark.parametrize("more", [Have(2, 2), Have(8, 8192, b""), whole(0, 1)], ids=str)
def test_a_lone_block_waits_for_more(probe, more):
    """For the answer, for anything that tells more, or a second: who never answers a Want can be asked all the same."""
    remote = Remote(probe)
    assert of(Request, remote.talk(Have(1))) == []
    assert len(of(Request, remote.talk(more))) == 1
    remote.close()
    remote = Remote(probe)
    assert remote.tick(0) == 0 and of(Request, remote.talk(Have(1)) + remote.talk(Have(2))) == []
    assert remote.info()[1] == 1000 and remote.tick(999) == 0 and of(Request, remote.hear()) == []
    assert remote.tick(1000) == 0 and len(of(Request, remote.hear())) == 1


def test_a_lone_block_waits_where_nothing_has_a_time(probe):
    """A peer without timeouts, whose only deadline this is."""
    remote = Remote(probe, timeout=2**32 - 1)
    assert remote.tick(0) == 0 and of(Request, remote.talk(Have(1))) == []
    assert remote.info()[1] == 1000 and remote.tick(1000) == 0 and len(of(Request, remote.hear())) == 1
    assert remote.info()[1] == 2**64 - 1


@pytest.mark.drive
def test_runs_are_those_of_peers_whatever_a_drive_has_read(probe):
    """A drive hears of its content's blocks as peers do, but is none. Its long names, read one after the other so that eight zeros
    stand before other letters, are no run of blocks: the second peer is asked from where the first one's run ends."""
    drives = Drives(probe)
    drives.open(0, "memory", CREATE, None, SECRET)
    drives.feeds(0, 60, 61)
    lengths = [length for length in (500, *range(480, 7, -1)) if length != 251]
    for length in lengths:
        drives.put(0, "/" + ("y" * 250 + "/" + "x" * (length - 251) if length > 251 else "x" * length))
    probe.ask("grow", 61, SEED, 401, 10, 10, 401)
    public = drives.info(0)[5]
    drives.world(1)
    drives.open(1, "world:1", CREATE, PUBLIC)
    drives.feeds(1, 62)
    length = int(probe.ask("info", 60)[0])
    probe.ask("give", 62, 60, 0, *range(length))
    drives.close(1)
    drives.open(1, "world:1", CREATE, PUBLIC)
    drives.feeds(1, 62, 63)
    probe.ask("want", 63, 0, 401)
    probe.ask("give", 63, 61, 0, 0)
    for end in range(16, 480, 8):
        assert len(drives.entry(1, 1).path) == 501
        for length in [n for n in range(end, end - 8, -1) if n in lengths]:
            assert len(drives.entry(1, lengths.index(length) + 1).path) == length + 1
        one, two = (Downloaded(probe, at, 63, public) for at in (0, 1))
        for peer, first in ((one, 1), (two, 51)):
            asked = of(Request, peer.talk(*offer(*range(401))))
            assert [r.index for r in asked] == list(range(first, first + 16)), end
        for peer in (one, two):
            peer.talk(Unhave(0, 401))  # so nothing is on its way when it ends
            peer.close()
    drives.close(1)
    drives.close(0)


@pytest.mark.drive
def test_a_peer_and_its_feed_may_have_memory_of_their_own(probe):
    """Each gives back what is its own where that came from."""
    probe.ask("drive.open", 0, "memory", CREATE, PUBLIC, None, 0)  # not counted: the driver's peers are
    probe.ask("drive.feeds", 0, 0)
    remote, feed = Downloaded(probe, 0, 0, PUBLIC), source(40)
    requests = of(Request, remote.talk(*offer(*range(40))))
    while requests:
        requests = of(Request, remote.talk(*[feed.answer(r) for r in reversed(requests[:-1])]))
    remote.close()
    probe.ask("drive.close", 0)


def test_the_block_at_which_a_connection_ended_is_asked_for_last(probe):
    """When nothing else is on its way, and from the next peer too; until it came."""
    remote, feed = Remote(probe), source(4)
    for i in range(20):
        assert of(Request, remote.talk(*offer(0, 1)))[0].index == i % 2  # the one that was not tried last
        probe.ask("peer-free", 0)
        remote = Downloaded(probe, 0, 0, PUBLIC)
    (first,) = of(Request, remote.talk(*offer(0, 1, 2, 3)))
    assert first.index == 2
    rest = of(Request, remote.talk(feed.answer(first)))
    assert [r.index for r in rest] == [3]
    rest = of(Request, remote.talk(feed.answer(rest[0])))
    assert [r.index for r in rest] == [0]
    remote.talk(*[feed.answer(r) for r in of(Request, remote.talk(feed.answer(rest[0])))])
    assert probe.numbers("check", 0, SEED, 10, 10) == [4, 4]
    probe.ask("peer-free", 0)
    probe.ask("close", 0)


def test_of_the_blocks_at_which_connections_ended_the_last_sixteen_are_noted(probe):
    remote, asked = Remote(probe), []
    for _ in range(20):
        asked.append(of(Request, remote.talk(*offer(*range(20))))[0].index)
        probe.ask("peer-free", 0)
        remote = Downloaded(probe, 0, 0, PUBLIC)
    assert asked == [*range(17), 0, 1, 2]
    probe.ask("peer-free", 0)
    probe.ask("close", 0)


# ---- what a peer of 2017 or 2018 needs ----------------------------------------------------------

def test_a_want_without_a_length_is_answered_at_once(probe):
    """Before the Handshake, too: by one bitfield from block 0 with length 0, and nothing ahead of it: 6.12.7, told of the last block
    alone, never asks for a range in order that doesn't begin with it."""
    for blocks, code in ((9, NINE), (0, b"")):
        remote = Remote(probe, blocks, shake=False)
        heard = remote.talk(Feed(cipher.discovery_key(PUBLIC), NONCE), Want(0), Handshake(ID, True))
        assert of(Have, heard) == [Have(0, 0, code)]
        remote.close()


def test_a_have_goes_ahead_of_the_first_request_to_an_old_peer(probe):
    """The versions before 6.10.3 crash on a Request ahead of any Have."""
    remote = Remote(probe)
    remote.hear()
    heard = [m for _, m in remote.talk(whole(0, 0))]
    assert heard[0] == Have(0, 0, b"") and type(heard[1]) is Request
    remote.close()
    remote = Remote(probe)
    remote.talk(Want(0))
    assert of(Have, remote.talk(whole(0, 0))) == []  # one was sent
    remote.close()
    remote = Remote(probe)
    assert of(Have, remote.talk(Have(0, RANGE, bitfield(0)))) == []  # not an old one


@pytest.mark.parametrize("old", [True, False])
def test_a_block_is_denied_before_an_old_peer_is_asked_for_it_again(probe, old):
    """Before 6.18.2 a block was sent once on a channel, and again only after an Unhave."""
    remote = Remote(probe)
    remote.talk(Want(0))
    (first,) = of(Request, remote.talk(whole(0, 0) if old else Have(0, RANGE, bitfield(0))))
    assert first.index == 0
    remote.talk(Unhave(0))
    heard = [m for _, m in remote.talk(Have(0))]
    assert heard[:-1] == [Unhave(0)] * old and heard[-1].index == 0


def test_a_live_peer_does_not_end(probe):
    remote = Remote(probe, 3, live=1)
    assert remote.say(Info(True, False)) == 0 and remote.error() == 0


# ---- feeds that are not open here ---------------------------------------------------------------

def test_messages_on_an_unopened_feed_are_kept(probe):
    """17 of them, for a late open; one more ends the connection."""
    other = secret_key(SEED + 1)[32:]
    remote = Remote(probe, 3)
    assert remote.say(Feed(cipher.discovery_key(other)), channel=1) == 0
    assert remote.events()[-1] == "feed:" + cipher.discovery_key(other).hex()
    assert remote.say(Want(0, RANGE), *[request(i) for i in range(16)], channel=1) == 0
    probe.ask("open", 1, "memory", CREATE, None, secret_key(SEED + 1))
    probe.ask("grow", 1, SEED + 1, 4, 5, 5, 4)
    probe.ask("peer-open", 0, 1, BOTH)
    heard = remote.hear()
    assert of(Feed, heard) == [Feed(cipher.discovery_key(other))]
    assert sorted(d.index for d in of(Data, heard)) == [0, 1, 2, 3]


def test_too_many_messages_on_an_unopened_feed(probe):
    remote = Remote(probe, 3)
    remote.say(Feed(bytes(32)), channel=1)
    assert remote.say(*[request(i) for i in range(17)], channel=1) == 0
    assert remote.say(request(17), channel=1) == EARLY


def test_too_many_bytes_on_unopened_feeds(probe):
    remote = Remote(probe, 3)
    remote.say(Feed(bytes(32)), channel=1)
    assert remote.say(Data(0, bytes(70000)), channel=1) == EARLY
    remote.close()
    remote = Remote(probe, 3)
    probe.ask("memory")
    code = 0
    for channel in range(1, 250):
        remote.say(Feed(bytes([channel]) * 32), channel=channel)
        code = code or remote.say(Data(0, bytes(30000)), channel=channel)
    assert code == EARLY and probe.numbers("memory")[1] < 3 << 20


# ---- hostile messages (PROTOCOL 2.5 to 2.7) -----------------------------------------------------

def hostile():
    frame, raw = wire.encode_frame, wire.encode_raw
    m = wire.encode_message
    yield "rle-cut", m(0, Have(0, RANGE, b"\x04\xf8")), {0}
    yield "rle-head-cut", m(0, Have(0, RANGE, b"\x80")), {0}
    yield "rle-run-2p40", m(0, Have(0, RANGE, wire.encode_varint((2**40 << 2) | 3))), {0}
    yield "rle-run-2p61", m(0, Have(0, RANGE, wire.encode_varint(2**64 - 1))), {0}
    yield "rle-zeros-2p40", m(0, Have(0, RANGE, wire.encode_varint((2**40 << 2) | 1) + b"\x02\xff")), {0}
    yield "have-2p40", m(0, Have(0, 2**40)), {0}
    yield "have-2p64", m(0, Have(2**64 - 1, 2**64 - 1)), {0}
    yield "have-start-2p40", m(0, Have(2**40)), {0}
    yield "have-odd-bitfield", m(0, Have(3, RANGE, b"\x02\xf8")), {0}
    yield "have-far-bitfield", m(0, Have(2**63, RANGE, b"\x02\xf8")), {0}
    yield "unhave-2p64", m(0, Unhave(0, 2**64 - 1)), {0}
    yield "unhave-far", m(0, Unhave(2**64 - 1, 2**64 - 1)), {0}
    yield "want-2p43", m(0, Want(0, 2**43)), {0}
    yield "want-far", m(0, Want(2**63, RANGE)), {0}
    yield "data-nothing", m(0, Data(0)), {0}
    yield "data-far", m(0, Data(2**64 - 1, b"x")), {0}
    yield "data-far-hash", m(0, Data(2**62, None, [wire.Node(2**63, bytes(32), 1)], bytes(64))), {0, BAD_DATA}
    yield "data-signature-63", m(0, Data(1, b"x", [], bytes(63))), {0, BAD_DATA}
    yield "data-unasked", m(0, Data(1, b"x", [], bytes(64))), {0}
    yield "data-wrong-leaf", m(0, Data(1, None, [wire.Node(9, bytes(32), 1)], bytes(64))), {0, BAD_DATA, -44}
    yield "data-200-nodes", m(0, Data(1, None, [wire.Node(2, bytes(32), 1)] * 200, bytes(64))), {0, BAD_DATA, -44}
    yield "extension-cut", frame(0, 15, b"\x80"), {0}
    yield "extension-far", m(0, Extension(2**64 - 1, b"x")), {0}
    yield "request-far", m(0, Request(2**64 - 1, 2**64 - 1, True, 2**64 - 1)), {0}
    yield "request-bytes-end", m(0, Request(0, 50)), {0}
    yield "request-digest", m(0, Request(3, 0, False, 2**64 - 1)), {0}
    yield "cancel-far", m(0, wire.Cancel(2**64 - 1)), {0}
    yield "unwant-far", m(0, wire.Unwant(2**64 - 1, 2**64 - 1)), {0}
    yield "feed-twice", m(0, Feed(cipher.discovery_key(PUBLIC))), {PROTOCOL}
    yield "feed-again-elsewhere", m(5, Feed(cipher.discovery_key(PUBLIC))), {PROTOCOL}
    yield "feed-unknown-twice", m(1, Feed(bytes(32))) + m(1, Feed(bytes(32))), {PROTOCOL}
    yield "feed-31", frame(1, 0, raw(1, bytes(31))), {PROTOCOL}
    yield "channel-256", m(256, Feed(bytes(32))), {PROTOCOL}
    yield "channel-2p28", frame(2**28 - 1, 3, raw(1, 0)), {PROTOCOL}
    yield "never-opened", m(7, Have(0)), {PROTOCOL}
    yield "type-12", frame(0, 12, b"xyz"), {0}
    yield "body-cut", frame(0, 9, b"\x08"), {0}
    yield "frame-large", b"\x81\x80\x80\x04", {drive.FRAME}
    yield "frame-5-bytes", b"\x80\x80\x80\x80\x01", {drive.FRAME}
    yield "frame-announced", b"\x80\x80\x80\x04" + bytes(100), {0}
    yield "header-cut", b"\x02\x80\x80", {0, PROTOCOL}
    yield "short-frames", b"\x01\x00\x01\x0f\x01\xff\x00", {0}
    yield "handshake-64-names", m(0, Handshake(ID, True, None, ["n"] * 5000)), {0}


HOSTILE = list(hostile())


@pytest.mark.parametrize("owner", [True, False], ids=["owner", "reader"])
@pytest.mark.parametrize("frame, codes", [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_hostile_messages(probe, owner, frame, codes):
    """Ignored, or a clear end; little memory; and whoever is still there goes on working."""
    remote = Remote(probe, 5 if owner else None)
    remote.hear()
    probe.ask("memory")
    base = probe.numbers("memory")[0]
    code = remote.say_frames(frame)
    assert code in codes
    assert not [e for e in remote.events() if e.startswith("block")]
    remote.hear(1 << 20)
    assert probe.numbers("memory")[1] - base < 600000
    remote.tick(100)
    if code == 0 and not frame.startswith(b"\x80\x80\x80\x04"):
        heard = remote.talk(request(1)) if owner else remote.talk(*offer(0))
        if owner:
            assert of(Data, heard)[0].value == content(SEED, 1, SIZE)
        assert remote.error() == 0


@pytest.mark.parametrize("index", [0, 4])
def test_false_blocks_end_the_connection(probe, index):
    remote, feed = Remote(probe), source(5)
    good = of(Request, remote.talk(*offer(index)))[0]
    data = feed.answer(good)
    data.value = b"false" + data.value[5:]
    assert remote.say(data) in (BAD_DATA, -44)
    assert [e for e in remote.events() if e.startswith("reject:%d" % index)]
    assert probe.ask("held", 0) == [] and probe.ask("nodes", 0) == []


def test_request_flood_with_nobody_reading(probe):
    """20,000 Requests of blocks of 10 kB: no more is read than fits the queue, memory is bounded,
    and all are answered once somebody reads."""
    probe.ask("disk", 0)
    probe.ask("open", 0, "disk:0", CREATE, PUBLIC, SECRET)
    probe.ask("grow", 0, SEED, 20, 10000, 10000, 20)
    probe.ask("peer", 0, 0, 1, 0, 0, None, 0)
    probe.ask("peer-open", 0, 0, BOTH)
    sender = cipher.Sender(PUBLIC, NONCE)
    stream = b"".join(map(sender.encode, (
        [wire.encode_message(0, Feed(cipher.discovery_key(PUBLIC), NONCE)),
         wire.encode_message(0, Handshake(ID, True)),
         b"".join(wire.encode_message(0, request(i % 20)) for i in range(20000))])))
    probe.ask("memory")
    taken = probe.number("peer-in", 0, 1, 65536, stream)
    assert taken < len(stream)
    probe.ask("peer-out", 0, 1, 1000)
    info = probe.numbers("peer-info", 0)
    assert info[5] <= 1024 and info[6] < 2 << 20
    assert probe.numbers("memory")[1] < 5 << 20
    receiver, answers, now = cipher.Receiver(PUBLIC), 0, 10
    while answers < 20000:
        now += 1
        out = probe.bytes("peer-out", 0, now, 1 << 24)
        answers += len(out) // 10000
        if taken < len(stream):
            taken += probe.number("peer-in", 0, now, 65536, stream[taken:])
        assert now < 5000 and (out or taken < len(stream))
    assert taken == len(stream) and probe.numbers("memory")[1] < 6 << 20


def test_not_reading_is_not_the_remotes_silence(probe):
    """While the queue is full we do not read: the remote must not die of that."""
    remote = Remote(probe, 5)
    remote.say(*[request(i % 5) for i in range(2000)])
    assert remote.info()[2] == 0
    for now in range(0, 20000, 1000):
        assert remote.tick(now) == 0


def test_want_flood(probe):
    remote = Remote(probe, 5)
    probe.ask("memory")
    for _ in range(20):
        assert remote.say(*[Want(0, RANGE)] * 1000) == 0
    assert probe.numbers("memory")[1] < 4 << 20
    remote.hear()
    assert of(Data, remote.talk(request(2)))


def test_have_flood(probe):
    """Scattered Haves: what is remembered of a remote is bounded."""
    remote = Remote(probe)
    probe.ask("memory")
    rng = random.Random(1)
    for _ in range(10):
        assert remote.say(*[Have(rng.randrange(2**32)) for _ in range(2000)]) == 0
        remote.hear()
    assert probe.numbers("memory")[1] < 128 << 20


@pytest.mark.parametrize("code", [rle_encode(b"\xaa" * 64), rle_encode(b"\xff" * 64), rle_encode(bytes(63) + b"\x01")],
                         ids=["literal", "ones", "last"])
def test_what_is_offered_ends_at_the_last_block_there_can_be(probe, code):
    """A bitfield that goes on beyond it: what lies beyond is not there."""
    remote = Remote(probe)
    for start in (2**32 - 64, 2**32 - 512):
        assert remote.say(Have(start, 512, code)) == 0
        assert remote.error() == 0 and probe.numbers("peer-feed", 0, 0)[0] <= 2**32
    assert remote.say(Have(2**32, 512, code)) == 0 and probe.numbers("peer-feed", 0, 0)[0] in (2**32 - 1, 2**32)


def test_unhave_flood(probe):
    """What a remote takes back of all blocks that there could be is bounded as well."""
    remote = Remote(probe)
    assert remote.say(Have(0, 2**32)) == 0
    probe.ask("memory")
    rng = random.Random(2)
    for _ in range(10):
        assert remote.say(*[Unhave(rng.randrange(2**32), 1) for _ in range(2000)]) == 0
        remote.hear()
    holes = b"".join(b"\x05" + wire.encode_varint(1000 << 2 | 3) for _ in range(60000))
    assert remote.say(Have(0, RANGE, holes)) == 0
    assert probe.numbers("memory")[1] < 32 << 20


def test_a_large_frame_takes_memory_as_it_comes(probe):
    """8 MiB are announced; memory follows what came."""
    remote = Remote(probe)
    probe.ask("memory")
    head = wire.encode_varint(8388608) + b"\x09"
    assert remote.say_frames(head + bytes(1000)) == 0
    assert probe.numbers("memory")[1] < 100000 + probe.numbers("memory")[0]
    assert remote.say_frames(bytes(700000)) == 0
    assert probe.numbers("memory")[0] < 4 << 20


def test_256_channels(probe):
    remote = Remote(probe, 3)
    for channel in range(1, 256):
        assert remote.say(Feed(channel.to_bytes(32, "big")), channel=channel) == 0
    assert remote.say(Feed(bytes(32)), channel=256) == PROTOCOL


def test_every_allocation_of_a_session_fails_once(probe):
    feed, n = source(6), 0
    while True:
        n += 1
        probe.ask("disk", 0)
        probe.ask("open", 0, "disk:0", CREATE, PUBLIC, None)
        base = probe.numbers("memory")[0]
        probe.ask("memory-fail", n)
        codes = [probe.code("peer", 0, 0, 0, 1, 0, None, 0, "a", "b")]
        if not codes[0]:
            codes.append(probe.code("peer-open", 0, 0, BOTH))
            sender = cipher.Sender(PUBLIC, NONCE)
            for m in [Feed(cipher.discovery_key(PUBLIC), NONCE), Handshake(ID, True, None, ["a"], True),
                      Want(0, RANGE), Have(5), Have(0, RANGE, b"\x02\xfc"), feed.answer(request(5))] + \
                    [feed.answer(request(i)) for i in range(5)] + [request(2), request(3), Info(True, True)]:
                codes.append(probe.code("peer-in", 0, 1, 0, sender.encode(wire.encode_message(0, m))))
                probe.code("peer-out", 0, 1, 1 << 20)
            for m in (Feed(bytes(32)), Have(5)):  # it is kept until that feed is opened here
                codes.append(probe.code("peer-in", 0, 1, 0, sender.encode(wire.encode_message(1, m))))
            codes.append(probe.numbers("peer-info", 0)[0])
            probe.ask("peer-free", 0)
        left = probe.number("memory-fail", 0)
        assert set(codes) <= {0, drive.NOMEM, DONE, drive.STATE}, (n, codes)
        code = probe.code("close", 0)
        assert code == 0
        assert probe.numbers("memory")[0] < base
        if left:
            break
        assert drive.NOMEM in codes, n
    assert n > 15


# ---- swarms -------------------------------------------------------------------------------------

def swarm(probe, seed, count, blocks, size, how="plain", most=60000):
    *numbers, log = probe.ask("swarm", seed, count, blocks, size, how, most)
    names = ("now", "complete", "good", "got", "rejects", "uploads", "early")
    return dict(zip(names, map(int, numbers)), log=log)


@pytest.mark.synchronizer
@pytest.mark.parametrize("count, blocks, size", [(2, 1, 10), (2, 300, 700), (3, 100, 20000), (5, 500, 300),
                                                 (9, 300, 2000), (20, 200, 1000)])
@pytest.mark.parametrize("seed", [1, 2])
def test_swarm(probe, seed, count, blocks, size):
    """All become complete, each block is stored once by each, and a seed repeats every event."""
    result = swarm(probe, seed, count, blocks, size)
    assert result["complete"] == result["good"] == count - 1, result
    assert result["got"] == blocks * (count - 1) and result["rejects"] == 0
    assert result == swarm(probe, seed, count, blocks, size)


@pytest.mark.synchronizer
def test_seeds_differ(probe):
    assert len({swarm(probe, seed, 12, 100, 300)["log"] for seed in range(4)}) == 4


@pytest.mark.synchronizer
def test_complete_means_all_below_the_verified_length(probe):
    """Not only what the neighbours happen to have at this moment."""
    assert [swarm(probe, seed, 9, 300, 2000)["early"] for seed in range(6)] == [0] * 6


@pytest.mark.synchronizer
@pytest.mark.parametrize("seed", range(4))
def test_the_source_disappears(probe, seed):
    """The maker leaves as soon as the others have every block between them."""
    result = swarm(probe, seed, 6, 400, 3000, "vanish")
    assert result["complete"] == result["good"] == 5, result
    assert result == swarm(probe, seed, 6, 400, 3000, "vanish")


@pytest.mark.synchronizer
@pytest.mark.parametrize("seed", range(4))
def test_a_tampering_peer(probe, seed):
    """One peer gives false bytes for every block: they are refused, and the others complete."""
    result = swarm(probe, seed, 6, 200, 1000, "tamper")
    assert result["complete"] == result["good"] == 4, result
    assert result["rejects"] > 0
