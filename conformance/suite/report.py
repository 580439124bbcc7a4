"""Results as text for people, as JSON, and as JUnit XML for the machines that run tests.

The results document has cases, and peers with a result for each case; `runner.Run.document` makes one of one peer and
`merge` one of several. What stands in it came from a peer under test and is never trusted: control characters are shown
as escapes in text and left out of XML.
"""

import json
import re
import xml.etree.ElementTree as xml

VERDICTS = ("PASS", "NON-STRICT", "FAIL", "UNSUPPORTED", "OMITTED", "ERROR")
MARKS = {"PASS": "ok", "NON-STRICT": "loose", "FAIL": "FAIL", "UNSUPPORTED": "none", "OMITTED": "omitted",
         "ERROR": "ERROR"}
STARTS_TO_PASS = "is expected to fail and starts to pass: take it off the list"
COLORS = {"ok": "32", "loose": "33", "FAIL": "1;31", "ERROR": "1;31", "expected": "33", "none": "2", "omitted": "2"}
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
NOT_XML = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text):
    """Text that cannot do anything to a terminal: control characters as escapes."""
    return CONTROL.sub(lambda m: "\\x%02x" % ord(m.group()) if ord(m.group()) < 256 else "\\u%04x" % ord(m.group()),
                       str(text))


def starts_to_pass(result):
    return result.get("expected_failure") is not None and result["verdict"] not in ("FAIL", "ERROR")


def broken(result):
    """Whether this fails the run: a FAIL or ERROR that is not expected, or an expected one that passes."""
    if result.get("expected_failure") is not None:
        return starts_to_pass(result)
    return result["verdict"] in ("FAIL", "ERROR")


def mark(result):
    """The word in front of a case."""
    if starts_to_pass(result):
        return "FAIL"
    return "expected" if result.get("expected_failure") is not None else MARKS[result["verdict"]]


def why(result):
    """In one line what happened, "" where there is nothing to say."""
    if starts_to_pass(result):
        return STARTS_TO_PASS
    departure = result.get("departure")
    if departure and result["verdict"] in ("FAIL", "NON-STRICT"):
        return "expected %s; got %s" % (departure["expected"], departure["got"])
    return result.get("reason") or ""


def _sections(results):
    """(title, cases) in the document's order; cases of a section that is not listed come last."""
    known = [s["id"] for s in results["sections"]]
    rest = sorted({c["section"] for c in results["cases"]} - set(known))
    titles = {s["id"]: s["title"] for s in results["sections"]}
    for id in known + rest:
        cases = [c for c in results["cases"] if c["section"] == id]
        if cases:
            yield titles.get(id, id), cases


def sentence(peer):
    """What to say of a peer in one sentence."""
    results = peer["results"].values()
    bad = sum(map(broken, results))
    judged = sum(r["verdict"] in ("PASS", "NON-STRICT", "FAIL", "ERROR") for r in results)
    loose = sum(r["verdict"] == "NON-STRICT" for r in results)
    missing = sum(r["verdict"] in ("UNSUPPORTED", "OMITTED") for r in results)
    expected = sum(mark(r) == "expected" for r in results)
    if not judged:
        return "Nothing could be judged."
    said = "All %d cases that were judged pass" % judged if not bad + loose + expected else \
        "%d of %d cases that were judged fail" % (bad, judged) if bad else \
        "None of %d cases that were judged fails" % judged + (" unexpectedly" if expected else "")
    more = ["%d %s" % (n, text) for n, text in ((loose, "pass loosely" if loose > 1 else "passes loosely"),
            (expected, "fail as expected" if expected > 1 else "fails as expected"),
            (missing, "were not judged" if missing > 1 else "was not judged")) if n]
    return said + ("; " + ", ".join(more) if more else "") + "."


def console(results, stream, color=False):
    """Write the report of all peers as text."""
    encoding = getattr(stream, "encoding", None) or "utf-8"

    def say(text=""):
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")

    def paint(word, width=0):
        text = word.ljust(width)
        return "\x1b[%sm%s\x1b[0m" % (COLORS[word], text) if color else text

    def bold(text):
        return "\x1b[1m%s\x1b[0m" % text if color else text

    for note in results.get("notes", ()):
        say(clean(note))
    for peer in results["peers"]:
        found = peer["results"]
        say()
        say(bold("%s: conformance suite %s" % (clean(peer["name"]), clean(results["suite"]))))
        for title, cases in _sections(results):
            cases = [c for c in cases if c["id"] in found]
            if not cases:
                continue
            say()
            say(bold("  " + clean(title)))
            for case in cases:
                result = found[case["id"]]
                line = "    %s %-7s %s: %s" % (paint(mark(result), 8), case["level"], clean(case["id"]), clean(case["title"]))
                if result["verdict"] in ("UNSUPPORTED", "OMITTED") and result.get("reason"):
                    line += " (%s)" % clean(result["reason"])
                say(line)
        chosen = [(c, found[c["id"]]) for c in results["cases"] if c["id"] in found]
        _details(say, paint, bold, "Failures", [p for p in chosen if broken(p[1])])
        _details(say, paint, bold, "Failures that are expected", [p for p in chosen if mark(p[1]) == "expected"])
        _details(say, paint, bold, "Passed, but not strictly",
                 [p for p in chosen if p[1]["verdict"] == "NON-STRICT" and not broken(p[1])])
        errata = [p for p in chosen if p[0].get("erratum")]
        if errata:
            say()
            say(bold("  PROTOCOL errata exercised"))
            told = {}
            for case, result in errata:
                told.setdefault(case["erratum"], []).append((case, result))
            for text, pairs in told.items():
                say("    " + clean(text))
                for case, result in pairs:
                    say("      %s %s" % (paint(mark(result), 8), clean(case["id"])))
        say()
        say("  %s: %s" % (bold(clean(peer["name"])), sentence(peer)))
        counts = ["%d %s" % (peer["verdicts"].get(v, 0), v) for v in VERDICTS if peer["verdicts"].get(v, 0)]
        say("  %d cases: %s; %.1f s" % (len(found), ", ".join(counts) or "none", peer["seconds"]))


