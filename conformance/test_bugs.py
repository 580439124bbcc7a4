"""The suite finds bugs: each of bugs.py, planted in the Python implementation, fails just the cases that bugs.json names."""

import concurrent.futures
import os

import pytest

import bugs
from suite.case import CASES
from suite import runner

ALL = runner.load()

pytestmark = pytest.mark.crowd


def test_the_table():
    assert len(bugs.BUGS) >= 34
    assert set(bugs.RECORDED) == set(bugs.BUGS)
    for name, bug in bugs.BUGS.items():
        assert bug.sentence[0].isupper() and bug.sentence.endswith("."), name
        assert bug.fails, "no case finds %s" % name
        assert bug.fails | bug.chance <= set(CASES) and not bug.fails & bug.chance, name


def few(name):
    """Some that must fail, from first to last, and of the same sections some that must not."""
    fails = sorted(bugs.BUGS[name].fails)
    sections = {CASES[id].section for id in fails}
    good = [c.id for c in ALL if c.section in sections and c.id not in fails and c.id not in bugs.BUGS[name].chance]
    return sorted({fails[0], fails[len(fails) // 2], fails[-1]}) + good[:2] + good[-2:]


@pytest.fixture(scope="module")
def found(request):
    """Runs of all bugs that are tested, side by side: they mostly wait. All cases with DATSYNC_BIG=1 (make bugs); else a few of
    them."""
    names = [item.callspec.params["name"] for item in request.session.items
             if getattr(item, "originalname", "") == "test_the_bug_is_found"]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        ids = {n: [c.id for c in ALL] if os.environ.get("DATSYNC_BIG") else [runner.FIRST] + few(n) for n in names}
        runs = {n: pool.submit(bugs.failing, n, ids[n]) for n in names}
        yield {n: (ids[n], runs[n]) for n in names}
        for each in runs.values():
            each.cancel()


@pytest.mark.parametrize("name", list(bugs.BUGS))
def test_the_bug_is_found(name, found):
    ids, run = found[name]
    expected = sorted(bugs.BUGS[name].fails & set(ids))
    if sorted(run.result()) != expected:  # once more, alone: many of them at once make a machine slow, and slowness is a bug too
        assert sorted(bugs.failing(name, ids)) == expected
