"""The rooms of datsync.c stand one upon the other: each is made of what lies above it in the file, and of nothing below.

A room begins with a banner (`/* ==== name ==== */`); CONTRIBUTING.md's map and the head of the file name them in their order.
"""

import os
import re
import shutil
import subprocess

import pytest

import tools

SOURCE = os.path.join(tools.ROOT, "datsync.c")
DISCOVERY = os.path.join(tools.ROOT, "discovery.c")
SODIUM = subprocess.run(["pkg-config", "--cflags", "libsodium"], stdout=subprocess.PIPE, check=False, encoding="utf-8").stdout.split() \
    if shutil.which("pkg-config") else []
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
# What a room above has for those below is not used yet where the file is cut off.
CUT = ["-Wno-unused-function", "-Wno-unused-const-variable", "-Wno-unused-macros"]
BANNER = re.compile(r"^/\* =+ (.*?) =+ \*/$", re.M)
ELSEWHERE = re.compile(r"crypto_|sodium_|randombytes_buf$|mem(cpy|move|set|cmp|chr)$|str(len|cmp|ncmp|chr|rchr|cpy|spn)$|"
                       r"(realloc|free|qsort|bsearch|snprintf)$|_")

def has_gcc():
    """Elsewhere clang goes by that name."""
    version = shutil.which("gcc") and subprocess.run(["gcc", "--version"], stdout=subprocess.PIPE, check=False, encoding="utf-8").stdout
    return bool(version and "Free Software Foundation" in version and shutil.which("nm"))


pytestmark = pytest.mark.skipif(not has_gcc(), reason="gcc or nm is missing")


def text(source=SOURCE):
    with open(source, encoding="utf-8") as file:
        return file.read()


def rooms(source=SOURCE):
    """[(name, where it ends)]."""
    found = list(BANNER.finditer(text(source)))
    return list(zip([m.group(1) for m in found], [m.start() for m in found[1:]] + [len(text(source))]))


# What stands beneath a file: what discovery.c joins together, and the little of datsync.h that it calls.
BENEATH = {SOURCE: set(), DISCOVERY: {"datsync_found", "datsync_interest", "datsync_ip_parse", "datsync_ip_text"} |
           set(re.findall(r"^(?!static\b)\w.*?\b(datsync_dht_\w+)\(", text(os.path.join(tools.ROOT, "discovery_dht.c")), re.M))}

ALL_ROOMS = [(source, *room) for source in (SOURCE, DISCOVERY) for room in rooms(source)]


@pytest.mark.parametrize("source, name, end", ALL_ROOMS, ids=[room[1].replace(" ", "-") for room in ALL_ROOMS])
def test_the_file_up_to_a_room_stands_by_itself(source, name, end, tmp_path):
    """It compiles, it defines what it declares, and it calls no public function of a later room."""
    part = text(source)[:end]
    part += "#endif\n" * (len(re.findall(r"^#if", part, re.M)) - len(re.findall(r"^#endif", part, re.M)))
    (tmp_path / "part.c").write_text(part, encoding="utf-8")
    done = subprocess.run(["gcc", *STRICT, *CUT, *SODIUM, "-fkeep-static-functions", "-I", tools.ROOT, "-c", "part.c"],
                          cwd=str(tmp_path), stderr=subprocess.PIPE, encoding="utf-8")
    assert done.returncode == 0, done.stderr[:2000]
    symbols = subprocess.run(["nm", "-u", "part.o"], cwd=str(tmp_path), check=True, stdout=subprocess.PIPE, encoding="utf-8")
    assert [s for s in symbols.stdout.split() if s != "U" and not ELSEWHERE.match(s) and s not in BENEATH[source]] == []


def test_what_is_declared_is_defined_in_the_same_room():
    """A declaration ahead is for functions that call each other, and for nothing else."""
    source, begin = text(), 0
    for name, end in rooms():
        room = source[begin:end]
        for function in re.findall(r"^static [^;{(]*?(\w+)\([^;{]*\);", room, re.M):
            assert re.search(r"^static [^;{(]*?\b%s\([^;{]*\)\s*\{" % function, room, re.M), (name, function)
        begin = end


