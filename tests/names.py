"""A server of names for test_datagrams.py, on the loopback of a namespace (hosts.py has other names, elsewhere). FOLDER is where
it says that it is `ready`, and where `answer` says that it may answer about names that begin with `slow`.
"""

import ipaddress
import os
import socket
import struct
import sys


def four(*last):
    return [(1, bytes([192, 0, 2, n])) for n in last]


def records(name):
    """(kind of error, [(type, value)])."""
    if name.startswith("slow"):
        return 0, four(100 + int(name[4:].split(".")[0]))
    return {"three.test": (0, four(1, 2) + [(28, ipaddress.ip_address("2001:db8::1").packed)]), "twice.test": (0, four(1, 1)),
            "many.test": (0, four(*range(1, 21))), "broken.test": (2, [])}.get(name, (3, []))


def reply(query):
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    wanted = struct.unpack(">H", query[at + 1:at + 3])[0]
    error, found = records(".".join(labels).lower())
    found = [value for type, value in found if type == wanted]
    answers = b"".join(struct.pack(">HHHIH", 0xc00c, wanted, 1, 0, len(value)) + value for value in found)
    return query[:2] + struct.pack(">HHHHH", 0x8180 | error, 1, len(found), 0, 0) + query[12:at + 5] + answers


def serve(folder, host="127.0.0.1"):
    """Until who began it, or the program that took its place, has ended."""
    parent, held = os.getppid(), []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((host, 53))
        s.settimeout(0.05)
        with open(os.path.join(folder, "ready"), "w", encoding="utf-8"):
            pass
        while os.getppid() == parent:
            try:
                held.append(s.recvfrom(2000))
            except socket.timeout:
                pass
            open_now = os.path.exists(os.path.join(folder, "answer"))
            for query, client in [one for one in held if open_now or not one[0][13:].startswith(b"slow")]:
                s.sendto(reply(query), client)
                held.remove((query, client))
    os.unlink(os.path.join(folder, "ready"))


if __name__ == "__main__":
    serve(sys.argv[1])
