"""The wire of discovery, by the adapter's optional `codec` command: packets of DNS, as they go to the group and to
discovery servers, and of the DHT.

Each recorded packet is read and written; others are malformed, or of programs that share the group and the DHT. An
adapter that does not know these operations answers "unsupported"; then these cases are UNSUPPORTED.
"""

import base64
import json
import struct

from dat import codec as reference
from dat import discovery as wire
from dat.discovery import A, SRV, TXT
from suite.case import DEFACTO, MUST, SHOULD, case, register
from suite.stage import Departure

from .codec import Codec, refused, vectors

RECORDED = vectors("discovery.json")
PACKETS = {p["id"]: bytes.fromhex(p["hex"]) for p in RECORDED["packets"]}
FEED, DOMAIN = RECORDED["name"], RECORDED["domain"]
DNS = "vectors/discovery.json, recorded from dns-discovery 6.2 and multicast-dns 7.2"
DHT = "vectors/discovery.json, recorded from bittorrent-dht 7.10"
RFC, BEP = "RFC 1035 (4.1); dns-discovery 6.2", "BEP 5 (KRPC); bittorrent-dht 7.10"


def loosely(stage, sent, expected, got):
    """It gives less than it should, or takes what it need not: nothing is harmed."""
    if not stage.looser:
        stage.looser.append({"sent": sent.hex()[:200], "expected": expected, "got": json.dumps(got)[:300]})


def ask(codec, way, packet):
    return codec(op=way + ".decode", bytes=packet.hex())


def alive(codec, way):
    """After what was malformed: what is not is still read."""
    packet = PACKETS["dns-12" if way == "dns" else "dht-04"]
    read_as(codec, way, packet)


# What an answer must have as the reference has it; more is no fault.
KNOWN = {"dns": ("part", "name", "type", "class", "feed", "ttl", "subscribe", "token", "host", "port", "peers", "announce", "unannounce", "target"),
         "dht": ("kind", "query", "transaction", "id", "target", "feed", "token", "nodes", "peers", "port", "impliedPort", "code", "text")}


def told(way, answer):
    """As it can be compared: an empty list is one that is absent."""
    known = [{k: each[k] for k in KNOWN[way] if each.get(k) not in (None, [])} for each in (answer.get("items", []) if way == "dns" else [answer])]
    return (answer.get("id"), answer.get("flags"), known) if way == "dns" else known[0]


def understood(way, packet):
    return reference.dns_decode(packet.hex()) if way == "dns" else reference.dht_decode(packet.hex())


def read_as(codec, way, packet, like=None):
    """It reads this as the reference does (or reads `like`)."""
    got, expected = ask(codec, way, packet), understood(way, like or packet)
    if refused(got) or told(way, got) != told(way, expected):
        raise Departure(json.dumps(expected)[:600], json.dumps(got)[:600], packet.hex()[:400])


# ---- recorded packets -----------------------------------------------------------------------------

def dns_kind(packet):
    found = wire.read(packet)
    first = found.items[0] if found.items else None
    if first is None:
        return "push-answer"
    if first.part == "additional":
        return "push"
    if first.part == "question" and first.type != TXT:
        return "services"
    if wire.feed_of(first.name) is None:
        return "probe" if first.name == wire.DOMAIN else "other-names"
    if found.flags == 0x8400 or found.flags == 0:
        return "group"
    if found.flags & 0x8000:
        return "answer"
    said = [key for item in found.items for key in wire.says(item)]
    return "announce" if {"announce", "unannounce"} & set(said) else "look-up"


def dht_kind(packet):
    found = wire.read_message(packet)
    if found.kind != "query":
        return found.kind
    return found.query.decode().replace("_", "-") if found.query != b"vote" else "other-query"


def of_kind(way, kind):
    ways = ("dns", "mdns") if way == "dns" else ("dht",)
    return [PACKETS[p["id"]] for p in RECORDED["packets"]
            if p["way"] in ways and p["result"] == "valid" and (dns_kind if way == "dns" else dht_kind)(PACKETS[p["id"]]) == kind]


