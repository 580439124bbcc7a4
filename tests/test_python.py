"""The Python binding: its declarations against datsync.h, what it does, and what it does when it is misused.

Environment: DATSYNC_LIBRARY is the shared library under test (build/libdatsync.so).
"""

import ctypes
import ctypes.util
import dataclasses
import gc
import importlib.util
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import weakref

import pytest
import tools
from dat import cipher
from tools import ROOT, Server, clone_now, eventually, run

LIBRARY = os.environ.get("DATSYNC_LIBRARY", os.path.join(ROOT, "build", "libdatsync.so"))
BINDING = os.path.join(ROOT, "bindings", "python", "datsync.py")
if not os.path.exists(LIBRARY):
    pytest.skip("the shared library is not there: make build/libdatsync.so", allow_module_level=True)


def load(library=LIBRARY, name="datsync"):
    """The binding, with this library."""
    before = os.environ.get("DATSYNC_LIBRARY")
    os.environ["DATSYNC_LIBRARY"] = library
    try:
        spec = importlib.util.spec_from_file_location(name, BINDING)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        os.environ.pop("DATSYNC_LIBRARY")
        if before is not None:
            os.environ["DATSYNC_LIBRARY"] = before


datsync = load()
from datsync import Code, Drive, Error, Fault, Feed, Locked, NoPeer, NotFound, Timeout  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning",
                                        "error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(autouse=True)
def nothing_stays_open(tmp_path, monkeypatch):
    """Each test closes what it opens, and has a home and a working folder of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    yield
    gc.collect()
    left, datsync._handles = list(datsync._handles), set()
    for handle in left:
        handle.close()
    assert not left, [handle.where for handle in left]


def python(script, *args, library=LIBRARY, code=0, binding=BINDING, **options):
    """Run a program with `datsync` imported; returns its standard output."""
    env = dict(os.environ, PYTHONPATH=os.path.dirname(binding))
    env.pop("DATSYNC_LIBRARY", None)
    if library:
        env["DATSYNC_LIBRARY"] = library
    done = subprocess.run([sys.executable, "-c", "import datsync\n" + textwrap.dedent(script), *map(str, args)],
                          env=env, timeout=30, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          check=False, **options)
    assert done.returncode == code, done
    python.err = done.stderr
    return done.stdout


def refused(code, call, kind=Error):
    """The Error with this code that the call must raise."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code, caught.value
    return caught.value


def blocks(count, size=100):
    return [tools.block(1, i, size) for i in range(count)]


def first(count):
    """Answer so many requests, then none."""
    left = iter(range(count))
    return lambda index: next(left, None) is not None


class Slow(Exception):
    pass


FILES = {"/a.txt": b"hello\n", "/empty": b"", "/s/b": tools.block(7, 0, 300001), "/s/t/\u00fc": b"umlaut"}


@pytest.fixture
def folder():
    for path, content in FILES.items():
        os.makedirs(os.path.dirname("files" + path), exist_ok=True)
        with open("files" + path, "wb") as file:
            file.write(content)
    with open("files/.hidden", "w") as file:
        file.write("secret")
    return "files"


# ---- the declarations ------------------------------------------------------------------------------

with open(os.path.join(ROOT, "datsync.h")) as _file:
    HEADER = re.sub(r"/\*.*?\*/", " ", _file.read(), flags=re.S)
SCALARS = {"void": "-", "int": "i", "unsigned": "u", "uint32_t": "w", "int64_t": "l", "uint64_t": "q", "size_t": "z",
           "intptr_t": "h", "short": "t"}


def letter(declaration):
    """A parameter's, member's or result's type, in the letters of the binding; a string counts as a pointer."""
    if re.search(r"[*\[]|_fn\b", declaration):
        return "p"
    return SCALARS[declaration.replace("const", "").split()[0]]


def letters(result, arguments):
    arguments = [] if arguments.strip() == "void" else arguments.split(",")
    return letter(result) + "".join(map(letter, arguments))


def members(struct):
    """Its members and their types, in order; of a function the letters."""
    body = re.search(r"typedef struct datsync_%s \{(.*?)\} datsync_%s;" % (struct, struct), HEADER, re.S).group(1)
    found = []
    for declaration in filter(str.strip, body.split(";")):
        function = re.search(r"^\s*(.*?)\(\*(\w+)\)\((.*)\)\s*$", declaration, re.S)
        if function:
            found.append((function.group(2), letters(function.group(1), nested(function.group(3)))))
            continue
        kind, names = re.match(r"\s*((?:const\s+)?\w+(?:\s*(?:const\s*)?\*)*(?:const)?)\s*(.*)$", declaration, re.S).groups()
        for name in names.split(","):
            whole = kind + " " + name
            a_struct = re.match(r"datsync_\w+$", kind.split()[-1]) and "*" not in whole
            found.append((re.search(r"\w+", name).group(), kind.split()[-1] if a_struct else letter(whole)))
    return found


def nested(arguments):
    """A function among the arguments is a pointer."""
    return re.sub(r"\w+ \(\*(\w+)\)\([^()]*\)", r"void *\1", arguments)


STRUCTS = {kind.__name__: kind for kind in vars(datsync).values()
           if isinstance(kind, type) and issubclass(kind, ctypes.Structure) and kind is not ctypes.Structure}
KINDS = {datsync._TYPES[key]: key for key in "iuwsp"}


def signature(function):
    """The letters of a type made by _call. (Of an int64_t and such, that are one type here, see the source.)"""
    return [function._restype_, *function._argtypes_]


def test_every_struct_has_the_members_of_the_header():
    assert len(STRUCTS) == 16
    for name, struct in STRUCTS.items():
        declared = members(name)
        assert [member for member, _ in struct._fields_] == [member for member, _ in declared], name
        for (member, kind), (_, there) in zip(struct._fields_, declared):
            if isinstance(there, str) and there.startswith("datsync_"):
                assert kind.__name__ == there[len("datsync_"):], (name, member)
            elif issubclass(kind, ctypes._CFuncPtr):
                assert signature(kind) == signature(datsync._call(there)), (name, member)
            else:
                expected = "p" if len(there) > 1 else there
                assert kind is datsync._TYPES[expected] or expected == "p" and kind is ctypes.c_char_p, (name, member)


CONSTANTS = dict(
    {"DATSYNC_E_" + code.name: code.value for code in Code},
    **{"DATSYNC_EV_" + event.name: event.value for event in datsync._Ev},
    **{"DATSYNC_PART_" + part.upper(): i for i, part in enumerate(datsync._PARTS)},
    **{"DATSYNC_" + change.upper(): i for i, change in enumerate(datsync._CHANGES)},
    DATSYNC_PARTS=len(datsync._PARTS), DATSYNC_CREATE=datsync._CREATE, DATSYNC_READ_ONLY=datsync._READ_ONLY,
    DATSYNC_NO_SYNC=datsync._NO_SYNC, DATSYNC_ARCHIVE=datsync._ARCHIVE, DATSYNC_DOWNLOAD=datsync._DOWNLOAD,
    DATSYNC_UPLOAD=datsync._UPLOAD, DATSYNC_POLL_READ=datsync._POLL_READ, DATSYNC_MAX_BLOCK=datsync._MAX_BLOCK,
    DATSYNC_MAX_BLOCKS=datsync._MAX_BLOCKS)


