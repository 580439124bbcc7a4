"""The command line's drives: every command between two processes, options, user's files, exit codes."""

import json
import os
import re
import stat

import pytest

import tools
from dat import drive as drives
from tools import DONE, FAILED, INTERRUPTED, NO_PEER, USAGE, one_line

COMMANDS = ["create", "share", "clone", "pull", "sync", "log", "status", "keys", "verify", "ls", "cat"]
FOR_OTHERS = ["discover", "doctor"]
CLOSED = "127.0.0.1:1"


class Home:
    """A user: a home folder, and where the secret keys are."""

    def __init__(self, path):
        self.path = str(path)
        self.secrets = os.path.join(self.path, "secrets")
        self.env = {"HOME": os.path.join(self.path, "home")}
        os.makedirs(self.env["HOME"])

    def _words(self, command, args):
        return (command, "--secret-dir", self.secrets) + args

    def __call__(self, command, *args, **options):
        return tools.run(*self._words(command, args), env=self.env, **options)

    def start(self, command, *args, **options):
        return tools.Process(*self._words(command, args), env=self.env, **options)

    def serve(self, command, folder, *args):
        """`share` or `sync` on a free loopback port, once it listens: `key` and `peer` are set."""
        process = self.start(command, "--listen", "127.0.0.1:0", *args, folder)
        try:
            if "--json" in args:
                process.key = process.event("drive")["key"]
                process.peer = process.event("listening")["address"]
            else:
                process.key = process.line(r"^dat://([0-9a-f]{64})$").group(1)
                process.peer = process.line(r"^listening on (127\.0\.0\.1:\d+)$").group(1)
        except BaseException:
            process.kill()
            raise
        return process

    def share(self, folder, *args):
        return self.serve("share", folder, *args)

    def clone(self, server, folder, *args, **options):
        return self("clone", "--peer", server.peer, *args, server.key, folder, **options)

    def pull(self, server, folder, *args, **options):
        return self("pull", "--peer", server.peer, *args, folder, **options)


@pytest.fixture
def owner(tmp_path):
    yield Home(tmp_path / "owner")
    # Nothing may be kept in the home folder when another place was named.
    assert os.listdir(str(tmp_path / "owner" / "home")) == []


@pytest.fixture
def reader(tmp_path):
    yield Home(tmp_path / "reader")
    assert not os.path.exists(str(tmp_path / "reader" / "secrets"))


FILES = {"a.txt": b"hello\n", "sub/big.bin": tools.block(1, 0, 200000), "sub/deep/c.csv": b"1,2\n" * 99, "empty": b""}


