"""Swarms of 2 to 20 real processes on the loopback: whatever happens, all end with the same feed."""

import random
import signal
import time

import pytest

import tools
from tools import DONE, clone, share

SEED = 20190701

pytestmark = pytest.mark.crowd


def honest(event):
    """Complete is what has every block below the verified length, and nothing less."""
    assert event["held"] == event["length"], event
    return True


class Swarm:
    """Clones that listen and stay (`--live`), each with a folder of its own."""

    def __init__(self, made, root):
        self.made, self.root, self.peers = made, root, []

    def join(self, *ports, folder=None, options=()):
        """One more clone, which dials these ports. It is listening when this returns."""
        folder = folder or str(self.root / ("peer%d" % len(self.peers)))
        process = clone(self.made.key, folder, "--live", "--json", "--timeout", "60",
                        "--listen", "127.0.0.1:0", *options, ports=ports)
        process.folder = folder
        self.peers.append(process)
        process.port = int(process.event("listening")["address"].rsplit(":", 1)[1])
        return process

    def wait(self, who=None, timeout=40.0):
        """Until each of them has all that the feed holds by now."""
        for process in self.peers if who is None else who:
            process.event("complete", timeout, lambda e: honest(e) and e["length"] == self.made.length)

    def end(self):
        """Interrupt all; every folder is the whole feed."""
        for process in self.peers:
            process.interrupt()
        for process in self.peers:
            process.finish(None)
            assert process.process.returncode in (DONE, tools.INTERRUPTED), process
        for process in self.peers:
            tools.assert_folder(process.folder, self.made)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.peers:
            process.__exit__()


@pytest.fixture
def swarm(tmp_path):
    swarms = []

    def start(made):
        swarms.append(Swarm(made, tmp_path))
        return swarms[-1]
    yield start
    for one in swarms:
        one.__exit__()


def part(made, blocks, folder):
    """A folder that holds some blocks only."""
    tools.sleep.write(tools.part(made, blocks), folder)
    return folder


@pytest.mark.parametrize("count", [2, 5, 20])
def test_a_star(count, swarm, tmp_path):
    """All from one source, at once."""
    made = tools.make_folder(str(tmp_path / "source"), 300)
    with share(str(tmp_path / "source"), "--quiet") as source:
        group = swarm(made)
        for _ in range(count - 1):
            group.join(source.port)
        group.wait()
        group.end()
        source.stop()


@pytest.mark.parametrize("count", [3, 8, 20])
def test_a_chain(count, swarm, tmp_path):
    """Each only knows the one before it, which is still downloading itself."""
    made = tools.make_folder(str(tmp_path / "source"), 200)
    with share(str(tmp_path / "source"), "--quiet") as source:
        group = swarm(made)
        port = source.port
        for _ in range(count - 1):
            port = group.join(port).port
        group.wait()
        group.end()
        source.stop()


def test_a_chain_that_is_built_before_its_source(swarm, tmp_path):
    """The far end is there first; the source dials in last."""
    made = tools.make_folder(str(tmp_path / "source"), 200)
    group = swarm(made)
    port = group.join().port
    first = port
    for _ in range(4):
        port = group.join(port).port
    with tools.Process("feed", "share", "--no-listen", "--quiet", "--peer", "127.0.0.1:%d" % first,
                       str(tmp_path / "source")) as source:
        group.wait()
        group.end()
        source.kill()


def test_everybody_knows_everybody(swarm, tmp_path):
    made = tools.make_folder(str(tmp_path / "source"), 400)
    with share(str(tmp_path / "source"), "--quiet") as source:
        group = swarm(made)
        for _ in range(7):
            group.join(source.port, *[p.port for p in group.peers])
        group.wait()
        group.end()
        source.stop()


@pytest.mark.parametrize("how", ["runs", "random", "overlapping"])
def test_sources_with_parts(how, swarm, tmp_path):
    """No source has everything; together they do."""
    made = tools.make(240)
    rng = random.Random(SEED)
    if how == "runs":
        parts = [range(i * 60, i * 60 + 60) for i in range(4)]
    elif how == "random":
        order = rng.sample(range(240), 240)
        parts = [sorted(order[i::4]) for i in range(4)]
    else:
        parts = [range(i * 50, min(240, i * 50 + 90)) for i in range(4)] + [[239]]
    sources = []
    try:
        for i, blocks in enumerate(parts):
            sources.append(share(part(made, blocks, str(tmp_path / ("part%d" % i))), "--quiet"))
        group = swarm(made)
        group.join(*[s.port for s in sources])
        group.join(*[s.port for s in reversed(sources)])
        group.wait()
        group.end()
        for source in sources:
            source.stop()
    finally:
        for source in sources:
            source.kill()