def test_sizes_offsets_and_constants_are_those_of_a_compiler(tmp_path):
    lines, expected = [], []

    def same(expression, value):
        lines.append('printf("%%lld\\n", (long long)(%s));' % expression)
        expected.append((expression, value))

    for name, struct in STRUCTS.items():
        same("sizeof(datsync_%s)" % name, ctypes.sizeof(struct))
        for member, kind in struct._fields_:
            same("offsetof(datsync_%s, %s)" % (name, member), getattr(struct, member).offset)
            same("sizeof(((datsync_%s *)0)->%s)" % (name, member), ctypes.sizeof(kind))
    for name, value in CONSTANTS.items():
        same(name, value)
    for kind in SCALARS:
        if kind != "void":
            same("sizeof(%s)" % kind, ctypes.sizeof(datsync._TYPES[SCALARS[kind]]))
            same("(%s)-1 < 0" % kind, int(datsync._TYPES[SCALARS[kind]](-1).value < 0))
    main = "int main(void) { %s return 0; }\n" % "\n".join(lines)
    (tmp_path / "t.c").write_text('#include "datsync.h"\n#include <stdio.h>\n' + main)
    subprocess.run([os.environ.get("CC", "cc"), "-I", ROOT, "-o", str(tmp_path / "t"), str(tmp_path / "t.c")], check=True)
    got = subprocess.run([str(tmp_path / "t")], stdout=subprocess.PIPE, check=True).stdout.split()
    assert [(expression, int(value)) for (expression, _), value in zip(expected, got)] == expected
    assert len(got) == len(expected) > 200


def test_every_code_of_the_header_is_known():
    assert sorted(re.findall(r"DATSYNC_E_(\w+) = ", HEADER)) == sorted(code.name for code in Code)
    events = re.search(r"enum datsync_event_type \{(.*?)\}", HEADER, re.S).group(1)
    assert len(datsync._Ev) == len(re.findall(r"DATSYNC_EV_\w+", events))


def test_every_function_has_the_prototype_of_the_header():
    lines = [line.split() for line in datsync._FUNCTIONS.split(",")]
    assert len({line[1] for line in lines}) == len(lines) > 40
    for result, name, *arguments in lines:
        there = re.search(r"^([\w ]+[ *])datsync_%s\(([^;]*)\);" % name, HEADER, re.M)
        assert letters(*there.groups()) == (result + "".join(arguments)).replace("s", "p"), name
        function = getattr(datsync._c, name)
        assert signature(type(function)) == [datsync._TYPES[key] for key in [result, *arguments]], name


def test_every_callback_has_the_type_of_the_header():
    where = {"on_event": ("options", "on_event"), "ignore": ("import_options", "ignore"),
             "import": ("import_options", "on_event"), "select": ("layout", "select"), "fault": ("drive_check", "fault")}
    for name, mine in datsync._CALLBACKS.items():
        if name in where:
            struct, member = where[name]
            there = dict(members(struct))[member]
        else:
            there = letters(*re.search(r"^typedef (\w+) datsync_%s\((.*?)\);" % name, HEADER, re.M | re.S).groups())
        assert mine.replace("s", "p") == there, name


# ---- finding the library, the manual ------------------------------------------------------------------

def test_the_example_of_the_manual(tmp_path):
    example = re.search(r"\n\n((?:    .*\n|\n)+)", datsync.__doc__).group(1)
    out = python(textwrap.dedent(example)).splitlines()
    assert out[-2:] == ["2 of 2 blocks", "2 b'12.5' b'13.1'"] and python.err == ""
    assert tools.sleep.read(str(tmp_path / "copy")).blocks == {0: b"12.5", 1: b"13.1"}


def test_every_public_name_has_a_manual():
    for name in datsync.__all__:
        public = getattr(datsync, name)
        assert public.__doc__, name
        if isinstance(public, type) and not issubclass(public, (tuple, Exception, int)):
            for kind in public.__mro__[:-1]:
                for member, value in vars(kind).items():
                    assert member.startswith("_") or member == "refused" or value.__doc__, (name, member)


def test_where_the_library_is_looked_for(tmp_path):
    told = "print(datsync.Feed.create().writable)"
    (tmp_path / "lib").mkdir()
    beside = tmp_path / "lib" / "datsync.py"
    beside.write_bytes(open(BINDING, "rb").read())
    for library in (None, "/nowhere/libdatsync.so"):
        python(told, library=library, binding=str(beside), code=1)
        assert re.search("^ImportError: libdatsync: .*DATSYNC_LIBRARY", python.err, re.M)
    os.symlink(LIBRARY, str(tmp_path / "lib" / datsync._NAMES.get(sys.platform, "libdatsync.so.0")))
    assert python(told, library=None, binding=str(beside)) == "True\n"
    built = os.path.join(ROOT, "build", "libdatsync.so.0")
    if os.path.exists(built):
        assert python(told, library=None) == "True\n"


def test_another_library_is_refused():
    with pytest.raises(ImportError, match="datsync_strerror"):
        load(ctypes.util.find_library("c") or "libc.so.6", "other")


def test_errors():
    for code in Code:
        error = Error(code)
        assert error.sentence == datsync._c.strerror(code).decode() == str(error) != "unknown error"
    error = NotFound(-40, None, "there")
    again = pickle.loads(pickle.dumps(error))
    assert str(error) == str(again) == "there: not found" and again.code is Code.NOT_FOUND
    assert Error(-999).code == -999


# ---- feeds ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("where", [None, "feed"])
def test_round_trip(where):
    with Feed.create(where) as feed:
        assert len(feed) == 0 and list(feed) == [] and feed.writable and not feed.closed
        assert feed.append(b"one", bytearray(b"two"), memoryview(b"-three-")[1:-1], b"") == 4
        assert feed.append() == 4 and feed.append(memoryview(b"a-b-c")[::2]) == 5
        everything = [b"one", b"two", b"three", b"", b"abc"]
        assert list(feed) == everything and [feed.get(i) for i in range(5)] == everything
        assert feed[-1] == b"abc" and feed[-5] == feed.get(-5) == b"one" and feed[1:3] == [b"two", b"three"]
        assert feed[::-1] == everything[::-1] and feed[9:] == [] and b"two" in feed and b"x" not in feed
        assert feed.byte_length == 14 and feed.held == 5 and feed.verify() == []
        assert [feed.has(i) for i in (0, 4, 5, -1, -5, -6, 1 << 70)] == [True, True, False, True, True, False, False]
        for index in (5, -6, 1 << 64, -1 << 64):
            with pytest.raises(IndexError):
                feed[index]
        assert feed.link == "dat://" + feed.key.hex() and len(feed.discovery_key) == 32
        assert feed.secret_key[32:] == feed.key and feed.folder == where
        assert feed.discovery_key == cipher.discovery_key(feed.key)
        feed.flush()
    assert feed.closed and "closed" in repr(feed)
    if where:
        assert tools.audit(where) == []
        assert tools.sleep.read(where).blocks == dict(enumerate(everything))
        with datsync.open(where) as again:
            assert isinstance(again, Feed) and list(again) == everything and again.writable
        with Feed.open(where, read_only=True) as reader:
            assert list(reader) == everything and "feed" in repr(reader)
            refused(Code.READ_ONLY, lambda: reader.append(b"x"))


