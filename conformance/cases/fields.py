"""Every message with each field absent, repeated, overlong, largest, unknown, of the wrong wire type.

A message that is legal protobuf is read as its canonical form is; one that is not is skipped (or ends the connection)
and harms nobody. For a server the messages are the ones that a downloader sends, and those that it must ignore; for a
downloader Have, Unhave, Data and Info.
"""

from dat import feed as feeds
from dat import peer as peers
from dat import sodium, wire
from dat.wire import encode_raw, encode_varint
from cases.have import answered
from suite.case import DEFACTO, MUST, SHOULD, case, register
from suite.stage import WHOLE, words

SOURCE = "DEP-0010 (%s); protobuf as hypercore-protocol 6.12 reads it"
MAX = (1 << 64) - 1
EXACT = (1 << 53) - 1  # the largest number that JavaScript counts exactly


def field(tag, number, bytes=None):
    """A varint field; `bytes` makes its value overlong."""
    code = encode_varint(number)
    if bytes:
        code = code[:-1] + b"".join([bytes_with_more(code[-1:])] + [b"\x80"] * (bytes - len(code) - 1) + [b"\x00"])
    return encode_varint(tag << 3) + code


def bytes_with_more(byte):
    return b"%c" % (byte[0] | 0x80)


def unknown(kind, tag=13):
    """A field that no message has."""
    return {"varint": encode_raw(tag, 300), "bytes": encode_raw(tag, b"future"),
            "fixed64": encode_varint(tag << 3 | 1) + bytes(8), "fixed32": encode_varint(tag << 3 | 5) + bytes(4),
            "high-tag": encode_raw((1 << 29) - 1, b"x")}[kind]


KINDS = ("varint", "bytes", "fixed64", "fixed32", "high-tag")
UNKNOWN_WHY = "Unknown fields are skipped by their wire type: that is how protobuf messages grow."

# ---- Request: read as Request{index: 3} -------------------------------------------------------------

REQUESTS = {
    "index-only": (field(1, 3), MUST, "with its index alone", "bytes, hash and nodes are optional; absent is 0 or false."),
    "explicit-zeros": (field(1, 3) + field(2, 0) + field(3, 0) + field(4, 0), MUST, "with explicit zeros",
                       "So the deployed code writes it; bytes: 0 counts as absent."),
    "reversed": (field(4, 0) + field(3, 0) + field(2, 0) + field(1, 3), MUST, "with its fields in reverse order",
                 "Protobuf fixes no order."),
    "index-twice": (field(1, 5) + field(1, 3), MUST, "with its index twice: the last one counts", "As protobuf has it."),
    "nodes-twice": (field(1, 3) + field(4, 1) + field(4, 0), MUST, "with nodes twice: the last one counts", "As protobuf has it."),
    "bytes-twice": (field(1, 3) + field(2, 100) + field(2, 0), MUST, "with bytes twice: the last one counts", "As protobuf has it."),
    "hash-twice": (field(1, 3) + field(3, 1) + field(3, 0), MUST, "with hash twice: the last one counts", "As protobuf has it."),
    "index-overlong-2": (field(1, 3, 2), MUST, "with its index in 2 bytes", "A longer form is the same number."),
    "index-overlong-5": (field(1, 3, 5), MUST, "with its index in 5 bytes", "A longer form is the same number."),
    "index-overlong-10": (field(1, 3, 10), MUST, "with its index in 10 bytes", "The longest legal varint has 10 bytes."),
    "nodes-overlong-10": (field(1, 3) + field(4, 0, 10), MUST, "with nodes in 10 bytes", "The longest legal varint has 10 bytes."),
    "tag-overlong": (b"\x88\x00\x03", MUST, "with a field's number in 2 bytes", "The key of a field is a varint too."),
}
for kind in KINDS:
    REQUESTS["unknown-" + kind] = (unknown(kind) + field(1, 3) + unknown(kind), MUST, "with unknown fields (%s)" % kind, UNKNOWN_WHY)
for slug, (body, level, title, why) in REQUESTS.items():
    def run(stage, body=body):
        peer = stage.serves().meets()
        peer.send_body(0, 7, body)
        got = peer.until(wire.Data, expected="Data of block 3")
        if got != stage.feeds[0].answer(wire.request(3)):
            peer.fail(words(stage.feeds[0].answer(wire.request(3))), words(got))
    register("dep-0010.request/" + slug, "fields", level, SOURCE % "Request", "A Request %s is read" % title, why, run)


