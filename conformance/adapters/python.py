#!/usr/bin/env python3
"""The suite's own Python implementation as a peer under test.

    python.py serve|clone --key HEX [--key HEX ...] --store DIR (--port N | --listen | --discovery-server N) [--live] [--drive]
    python.py codec
    --bug NAME    (repeatable; or names in DAT_BUG, with commas between) with a bug of bugs.py
    --manner V    as hypercore V (a row of peer.MANNERS) serves and downloads feeds

It keeps feeds in memory and writes their SLEEP files when something is new and when it ends.
"""

import os
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dat import cipher, finder
from dat import drive as drives
from dat import peer as peers
from dat import sleep, wire
from dat.feed import Feed
from dat.tree import VerifyError

DONE, FAILED, NOT_IMPLEMENTED = 0, 1, 89
SILENCE = 7.0  # seconds after which a silent remote is dropped; the deployed code: 6.25 to 7.5
ANSWER = 10.0  # seconds that the remote has to answer a Request
EARLY = 17  # messages that a remote may send on a feed that is not shared here
WRITE_EVERY = 0.2  # seconds between two writes of the SLEEP files
peers.MAX_BLOCKS = 1 << 26  # claims up to there are noted


def say(text):
    sys.stderr.write("adapter: %s\n" % text)
    sys.stderr.flush()


class Usage(Exception):
    """What was asked for is not there (89), or makes no sense (1)."""

    def __init__(self, text, code=FAILED):
        super().__init__(text)
        self.code = code


def options(words):
    """{name: value} of the command line."""
    found = {"key": [], "bug": [], "store": None, "port": None, "listen": False, "live": False,
             "drive": False, "manner": None, "discovery-server": None}
    words = iter(words)
    for word in words:
        name = word[2:]
        if not word.startswith("--") or name not in found:
            raise Usage("no option %s" % word, NOT_IMPLEMENTED)
        if isinstance(found[name], bool):
            found[name] = True
            continue
        value = next(words, None)
        if value is None:
            raise Usage("no value for %s" % word)
        if isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = value
    return found


# ---- connections --------------------------------------------------------------------------------

