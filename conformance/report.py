#!/usr/bin/env python3
"""Put the reports of several peers on one page.

    report.py merge results.json results.json ... -o DIR
"""

import argparse
import json
import os
import sys

from suite import page, report


def main():
    parser = argparse.ArgumentParser(description="Put the reports of several peers on one page.")
    parser.add_argument("command", choices=["merge"])
    parser.add_argument("results", nargs="+", help="results.json files")
    parser.add_argument("-o", "--output", required=True, metavar="DIR")
    options = parser.parse_args()
    documents = []
    for path in options.results:
        try:
            with open(path, encoding="utf-8") as file:
                documents.append(json.load(file))
        except (OSError, ValueError) as error:
            sys.exit("report.py: %s: %s" % (path, error))
    write(report.merge(documents), options.output)


def write(results, folder):
    """results.json, junit.xml and index.html."""
    os.makedirs(folder, exist_ok=True)
    report.save_json(results, os.path.join(folder, "results.json"))
    for name, text in (("junit.xml", report.junit(results)), ("index.html", page.page(results))):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
