"""Runs cases on a peer and judges them.

A run begins and ends with a sanity conversation. Where the first one fails nothing else is worth its time: one FAIL,
and all else is OMITTED. Cases run side by side, each with a process, a folder and connections of its own.
"""

import concurrent.futures
import importlib
import os
import pkgutil
import re
import signal
import threading
import time

from dat import decode, peer, wire

from . import VERSION
from .case import CASES, MUST, SECTIONS, SHOULD, ordered
from .stage import LIMIT, PATIENCE, STOP, Departure, Stage, Unsupported, exit_words, remove

PASS, NON_STRICT, FAIL, UNSUPPORTED, OMITTED, ERROR = "PASS", "NON-STRICT", "FAIL", "UNSUPPORTED", "OMITTED", "ERROR"
VERDICTS = (PASS, NON_STRICT, FAIL, UNSUPPORTED, OMITTED, ERROR)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
FIRST, LAST = "sanity/first", "sanity/last"
KEPT = 400  # log lines of one connection that a result keeps: the first and the last
KEPT_CONNECTIONS = 12


def load():
    """Import all cases; returns them in the order of the report."""
    import cases
    for module in pkgutil.iter_modules(cases.__path__):
        importlib.import_module("cases." + module.name)
    return ordered()


def judge(case, command, patience=PATIENCE, limit=LIMIT, env=None, idle=None, again=False):
    """Run one case; its result as the report has it.

    `idle` is a list of plain servers that earlier cases left running: starting one costs more than most cases. A case
    that does not pass on such a one is run again on a fresh one, and that counts. With `again` so is one that waited in
    vain: a machine that is busy with other cases is no fault of the peer.
    """
    result, reused = _judge(case, Stage(command, patience, limit, env, idle), limit)
    if reused and result["verdict"] != PASS or again and waited(result):
        result, _ = _judge(case, Stage(command, patience, limit, env), limit)
    return result


def waited(result):
    """Whether it failed by something that did not come in time."""
    return result["verdict"] == FAIL and re.search(r"in [\d.]+ s\b|after [\d.]+ s\b|took longer|stays open|not come", result["departure"]["got"])


def _judge(case, stage, limit):
    began = time.monotonic()
    verdict, reason, departure = PASS, "", None
    try:
        case.run(stage)
        stage.tail()
        if stage.looser:
            verdict, departure = NON_STRICT, stage.looser[0]
    except Departure as error:
        verdict = NON_STRICT if case.level == SHOULD else FAIL
        departure = {"sent": error.sent or _last_sent(stage), "expected": error.expected, "got": error.got}
    except Unsupported as error:
        verdict, reason = UNSUPPORTED, str(error)[-300:]
    except (peer.PeerError, wire.CodecError, ConnectionError) as error:
        verdict = NON_STRICT if case.level == SHOULD else FAIL
        departure = {"sent": _last_sent(stage), "expected": case.title, "got": str(error)}
    except Exception as error:  # the suite's own fault, or the machine's
        verdict, reason = ERROR, "%s: %s" % (type(error).__name__, error)
    finally:
        if stage.late and verdict != ERROR:
            verdict, departure = FAIL, {"sent": _last_sent(stage), "expected": "the case done in %.3g s" % limit,
                                        "got": "the peer took longer and was ended"}
        code = stage.adapter.process.poll() if stage.adapter else None
        if verdict == FAIL and code and "the peer ended" not in departure["got"]:
            departure = dict(departure, got="%s (the peer had ended: %s)" % (departure["got"], exit_words(code)))
        stage.close()
    if departure and not reason:
        reason = "expected %s; got %s" % (departure["expected"], departure["got"])
    conversations = [{"name": c.name, "log": _cut(decode.log(list(c.log), c._born))}
                     for c in stage.connections[-KEPT_CONNECTIONS:]]
    return {"verdict": verdict, "seconds": round(time.monotonic() - began, 3), "reason": reason,
            "expected_failure": None, "departure": departure, "notes": stage.notes,
            "conversations": conversations,
            "stderr": stage.stderr if verdict not in (PASS, UNSUPPORTED) else ""}, stage.reused


def _last_sent(stage):
    return stage.connections[-1].last_sent() if stage.connections else ""