def test_keys_are_given_and_checked(tmp_path):
    key, secret = tools.key_pair(3)
    with Feed.create("a", secret_key=secret) as feed:
        assert feed.key == key and feed.secret_key == secret
    other_key, other = tools.key_pair(4)
    refused(Code.OTHER_FEED, lambda: Feed.open("a", key=other_key))
    refused(Code.OTHER_FEED, lambda: Feed.create("a"))
    refused(Code.KEY, lambda: Feed.create("b", secret_key=secret[:32] + other_key))
    os.mkdir("void")
    refused(Code.NO_ENTRY, lambda: Feed.open("nothing"), NotFound)
    refused(Code.NOT_FOUND, lambda: Feed.open("void"), NotFound)
    refused(Code.NOT_FOUND, lambda: Feed.open(None), NotFound)
    assert os.listdir("void") == []
    assert "nothing" in str(refused(Code.NO_ENTRY, lambda: Feed.create("nothing/here"), NotFound))
    with Feed.open("c", key=key, create=True, sync=False) as reader:
        assert not reader.writable and reader.secret_key is None and len(reader) == 0
        refused(Code.READ_ONLY, lambda: reader.append(b"x"))
    for wrong in (b"", key[:31], key + b"x"):
        with pytest.raises(ValueError):
            Feed.open("a", key=wrong)
        with pytest.raises(ValueError):
            datsync.clone(wrong, "d", "127.0.0.1:1")
    for wrong in (b"", key, secret + b"x"):
        with pytest.raises(ValueError):
            Feed.create("d", secret_key=wrong)
    for wrong in (key.hex(), 1, [1] * 32):
        with pytest.raises(TypeError):
            Feed.open("a", key=wrong)
    assert not os.path.exists("d")


def test_wrong_arguments_do_nothing():
    with Feed.create() as feed:
        for wrong in ("text", 1, None, [b"x"]):
            with pytest.raises(TypeError):
                feed.append(b"good", wrong)
        with pytest.raises(ValueError):
            feed.append(b"good", bytes(datsync._MAX_BLOCK + 1))
        assert len(feed) == 0
        assert feed.append(bytes(datsync._MAX_BLOCK)) == 1 and len(feed[0]) == datsync._MAX_BLOCK
        assert str(datsync._MAX_BLOCK) in Feed.append.__doc__
        for wrong in ("0", 1.0, None, b""):
            for call in (feed.get, feed.has, feed.__getitem__):
                with pytest.raises(TypeError):
                    call(wrong)
        link = feed.link
    for wrong in (5, [], 1.5):
        with pytest.raises(TypeError):
            Feed.create(wrong)
        with pytest.raises(TypeError):
            datsync.open(wrong)
    for wrong in ("", "a\0b"):
        with pytest.raises(ValueError):
            Feed.create(wrong)
    clone, nobody = datsync.clone, "127.0.0.1:1"
    for wrong in ("", "x" * 64, "0" * 63, "http://" + "0" * 64, link + "\0", "dat://name.com", link + "+0", link + "/%"):
        for call in (clone, datsync.clone_drive):
            with pytest.raises(ValueError):
                call(wrong, "c", nobody)
    for wrong in (link + "+3", link + "/a"):  # a feed has neither
        with pytest.raises(ValueError):
            clone(wrong, "c", nobody)
    for more in ({"version": 4}, {"select": bool}):
        with pytest.raises(ValueError):
            datsync.clone_drive(link + "+3/a", "c", nobody, **more)
    for call in (lambda: clone(link, "c"), lambda: clone(link, "c", []), lambda: clone(link, "c", ""),
                 lambda: clone(link, "c", ["a\0:1"]), lambda: clone(link, "c", nobody, timeout=0),
                 lambda: clone(link, "c", nobody, timeout=float("nan")), lambda: clone(link, "c", nobody, rate=-1),
                 lambda: clone(link, "c", nobody, ranges=[(2, 1)]), lambda: clone(link, "c", nobody, ranges=[(-1, 1)]),
                 lambda: datsync.share("c", None), lambda: datsync.share("c", max_peers=0),
                 lambda: datsync.clone_drive(link, "c", nobody, version=-1)):
        with pytest.raises(ValueError):
            call()
    for call in (lambda: clone(None, "c", nobody), lambda: clone(link, "c", [1]), lambda: clone(link, "c", 5),
                 lambda: clone(link, "c", nobody, progress=1), lambda: clone(link, "c", nobody, nonsense=1),
                 lambda: clone(link, "c", nobody, ranges=[(0, 1.5)]), lambda: datsync.share("c", 5),
                 lambda: datsync.clone_drive(link, "c", nobody, select=1)):
        with pytest.raises(TypeError):
            call()
    assert not os.path.exists("c")


def test_a_folder_is_locked_while_it_is_open():
    with Feed.create("feed") as feed:
        error = refused(Code.LOCKED, lambda: Feed.open("feed"), Locked)
        assert error.where == "feed" and str(error) == "feed: another process has this feed open"
        python("""
            try:
                datsync.clone(%r, "feed", "127.0.0.1:1")
            except datsync.Locked as error:
                print(error.code.name)""" % feed.link)
        assert "another process" in tools.one_line(tools.feed("append", "feed", stdin=b"x", code=tools.FAILED))
        with Feed.open("feed", read_only=True):
            pass
    assert tools.feed("append", "feed", stdin=b"x").out == "1\n"


def test_verify_finds_what_was_changed():
    with Feed.create("feed") as feed:
        feed.append(*blocks(20))
    with open("feed/data", "r+b") as file:
        file.seek(730)
        file.write(b"\0\0\0")
    with Feed.open("feed", read_only=True) as feed:
        assert feed.verify() == [Fault(7, "data")] and feed.held == 20
    with Feed.open("feed") as feed:
        assert feed.verify() == [(7, "data")]
        assert not feed.has(7) and feed.held == 19
        refused(Code.NOT_FOUND, lambda: feed[7], NotFound)
        assert feed[8] == blocks(20)[8]
        with pytest.raises(NotFound, match="feed: block 7"):
            list(feed)


