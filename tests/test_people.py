"""What people really do: links as they have them, typos, selections, files that are still being written, keys that move house."""

import os
import re
import shutil
import time

import pytest

import tools
from dat import drive as drives
from test_cli_drive import CLOSED, FILES, Home, key_of, names, origin, owner, read, reader, write  # noqa: F401 (fixtures)
from tools import DONE, FAILED, NO_PEER, USAGE, one_line

# ---- links ----------------------------------------------------------------------------------------

GOOD = ["K", "K/", "dat://K", "DAT://K/", "dat:K", "  dat://K\t", "https://datproject.org/K", "HTTP://h.example:80/K/", "dat://K?a#b",
        "https://%s.example/K" % ("f" * 64)]
BAD = {"dat://name.com": "names", "name.com/a": "names", "https://datbase.org/user/name": "names", "hyper://K": "successor",
       "HYPER://K/a": "successor", "dat://K0": "64", "dat://Kx": "64", "dat://": "64", "https://K/": "64", "x": "64", "dat://K+0": "version",
       "dat://K+x": "version", "dat://K+": "version", "dat://K+99999999999": "version", "dat://K/%zz": "path", "dat://K/%ff": "path",
       "dat://K/a/../b": "path", "dat://K/" + "a" * 5000: "too long"}


def filled(text, key):
    return text.replace("K", key)


def test_every_command_takes_every_form_of_a_link(owner, reader, origin, tmp_path):
    here = str(tmp_path / "here")
    os.mkdir(here)
    with owner.share(origin) as server:
        for i, form in enumerate(GOOD):
            link = filled(form, server.key)
            reader("clone", "--peer", server.peer, link, tmp_path / ("copy%d" % i))
            assert read(tmp_path / ("copy%d" % i)) == FILES
            assert reader("cat", "--peer", server.peer, link, "a.txt", cwd=here).raw == FILES["a.txt"]
            assert sorted(reader("ls", "--peer", server.peer, link, cwd=here).lines) == ["a.txt", "dat.json", "empty", "sub/"]
            tools.feed("clone", "--peer", server.peer, link, tmp_path / ("feed%d" % i))
        server.stop()
    assert os.listdir(here) == []


@pytest.mark.parametrize("form", BAD, ids=[ascii(form[:30]) for form in BAD])
def test_a_link_that_is_none_says_why(form, owner, tmp_path):
    link = filled(form, "ab" * 32)
    calls = [["clone", "--peer", CLOSED, link], ["feed", "clone", "--peer", CLOSED, link, "x"]]
    if ":" in form:  # else it is a folder's name
        calls += [["cat", "--peer", CLOSED, link, "x"], ["cat", "--peer", CLOSED, link], ["ls", "--peer", CLOSED, link]]
    for call in calls:
        result = tools.run(*call, code=USAGE, cwd=str(tmp_path), env=owner.env)
        assert BAD[form] in one_line(result) and not result.raw
    assert os.listdir(str(tmp_path)) == ["owner"]


def test_contradictions_in_a_link(owner, tmp_path):
    key = "ab" * 32
    for call in (["clone", "dat://%s+3" % key, "--checkout", "4"], ["cat", "dat://%s+3/a" % key, "--checkout", "4"],
                 ["ls", "dat://%s+3" % key, "--checkout", "4"], ["cat", "dat://%s/a" % key, "b"], ["ls", "dat://%s/a" % key, "b"],
                 ["cat", "dat://" + key], ["cat", "dat://%s/" % key], ["feed", "clone", "dat://%s/a" % key, "x"],
                 ["feed", "clone", "dat://%s+3" % key, "x"], ["clone", "--all", "dat://%s/a" % key],
                 ["clone", "--all", "--select", "a", key], ["pull", "--all", "--select", "a"]):
        result = tools.run(*call, "--peer", CLOSED, code=USAGE, cwd=str(tmp_path), env=owner.env)
        assert one_line(result) and not result.raw
    result = tools.run("sync", "--all", "--select", "a", code=USAGE, cwd=str(tmp_path), env=owner.env)
    assert one_line(result)
    assert os.listdir(str(tmp_path)) == ["owner"]