def recorded(way, kind, level, title, why, writing=True):
    packets = of_kind(way, kind)
    assert packets, kind

    def reads(stage):
        codec = Codec(stage)
        for packet in packets:
            read_as(codec, way, packet)

    def writes(stage):
        codec = Codec(stage)
        for packet in packets:
            got = codec(op=way + ".encode", **understood(way, packet))
            if got.get("bytes") != packet.hex():
                raise Departure(packet.hex()[:600], json.dumps(got)[:600], json.dumps(understood(way, packet))[:400])
    register("discovery.%s/read-%s" % (way, kind), "discovery", level, DNS if way == "dns" else DHT, title + ": read", why, reads)
    if writing:
        register("discovery.%s/write-%s" % (way, kind), "discovery", level, DNS if way == "dns" else DHT, title + ": written as recorded",
                 "The deployed peers read these bytes.", writes)


recorded("dns", "probe", MUST, "The question for dat.local and its answer: a token, and how the asker is seen",
         "Without the token a server stores nothing.")
recorded("dns", "look-up", MUST, "A look-up at a server, with and without a token", "It is how a peer asks.")
recorded("dns", "announce", MUST, "An announcement and its withdrawal", "It is how a peer is found.")
recorded("dns", "answer", MUST, "An answer with no peer, with some, and with 31", "It is what a look-up is for.")
recorded("dns", "push", MUST, "What a server tells unasked: a service record and no question", "Peers that come later are found by it alone.")
recorded("dns", "push-answer", MUST, "The answer to a push, a bare header", "A server repeats a push until it comes.")
recorded("dns", "services", DEFACTO, "Questions for SRV and A records, and their answers", "A deployed peer answers them.")
recorded("dns", "group", MUST, "Questions and answers in the multicast group", "They are all that the local network has.")
recorded("dns", "other-names", DEFACTO, "A name in capitals, and one in another domain, are no feed's", "The deployed peers compare names by their bytes.")

recorded("dht", "ping", MUST, "The query ping", "Who does not answer it is forgotten.")
recorded("dht", "find-node", MUST, "The query find_node", "A node begins by it.")
recorded("dht", "get-peers", MUST, "The query get_peers, also without its info-hash", "It is how a peer asks.")
recorded("dht", "announce-peer", MUST, "The query announce_peer, with its port and with implied_port", "It is how a peer is found.")
recorded("dht", "answer", MUST, "Answers: nodes, a token, peers, or the id alone", "They are what a look-up goes by.")
recorded("dht", "error", DEFACTO, "Errors with their number and words", "A query that is refused needs no second try.")
recorded("dht", "other-query", DEFACTO, "A query that is not known, by its name", "The deployed nodes say nothing to it.", writing=False)


# ---- DNS: what is just right ----------------------------------------------------------------------

def header(id=0x1001, flags=0x8000, questions=0, answers=0, more=0):
    return struct.pack(">6H", id, flags, questions, answers, 0, more)


def name(text):
    return wire.write_name(wire.labels(text))


def record(type, data, at=None, cls=1, size=None):
    return (name(DOMAIN) if at is None else at) + struct.pack(">HHIH", type, cls, 0, len(data) if size is None else size) + data


def txt(*strings):
    return b"".join(bytes([len(s)]) + s for s in strings)


PEER = b"peers=" + base64.b64encode(bytes([127, 0, 0, 3, 0x0c, 0xd2]))
QUESTION = name(DOMAIN) + struct.pack(">HH", TXT, 1)


def one(*strings):
    """An answer with one TXT record."""
    return header(answers=1) + record(TXT, txt(*strings))


@case("discovery.dns/compressed", "discovery", SHOULD, RFC, "Names that point to others are read",
      "Other programs in the group, and resolvers on the way, write them so.")
def _(stage):
    codec = Codec(stage)
    for packet in (header(questions=1, answers=1) + QUESTION + record(TXT, txt(PEER), b"\xc0\x0c"),
                   header(answers=2) + record(TXT, b"", name("dat.local")) + record(TXT, txt(PEER), b"\x28" + FEED.encode() + b"\xc0\x0c"),
                   header(answers=1) + record(SRV, bytes(4) + b"\x0c\xd2" + name("10.0.0.1")) + b"",
                   header(questions=1, answers=1, flags=0x8400) + QUESTION + record(SRV, bytes(4) + b"\x0c\xd2" + b"\3box\xc0\x0c", b"\xc0\x0c")):
        read_as(codec, "dns", packet)


@case("discovery.dns/group-bit", "discovery", SHOULD, "RFC 6762 (5.4, 10.2)", "The highest bit of a class means something else",
      "Others in the group set it: the question is for the asker alone, the record replaces all.")
