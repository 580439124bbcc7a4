"""The adapters that come with the suite keep the contract which it asks of all others (README.md).

DATSYNC_ADAPTER is datsync's. The JavaScript one needs node and its packages: see javascript.py.
"""

import json
import os
import subprocess
import sys

import pytest

from dat import drive as drives
from dat import peer as peers
from dat import sleep, sodium, wire
from dat.feed import Feed
from javascript import DEPS, NODE, REASON
from suite.stage import Adapter

HERE = os.path.dirname(os.path.abspath(__file__))
COMMANDS = {
    "datsync": [os.environ.get("DATSYNC_ADAPTER")],
    "python": [sys.executable, os.path.join(HERE, "adapters", "python.py")],
    "hypercore": [NODE, os.path.join(HERE, "adapters", "hypercore.js")],
}
WAIT = 10  # seconds; a loaded machine takes its time to start node
JS = [pytest.mark.interop, pytest.mark.skipif(NODE is None or DEPS is None, reason=REASON)]
ENV = dict(os.environ, DATSYNC_JS=DEPS or "")


C = pytest.mark.skipif("DATSYNC_ADAPTER" not in os.environ, reason="DATSYNC_ADAPTER is not set: make check")
MARKS = {"datsync": C, "hypercore": JS, "python": []}


@pytest.fixture(params=[pytest.param(name, marks=MARKS[name]) for name in COMMANDS])
def command(request):
    return COMMANDS[request.param]


@pytest.fixture
def start(command):
    """Starts the adapter; `port` is where it listens. Whatever still runs at the end is ended."""
    started = []

    def run(*words):
        made = Adapter(command, [str(w) for w in words], ENV)
        started.append(made)
        made.port = None
        if "--listen" in words:
            line = made.line(WAIT)
            assert line and line.startswith("PORT "), (line, made.last_words())
            made.port = int(line.split()[1])
        return made
    yield run
    for each in started:
        each.kill()


def feed_of(blocks=8, seed=1):
    feed = Feed(*sodium.keypair(bytes([seed]) * 32))
    for i in range(blocks):
        feed.append(b"block %d of %d" % (i, seed))
    return feed


def keys(*feeds):
    return [word for f in feeds for word in ("--key", f.key.hex())]


def folder_of(store, i, feed):
    return os.path.join(str(store), feed.key.hex()) if i else str(store)


def lay(store, *feeds, secret=False):
    for i, feed in enumerate(feeds):
        kept, feed.secret_key = feed.secret_key, feed.secret_key if secret else None
        sleep.write(feed, folder_of(store, i, feed))
        feed.secret_key = kept


def assert_held(store, *feeds):
    for i, feed in enumerate(feeds):
        folder = folder_of(store, i, feed)
        assert sleep.audit(folder) == []
        assert sleep.read(folder).blocks == feed.blocks


def copies(peer, feeds):
    made = [Feed(f.key) for f in feeds]
    peers.clone(peer, made)
    assert [m.blocks for m in made] == [f.blocks for f in feeds]


# ---- clone ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dials", [True, False])
def test_clone(start, tmp_path, count, dials):
    feeds = [feed_of(8 + i, i + 1) for i in range(count)]
    words = ["clone"] + keys(*feeds) + ["--store", tmp_path / "s"]
    if dials:
        with peers.Listener([f.key for f in feeds]) as listener:
            adapter = start(*words, "--port", listener.port)
            peer = listener.accept(WAIT)
    else:
        adapter = start(*words, "--listen")
        peer = peers.connect(adapter.port, [f.key for f in feeds])
    peers.serve(peer, feeds)
    assert adapter.wait(WAIT) == 0, adapter.last_words()
    assert_held(tmp_path / "s", *feeds)