def test_a_corrupt_folder():
    with Feed.create("feed") as feed:
        feed.append(*blocks(20))
    with open("feed/signatures", "r+b") as file:
        file.truncate(32)
    refused(Code.CORRUPT, lambda: Feed.open("feed"))


@pytest.mark.posix
def test_errors_of_the_disk():
    assert python("""
        import os, resource
        feed = datsync.Feed.create("full")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
        try:
            feed.append(*[bytes(50000)] * 100)
            feed.flush()
        except datsync.Error as error:
            print(error.code.name, len(feed))""").startswith("NO_SPACE ")
    closed = tempfile.mkdtemp()
    os.chmod(closed, 0)
    assert python("""
        import os, sys
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            datsync.Feed.open(sys.argv[1])
        except datsync.Error as error:
            print(error.code.name)""", closed) == "ACCESS\n"
    os.rmdir(closed)


# ---- cloning and sharing --------------------------------------------------------------------------------

def test_clone_tells_its_progress():
    with Feed.create() as feed:
        feed.append(*blocks(3000))
        with datsync.share(feed) as sharer:
            assert re.fullmatch(r"127\.0\.0\.1:\d+", sharer.address) and sharer.link == feed.link
            told = []
            with datsync.clone(feed.link, "copy", [sharer.address], progress=told.append, rate=1e9) as copy:
                assert list(copy) == blocks(3000) and not copy.writable
        assert sharer.sent == 300000
    assert len(told) > 5 and told[-1][:3] == (3000, 3000, 300000)
    assert all(a.held <= b.held and a.bytes <= b.bytes and b.held <= b.total for a, b in zip(told, told[1:]))
    assert told[0].held == 0 and any(p.peers == 1 for p in told)
    assert tools.audit("copy") == []


def test_progress_is_told_at_most_so_often():
    told = []
    with Feed.create() as feed:
        feed.append(*blocks(3000))
        with datsync.share(feed) as sharer:
            datsync.clone(feed.key, None, sharer.address, progress=told.append, rate=0.001).close()
    assert [p.held for p in told] in ([0, 3000], [3000])


def test_a_clone_goes_on_where_it_was_interrupted():
    made = tools.make(400)

    def stop(progress):
        if progress.held >= 100:
            raise Slow("enough")

    with Server(made, answer_only=first(150)) as server:
        with pytest.raises(Slow, match="enough"):
            datsync.clone(made.key.hex(), "copy", "127.0.0.1:%d" % server.port, progress=stop, rate=1e9)
    with Feed.open("copy") as copy:  # closed, its lock given back, and what came is there
        held = copy.held
        assert 100 <= held <= 150 and copy.verify() == []
    told = []
    with Server(made) as server:
        address = "127.0.0.1:%d" % server.port
        with datsync.clone(made.key, "copy", address, progress=told.append, rate=1e9) as copy:
            assert list(copy) == [made.blocks[i] for i in range(400)]
        assert told[0].held == held and told[-1][:3] == (400, 400, (400 - held) * 100)
        assert len(server.requests) == 400 - held
        server.requests[:] = []
        with datsync.open("copy") as copy:  # all is here
            copy.pull(address, progress=told.append)
        assert server.requests == [] and told[-1][:3] == (400, 400, 0)


def test_ranges():
    made = tools.make(100)
    with Server(made) as server:
        address, told = "127.0.0.1:%d" % server.port, []
        with datsync.clone(made.key, "copy", address, ranges=[(5, 8), (50, 52), (99, 1 << 40)], progress=told.append) as copy:
            assert [i for i in range(100) if copy.has(i)] == [5, 6, 7, 50, 51, 99] and told[-1].held == told[-1].total == 6
            refused(Code.NOT_FOUND, lambda: copy[0], NotFound)
            copy.pull(address, ranges=[(0, 1)])
            assert copy.held == 7
            copy.pull(address)
            assert copy.held == 100


def test_who_still_speaks_at_the_end_of_a_clone_sees_no_reset():
    made = tools.make(3)
    with tools.peers.Listener(made.key) as listener:
        job = tools.peers.Background(datsync.clone, made.key, "copy", "127.0.0.1:%d" % listener.port)
        tools.speak_after_the_end(listener.accept(), made)
        assert len(job.join()) == 3


def test_clones_between_the_binding_and_the_command():
    made = tools.make_folder("theirs", 500)
    with tools.share("theirs") as server:
        with datsync.clone(server.key.hex(), "mine", ["127.0.0.1:%d" % server.port]) as mine:
            assert list(mine) == blocks(500)
    tools.assert_folder("mine", tools.make(500))
    with datsync.share("mine") as sharer:  # a folder, and a clone that is served on
        clone_now(made.key, "again", port=int(sharer.address.split(":")[1]))
        refused(Code.LOCKED, lambda: Feed.open("mine"), Locked)
    with Feed.open("mine"):
        pass
    tools.assert_folder("again", tools.make(500))


def test_clones_between_two_processes():
    with Feed.create("feed") as feed:
        feed.append(*blocks(50))
        with datsync.share(feed) as sharer:
            out = python("""
                import sys
                with datsync.clone(sys.argv[1], "copy", sys.argv[2:]) as copy:
                    print(len(copy), copy[49].hex())""", feed.link, sharer.address)
            assert out == "50 %s\n" % blocks(50)[49].hex()


def test_a_sharer_goes_on_while_the_feed_grows():
    with Feed.create("feed") as feed, datsync.share(feed, live=True) as sharer:
        port = int(sharer.address.split(":")[1])
        feed.append(b"first")
        with tools.clone(feed.key, "copy", "--live", "--json", ports=[port]) as other:
            other.event("complete", where=lambda e: e["length"] == 1)
            assert eventually(lambda: sharer.peers == 1)
            feed.append(b"second")
            feed.flush()
            other.event("complete", where=lambda e: e["length"] == 2)


def test_a_sharer_holds_what_it_shares():
    sharer = datsync.share(Feed.create("feed"))
    gc.collect()
    with datsync.clone(sharer.link, None, sharer.address) as copy:
        assert copy.link == sharer.link
    sharer._what.close()


def test_step_serves_without_a_thread():
    made = []
    with Feed.create() as feed:
        feed.append(*blocks(20))
        with datsync.Sharer(feed) as sharer:
            thread = threading.Thread(target=lambda: made.append(datsync.clone(feed.link, None, sharer.address)))
            thread.start()
            while thread.is_alive():
                sharer.step(0.05)
            thread.join()
            before = time.monotonic()
            sharer.step(0.02)
            assert time.monotonic() - before < 1
            sharer.start()
            refused(Code.STATE, sharer.step)
            refused(Code.STATE, sharer.start)
        refused(Code.STATE, sharer.step)
        assert sharer.peers == 0
        sharer.close()
    assert list(made[0]) == blocks(20)
    made[0].close()


