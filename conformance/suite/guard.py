"""Ends what a run has started, however the run itself ends: by its last case, a signal, or a kill that nobody can catch.

A process of its own, in a session of its own, is told of each process group and each folder, and when it is gone. Its
input ends when the run does: what is left then is ended and removed.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading

_lock = threading.Lock()
_process = None


def tell(sign, what):
    """`+` where a process (its number) or a folder (its path) begins, `-` where it is gone."""
    global _process
    with _lock:
        try:
            if _process is None:
                _process = subprocess.Popen([sys.executable, os.path.abspath(__file__)], stdin=subprocess.PIPE,
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            _process.stdin.write(b"%s%s\n" % (sign.encode(), os.fsencode(str(what))))
            _process.stdin.flush()
        except OSError:
            pass  # without it all goes well but what it is for


def main():
    left = {}
    for line in sys.stdin.buffer:
        sign, what = line[:1], line[1:].rstrip(b"\n")
        if sign == b"+":
            left[what] = True
        else:
            left.pop(what, None)
    for what in sorted(left, key=lambda w: not w.isdigit()):  # processes end before their folders go
        if not what.isdigit():
            shutil.rmtree(what, ignore_errors=True)
            continue
        try:
            os.killpg(int(what), signal.SIGKILL)
        except OSError:
            pass


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    main()
