"""Captured streams as messages, for people and for the suite's report.

A direction of a connection is one Feed message in the clear and then XSalsa20 under the public key of the first feed,
so whoever knows the key and has all bytes from the start can read it. After a gap of known length the keystream still
fits; only the boundaries of frames are lost, and they are found again by trying.

`describe` names a message and its fields in what JSON can hold; `log` turns the log of a `dat.peer.Peer` into the
entries of a report; `main` is the command (`conformance/decode.py`).
"""

import argparse
import json
import os
import re
import sys

from . import wire
from .bitfield import rle_decode
from .cipher import discovery_key, keystream_xor
from .pcap import CaptureError, Stream, conversations

LOG_BYTES = 256  # of a message that an entry of a log shows as hex
LOG_FIELD = 64  # of a bytes field there
SHORT = 16  # of a bytes field that a line of text shows
MAX_RANGES = 64  # of a bitfield that are listed
EXACT = 1 << 53  # beyond it JavaScript has no exact integers
CHAIN = 4  # frames in a row that decode: there a frame begins
MAX_CHANNEL = 256
PLAIN = re.compile(r"[\w.,:/+-]+(\.\.\. \(\d+ bytes\))?$", re.ASCII)
KEY = re.compile(r"(?:dat://)?([0-9a-fA-F]{64})(?:\+[0-9]+)?/?$")


# ---- one message --------------------------------------------------------------------------------

def short(data, limit):
    """Bytes as hex, cut behind `limit` of them (None: whole)."""
    if limit is None or len(data) <= limit:
        return bytes(data).hex()
    return "%s... (%d bytes)" % (bytes(data[:limit]).hex(), len(data))


def ranges(numbers, limit=MAX_RANGES):
    """Ascending numbers as text: `0-15,20`."""
    found = []
    for n in numbers:
        if found and found[-1][1] == n - 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    text = ["%d" % a if a == b else "%d-%d" % (a, b) for a, b in found[:limit]]
    if limit is not None and len(found) > limit:
        text.append("and %d ranges more" % (len(found) - limit))
    return ",".join(text) or "none"


def _bitfield(start, code, limit):
    """The blocks that the bitfield of a Have claims."""
    try:
        data = rle_decode(code)
    except wire.CodecError as error:
        return "does not decode (%s): %s" % (error, short(code, limit))
    return ranges((start + 8 * i + j for i, byte in enumerate(data) if byte for j in range(8) if byte & 0x80 >> j),
                  None if limit is None else MAX_RANGES)


def _plain(value, limit):
    if isinstance(value, (bytes, bytearray)):
        return short(value, limit)
    if isinstance(value, str):  # a name need not be UTF-8
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [_plain(v, limit) for v in value]
    if isinstance(value, wire.Node):
        return {"index": _plain(value.index, limit), "hash": short(value.hash, limit), "size": _plain(value.size, limit)}
    return str(value) if not isinstance(value, bool) and isinstance(value, int) and value >= EXACT else value


def fields_of(message, limit=None):
    """The fields that are present, as JSON can hold them."""
    fields = {}
    for name, value in vars(message).items():
        if value is None or value == [] and name in ("nodes", "extensions"):
            continue
        if isinstance(message, wire.Have) and name == "bitfield":
            fields[name] = _bitfield(message.start, value, limit)
        else:
            fields[name] = _plain(value, limit)
    return fields


def describe(channel, type, body, limit=None):
    """(name, fields) of a message: bytes as hex (cut behind `limit`), a bitfield as its blocks.

    What does not decode has its name all the same, and the fields `error` and `body`.
    """
    if channel is None:
        return "keep-alive", {}
    known = wire.MESSAGES.get(type)
    name = known.__name__ if known else "type %d" % type
    if known is None:
        return name, {"error": "not defined: peers ignore it", "body": short(body, limit)}
    try:
        return name, fields_of(known.decode(body), limit)
    except wire.CodecError as error:
        return name, {"error": str(error), "body": short(body, limit)}


def _frame(raw, limit=None):
    """(channel, name, fields) of the bytes of one whole frame."""
    frame = wire.FrameDecoder().feed(raw)[0]
    if frame.length == 1:
        return frame.channel, "empty frame", {"type": frame.type}
    name, fields = describe(frame.channel, frame.type, frame.body, limit)
    return frame.channel, name, fields


# ---- the log of a Peer --------------------------------------------------------------------------