def test_a_peer_may_come_to_a_clone():
    with Feed.create() as feed:
        feed.append(*blocks(10))
        port = tools.closed_port()
        with datsync.share(feed, None, peers=["127.0.0.1:%d" % port]) as sharer:
            assert sharer.address is None
            with datsync.clone(feed.link, None, listen="127.0.0.1:%d" % port) as copy:
                assert len(copy) == 10


def test_nobody_to_clone_from():
    key = tools.make(1).key
    address = "127.0.0.1:%d" % tools.closed_port()
    error = refused(Code.REFUSED, lambda: datsync.clone(key, "copy", address, timeout=0.3), NoPeer)
    assert str(error) == "copy: no peer served this feed; %s: the connection was refused" % address
    refused(Code.ADDRESS, lambda: datsync.clone(key, "copy", "nonsense"), NoPeer)
    refused(Code.TIMEOUT, lambda: datsync.clone(key, "copy", listen="127.0.0.1:0", timeout=0.2), NoPeer)
    with Feed.open("copy") as copy:
        assert copy.key == key and len(copy) == 0


def test_a_wrong_key():
    with Feed.create() as feed, datsync.share(feed) as sharer:
        feed.append(b"x")
        error = refused(Code.CLOSED, lambda: datsync.clone(tools.key_pair(9)[0], "copy", sharer.address, timeout=0.5), NoPeer)
        assert "no peer served this feed" in str(error)
        with datsync.clone(feed.link, "right", sharer.address):
            pass
        refused(Code.OTHER_FEED, lambda: datsync.clone(tools.key_pair(9)[0], "right", sharer.address))


def test_a_silent_peer_and_one_that_leaves():
    made = tools.make(40)
    with Server(made, answer_only=first(30)) as server:
        address = "127.0.0.1:%d" % server.port
        error = refused(Code.TIMEOUT, lambda: datsync.clone(made.key, "copy", address, timeout=0.6), Timeout)
        assert str(error) == "copy: nothing came for 0.6 s; 30 of 40 blocks are kept"
    with Server(tools.part(made, range(20))) as server:
        address = "127.0.0.1:%d" % server.port
        error = refused(Code.TIMEOUT, lambda: datsync.clone(made.key, "part", address, timeout=0.6), Timeout)
        assert "20 of " in str(error)
    honest = first(20)
    with Server(made, tamper=lambda data: data if honest(data.index) else dataclasses.replace(data, value=b"false")) as server:
        error = refused(Code.BAD_DATA, lambda: datsync.clone(made.key, "bad", "127.0.0.1:%d" % server.port), NoPeer)
        assert "not complete, and no peer is left; " in str(error)
    for name in ("copy", "part", "bad"):
        with Feed.open(name) as copy:
            assert 0 < copy.held < 40 and copy.verify() == []


def test_what_is_written_here_is_not_downloaded():
    with Feed.create("feed") as feed:
        link = feed.link
        refused(Code.STATE, lambda: feed.pull("127.0.0.1:1"))
    refused(Code.STATE, lambda: datsync.clone(link, "feed", "127.0.0.1:1"))
    Feed.open("feed").close()


def test_listening_fails():
    with Feed.create("feed") as feed:
        with datsync.share(feed) as sharer, Feed.create() as other:
            assert refused(Code.IN_USE, lambda: datsync.share(other, sharer.address)).where == sharer.address
        refused(Code.ADDRESS, lambda: datsync.share(feed, "nonsense"))
    refused(Code.ADDRESS, lambda: datsync.share("feed", "nonsense"))
    refused(Code.NO_ENTRY, lambda: datsync.share("nothing"), NotFound)
    Feed.open("feed").close()


def test_time_runs_anew_with_each_block():
    made = tools.make(6)
    with Server(made, answer_only=lambda index: time.sleep(0.15) is None) as server:
        with datsync.clone(made.key, None, "127.0.0.1:%d" % server.port, timeout=0.6) as copy:
            assert copy.held == 6


# ---- interruption ----------------------------------------------------------------------------------------

def test_an_exception_of_progress_comes_out():
    with Feed.create() as feed:
        feed.append(*blocks(2000))
        with datsync.share(feed) as sharer:
            for limit in (0, 1, 1000, 2000):
                thrown = Slow(limit)

                def progress(state, limit=limit, thrown=thrown):
                    if state.held >= limit:
                        raise thrown

                with pytest.raises(Slow) as caught:
                    datsync.clone(feed.link, "copy", sharer.address, progress=progress, rate=1e9)
                assert caught.value is thrown
                with Feed.open("copy") as copy:
                    assert copy.held >= limit and copy.verify() == []
            for kind in (KeyboardInterrupt, SystemExit, GeneratorExit):
                def leave(state, kind=kind):
                    raise kind

                with pytest.raises(kind):
                    datsync.clone(feed.link, "copy", sharer.address, progress=leave)
            with Feed.open("copy") as copy:  # one's own stays open, and can be gone on with
                with pytest.raises(GeneratorExit):
                    copy.pull(sharer.address, progress=leave)
                assert copy._h.sync is None
                copy.pull(sharer.address)


@pytest.mark.posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
@pytest.mark.parametrize("downloading", [True, False])
def test_a_signal_handler_that_raises_is_heard_at_any_moment(number, downloading):
    """Also where a callback begins, where ctypes would drop the exception."""
    def raises():
        raise KeyboardInterrupt

    def clone():
        with datsync.clone(feed.link, None, sharer.address, progress=lambda _: None, rate=1e9):
            pass

    def clones():
        while not ended.is_set():
            clone()

    lost, heard, ended = [], 0, threading.Event()
    hook, sys.unraisablehook = sys.unraisablehook, lost.append
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number) if number == signal.SIGINT else raises())
    handler = signal.getsignal(signal.SIGINT)
    try:
        with Feed.create() as feed, datsync.Sharer(feed) as sharer:
            feed.append(*[b"x"] * 20000)
            if downloading:
                sharer.start()
            else:
                thread = threading.Thread(target=clones)
                thread.start()
            for i in range(12):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.003 + 0.004 * i)
                    while True:
                        clone() if downloading else sharer.step()
                except KeyboardInterrupt:
                    heard += 1
            if not downloading:
                ended.set()
                while thread.is_alive():
                    sharer.step(0.01)
    finally:
        ended.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook
    gc.collect()
    assert heard == 12 and lost == []
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.posix
def test_ctrl_c_in_progress():
    def progress(_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        datsync.clone(tools.make(1).key, None, listen="127.0.0.1:0", progress=progress)
    assert time.monotonic() - before < 2


@pytest.mark.posix
def test_a_signal_handler_that_raises_leaves_no_lock_behind():
    def raises(*_):
        raise Slow

    def works(feed, i):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.000001 * i)
            while True:
                feed.append(b"x")
                feed[0], feed.has(0), len(feed), feed.key
        except Slow:
            pass

    before = signal.signal(signal.SIGALRM, raises)
    try:
        with Feed.create() as feed, datsync.share(feed):
            for i in range(300):
                works(feed, i)
                other = threading.Thread(target=len, args=(feed,))
                other.start()
                other.join(5)
                assert not other.is_alive(), i
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.posix
def test_a_signal_while_it_opens_closes_what_was_opened():
    """Also at the moment between C's return and Python's taking note."""
    def raises(*_):
        raise Slow

    with Feed.create("feed") as feed:
        feed.append(*blocks(2000))
    made = tools.make(1)
    before = signal.signal(signal.SIGALRM, raises)
    try:
        for i in range(150):
            copy = Feed.open(None, key=made.key, create=True)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002 + 0.00001 * i)
                while True:
                    Feed.open("feed").close()
                    try:
                        copy.pull(listen="127.0.0.1:0", timeout=0.0001)
                    except NoPeer:
                        pass
            except Slow:
                pass
            assert copy._h.sync is None, i
            copy.close()
            gc.collect()
            Feed.open("feed").close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.posix
