"""Fixtures and marks of datsync's own tests. The suite's modules are theirs too."""

import os
import sys

import pytest

os.environ.setdefault("DATSYNC_NO_DISCOVERY", "1")  # tests of discovery take it out, where nothing they send goes anywhere
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "conformance"))

from marks import add_marks, pytest_collection_modifyitems, pytest_runtestloop  # noqa: E402, F401 (hooks)


def pytest_configure(config):
    add_marks(config, ("valgrind: is run under valgrind too", "everywhere: is about a build for another system, processor or compiler",
                       "posix: needs what Windows has not (modes, links, signals, socket files)",
                       "drive: needs what DATSYNC_NO_DRIVE leaves out", "synchronizer: needs what DATSYNC_NO_SYNCHRONIZER leaves out"))


@pytest.fixture
def probe():
    """The test driver; at the end it must have nothing to complain about and nothing left to free."""
    from probe import Probe
    driver = Probe()
    yield driver
    driver.close()
