"""The public interface as a C program meets it: the checks of api.c, each a process of its own."""

import os
import subprocess

import pytest
from probe import ROOT, WRAPPER

API = os.environ.get("DATSYNC_API", os.path.join(ROOT, "build", "asan", "api"))
CHECKS = ["messages", "run-lengths", "errors", "memory-store", "feed", "sizes", "handshake", "extensions-and-send",
          "peer-limits", "silence", "room", "pool", "clone-without-memory", "memory-net", "without-plugs", "adding",
          "bad-network", "slow-remotes", "events", "store-fails", "options-are-copied", "addresses", "addresses-full",
          "addresses-found", "found-without-end", "room-for-who-comes", "names", "sources", "running", "stopping", "stopping-commits",
          "stopping-unheard", "worked-before", "strangers", "liars", "address-text", "far-offsets"]


def api(*words, cwd=None):
    return subprocess.run([*WRAPPER, API, *words], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          timeout=120, check=False)


def test_these_are_all_checks():
    assert api().stdout.split() == CHECKS
    assert api("no-such-check").returncode == 2


@pytest.mark.valgrind
@pytest.mark.parametrize("name", CHECKS)
def test_api(name, tmp_path):
    done = api(name, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
