#!/usr/bin/env python3
"""The lines of datsync.c that the tests run: `coverage.py [--least PERCENT] [--keep] [pytest's arguments]`.

Builds the command, the test driver and the adapter with gcc's --coverage in build/coverage, runs the tests (all but
those marked interop) and names each line that none ran, by function. uncovered.txt holds those that are known, with the
reason why no test can or need reach them; `+` before a line says that it is not among those. A known line that is run
after all is named too. Exits 1 below --least (95), on a line that is not known, or if a test fails.
"""

import argparse
import collections
import json
import os
import subprocess
import sys

import core
from core import HERE, ROOT

BUILD = os.path.join(ROOT, "build", "coverage")
KNOWN = os.path.join(HERE, "uncovered.txt")
SOURCE = os.path.join(ROOT, "datsync.c")


def build():
    for program, files in core.PROGRAMS.items():
        folder = os.path.join(BUILD, program)
        os.makedirs(folder, exist_ok=True)
        objects = []
        for source in files + ["datsync.c"] * (program in core.LINKED) + ["net_posix.c"]:
            objects.append(os.path.join(folder, source.replace("/", "_")[:-1] + "o"))
            subprocess.run(["gcc", "-std=c99", "-O0", "-g", "--coverage", "-I.", "-c", "-o", objects[-1], source], cwd=ROOT,
                           check=True)
        os.chmod(folder, 0o777)
        for name in objects:  # some tests run the programs as another user, who must be able to count too
            with open(name[:-1] + "gcda", "wb") as counted:
                os.chmod(counted.name, 0o666)
        subprocess.run(["gcc", "--coverage", "-o", os.path.join(folder, "run"), *objects, *core.libraries()],
                       check=True)


def run_tests(arguments):
    env = dict(os.environ, PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=os.path.join(ROOT, "build", "pycache"),
               **core.environment(lambda program: os.path.join(BUILD, program, "run")))
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not interop",
                           *(arguments or core.tests())], cwd=ROOT, env=env).returncode


def counts():
    """{line: (function, times it was run)} over all programs."""
    lines = {}
    for program in core.PROGRAMS:
        folder = os.path.join(BUILD, program)
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if not name.endswith(".gcda") or not os.path.getsize(os.path.join(folder, name)):
                continue
            out = subprocess.run(["gcov", "--json-format", "--stdout", name], cwd=folder, check=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
            for part in out.splitlines():
                told = json.loads(part)
                for file in told["files"]:
                    if os.path.realpath(os.path.join(told["current_working_directory"], file["file"])) != SOURCE:
                        continue
                    for line in file["lines"]:
                        function, before = lines.get(line["line_number"], (None, 0))
                        lines[line["line_number"]] = (line.get("function_name") or function, before + line["count"])
    return lines


def known(path=KNOWN):
    """{(function, text of the line): reason}. A reason stands before the lines that it is for, a function before its."""
    out, function, reason = {}, None, None
    with open(path) as file:
        for line in file:
            line = line.rstrip("\n")
            if line.startswith("# ") or not line.strip():
                continue
            if line.startswith("        "):
                out[function, line.strip()] = reason
            elif line.startswith("    "):
                reason = line.strip()
            else:
                function, reason = line.strip(), None
    return out


def report(lines, text, reasons, out=sys.stdout):
    """Print it; returns the share of lines that were run and the number of lines that are not known."""
    missing, seen, new = collections.OrderedDict(), set(), 0
    for number in sorted(lines):
        function, count = lines[number]
        if not count:
            missing.setdefault(function, []).append(number)
    for function, numbers in missing.items():
        print(function, file=out)
        for number in numbers:
            key = function, text[number - 1].strip()
            seen.add(key)
            new += key not in reasons
            print("  %s %5d  %s" % (" " if key in reasons else "+", number, key[1]), file=out)
    stale = [key for key in reasons if key not in seen]
    for function, line in stale:
        print("uncovered.txt has what is run or no longer there: %s: %s" % (function, line), file=out)
    run = sum(1 for _, count in lines.values() if count)
    share = 100.0 * run / max(1, len(lines))
    print("%d of %d lines were run (%.1f %%); %d were not, %d of them not known" % (
        run, len(lines), share, len(lines) - run, new), file=out)
    return share, new


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--least", type=float, default=95, metavar="PERCENT", help="exit 1 below (95)")
    parser.add_argument("--keep", action="store_true", help="run no test, report what the last run left")
    options, more = parser.parse_known_args()
    failed = 0
    if not options.keep:
        build()
        failed = run_tests(more)
    with open(SOURCE) as file:
        text = file.read().split("\n")
    share, new = report(counts(), text, known() if os.path.exists(KNOWN) else {})
    return 1 if failed or share < options.least or new else 0


if __name__ == "__main__":
    sys.exit(main())
