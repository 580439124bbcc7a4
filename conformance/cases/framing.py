"""Frames: `varint length`, `varint header`, body."""

from dat import wire
from suite.case import DEFACTO, MUST, SHOULD, case, register

SOURCE = "DEP-0010 (Wire protocol); hypercore-protocol 6.12"


@case("dep-0010.framing/keep-alive", "framing", MUST, SOURCE,
      "A frame of length 0 between messages changes nothing",
      "It is the keep-alive: peers send one every few seconds.")
def _(stage):
    peer = stage.serves().meets()
    for _ in range(5):
        peer.ping()
        peer.ask(3)


@case("dep-0010.framing/keep-alive-many", "framing", MUST, SOURCE,
      "Ten thousand keep-alives in one write are skipped",
      "Reading in a loop, not by recursion, is what survives this.")
def _(stage):
    peer = stage.serves().meets()
    peer.send_plain(b"\x00" * 10000)
    peer.ask(3)


@case("dep-0010.framing/keep-alive-overlong", "framing", SHOULD, "protobuf varints; hypercore-protocol 6.12 takes it",
      "A keep-alive whose length is written in two bytes (80 00) does no harm",
      "An overlong varint is a number all the same; a peer may close, but must not lose its place in the stream.")
def _(stage):
    peer = stage.serves().meets()
    peer.send_plain(b"\x80\x00")
    if not peer.closes_or_serves(3):
        stage.connect().meets().ask(3)


for type in range(16):
    def run(stage, type=type):
        peer = stage.serves().meets()
        peer.send_plain(bytes([1, type]))
        peer.ask(3)
    register("dep-0010.framing/one-byte-frame-type-%d" % type, "framing", DEFACTO, "hypercore-protocol 6.12",
             "A frame of length 1 (type %d, no body) is ignored" % type,
             "The deployed code never looks into such a frame, so peers may send what they like in it.", run)

for type in range(10, 15):
    def run(stage, type=type):
        peer = stage.serves().meets()
        peer.send_body(0, type, b"\x08\x03\x10\x00")
        peer.ask(3)
    register("dep-0010.framing/unknown-type-%d" % type, "framing", MUST, "DEP-0010 (Wire protocol); hypercore-protocol 6.12",
             "A message of type %d is ignored" % type,
             "Types 10 to 14 have no meaning yet: who closes on them cannot talk to who gives them one.", run)


def bodies(data, size):
    """A message of unknown type whose frame says `size` bytes."""
    return wire.encode_varint(size) + b"\x0e" + bytes(size - 1)


@case("dep-0010.framing/largest", "framing", DEFACTO, "hypercore-protocol 6.12",
      "A frame of 8,388,608 bytes is taken",
      "The largest block that is deployed travels in it; a smaller limit cannot read such feeds.", "E5")
def _(stage):
    peer = stage.serves().meets()
    peer.send_plain(bodies(peer, wire.MAX_FRAME))
    peer.ask(3)


@case("dep-0010.framing/too-large", "framing", DEFACTO, "hypercore-protocol 6.12",
      "A frame of 8,388,609 bytes closes the connection",
      "A limit that holds: whoever takes more gives its memory away.", "E5")
def _(stage):
    peer = stage.serves().meets()
    peer.send_plain(wire.encode_varint(wire.MAX_FRAME + 1) + b"\x0e")
    peer.closed()


@case("dep-0010.framing/ten-megabytes", "framing", DEFACTO, "hypercore-protocol 6.12 against DEP-0002's 10 MB",
      "A frame of 10,000,000 bytes closes the connection",
      "What DEP 0002 allows, no deployed peer takes.", "E5")
def _(stage):
    peer = stage.serves().meets()
    peer.send_plain(wire.encode_varint(10000000) + b"\x0e")
    peer.closed()


@case("dep-0010.framing/length-of-five-bytes", "framing", DEFACTO, "hypercore-protocol 6.12",
      "A length varint of five bytes closes the connection",
      "Four bytes say every length that is legal.", "E5")
def _(stage):
    peer = stage.serves().meets()
    peer.send_plain(b"\x80\x80\x80\x80\x01")
    peer.closed()


@case("dep-0010.framing/length-without-end", "framing", MUST, SOURCE,
      "A length varint that does not end closes the connection",
      "A peer that waits for its end waits for ever, and a number that overflows is a wrong length.")
def _(stage):
    peer = stage.serves().meets()
    peer.send_plain(b"\xff" * 32)
    peer.closed()


@case("dep-0010.framing/length-overlong", "framing", SHOULD, "protobuf varints; hypercore-protocol 6.12 takes it",
      "A length written with a byte more than needed is read as the same number, or closes the connection",
      "Not what anybody sends; what must not happen is another length.")
def _(stage):
    peer = stage.serves().meets()
    frame = wire.encode_message(0, wire.request(5))
    peer.tells().send_plain(bytes([frame[0] | 0x80, 0]) + frame[1:])
    if peer.closes_or_serves(3) and peer.closes_or_serves(4):
        if 5 not in [e.message.index for e in peer.log if e.direction == "received" and isinstance(e.message, wire.Data)]:
            peer.fail("the message inside is read", "it is lost")
    else:
        stage.connect().meets().ask(3)


