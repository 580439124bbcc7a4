"""The command line: every command, option, line of output and exit code."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import tempfile

import pytest

import tools
from dat import sleep, wire
from tools import (DONE, FAILED, INTERRUPTED, NO_PEER, USAGE, clone, clone_now, feed, files, one_line, run,
                   share, speak_after_the_end)

SIX = ["bitfield", "data", "key", "secret_key", "signatures", "tree"]
COMMANDS = ["create", "append", "cat", "info", "verify", "share", "clone"]


@pytest.fixture
def folder(tmp_path):
    """A path for a feed that is not there yet."""
    return str(tmp_path / "feed")


def created(folder, seed=1):
    """Make an empty feed with the keys of this seed."""
    secret = tools.key_pair(seed)[1]
    made = feed("create", "--secret-key", "-", folder, stdin=secret)
    assert made.out == "dat://%s\n" % secret[32:].hex()
    return secret[32:]


# ---- usage ----------------------------------------------------------------------------------------

def test_help_is_a_result():
    for args in (["-h"], ["--help"], ["feed", "-h"], ["feed", "--help"]):
        shown = run(*args)
        assert not shown.err and all(name in shown.out for name in COMMANDS)
        for code in ("0 ", "1 ", "2 ", "3 ", "130 "):
            assert code in shown.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_names_its_options(command):
    shown = feed(command, "-h")
    assert shown.out.startswith("usage: datsync feed %s" % command) and not shown.err
    expected = {"append": ["--block-size", "--lines", "--no-sync"], "cat": ["--range"],
                "share": ["--listen", "--no-listen", "--peer", "--max-peers", "--no-discovery"],
                "clone": ["--listen", "--peer", "--range", "--timeout", "--live", "--no-sync",
                          "--no-discovery", "--no-listen", "--max-peers"],
                "create": ["--secret-key"]}
    for option in expected.get(command, []) + ["--quiet"]:
        assert re.search(r"^\s+%s\b" % option, shown.out, re.M), option


def test_version():
    assert re.fullmatch(r"datsync \d+\.\d+\.\d+\n", run("--version").out)


@pytest.mark.parametrize("args", [
    [], ["feed"], ["nothing"], ["feed", "nothing"], ["feed", "create"], ["feed", "create", "a", "b"],
    ["feed", "create", "--nothing", "a"], ["feed", "create", "--range", "0:1", "a"],
    ["feed", "create", "--secret-key"], ["feed", "create", "--quiet=1", "a"],
    ["feed", "append"], ["feed", "append", "--block-size", "0", "a"],
    ["feed", "append", "--block-size", "-1", "a"], ["feed", "append", "--block-size", "1x", "a"],
    ["feed", "append", "--block-size", "8380417", "a"], ["feed", "append", "--block-size", "", "a"],
    ["feed", "append", "--block-size", "99999999999999999999999", "a"],
    ["feed", "cat"], ["feed", "cat", "--range", "2:1", "a"], ["feed", "cat", "--range", "1", "a"],
    ["feed", "cat", "--range", "x:1", "a"], ["feed", "cat", "--range", "-1:1", "a"],
    ["feed", "cat", "--range", "0:99999999999999999999", "a"],
    ["feed", "info"], ["feed", "info", "a", "b"], ["feed", "verify"], ["feed", "share"],
    ["feed", "share", "--no-listen", "a"], ["feed", "share", "--peer", "nohost", "a"],
    ["feed", "share", "--listen", "127.0.0.1:70000", "a"], ["feed", "share", "--max-peers", "0", "a"],
    ["feed", "clone", "00" * 32], ["feed", "clone", "00" * 32, "a"],
    ["feed", "clone", "--listen", "0", "--no-listen", "00" * 32, "a"],
    ["feed", "clone", "--peer", "127.0.0.1:0", "00" * 32, "a"],
    ["feed", "clone", "--peer", "127.0.0.1:1", "--timeout", "x", "00" * 32, "a"],
])
def test_wrong_usage(args, tmp_path):
    result = run(*args, code=USAGE, cwd=str(tmp_path))
    assert not result.raw and result.err.strip()
    assert len(args) <= 1 or one_line(result)
    assert os.listdir(str(tmp_path)) == []  # nothing was made


@pytest.mark.parametrize("link", ["", "x" * 64, "0" * 63, "0" * 65, "dat://" + "0" * 63,
                                  "http://" + "0" * 64, "0" * 63 + "g"])
def test_a_bad_link(link, folder):
    result = feed("clone", "--peer", "127.0.0.1:1", "--", link, folder, code=USAGE)
    assert "64 hex" in one_line(result)
    assert not os.path.exists(folder)


def test_no_peer_to_ask_is_wrong_usage_while_there_is_no_discovery(folder):
    assert "--peer" in one_line(feed("clone", "--no-discovery", "00" * 32, folder, code=USAGE))


# ---- create ---------------------------------------------------------------------------------------

def test_create_makes_new_keys(tmp_path):
    first, second = (feed("create", tmp_path / name).out for name in "ab")
    assert re.fullmatch(r"dat://[0-9a-f]{64}\n", first) and first != second
    assert tools.audit(str(tmp_path / "a")) == []
    assert sleep.read(str(tmp_path / "a")).key.hex() in first


@pytest.mark.posix
def test_create_with_a_secret_key(folder, tmp_path):
    key, secret = tools.key_pair(7)
    (tmp_path / "secret").write_bytes(secret)
    assert feed("create", "--secret-key", tmp_path / "secret", folder).out == "dat://%s\n" % key.hex()
    assert files(folder)["secret_key"] == secret
    assert stat.S_IMODE(os.stat(os.path.join(folder, "secret_key")).st_mode) == 0o600


def test_create_refuses_a_folder_with_a_feed(folder):
    key = created(folder)
    before = files(folder)
    assert key.hex() in one_line(feed("create", folder, code=FAILED))
    assert files(folder) == before


@pytest.mark.parametrize("secret", [b"", b"x" * 63, b"x" * 65, b"x" * 64])
def test_create_refuses_a_bad_secret_key(secret, folder):
    one_line(feed("create", "--secret-key", "-", folder, stdin=secret, code=FAILED))
    assert not os.path.exists(os.path.join(folder, "secret_key"))


# ---- append ---------------------------------------------------------------------------------------

@pytest.mark.valgrind
def test_append_standard_input(folder):
    key = created(folder)
    data = tools.block(5, 0, 200001)
    assert feed("append", folder, stdin=data).out == "4\n"
    made = sleep.read(folder)
    assert made.key == key and tools.audit(folder) == []
    assert [len(made.blocks[i]) for i in range(4)] == [65536] * 3 + [200001 - 3 * 65536]
    assert list(made.signatures) == [3]  # one batch, one signature
    assert feed("append", folder, "-", stdin=b"more").out == "5\n"
    assert feed("cat", folder).raw == data + b"more"


def test_append_files_and_block_size(folder, tmp_path):
    created(folder)
    for name, size in (("a", 25), ("b", 20), ("c", 0), ("-odd", 3)):
        (tmp_path / name).write_bytes(tools.block(ord(name[0]), 0, size))
    told = feed("append", "--block-size", "10", folder, tmp_path / "a", tmp_path / "b", tmp_path / "c",
                "--", "-odd", cwd=str(tmp_path))
    assert told.out == "6\n"  # a new block with each file
    made = sleep.read(folder)
    assert [len(made.blocks[i]) for i in range(6)] == [10, 10, 5, 10, 10, 3]
    assert feed("append", "--block-size=1", folder, tmp_path / "b").out == "26\n"


def test_append_is_what_the_reference_writes(folder, tmp_path):
    """The same keys and appends leave the same bytes in all six files."""
    created(folder)
    made = tools.feeds.Feed(secret_key=tools.key_pair(1)[1])
    for size, total in ((1, 2500), (100, 950), (4096, 65536)):
        data = tools.block(size, 0, total)
        feed("append", "--block-size", size, folder, stdin=data)
        blocks = [data[i:i + size] for i in range(0, total, size)]
        for i in range(0, len(blocks), 1024):
            made.append(*blocks[i:i + 1024])
    expected = sleep.files(made)
    there = files(folder)
    assert sorted(there) == SIX
    for name in SIX:
        assert there[name] == expected[name], name


@pytest.mark.valgrind
def test_append_lines(folder):
    created(folder)
    lines = [b"one", b"", b"three\r", b"x" * 100000, bytes(range(11, 256)), b"last"]
    assert feed("append", "--lines", folder, stdin=b"\n".join(lines)).out == "6\n"
    assert feed("append", "--lines", folder, stdin=b"one more\n").out == "7\n"
    made = sleep.read(folder)
    assert [made.blocks[i] for i in range(7)] == lines + [b"one more"]
    assert tools.audit(folder) == []
    assert feed("cat", "--lines", folder).raw == b"\n".join(lines) + b"\none more\n"


def test_append_signs_1024_blocks_or_8_mib_at_once(folder):
    created(folder)
    feed("append", "--lines", folder, stdin=b"\n" * 2500)
    assert sorted(sleep.read(folder).signatures) == [1023, 2047, 2499]
    feed("append", "--block-size", 3 << 20, folder, stdin=b"\1" * (10 << 20))
    # two blocks of 3 MiB and no third one fit into 8 MiB
    assert sorted(sleep.read(folder).signatures)[3:] == [2501, 2503]


def test_append_nothing(folder):
    created(folder)
    before = files(folder)
    assert feed("append", folder).out == "0\n"
    assert files(folder).get("data", b"") == before.get("data", b"")
    assert feed("append", "--lines", folder).out == "0\n"


def test_append_refuses_a_line_that_could_never_be_sent(folder):
    created(folder)
    assert "block" in one_line(feed("append", "--lines", folder, stdin=b"x" * 8380417, code=FAILED))
    assert feed("info", folder).lines[3] == "length: 0"
    assert feed("append", "--lines", folder, stdin=b"x" * 8380416).out == "1\n"


def test_append_a_file_that_is_not_there_keeps_what_came_before(folder, tmp_path):
    created(folder)
    (tmp_path / "a").write_bytes(b"good")
    result = feed("append", folder, tmp_path / "a", tmp_path / "missing", code=FAILED)
    assert "missing" in one_line(result)
    length = int(result.out or 0)
    assert feed("verify", folder).out == "ok %d\n" % length
    assert length == sleep.read(folder).length


def test_append_a_folder_is_an_error(folder, tmp_path):
    created(folder)
    assert str(tmp_path) in one_line(feed("append", folder, tmp_path, code=FAILED))


def test_append_needs_the_secret_key(folder):
    tools.make_folder(folder, 3)
    os.remove(os.path.join(folder, "secret_key"))
    before = files(folder)
    assert "secret key" in one_line(feed("append", folder, stdin=b"x", code=FAILED))
    assert files(folder) == before


def test_append_interrupted_ends_in_order(folder):
    """What was read whole is appended, and the exit code says 130."""
    created(folder)
    with tools.Process("feed", "append", "--lines", folder, stdin=subprocess.PIPE) as process:
        process.write("a\n" * 3000)
        tools.eventually(lambda: os.path.exists(os.path.join(folder, "secret_key")))
        process.write("b\n" * 70000)  # more than a pipe holds: the feed was opened, and is read into
        process.write("half")
        process.stop(INTERRUPTED)
        length = int(process.out[-1]) if process.out else 0
    assert feed("verify", folder).out == "ok %d\n" % length
    assert length >= 3000 and set(feed("cat", folder).raw) <= set(b"ab")


def test_no_sync_writes_the_same(folder, tmp_path):
    created(folder)
    data = tools.block(1, 1, 5000)
    feed("append", "--block-size", 100, folder, stdin=data)
    secret = tools.key_pair(1)[1]
    feed("create", "--no-sync", "--secret-key", "-", tmp_path / "b", stdin=secret)
    feed("append", "--no-sync", "--block-size", 100, tmp_path / "b", stdin=data)
    assert files(folder) == files(str(tmp_path / "b"))


# ---- cat, info, verify ----------------------------------------------------------------------------

def test_cat_ranges(folder):
    made = tools.make_folder(folder, 20)
    blocks = [made.blocks[i] for i in range(20)]
    for text, part in (("0:20", blocks), ("3:5", blocks[3:5]), ("19:20", blocks[19:]), ("7:7", []),
                       (":2", blocks[:2]), ("18:", blocks[18:]), ("20:20", [])):
        assert feed("cat", "--range", text, folder).raw == b"".join(part), text
    both = feed("cat", "--range", "5:6", "--range=1:2", folder)
    assert both.raw == blocks[5] + blocks[1]


@pytest.mark.parametrize("text", ["0:21", "21:22", "20:21"])
def test_cat_beyond_the_end(text, folder):
    tools.make_folder(folder, 20)
    assert "20 blocks" in one_line(feed("cat", "--range", text, folder, code=FAILED))


def test_cat_a_block_that_is_not_here(folder):
    made = tools.make(20)
    sleep.write(tools.part(made, (2, 3)), folder)
    assert feed("cat", "--range", "2:4", folder).raw == made.blocks[2] + made.blocks[3]
    assert "block 4" in one_line(feed("cat", "--range", "3:6", folder, code=FAILED))


def test_cat_into_a_closed_pipe(folder):
    tools.make_folder(folder, 2000, 1000)
    process = subprocess.Popen(tools.command("feed", "cat", folder), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=tools.environment())
    process.stdout.close()
    err = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(20) in (FAILED, -signal.SIGPIPE) and not tools.COMPLAINT.search(err)


def test_info(folder):
    made = tools.make_folder(folder, 20, 100)
    assert feed("info", folder).lines == [
        "link: dat://" + made.key.hex(), "key: " + made.key.hex(),
        "discovery key: " + made.discovery_key.hex(), "length: 20", "bytes: 2000",
        "blocks held: 20", "writable: yes"]
    assert feed("info", "--json", folder).events == [{
        "event": "info", "key": made.key.hex(), "discovery_key": made.discovery_key.hex(),
        "length": 20, "bytes": 2000, "held": 20, "writable": True}]
    os.remove(os.path.join(folder, "secret_key"))
    assert feed("info", folder).lines[-1] == "writable: no"


@pytest.mark.parametrize("command", ["append", "cat", "info", "verify", "share"])
def test_no_feed_here(command, folder, tmp_path):
    for path in (folder, tmp_path):
        result = feed(command, path, code=FAILED)
        assert str(path) in one_line(result) and not result.raw
    assert os.listdir(str(tmp_path)) == []


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for command in ("create", "append", "cat", "info", "verify", "share"):
        assert "file" in one_line(feed(command, tmp_path / "file", code=FAILED))


@pytest.mark.valgrind
def test_verify_names_the_block_and_the_file(folder):
    made = tools.make_folder(folder, 20, 100)
    assert feed("verify", folder).out == "ok 20\n"
    assert feed("verify", "--json", folder).events == [{"event": "verified", "ok": 20, "bad": 0}]
    path = os.path.join(folder, "data")
    with open(path, "r+b") as file:
        for i in (7, 13):
            file.seek(100 * i + 50)
            file.write(bytes([made.blocks[i][50] ^ 1]))
    found = feed("verify", folder, code=FAILED)
    assert found.lines == ["bad 7 data", "bad 13 data"]
    one_line(found)
    # what is false is no longer claimed, and the rest is kept
    assert sorted(sleep.read(folder).blocks) == [i for i in range(20) if i not in (7, 13)]
    assert feed("verify", folder).out == "ok 18\n"


def test_verify_of_truncated_data(folder):
    tools.make_folder(folder, 20, 100)
    os.truncate(os.path.join(folder, "data"), 1550)
    found = feed("verify", "--json", folder, code=None)
    bad = [e["index"] for e in found.events if e["event"] == "bad"]
    assert found.code == (FAILED if bad else DONE) and set(bad) <= set(range(15, 20))
    assert feed("verify", folder).out == "ok 15\n"
    assert sorted(sleep.read(folder).blocks) == list(range(15))


@pytest.mark.parametrize("name", ["tree", "signatures"])
def test_verify_of_a_damaged_tree_or_signature(name, folder):
    """Nothing false is called good, and opening it is refused or told, never a crash."""
    tools.make_folder(folder, 20, 100, batch=20)
    tools.flip(os.path.join(folder, name), 32 + (40 * 0 if name == "tree" else 64 * 19) + 5)
    found = feed("verify", folder, code=FAILED)
    assert "ok 20" not in found.out
    one_line(found)


# ---- locks, rights, space -------------------------------------------------------------------------

def test_a_feed_that_is_open_is_locked(folder):
    tools.make_folder(folder, 5)
    with share(folder) as server:
        before = files(folder)
        for command in ("append", "share"):
            assert "another process" in one_line(feed(command, folder, stdin=b"x", code=FAILED))
        result = feed("clone", "--peer", "127.0.0.1:1", server.key.hex(), folder, code=FAILED)
        assert "another process" in one_line(result)
        assert files(folder) == before
        # one that only reads is not kept out
        assert feed("info", folder).lines[3] == "length: 5"
        assert len(feed("cat", folder).raw) == 500
        server.stop()
    assert feed("append", folder, stdin=b"x").out == "6\n"


@pytest.fixture
def plain_user(tmp_path):
    """Options for a subprocess that may not write everywhere, and a folder that it can reach."""
    root = tempfile.mkdtemp()
    os.chmod(root, 0o755)
    program = os.path.join(root, "datsync")
    shutil.copy(tools.DATSYNC, program)
    os.chmod(program, 0o755)
    options = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}

    def go(*args, code, stdin=b""):
        done = subprocess.run(tools.command("feed", *args, program=program), input=stdin, timeout=30,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=tools.environment(),
                              **options)
        result = tools.Result(args, done.returncode, done.stdout, done.stderr.decode())
        tools.assert_sane(result.code, result.err, args)
        assert result.code == code, result
        return result
    yield root, go
    subprocess.run(["chmod", "-R", "u+rwX", root], check=True)
    shutil.rmtree(root)


@pytest.mark.posix
def test_a_folder_that_cannot_be_written(plain_user):
    root, go = plain_user
    path = os.path.join(root, "feed")
    made = tools.make_folder(path, 5)
    os.chmod(os.path.join(path, "secret_key"), 0o644)  # root made it
    for name in files(path):
        os.chmod(os.path.join(path, name), 0o444)
    os.chmod(path, 0o555)
    before = files(path)
    assert "denied" in one_line(go("append", path, stdin=b"x", code=FAILED))
    assert "denied" in one_line(go("create", os.path.join(path, "new"), code=FAILED))
    with tools.Server(made) as server:
        result = go("clone", "--peer", "127.0.0.1:%d" % server.port, made.key.hex(),
                    os.path.join(path, "new"), code=FAILED)
        assert "denied" in one_line(result)
    assert go("info", path, code=DONE).lines[3] == "length: 5"
    assert go("cat", path, code=DONE).raw == tools.content(made)
    assert go("verify", path, code=DONE).out == "ok 5\n"
    assert files(path) == before


@pytest.mark.posix
def test_a_folder_that_cannot_be_written_can_be_shared(plain_user, folder):
    root, _ = plain_user
    path = os.path.join(root, "feed")
    made = tools.make_folder(path, 5)
    for name in files(path):
        os.chmod(os.path.join(path, name), 0o444)
    os.chmod(path, 0o555)
    options = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    argv = tools.command("feed", "share", "--listen", "127.0.0.1:0", path,
                         program=os.path.join(root, "datsync"))
    with tools.Process(argv=argv, **options) as server:
        port = int(server.line(r"^listening on 127\.0\.0\.1:(\d+)$").group(1))
        clone_now(made.key, folder, port=port)
        server.stop()
    tools.assert_folder(folder, made)


@pytest.fixture
def small_disk(tmp_path):
    path = str(tmp_path / "disk")
    os.mkdir(path)
    mounted = os.getuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], stderr=subprocess.DEVNULL,
        timeout=10).returncode == 0
    if not mounted:
        pytest.skip("a small file system can only be mounted by root")
    yield path
    subprocess.run(["umount", path], check=True, timeout=10)


def test_append_on_a_full_disk(small_disk):
    path = os.path.join(small_disk, "feed")
    created(path)
    first = tools.block(1, 0, 50000)
    assert feed("append", "--block-size", 1000, path, stdin=first).out == "50\n"
    result = feed("append", path, stdin=bytes(1 << 20), code=FAILED)
    assert "space" in one_line(result)
    assert feed("verify", path).out == "ok 50\n"
    assert feed("cat", path).raw == first and tools.audit(path) == []
    assert feed("append", path, stdin=b"small").out == "51\n"  # there is room for that


def test_clone_on_a_full_disk(small_disk, folder):
    made = tools.make(400, 1000)
    path = os.path.join(small_disk, "feed")
    with tools.Server(made) as server:
        result = clone_now(made.key, path, "--quiet", port=server.port, code=FAILED)
    assert "space" in one_line(result)
    kept = feed("verify", path).out
    held = sleep.read(path).blocks
    assert kept == "ok %d\n" % len(held)
    assert tools.audit(path) == [] and all(held[i] == made.blocks[i] for i in held)
    # what came before is not lost: on a larger disk it goes on from there
    shutil.copytree(path, folder)
    with tools.Server(made) as server:
        clone_now(made.key, folder, port=server.port)
        assert sorted(server.requests) == [i for i in range(400) if i not in held]
    tools.assert_folder(folder, made)


def limited():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))


@pytest.mark.posix
def test_append_at_a_file_size_limit(folder):
    created(folder)
    first = tools.block(1, 0, 50000)
    feed("append", "--block-size", 1000, folder, stdin=first)
    result = feed("append", folder, stdin=bytes(200000), code=FAILED, preexec_fn=limited)
    one_line(result)
    assert feed("verify", folder).out == "ok 50\n"
    assert feed("append", folder, stdin=b"more").out == "51\n"


@pytest.mark.posix
def test_clone_at_a_file_size_limit(folder):
    made = tools.make(400, 1000)
    with tools.Server(made) as server:
        one_line(clone_now(made.key, folder, "--quiet", port=server.port, code=FAILED,
                           preexec_fn=limited))
        feed("verify", folder)
        assert tools.audit(folder) == []
        clone_now(made.key, folder, port=server.port)
    tools.assert_folder(folder, made)


# ---- share ----------------------------------------------------------------------------------------

def test_share_prints_its_link_and_its_port(folder):
    made = tools.make_folder(folder, 5)
    with share(folder) as server:
        assert server.key == made.key
        server.stop(DONE)
        assert server.out == ["dat://" + made.key.hex(), "listening on 127.0.0.1:%d" % server.port]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.posix)])
def test_share_interrupted_exits_0(number, folder):
    tools.make_folder(folder, 5)
    with share(folder) as server:
        server.stop(DONE, number)


def test_share_json(folder, tmp_path):
    made = tools.make_folder(folder, 5)
    with tools.Process("feed", "share", "--json", "--listen", "127.0.0.1:0", folder) as server:
        first = server.event("feed")
        assert first == {"event": "feed", "key": made.key.hex(), "length": 5, "held": 5}
        port = int(server.event("listening")["address"].rsplit(":", 1)[1])
        clone_now(made.key, str(tmp_path / "copy"), port=port)
        server.event("peer")
        server.event("disconnected")
        server.stop(DONE)
        for line in server.out:
            assert isinstance(json.loads(line)["event"], str)


def test_share_on_a_port_in_use(folder):
    tools.make_folder(folder, 5)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        result = feed("share", "--listen", address, folder, code=FAILED)
        assert address in one_line(result) and "listening" not in result.out


def test_share_listens_on_another_port_when_the_usual_one_is_taken(folder, tmp_path):
    tools.make_folder(folder, 5)
    tools.make_folder(str(tmp_path / "b"), 5, seed=2)
    with tools.Process("feed", "share", "--no-discovery", folder) as first:
        one = first.line(r"^listening on (.+):(\d+)$")
        with tools.Process("feed", "share", str(tmp_path / "b")) as second:
            two = second.line(r"^listening on (.+):(\d+)$")
            assert one.group(2) != two.group(2) and two.group(2) != "3282"
            second.stop()
        first.stop()


def test_share_can_dial(folder, tmp_path):
    made = tools.make_folder(folder, 30)
    copy = str(tmp_path / "copy")
    with clone(made.key, copy, "--listen", "127.0.0.1:0") as client:
        port = client.line(r"^listening on 127\.0\.0\.1:(\d+)$").group(1)
        with tools.Process("feed", "share", "--no-listen", "--peer", "127.0.0.1:" + port, folder) as server:
            client.finish(DONE)
            server.kill()
    tools.assert_folder(copy, made)


@pytest.mark.posix
def test_a_socket_file(folder, tmp_path):
    made = tools.make_folder(folder, 5)
    address = "unix:%s" % (tmp_path / "s")
    with tools.Process("feed", "share", "--listen", address, folder) as server:
        server.line(r"^listening on ")
        feed("clone", "--peer", address, made.key.hex(), tmp_path / "copy")
        server.stop()
    tools.assert_folder(str(tmp_path / "copy"), made)


def test_ipv6(folder, tmp_path):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    made = tools.make_folder(folder, 5)
    with tools.Process("feed", "share", "--listen", "[::1]:0", folder) as server:
        port = server.line(r"^listening on \[::1\]:(\d+)$").group(1)
        feed("clone", "--peer", "[::1]:" + port, made.key.hex(), tmp_path / "copy")
        server.stop()
    tools.assert_folder(str(tmp_path / "copy"), made)


# ---- clone ----------------------------------------------------------------------------------------

def test_who_still_speaks_at_the_agreed_end_sees_no_reset(folder):
    made = tools.make(3, 10)
    with tools.peers.Listener(made.key) as listener, clone(made.key, folder, ports=[listener.port]) as client:
        speak_after_the_end(listener.accept(), made)
        client.finish(DONE)


@pytest.mark.valgrind
@pytest.mark.parametrize("blocks", [0, 1, 2, 5, 40, 9000])
def test_clone_from_datsync(blocks, folder, tmp_path):
    made = tools.make_folder(folder, blocks, 20, batch=1024)
    copy = str(tmp_path / "copy")
    with share(folder) as server:
        assert clone_now(made.key, copy, port=server.port).raw == b""
        server.stop()
    tools.assert_folder(copy, made)
    assert feed("verify", copy).out == "ok %d\n" % blocks
    assert feed("info", copy).lines[-1] == "writable: no"


def test_clone_takes_a_link(folder, tmp_path):
    made = tools.make(3)
    with tools.Server(made) as server:
        for link in ("dat://" + made.key.hex(), made.key.hex().upper(), "dat://%s/" % made.key.hex()):
            copy = str(tmp_path / str(len(link)))
            feed("clone", "--peer", "127.0.0.1:%d" % server.port, link, copy)
            tools.assert_folder(copy, made)
            shutil.rmtree(copy)


def test_clone_json(folder):
    made = tools.make(50, 100)
    with tools.Server(made) as server:
        events = clone_now(made.key, folder, "--json", port=server.port).events
    kinds = [e["event"] for e in events]
    assert kinds[0] == "feed" and events[0]["key"] == made.key.hex() and events[0]["held"] == 0
    assert "peer" in kinds
    complete = next(e for e in events if e["event"] == "complete")
    assert (complete["length"], complete["held"], complete["bytes"]) == (50, 50, 5000)


def test_json_errors_are_an_object_and_a_line(folder):
    created(folder)
    result = feed("create", "--json", folder, code=FAILED)
    assert [(e["event"], e["code"]) for e in result.events] == [("error", FAILED)]
    assert result.events[0]["message"] in one_line(result)


def test_json_of_the_other_commands(folder):
    assert feed("create", "--json", folder).events[0]["event"] == "created"
    assert feed("append", "--json", "--block-size", 3, folder, stdin=b"0123456789").events == [
        {"event": "appended", "blocks": 4, "length": 4, "bytes": 10}]
    with open(os.path.join(folder, "data"), "r+b") as file:
        file.write(b"x")
    events = feed("verify", "--json", folder, code=FAILED).events
    assert events[0] == {"event": "bad", "index": 0, "file": "data"}
    assert {"event": "verified", "ok": 3, "bad": 1} in events


def test_quiet_keeps_results_and_errors(folder, tmp_path):
    assert feed("create", "--quiet", folder).out.startswith("dat://")
    result = feed("append", "--quiet", folder, stdin=b"x")
    assert (result.out, result.err) == ("1\n", "")
    key = sleep.read(folder).key
    with share(folder, "--quiet") as server:
        result = clone_now(key, tmp_path / "copy", "--quiet", port=server.port)
        assert (result.out, result.err) == ("", "")
        server.stop()
        assert server.err == []
    one_line(feed("create", "--quiet", folder, code=FAILED))


@pytest.mark.posix
def test_a_terminal_gets_a_bar(folder):
    made = tools.make(300, 1000)
    with tools.Server(made) as server:
        code, out, shown = tools.on_a_terminal("feed", "clone", "--peer", "127.0.0.1:%d" % server.port, made.key.hex(), folder, env={})
        assert code == DONE and out == b""
    assert b"complete" in shown
    tools.assert_folder(folder, made)


@pytest.mark.valgrind
def test_clone_resumes_and_asks_only_for_what_is_missing(folder):
    made = tools.make(100)
    with tools.Server(tools.part(made, [*range(30), *range(95, 100)])) as server:
        with clone(made.key, folder, "--json", ports=[server.port]) as client:
            client.event("progress", where=lambda e: e["held"] == 35)
            client.stop(INTERRUPTED)
    tools.assert_folder(folder, made, [*range(30), *range(95, 100)])
    with tools.Server(made) as server:
        clone_now(made.key, folder, port=server.port)
        assert sorted(server.requests) == list(range(30, 95))
    tools.assert_folder(folder, made)
    with tools.Server(made) as server:
        clone_now(made.key, folder, port=server.port)
        assert server.requests == []


def test_a_clone_in_order_asks_in_order(folder):
    made = tools.make(200)
    with tools.Server(made) as server:
        clone_now(made.key, folder, port=server.port)
        # the first answer names the last block alone, so that one may come first
        asked = [i for i in server.requests if i != 199]
        assert asked == sorted(asked) and sorted(server.requests) == list(range(200))


def test_clone_again_after_the_feed_grew(folder):
    made = tools.make(20)
    with tools.Server(made) as server:
        clone_now(made.key, folder, port=server.port)
        made.append(b"x", b"y")
        server.requests.clear()
        clone_now(made.key, folder, port=server.port)
        assert sorted(server.requests) == [20, 21]
    tools.assert_folder(folder, made)


@pytest.mark.valgrind
def test_sparse_clone(folder):
    made = tools.make(1000, 10)
    with tools.Server(made) as server:
        clone_now(made.key, folder, "--range", "10:20", "--range", "15:25", "--range=998:", port=server.port)
        held = [*range(10, 25), 998, 999]
        assert sorted(server.requests) == held
        tools.assert_folder(folder, made, held)
        assert feed("info", folder).lines[3:6] == ["length: 1000", "bytes: 10000", "blocks held: 17"]
        assert feed("verify", folder).out == "ok 17\n"
        server.requests.clear()
        clone_now(made.key, folder, port=server.port)
        assert sorted(server.requests) == [i for i in range(1000) if i not in held]
    tools.assert_folder(folder, made)


def test_a_sparse_clone_serves_what_it_has(folder, tmp_path):
    made = tools.make(100)
    with tools.Server(made) as server:
        clone_now(made.key, folder, "--range", "40:60", port=server.port)
    with share(folder) as server:
        clone_now(made.key, str(tmp_path / "b"), "--range", "45:50", port=server.port)
        server.stop()
    tools.assert_folder(str(tmp_path / "b"), made, range(45, 50))


def test_an_empty_range_or_one_beyond_the_end(folder):
    made = tools.make(10)
    with tools.Server(made) as server:
        nothing = clone_now(made.key, folder, "--range", "5:5", port=server.port, code=None)
        assert nothing.code in (DONE, USAGE) and server.requests == [], nothing
        clone_now(made.key, folder, "--range", "8:1000000", port=server.port)
        assert sorted(server.requests) == [8, 9]
    tools.assert_folder(folder, made, [8, 9])


def test_an_empty_feed_is_complete(folder):
    made = tools.make(0)
    with tools.Server(made) as server:
        clone_now(made.key, folder, port=server.port)
    assert feed("verify", folder).out == "ok 0\n"
    with tools.Server(made) as server:
        server.append(b"first")
        clone_now(made.key, folder, port=server.port)
    tools.assert_folder(folder, made)


def test_clone_into_another_feeds_folder(folder):
    tools.make_folder(folder, 5, seed=1)
    before = files(folder)
    made = tools.make(5, seed=2)
    with tools.Server(made) as server:
        result = clone_now(made.key, folder, port=server.port, code=FAILED)
        assert "another feed" in one_line(result)
    assert files(folder) == before


def test_clone_into_its_owners_folder(folder):
    made = tools.make_folder(folder, 5)
    with tools.Server(made) as server:
        assert "secret key" in one_line(clone_now(made.key, folder, port=server.port, code=FAILED))
    tools.assert_folder(folder, made)


def test_nobody_there(folder):
    port = tools.closed_port()
    result = clone_now(bytes(32), folder, "--quiet", "--timeout", "1", port=port, code=NO_PEER)
    assert "127.0.0.1:%d" % port in one_line(result) and "refused" in result.err


def test_a_name_that_does_not_resolve(folder):
    result = feed("clone", "--quiet", "--timeout", "1", "--peer", "nothing.invalid:1", "00" * 32, folder, code=None)
    assert result.code in (FAILED, NO_PEER) and "nothing.invalid" in one_line(result)


def test_a_peer_with_another_feed(folder):
    made = tools.make(5, seed=2)
    with tools.Server(tools.make(5, seed=1)) as server:
        result = clone_now(made.key, folder, "--quiet", "--timeout", "1", port=server.port, code=NO_PEER)
        assert str(server.port) in one_line(result)


def test_a_datsync_peer_with_another_feed(folder, tmp_path):
    tools.make_folder(folder, 5, seed=1)
    with share(folder) as server:
        result = clone_now(tools.key_pair(2)[0], tmp_path / "b", "--quiet", "--timeout", "1",
                           port=server.port, code=NO_PEER)
        assert str(server.port) in one_line(result)
        clone_now(server.key, tmp_path / "c", port=server.port)  # and it still serves its own
        server.stop()


def test_listening_with_nobody_coming(folder):
    result = feed("clone", "--quiet", "--listen", "127.0.0.1:0", "--timeout", "1", "00" * 32, folder, code=NO_PEER)
    assert re.fullmatch(r"listening on 127\.0\.0\.1:\d+\n", result.out)
    one_line(result)


def test_a_peer_that_stops_answering(folder):
    made = tools.make(50)
    with tools.Server(made, answer_only=lambda i: i < 7 or i == 49) as server:
        result = clone_now(made.key, folder, "--quiet", "--timeout", "1", port=server.port, code=FAILED)
        # 49 may have been asked for as one whose proof comes with 48, which never came
        held = 8 if " 8 of 50" in one_line(result) else 7
        assert " %d of 50" % held in result.err
    tools.assert_folder(folder, made, [*range(7), 49][:held])


def test_a_peer_that_never_answers_the_first_request(folder):
    made = tools.make(50)
    with tools.Server(made, answer_only=lambda i: False) as server:
        result = clone_now(made.key, folder, "--quiet", "--timeout", "1", port=server.port, code=FAILED)
        assert "0 of 50" in one_line(result)
        assert server.requests


def test_a_peer_that_leaves_half_way(folder):
    made = tools.make(50)
    with tools.Server(tools.part(made, range(7))) as server:
        with clone(made.key, folder, "--quiet", "--timeout", "2", ports=[server.port]) as client:
            tools.eventually(lambda: len(server.requests) == 7)
            server.close()
            client.finish(FAILED)
            assert len(client.err) == 1
    tools.assert_folder(folder, made, range(7))


@pytest.mark.valgrind
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.posix)])
def test_clone_interrupted(number, folder):
    made = tools.make(50)
    with tools.Server(tools.part(made, range(10))) as server:
        with clone(made.key, folder, "--json", ports=[server.port]) as client:
            client.event("progress", where=lambda e: e["held"] == 10)
            client.stop(INTERRUPTED, number)
            assert "10 blocks are kept" in client.err[-1]
    tools.assert_folder(folder, made, range(10))
    assert feed("verify", folder).out == "ok 10\n"


def test_clone_interrupted_before_anything_came(folder):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with clone(bytes(32), folder, ports=[silent.getsockname()[1]]) as client:
            silent.settimeout(10)
            taken, _ = silent.accept()
            taken.settimeout(10)
            assert taken.recv(1)  # it is in its loop
            client.stop(INTERRUPTED)
            taken.close()


def test_clone_live_gets_what_is_appended(folder):
    made = tools.make(5)
    with tools.Server(made) as server:
        with clone(made.key, folder, "--live", "--json", ports=[server.port]) as client:
            client.event("complete", where=lambda e: e["length"] == 5)
            for i in range(3):
                server.append(b"new %d" % i)
                client.event("complete", where=lambda e: e["length"] == 6 + i)
            client.interrupt()
            client.finish(None)
            assert client.process.returncode in (DONE, INTERRUPTED)
    tools.assert_folder(folder, made)


def flip(data, field):
    """The same Data with one bit of the value, of the signature or of a node changed."""
    value, signature, nodes = data.value, data.signature, list(data.nodes)
    if field == "value":
        value = bytes([value[0] ^ 1]) + value[1:]
    elif field == "signature":
        signature = bytes([signature[0] ^ 1]) + signature[1:] if signature else None
    elif field == "short signature":
        signature = signature[:63] if signature else None
    elif field == "no signature":
        signature = None
    elif nodes:
        node = nodes[-1]
        nodes[-1] = wire.Node(node.index, bytes([node.hash[0] ^ 1]) + node.hash[1:], node.size)
    return wire.Data(data.index, value, nodes, signature)


@pytest.mark.parametrize("field", ["value", "signature", "node", "short signature", "no signature"])
def test_a_false_block_is_refused_and_named(field, folder):
    """A block that does not verify, from a server that is right about all others."""
    made = tools.make(40, batch=1)
    with tools.Server(made, answer_only=lambda i: i < 20) as server:
        feed("clone", "--peer", "127.0.0.1:%d" % server.port, "--range", "0:20", made.key.hex(), folder)
    before = tools.assert_folder(folder, made, range(20))
    assert before.length in (20, 32, 40) or before.length >= 20

    def tamper(data):
        if data.index != 30:
            return data
        whole = data if data.signature else wire.Data(
            data.index, data.value, data.nodes, made.signatures[39])
        return flip(whole if field != "no signature" else whole, field)

    # asked for alone, in a second folder, the block needs its whole proof
    alone = folder + "-alone"
    with tools.Server(made, tamper=tamper) as server:
        result = clone_now(made.key, alone, "--range", "30:31", "--timeout", "2", port=server.port, code=FAILED)
        assert "block 30" in result.err.splitlines()[-1], result
        assert tools.audit(alone) == [] and not sleep.read(alone).blocks
        events = clone_now(made.key, alone, "--json", "--range", "30:31", "--timeout", "1",
                           port=server.port, code=FAILED).events
        assert any(e["event"] == "reject" and e["index"] == 30 for e in events)
    if field == "value":
        with tools.Server(made, tamper=tamper) as server:
            result = clone_now(made.key, folder, "--timeout", "2", port=server.port, code=FAILED)
            assert "block 30" in result.err.splitlines()[-1]
        there = sleep.read(folder)
        assert tools.audit(folder) == [] and 30 not in there.blocks
        assert all(there.blocks[i] == made.blocks[i] for i in range(20))
    for path in (folder, alone):
        with tools.Server(made) as server:  # an honest one mends it
            clone_now(made.key, path, port=server.port)
        tools.assert_folder(path, made)


def test_a_liar_and_an_honest_peer_together(folder):
    made = tools.make(60, batch=1)
    with tools.Server(made, tamper=lambda d: flip(d, "value")) as liar, tools.Server(made) as honest:
        with clone(made.key, folder, "--timeout", "5", ports=[liar.port, honest.port]) as client:
            client.finish(DONE)
    tools.assert_folder(folder, made)
