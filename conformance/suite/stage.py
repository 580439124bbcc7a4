"""What a case has in hand: the peer under test as a process, connections to it, its folders.

Whatever is not as it must be ends the case with a `Departure`, which says what was sent, what was expected and what
came. The peer is judged by its bytes and its SLEEP files; of the process only the exit code counts, and that it ends.
"""

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from dat import feed as feeds
from dat import peer as peers
from dat import sleep, sodium, wire
from dat.bitfield import OLD_PAGE_BYTES
from dat.tree import Holding

from . import guard

LIMIT = 15.0  # seconds that a case may take
PATIENCE = 5.0  # seconds that one expectation waits
STOP = 5.0  # seconds to end in after "stop"
WORDS = 8000  # of the peer's last words that are kept
NOT_IMPLEMENTED = 89
WHOLE = peers.WANT_BLOCKS  # the length of the Want that everybody sends
WANT_STEP = peers.WANT_STEP


class Departure(Exception):
    """The peer does not do what the case asks."""

    def __init__(self, expected, got, sent=""):
        super().__init__("expected %s, got %s" % (expected, got))
        self.expected, self.got, self.sent = expected, got, sent


class Unsupported(Exception):
    """The adapter says (exit 89) that the implementation has no such thing."""


def words(message):
    """A message or a list of them in few words; long bytes cut."""
    if isinstance(message, (list, tuple)) and not isinstance(message, peers.Received):
        return ", ".join(map(words, message)) or "nothing"
    if isinstance(message, peers.Received):
        message = message.message if message.message is not None else message.frame
    if isinstance(message, wire.Frame):
        return "a frame that does not decode: %s" % message.raw[:40].hex()
    text = peers.show(message) if isinstance(message, wire.Message) else str(message)
    return text if len(text) <= 300 else text[:297] + "..."


