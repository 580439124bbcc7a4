"""Starts an adapter that is a Python script hundreds of times: each is a fork of a process that has loaded what it needs.

Otherwise each is as if it were started anew: a process and a session of its own, with its own words, environment and pipes. It is for
the suite's own tests, which would spend most of their time starting Python.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types

LONGEST = 1 << 17  # of a message; it has a whole environment in it


class Warm(list):
    """The command, as `Run` takes it: `options` of Python, a script and its first words."""

    def __init__(self, script, *words, options=(), modules=()):
        super().__init__([sys.executable, *options, script, *words])
        self._script = script
        self._server = Server([sys.executable, *options, os.path.abspath(__file__), script, *modules])

    def __add__(self, words):
        more = Warm(self._script)
        more[:] = list(self) + list(words)
        more._server = self._server
        return more

    def popen(self, argv, env=None, **how):
        if sys.platform != "linux":  # elsewhere sockets and signals are not quite these
            return subprocess.Popen(argv, env=env, **how)
        return self._server.start(argv[argv.index(self._script):], dict(os.environ if env is None else env))


class Process:
    """What subprocess.Popen would return, as far as it is used."""

    def __init__(self):
        self.pid = self.returncode = None
        self.begun, self.ended = threading.Event(), threading.Event()

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        if not self.ended.wait(timeout):
            raise subprocess.TimeoutExpired("the adapter", timeout)
        return self.returncode


class Server:
    """This side of the process that forks."""

    def __init__(self, command):
        self._command, self._lock = command, threading.Lock()
        self._process = self._channel = None
        self._started = []

    def _begin(self):
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(self._command, stdin=theirs, stdout=subprocess.DEVNULL, start_new_session=True)
        threading.Thread(target=self._listen, daemon=True).start()
        atexit.register(self._end)

    def _end(self):
        self._channel.shutdown(socket.SHUT_RDWR)
        self._process.wait()

    def _listen(self):
        for number, what, value in iter(lambda: json.loads(self._channel.recv(LONGEST) or "null"), None):
            process = self._started[number]
            if what == "pid":
                process.pid = value
                process.begun.set()
            else:
                process.returncode = value
                process.ended.set()
                self._started[number] = None

    def start(self, argv, env):
        process = Process()
        theirs = []
        try:
            for name, mode in (("stdin", "wb"), ("stdout", "rb"), ("stderr", "rb")):
                ends = os.pipe()
                theirs.append(ends[mode == "rb"])
                setattr(process, name, open(ends[mode == "wb"], mode))
            with self._lock:
                if self._process is None:
                    self._begin()
                self._started.append(process)
                message = json.dumps([len(self._started) - 1, argv, env]).encode()
                socket.send_fds(self._channel, [message], theirs)
        finally:
            for fd in theirs:
                os.close(fd)
        if not process.begun.wait(30):
            raise OSError("no process was forked")
        return process


# ---- the process that forks -----------------------------------------------------------------------------

def serve(channel, script, modules):
    with open(script, encoding="utf-8") as file:
        code = compile(file.read(), script, "exec")
    exec(code, {"__name__": "warm", "__file__": script})  # all that it imports
    for module in modules:
        __import__(module)
    ends, woken = os.pipe()
    os.set_blocking(ends, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    numbers = {}
    while True:
        for fd in select.select([channel, ends], [], [])[0]:
            if fd is ends:
                os.read(ends, 4096)
                reap(channel, numbers)
                continue
            message, given, _, _ = socket.recv_fds(channel, LONGEST, 3)
            if not message:
                return
            number, argv, env = json.loads(message)
            pid = os.fork()
            if not pid:
                become(code, channel, number, argv, env, given)
            numbers[pid] = number
            for end in given:
                os.close(end)


def reap(channel, numbers):
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            channel.send(json.dumps([numbers.pop(pid), "code", os.waitstatus_to_exitcode(status)]).encode())


def become(code, channel, number, argv, env, given):
    """The adapter, from its first line on."""
    result = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        channel.send(json.dumps([number, "pid", os.getpid()]).encode())
        channel.close()
        for fd, end in enumerate(given):
            os.dup2(end, fd)
            os.close(end)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = argv
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        main.__file__ = argv[0]
        exec(code, main.__dict__)
        result = 0
    except SystemExit as end:
        result = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(result)


if __name__ == "__main__":
    with socket.socket(fileno=os.dup(0)) as ours:
        serve(ours, sys.argv[1], sys.argv[2:])
