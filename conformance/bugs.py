"""Bugs to be planted in the Python implementation, one at a time: what the suite is tested with.

`adapters/python.py --bug NAME` runs with one. Each has a sentence, a function that plants it and, in bugs.json, the cases
that fail with it: these and no others of the whole suite, says test_bugs.py. After a change of the cases,
`python3 bugs.py NAME ...` (no name: all) measures them anew; read the diff.
"""

import base64
import functools
import json
import os
import sys
from typing import Callable, NamedTuple

from dat import discovery, drive, feed, finder, flat, peer, sleep, sodium, tree, wire
from dat.bitfield import Bits
from dat.cipher import Cipher, Sender
from dat.peer import Conversation, Peer, PeerError
from dat.wire import CodecError

HERE = os.path.dirname(os.path.abspath(__file__))
FAILS = os.path.join(HERE, "bugs.json")
try:
    with open(FAILS, encoding="utf-8") as file:
        RECORDED = json.load(file)
except FileNotFoundError:
    RECORDED = {}


class Bug(NamedTuple):
    sentence: str
    patch: Callable
    fails: frozenset
    chance: frozenset  # cases in which random bytes decide whether it fails


BUGS = {}


def bug(name, sentence, chance=()):
    def add(patch):
        BUGS[name] = Bug(sentence, patch, frozenset(RECORDED.get(name, ())), frozenset(chance))
        return patch
    return add


def wrap(owner, name):
    """Replace a function; its successor is called with the old one first."""
    def planted(new):
        old = getattr(owner, name)
        setattr(owner, name, lambda *args, **more: new(old, *args, **more))
    return planted


def adapter(name, value):
    """Change a value of the adapter itself."""
    setattr(sys.modules["__main__"], name, value)


# ---- frames and messages --------------------------------------------------------------------------

# Whether what stands before a keep-alive was taken when the connection ends depends on what comes in one read.
@bug("keep-alive-is-an-error", "A frame of length 0 ends the connection.", chance=("dep-0009.files/sparse-clone",))
def _():
    @wrap(wire.FrameDecoder, "next")
    def _(old, self):
        frame = old(self)
        if frame is not None and frame.is_keep_alive:
            raise CodecError("an empty frame")
        return frame


@bug("short-length-varint", "The length of a frame may have two bytes only.")
def _():
    wire.MAX_LENGTH_BYTES = 2


@bug("no-frame-limit", "Frames of any length are waited for.")
def _():
    wire.MAX_LENGTH_BYTES, wire.MAX_FRAME = 10, 1 << 62


@bug("small-frame-limit", "A frame may have 8,388,607 bytes, one too few.")
def _():
    wire.MAX_FRAME -= 1


@bug("header-of-one-byte", "The header is taken for one byte: channels from 8 on are misread.")
def _():
    @wrap(wire.FrameDecoder, "next")
    def _(old, self):
        frame = old(self)
        if frame is None or frame.channel is None or frame.channel < 8:
            return frame
        start = wire.decode_varint(frame.raw)[1]
        return wire.Frame(frame.raw[start] >> 4 & 7, frame.raw[start] & 15, frame.raw[start + 1:], frame.raw, frame.length)


@bug("unknown-message-closes", "Message types 10 to 14 end the connection.")
def _():
    @wrap(Conversation, "_on")
    def _(old, self, got):
        if got.message is None and 10 <= got.frame.type <= 14:
            raise PeerError("an unknown message")
        return old(self, got)


@bug("unknown-field-rejected", "A message with a field that is not known does not decode.")
def _():
    old = wire.Message.decode.__func__

    def decode(cls, body):
        if {tag for tag, _, _ in wire.split_fields(body)} - {f.tag for f in cls.FIELDS}:
            raise CodecError("an unknown field")
        return old(cls, body)
    wire.Message.decode = classmethod(decode)


@bug("overlong-varint-rejected", "A number in more bytes than it needs does not decode.")
def _():
    @wrap(wire, "decode_varint")
    def _(old, data, start=0, end=None):
        number, after = old(data, start, end)
        if after - start > 1 and data[after - 1] == 0:
            raise CodecError("an overlong varint")
        return number, after


@bug("first-of-several-counts", "Of a field that comes twice the first one counts.")
def _():
    old = wire.Message.decode.__func__

    def decode(cls, body):
        message, seen = old(cls, body), {}
        for tag, _, value in wire.split_fields(body):
            seen.setdefault(tag, value)
        for f in cls.FIELDS:
            if f.rule != "repeated" and f.tag in seen and cls is not wire.Node:
                setattr(message, f.name, wire._decode_value(f.kind, seen[f.tag]))
        return message
    wire.Message.decode = classmethod(decode)


@bug("absent-length-is-zero", "A Have without a length is taken for one of no blocks.")
def _():
    @wrap(Conversation, "_on_have")
    def _(old, self, channel, have):
        if have.length is not None or have.bitfield is not None:
            old(self, channel, have)


# ---- the opening ----------------------------------------------------------------------------------

@bug("nonce-reuse", "Every connection has the same nonce.")
def _():
    @wrap(Peer, "open")
    def _(old, self, key=None, nonce=None, channel=None):
        return old(self, key, b"\x07" * 24 if self._sender is None else None, channel)


