"""Talks to the test driver, conformance/probe.c, which tells each command beside its function.

Environment: DATSYNC_PROBE is the driver (build/asan/probe), DATSYNC_WRAPPER what stands before it.
"""

import os
import shlex
import subprocess

from dat import sodium, wire
from dat.wire import Node

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
VECTORS = os.path.join(ROOT, "vectors")
PROBE = os.environ.get("DATSYNC_PROBE", os.path.join(ROOT, "build", "asan", "probe"))
WRAPPER = shlex.split(os.environ.get("DATSYNC_WRAPPER", ""))

KEY, SECRET_KEY, TREE, SIGNATURES, BITFIELD, DATA = range(6)
PARTS = {"key": KEY, "secret_key": SECRET_KEY, "tree": TREE, "signatures": SIGNATURES,
         "bitfield": BITFIELD, "data": DATA}
CREATE, READ_ONLY, NO_SYNC, STATIC = 1, 2, 4, 8
DOWNLOAD, UPLOAD = 1, 2
BOTH = DOWNLOAD | UPLOAD

NOMEM, INVALID, STATE, TOO_BIG = -1, -2, -3, -4
MORE, FRAME, MESSAGE, SPACE, RLE = -20, -21, -22, -23, -24
NOT_FOUND, HASH, SIGNATURE, NO_SIGNATURE, PROOF, OTHER_FEED, LOCKED, READ_ONLY_FEED, CORRUPT = \
    range(-40, -49, -1)
CLOSED, PROTOCOL, TIMEOUT, FIRST_FEED, SELF, DUPLICATE, EARLY, DONE, UNKNOWN_FEED, SLOW, \
    BAD_DATA = range(-60, -71, -1)
IO, NO_SPACE = -80, -81


class ProbeError(Exception):
    """The driver answered with an error of the library."""

    def __init__(self, command, code, text):
        super().__init__("%s: %d %s" % (command[:200], code, text[:200]))
        self.code, self.text = code, text


class Probe:
    def __init__(self):
        env = dict(os.environ)
        env["ASAN_OPTIONS"] = "exitcode=99:" + env.get("ASAN_OPTIONS", "")
        env["UBSAN_OPTIONS"] = "print_stacktrace=1:exitcode=99:" + env.get("UBSAN_OPTIONS", "")
        self._process = subprocess.Popen(WRAPPER + [PROBE], stdin=subprocess.PIPE, env=env,
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ask(self, *words):
        """The words of the answer; ProbeError if it is an error."""
        line = " ".join(map(word, words))
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        reply = self._process.stdout.readline().decode()
        if not reply.endswith("\n"):
            raise AssertionError("the driver died at %r: %s" % (line[:300], self._end()[1]))
        head, *rest = reply.split()
        if head == "error":
            raise ProbeError(line, int(rest[0]), reply.strip())
        return rest

    def number(self, *words):
        return int(self.ask(*words)[0])

    def numbers(self, *words):
        return list(map(int, self.ask(*words)))

    def bytes(self, *words):
        return unhex(self.ask(*words)[0])

    def code(self, *words):
        """0, or the error's number."""
        try:
            self.ask(*words)
        except ProbeError as error:
            return error.code
        return 0

    def _end(self):
        try:
            out, err = self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
        return out.decode(errors="replace"), err.decode(errors="replace")[-6000:]

    def close(self):
        """Ends the driver: it must have nothing to complain about and nothing left to free."""
        if self._process.poll() is not None and self._process.stdout.closed:
            return
        _, err = self._end()
        assert self._process.returncode == 0 and not err, \
            "exit code %s: %s" % (self._process.returncode, err)


def word(value):
    if value is None:
        return "-"
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex() or "-"
    if isinstance(value, Node):
        return "%d:%s:%d" % (value.index, value.hash.hex(), value.size)
    return str(int(value) if isinstance(value, bool) else value)


def unhex(text):
    return b"" if text == "-" else bytes.fromhex(text)


def node(text):
    index, hash, size = text.split(":")
    return Node(int(index), bytes.fromhex(hash), int(size))


def ranges(words):
    """[(start, end), ...] from START-END words."""
    return [tuple(map(int, w.split("-"))) for w in words]


def members(words):
    return {i for start, end in ranges(words) for i in range(start, end)}


def pieces(entry):
    """The bytes of a list of [hex, times]."""
    return b"".join(bytes.fromhex(h) * n for h, n in entry)


# ---- messages as the driver writes them --------------------------------------------------------

def fields(type, words):
    """{field name: value} of decoded FIELD=VALUE words, as the vectors have them."""
    cls, out = wire.MESSAGES[type], {}
    if cls is wire.Extension:
        pairs = dict(w.split("=") for w in words)
        return {"id": int(pairs["id"]), "payload": unhex(pairs["payload"]).hex()}
    by_tag = {f.tag: f for f in cls.FIELDS}
    for w in words:
        tag, value = w.split("=", 1)
        f = by_tag[int(tag)]
        if f.kind == wire.NODE:
            n = node(value)
            value = {"index": n.index, "hash": n.hash.hex(), "size": n.size}
        elif f.kind == wire.UINT:
            value = int(value)
        elif f.kind == wire.BOOL:
            value = bool(int(value))
        else:
            value = unhex(value).hex()
            if f.kind == wire.STRING:
                value = bytes.fromhex(value).decode("utf-8", "surrogateescape")
        if f.rule == "repeated":
            out.setdefault(f.name, []).append(value)
        else:
            out[f.name] = value
    return out


def message_words(channel, message):
    """What `encode` and `peer-send` take, from a message of dat.wire."""
    words = [message.TYPE, channel]
    if isinstance(message, wire.Extension):
        return words + ["id=%d" % message.id, "payload=" + word(message.payload)]
    for f in message.FIELDS:
        value = getattr(message, f.name)
        for v in value if f.rule == "repeated" else [] if value is None else [value]:
            words.append("%d=%s" % (f.tag, word(v.encode() if isinstance(v, str) else v)))
    return words


# ---- content of the vectors (vectors/README.md) --------------------------------------------------

def _chacha(seed, index, purpose, size):
    import ctypes
    out = ctypes.create_string_buffer(max(size, 1))
    key = seed.to_bytes(8, "little") + bytes(24)
    nonce = index.to_bytes(8, "little") + purpose.to_bytes(4, "little")
    sodium._sodium.crypto_stream_chacha20_ietf(out, ctypes.c_ulonglong(size), nonce, key)
    return out.raw[:size]


def sizes(text):
    """(least, most) of `MIN-MAX` or `SIZE`."""
    low, _, high = str(text).partition("-")
    return int(low), int(high or low)


def content(seed, index, size):
    low, high = sizes(size)
    if high > low:
        low += int.from_bytes(_chacha(seed, index, 1, 4), "little") % (high - low + 1)
    return _chacha(seed, index, 0, low)


def secret_key(seed):
    return sodium.keypair(_chacha(seed, 0, 2, 32))[1]