def ignored(message, slug, type, body, title, why, level=MUST, source=None, unanswered=(wire.Data,), erratum=None):
    """A message to a server that gets no answer and leaves all as it was (or ends the connection, for MUST)."""
    def run(stage):
        peer = stage.serves().meets()
        peer.send_body(0, type, body)
        try:
            peer.nothing_before(2, *unanswered, why="no answer to it")
            peer.nothing_before(4, *unanswered, why="no answer to it")  # answers may overtake each other
        except Exception as error:
            if "closed the connection" not in str(error) and "broke" not in str(error) and "cannot send" not in str(error):
                raise
            stage.note("it closed the connection")
            stage.after_its_close()
        stage.connect().meets().ask(3)
    register("dep-0010.%s/%s" % (message.lower(), slug), "fields", level, source or SOURCE % message,
             "%s %s %s" % ("An" if message[0] in "AEIOU" else "A", message, title), why, run, erratum)


HARMLESS = "What does not decode is skipped; the frame's length tells where the next message begins."
BEYOND = "Nothing is there; a peer may close, but must not invent, crash or hang."
for slug, body, title, why in (
        ("no-index", field(2, 0) + field(3, 0), "without its required index is not answered", HARMLESS),
        ("index-beyond", field(1, 8), "of the block just beyond the end gets no Data", BEYOND),
        ("index-far-beyond", field(1, 1 << 40), "of block 2^40 gets no Data", BEYOND),
        ("index-2-53", field(1, EXACT), "of block 2^53 - 1 gets no Data", BEYOND),
        ("index-largest", field(1, MAX), "of block 2^64 - 1 gets no Data", BEYOND),
        ("index-largest-hash", field(1, MAX) + field(3, 1), "of the hash of block 2^64 - 1 gets no Data", BEYOND),
        ("index-2-63", field(1, 1 << 63) + field(4, 3), "of block 2^63 gets no Data", BEYOND)):
    ignored("Request", slug, 7, body, title, why)


@case("dep-0010.request/nodes-largest", "fields", MUST, SOURCE % "Request",
      "A Request whose nodes is 2^64 - 1 is answered without nodes, or not at all, or closes",
      "A digest that says more than there can be must not make the peer climb for ever.")
def _(stage):
    peer = stage.serves().meets()
    peer.send_body(0, 7, field(1, 3) + field(4, MAX))
    if not peer.closes_or_serves(2):
        stage.connect().meets().ask(3)


@case("dep-0010.request/does-not-decode", "fields", DEFACTO, "hypercore-protocol 6.12",
      "A message that does not decode is skipped, and the conversation goes on",
      "The frame tells where the next one begins; a peer of tomorrow may send what we cannot read.")
def _(stage):
    peer = stage.serves().meets()
    peer.send_body(0, 7, field(2, 0))
    peer.ask(3)


def wrong_wire_type(message, slug, type, body, title, answer):
    """Legal to skip, lenient to read."""
    def run(stage):
        peer = stage.serves().meets()
        peer.send_body(0, type, body)
        if peer.closes_or_serves(2) and peer.closes_or_serves(3) and peer.closes_or_serves(4):
            if any(isinstance(e.message, answer) and getattr(e.message, "index", 5) == 5 and e.direction == "received" for e in peer.log):
                stage.loosely("the message skipped, or the connection closed", "it is read as if its wire types were right", peer)
        stage.connect().meets().ask(3)
    register("dep-0010.%s/%s" % (message.lower(), slug), "fields", SHOULD, SOURCE % message,
             "A %s %s is not read" % (message, title),
             "Bytes read as what they are not mean what nobody said. (The deployed decoder looks neither at wire types nor at inner lengths.)", run)


wrong_wire_type("Request", "index-as-fixed64", 7, encode_varint(1 << 3 | 1) + b"\x05" + bytes(7), "whose index is a fixed64", wire.Data)
wrong_wire_type("Request", "index-as-bytes", 7, encode_varint(1 << 3 | 2) + b"\x05" + bytes(5), "whose index is a byte string", wire.Data)
wrong_wire_type("Request", "index-of-11-bytes", 7, b"\x08" + b"\x85" + b"\x80" * 9 + b"\x00", "whose index varint has 11 bytes", wire.Data)
wrong_wire_type("Request", "cut-off", 7, b"\x08\x05\x12\x7f", "whose field reaches beyond the message", wire.Data)
wrong_wire_type("Request", "wire-type-7", 7, b"\x0f\x05", "whose index has wire type 7", wire.Data)
wrong_wire_type("Want", "start-as-fixed32", 5, encode_varint(1 << 3 | 5) + bytes(4) + field(2, WHOLE), "whose start is a fixed32", wire.Have)