@bug("nonce-of-32-bytes", "The nonce has the 32 bytes of the document.")
def _():
    @wrap(wire.Feed, "encode")
    def _(old, self):
        return old(wire.Feed(self.discoveryKey, self.nonce and self.nonce + bytes(8)))


@bug("keystream-starts-anew", "Each message is enciphered from the beginning of the keystream.")
def _():
    @wrap(Sender, "encode")
    def _(old, self, data):
        self.cipher.offset = 0
        return old(self, data)


@bug("keystream-in-blocks", "The next message begins at the next 64 bytes of the keystream.")
def _():
    @wrap(Sender, "encode")
    def _(old, self, data):
        self.cipher.offset += -self.cipher.offset % 64
        return old(self, data)


@bug("first-feed-enciphered", "The first Feed is enciphered like the rest.")
def _():
    @wrap(Sender, "__init__")
    def _(old, self, key, nonce):
        old(self, key, nonce)
        self.clear = False


@bug("handshake-in-clear", "The Handshake goes out in the clear.")
def _():
    @wrap(Sender, "encode")
    def _(old, self, data):
        self.count = getattr(self, "count", 0) + 1
        return bytes(data) if self.count == 2 else old(self, data)


# What comes is noise then, and noise may pass for what ends a connection, or not.
@bug("own-nonce-both-ways", "What is received is deciphered with one's own nonce.", chance=(
    "dep-0010.channels/number-257", "dep-0010.feed/fresh-nonce", "dep-0010.framing/header-of-33-bits",
    "dep-0010.framing/length-of-five-bytes", "dep-0010.framing/length-without-end", "dep-0010.framing/ten-megabytes",
    "dep-0010.framing/too-large"))
def _():
    @wrap(Cipher, "__init__")
    def _(old, self, nonce, key):
        sodium.own_nonce = getattr(sodium, "own_nonce", nonce)
        old(self, sodium.own_nonce, key)


@bug("discovery-key-in-capitals", "The discovery key hashes HYPERCORE, as the document says.")
def _():
    @wrap(sodium, "generichash")
    def _(old, message, *args, **more):
        return old(b"HYPERCORE" if message == b"hypercore" else message, *args, **more)


@bug("no-handshake", "No Handshake is sent.")
def _():
    Peer.handshake = lambda self, **more: None


@bug("handshake-without-id", "The Handshake has no id.")
def _():
    @wrap(wire.Handshake, "encode")
    def _(old, self):
        return old(wire.Handshake(None, self.live, self.userData, self.extensions, self.ack))


@bug("never-live", "The Handshake says that it is not live, also where it is.")
def _():
    @wrap(wire.Handshake, "encode")
    def _(old, self):
        return old(wire.Handshake(self.id, False, self.userData, self.extensions, self.ack))


@bug("handshake-twice-closes", "A second Handshake ends the connection.")
def _():
    @wrap(Conversation, "_on_handshake")
    def _(old, self, channel, message):
        if message is not self.peer.remote_handshake:
            raise PeerError("a second Handshake")
        old(self, channel, message)


# ---- channels, extensions, time -------------------------------------------------------------------

@bug("answers-on-the-remotes-channel", "Answers go out on the remote's number for the feed.")
def _():
    def send(self, channel, message):
        numbers = [n for n, dk in self.peer.remote_feeds.items() if dk == channel.feed.discovery_key]
        self.peer.send(message, numbers[0] if numbers else self.peer.channels[channel.feed.key])
    Conversation._send = send


@bug("unknown-channel-ignored", "A message on a channel that was never opened is passed over.")
def _():
    @wrap(Conversation, "_on")
    def _(old, self, got):
        if got.frame.type == wire.Feed.TYPE or got.channel in self.peer.remote_feeds:
            old(self, got)


@bug("unknown-feed-closes", "A Feed that is not shared here ends the connection.")
def _():
    @wrap(Conversation, "_on")
    def _(old, self, got):
        if isinstance(got.message, wire.Feed) and got.key is None:
            raise PeerError("an unknown feed")
        old(self, got)


@bug("extension-closes", "An extension message ends the connection.")
def _():
    @wrap(Conversation, "_on")
    def _(old, self, got):
        if got.frame.type == wire.Extension.TYPE:
            raise PeerError("an extension")
        old(self, got)


@bug("no-keep-alive", "No keep-alives are sent.")
def _():
    @wrap(Peer, "ping")
    def _(old, self):
        self._last_sent = peer.time.monotonic()


@bug("silence-is-waited-out", "A silent remote is never dropped.")
def _():
    adapter("SILENCE", 1e9)


@bug("impatient", "A remote that is silent for 2 seconds is dropped.")
def _():
    adapter("SILENCE", 2.0)


# ---- Have, Want -----------------------------------------------------------------------------------

@bug("have-off-by-one", "New blocks are announced under the next number.")
def _():
    @wrap(Conversation, "announce")
    def _(old, self, feed, start, length=1):
        old(self, feed, start + 1, length)


@bug("have-without-start", "A Have leaves out its start where that is 0.")
def _():
    @wrap(wire.Have, "encode")
    def _(old, self):
        return old(self) if self.start else old(self)[2:]


