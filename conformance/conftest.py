"""Fixtures and marks of the suite."""

import pytest


def pytest_configure(config):
    for mark in ("interop: needs the JavaScript peers", "valgrind: is run under valgrind too"):
        config.addinivalue_line("markers", mark)


@pytest.fixture
def probe():
    """The test driver; at the end it must have nothing to complain about and nothing left to free."""
    from probe import Probe
    driver = Probe()
    yield driver
    driver.close()