def test_ctrl_c_while_nothing_comes():
    made = tools.make(40)
    with Server(made, answer_only=first(30)) as server:
        script = """
            import sys
            try:
                datsync.clone(sys.argv[1], "copy", sys.argv[2], progress=lambda p: print(p.held, flush=True))
            except KeyboardInterrupt:
                print("interrupted")
                datsync.Feed.open("copy").close()
            """
        argv = [sys.executable, "-c", "import datsync\n" + textwrap.dedent(script), made.key.hex(),
                "127.0.0.1:%d" % server.port]
        with tools.Process(argv=argv, env={"PYTHONPATH": os.path.dirname(BINDING), "DATSYNC_LIBRARY": LIBRARY}) as process:
            process.line("^[1-9]")
            time.sleep(0.1)
            before = time.monotonic()
            process.interrupt()
            process.line("^interrupted$")
            process.finish(0)
            assert time.monotonic() - before < 2


# ---- misuse ----------------------------------------------------------------------------------------------

def test_use_after_close():
    feed, drive = Feed.create("feed"), Drive.create("drive", secret_dir="secrets")
    feed.append(b"x")
    for made in (feed, drive):
        sharer = datsync.share(made)
        made.close()
        made.close()
        assert made.closed and sharer.peers == 0
        refused(Code.STATE, sharer.step)
        sharer.close()
        for call in (lambda: made.key, lambda: made.link, lambda: made.discovery_key, lambda: made.secret_key,
                     lambda: made.writable, made.flush, made.verify, lambda: made.pull("127.0.0.1:1"),
                     made.__enter__, lambda: datsync.share(made)):
            assert "it is closed" in str(refused(Code.STATE, call))
    for call in (lambda: feed[0], lambda: feed.get(0), lambda: feed.has(0), lambda: len(feed), lambda: list(feed),
                 lambda: feed.held, lambda: feed.byte_length, lambda: feed.append(b"x"), lambda: drive.version, drive.list,
                 lambda: drive.read("/a"), drive.import_):
        refused(Code.STATE, call)
    assert repr(feed) == "<datsync.Feed 'feed' closed>" and feed.folder == "feed"


def test_a_feed_is_shared_once():
    with Feed.create() as feed:
        with datsync.share(feed):
            refused(Code.STATE, lambda: datsync.share(feed))
        with datsync.share(feed):
            pass
    made = tools.make(10)
    with Server(made) as server, Feed.open(None, key=made.key, create=True) as copy:
        def share(_):
            refused(Code.STATE, lambda: datsync.share(copy))
            refused(Code.STATE, lambda: copy.pull("127.0.0.1:1"))
            assert copy.held == copy.held  # reading is allowed
        copy.pull("127.0.0.1:%d" % server.port, progress=share)
        refused(Code.STATE, lambda: copy.pull("127.0.0.1:%d" % server.port, progress=lambda _: copy.close()))
        assert copy.closed


def test_closing_a_feed_ends_its_sharing():
    feed = Feed.create("feed")
    sharer = datsync.share(feed)
    thread = sharer._sync.thread
    feed.close()
    assert not thread.is_alive() and sharer.error is None
    Feed.open("feed").close()
    sharer.close()
    sharer.close()


def test_what_ends_the_thread_is_told():
    feed = Feed.create()
    sharer = datsync.share(feed)
    sharer._sync.failed = int(Code.IO)
    sharer._sync.wake()
    assert eventually(lambda: sharer.error).code == Code.IO
    refused(Code.IO, sharer.close)
    sharer.close()
    feed.close()


def test_threads_take_turns():
    """Appending, reading, verifying and serving at once."""
    with Feed.create("feed") as feed, datsync.share(feed) as sharer:
        failed = []

        def work(number):
            try:
                for i in range(60):
                    index = feed.append(b"%d %d" % (number, i)) - 1
                    assert feed[index] is not None and feed.has(index)
                    if i % 20 == 0:
                        assert feed.verify() == [] and len(list(feed)) > 0
                        feed.flush()
                datsync.clone(feed.link, None, sharer.address).close()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == [] and len(feed) == 240
        assert sorted(feed) == sorted(b"%d %d" % (n, i) for n in range(4) for i in range(60))


def test_every_call_waits_for_its_turn(folder):
    with Drive.create(folder) as drive, Feed.create() as feed, datsync.Sharer(feed) as sharer:
        drive.import_()
        feed.append(b"x")
        calls = [(feed, call) for call in (
            lambda: feed.append(b"x"), lambda: feed[0], lambda: feed.has(0), lambda: len(feed), lambda: feed.held,
            lambda: feed.byte_length, lambda: feed.key, lambda: feed.secret_key, lambda: feed.writable, feed.flush, feed.verify,
            lambda: sharer.step(0), lambda: sharer.peers, lambda: feed.__enter__())]
        calls += [(drive, call) for call in (
            drive.import_, drive.list, lambda: drive.read("/a.txt"), drive.verify, drive.flush, lambda: drive.version,
            lambda: drive.link, lambda: datsync.Sharer(drive).close())]
        for made, call in calls:
            thread = threading.Thread(target=call, daemon=True)
            with made._h.lock:
                thread.start()
                thread.join(0.02)
                assert thread.is_alive(), call
            thread.join(5)
            assert not thread.is_alive(), call


def test_closing_does_not_wait_for_the_network():
    before = time.monotonic()
    for _ in range(6):
        with Feed.create() as feed:
            datsync.share(feed).close()
            datsync.share(feed)
    assert time.monotonic() - before < 2


def test_what_is_collected_gives_back_its_lock():
    feed = Feed.create("feed")
    feed.append(b"x")
    with pytest.warns(ResourceWarning, match="feed was not closed: feed"):
        del feed
        gc.collect()
    Feed.open("feed").close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("threaded", [True, False])