def _details(say, paint, bold, title, pairs):
    if not pairs:
        return
    say()
    say(bold("  %s (%d)" % (title, len(pairs))))
    for case, result in pairs:
        say()
        say("    %s %s (%s; %s)" % (paint(mark(result)), clean(case["id"]), case["level"], clean(case["source"])))
        say("      %s" % clean(case["title"]))
        if starts_to_pass(result):
            say("      %s: %s" % (result["verdict"], STARTS_TO_PASS))
        if result.get("expected_failure"):
            say("      expected to fail: %s" % clean(result["expected_failure"]))
        departure = result.get("departure") or {}
        for name in ("sent", "expected", "got"):
            if departure.get(name):
                say("      %-9s %s" % (name + ":", clean(departure[name])))
        if result.get("reason") and not departure:  # else it says the same
            say("      %-9s %s" % ("reason:", clean(result["reason"])))
        for note in result.get("notes", ()):
            say("      %-9s %s" % ("note:", clean(note)))
        if broken(result) and result.get("stderr"):
            for line in result["stderr"].strip().splitlines()[-5:]:
                say("      %-9s %s" % ("stderr:", clean(line)))


def save_json(results, path):
    with open(path, "w", encoding="ascii") as file:
        json.dump(results, file, separators=(",", ":"))
        file.write("\n")


def _xml(text):
    """Text that XML can hold."""
    return NOT_XML.sub(lambda m: "\\x%02x" % ord(m.group()) if ord(m.group()) < 256 else "\\u%04x" % ord(m.group()),
                       str(text))


def _body(case, result):
    departure = result.get("departure") or {}
    lines = [case["title"], "%s; %s" % (case["level"], case["source"]), case["why"]]
    lines += ["%s: %s" % (name, departure[name]) for name in ("sent", "expected", "got") if departure.get(name)]
    lines += ["reason: " + result["reason"]] if result.get("reason") and not departure else []
    lines += ["expected to fail: " + result["expected_failure"]] if result.get("expected_failure") else []
    return _xml("\n".join(lines + list(result.get("notes", ()))))


def junit(results):
    """JUnit XML: a test suite for each peer. An expected failure is skipped; one that passes is a failure."""
    root = xml.Element("testsuites", name="conformance suite %s" % _xml(results["suite"]))
    for peer in results["peers"]:
        cases = [c for c in results["cases"] if c["id"] in peer["results"]]
        suite = xml.SubElement(root, "testsuite", name=_xml(peer["name"]), tests=str(len(cases)),
                               time="%.3f" % peer["seconds"])
        count = {"failures": 0, "errors": 0, "skipped": 0}
        for case in cases:
            result = peer["results"][case["id"]]
            test = xml.SubElement(suite, "testcase", classname=_xml("%s.%s" % (peer["name"], case["section"])),
                                  name=_xml(case["id"]), time="%.3f" % result["seconds"])
            verdict, expected = result["verdict"], result.get("expected_failure")
            if broken(result):
                kind = "error" if verdict == "ERROR" else "failure"
                count[kind + "s"] += 1
                xml.SubElement(test, kind, type=verdict, message=_xml(why(result))).text = _body(case, result)
            elif expected is not None or verdict in ("UNSUPPORTED", "OMITTED"):
                count["skipped"] += 1
                message = "expected to fail: " + expected if expected is not None else \
                    "%s: %s" % (verdict, result.get("reason") or "no reason given")
                xml.SubElement(test, "skipped", message=_xml(message))
            elif verdict == "NON-STRICT":
                xml.SubElement(test, "system-out").text = "NON-STRICT\n" + _body(case, result)
            if result.get("stderr"):
                xml.SubElement(test, "system-err").text = _xml(result["stderr"])
        for name, number in count.items():
            suite.set(name, str(number))
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(s.get(name)) for s in root)))
    return "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n" + xml.tostring(root, encoding="unicode") + "\n"


def merge(documents):
    """One document of several: all their cases and peers. What doesn't fit together is told in `notes`."""
    documents = list(documents)
    if not documents:
        raise ValueError("nothing to merge")
    for document in documents:
        if document.get("format") != 1:
            raise ValueError("a results document of format %r, not 1" % document.get("format"))
    made = {"format": 1, "suite": documents[0]["suite"], "sections": [], "cases": [], "peers": []}
    notes = [n for d in documents for n in d.get("notes", ())]
    suites = list(dict.fromkeys(d["suite"] for d in documents))
    if len(suites) > 1:
        notes.append("the results are of different suites: %s" % ", ".join(suites))
        made["suite"] = ", ".join(suites)
    cases, names = {}, set()
    for document in documents:
        for section in document["sections"]:
            if section["id"] not in [s["id"] for s in made["sections"]]:
                made["sections"].append(section)
        for case in document["cases"]:
            if cases.setdefault(case["id"], case) != case:
                notes.append("%s is not the same case in all of them" % case["id"])
        for peer in document["peers"]:
            name, number = peer["name"], 1
            while name in names:
                number += 1
                name = "%s (%d)" % (peer["name"], number)
            names.add(name)
            made["peers"].append(dict(peer, name=name))
    places = [s["id"] for s in made["sections"]]
    made["cases"] = sorted(cases.values(), key=lambda c: places.index(c["section"]) if c["section"] in places else len(places))
    if notes:
        made["notes"] = list(dict.fromkeys(notes))
    return made
