"""datsync's drives and the deployed JavaScript ones: hyperdrive 9.16 with dat-storage, and dat 13 itself.

Both ways on the wire, live and not, dialling and listening, and each in the other's folder. Needs node and the
packages of conformance/js/package.json. DATSYNC_BIG=1 adds 10,000 files. The tests of dat 13 need those of js/discovery/package.json,
or DATSYNC_REAL_DAT: the folder in which dat 13 is installed (its node_modules is there).
"""

import json
import os
import select
import shutil
import socket
import subprocess
import threading
import time

import pytest

import tools
from dat import drive as drives
from javascript import REAL_DAT
from test_cli_drive import Home, key_of, write
from test_drive_js import DEPS, NODE, REASON, js, js_argv
from tools import DONE

MIB = 1 << 20
BIG = pytest.mark.skipif(not os.environ.get("DATSYNC_BIG"), reason="DATSYNC_BIG is not set: 10,000 files take minutes")

pytestmark = [pytest.mark.interop, pytest.mark.skipif(NODE is None or DEPS is None, reason=REASON)]

TREE = {
    "a.txt": b"hello\n", "empty": b"", "one": b"1", "exact": tools.block(2, 0, 65536), "sub/a.txt": b"another\n",
    "sub/deep/deeper/b.bin": bytes(range(256)) * 600, "sub/deep/no": b"",
    "sub/mib.bin": tools.block(1, 0, 64) * 18000,  # 1.1 MiB
    "\u65e5\u672c/\u00fc \U0001f600.txt": b"names\n", "e\u0301": b"decomposed", "\u00e9": b"composed",
    "with space/%41&'\"": b"odd", "sub.x": b"sorts between sub and sub/a.txt",
}


@pytest.fixture
def owner(tmp_path):
    return Home(tmp_path / "owner")


@pytest.fixture
def reader(tmp_path):
    return Home(tmp_path / "reader")


@pytest.fixture
def origin(tmp_path):
    write(tmp_path / "origin", TREE)
    return tmp_path / "origin"


def js_share(folder, *options):
    """drive.js shares a folder; `port` is where it listens."""
    process = tools.Process(argv=js_argv("share", folder, "--listen", *options), stdin=subprocess.PIPE, env={"DEPS": DEPS})
    try:
        process.port = int(process.line(r"^PORT (\d+)$", 30).group(1))
    except BaseException:
        process.kill()
        raise
    return process


# ---- what is the same in two folders ----------------------------------------------------------------

def tree(folder):
    """{path: bytes} of everything in a folder but .dat."""
    found = {}
    for at, folders, names in os.walk(str(folder)):
        if at == str(folder) and ".dat" in folders:
            folders.remove(".dat")
        for name in names:
            try:
                with open(os.path.join(at, name), "rb") as file:
                    found[os.path.relpath(os.path.join(at, name), str(folder))] = file.read()
            except FileNotFoundError:
                pass  # a peer at work has just replaced it
    return found


def with_content(files):
    """dat-storage writes blocks, of which an empty file has none: in what JS lays out it is not there."""
    return {name: data for name, data in files.items() if data}


def sleep_file(folder, name):
    with open(os.path.join(str(folder), ".dat", name), "rb") as file:
        return file.read()


def assert_whole(folder, home, by_js=False, every_version=False):
    """Both programs find every file of the newest version right, and list it alike; or every version."""
    *bad, told = [e for e in home("verify", "--json", folder, timeout=60, code=None).events if e["event"] != "error"]
    report = js("all", folder) if every_version else dict(js("list", folder), **js("verify", folder))
    entries = report["entries"]
    assert report["invalid"] == report["missing"] == 0 and report["bad"] == [] and report["valid"] == report["blocks"]
    if by_js:  # what is not there has no content
        assert [e for e in bad if entries[e["path"]]["size"] or e["reason"] != "no such file or directory"] == []
    else:
        assert not bad
    assert told["ok"] + len(bad) == len(entries) >= report["files"]  # with folders that became empty
    assert listing(folder, home) == {path: e["seq"] for path, e in entries.items() if e["mode"] & 0xf000 != 0x4000}
    if every_version:
        for version, theirs in enumerate(report["listings"], 1):
            assert listing(folder, home, "--checkout", version) == theirs, version
        history = [(e["version"], e["change"], e["path"]) for e in home("log", "--json", folder).events]
        assert history == [(e["version"], e["type"], e["path"]) for e in report["history"]]
    return {name: report.get(name) for name in ("version", "entries", "listings", "history")}


