"""The suite's own drives (dat/drive.py) and the deployed JavaScript hyperdrive, both ways, through js/drive.js.

Needs node and the packages of js/package.json: see javascript.py.
"""

import contextlib
import json
import os
import subprocess

import pytest

from dat import drive, evil, peer
from javascript import HERE, NODE, REASON, packages
from suite.stage import Adapter

SCRIPT = os.path.join(HERE, "js", "drive.js")
DEPS = packages("dat-storage")

pytestmark = [pytest.mark.interop, pytest.mark.skipif(NODE is None or DEPS is None, reason=REASON)]


def js_argv(*args):
    return [NODE, SCRIPT] + [str(a) for a in args]


def js(*args, code=0, stdin=b"", timeout=60):
    """Run drive.js to its end, its stdin open as long as it runs if `stdin` is None; the JSON that it printed."""
    with subprocess.Popen(js_argv(*args), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=dict(os.environ, DEPS=DEPS)) as process:
        try:
            if stdin is None:
                process.wait(timeout)
                out, err = process.stdout.read(), process.stderr.read()
            else:
                out, err = process.communicate(stdin, timeout)
        finally:
            process.kill()
    assert process.returncode == code, (args, process.returncode, out, err)
    return json.loads(out) if out.startswith(b"{") else None


@contextlib.contextmanager
def js_share(folder, *options):
    """drive.js shares a folder; `port` is where it listens, and it must end by itself."""
    process = Adapter(js_argv("share", folder, "--listen", *options), [], dict(os.environ, DEPS=DEPS))
    try:
        process.port = int((process.line(30) or "").partition("PORT ")[2])
        yield process
        assert process.wait(20) == 0, process.last_words()
    finally:
        process.kill()


def python_clone(key, port):
    return drive.clone(peer.connect(port, [key]), key)


def sample():
    made = drive.Drive(seed=b"\x07" * 32)
    for i in range(60):
        made.put("/d%d/e%d/f%d" % (i % 3, i % 7, i), b"%d " % i * i, mtime=1500000000000 + i)
    made.put("/big.bin", bytes(range(256)) * 1000)
    made.put("/d1/e1/f1", b"edited")
    made.delete("/d2/e2/f2")
    made.delete("/d0/e0/f0")
    return made


def ops(lines):
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def test_js_clones_from_python(tmp_path):
    made, copy = sample(), tmp_path / "copy"
    with evil.Server(made) as server:
        js("clone", copy, "--key", made.key.hex(), "--port", server.port, stdin=None)
    report = js("verify", copy)
    assert report["valid"] == report["blocks"] == len(made.needed()) and report["version"] == made.version
    assert {p: e["seq"] for p, e in js("list", copy)["entries"].items()} == made.log.listing()
    assert [(e["version"], e["type"], e["path"]) for e in js("history", copy)["history"]] == list(made.log.history())
    assert drive.audit_folder(copy) == []
    read = drive.read_folder(copy)
    there = {p: data for p, data in made.files().items() if data}
    assert {p: data for p, data in read.drive.files().items() if data} == there
    assert read.latest == made.version and not read.owner


def test_python_clones_from_js_a_drive_that_grows(tmp_path):
    folder, secrets = tmp_path / "owner", tmp_path / "secrets"
    os.makedirs(folder / "sub")
    (folder / "a.txt").write_bytes(b"a" * 70000)
    (folder / "sub" / "b.txt").write_bytes(b"b")
    told = js("import", folder, "--secret-dir", secrets, "--mtime")
    key = bytes.fromhex(told["key"])
    assert (told["version"], told["puts"]) == (2, 2)
    with js_share(folder, "--secret-dir", secrets, "--live") as sharing:
        assert python_clone(key, sharing.port).files() == {"/a.txt": b"a" * 70000, "/sub/b.txt": b"b"}
        sharing.tell('{"op":"put","path":"/c","text":"c"}\n{"op":"del","path":"/sub/b.txt"}\nstop')
    read = drive.read_folder(folder, secrets)
    assert read.owner and drive.audit_folder(folder) == []
    assert read.drive.files() == {"/a.txt": b"a" * 70000, "/c": b"c"}
    os.unlink(folder / "a.txt")
    told = js("import", folder, "--secret-dir", secrets)
    assert (told["version"], told["puts"], told["dels"]) == (5, 0, 1)


def test_js_goes_on_with_a_folder_that_python_wrote(tmp_path):
    made, folder, secrets = sample(), tmp_path / "owner", tmp_path / "secrets"
    drive.write_folder(made, folder, secrets)
    assert js("verify", folder)["valid"] == len(made.needed())
    js("import", folder, "--secret-dir", secrets, "--ops",
       stdin=ops([{"op": "put", "path": "/d1/new", "text": "new", "mtime": 5, "ctime": 6}, {"op": "del", "path": "/big.bin"}]))
    read = drive.read_folder(folder, secrets).drive
    assert drive.audit_folder(folder) == [] and read.version == made.version + 2
    made.put("/d1/new", b"new", mtime=5, ctime=6)
    made.delete("/big.bin")
    assert read.metadata.blocks == made.metadata.blocks


def test_both_sides_of_js(tmp_path):
    folder, secrets, copy = tmp_path / "owner", tmp_path / "secrets", tmp_path / "copy"
    told = js("import", folder, "--secret-dir", secrets, "--key-seed", "22" * 32, "--ops", stdin=ops(
        [{"op": "put", "path": "/x/%d" % i, "text": "x" * i} for i in range(30)]
        + [{"op": "mkdir", "path": "/empty", "mode": 0o700}, {"op": "del", "path": "/x/7"}]))
    with js_share(folder, "--secret-dir", secrets) as sharing:
        js("clone", copy, "--key", told["key"], "--port", sharing.port, stdin=None)
    assert js("list", copy)["entries"] == js("list", folder)["entries"]
    report = js("verify", copy)
    assert (report["files"], report["valid"], report["missing"]) == (29, 28, 0)
    assert js("list", copy, "--version", 3)["entries"].keys() == {"/x/0", "/x/1", "/x/2"}
