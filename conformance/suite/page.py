"""The report as one HTML page that needs nothing else: no requests, no server.

All data is in the page, as JSON and (logs, which are most of it) as packed JSON, and becomes text nodes only, so nothing that a peer said can become markup; a content
security policy forbids whatever would load something. Rows are built once, logs when somebody opens them. What the
page shows is in its address: `#case@peer` opens a cell; `?only=FAIL`, `?level=`, `?section=`, `?q=` and `?departures`
set the filters.
"""

import base64
import json
import zlib

from . import report


def page(results):
    """The HTML of a results document."""
    logs, peers = [], []
    for peer in results["peers"]:
        found = {id: _without_logs(result, logs) for id, result in peer["results"].items()}
        peers.append(dict(peer, sentence=report.sentence(peer), results=found))
    data = _json(dict(results, peers=peers))
    for sign in "<>&":  # nothing in it ends the script, or begins a comment
        data = data.replace(sign, "\\u%04x" % ord(sign))
    parts = {"STYLE": STYLE, "SCRIPT": SCRIPT, "DATA": data, "LOGS": "\n".join(logs)}
    return "".join(parts.get(part, part) for part in HTML.split("/*/"))


def _json(value):
    """JSON of what UTF-8 can hold: half a surrogate pair becomes a question mark."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")


def _without_logs(result, logs):
    """The result with the number of a packed log in place of its conversations' logs."""
    talks = result.get("conversations") or []
    names = [{"name": t["name"], "lines": len(t["log"])} for t in talks]
    number = None
    if any(t["log"] for t in talks):
        number = len(logs)
        packed = base64.b64encode(zlib.compress(_json([t["log"] for t in talks]).encode("utf-8"))).decode("ascii")
        logs.append('<script type="text/plain" id="log-%d">%s</script>' % (number, packed))
    return dict(result, conversations=names, log=number)