def log_entry(entry, start=0.0):
    """An Entry of a Peer's log as an entry of the report; None for a read, whose frames follow by themselves."""
    plain = entry.plain or (entry.wire if entry.direction == "sent" else b"")
    if not plain:
        return None
    channel, name, fields = entry.channel, "bytes", {}
    try:
        if entry.message is not None and entry.message.__class__ in wire.MESSAGES.values():
            name, fields = type(entry.message).__name__, fields_of(entry.message, LOG_FIELD)
        elif entry.plain:
            decoder = wire.FrameDecoder()
            frames = decoder.feed(entry.plain)
            if len(frames) == 1 and not decoder.take_rest():
                channel, name, fields = _frame(entry.plain, LOG_FIELD)
            elif frames:
                fields = {"frames": len(frames)}
        else:
            fields = {"note": "past the cipher"}
    except (wire.CodecError, TypeError, ValueError, AttributeError) as error:
        fields = {"error": str(error)}
    return {"t": round(max(0.0, entry.time - start), 6), "dir": entry.direction, "channel": channel, "message": name,
            "fields": fields, "hex": bytes(plain[:LOG_BYTES]).hex(), "size": len(plain)}


def log(entries, start=0.0):
    """A Peer's log for the report. `start` is the moment of zero, where the entries don't count from it already."""
    entries = list(entries)
    if entries and entries[0].time < start:
        start = 0.0
    made = [e for e in (log_entry(entry, start) for entry in entries) if e]
    came = sum(len(e.wire) for e in entries if e.direction == "received")
    read = sum(len(e.plain) for e in entries if e.direction == "received")
    if came > read:
        made.append({"t": round(max(0.0, entries[-1].time - start), 6), "dir": "note", "channel": None,
                     "message": "unread", "fields": {"bytes": came - read, "note": "received, and no whole frame"},
                     "hex": "", "size": 0})
    return made


# ---- a captured direction -----------------------------------------------------------------------

def _entry(time, channel, message, fields, raw=b"", size=0, offset=0, trouble=False):
    return {"t": time, "channel": channel, "message": message, "fields": fields, "size": size or len(raw),
            "offset": offset, "plain": raw, "trouble": trouble}


