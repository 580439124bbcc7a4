"""Captures of TCP: pcap and pcapng files, and the streams in them.

Enough of both formats for what tcpdump and Wireshark write. Nothing here raises anything but `CaptureError`, whatever
the file holds; what a capture lacks is told in notes.
"""

import bisect
import ipaddress
import struct

ETHERNET, NULL, LOOP, SLL, SLL2, RAW, IPV4, IPV6 = 1, 0, 108, 113, 276, 101, 228, 229
RAW_TYPES = (RAW, 12, 14, IPV4, IPV6)
LINKS = RAW_TYPES + (ETHERNET, NULL, LOOP, SLL, SLL2)
VLAN = (0x8100, 0x88A8, 0x9100)
FAMILY_IP = {2: 0x0800, 10: 0x86DD, 24: 0x86DD, 28: 0x86DD, 30: 0x86DD}  # AF_INET; AF_INET6 of each system
FIN, SYN, RST, ACK = 1, 2, 4, 16
TCP = 6
HALF = 1 << 31


class CaptureError(ValueError):
    """This is no capture that can be read."""


# ---- one direction ------------------------------------------------------------------------------

class Stream:
    """The bytes of one direction from its first on, as far as they were captured.

    Of bytes that came twice the first ones count. `cut` is where the stream ended, if that was seen.
    """

    def __init__(self):
        self._parts = []  # [offset, bytes, time], apart from each other, ascending
        self._ends = self._when = None
        self.cut = 0
        self.notes = []  # (time, text)

    @classmethod
    def of(cls, data):
        """A stream that has all its bytes and no times."""
        made = cls()
        made.add(0, data, None)
        return made

    def add(self, offset, data, time):
        if offset < 0:
            data, offset = data[-offset:], 0
        if not data:
            return
        self._ends = None
        parts = self._parts
        if not parts or parts[-1][0] + len(parts[-1][1]) <= offset:  # in order, as nearly always
            parts.append((offset, data, time))
            return
        end, differs = offset + len(data), False
        i = self._before(offset)
        new, at = [], offset
        while i < len(parts) and parts[i][0] < end:
            start, there, _ = parts[i]
            if at < start:
                new.append((at, data[at - offset:start - offset], time))
            low, high = max(start, offset), min(start + len(there), end)
            if low < high and there[low - start:high - start] != data[low - offset:high - offset]:
                differs = True
            at = max(at, start + len(there))
            i += 1
        if at < end:
            new.append((at, data[at - offset:], time))
        for part in new:
            parts.insert(self._before(part[0], True), part)
        if differs and len(data) > 1:  # a keep-alive probe repeats one byte, and any one will do
            self.notes.append((time, "bytes at offset %d came again and differ; the first ones count" % offset))

    def _before(self, offset, insert=False):
        low, high = 0, len(self._parts)
        while low < high:
            middle = (low + high) // 2
            if self._parts[middle][0] <= offset:
                low = middle + 1
            else:
                high = middle
        return low if insert else max(0, low - 1)

    def pieces(self):
        """[(offset, bytes)]: one piece where nothing is missing."""
        out = []
        for offset, data, _ in self._parts:
            if out and out[-1][0] + len(out[-1][1]) == offset:
                out[-1][1].extend(data)
            else:
                out.append((offset, bytearray(data)))
        return [(offset, bytes(data)) for offset, data in out]

    def time(self, offset):
        """When all bytes before `offset` had come (that were captured)."""
        if self._ends is None:
            self._ends, self._when, latest = [], [], None
            for at, data, time in self._parts:
                latest = time if latest is None or time is not None and time > latest else latest
                self._ends.append(at + len(data))
                self._when.append(latest)
        if not self._ends:
            return None
        return self._when[min(bisect.bisect_left(self._ends, offset), len(self._ends) - 1)]


# ---- files --------------------------------------------------------------------------------------