def _(stage):
    codec = Codec(stage)
    for packet in (header(0, 0, 1) + name(DOMAIN) + struct.pack(">HH", TXT, 0x8001), header(0, 0x8400, 0, 1) + record(TXT, txt(PEER), cls=0x8001)):
        got = ask(codec, "dns", packet)
        items = got.get("items") or [{}]
        for key in ("feed", "peers"):
            if items[0].get(key, []) != understood("dns", packet)["items"][0].get(key, []):
                raise Departure(json.dumps(understood("dns", packet)), json.dumps(got)[:300], packet.hex())


@case("discovery.dns/unknown-strings", "discovery", MUST, DNS, "Strings that say nothing here are passed over",
      "A later peer may say more, and the rest still counts.")
def _(stage):
    codec = Codec(stage)
    for strings in ((b"colour=green", PEER), (b"", PEER), (b"nonsense", PEER, b"x=y=z"), (b"PEERS=", PEER), (b"token=", PEER), (b"token=a=b", PEER), ()):
        read_as(codec, "dns", one(*strings))


@case("discovery.dns/other-records", "discovery", MUST, "RFC 6762", "Records of other programs in the group harm nothing",
      "Printers and players speak there all the time; of them no peer is made.")
def _(stage):
    codec = Codec(stage)
    service, host = name("_ipp._tcp.local"), name("printer.local")
    packets = (header(0, 0x8400, 0, 3, 3) + record(12, b"\7printer\xc0\x0c", service, size=10) + record(SRV, bytes(4) + b"\2\x77" + host, b"\xc0\x0c", 0x8001) +
               record(TXT, txt(b"txtvers=1", b"port=99999", b"peers=no base64"), b"\xc0\x0c", 0x8001) + record(A, bytes([10, 0, 0, 9]), host, 0x8001) +
               record(28, bytes(15) + b"\1", host, 0x8001) + record(47, host + b"\0\4\x40\0\0\x08", host, 0x8001),
               header(0, 0, 1, 0, 1) + service + struct.pack(">HH", 12, 0x8001) + record(41, b"", b"\0", 1440),
               header(0, 0x8400, 0, 1) + record(TXT, txt(PEER), name("x.dat.example")),
               header(0, 0, 2) + name("local") + struct.pack(">HH", 255, 1) + b"\0" + struct.pack(">HH", 2, 1))
    for packet in packets:
        got = ask(codec, "dns", packet)
        for item in got.get("items", []):
            if item.get("feed") or item.get("peers"):
                raise Departure("no feed and no peer", json.dumps(item)[:300], packet.hex()[:300])
        alive(codec, "dns")


@case("discovery.dns/peer-with-port-0", "discovery", SHOULD, DNS, "A peer with port 0 does not take the others with it",
      "It can't be dialled, and who told it may know good ones.")
def _(stage):
    codec = Codec(stage)
    packet = one(b"peers=" + base64.b64encode(bytes([127, 0, 0, 9, 0, 0, 127, 0, 0, 3, 0x0c, 0xd2])))
    got = ask(codec, "dns", packet)
    peers = (got.get("items") or [{}])[0].get("peers", [])
    if set(peers) - {"127.0.0.9:0"} != {"127.0.0.3:3282"}:
        raise Departure("127.0.0.3:3282, and 127.0.0.9:0 or not", json.dumps(got)[:300], packet.hex())


# ---- DNS: what is malformed -----------------------------------------------------------------------

def must_refuse(id, level, way, source, title, why, packets):
    def run(stage):
        codec = Codec(stage)
        for packet in packets:
            got = ask(codec, way, packet)
            if not refused(got):
                raise Departure("it refused", json.dumps(got)[:400], packet.hex()[:400])
        alive(codec, way)
    register("discovery.%s/%s" % (way, id), "discovery", level, source, title, why, run)


LONG = b"\x3f" + b"a" * 63


def asked(at, count=1, more=b""):
    """A question whose name is these bytes."""
    return header(questions=count) + at + struct.pack(">HH", TXT, 1) + more


must_refuse("short-header", MUST, "dns", RFC, "Less than a header is no packet", "What would be read beyond it is somebody else's.",
            [b"", b"\x10", header()[:11]])
