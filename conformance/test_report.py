"""The reports: text, JSON, JUnit XML, and the HTML page in a real browser.

The sample has the suite's own cases and the logs of recorded conversations; verdicts are made up.
"""

import html
import io
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
import xml.etree.ElementTree as xml

import pytest

from dat import decode, peer, wire
from dat.content import VECTORS
from suite import VERSION, case, page, report, runner

SHOTS = os.environ.get("DATSYNC_SCREENSHOTS")  # where they are kept
HOSTILE = "</script><script>document.title='owned'</script> ]]> <!-- & \x1b[2J\x00\x07\ud800 \u202e \uffff"
NAMES = ("datsync 0.4", "python", "hypercore 6.26", "rust-dat 0.1")


# ---- a sample ---------------------------------------------------------------------------------------

def recorded(name):
    """The log of a recorded conversation as a scripted client would have written it."""
    with open(os.path.join(VECTORS, "conversations", name + ".json")) as file:
        messages = json.load(file)["messages"]
    entries = []
    for i, m in enumerate(messages):
        raw = bytes.fromhex(m["hex"])
        frame = wire.FrameDecoder().feed(raw)[0]
        message = frame.message() if frame.is_message else None
        entries.append(peer.Entry(0.0013 * i, "sent" if m["from"] == "c" else "received", frame.channel, message, raw,
                                  raw if m["from"] == "c" else b""))
        if m["from"] != "c":
            entries.append(entries[-1]._replace(message=None, plain=b"", wire=raw))
    return decode.log(entries)


def result(verdict="PASS", talks=(), **more):
    made = {"verdict": verdict, "seconds": 0.12, "reason": "", "expected_failure": None, "departure": None, "notes": [],
            "conversations": [{"name": "connection %d" % (i + 1), "log": log} for i, log in enumerate(talks)], "stderr": ""}
    return dict(made, **more)


def tally(name, results, command="./adapter", seconds=81.2):
    verdicts = {v: sum(r["verdict"] == v for r in results.values()) for v in report.VERDICTS}
    return {"name": name, "command": command, "seconds": seconds, "verdicts": verdicts, "results": results}


def sample(names=NAMES):
    cases = [c.describe() for c in runner.load()]
    logs = [recorded(n) for n in ("clone-5", "two-feeds", "extension", "sparse-range")]
    peers = []
    for n, name in enumerate(names):
        results = {}
        for i, c in enumerate(cases):
            r = result(talks=[logs[i % 4]] if i % 3 else [logs[i % 4], logs[(i + 1) % 4]])
            turn = (i * 7 + n * 3) % 61
            if n == 1 and turn == 1 or n == 3 and turn % 9 == 1:
                fields = {"sent": "Have{start: 0, length: 1048576, bitfield: %s}" % ("1a00" if turn % 2 else "02f8"),
                          "expected": "Request{index: 0} for the block that was announced",
                          "got": "nothing of the kind in 5 s, after Want{start: 0, length: 1048576}"}
                verdict = "NON-STRICT" if c["level"] == "SHOULD" else "FAIL"
                r = dict(r, verdict=verdict, departure=fields, stderr="thread 'main' panicked at src/protocol.rs:211\n",
                         notes=["the connection was left open"], seconds=5.01)
            elif n == 2 and turn == 5:
                r = dict(r, verdict="FAIL", expected_failure="hypercore 6.26 crashes on it",
                         departure={"sent": "Have{start: 4, bitfield: 02f8}", "expected": "the connection goes on",
                                    "got": "the peer ended by signal 6"}, stderr="RangeError: out of bounds\n")
            elif c["section"] == "drive" and n in (1, 3):
                r = result("UNSUPPORTED", reason="the adapter knows no --drive (exit 89)", seconds=0.02)
            elif n == 3 and turn == 33:
                r = result("ERROR", reason="OSError: too many open files")
            results[c["id"]] = r
        peers.append(tally(name, results, "./%s" % name.split()[0], 81.2 - 9 * n))
    return {"format": 1, "suite": VERSION, "sections": [{"id": i, "title": t} for i, t in case.SECTIONS.items()],
            "cases": cases, "peers": peers}