def packets(data, notes):
    """Each packet as (time, link type, bytes)."""
    magic = data[:4]
    if magic in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"):
        return _pcap(data, "<", 1e-9 if magic[0] == 0x4D else 1e-6, notes)
    if magic in (b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d"):
        return _pcap(data, ">", 1e-9 if magic[3] == 0x4D else 1e-6, notes)
    if magic == b"\x0a\x0d\x0d\x0a":
        return _pcapng(data, notes)
    raise CaptureError("no pcap or pcapng file")


def _pcap(data, order, unit, notes):
    if len(data) < 24:
        raise CaptureError("cut off in its header")
    link = struct.unpack_from(order + "I", data, 20)[0] & 0x0FFFFFFF
    at = 24
    while at < len(data):
        if len(data) - at < 16:
            notes.append("cut off at byte %d, in a packet's header" % at)
            return
        seconds, fraction, size, _ = struct.unpack_from(order + "IIII", data, at)
        at += 16
        if size > len(data) - at:
            notes.append("cut off at byte %d: %d bytes of a packet of %d" % (at, len(data) - at, size))
            return
        yield seconds + fraction * unit, link, data[at:at + size]
        at += size


def _pcapng(data, notes):
    order, interfaces, at = "<", [], 0
    while at < len(data):
        if data[at:at + 4] == b"\x0a\x0d\x0d\x0a":
            mark = data[at + 8:at + 12]
            if mark not in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
                notes.append("cut off or damaged at byte %d, in a section's header" % at)
                return
            order, interfaces = "<" if mark[0] == 0x4D else ">", []
        if len(data) - at < 12:
            notes.append("cut off at byte %d, in a block's header" % at)
            return
        kind, size = struct.unpack_from(order + "II", data, at)
        if size < 12 or size % 4 or size > len(data) - at:
            notes.append("%s at byte %d: a block of %d bytes" % (
                "cut off" if size > len(data) - at else "damaged", at, size))
            return
        body = data[at + 8:at + size - 4]
        at += size
        try:
            if kind == 1:
                interfaces.append(_interface(body, order))
            elif kind in (6, 2):  # an enhanced packet, or the old one
                number, high, low, length = struct.unpack_from(order + ("IIII" if kind == 6 else "HxxIII"), body)
                link, unit, offset, _ = interfaces[number]
                yield (high << 32 | low) * unit + offset, link, _inside(body, 20, length)
            elif kind == 3:  # a simple one has no time
                link, _, _, snap = interfaces[0]
                length = struct.unpack_from(order + "I", body)[0]
                yield 0.0, link, _inside(body, 4, min(length, snap or length, len(body) - 4))
        except (struct.error, IndexError, CaptureError):
            notes.append("damaged at byte %d: a block that is left out" % (at - size))


def _inside(body, start, length):
    if length > len(body) - start:
        raise CaptureError("a packet reaches beyond its block")
    return body[start:start + length]


def _interface(body, order):
    link, snap = struct.unpack_from(order + "HxxI", body)
    unit, offset, at = 1e-6, 0, 8
    while len(body) - at >= 4:
        code, size = struct.unpack_from(order + "HH", body, at)
        value = body[at + 4:at + 4 + size]
        if code == 0 or len(value) < size:
            break
        if code == 9 and size:
            unit = 2.0 ** -(value[0] & 127) if value[0] & 128 else 10.0 ** -value[0]
        elif code == 14 and size == 8:
            offset = struct.unpack(order + "q", value)[0]
        at += 4 + (size + 3 & ~3)
    return link, unit, offset, snap


# ---- packets ------------------------------------------------------------------------------------

def _network(link, packet):
    """(protocol, bytes) of what is in the link's frame."""
    if link in RAW_TYPES:
        return {4: 0x0800, 6: 0x86DD}.get(packet[0] >> 4), packet
    if link in (NULL, LOOP):
        big, little = struct.unpack(">I", packet[:4])[0], struct.unpack("<I", packet[:4])[0]
        return FAMILY_IP.get(big, FAMILY_IP.get(little)), packet[4:]
    if link == SLL:
        kind, packet = struct.unpack(">H", packet[14:16])[0], packet[16:]
    elif link == SLL2:
        kind, packet = struct.unpack(">H", packet[:2])[0], packet[20:]
    else:
        kind, packet = struct.unpack(">H", packet[12:14])[0], packet[14:]
    while kind in VLAN:
        kind, packet = struct.unpack(">H", packet[2:4])[0], packet[4:]
    return kind, packet


def _transport(kind, packet):
    """(source, destination, bytes of TCP, bytes that there really were); None for what is no TCP, "fragment"."""
    if kind == 0x0800:
        header, total = (packet[0] & 15) * 4, struct.unpack(">H", packet[2:4])[0]
        if packet[9] != TCP or header < 20:
            return None
        if struct.unpack(">H", packet[6:8])[0] & 0x3FFF:
            return "fragment"
        total = total or len(packet)  # 0: cut into segments by the card
        return ("%s" % ipaddress.IPv4Address(packet[12:16]), "%s" % ipaddress.IPv4Address(packet[16:20]),
                packet[header:total], total - header)
    if kind != 0x86DD:
        return None
    following, total, at = packet[6], struct.unpack(">H", packet[4:6])[0] + 40, 40
    total = total if total > 40 else len(packet)
    while following in (0, 43, 60, 51, 44):
        if following == 44:
            if struct.unpack(">H", packet[at + 2:at + 4])[0] & 0xFFF9:
                return "fragment"
            size = 8
        else:
            size = (packet[at + 1] + 2) * 4 if following == 51 else (packet[at + 1] + 1) * 8
        following, at = packet[at], at + size
    if following != TCP:
        return None
    return ("[%s]" % ipaddress.IPv6Address(packet[8:24]), "[%s]" % ipaddress.IPv6Address(packet[24:40]),
            packet[at:total], total - at)


class _Side:
    """What is known of one direction while packets are read."""

    def __init__(self):
        self.base = None  # the sequence number of the first byte, not wrapped
        self.syn = None
        self.last = None
        self.segments = []
        self.end = None
        self.notes = []

    def place(self, sequence):
        """The number without its wrapping, near the last one."""
        if self.last is None:
            self.last = sequence + (1 << 32)  # so that earlier ones are not negative
        else:
            self.last += (sequence - self.last + HALF) % (1 << 32) - HALF
        return self.last

    def stream(self):
        made = Stream()
        base = self.base if self.base is not None else min((s[0] for s in self.segments), default=0)
        for at, data, time in self.segments:
            made.add(at - base, data, time)
        made.cut = self.end - base if self.end is not None else 0
        made.notes += self.notes
        return made


class _Conversation:
    def __init__(self, first, second):
        self.ends = [first, second]
        self.sides = {first: _Side(), second: _Side()}


def _segment(talks, order, source, target, segment, real, time):
    """Put one TCP segment in its place."""
    sport, dport, sequence, _, offset, flags = struct.unpack(">HHIIBB", segment[:14])
    header = (offset >> 4) * 4
    if header < 20:
        return
    source, target = "%s:%d" % (source, sport), "%s:%d" % (target, dport)
    pair = frozenset((source, target))
    talk = talks.get(pair)
    if flags & SYN and not flags & ACK and talk and talk.sides[source].syn != sequence and \
            (talk.sides[source].segments or talk.sides[source].syn is not None):
        talk = None  # the same ports once more
    if talk is None:
        talk = talks[pair] = _Conversation(source, target)
        if flags & ACK and (flags & SYN or sport < dport):
            talk.ends.reverse()  # an answer; or begun earlier, and who dials has the higher port
        order.append(talk)
    side = talk.sides[source]
    at = side.place(sequence)
    if flags & SYN:
        side.syn, at = sequence, at + 1
        side.base = at
    size = real - header
    data = segment[header:]
    if size > 0 and data and not flags & RST:
        side.segments.append((at, data, time))
    if size > 0:
        side.end = max(side.end or 0, at + size) if not flags & RST else side.end
    if flags & FIN and side.end is None:
        side.end = at
    for flag, text in ((FIN, "closes"), (RST, "resets")):
        if flags & flag and not any(text == n for _, n in side.notes):
            side.notes.append((time, text))


def conversations(data):
    """([((address, address), (Stream, Stream))], notes): the TCP conversations, the one who dials first."""
    notes, talks, order = [], {}, []
    unknown, fragments, broken = set(), 0, 0
    for time, link, packet in packets(data, notes):
        if link not in LINKS:
            unknown.add(link)
            continue
        try:
            found = _transport(*_network(link, packet))
            if found == "fragment":
                fragments += 1
            elif found:
                source, target, segment, real = found
                _segment(talks, order, source, target, segment, real, time)
        except (struct.error, IndexError, ipaddress.AddressValueError):
            broken += 1
    if unknown:
        notes.append("link types that are not known: %s" % ", ".join(map(str, sorted(unknown))))
    if fragments:
        notes.append("%d IP fragments are left out" % fragments)
    if broken:
        notes.append("%d packets are too short to read" % broken)
    return [(tuple(t.ends), tuple(t.sides[end].stream() for end in t.ends)) for t in order], notes
