"""Frames and messages (PROTOCOL 1, 2; DEP 0010).

A frame is `varint length`, then `varint (channel << 4 | type)` and a protobuf body. A message
here is a small dataclass: a field that is None was, or will be, absent. Each class carries the
table of its fields, and one encoder and one decoder serve them all.
"""

from dataclasses import dataclass, field
from typing import ClassVar, List, NamedTuple, Optional

MAX_FRAME = 8388608  # inclusive
MAX_LENGTH_BYTES = 4  # of the varint before a frame
MAX_VARINT_BYTES = 10  # 64 bits
MAX_UINT = (1 << 64) - 1
MAX_HEADER = (1 << 32) - 1  # channel << 4 | type
KEEP_ALIVE = b"\x00"


class CodecError(ValueError):
    """These bytes, or this message, are not valid. The codec raises nothing else."""


# ---- varints ----------------------------------------------------------------------------------

def encode_varint(number):
    """Seven bits a byte, least significant first; the top bit says that more follow."""
    if not 0 <= number <= MAX_UINT:
        raise CodecError("%r does not fit a varint" % (number,))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode_varint(data, start=0, end=None):
    """(number, position after it). Longer forms than needed are valid, up to 10 bytes."""
    end = len(data) if end is None else end
    number = 0
    for i in range(MAX_VARINT_BYTES):
        if start + i >= end:
            raise CodecError("a varint is cut off")
        byte = data[start + i]
        number |= (byte & 127) << 7 * i
        if byte < 128:
            if number > MAX_UINT:
                break
            return number, start + i + 1
    raise CodecError("a varint has more than 64 bits")


# ---- the tables -------------------------------------------------------------------------------

UINT, BOOL, BYTES, STRING, NODE = "uint64", "bool", "bytes", "string", "Node"
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # protobuf wire types
WIRE_TYPE = {UINT: VARINT, BOOL: VARINT, BYTES: DELIMITED, STRING: DELIMITED, NODE: DELIMITED}


class Field(NamedTuple):
    rule: str
    kind: str
    name: str
    tag: int
    default: object = None  # how an absent field is read


def required(kind, name, tag):
    return Field("required", kind, name, tag)


def optional(kind, name, tag, default=None):
    if default is None:
        default = {UINT: 0, BOOL: False}.get(kind)
    return Field("optional", kind, name, tag, default)


def repeated(kind, name, tag):
    return Field("repeated", kind, name, tag, ())


class Message:
    """What all protobuf messages share."""

    TYPE: ClassVar[Optional[int]] = None
    FIELDS: ClassVar[tuple] = ()
    SIZES: ClassVar[dict] = {}  # bytes fields that have one size only

    def encode(self):
        """The body: fields in the order of their tags, None left out."""
        return b"".join(_encode_field(f, getattr(self, f.name)) for f in self.FIELDS)

    @classmethod
    def decode(cls, body):
        values = {f.name: [] if f.rule == "repeated" else None for f in cls.FIELDS}
        by_tag = {f.tag: f for f in cls.FIELDS}
        for tag, wire_type, value in split_fields(body):
            f = by_tag.get(tag)
            if f is None:
                continue  # unknown fields are skipped
            if wire_type != WIRE_TYPE[f.kind]:
                raise CodecError("%s.%s has wire type %d" % (cls.__name__, f.name, wire_type))
            value = _decode_value(f.kind, value)
            if f.rule == "repeated":
                values[f.name].append(value)
            else:
                values[f.name] = value  # of several the last one counts
        for f in cls.FIELDS:
            if f.rule == "required" and values[f.name] is None:
                raise CodecError("%s has no %s" % (cls.__name__, f.name))
        message = cls(**values)
        message.check()
        return message

    def check(self):
        for name, size in self.SIZES.items():
            value = getattr(self, name)
            if value is not None and len(value) != size:
                raise CodecError("%s.%s must be %d bytes" % (type(self).__name__, name, size))

    def read(self, name):
        """The value of a field as the deployed code reads it: its default where it is absent."""
        value = getattr(self, name)
        if value is None:
            value = next(f.default for f in self.FIELDS if f.name == name)
        return value


@dataclass
class Feed(Message):
    """Opens a channel. Other sizes than these close the connection."""
    discoveryKey: bytes
    nonce: Optional[bytes] = None
    TYPE = 0
    FIELDS = (required(BYTES, "discoveryKey", 1), optional(BYTES, "nonce", 2))
    SIZES = {"discoveryKey": 32, "nonce": 24}