class Reader:
    """Decodes one direction. `find` is a function from a discovery key to the public key, or None."""

    def __init__(self, find, limit=None):
        self.find, self.limit = find, limit
        self.extensions = []
        self.discovery_key = self.key = None  # of the first feed, as far as they are known
        self.started = False  # whether the direction begins with a Feed

    def read(self, stream):
        """All entries of a `pcap.Stream`. Entries with `trouble` say what could not be read, and where."""
        self.stream, self.out = stream, []
        pieces = stream.pieces()
        if not pieces:
            return self.out
        if pieces[0][0] > 0:
            self._trouble(0, "the first %d bytes are missing, and with them the nonce" % pieces[0][0])
            return self.out
        base = self._open(pieces[0][1])
        end = 0
        for at, data in pieces:
            if at > end:
                self._trouble(end, "%d bytes are missing" % (at - end))
            end = at + len(data)
            if base is None:
                continue
            begin = max(at, base)
            if begin < end:
                plain = keystream_xor(data[begin - at:], self.nonce, self.key, begin - base)
                self._frames(plain, begin, begin == base)
        if base is not None and stream.cut > end:
            self._trouble(end, "%d bytes are missing at the end" % (stream.cut - end))
        return self.out

    def _open(self, data):
        """Read what is in the clear; returns where the cipher begins, None where nothing can be decrypted."""
        decoder, at = wire.FrameDecoder(), 0
        decoder.push(data)
        try:
            for frame in iter(decoder.next, None):
                if frame.is_message:
                    return self._first(frame, at, len(data))
                self._note_frame(frame, at)
                at += len(frame.raw)
        except wire.CodecError as error:
            self._trouble(at, "no Feed message: %s" % error)
            return None
        self._trouble(at, "ends before its first message is whole (%d bytes)" % (len(data) - at))
        return None

    def _first(self, frame, at, size):
        if frame.type != wire.Feed.TYPE:
            name, _ = describe(frame.channel, frame.type, frame.body, SHORT)
            self._trouble(at, "the first message is no Feed but reads as %s" % name)
            return None
        try:
            feed = wire.Feed.decode(frame.body)
        except wire.CodecError as error:
            self._note_frame(frame, at)
            self._trouble(at, "the first Feed does not decode: %s" % error)
            return None
        self.started, self.discovery_key = True, feed.discoveryKey
        self._note_frame(frame, at)
        self.key, self.nonce = self.find(feed.discoveryKey), feed.nonce
        rest = size - at - len(frame.raw)
        if self.key is None:
            self._trouble(at, "this Feed's discovery key %s is that of none of the keys: %d bytes behind it stay "
                              "encrypted" % (feed.discoveryKey.hex(), rest))
            return None
        if feed.nonce is None:
            self._trouble(at, "this Feed has no nonce: %d bytes behind it stay encrypted" % rest)
            return None
        return at + len(frame.raw)

    def _frames(self, plain, begin, in_step):
        """Frames of decrypted bytes; `in_step` is False behind a gap, where the next boundary is not known."""
        position = 0
        while position < len(plain):
            if not in_step:
                found = self._resume(plain, position)
                if found is None:
                    self._trouble(begin + position, "%d bytes are left: no frame begins in them" % (len(plain) - position))
                    return
                if found > position:
                    self._trouble(begin + position, "%d bytes are left; a frame begins behind them" % (found - position))
                position, in_step = found, True
            decoder, at = wire.FrameDecoder(), position
            decoder.push(plain[position:])
            try:
                for frame in iter(decoder.next, None):
                    self._note_frame(frame, begin + at)
                    at += len(frame.raw)
            except wire.CodecError as error:
                self._trouble(begin + at, "%s (%s)" % (error, short(plain[at:at + 8], None)))
                position, in_step = at + 1, False
                continue
            if at < len(plain):
                self._trouble(begin + at, "cut off: %s" % self._cut(plain, at))
            return

    @staticmethod
    def _cut(plain, at):
        try:
            length, start = wire.decode_varint(plain, at)
        except wire.CodecError:
            return "%d bytes of a frame's length" % (len(plain) - at)
        return "%d bytes of a frame of %d" % (len(plain) - at, start - at + length)

    def _resume(self, plain, start):
        """Where, from `start` on, frames follow one another that all decode.

        Noise is not to pass for them: a body must be as an encoder writes it, and any bytes are an Extension, which is
        therefore none where the sender has named no extensions.
        """
        for at in range(start, len(plain)):
            position, good = at, 0
            try:
                while position < len(plain) and good < CHAIN:
                    length, inner = wire.decode_varint(plain, position)
                    if length > wire.MAX_FRAME or length == 1 or inner + length > len(plain):
                        break
                    if length:
                        header, body = wire.decode_varint(plain, inner)
                        if header >> 4 >= MAX_CHANNEL:
                            break
                        content = plain[body:inner + length]
                        message = wire.MESSAGES[header & 15].decode(content)
                        if message.encode() != content or header & 15 == wire.Extension.TYPE and not self.extensions:
                            break
                        good += 1
                    elif position == at:
                        break  # a zero is too little to begin with
                    position = inner + length
                else:
                    if good >= 2:  # CHAIN of them, or up to the last byte
                        return at
            except (wire.CodecError, KeyError):
                continue
        return None

    def _note_frame(self, frame, offset):
        time = self.stream.time(offset + len(frame.raw))
        channel, name, fields = _frame(frame.raw, self.limit)
        if name == "Handshake" and "error" not in fields and not self.extensions:
            self.extensions = fields.get("extensions", [])
        if name == "Extension" and isinstance(fields.get("id"), int) and fields["id"] < len(self.extensions):
            fields["name"] = self.extensions[fields["id"]]
        self.out.append(_entry(time, channel, name, fields, frame.raw, offset=offset))

    def _trouble(self, offset, text):
        self.out.append(_entry(self.stream.time(offset), None, "note", {"note": text}, offset=offset, trouble=True))


# ---- the command --------------------------------------------------------------------------------

def parse_key(text):
    found = KEY.match(text.strip())
    if not found:
        raise argparse.ArgumentTypeError("a key has 64 hexadecimal digits, or is a dat:// link")
    return bytes.fromhex(found.group(1))