def test_clone_resumes(start, tmp_path):
    feed = feed_of(20)
    part = Feed(feed.key)
    for i in (0, 7, 19):
        part.put(feed.answer(wire.request(i, part.digest(i))))
    lay(tmp_path, part)
    with peers.Listener(feed.key) as listener:
        adapter = start("clone", *keys(feed), "--store", tmp_path, "--port", listener.port)
        peer = listener.accept(WAIT)
    peers.serve(peer, feed)
    asked = {e.message.index for e in peer.log if e.direction == "received" and isinstance(e.message, wire.Request)}
    assert adapter.wait(WAIT) == 0, adapter.last_words()
    assert asked == set(range(20)) - {0, 7, 19}
    assert_held(tmp_path, feed)


def test_clone_that_loses_its_connection_fails(start, tmp_path):
    feed = feed_of()
    with peers.Listener(feed.key) as listener:
        adapter = start("clone", *keys(feed), "--store", tmp_path, "--port", listener.port)
        with listener.accept(WAIT) as peer:
            peer.start()
            peer.wait_for(wire.Want, timeout=WAIT)
    assert adapter.wait(WAIT) == 1


def test_clone_of_nobody_fails(start, tmp_path):
    with peers.Listener(feed_of().key) as listener:
        port = listener.port
    assert start("clone", *keys(feed_of()), "--store", tmp_path, "--port", port).wait(WAIT) == 1


def test_stop_flushes(start, tmp_path):
    feed = feed_of()
    adapter = start("clone", *keys(feed), "--store", tmp_path, "--listen", "--live")
    with peers.connect(adapter.port, feed.key) as peer:
        peer.start(live=True)
        peer.wait_for(wire.Want, timeout=WAIT)
        peer.send(wire.Have(3))
        request = peer.wait_for(wire.Request).message
        peer.send(feed.answer(request))
        peer.ping()
        peer.send(wire.Have(5))
        peer.wait_for(wire.Request, where=lambda r: r.index == 5)
        adapter.tell("stop")
        assert adapter.wait(WAIT) == 0, adapter.last_words()
    # the deployed code does not keep a root that it could only work out
    assert sleep.audit(str(tmp_path), unfinished=True) == []
    assert list(sleep.read(str(tmp_path)).bitfield) == [3]


# ---- serve ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dials", [True, False])
def test_serve(start, tmp_path, count, dials):
    feeds = [feed_of(8 + i, i + 1) for i in range(count)]
    lay(tmp_path, *feeds)
    words = ["serve"] + keys(*feeds) + ["--store", tmp_path]
    if dials:
        with peers.Listener([f.key for f in feeds]) as listener:
            adapter = start(*words, "--port", listener.port)
            peer = listener.accept(WAIT)
    else:
        adapter = start(*words, "--listen")
        peer = peers.connect(adapter.port, [f.key for f in feeds])
    copies(peer, feeds)
    assert adapter.wait(WAIT) == 0, adapter.last_words()


def test_serve_ends_with_a_connection_that_broke(start, tmp_path):
    feed = feed_of()
    lay(tmp_path, feed)
    adapter = start("serve", *keys(feed), "--store", tmp_path, "--listen")
    peer = peers.connect(adapter.port, feed.key)
    peer.start()
    peer.wait_for(wire.Handshake)
    peer.reset()
    assert adapter.wait(WAIT) == 0, adapter.last_words()


def test_serve_many(start, tmp_path):
    """One after another, and at once, until it is told to stop, by a word or by the end of input."""
    feed = feed_of()
    lay(tmp_path, feed)
    for end in ("stop", "close"):
        adapter = start("serve", *keys(feed), "--store", tmp_path, "--listen", "--live")
        held = [peers.connect(adapter.port, feed.key).start(live=True) for _ in range(3)]
        for _ in range(3):
            copies(peers.connect(adapter.port, feed.key), [feed])
        for peer in held:
            peer.send(wire.request(5))
            assert peer.wait_for(wire.Data).message.value == feed.blocks[5]
            peer.close()
        adapter.tell("stop") if end == "stop" else adapter.close_input()
        assert adapter.wait(WAIT) == 0, adapter.last_words()


