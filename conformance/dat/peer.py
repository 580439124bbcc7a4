"""A scripted peer on a TCP socket, and a simple correct one built on it (PROTOCOL 3 to 15).

`Peer` does what it is told: it sends messages, raw bodies or raw bytes, says what came, and
keeps a log of every byte. `Conversation` behaves: it serves and downloads feeds; `serve` and
`clone` run one to its end.
"""

import collections
import os
import socket
import struct
import threading
import time
from typing import NamedTuple, Optional

from . import wire
from .bitfield import Bits, rle_decode, rle_encode
from .cipher import Receiver, Sender, discovery_key
from .tree import Holding

TIMEOUT = 5.0  # seconds that one expectation waits
PING_AFTER = 3.0  # seconds without sending; the deployed code waits 3.75 to 5
WANT_BLOCKS = 1 << 20
WANT_STEP = 8192  # a Want's start and length are multiples of this
MAX_REQUESTS = 16
MAX_WANTS = 16
MAX_CHANNELS = 256
HINT = 1.0  # seconds for which a block that is told of before the first Want is answered waits
MAX_BLOCKS = 1 << 24  # claims beyond it, or of more than WANT_BLOCKS at once, are not noted
LOOPBACK = "127.0.0.1"


class PeerError(Exception):
    """The conversation did not go as scripted."""


class TimedOut(PeerError):
    pass


class Closed(PeerError):
    """The remote closed the connection."""


class Unexpected(PeerError):
    pass


def show(message):
    """A message in one line, bytes in hex, absent fields left out."""
    def one(value):
        if isinstance(value, (bytes, bytearray)):
            return value.hex()
        if isinstance(value, list):
            return "[%s]" % ", ".join(map(one, value))
        return show(value) if isinstance(value, wire.Node) else str(value)
    present = ["%s: %s" % (name, one(value)) for name, value in vars(message).items()
               if value is not None and value != []]
    return "%s{%s}" % (type(message).__name__, ", ".join(present))


class Entry(NamedTuple):
    """A line of the log.

    What is sent has one entry: `plain` before the cipher, `wire` as it went out. What is received
    has one entry for each read (`wire`) and one for each frame (`plain`). `message` is None for
    what is no message or does not decode.
    """
    time: float
    direction: str  # "sent" or "received"
    channel: Optional[int]
    message: object
    plain: bytes
    wire: bytes

    def __str__(self):
        where = "" if self.channel is None else " ch%d" % self.channel
        what = " keep-alive" if self.plain == wire.KEEP_ALIVE else " bytes"
        if self.message is not None:
            what = " " + show(self.message)
        return "%8.3f %-8s%s%s  %s" % (self.time, self.direction, where, what, self.plain.hex())


class Received(NamedTuple):
    """A message as it came: on the remote's channel number, for the feed of this key."""
    channel: int
    key: Optional[bytes]
    message: object  # None where the body does not decode
    frame: wire.Frame


