"""The conformance suite from the command line, with nothing but Python and libsodium:

    python3 conformance --peer 'node my-adapter.js' --report out

The exit status is 0 if no case fails, 1 if one does, 2 where the command line makes no sense.
"""

import argparse
import json
import os
import shlex
import sys

if sys.version_info < (3, 9):
    sys.exit("the conformance suite needs Python 3.9 or newer")

import report as reports
from suite import report, runner


def main():
    parser = argparse.ArgumentParser(prog="python3 conformance", description="The conformance suite of the Dat protocol.")
    parser.add_argument("--peer", metavar="COMMAND", required=True, help="the adapter of the peer under test")
    parser.add_argument("--peer-name", metavar="NAME", help="what the report calls it")
    parser.add_argument("--report", metavar="DIR", help="write results.json, junit.xml and index.html there")
    parser.add_argument("--expect", metavar="FILE", help="JSON {case id: reason} of failures that are expected")
    parser.add_argument("--side-by-side", metavar="N", type=int, help="cases that run at once (default: 3 a core)")
    parser.add_argument("-k", metavar="WORD", action="append", help="only cases whose id holds this word (repeatable)")
    options = parser.parse_args()
    every = [c.id for c in runner.load()]
    ids = [i for i in every if not options.k or any(word in i for word in options.k)]
    if not ids:
        parser.error("no case of this name")
    try:
        expected = json.load(open(options.expect, encoding="utf-8")) if options.expect else {}
        run = runner.Run(shlex.split(options.peer), options.peer_name, ids, {i: w for i, w in expected.items() if i in ids or i not in every},
                         options.side_by_side)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for number, id in enumerate(ids, 1):
        run.result(id)
        if sys.stderr.isatty():
            sys.stderr.write("\r%d of %d" % (number, len(ids)))
    if sys.stderr.isatty():
        sys.stderr.write("\r%s\r" % (20 * " "))
    failures = run.failures()
    results = run.document()
    report.console(results, sys.stdout, sys.stdout.isatty())
    if options.report:
        reports.write(results, options.report)
        print("report: %s" % os.path.join(options.report, "index.html"))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