def listing(folder, home, *options):
    told = home("ls", "--json", "--recursive", *options, folder).events
    return {e["path"]: e["version"] for e in told if not e["folder"]}


def assert_same(source, copy, owner, reader, every_version=True, by_js=False):
    """`by_js`: it was JS that laid out the copy."""
    if by_js:
        assert with_content(tree(copy)) == with_content(tree(source)) and tree(copy).keys() <= tree(source).keys()
    else:
        assert tree(copy) == tree(source)
    for name in ("metadata.key", "content.key", "metadata.data", "metadata.tree"):
        assert sleep_file(copy, name) == sleep_file(source, name), name
    assert assert_whole(copy, reader, by_js, every_version) == assert_whole(source, owner, False, every_version)


# ---- the peers --------------------------------------------------------------------------------------

def import_by_js(folder, home, *options, **more):
    return js("import", folder, "--secret-dir", home.secrets, *options, **more)


def share_by_js(folder, home, *options):
    """`home` None: of a clone."""
    return js_share(folder, *(["--secret-dir", home.secrets] if home else []), *options)


def js_process(*args):
    return tools.Process(argv=js_argv(*args), stdin=subprocess.PIPE, env={"DEPS": DEPS})


def clone_by_js(key, folder, port, **more):
    js("clone", folder, "--key", key, "--port", port, stdin=None, **more)


def port_of(process):
    return int(process.peer.rsplit(":", 1)[1])


def clone(home, key, folder, port, *options, **more):
    return home("clone", "--quiet", "--timeout", "20", "--peer", "127.0.0.1:%d" % port, *options, key, folder,
                timeout=120, **more)


def create(home, folder):
    home("create", "--quiet", folder)
    return key_of(folder)


class Dam:
    """Stands before a port and stops what comes from there after so many bytes: `full` tells when."""

    def __init__(self, port, limit):
        self.limit, self.full = limit, threading.Event()
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        self._listener.settimeout(20)
        try:
            near = self._listener.accept()[0]
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            return
        with near, far:
            passed = 0
            while not self._closed:
                sources = [near] + [far] * (passed < self.limit)
                for source in select.select(sources, [], [], 0.1)[0]:
                    try:
                        data = source.recv(min(65536, self.limit - passed) if source is far else 65536)
                        if not data:
                            return
                        (near if source is far else far).sendall(data)
                    except OSError:
                        return
                    if source is far:
                        passed += len(data)
                        if passed >= self.limit:
                            self.full.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._closed = True
        self._listener.close()
        self._thread.join(5)


# ---- a small tree, once -----------------------------------------------------------------------------

@pytest.mark.parametrize("live", [False, True], ids=["ends", "live"])
@pytest.mark.parametrize("dials", ["datsync dials", "js dials"])
def test_from_js(dials, live, owner, reader, origin, tmp_path):
    key, copy = import_by_js(origin, owner)["key"], tmp_path / "copy"
    if dials == "datsync dials":
        with share_by_js(origin, owner, *["--live"] * live) as server:
            clone(reader, key, copy, server.port)
            if not live:
                server.finish(0)
    else:
        with reader.start("clone", "--json", "--listen", "127.0.0.1:0", key, copy) as client:
            port = client.event("listening")["address"].rsplit(":", 1)[1]
            with js_process("share", origin, "--secret-dir", owner.secrets, "--port", port, *["--live"] * live) as server:
                client.finish(DONE)
                if not live:
                    server.finish(0)
    assert_same(origin, copy, owner, reader, every_version=not live)