class Peer:
    """One connection. `keys` are the feeds that we know, the first one being the first feed.

    Hooks, each None or a function, change what is sent: `tamper_message(channel, message)`
    returns a message or None to send nothing; `tamper_plain(bytes)` the frame before the
    cipher; `tamper_wire(bytes)` the bytes for the socket, or a list of them to write one by one.
    """

    def __init__(self, sock, keys, timeout=TIMEOUT, ping_after=PING_AFTER):
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.keys = [keys] if isinstance(keys, (bytes, bytearray)) else list(keys)
        self.timeout, self.ping_after = timeout, ping_after
        self.tamper_message = self.tamper_plain = self.tamper_wire = None
        self.log = []
        self.channels = {}  # key -> our channel number
        self.remote_feeds = {}  # the remote's channel number -> discovery key
        self.remote_handshake = None
        self._by_discovery_key = {discovery_key(key): bytes(key) for key in self.keys}
        self._sender = None
        self._receiver = Receiver(self._find)
        self._frames = collections.deque()
        self._lock = threading.RLock()
        self._born = self._last_sent = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _find(self, dk):
        return self._by_discovery_key.get(bytes(dk)) if dk == discovery_key(self.keys[0]) else None

    # -- sending --

    def start(self, nonce=None, **handshake):
        """Open the first feed and shake hands, without waiting for the remote."""
        self.open(nonce=nonce)
        self.handshake(**handshake)
        return self

    def open(self, key=None, nonce=None, channel=None):
        """Send Feed on our next channel. The first one carries a nonce and goes in the clear."""
        key = bytes(self.keys[0] if key is None else key)
        channel = len(self.channels) if channel is None else channel
        self.channels[key] = channel
        if self._sender is None:
            nonce = os.urandom(24) if nonce is None else nonce
            self._sender = Sender(key, nonce)
        self._by_discovery_key[discovery_key(key)] = key
        self.send(wire.Feed(discovery_key(key), nonce), channel)
        return channel

    def handshake(self, id=None, live=False, userData=None, extensions=(), ack=False):
        id = os.urandom(32) if id is None else id
        self.send(wire.Handshake(id, live, userData, sorted(extensions), ack))

    def send(self, message, channel=0):
        if self.tamper_message:
            message = self.tamper_message(channel, message)
        if message is not None:
            self._transmit(wire.encode_message(channel, message), channel, message)

    def send_body(self, channel, type, body):
        """A frame with a body of one's own making."""
        self._transmit(wire.encode_frame(channel, type, body), channel)

    def send_plain(self, data):
        """Any bytes, through the cipher."""
        self._transmit(data)

    def send_wire(self, data):
        """Any bytes, past the cipher, whose keystream does not move."""
        with self._lock:
            self._note("sent", None, None, b"", data)
            self._write(data)

    def ping(self):
        self._transmit(wire.KEEP_ALIVE)

    def _transmit(self, plain, channel=None, message=None):
        with self._lock:
            if self.tamper_plain:
                plain = self.tamper_plain(plain)
            data = self._sender.encode(plain) if self._sender else bytes(plain)
            if self.tamper_wire:
                data = self.tamper_wire(data)
            chunks = [data] if isinstance(data, (bytes, bytearray)) else list(data)
            self._note("sent", channel, message, plain, b"".join(chunks))
            for chunk in chunks:
                self._write(chunk)

    def _write(self, data):
        self._last_sent = time.monotonic()
        self.sock.settimeout(self.timeout)
        try:
            self.sock.sendall(data)
        except socket.timeout:
            raise TimedOut("the remote does not read") from None
        except OSError as error:
            raise Closed("cannot send: %s" % error) from None

    # -- receiving --

    def receive(self, timeout=None):
        """The next message. Keep-alives and ignored frames are only logged."""
        frame = self._next_frame(timeout)
        try:
            message = frame.message()
        except wire.CodecError:
            message = None
        if isinstance(message, wire.Feed):
            self.remote_feeds[frame.channel] = message.discoveryKey
        if isinstance(message, wire.Handshake) and self.remote_handshake is None:
            self.remote_handshake = message
        key = self._by_discovery_key.get(self.remote_feeds.get(frame.channel))
        return Received(frame.channel, key, message, frame)

    def _next_frame(self, timeout):
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while not self._frames:
            self._read(deadline)
        return self._frames.popleft()

    def _read(self, deadline):
        now = time.monotonic()
        if now >= deadline:
            raise TimedOut("nothing came in time")
        wait = deadline - now
        if self.ping_after is not None and self._sender is not None:
            due = self._last_sent + self.ping_after
            if due <= now:
                self.ping()
                due = now + self.ping_after
            wait = min(wait, due - now)
        self.sock.settimeout(max(wait, 0.001))
        try:
            chunk = self.sock.recv(65536)
        except socket.timeout:
            return
        except OSError as error:
            raise Closed("the connection broke: %s" % error) from None
        if not chunk:
            raise Closed("the remote closed the connection")
        self._take(chunk)

    def _take(self, chunk):
        self._note("received", None, None, b"", chunk)
        self._receiver.push(chunk)
        for frame in iter(self._receiver.next, None):
            try:
                message = frame.message()
            except wire.CodecError:
                message = None
            self._note("received", frame.channel, message, frame.raw, b"")
            if frame.is_message:
                self._frames.append(frame)

    def expect(self, *types, timeout=None, skip=()):
        """The next message, which must be of one of these types; those in `skip` may come first."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            got = self.receive(max(0, deadline - time.monotonic()))
            if isinstance(got.message, types):
                return got
            if not isinstance(got.message, tuple(skip)):
                wanted = " or ".join(t.__name__ for t in types)
                raise Unexpected("expected %s, got %s" % (wanted, got.message or got.frame))

    def wait_for(self, *types, timeout=None, where=None):
        """The first message of one of these types (and for which `where` holds); others pass."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            got = self.receive(max(0, deadline - time.monotonic()))
            if isinstance(got.message, types) and (where is None or where(got.message)):
                return got

    def expect_silence(self, seconds):
        """Nothing but keep-alives comes for so long."""
        try:
            got = self.receive(seconds)
        except TimedOut:
            return
        raise Unexpected("expected nothing, got %s" % (got.message or got.frame,))

    def expect_close(self, timeout=None):
        """The remote closes; what it sends before that is returned."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        before = []
        while True:
            try:
                before.append(self.receive(max(0, deadline - time.monotonic())))
            except Closed:
                return before

    # -- the end --

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def reset(self):
        """Close with a TCP reset, as a crash does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _note(self, direction, channel, message, plain, data):
        self.log.append(
            Entry(time.monotonic() - self._born, direction, channel, message, bytes(plain), data))

    def transcript(self):
        return "\n".join(str(e) for e in self.log if e.plain)

    def wire_bytes(self, direction):
        """All bytes of one direction as they were on the socket."""
        return b"".join(e.wire for e in self.log if e.direction == direction)