# ---- Want: answered by Have{7} and the bitfield --------------------------------------------------------

WANTS = {
    "explicit": (field(1, 0) + field(2, WHOLE), MUST, "with start and length", "What every downloader sends."),
    "reversed": (field(2, WHOLE) + field(1, 0), MUST, "with its fields in reverse order", "Protobuf fixes no order."),
    "start-twice": (field(1, 8192) + field(1, 0) + field(2, WHOLE), MUST, "with start twice: the last one counts", "As protobuf has it."),
    "length-twice": (field(1, 0) + field(2, 8192) + field(2, WHOLE), MUST, "with length twice: the last one counts", "As protobuf has it."),
    "length-overlong": (field(1, 0) + field(2, WHOLE, 10), MUST, "with its length in 10 bytes", "A longer form is the same number."),
    "start-overlong": (field(1, 0, 10) + field(2, WHOLE), MUST, "with its start in 10 bytes", "A longer form is the same number."),
}
for kind in KINDS:
    WANTS["unknown-" + kind] = (field(1, 0) + unknown(kind) + field(2, WHOLE), MUST, "with unknown fields (%s)" % kind, UNKNOWN_WHY)
for slug, (body, level, title, why) in WANTS.items():
    def run(stage, body=body):
        peer = stage.serves().meets()
        peer.send_body(0, 5, body)
        answered(peer, range(8))
    register("dep-0010.want/" + slug, "fields", level, SOURCE % "Want", "A Want %s is answered" % title, why, run)

for slug, body, title, why in (
        ("no-start", field(2, WHOLE), "without its required start is not answered", HARMLESS),
        ("start-largest", field(1, MAX) + field(2, WHOLE), "from 2^64 - 1 on does no harm", BEYOND),
        ("start-2-63", field(1, 1 << 63) + field(2, WHOLE), "from 2^63 on does no harm", BEYOND),
        ("length-largest", field(1, 0) + field(2, MAX), "of 2^64 - 1 blocks does no harm", "No multiple of 8192."),
        ("length-2-43", field(1, 0) + field(2, 1 << 43), "of 2^43 blocks does no harm",
         "The length is the remote's word: a peer that makes a bitfield of it dies. It stops hypercore 6.26.")):
    ignored("Want", slug, 5, body, title, why, unanswered=(wire.Data,))

# ---- what a server only has to survive ---------------------------------------------------------------