@pytest.mark.parametrize("live", [False, True], ids=["ends", "live"])
@pytest.mark.parametrize("dials", ["datsync dials", "js dials"])
def test_from_datsync(dials, live, owner, reader, origin, tmp_path):
    key, copy = create(owner, origin), tmp_path / "copy"
    if dials == "js dials":
        with owner.share(origin) as server:
            if live:
                with js_process("clone", copy, "--key", key, "--port", port_of(server), "--live") as client:
                    tools.eventually(lambda: with_content(tree(copy)) == with_content(tree(origin)))
                    client.write("stop\n")
                    client.finish(0)
            else:
                clone_by_js(key, copy, port_of(server))
            server.stop()
    else:
        with js_process("clone", copy, "--key", key, "--listen", *["--live"] * live) as client:
            port = client.line(r"^PORT (\d+)$", 30).group(1)
            with owner.start("share", "--quiet", "--no-listen", "--peer", "127.0.0.1:" + port, origin) as server:
                if live:
                    tools.eventually(lambda: with_content(tree(copy)) == with_content(tree(origin)))
                    client.write("stop\n")
                client.finish(0)
                server.kill()
    assert_same(origin, copy, owner, reader, every_version=not live, by_js=True)


# ---- changes ----------------------------------------------------------------------------------------

OPS = [{"op": "put", "path": "/new", "text": "new"}, {"op": "put", "path": "/a.txt", "text": "a longer one"},
       {"op": "put", "path": "/sub/deep/x/y/z", "text": "z"}, {"op": "del", "path": "/sub/deep/deeper/b.bin"},
       {"op": "put", "path": "/sub/mib.bin", "text": "small"}, {"op": "del", "path": "/empty"},
       {"op": "put", "path": "/sub/deep/deeper/b.bin", "text": "again"}, {"op": "del", "path": "/\u65e5\u672c/\u00fc \U0001f600.txt"},
       {"op": "put", "path": "/one", "text": ""}, {"op": "put", "path": "/last", "text": "last"}]


def change(folder, step, whole_folders=True):
    """Three steps of edits, new files and deletions."""
    if step == 0:
        write(folder, {"new": b"new", "a.txt": b"a longer one", "sub/deep/x/y/z": b"z"})
        os.remove(str(folder / "sub" / "deep" / "deeper" / "b.bin"))
    elif step == 1:
        write(folder, {"sub/mib.bin": b"small", "sub/deep/deeper/b.bin": b"again", "one": b"", "n\u00e9w/\u2713": b"u"})
        os.remove(str(folder / "empty"))
        os.remove(str(folder / "\u65e5\u672c" / "\u00fc \U0001f600.txt"))
        if whole_folders:
            os.rmdir(str(folder / "\u65e5\u672c"))
    else:
        write(folder, {"sub/mib.bin": tools.block(3, 0, 64) * 20000, "empty": b"no longer", "last": b""})
        os.remove(str(folder / "new"))


def ops_text(ops=OPS):
    return "".join(json.dumps(op) + "\n" for op in ops)


def test_js_changes_it_while_datsync_is_there(owner, reader, origin, tmp_path):
    key, copy = import_by_js(origin, owner)["key"], tmp_path / "copy"
    with share_by_js(origin, owner, "--live") as server, \
            reader.start("clone", "--live", "--json", "--peer", "127.0.0.1:%d" % server.port, key, copy) as client:
        client.event("complete")
        server.write(ops_text())
        client.event("complete", 30, lambda e: e["version"] == len(TREE) + len(OPS))
        server.write("stop\n")
        server.finish(0)
        client.stop(None)
    assert_same(origin, copy, owner, reader)


def test_datsync_changes_it_while_js_is_there(owner, reader, origin, tmp_path):
    key, copy = create(owner, origin), tmp_path / "copy"
    with owner.share(origin, "--watch") as server, \
            js_process("clone", copy, "--key", key, "--port", port_of(server), "--live") as client:
        tools.eventually(lambda: with_content(tree(copy)) == with_content(tree(origin)))
        for step in range(3):
            change(origin, step)
            tools.eventually(lambda: with_content(tree(copy)) == with_content(tree(origin)), 30)
        time.sleep(0.2)
        client.write("stop\n")
        client.finish(0)
        server.stop()
    assert_same(origin, copy, owner, reader, by_js=True)


def test_datsync_pulls_what_js_changed_meanwhile(owner, reader, origin, tmp_path):
    key, copy = import_by_js(origin, owner)["key"], tmp_path / "copy"
    with share_by_js(origin, owner) as server:
        clone(reader, key, copy, server.port)
    for step in range(3):
        change(origin, step)
        import_by_js(origin, owner, "--mtime")
        with share_by_js(origin, owner) as server:
            reader("pull", "--quiet", "--peer", "127.0.0.1:%d" % server.port, copy)
    assert_same(origin, copy, owner, reader)