def connect(port, keys, host=LOOPBACK, **options):
    """Dial, and return a Peer that has sent nothing yet."""
    sock = socket.create_connection((host, port), timeout=options.get("timeout", TIMEOUT))
    return Peer(sock, keys, **options)


class Listener:
    """Accepts Peers on a loopback port that the system chooses unless one is given."""

    def __init__(self, keys, port=0, **options):
        self.keys, self.options = keys, options
        self.sock = socket.create_server((LOOPBACK, port))
        self.port = self.sock.getsockname()[1]

    def accept(self, timeout=TIMEOUT):
        self.sock.settimeout(timeout)
        try:
            sock, _ = self.sock.accept()
        except socket.timeout:
            raise TimedOut("nobody connected") from None
        return Peer(sock, self.keys, **self.options)

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---- a peer that behaves ----------------------------------------------------------------------

class _Channel:
    """What a conversation knows about one feed."""

    def __init__(self, feed, download):
        self.feed, self.download = feed, download
        self.remote_opened = False
        self.remote_wants = False
        self.remote_tree = Holding()  # what the remote's digests have said
        self.last_bytes = 0
        self.remote_bits = Bits()
        self.ranges = 0  # Wants that we sent, from range 0 on
        self.answers = 0  # to how many of them
        self.everything = False  # what the remote has is told in one bitfield: hypercore before 6.22.1
        self.hinted = None  # when a Have came ahead of the first answer
        self.told = False  # whether a Have was sent
        self.todo = collections.deque()  # blocks that the remote has and we lack
        self.queued = set()
        self.in_flight = set()
        self.info_sent = self.done = False