def test_a_path_and_a_version_in_a_link(owner, reader, tmp_path):
    files = {"a.txt": b"one", "sub/b c.txt": b"two", "sub/[x].txt": b"three", "\u00e9/\u00fc": b"four", "sub/x.txt": b"no"}
    write(tmp_path / "a", files)
    owner("create", "--archive", tmp_path / "a")
    write(tmp_path / "a", {"a.txt": b"longer than one"})
    with owner.share(tmp_path / "a") as server:
        def show(command, link, *more):
            return reader(command, "--peer", server.peer, "dat://" + server.key + link, *more)
        assert show("cat", "/a.txt").raw == show("cat", "/%61.txt?x#y").raw == show("cat", "//a.txt/").raw == b"longer than one"
        assert show("cat", "+6/a.txt").raw == show("cat", "+6/a.txt", "--checkout", "6").raw == show("cat", "+6", "a.txt").raw == b"one"
        assert show("cat", "/sub/b%20c.txt").raw == b"two" and show("cat", "/sub/b c.txt").raw == b"two"
        assert show("cat", "/%C3%A9/%c3%bc").raw == b"four"
        assert "b c.txt" in show("ls", "/sub").lines and show("ls", "/a.txt").lines == ["a.txt"]
        assert show("ls", "/sub").lines == show("ls", "", "sub").lines == show("ls", "/", "/sub/").lines
        assert "sub/b c.txt" in show("ls", "", "--recursive").lines
        assert show("ls", "/a.txt", "--json").events[-1]["size"] == 15
        assert {e["event"] for e in show("ls", "", "--json").events} <= {"peer", "progress", "disconnected", "ls"}
        assert show("ls", "+6/a.txt", "--json").events[-1]["size"] == 3
        for command in ("ls", "cat"):
            result = reader(command, "--quiet", "--peer", server.peer, "dat://%s/nope" % server.key, code=FAILED)
            assert "nope" in one_line(result)
        for i, (link, expected) in enumerate([("/sub", ["sub/[x].txt", "sub/b c.txt", "sub/x.txt"]), ("/sub/b%20c.txt", ["sub/b c.txt"]),
                                              ("/sub/%5Bx%5D.txt", ["sub/[x].txt"]), ("/", sorted(files)), ("+6/a.txt", ["a.txt"])]):
            folder = tmp_path / ("copy%d" % i)
            reader("clone", "--peer", server.peer, "dat://" + server.key + link, folder)
            assert sorted(read(folder)) == expected
        assert read(folder)["a.txt"] == b"one"
        server.stop()


def test_listing_a_link_fetches_no_content(owner, reader, origin):
    made = drives.Drive(seed=b"3" * 32)
    made.put("/x", b"1" * 1000)
    with tools.Server([made.metadata, made.content]) as server:
        assert reader("ls", "--peer", "127.0.0.1:%d" % server.port, made.key.hex()).lines == ["x"]
        assert len(server.requests) == made.metadata.length  # and none of the content


# ---- selections -----------------------------------------------------------------------------------

def kept(folder):
    """The selection that a folder keeps, None if it has none."""
    try:
        return (folder / ".dat" / "selection").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


@pytest.mark.parametrize("globs", [["typo.txt"], ["a.txt", "typo.txt"], ["typo", "sub/typo", "sub/*.txt"], ["a.txt,empty"], ["A.TXT"]])
def test_a_pattern_that_matches_nothing_is_named(globs, owner, reader, origin, tmp_path):
    options = [word for glob in globs for word in ("--select", glob)]
    wrong = [glob for glob in globs if glob != "a.txt"]
    with owner.share(origin) as server:
        result = reader.clone(server, tmp_path / "b", "--quiet", *options, code=FAILED)
        assert len(result.err.splitlines()) == len(wrong) + 1
        for line, glob in zip(result.err.splitlines(), wrong):
            assert ": %s: nothing" % glob in line and ("--select" in line) == ("," in glob)
        assert sorted(read(tmp_path / "b")) == [glob for glob in globs if glob == "a.txt"]
        told = reader.pull(server, tmp_path / "b", "--json", code=FAILED)  # it is kept, and still wrong
        assert told.events[-2]["selection"] == globs and told.events[-1]["code"] == FAILED
        reader.pull(server, tmp_path / "b", "--select", "a.txt")
        server.stop()
    assert read(tmp_path / "b") == {"a.txt": FILES["a.txt"]}


SPELLINGS = [(["./a.txt"], "a.txt"), (["/a.txt"], "a.txt"), (["a.txt/"], "a.txt"), (["././/a.txt"], "a.txt"), (["sub//deep/"], "sub/deep"),
             (["./sub/./deep/./c.csv"], "sub/deep/c.csv"), (["."], "**"), (["./"], "**"), (["/"], "**"), (["sub/**"], "sub/**"),
             (["./*.txt", "empty"], "*.txt\nempty"), (["a.txt", "a.txt"], "a.txt\na.txt")]