HTML = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>Conformance report</title>
<style>/*/STYLE/*/</style>
</head>
<body>
<div id="all">
<header><h1>Conformance report</h1><p id="about"></p></header>
<noscript><p>This page builds its tables with JavaScript, which is switched off.</p></noscript>
<main>
<section id="peers" aria-label="Peers"></section>
<section id="wrong" aria-labelledby="wrong-title"><h2 id="wrong-title">What is wrong</h2><div id="wrong-list"></div></section>
<section aria-labelledby="cases-title">
<h2 id="cases-title">All cases</h2>
<form id="filters" role="search">
<input id="q" type="search" placeholder="Search cases" aria-label="Search cases" autocomplete="off">
<select id="only" aria-label="Verdict"></select>
<select id="level" aria-label="Level"></select>
<select id="section" aria-label="Section"></select>
<label><input id="departures" type="checkbox"> only departures</label>
<output id="count"></output>
<button type="reset">Clear</button>
</form>
<table id="matrix"><thead></thead><tbody></tbody></table>
<p id="legend"></p>
</section>
</main>
</div>
<aside id="panel" role="dialog" aria-labelledby="panel-title" hidden></aside>
<script type="application/json" id="data">/*/DATA/*/</script>
/*/LOGS/*/
<script>/*/SCRIPT/*/</script>
</body>
</html>
"""

STYLE = """
:root{color-scheme:light dark;
--bg:#fbfaf8;--card:#fff;--ink:#1c2024;--soft:#57606a;--line:#dfdcd6;--head:#f3f1ec;--link:#0b57a4;--focus:#0b57a4;
--pass:#17613a;--pass-bg:#e6f2ea;--fail:#a4121d;--fail-bg:#fde7e7;--loose:#6f4a00;--loose-bg:#fbefd3;
--none:#555d66;--none-bg:#eeeeec;--error:#66258f;--error-bg:#f2e7fa;--shade:0 0 0 1px #0001,0 8px 40px #0003}
@media(prefers-color-scheme:dark){:root{
--bg:#15181b;--card:#1c2024;--ink:#e7e9eb;--soft:#a5adb6;--line:#343a41;--head:#23282d;--link:#8ec1f7;--focus:#8ec1f7;
--pass:#8fd6ab;--pass-bg:#173524;--fail:#ffa8a8;--fail-bg:#4a1a1e;--loose:#f0cb7c;--loose-bg:#3d2f0f;
--none:#aab2ba;--none-bg:#282d32;--error:#dcb4f7;--error-bg:#3a2149;--shade:0 0 0 1px #fff2,0 8px 40px #000a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:8rem}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
overflow-wrap:anywhere}
#all{max-width:1240px;margin:0 auto;padding:28px 28px 60px}
h1{font-size:1.6rem;line-height:1.2;margin:0;letter-spacing:-.01em}
h2{font-size:1.1rem;margin:2.2rem 0 .7rem}
h3{font-size:.82rem;margin:1.3rem 0 .35rem;color:var(--soft);font-weight:600}
header p{margin:.3rem 0 1.4rem;color:var(--soft)}
p{margin:.4rem 0}
code,.id,.hex,.fields{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
button,select,input{font:inherit;color:inherit}
button{cursor:pointer}
:focus-visible{outline:2px solid var(--focus);outline-offset:2px}
.soft{color:var(--soft)}
#peers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(260px,100%),1fr));gap:14px}
.peer{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.peer h2{margin:0 0 .2rem;font-size:1.02rem;display:flex;gap:.5em;align-items:baseline}
.peer .n{color:var(--soft);font-weight:400}
.peer p{font-size:.9rem}
.bar{display:flex;height:6px;border-radius:3px;overflow:hidden;margin:.7rem 0 .6rem;background:var(--none-bg);gap:1px}
.bar i{background:currentColor;min-width:3px}
.counts{display:flex;flex-wrap:wrap;gap:.15rem 1rem;font-size:.84rem;margin:0;padding:0;list-style:none}
.counts b{font-variant-numeric:tabular-nums}
.v{display:inline-flex;align-items:center;gap:.35em;font-size:.78rem;font-weight:600;line-height:1.3;padding:.14em .5em;
border-radius:4px;white-space:nowrap;color:var(--none);background:var(--none-bg)}
.v .s{font-weight:700;min-width:.8em;text-align:center}
.k-pass{color:var(--pass)}.k-fail,.k-xpass{color:var(--fail)}.k-loose,.k-xfail{color:var(--loose)}
.k-error{color:var(--error)}.k-none,.k-omit{color:var(--none)}
.v.k-pass{background:var(--pass-bg)}.v.k-fail,.v.k-xpass{background:var(--fail-bg)}
.v.k-loose,.v.k-xfail{background:var(--loose-bg)}.v.k-error{background:var(--error-bg)}
.fault{display:block;width:100%;text-align:left;background:var(--card);border:1px solid var(--line);
border-left:4px solid var(--fail);border-radius:6px;padding:10px 14px;margin:0 0 8px}
.fault:hover{border-color:var(--soft);border-left-color:var(--fail)}
.fault.k-error{border-left-color:var(--error);color:inherit}
.fault .top{display:flex;flex-wrap:wrap;gap:.3rem .6rem;align-items:baseline}
.fault strong{font-weight:600}
.fault .say{display:block;font-size:.88rem;margin-top:.25rem}
.fault .id{font-size:.78rem;color:var(--soft)}
.plain{background:none;border:1px solid var(--line);border-radius:6px;padding:.3em .8em}
.plain:hover{border-color:var(--soft)}
.plain:disabled{opacity:.45;cursor:default}
#filters{position:sticky;top:0;z-index:3;display:flex;flex-wrap:wrap;gap:8px 10px;align-items:center;padding:10px 0;
background:var(--bg);font-size:.9rem}
#filters input[type=search],#filters select{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.4em .6em;
min-width:0}
#filters input[type=search]{flex:1 1 200px}
#filters select{flex:0 1 auto;max-width:190px;text-overflow:ellipsis}
#filters label{display:flex;gap:.4em;align-items:center;white-space:nowrap}
#filters button{background:none;border:0;color:var(--link);padding:.3em;text-decoration:underline}
#count{color:var(--soft);font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%}
#matrix{table-layout:fixed;background:var(--card);border:1px solid var(--line);border-radius:8px;border-spacing:0;border-collapse:separate}
#matrix th,#matrix td{text-align:left;vertical-align:middle;padding:7px 12px;border-bottom:1px solid var(--line)}
#matrix tbody tr:last-child>*{border-bottom:0}
#matrix thead th{font-size:.82rem;color:var(--soft);font-weight:600;background:var(--head);vertical-align:bottom}
#matrix thead th:first-child{border-top-left-radius:8px}#matrix thead th:last-child{border-top-right-radius:8px}
#matrix .p{width:var(--col);text-align:center;padding-left:4px;padding-right:4px}
#matrix .group th{background:var(--head);font-size:.9rem;padding-top:9px}
#matrix .group span{font-weight:400;color:var(--soft);margin-left:.6em;font-size:.84rem}
#matrix tbody th{font-weight:400}
#matrix .case:hover{background:var(--head)}
.t{display:block}
.case .meta{display:block;font-size:.77rem;color:var(--soft)}
.level{font-weight:600;margin-right:.6em}
.cell{border:1px solid transparent;background:none;padding:5px 2px;border-radius:6px;width:100%;display:flex;justify-content:center}
.cell:hover{border-color:var(--soft)}
.open>th,.open>td{box-shadow:inset 0 0 0 99px #0b57a412}
#legend{font-size:.84rem;color:var(--soft);display:flex;flex-wrap:wrap;gap:.4rem 1rem;margin-top:.9rem}
#panel{position:fixed;top:0;right:0;bottom:0;width:min(760px,64vw);background:var(--card);box-shadow:var(--shade);z-index:9;
overflow:auto;overscroll-behavior:contain;padding:0 26px 50px}
#panel nav{position:sticky;top:0;background:var(--card);display:flex;gap:8px;align-items:center;padding:14px 0 10px;z-index:2;
border-bottom:1px solid var(--line);margin-bottom:14px;font-size:.88rem}
#panel nav .grow{flex:1}
#panel h2{font-size:1.2rem;line-height:1.3;margin:.5rem 0 .2rem}
#panel .id{font-size:.84rem;color:var(--soft)}
.tabs{display:flex;flex-wrap:wrap;gap:6px;margin:.7rem 0 .4rem}
.tabs button{display:flex;gap:.5em;align-items:center;border:1px solid var(--line);background:none;border-radius:6px;padding:.25em .5em .25em .7em;font-size:.86rem}
.tabs button[aria-current=true]{border-color:var(--ink);box-shadow:inset 0 0 0 1px var(--ink)}
dl.dep{margin:1rem 0;border:1px solid var(--line);border-radius:8px;overflow:hidden}
dl.dep div{display:grid;grid-template-columns:6.2rem 1fr;border-bottom:1px solid var(--line)}
dl.dep div:last-child{border:0}
dl.dep dt{padding:8px 12px;background:var(--head);font-weight:600;font-size:.88rem}
dl.dep dd{margin:0;padding:8px 12px}
dl.dep .got dd{background:var(--fail-bg);color:var(--fail)}
dl.dep .got.soft-got dd{background:var(--loose-bg);color:var(--loose)}
pre{white-space:pre-wrap;font-size:.78rem;line-height:1.45;background:var(--head);border-radius:6px;padding:10px 12px;margin:.4rem 0;overflow:auto}
details{border-top:1px solid var(--line)}
summary{cursor:pointer;padding:9px 0;font-weight:600}
summary span{font-weight:400;color:var(--soft);margin-left:.5em;font-size:.86rem}
.log{font-size:.82rem;table-layout:fixed}
.log th{text-align:left;color:var(--soft);font-weight:600;font-size:.76rem;padding:2px 8px 4px 0}
.log td{vertical-align:top;padding:4px 8px 4px 0;border-top:1px solid var(--line)}
.log .time{width:5.1rem;font-variant-numeric:tabular-nums;color:var(--soft)}
.log .dir{width:5.6rem;white-space:nowrap}
.log .ch{width:2.6rem}
.log .size{width:4.6rem;text-align:right;padding-right:0}
.log .received .dir{color:var(--link)}
.log .fields{font-size:.76rem;line-height:1.45;display:block}
.log .fields span{display:inline-block;margin-right:.7em;word-break:break-all}
.log .fields i{font-style:normal;color:var(--soft)}
.log .bad{color:var(--fail)}
.log .size button{border:0;background:none;padding:0;color:var(--link);text-decoration:underline dotted;white-space:nowrap}
.log .hex{font-size:.74rem;white-space:pre;overflow-x:auto;background:var(--head);border-radius:6px;padding:8px 10px}
.hide{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
@media(max-width:720px){
#all{padding:18px 12px 50px}
#peers{gap:10px}
#filters{position:static}
#filters input[type=search]{flex-basis:100%}
#filters select{flex:1 1 40%;max-width:none}
.peer p.soft{display:none}.peer{padding:10px 14px}.counts{font-size:.8rem}.bar{margin:.45rem 0}
#matrix th,#matrix td{padding:7px 8px}
#matrix thead .name,#matrix .cell .w{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
#matrix .cell{position:relative;min-height:40px;align-items:center}
#matrix .cell .v{min-width:1.9em;justify-content:center;font-size:.9rem;padding:.2em}
#matrix .p{width:var(--narrow);padding-left:1px;padding-right:1px}
.case .meta .id{display:block;font-size:.7rem}
#panel{width:100%;padding:0 14px 40px}
.log thead{display:none}
.log tr{display:grid;grid-template-columns:auto auto auto 1fr;gap:0 10px;border-top:1px solid var(--line);padding:5px 0}
.log td{border:0;padding:0}
.log .time,.log .dir,.log .ch,.log .size{width:auto}
.log .size{text-align:right}
.log .msg{grid-column:1/-1;grid-row:2}
.log .dump{grid-column:1/-1}
.log .hex{font-size:.68rem}
dl.dep div{grid-template-columns:1fr}
dl.dep dt{padding:5px 12px}
}
@media(min-width:721px){#matrix thead .n{display:none}}
@media print{
:root{--bg:#fff;--card:#fff;--head:#f2f2f2;--line:#bbb;--ink:#000;--soft:#444;--pass:#17613a;--pass-bg:#fff;--fail:#a4121d;--fail-bg:#fff;
--loose:#6f4a00;--loose-bg:#fff;--none:#555;--none-bg:#fff;--error:#66258f;--error-bg:#fff}
body{font-size:10pt}#all{max-width:none;padding:0}#filters,#panel nav,.tabs{display:none}
#panel{position:static;width:auto;box-shadow:none;padding:0;overflow:visible;break-before:page}
tr,.peer,.fault{break-inside:avoid}thead{display:table-header-group}.v{border:1px solid currentColor}}
@media(prefers-reduced-motion:no-preference){.cell,.fault,.plain{transition:border-color .12s}}
"""

SCRIPT = r"""
"use strict";
(function () {
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
// An element: h("p.soft", {title: "x"}, children...). Text stays text.
function h(what, more) {
  const [tag, ...classes] = what.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  let kids = [].slice.call(arguments, 1);
  if (more && typeof more === "object" && !Array.isArray(more) && !(more instanceof Node)) {
    for (const name in more) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), more[name]);
      else if (more[name] === true) made.setAttribute(name, "");
      else if (more[name] !== false && more[name] != null) made.setAttribute(name, more[name]);
    }
    kids = kids.slice(1);
  }
  for (const kid of kids.flat(2)) if (kid != null && kid !== "") made.append(kid);
  return made;
}
const KINDS = {
  pass: ["\u2713", "pass"], loose: ["\u2248", "non-strict"], fail: ["\u2717", "FAIL"], error: ["!", "ERROR"],
  none: ["\u2013", "unsupported"], omit: ["\u25cb", "omitted"], xfail: ["\u00d7", "expected"], xpass: ["\u2717", "starts to pass"]};
const MEANING = {pass: "as the case asks", loose: "departs from a SHOULD, or does it loosely", fail: "does not do what the case asks",
  error: "the suite or the machine failed, not the peer", none: "the peer says it has no such thing", omit: "not tried",
  xfail: "fails, and is known to", xpass: "was expected to fail"};
const OF = {"PASS": "pass", "NON-STRICT": "loose", "FAIL": "fail", "UNSUPPORTED": "none", "OMITTED": "omit", "ERROR": "error"};
function kind(result) {
  const bad = result.verdict === "FAIL" || result.verdict === "ERROR";
  if (result.expected_failure != null) return bad ? "xfail" : "xpass";
  return OF[result.verdict] || "error";
}
const WRONG = {fail: 1, error: 1, xpass: 1}, DEPARTS = {fail: 1, error: 1, xpass: 1, loose: 1, xfail: 1};
function badge(k, more) {
  return h("span.v.k-" + k, h("span.s", {"aria-hidden": "true"}, KINDS[k][0]), h("span.w", KINDS[k][1] + (more || "")));
}
const peers = data.peers, cases = data.cases, byId = new Map(cases.map(c => [c.id, c]));
function plural(n, one, many) { return n + " " + (n === 1 ? one : many || one + "s"); }
function say(result) {
  const d = result.departure;
  if (kind(result) === "xpass") return "Expected to fail (" + result.expected_failure + "), and it passes now.";
  if (d) return "Expected " + d.expected + "; got " + d.got + ".";
  return result.reason || "";
}

// ---- the summary
$("about").append("Suite " + data.suite + " \u00b7 " + plural(cases.length, "case") + " \u00b7 " + plural(peers.length, "peer"));
(data.notes || []).forEach(note => $("about").after(h("p.k-loose", "Note: " + note)));
document.title = "Conformance report: " + peers.map(p => p.name).join(", ");
peers.forEach((peer, n) => {
  const counts = {};
  for (const id in peer.results) { const k = kind(peer.results[id]); counts[k] = (counts[k] || 0) + 1; }
  const there = Object.keys(KINDS).filter(k => counts[k]);
  $("peers").append(h("article.peer",
    h("h2", peers.length > 1 ? h("span.n", (n + 1) + ".") : null, h("span", peer.name)),
    h("p", peer.sentence),
    h("div.bar", {"aria-hidden": "true"}, there.map(k => h("i.k-" + k, {style: "flex:" + counts[k]}))),
    h("ul.counts", there.map(k => h("li.k-" + k, h("b", "" + counts[k]), " " + KINDS[k][0] + " " + KINDS[k][1]))),
    h("p.soft", h("code", peer.command), " \u00b7 " + peer.seconds + " s")));
});

// ---- what is wrong
const faults = [];
cases.forEach(c => {
  const at = peers.map((p, n) => n).filter(n => peers[n].results[c.id] && WRONG[kind(peers[n].results[c.id])]);
  if (at.length) faults.push([c, at]);
});
function fault(pair) {
  const c = pair[0], n = pair[1][0], result = peers[n].results[c.id];
  return h("button.fault.k-" + (kind(result) === "error" ? "error" : "f"), {type: "button", onclick: () => go(c.id, n)},
    h("span.top", pair[1].map(m => badge(kind(peers[m].results[c.id]), peers.length > 1 ? " \u00b7 " + peers[m].name : "")),
      h("strong", c.title), h("span.id", c.level + " " + c.id)),
    h("span.say", say(result)));
}
const SHOWN = 8;
if (!faults.length) $("wrong-list").append(h("p", "Nothing: no case fails unexpectedly."));
faults.sort((a, b) => (b[0].level === "MUST") - (a[0].level === "MUST"));
faults.slice(0, SHOWN).forEach(f => $("wrong-list").append(fault(f)));
if (faults.length > SHOWN) {
  const more = h("button.plain", {type: "button", onclick: () => {
    more.replaceWith(...faults.slice(SHOWN).map(fault));
  }}, "Show " + (faults.length - SHOWN) + " more");
  $("wrong-list").append(more);
}

// ---- the matrix
const matrix = $("matrix"), body = matrix.tBodies[0];
matrix.style.setProperty("--col", "min(138px, " + 52 / peers.length + "vw)");
matrix.style.setProperty("--narrow", "min(42px, " + 52 / peers.length + "vw)");
matrix.tHead.append(h("tr", h("th", {scope: "col"}, "Case"),
  peers.map((p, n) => h("th.p", {scope: "col", title: p.name}, h("span.n", {"aria-hidden": "true"}, "" + (n + 1)), h("span.name", p.name)))));
const rows = [], groups = [], rowOf = new Map();
const titles = new Map(data.sections.map(s => [s.id, s.title]));
cases.forEach(c => { if (!titles.has(c.section)) titles.set(c.section, c.section); });
const fragment = document.createDocumentFragment();
titles.forEach((title, id) => {
  const inside = cases.filter(c => c.section === id);
  if (!inside.length) return;
  const count = h("span");
  const group = {row: h("tr.group", h("th", {colspan: peers.length + 1, scope: "colgroup"}, title, count)), rows: [], count: count};
  groups.push(group);
  fragment.append(group.row);
  inside.forEach(c => {
    const tr = h("tr.case", {tabindex: rows.length ? -1 : 0, "data-id": c.id},
      h("th", {scope: "row"}, h("span.t", c.title), h("span.meta", h("span.level", c.level), h("span.id", c.id))),
      peers.map((p, n) => {
        const result = p.results[c.id];
        if (!result) return h("td.p.soft", h("span", {"aria-label": "not run"}, "\u00b7"));
        return h("td.p", h("button.cell", {type: "button", tabindex: -1, "data-n": n,
          "aria-label": p.name + ": " + KINDS[kind(result)][1] + ", " + c.title, title: p.name + ": " + KINDS[kind(result)][1]}, badge(kind(result))));
      }));
    const row = {tr: tr, c: c, text: null};
    rows.push(row); group.rows.push(row); rowOf.set(c.id, row);
    fragment.append(tr);
  });
});
body.append(fragment);
body.addEventListener("click", e => {
  const tr = e.target.closest("tr.case"), cell = e.target.closest(".cell");
  if (tr) go(tr.dataset.id, cell ? +cell.dataset.n : worst(tr.dataset.id));
});
function worst(id) {
  const ns = peers.map((p, n) => n).filter(n => peers[n].results[id]);
  for (const k of ["fail", "xpass", "error", "loose", "xfail"])
    for (const n of ns) if (kind(peers[n].results[id]) === k) return n;
  return ns[0];
}
body.addEventListener("keydown", e => {
  const tr = e.target.closest("tr.case");
  if (!tr) return;
  const cells = [tr, ...tr.querySelectorAll(".cell")], at = cells.indexOf(e.target.closest(".cell") || tr);
  let next = null;
  if (e.key === "ArrowRight") next = cells[at + 1];
  else if (e.key === "ArrowLeft") next = cells[at - 1];
  else if (e.key === "ArrowDown" || e.key === "ArrowUp") {
    const seen = rows.filter(r => !r.tr.hidden).map(r => r.tr), to = seen[seen.indexOf(tr) + (e.key === "ArrowDown" ? 1 : -1)];
    next = to && [to, ...to.querySelectorAll(".cell")][at];
  } else if (e.key === "Enter" && at === 0) { go(tr.dataset.id, worst(tr.dataset.id)); e.preventDefault(); return; }
  if (next) { next.focus(); e.preventDefault(); }
});
body.addEventListener("focusin", e => {
  const tr = e.target.closest("tr.case");
  if (!tr) return;
  rows.forEach(r => { if (r.tr.tabIndex === 0 && r.tr !== tr) r.tr.tabIndex = -1; });
  tr.tabIndex = 0;
});
Object.keys(KINDS).forEach(k => $("legend").append(h("span", badge(k), " " + MEANING[k])));

// ---- filters
function choices(select, all, values) {
  select.append(h("option", {value: ""}, all), ...values.map(v => h("option", {value: v[0]}, v[1])));
}
choices($("only"), "Any verdict", Object.keys(OF).map(v => [v, v]));
choices($("level"), "Any level", ["MUST", "SHOULD", "DEFACTO"].map(v => [v, v]));
choices($("section"), "All sections", groups.map(g => [g.rows[0].c.section, titles.get(g.rows[0].c.section)]));
const FIELDS = ["q", "only", "level", "section"];
function textOf(row) {
  if (row.text === null) {
    const c = row.c, words = [c.id, c.title, c.why, c.source, c.erratum || ""];
    peers.forEach(p => { const r = p.results[c.id]; if (r) words.push(say(r), r.reason, (r.notes || []).join(" ")); });
    row.text = words.join("\n").toLowerCase();
  }
  return row.text;
}
function filter() {
  const q = $("q").value.trim().toLowerCase().split(/\s+/), only = $("only").value, level = $("level").value,
    section = $("section").value, departures = $("departures").checked;
  let shown = 0;
  rows.forEach(row => {
    const results = peers.map(p => p.results[row.c.id]).filter(Boolean);
    const good = (!only || results.some(r => r.verdict === only)) && (!level || row.c.level === level) &&
      (!section || row.c.section === section) && (!departures || results.some(r => DEPARTS[kind(r)])) &&
      q.every(word => textOf(row).includes(word));
    row.tr.hidden = !good;
    shown += good;
  });
  groups.forEach(g => {
    const seen = g.rows.filter(r => !r.tr.hidden).length;
    g.row.hidden = !seen;
    g.count.textContent = seen === g.rows.length ? "" + seen : seen + " of " + g.rows.length;
  });
  const first = rows.find(r => !r.tr.hidden);
  if (first && !rows.some(r => r.tr.tabIndex === 0 && !r.tr.hidden)) first.tr.tabIndex = 0;
  $("count").textContent = shown === rows.length ? plural(shown, "case") : shown + " of " + plural(rows.length, "case");
}
function address() {
  const params = new URLSearchParams();
  FIELDS.forEach(f => { if ($(f).value) params.set(f, $(f).value); });
  if ($("departures").checked) params.set("departures", "1");
  const query = params.toString();
  try { history.replaceState(null, "", location.pathname + (query ? "?" + query : "") + location.hash); } catch (e) { /* file: pages may not */ }
}
$("filters").addEventListener("input", () => { filter(); address(); });
$("filters").addEventListener("submit", e => e.preventDefault());
$("filters").addEventListener("reset", () => setTimeout(() => { filter(); address(); }));
const given = new URLSearchParams(location.search);
FIELDS.forEach(f => { if (given.has(f)) $(f).value = given.get(f); if ($(f).value === undefined || $(f).selectedIndex === -1) $(f).value = ""; });
$("departures").checked = given.has("departures") && given.get("departures") !== "0";
filter();

// ---- the panel
const panel = $("panel");
let came = null, now = null;
function link(id, n) { return "#" + encodeURIComponent(id).replace(/%2F/g, "/") + "@" + encodeURIComponent(peers[n].name); }
function go(id, n) {
  if (n === undefined) return;
  if (panel.hidden) came = document.activeElement;
  const to = link(id, n);
  if (location.hash === to) show(); else location.hash = to;
}
function close() {
  if (panel.hidden) return;
  try { history.replaceState(null, "", location.pathname + location.search); } catch (e) { location.hash = ""; }
  hide();
  if (came && came.isConnected) came.focus({preventScroll: true});
}
function hide() {
  panel.hidden = true;
  panel.replaceChildren();
  document.querySelectorAll(".open").forEach(e => e.classList.remove("open"));
  now = null;
}
function show() {
  let hash;
  try { hash = decodeURIComponent(location.hash.slice(1)); } catch (e) { hash = ""; }
  for (let at = hash.indexOf("@"); at >= 0; at = hash.indexOf("@", at + 1)) {
    const id = hash.slice(0, at), n = peers.findIndex(p => p.name === hash.slice(at + 1));
    if (n >= 0 && byId.has(id) && peers[n].results[id]) return fill(byId.get(id), n);
  }
  if (byId.has(hash)) return fill(byId.get(hash), worst(hash));
  hide();
}
function step(by) {
  const all = rows.filter(r => !r.tr.hidden).map(r => r.c.id).filter(id => peers[now.n].results[id]);
  const departs = all.filter(id => DEPARTS[kind(peers[now.n].results[id])] || id === now.c.id);
  const list = departs.length > 1 ? departs : all;
  return list[list.indexOf(now.c.id) + by];
}
function fill(c, n) {
  const result = peers[n].results[c.id], k = kind(result), d = result.departure;
  hide();
  now = {c: c, n: n};
  const turn = (by, text) => { const to = step(by); return h("button.plain", {type: "button", disabled: !to, onclick: () => go(to, n)}, text); };
  const shut = h("button.plain", {type: "button", onclick: close}, "Close");
  panel.append(h("nav", turn(-1, "\u2039 Previous"), turn(1, "Next \u203a"), h("span.grow"), shut));
  panel.append(badge(k), " ", h("span.soft", peers[n].name + " \u00b7 " + c.level + " \u00b7 " + result.seconds + " s"),
    h("h2", {id: "panel-title"}, c.title), h("p.id", c.id));
  if (peers.length > 1) panel.append(h("div.tabs", peers.map((p, m) => p.results[c.id] ? h("button",
    {type: "button", "aria-current": m === n ? "true" : "false", onclick: () => go(c.id, m)}, p.name, badge(kind(p.results[c.id]))) : null)));
  if (result.expected_failure != null) panel.append(h("p.k-" + k, k === "xpass" ?
    "It was expected to fail and starts to pass: take it off the list. " : "Expected to fail: ", result.expected_failure));
  if (d) panel.append(h("dl.dep", [["sent", "Sent"], ["expected", "Expected"], ["got", "Got"]].map(pair => d[pair[0]] ?
    h("div." + pair[0] + (k === "loose" || k === "xfail" ? ".soft-got" : ""), h("dt", pair[1]), h("dd", d[pair[0]])) : null)));
  if (result.reason && !d) panel.append(h("h3", "Reason"), h("p", result.reason));
  if ((result.notes || []).length) panel.append(h("h3", "Notes"), result.notes.map(t => h("p", t)).reduce((f, p) => (f.append(p), f), document.createDocumentFragment()));
  panel.append(h("h3", "Why it matters"), h("p", c.why), h("h3", "Source"), h("p", c.source));
  if (c.erratum) panel.append(h("h3", "Erratum"), h("p", c.erratum));
  const talks = result.conversations || [];
  panel.append(h("h3", "On the wire"));
  if (!talks.length) panel.append(h("p.soft", "No connection was recorded."));
  talks.forEach((talk, i) => {
    const box = h("details", {ontoggle: () => {
      if (!box.open || box.done) return;
      box.done = true;
      unpack(result.log).then(logs => box.append(log(logs[i])), error => box.append(h("p.k-fail", "Its log cannot be unpacked: " + error)));
    }}, h("summary", talk.name, h("span", plural(talk.lines, "line"))));
    panel.append(box);
    if (i === talks.length - 1) box.open = true;
  });
  if (result.stderr) panel.append(h("details", {open: k !== "pass"}, h("summary", "The peer's last words"), h("pre", result.stderr)));
  panel.hidden = false;
  panel.scrollTop = 0;
  shut.focus({preventScroll: true});
  const row = rowOf.get(c.id);
  if (row) { row.tr.classList.add("open"); if (!row.tr.hidden) row.tr.scrollIntoView({block: "nearest"}); }
}
function value(v) {
  if (v === true) return "yes";
  if (v === false) return "no";
  if (Array.isArray(v)) return "[" + v.map(value).join(", ") + "]";
  if (v && typeof v === "object") return Object.keys(v).map(k => k + " " + value(v[k])).join(" ");
  return v === "" ? "(empty)" : String(v);
}
const unpacked = new Map();
function unpack(number) {
  if (number == null) return Promise.resolve(new Array(99).fill([]));
  if (!unpacked.has(number)) {
    if (!window.DecompressionStream) return Promise.reject(new Error("this browser is too old (before 2023)"));
    const bytes = Uint8Array.from(atob($("log-" + number).textContent), c => c.charCodeAt(0));
    unpacked.set(number, new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json());
  }
  return unpacked.get(number);
}
const ARROW = {sent: "\u2192 sent", received: "\u2190 received", note: "note"};
function log(entries) {
  const box = h("tbody");
  entries.forEach(e => {
    const fields = h("span.fields");
    Object.keys(e.fields || {}).forEach(name => {
      fields.append(h("span", h("i" + (name === "error" ? ".bad" : ""), name + " "), value(e.fields[name])), " ");
    });
    const size = e.hex ? h("button", {type: "button", "aria-expanded": "false", "aria-label": "show " + plural(e.size, "byte")}, e.size + " B") : "";
    const tr = h("tr." + e.dir, h("td.time", e.t == null ? "" : e.t.toFixed(4)), h("td.dir", ARROW[e.dir] || e.dir),
      h("td.ch", e.channel == null ? "" : "ch " + e.channel), h("td.msg", h("strong", e.message), " ", fields), h("td.size", size));
    if (size) size.addEventListener("click", () => {
      const open = size.getAttribute("aria-expanded") === "true";
      size.setAttribute("aria-expanded", String(!open));
      if (open) tr.nextSibling.remove();
      else tr.after(h("tr", h("td.dump", {colspan: 5}, h("div.hex", dump(e)))));
    });
    box.append(tr);
  });
  const head = h("thead", h("tr", [["time", "Seconds"], ["dir", "Suite"], ["ch", ""], ["msg", "Message"], ["size", "Bytes"]].map(
    c => h("th." + c[0], {scope: "col"}, c[1]))));
  return h("table.log", head, box);
}
function dump(e) {
  const bytes = (e.hex.match(/[0-9a-f]{2}/gi) || []).map(x => parseInt(x, 16)), width = innerWidth < 721 ? 8 : 16, lines = [];
  for (let at = 0; at < bytes.length; at += width) {
    const part = bytes.slice(at, at + width);
    lines.push(at.toString(16).padStart(4, "0") + "  " + part.map(b => b.toString(16).padStart(2, "0")).join(" ").padEnd(3 * width) +
      " " + part.map(b => b > 31 && b < 127 ? String.fromCharCode(b) : ".").join(""));
  }
  if (e.size > bytes.length) lines.push("... " + (e.size - bytes.length) + " bytes more, which are not kept");
  return lines.join("\n");
}
addEventListener("hashchange", show);
addEventListener("keydown", e => { if (e.key === "Escape") close(); });
if (location.hash) show();
})();
"""
