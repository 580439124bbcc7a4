"""The suite itself: its register, its verdicts, peers that are none, and what it says of the deployed implementation."""

import concurrent.futures
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

import bugs
from dat import peer as peers
from dat import wire
from suite import runner
from suite.case import CASES, DEFACTO, ERRATA, LEVELS, MUST, SECTIONS, Case
from suite.stage import Adapter, Connection, Departure
from suite.warm import Warm

HERE = os.path.dirname(os.path.abspath(__file__))
NULL_PEER = Warm(os.path.join(HERE, "adapters", "null.py"), options=["-IS"])
PYTHON_PEER = [sys.executable, os.path.join(HERE, "adapters", "python.py")]
ALL = runner.load()

pytestmark = pytest.mark.crowd


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
    with open(os.path.join(HERE, "README.md")) as file:
        text = file.read()
    told = re.findall(r"(\d+)\s+(?:permanent )?cases(?: on any|,| of the)|of all\s+(\d+)", text)
    assert told and {a or b for a, b in told} == {str(len(ALL))}, told
    for count in re.findall(r"the (\d+) (?:planted )?bugs", text):
        assert int(count) == len(bugs.BUGS)


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
    assert result["reason"] == "expected bread; got cake"
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


def test_what_is_asked_of_all_versions():
    """The suite's connection says that it holds nothing before it asks, and takes a block back before it asks for it again."""
    key = bytes(32)
    with peers.Listener([key]) as listener, Connection(socket.create_connection((peers.LOOPBACK, listener.port)), [key]) as peer, \
            listener.accept() as remote:
        peer.start()
        for index in (3, 5, 3):
            peer.send(wire.request(index))
        peer.send(wire.request(0, bytes=7))
        peer.send(wire.request(0, bytes=7))
        remote.start()
        got = [remote.receive().message for _ in range(9)]
    assert [type(m) for m in got[:2]] == [wire.Feed, wire.Handshake]
    assert [(type(m).__name__, m.read("index") if isinstance(m, wire.Request) else m.start) for m in got[2:]] == [
        ("Have", 0), ("Request", 3), ("Request", 5), ("Unhave", 3), ("Request", 3), ("Request", 0), ("Request", 0)]
    assert got[2].bitfield == b"" and got[2].length != peers.WANT_BLOCKS  # this would count as the answer to a Want


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


ENDS = "import signal\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\nopen(%r, 'w').write(str(os.getpid()))\n" + LISTENS + \
    "while True: time.sleep(60)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_nothing_goes_on_when_the_suite_is_ended(number, tmp_path):
    """Neither the adapter, though it listens to nothing, nor its folder."""
    told, rooms = str(tmp_path / "pid"), tmp_path / "rooms"
    rooms.mkdir()
    suite = subprocess.Popen([sys.executable, HERE, "--peer", script(tmp_path, ENDS % told)[0], "-k", "sanity"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ, TMPDIR=str(rooms)))
    def until(what):
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline and (suite.poll() is None or what is gone)
            time.sleep(0.02)

    def gone():
        return not os.listdir(str(rooms)) and not running(int(open(told).read()))
    until(lambda: os.path.exists(told) and open(told).read())
    suite.send_signal(number)
    assert suite.wait(30) == -number
    until(gone)