must_refuse("lying-counts", SHOULD, "dns", RFC, "Records that are counted and not there: refused, at once",
            "Whoever takes memory or time by a count gives it to anybody.",
            [header(questions=1), header(questions=2) + QUESTION, header(answers=1, questions=1) + QUESTION,
             struct.pack(">6H", 1, 0x8000, 65535, 65535, 65535, 65535) + QUESTION, header(answers=65535) + record(TXT, txt(PEER))])
must_refuse("loops", MUST, "dns", RFC, "Names that point at themselves, by way of others too, are refused",
            "A loop never ends, and ends the peer.",
            [asked(b"\xc0\x0c"), asked(b"\1a\xc0\x0c"), header(questions=2) + b"\xc0\x12\0\x10\0\1\xc0\x0c\0\x10\0\1", header(answers=1) + record(SRV, bytes(6) + b"\xc0\x50"), asked(LONG * 3 + b"\xc0\x0c")])
must_refuse("pointers-elsewhere", SHOULD, "dns", RFC, "Names that point forwards, into the header or beyond the end are refused",
            "Backwards alone they come to an end.",
            [asked(b"\xff\xff"), header(questions=1) + b"\xc0", header(questions=2) + b"\xc0\x12\0\x10\0\1" + QUESTION, struct.pack(">6H", 0x0161, 0, 1, 0, 0, 0) + b"\xc0\0\0\x10\0\1"])
must_refuse("long-names", SHOULD, "dns", RFC, "A label of more than 63 bytes, or a name of more than 255, is refused",
            "By pointers a small packet would make a large name.",
            [asked(b"\x40" + b"a" * 64 + b"\0"), asked(b"\xbf" + b"a" * 191 + b"\0"), asked(LONG * 3 + b"\x3e" + b"a" * 62 + b"\0"), asked(LONG * 9 + b"\0"),
             header(questions=2) + LONG * 3 + b"\0" + struct.pack(">HH", TXT, 1) + LONG + b"\xc0\x0c" + struct.pack(">HH", TXT, 1)])
must_refuse("string-beyond-its-record", MUST, "dns", RFC, "A string that reaches beyond its record is refused", "What lies behind is another's.",
            [header(answers=2) + record(TXT, b"\x10" + PEER[:7]) + record(TXT, txt(PEER)), header(answers=1) + record(TXT, b"\x20" + PEER), PACKETS["dns-58"]])
must_refuse("utp", SHOULD, "dns", "vectors/discovery.json, recorded from utp-native 1.7", "Packets of uTP are no DNS",
            "Both come to one socket.", [PACKETS[p["id"]] for p in RECORDED["packets"] if p["way"] == "utp"])


def part_of(item, whole):
    """Whether it says no more than the other, of which it is cut."""
    return all(value == whole.get(key) or key not in ("part", "name") and whole.get(key, value)[:len(value)] == value for key, value in item.items())


def no_more(stage, codec, packet, whole, expected):
    """Refused; or, loosely, what is there of the packet that this was cut from."""
    got = ask(codec, "dns", packet)
    if refused(got):
        return
    items, wholes = told("dns", got)[2], told("dns", understood("dns", whole))[2]
    if len(items) > len(wholes) or not all(map(part_of, items, wholes)):
        raise Departure(expected, json.dumps(got)[:400], packet.hex()[:400])
    loosely(stage, packet, expected, got)


@case("discovery.dns/cut-off", "discovery", MUST, RFC, "A packet that is cut anywhere is refused", "What would be read beyond is somebody else's.")
def _(stage):
    codec = Codec(stage)
    for id in ("dns-07", "dns-12", "dns-16", "mdns-06"):
        for cut in range(len(PACKETS[id])):
            no_more(stage, codec, PACKETS[id][:cut], PACKETS[id], "%s, cut after %d bytes, refused" % (id, cut))
    alive(codec, "dns")


@case("discovery.dns/record-beyond-the-packet", "discovery", MUST, RFC, "A record that is longer than its packet is refused",
      "What would be read beyond is somebody else's.")
def _(stage):
    codec = Codec(stage)
    for type, data in ((TXT, txt(PEER)), (TXT, b""), (A, bytes([127, 0, 0, 3])), (SRV, bytes(4) + b"\x0c\xd2" + name("127.0.0.3"))):
        for more in (1, 2, 300, 65535 - len(data)):
            no_more(stage, codec, header(answers=1) + record(type, data, size=len(data) + more), header(answers=1) + record(type, data), "refused")
    alive(codec, "dns")


