"""datsync and the deployed JavaScript hypercore, 6.26 and 7.7.1: both ways, on the wire and on disk.

Needs node and the packages of js/package.json: in DATSYNC_JS, DEPS or build/js. DATSYNC_BIG=1 adds
a feed of 1 GiB.
"""

import json
import os
import shutil
import subprocess

import pytest

import tools
from dat import peer as peers
from dat import sleep
from javascript import DEPS, NODE, REASON
from tools import DONE, clone, feed, files, share

PEER = os.path.join(tools.SUITE, "js", "peer.js")

pytestmark = [pytest.mark.interop, pytest.mark.skipif(NODE is None or DEPS is None, reason=REASON)]

SIX = ["bitfield", "data", "key", "secret_key", "signatures", "tree"]
SIZES = [(0, 10), (1, 10), (5, 0), (1000, "1-200"), (1000, 65536 // 16)]
VERSIONS = ["6", "7"]


def js_argv(version, *args):
    return [NODE, PEER, "--hypercore", version] + [str(a) for a in args]


def js(version, *args, code=0, timeout=120):
    """Run peer.js to its end; the JSON that it printed."""
    done = subprocess.run(js_argv(version, *args), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=timeout, env=dict(os.environ, DEPS=DEPS))
    assert code is None or done.returncode == code, (args, done)
    return json.loads(done.stdout) if done.stdout.startswith(b"{") else None


class Js(tools.Process):
    """peer.js beside the test; `port` is set where it listens."""

    def __init__(self, version, role, key, store, *options, port=None):
        more = ["--listen"] if port is None else ["--port", port]
        super().__init__(argv=js_argv(version, role, "--key", key.hex(), "--store", store, *more, *options),
                         stdin=subprocess.PIPE, env={"DEPS": DEPS})
        self.port = port
        if port is None:
            try:
                self.port = int(self.line(r"^PORT (\d+)$", 30).group(1))
            except BaseException:
                self.kill()
                raise

    def append(self, data):
        self.write("append %s\n" % data.hex())


def js_make(version, folder, blocks, size, *options):
    return bytes.fromhex(js(version, "make", folder, blocks, size, *options)["key"])


def js_checks(version, folder, length, held=None):
    """hypercore itself reads every block that is claimed, and finds it good.

    It cannot read a clone of nothing but empty blocks, not even its own: there is no data file.
    """
    if not os.path.exists(os.path.join(folder, "data")):
        there = sleep.read(folder)
        assert tools.audit(folder) == [] and there.byte_length == 0
        assert there.complete and there.length == length
        return None
    report = js(version, "check", folder)
    held = length if held is None else held
    assert (report["length"], report["valid"], report["invalid"], report["badNodes"]) == (length, held, 0, 0)
    assert report["signed"] is not False
    return report


def same_blocks(a, b):
    one, two = feed("cat", a, timeout=60).raw, feed("cat", b, timeout=60).raw
    assert one == two
    return one


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Feeds that JS made, each once: sources(blocks, size) is (folder, key); nobody writes there."""
    made = {}

    def get(blocks, size, *options):
        name = (blocks, size) + options
        if name not in made:
            folder = str(tmp_path_factory.mktemp("js") / "source")
            made[name] = (folder, js_make("6", folder, blocks, size, *options))
        return made[name]
    return get


# ---- JS serves, datsync clones --------------------------------------------------------------------

@pytest.mark.parametrize("live", [False, True], ids=["ends", "live"])
@pytest.mark.parametrize("blocks, size", SIZES)
@pytest.mark.parametrize("version", VERSIONS)
def test_js_listens_datsync_clones(version, blocks, size, live, sources, tmp_path):
    source, key = sources(blocks, size)
    copy = str(tmp_path / "copy")
    with Js(version, "serve", key, source, *["--live"] * live) as server:
        with clone(key, copy, "--timeout", "15", ports=[server.port]) as client:
            client.finish(DONE, 60)
        if not live:
            server.finish(0)  # the conversation came to its agreed end
    assert feed("verify", copy).out == "ok %d\n" % blocks
    if blocks:
        js_checks(version, copy, blocks)
        same_blocks(source, copy)


@pytest.mark.parametrize("blocks, size", [(1, 10), (1000, "1-200")])
@pytest.mark.parametrize("version", VERSIONS)
def test_js_dials_a_datsync_clone(version, blocks, size, sources, tmp_path):
    source, key = sources(blocks, size)
    copy = str(tmp_path / "copy")
    with clone(key, copy, "--listen", "127.0.0.1:0") as client:
        port = int(client.line(r"^listening on 127\.0\.0\.1:(\d+)$").group(1))
        with Js(version, "serve", key, source, port=port) as server:
            client.finish(DONE)
            server.finish(0)
    js_checks(version, copy, blocks)
    same_blocks(source, copy)


# ---- datsync serves, JS clones --------------------------------------------------------------------

@pytest.mark.parametrize("blocks, size", SIZES)
@pytest.mark.parametrize("version", VERSIONS)
def test_js_clones_from_datsync(version, blocks, size, sources, tmp_path):
    source, key = sources(blocks, size)
    copy, mine = str(tmp_path / "copy"), str(tmp_path / "mine")
    shutil.copytree(source, mine)
    with share(mine, "--quiet") as server:
        with Js(version, "clone", key, copy, port=server.port) as client:
            client.finish(0, 60)
        server.stop()
    if blocks:
        js_checks(version, copy, blocks)
        same_blocks(source, copy)


@pytest.mark.parametrize("version", VERSIONS)
def test_datsync_dials_a_js_clone(version, sources, tmp_path):
    source, key = sources(1000, "1-200")
    copy, mine = str(tmp_path / "copy"), str(tmp_path / "mine")
    shutil.copytree(source, mine)
    with Js(version, "clone", key, copy) as client:
        with tools.Process("feed", "share", "--no-listen", "--quiet", "--peer",
                           "127.0.0.1:%d" % client.port, mine) as server:
            client.finish(0, 60)
            server.kill()
    js_checks(version, copy, 1000)
    same_blocks(source, copy)


@pytest.mark.parametrize("direction", ["to datsync", "to js"])
def test_100000_blocks(direction, sources, tmp_path):
    source, key = sources(100000, 10)
    copy, mine = str(tmp_path / "copy"), str(tmp_path / "mine")
    if direction == "to datsync":
        with Js("6", "serve", key, source, "--live") as server, \
                clone(key, copy, "--quiet", ports=[server.port]) as client:
            client.finish(DONE, 120)
    else:
        shutil.copytree(source, mine)
        with share(mine, "--quiet") as server, Js("6", "clone", key, copy, port=server.port) as client:
            client.finish(0, 120)
    assert feed("verify", copy, timeout=60).out == "ok 100000\n"
    same_blocks(source, copy)


@pytest.mark.skipif(not os.environ.get("DATSYNC_BIG"), reason="DATSYNC_BIG is not set: 1 GiB takes minutes")
@pytest.mark.parametrize("direction", ["to datsync", "to js"])
def test_1_gib(direction, sources, tmp_path):
    source, key = sources(16384, 65536)
    copy = str(tmp_path / "copy")
    if direction == "to datsync":
        with Js("6", "serve", key, source, "--live") as server, \
                clone(key, copy, "--quiet", ports=[server.port]) as client:
            client.finish(DONE, 600)
    else:
        with share(source, "--quiet") as server, Js("6", "clone", key, copy, port=server.port) as client:
            client.finish(0, 600)
            server.stop()
    assert feed("verify", copy, timeout=300).out == "ok 16384\n"
    for name in ("data", "tree"):
        assert subprocess.run(["cmp", os.path.join(source, name), os.path.join(copy, name)],
                              timeout=120).returncode == 0
    shutil.rmtree(copy)


# ---- live -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("version", VERSIONS)
def test_what_js_appends_arrives_in_a_live_clone(version, tmp_path):
    source, copy = str(tmp_path / "source"), str(tmp_path / "copy")
    key = js_make(version, source, 3, 10)
    with Js(version, "serve", key, source, "--live") as server:
        with clone(key, copy, "--live", "--json", ports=[server.port]) as client:
            client.event("complete", where=lambda e: e["held"] == 3)
            for i in range(4):
                server.append(b"new %d" % i)
                client.event("complete", where=lambda e: e["held"] == 4 + i)
            client.interrupt()
            client.finish(None)
    assert feed("cat", "--lines", "--range", "3:", copy).lines == ["new %d" % i for i in range(4)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_live_clone_passes_appends_on_to_js(version, tmp_path):
    """JS appends, datsync downloads and serves, another JS clones from it live."""
    source, middle, far = (str(tmp_path / n) for n in ("source", "middle", "far"))
    key = js_make(version, source, 3, 10)
    with Js(version, "serve", key, source, "--live") as server, \
            clone(key, middle, "--live", "--json", "--listen", "127.0.0.1:0", ports=[server.port]) as between:
        port = int(between.event("listening")["address"].rsplit(":", 1)[1])
        with Js(version, "clone", key, far, "--live", port=port) as client:
            for i in range(3):
                server.append(b"new %d" % i)
            tools.eventually(lambda: os.path.exists(os.path.join(far, "data"))
                             and os.path.getsize(os.path.join(far, "data")) == 30 + 15, 30)
            client.write("stop\n")
            client.finish(0)
        between.interrupt()
        between.finish(None)
    js_checks(version, far, 6)


# ---- sparse, cleared, static ------------------------------------------------------------------------

@pytest.mark.parametrize("version", VERSIONS)
def test_sparse_from_js_and_on_to_js(version, sources, tmp_path):
    source, key = sources(1000, "1-200")
    copy, third = str(tmp_path / "copy"), str(tmp_path / "third")
    with Js(version, "serve", key, source, "--live") as server:
        feed("clone", "--peer", "127.0.0.1:%d" % server.port, "--range", "100:110", "--range", "700:702",
             key.hex(), copy)
    js_checks(version, copy, 1000, 12)
    assert tools.audit(copy) == []
    with share(copy, "--quiet") as server:
        with Js(version, "clone", key, third, "--sparse", "102:108", port=server.port) as client:
            client.finish(0)
        server.stop()
    js_checks(version, third, 1000, 6)
    assert feed("verify", third).out == "ok 6\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sparse_js_clone_is_completed_by_datsync(version, sources, tmp_path):
    source, key = sources(1000, "1-200")
    copy = str(tmp_path / "copy")
    with Js("6", "serve", key, source, "--live") as server:
        with Js(version, "clone", key, copy, "--sparse", "300:400", port=server.port) as client:
            client.finish(0)
        assert feed("verify", copy).out == "ok 100\n"
        feed("clone", "--peer", "127.0.0.1:%d" % server.port, key.hex(), copy)
    js_checks(version, copy, 1000)
    same_blocks(source, copy)


@pytest.mark.parametrize("version", VERSIONS)
def test_cleared_blocks(version, sources, tmp_path):
    """JS drops blocks; datsync opens that, serves the rest, and fetches them again."""
    source, key = sources(1000, "1-200")
    cleared, copy = str(tmp_path / "cleared"), str(tmp_path / "copy")
    with Js("6", "serve", key, source, "--live") as server:
        feed("clone", "--peer", "127.0.0.1:%d" % server.port, key.hex(), cleared)
        js(version, "clear", cleared, 200, 500)
        assert feed("verify", cleared).out == "ok 700\n"
        assert feed("info", cleared).lines[5] == "blocks held: 700"
        with share(cleared, "--quiet") as part:
            with Js(version, "clone", key, copy, "--sparse", "500:600", port=part.port) as client:
                client.finish(0)
            part.stop()
        js_checks(version, copy, 1000, 100)
        feed("clone", "--peer", "127.0.0.1:%d" % server.port, key.hex(), cleared)
    js_checks(version, cleared, 1000)
    same_blocks(source, cleared)


@pytest.mark.parametrize("version", VERSIONS)
def test_clone_from_a_js_peer_that_cleared_blocks(version, sources, tmp_path):
    source, key = sources(1000, "1-200")
    cleared, copy = str(tmp_path / "cleared"), str(tmp_path / "copy")
    shutil.copytree(source, cleared)
    js(version, "clear", cleared, 200, 500)
    with Js(version, "serve", key, cleared, "--live") as server:
        feed("clone", "--peer", "127.0.0.1:%d" % server.port, "--range", "0:200", "--range", "500:",
             key.hex(), copy)
    js_checks(version, copy, 1000, 700)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_static_feed(version, tmp_path):
    """Its key is the hash of its tree; there are no signatures."""
    source, copy, third = (str(tmp_path / n) for n in ("source", "copy", "third"))
    key = js_make(version, source, 30, 100, "--static")
    with Js(version, "serve", key, source, "--live") as server:
        feed("clone", "--peer", "127.0.0.1:%d" % server.port, key.hex(), copy)
    assert feed("verify", copy).out == "ok 30\n"
    with share(copy, "--quiet") as server:
        with Js(version, "clone", key, third, port=server.port) as client:
            client.finish(0)
        server.stop()
    js_checks(version, third, 30)
    same_blocks(source, third)


# ---- interrupted --------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [2, 9])
def test_js_goes_on_where_datsync_was_stopped(number, sources, tmp_path):
    """Interrupted or killed with a part; each side then completes that folder."""
    source, key = sources(1000, 65536 // 16)
    made = sleep.read(source)
    for version in VERSIONS:
        copy = str(tmp_path / ("copy" + version))
        with tools.Server(tools.part(made, range(400))) as server:
            with clone(key, copy, "--json", ports=[server.port]) as client:
                client.event("progress", where=lambda e: e["held"] == 400)
                client.interrupt(number)
                client.wait()
        with Js("6", "serve", key, source, "--live") as server:
            with Js(version, "clone", key, copy, port=server.port) as client:
                client.finish(0, 60)
        js_checks(version, copy, 1000)
        assert feed("verify", copy).out == "ok 1000\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_datsync_goes_on_where_js_was_killed(version, sources, tmp_path):
    source, key = sources(1000, 65536 // 16)
    copy = str(tmp_path / "copy")
    made = sleep.read(source)
    with tools.Server(tools.part(made, range(400))) as server:
        with Js(version, "clone", key, copy, "--live", port=server.port) as client:
            tools.eventually(lambda: os.path.exists(os.path.join(copy, "data"))
                             and os.path.getsize(os.path.join(copy, "data")) == 400 * 4096, 30)
            client.kill()
    with tools.Server(made) as server:
        feed("clone", "--peer", "127.0.0.1:%d" % server.port, key.hex(), copy)
    assert feed("verify", copy).out == "ok 1000\n"
    js_checks(version, copy, 1000)
    same_blocks(source, copy)


# ---- folders ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("version", VERSIONS)
def test_each_appends_in_the_others_folder(version, tmp_path):
    """The same keys and appends: all six files are equal, whoever wrote them."""
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    secret = tools.key_pair(5)[1]
    feed("create", "--secret-key", "-", ours, stdin=secret)
    js(version, "make", theirs, 0, 1, "--secret-key", secret.hex())
    for turn in range(6):
        data = [tools.block(turn, i, 10 + turn * i) for i in range(1 + 3 * turn)]
        lines = b"".join(d.hex().encode() + b"\n" for d in data)
        blocks = [line for line in lines.split(b"\n") if line]
        mine, other = (ours, theirs) if turn % 2 else (theirs, ours)
        feed("append", "--lines", mine, stdin=lines)
        js(version, "append", other, *[b.hex() for b in blocks], "--batch")
        one, two = files(ours), files(theirs)
        assert sorted(one) == sorted(two) == SIX
        for name in SIX:
            assert one[name] == two[name], (turn, name)
    js_checks(version, ours, sum(1 + 3 * t for t in range(6)))
    assert feed("verify", theirs).out == "ok 51\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_many_pages_in_the_same_bytes(version, tmp_path):
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    secret = tools.key_pair(5)[1]
    feed("create", "--secret-key", "-", ours, stdin=secret)
    js(version, "make", theirs, 20000, 7, 1, 1024, "--secret-key", secret.hex())
    feed("append", "--block-size", 7, ours, stdin=feed("cat", theirs).raw)
    one, two = files(ours), files(theirs)
    for name in SIX:
        assert one[name] == two[name], name


@pytest.mark.parametrize("version", VERSIONS)
def test_a_clones_files_are_those_of_js(version, sources, tmp_path):
    """Everything but what depends on the order of arrival: data, tree and key are the source's."""
    source, key = sources(1000, "1-200")
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    with Js("6", "serve", key, source, "--live") as server:
        feed("clone", "--peer", "127.0.0.1:%d" % server.port, key.hex(), ours)
        with Js(version, "clone", key, theirs, port=server.port) as client:
            client.finish(0)
    one, two = files(ours), files(theirs)
    assert sorted(one) == sorted(two)
    for name in ("data", "tree", "key", "bitfield"):
        assert one[name] == two[name], name


@pytest.mark.parametrize("version", VERSIONS)
def test_a_folder_with_the_old_page_size(version, tmp_path):
    """bitfield entries of 3328 bytes: opened, cloned from, continued, and read again by JS."""
    old = str(tmp_path / "old")
    shutil.copytree(os.path.join(tools.ROOT, "vectors", "sleep", "old-page-size"), old)
    length = sleep.read(old).length
    assert feed("verify", old).out == "ok %d\n" % length
    js_checks(version, old, length)
    key = sleep.read(old).key
    if os.path.exists(os.path.join(old, "secret_key")):
        assert feed("append", old, stdin=b"more").out == "%d\n" % (length + 1)
        assert files(old)["bitfield"][5:7] == (3328).to_bytes(2, "big")
        js_checks(version, old, length + 1)
        js(version, "append", old, b"by js".hex())
        assert feed("cat", "--range", "%d:" % length, old).raw == b"moreby js"
    with share(old, "--quiet") as server:
        with Js(version, "clone", key, str(tmp_path / "copy"), port=server.port) as client:
            client.finish(0)
        server.stop()
    js_checks(version, str(tmp_path / "copy"), sleep.read(old).length)


# ---- the suite's own peer ---------------------------------------------------------------------------

@pytest.mark.parametrize("version", VERSIONS)
def test_two_feeds_on_one_connection(version, tmp_path):
    """The Python driver and JS, two feeds at once; what datsync is held against must itself be right."""
    store = str(tmp_path / "store")
    first = js_make(version, store, 20, 100)
    other = str(tmp_path / "other")
    second = js_make(version, other, 30, 50, "2")
    shutil.move(other, os.path.join(store, second.hex()))
    with Js(version, "serve", first, store, "--key", second.hex()) as server:
        copies = [tools.feeds.Feed(first), tools.feeds.Feed(second)]
        with peers.connect(server.port, [first, second]) as peer:
            peers.clone(peer, copies)
    assert [c.length for c in copies] == [20, 30] and all(c.complete for c in copies)
    with tools.Server(copies, live=False) as server:
        again = str(tmp_path / "again")
        with Js(version, "clone", first, again, "--key", second.hex(), port=server.port) as client:
            client.finish(0)
    js_checks(version, again, 20)
    js_checks(version, os.path.join(again, second.hex()), 30)