class Remote(peers.Peer):
    """A connection that ends when the other side has been silent for too long."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.heard = time.monotonic()
        self.silence = SILENCE

    def _take(self, chunk):
        self.heard = time.monotonic()
        self.log.clear()  # it is for cases, and would grow without end
        super()._take(chunk)

    def _read(self, deadline):
        super()._read(min(deadline, self.heard + self.silence))

    def receive(self, timeout=None):
        self.talk.check()
        try:
            return super().receive(timeout)
        except peers.TimedOut:
            if time.monotonic() - self.heard >= self.silence:
                raise peers.Closed("the remote is silent") from None
            raise


class Careful:
    """What the deployed code does beyond what a simple peer needs; mixed into a Conversation."""

    def _on(self, got):
        key = self.peer.remote_feeds.get(got.channel)
        if isinstance(got.message, wire.Feed):
            if got.channel in self.opened:
                raise peers.PeerError("a second Feed on channel %d" % got.channel)
            self.opened[got.channel] = 0
        elif key is not None and got.key not in self.by_key:
            self.opened[got.channel] += 1
            if self.opened[got.channel] > EARLY:
                raise peers.PeerError("too many messages for a feed that is not shared")
        super()._on(got)

    def _on_data(self, channel, data):
        if data.index not in channel.in_flight and not channel.feed.has(data.index) and channel.remote_wants:
            self._send(channel, wire.Unhave(data.index))
        self.answered = time.monotonic()
        super()._on_data(channel, data)

    def check(self):
        """A remote that pings and answers nothing is given up."""
        if not any(c.in_flight for c in self.by_key.values()):
            self.answered = time.monotonic()
        if time.monotonic() - self.answered > ANSWER:
            raise peers.PeerError("the remote does not answer")


class FeedTalk(Careful, peers.Conversation):
    pass


class OldTalk(Careful, peers.Elder, peers.Conversation):
    pass


class DriveTalk(Careful, drives.DriveConversation):
    pass


class Feeds:
    """Plain feeds: the first one in the folder itself, each further one in a folder of its key."""

    def __init__(self, opt, cloning):
        self.keys = [hex_bytes(k, 32) for k in opt["key"]]
        self.manner = peers.MANNERS[opt["manner"]] if opt["manner"] else None
        self.folders = [opt["store"]] + [os.path.join(opt["store"], k.hex()) for k in self.keys[1:]]
        self.feeds = [open_feed(folder, key, cloning) for folder, key in zip(self.folders, self.keys)]

    def conversation(self, peer, **more):
        if self.manner is None:
            return FeedTalk(peer, self.feeds, **more)
        talk = OldTalk(peer, self.feeds, **more)
        talk.manner = self.manner
        return talk

    def write(self, last):
        for folder, feed in zip(self.folders, self.feeds):
            if last or feed.length <= 2048:
                write_feed(feed, folder)

    def append(self, data):
        return self.feeds[0], self.feeds[0].append(data)


class WholeDrive:
    """A drive, in a dat folder. What would lie outside of the folder, or is no file, is not laid out."""

    def __init__(self, opt, cloning):
        if len(opt["key"]) != 1:
            raise Usage("one drive at a time", NOT_IMPLEMENTED)
        self.folder, key = opt["store"], hex_bytes(opt["key"][0], 32)
        if os.path.exists(os.path.join(self.folder, ".dat", "metadata.key")):
            self.drive = drives.read_folder(self.folder).drive
            if self.drive.key != key:
                raise Usage("another drive is in %s" % self.folder)
            drop_missing(self.drive.metadata)
            if self.drive.content is not None:
                drop_missing(self.drive.content)
        elif cloning:
            self.drive = drives.Drive(key)
        else:
            raise Usage("no drive in %s" % self.folder)
        self.keys, self.cloning = [key], cloning

    def conversation(self, peer, **more):
        return DriveTalk(peer, self.drive, **more)

    def write(self, last):
        if not self.cloning or not last:
            return
        os.makedirs(self.folder, exist_ok=True)
        problems = ["it is not complete"]
        if self.drive.complete():
            problems = self.drive.audit() + list(self.links())
        if problems:
            say("; ".join(problems[:5]))
        if self.drive.metadata.complete:
            drives.write_folder(self.drive, self.folder, lay_out=not problems)
        else:
            sleep.write(self.drive.metadata, os.path.join(self.folder, ".dat"), "metadata.")
        if problems and self.drive.complete():
            raise drives.DriveError("not laid out")

    def links(self):
        """Links that lie where files are to be: writing through them would leave the folder."""
        for path in self.drive.log.listing():
            names = path.strip("/").split("/")
            for end in range(1, len(names) + 1):
                if os.path.islink(os.path.join(self.folder, *names[:end])):
                    yield "%s: a link is in the way" % path

    def append(self, data):
        raise Usage("a drive is not appended to")


def hex_bytes(text, size=None):
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise Usage("not hex: %s" % text) from None
    if size is not None and len(data) != size:
        raise Usage("%d bytes are needed, not %d" % (size, len(data)))
    return data


def open_feed(folder, key, create):
    if not os.path.exists(os.path.join(folder, "tree")):
        if not create:
            raise Usage("no feed in %s" % folder)
        return Feed(key)
    feed = sleep.read(folder)
    if feed.key != key:
        raise Usage("another feed is in %s" % folder)
    drop_missing(feed)
    return feed


def drop_missing(feed):
    """What is claimed and not there is not claimed any longer."""
    for i in list(feed.bitfield):
        feed.bitfield.set(i, i in feed.blocks)


def write_feed(feed, folder):
    """Each file is replaced as a whole, the claims last."""
    os.makedirs(folder, exist_ok=True)
    files = sleep.files(feed)
    for name in sorted(files, key=lambda name: name == "bitfield"):
        new = os.path.join(folder, name + ".new")
        with open(new, "wb") as file:
            file.write(files[name])
        os.replace(new, os.path.join(folder, name))


class Session:
    """Connections come and go; all of them share the feeds, one lock, and the end."""

    def __init__(self, command, opt):
        self.opt, self.live, self.listening = opt, opt["live"], opt["listen"]
        self.cloning = command == "clone"
        self.store = (WholeDrive if opt["drive"] else Feeds)(opt, self.cloning)
        self.lock = threading.RLock()
        self.changed = threading.Event()
        self.over = threading.Event()
        self.code = DONE
        self.conversations = []

    def end(self, code):
        with self.lock:
            if not self.over.is_set():
                self.code = code
                self.over.set()

    def talk(self, sock):
        """One connection, to its end."""
        peer = Remote(sock, self.store.keys)
        talk = self.store.conversation(peer, download=self.cloning, live=self.live,
                                       on_block=lambda feed, index: self.on_block(talk, feed, index))
        talk.lock, talk.opened, talk.answered, peer.talk = self.lock, {}, time.monotonic(), talk
        with self.lock:
            self.conversations.append(talk)
        failed = None
        try:
            talk.run()
        except (peers.PeerError, wire.CodecError, VerifyError, drives.DriveError, OSError) as error:
            failed = error
            say(error)
        finally:
            peer.close()
        with self.lock:
            self.conversations.remove(talk)
        if self.live:
            return
        if not self.cloning:
            self.end(DONE)
        elif talk.complete:
            self.end(DONE)
        elif not self.listening:
            if failed is None:
                say("the connection ended early")
            self.end(FAILED)

    def on_block(self, giver, feed, index):
        """Called with the lock held: all but the giver may want this block."""
        self.changed.set()
        for talk in self.conversations:
            if talk is not giver and feed.key in talk.by_key:
                tell(talk, feed, index)

    def append(self, data):
        with self.lock:
            feed, start = self.store.append(data)
            self.changed.set()
            for talk in self.conversations:
                tell(talk, feed, start)

    def run(self):
        self.store.write(False)
        threading.Thread(target=self.read_input, daemon=True).start()
        threading.Thread(target=self.guard, args=(self.network,), daemon=True).start()
        while not self.over.wait(WRITE_EVERY):
            if self.changed.is_set():
                self.changed.clear()
                with self.lock:
                    self.store.write(False)
        with self.lock:
            for talk in self.conversations:
                talk.stop()
                say_goodbye(talk)
            try:
                self.store.write(True)
            except drives.DriveError as error:
                say(error)
                return FAILED
        return self.code

    def guard(self, work, *args):
        """A thread's fault is the process's."""
        try:
            work(*args)
        except Usage as error:
            say(error)
            self.end(error.code)
        except OSError as error:
            say(error)
            self.end(FAILED)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            self.end(FAILED)

    def network(self):
        if not self.listening:
            return self.dial() if self.opt["port"] else self.look(0)
        server = socket.create_server((peers.LOOPBACK, 0), backlog=64)
        port = server.getsockname()[1]
        if self.opt["discovery-server"]:
            threading.Thread(target=self.guard, args=(self.look, port), daemon=True).start()
        print("PORT %d" % port, flush=True)
        while True:
            sock, _ = server.accept()
            threading.Thread(target=self.guard, args=(self.talk, sock), daemon=True).start()

    def look(self, port):
        """Find peers by a discovery server, and announce the port if there is one. Each address is dialled once."""
        dialled, feed = set(), cipher.discovery_key(self.store.keys[0])[:20]

        def found(address):
            if address not in dialled:
                dialled.add(address)
                if not port:
                    threading.Thread(target=self.guard, args=(self.call, address), daemon=True).start()
        finder.Finder((peers.LOOPBACK, int(self.opt["discovery-server"])), feed, port, found, self.over.is_set).run()

    def call(self, address):
        try:
            sock = socket.create_connection(address, timeout=5)
        except OSError as error:
            return say(error)
        self.talk(sock)

    def dial(self):
        while not self.over.is_set():
            try:
                sock = socket.create_connection((peers.LOOPBACK, int(self.opt["port"])), timeout=5)
            except OSError as error:
                if not self.live:
                    raise
                say(error)
            else:
                self.talk(sock)
            time.sleep(1)  # only who stays dials again

    def read_input(self):
        self.guard(self.obey)

    def obey(self):
        for line in sys.stdin:
            words = line.split()
            if words == ["stop"]:
                break
            if words and words[0] == "append" and len(words) <= 2:
                self.append(hex_bytes(words[1]) if len(words) == 2 else b"")
            elif words:
                raise Usage("standard input: neither append nor stop")
        self.end(DONE)


def tell(talk, feed, index):
    try:
        talk.announce(feed, index)
    except (peers.PeerError, OSError):
        pass  # its own thread finds that out


def say_goodbye(talk):
    """Neither will it upload nor download: the way in which the deployed code ends."""
    for channel in talk.by_key.values():
        try:
            if channel.feed.key in talk.peer.channels and not channel.info_sent:
                talk._send(channel, wire.Info(False, False))
        except (peers.PeerError, OSError):
            return


# ---- codec --------------------------------------------------------------------------------------

def answers():
    from dat import codec  # after the bugs have been planted
    for line in sys.stdin:
        if line.strip():
            print(codec.answer(line), flush=True)
    return DONE


# ---- the command line ---------------------------------------------------------------------------

def main(words):
    command = next((w for w in words if w in ("serve", "clone", "codec")), None)  # its own options may come first
    if command is None:
        raise Usage("serve, clone or codec", NOT_IMPLEMENTED)
    at = words.index(command)
    opt = options(words[:at] + words[at + 1:])
    names = opt["bug"] + [n for n in os.environ.get("DAT_BUG", "").split(",") if n]
    if names:
        import bugs
        for name in names:
            if name not in bugs.BUGS:
                raise Usage("no bug %s" % name)
            bugs.BUGS[name].patch()
    if command == "codec":
        return answers()
    if opt["manner"] and (opt["drive"] or opt["manner"] not in peers.MANNERS):
        raise Usage("no manner %s" % opt["manner"], NOT_IMPLEMENTED)
    server = command == "clone" and not opt["listen"] and opt["discovery-server"] is not None
    if not opt["key"] or opt["store"] is None or opt["listen"] + (opt["port"] is not None) + server != 1:
        raise Usage("--key, --store, and one of --port, --listen and, to clone, --discovery-server")
    return Session(command, opt).run()


if __name__ == "__main__":
    try:
        CODE = main(sys.argv[1:])
    except Usage as why:
        say(why)
        CODE = why.code
    sys.stdout.flush()
    os._exit(CODE)  # threads may still wait for what does not come