def says_no(stage, packets, key, expected):
    """Refused, or without this."""
    codec = Codec(stage)
    for packet in packets:
        got = ask(codec, "dns", packet)
        found = (got.get("items") or [{}])[0].get(key, [])
        if found:
            raise Departure(expected, json.dumps(got)[:400], packet.hex()[:400])
    alive(codec, "dns")


@case("discovery.dns/addresses", "discovery", SHOULD, RFC, "An address that has not 4 bytes, or a service without one, makes no peer",
      "Its bytes would be others'.")
def _(stage):
    short = [header(answers=1) + record(A, bytes([127, 0, 0, 3, 9])[:size]) for size in (0, 3, 5)]
    services = [header(answers=1) + record(SRV, bytes(4) + b"\x0c\xd2" + at) for at in (b"", b"\0", name("127.0.0"), name("127.0.0.3.4"), name("127.0.0.256"), name("box"))]
    says_no(stage, short + services, "target", "refused, or no address")


@case("discovery.dns/ports", "discovery", MUST, DNS, "A port of more than 65535, below 0 or that is no number is none",
      "Cut to 16 bits it is another's port; kept whole it ends a deployed server, which can't write it.")
def _(stage):
    for key in (b"announce", b"unannounce", b"port"):
        says_no(stage, [one(key + b"=" + value) for value in (b"65536", b"68818", b"99999", b"4294967296", b"18446744073709555098", b"-1", b"3282x", b"0x10", b" ")],
                key.decode(), "refused, or no port")


@case("discovery.dns/peers", "discovery", MUST, DNS, "Of peers that are no base64, or no whole number of peers, no others are made",
      "They would be dialled.")
def _(stage):
    codec = Codec(stage)
    for text in (b"AAAA", b"fwAAAw==", b"!!!!!!!!", b"fwAAAwzS!", b"fwAAAwzSAA==", b"fwAAAwzSfwAA", b"fwAAAwzSf"):
        got = ask(codec, "dns", one(b"peers=" + text))
        peers = (got.get("items") or [{}])[0].get("peers", [])
        if set(peers) - {"127.0.0.3:3282"} or peers and not text.startswith(b"fwAAAwzS"):
            raise Departure("refused, or the whole peers alone", json.dumps(got)[:400], text.decode())
    alive(codec, "dns")


# ---- DNS: what must not be written ----------------------------------------------------------------

def answer_with(**said):
    return {"id": "4097", "flags": "32768", "items": [dict({"part": "answer", "name": DOMAIN, "type": "16", "class": "1", "ttl": "0"}, **said)]}


def written(stage, question):
    """None: it is refused. Else what is written says, if it can be read."""
    got = Codec(stage)(op="dns.encode", **question)
    if refused(got):
        return None
    packet = bytes.fromhex(got["bytes"])
    try:
        return understood("dns", packet)["items"][0]
    except wire.PacketError as error:
        raise Departure("refused, or a packet", "%s: %s" % (got["bytes"][:300], error), json.dumps(question)[:300]) from None


@case("discovery.dns/write-port-0", "discovery", MUST, "dns-discovery 6.2, discovery-swarm 5.1", "No peer with port 0 is told",
      "It kills a deployed peer that speaks uTP.")
def _(stage):
    question = answer_with(peers=["127.0.0.9:0", "127.0.0.3:3282"])
    found = written(stage, question)
    if found is not None and "127.0.0.9:0" in found.get("peers", []):
        raise Departure("refused, or 127.0.0.9:0 left out", json.dumps(found)[:300], json.dumps(question))


@case("discovery.dns/write-32-peers", "discovery", MUST, DNS, "Of more than 31 peers no one string is made",
      "Its length would be taken modulo 256, and nobody could read the packet.")
def _(stage):
    peers = ["10.0.0.%d:3282" % i for i in range(1, 33)]
    found = written(stage, answer_with(peers=peers))
    if found is not None and not set(found.get("peers", [])) <= set(peers):
        raise Departure("refused, or some of them", json.dumps(found)[:300], json.dumps(peers)[:300])


