"""The documents. docs/PROTOCOL.md and the suite: each case stands beneath exactly one rule, and each rule has a
case or a reason; the examples are what they are said to be."""

import fnmatch
import json
import os
import re

import pytest

import bugs
from dat import bitfield, cipher, discovery, drive, feed, sodium, tree, wire
from suite import runner

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOCUMENT = os.path.join(ROOT, "docs", "PROTOCOL.md")


def text():
    with open(DOCUMENT, encoding="utf-8") as file:
        return file.read()


def rules():
    """{number: (its text, [patterns of cases])}."""
    found = {}
    for number, body in re.findall(r"^\*\*([\d.]+)\*\* (.*?)(?=^\*\*[\d.]+\*\* |^#|\Z)", text(), re.M | re.S):
        assert number not in found, number
        said, _, cases = body.partition("*Cases:*")
        found[number] = (said, re.findall(r"`([^`]+)`", cases))
    return found


RULES = rules()
CASES = [c.id for c in runner.load()]


@pytest.mark.parametrize("number", RULES)
def test_a_rule_has_cases_or_says_why_not(number):
    said, patterns = RULES[number]
    assert patterns or "*No case:*" in said
    assert not patterns or "*No case:*" not in said
    for pattern in patterns:
        assert fnmatch.filter(CASES, pattern), "%s names %s, which is no case" % (number, pattern)


@pytest.mark.parametrize("id", CASES)
def test_a_case_stands_beneath_one_rule(id):
    assert len([n for n, (_, patterns) in RULES.items() if any(fnmatch.fnmatchcase(id, p) for p in patterns)]) == 1


FILES = ["datsync.c", "datsync.h", "discovery.c", "discovery.h", "discovery_dht.c", "net_posix.c", "net_win32.c", "cli", "conformance", "tests", "bench", "bindings", "examples", "vectors/README.md"]


def test_the_code_cites_rules_that_are_there():
    """`PROTOCOL 2.1`, or a chapter of it."""
    cited = 0
    for name in FILES:
        name = os.path.join(ROOT, name)
        found = [os.path.join(at, file) for at, _, files in os.walk(name) for file in files if file.endswith((".py", ".c", ".js", ".md"))] or [name]
        for path in found:
            with open(path, encoding="utf-8") as file:
                for numbers in re.findall(r"(?<![:\w])PROTOCOL ((?:\d+(?:\.\d+)?(?:, | to )?)+)", file.read()):
                    for number in re.findall(r"[\d.]*\d", numbers):
                        cited += 1
                        assert number in RULES or re.search(r"^## %s\. " % re.escape(number), text(), re.M), (path, number)
    assert cited > 25


def test_rules_are_numbered_by_their_chapters():
    chapters = re.findall(r"^## (\d+)\. |^\*\*(\d+)\.(\d+)\*\* ", text(), re.M)
    chapter, last = 0, 0
    for heading, of, number in chapters:
        if heading:
            assert int(heading) == chapter + 1
            chapter, last = int(heading), 0
        else:
            assert (int(of), int(number)) == (chapter, last + 1)
            last += 1
    assert len(RULES) > 90


EXAMPLES = re.findall(r"^\| `([0-9a-f ]+)` \| channel (\d+): (\w+), (.*?) \|$", text(), re.M)


@pytest.mark.parametrize("frame, channel, name, fields", EXAMPLES, ids=[e[0].replace(" ", "") for e in EXAMPLES])
def test_examples(frame, channel, name, fields):
    """They decode to what is said, and are what the encoder writes."""
    frame = bytes.fromhex(frame)
    kinds, values = {f.name: f.kind for f in getattr(wire, name).FIELDS}, {}
    for key, value in map(str.split, fields.split(", ")):
        values[key] = bytes.fromhex(value) if kinds[key] == wire.BYTES else bool(int(value)) if kinds[key] == wire.BOOL else int(value)
    assert wire.encode_message(int(channel), getattr(wire, name)(**values)) == frame