def small(**results):
    """Three cases and a peer."""
    cases = [{"id": "dep-0010.%s" % name, "section": "framing", "level": "MUST", "source": "DEP-0010",
              "title": "Title of %s" % name, "why": "Why %s." % name, "erratum": None} for name in results]
    return {"format": 1, "suite": "1.0", "sections": [{"id": "framing", "title": "Framing and limits"}], "cases": cases,
            "peers": [tally("one", {"dep-0010.%s" % name: r for name, r in results.items()})]}


DEPARTURE = {"sent": "Want{start: 1}", "expected": "silence", "got": "Have{start: 1}"}


def told(results, color=False):
    out = io.StringIO()
    report.console(results, out, color)
    return out.getvalue()


# ---- text -------------------------------------------------------------------------------------------

def test_console_lists_every_case_and_the_failures_again():
    text = told(small(good=result(), bad=result("FAIL", departure=DEPARTURE, notes=["noted"], stderr="last words"),
                      lacking=result("UNSUPPORTED", reason="no such option")))
    lines = text.splitlines()
    assert any(re.match(r"    ok +MUST +dep-0010.good: Title of good$", line) for line in lines)
    assert any(re.match(r"    none +MUST .*lacking.*\(no such option\)$", line) for line in lines)
    after = text[text.index("Failures (1)"):]
    for part in ("dep-0010.bad (MUST; DEP-0010)", "sent:     Want{start: 1}", "expected: silence", "got:      Have{start: 1}",
                 "note:     noted", "last words"):
        assert part in after
    assert "dep-0010.good" not in after
    assert "3 cases: 1 PASS, 1 FAIL, 1 UNSUPPORTED; 81.2 s" in text
    assert "\x1b" not in text and "\x1b[" in told(small(bad=result("FAIL", departure=DEPARTURE)), True)


def test_console_tells_expected_failures_apart():
    results = small(known=result("FAIL", departure=DEPARTURE, expected_failure="known since 2018"),
                    healed=result(expected_failure="was broken"))
    text = told(results)
    failures, expected = text[text.index("Failures (1)"):].split("Failures that are expected (1)")
    assert "dep-0010.healed" in failures and "starts to pass" in failures and "dep-0010.known" not in failures
    assert "dep-0010.known" in expected and "known since 2018" in expected
    assert "1 of 2 cases that were judged fail" in text


def test_console_tells_the_errata():
    results = small(ack=result(), want=result("FAIL", departure=DEPARTURE))
    results["cases"][0]["erratum"] = "E3: Have also has ack"
    results["cases"][1]["erratum"] = "E9: Want is a multiple of 8192"
    part = told(results).split("PROTOCOL errata exercised")[1]
    assert re.search(r"E3: Have also has ack\n +ok +dep-0010.ack\n", part)
    assert re.search(r"E9: Want is a multiple of 8192\n +FAIL +dep-0010.want\n", part)