def test_js_fetches_what_datsync_changed_meanwhile(owner, reader, origin, tmp_path):
    key, copy = create(owner, origin), tmp_path / "copy"
    with owner.share(origin) as server:
        clone_by_js(key, copy, port_of(server))
        server.stop()
    for step in range(3):
        change(origin, step)
        with owner.share(origin) as server:
            clone_by_js(key, copy, port_of(server))
            server.stop()
    assert_same(origin, copy, owner, reader, by_js=True)


# ---- in the other's folder --------------------------------------------------------------------------

def test_the_same_import_in_the_same_bytes(owner, tmp_path):
    """The same keys, files and times: everything but the signatures, of which there may be fewer, is equal."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    import_by_js(theirs, owner, "--key-seed", "33" * 32)
    shutil.copytree(str(theirs), str(ours))
    steps = [TREE, {"new": b"new", "a.txt": b"longer", "sub/deep/x/y/z": b"z", "one": b""},
             ["empty", "sub/a.txt", "sub/mib.bin"], {"empty": b"x", "sub/a.txt": b"", "sub/deep/x/y/other": b"1", "zzz": b""}, ["one", "sub/deep/x/y/z"]]
    for turn, step in enumerate(steps):
        for folder in (theirs, ours):
            if isinstance(step, dict):
                write(folder, step)
            else:
                for name in step:
                    os.remove(str(folder / name))
            for name in tree(folder):
                path = str(folder / name)
                if os.path.getmtime(path) > 1600000000:
                    os.utime(path, ns=((1500000000123 + 1000 * turn) * 1000000,) * 2)
        import_by_js(theirs, owner, "--mtime")
        with owner.share(ours) as server:
            server.stop()
        for name in sorted(os.listdir(str(theirs / ".dat"))):
            if not name.endswith(".signatures"):
                assert sleep_file(theirs, name) == sleep_file(ours, name), (turn, name)
    assert js("history", ours) == js("history", theirs)
    assert_whole(ours, owner)
    assert_whole(theirs, owner)


def test_datsync_goes_on_in_an_owners_folder_of_js(owner, reader, origin, tmp_path):
    key, copy, other = import_by_js(origin, owner)["key"], tmp_path / "copy", tmp_path / "other"
    for step in range(3):
        change(origin, step)
        if step == 1:
            import_by_js(origin, owner, "--mtime")
        else:
            with owner.share(origin) as server:
                assert server.key == key
                clone_by_js(key, copy, port_of(server))
                clone(reader, key, other, port_of(server))
                server.stop()
    assert_same(origin, copy, owner, reader, by_js=True)
    assert_same(origin, other, owner, reader, every_version=False)


def test_js_goes_on_in_an_owners_folder_of_datsync(owner, reader, origin, tmp_path):
    key, copy, other = create(owner, origin), tmp_path / "copy", tmp_path / "other"
    with owner.share(origin) as server:
        clone(reader, key, copy, port_of(server))
        server.stop()
    for step in range(3):
        change(origin, step)
        if step == 1:
            with owner.share(origin) as server:
                server.stop()
        else:
            assert import_by_js(origin, owner, "--mtime")["key"] == key
        with share_by_js(origin, owner) as server:
            reader("pull", "--quiet", "--peer", "127.0.0.1:%d" % server.port, copy)
    with share_by_js(origin, owner) as server:
        clone_by_js(key, other, server.port)
    assert_same(origin, copy, owner, reader)
    assert_same(origin, other, owner, reader, every_version=False, by_js=True)


@pytest.mark.parametrize("first", ["datsync", "js"])
def test_three_hops(first, owner, reader, origin, tmp_path):
    """Each clones from the other's clone; the folders are served by the one that did not make them, too."""
    key = import_by_js(origin, owner)["key"] if first == "js" else create(owner, origin)
    before, folder = origin, None
    for hop in range(3):
        folder = tmp_path / ("hop%d" % hop)
        if (first == "js") == (hop % 2 == 0):
            with share_by_js(before, None if hop else owner) as server:
                clone(reader, key, folder, server.port)
        else:
            with (reader if hop else owner).share(before) as server:
                clone_by_js(key, folder, port_of(server))
                server.stop()
        before = folder
    with share_by_js(before, None) as server:
        clone(reader, key, tmp_path / "last", server.port)
    with reader.share(tmp_path / "last") as server:
        clone_by_js(key, tmp_path / "end", port_of(server))
        server.stop()
    assert_same(origin, tmp_path / "last", owner, reader, every_version=False)
    assert_same(origin, tmp_path / "end", owner, reader, every_version=False, by_js=True)


