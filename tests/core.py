"""The programs that take in datsync.c, and the tests that run them: what mutate.py and coverage.py build and try."""

import os
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

# Program: its files. The driver and the adapter include datsync.c themselves; the others are linked with it.
DISCOVERY = ["discovery.c", "discovery_dht.c"]
PROGRAMS = {"datsync": ["cli/" + name for name in sorted(os.listdir(os.path.join(ROOT, "cli"))) if name.endswith(".c")] + DISCOVERY,
            "probe": ["tests/probe.c", "tests/world.c"], "adapter": ["conformance/adapters/datsync.c"] + DISCOVERY, "api": ["tests/api.c"]}
LINKED = ("datsync", "api")

# These test what is around the programs, and never run what is built from datsync.c here.
OTHERS = ("alone", "capture", "cli_walls", "dht", "discovery", "doctor", "documents", "everywhere", "lab", "manual", "mutate", "packaging", "protocol", "python", "small",
          "walls", "win32")
SUITE = os.path.join(ROOT, "conformance", "test_conformance.py")


def libraries():
    """What the linker needs."""
    sodium = subprocess.run(["pkg-config", "--libs", "libsodium"], stdout=subprocess.PIPE, check=False).stdout.decode()
    return sodium.split() or ["-lsodium"]


def environment(path_of):
    """The variables by which the tests find the programs; `path_of(program)` is where one is."""
    names = {"DATSYNC_FAST": "datsync", "DATSYNC": "datsync", "DATSYNC_PROBE": "probe", "DATSYNC_ADAPTER": "adapter",
             "DATSYNC_API": "api"}
    return {name: path_of(program) for name, program in names.items()}


def tests():
    """The test files that run them, and the suite."""
    return [SUITE] + [os.path.join(HERE, name) for name in sorted(os.listdir(HERE))
                      if name.startswith("test_") and name.endswith(".py") and name[5:-3] not in OTHERS]