@bug("no-have-for-appends", "New blocks are not announced.")
def _():
    Conversation.announce = lambda self, feed, start, length=1: None


@bug("have-without-want", "New blocks are announced also to those who never sent Want.")
def _():
    @wrap(Conversation, "announce")
    def _(old, self, feed, start, length=1):
        with self.lock:
            self.by_key[feed.key].remote_wants = True
            old(self, feed, start, length)


@bug("bits-from-the-low-end", "In bitfields the first block is in the lowest bit.")
def _():
    swapped = bytes(int("{:08b}".format(i)[::-1], 2) for i in range(256))
    wrap(peer, "rle_encode")(lambda old, data: old(bytes(data).translate(swapped)))


@bug("runs-of-ones-lost", "Runs of ones are written as runs of zeros.")
def _():
    from dat import bitfield

    def encode(data):
        data = bytes(data).rstrip(b"\0")
        if data and data == b"\xff" * len(data):
            return wire.encode_varint(len(data) << 2 | 1)
        return bitfield.rle_encode(data)
    peer.rle_encode = encode


@bug("rle-run-length-misread", "In reading, a run is one byte too short.")
def _():
    from dat import bitfield

    def decode(code, align=1, limit=bitfield.MAX_DECODED):
        out, at = bytearray(), 0
        while at < len(code):
            head, at = wire.decode_varint(code, at)
            if head & 1:
                out += (b"\xff" if head & 2 else b"\x00") * max(0, min(head >> 2, limit) - 1)
            else:
                out += code[at:at + (head >> 1)]
                at += head >> 1
        return bytes(out) + bytes(-len(out) % align)
    peer.rle_decode = decode


@bug("want-ignored", "Want is not answered.")
def _():
    Conversation._on_want = lambda self, channel, want: None


@bug("want-range-ignored", "Every Want is answered with the bits from block 0 on.")
def _():
    @wrap(Conversation, "_on_want")
    def _(old, self, channel, want):
        old(self, channel, wire.Want(0, want.length))


@bug("any-want-answered", "A Want is answered also where its range is no multiple of 8192.")
def _():
    peer.WANT_STEP = 1


@bug("want-too-much-told", "The answer to a Want goes beyond its range.")
def _():
    @wrap(Conversation, "_on_want")
    def _(old, self, channel, want):
        old(self, channel, wire.Want(want.start, 1 << 40))


@bug("bitfield-not-replaced", "A Have with a bitfield adds blocks and takes none away.")
def _():
    @wrap(Bits, "replace")
    def _(old, self, start, data):
        before = self.bytes(start, len(data))
        old(self, start, bytes(a | b for a, b in zip(before, data)))


@bug("unhave-ignored", "Unhave is ignored: what was taken back is asked for.")
def _():
    Conversation._on_unhave = lambda self, channel, unhave: None


@bug("range-of-one", "Of a Have with a length only the first block is noted.")
def _():
    @wrap(Conversation, "_on_have")
    def _(old, self, channel, have):
        old(self, channel, have if have.bitfield is not None else wire.Have(have.start))


# ---- peers of other years -------------------------------------------------------------------------

@bug("counts-the-wants-length", "A bitfield answers a Want only if it has the Want's length.")
def _():
    @wrap(Conversation, "_answered")
    def _(old, self, channel, have, bits, whole):
        answers = channel.answers
        bits = old(self, channel, have, bits, whole)
        if have.length != peer.WANT_BLOCKS:
            channel.answers = answers
        return bits


@bug("asks-on-a-hint", "The last block, told of ahead of the bitfield, is asked for at once.")
def _():
    peer.HINT = 0


@bug("zeros-left-out-tell-nothing", "What an answer leaves out at its end stays claimed.")
def _():
    @wrap(Conversation, "_answered")
    def _(old, self, channel, have, bits, whole):
        old(self, channel, have, bits, whole)
        return bits