def test_append(start, tmp_path):
    feed = feed_of(2)
    lay(tmp_path, feed, secret=True)
    adapter = start("serve", *keys(feed), "--store", tmp_path, "--listen", "--live")
    with peers.connect(adapter.port, feed.key) as peer:
        peer.start(live=True)
        peer.wait_for(wire.Handshake)
        peer.send(wire.Want(0, peers.WANT_BLOCKS))
        peer.wait_for(wire.Have, where=lambda h: h.bitfield is not None)
        for i, data in ((2, b"two"), (3, b"three")):
            adapter.tell("append " + data.hex())
            assert peer.wait_for(wire.Have).message.start == i
            peer.send(wire.request(i))
            got = peer.wait_for(wire.Data).message
            assert (got.index, got.value) == (i, data)
            feed.append(data)
            assert got.signature == feed.signatures[i]
        adapter.close_input()
        assert adapter.wait(WAIT) == 0, adapter.last_words()
    assert_held(tmp_path, feed)


# ---- drives ---------------------------------------------------------------------------------------

FILES = {"/hello.txt": b"hello\n", "/sub/big": bytes(range(256)) * 500}


def drive_of():
    made = drives.Drive(seed=b"\x2a" * 32)
    for path, data in FILES.items():
        made.put(path, data, mtime=1500000000000)
    return made


def test_clone_of_a_drive(start, tmp_path):
    made = drive_of()
    with peers.Listener(made.key) as listener:
        adapter = start("clone", "--key", made.key.hex(), "--store", tmp_path / "d", "--drive", "--port", listener.port)
        peer = listener.accept(WAIT)
    drives.serve(peer, made)
    assert adapter.wait(WAIT) == 0, adapter.last_words()
    for path, data in FILES.items():
        with open(str(tmp_path / "d") + path, "rb") as file:
            assert file.read() == data
    assert drives.audit_folder(str(tmp_path / "d")) == []


def test_serve_of_a_drive(start, tmp_path):
    made = drive_of()
    drives.write_folder(made, str(tmp_path))
    adapter = start("serve", "--key", made.key.hex(), "--store", tmp_path, "--drive", "--listen", "--live")
    assert drives.clone(peers.connect(adapter.port, [made.key]), made.key).files() == FILES
    adapter.tell("stop")
    assert adapter.wait(WAIT) == 0, adapter.last_words()


# ---- the command line -----------------------------------------------------------------------------

@pytest.mark.parametrize("words, code", [
    (["fly"], 89), (["serve", "--fly"], 89), (["clone", "--fly", "1"], 89),
    (["clone", "--key", "abcd", "--store", "x", "--listen"], 1), (["clone", "--store", "x", "--listen"], 1),
    (["clone", "--key", "ab" * 32, "--store", "x"], 1), (["serve", "--key", "ab" * 32, "--store", "nowhere", "--listen"], 1),
])
def test_exit_codes(command, tmp_path, words, code):
    done = subprocess.run(command + words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          cwd=str(tmp_path), env=ENV, timeout=WAIT)
    assert done.returncode == code, done.stderr
    assert done.stderr


@pytest.mark.interop
@pytest.mark.skipif(NODE is None or DEPS is None, reason=REASON)
def test_hypercore_of_a_version(tmp_path):
    """The installed one by its number; none by another."""
    def run(*words):
        return subprocess.run(COMMANDS["hypercore"] + list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=ENV, timeout=WAIT)
    done = run("--hypercore", "6.26.0", "codec")
    assert done.returncode == 0, done.stderr
    lay(tmp_path, feed_of())
    words = ("serve", *keys(feed_of()), "--store", str(tmp_path), "--listen", "--live")
    done = run("--hypercore", "6.26.0", *words)
    assert done.returncode == 0 and done.stdout.startswith(b"PORT "), done.stderr
    for words in (words, ("codec",)):
        done = run("--hypercore", "1.2.3", *words)
        assert done.returncode == 89 and b"no hypercore 1.2.3" in done.stderr, done.stderr