@pytest.mark.parametrize("globs, expected", SPELLINGS, ids=["%s" % g for g, _ in SPELLINGS])
def test_spellings_of_a_path_mean_the_path(globs, expected, owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b", *[word for glob in globs for word in ("--select", glob)])
        server.stop()
    assert kept(tmp_path / "b") == expected + "\n" and read(tmp_path / "b")


def test_patterns_that_can_not_be(owner, tmp_path):
    for glob in ("", "[a", "a\\", "..", "../a", "a/../b", "a\nb", "a\rb"):
        result = owner("clone", "--peer", CLOSED, "--select", glob, "ab" * 32, tmp_path / "b", code=USAGE)
        assert one_line(result)
    many = [word for i in range(65) for word in ("--select", "f%d" % i)]
    assert one_line(owner("clone", "--peer", CLOSED, *many, "ab" * 32, tmp_path / "b", code=USAGE))
    assert not (tmp_path / "b").exists()


def test_the_selection_is_kept(owner, reader, origin, tmp_path):
    folder = tmp_path / "b"
    with owner.share(origin) as server:
        result = reader.clone(server, folder, "--select", "sub", "--select", "*.txt")
        assert "complete: the selection of version 5" in result.err
        assert kept(folder) == "sub\n*.txt\n"
        assert [line for line in reader("status", folder).lines if line.startswith("selection")] == ["selection: sub", "selection: *.txt"]
        assert reader("status", "--json", folder).events[0]["selection"] == ["sub", "*.txt"]
        server.stop()
    write(origin, {"b.txt": b"new", "sub/new": b"new too", "other": b"not asked for"})
    with owner.share(origin) as server:
        assert "the selection of version 8" in reader.pull(server, folder).err
        assert sorted(read(folder)) == ["a.txt", "b.txt", "sub/big.bin", "sub/deep/c.csv", "sub/new"]
        assert reader.clone(server, folder, "--json").events[-1]["selection"] == ["sub", "*.txt"]
        assert "other" not in read(folder)
        reader.pull(server, folder, "--select", "other")
        assert kept(folder) == "other\n" and "other" in read(folder)
        result = reader.pull(server, folder, "--all")
        assert "complete: version 8" in result.err and kept(folder) is None and read(folder) == read(origin)
        assert "selection" not in reader("status", folder).out
        assert "selection" not in reader.pull(server, folder, "--json", "--all").events[-1]
        server.stop()
    assert reader("verify", folder).out == "ok 8\n"


def test_what_is_selected_no_more_stays_as_it_is(owner, reader, origin, tmp_path):
    """It is not brought up to date, not told as bad, and not served once it is old; and is taken up again."""
    folder = tmp_path / "b"
    with owner.share(origin) as server:
        reader.clone(server, folder)
        reader.pull(server, folder, "--select", "sub")
        assert read(folder) == FILES
        server.stop()
    with reader.share(folder) as server:  # it is current still
        reader.clone(server, tmp_path / "c")
        server.stop()
    assert read(tmp_path / "c") == FILES
    write(origin, {"a.txt": b"a second version", "sub/new": b"new"})
    os.remove(str(origin / "empty"))
    with owner.share(origin) as server:
        assert "the selection of version 8" in reader.pull(server, folder).err
        server.stop()
    there = read(folder)
    assert there["a.txt"] == FILES["a.txt"] and there["sub/new"] == b"new" and "empty" not in there
    assert reader("verify", folder).out.startswith("ok ")
    with reader.share(folder) as server:
        result = reader.clone(server, tmp_path / "d", "--timeout", "2", code=FAILED)
        assert "a.txt" not in read(tmp_path / "d") and read(tmp_path / "d")["sub/new"] == b"new"
        server.stop()
    with owner.share(origin) as server:
        reader.pull(server, folder, "--all")
        server.stop()
    assert read(folder) == read(origin)


def test_a_path_in_a_link_is_a_kept_selection(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        result = reader("clone", "--peer", server.peer, "dat://%s/sub/deep" % server.key, tmp_path / "b")
        assert "the selection of version 5" in result.err and kept(tmp_path / "b") == "sub/deep\n"
        reader("clone", "--peer", server.peer, "dat://%s/sub/deep" % server.key, "--select", "empty", tmp_path / "c")
        assert kept(tmp_path / "c") == "empty\nsub/deep\n"
        result = reader("clone", "--quiet", "--peer", server.peer, "dat://%s/typo" % server.key, tmp_path / "d", code=FAILED)
        assert "typo: nothing" in result.err
        server.stop()
    assert sorted(read(tmp_path / "b")) == ["sub/deep/c.csv"] and sorted(read(tmp_path / "c")) == ["empty", "sub/deep/c.csv"]


def test_the_selection_of_an_interrupted_clone(owner, reader, origin, tmp_path):
    reader("clone", "--quiet", "--timeout", "1", "--peer", CLOSED, "--select", "sub", key_of(origin), tmp_path / "b", code=NO_PEER)
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b")
        server.stop()
    assert sorted(read(tmp_path / "b")) == ["sub/big.bin", "sub/deep/c.csv"]


def test_sync_keeps_to_the_selection(owner, reader, origin, tmp_path):
    with owner.serve("sync", origin) as server:
        reader.clone(server, tmp_path / "b", "--select", "sub")
        with reader.start("sync", "--json", "--listen", "127.0.0.1:0", "--peer", server.peer, tmp_path / "b") as client:
            assert client.event("complete")["selection"] == ["sub"]
            write(origin, {"other": b"1", "sub/new": b"1"})
            client.event("entry", 60, lambda e: e["path"] == "/sub/new")
            client.event("complete", 60)
            client.stop(DONE)
        assert sorted(read(tmp_path / "b")) == ["sub/big.bin", "sub/deep/c.csv", "sub/new"]
        with reader.start("sync", "--select", "typo", "--listen", "127.0.0.1:0", "--peer", server.peer, tmp_path / "b") as client:
            tools.eventually(lambda: [line for line in client.err if "typo: nothing" in line], what="naming the pattern")
            client.stop(FAILED)
        assert len([line for line in client.err if "typo: nothing" in line]) == 1
        server.stop()


HOSTILE = {"empty": b"", "a blank line": b"a\n\nb\n", "a NUL": b"a\0b\n", "no UTF-8": b"\xff\n", "no pattern": b"a\n[b\n", "up": b"../x\n",
           "too many": b"a\n" * 65, "too long": b"a" * 2000000, "a backslash": b"a\\", "bits": bytes(range(256)) * 40}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_selection_that_is_damaged(what, owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b", "--select", "sub")
        before = read(tmp_path / "b")
        (tmp_path / "b" / ".dat" / "selection").write_bytes(HOSTILE[what])
        for call in (lambda: reader.pull(server, tmp_path / "b", code=FAILED), lambda: reader.clone(server, tmp_path / "b", code=FAILED),
                     lambda: reader("status", tmp_path / "b", code=FAILED)):
            assert ".dat/selection" in one_line(call())
        assert "version: 5" in reader("status", tmp_path / "b", code=FAILED).lines
        assert read(tmp_path / "b") == before
        if len(what) % 2:
            reader.pull(server, tmp_path / "b", "--select", "sub")
            assert read(tmp_path / "b") == before
        else:
            reader.pull(server, tmp_path / "b", "--all")
            assert read(tmp_path / "b") == FILES
        server.stop()


def test_a_selection_that_was_edited(owner, reader, origin, tmp_path):
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b", "--select", "sub")
        (tmp_path / "b" / ".dat" / "selection").write_bytes(b"./a.txt\r\n/empty")  # as an editor may leave it
        (tmp_path / "b" / ".dat" / "selection.new").write_bytes(b"a crash left this, longer than what replaces it")
        assert reader.pull(server, tmp_path / "b", "--json").events[-1]["selection"] == ["a.txt", "empty"]
        reader.pull(server, tmp_path / "b", "--select", "dat.json")
        assert kept(tmp_path / "b") == "dat.json\n" and not (tmp_path / "b" / ".dat" / "selection.new").exists()
        server.stop()


@pytest.mark.posix
def test_a_selection_that_is_a_link(owner, reader, origin, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"mine\n")
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b", "--select", "sub")
        os.remove(str(tmp_path / "b" / ".dat" / "selection"))
        for name in ("selection", "selection.new"):
            os.symlink(str(tmp_path / "elsewhere"), str(tmp_path / "b" / ".dat" / name))
        assert ".dat/selection" in one_line(reader.pull(server, tmp_path / "b", code=FAILED))
        assert ".dat/selection" in one_line(reader.pull(server, tmp_path / "b", "--select", "a.txt", code=FAILED))
        for name in ("selection", "selection.new"):
            os.remove(str(tmp_path / "b" / ".dat" / name))
        reader.pull(server, tmp_path / "b", "--select", "a.txt")
        server.stop()
    assert (tmp_path / "elsewhere").read_bytes() == b"mine\n" and kept(tmp_path / "b") == "a.txt\n"


# ---- a typo makes no drive --------------------------------------------------------------------------

@pytest.mark.parametrize("command", ["share", "sync"])
def test_a_typo_makes_no_drive(command, owner, tmp_path):
    write(tmp_path / "photos", {"a": b"1"})
    for name in ("phtos", os.path.join("photos", "sub"), os.path.join("no", "where"), "phtos/", ""):
        result = owner(command, "--no-listen", "--peer", CLOSED, name, code=USAGE, cwd=str(tmp_path))
        assert one_line(result) and not result.raw
    assert sorted(os.listdir(str(tmp_path))) == ["owner", "photos"] and os.listdir(str(tmp_path / "photos")) == ["a"]
    assert not os.path.exists(owner.secrets)
    if command == "sync":
        assert one_line(owner("sync", "--no-listen", "--peer", CLOSED, tmp_path / "photos", code=FAILED))
        assert os.listdir(str(tmp_path / "photos")) == ["a"]
    else:  # in a folder that is there it makes the drive
        with owner.share(tmp_path / "photos") as server:
            server.stop()
        assert names(owner, tmp_path / "photos") == ["a", "dat.json"]


def test_create_makes_the_folder(owner, tmp_path):
    owner("create", tmp_path / "new")
    assert names(owner, tmp_path / "new") == ["dat.json"]


# ---- secret keys ------------------------------------------------------------------------------------

def secret_of(home, folder):
    return home("keys", "export", folder).out.strip()


@pytest.mark.parametrize("options", [["share"], ["share", "--watch"], ["share", "--json"], ["sync"]])
def test_a_missing_secret_key_is_told(options, owner, reader, origin, tmp_path):
    shutil.move(owner.secrets, str(tmp_path / "away"))
    assert "key missing: yes" in owner("status", origin).lines
    assert owner("status", "--json", origin).events[0]["key_missing"] is True
    write(origin, {"new": b"1"})
    with owner.start(*options, "--listen", "127.0.0.1:0", origin) as server:
        if "--json" in options:
            assert server.event("drive")["key_missing"] is True
            server.key, server.peer = key_of(origin), server.event("listening")["address"]
        else:
            server.key = server.line(r"^dat://([0-9a-f]{64})$").group(1)
            server.peer = server.line(r"^listening on (127\.0\.0\.1:\d+)$").group(1)
        reader.clone(server, tmp_path / "b")
        server.stop()
    assert read(tmp_path / "b") == FILES
    assert len([line for line in server.err if "its secret key is not here" in line]) == 1
    # Of a clone, where there never was one, nothing is said.
    assert "key missing" not in reader("status", tmp_path / "b").out
    with reader.share(tmp_path / "b", "--json") as server:
        server.stop()
    assert "secret" not in "".join(server.err) and "key_missing" not in "".join(server.out)
    shutil.move(str(tmp_path / "away"), owner.secrets)
    with owner.share(origin) as server:
        server.stop()
    assert "secret" not in "".join(server.err) and "new" in names(owner, origin)


def bring(origin, to, times):
    """Copy a folder as people do: with times, with none, with odd ones."""
    shutil.copytree(str(origin), str(to), copy_function=shutil.copy2 if times else shutil.copy)
    if times is None:
        for at, _, found in os.walk(str(to)):
            for name in found:
                os.utime(os.path.join(at, name), (1e9, 1e9))
    return to


@pytest.mark.parametrize("times, latest", [(True, None), (False, None), (None, None), (False, b"\0" * 7 + b"\2"), (True, b"\0" * 8),
                                           (False, b"x")])
def test_moving_house(times, latest, owner, reader, origin, tmp_path):
    secret, there = secret_of(owner, origin), bring(origin, tmp_path / "there", times)
    if latest is not None:
        (there / ".dat" / "metadata.latest").write_bytes(latest)
    other = Home(tmp_path / "other")
    write(there, {"mine": b"a file of the new place's own"})
    assert other("keys", "import", "--quiet", there, stdin=secret.encode()).err == ""
    assert secret_of(other, there) == secret
    with other.share(there, "--json") as server:
        told = [line for line in server.out if '"import"' in line]
        assert len(told) == 1 and '"/mine"' in told[0]
        reader.clone(server, tmp_path / "b")
        server.stop()
    assert read(tmp_path / "b") == dict(FILES, mine=b"a file of the new place's own")


@pytest.mark.parametrize("harm, named", [
    (lambda folder: os.remove(str(folder / "a.txt")), "a.txt: is missing"),
    (lambda folder: os.remove(str(folder / "empty")), "empty: is missing"),
    (lambda folder: shutil.rmtree(str(folder / "sub")), "sub/big.bin: is missing"),
    (lambda folder: (folder / "a.txt").write_bytes(b"hellO\n"), "a.txt: is not as it was published"),
    (lambda folder: (folder / "a.txt").write_bytes(b"sho"), "a.txt: is not as it was published"),
    (lambda folder: (folder / "a.txt").write_bytes(b"longer than it was"), "a.txt: is not as it was published")])
def test_moving_house_with_something_lost(harm, named, owner, origin, tmp_path):
    secret, there = secret_of(owner, origin), bring(origin, tmp_path / "there", True)
    before = {p: os.stat(str(there / p)) for p in FILES}
    harm(there)
    for path, status in before.items():
        if (there / path).exists():  # its time tells nothing
            os.utime(str(there / path), ns=(status.st_atime_ns, status.st_mtime_ns))
    other = Home(tmp_path / "other")
    result = other("keys", "import", "--quiet", there, stdin=secret.encode(), code=FAILED)
    lines = result.err.splitlines()
    assert any(line.endswith("/" + named) for line in lines[:-1]) and "no complete clone" in lines[-1]
    assert len(lines) == (3 if "sub" in named else 2)
    assert not os.path.exists(other.secrets)
    told = other("keys", "import", "--json", there, stdin=secret.encode(), code=FAILED).events
    assert told[0]["event"] == "bad" and "/" + named.split(":")[0] in [e.get("path") for e in told]
    other("keys", "import", "--force", there, stdin=secret.encode())


@pytest.mark.posix
def test_moving_house_without_modes(owner, origin, tmp_path):
    """A zip or a stick keeps no modes: the bytes are what counts."""
    secret, there = secret_of(owner, origin), bring(origin, tmp_path / "there", False)
    os.chmod(str(there / "a.txt"), 0o755)
    Home(tmp_path / "other")("keys", "import", there, stdin=secret.encode())


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_no_secret_key_is_named(whole, owner, reader, origin, tmp_path):
    key, secret, folder = key_of(origin), bytes.fromhex(secret_of(owner, origin)), tmp_path / "copy"
    owner("create", tmp_path / "another")
    other = secret_of(owner, tmp_path / "another")
    with owner.share(origin) as server:
        reader.clone(server, folder, *([] if whole else ["--select", "a.txt"]))
        server.stop()
    cases = {b"": "empty", b"\n": "no secret key", b"garbage": "no secret key", b"00": "no secret key", b"\0" * 64: "halves",
             key.encode(): "public key of the drive that is here", b"dat://%s\n" % key.encode(): "public key of the drive",
             ("dat://" + "ab" * 32).encode(): "public key;", bytes.fromhex(key): "public key", secret[:32]: "no secret key",
             secret.hex()[:127].encode(): "127 digits", (secret.hex() + "0").encode(): "129 digits", b"x" * 128: "no secret key",
             b"x" * 100000: "too long", secret[:63]: "63 bytes", secret + b"\n": "65 bytes", (secret[32:] + secret[:32]): "halves",
             (b"\1" * 32 + secret[32:]): "halves", ("0" * 128).encode(): "halves", other.encode(): "dat://" + other[64:],
             bytes.fromhex(other): "dat://" + other[64:]}
    for text, expected in cases.items():
        result = reader("keys", "import", folder, stdin=text, code=FAILED)
        assert expected in one_line(result) and not result.raw, text
    assert "writable: no" in reader("status", folder).lines
    assert not os.path.exists(reader.secrets)


def test_spellings_of_a_secret_key(owner, origin, tmp_path):
    secret = secret_of(owner, origin)
    for i, text in enumerate([bytes.fromhex(secret), secret.upper().encode(), b" \t" + secret.encode() + b"\r\n\r\n",
                              "\n".join(secret[j:j + 60] for j in range(0, 128, 60)).encode()]):
        there, other = bring(origin, tmp_path / str(i), False), Home(tmp_path / ("home%d" % i))
        other("keys", "import", there, stdin=text)
        assert secret_of(other, there) == secret


def test_a_secret_key_in_the_folder(owner, reader, origin, tmp_path):
    """As old versions left it there."""
    secret, there, home = bytes.fromhex(secret_of(owner, origin)), bring(origin, tmp_path / "there", False), Home(tmp_path / "home")
    loose = there / ".dat" / "metadata.secret_key"
    assert "loose" not in home("status", there).out
    loose.write_bytes(b"")  # or left empty
    assert "loose" not in home("status", there).out
    for wrong in (b"x", secret[:63], secret[32:] + secret[:32]):
        loose.write_bytes(wrong)
        assert [line for line in home("status", there).lines if line.startswith("loose key: ") and "not this drive's" in line]
        assert home("status", "--json", there).events[0]["loose_key"] is False
    loose.write_bytes(secret)
    [line] = [line for line in home("status", there).lines if line.startswith("loose key: ")]
    assert "writable: no" in home("status", there).lines  # it is not read there
    assert home("status", "--json", there).events[0]["loose_key"] is True
    assert "datsync keys import < .dat/metadata.secret_key" in line
    with open(str(loose), "rb") as file:
        home("keys", "import", cwd=str(there), stdin=file.read())
    assert "writable: yes" in home("status", there).lines and "loose" not in home("status", there).out


def file_of_secret(home):
    [path] = [os.path.join(at, name) for at, _, found in os.walk(home.secrets) for name in found]
    return path


def test_an_empty_secret_key_is_none(owner, reader, origin, tmp_path):
    path = file_of_secret(owner)
    secret = open(path, "rb").read()
    open(path, "wb").close()
    assert "writable: no" in owner("status", origin).lines and "key missing: yes" in owner("status", origin).lines
    assert owner("verify", origin).out == "ok 5\n"
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "b")
        server.stop()
    assert "secret key of this drive is not here" in one_line(owner("keys", "export", origin, code=FAILED))
    owner("keys", "import", origin, stdin=secret)  # takes its place
    assert open(path, "rb").read() == secret and "writable: yes" in owner("status", origin).lines


@pytest.mark.parametrize("command", ["status", "verify", "share", "keys"])
def test_a_secret_key_that_is_none_is_named_by_its_file(command, owner, origin):
    path = file_of_secret(owner)
    secret = open(path, "rb").read()
    for wrong, why in ((b"x", "64 bytes"), (secret[:63], "64 bytes"), (secret + b"\n", "64 bytes"), (secret[:32] + b"x" * 32, "not the secret key")):
        with open(path, "wb") as file:
            file.write(wrong)
        result = owner(command, *(["--no-listen", "--peer", CLOSED] if command == "share" else []), origin, code=FAILED)
        assert why in one_line(result) and path.replace(os.sep, "/") in one_line(result).replace(os.sep, "/")


# ---- files that are still being written ---------------------------------------------------------------

def append_slowly(path, times, pause=0.3):
    """Write to a file again and again. Returns how many pauses were long enough to take it for done."""
    rests, last = 0, time.monotonic()
    for i in range(times):
        with open(str(path), "ab") as file:
            file.write(b"line %d\n" % i)
        now = time.monotonic()
        rests += now - last > 1.8
        last = now
        time.sleep(pause)
    return rests + (time.monotonic() - last > 1.8)


def versions_of(home, folder, path):
    return [e for e in home("log", "--json", folder).events if e["path"] == path]


@pytest.mark.parametrize("command", ["share", "sync"])
def test_a_file_that_is_still_being_written(command, owner, reader, origin, tmp_path):
    with owner.serve(command, origin, *(["--watch"] if command == "share" else []), "--json") as server:
        write(origin, {"whole": b"put here in one go"})
        rests = append_slowly(origin / "growing", 20)
        (origin / "a.txt").write_bytes(b"another, and at rest")
        size = os.path.getsize(str(origin / "growing"))
        server.event("import", 60, lambda e: e["path"] == "/growing" and e["size"] == size)
        server.event("imported", 60)
        tools.eventually(lambda: any('"/a.txt"' in line for line in server.out), 60)
        reader.clone(server, tmp_path / "b")
        server.stop()
    assert len(versions_of(owner, origin, "/growing")) <= 1 + rests
    assert len(versions_of(owner, origin, "/whole")) == 1 and len(versions_of(owner, origin, "/a.txt")) == 2
    assert read(tmp_path / "b") == read(origin)


def test_what_is_there_at_the_beginning_is_taken(owner, reader, tmp_path):
    """However young it is: a share that doesn't watch has no other occasion."""
    write(tmp_path / "a", {"new": b"1"})
    for options in ([], ["--watch"]):
        with open(str(tmp_path / "a" / "new"), "ab") as file:
            file.write(b"2")
        with owner.share(tmp_path / "a", "--json", *options) as server:
            assert any('"/new"' in line and '"import"' in line for line in server.out)
            server.stop()


def test_a_file_that_is_gone_before_it_rests(owner, origin):
    with owner.share(origin, "--watch", "--json") as server:
        append_slowly(origin / "brief", 3, 0.1)
        os.remove(str(origin / "brief"))
        write(origin, {"other": b"1"})
        server.event("import", 60, lambda e: e["path"] == "/other")
        os.remove(str(origin / "other"))  # what is gone is gone at once
        server.event("import", 60, lambda e: e["path"] == "/other" and e["change"] == "removed")
        server.stop()
    assert len(versions_of(owner, origin, "/brief")) in (0, 2)


@pytest.mark.skipif(not os.environ.get("DATSYNC_BIG"), reason="takes more than two minutes: DATSYNC_BIG=1 runs it")
def test_a_file_that_never_rests_is_taken_once_a_minute(owner, origin):
    with owner.share(origin, "--watch", "--json") as server:
        rests = append_slowly(origin / "growing", 480)
        server.stop()
    assert 2 <= len(versions_of(owner, origin, "/growing")) <= 3 + rests


# ---- what is told is true -------------------------------------------------------------------------

def test_nothing_of_a_drive_is_here(reader, tmp_path):
    """A clone that met nobody: nothing can be listed of it, or be good."""
    folder = tmp_path / "empty"
    reader("clone", "--peer", CLOSED, "--timeout", "1", "ab" * 32, folder, code=NO_PEER)
    assert reader("verify", folder, code=FAILED).out == "missing 0:1 metadata\n"
    for words in (["ls", folder], ["cat", folder, "a.txt"], ["log", folder]):
        assert "nothing of this drive is here" in reader(*words, code=FAILED).err
    assert reader("status", "--json", folder).events[0]["complete"] is False


def test_an_old_version_names_its_own_files(owner, reader, origin, tmp_path):
    """What its owner has replaced nobody has any more; the files of later versions are none of it."""
    with owner.share(origin) as server:
        server.stop()
    write(origin, {"a.txt": b"changed\n", "new.txt": b"new"})
    with owner.share(origin) as server:
        version = len(FILES) + 1
        got = reader.clone(server, tmp_path / "old", "--checkout", str(version), "--timeout", "2", code=FAILED)
        assert "/a.txt: " in got.err and "/new.txt" not in got.err and "big.bin" not in got.err
        reader.clone(server, tmp_path / "copy")
        got = reader.pull(server, tmp_path / "copy", "--checkout", str(version), "--timeout", "2", code=FAILED)
        assert "/a.txt: " in got.err and "/new.txt" not in got.err
        server.stop()


def test_a_folder_that_is_missing_is_missing(owner, reader, origin, tmp_path):
    (origin / "nothing").mkdir()
    with owner.share(origin) as server:
        reader.clone(server, tmp_path / "copy")
        server.stop()
    told = reader("status", "--json", tmp_path / "copy").events[0]
    assert told["complete"] and told["laid_out"] == told["version"] and "not_whole" not in told
    (tmp_path / "copy" / "nothing").rmdir()
    told = reader("status", "--json", tmp_path / "copy").events[0]
    assert (told["complete"], told["laid_out"], told["not_whole"]) == (False, 0, ["/nothing"])
    (origin / "a.txt").unlink()
    told = owner("status", "--json", origin).events[0]
    assert (told["complete"], told["laid_out"], told["removed"], told["not_whole"]) == (False, 0, 1, ["/a.txt"])


def test_a_file_that_can_not_be_read_out_says_why(owner, reader, origin, tmp_path):
    copy = tmp_path / "copy"
    with owner.share(origin) as server:
        reader.clone(server, copy)
        server.stop()
    os.rename(str(copy / "a.txt"), str(copy / "away"))
    assert "/a.txt: no such file or directory" in reader("cat", copy, "a.txt", code=FAILED).err
    os.rename(str(copy / "away"), str(copy / "a.txt"))
    write(copy, {"a.txt": b"my edit\n"})
    assert "/a.txt: it was changed here" in reader("cat", copy, "a.txt", code=FAILED).err
    write(origin, {"a.txt": b"newer, and longer\n"})
    with owner.share(origin) as server:
        reader.pull(server, copy, code=FAILED)
        server.stop()
    assert "/a.txt: it was changed here" in reader("cat", copy, "a.txt", code=FAILED).err


def test_an_interrupted_sync_tells_whether_it_has_all(owner, reader, origin, tmp_path):
    copy = tmp_path / "copy"
    with owner.share(origin) as server:
        reader.clone(server, copy)
        server.stop()
    with reader.serve("sync", copy) as server:
        server.stop()
    (copy / "a.txt").unlink()
    with reader.serve("sync", copy) as server:
        server.stop(130)


def test_a_folder_that_came_without_its_drive(owner, origin, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(str(origin), str(other), ignore=shutil.ignore_patterns(".dat"))
    with owner.share(other) as server:
        server.stop()
    assert "names another drive, dat://%s" % key_of(origin) in "\n".join(server.err)
    assert key_of(other) != key_of(origin)