@bug("whole-is-one-range", "Of a whole bitfield no more than the first 1,048,576 blocks are read.")
def _():
    from dat import bitfield
    peer.rle_decode = lambda code, align=1, limit=bitfield.MAX_DECODED: bitfield.rle_decode(code, align)[:peer.WANT_BLOCKS // 8]


@bug("nothing-said-before-a-request", "A Request may go out ahead of any Have.")
def _():
    @wrap(peer._Channel, "__init__")
    def _(old, self, *args):
        old(self, *args)
        self.told = True


@bug("want-needs-a-length", "A Want without a length is not answered.")
def _():
    @wrap(Conversation, "_on_want")
    def _(old, self, channel, want):
        if want.length is not None:
            old(self, channel, want)


@bug("absent-last-block-told", "The last block is told of ahead of the bitfield, whether it is there or not.")
def _():
    @wrap(Conversation, "_on_want")
    def _(old, self, channel, want):
        if not channel.remote_wants and channel.feed.length and not channel.feed.has(channel.feed.length - 1):
            self._send(channel, wire.Have(channel.feed.length - 1))
        old(self, channel, want)


@bug("pushes-blocks", "New blocks are sent to those who want to be told of them.")
def _():
    @wrap(Conversation, "announce")
    def _(old, self, feed, start, length=1):
        old(self, feed, start, length)
        if self.by_key[feed.key].remote_wants:
            self._send(self.by_key[feed.key], feed.answer(wire.request(start)))


@bug("empty-key-owns", "An empty secret_key file makes the owner.")
def _():
    @wrap(sleep, "load")
    def _(old, found):
        made = old(found)
        made.secret_key = found.get("secret_key")
        return made


@bug("zeroed-header-is-empty", "A bitfield whose header is zeros is taken for that of an empty feed.")
def _():
    @wrap(sleep, "load")
    def _(old, found):
        return old(found if any(found["bitfield"][:32]) else dict(found, bitfield=sleep.encode_header(sleep.BITFIELD)))


# ---- digests and proofs ---------------------------------------------------------------------------

@bug("digest-tells-nothing", "A Request says that nothing is held.")
def _():
    feed.Feed.digest = lambda self, index: 0


@bug("digest-without-parent", "A Request does not say that a parent is held.")
def _():
    @wrap(feed.Feed, "digest")
    def _(old, self, index):
        return old(self, index) & ~1


@bug("digest-shifted", "The bits of a digest are one place too low.")
def _():
    @wrap(feed.Feed, "digest")
    def _(old, self, index):
        return old(self, index) >> 1


@bug("digest-ignored", "Every answer has all nodes, whatever the Request says.")
def _():
    @wrap(feed, "proof_indexes")
    def _(old, mine, i, digest=0, hash=False, remote=None):
        return old(mine, i, 0, hash, tree.Holding())


@bug("digest-forgotten", "What earlier Requests said is forgotten.")
def _():
    @wrap(feed, "proof_indexes")
    def _(old, mine, i, digest=0, hash=False, remote=None):
        return old(mine, i, digest, hash, tree.Holding())


@bug("sibling-left-out", "The sibling of the leaf is left out of proofs.")
def _():
    @wrap(feed, "proof_indexes")
    def _(old, mine, i, *args):
        found = old(mine, i, *args)
        return found and ([n for n in found[0] if n != flat.sibling(i)], found[1])


@bug("proof-from-the-top", "The nodes of a proof come in the opposite order.")
def _():
    @wrap(feed, "proof_indexes")
    def _(old, *args):
        found = old(*args)
        return found and (found[0][::-1], found[1])


@bug("no-signature", "The signature is left out.")
def _():
    @wrap(feed.Feed, "answer")
    def _(old, self, request, remote=None):
        data = old(self, request, remote)
        return data and wire.Data(data.index, data.value, data.nodes)


@bug("signature-always", "A signature is sent also where none is needed.")
def _():
    @wrap(feed.Feed, "answer")
    def _(old, self, request, remote=None):
        data = old(self, request, remote)
        if data and self.live:
            data.signature = self.signatures.get(self.length - 1)
        return data


@bug("wrong-signature", "The signature is that of the first length.")
def _():
    @wrap(feed.Feed, "answer")
    def _(old, self, request, remote=None):
        data = old(self, request, remote)
        if data and data.signature:
            data.signature = self.signatures[min(self.signatures)]
        return data


# ---- requests -------------------------------------------------------------------------------------

@bug("hash-request-gets-value", "A Request for a hash is answered with the block.")
def _():
    @wrap(feed.Feed, "answer")
    def _(old, self, request, remote=None):
        return old(self, wire.request(request.index, request.read("nodes"), False, request.read("bytes")), remote)


@bug("bytes-off-by-one", "A Request for a byte gets the block of the next byte.")
def _():
    @wrap(tree.Tree, "find_byte")
    def _(old, self, offset, length):
        return old(self, offset + 1, length)


@bug("bytes-ignored", "A Request for a byte is answered by its index.")
def _():
    @wrap(feed.Feed, "answer")
    def _(old, self, request, remote=None):
        return old(self, wire.request(request.index, request.read("nodes"), request.hash), remote)


@bug("cancel-closes", "Cancel ends the connection.")
def _():
    def on_cancel(self, channel, cancel):
        raise PeerError("a Cancel")
    Conversation._on_cancel = on_cancel


@bug("request-beyond-the-end-crashes", "A Request beyond the end ends the process.")
def _():
    @wrap(feed.Feed, "answer")
    def _(old, self, request, remote=None):
        if request.index >= self.length and not request.bytes:
            raise IndexError("no block %d" % request.index)
        return old(self, request, remote)


@bug("answers-once", "A block is sent once to each peer, however often it asks.")
def _():
    @wrap(Conversation, "_on_request")
    def _(old, self, channel, request):
        channel.sent = getattr(channel, "sent", set())
        if request.index not in channel.sent or request.bytes or request.hash:
            channel.sent.add(request.index)
            old(self, channel, request)


# ---- data -----------------------------------------------------------------------------------------

@bug("nothing-verified", "What comes is stored without being verified.")
def _():
    def verify(mine, key, data):
        nodes = [tree.leaf_node(data.index, data.value)] + list(data.nodes)
        length = max(flat.right_span(n.index) for n in nodes) // 2 + 1
        return tree.Verified([n for n in nodes if n.index not in mine], length, data.signature)
    feed.verify = verify


@bug("signature-not-verified", "Any signature is taken.")
def _():
    tree.check_roots = lambda roots, key, signature: None


@bug("unlinked-block-accepted", "A block need not be under the roots that are signed.")
def _():
    def verify_roots(mine, key, data, top, proven, remote):
        last = remote[-1].index if remote else top.index
        length = max(flat.right_span(top.index), flat.right_span(last)) // 2 + 1
        roots = []
        for i in flat.full_roots(length):
            if i == top.index:
                roots.append(top)
            elif remote and remote[0].index == i:
                roots.append(remote.pop(0))
                proven.append(roots[-1])
            elif i in mine:
                roots.append(mine.get(i))
            else:
                raise tree.VerifyError("root %d is missing" % i)
        tree.check_roots(roots, key, data.signature)
        return tree.Verified([n for n in proven if n.index not in mine], length, data.signature, tuple(roots))
    tree._verify_roots = verify_roots


@bug("sizes-not-verified", "Nodes of a wrong size are taken where the hash of the block is right.")
def _():
    sizes = {}

    @wrap(tree, "parent_node")
    def _(old, a, b):
        for node in (a, b):
            sizes[node.index] = node.size
        return old(a, b)

    @wrap(feed, "verify")
    def _(old, mine, key, data):
        try:
            return old(mine, key, data)
        except tree.VerifyError:
            if data.value is None or not data.signature:
                raise
            return tree.Verified([tree.leaf_node(data.index, data.value)], 0)


@bug("bad-data-ends-the-process", "A block that does not verify ends the process.")
def _():
    @wrap(feed.Feed, "put")
    def _(old, self, data):
        try:
            return old(self, data)
        except tree.VerifyError:
            os._exit(134)  # as an assertion does


@bug("second-feed-into-the-first", "What comes for the second feed is put into the first.")
def _():
    @wrap(Conversation, "_on_data")
    def _(old, self, channel, data):
        old(self, next(iter(self.by_key.values())), data)


@bug("no-static-feeds", "A feed without signatures does not verify.")
def _():
    @wrap(tree, "check_roots")
    def _(old, roots, key, signature):
        if signature is None:
            raise tree.VerifyError("no signature")
        old(roots, key, signature)


# ---- the end, and files ---------------------------------------------------------------------------

@bug("complete-too-early", "A clone ends with the first block.")
def _():
    Conversation.complete = property(lambda self: all(c.feed.bitfield.count() > 0 for c in self.by_key.values()))


@bug("info-not-uploading", "A downloader that has all says that it does not upload either.")
def _():
    @wrap(wire.Info, "encode")
    def _(old, self):
        return old(wire.Info(False, self.downloading))


@bug("server-never-done", "A server does not answer a downloader that has all.")
def _():
    Conversation._on_info = lambda self, channel, info: None


@bug("starts-over", "A clone asks for everything anew, whatever it has.")
def _():
    if "clone" in sys.argv:
        @wrap(sleep, "read")
        def _(old, folder, prefix=""):
            return feed.Feed(old(folder, prefix).key)


@bug("sleep-other-magic", "The SLEEP files begin with other bytes.")
def _():
    wrap(sleep, "encode_header")(lambda old, *args: b"\x05\x02\x58" + old(*args)[3:])


@bug("sleep-name-missing", "The headers do not name their algorithm.")
def _():
    wrap(sleep, "encode_header")(lambda old, *args: old(*args)[:7] + bytes(25))


@bug("sleep-no-tree-bits", "The bitfield file has no tree bits.")
def _():
    sleep.held_bits = lambda mine: Bits()


@bug("sleep-signature-misplaced", "Signatures are one entry too early.")
def _():
    @wrap(sleep, "_entries")
    def _(old, type, items):
        return old(type, {max(0, i - 1): e for i, e in items.items()} if type == sleep.SIGNATURES else items)


@bug("sleep-no-sizes", "The entries of the tree file have no sizes.")
def _():
    @wrap(sleep, "_entries")
    def _(old, type, items):
        return old(type, {i: e[:32] + bytes(8) for i, e in items.items()} if type == sleep.TREE else items)


@bug("sleep-data-misplaced", "Blocks are written to the data file one behind the other, with no room for those that are not here.")
def _():
    @wrap(sleep, "files")
    def _(old, feed):
        found = old(feed)
        if "data" in found:
            found["data"] = b"".join(feed.blocks[i] for i in sorted(feed.blocks))
        return found


@bug("sleep-index-all-set", "The index of the bitfield file says that all is there.")
def _():
    @wrap(sleep, "encode_pages")
    def _(old, *args):
        pages = bytearray(old(*args))
        for at in range(3072, len(pages), 3584):
            pages[at:at + 512] = b"\xff" * 512
        return bytes(pages)


@bug("sleep-not-written", "At the end nothing is written.")
def _():
    adapter("write_feed", lambda feed, folder: os.makedirs(folder, exist_ok=True))


# ---- drives ---------------------------------------------------------------------------------------

@bug("drive-index-short", "An entry's index is read without the entry itself.")
def _():
    @wrap(drive, "inflate")
    def _(old, number, data):
        return [[n for n in level if n != number] for level in old(number, data)]


@bug("drive-paths-not-looked-at", "Entries are laid out wherever their path says.")
def _():
    drive.path_problem = lambda name: None


@bug("drive-without-content", "Only the metadata is downloaded.")
def _():
    drive.Drive.complete = lambda self, version=None: self.metadata.complete and self.metadata.length > 0


# ---- discovery ------------------------------------------------------------------------------------

@bug("dns-names-in-any-case", "A feed's name counts in capitals, too.")
def _():
    wrap(discovery, "feed_of")(lambda old, name: old(tuple(label.lower() for label in name)))


@bug("dns-no-pointers", "Names that point to others are not read.")
def _():
    @wrap(discovery, "read_name")
    def _(old, data, at):
        name, end = old(data, at)
        if discovery.write_name(name) != data[at:end]:
            raise discovery.PacketError("a pointer")
        return name, end


@bug("dns-loops-end", "A name that points at itself ends there.")
def _():
    @wrap(discovery, "read_name")
    def _(old, data, at):
        try:
            return old(data, at)
        except discovery.PacketError:
            found = data.find(b"\xc0", at)
            if found < 0:
                raise
            return (b"loop",), found + 2


@bug("dns-long-names", "Labels and names may be of any length.")
def _():
    discovery.MAX_LABEL, discovery.MAX_NAME = 191, 1 << 16


@bug("dns-half-a-header", "What a header lacks is taken for zeros.")
def _():
    wrap(discovery, "read")(lambda old, data: old(data.ljust(12, b"\0")))


@bug("dns-counts-not-looked-at", "Records that are counted and not there are left out.")
def _():
    @wrap(discovery, "read_item")
    def _(old, data, at, part):
        return old(data, at, part) if at < len(data) else (discovery.Item(part, (), 0, value=b""), at)


@bug("dns-record-padded", "What a record lacks at the packet's end is taken for zeros.")
def _():
    @wrap(discovery, "read_item")
    def _(old, data, at, part):
        item, end = old(data + bytes(300), at, part)
        return item, min(end, len(data))


@bug("dns-string-cut", "A string that reaches beyond its record ends there.")
def _():
    @wrap(discovery, "read_strings")
    def _(old, data):
        try:
            return old(data)
        except discovery.PacketError:
            return [data[1:]]


@bug("dns-address-padded", "An IPv4 address may have less or more than 4 bytes.")
def _():
    @wrap(discovery, "read_value")
    def _(old, type, data, at, end):
        if type != discovery.A or end - at == 4:
            return old(type, data, at, end)
        return ".".join(map(str, data[at:end].ljust(4, b"\0")[:4]))


@bug("dns-port-cut", "A port is cut to 16 bits.")
def _():
    wrap(discovery, "decimal")(lambda old, text, most: int(text) & 0xffff if text.isdigit() and most == 65535 else old(text, most))


@bug("dns-half-a-peer", "What is left over behind the last peer is one more.")
def _():
    @wrap(discovery, "read_peers")
    def _(old, text):
        try:
            return old(text)
        except discovery.PacketError:
            data = base64.b64decode(text)
            return [discovery.unpack(data[i:i + 6].ljust(6, b"\0")) for i in range(0, len(data), 6)]


@bug("dns-port-0-drops-all", "Peers among which is one with port 0 are not read.")
def _():
    @wrap(discovery, "read_peers")
    def _(old, text):
        peers = old(text)
        if any(peer.port == 0 for peer in peers):
            raise discovery.PacketError("a peer with port 0")
        return peers


@bug("dns-port-0-told", "Peers with port 0 are told.")
def _():
    discovery.write_peers = lambda peers: base64.b64encode(b"".join(map(discovery.pack, peers)))


@bug("dns-length-cut", "Strings of any length are written, their length modulo 256.")
def _():
    discovery.MAX_PEERS = 100
    @wrap(discovery, "write_value")
    def _(old, item):
        if item.type != discovery.TXT:
            return old(item)
        return b"".join(bytes([len(each) & 255]) + each for each in item.value)


@bug("dns-unknown-string-rejected", "A string that is not known is an error.")
def _():
    @wrap(discovery, "says")
    def _(old, item):
        found = old(item)
        if found and {s.partition(b"=")[0].decode() for s in item.value} - set(discovery.KEYS):
            raise discovery.PacketError("an unknown string")
        return found


@bug("dns-any-domain", "What a TXT record says counts under any name.")
def _():
    wrap(discovery, "says")(lambda old, item: old(item._replace(name=discovery.DOMAIN)))


@bug("dns-group-bit-unknown", "The highest bit of a class makes it another one.")
def _():
    discovery.GROUP_BIT = 0


@bug("dns-no-subscribe", "Nobody subscribes.")
def _():
    discovery.KEYS = discovery.KEYS[1:]
    wrap(discovery, "strings")(lambda old, said: old({k: v for k, v in said.items() if k != "subscribe"}))


@bug("dns-no-unannounce", "A withdrawal is written as an announcement.")
def _():
    wrap(discovery, "strings")(lambda old, said: [s[2:] if s.startswith(b"unannounce") else s for s in old(said)])


@bug("dns-host-unread", "How a server sees the asker is not read.")
def _():
    @wrap(discovery, "says")
    def _(old, item):
        found = old(item)
        found.pop("host", None)
        return found


@bug("dns-no-bare-header", "A packet without question and record is none.")
def _():
    @wrap(discovery, "read")
    def _(old, data):
        found = old(data)
        if not found.items:
            raise discovery.PacketError("nothing in it")
        return found


@bug("dns-service-port-swapped", "The port of a service has its lower byte first.")
def _():
    @wrap(discovery, "write_value")
    def _(old, item):
        data = old(item)
        return data[:4] + data[5:3:-1] + data[6:] if item.type == discovery.SRV else data


@bug("dns-group-flags", "An answer to the group has the flags of one to a single peer.")
def _():
    wrap(discovery, "write")(lambda old, packet: old(packet._replace(flags=packet.flags & ~0x400)))


@bug("dns-what-can-be-read", "What comes before an error is taken, and the rest left out.")
def _():
    @wrap(discovery, "read_item")
    def _(old, data, at, part):
        try:
            return old(data, at, part)
        except discovery.PacketError:
            return discovery.Item(part, (), 0, value=b""), len(data)


@bug("dns-address-port-swapped", "The port of a peer is read with its lower byte first.")
def _():
    @wrap(discovery, "unpack")
    def _(old, data):
        host, port = old(data)
        return discovery.Address(host, port >> 8 | (port & 255) << 8)


@bug("dns-token-kept-back", "The token is not given back.")
def _():
    wrap(discovery, "strings")(lambda old, said: old({k: v for k, v in said.items() if k != "token"}))


@bug("dns-subscribe-unread", "Whether somebody subscribes is not read.")
def _():
    @wrap(discovery, "says")
    def _(old, item):
        return {key: value for key, value in old(item).items() if key != "subscribe"}


@bug("dns-service-unread", "The address of a service is not read.")
def _():
    wrap(discovery, "read_value")(lambda old, type, *more: discovery.Address(None, 0) if type == discovery.SRV else old(type, *more))


@bug("dns-lower-case", "Names are written in lower case, whatever they are.")
def _():
    wrap(discovery, "write_name")(lambda old, name: old(tuple(label.lower() for label in name)))


@bug("dns-push-answered-as-a-query", "A push is answered with the flags of a query.")
def _():
    wrap(discovery, "write")(lambda old, packet: old(packet if packet.items else packet._replace(flags=0x100)))


@bug("dht-keys-in-order-only", "A dictionary with its keys in disorder is refused.")
def _():
    @wrap(discovery, "bdecode")
    def _(old, data, at=0, depth=0):
        value, end = old(data, at, depth)
        if isinstance(value, dict) and discovery.bencode(value) != data[at:end]:
            raise discovery.PacketError("keys in disorder")
        return value, end


@bug("dht-shallow", "Lists and dictionaries may be three deep.")
def _():
    discovery.MAX_DEPTH = 3


@bug("dht-no-depth", "Lists and dictionaries may be as deep as they like.")
def _():
    discovery.MAX_DEPTH = 1 << 30


@bug("dht-length-cut", "A string's length is cut to 32 bits.")
def _():
    discovery.MAX_DIGITS = 1000
    @wrap(discovery, "digits")
    def _(old, data, at, stop):
        number, end = old(data, at, stop)
        return (number & 0xffffffff if stop == b":" else number), end


@bug("dht-zeros-in-front", "Numbers may have zeros in front.")
def _():
    @wrap(discovery, "digits")
    def _(old, data, at, stop):
        end = data.find(stop, at, at + 19)
        while 0 <= at < end - 1 and data[at:at + 1] == b"0":
            at += 1
        return old(data, at, stop)


@bug("dht-end-not-needed", "What ends a message need not be there.")
def _():
    @wrap(discovery, "read_message")
    def _(old, data):
        for more in (b"", b"e", b"ee"):
            try:
                return old(data + more)
            except discovery.PacketError as error:
                last = error
        raise last


@bug("dht-anything-is-a-message", "A list is a message without fields.")
def _():
    wrap(discovery, "read_message")(lambda old, data: old(data) if data[:1] != b"l" else discovery.Message("answer", b""))


@bug("dht-no-transaction", "A message needs no transaction.")
def _():
    @wrap(discovery, "read_message")
    def _(old, data):
        try:
            return old(data)
        except discovery.PacketError:
            if b"1:t" in data or data[-1:] != b"e":
                raise
            return old(data[:1] + b"1:t0:" + data[1:])


@bug("dht-any-id", "An id may have any length.")
def _():
    wrap(discovery, "read_field")(lambda old, name, value: value if name == "id" and isinstance(value, bytes) else old(name, value))


@bug("dht-port-cut", "A port is cut to 16 bits.")
def _():
    wrap(discovery, "read_field")(lambda old, name, value: value & 0xffff if name == "port" and isinstance(value, int) else old(name, value))


@bug("dht-long-peer-drops-all", "Peers among which is one of 18 bytes are not read.")
def _():
    @wrap(discovery, "read_field")
    def _(old, name, value):
        found = old(name, value)
        return None if name == "peers" and found is not None and len(found) != len(value) else found


@bug("dht-no-implied-port", "The field implied_port is neither read nor written.")
def _():
    discovery.FIELDS = {name: key for name, key in discovery.FIELDS.items() if name != "implied_port"}


@bug("dht-known-queries-only", "A query that is not known is no message.")
def _():
    @wrap(discovery, "read_message")
    def _(old, data):
        found = old(data)
        if found.kind == "query" and found.query not in (b"ping", b"find_node", b"get_peers", b"announce_peer"):
            raise discovery.PacketError("an unknown query")
        return found


@bug("dht-error-is-an-answer", "An error is read as an answer.")
def _():
    wrap(discovery, "read_message")(lambda old, data: old(data)._replace(kind="answer") if data[:4] == b"d1:e" else old(data))


@bug("dht-transaction-shortened", "Zeros in front of a transaction are lost.")
def _():
    wrap(discovery, "read_message")(lambda old, data: (lambda m: m._replace(transaction=m.transaction.lstrip(b"\0")))(old(data)))


@bug("dht-keys-unsorted", "Dictionaries are written with their keys in disorder.")
def _():
    @wrap(discovery, "bencode")
    def _(old, value):
        if not isinstance(value, dict):
            return old(value)
        return b"d" + b"".join(discovery.bencode(key) + discovery.bencode(value[key]) for key in sorted(value, reverse=True)) + b"e"


@bug("dht-code-is-text", "The number of an error is written as a string.")
def _():
    @wrap(discovery, "write_message")
    def _(old, message):
        return old(message._replace(code=b"%d" % message.code) if message.code is not None else message)


@bug("dht-target-misnamed", "The target of find_node has the name of an info-hash.")
def _():
    discovery.FIELDS = dict(discovery.FIELDS, target=b"info_hash")


@bug("dht-no-values", "The peers of an answer are written as nodes are.")
def _():
    @wrap(discovery, "bencode")
    def _(old, value):
        if isinstance(value, dict) and b"values" in value:
            value = {key: b"".join(each) if key == b"values" else each for key, each in value.items()}
        return old(value)


@bug("finder-asks-once", "A question to a discovery server is sent once.")
def _():
    finder.AGAIN = (60.0,)


@bug("finder-any-answer", "Whatever a discovery server answers is the answer to the last question.")
def _():
    @wrap(finder.Finder, "take")
    def _(old, self, packet, id, name):
        items = [item._replace(name=name) for item in packet.items] if packet.flags & 0x8000 and name else packet.items
        return old(self, packet._replace(id=packet.id if id is None else id, items=tuple(items)), id, name)


@bug("finder-deaf-to-pushes", "What a discovery server tells unasked is not heard.")
def _():
    finder.Finder.pushed = lambda self, packet: None


@bug("finder-pushes-unanswered", "What a discovery server tells unasked is not answered.")
def _():
    finder.Finder.pushed = lambda self, packet: self.tell([i.value for i in packet.items])


@bug("finder-token-kept-back", "The token of a discovery server is not given back.")
def _():
    wrap(finder.Finder, "said")(lambda old, self: {k: v for k, v in old(self).items() if k != "token"})


@bug("finder-no-subscribe", "A discovery server is not asked to tell more.")
def _():
    wrap(finder.Finder, "said")(lambda old, self: {k: v for k, v in old(self).items() if k != "subscribe"})


@bug("finder-announces-another-port", "The port that is announced is one too high.")
def _():
    wrap(finder.Finder, "said")(lambda old, self: {k: v + 1 if k == "announce" else v for k, v in old(self).items()})


@bug("finder-port-0-ends", "A peer with port 0 ends it.")
def _():
    @wrap(finder.Finder, "tell")
    def _(old, self, peers):
        if any(peer.port == 0 for peer in peers):
            raise OSError("port 0")
        old(self, peers)


@bug("finder-whole-key", "The whole discovery key is looked for.")
def _():
    @wrap(finder.Finder, "ask")
    def _(old, self, name, said=None):
        return old(self, name if said is None else (name[0] + b"00" * 11,) + name[1:], said)


# ---- measuring ------------------------------------------------------------------------------------

@functools.lru_cache(None)
def warm_peer():
    """The Python peer, which these tests start hundreds of times."""
    from suite.warm import Warm
    return Warm(os.path.join(HERE, "adapters", "python.py"), modules=["bugs", "dat.codec"])


def run(name, ids):
    """These cases (None: all) on a peer with the bug."""
    from suite import runner
    every = [c.id for c in runner.load()]
    return runner.Run(warm_peer(), name, ids or every, patience=3, env=dict(os.environ, DAT_BUG=name))


def failing(name, ids=None):
    """Where the first conversation fails nothing else is tried; what is only not strict counts as well. Without what is up to
    chance."""
    results = run(name, ids).all()
    return {id for id, result in results.items() if result["verdict"] in ("FAIL", "NON-STRICT", "ERROR")} - BUGS[name].chance


def main(names):
    for name in names or BUGS:
        RECORDED[name] = sorted(failing(name))
        print("%-32s %3d %s" % (name, len(RECORDED[name]), " ".join(RECORDED[name][:4])), flush=True)
        with open(FAILS, "w", encoding="utf-8") as file:
            json.dump({n: RECORDED[n] for n in BUGS if n in RECORDED}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
