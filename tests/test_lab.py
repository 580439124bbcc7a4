"""The laboratory: each number is a swarm on virtual time (lab.c), against which properties are held.

lab.json has the numbers that once failed, those that are held back with the reason, and for each property a fault that is
planted in datsync.c, which the laboratory must find, and shrink.
"""

import json
import os
import re
import shlex
import subprocess

import pytest

import core
import tools

WRAPPER = shlex.split(os.environ.get("DATSYNC_WRAPPER", ""))
LAB = os.environ.get("DATSYNC_LAB", os.path.join(tools.ROOT, "build", "asan", "lab"))
NATIVE = os.environ.get("DATSYNC_NATIVE_LAB", os.path.join(tools.ROOT, "build", "lab"))  # this system's, without sanitizers
SOAK = int(os.environ.get("DATSYNC_SOAK", "0"))

with open(os.path.join(tools.HERE, "lab.json"), encoding="utf-8") as file:
    KNOWN = json.load(file)
HELD_BACK = {int(number) for number in KNOWN["held_back"]}
FOUND_WITHIN = 1000  # numbers

# What is asked of this system's build has its answer; another place only has to give the same hashes.
here = pytest.mark.skipif(bool(os.environ.get("DATSYNC_NATIVE")), reason="asks this system's build: make check")


def run(argv, *words, planted="", timeout=600):
    done = subprocess.run([*argv, *(str(word) for word in words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=timeout, env=dict(os.environ, PLANTED=planted))
    assert done.returncode in (0, 1) and done.stderr == b"", done.stderr.decode()[-3000:]
    return done.stdout.decode().splitlines()


def native(*words):
    return run([NATIVE], *words)


def failures(lines):
    """{number: what failed}"""
    found = {}
    for line in lines:
        match = re.match(r"^(\d+) [0-9a-f]{64} FAILS (.*)$", line)
        if match:
            found[int(match.group(1))] = match.group(2)
    return found


def told(found):
    return "".join("\n%d: %s; make lab SEED=%d tells the story" % (number, why, number) for number, why in found.items())


def is_held_back(number, why):
    return KNOWN["held_back"].get(str(number), {}).get("property") == why.split(":")[0]


def hold(first, count):
    lines = native("--from", first, "--count", count)
    assert lines[-1].startswith("%d numbers" % count), lines
    found = {number: why for number, why in failures(lines).items() if not is_held_back(number, why)}
    assert not found, told(found)


@here
@pytest.mark.parametrize("first", range(1, 201, 20))
def test_numbers(first):
    hold(first, 20)


@pytest.mark.skipif(not SOAK, reason="make soak")
@pytest.mark.parametrize("first", range(201, SOAK, 100))
def test_soak(first):
    hold(first, 100)


@here
def test_what_once_failed():
    found = failures(native(*sorted(KNOWN["once_failed"], key=int)))
    assert not found, told(found)


@here
def test_what_is_held_back_still_fails():
    """Else it is to be held from now on."""
    found = failures(native(*sorted(HELD_BACK))) if HELD_BACK else {}
    assert {number for number, why in found.items() if is_held_back(number, why)} == HELD_BACK


def test_under_the_sanitizers():
    assert run([*WRAPPER, LAB], *range(1, 9)) == native(*range(1, 9))


@here
def test_a_number_tells_the_same_whatever_ran_before():
    assert native(7, 2, 7)[::2] == native(7) * 2
    assert native(8) != native(7)


def test_the_network():
    assert run([*WRAPPER, LAB], "--network") == ["the network holds"]


# 200 peers, of 20 feeds, who know one server or node and nobody else: (way, datagrams lost of 1,000) and the virtual ms within which
# all have found each other and are complete. Where answers are lost, some are asked for again after a minute, and later.
FINDING = {("server", 0): 2000, ("server", 300): 300000, ("dht", 0): 20000, ("dht", 300): 600000, ("mdns", 0): 2000, ("mdns", 300): 10000}


@here
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("way, lost", FINDING)
def test_two_hundred_find_each_other(way, lost, seed):
    line, = native("--finding", way, seed, lost)
    found, at = re.fullmatch(r"%s, %d of 1000 lost: (\d+) of 200 found each other in (\d+) ms" % (way, lost), line).groups()
    assert int(found) == 200 and int(at) < FINDING[way, lost], line


# ---- planted faults -----------------------------------------------------------------------------------

HELPER = """
#include <stdlib.h>
#include <string.h>
static int planted_is(const char *name)
{
    static const char *alive;
    if (!alive && !(alive = getenv("PLANTED")))
        alive = "";
    return strcmp(alive, name) == 0;
}
#define PLANTED(name) planted_is(name)
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The laboratory on a datsync.c with all of the planted faults, of which a variable chooses one."""
    with open(os.path.join(tools.ROOT, "datsync.c"), encoding="utf-8") as source:
        text = source.read()
    for name, fault in KNOWN["planted"].items():
        for old, new in fault["edits"]:
            assert text.count(old) == 1, "planted fault %s: its place is not there" % name
            text = text.replace(old, new)
    folder = tmp_path_factory.mktemp("planted")
    (folder / "datsync.c").write_text(HELPER + text)
    program = str(folder / "lab")
    subprocess.run(["cc", "-std=c99", "-w", "-O2", "-I" + tools.ROOT, "-o", program, str(folder / "datsync.c"),
                    *(os.path.join(tools.HERE, name) for name in ("lab.c", "lab_net.c", "lab_finding.c", "world.c")),
                    *(os.path.join(tools.ROOT, name) for name in ("discovery.c", "discovery_dht.c")), *core.libraries()], check=True)
    return program


@here
@pytest.mark.parametrize("name", KNOWN["planted"])
def test_a_planted_fault_is_found_and_shrunk(name, planted):
    fault = KNOWN["planted"][name]
    if SOAK:
        found = failures(run([planted], "--from", 1, "--count", FOUND_WITHIN, planted=name, timeout=3000))
        numbers = [number for number, why in found.items() if why.startswith(name + ":")]
        assert numbers, found
    else:
        numbers = [fault["found_by"]]
    story = run([planted], "--story", numbers[0], planted=name)
    assert re.match(r"^%d FAILS %s: " % (numbers[0], name), story[-1]), story[-1]
    peers = int(re.match(r"^\d+: (\d+) peers", story[0]).group(1))
    assert peers <= 5, story[0]


@here
def test_every_property_has_a_planted_fault():
    with open(os.path.join(tools.HERE, "lab.c"), encoding="utf-8") as source:
        names = re.search(r"property_names\[\] = \{(.*?)\};", source.read(), re.S).group(1)
    assert set(re.findall(r'"([a-z-]+)"', names)) - {"holds"} == KNOWN["planted"].keys()


# ---- other places -------------------------------------------------------------------------------------

@pytest.mark.everywhere
@pytest.mark.skipif(not os.environ.get("DATSYNC_NATIVE"), reason="a build for another system: make check-all")
def test_the_same_hashes_everywhere():
    numbers = range(1, 21)
    assert run([*WRAPPER, LAB], *numbers) == native(*numbers)
