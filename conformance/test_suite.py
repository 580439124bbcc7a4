"""The suite itself: its register, its verdicts, peers that are none, and what it says of the deployed implementation."""

import json
import os
import re
import stat
import subprocess
import sys

import pytest

from suite import runner
from suite.case import CASES, DEFACTO, ERRATA, LEVELS, MUST, SECTIONS, Case
from suite.stage import Departure

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON_PEER = [sys.executable, os.path.join(HERE, "adapters", "python.py")]
ALL = runner.load()


def script(tmp_path, text):
    """An adapter of a few lines."""
    path = str(tmp_path / "adapter")
    with open(path, "w") as file:
        file.write("#!%s\nimport sys, time, socket, os\n%s\n" % (sys.executable, text))
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    return [path]


# ---- the register ---------------------------------------------------------------------------------

def test_the_register_is_in_order():
    assert len(ALL) >= 250
    assert ALL[0].id == runner.FIRST and ALL[-1].id == runner.LAST
    for case in ALL:
        assert re.fullmatch(r"[a-z0-9.-]+/[a-z0-9-]+", case.id), case.id
        assert case.level in LEVELS and case.section in SECTIONS
        assert case.why.endswith((".", ")")) and len(case.why.split()) >= 3 and case.title != case.why, case.id
    assert {c.section for c in ALL} == set(SECTIONS)


def test_every_erratum_has_a_case():
    assert {c.erratum for c in ALL} - {None} == set(ERRATA)


def test_every_row_of_the_readmes_table_of_files_is_there():
    with open(os.path.join(HERE, "README.md")) as file:
        table = file.read().split("## What is here")[1].split("##")[0]
    for name in re.findall(r"^\| `([^`*]+)` \|", table, re.M):
        assert os.path.exists(os.path.join(HERE, name)), name


def test_the_readme_knows_how_many_there_are():
    with open(os.path.join(HERE, "..", "README.md")) as file:
        assert "%d cases" % len(ALL) in file.read()


# ---- verdicts -------------------------------------------------------------------------------------

def judged(run, command=("true",), level=MUST, **options):
    case = Case("test/case", "sanity", level, "here", "A case", "A test of the suite.", None, run)
    return runner.judge(case, list(command), **options)


def departs(stage):
    raise Departure("bread", "cake", "please")


def test_pass():
    assert judged(lambda stage: None)["verdict"] == "PASS"


def test_a_departure_fails_and_tells_what():
    result = judged(departs)
    assert result["verdict"] == "FAIL"
    assert result["departure"] == {"sent": "please", "expected": "bread", "got": "cake"}
    assert judged(departs, level=DEFACTO)["verdict"] == "FAIL"


def test_a_departure_from_a_should_is_not_strict():
    result = judged(departs, level="SHOULD")
    assert result["verdict"] == "NON-STRICT" and result["departure"]["got"] == "cake"


def test_something_taken_loosely_is_not_strict():
    assert judged(lambda stage: stage.loosely("a", "b"))["verdict"] == "NON-STRICT"


