"""The conformance suite on a peer: `--peer 'COMMAND'`, by default the one that DATSYNC_ADAPTER names.

Each case is a test; its verdict decides. The cases run side by side from the first test on, so that those which wait
for timeouts wait together.
"""

import pytest

from suite import runner

IDS = [c.id for c in runner.load()]

pytestmark = pytest.mark.crowd


@pytest.mark.parametrize("id", IDS)
def test_case(id, conformance_run):
    result = conformance_run.result(id)
    verdict, departure = result["verdict"], result["departure"]
    if result["expected_failure"]:
        assert runner.broken(result) is False, "%s: expected to fail (%s), and starts to pass" % (id, result["expected_failure"])
        pytest.xfail(result["expected_failure"])
    if verdict in (runner.UNSUPPORTED, runner.OMITTED):
        pytest.skip("%s: %s" % (verdict, result["reason"] or "the adapter exits 89"))
    if verdict == runner.FAIL:
        pytest.fail("%s\n  sent:     %s\n  expected: %s\n  got:      %s\n%s" % (
            id, departure["sent"], departure["expected"], departure["got"], result["stderr"][-2000:]), pytrace=False)
    assert verdict in (runner.PASS, runner.NON_STRICT), result["reason"]