def running(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def without_pytest(*options):
    return subprocess.run([sys.executable, "-S", HERE, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
                          universal_newlines=True)


def test_without_pytest(tmp_path):
    done = without_pytest("--peer", " ".join(PYTHON_PEER), "--peer-name", "the python one", "-k", "sanity/", "--report", str(tmp_path / "out"))
    assert done.returncode == 0 and "the python one" in done.stdout and "6 PASS" in done.stdout, done.stdout
    assert sorted(os.listdir(str(tmp_path / "out"))) == ["index.html", "junit.xml", "results.json"]
    peer = script(tmp_path, "sys.exit(1)")[0]
    done = without_pytest("--peer", peer, "-k", "sanity/")
    assert done.returncode == 1 and "1 FAIL" in done.stdout and "5 OMITTED" in done.stdout, done.stdout
    expected = tmp_path / "expected.json"
    expected.write_text(json.dumps({"sanity/first": "it ends at once", "dep-0010.want/sixteen": "not asked here"}))
    done = without_pytest("--peer", peer, "-k", "sanity/first", "--expect", str(expected))
    assert done.returncode == 0 and "fails as expected" in done.stdout, done.stdout
    assert without_pytest("--peer", peer, "-k", "no such case").returncode == 2
    expected.write_text(json.dumps({"no/such": "why"}))
    assert without_pytest("--peer", peer, "--expect", str(expected)).returncode == 2


def test_a_warm_adapter_is_one_like_any_other(tmp_path):
    """A process and a session of its own, with its own words, environment and pipes; its end is told as it was."""
    path = tmp_path / "tell.py"
    path.write_text("""import json, os, sys
if __name__ == "__main__":
    print(json.dumps([os.getpid(), os.getsid(0), sys.argv, dict(os.environ), __file__]), flush=True)
    word = sys.stdin.readline().strip()
    if word == "kill":
        os.abort()
    if word == "raise":
        raise ValueError("as asked")
    sys.exit(int(word) if word else "without a word")
""")
    warm = Warm(str(path), "first") + ["second"]
    told = {}
    for word, code in (("", 1), ("0", 0), ("89", 89), ("kill", -signal.SIGABRT), ("raise", 1)):
        made = Adapter(warm, ["third"], {"ONE": word})
        try:
            pid, session, words, env, file = json.loads(made.line(10))
            assert made.process.pid == pid == session != os.getpid() and made.running
            assert (words, env, file) == ([str(path), "first", "second", "third"], {"ONE": word}, str(path))
            made.tell(word)
            assert made.process.wait(10) == code and made.line(10) is None and not made.running
            told[word] = made.last_words()
        finally:
            made.kill()
    assert told["0"] == "" and told[""] == "without a word" and "ValueError: as asked" in told["raise"]


# ---- what other versions do -----------------------------------------------------------------------

WEAKER = {  # where a version does less than later ones, and nothing is harmed
    "6.0.0": {"dep-0002.proof/remembers", "dep-0010.request/again", "hypercore.ending/server-agrees"},
    "6.6.6": {"dep-0002.proof/remembers", "dep-0010.request/again"},
    "6.12.7": {"dep-0002.proof/remembers", "dep-0010.request/again"},
    "6.20.2": {"dep-0002.proof/remembers"},
    "6.22.1": {"dep-0002.proof/remembers", "dep-0010.have/absent-last-block-untold"},
    "6.26.0": set(),
}
DIES = {"6.0.0": {"dep-0010.request/before-want"}, "6.6.6": {"dep-0010.request/before-want"}}


@pytest.mark.parametrize("manner", list(peers.MANNERS))
def test_no_case_calls_wrong_what_was_deployed(manner):
    """The Python peer, playing another version, passes whatever is about Have, Want, Request and the end."""
    ids = [c.id for c in ALL if c.section in ("sanity", "have", "ending") and not c.id.startswith(("dep-0010.rle/", "dep-0010.have/answers-"))
           or c.id in ("dep-0010.want/explicit", "dep-0010.have/answers-gaps", "dep-0010.have/answers-last-missing",
                       "dep-0010.request/again", "dep-0010.request/absent-block", "dep-0010.request/before-want",
                       "dep-0002.proof/remembers", "dep-0010.handshake/no-want-before", "dep-0010.live/append-is-announced")]
    results = runner.Run(bugs.warm_peer() + ["--manner", manner], manner, ids).all()
    assert {id for id, r in results.items() if r["verdict"] == "NON-STRICT"} == WEAKER[manner]
    assert {id: r["reason"] for id, r in results.items() if r["verdict"] not in ("PASS", "NON-STRICT") and id not in DIES.get(manner, ())} == {}


# ---- peers that are none --------------------------------------------------------------------------

NULLS = ["silent", "closing", "echoing", "deaf"]


@pytest.fixture(scope="module")
def none_at_all():
    """Runs of every MUST on who does nothing of the kind, side by side: they mostly wait."""
    must = [c.id for c in ALL if c.level == MUST]
    runs = {kind: runner.Run(NULL_PEER + [kind], kind, must, patience=0.4, careless=True, jobs=48) for kind in NULLS}
    with concurrent.futures.ThreadPoolExecutor(len(NULLS)) as pool:
        list(pool.map(lambda run: run.all(), runs.values()))
    return runs


@pytest.mark.parametrize("kind", NULLS)
def test_a_peer_that_is_none_passes_no_must(kind, none_at_all):
    """Even with every case tried."""
    results = none_at_all[kind].results
    assert runner.musts_passed(results) == []
    assert sum(r["verdict"] == "FAIL" for r in results.values()) > len(results) * 0.9  # they were tried, not turned down


# ---- the deployed implementation ------------------------------------------------------------------

with open(os.path.join(HERE, "deployed.json"), encoding="utf-8") as file:
    DEPLOYED = json.load(file)
with open(os.path.join(HERE, "DEPLOYED.md"), encoding="utf-8") as file:
    TABLE = file.read()


def test_the_deployed_one_fails_no_defacto():
    assert DEPLOYED and all(CASES[id].level == MUST for id in DEPLOYED)


def test_its_table_has_just_those():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines() if line.startswith("| ")]
    column = next(row for row in rows if row[0] == "case").index("6.26.0")
    assert [row[0].strip("`") for row in rows if len(row) > column and row[column] == "FAIL"] == sorted(DEPLOYED)
    assert all(row[0].strip("`") in CASES for row in rows if "/" in row[0])
    assert all(len(row) == 10 for row in rows if row[0].startswith("`"))


@pytest.mark.interop
def test_the_deployed_one():
    """hypercore 6.26: its failures are those of deployed.json, and it passes all else."""
    adapter = ["node", os.path.join(HERE, "adapters", "hypercore.js")]
    run = runner.Run(adapter, "hypercore 6.26", expected=DEPLOYED)
    broken = {id: run.results[id]["departure"] or run.results[id]["reason"] or run.results[id]["verdict"] for id in run.failures()}
    assert broken == {}
