"""kill -9 at random moments, more than 200 times: a feed opens again, claims nothing that is not
there, never forks, and goes on.

DATSYNC_FAST, if it is set, is a build without sanitizers that is killed here in place of DATSYNC.
"""

import os
import random
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import tools
from dat import sleep
from tools import share

PROGRAM = os.environ.get("DATSYNC_FAST", tools.DATSYNC)
SEED = 20190801


def feed(*args, stdin=b"", code=0):
    done = subprocess.run(tools.command("feed", *args, program=PROGRAM), input=stdin, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=tools.environment())
    result = tools.Result(args, done.returncode, done.stdout, done.stderr.decode())
    tools.assert_sane(result.code, result.err, args)
    assert code is None or result.code == code, result
    return result


def killed(delay, *args, stdin=b""):
    """Start a command, kill it after so many seconds: (was it killed, what it had printed)."""
    process = subprocess.Popen(tools.command("feed", *args, program=PROGRAM), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=tools.environment())
    try:
        out, err = process.communicate(stdin, timeout=delay)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    if process.returncode != -9:
        tools.assert_sane(process.returncode, err.decode(), args)
        assert process.returncode == 0, err
    return process.returncode == -9, out


def duration(*args, stdin=b""):
    began = time.monotonic()
    feed(*args, stdin=stdin)
    return time.monotonic() - began


def length_of(folder):
    return int(feed("info", folder).lines[3].split(": ")[1])


@pytest.mark.parametrize("options", [[], ["--no-sync"]], ids=["synced", "no-sync"])
def test_append(options, tmp_path):
    """60 kills while appending: what was printed stays, and what was seen never changes."""
    folder, other = str(tmp_path / "feed"), str(tmp_path / "other")
    rng = random.Random(SEED + len(options))
    secret = tools.key_pair(3)[1]
    for path in (folder, other):
        feed("create", "--secret-key", "-", path, stdin=secret)
    whole = {count: duration("append", "--lines", *options, other, stdin=b"".join(b"%d\n" % i for i in range(count)))
             for count in (1, 30, 300, 1100)}  # else few of the short ones would live until they are killed
    printed, seen, kills, turns, lengths = 0, [], 0, 0, set()
    while kills < 60:
        turns += 1
        assert turns < 1500, "it is never killed in time"
        count = rng.choice(list(whole))
        lines = b"".join(b"turn %d line %d %s\n" % (turns, i, b"x" * rng.randrange(60)) for i in range(count))
        was_killed, out = killed(rng.random() * whole[count] * 1.2, "append", "--lines", *options, folder, stdin=lines)
        kills += was_killed
        if not was_killed:
            printed = int(out)
        assert feed("verify", folder).out == "ok %d\n" % length_of(folder)
        blocks = feed("cat", "--lines", folder).raw.split(b"\n")[:-1]
        assert len(blocks) >= printed
        assert blocks[:len(seen)] == seen, "it forked"  # also those that were recovered once
        if len(blocks) > len(seen):
            assert len(blocks) - len(seen) <= count
            assert blocks[len(seen):] == lines.split(b"\n")[:len(blocks) - len(seen)]
        seen = blocks
        lengths.add(len(seen))
        if turns % 20 == 0:
            assert tools.audit(folder) == []
    assert tools.audit(folder) == []
    assert feed("append", "--lines", folder, stdin=b"the end\n").out == "%d\n" % (len(seen) + 1)
    made = sleep.read(folder)
    assert [made.blocks[i] for i in range(made.length)] == seen + [b"the end"]
    assert len(lengths) > 3  # it did get on


def test_create(tmp_path):
    """30 kills while creating: there is a whole feed, or create works again."""
    whole = duration("create", str(tmp_path / "measure"))
    rng = random.Random(SEED + 10)
    kills = turns = 0
    while kills < 30:
        turns += 1
        assert turns < 300
        folder = str(tmp_path / str(turns))
        was_killed, _ = killed(rng.random() * whole, "create", folder)
        kills += was_killed
        info = feed("info", folder, code=None)
        if info.code:
            feed("create", folder)
        assert feed("info", folder).lines[-1] == "writable: yes"
        assert feed("append", folder, stdin=b"first").out == "1\n"
        assert tools.audit(folder) == []


def check_clone(folder, made, before):
    """After a kill: verified, true, and nothing lost that an earlier opening had claimed."""
    key = os.path.join(folder, "key")
    if not os.path.exists(key) or os.path.getsize(key) == 0:  # it was killed before there was a feed
        assert before == []
        return []
    found = feed("verify", folder, code=None)
    assert found.code == 0, found
    assert tools.audit(folder) == []
    there = sleep.read(folder)
    held = sorted(there.blocks)
    assert found.out == "ok %d\n" % len(held)
    assert all(there.blocks[i] == made.blocks[i] for i in held)
    assert set(before) <= set(held)
    return held


def finish_clone(folder, made, port):
    feed("clone", "--peer", "127.0.0.1:%d" % port, made.key.hex(), folder)
    tools.assert_folder(folder, made)


@pytest.mark.parametrize("options", [[], ["--no-sync"]], ids=["synced", "no-sync"])
def test_clone(options, tmp_path):
    """40 kills while cloning at full speed, from the first instruction to the last."""
    made = tools.make_folder(str(tmp_path / "source"), 1500, 100, batch=500)
    rng = random.Random(SEED + 20 + len(options))
    with share(str(tmp_path / "source"), "--quiet") as server:
        dial = ["--peer", "127.0.0.1:%d" % server.port, *options, made.key.hex()]
        whole = duration("clone", *dial, str(tmp_path / "measure"))
        kills = turns = 0
        while kills < 40:
            folder = str(tmp_path / "copy")
            held = []
            for _ in range(4):
                turns += 1
                assert turns < 1500, "it is never killed in time"
                was_killed, _ = killed(rng.random() * whole * 1.1, "clone", *dial, folder)
                kills += was_killed
                held = check_clone(folder, made, held)
            finish_clone(folder, made, server.port)
            shutil.rmtree(folder)
        server.stop()


class Slow(tools.Recording):
    """A server that takes its time, so that a clone commits some groups before it is killed."""

    def _on_request(self, channel, request):
        if len(self.requests) % 4 == 0:
            time.sleep(0.03)  # the delay is the point
        super()._on_request(channel, request)


def test_clone_between_commits(tmp_path, monkeypatch):
    """50 kills of clones that run long enough to commit by time, ten of them beside each other."""
    made = tools.make(400, 300, batch=7)
    monkeypatch.setattr(tools, "Recording", Slow)

    def one(number):
        rng = random.Random(SEED + 100 + number)
        folder = str(tmp_path / ("copy%d" % number))
        held, kills, kept = [], 0, 0
        while kills < 5:
            was_killed, _ = killed(0.3 + rng.random() * 1.4, "clone", "--peer",
                                   "127.0.0.1:%d" % server.port, made.key.hex(), folder)
            kills += was_killed
            held = check_clone(folder, made, held)
            kept = max(kept, len(held) if len(held) < 400 else 0)
            if len(held) == 400:
                shutil.rmtree(folder)
                held = []
        finish_clone(folder, made, server.port)
        return kept
    with tools.Server(made) as server, ThreadPoolExecutor(10) as pool:
        kept = list(pool.map(one, range(10)))
    assert any(kept)  # some were killed with a part committed