def listed(words):
    """The rooms of a list like `feed: tree cache, commit · peer: state`."""
    found = []
    for group in words.split("·"):
        house, _, names = group.strip().rpartition(": ")
        found += [(house + ": " if house else "") + " ".join(n.split()) for n in names.split(",")]
    return found


def test_the_head_of_the_file_names_the_rooms():
    words = re.search(r"earlier rooms:\n \*\n(.*?)\n \*\n", text(), re.S).group(1)
    assert listed(re.sub(r"\n? \*  +", " ", words)) == [name for name, _ in rooms()]


def test_the_map_names_the_rooms():
    with open(os.path.join(tools.ROOT, "CONTRIBUTING.md"), encoding="utf-8") as file:
        rows = re.findall(r"^\| · (.*?) \|", file.read(), re.M)
    assert listed(" · ".join(rows)) == [name for name, _ in rooms()]


# ---- who may touch what -----------------------------------------------------------------------------

# Whose record is whose: the rooms of its house, whose names begin so.
HOUSES = {"datsync_feed": "feed: ", "channel": "peer: ", "datsync_peer": "peer: ", "datsync_drive": "drive: ", "datsync": "synchronizer: "}
# The rooms that a struct inside one belongs to; `*` is the room that begins and ends the record.
BEGINS_AND_ENDS = {"datsync_feed": "opening and recovery", "channel": "session", "datsync_peer": "session", "datsync_drive": "opening", "datsync": "the loop"}
STRUCTS = {
    "datsync_feed": {
        "tree": ["tree", "*"],
        "data": ["data part", "*"],
        "bitfield": ["bitfield", "commit", "*"],
        "group": ["commit", "*"],
        "last": ["appending", "proving", "putting", "*"],
        "wanting": ["wanting", "*"],
    },
    "channel": {
        "wants": ["asking", "messages", "*"],
        "due": ["output", "messages", "*"],
        "flights": ["flights"],
        "parked": ["flights", "asking", "messages"],
        "run": ["asking"],
        "rate": ["flights", "messages"],
        "news": ["output", "asking", "*"],
        "ending": ["asking"],
        "early": ["messages", "*"],
    },
    "datsync_peer": {
        "cipher": ["messages", "*"],
        "extensions": ["messages", "*"],
        "in": ["*"],
        "out": ["output", "*"],
        "queue": ["output", "messages", "*"],
    },
    "datsync_drive": {
        "entry": ["entries", "history", "*"],
        "block": ["files", "what is here", "laying out", "*"],
        "writer": ["entries", "writing", "*"],
        "putting": ["stores", "writing"],
        "survey": ["where the bytes are", "*"],
        "handles": ["files"],
        "doubts": ["stores", "writing", "importing", "serving", "*"],
        "serving": ["serving", "*"],
        "download": ["files", "stores", "serving", "laying out"],
        "targets": ["files", "laying out", "*"],
        "aside": ["stores", "laying out", "*"],
        "plan": ["laying out", "*"],
        "event": ["state", "laying out"],
    },
    "datsync": {
        "listeners": ["connections", "*"],
        "sources": ["sources", "*"],
        "fds": ["*"],
        "book": ["addresses", "*"],
    },
}


def syntax_tree():
    """(depth, kind, identity, the rest of the line) of each declaration and expression."""
    done = subprocess.run(["clang", "-std=c99", *SODIUM, "-fsyntax-only", "-fno-color-diagnostics", "-Xclang", "-ast-dump", SOURCE],
                          check=True, stdout=subprocess.PIPE, encoding="utf-8")
    for line in done.stdout.splitlines():
        found = re.match(r"^([ |`-]*)(RecordDecl|FieldDecl|FunctionDecl|MemberExpr) (0x[0-9a-f]+) (.*)$", line)
        if found:
            yield len(found.group(1)), found.group(2), found.group(3), found.group(4)