NODE = encode_raw(1, 2) + encode_raw(2, bytes(32)) + encode_raw(3, 5)
SURVIVE = (
    ("Have", 3, "one-block", field(1, 4), "of one block changes nothing for a server", "It downloads nothing."),
    ("Have", 3, "length-absent-bitfield", field(1, 0) + encode_raw(3, b"\x02\xff"), "with a bitfield and no length does no harm", "Both are optional."),
    ("Have", 3, "start-largest", field(1, MAX), "of block 2^64 - 1 does no harm", BEYOND),
    ("Have", 3, "overflow", field(1, MAX) + field(2, MAX), "whose end overflows does no harm", BEYOND),
    ("Have", 3, "length-2-40", field(1, 0) + field(2, 1 << 40), "of 2^40 blocks does no harm", "A peer that notes each block of it hangs."),
    ("Have", 3, "no-start", field(2, 1), "without its required start is ignored", HARMLESS),
    ("Have", 3, "ack", field(1, 3) + field(2, 1) + field(4, 1), "with ack is taken", "hypercore 7.7 sends them."),
    ("Have", 3, "start-crooked", field(1, 3) + field(2, WHOLE) + encode_raw(3, b"\x02\xff"), "with a bitfield from 3 on does no harm",
     "No bitfield begins inside a byte. It stops hypercore 6.26."),
    ("Have", 3, "bitfield-at-2-64", field(1, MAX - 7) + field(2, WHOLE) + encode_raw(3, b"\x02\xff"), "with a bitfield at the end of all numbers does no harm", BEYOND),
    ("Have", 3, "unknown-fields", field(1, 4) + unknown("varint") + unknown("bytes"), "with unknown fields is taken", UNKNOWN_WHY),
    ("Unhave", 4, "one-block", field(1, 4), "of one block changes nothing for a server", "It downloads nothing."),
    ("Unhave", 4, "all", field(1, 0) + field(2, MAX), "of 2^64 - 1 blocks does no harm", "A peer that clears each block of it hangs."),
    ("Unhave", 4, "overflow", field(1, MAX) + field(2, MAX), "whose end overflows does no harm", BEYOND),
    ("Unhave", 4, "no-start", field(2, 1), "without its required start is ignored", HARMLESS),
    ("Unhave", 4, "unknown-fields", field(1, 4) + unknown("varint"), "with unknown fields is taken", UNKNOWN_WHY),
    ("Info", 2, "uploading", field(1, 1), "that says uploading alone does no harm", "Absent fields read as false."),
    ("Info", 2, "downloading", field(2, 1), "that says downloading alone does no harm", "Absent fields read as false."),
    ("Info", 2, "twice", field(1, 1) + field(2, 1) + field(2, 1), "with a field twice is taken", "As protobuf has it."),
    ("Info", 2, "unknown-fields", field(1, 1) + field(2, 1) + unknown("bytes"), "with unknown fields is taken", UNKNOWN_WHY),
    ("Info", 2, "overlong", b"\x08\x81\x00\x10\x81\x80\x00", "with overlong varints is taken", "A longer form is the same number."),
    ("Data", 9, "neither-value-nor-nodes", field(1, 0), "with neither value nor nodes does no harm", "It proves nothing. It stops hypercore 6.26."),
    ("Data", 9, "unasked", field(1, 9) + encode_raw(2, b"x" * 100) + encode_raw(3, NODE) + encode_raw(4, bytes(64)),
     "that nobody asked for is not taken", "A server keeps what its owner published."),
    ("Data", 9, "index-largest", field(1, MAX) + encode_raw(2, b"x"), "of block 2^64 - 1 does no harm", BEYOND),
    ("Data", 9, "short-signature", field(1, 9) + encode_raw(2, b"x") + encode_raw(4, bytes(63)), "with a signature of 63 bytes does no harm", "Ed25519 signatures have 64."),
    ("Data", 9, "no-index", encode_raw(2, b"x"), "without its required index is ignored", HARMLESS),
    ("Data", 9, "node-without-hash", field(1, 9) + encode_raw(2, b"x") + encode_raw(3, field(1, 2) + field(3, 5)), "whose node lacks its hash is ignored", HARMLESS),
    ("Data", 9, "many-nodes", field(1, 9) + encode_raw(2, b"x") + encode_raw(3, NODE) * 2000 + encode_raw(4, bytes(64)), "with 2,000 nodes does no harm",
     "No proof needs more than some hundred."),
    ("Cancel", 8, "plain", field(1, 3), "is ignored", "No deployed peer acts on it."),
    ("Cancel", 8, "all-fields", field(1, 3) + field(2, 5) + field(3, 1), "with all fields is ignored", "No deployed peer acts on it."),
    ("Cancel", 8, "largest", field(1, MAX) + field(2, MAX), "of block 2^64 - 1 does no harm", BEYOND),
    ("Cancel", 8, "no-index", field(2, 1), "without its required index is ignored", HARMLESS),
    ("Unwant", 6, "plain", field(1, 0) + field(2, WHOLE), "is ignored", "No deployed peer acts on it."),
    ("Unwant", 6, "largest", field(1, MAX) + field(2, MAX), "of 2^64 - 1 blocks does no harm", BEYOND),
    ("Unwant", 6, "no-start", field(2, 1), "without its required start is ignored", HARMLESS),
)
for message, type, slug, body, title, why in SURVIVE:
    ignored(message, slug if slug not in ("plain",) else "ignored", type, body, title, why,
            erratum="E10" if message in ("Cancel", "Unwant") and slug == "plain" else "E3" if slug == "ack" else None)


# ---- Have to a downloader: block 0 of 8 is claimed, and asked for ------------------------------------