class Connection(peers.Peer):
    """A scripted peer whose expectations end the case. `name` is what the report calls it."""

    def __init__(self, sock, keys, patience=PATIENCE, name="connection", **options):
        super().__init__(sock, keys, timeout=patience, **options)
        self.name = name
        self.told, self.asked = set(), set()  # our channels on which we have said what we hold; blocks that we asked for
        self.nonce = None  # ours

    def send(self, message, channel=0):
        if isinstance(message, wire.Have):
            self.told.add(channel)
        elif isinstance(message, wire.Request):
            self.tells(channel)
            self._again(message, channel)
        elif isinstance(message, wire.Feed) and self.nonce is None:
            self.nonce = message.nonce
        super().send(message, channel)

    def receive(self, timeout=None):
        got = super().receive(timeout)
        if isinstance(got.message, wire.Feed) and got.message.nonce and got.message.nonce == self.nonce:
            self.fail("a Feed of its own", "ours, sent back")
        return got

    def _again(self, request, channel):
        """A block that was asked for already is not here: hypercore before 6.18.2 sends none twice until it is told so."""
        if not request.bytes and (channel, request.index) in self.asked:
            super().send(wire.Unhave(request.index), channel)
        self.asked.add((channel, request.index))

    def send_body(self, channel, type, body):
        if type == wire.Request.TYPE:
            self.tells(channel)
        super().send_body(channel, type, body)

    def tells(self, channel=0):
        """Say that we hold nothing, before anything is asked for: deployed downloaders do, and hypercore before 6.10.3 crashes
        of a Request ahead of any Have. One case alone asks without it."""
        if channel not in self.told:
            self.send(wire.Have(0, WANT_STEP, b""), channel)
        return self

    def offers_nothing(self):
        """Wait for the downloader's Want and answer it: what is told later is then no hint that comes ahead of an answer."""
        want = self.until(wire.Want)
        self.send(wire.Have(want.start, want.length, b""))
        return self

    def last_sent(self):
        for entry in reversed(self.log):
            if entry.direction == "sent":
                return words(entry.message) if entry.message is not None else \
                    (entry.plain or entry.wire)[:48].hex() or "nothing"
        return "nothing"

    def fail(self, expected, got):
        raise Departure(expected, got, self.last_sent())

    def _await(self, take, expected):
        try:
            return take()
        except peers.TimedOut:
            self.fail(expected, "nothing of the kind in %.3g s%s" % (self.timeout, self._lately()))
        except peers.Closed as error:
            self.fail(expected, "%s%s" % (error, self._lately()))
        except wire.CodecError as error:
            self.fail(expected, "bytes that are no frame: %s" % error)

    def _lately(self):
        """What came last, for the report."""
        came = [words(e.message) for e in self.log if e.direction == "received" and e.message is not None]
        return "; came before: " + ", ".join(came[-3:]) if came else "; nothing came at all"

    def until(self, *types, where=None, expected=None, timeout=None, key=None):
        """The first message of these types; others pass."""
        def fits():
            while True:
                got = self.wait_for(*types, timeout=timeout, where=where)
                if key is None or got.key == key:
                    return got.message
        return self._await(fits, expected or " or ".join("a " + t.__name__ for t in types))

    def messages_until(self, *types, where=None, expected=None):
        """All messages up to and with the first of these."""
        def collect():
            got = []
            while True:
                got.append(self.receive())
                if isinstance(got[-1].message, types) and (where is None or where(got[-1].message)):
                    return got
        return self._await(collect, expected or " or ".join("a " + t.__name__ for t in types))

    def data(self, index, **options):
        """The Data for this block."""
        return self.until(wire.Data, where=lambda d: d.index == index, expected="Data of block %d" % index, **options)

    def ask(self, index, nodes=0, **options):
        """Request a block and return its Data."""
        self.send(wire.request(index, nodes, **options))
        return self.data(index)

    def meets(self):
        """Both hands are shaken: our Feed and Handshake went out, the remote's Handshake came."""
        if not self.channels:
            self.start()
        if self.remote_handshake is None:
            self.until(wire.Handshake, expected="a Handshake after the remote's Feed")
        return self

    def wants(self):
        """Send the Want that everybody sends, and have its answer: from now on every new block is told."""
        self.send(wire.Want(0, WHOLE))
        return self.until(wire.Have, where=lambda h: h.bitfield is not None, expected="the answer to a Want")

    def before(self, index, *types):
        """The messages (of these types, if any) that come before the answer to a Request: a fence in the stream.

        What the peer has not said by the time of a later answer it does not say at all.
        """
        self.send(wire.request(index))
        got = self.messages_until(wire.Data, where=lambda d: d.index == index, expected="Data of block %d" % index)
        return [g for g in got[:-1] if not types or isinstance(g.message, types)]

    def nothing_before(self, index, *types, why="nothing"):
        got = self.before(index, *types)
        if got:
            self.fail(why, words(got))

    def closed(self, expected="the connection closed", timeout=None):
        """The remote closes, whatever it sends before."""
        try:
            self.expect_close(timeout)
        except peers.TimedOut:
            self.fail(expected, "it stays open")
        except wire.CodecError:  # we cannot read it: another first feed, say
            self.sock.settimeout(timeout or self.timeout)
            try:
                while self.sock.recv(65536):
                    pass
            except peers.socket.timeout:
                self.fail(expected, "it stays open")
            except OSError:
                pass

    def closes_or_serves(self, index, expected="the connection closed, or all going on as before"):
        """Either is fine where a message is wrong; a dead or confused peer is not."""
        try:
            self.send(wire.request(index))
            self.wait_for(wire.Data, where=lambda d: d.index == index)
            return True
        except peers.Closed:
            return False
        except peers.TimedOut:
            self.fail(expected, "neither in %.3g s%s" % (self.timeout, self._lately()))
        except wire.CodecError as error:
            self.fail(expected, "bytes that are no frame: %s" % error)


