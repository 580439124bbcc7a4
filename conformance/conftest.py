"""Fixtures, marks and options of the suite."""

import json
import os
import shlex
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ADAPTER = os.environ.get("DATSYNC_ADAPTER", os.path.join(ROOT, "build", "asan", "adapter"))


def pytest_addoption(parser):
    group = parser.getgroup("conformance", "the conformance suite")
    group.addoption("--peer", metavar="COMMAND", help="the adapter of the peer under test (default: datsync's)")
    group.addoption("--peer-name", metavar="NAME", help="what the report calls it")
    group.addoption("--report", metavar="DIR", help="write results.json, junit.xml and index.html there")
    group.addoption("--expect", metavar="FILE", help="JSON {case id: reason} of failures that are expected")
    group.addoption("--side-by-side", metavar="N", type=int, help="cases that run at once (default: 3 a core)")


def pytest_configure(config):
    for mark in ("interop: needs the JavaScript peers", "valgrind: is run under valgrind too",
                 "everywhere: is about a build for another system, processor or compiler",
                 "crowd: does many things side by side itself, and waits for them", "posix: needs what Windows has not (modes, links, signals, socket files)"):
        config.addinivalue_line("markers", mark)
    if not config.pluginmanager.hasplugin("xdist"):
        config.addinivalue_line("markers", "xdist_group: which tests one of several processes runs")
    config.conformance = None


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the marks
def pytest_collection_modifyitems(items):
    """Where several processes run the tests (-n N --dist loadgroup), one of them runs all that share a fixture of their module."""
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs
        shared = sorted(name for name in fixtures if fixtures[name][-1].scope == "module")
        if shared:
            item.add_marker(pytest.mark.xdist_group("%s.%s" % (item.module.__name__, shared[0])))


@pytest.fixture
def probe():
    """The test driver; at the end it must have nothing to complain about and nothing left to free."""
    from probe import Probe
    driver = Probe()
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def conformance_run(request):
    """The run of all chosen cases on the peer under test; its report is written at the end. While it lasts an interrupt ends pytest
    at once."""
    from suite import runner
    from tools import WRAPPER
    config = request.config
    expected = json.load(open(config.getoption("--expect"))) if config.getoption("--expect") else {}
    chosen = [item.callspec.params["id"] for item in request.session.items if "conformance_run" in item.fixturenames]
    peer = config.getoption("--peer")
    run = runner.Run(shlex.split(peer) if peer else [*WRAPPER, ADAPTER], config.getoption("--peer-name") or (None if peer else "datsync"),
                     chosen, expected, config.getoption("--side-by-side"))
    config.conformance = run
    yield run
    run.all()


def pytest_terminal_summary(terminalreporter, config):
    """The report of the suite, behind pytest's own."""
    run = config.conformance
    if run is None or not (config.getoption("--peer") or config.getoption("--report")):
        return
    from report import write
    from suite import report
    results = run.document()
    report.console(results, sys.stdout, sys.stdout.isatty())
    folder = config.getoption("--report")
    if folder:
        write(results, folder)
        terminalreporter.write_line("report: %s" % os.path.join(folder, "index.html"))