def claims(slug, body, title, why, level=MUST, asked=(0,), erratum=None, source=None):
    """A downloader that is told of these blocks asks for them."""
    def run(stage):
        peer = stage.wanted()
        peer.send_body(0, 3, body)
        stage.asked_for(peer, asked)
    register("dep-0010.have/" + slug, "fields", level, source or SOURCE % "Have", "A downloader reads a Have %s" % title, why, run, erratum)


claims("start-only", field(1, 0), "with its start alone", "An absent length is 1: the one field whose default is not 0.")
claims("start-and-length", field(1, 2) + field(2, 3), "with start and length", "A range of blocks.", asked=(2, 3, 4))
claims("reversed", field(2, 2) + field(1, 4), "with its fields in reverse order", "Protobuf fixes no order.", asked=(4, 5))
claims("bitfield", field(1, 0) + field(2, WHOLE) + encode_raw(3, b"\x02\xa0"), "with a bitfield", "What answers a Want.", asked=(0, 2))
claims("bitfield-without-length", field(1, 0) + encode_raw(3, b"\x02\xa0"), "with a bitfield and no length", "The bitfield has its own length.", asked=(0, 2))
claims("ack-false", field(1, 3) + field(4, 0), "with ack: false", "The fourth field, which the DEP does not know.", asked=(3,), erratum="E3")
claims("start-twice", field(1, 7) + field(1, 2), "with start twice: the last one counts", "As protobuf has it.", asked=(2,))
claims("length-twice", field(1, 0) + field(2, 8) + field(2, 1), "with length twice: the last one counts", "As protobuf has it.")
claims("bitfield-twice", field(1, 0) + field(2, WHOLE) + encode_raw(3, b"\x02\xff") + encode_raw(3, b"\x02\x40"), "with its bitfield twice: the last one counts",
       "As protobuf has it.", asked=(1,))
claims("length-overlong", field(1, 1) + field(2, 2, 10), "with its length in 10 bytes", "A longer form is the same number.", asked=(1, 2))


@case("dep-0010.have/start-beyond-32-bits", "fields", MUST, SOURCE % "Have",
      "A Have of block 2^32 + 3 is not read as one of block 3",
      "A number that is cut silently is another number.")
def _(stage):
    peer = stage.wanted()
    peer.send(wire.Have((1 << 32) + 3))
    peer.send(wire.Have(6))
    while True:
        index = peer.until(wire.Request, expected="a Request of block 6").index
        if index == 3:
            peer.fail("no Request of block 3", "one")
        if index == 6:
            return


for kind in KINDS:
    claims("unknown-" + kind, unknown(kind) + field(1, 6) + unknown(kind), "with unknown fields (%s)" % kind, UNKNOWN_WHY, asked=(6,))


# ---- Data to a downloader -----------------------------------------------------------------------------

class Reshaped(peers.Conversation):
    """Answers Requests with Data whose body a function makes."""
    make = None

    def _on_request(self, channel, request):
        data = channel.feed.answer(request, channel.remote_tree)
        if data is not None:
            self.peer.send_body(self.peer.channels[channel.feed.key], 9, self.make(data))


def reshaped(slug, make, title, why, level=MUST, size=20):
    def run(stage):
        feed = stage.feed(6, size)
        peer = stage.clones(feed)
        conversation = Reshaped(peer, [feed], timeout=stage.patience * 2)
        conversation.make = make
        conversation.thread = peers.Background(conversation.run)
        stage.join(conversation)
        stage.exits(0)
        stage.holds(feed)
    register("dep-0010.data/" + slug, "fields", level, SOURCE % "Data", "A downloader reads Data %s" % title, why, run)


def parts(data):
    """The fields of a Data, each encoded."""
    out = [field(1, data.index)]
    if data.value is not None:
        out.append(encode_raw(2, data.value))
    out += [encode_raw(3, node.encode()) for node in data.nodes]
    return out + ([encode_raw(4, data.signature)] if data.signature else [])


def odd_nodes(data):
    """Nodes with their fields reversed, an unknown one and overlong numbers."""
    out = [field(1, data.index), encode_raw(2, data.value)]
    for n in data.nodes:
        out.append(encode_raw(3, field(3, n.size, 9) + unknown("bytes") + encode_raw(2, n.hash) + field(1, n.index, 10)))
    return b"".join(out + ([encode_raw(4, data.signature)] if data.signature else []))


