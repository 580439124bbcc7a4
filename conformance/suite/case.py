"""The register of cases.

    @case("dep-0010.keepalive/between-messages", "framing", MUST, "DEP-0010 (Keepalive); hypercore-protocol 6.12",
          "A frame of length 0 is a keep-alive and changes nothing",
          "Peers send one every few seconds: one that takes it for a message loses the connection.")
    def _(stage):
        ...

The id is permanent: the document's anchor, a slash, a slug. The level: MUST, a departure breaks interoperation, loses
data or harms somebody; DEFACTO, what the deployed code does and peers rely on, whether a document says so or not;
SHOULD, better so, and nothing breaks (a departure is NON-STRICT).
"""

from typing import Callable, NamedTuple, Optional

MUST, SHOULD, DEFACTO = "MUST", "SHOULD", "DEFACTO"
LEVELS = (MUST, SHOULD, DEFACTO)

# The order of the report.
SECTIONS = {
    "sanity": "Sanity",
    "framing": "Framing and limits",
    "opening": "Opening, nonces and the switch to cipher",
    "handshake": "Handshake",
    "channels": "Channels",
    "extension": "Extensions",
    "time": "Keep-alives and timeouts",
    "fields": "Messages, field by field",
    "have": "Have, Want and the run-length code",
    "digest": "What a downloader says that it holds",
    "proof": "Proofs that a server sends",
    "request": "Request, hash and byte requests, Cancel",
    "data": "Data that a downloader takes or refuses",
    "static": "Static feeds",
    "feeds": "Several feeds on one connection",
    "ending": "The ending",
    "live": "Live updates",
    "resume": "Resuming",
    "years": "Peers of other years",
    "sleep": "SLEEP files",
    "drive": "Drives",
    "codec": "Codecs (the adapter's optional command)",
    "discovery": "Discovery (packets, by the same command; a server, by an option of its own)",
}

# Where the DEPs and the deployed code differ; a case names the one that it shows.
ERRATA = {
    "E1": "discovery key: the DEP hashes HYPERCORE, deployed is hypercore in lower case",
    "E2": "Feed nonce: 32 bytes in the DEP, 24 deployed; anything else closes the connection",
    "E3": "Have: three fields in the DEP, deployed also ack = 4",
    "E4": "keep-alive: every 300 s in the DEP; deployed a silent peer is dropped after 6.25 to 7.5 s",
    "E5": "largest frame: 10 MB (DEP 0002) or no word (0010); deployed 8,388,608 bytes inclusive, length varint of at most 4",
    "E6": "Info on opening a channel: sent in the DEP, not deployed",
    "E7": "the race for channel numbers that the DEP leaves open cannot occur: each side numbers its own",
    "E8": "bitfield file entry: 3328 in DEP 0009, 3584 in new files; an existing header's size is honoured",
    "E9": "Want: any range in the DEP; deployed ignores it unless start and length are multiples of 8192",
    "E10": "Cancel and Unwant: acted on in the DEP, never sent and ignored as deployed",
    "E11": "static feeds, whose key is their tree hash: absent from the DEPs, deployed",
}


class Case(NamedTuple):
    id: str
    section: str
    level: str
    source: str
    title: str
    why: str
    erratum: Optional[str]
    run: Callable

    def describe(self):
        """The case as the report has it."""
        erratum = "%s: %s" % (self.erratum, ERRATA[self.erratum]) if self.erratum else None
        return {"id": self.id, "section": self.section, "level": self.level, "source": self.source,
                "title": self.title, "why": self.why, "erratum": erratum}


CASES = {}


def register(id, section, level, source, title, why, run, erratum=None):
    assert id not in CASES, "two cases are called " + id
    assert section in SECTIONS and level in LEVELS and (erratum is None or erratum in ERRATA), id
    assert all(map(str.strip, (source, title, why))), id
    CASES[id] = Case(id, section, level, source, title, why, erratum, run)


def case(id, section, level, source, title, why, erratum=None):
    def add(function):
        register(id, section, level, source, title, why, function, erratum)
        return function
    return add


def ordered():
    """All cases in the order of the report; `sanity/last` ends it."""
    places = list(SECTIONS)
    return sorted(CASES.values(), key=lambda c: (c.id == "sanity/last", places.index(c.section)))