@case("discovery.dns/write-long-string", "discovery", SHOULD, DNS, "A string of more than 255 bytes is not written",
      "Its length would be taken modulo 256, and nobody could read the packet.")
def _(stage):
    found = written(stage, answer_with(token="61" * 250))
    if found is not None:
        raise Departure("refused", json.dumps(found)[:300], "a token of 250 bytes, with token= in front")


# ---- the DHT --------------------------------------------------------------------------------------

def krpc(inner=b"", kind=b"r", more=b"", id=b"2:id20:" + b"\x11" * 20):
    """An answer as nodes write it, or a query get_peers; `more` is one pair more, which comes to its place."""
    pairs = [(b"r", b"d" + id + inner + b"e")] if kind == b"r" else [(b"a", b"d" + id + inner + b"e"), (b"q", b"9:get_peers")]
    pairs += [(b"t", b"2:\0\2"), (b"y", b"1:" + kind)] + ([(more[2:2 + int(more[:1])], more[2 + int(more[:1]):])] if more else [])
    return b"d" + b"".join(b"%d:%s%s" % (len(key), key, value) for key, value in sorted(pairs)) + b"e"


@case("discovery.dht/unknown-keys", "discovery", MUST, "BEP 5, 32, 42, 43, 51", "Keys that are not known are passed over, whatever they hold",
      "Most nodes tell their version, how they see the asker, or more.")
def _(stage):
    codec = Codec(stage)
    nodes6 = b"6:nodes638:" + b"6" * 38
    for packet in (krpc(more=b"1:v4:UT\xb5\x12"), krpc(more=b"2:ip6:\x7f\0\0\2\x0c\xd2"), krpc(nodes6), krpc(b"7:samplesld3:keyi-5e4:listl0:lleeeee"),
                   krpc(b"3:numi3e", b"q", b"2:roi1e"), krpc(b"4:wantl2:n42:n6e", b"q")):
        read_as(codec, "dht", packet)


@case("discovery.dht/any-order", "discovery", SHOULD, "bittorrent-dht 7.10", "The keys of a dictionary are read in any order",
      "Not all nodes sort them, and the deployed ones do not mind.")
def _(stage):
    codec = Codec(stage)
    read_as(codec, "dht", b"d1:y1:q1:t2:aa1:q9:get_peers1:ad9:info_hash20:" + b"\x6e" * 20 + b"2:id20:" + b"\x44" * 20 + b"ee")
    read_as(codec, "dht", b"d1:y1:r1:t2:aa1:rd5:token1:x5:nodes26:" + b"n" * 26 + b"2:id20:" + b"\x44" * 20 + b"ee")


@case("discovery.dht/other-lengths", "discovery", MUST, BEP, "An id, info-hash, node or peer of another length makes none",
      "Its bytes would be others'.")
def _(stage):
    codec = Codec(stage)
    node = b"\x22" * 20 + bytes([127, 0, 0, 2, 0x0c, 0xd3])
    whole = {"id": "22" * 20, "address": "127.0.0.2:3283"}
    for packet in (krpc(id=b"2:id19:" + b"\x11" * 19), krpc(id=b"2:id21:" + b"\x11" * 21), krpc(id=b"2:idi20e"), krpc(b"9:info_hash19:" + b"\x6e" * 19, b"q"),
                   krpc(b"9:info_hash20:" + b"\x6e" * 20, b"q", id=b"2:id0:"), krpc(b"5:nodes25:" + node[:25]), krpc(b"5:nodes27:" + node + b"\x22"),
                   krpc(b"5:nodesi26e"), krpc(b"6:valuesl5:" + bytes(5) + b"e"), krpc(b"6:values6:\x7f\0\0\3\x0c\xd2"),
                   krpc(b"6:valuesl18:" + bytes(18) + b"6:\x7f\0\0\3\x0c\xd2i7ee")):
        got, expected = ask(codec, "dht", packet), understood("dht", packet)
        if refused(got):
            continue
        bad = [key for key in ("id", "feed") if got.get(key) is not None and got.get(key) != expected.get(key)]
        if bad or any(n != whole for n in got.get("nodes", [])) or not set(got.get("peers", [])) <= {"127.0.0.3:3282"}:
            raise Departure("refused, or none of what has another length", json.dumps(got)[:400], packet.hex()[:300])
    alive(codec, "dht")


