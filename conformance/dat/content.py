"""Content and keys by number: what the vectors and the tests fill their feeds with. vectors/README.md says how it is made."""

import ctypes
import os

from . import sodium

VECTORS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "vectors")


def _chacha(seed, index, purpose, size):
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