class Adapter:
    """The process of the peer under test."""

    def __init__(self, command, args, env=None):
        self.args = args
        start = getattr(command, "popen", subprocess.Popen)  # warm.py has another
        self.process = start(list(command) + args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env=env, start_new_session=True)
        guard.tell("+", self.process.pid)
        self.lines, self.err, self.late = queue.Queue(), b"", False
        self._readers = [threading.Thread(target=work, daemon=True) for work in (self._read_out, self._read_err)]
        for reader in self._readers:
            reader.start()

    def _read_out(self):
        with contextlib.suppress(ValueError):  # it is closed when the case is over, whoever has its other end
            for line in iter(self.process.stdout.readline, b""):
                self.lines.put(line.decode(errors="replace").strip())
        self.lines.put(None)

    def _read_err(self):
        with contextlib.suppress(ValueError):
            for part in iter(lambda: self.process.stderr.read1(65536), b""):
                self.err = (self.err + part)[-WORDS:]

    def line(self, timeout):
        """Its next line, None at the end of its output."""
        try:
            return self.lines.get(timeout=timeout)
        except queue.Empty:
            raise Departure("a line of output", "nothing in %.3g s" % timeout) from None

    def tell(self, line):
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended: the exit code will tell

    def close_input(self):
        try:
            self.process.stdin.close()
        except OSError:
            pass

    @property
    def running(self):
        return self.process.poll() is None

    def wait(self, timeout):
        """Its exit code; a Departure where it does not end."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Departure("the peer ends", "it still runs after %.3g s" % timeout) from None
        for reader in self._readers:
            reader.join(1)
        if code == NOT_IMPLEMENTED:
            raise Unsupported(self.last_words() or "the adapter exits %d" % code)
        return code

    def last_words(self):
        return self.err.decode(errors="replace").strip()

    def kill(self):
        """It, and whatever it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except OSError:
            pass
        self.process.wait()
        guard.tell("-", self.process.pid)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                stream.close()
            except OSError:
                pass


def remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
    guard.tell("-", folder)


def exit_words(code):
    if code < 0:
        return "it was ended by signal %d" % -code
    return "exit %d" % code