class Conversation:
    """Serves feeds and, with `download`, fills them; ends as PROTOCOL 15.1 says unless `live`.

    The first of the feeds is the first one of the connection.
    """

    def __init__(self, peer, feeds, download=False, live=False, timeout=15.0, linger=1.0,
                 on_block=None, max_requests=MAX_REQUESTS):
        feeds = feeds if isinstance(feeds, (list, tuple)) else [feeds]
        self.peer, self.live, self.timeout, self.linger = peer, live, timeout, linger
        self.download, self.on_block, self.max_requests = download, on_block, max_requests
        self.by_key = {f.key: _Channel(f, download and not f.writable) for f in feeds}
        self.stopped = threading.Event()
        self.lock = threading.RLock()  # held while a message is handled: take it to change a feed that is being served

    def run(self):
        """Until both sides are done, the remote closes, or `stop` is called."""
        try:
            if not self.peer.channels:
                self.peer.start(live=self.live)
            for key in self.by_key:
                if key not in self.peer.channels:
                    self.peer.open(key)
            self._loop()
        finally:
            self.peer.close()

    def stop(self):
        self.stopped.set()

    def _loop(self):
        last = time.monotonic()
        while not self.stopped.is_set() and not all(c.done for c in self.by_key.values()):
            try:
                got = self.peer.receive(0.1)
            except TimedOut:
                try:
                    self._ask_on_hints()
                except Closed:
                    return self._on_closed()
                waited = time.monotonic() - last
                if self.complete and not self.live and self.download and waited > self.linger:
                    return
                if not self.live and waited > self.timeout:
                    raise
                continue
            except Closed:
                return self._on_closed()
            last = time.monotonic()
            try:
                with self.lock:
                    self._on(got)
            except Closed:
                return self._on_closed()

    def _on_closed(self):
        """The remote may leave at any time; a downloader that lacks something minds."""
        if self.download and not self.complete:
            raise Closed("the remote closed before everything was here")

    @property
    def complete(self):
        """Every block that was offered, and every one of the verified length, is here."""
        return all(c.answers and not c.todo and not c.in_flight and c.feed.complete
                   for c in self.by_key.values() if c.download)

    def _on(self, got):
        if got.channel >= MAX_CHANNELS:
            raise PeerError("channel %d is too high" % got.channel)
        if got.frame.type == wire.Feed.TYPE and got.message is None:
            raise PeerError("a Feed that does not decode")
        if got.channel not in self.peer.remote_feeds:
            raise PeerError("a message on a channel that was never opened")
        channel = self.by_key.get(got.key)
        if channel is None or got.message is None:
            return  # a feed that we do not share, or a body that does not decode
        if isinstance(got.message, wire.Feed):
            channel.remote_opened = True
            if self.peer.remote_handshake:
                self._send_wants(channel)
            return
        handler = getattr(self, "_on_" + type(got.message).__name__.lower(), None)
        if handler:
            handler(channel, got.message)

    def _send(self, channel, message):
        channel.told |= isinstance(message, wire.Have)
        self.peer.send(message, self.peer.channels[channel.feed.key])

    def _on_handshake(self, _, message):
        for channel in self.by_key.values():
            if channel.remote_opened:
                self._send_wants(channel)

    # -- serving --

    def _on_want(self, channel, want):
        start, length = want.start, want.read("length")
        if start % WANT_STEP or length % WANT_STEP:
            return
        feed = channel.feed
        if not channel.remote_wants and feed.length and feed.has(feed.length - 1):
            self._send(channel, wire.Have(feed.length - 1))
        channel.remote_wants = True
        ours = max(0, -(-len(feed.bitfield) // 8) - start // 8)  # bytes; beyond are only zeros
        size = ours if start == 0 and length == 0 else min(ours, length // 8)
        bitfield = rle_encode(feed.bitfield.bytes(start // 8, size))
        self._send(channel, wire.Have(start, length, bitfield))

    def _on_request(self, channel, request):
        if request.bytes:
            if request.bytes == channel.last_bytes:
                return
            channel.last_bytes = request.bytes
        data = channel.feed.answer(request, channel.remote_tree)
        if data is not None:
            self._send(channel, data)

    def announce(self, feed, start, length=1):
        """Tell the remote about new blocks; for feeds that grow during the conversation."""
        with self.lock:
            channel = self.by_key[feed.key]
            if channel.remote_wants:
                self._send(channel, wire.Have(start, None if length == 1 else length))

    def append(self, feed, *blocks):
        """Append to a feed that is being served, and announce."""
        with self.lock:
            self.announce(feed, feed.append(*blocks), len(blocks))

    def _on_info(self, channel, info):
        if info.read("downloading") or self.live:
            return
        if not channel.download:
            if not channel.info_sent:
                self._send(channel, wire.Info(False, False))
            channel.info_sent = True
        channel.done = channel.info_sent

    # -- downloading --

    def _send_wants(self, channel):
        if not channel.download or channel.everything:
            return
        length = max(len(channel.remote_bits), 1)
        while channel.ranges * WANT_BLOCKS < length \
                and channel.ranges - channel.answers < MAX_WANTS:
            self._send(channel, wire.Want(channel.ranges * WANT_BLOCKS, WANT_BLOCKS))
            channel.ranges += 1

    def _on_have(self, channel, have):
        if not channel.download:
            return
        if have.bitfield is not None:
            if have.start % 8:
                return
            # Without a length (which then reads as 1; or 0) it is the whole bitfield, and answers all Wants.
            whole = have.start == 0 and have.length in (None, 0, 1)
            try:
                bits = rle_decode(have.bitfield, align=4, limit=(MAX_BLOCKS if whole else WANT_BLOCKS) // 8)
            except wire.CodecError:
                return
            if have.start + 8 * len(bits) > MAX_BLOCKS:
                return
            channel.remote_bits.replace(have.start // 8, self._answered(channel, have, bits, whole))
            claimed = (have.start + i for i in Bits(bits))
        else:
            length = have.read("length") or 1
            if length > WANT_BLOCKS or have.start + length > MAX_BLOCKS:
                return
            claimed = range(have.start, have.start + length)
            if not channel.answers and channel.hinted is None:
                channel.hinted = time.monotonic()
        for i in claimed:
            channel.remote_bits.set(i)
            if not channel.feed.has(i) and i not in channel.queued:
                channel.queued.add(i)
                channel.todo.append(i)
        self._send_wants(channel)
        self._ask(channel)

    def _answered(self, channel, have, bits, whole):
        """Count the answer to a Want, or to all. It tells of its whole range: the zeros that are left out at the end are added."""
        room = max(0, len(bytes(channel.remote_bits)) - have.start // 8 - len(bits))
        if channel.answers < channel.ranges and (whole or have.length == WANT_BLOCKS):
            bits += bytes(room if whole else min(room, WANT_BLOCKS // 8 - len(bits)))
        channel.everything |= whole
        channel.answers = channel.ranges if whole else min(channel.answers + 1, channel.ranges)
        return bits

    def _on_unhave(self, channel, unhave):
        end = min(unhave.start + (unhave.read("length") or 1), len(channel.remote_bits))
        for i in range(unhave.start, end):
            channel.remote_bits.set(i, False)

    def _waits(self, channel):
        """hypercore 6.22.1 to 6.25.1 tells of its last block before it answers the first Want, also if it lacks it, and closes
        when asked for it: so ask once the Want is answered."""
        return not channel.answers and channel.hinted is not None and time.monotonic() - channel.hinted < HINT

    def _ask_on_hints(self):
        with self.lock:
            for channel in list(self.by_key.values()):
                if channel.todo and not channel.answers and not channel.in_flight and not self._waits(channel):
                    self._ask(channel)

    def _ask(self, channel):
        if self._waits(channel):
            return
        while channel.todo and len(channel.in_flight) < self.max_requests:
            i = channel.todo.popleft()
            if channel.feed.has(i) or not channel.remote_bits.get(i):
                channel.queued.discard(i)
                continue
            channel.in_flight.add(i)
            if channel.everything and not channel.told:  # hypercore before 6.10.3 dies of a Request ahead of any Have
                self._send(channel, wire.Have(0, WANT_STEP, b""))
            self._send(channel, wire.request(i, channel.feed.digest(i)))
        self._finish(channel)

    def _on_data(self, channel, data):
        if data.index not in channel.in_flight or data.value is None:
            return  # not asked for
        channel.feed.put(data)
        channel.in_flight.discard(data.index)
        channel.queued.discard(data.index)
        if self.on_block:
            self.on_block(channel.feed, data.index)
        self._ask(channel)

    def _finish(self, channel):
        """A downloader that has all says so, once, unless it stays for more."""
        finished = channel.answers and not channel.todo and not channel.in_flight \
            and channel.feed.complete
        if finished and channel.download and not self.live and not channel.info_sent:
            channel.info_sent = True
            self._send(channel, wire.Info(True, False))


# ---- peers of other years ----------------------------------------------------------------------

class Manner(NamedTuple):
    """What a remote sees of a version of hypercore (PROTOCOL 21), where it is not as 6.26."""
    whole: bool = False  # answers any Want with Have{0, bitfield} of everything, wants {0} at once, also as a writer
    blind: bool = False  # dies of a Request ahead of any Have
    once: bool = False  # sends no block twice, nor one that the remote has claimed, before an Unhave
    forgets: bool = False  # each Request stands alone
    hints: bool = False  # tells of its last block first, also if it lacks it
    strict: bool = False  # closes when asked for a block that it lacks
    ending: str = "agree"  # answers the end with Info{false, false} and closes; "wait" does not close, "close" says nothing


MANNERS = {
    "6.0.0": Manner(whole=True, blind=True, once=True, forgets=True, strict=True, ending="wait"),
    "6.6.6": Manner(whole=True, blind=True, once=True, forgets=True, ending="close"),
    "6.12.7": Manner(whole=True, once=True, forgets=True),
    "6.20.2": Manner(whole=True, forgets=True),
    "6.22.1": Manner(hints=True, forgets=True, strict=True),
    "6.26.0": Manner(),
}


class Elder:
    """Mixed into a Conversation: it serves and downloads in the manner of another year."""

    manner = MANNERS["6.0.0"]

    def run(self):
        self.told = set()  # channels on which the remote has sent a Have
        self.given = set()  # (channel, block) that the remote has, as far as this peer knows
        self.wanting = set()
        if self.manner.whole:
            self.peer.start(live=self.live)
            for key, channel in self.by_key.items():
                if key not in self.peer.channels:
                    self.peer.open(key)
                self._send_wants(channel)
        super().run()

    def _send_wants(self, channel):
        if not self.manner.whole:
            super()._send_wants(channel)
        elif channel not in self.wanting:
            self.wanting.add(channel)
            channel.ranges = 1
            self._send(channel, wire.Want(0))

    def _on_want(self, channel, want):
        if self.manner.whole:
            channel.remote_wants = True
            feed = channel.feed
            return self._send(channel, wire.Have(0, None, rle_encode(feed.bitfield.bytes(0, -(-len(feed.bitfield) // 8)))))
        in_step = want.start % WANT_STEP == want.read("length") % WANT_STEP == 0
        if self.manner.hints and in_step and not channel.remote_wants and channel.feed.length:
            channel.remote_wants = True
            self._send(channel, wire.Have(channel.feed.length - 1))
        super()._on_want(channel, want)

    def _on_have(self, channel, have):
        self.told.add(channel)
        if have.bitfield is not None and self.manner.whole:
            have = wire.Have(0, None, have.bitfield)  # its start is not looked at
        if self.manner.once:
            self.given.update((channel, i) for i in self._claimed(have))
        super()._on_have(channel, have)

    def _claimed(self, have):
        if have.bitfield is None:
            return range(have.start, have.start + min(have.read("length") or 1, WANT_BLOCKS))
        return Bits(rle_decode(have.bitfield))

    def _on_unhave(self, channel, unhave):
        for i in range(unhave.start, unhave.start + min(unhave.read("length") or 1, WANT_BLOCKS)):
            self.given.discard((channel, i))
        super()._on_unhave(channel, unhave)

    def _on_request(self, channel, request):
        if self.manner.blind and channel not in self.told:
            raise PeerError("a Request ahead of any Have: hypercore before 6.10.3 dies of it")
        if self.manner.strict and not request.bytes and not channel.feed.has(request.index):
            raise PeerError("a Request of block %d, which is not here: this version closes" % request.index)
        if self.manner.once and (channel, request.index) in self.given:
            return
        self.given.add((channel, request.index))
        if self.manner.forgets:
            channel.remote_tree = Holding()
        super()._on_request(channel, request)

    def _on_info(self, channel, info):
        if info.read("downloading") or self.live or channel.download or self.manner.ending == "agree":
            return super()._on_info(channel, info)
        channel.done = channel.info_sent or self.manner.ending == "close"
        if not channel.done:
            channel.info_sent = True
            self._send(channel, wire.Info(False, False))


class OldConversation(Elder, Conversation):
    """A Conversation in a manner of MANNERS."""

    def __init__(self, peer, feeds, manner, **options):
        self.manner = MANNERS[manner]
        super().__init__(peer, feeds, **options)


def serve(peer, feeds, **options):
    """Serve a feed, or several, to this peer until the conversation ends."""
    Conversation(peer, feeds, **options).run()


def clone(peer, feeds, **options):
    """Download a feed, or several; returns when all is there. VerifyError where data is wrong."""
    Conversation(peer, feeds, download=True, **options).run()


class Background:
    """Runs a function in a thread; `join` gives its result or raises what it raised."""

    def __init__(self, function, *args, **kwargs):
        self._result = self._error = None
        self._thread = threading.Thread(
            target=self._run, args=(function, args, kwargs), daemon=True)
        self._thread.start()

    def _run(self, function, args, kwargs):
        try:
            self._result = function(*args, **kwargs)
        except BaseException as error:  # handed to whoever joins
            self._error = error

    def join(self, timeout=15.0):
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimedOut("the thread still runs")
        if self._error is not None:
            raise self._error
        return self._result
