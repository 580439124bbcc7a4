"""What the tests share: the command line under test, feeds with known content, scripted servers.

Environment: DATSYNC is the program under test (build/asan/datsync), DATSYNC_WRAPPER what stands
before it (valgrind and its options).
"""

import contextlib
import glob
import json
import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import threading
import time

from dat import feed as feeds
from dat import peer as peers
from dat import sleep, sodium, wire

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
SUITE = os.path.join(ROOT, "conformance")
DATSYNC = os.environ.get("DATSYNC", os.path.join(ROOT, "build", "asan", "datsync"))
WRAPPER = shlex.split(os.environ.get("DATSYNC_WRAPPER", ""))
PATIENCE = 6.0 if WRAPPER else 1.0  # a wrapper makes everything slower
BROKEN = 99  # the exit code of a sanitizer's or valgrind's complaint
COMPLAINT = re.compile(r"Sanitizer|runtime error:|^==\d+==", re.M)

DONE, FAILED, USAGE, NO_PEER, INTERRUPTED = 0, 1, 2, 3, 130


def environment(more=None):
    env = dict(os.environ)
    # A small quarantine: what was freed must not look like what is held.
    env["ASAN_OPTIONS"] = "exitcode=%d:quarantine_size_mb=16:%s" % (BROKEN, env.get("ASAN_OPTIONS", ""))
    env["LSAN_OPTIONS"] = 'suppressions="%s":print_suppressions=0:%s' % (os.path.join(HERE, "leaks.txt"), env.get("LSAN_OPTIONS", ""))
    env["UBSAN_OPTIONS"] = "print_stacktrace=1:exitcode=%d:%s" % (BROKEN, env.get("UBSAN_OPTIONS", ""))
    env.update(more or {})
    return env


def command(*args, program=None):
    return WRAPPER + [program or DATSYNC] + [str(a) for a in args]


def assert_sane(code, err, args=()):
    """No sanitizer report, and no death by a signal that nobody sent."""
    assert not COMPLAINT.search(err) and code != BROKEN, "%s: %s" % (args, err[-8000:])
    assert code not in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE,
                        -signal.SIGPIPE, -signal.SIGILL, -signal.SIGXFSZ), "%s: %d %s" % (args, code, err)


def own_files(*patterns):
    """The project's files that fit, beneath its root. In a checkout: those that git knows, for people put folders of theirs beside them."""
    found = {os.path.relpath(f, ROOT) for pattern in patterns for f in glob.glob(os.path.join(ROOT, pattern))}
    if os.path.exists(os.path.join(ROOT, ".git")):
        done = subprocess.run(["git", "ls-files"], cwd=ROOT, stdout=subprocess.PIPE, check=True, encoding="utf-8")
        known = done.stdout.splitlines()
        found &= set(known) | {name.split("/")[0] for name in known}
    return sorted(found)