reshaped("canonical", lambda d: d.encode(), "as everybody writes it", "The one that all others below must be read like.")
reshaped("reversed", lambda d: b"".join([parts(d)[-1]] + parts(d)[1:-1] + [parts(d)[0]]) if d.signature else b"".join(parts(d)[1:] + parts(d)[:1]),
         "with its signature first and its index last", "Protobuf fixes no order between different fields.")
reshaped("index-twice", lambda d: field(1, d.index + 1) + d.encode(), "with its index twice: the last one counts", "As protobuf has it.")
reshaped("value-twice", lambda d: encode_raw(2, b"not this") + d.encode(), "with its value twice: the last one counts", "As protobuf has it.")
reshaped("signature-twice", lambda d: (encode_raw(4, bytes(64)) if d.signature else b"") + d.encode(), "with its signature twice: the last one counts", "As protobuf has it.")
reshaped("overlong", lambda d: field(1, d.index, 10) + b"".join(parts(d)[1:]), "with its index in 10 bytes", "A longer form is the same number.")
reshaped("nodes-reshaped", odd_nodes, "whose nodes have overlong numbers, unknown fields and another order", "A Node is a message of its own.")
reshaped("no-block-is-empty", lambda d: d.encode(), "of one byte", "The shortest block that is not empty.", size=1)
for kind in KINDS:
    reshaped("unknown-" + kind, lambda d, kind=kind: unknown(kind) + d.encode() + unknown(kind), "with unknown fields (%s)" % kind, UNKNOWN_WHY)


@case("dep-0010.data/empty-value", "fields", MUST, SOURCE % "Data",
      "A downloader takes an empty block, whose value is present and empty",
      "A block of no bytes is a block; absent and empty are not the same.")
def _(stage):
    feed = feeds.Feed(*sodium.keypair(b"\x05" * 32))
    feed.append(b"first")
    feed.append(b"")
    feed.append(b"last")
    stage.clones(feed)
    stage.serve()
    stage.exits(0)
    stage.holds(feed)


@case("dep-0010.data/largest-block", "fields", DEFACTO, "hypercore-protocol 6.12",
      "A downloader takes a block of 8,380,416 bytes",
      "The largest that is sure to fit a frame with its proof.")
def _(stage):
    feed = stage.feed(2, 8388608 - 8192)
    stage.clones(feed)
    stage.serve()
    stage.exits(0)
    stage.holds(feed)


for message, type, slug, body, title in (
        ("Unhave", 4, "all-to-downloader", field(1, 0) + field(2, MAX), "An Unhave of 2^64 - 1 blocks"),
        ("Have", 3, "overflow-to-downloader", field(1, MAX) + field(2, MAX), "A Have whose end overflows"),
        ("Have", 3, "length-2-40-to-downloader", field(1, 0) + field(2, 1 << 40), "A Have of 2^40 blocks"),
        ("Have", 3, "bitfield-cut-off", field(1, 0) + field(2, WHOLE) + encode_raw(3, b"\x20\xff"), "A bitfield that is cut off"),
        ("Have", 3, "bitfield-run-2-40", field(1, 0) + field(2, WHOLE) + encode_raw(3, encode_varint(1 << 42 | 3)), "A bitfield with a run of 2^40 bytes"),
        ("Have", 3, "bitfield-varint-without-end", field(1, 0) + field(2, WHOLE) + encode_raw(3, b"\xff" * 12), "A bitfield whose varint does not end"),
        ("Have", 3, "bitfield-crooked", field(1, 3) + field(2, WHOLE) + encode_raw(3, b"\x02\xff"), "A bitfield that begins at block 3")):
    def run(stage, type=type, body=body):
        feed = stage.feed(4)
        peer = stage.clones(feed, options=("--live",))
        peer.meets()
        peer.until(wire.Want)
        peer.send_body(0, type, body)
        peer.send(wire.Have(2))
        try:  # it asks for the block, or has closed: either way it has read what came before
            peer.wait_for(wire.Request, where=lambda r: r.index == 2)
        except peers.PeerError:
            pass
        if not stage.adapter.running:
            stage.ended("the downloader lives on", stage.adapter.wait(1))
    register("dep-0010.%s/%s" % (message.lower(), slug), "fields", MUST, "robustness: such a message hangs or stops hypercore 6.26",
             "%s does not end a downloader" % title, "One message of some bytes must not end a process.", run)