@dataclass
class Handshake(Message):
    id: Optional[bytes] = None
    live: Optional[bool] = None
    userData: Optional[bytes] = None
    extensions: List[str] = field(default_factory=list)
    ack: Optional[bool] = None
    TYPE = 1
    FIELDS = (optional(BYTES, "id", 1), optional(BOOL, "live", 2), optional(BYTES, "userData", 3),
              repeated(STRING, "extensions", 4), optional(BOOL, "ack", 5))


@dataclass
class Info(Message):
    uploading: Optional[bool] = None
    downloading: Optional[bool] = None
    TYPE = 2
    FIELDS = (optional(BOOL, "uploading", 1), optional(BOOL, "downloading", 2))


@dataclass
class Have(Message):
    start: int
    length: Optional[int] = None
    bitfield: Optional[bytes] = None
    ack: Optional[bool] = None
    TYPE = 3
    FIELDS = (required(UINT, "start", 1), optional(UINT, "length", 2, default=1),
              optional(BYTES, "bitfield", 3), optional(BOOL, "ack", 4))


@dataclass
class Unhave(Message):
    start: int
    length: Optional[int] = None
    TYPE = 4
    FIELDS = (required(UINT, "start", 1), optional(UINT, "length", 2, default=1))


@dataclass
class Want(Message):
    start: int
    length: Optional[int] = None
    TYPE = 5
    FIELDS = (required(UINT, "start", 1), optional(UINT, "length", 2))


@dataclass
class Unwant(Message):
    start: int
    length: Optional[int] = None
    TYPE = 6
    FIELDS = (required(UINT, "start", 1), optional(UINT, "length", 2))


@dataclass
class Request(Message):
    index: int
    bytes: Optional[int] = None
    hash: Optional[bool] = None
    nodes: Optional[int] = None
    TYPE = 7
    FIELDS = (required(UINT, "index", 1), optional(UINT, "bytes", 2), optional(BOOL, "hash", 3),
              optional(UINT, "nodes", 4))


@dataclass
class Cancel(Message):
    index: int
    bytes: Optional[int] = None
    hash: Optional[bool] = None
    TYPE = 8
    FIELDS = (required(UINT, "index", 1), optional(UINT, "bytes", 2), optional(BOOL, "hash", 3))


@dataclass(frozen=True)
class Node(Message):
    """A node of the tree, as it travels inside Data."""
    index: int
    hash: bytes
    size: int
    FIELDS = (required(UINT, "index", 1), required(BYTES, "hash", 2), required(UINT, "size", 3))


@dataclass
class Data(Message):
    index: int
    value: Optional[bytes] = None
    nodes: List[Node] = field(default_factory=list)
    signature: Optional[bytes] = None
    TYPE = 9
    FIELDS = (required(UINT, "index", 1), optional(BYTES, "value", 2), repeated(NODE, "nodes", 3),
              optional(BYTES, "signature", 4))


@dataclass
class Extension:
    """Not protobuf: the number of a name in the sender's Handshake.extensions, and a payload."""
    id: int
    payload: bytes = b""
    TYPE = 15

    def encode(self):
        return encode_varint(self.id) + self.payload

    @classmethod
    def decode(cls, body):
        number, start = decode_varint(body)
        return cls(number, bytes(body[start:]))


MESSAGES = {m.TYPE: m for m in (Feed, Handshake, Info, Have, Unhave, Want, Unwant, Request, Cancel,
                                Data, Extension)}


def request(index, nodes=0, hash=False, bytes=0):
    """A Request as the deployed code writes it: all four fields, zeros too."""
    return Request(index, bytes, hash, nodes)


# ---- fields -----------------------------------------------------------------------------------

def encode_raw(tag, value):
    """A field from its number and an int (varint) or bytes (delimited): for hand-made bodies."""
    if isinstance(value, int):
        return encode_varint(tag << 3 | VARINT) + encode_varint(value)
    return encode_varint(tag << 3 | DELIMITED) + encode_varint(len(value)) + value


def _encode_field(f, value):
    if value is None:
        if f.rule == "required":
            raise CodecError("%s is required" % f.name)
        return b""
    values = value if f.rule == "repeated" else (value,)
    return b"".join(encode_raw(f.tag, _encode_value(f, v)) for v in values)