def test_a_sharer_that_is_collected_ends(threaded):
    feed = Feed.create("feed")
    sharer = datsync.share(feed) if threaded else datsync.Sharer(feed)
    gone = weakref.ref(sharer)
    del sharer
    assert gone() is None
    handle = feed._h
    eventually(lambda: handle.sync is None)
    with datsync.share(feed):
        pass
    feed.circle = [feed, datsync.share(feed) if threaded else datsync.Sharer(feed)]
    del feed
    gc.collect()
    eventually(lambda: reopened("feed"))
    sharer = datsync.share("feed")  # the sharer's own
    del sharer
    eventually(lambda: reopened("feed"))


def reopened(folder):
    try:
        datsync.open(folder).close()
        return True
    except Locked:
        return False


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_collection_inside_a_callback():
    """A sharer is collected while C is at work on its drive, in the same thread: it is freed afterwards."""
    os.mkdir("drive")
    for i in range(3):
        with open("drive/%d" % i, "w") as file:
            file.write("x")
    with Drive.create("drive") as drive:
        held = [datsync.Sharer(drive)]

        def ignore(path, is_folder):
            held.clear()
            return False

        assert drive.import_(ignore=ignore).added == 3
        assert drive.version == 3
        assert eventually(lambda: drive.flush() or drive._h.sync is None)
        with datsync.share(drive):
            pass


def test_what_is_open_at_exit_is_committed():
    out = python("""
        feed = datsync.Feed.create("feed")
        feed.append(b"x")
        sharer = datsync.share(feed)
        feed.append(b"y")
        print(feed.link)""")
    with Feed.open("feed") as feed:
        assert list(feed) == [b"x", b"y"] and feed.link + "\n" == out
    assert "Error" not in python.err
    assert tools.audit("feed") == []


@pytest.mark.posix
def test_a_fork_leaves_the_parent_alone():
    python("""
        import os, sys
        feed = datsync.Feed.create("feed")
        sharer = datsync.share(feed)
        feed.append(b"x")
        child = os.fork()
        if child == 0:
            try:
                feed.append(b"y")
            except datsync.Error as error:
                assert error.code == datsync.Code.STATE
                assert feed.closed and sharer.peers == 0
                sharer.close()
                feed.close()
                datsync.Feed.create("child").close()
                sys.exit(7)
        assert os.waitpid(child, 0)[1] == 7 << 8
        feed.append(b"z")
        with datsync.clone(feed.link, None, sharer.address) as copy:
            assert list(copy) == [b"x", b"z"]
        sharer.close()
        feed.close()""")
    assert tools.audit("feed") == []


# ---- drives ------------------------------------------------------------------------------------------------

def content(folder):
    found = {}
    for where, folders, names in os.walk(folder):
        if ".dat" in folders:
            folders.remove(".dat")
        for name in names:
            path = os.path.join(where, name)
            found[path[len(folder):].replace(os.sep, "/")] = open(path, "rb").read()
    return found


def test_a_folder_becomes_a_drive(folder):
    told = []
    with Drive.create(folder) as drive:
        assert drive.version == 0 and drive.list() == drive.list(version=0) == [] and drive.writable and drive.folder == folder
        done = drive.import_(progress=lambda *args: told.append(args))
        assert done == (4, 0, 0, []) and drive.version == 4
        assert [t for t in told if t[1] == t[2]] == [(path, len(FILES[path]), len(FILES[path])) for path in sorted(FILES)]
        assert drive.import_() == (0, 0, 0, [])
        entries = {entry.path: entry for entry in drive.list()}
        assert {path: entry.size for path, entry in entries.items()} == {path: len(data) for path, data in FILES.items()}
        info = os.stat("files/a.txt")
        assert entries["/a.txt"].mode == info.st_mode and abs(entries["/a.txt"].mtime - info.st_mtime) < 0.01
        assert entries["/a.txt"].error is None and entries["/a.txt"].version == 1
        assert sorted(entry.path for entry in drive.list(deep=False)) == ["/a.txt", "/empty", "/s"]
        assert [entry.path for entry in drive.list("/s/t")] == ["/s/t/\u00fc"]
        assert drive.list("/s", deep=False, version=3)[0].path == "/s/b"
        for path, data in FILES.items():
            assert drive.read(path) == drive.read(path[1:]) == data
        os.remove("files/s/b")
        with open("files/a.txt", "w") as file:
            file.write("other")
        assert drive.import_() == (0, 1, 1, []) and drive.version == 6
        assert drive.read("/a.txt") == b"other"
        assert sorted(e.path for e in drive.list(version=4)) == sorted(FILES)
        for call in (lambda: drive.read("/s/b"), lambda: drive.read("/nothing"), lambda: drive.list("/nothing"),
                     lambda: drive.list("/s/b"), lambda: drive.read("/a.txt", version=0)):
            refused(Code.NOT_FOUND, call, NotFound)
        drive.flush()
        assert drive.verify() == [] and len(drive.secret_key) == 64
        link = drive.link
    assert run("verify", folder).out.startswith("ok ")
    with datsync.open(folder) as again:
        assert isinstance(again, Drive) and again.link == link and again.writable
        refused(Code.LOCKED, lambda: Drive.open(folder), Locked)
    refused(Code.OTHER_FEED, lambda: Drive.create(folder))
    refused(Code.OTHER_FEED, lambda: Drive.open(folder, key=b"k" * 32))
    with Drive.open(folder, secret_dir="elsewhere") as reader:
        assert not reader.writable and reader.read("/a.txt") == b"other"
        refused(Code.READ_ONLY, reader.import_)
    refused(Code.NOT_FOUND, lambda: Drive.open("nothing"), NotFound)
    refused(Code.NO_ENTRY, lambda: Drive.create("no/such"), NotFound)


def test_reading_tells_what_is_wrong(folder):
    os.mkdir("files/void")
    with Drive.create(folder) as drive:
        drive.import_()
        refused(Code.IS_FOLDER, lambda: drive.read("/void"))
        for path in (None, b"/a.txt", 5):
            with pytest.raises(TypeError):
                drive.read(path)
        for call in (lambda: drive.read(""), lambda: drive.read("/a\0"), lambda: drive.list(version=99),
                     lambda: drive.list(version=-1)):
            with pytest.raises(ValueError):
                call()
        with pytest.raises(TypeError):
            drive.list(version="1")
        with open("files/a.txt", "w") as file:
            file.write("HELLO\n")
        refused(Code.HASH, lambda: drive.read("/a.txt"))
        assert [(path, error.code) for path, error in drive.verify()] == [("/a.txt", Code.CHANGED)]


def test_what_is_left_out(folder):
    os.makedirs("files/.well-known/dat.d")
    for path in ("files/.well-known/dat", "files/.well-known/other", "files/s/.DS_Store"):
        with open(path, "w") as file:
            file.write("x")
    with Drive.create(folder) as drive:
        drive.import_()
        assert {e.path for e in drive.list()} == set(FILES) | {"/.well-known/dat"}
        asked = []
        drive.import_(ignore=lambda path, is_folder: asked.append((path, is_folder)) or path == "/s")
        assert {e.path for e in drive.list()} == {"/a.txt", "/empty", "/.hidden", "/.well-known/dat", "/.well-known/other",
                                                  "/.well-known/dat.d"}
        assert ("/s", True) in asked and ("/a.txt", False) in asked
        open("files/.datignore", "w").close()
        with pytest.raises(ValueError, match="datignore"):
            drive.import_()
        assert drive.import_(ignore=None).added == 4
        if hasattr(os, "symlink"):
            os.symlink("a.txt", "files/link")
            (path, error), = drive.import_(ignore=None).refused
            assert path == "/link" and error.code == Code.LINK