def test_the_suites_own_fault_is_an_error():
    result = judged(lambda stage: 1 // 0)
    assert result["verdict"] == "ERROR" and "ZeroDivisionError" in result["reason"]


def test_what_is_not_implemented_is_unsupported(tmp_path):
    result = judged(lambda stage: stage.serves(), script(tmp_path, "sys.exit(89)"))
    assert result["verdict"] == "UNSUPPORTED"
    result = judged(lambda stage: stage.clones(), script(tmp_path, "sys.exit(89)"))
    assert result["verdict"] == "UNSUPPORTED"


def test_a_peer_that_crashes_fails(tmp_path):
    result = judged(lambda stage: stage.serves(), script(tmp_path, "os.abort()"))
    assert result["verdict"] == "FAIL" and "signal 6" in result["departure"]["got"]
    result = judged(lambda stage: stage.clones(), script(tmp_path, "sys.exit('no feed at all')"))
    assert result["verdict"] == "FAIL" and "no feed at all" in result["stderr"]


LISTENS = "s = socket.create_server(('127.0.0.1', 0))\nprint('PORT', s.getsockname()[1], flush=True)\n"


def test_a_peer_that_crashes_after_the_case_fails_it(tmp_path):
    result = judged(lambda stage: stage.serves(), script(tmp_path, LISTENS + "s.accept()\nsys.stdin.readline()\nos.abort()"))
    assert result["verdict"] == "FAIL" and "signal 6" in result["departure"]["got"]


def test_a_live_peer_that_ends_by_itself_fails(tmp_path):
    def run(stage):
        stage.serves()
        stage.adapter.process.wait(5)
    result = judged(run, script(tmp_path, LISTENS + "s.accept()"))
    assert result["verdict"] == "FAIL" and "exit 0" in result["departure"]["got"]


def test_a_peer_that_does_not_stop_fails(tmp_path):
    result = judged(lambda stage: stage.serves(), script(tmp_path, LISTENS + "s.accept()\ntime.sleep(60)"), patience=1)
    assert result["verdict"] == "FAIL" and "still runs" in result["departure"]["got"]


def test_a_case_that_takes_too_long_fails_and_its_peer_is_ended(tmp_path):
    seen = []

    def run(stage):
        peer = stage.serves()
        seen.append(stage.adapter.process)
        peer.closed(timeout=60)
    result = judged(run, script(tmp_path, LISTENS + "c = s.accept()\ntime.sleep(60)"), limit=1)
    assert result["verdict"] == "FAIL" and "took longer" in result["departure"]["got"]
    assert result["seconds"] < 10 and seen[0].poll() is not None


def test_one_that_waited_in_vain_may_try_again():
    tries = []

    def run(stage):
        tries.append(stage)
        if len(tries) == 1:
            raise Departure("bread", "nothing of the kind in 5 s")
    assert judged(run)["verdict"] == "FAIL" and len(tries) == 1
    tries.clear()
    assert judged(run, again=True)["verdict"] == "PASS" and len(tries) == 2
    tries.clear()
    assert judged(departs, again=True)["verdict"] == "FAIL"


def test_its_log_tells_what_was_said():
    result = runner.judge(CASES["dep-0010.want/first-is-whole"], PYTHON_PEER)
    assert result["verdict"] == "PASS", result
    log = result["conversations"][0]["log"]
    assert {"Feed", "Handshake", "Want"} <= {e["message"] for e in log}
    assert {e["dir"] for e in log} >= {"sent", "received"}
    want = next(e for e in log if e["message"] == "Want")
    assert want["dir"] == "received" and int(want["fields"]["length"]) == 1 << 20


# ---- runs -----------------------------------------------------------------------------------------

SOME = ["sanity/first", "sanity/serve", "dep-0010.framing/keep-alive", "dep-0010.want/ignored-start-8", "sanity/last"]


def test_a_run_and_its_document():
    run = runner.Run(PYTHON_PEER, "python", SOME)
    assert run.failures() == set()
    document = run.document()
    assert [c["id"] for c in document["cases"]] == SOME
    peer = document["peers"][0]
    assert peer["verdicts"]["PASS"] == len(SOME) and set(peer["results"]) == set(SOME)
    json.dumps(document)


def test_a_first_conversation_that_fails_leaves_out_the_rest(tmp_path):
    run = runner.Run(script(tmp_path, "sys.exit(1)"), "none", SOME)
    verdicts = {id: r["verdict"] for id, r in run.all().items()}
    assert verdicts.pop("sanity/first") == "FAIL"
    assert set(verdicts.values()) == {"OMITTED"} and len(verdicts) == len(SOME) - 1


def test_expected_failures():
    wrong = {"expected_failure": "why", "verdict": "FAIL"}
    right = {"expected_failure": "why", "verdict": "PASS"}
    assert not runner.broken(wrong) and runner.broken(right)
    assert runner.broken({"expected_failure": None, "verdict": "FAIL"})
    assert runner.broken({"expected_failure": None, "verdict": "ERROR"})
    assert not runner.broken({"expected_failure": None, "verdict": "NON-STRICT"})
    with pytest.raises(ValueError, match="no such case"):
        runner.Run(PYTHON_PEER, expected={"no/such": "why"})
    run = runner.Run(PYTHON_PEER, ids=SOME, expected={"sanity/serve": "it is said to"})
    assert run.failures() == {"sanity/serve"}


def pytest_run(*options):
    return subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-k", "sanity",
                           os.path.join(HERE, "test_conformance.py"), *options], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=120, universal_newlines=True, cwd=HERE)


def test_from_the_command_line(tmp_path):
    done = pytest_run("--peer", " ".join(PYTHON_PEER), "--peer-name", "the python one", "--report", str(tmp_path / "out"))
    assert done.returncode == 0 and "the python one" in done.stdout and "6 PASS" in done.stdout, done.stdout
    assert sorted(os.listdir(str(tmp_path / "out"))) == ["index.html", "junit.xml", "results.json"]


def test_the_command_line_says_no(tmp_path):
    done = pytest_run("--peer", script(tmp_path, "sys.exit(1)")[0])
    assert done.returncode == 1 and "1 FAIL" in done.stdout and "5 OMITTED" in done.stdout, done.stdout
    done = pytest_run("--peer", str(tmp_path / "nothing"))
    assert done.returncode == 1 and "nothing" in done.stdout, done.stdout


# ---- peers that are none --------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["silent", "closing", "echoing", "deaf"])
def test_a_peer_that_is_none_passes_no_must(kind):
    """Even with every case tried."""
    must = [c.id for c in ALL if c.level == MUST]
    run = runner.Run(PYTHON_PEER + ["--null", kind], kind, must, patience=0.4, careless=True, jobs=12)
    passed = runner.musts_passed(run.all())
    assert passed == []


# ---- the deployed implementation ------------------------------------------------------------------

with open(os.path.join(HERE, "deployed.json"), encoding="utf-8") as file:
    DEPLOYED = json.load(file)
with open(os.path.join(HERE, "DEPLOYED.md"), encoding="utf-8") as file:
    TABLE = file.read()


def test_the_deployed_one_fails_no_defacto():
    assert DEPLOYED and all(CASES[id].level == MUST for id in DEPLOYED)


def test_its_table_has_just_those():
    told = re.findall(r"^\| `([^`]+)` \| FAIL \|", TABLE, re.M)
    assert told == sorted(DEPLOYED)


@pytest.mark.interop
def test_the_deployed_one():
    """hypercore 6.26: its failures are those of deployed.json, and it passes all else."""
    adapter = ["node", os.path.join(HERE, "adapters", "hypercore.js")]
    run = runner.Run(adapter, "hypercore 6.26", expected=DEPLOYED)
    broken = {id: run.results[id]["departure"] or run.results[id]["reason"] or run.results[id]["verdict"] for id in run.failures()}
    assert broken == {}
