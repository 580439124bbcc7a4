"""The libsodium functions that the protocol uses, through ctypes.

Hashes are BLAKE2b-256 (`crypto_generichash`), signatures Ed25519, the stream cipher XSalsa20.
"""

import ctypes

HASH_BYTES = 32
KEY_BYTES = 32
SECRET_KEY_BYTES = 64
SEED_BYTES = 32
SIGNATURE_BYTES = 64
NONCE_BYTES = 24
BLOCK_BYTES = 64  # of the XSalsa20 keystream

_NAMES = ("libsodium.so.26", "libsodium.so.23", "libsodium.so", "libsodium.dylib", "libsodium.dll")


def _names():
    """Those that it is known by; to ask the system takes longer than all else here, and most never need it."""
    yield from _NAMES
    import ctypes.util
    found = ctypes.util.find_library("sodium")
    if found:
        yield found


class SodiumMissing(ImportError):
    """libsodium is not installed, or cannot be loaded."""


def load(names=None):
    """Load libsodium from the first name that works, and initialise it."""
    for name in _names() if names is None else names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if library.sodium_init() < 0:
            raise SodiumMissing("libsodium was found but does not initialise")
        return library
    raise SodiumMissing("libsodium was not found: install it (on Debian the package libsodium23)")


_sodium = load()
_sodium.crypto_generichash_statebytes.restype = ctypes.c_size_t
_u64 = ctypes.c_ulonglong


def _need(value, length, name):
    """Nothing of the wrong length ever reaches C."""
    if len(value) != length:
        raise ValueError("%s must be %d bytes, not %d" % (name, length, len(value)))
    return bytes(value)


def generichash(message, key=b"", size=HASH_BYTES):
    """BLAKE2b of `message`, keyed if `key` is not empty."""
    out = ctypes.create_string_buffer(size)
    message, key = bytes(message), bytes(key)
    code = _sodium.crypto_generichash(
        out, ctypes.c_size_t(size), message, _u64(len(message)),
        key or None, ctypes.c_size_t(len(key)))
    if code != 0:
        raise ValueError("BLAKE2b refuses this size of key or output")
    return out.raw


class Hash:
    """BLAKE2b over a message that comes in parts."""

    def __init__(self, key=b"", size=HASH_BYTES):
        key = bytes(key)
        self._size = size
        space = _sodium.crypto_generichash_statebytes()
        self._memory = ctypes.create_string_buffer(space + 64)
        start = ctypes.addressof(self._memory)
        self._state = ctypes.c_void_p(start + (-start % 64))  # libsodium wants it aligned
        code = _sodium.crypto_generichash_init(
            self._state, key or None, ctypes.c_size_t(len(key)), ctypes.c_size_t(size))
        if code != 0:
            raise ValueError("BLAKE2b refuses this size of key or output")

    def update(self, part):
        part = bytes(part)
        _sodium.crypto_generichash_update(self._state, part, _u64(len(part)))
        return self

    def final(self):
        out = ctypes.create_string_buffer(self._size)
        _sodium.crypto_generichash_final(self._state, out, ctypes.c_size_t(self._size))
        return out.raw


def keypair(seed=None):
    """A new Ed25519 key pair, or the one that `seed` determines: (public, secret)."""
    public = ctypes.create_string_buffer(KEY_BYTES)
    secret = ctypes.create_string_buffer(SECRET_KEY_BYTES)
    if seed is None:
        _sodium.crypto_sign_keypair(public, secret)
    else:
        _sodium.crypto_sign_seed_keypair(public, secret, _need(seed, SEED_BYTES, "the seed"))
    return public.raw, secret.raw


def sign(message, secret_key):
    """The detached Ed25519 signature of `message`."""
    out = ctypes.create_string_buffer(SIGNATURE_BYTES)
    message = bytes(message)
    _sodium.crypto_sign_detached(
        out, None, message, _u64(len(message)),
        _need(secret_key, SECRET_KEY_BYTES, "the secret key"))
    return out.raw


def verify(message, signature, public_key):
    """Whether `signature` signs `message`. One of a wrong length signs nothing."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != KEY_BYTES:
        return False
    message = bytes(message)
    return _sodium.crypto_sign_verify_detached(
        bytes(signature), message, _u64(len(message)), bytes(public_key)) == 0


def xsalsa20_xor_ic(message, nonce, block, key):
    """`message` xor the XSalsa20 keystream, from its 64-byte block number `block` on."""
    message = bytes(message)
    out = ctypes.create_string_buffer(max(1, len(message)))
    _sodium.crypto_stream_xsalsa20_xor_ic(
        out, message, _u64(len(message)), _need(nonce, NONCE_BYTES, "the nonce"),
        ctypes.c_uint64(block), _need(key, KEY_BYTES, "the key"))
    return out.raw[:len(message)]


def kdf(size, number, context, key):
    """Subkey `number` of `key` (crypto_kdf): salt = the number, personal = the 8-byte context."""
    out = ctypes.create_string_buffer(size)
    code = _sodium.crypto_kdf_derive_from_key(
        out, ctypes.c_size_t(size), ctypes.c_uint64(number),
        _need(context, 8, "the context"), _need(key, KEY_BYTES, "the key"))
    if code != 0:
        raise ValueError("crypto_kdf refuses this size")
    return out.raw