class Stage:
    """One case at work. Everything that it starts is ended by `close`."""

    def __init__(self, command, patience=PATIENCE, limit=LIMIT, env=None, idle=None):
        self.idle, self.reused = idle, False
        self.command, self.patience, self.env = command, patience, env
        self.folder = tempfile.mkdtemp(prefix="conformance-")
        guard.tell("+", self.folder)
        self.store = os.path.join(self.folder, "store")
        self.adapter = self.listener = None
        self.feeds, self.connections, self.notes, self.looser = [], [], [], []
        self.port, self.stderr = None, ""
        self.shared = self.handed_on = self.live = False
        self.kept, self.stopped = None, False
        self.deadline = time.monotonic() + limit
        self.late = False
        self._watch = threading.Timer(limit, self._end)
        self._watch.daemon = True
        self._watch.start()

    def _end(self):
        self.late = True
        if self.adapter:
            try:
                os.killpg(self.adapter.process.pid, signal.SIGKILL)
            except OSError:
                pass

    # -- feeds --

    def feed(self, blocks=8, size=20, seed=1, batch=1, live=True):
        """A feed whose blocks differ from each other; each is signed unless a batch is larger."""
        made = feeds.Feed(*sodium.keypair(bytes([seed]) * 32)) if live else feeds.Feed(live=False)
        content = [block(i, size, seed) for i in range(blocks)]
        for i in range(0, blocks, batch):
            made.append(*content[i:i + batch])
        if not live:
            made.finalize()
        return made

    def folder_of(self, i, feed):
        """Where the adapter keeps the i-th key's feed."""
        return self.store if i == 0 else os.path.join(self.store, feed.key.hex())

    def lay(self, *given, secret=False, page_bytes=OLD_PAGE_BYTES):
        """Write feeds into the store, as the adapter will find them, in the pages that every version reads."""
        for i, feed in enumerate(given):
            kept, feed.secret_key = feed.secret_key, feed.secret_key if secret else None
            sleep.write(feed, self.folder_of(i, feed), page_bytes=page_bytes)
            feed.secret_key = kept

    def stored(self, feed, i=0):
        """What the peer left on disk, audited: it claims nothing that is not there or not proven."""
        folder = self.folder_of(i, feed)
        try:
            found = sleep.read(folder)
        except (OSError, ValueError) as error:
            raise Departure("SLEEP files", str(error)) from None
        problems = sleep.audit(folder, unfinished=True)
        if problems:
            raise Departure("SLEEP files without a fault", "; ".join(problems[:5]))
        return found

    def holds(self, feed, i=0, blocks=None):
        """The peer's folder holds these blocks (all), and just these."""
        found = self.stored(feed, i)
        blocks = set(feed.blocks if blocks is None else blocks)
        if set(found.blocks) != blocks:
            raise Departure("blocks %s in the folder" % ranges(blocks), "blocks %s" % ranges(found.blocks))
        wrong = [b for b in blocks if found.blocks[b] != feed.blocks[b]]
        if wrong:
            raise Departure("the blocks as they were published", "other bytes in blocks %s" % ranges(wrong))
        return found

    # -- the peer --

    def start(self, mode, keys, *options, dial=False, server=None):
        """The adapter, in the mode; `dial` makes it call us (else it listens and says where). `server`: the port of the discovery
        server by which it finds us, or is found."""
        self.live, self.stopped = "--live" in options, False
        args = [mode] + [a for k in keys for a in ("--key", k.hex())] + ["--store", self.store]
        if dial:
            self.listener = peers.Listener(list(keys))
            args += ["--port", str(self.listener.port)] if server is None else []
        else:
            args += ["--listen"]
        if server is not None:
            args += ["--discovery-server", str(server)]
        self.adapter = Adapter(self.command, args + list(options), self.env)
        if not dial:
            line = self.adapter.line(self.patience * 2)
            if line is None:
                self.ended("PORT n on its first line", self.adapter.wait(self.patience))
            word, _, number = line.partition(" ")
            if word != "PORT" or not number.isdigit():
                raise Departure("PORT n on its first line", repr(line))
            self.port = int(number)

    def ended(self, expected, code):
        """The peer has ended where it must not."""
        raise Departure(expected, "the peer ended: %s" % exit_words(code))

    def serves(self, *given, options=("--live",), dial=False, secret=False):
        """The adapter serves these feeds (8 blocks of 20 bytes unless told); returns the first connection."""
        self.feeds = list(given) or [self.feed()]
        plain = not given and options == ("--live",) and not dial and not secret
        if plain and self.idle is not None:
            self.shared = True
            try:
                self.adapter, self.port, self.kept = self.idle.pop()
                self.reused = True
                return self.connect()
            except IndexError:
                pass
        self.lay(*self.feeds, secret=secret)
        self.start("serve", [f.key for f in self.feeds], *options, dial=dial)
        self.kept = self.folder
        return self.connect()

    def clones(self, *given, options=(), dial=True, keys=None):
        """The adapter clones these feeds from us; returns its connection, on which nothing has been sent."""
        self.feeds = list(given) or [self.feed()]
        self.start("clone", keys or [f.key for f in self.feeds], *options, dial=dial)
        return self.connect()

    def wanted(self, *given, options=("--live",), answered=True):
        """A downloader, which has asked for the first range and was told of nothing: its connection."""
        peer = self.clones(*given, options=options).meets()
        if answered:
            peer.offers_nothing()
        else:
            peer.until(wire.Want)
        return peer

    def connect(self, keys=None, **options):
        """A new connection to the peer: dialled, or accepted where it dials."""
        keys = keys or [f.key for f in self.feeds]
        name = "connection %d" % (len(self.connections) + 1)
        if self.listener:
            sock = self._accept()
        else:
            try:
                sock = peers.socket.create_connection((peers.LOOPBACK, self.port), timeout=self.patience)
            except OSError as error:
                if not self.adapter.running:
                    self.ended("the peer accepts connections", self.adapter.wait(1))
                raise Departure("the peer accepts connections", str(error)) from None
        made = Connection(sock, keys, self.patience, name, **options)
        self.connections.append(made)
        return made

    def _accept(self):
        """The connection of a peer that dials; an end of the peer is seen at once."""
        for _ in range(int(self.patience * 2 / 0.1)):
            running = self.adapter.running
            self.listener.sock.settimeout(0.1)
            try:
                return self.listener.sock.accept()[0]
            except OSError:
                if not running:
                    self.ended("a connection from the peer", self.adapter.wait(1))
        raise Departure("a connection from the peer", "none in %.3g s" % (self.patience * 2))

    def serve(self, connection=None, *given, wait=True, **options):
        """Serve our feeds to the peer as a good peer does, in the background or to the end."""
        connection = connection or self.connections[-1]
        conversation = peers.Conversation(connection, list(given) or self.feeds, timeout=self.patience * 2, **options)
        conversation.thread = peers.Background(conversation.run)
        if wait:
            self.join(conversation)
        return conversation

    def asked_for(self, peer, blocks):
        """The downloader asks for these blocks and for no others; each is given, for it may ask one after the other."""
        feed, wanted, remote = self.feeds[0], set(blocks), Holding()
        while wanted:
            got = peer.until(wire.Request, expected="Requests of blocks %s" % ranges(wanted))
            if got.index not in blocks:
                peer.fail("Requests of blocks %s" % ranges(blocks), words(got))
            wanted.discard(got.index)
            peer.send(feed.answer(got, remote))
        try:
            peer.fail("no further Request", words(peer.wait_for(wire.Request, timeout=0.2)))
        except peers.TimedOut:
            pass

    def join(self, conversation, timeout=None):
        try:
            conversation.thread.join(timeout or self.patience * 2)
        except peers.TimedOut:
            raise Departure("the conversation ends", "it still goes on", conversation.peer.last_sent()) from None
        except (peers.PeerError, ValueError) as error:
            raise Departure("a conversation without a fault", str(error), conversation.peer.last_sent()) from None

    def copies(self, connection=None, **options):
        """Download all of the peer's feeds, checking everything; they must be what we laid down."""
        connection = connection or self.connections[-1]
        copies = [feeds.Feed(f.key) for f in self.feeds]
        try:
            peers.clone(connection, copies, timeout=self.patience, **options)
        except (peers.PeerError, ValueError) as error:
            raise Departure("all blocks with their proofs", str(error), connection.last_sent()) from None
        for copy, feed in zip(copies, self.feeds):
            if copy.blocks != feed.blocks:
                raise Departure("all blocks of the feed", "blocks %s" % ranges(copy.blocks))

    def exits(self, code=0, timeout=None):
        """The peer ends by itself, with this code."""
        got = self.adapter.wait(timeout or self.patience * 2)
        if got != code:
            raise Departure("exit %d" % code, "%s: %s" % (exit_words(got), self.adapter.last_words()[-300:]))

    def stop(self, connection=None):
        """The peer is told to stop, and ends in order; a live one that has ended before did not."""
        if self.adapter is None or self.stopped:
            return
        if self.adapter.running:
            self.stopped = True
            self.adapter.tell("stop")
            self.adapter.close_input()
            self.exits(0, max(STOP, self.patience))
        elif self.live:
            self.ended("the peer stays until it is told to stop", self.adapter.wait(1))

    def tail(self):
        """After the case: a peer that still runs must still be able to stop; one that crashed is told of.

        A plain server is not stopped: the next case that needs one has it.
        """
        if self.adapter is None:
            return
        running = self.adapter.running
        code = self.adapter.process.poll()
        if running and self.shared and not self.looser:
            for connection in self.connections:
                connection.close()
            self.idle.append((self.adapter, self.port, self.kept))
            self.handed_on = True
        elif running or self.live:
            self.stop()
        elif code < 0 or code > 1:
            if code == NOT_IMPLEMENTED:
                raise Unsupported(self.adapter.last_words())
            raise Departure("the peer lives on, or ends in order", exit_words(code))

    def loosely(self, expected, got, connection=None):
        """Not as strict as it should be, and nothing is harmed."""
        self.looser.append({"sent": connection.last_sent() if connection else "", "expected": expected, "got": got})

    def note(self, text):
        self.notes.append(text)

    @staticmethod
    def after_its_close():
        """A process that dies of what made it close the connection may take its time."""
        time.sleep(0.5)

    def close(self):
        self._watch.cancel()
        for connection in self.connections:
            connection.close()
        if self.listener:
            self.listener.close()
        if self.adapter:
            self.stderr = self.adapter.last_words()
        if self.handed_on:
            if self.kept != self.folder:
                remove(self.folder)
            return
        if self.adapter:
            self.adapter.kill()
            self.stderr = self.adapter.last_words()
        for folder in (self.folder, self.kept or self.folder):
            remove(folder)


def block(i, size, seed=1):
    """The content of block i: its number, then bytes that differ for each."""
    return (b"%d/%d:" % (seed, i) + sodium.generichash(b"%d %d" % (seed, i)) * (size // 32 + 1))[:size]


def ranges(numbers):
    """0-3,5."""
    out = []
    for n in sorted(numbers):
        if out and out[-1][1] == n - 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return ",".join("%d" % a if a == b else "%d-%d" % (a, b) for a, b in out) or "none"
