"""The mutation tests' own proof: which sites are found in a C text, and that one of them at a time comes alive."""

import json
import os
import re
import shutil
import subprocess
import sys

import mutate
import pytest

pytestmark = pytest.mark.skipif(not shutil.which("clang"), reason="clang finds the sites, and is not here")

TEXT = """#include <stddef.h>
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
enum { LIMIT = 10 };
static const int table[] = {1, 2, 3};

int twice(int n)
{
    int sum = 0;
    while (n > 0 && sum < 100) {
        sum += 2;
        n--;
    }
    if (!sum)
        return -1;
    return MIN(sum, LIMIT);
}

int main(int argc, char **argv)
{
    (void)argv;
    return twice(argc - 1) + table[0];
}
"""

SITES = {
    "twice:logic": "n > 0 || sum < 100", "twice:side": "1", "twice:bound": "n >= 0", "twice:false": "0", "twice:math": "sum -= 2",
    "twice:constant": "2 + 1", "twice:step": "n++", "twice:not": "!!sum", "twice:negated": "!(!sum)", "twice:true": "1",
    "twice:sign": "+1", "twice:no-return": ";", "twice:no-statement": ";", "twice:return-zero": "0", "twice:minmax": "MAX(sum, LIMIT)",
    "main:math": "twice(argc - 1) - table[0]", "main:return-zero": "0"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("mutants") / "small.c"
    path.write_text(TEXT)
    return path, *mutate.find_sites(str(path))


def test_sites(found):
    _, text, sites = found
    assert text == TEXT and len({s.id for s in sites}) == len(sites)
    changes = {}
    for site in sites:
        changes.setdefault(site.id.rsplit(":", 2)[0], set()).add(site.to)
        assert site.line == TEXT.count("\n", 0, site.start) + 1
    for kind, to in SITES.items():
        assert to in changes[kind], kind
    assert not [s for s in sites if s.line < 7], "tables and names are not code"


def test_one_of_them_at_a_time_is_alive(found, tmp_path):
    """Rendered together, with each alone alive, the program does what it does with this one change in its text."""
    _, text, sites = found
    numbers = {s.id: n for n, s in enumerate(sites)}
    (tmp_path / "runtime.c").write_text(mutate.RUNTIME.replace("SITES", str(len(sites))))
    (tmp_path / "all.c").write_text(mutate.PRELUDE + mutate.render(text, sites, numbers))
    done = mutate.compiler("-w", "-o", str(tmp_path / "all"), str(tmp_path / "all.c"), str(tmp_path / "runtime.c"))
    assert done.returncode == 0, done.stderr.decode()

    def exits(program, **env):
        try:
            return [subprocess.run([str(program), *"xxx"[:n]], env=env, timeout=0.5, check=False).returncode for n in range(4)]
        except subprocess.TimeoutExpired:
            return "no end"

    original = exits(tmp_path / "all")
    assert original == [0, 3, 5, 7]
    same = 0
    for site in sites:
        (tmp_path / "one.c").write_text(mutate.planted(text, site))
        assert mutate.compiler("-w", "-o", str(tmp_path / "one"), str(tmp_path / "one.c")).returncode == 0, site.id
        alive = exits(tmp_path / "all", DATSYNC_MUTANT=str(numbers[site.id]))
        assert alive == exits(tmp_path / "one"), site.id
        same += alive == original
    assert same < len(sites) // 2


def test_a_sample_stays_when_the_text_grows(found, tmp_path):
    _, text, sites = found
    (tmp_path / "small.c").write_text(text.replace("int main(", "int other(int a)\n{\n    return a + 1;\n}\n\nint main("))
    _, more = mutate.find_sites(str(tmp_path / "small.c"))
    assert len(more) > len(sites)
    before, after = ({s.id for s in mutate.sample(s, 12)} for s in (sites, more))
    assert len(before & after) >= 8


def test_what_is_known_is_of_sites_that_are_there():
    with open(mutate.KNOWN) as file:
        known = json.load(file)
    _, sites = mutate.find_sites(os.path.join(mutate.ROOT, "datsync.c"))
    ids = {s.id for s in mutate.sample(sites, mutate.SAMPLE)}
    assert set(known) <= ids and len(set(known) & ids) > 0.95 * len(ids), sorted(ids ^ set(known))
    assert all(re.match("(killed|same|left): .{10,}", what) for what in known.values())
    # one whose test is gone would be hunted with all tests, which takes most of an hour
    listed = subprocess.run([sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "conformance", "tests"],
                            cwd=mutate.ROOT, stdout=subprocess.PIPE, universal_newlines=True).stdout.splitlines()
    assert {what[8:] for what in known.values() if what.startswith("killed: ")} <= set(listed)