# ---- interrupted ------------------------------------------------------------------------------------

def big_tree(folder, big=4 * MIB):
    write(folder, {"a": b"first", "big.bin": tools.block(9, 0, 512) * (big // 512), "m/x": b"x" * 100000, "z": b"last"})
    for i in range(40):
        write(folder, {"n/%02d" % i: b"%d " % i * 1000})


def js_any(*args):
    done = subprocess.run(js_argv(*args), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=60, env=dict(os.environ, DEPS=DEPS))
    return json.loads(done.stdout) if done.stdout.startswith(b"{") else done.stderr.decode()


@pytest.mark.parametrize("number, limit", [(9, 3000), (2, 60000), (9, 2000000), (9, 4350000)])
def test_js_goes_on_where_datsync_was_stopped(number, limit, owner, reader, tmp_path):
    """Also in the middle of a big file, half of which JS must not be told to be there."""
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    big_tree(origin)
    key = create(owner, origin)
    with owner.share(origin) as server:
        with Dam(port_of(server), limit) as dam:
            with reader.start("clone", "--quiet", "--peer", "127.0.0.1:%d" % dam.port, key, copy) as client:
                assert dam.full.wait(30)
                time.sleep(1.1 if limit == 2000000 else 0.1)  # what is claimed after a second is claimed
                client.interrupt(number)
                client.wait()
        if os.path.exists(str(copy / ".dat" / "metadata.key")):
            report = js_any("verify", copy)
            if isinstance(report, dict):
                assert report["invalid"] == 0, report
                assert report["missing"] > 0 or report["files"] < 45, report
            there = tree(copy)
            for name, data in tree(origin).items():
                assert name not in there or there[name] == data, name
        clone_by_js(key, copy, port_of(server))
        server.stop()
    assert_same(origin, copy, owner, reader, every_version=False)


@pytest.mark.parametrize("limit", [60000, 2000000])
def test_datsync_goes_on_where_js_was_killed(limit, owner, reader, tmp_path):
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    big_tree(origin)
    key = import_by_js(origin, owner)["key"]
    with share_by_js(origin, owner, "--live") as server:
        with Dam(server.port, limit) as dam:
            with js_process("clone", copy, "--key", key, "--port", dam.port) as client:
                assert dam.full.wait(30)
                time.sleep(0.3)
                client.kill()
        told = reader("verify", "--json", copy, code=None).events
        assert told, "verify says nothing"
        result = reader("clone", "--quiet", "--timeout", "20", "--peer", "127.0.0.1:%d" % server.port, key, copy, code=None)
        if result.code != 0:  # data that its bitfield, which it writes later, does not tell of: nobody knows whose it is
            assert result.code == tools.FAILED and "/big.bin: it was changed here and is kept" in result.err
            reader("clone", "--force", "--quiet", "--timeout", "20", "--peer", "127.0.0.1:%d" % server.port, key, copy)
    assert_same(origin, copy, owner, reader, every_version=False)


# ---- many files -------------------------------------------------------------------------------------

def many(folder, folders, each):
    for i in range(folders):
        write(folder, {"d%03d/f%03d" % (i, j): b"%d %d " % (i, j) * (1 + j % 150) for j in range(each)})


def edit_many(folder, folders, each, turn):
    """Of each folder some files are edited, some deleted, some new; one folder goes, one comes."""
    for i in range(folders):
        at = "d%03d/" % i
        if not os.path.isdir(str(folder / at)):
            continue
        write(folder, {at + "f%03d" % (turn * 5 + j): b"edited %d %d" % (turn, j) * 9 for j in range(3)})
        write(folder, {at + "new%d-%d" % (turn, j): b"new" * j for j in range(2)})
        os.remove(str(folder / at / ("f%03d" % (each - 1 - turn))))
    shutil.rmtree(str(folder / ("d%03d" % (turn + 1))))
    write(folder, {"other%d/%d" % (turn, j): b"o" for j in range(5)})


def both_ways(direction, owner, reader, tmp_path, folders, each, patience, say=None):
    """Without `say` JS does not make the first version: it has no native cryptography here, and needs 7 ms a file."""
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    many(origin, folders, each)
    to_js = direction == "to js"
    for turn in range(3 if say else 2):
        if turn:
            edit_many(origin, folders, each, turn)
        begin = time.monotonic()
        if to_js:
            if not turn:
                key = create(owner, origin)
            server = owner.share(origin)
        else:
            if not turn and not say:
                create(owner, origin)
            key = import_by_js(origin, owner, "--mtime", timeout=patience)["key"]
            server = share_by_js(origin, owner)
        imported = time.monotonic() - begin
        with server:
            if to_js:
                clone_by_js(key, copy, port_of(server), timeout=patience)
            elif turn:
                reader("pull", "--quiet", "--peer", "127.0.0.1:%d" % server.port, copy, timeout=patience)
            else:
                clone(reader, key, copy, server.port)
        if say:
            say(direction, turn, "import %.1f s, clone %.1f s" % (imported, time.monotonic() - begin - imported))
    assert_same(origin, copy, owner, reader, every_version=False, by_js=to_js)
    log = drives.read_folder(copy).drive.log
    assert listing(copy, reader) == log.listing()


@pytest.mark.parametrize("direction", ["to js", "to datsync"])
def test_2000_files(direction, owner, reader, tmp_path):
    both_ways(direction, owner, reader, tmp_path, 20, 100, 120)


@BIG
@pytest.mark.parametrize("direction", ["to js", "to datsync"])
def test_10000_files(direction, owner, reader, tmp_path):
    both_ways(direction, owner, reader, tmp_path, 100, 100, 900, print)


# ---- dat 13 itself ----------------------------------------------------------------------------------

real = pytest.mark.skipif(not REAL_DAT, reason="dat 13 is not installed: make interop")

# dat-node, that `dat` itself is made of, on a plain port and with no discovery.
SHARE_REAL = """
const Dat = require(process.env.REAL + '/node_modules/dat-node'), net = require('net')
Dat(process.argv[1], (err, dat) => { if (err) throw err
  dat.importFiles({ watch: process.argv[2] === 'watch' }, err => { if (err) throw err; ready() })
  if (process.argv[2] === 'watch') setTimeout(ready, 1000)
  let over = false
  function ready () {
    if (over) return
    over = true
    net.createServer(s => {
      const p = dat.archive.replicate({ live: true, upload: true, download: false })
      s.pipe(p).pipe(s); s.on('error', () => {}); p.on('error', () => {})
    }).listen(0, '127.0.0.1', function () { console.log('READY ' + this.address().port + ' ' + dat.key.toString('hex')) })
  } })
process.stdin.on('end', () => process.exit(0)).resume()
"""
CLONE_REAL = """
const Dat = require(process.env.REAL + '/node_modules/dat-node'), net = require('net')
Dat(process.argv[2], { key: process.argv[1] }, (err, dat) => { if (err) throw err
  const s = net.connect(+process.argv[3], '127.0.0.1'), p = dat.archive.replicate({ live: true })
  s.pipe(p).pipe(s); s.on('error', () => {}); p.on('error', () => {})
  dat.archive.on('sync', () => { console.log('SYNC ' + dat.version); if (process.argv[4] !== 'live') end() })
  function end () { s.destroy(); dat.close(() => process.exit(0)) }
  process.stdin.on('end', end).resume() })
"""


def real_dat(script, home, *args):
    env = dict(home.env, REAL=str(REAL_DAT))
    return tools.Process(argv=[NODE, "-e", script, "--"] + [str(a) for a in args], stdin=subprocess.PIPE, env=env)


def share_real(folder, home, *options):
    process = real_dat(SHARE_REAL, home, folder, *options)
    try:
        ready = process.line(r"^READY (\d+) ([0-9a-f]{64})$", 60)
    except BaseException:
        process.kill()
        raise
    process.port, process.key = int(ready.group(1)), ready.group(2)
    return process


def clone_real(key, folder, home, port):
    with real_dat(CLONE_REAL, home, key, folder, port) as process:
        process.finish(0, 60)


class RealHome(Home):
    """Both programs keep the secret keys in the same folder of the home folder."""

    def __init__(self, path):
        super().__init__(path)
        self.secrets = os.path.join(self.env["HOME"], ".dat", "secret_keys")


# dat 13 passes a folder over that is gone, with all that was in it, unless it was watching it.

@real
def test_from_dat_13(reader, origin, tmp_path):
    owner, copy = RealHome(tmp_path / "owner"), tmp_path / "copy"
    with share_real(origin, owner) as server:
        key = server.key
        clone(reader, key, copy, server.port)
    for step in range(3):
        change(origin, step, whole_folders=False)
        with share_real(origin, owner) as server:
            assert server.key == key
            reader("pull", "--quiet", "--peer", "127.0.0.1:%d" % server.port, copy)
    assert_same(origin, copy, owner, reader)


@real
def test_from_datsync_to_dat_13(origin, tmp_path):
    owner, reader, copy = RealHome(tmp_path / "owner"), RealHome(tmp_path / "reader"), tmp_path / "copy"
    key = create(owner, origin)
    for step in range(4):
        if step:
            change(origin, step - 1)
        with owner.share(origin) as server:
            clone_real(key, copy, reader, port_of(server))
            server.stop()
    assert_same(origin, copy, owner, reader, by_js=True)


@real
def test_live_with_dat_13(reader, origin, tmp_path):
    """dat 13 watches its folder, datsync follows; and the other way round."""
    owner, copy, far = RealHome(tmp_path / "owner"), tmp_path / "copy", tmp_path / "far"
    with share_real(origin, owner, "watch") as server, \
            reader.start("clone", "--live", "--json", "--listen", "127.0.0.1:0", "--peer", "127.0.0.1:%d" % server.port,
                         server.key, copy) as client:
        port = client.event("listening")["address"].rsplit(":", 1)[1]
        tools.eventually(lambda: os.path.isdir(str(copy)) and tree(copy) == tree(origin), 30)
        with real_dat(CLONE_REAL, RealHome(tmp_path / "third"), server.key, far, port, "live") as third:
            for step in range(3):
                change(origin, step)
                tools.eventually(lambda: tree(copy) == tree(origin), 30)
            tools.eventually(lambda: with_content(tree(far)) == with_content(tree(origin)), 30)
            time.sleep(0.5)
            third.process.stdin.close()
            third.process.stdin = None
            third.finish(0)
        client.stop(None)
    assert assert_whole(copy, reader, every_version=True) == assert_whole(far, reader, True, True)


@real
def test_each_goes_on_in_the_others_owner_folder(reader, origin, tmp_path):
    owner, copy = RealHome(tmp_path / "owner"), tmp_path / "copy"
    key = create(owner, origin)
    for step in range(3):
        change(origin, step)
        if step != 1:
            with share_real(origin, owner) as server:
                assert server.key == key
                clone(reader, key, copy, server.port) if step == 0 else reader(
                    "pull", "--quiet", "--peer", "127.0.0.1:%d" % server.port, copy)
        else:
            with owner.share(origin) as server:
                clone_real(key, tmp_path / "far", RealHome(tmp_path / "third"), port_of(server))
                server.stop()
            assert with_content(tree(tmp_path / "far")) == with_content(tree(origin))
    assert_same(origin, copy, owner, reader)


@real
@pytest.mark.parametrize("first", ["datsync", "dat"])
def test_a_clone_that_the_other_completes(first, reader, tmp_path):
    owner, origin, copy = RealHome(tmp_path / "owner"), tmp_path / "origin", tmp_path / "copy"
    mine = RealHome(tmp_path / "mine")
    big_tree(origin)
    key = create(owner, origin)
    with owner.share(origin) as server:
        with Dam(port_of(server), 2000000) as dam:
            if first == "dat":
                partial = real_dat(CLONE_REAL, mine, key, copy, dam.port)
            else:
                partial = mine.start("clone", "--quiet", "--peer", "127.0.0.1:%d" % dam.port, key, copy)
            with partial:
                assert dam.full.wait(30)
                time.sleep(0.3)
                partial.kill()
        if first == "dat":
            clone(mine, key, copy, port_of(server))
        else:
            clone_real(key, copy, mine, port_of(server))
        server.stop()
    assert_same(origin, copy, owner, mine, every_version=False, by_js=first == "datsync")