def _value(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ":".join(_value(v) for v in value.values())
    if isinstance(value, list):
        return "[%s]" % " ".join(map(_value, value))
    text = str(value)
    return text if PLAIN.match(text) else json.dumps(text)


def _line(entry, there):
    """One entry for people."""
    time = "         -" if entry["t"] is None else "%10.6f" % entry["t"]
    if entry["message"] == "note":
        what = "** offset %d: %s" % (entry["offset"], entry["fields"]["note"]) if entry["trouble"] \
            else "** " + entry["fields"]["note"]
        return "%s %s %s" % (time, there, what)
    where = "   " if entry["channel"] is None else "ch%d" % entry["channel"]
    fields = "  ".join("%s=%s" % (k, _value(v)) for k, v in entry["fields"].items())
    return ("%s %s %s %-10s %s  (%d bytes)" % (time, there, where, entry["message"], fields, entry["size"])).rstrip()


def _decode(number, ends, streams, find, options, out):
    """Print one conversation; whether all of it could be read. `streams` belong to ends[0] and ends[1]."""
    readers = [Reader(find, None if options.full else SHORT) for _ in streams]
    entries = []
    for side, (reader, stream) in enumerate(zip(readers, streams)):
        if stream is not None:
            entries += [(side, e) for e in reader.read(stream) + [
                _entry(t, None, "note", {"note": text}) for t, text in stream.notes]]
    times = [e["t"] for _, e in entries if e["t"] is not None]
    start = min(times, default=0)
    for _, e in entries:
        e["t"] = None if e["t"] is None else round(e["t"] - start, 9)
    entries.sort(key=lambda pair: pair[1]["t"] or 0)
    key = next((r.key for r in readers if r.key), None)
    if not options.json:
        out.write("conversation %d: A = %s, B = %s%s\n" % (number, ends[0], ends[1], ", dat://%s" % key.hex() if key else ""))
    for side, e in entries:
        if options.json:
            shown = {"conversation": number, "t": e["t"], "dir": ("sent", "received")[side], "from": ends[side],
                     "to": ends[1 - side], "channel": e["channel"], "message": e["message"], "fields": e["fields"],
                     "offset": e["offset"], "size": e["size"],
                     "hex": (e["plain"] if options.full else e["plain"][:LOG_BYTES]).hex()}
            if e["trouble"]:
                shown["trouble"] = True
            out.write(json.dumps(shown) + "\n")
        else:
            out.write(_line(e, "A>B" if side == 0 else "B>A") + "\n")
    return not any(e["trouble"] for _, e in entries)


def _files(options, find, out):
    """Raw files of one direction each."""
    streams = []
    for path in (options.sent, options.received):
        if path is None:
            streams.append(None)
            continue
        with open(path, "rb") as file:
            streams.append(Stream.of(file.read()))
    return _decode(1, (options.sent or "the other side", options.received or "the other side"), streams, find, options, out)


def _capture(options, find, out, err):
    with open(options.capture, "rb") as file:
        data = file.read()
    found, notes = conversations(data)
    for note in notes:
        err.write("decode: %s: %s\n" % (options.capture, note))
    good, number = not notes, 0
    for ends, streams in found:
        probes = [Reader(find, SHORT) for _ in streams]
        for probe, stream in zip(probes, streams):
            first = stream.pieces()[:1]
            probe.read(Stream.of(first[0][1][:256]) if first and first[0][0] == 0 else Stream())
        if any(p.key for p in probes):
            number += 1
            if number > 1 and not options.json:
                out.write("\n")
            good = _decode(number, ends, streams, find, options, out) and good
            continue
        other = next((p.discovery_key for p in probes if p.discovery_key), None)
        why = "its Feed message has the discovery key %s, of none of the keys" % other.hex() if other else \
            "no bytes" if not any(s.pieces() for s in streams) else "no Feed message at its beginning"
        err.write("decode: left: %s, %s: %s\n" % (ends[0], ends[1], why))
    if number == 0:
        err.write("decode: %s: no conversation of %s\n" % (
            options.capture, "these keys" if len(options.key) > 1 else "this key"))
    return good and number > 0


def main(arguments=None, out=None, err=None):
    """0: all was read. 1: something was not, or nothing was found. 2: wrong usage."""
    out, err = out or sys.stdout, err or sys.stderr
    parser = argparse.ArgumentParser(
        prog="decode", description="Print a captured Dat connection as messages.",
        epilog="Exit status: 0 all was read, 1 something was not, 2 wrong usage. A capture must have the connection's "
               "beginning: each side's key stream starts there.")
    parser.add_argument("capture", nargs="?", help="a pcap or pcapng file")
    parser.add_argument("--key", action="append", required=True, type=parse_key, metavar="KEY",
                        help="a feed's public key, 64 hexadecimal digits or dat:// link (repeatable)")
    parser.add_argument("--sent", metavar="FILE", help="raw bytes of one direction")
    parser.add_argument("--received", metavar="FILE", help="raw bytes of the other one")
    parser.add_argument("--full", action="store_true", help="long fields whole")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args(arguments)
    if bool(options.capture) == bool(options.sent or options.received):
        parser.error("give a capture, or --sent, --received or both")
    find = {discovery_key(key): key for key in options.key}.get
    try:
        good = _capture(options, find, out, err) if options.capture else _files(options, find, out)
        out.flush()
        return 0 if good else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has left; nothing more to say
        return 1
    except CaptureError as error:
        err.write("decode: %s: %s\n" % (options.capture, error))
    except OSError as error:
        err.write("decode: %s: %s\n" % (error.filename, error.strerror))
    return 1
