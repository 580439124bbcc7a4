"""What conftest.py needs here and wherever else tests stand on the suite: marks, and which tests one process runs."""

import gc

import pytest

MARKS = ("interop: needs the JavaScript peers", "crowd: does many things side by side itself, and waits for them")


def add_marks(config, marks=()):
    for mark in MARKS + tuple(marks):
        config.addinivalue_line("markers", mark)
    if not config.pluginmanager.hasplugin("xdist"):
        config.addinivalue_line("markers", "xdist_group: which tests one of several processes runs")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the marks
def pytest_collection_modifyitems(items):
    """Where several processes run the tests (-n N --dist loadgroup), one of them runs all that share a fixture of their module."""
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs
        shared = sorted(name for name in fixtures if fixtures[name][-1].scope == "module")
        if shared and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("%s.%s" % (item.module.__name__, shared[0])))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop():
    """Thousands of collected tests stay as they are: who looks for garbage need not go through them each time."""
    gc.collect()
    gc.freeze()