def _encode_value(f, value):
    try:
        if f.kind == UINT:
            return int(value)
        if f.kind == BOOL:
            return int(bool(value))
        if f.kind == BYTES:
            return memoryview(value).tobytes()
        if f.kind == STRING:
            return value.encode("utf-8", "surrogateescape")
        return value.encode()
    except (TypeError, ValueError, AttributeError) as error:
        raise CodecError("%s cannot be encoded: %s" % (f.name, error)) from None


def split_fields(body):
    """Each field of a protobuf body as (tag, wire type, int or bytes), strict about lengths."""
    position, end = 0, len(body)
    while position < end:
        prefix, position = decode_varint(body, position)
        tag, wire_type = prefix >> 3, prefix & 7
        if not 1 <= tag < 1 << 29:
            raise CodecError("field number %d" % tag)
        if wire_type == VARINT:
            value, position = decode_varint(body, position)
            yield tag, wire_type, value
            continue
        if wire_type == DELIMITED:
            size, position = decode_varint(body, position)
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
        else:
            raise CodecError("wire type %d is not supported" % wire_type)
        if size > end - position:
            raise CodecError("a field reaches beyond its message")
        yield tag, wire_type, bytes(body[position:position + size])
        position += size


def _decode_value(kind, value):
    if kind == BOOL:
        return value != 0
    if kind == STRING:
        return value.decode("utf-8", "surrogateescape")  # a name is never a reason to fail
    if kind == NODE:
        return Node.decode(value)
    return value


# ---- frames -----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Frame:
    """One frame: its channel, type and body, and all its bytes. A keep-alive has no channel."""
    channel: Optional[int]
    type: Optional[int]
    body: bytes
    raw: bytes
    length: int  # as the frame says it

    @property
    def is_keep_alive(self):
        return self.channel is None

    @property
    def is_message(self):
        """A frame of length 1 is ignored, whatever its type: a header and no body.

        From channel 8 on a header takes two bytes, and there an empty body does count.
        """
        return self.length > 1

    def message(self):
        """The decoded message; CodecError for a body that does not decode or types 10 to 14."""
        if not self.is_message:
            raise CodecError("a frame of length %d holds no message" % self.length)
        if self.type not in MESSAGES:
            raise CodecError("message type %d is not defined" % self.type)
        return MESSAGES[self.type].decode(self.body)


def encode_frame(channel, type, body):
    """A frame from its parts; says nothing about whether the body is a valid one."""
    content = encode_varint(channel << 4 | type) + body
    if len(content) > MAX_FRAME:
        raise CodecError("a frame of %d bytes is too large" % len(content))
    return encode_varint(len(content)) + content


def encode_message(channel, message):
    return encode_frame(channel, message.TYPE, message.encode())


class FrameDecoder:
    """Cuts a stream into frames. Memory grows with what came, not with what was announced."""

    def __init__(self):
        self._buffer = bytearray()

    def push(self, chunk):
        self._buffer += chunk

    def next(self):
        """The next whole frame, or None when more bytes are needed."""
        length, start = self._length()
        if length is None or len(self._buffer) - start < length:
            return None
        raw = bytes(self._buffer[:start + length])
        del self._buffer[:start + length]
        if length == 0:
            return Frame(None, None, b"", raw, length)
        if length == 1:  # ignored even where its byte is no whole header
            return Frame(raw[-1] >> 4, raw[-1] & 15, b"", raw, length)
        header, position = decode_varint(raw, start)
        if header > MAX_HEADER:
            raise CodecError("a channel number has more than 28 bits")
        return Frame(header >> 4, header & 15, raw[position:], raw, length)

    def _length(self):
        length = 0
        for i in range(MAX_LENGTH_BYTES):
            if i == len(self._buffer):
                return None, 0
            byte = self._buffer[i]
            length |= (byte & 127) << 7 * i
            if byte < 128:
                if length > MAX_FRAME:
                    break
                return length, i + 1
        raise CodecError("a frame is longer than %d bytes" % MAX_FRAME)

    def feed(self, chunk):
        """The frames that are completed by this chunk."""
        self.push(chunk)
        return list(iter(self.next, None))

    def take_rest(self):
        """Take back the bytes that belong to no whole frame yet."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        return rest