@case("dep-0010.framing/header-overlong", "framing", SHOULD, "protobuf varints; hypercore-protocol 6.12 takes it",
      "A header written with a byte more than needed does no harm",
      "Not what anybody sends; what must not happen is another channel or type.")
def _(stage):
    peer = stage.serves().meets()
    peer.tells().send_plain(b"\x04\x87\x00\x08\x05")
    if not peer.closes_or_serves(3):
        stage.connect().meets().ask(3)


@case("dep-0010.framing/header-of-33-bits", "framing", SHOULD, "hypercore-protocol 6.12 cuts the header to 32 bits",
      "A header of 2^32 + 7 is not read as a Request on channel 0",
      "A number that is cut silently is another number: what one peer refuses another obeys.")
def _(stage):
    peer = stage.serves().meets()
    header = wire.encode_varint((1 << 32) + 7)
    body = wire.request(5).encode()
    peer.tells().send_plain(wire.encode_varint(len(header) + len(body)) + header + body)
    if peer.closes_or_serves(3) and peer.closes_or_serves(4):
        if any(isinstance(e.message, wire.Data) and e.message.index == 5 for e in peer.log):
            stage.loosely("the frame refused or ignored", "Data of block 5: the header was cut to 32 bits", peer)


@case("dep-0010.framing/header-only-continuation", "framing", MUST, SOURCE,
      "A header varint that does not end within its frame does no harm to what follows",
      "The frame's length says where the next one begins, whatever is inside.")
def _(stage):
    peer = stage.serves().meets()
    peer.send_plain(b"\x03\xff\xff\xff")
    if not peer.closes_or_serves(3):
        stage.connect().meets().ask(3)


@case("dep-0010.framing/one-write", "framing", MUST, SOURCE,
      "Many messages in one write are all read",
      "TCP has no messages: what one side writes at once the other may read at once.")
def _(stage):
    peer = stage.serves().meets()
    peer.tells().send_plain(b"".join(wire.encode_message(0, wire.request(i)) for i in range(8)))
    missing = set(range(8))
    while missing:
        missing.discard(peer.until(wire.Data, expected="Data of blocks %s" % sorted(missing)).index)


@case("dep-0010.framing/byte-by-byte", "framing", MUST, SOURCE,
      "A message that comes a byte at a time is read",
      "What one side writes at once the other may read in parts.")
def _(stage):
    peer = stage.serves().meets()
    peer.tamper_wire = lambda data: [data[i:i + 1] for i in range(len(data))]
    peer.ask(3)
    peer.ask(5)


@case("dep-0010.framing/every-split", "framing", MUST, SOURCE,
      "A Request that comes in two parts is read, wherever it is cut",
      "The cut may fall inside the length, the header or a field.")
def _(stage):
    peer = stage.serves().meets()
    for cut in range(1, len(wire.encode_message(0, wire.request(3)))):
        peer.tamper_wire = lambda data: [data[:cut], data[cut:]]
        peer.ask(3)


@case("dep-0010.framing/large-message-in-parts", "framing", MUST, SOURCE,
      "A frame of a megabyte that comes in many parts is skipped, and the next message read",
      "Most frames that carry blocks do not fit in one read.")
def _(stage):
    peer = stage.serves().meets()
    peer.tamper_wire = lambda data: [data[i:i + 9999] for i in range(0, len(data), 9999)]
    peer.send_plain(bodies(peer, 1 << 20))
    peer.ask(3)


@case("dep-0010.framing/cut-off", "framing", MUST, SOURCE,
      "A connection that ends inside a frame harms nobody else",
      "Connections break at any byte.")
def _(stage):
    for cut in (1, 2, 5, 8):
        peer = stage.connections[-1] if cut == 1 and stage.connections else stage.connect() if cut > 1 else stage.serves()
        peer.meets()
        peer.tells().send_plain(wire.encode_message(0, wire.request(3))[:cut])
        peer.close()
    stage.connect().meets().ask(3)


@case("dep-0010.framing/announced-only", "framing", MUST, "robustness; DEP-0010 bounds no memory",
      "Twenty frames of 8 MiB that are announced and never sent do not stop the peer from serving",
      "Memory should follow what came, not what was announced.")
def _(stage):
    stage.serves().meets()
    waiting = [stage.connect().meets() for _ in range(20)]
    for peer in waiting:
        peer.send_plain(wire.encode_varint(wire.MAX_FRAME) + b"\x09")
    stage.connect().meets().ask(3)


@case("dep-0010.framing/reset", "framing", MUST, "robustness",
      "A connection that is reset harms nobody else",
      "What a crash or a router does; an unhandled error stops a whole process.")
def _(stage):
    peer = stage.serves().meets()
    peer.send(wire.request(3))
    peer.reset()
    stage.connect().meets().ask(3)