def write(folder, files):
    for name, data in files.items():
        path = os.path.join(str(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def read(folder):
    """{path: bytes} of everything in a folder but .dat and dat.json."""
    found = {}
    for at, folders, names in os.walk(str(folder)):
        if ".dat" in folders:
            folders.remove(".dat")
        for name in names:
            with open(os.path.join(at, name), "rb") as file:
                found[os.path.relpath(os.path.join(at, name), str(folder))] = file.read()
    found.pop("dat.json", None)
    return found


@pytest.fixture
def origin(owner, tmp_path):
    """A folder with FILES that is a drive."""
    folder = tmp_path / "origin"
    write(folder, FILES)
    owner("create", folder)
    return folder


def key_of(folder):
    with open(os.path.join(str(folder), ".dat", "metadata.key"), "rb") as file:
        return file.read().hex()


def names(home, folder, *args):
    return home("ls", "--recursive", *args, folder).lines


# ---- usage ----------------------------------------------------------------------------------------

def test_help_lists_drives_first():
    shown = tools.run("-h").out
    assert [m for m in re.findall(r"^  datsync (\w+)", shown, re.M) if m != "feed"] == COMMANDS + FOR_OTHERS
    assert shown.index("datsync cat LINK") < shown.index("datsync feed create")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command):
    shown = tools.run(command, "-h")
    assert shown.out.startswith("usage: datsync %s [OPTIONS]" % command) and not shown.err
    net = ["--listen", "--no-listen", "--peer", "--max-peers", "--no-discovery"]
    more = {"create": ["--title", "--description", "--author", "--license", "--archive", "--no-sync",
                       "--no-ignore-hidden", "--ignore-hidden"],
            "share": net + ["--watch", "--no-ignore-hidden"],
            "clone": net + ["--select", "--checkout", "--archive", "--live", "--force", "--timeout"],
            "pull": net + ["--select", "--checkout", "--force", "--timeout"], "sync": net,
            "ls": ["--long", "--recursive", "--checkout"], "cat": ["--checkout", "--peer", "--timeout"]}
    for option in more.get(command, []) + ["--secret-dir", "--quiet"] + ["--json"] * (command != "cat"):
        assert re.search(r"^\s+%s\b" % option, shown.out, re.M), option


@pytest.mark.parametrize("args", [
    ["create", "a", "b"], ["create", "--title"], ["create", "--peer", "127.0.0.1:1"], ["share", "--no-listen"],
    ["clone"], ["clone", "x"], ["clone", "00" * 32], ["clone", "--no-discovery", "00" * 32],
    ["clone", "--listen", "0", "--no-listen", "00" * 32], ["clone", "--peer", "x", "00" * 32],
    ["clone", "--peer", CLOSED, "--select", "[a", "00" * 32], ["clone", "--peer", CLOSED, "--select", "", "00" * 32],
    ["clone", "--peer", CLOSED, "--checkout", "0", "00" * 32], ["pull"], ["pull", "--json=1"], ["log", "a", "b"],
    ["keys", "export", "a", "b"], ["keys", "a", "b"], ["cat"], ["cat", "a"], ["cat", "00" * 32, "a"],
    ["cat", "--json", "a", "b"], ["ls", "a", "b", "c"], ["verify", "--nothing"], ["drive"],
])
def test_wrong_usage(args, tmp_path):
    result = tools.run(*args, code=USAGE, cwd=str(tmp_path), env={"HOME": str(tmp_path)})
    assert not result.raw and one_line(result)
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("command", ["share", "pull", "sync", "log", "status", "keys", "verify", "ls", "cat"])
def test_a_folder_that_is_no_drive(command, owner, tmp_path):
    (tmp_path / "none").mkdir()
    args = {"pull": ["--peer", CLOSED], "share": ["--no-listen", "--peer", CLOSED]}.get(command, [])
    if command != "share":  # which makes one
        result = owner(command, *args, tmp_path / "none", *(["x"] if command == "cat" else []), code=FAILED)
        assert one_line(result).endswith("no drive is here") and os.listdir(str(tmp_path / "none")) == []
    missing = owner(command, *args, tmp_path / "not" / "there", *(["x"] if command == "cat" else []),
                    code=USAGE if command in ("share", "sync") else FAILED)
    assert one_line(missing) and not (tmp_path / "not").exists()


def test_hints_that_name_the_other_kind(owner, origin, tmp_path):
    assert "datsync feed" in one_line(owner("status", feed_folder(tmp_path), code=FAILED))
    assert "drive" in one_line(tools.feed("info", origin, code=FAILED))


def feed_folder(tmp_path):
    tools.make_folder(str(tmp_path / "feed"), 3)
    return tmp_path / "feed"


def test_cloning_a_feed_as_a_drive_and_a_drive_as_a_feed(owner, reader, origin, tmp_path):
    with tools.share(str(feed_folder(tmp_path))) as server:
        server.key, server.peer = server.key.hex(), "127.0.0.1:%d" % server.port
        result = reader.clone(server, tmp_path / "copy", "--quiet", code=FAILED)
        assert "datsync feed clone" in one_line(result)
    with owner.share(origin) as server:
        result = tools.feed("clone", "--peer", server.peer, server.key, tmp_path / "bare")
        assert "datsync clone" in result.err


# ---- create ---------------------------------------------------------------------------------------

@pytest.mark.posix
@pytest.mark.valgrind
def test_create(owner, tmp_path):
    folder = tmp_path / "new"
    made = owner("create", "--title", 'a "b" \\ \x01é', "--author", "me", "--license", "CC0", folder)
    key = re.fullmatch(r"dat://([0-9a-f]{64})\n", made.out).group(1)
    about = json.loads((folder / "dat.json").read_text(encoding="utf-8"))
    assert about == {"title": 'a "b" \\ \x01é', "author": "me", "license": "CC0", "url": "dat://%s/" % key}
    assert key_of(folder) == key and names(owner, folder) == ["dat.json"]
    assert not [name for name in os.listdir(str(folder / ".dat")) if "secret" in name]
    [secret] = [os.path.join(at, f) for at, _, found in os.walk(owner.secrets) for f in found]
    assert stat.S_IMODE(os.stat(secret).st_mode) == 0o600 and os.path.getsize(secret) == 64


def test_create_here(owner, tmp_path):
    write(tmp_path / "here", {"x": b"1"})
    owner("create", cwd=str(tmp_path / "here"))
    assert names(owner, tmp_path / "here") == ["dat.json", "x"]


def test_create_keeps_dat_json(owner, tmp_path):
    write(tmp_path / "a", {"dat.json": b"not json at all {"})
    result = owner("create", "--title", "x", tmp_path / "a")
    assert (tmp_path / "a" / "dat.json").read_bytes() == b"not json at all {" and "kept" in result.err
    assert "title" not in owner("status", tmp_path / "a").out


def test_create_twice(owner, origin):
    before = key_of(origin)
    result = owner("create", origin, code=FAILED)
    assert "dat://" + before in one_line(result) and not result.raw
    assert key_of(origin) == before


@pytest.mark.posix
def test_create_names_what_it_refuses(owner, tmp_path):
    write(tmp_path / "a", {"x": b"1"})
    os.symlink("x", str(tmp_path / "a" / "one"))
    os.symlink("/nowhere", str(tmp_path / "a" / "two"))
    result = owner("create", "--quiet", tmp_path / "a", code=FAILED)
    lines = result.err.splitlines()
    assert len(lines) == 3 and "/one: " in lines[0] + lines[1] and "/two: " in lines[0] + lines[1]
    assert "2 entries" in lines[2] and result.out.startswith("dat://")
    assert names(owner, tmp_path / "a") == ["dat.json", "x"]


@pytest.mark.parametrize("text", [
    "{", "{}", "[", '{"title"', '{"title":', '{"title":"', '{"title":"x', '{"title":"x\\', '{"title":"\\u12',
    '{"title":"\\ud800\\ud800"}', '{"a":[[[[{"title":"no"}]]]],"title":"yes"}', '{"a":"}","title":"yes"}',
    '{"author":{"name":"x"},"title":"yes"}', '{"title":3}', "\0", '{"title":"%s"}' % ("x" * 5000),
    "[" * 100000, '{"title":"a\\u0007\\ud83d\\ude00\\n"}'], ids=lambda text: ascii(text[:40]))
def test_any_dat_json_is_read(text, owner, tmp_path):
    write(tmp_path / "a", {"dat.json": text.encode()})
    owner("create", tmp_path / "a")
    plain, told = owner("status", tmp_path / "a"), owner("status", "--json", tmp_path / "a").events
    assert len(told) == 1 and told[0]["event"] == "status"
    if '"yes"' in text:
        assert "title: yes" in plain.lines and told[0]["title"] == "yes"
    if "ude00" in text:
        assert told[0]["title"] == "a\x07\U0001f600\n" and "title: a\\x07\U0001f600\\x0a" in plain.lines


# ---- .datignore -----------------------------------------------------------------------------------

IGNORE = [
    ("*.tmp", "x.tmp s/x.tmp s/t/x.tmp", "x.tmp2 tmp"),
    ("/x.tmp", "x.tmp", "s/x.tmp"),
    ("s/x", "s/x/y", "t/s/x x"),
    ("build/", "build/a s/build/b", "s/c/build"),
    ("build", "build/a s/build", "builds"),
    ("s/*", "s/a s/b/c", "t/a"),
    ("s/*/c", "s/b/c", "s/c s/b/d/c"),
    ("**/c", "c s/c s/t/c", "s/cc"),
    ("s/**", "s/a s/b/c", "t s2/a"),
    ("s/**/c", "s/c s/b/c s/b/b/c", "c t/c"),
    ("a?c", "abc aéc", "ac abbc"),
    ("[a-c]x", "ax cx", "dx"),
    ("[!a-c]x", "dx", "ax"),
    ("[]x]y", "]y xy", "ay"),
    pytest.param("\\*x", "*x", "ax", marks=pytest.mark.posix),
    ("\\#x", "#x", "x"),
    ("\\!x", "!x", "x"),
    ("# x\n\n   \nx", "x", "y"),
    ("x\r\ny\r\n", "x y", "z"),
    ("*.log\n!keep.log", "a.log", "keep.log s/keep.log"),
    ("!keep.log\n*.log", "keep.log", "a"),
    ("s\n!s/keep", "s/keep s/a", "t"),  # nothing beneath a folder that is left out comes back
    ("*a*a*a*a*a*a*a*a*b", "aaaaaaaaaab", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ("", ".x s/.x .g/a s/.DS_Store .well-known/x .well-known/sub/y", ".well-known/dat x.y"),
    ("!.x", ".y", ".x"),
    ("", "s/.well-known/dat", "a"),
]


@pytest.mark.parametrize("rules, out, kept", IGNORE, ids=["%s%d" % (ascii(getattr(row, "values", row)[0]), i) for i, row in enumerate(IGNORE)])
def test_datignore(rules, out, kept, owner, tmp_path):
    write(tmp_path / "a", dict.fromkeys(out.split() + kept.split(), b"1"))
    write(tmp_path / "a", {".datignore": rules.encode()})
    result = owner("create", tmp_path / "a")
    assert sorted(n for n in names(owner, tmp_path / "a") if not n.endswith("/")) == sorted(kept.split() + ["dat.json"])
    assert "line" not in result.err


def test_hidden_files_when_asked_for(owner, tmp_path):
    write(tmp_path / "a", dict.fromkeys([".x", ".g/y", ".DS_Store"], b"1"))
    owner("create", "--no-ignore-hidden", tmp_path / "a")
    assert sorted(names(owner, tmp_path / "a")) == [".g/y", ".x", "dat.json"]


def test_bad_lines_of_datignore_are_named(owner, tmp_path):
    write(tmp_path / "a", {".datignore": b"x\n[a\n!\n\\\ny\0z\nw", "x": b"", "y": b"", "w": b""})
    result = owner("create", "--quiet", tmp_path / "a")
    assert [int(n) for n in re.findall(r"\.datignore, line (\d)", result.err)] == [2, 3, 4, 5]
    assert names(owner, tmp_path / "a") == ["dat.json", "y"]


@pytest.mark.parametrize("name", ["secret_key", "sub/secret_key", "sub/metadata.secret_key", ".hidden/.dat/metadata.secret_key",
                                  "keys/ab/" + "c" * 62, "ab/" + "0" * 62])
def test_a_secret_key_is_never_imported(name, owner, tmp_path):
    """That of a feed beside the files, or of another drive: one command would publish it for ever."""
    key = drives.Drive(seed=b"s" * 32).metadata.secret_key
    others = {"my_secret_key": key, "x/secret_key": b"a text", "y/secret_key": bytes(64), "secret_key.txt": key, "c" * 62: key,
              "ef/" + "d" * 62: bytes(64), "gh/" + "d" * 62: key, "ab/" + "d" * 63: key}
    write(tmp_path / "a", {".datignore": b"!secret_key\n", name: key, **others})
    with owner.serve("share", "--no-ignore-hidden", tmp_path / "a") as server:
        server.stop()
        assert len([line for line in server.err if "/%s: not imported: it is a secret key" % name in line]) == 1
    assert set(others) == set(names(owner, tmp_path / "a")) - {"dat.json", ".datignore"}


def test_the_own_secret_key_is_not_imported_either(tmp_path):
    """`--secret-dir` within the folder."""
    home = Home(tmp_path / "home")
    home.secrets = str(tmp_path / "a" / "keys")
    write(tmp_path / "a", {"x": b"1"})
    assert home("create", tmp_path / "a").err.count("it is a secret key") == 1
    with home.share(tmp_path / "a") as server:
        server.stop()
    assert names(home, tmp_path / "a") == ["dat.json", "x"] and os.listdir(home.secrets)


def test_a_datignore_that_is_too_long(owner, tmp_path):
    write(tmp_path / "a", {".datignore": b"x\n" * 600000})
    assert ".datignore" in one_line(owner("create", "--quiet", tmp_path / "a", code=FAILED))


def test_what_is_ignored_later_is_removed(owner, origin):
    write(origin, {".datignore": b"*.csv\n"})
    assert re.search(r"^removed: 1$", owner("status", origin).out, re.M)
    with owner.share(origin, "--json") as server:
        pass
    assert "sub/deep/c.csv" not in names(owner, origin)


# ---- looking --------------------------------------------------------------------------------------

def test_log(owner, origin):
    lines = owner("log", origin).lines
    assert lines[0] == "1 [put] /a.txt 6 B" and "5 entries, " in lines[-1]
    os.remove(str(origin / "a.txt"))
    with owner.share(origin):
        pass
    assert owner("log", origin).lines[-2] == "6 [del] /a.txt"
    told = owner("log", "--json", origin).events
    assert [e["version"] for e in told] == [1, 2, 3, 4, 5, 6] and told[-1]["change"] == "del"
    assert {"path": "/a.txt", "size": 6, "change": "put"}.items() <= told[0].items()


def test_status(owner, origin):
    write(origin, {"new": b"1", "a.txt": b"longer than before"})
    os.remove(str(origin / "empty"))
    told = owner("status", "--json", origin).events[0]
    assert {"key": key_of(origin), "version": 5, "laid_out": 0, "files": 5, "whole": 4, "complete": False, "not_whole": ["/a.txt"],
            "writable": True, "archive": False, "added": 1, "updated": 1, "removed": 1, "url": "dat://%s/" % key_of(origin)}.items() <= told.items()
    assert told["held"] <= told["blocks"] == 7
    lines = owner("status", origin).lines
    for line in ("key: " + key_of(origin), "version: 5", "writable: yes", "added: 1", "updated: 1", "removed: 1"):
        assert line in lines, line


def test_looking_beside_a_share(owner, origin):
    with owner.share(origin) as server:
        for command in ("log", "status", "keys", "ls"):
            owner(command, origin)
        assert owner("cat", origin, "a.txt").raw == FILES["a.txt"]
        assert "another process" in one_line(owner("share", "--listen", "127.0.0.1:0", origin, code=FAILED))
        server.stop()


def test_looking_changes_nothing(owner, origin):
    def snapshot():
        return {p: (os.stat(p).st_mtime_ns, os.path.getsize(p)) for at, _, found in os.walk(str(origin))
                for p in (os.path.join(at, f) for f in found)}
    write(origin, {"new": b"x"})
    before = snapshot()
    for command in ("log", "status", "keys", "ls"):
        owner(command, origin)
    assert snapshot() == before


@pytest.mark.posix
def test_ls(owner, origin):
    os.chmod(str(origin / "a.txt"), 0o640)
    os.utime(str(origin / "a.txt"), (1e9, 1e9))
    with owner.share(origin):
        pass
    assert sorted(owner("ls", origin).lines) == ["a.txt", "dat.json", "empty", "sub/"]
    assert sorted(owner("ls", origin, "sub").lines) == ["big.bin", "deep/"]
    assert owner("ls", origin, "/sub/deep/").lines == ["c.csv"]
    assert owner("ls", origin, "a.txt").lines == ["a.txt"]
    assert sorted(owner("ls", "--recursive", origin, "sub").lines) == ["big.bin", "deep/c.csv"]
    assert [line for line in owner("ls", "-l", origin).lines if line.endswith("a.txt")] == [
        "-640            6 2001-09-09 01:46 a.txt"]
    assert owner("ls", "--json", origin, "sub/big.bin").events[0]["size"] == 200000
    for path in ("nope", "a.txt/x", "sub/nope"):
        assert path in one_line(owner("ls", origin, path, code=FAILED))
    assert owner("ls", "--checkout", "1", origin).lines == ["a.txt"]
    assert "newest" in one_line(owner("ls", "--checkout", "99", origin, code=FAILED))


def test_cat(owner, origin):
    for name, data in FILES.items():
        assert owner("cat", origin, name).raw == data
    for path in ("nope", "sub", "/"):
        assert one_line(owner("cat", origin, path, code=FAILED))


def test_cat_from_a_link(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        for link in (server.key, "dat://" + server.key):
            got = reader("cat", "--peer", server.peer, link, "/sub/big.bin", cwd=str(tmp_path))
            assert got.raw == FILES["sub/big.bin"]
        assert "nope" in reader("cat", "--quiet", "--peer", server.peer, server.key, "nope", code=FAILED).err
        assert reader("cat", "--checkout", "1", "--peer", server.peer, server.key, "a.txt").raw == b"hello\n"
        server.stop()
    assert not os.path.exists(str(tmp_path / server.key))
    assert one_line(reader("cat", "--quiet", "--timeout", "1", "--peer", "127.0.0.1:%d" % tools.closed_port(),
                           server.key, "a.txt", code=NO_PEER))


# ---- keys -----------------------------------------------------------------------------------------

def test_keys(owner, reader, origin, tmp_path):
    key = key_of(origin)
    lines = owner("keys", origin).lines
    assert lines[0] == "dat://" + key and re.fullmatch(r"discovery key: [0-9a-f]{64}", lines[1]) and len(lines) == 2
    secret = owner("keys", "export", origin).out
    assert re.fullmatch(r"[0-9a-f]{128}\n", secret) and secret.strip().endswith(key)
    assert owner("keys", "export", "--json", origin).events[0]["secret_key"] == secret.strip()
    assert "secret_key" not in owner("keys", "--json", origin).events[0]
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "copy")
        server.stop()
    assert "not here" in one_line(reader("keys", "export", tmp_path / "copy", code=FAILED))
    for bad in ("", "00", "x" * 128, "0" * 128, "0" * 200):
        assert one_line(reader("keys", "import", tmp_path / "copy", stdin=bad.encode(), code=FAILED))
    other = Home(tmp_path / "other")
    result = other("keys", "import", "--quiet", tmp_path / "copy", stdin=secret.encode())
    assert (result.out, result.err) == ("", "")
    assert "writable: yes" in other("status", tmp_path / "copy").lines
    assert other("keys", "export", tmp_path / "copy").out == secret
    write(tmp_path / "copy", {"mine": b"1"})
    with other.share(tmp_path / "copy") as server:
        assert server.key == key
    assert "mine" in names(other, tmp_path / "copy")


def test_a_key_for_a_clone_that_is_not_whole(owner, reader, origin, tmp_path):
    """Its next share would take what is missing for deleted."""
    secret = owner("keys", "export", origin).out.encode()
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "copy", "--select", "a.txt")
        server.stop()
    refused = reader("keys", "import", tmp_path / "copy", stdin=secret, code=FAILED)
    lines = refused.err.splitlines()
    assert sorted(re.findall(r": (/\S+): is missing$", refused.err, re.M)) == ["/dat.json", "/empty", "/sub/big.bin", "/sub/deep/c.csv"]
    assert len(lines) == 5 and "no complete clone (4 entries" in lines[-1]
    assert "writable: no" in reader("status", tmp_path / "copy").lines
    other = Home(tmp_path / "other")
    other("keys", "import", "--force", tmp_path / "copy", stdin=secret)
    assert "writable: yes" in other("status", tmp_path / "copy").lines


# ---- share, clone, pull ---------------------------------------------------------------------------

@pytest.mark.valgrind
def test_share_and_clone(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        result = reader.clone(server, tmp_path / "copy")
        assert not result.raw and "complete" in result.err
        assert read(tmp_path / "copy") == FILES
        assert reader("verify", tmp_path / "copy").out == "ok 5\n"
        server.stop()
    assert key_of(tmp_path / "copy") == key_of(origin)


def test_share_makes_a_drive(owner, reader, tmp_path):
    write(tmp_path / "a", FILES)
    with owner.share(tmp_path / "a", "--title", "T") as server:
        reader.clone(server, tmp_path / "b")
        server.stop()
    assert read(tmp_path / "b") == FILES
    assert json.loads((tmp_path / "b" / "dat.json").read_text())["title"] == "T"


def test_the_folder_of_a_clone_is_the_key(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        reader("clone", "--peer", server.peer, "dat://" + server.key, cwd=str(tmp_path))
        assert read(tmp_path / server.key) == FILES
        assert reader("cat", server.key, "a.txt", cwd=str(tmp_path)).raw == b"hello\n"  # of the folder


def test_a_clone_shares_too(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b")
    write(tmp_path / "b", {"mine": b"not shared"})
    with reader.share(tmp_path / "b") as server:
        assert server.key == key_of(origin)
        reader.clone(server, tmp_path / "c")
        server.stop()
    assert read(tmp_path / "c") == FILES


def test_pull(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b")
    write(origin, {"a.txt": b"second version", "new/x": b"new"})
    os.remove(str(origin / "empty"))
    with owner.share(origin) as server:
        told = reader.pull(server, tmp_path / "b", "--json").events
        server.stop()
    assert read(tmp_path / "b") == read(origin)
    assert {e["path"] for e in told if e["event"] == "entry"} >= {"/a.txt", "/new/x"}
    assert [e["path"] for e in told if e["event"] == "removed"] == ["/empty"]
    assert told[-1]["event"] == "complete" and told[-1]["version"] == 8 and told[-1]["refused"] == 0


def test_pull_when_there_is_nothing_new(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b")
        for _ in range(2):
            reader.pull(server, tmp_path / "b")
    assert read(tmp_path / "b") == FILES


def test_what_was_changed_here_is_kept_and_named(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b")
    write(tmp_path / "b", {"a.txt": b"mine, longer", "sub/deep/c.csv": b"mine too", "own": b"mine"})
    write(origin, {"a.txt": b"theirs", "new": b"1"})
    os.remove(str(origin / "sub" / "deep" / "c.csv"))
    with owner.share(origin) as server:
        result = reader.pull(server, tmp_path / "b", "--quiet", code=FAILED)
        lines = result.err.splitlines()
        assert len(lines) == 3 and "2 entries" in lines[-1]
        for path in ("/a.txt: ", "/sub/deep/c.csv: "):
            assert [line for line in lines[:2] if path in line], path
        there = read(tmp_path / "b")
        assert (there["a.txt"], there["sub/deep/c.csv"], there["new"]) == (b"mine, longer", b"mine too", b"1")
        assert "/a.txt: " in reader.pull(server, tmp_path / "b", code=FAILED).err  # again
        told = reader.pull(server, tmp_path / "b", "--json", "--force").events
        assert told[-1]["refused"] == 0 and read(tmp_path / "b")["a.txt"] == b"theirs"
        server.stop()


def test_force_overwrites_and_deletes(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b")
    write(tmp_path / "b", {"a.txt": b"mine, longer", "sub/deep/c.csv": b"mine too", "own": b"mine"})
    write(origin, {"a.txt": b"theirs"})
    os.remove(str(origin / "sub" / "deep" / "c.csv"))
    with owner.share(origin) as server:
        told = reader.pull(server, tmp_path / "b", "--json", "--force").events
        assert told[-1]["refused"] == 0
    assert read(tmp_path / "b") == dict(read(origin), own=b"mine")


def test_clone_refuses_a_folder_with_files(owner, reader, origin, tmp_path):
    write(tmp_path / "b", {"own": b"mine"})
    with owner.share(origin) as server:
        assert "not empty" in one_line(reader.clone(server, tmp_path / "b", code=FAILED))
        assert read(tmp_path / "b") == {"own": b"mine"} and not (tmp_path / "b" / ".dat").exists()
        reader.clone(server, tmp_path / "b", "--force")
    assert read(tmp_path / "b") == dict(FILES, own=b"mine")


def test_checkout_of_a_version_that_is_not_there(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        result = reader.clone(server, tmp_path / "b", "--quiet", "--timeout", "3", "--checkout", "99", code=FAILED)
        assert "newest version known is 5" in one_line(result)
        reader.clone(server, tmp_path / "b")
    assert read(tmp_path / "b") == FILES


def test_clone_into_a_folder_that_was_only_begun(owner, reader, origin, tmp_path):
    (tmp_path / "b" / ".dat").mkdir(parents=True)
    reader("clone", "--quiet", "--timeout", "1", "--peer", "127.0.0.1:%d" % tools.closed_port(), key_of(origin),
           tmp_path / "b", code=NO_PEER)
    assert "version: 0" in reader("status", tmp_path / "b").lines
    assert "nothing of this drive is here" in reader("ls", tmp_path / "b", code=FAILED).err
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b")
    assert read(tmp_path / "b") == FILES


def test_clone_refuses_another_drive_and_the_owners(owner, reader, origin, tmp_path):
    owner("create", tmp_path / "other")
    with owner.share(origin) as server:
        assert key_of(tmp_path / "other") in one_line(reader.clone(server, tmp_path / "other", code=FAILED))
    assert "secret key" in one_line(owner("pull", "--peer", CLOSED, origin, code=FAILED))


def test_select(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        for globs, expected in ((["sub"], ["sub/big.bin", "sub/deep/c.csv"]), (["*.txt"], ["a.txt"]),
                                (["**/*.csv", "/a.*"], ["a.txt", "sub/deep/c.csv"]), (["sub/d??p/"[:-1]], ["sub/deep/c.csv"])):
            folder = tmp_path / ("copy" + str(len(os.listdir(str(tmp_path)))))
            reader.clone(server, folder, *[word for g in globs for word in ("--select", g)])
            assert sorted(read(folder)) == expected


@pytest.mark.parametrize("archive", [[], ["--archive"]])
def test_checkout_of_an_archive(owner, reader, archive, tmp_path):
    folder = tmp_path / "a"
    write(folder, {"x": b"one"})
    owner("create", "--archive", folder)
    write(folder, {"x": b"two, and longer", "y": b"2"})
    with owner.share(folder) as server:
        reader.clone(server, tmp_path / "b", "--checkout", "2", *archive)
        assert read(tmp_path / "b") == {"x": b"one"}
        assert "archive: %s" % ("yes" if archive else "no") in reader("status", tmp_path / "b").lines
        reader.pull(server, tmp_path / "b")
        assert read(tmp_path / "b") == read(folder)
        if archive:
            assert reader("cat", "--checkout", "2", tmp_path / "b", "x").raw == b"one"
            reader.pull(server, tmp_path / "b", "--checkout", "2")
            assert read(tmp_path / "b") == {"x": b"one"}
            assert reader("verify", tmp_path / "b").out.startswith("ok ")
        server.stop()


def test_an_interrupted_clone_goes_on(owner, reader, tmp_path):
    files = {"f%02d" % i: tools.block(i, 0, 300000) for i in range(40)}
    write(tmp_path / "a", files)
    with owner.share(tmp_path / "a", "--no-sync") as server:
        with reader.start("clone", "--json", "--peer", server.peer, server.key, tmp_path / "b") as client:
            client.event("entry")
            client.interrupt()
            assert client.wait() in (INTERRUPTED, DONE)
            first = [json.loads(line) for line in client.out]
        told = reader.clone(server, tmp_path / "b", "--json").events
        server.stop()
    assert read(tmp_path / "b") == files
    if first[-1]["event"] == "error":
        assert "interrupted" in first[-1]["message"]
        done = {e["path"] for e in first if e["event"] == "entry"}
        assert told[-1]["bytes"] < 300000 * (41 - len(done)) + 100000


def test_no_peer(reader, tmp_path):
    port = tools.closed_port()
    result = reader("clone", "--quiet", "--timeout", "1", "--peer", "127.0.0.1:%d" % port, "00" * 32, tmp_path / "b",
                    code=NO_PEER)
    assert "127.0.0.1:%d" % port in one_line(result)


def test_timeout_when_the_content_never_comes(owner, reader, tmp_path):
    made = drives.Drive(seed=b"1" * 32)
    made.put("/x", b"1" * 1000)
    with tools.Server([made.metadata]) as server:
        result = reader("clone", "--quiet", "--timeout", "2", "--peer", "127.0.0.1:%d" % server.port, made.key.hex(),
                        tmp_path / "b", code=FAILED)
        named, last = result.err.splitlines()
        assert named.startswith("datsync: clone: /x: not all of it") and "nothing came" in last


# ---- live -----------------------------------------------------------------------------------------

def test_watch_and_live(owner, reader, origin, tmp_path):
    with owner.share(origin, "--watch") as server, \
            reader.start("clone", "--live", "--json", "--peer", server.peer, server.key, tmp_path / "b") as client:
        client.event("complete")
        write(origin, {"new": b"1", "a.txt": b"changed, surely"})
        client.event("complete", 30, lambda e: read(tmp_path / "b") == read(origin))
        os.remove(str(origin / "new"))
        client.event("removed", 30, lambda e: e["path"] == "/new")
        server.stop()
        client.stop(DONE)
    assert read(tmp_path / "b") == read(origin)


def test_sync_on_both_sides(owner, reader, origin, tmp_path):
    with owner.serve("sync", origin) as server:
        reader.clone(server, tmp_path / "b")
        with reader.start("sync", "--json", "--listen", "127.0.0.1:0", "--peer", server.peer, tmp_path / "b") as client:
            peer = client.event("listening")["address"]
            client.event("complete")
            write(origin, {"new": b"1"})
            client.event("entry", 30, lambda e: e["path"] == "/new")
            client.event("complete", 30)
            server.peer = peer  # a third, from the clone
            reader.clone(server, tmp_path / "c")
            assert read(tmp_path / "c") == read(origin)
            client.stop(DONE)
        server.stop(DONE)


@pytest.mark.posix
def test_a_watch_names_a_fault_once(owner, origin):
    os.symlink("a.txt", str(origin / "link"))
    with owner.share(origin, "--watch", "--json") as server:
        write(origin, {"one": b"1"})
        server.event("import", 30, lambda e: e["path"] == "/one")
        write(origin, {"two": b"2"})
        server.event("import", 30, lambda e: e["path"] == "/two")
        server.stop(FAILED)
    assert len([line for line in server.err if "/link" in line]) == 1


def test_interrupting_a_share_that_imports(owner, tmp_path):
    write(tmp_path / "a", {"f%d" % i: tools.block(i, 0, 1 << 20) for i in range(20)})
    with owner.start("share", "--json", "--listen", "127.0.0.1:0", tmp_path / "a") as process:
        process.event("import")
        process.stop(DONE)
    assert owner("verify", tmp_path / "a").out.startswith("ok ")


def test_interrupting_create_keeps_what_was_imported(owner, tmp_path):
    files = {"f%02d" % i: tools.block(i, 0, 1 << 20) for i in range(30)}
    write(tmp_path / "a", files)
    with owner.start("create", "--json", tmp_path / "a") as process:
        process.event("import")
        process.interrupt()
        assert process.wait() in (INTERRUPTED, DONE)
        last = json.loads(process.out[-1])
    assert (last["event"], last.get("code")) in (("error", INTERRUPTED), ("imported", None))
    assert owner("verify", tmp_path / "a").out.startswith("ok ")
    with owner.share(tmp_path / "a"):
        pass
    assert len(names(owner, tmp_path / "a")) == 31


def test_a_large_file_is_imported_while_others_are_served(owner, reader, origin, tmp_path):
    with owner.share(origin, "--watch", "--json", "--no-sync") as server:
        with open(str(origin / "large"), "wb") as file:
            file.truncate(200 << 20)
        for i in range(3):
            reader.clone(server, tmp_path / ("b%d" % i), "--select", "*.txt", "--timeout", "10")
        server.event("import", 60, lambda e: e["path"] == "/large" and e["size"] == 200 << 20)
        server.stop()


# ---- verify ---------------------------------------------------------------------------------------

def test_verify_names_what_is_bad(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b")
    path = str(tmp_path / "b" / "sub" / "big.bin")
    times = os.stat(path)
    with open(path, "r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    result = reader("verify", tmp_path / "b", code=FAILED)
    assert re.fullmatch(r"bad /sub/big\.bin: .+\n", result.out) and one_line(result)


@pytest.mark.parametrize("half", ["metadata", "content"])
def test_verify_where_a_bitfield_has_no_header(half, owner, reader, origin, tmp_path):
    """hypercore's `overwrite` zeroes it: every other command refuses, and verify tells what is good without it."""
    copy = tmp_path / "copy"
    with owner.share(origin) as server:
        reader.clone(server, copy)
    for folder, home in ((origin, owner), (copy, reader)):
        bitfield = folder / ".dat" / (half + ".bitfield")
        bitfield.write_bytes(bytes(32) + bitfield.read_bytes()[32:])
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for command in ("status", "ls", "log"):
            assert "verify tells what is here without it" in home(command, folder, code=1).err
        told = home("verify", folder, code=1)
        assert told.out == "" and "good entries: %d; nothing was changed" % (len(FILES) + 1) in told.err
        (folder / "a.txt").write_bytes(b"bad")
        assert home("verify", folder, code=1).out.startswith("bad /a.txt: ")
        (folder / "a.txt").write_bytes(before[folder / "a.txt"])
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_verify_of_the_metadata(owner, origin):
    tools.flip(origin / ".dat" / "metadata.data", 80)
    result = owner("verify", "--json", origin, code=FAILED)
    bad = [e for e in result.events if e["event"] == "bad"]
    assert bad and bad[0]["file"] == "metadata.data"


# ---- strangers' names -----------------------------------------------------------------------------

HOSTILE = {"/bell\x07\x1b[31m": "bell\\x07\\x1b[31m", "/line\nbreak": "line\\x0abreak", "/c1\u009bx": "c1\\xc2\\x9bx",
           "/rtl\u202etxt": "rtl\\xe2\\x80\\xaetxt"}


@pytest.mark.posix
def test_names_are_made_safe(reader, tmp_path):
    made = drives.Drive(seed=b"2" * 32)
    for path in HOSTILE:
        made.put(path, b"1")
    made.put("/../up\x1b", b"1")
    with tools.Server([made.metadata, made.content]) as server:
        result = reader("clone", "--peer", "127.0.0.1:%d" % server.port, made.key.hex(), tmp_path / "b", code=FAILED)
        assert "/../up\\x1b: " in result.err and "1 entry" in result.err and "\x1b" not in result.err
    assert not os.path.exists(str(tmp_path / "up\x1b"))
    for command in ("log", "ls"):
        out = reader(command, tmp_path / "b").out
        for raw, safe in HOSTILE.items():
            assert safe in out and raw[1:] not in out
    told = reader("ls", "--json", tmp_path / "b").events
    assert {e["path"] for e in told} >= set(HOSTILE)
    assert all(e["event"] == "log" for e in reader("log", "--json", tmp_path / "b").events)


# ---- JSON -----------------------------------------------------------------------------------------

@pytest.mark.posix
def test_json_of_a_share(owner, reader, tmp_path):
    write(tmp_path / "a", FILES)
    os.symlink("a.txt", str(tmp_path / "a" / "link"))
    with owner.start("share", "--json", "--listen", "127.0.0.1:0", tmp_path / "a") as server:
        key = server.event("created")["key"]
        assert server.event("drive") == {"event": "drive", "key": key, "version": 0, "laid_out": 0, "writable": True}
        peer = server.event("listening")["address"]
        reader("clone", "--peer", peer, key, tmp_path / "b")
        server.stop(FAILED)
    told = [json.loads(line) for line in server.out]
    assert {e["path"] for e in told if e["event"] == "import"} == {"/" + n for n in FILES} | {"/dat.json"}
    assert [e["path"] for e in told if e["event"] == "refused"] == ["/link"]
    assert [e for e in told if e["event"] == "imported"] == [
        {"event": "imported", "added": 5, "updated": 0, "removed": 0, "refused": 1, "version": 5}]
    assert told[-1]["event"] == "error" and told[-1]["code"] == FAILED


def test_json_of_a_clone(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        told = reader.clone(server, tmp_path / "b", "--json").events
    assert [e["event"] for e in told[:2]] == ["drive", "peer"]
    assert {e["path"]: e["size"] for e in told if e["event"] == "entry"}["/sub/big.bin"] == 200000
    progress = [e for e in told if e["event"] == "progress"][-1]
    assert progress["held"] == progress["total"] > 200000
    assert told[-1].items() >= {"event": "complete", "version": 5, "refused": 0}.items()


def test_json_of_the_other_commands(owner, origin):
    assert owner("verify", "--json", origin).events == [{"event": "verified", "ok": 5, "bad": 0}]
    told = owner("keys", "--json", origin).events[0]
    assert told["event"] == "keys" and told["key"] == key_of(origin) and told["writable"] is True
    result = owner("create", "--json", origin, code=FAILED)
    assert [(e["event"], e["code"]) for e in result.events] == [("error", FAILED)]


@pytest.mark.posix
def test_a_terminal_gets_a_bar(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        code, out, shown = tools.on_a_terminal("clone", "--secret-dir", reader.secrets, "--peer", server.peer, server.key,
                                               tmp_path / "b", env=reader.env)
        assert code == DONE and out == b""
        server.stop()
    assert b"complete" in shown and b"version 5" in shown