@case("discovery.dht/ipv6-among-peers", "discovery", SHOULD, "BEP 32", "A peer of 18 bytes does not take the others with it",
      "Nodes that know both kinds of addresses may tell both.")
def _(stage):
    codec = Codec(stage)
    packet = krpc(b"5:token1:x6:valuesl18:" + bytes(18) + b"6:\x7f\0\0\3\x0c\xd2e")
    got = ask(codec, "dht", packet)
    if got.get("peers") != ["127.0.0.3:3282"]:
        raise Departure("the peer of 6 bytes", json.dumps(got)[:300], packet.hex())


@case("discovery.dht/ports", "discovery", MUST, BEP, "A port of more than 65535 or below 0 is no other port",
      "Cut to 16 bits it is another's.")
def _(stage):
    codec = Codec(stage)
    for number in (65536, 68818, -1, -62254, 4294970578):
        packet = b"d1:ad2:id20:%s9:info_hash20:%s4:porti%de5:token1:xe1:q13:announce_peer1:t2:aa1:y1:qe" % (b"\x44" * 20, b"\x6e" * 20, number)
        got = ask(codec, "dht", packet)
        if got.get("port") not in (None, str(number)):
            raise Departure("refused, no port, or %d" % number, json.dumps(got)[:300], packet.hex())
    alive(codec, "dht")


must_refuse("lengths", MUST, "dht", BEP, "A string longer than what is left is refused, with any number of digits",
            "Cut to 32 or 64 bits its length would be one that fits.",
            [b"d1:ad2:id20:%se1:q4:ping1:t%s:aa1:y1:qe" % (b"\x44" * 20, length)
             for length in (b"99", b"4294967298", b"18446744073709551618", b"340282366920938463463374607431768211458", b"9" * 500, b"-2", b"")])
must_refuse("no-dictionary", MUST, "dht", BEP, "What is no dictionary is no message", "Everything else on the socket begins so.",
            [b"", b"i1e", b"4:spam", b"le", b"de", PACKETS["dns-01"]] + [PACKETS[p["id"]] for p in RECORDED["packets"] if p["way"] == "utp"])
must_refuse("no-kind", SHOULD, "dht", BEP, "A message without its kind or transaction, or a query without its name, is refused",
            "No answer to it could be known as one.",
            [b"d1:rd2:id20:%se1:y1:re" % (b"\x11" * 20), b"d1:rd2:id20:%se1:t2:aae" % (b"\x11" * 20), b"d1:rd2:id20:%se1:t2:aa1:y1:ze" % (b"\x11" * 20),
             b"d1:ad2:id20:%se1:t2:aa1:y1:qe" % (b"\x11" * 20), b"d1:rd2:id20:%se1:ti5e1:y1:re" % (b"\x11" * 20)])
must_refuse("numbers", SHOULD, "dht", BEP, "Numbers without digits, with needless zeros or other letters are refused",
            "Each number is written in one way.",
            [b"d1:ad2:id20:%s4:port%se1:q4:ping1:t2:aa1:y1:qe" % (b"\x44" * 20, number)
             for number in (b"ie", b"i-e", b"i-0e", b"i03282e", b"i32 82e", b"i0x10e", b"i32.8e", b"i+1e")])


@case("discovery.dht/cut-off", "discovery", MUST, BEP, "A message that is cut anywhere is refused", "What would be read beyond is somebody else's.")
def _(stage):
    codec = Codec(stage)
    for id in ("dht-05", "dht-08", "dht-14", "dht-22"):
        for cut in range(len(PACKETS[id])):
            got = ask(codec, "dht", PACKETS[id][:cut])
            if not refused(got):
                raise Departure("%s, cut after %d bytes, refused" % (id, cut), json.dumps(got)[:400], PACKETS[id][:cut].hex())
    alive(codec, "dht")


@case("discovery.dht/deep", "discovery", MUST, BEP, "Lists and dictionaries within each other, thousands deep, end nothing",
      "One datagram has room for 60,000 of them, and a stack that is used up ends the peer.")
def _(stage):
    codec = Codec(stage)
    for deep in (b"l" * 60000, b"d1:x" * 15000, b"l" * 30000 + b"e" * 30000, b"d1:x" * 10000 + b"0:" + b"e" * 10000):
        ask(codec, "dht", krpc(more=b"1:z" + deep))
        ask(codec, "dht", deep)
        alive(codec, "dht")