def members():
    """{(record, member): the functions that name it}; the members of a struct inside a record are `record.struct`'s."""
    record, field, uses, function, open_records = {}, {}, {}, None, []
    for depth, kind, identity, rest in syntax_tree():
        while open_records and open_records[-1][0] >= depth:
            inner = open_records.pop()
            nameless = inner if not inner[2] else None
        if kind == "RecordDecl" and rest.endswith(" definition"):
            open_records.append((depth, identity, (re.search(r"(?:struct|union) (\w+) definition$", rest) or [None, None])[1]))
            record[identity] = (open_records[-1][2], open_records[-2][1] if len(open_records) > 1 else None)
        elif kind == "FieldDecl" and open_records:
            name = re.search(r"(\w+) '", rest).group(1)
            field[identity] = (open_records[-1][1], name)
            if re.search(r"(unnamed|anonymous) (struct|union) at", rest):
                record[nameless[1]] = (name, open_records[-1][1])
        elif kind == "FunctionDecl" and depth <= 2:
            function = re.search(r"(\w+) '", rest).group(1)
        elif kind == "MemberExpr":
            found = re.search(r"(?:->|\.)(\w+) (0x[0-9a-f]+)", rest)
            if found and found.group(2) in field:
                uses.setdefault(found.group(2), set()).add(function)

    def path(identity):
        name, outside = record[identity]
        return (path(outside) + "." if outside else "") + (name or "?")

    return {(path(field[i][0]), field[i][1]): functions for i, functions in uses.items()}


def room_of_functions():
    found, begin = {}, 0
    for name, end in rooms():
        for m in re.finditer(r"^(?:\w[\w ]*?[ *]+)(\w+)\([^;{}]*\)\s*(?:/\*[^\n]*\*/\s*)?\{", text()[begin:end], re.M):
            found[m.group(1)] = name
        begin = end
    return found


@pytest.fixture(scope="module")
def named():
    """{record: {struct inside it, or "": the rooms that name its members}}."""
    if not shutil.which("clang"):
        pytest.skip("clang is missing")
    home, found = room_of_functions(), {}
    for (record, _), functions in members().items():
        outside, _, inside = record.partition(".")
        if outside in HOUSES:
            found.setdefault(outside, {}).setdefault(inside, set()).update(home[f] for f in functions)
    return found


@pytest.mark.parametrize("record", HOUSES)
def test_only_its_own_house_names_a_record_s_members(record, named):
    assert named[record] and all(room.startswith(HOUSES[record]) for rooms_of in named[record].values() for room in rooms_of), named[record]


@pytest.mark.parametrize("record", HOUSES)
def test_only_its_owners_name_what_is_in_a_struct(record, named):
    inside = {name: rooms_of for name, rooms_of in named[record].items() if name}
    assert inside == {name: {HOUSES[record] + (BEGINS_AND_ENDS[record] if r == "*" else r) for r in owners}
                      for name, owners in STRUCTS[record].items()}


# ---- lines ----------------------------------------------------------------------------------------

WRITTEN = tools.own_files("*.[ch]", "cli/*.[ch]", "tests/*.[ch]", "examples/*.c", "examples/*.cpp", "bench/*.c",
                          "conformance/adapters/*.c")


@pytest.mark.parametrize("name", WRITTEN)
def test_no_line_is_wider_than_120(name):
    """`make format-check` holds the rest of the style, where there is clang-format."""
    with open(os.path.join(tools.ROOT, name), encoding="utf-8") as file:
        assert [n for n, line in enumerate(file, 1) if len(line.rstrip("\n")) > 120 or "\t" in line] == []


def test_each_room_opens_with_a_paragraph():
    """What it is for, what holds in it, where that comes from; `switches` explains each of its numbers."""
    for m in list(BANNER.finditer(text()))[1:]:
        assert re.match(r"\n\n/\* [A-Z](?:[^*]|\*(?!/)){60,}\*/\n", text()[m.end():]) or m.group(1) == "errors", m.group(1)