# ---- codec: all recorded vectors are cases of the suite; here, what it is asked -------------------

def test_codec(command):
    questions = [
        ({"op": "decode", "frame": "130805"}, {"channel": "1", "type": "3", "message": "Have", "fields": {"start": "5"}}),
        ({"op": "decode", "frame": "0a0805"}, {"ignored": True}),
        ({"op": "decode", "frame": "0f0170"}, {"channel": "0", "type": "15", "message": "Extension",
                                              "fields": {"id": "1", "payload": "70"}}),
        ({"op": "decode", "frame": "031005"}, "error"),
        ({"op": "decode", "frame": "xy"}, "error"),
        ({"op": "encode", "channel": "1", "type": "3", "fields": {"start": "5", "ack": False}}, {"frame": "1308052000"}),
        ({"op": "encode", "message": "Have", "fields": {"start": "5"}}, {"frame": "030805"}),
        ({"op": "encode", "channel": "0", "type": "Have", "fields": {"start": "many"}}, "error"),
        ({"op": "encode", "channel": "0", "type": "Have", "fields": {"wing": "1"}}, "error"),
        ({"op": "rle.decode", "bytes": "02f8"}, {"bits": "f8"}),
        ({"op": "rle.decode", "bytes": "23", "limit": "7"}, "error"),
        ({"op": "rle.encode", "bits": "f800"}, {"bytes": "02f8"}),
        ({"op": "digest", "held": [["3", "5"]], "index": "0"}, {"digest": "9"}),
        ({"op": "proof", "length": "2", "index": "0", "digest": "0", "hash": True}, {"nodes": ["0", "2"], "verifiedBy": "4"}),
        ({"op": "proof", "held": [["2", "3"]], "index": "0", "digest": "0"}, {"nodes": None, "verifiedBy": "0"}),
        ({"op": "dns.decode", "bytes": "500180000000000000000000"}, {"id": "20481", "flags": "32768", "items": []}),
        ({"op": "dns.decode", "bytes": "5001800000000000000000"}, "error"),
        ({"op": "dns.encode", "id": "20481", "flags": "32768", "items": []}, {"bytes": "500180000000000000000000"}),
        ({"op": "dht.decode", "bytes": b"d1:rde1:t1:x1:y1:re".hex()}, {"kind": "answer", "transaction": "78"}),
        ({"op": "dht.decode", "bytes": b"le".hex()}, "error"),
        ({"op": "dht.encode", "kind": "answer", "transaction": "78"}, {"bytes": b"d1:rde1:t1:x1:y1:re".hex()}),
        ({"op": "sing"}, {"unsupported": True}),
    ]
    seed = sodium.keypair(b"\x07" * 32)
    message = "00ff"
    signature = sodium.sign(b"\x00\xff", seed[1]).hex()
    questions += [
        ({"op": "sign", "secretKey": seed[1].hex(), "message": message}, {"signature": signature}),
        ({"op": "verify", "key": seed[0].hex(), "message": message, "signature": signature}, {"valid": True}),
        ({"op": "verify", "key": seed[0].hex(), "message": "", "signature": signature}, {"valid": False}),
        ({"op": "verify", "key": seed[0].hex(), "message": "", "signature": "00"}, {"valid": False}),
    ]
    lines = [json.dumps(q) for q, _ in questions] + ["no JSON", '{"op":']
    done = subprocess.run(command + ["codec"], input="\n".join(lines) + "\n", stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=ENV, timeout=2 * WAIT, universal_newlines=True)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines)
    for (question, expected), answer in zip(questions + [("no JSON", "error"), ("half", "error")], answers):
        assert list(answer) == ["error"] if expected == "error" else answer == expected, (question, answer)


def test_codec_answers_each_line_at_once(start):
    adapter = start("codec")
    for _ in range(3):
        adapter.tell('{"op":"leaf","data":""}')
        assert json.loads(adapter.line(WAIT))["hash"].startswith("5187b7a8")
    adapter.close_input()
    assert adapter.wait(WAIT) == 0
