#!/usr/bin/env python3
"""No peer at all: who does just this is no implementation, and must pass no case that is a MUST.

    null.py KIND serve|clone|codec ...
    KIND    silent (reads, says nothing), closing (ends each connection at once), echoing (sends back what comes) or deaf
            (neither reads nor writes)
"""

import socket
import sys
import threading

LOOPBACK = "127.0.0.1"
KINDS = ("silent", "closing", "echoing", "deaf")


def talk(kind, sock):
    try:
        while kind in ("silent", "echoing"):
            data = sock.recv(65536)
            if not data:
                return
            if kind == "echoing":
                sock.sendall(data)
    except OSError:
        return
    if kind == "closing":
        sock.close()


def accept(kind, listener, kept):
    while True:
        kept.append(listener.accept()[0])
        threading.Thread(target=talk, args=(kind, kept[-1]), daemon=True).start()


def main(kind, command, *words):
    kept = []
    if kind not in KINDS:
        sys.exit("null.py: no kind %s" % kind)
    if "--listen" in words:
        listener = socket.socket()
        listener.bind((LOOPBACK, 0))
        listener.listen(64)
        print("PORT %d" % listener.getsockname()[1], flush=True)
        threading.Thread(target=accept, args=(kind, listener, kept), daemon=True).start()
    elif "--port" in words:
        try:
            kept.append(socket.create_connection((LOOPBACK, int(words[words.index("--port") + 1]))))
        except OSError:
            return
        threading.Thread(target=talk, args=(kind, kept[-1]), daemon=True).start()
    for line in sys.stdin:
        if line.strip() == "stop" and command != "codec":
            break


if __name__ == "__main__":
    main(*sys.argv[1:])
