"""The encryption of a connection (PROTOCOL: 2.2 opening, encryption; DEP 0010).

Each direction is a stream of its own: one Feed frame in the clear, which carries the nonce of
that direction, then everything else xor XSalsa20 under the public key of the first feed. The
keystream starts at the byte after that frame.
"""

from . import sodium, wire


def discovery_key(public_key):
    """BLAKE2b-256 of `hypercore`, keyed with the public key."""
    return sodium.generichash(b"hypercore", key=public_key)


def keystream_xor(data, nonce, key, offset=0):
    """`data` xor the keystream from its byte `offset` on."""
    skip = offset % sodium.BLOCK_BYTES
    block = offset // sodium.BLOCK_BYTES
    return sodium.xsalsa20_xor_ic(bytes(skip) + bytes(data), nonce, block, key)[skip:]


class Cipher:
    """One direction's keystream. Encrypting and decrypting are the same operation."""

    def __init__(self, nonce, key):
        self.nonce, self.key, self.offset = nonce, key, 0

    def xor(self, data):
        out = keystream_xor(data, self.nonce, self.key, self.offset)
        self.offset += len(data)
        return out


class Opening(wire.CodecError):
    """The first frame of a direction is not a Feed for the key that we know, with a nonce."""


class Receiver:
    """The receiving direction: bytes as they come in, frames out.

    `key` is the first feed's public key, or a function from a discovery key to it (or None).
    """

    def __init__(self, key):
        self._find = key if callable(key) else {discovery_key(key): key}.get
        self._frames = wire.FrameDecoder()
        self.cipher = None
        self.key = None

    def push(self, chunk):
        self._frames.push(self.cipher.xor(chunk) if self.cipher else chunk)

    def next(self):
        """The next whole frame, or None when more bytes are needed."""
        frame = self._frames.next()
        if frame is not None and frame.is_message and self.cipher is None:
            self._switch(frame)
        return frame

    def feed(self, chunk):
        """The frames that are completed by this chunk."""
        self.push(chunk)
        return list(iter(self.next, None))

    def _switch(self, frame):
        """The bytes that came behind the first Feed in the same read are cipher already."""
        if frame.type != wire.Feed.TYPE:
            raise Opening("the first frame is not a Feed")
        message = wire.Feed.decode(frame.body)
        key = self._find(message.discoveryKey)
        if key is None:
            raise Opening("the first feed is not the one we share")
        if message.nonce is None:
            raise Opening("the first Feed carries no nonce")
        self.key = key
        self.cipher = Cipher(message.nonce, key)
        self._frames.push(self.cipher.xor(self._frames.take_rest()))


class Sender:
    """The sending direction. What is given to `encode` first is sent in the clear."""

    def __init__(self, key, nonce):
        self.cipher = Cipher(nonce, key)
        self.clear = True

    def encode(self, data):
        if self.clear:
            self.clear = False
            return bytes(data)
        return self.cipher.xor(data)