def _cut(log):
    if len(log) <= KEPT:
        return log
    missing = {"t": log[KEPT // 2]["t"], "dir": "note", "channel": None, "message": "%d more" % (len(log) - KEPT),
               "fields": {}, "hex": "", "size": 0}
    return log[:KEPT // 2] + [missing] + log[-KEPT // 2:]


def omitted(why):
    return {"verdict": OMITTED, "seconds": 0, "reason": why, "expected_failure": None, "departure": None, "notes": [],
            "conversations": [], "stderr": ""}


class Run:
    """All chosen cases on one peer. `result(id)` waits for one; the first call starts them all.

    `expected` maps ids to the reason why that case may fail: it must then fail. `careless` leaves out the rule that a
    failing first conversation ends the run (for tests of the suite).
    """

    def __init__(self, command, name=None, ids=None, expected=None, jobs=None, patience=PATIENCE, careless=False,
                 env=None):
        self.command, self.name = command, name or os.path.basename(command[0])
        chosen = load() if ids is None else [c for c in load() if c.id in set(ids)]
        self.cases = {c.id: c for c in chosen}
        self.expected, self.patience, self.careless, self.env = expected or {}, patience, careless, env
        unknown = set(self.expected) - set(CASES)
        if unknown:
            raise ValueError("no such case: " + ", ".join(sorted(unknown)))
        self.jobs = jobs or 3 * (os.cpu_count() or 1)
        self.results, self.seconds, self._idle, self._interrupt = {}, 0, [], None
        self._pool, self._futures, self._lock, self._began = None, {}, threading.Lock(), None

    def _start(self):
        with self._lock:
            if self._pool is not None:
                return
            self._began = time.monotonic()
            if threading.current_thread() is threading.main_thread():  # an interrupt ends all at once: nobody waits for what is
                self._interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)  # under way, and guard.py ends what it started
            self._pool = concurrent.futures.ThreadPoolExecutor(self.jobs)
            sane = self._judge(CASES[FIRST])
            self.results[FIRST] = sane
            middle = [c for c in self.cases.values() if c.id not in (FIRST, LAST)]
            if sane["verdict"] in (FAIL, ERROR) and not self.careless:
                why = "the first conversation failed: %s" % (sane["departure"] or {}).get("got", sane["reason"])
                self.results.update({c.id: omitted(why) for c in middle + [CASES[LAST]]})
                return
            self._futures = {c.id: self._pool.submit(self._judge, c) for c in middle}

    def _judge(self, case):
        reason = self.expected.get(case.id)
        result = judge(case, self.command, self.patience, max(LIMIT, self.patience), self.env, self._idle,
                       again=not self.careless and not reason)
        if reason is not None:
            result["expected_failure"] = reason
        return result

    def _last(self):
        """The last conversation; and the servers that many cases shared must end in order."""
        result = self._judge(CASES[LAST])
        for adapter, _, folder in self._idle:
            adapter.tell("stop")
            try:
                code = adapter.wait(max(STOP, self.patience))
                got = None if code == 0 else "%s: %s" % (exit_words(code), adapter.last_words()[-300:])
            except Departure as error:
                got = error.got
            adapter.kill()
            remove(folder)
            if got and result["verdict"] == PASS:
                result = dict(result, verdict=FAIL, stderr=adapter.last_words(), reason="expected exit 0; got " + got, departure={
                    "sent": "stop, after many conversations", "expected": "exit 0", "got": got})
        self._idle = []
        return result

    def result(self, id):
        self._start()
        if id not in self.results:
            if id == LAST:
                for other in list(self._futures):
                    self.result(other)
                self.results[LAST] = self._last()
            else:
                self.results[id] = self._futures[id].result()
            self.seconds = time.monotonic() - self._began
        return self.results[id]

    def all(self):
        for id in self.cases:
            self.result(id)
        if self._pool:
            self._pool.shutdown()
        if self._interrupt is not None:
            signal.signal(signal.SIGINT, self._interrupt)
            self._interrupt = None
        return self.results

    def failures(self):
        """Ids of what does not pass."""
        return {id for id, result in self.all().items() if broken(result)}

    def document(self):
        """The results document of this one peer."""
        verdicts = {v: sum(r["verdict"] == v for r in self.results.values()) for v in VERDICTS}
        ids = [c.id for c in ordered() if c.id in self.results]
        sections = [{"id": id, "title": title} for id, title in SECTIONS.items()]
        return {"format": 1, "suite": VERSION, "sections": sections,
                "cases": [CASES[id].describe() for id in ids],
                "peers": [{"name": self.name, "command": " ".join(self.command).replace(ROOT, ""), "seconds": round(self.seconds, 1),
                           "verdicts": verdicts, "results": {id: self.results[id] for id in ids}}]}


def broken(result):
    """Whether a result fails the run: an unexpected FAIL or ERROR, or an expected failure that passes."""
    failed = result["verdict"] in (FAIL, ERROR)
    return failed if result["expected_failure"] is None else not failed


def musts_passed(results):
    return [id for id, result in results.items() if CASES[id].level == MUST and result["verdict"] == PASS]
