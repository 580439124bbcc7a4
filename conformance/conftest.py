"""Fixtures, marks and options of the suite, where pytest runs it."""

import json
import os
import shlex
import sys

import pytest

from marks import add_marks, pytest_collection_modifyitems, pytest_runtestloop  # noqa: F401 (hooks)

ADAPTER = os.environ.get("DATSYNC_ADAPTER")
WRAPPER = shlex.split(os.environ.get("DATSYNC_WRAPPER", ""))  # what stands before it: an emulator


def pytest_addoption(parser):
    group = parser.getgroup("conformance", "the conformance suite")
    group.addoption("--peer", metavar="COMMAND", help="the adapter of the peer under test (default: DATSYNC_ADAPTER)")
    group.addoption("--peer-name", metavar="NAME", help="what the report calls it")
    group.addoption("--report", metavar="DIR", help="write results.json, junit.xml and index.html there")
    group.addoption("--expect", metavar="FILE", help="JSON {case id: reason} of failures that are expected")
    group.addoption("--side-by-side", metavar="N", type=int, help="cases that run at once (default: 3 a core)")


def pytest_configure(config):
    add_marks(config)
    config.conformance = None


NO_PEER = "no peer to test: --peer 'COMMAND' names its adapter, or DATSYNC_ADAPTER does (make conformance)"


def pytest_collection_finish(session):
    """Said once, where that can be: one of several processes would only break off."""
    config = session.config
    if not (config.getoption("--peer") or ADAPTER or config.option.collectonly or hasattr(config, "workerinput")):
        if any("conformance_run" in getattr(item, "fixturenames", ()) for item in session.items):
            raise pytest.UsageError(NO_PEER)


@pytest.fixture(scope="module")
def conformance_run(request):
    """The run of all chosen cases on the peer under test; its report is written at the end. While it lasts an interrupt ends pytest
    at once."""
    from suite import runner
    config = request.config
    expected = json.load(open(config.getoption("--expect"))) if config.getoption("--expect") else {}
    chosen = [item.callspec.params["id"] for item in request.session.items if "conformance_run" in item.fixturenames]
    peer = config.getoption("--peer")
    if not (peer or ADAPTER):
        pytest.fail(NO_PEER, pytrace=False)
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