def test_an_import_that_is_interrupted(folder):
    with open("files/z", "wb") as file:
        file.write(b"behind")
    with Drive.create(folder) as drive:
        drive.import_()
        before = drive.version
        for path in [*FILES, "/z"]:
            with open("files" + path, "ab") as file:
                file.write(b"more")
        os.remove("files/empty")

        def ignore(path, is_folder):
            if path == "/s":
                raise Slow("ignore")
            return False

        with pytest.raises(Slow, match="ignore"):
            drive.import_(ignore=ignore)
        assert {e.path for e in drive.list()} == set(FILES) - {"/empty"} | {"/.hidden", "/z"}
        assert drive.version == before + 3  # .hidden, a.txt, empty; nothing of /s and what is behind was put or removed

        def progress(path, done, size):
            raise Slow("progress")

        with pytest.raises(Slow, match="progress"):
            drive.import_(progress=progress)
        assert drive.version <= before + 5
        for call in (drive.list, lambda: drive.version, drive.close, lambda: datsync.share(drive), drive.import_):
            told = []

            def misuse(*_, call=call, told=told):
                told.append(refused(Code.STATE, call))
                return False

            drive.import_(ignore=misuse)
            assert told and not drive.closed
        sharer = datsync.share(drive)
        drive.import_(ignore=lambda *_: bool(refused(Code.STATE, sharer.close)) and False)
        sharer.close()


@pytest.mark.posix
def test_ctrl_c_while_importing(folder):
    with Drive.create(folder) as drive:
        def kill(path, is_folder):
            os.kill(os.getpid(), signal.SIGINT)
            return False

        with pytest.raises(KeyboardInterrupt):
            drive.import_(ignore=kill)
        assert drive.version <= 1
        signals = []
        before = signal.signal(signal.SIGINT, lambda *_: signals.append(1))
        try:
            assert drive.import_(ignore=kill).added >= 4  # a handler that does not raise ends nothing
        finally:
            signal.signal(signal.SIGINT, before)
        assert len(signals) >= 5


def test_a_drive_is_cloned(folder):
    with Drive.create(folder, secret_dir="secrets") as drive:
        drive.import_()
        with datsync.share(drive) as sharer:
            told = []
            with datsync.clone_drive(drive.link, "copy", sharer.address, progress=told.append, rate=1e9) as copy:
                assert copy.refused == [] and copy.version == 4 and not copy.writable and copy.verify() == []
                assert copy.read("/s/b") == FILES["/s/b"]
                total = sum(map(len, FILES.values()))
                assert told[-1].held == told[-1].total == total and told[-1].bytes >= total
                assert all(a.held <= b.held and a.bytes <= b.bytes for a, b in zip(told, told[1:]))
                refused(Code.STATE, lambda: drive.pull(sharer.address))
            assert content("copy") == FILES
            run("clone", "--peer", sharer.address, drive.key.hex(), "theirs")
            assert content("theirs") == FILES
            # in memory, one file of it
            with datsync.clone_drive(" DAT:%s+1/a.txt?x" % drive.link[6:], None, sharer.address) as memory:
                assert memory.read("/a.txt") == drive.read("/a.txt", version=1)
            with datsync.clone_drive(drive.link, None, sharer.address, select=lambda path: path == "/a.txt") as memory:
                assert memory.read("/a.txt") == FILES["/a.txt"]
                refused(Code.NOT_FOUND, lambda: memory.read("/s/b"), NotFound)
                assert memory.verify() == []
            with Drive.open("copy") as copy:
                with open("copy/a.txt", "w") as file:
                    file.write("mine")
                with open("files/a.txt", "w") as file:
                    file.write("newer")
                drive.import_()
                (path, error), = copy.pull(sharer.address)
                assert path == "/a.txt" and error.code == Code.CHANGED and content("copy")["/a.txt"] == b"mine"
                assert copy.refused == [(path, error)]
                assert copy.pull(sharer.address, force=True) == [] and content("copy")["/a.txt"] == b"newer"
                refused(Code.NOT_FOUND, lambda: copy.pull(sharer.address, version=99), NotFound)


def test_a_drive_of_the_command_is_cloned(folder):
    run("create", folder, "--secret-dir", "secrets")
    with tools.Process("share", folder, "--secret-dir", "secrets", "--listen", "127.0.0.1:0") as server:
        link = server.line("^(dat://.*)$").group(1)
        address = server.line(r"^listening on (.*)$").group(1)
        with datsync.clone_drive(link, "copy", [address]) as copy:
            assert copy.link == link
        assert {path: data for path, data in content("copy").items() if path != "/dat.json"} == FILES
        # interrupted, and gone on with
        thrown = Slow()

        def stop(progress):
            if progress.bytes:
                raise thrown

        with pytest.raises(Slow):
            datsync.clone_drive(link, "again", address, progress=stop, rate=1e9)
        datsync.clone_drive(link, "again", address).close()
        assert content("again") == content("copy")

        def bad(path):
            raise thrown

        with pytest.raises(Slow):
            datsync.clone_drive(link, "select", address, select=bad)
        Drive.open("select").close()
    assert run("status", "copy").out


def test_a_folder_that_is_not_ours(folder):
    link = tools.make(1).key.hex()
    assert "not empty" in str(refused(Code.STATE, lambda: datsync.clone_drive(link, folder, "127.0.0.1:1")))
    assert not os.path.exists("files/.dat")
    os.mkdir("void")
    address = "127.0.0.1:%d" % tools.closed_port()
    for where, force in (("void", False), (folder, True), ("new", False)):
        error = refused(Code.REFUSED, lambda: datsync.clone_drive(link, where, address, timeout=0.2, force=force), NoPeer)
        assert "no peer served this drive" in str(error)
        with Drive.open(where) as drive:
            assert drive.version == 0 and drive.list() == []


def test_a_feed_is_no_drive():
    with Feed.create() as feed:
        feed.append(b"no header")
        with datsync.share(feed) as sharer:
            refused(Code.HEADER, lambda: datsync.clone_drive(feed.link, "copy", sharer.address))
    refused(Code.HEADER, lambda: Drive.open("copy"))


@pytest.mark.posix
def test_no_home_for_secret_keys(monkeypatch, tmp_path):
    with open("file", "w"):
        pass
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    os.mkdir("drive")
    with pytest.raises(Error):
        Drive.create("drive")
    with Drive.create("other", secret_dir="secrets", archive=True) as drive:
        assert drive.writable