BITFIELDS = re.findall(r"^\| `([0-9a-f ]+)` \| `([0-9a-f ]+)` \|$", text(), re.M)
INDEXES = re.findall(r"^\| (\d+), [^|]*? \| `([0-9a-f ]+)` \| ([\d ;]+) \|$", text(), re.M)
DIGESTS = re.findall(r"^\| ([\d, ]+) \| ([01]+) \(binary\) \|$", text(), re.M)


@pytest.mark.parametrize("plain, encoded", BITFIELDS)
def test_examples_of_bitfields(plain, encoded):
    assert bitfield.rle_encode(bytes.fromhex(plain)) == bytes.fromhex(encoded)


@pytest.mark.parametrize("held, nodes", DIGESTS)
def test_examples_of_digests(held, nodes):
    assert tree.Holding(map(int, held.split(", "))).digest(6) == int(nodes, 2)


@pytest.mark.parametrize("entry, paths, lists", INDEXES)
def test_examples_of_indexes(entry, paths, lists):
    assert drive.deflate(int(entry), [list(map(int, level.split())) for level in lists.split("; ")]) == bytes.fromhex(paths)


def test_the_values_of_a_small_feed():
    said = dict(re.findall(r"^\| ([a-z][a-z0-9 ,`.]+) \| `([0-9a-f]+)`(?:\.\.\.)? \|$", text(), re.M))
    made = feed.Feed(secret_key=sodium.keypair(bytes(32))[1])
    made.append(b"a", b"bc")
    root = tree.root_hash(made.tree.roots(2))
    stream = sodium.xsalsa20_xor_ic(bytes(8), bytes(range(24)), 0, made.key)
    values = {"public key": made.key, "discovery key": cipher.discovery_key(made.key), "keystream, nonce `00 01 ... 17`": stream,
              "node 0": made.tree.get(0).hash, "node 2": made.tree.get(2).hash, "node 1": made.tree.get(1).hash, "root": root,
              "signature": sodium.sign(root, made.secret_key)}
    assert {name: value.hex() for name, value in values.items()} == said


PACKETS = re.findall(r"^\| `([a-z]+-\d+)` \| `([0-9a-f ]+)` \|", text(), re.M)
BENCODE = re.findall(r"^\| (string|number|list|dictionary) \| [^|]* \| `([^`]+)` \|$", text(), re.M)


@pytest.mark.parametrize("id, bytes_", PACKETS)
def test_examples_of_packets(id, bytes_):
    with open(os.path.join(ROOT, "vectors", "discovery.json"), encoding="utf-8") as file:
        recorded = {p["id"]: p["hex"] for p in json.load(file)["packets"]}
    assert recorded[id] == bytes_.replace(" ", "")


@pytest.mark.parametrize("kind, written", BENCODE)
def test_examples_of_bencode(kind, written):
    value = {"string": b"spam", "number": -3, "list": [b"spam", 7], "dictionary": {b"a": 1}}[kind]
    assert discovery.bencode(value) == written.encode() and discovery.bdecode(written.encode()) == (value, len(written))


def test_there_are_examples():
    assert (len(EXAMPLES), len(BITFIELDS), len(DIGESTS), len(INDEXES), len(PACKETS), len(BENCODE)) == (5, 4, 5, 3, 2, 4)


@pytest.mark.parametrize("name", ["README.md", "CHANGES.md", "docs/SYSTEMS.md"])
def test_the_documents_know_how_many_cases_there_are(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        text = file.read()
    told = re.findall(r"(\d+)\s+(?:permanent )?cases(?: on any|,| of the)|of all\s+(\d+)", text)
    assert told and {a or b for a, b in told} == {str(len(CASES))}, told
    for count in re.findall(r"the (\d+) (?:planted )?bugs", text):
        assert int(count) == len(bugs.BUGS)


def test_every_file_of_the_tests_is_in_their_readme():
    """And what its table names is there; a file of tests that it does not name is one that nobody finds."""
    folder = os.path.join(ROOT, "tests")
    with open(os.path.join(folder, "README.md"), encoding="utf-8") as file:
        table = file.read().split("## What is here")[1]
    named = {name for row in re.findall(r"^\| (`.*?`) \|", table, re.M) for name in re.findall(r"`([^`]+)`", row)}
    assert named == {name for name in os.listdir(folder) if not name.startswith((".", "__"))} - {"README.md"}