def flip(path, at):
    """Change one byte of a file: whatever it was, it is another, and what it was after a second time."""
    with open(str(path), "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


class Result:
    def __init__(self, args, code, out, err):
        self.args, self.code, self.raw, self.err = args, code, out, err

    @property
    def out(self):
        return self.raw.decode()

    @property
    def lines(self):
        return self.out.splitlines()

    @property
    def events(self):
        """The JSON objects of standard output; fails if there is anything else."""
        return [json.loads(line) for line in self.lines]

    def __repr__(self):
        return "%s -> %s\n%s\n%s" % (self.args, self.code, self.raw[-2000:], self.err[-4000:])


def run(*args, code=DONE, stdin=b"", timeout=30, env=None, **options):
    """Run the command line to its end; `code` is the exit code that is expected (None: any)."""
    for _ in range(2):
        done = subprocess.run(command(*args), input=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=timeout * PATIENCE,
                              env=environment(env), **options)
        if not WRAPPER or done.returncode != 1 or done.stdout or done.stderr:
            break  # wine may end before the program has begun; datsync itself never fails without a word
    result = Result(args, done.returncode, done.stdout, done.stderr.decode(errors="replace"))
    assert_sane(result.code, result.err, args)
    assert code is None or result.code == code, result
    return result


def feed(*args, **options):
    """`datsync feed ...`."""
    return run("feed", *args, **options)


def one_line(result):
    """The one line that says what went wrong."""
    lines = result.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("datsync: "), result
    return lines[0]


class Process:
    """A command that runs beside the test. Its lines can be waited for."""

    def __init__(self, *args, argv=None, stdin=None, **options):
        self.args = args
        self.process = subprocess.Popen(
            argv or command(*args), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment(options.pop("env", None)), **options)
        self.out, self.err = [], []
        self._queue = queue.Queue()
        self._readers = [threading.Thread(target=self._read, args=(s, l, q), daemon=True)
                         for s, l, q in ((self.process.stdout, self.out, self._queue),
                                         (self.process.stderr, self.err, None))]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, lines, to):
        for line in iter(stream.readline, b""):
            lines.append(line.decode(errors="replace").rstrip("\n"))
            if to is not None:
                to.put(lines[-1])
        if to is not None:
            to.put(None)

    @property
    def pid(self):
        return self.process.pid

    def line(self, pattern, timeout=15.0):
        """The match of the next line of standard output that matches; others pass."""
        deadline = time.monotonic() + timeout * PATIENCE
        while True:
            try:
                line = self._queue.get(timeout=max(0.001, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError("no line %r came: %s" % (pattern, self)) from None
            assert line is not None, "it ended without a line %r: %s" % (pattern, self)
            found = re.search(pattern, line)
            if found:
                return found

    def event(self, name, timeout=15.0, where=None):
        """The next --json event of this name (and for which `where` holds)."""
        deadline = time.monotonic() + timeout
        while True:
            got = json.loads(self.line(r"^\{.*\}$", max(0.001, deadline - time.monotonic())).group())
            if got["event"] == name and (where is None or where(got)):
                return got

    def interrupt(self, number=signal.SIGINT):
        self.process.send_signal(number)

    def write(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    @property
    def running(self):
        return self.process.poll() is None

    def wait(self, timeout=20.0):
        try:
            self.process.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError("it still runs after %g s: %s" % (timeout, self)) from None
        for reader in self._readers:
            reader.join(5)
        return self.process.returncode

    def finish(self, code=DONE, timeout=20.0):
        """Wait for the end, which must have this exit code."""
        got = self.wait(timeout)
        assert_sane(got, "\n".join(self.err), self.args)
        assert code is None or got == code, "exit %s, not %s: %s" % (got, code, self)
        return self

    def stop(self, code=DONE, number=signal.SIGINT, timeout=20.0):
        """Interrupt it, and check how it ends."""
        assert self.running, "it ended by itself: %s" % self
        self.interrupt(number)
        return self.finish(code, timeout)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def __repr__(self):
        return "%s\nout: %s\nerr: %s" % (self.args, "\n".join(self.out[-20:]), "\n".join(self.err[-60:]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        if self.process.stdin:
            try:
                self.process.stdin.close()
            except OSError:
                pass


def share(folder, *options, **more):
    """`feed share` on a free loopback port, once it listens: `port` and `key` are set."""
    process = Process("feed", "share", "--listen", "127.0.0.1:0", *options, folder, **more)
    try:
        process.key = bytes.fromhex(process.line(r"^dat://([0-9a-f]{64})$").group(1))
        process.port = int(process.line(r"^listening on 127\.0\.0\.1:(\d+)$").group(1))
    except BaseException:
        process.kill()
        raise
    return process


def clone(key, folder, *options, ports=(), **more):
    """`feed clone`, in the background."""
    dial = [word for port in ports for word in ("--peer", "127.0.0.1:%d" % port)]
    return Process("feed", "clone", *dial, *options, key.hex(), folder, **more)


def clone_now(key, folder, *options, port, code=DONE, **more):
    """`feed clone` from one port, to its end."""
    return feed("clone", "--peer", "127.0.0.1:%d" % port, *options, key.hex(), folder, code=code, **more)


def on_a_terminal(*args, env):
    """Run the command line, its standard error a terminal of 100 columns: its exit code, its output, and what was shown."""
    main, side = os.openpty()
    process = subprocess.Popen(command(*args), stderr=side, stdout=subprocess.PIPE, env=environment(dict(env, COLUMNS="100")))
    os.close(side)
    shown = b""
    try:
        while True:
            more = os.read(main, 65536)
            if not more:
                break
            shown += more
    except OSError:
        pass  # the other side was closed
    os.close(main)
    code = process.wait(20)
    with process.stdout:
        return code, process.stdout.read(), shown


# ---- feeds --------------------------------------------------------------------------------------

def files(folder):
    """{name: the content} of the files of a folder that holds no folders."""
    found = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            found[name] = file.read()
    return found


def key_pair(seed):
    return sodium.keypair(sodium.generichash(b"key %d" % seed))


def block(seed, index, size):
    """The content of a block: the same for the same arguments."""
    name = b"%d %d" % (seed, index)
    out = b"".join(sodium.generichash(name + b" %d" % i) for i in range(-(-size // 32)))
    return out[:size]


def make(blocks, size=100, seed=1, batch=64):
    """A feed of the Python implementation."""
    made = feeds.Feed(secret_key=key_pair(seed)[1])
    for i in range(0, blocks, batch):
        made.append(*(block(seed, j, size) for j in range(i, min(i + batch, blocks))))
    return made


def make_folder(folder, blocks, size=100, seed=1, batch=64):
    """The same in a folder."""
    made = make(blocks, size, seed, batch)
    sleep.write(made, folder)
    return made


def part(made, blocks):
    """A reader's copy that holds some of the blocks."""
    there = feeds.Feed(made.key)
    for i in blocks:
        there.put(made.answer(wire.request(i, there.digest(i))))
    return there


def content(made):
    return b"".join(made.blocks[i] for i in range(made.length))


def audit(folder):
    """What is wrong with a folder. It may be asked only once the feed was opened after a crash."""
    return sleep.audit(folder)


def assert_folder(folder, made, held=None):
    """The folder holds this feed's blocks (all, or those of `held`), and every claim verifies."""
    assert audit(folder) == []
    there = sleep.read(folder)
    held = range(made.length) if held is None else held
    assert there.key == made.key
    assert sorted(there.blocks) == list(held)
    for i in held:
        assert there.blocks[i] == made.blocks[i], i
    return there


# ---- scripted servers -----------------------------------------------------------------------------

class Recording(peers.Conversation):
    """A server that notes what it is asked, and can be told to answer falsely or not at all.

    `answer_only(index)` says whether a Request is answered; `tamper(data)` changes an answer.
    """

    def __init__(self, *args, requests=None, answer_only=None, tamper=None, **options):
        super().__init__(*args, **options)
        self.requests = [] if requests is None else requests
        self.answer_only, self.tamper = answer_only, tamper

    def _on_request(self, channel, request):
        self.requests.append(request.index)
        if self.answer_only and not self.answer_only(request.index):
            return
        data = channel.feed.answer(request, channel.remote_tree)
        if data is not None:
            self._send(channel, self.tamper(data) if self.tamper else data)


class Server:
    """Serves feeds on a loopback port, to any number of connections. `requests` are those of all."""

    def __init__(self, served, **options):
        self.feeds = served if isinstance(served, (list, tuple)) else [served]
        self.options, self.requests, self.conversations, self.errors = options, [], [], []
        self.options.setdefault("live", True)
        self.listener = peers.Listener([f.key for f in self.feeds])
        self.port = self.listener.port
        self._closed = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self):
        while not self._closed:
            try:
                peer = self.listener.accept(0.2)
            except peers.TimedOut:
                continue
            except OSError:
                return
            conversation = Recording(peer, self.feeds, requests=self.requests, **self.options)
            self.conversations.append(conversation)
            thread = threading.Thread(target=self._run, args=(conversation,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, conversation):
        try:
            conversation.run()
        except (peers.PeerError, wire.CodecError, ValueError, OSError) as error:
            self.errors.append(error)

    def append(self, *blocks):
        """Append to the first feed, and announce it on every connection."""
        made = self.feeds[0]
        with contextlib.ExitStack() as all_locks:
            for conversation in list(self.conversations):
                all_locks.enter_context(conversation.lock)
            first = made.append(*blocks)
        for conversation in list(self.conversations):
            try:
                conversation.announce(made, first, len(blocks))
            except peers.PeerError:
                pass  # that one has left
        return first

    def close(self):
        self._closed = True
        self.listener.close()
        for conversation in self.conversations:
            conversation.stop()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---- small things -----------------------------------------------------------------------------------

def speak_after_the_end(peer, made):
    """Serve to the agreed end, but be slow to close: what is said then is read too. Raises where it is met with a reset."""
    peer.close = lambda: None
    peers.Conversation(peer, made).run()
    time.sleep(0.8)
    for _ in range(3):
        peer.ping()
        time.sleep(0.1)
    with peer.sock:
        while peer.sock.recv(4096):
            pass


def eventually(condition, timeout=15.0, what="it"):
    """Wait for something that tells nobody when it happens; its last value is returned."""
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "%s did not happen in %g s" % (what, timeout)
        time.sleep(0.01)


def closed_port():
    """A port on which nobody listens."""
    with socket.create_server((peers.LOOPBACK, 0)) as sock:
        return sock.getsockname()[1]


def status(pid, name):
    """A number of /proc/PID/status, as VmRSS (in kB); None where there is no such thing."""
    try:
        with open("/proc/%d/status" % pid) as lines:
            for line in lines:
                if line.startswith(name + ":"):
                    return int(line.split()[1])
    except OSError:
        pass
    return None
