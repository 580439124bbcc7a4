"""A build for another system, processor, compiler or library, with this system's own and with the deployed JavaScript: feeds and
drives, both ways.

DATSYNC is the build, DATSYNC_WRAPPER what runs it, DATSYNC_NATIVE this system's datsync: make check-s390x and its like.
"""

import contextlib
import os
import subprocess

import pytest

import tools
from test_cli_drive import Home, key_of, write
from test_drive_interop import clone_by_js, import_by_js, port_of, share_by_js, tree, with_content
from test_interop import Js, js_checks, js_make
from tools import DONE, feed

NATIVE = os.environ.get("DATSYNC_NATIVE")

pytestmark = [pytest.mark.everywhere, pytest.mark.skipif(not NATIVE, reason="a build for another system: make check-all")]

FILES = {
    "a.txt": b"hello\n", "empty": b"", "exact": tools.block(2, 0, 65536), "sub/a.txt": b"another\n",
    "sub/deep/deeper/b.bin": bytes(range(256)) * 600, "sub/mib.bin": tools.block(1, 0, 64) * 18000,
    "\u65e5\u672c/\u00fc \U0001f600.txt": b"names\n", "with space/%41&'": b"odd",
}
FAR_TIME = 4102444800  # 2100: more seconds than 32 bits hold with a sign


class Native(Home):
    """A user of this system's datsync."""

    def _argv(self, command, args):
        return [NATIVE] + [str(a) for a in self._words(command, args)]

    def __call__(self, command, *args, code=DONE):
        done = subprocess.run(self._argv(command, args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=60, env=tools.environment(self.env))
        assert done.returncode == code, done
        return tools.Result(args, done.returncode, done.stdout, done.stderr.decode())

    def start(self, command, *args, **options):
        return tools.Process(argv=self._argv(command, args), env=self.env, **options)


@pytest.fixture
def build(tmp_path):
    return Home(tmp_path / "build")


@pytest.fixture
def native(tmp_path):
    return Native(tmp_path / "native")


@pytest.fixture
def origin(tmp_path):
    write(tmp_path / "origin", FILES)
    return tmp_path / "origin"


def native_feed(*args, code=DONE):
    done = subprocess.run([NATIVE, "feed"] + [str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == code, done
    return done.stdout.decode()


@contextlib.contextmanager
def native_share(folder):
    with tools.Process(argv=[NATIVE, "feed", "share", "--listen", "127.0.0.1:0", str(folder)]) as server:
        server.port = int(server.line(r"^listening on 127\.0\.0\.1:(\d+)$").group(1))
        yield server


# ---- feeds ----------------------------------------------------------------------------------------

def test_a_feed_from_the_native_build(tmp_path):
    made = tools.make_folder(str(tmp_path / "source"), 700, size=900)
    with native_share(tmp_path / "source") as server:
        tools.clone_now(made.key, tmp_path / "copy", port=server.port)
    assert feed("verify", tmp_path / "copy").out == "ok 700\n"
    tools.assert_folder(str(tmp_path / "copy"), made)


def test_a_feed_to_the_native_build(tmp_path):
    made = tools.make_folder(str(tmp_path / "source"), 700, size=900)
    with tools.share(tmp_path / "source") as server:
        native_feed("clone", "--peer", "127.0.0.1:%d" % server.port, made.key.hex(), tmp_path / "copy")
        server.stop()
    assert native_feed("verify", tmp_path / "copy") == "ok 700\n"
    tools.assert_folder(str(tmp_path / "copy"), made)


def test_the_same_appends_make_the_same_files(tmp_path):
    """Byte for byte what the Python implementation writes."""
    public, secret = tools.key_pair(5)
    (tmp_path / "secret").write_bytes(secret)
    feed("create", "--secret-key", tmp_path / "secret", tmp_path / "feed")
    data = b"".join(tools.block(1, i, 1000) for i in range(100))
    feed("append", "--block-size", "1000", tmp_path / "feed", stdin=data)
    feed("verify", tmp_path / "feed")
    assert native_feed("info", tmp_path / "feed") == feed("info", tmp_path / "feed").out
    assert native_feed("verify", tmp_path / "feed") == "ok 100\n"
    native = tmp_path / "native"
    native_feed("create", "--secret-key", tmp_path / "secret", native)
    subprocess.run([NATIVE, "feed", "append", "--block-size", "1000", str(native)], input=data, check=True, timeout=60)
    for name in os.listdir(native):
        assert (native / name).read_bytes() == (tmp_path / "feed" / name).read_bytes(), name


@pytest.mark.interop
@pytest.mark.parametrize("listens", ["js listens", "build listens"])
def test_a_feed_from_js(listens, tmp_path):
    source, copy = str(tmp_path / "source"), str(tmp_path / "copy")
    key = js_make("6", source, 500, "1-3000")
    if listens == "js listens":
        with Js("6", "serve", key, source) as server:
            tools.clone_now(key, copy, port=server.port)
    else:
        with tools.Process("feed", "clone", "--listen", "127.0.0.1:0", key.hex(), copy) as client:
            port = int(client.line(r"^listening on 127\.0\.0\.1:(\d+)$").group(1))
            with Js("6", "serve", key, source, port=port):
                client.finish(DONE, 60)
    assert feed("verify", copy).out == "ok 500\n"
    js_checks("6", copy, 500)


@pytest.mark.interop
def test_a_feed_to_js(tmp_path):
    made = tools.make_folder(str(tmp_path / "source"), 500, size=1200)
    with tools.share(tmp_path / "source") as server:
        with Js("6", "clone", made.key, str(tmp_path / "copy"), port=server.port) as client:
            client.finish(DONE, 60)
        server.stop()
    js_checks("6", str(tmp_path / "copy"), 500)


# ---- drives ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("way", ["to the build", "from the build"])
def test_a_drive_between_the_two(way, build, native, origin, tmp_path):
    owner, reader = (native, build) if way == "to the build" else (build, native)
    copy = tmp_path / "copy"
    os.utime(origin / "exact", (FAR_TIME, FAR_TIME))
    owner("create", origin)
    with owner.share(origin) as server:
        reader.clone(server, copy)
        server.stop()
    assert tree(copy) == tree(origin)
    assert os.stat(copy / "exact").st_mtime == FAR_TIME
    (origin / "sub" / "a.txt").write_bytes(b"changed\n")
    os.remove(origin / "empty")
    with owner.share(origin) as server:
        reader.pull(server, copy)
    assert tree(copy) == tree(origin) and "empty" not in tree(copy)
    for home in (build, native):  # each finds the other's folder good, to the time of each file
        home("verify", copy)
        assert home("status", copy).out == reader("status", copy).out


@pytest.mark.interop
def test_a_drive_from_js(build, origin, tmp_path):
    import_by_js(origin, build)
    with share_by_js(origin, build) as server:
        build("clone", "--peer", "127.0.0.1:%d" % server.port, key_of(origin), tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(origin)
    build("verify", tmp_path / "copy")


@pytest.mark.interop
def test_a_drive_to_js(build, origin, tmp_path):
    build("create", origin)
    with build.share(origin) as server:
        clone_by_js(server.key, tmp_path / "copy", port_of(server))
    assert tree(tmp_path / "copy") == with_content(tree(origin))