def test_console_lets_nothing_reach_the_terminal():
    results = small(bad=result("FAIL", departure={k: HOSTILE for k in DEPARTURE}, reason=HOSTILE, stderr=HOSTILE))
    results["peers"][0]["name"] = results["cases"][0]["title"] = HOSTILE
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    report.console(results, out, False)
    out.flush()
    text = out.buffer.getvalue()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", text) and rb"\x1b[2J" in text


def test_sentences():
    def said(**results):
        return report.sentence(small(**results)["peers"][0])
    assert said(a=result(), b=result()) == "All 2 cases that were judged pass."
    assert said(a=result(), b=result("FAIL")) == "1 of 2 cases that were judged fail."
    assert said(a=result("OMITTED")) == "Nothing could be judged."
    assert said(a=result("NON-STRICT"), b=result("UNSUPPORTED")) == \
        "None of 1 cases that were judged fails; 1 passes loosely, 1 was not judged."


# ---- JSON, JUnit, merging ---------------------------------------------------------------------------

def test_json_comes_back(tmp_path):
    results = small(bad=result("FAIL", departure={k: HOSTILE for k in DEPARTURE}))
    report.save_json(results, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == results


def test_junit_has_each_verdict():
    results = small(a=result(), b=result("NON-STRICT", departure=DEPARTURE), c=result("FAIL", departure=DEPARTURE),
                    d=result("UNSUPPORTED", reason="none such"), e=result("OMITTED", reason="not tried"),
                    f=result("ERROR", reason="OSError"), g=result("FAIL", departure=DEPARTURE, expected_failure="known"),
                    h=result(expected_failure="known"))
    root = xml.fromstring(report.junit(results))
    suite = root.find("testsuite")
    assert (suite.get("name"), suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == \
        ("one", "8", "2", "1", "3")
    tests = {t.get("name")[-1]: t for t in suite}
    assert list(tests["a"]) == [] and "NON-STRICT" in tests["b"].find("system-out").text
    assert tests["c"].find("failure").get("message") == "expected silence; got Have{start: 1}"
    assert "sent: Want{start: 1}" in tests["c"].find("failure").text
    assert "none such" in tests["d"].find("skipped").get("message") and "not tried" in tests["e"].find("skipped").get("message")
    assert tests["f"].find("error").get("message") == "OSError"
    assert "known" in tests["g"].find("skipped").get("message")
    assert "starts to pass" in tests["h"].find("failure").get("message")
    assert tests["c"].get("classname") == "one.framing"


def test_junit_is_xml_whatever_the_peer_said():
    results = small(bad=result("FAIL", departure={k: HOSTILE for k in DEPARTURE}, stderr=HOSTILE, notes=[HOSTILE]))
    results["peers"][0]["name"] = HOSTILE
    text = report.junit(results)
    test = xml.fromstring(text.encode("utf-8")).find("testsuite/testcase")
    assert "</script>" in test.find("failure").text and "\\x1b[2J" in test.find("system-err").text


def test_merge_makes_one_document_of_several():
    one, two = small(a=result(), b=result("FAIL")), small(b=result(), c=result())
    two["suite"] = "1.1"
    two["cases"][1]["section"] = "opening"
    two["sections"].append({"id": "opening", "title": "Opening"})
    made = report.merge([one, two])
    assert [c["id"][-1] for c in made["cases"]] == ["a", "b", "c"]
    assert [p["name"] for p in made["peers"]] == ["one", "one (2)"]
    assert made["notes"] == ["the results are of different suites: 1.0, 1.1"]
    assert "different suites" in told(made) and len(xml.fromstring(report.junit(made))) == 2
    with pytest.raises(ValueError):
        report.merge([dict(one, format=2)])


def test_the_log_has_all_messages_of_a_conversation():
    log = recorded("extension")
    assert [e["message"] for e in log[:3]] == ["Feed", "Handshake", "Feed"] and log[0]["size"] == 62
    have = [e for e in log if "bitfield" in e["fields"]]
    assert have and have[0]["fields"]["bitfield"] == "0-1" and json.loads(json.dumps(log)) == log


# ---- the page, as text ------------------------------------------------------------------------------

def test_the_page_needs_nothing_else():
    text = page.page(small(a=result()))
    assert not re.search(r"(src|href)=[\"']?(https?:|//|\.)|@import|url\(", text)
    assert "default-src 'none'" in text


def test_what_a_peer_said_stays_data():
    results = small(bad=result("FAIL", departure={k: HOSTILE for k in DEPARTURE}))
    text = page.page(results)
    assert text.count("</script>") == 2 and HOSTILE[:20] not in text
    data = text.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["peers"][0]["results"]["dep-0010.bad"]["departure"]["got"] == HOSTILE.replace("\ud800", "?")


# ---- the page, in a browser -------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(not CHROMIUM, reason="needs a browser: Debian's package chromium")


def chromium(url, *options, timeout=90):
    with tempfile.TemporaryDirectory(prefix="browser-") as profile:
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
             "--allow-file-access-from-files", "--hide-scrollbars", "--user-data-dir=" + profile, *options, url],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    return done.stdout.decode()


def dom(path, more="", *options):
    return chromium("file://%s%s" % (path, more), "--dump-dom", "--virtual-time-budget=4000", *options)


def in_frame(folder, url, width, height, script="", name="outer.html"):
    """A page that shows another one in so many pixels: a headless window has a least width of 500."""
    outer = folder / name
    outer.write_text("""<!DOCTYPE html><style>body{margin:0}iframe{border:0;width:%dpx;height:%dpx;position:fixed;top:0;left:0}</style>
<iframe id="f" src="%s"></iframe><pre id="said"></pre><script>
document.getElementById("f").onload = () => setTimeout(async () => {
const d = document.getElementById("f").contentDocument, w = document.getElementById("f").contentWindow;
document.getElementById("said").textContent = JSON.stringify(await (async () => {%s})() || null)}, 300)</script>"""
                     % (width, height, html.escape(url, True), script))
    return outer


def in_frames(folder, urls, script, sizes=((1000, 700),)):
    """What the script returns for each of these pages in each size, all of them in one browser: starting one takes seconds."""
    frames = [(url, width, height) for width, height in sizes for url in urls]
    outer = folder / "frames.html"
    outer.write_text("""<!DOCTYPE html><body><pre id="said"></pre><script>
Promise.all(%s.map(([url, width, height]) => new Promise(done => {
const f = document.createElement("iframe");
f.width = width, f.height = height, f.src = url;
f.style.border = 0;
f.onload = () => setTimeout(() => {const d = f.contentDocument, w = f.contentWindow; done((() => {%s})())}, 300);
document.body.append(f)}))).then(all => {
document.body.replaceChildren(document.getElementById("said"));
document.getElementById("said").textContent = JSON.stringify(all)})</script>""" % (json.dumps(frames), script))
    return measured(dom(outer))


def measured(text):
    return json.loads(html.unescape(re.search(r'<pre id="said">(.*?)</pre>', text, re.S).group(1)))


def shot(path, name, width, height, more="", *options):
    """A screenshot; that it has this size is checked."""
    folder = SHOTS or os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    file = os.path.join(folder, name + ".png")
    if os.path.exists(file):
        os.remove(file)
    chromium("file://%s%s" % (path, more), "--screenshot=" + file, "--window-size=%d,%d" % (width, height),
             "--virtual-time-budget=4000", *options)
    with open(file, "rb") as data:
        head = data.read(24)
    assert struct.unpack(">II", head[16:]) == (width, height)
    return file


@pytest.fixture(scope="module")
def report_page(tmp_path_factory):
    results = sample()
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(page.page(results), encoding="utf-8")
    return path, results


def failing(results, n=3):
    return next(id for id, r in results["peers"][n]["results"].items() if r["verdict"] == "FAIL")


def address(results, id, n=3):
    return "#%s@%s" % (id, results["peers"][n]["name"].replace(" ", "%20"))


@browser
def test_the_page_builds_the_matrix(report_page):
    path, results = report_page
    text = dom(path)
    assert text.count('class="case"') == len(results["cases"]) and text.count('class="cell"') == 4 * len(results["cases"])
    for p in results["peers"]:
        assert p["name"] in text and report.sentence(p) in text
    assert '<aside id="panel" role="dialog" aria-labelledby="panel-title" hidden="">' in text
    assert "No connection was recorded" not in text.split('id="data"')[0]


@browser
def test_a_link_opens_the_panel_of_a_cell_with_its_log(report_page):
    path, results = report_page
    id = failing(results)
    text = dom(path, address(results, id)).split('<aside id="panel"')[1].split("</aside>")[0]
    departure = results["peers"][3]["results"][id]["departure"]
    for words in [html.escape(departure[k], False) for k in departure] + ["<strong>Feed</strong>", "<strong>Want</strong>",
                                                                         "\u2192 sent", "\u2190 received", "62 B", "panicked"]:
        assert words in text, words
    assert not text.startswith(' role="dialog" aria-labelledby="panel-title" hidden')


@browser
def test_a_link_to_nothing_opens_nothing(report_page, tmp_path):
    path, results = report_page
    urls = ["file://%s%s" % (path, more) for more in ("#nothing@nobody", "#%", "#@", address(results, failing(results)))]
    assert in_frames(tmp_path, urls, 'return d.getElementById("panel").hidden') == [True, True, True, False]


QUERIES = ["only=FAIL", "level=SHOULD", "section=framing", "q=keep-alive", "departures=1", "only=FAIL&level=MUST", "only=NONSENSE",
           "q=no+such+thing+at+all"]


@pytest.fixture(scope="module")
def filtered(report_page, tmp_path_factory):
    """{query: the cases that are seen}"""
    script = 'return [...d.querySelectorAll("tr.case")].filter(r => !r.hidden && r.offsetHeight > 0).map(r => r.dataset.id)'
    urls = ["file://%s?%s" % (report_page[0], query) for query in QUERIES]
    return dict(zip(QUERIES, in_frames(tmp_path_factory.mktemp("filtered"), urls, script)))


@browser
@pytest.mark.parametrize("query", QUERIES)
def test_filters(report_page, filtered, query):
    results = report_page[1]
    given = dict(part.split("=") for part in query.split("&"))

    def shown(c):
        there = [p["results"][c["id"]] for p in results["peers"]]
        words = "\n".join([c["id"], c["title"], c["why"], c["source"], c["erratum"] or ""]).lower()
        return (given.get("only") in (None, "NONSENSE") or any(r["verdict"] == given["only"] for r in there)) and \
            ("level" not in given or c["level"] == given["level"]) and \
            ("section" not in given or c["section"] == given["section"]) and \
            ("q" not in given or all(w in words for w in given["q"].split("+"))) and \
            ("departures" not in given or any(r["verdict"] in ("FAIL", "ERROR", "NON-STRICT") for r in there))

    seen = filtered[query]
    expected = [c["id"] for c in results["cases"] if shown(c)]
    assert sorted(seen) == sorted(expected)
    assert query in ("only=NONSENSE", ) or len(seen) < len(results["cases"])


@browser
def test_nothing_that_a_peer_says_runs(tmp_path):
    hostile = "<img src=x onerror=\"document.title='owned'\">" + HOSTILE
    entry = {"t": 0.1, "dir": "sent", "channel": 0, "message": hostile, "fields": {hostile: hostile}, "hex": "00", "size": 1}
    results = small(bad=result("FAIL", talks=[[entry]], departure={k: hostile for k in DEPARTURE}, reason=hostile,
                               stderr=hostile, notes=[hostile], expected_failure=None))
    results["peers"][0]["name"] = results["cases"][0]["title"] = results["cases"][0]["why"] = hostile
    path = tmp_path / "index.html"
    path.write_text(page.page(results), encoding="utf-8")
    text = dom(path, "#dep-0010.bad")
    assert "<title>owned" not in text and "<img" not in text
    assert text.split('<aside id="panel"')[1].count("&lt;img src=x") > 5


@browser
def test_keys_and_clicks(report_page, tmp_path):
    """Enter on a row opens its worst cell, Escape closes it and gives the focus back, bytes open and close."""
    path, results = report_page
    script = """
const key = (e, k) => e.dispatchEvent(new w.KeyboardEvent("keydown", {key: k, bubbles: true})), said = {};
const row = [...d.querySelectorAll("tr.case")].find(r => r.dataset.id === %s), panel = d.getElementById("panel");
const wait = ms => new Promise(go => setTimeout(go, ms));
row.focus(); key(row, "ArrowRight"); said.cell = d.activeElement.dataset.n;
key(d.activeElement, "ArrowLeft"); said.row = d.activeElement === row;
key(row, "Enter"); await wait(400);
said.open = !panel.hidden; said.focus = d.activeElement.textContent;
const bytes = panel.querySelector("td.size button"); bytes.click();
said.dump = panel.querySelector(".hex").textContent.slice(0, 10); bytes.click(); said.shut = !panel.querySelector(".hex");
said.lazy = [...panel.querySelectorAll("details table")].length; said.talks = panel.querySelectorAll("details").length;
key(d.body, "Escape"); said.closed = panel.hidden; said.back = d.activeElement === row;
return said""" % json.dumps(failing(results))
    outer = in_frame(tmp_path, "file://%s" % path, 1000, 700, script)
    said = measured(dom(outer))
    assert said["dump"].startswith("0000  3d") and said["focus"] == "Close" and said["cell"] == "0"
    assert all(said[k] for k in ("row", "open", "shut", "closed", "back")), said
    assert said["lazy"] == 1


@browser
def test_nothing_overflows_sideways(report_page, tmp_path):
    path, results = report_page
    widths = [320, 375, 768]
    script = """const wide = [...d.querySelectorAll("body *")].filter(e => e.getClientRects().length && !e.closest(".hex") &&
getComputedStyle(e).position !== "absolute" && e.getBoundingClientRect().right > w.innerWidth + 1);
return {inner: w.innerWidth, page: d.documentElement.scrollWidth, panel: d.getElementById("panel").scrollWidth,
panelWidth: d.getElementById("panel").clientWidth,
wide: wide.slice(0, 5).map(e => e.tagName + "." + e.className + " " + e.textContent.slice(0, 40))}"""
    urls = ["file://%s%s" % (path, more) for more in ("", address(results, failing(results)))]
    told = in_frames(tmp_path, urls, script, [(width, 812) for width in widths])
    for (width, panel), said in zip(((width, panel) for width in widths for panel in (False, True)), told):
        assert said["inner"] == width and said["page"] <= width and said["wide"] == [], said
        assert said["panel"] <= said["panelWidth"]
        if panel and width < 720:
            assert said["panelWidth"] == width  # the whole screen


@browser
def test_screenshots(report_page, tmp_path):
    path, results = report_page
    link = address(results, failing(results))
    dark = "--blink-settings=preferredColorScheme=0"
    scroll = "d.getElementById('cases-title').scrollIntoView()"
    for name, width, more, script, options in (
            ("report", 1280, "", "", ()), ("report-matrix", 1280, "?departures=1", scroll, ()),
            ("report-panel", 1280, link, "", ()), ("report-dark", 1280, "", "", (dark,)), ("report-dark-panel", 1280, link, "", (dark,)),
            ("report-phone", 375, "", "", ()), ("report-phone-matrix", 375, "?departures=1", scroll, ()),
            ("report-phone-panel", 375, link, "", ()),
            ("report-phone-log", 375, link, "d.querySelector('details').scrollIntoView();d.querySelectorAll('.size button')[1].click()", ())):
        height = 812 if width < 500 else 900
        outer = in_frame(tmp_path, "file://%s%s" % (path, more), width, height, script, name + ".html")
        shot(outer, name, max(width, 500), height, "", *options)


@browser
def test_a_large_report_is_quick(tmp_path):
    """Three hundred cases and four peers with a log each: some MB, and built in well under a second."""
    log = recorded("clone-40")
    base = small(a=result())
    base["cases"] = [dict(base["cases"][0], id="dep-0010.c%d" % i) for i in range(300)]
    base["peers"] = [tally("peer %d" % n, {c["id"]: result(talks=[log]) for c in base["cases"]}) for n in range(4)]
    path = tmp_path / "index.html"
    path.write_text(page.page(base), encoding="utf-8")
    assert 4 << 20 < path.stat().st_size < 16 << 20
    script = "return w.performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    began = time.monotonic()
    took = measured(chromium("file://%s" % in_frame(tmp_path, "file://%s" % path, 1000, 700, script), "--dump-dom", "--virtual-time-budget=20000"))
    assert took < 3000 and time.monotonic() - began < 60, took