def test_parts_complete_each_other(swarm, tmp_path):
    """Five downloaders, each with another fifth, and nobody who has it all."""
    made = tools.make(250)
    group = swarm(made)
    for i in range(5):
        folder = part(made, range(i * 50, i * 50 + 50), str(tmp_path / ("part%d" % i)))
        group.join(*[p.port for p in group.peers], folder=folder)
    group.wait()
    group.end()


@pytest.mark.parametrize("how", ["killed", "interrupted", "mute"])
def test_a_source_is_lost_half_way(how, swarm, tmp_path):
    """What it was asked for is asked from the other one."""
    made = tools.make(600, 500)
    group = swarm(made)
    with tools.Server(made) as slow:
        if how == "mute":  # it claims all, answers a little, and never a word more
            slow.options["answer_only"] = lambda i: i % 3 == 0
            peer = group.join(slow.port)
            tools.eventually(lambda: slow.requests)
        else:
            tools.sleep.write(made, str(tmp_path / "lost"))
            with tools.Process("feed", "share", "--json", "--listen", "127.0.0.1:0",
                               str(tmp_path / "lost")) as lost:
                port = int(lost.event("listening")["address"].rsplit(":", 1)[1])
                peer = group.join(port)
                lost.event("peer")
                if how == "killed":
                    lost.kill()
                else:
                    lost.interrupt(signal.SIGTERM)
                    lost.finish(DONE)
    tools.sleep.write(made, str(tmp_path / "source"))
    with share(str(tmp_path / "source"), "--quiet") as source:
        group.join(source.port, peer.port)  # from here on it comes through this one
        group.wait()
        group.end()
        source.stop()


def test_two_sources_of_which_one_dies(swarm, tmp_path):
    """Both serve at the same time; one dies in the middle, and its blocks come from the other."""
    made = tools.make(2000, 200)
    tools.sleep.write(made, str(tmp_path / "staying"))
    with tools.Server(made) as dying:
        group = swarm(made)
        peer = group.join(dying.port)
        tools.eventually(lambda: len(dying.requests) > 5)
        with tools.Process("feed", "share", "--quiet", "--no-listen", "--peer",
                           "127.0.0.1:%d" % peer.port, str(tmp_path / "staying")) as staying:
            tools.eventually(lambda: len(dying.requests) > 50)
            dying.close()
            group.wait()
            group.end()
            staying.kill()


def test_late_joiners_and_a_live_owner(swarm):
    """The owner appends while the swarm grows; all have everything in the end."""
    made = tools.make(20)
    rng = random.Random(SEED)
    group = swarm(made)
    with tools.Server(made) as owner:
        port = owner.port
        for turn in range(8):
            port = group.join(port if turn % 2 else owner.port).port
            owner.append(*[rng.randbytes(rng.randrange(300)) for _ in range(rng.randrange(1, 30))])
        group.wait()
        last = [owner.append(b"last %d" % i) for i in range(5)][-1]
        assert last + 1 == made.length
        group.wait()
    group.end()


def test_an_append_runs_down_a_chain(swarm):
    """Each append reaches the far end of six, before the next one is made."""
    made = tools.make(3)
    group = swarm(made)
    with tools.Server(made) as owner:
        port = owner.port
        for _ in range(6):
            port = group.join(port).port
        group.wait()
        for i in range(5):
            owner.append(b"block %d" % i, b"")
            group.wait([group.peers[-1]])
        for process in group.peers:
            tools.eventually(lambda: len(tools.sleep.read(process.folder).blocks) == made.length)
    group.end()


def test_one_that_comes_back(swarm, tmp_path):
    """A downloader is killed and started again, three times, in the midst of a swarm."""
    made = tools.make(500, 300)
    tools.sleep.write(made, str(tmp_path / "source"))
    with share(str(tmp_path / "source"), "--quiet") as source:
        group = swarm(made)
        first = group.join(source.port)
        for _ in range(3):
            gone = group.join(source.port, first.port, folder=str(tmp_path / "restless"))
            gone.event("peer")
            gone.kill()
            group.peers.remove(gone)
            assert tools.sleep.audit(gone.folder, unfinished=True) == []
        group.join(first.port, folder=str(tmp_path / "restless"))
        group.wait()
        group.end()
        source.stop()


def test_an_empty_peer_is_not_the_end(tmp_path):
    """One peer has nothing of the feed and says so at once; the other has it all, and is slow to say so."""
    made, folder = tools.make(30), str(tmp_path / "copy")
    with tools.Server(tools.part(made, ())) as empty, tools.peers.Listener(made.key) as listener:

        def slow():
            peer = listener.accept()
            time.sleep(0.7)
            tools.peers.serve(peer, made)

        thread = tools.peers.Background(slow)
        with clone(made.key, folder, "--json", ports=[empty.port, listener.port]) as client:
            client.event("complete", where=lambda e: e["length"] == 30)
            client.finish(DONE)
        thread.join()
    tools.assert_folder(folder, made)
