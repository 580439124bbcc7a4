#!/usr/bin/env python3
"""Mutation tests of datsync.c: small faults are planted one at a time, and the tests should fail on each.

    mutate.py [--seed N --count M | --all | --id ID ...] [--jobs N] [--list] [--json FILE] [--budget S] [--least PERCENT]

A *site* is a place of datsync.c's functions with one change: an operator, a constant, a condition, or a statement left
out. clang's syntax tree says where they are. Its id is function:kind:hash:n, where the hash is of the text that is
changed and what it is changed to, so that it survives edits elsewhere. Constants of the preprocessor are changed where
they are used. Not changed: names of error codes, tables outside of functions, sizeof, case labels, text.

All chosen sites are compiled into one program (once for each that the tests run), and DATSYNC_MUTANT chooses which one is
alive. Which test reaches which site is measured, each test alone, and kept in build/mutate by the sites and the content of the
test file. A mutant meets only the tests that reach it, one of each test function before the second of any, until one fails
(and passes without the mutant), takes much longer than it did, or --budget is spent.
A survivor whose -O2 code is that of the original is no mutant and is counted apart.

mutants.json says what is known of the sites that stand for all, by id: `killed: test`, which is tried first (and if it kills,
nothing need be measured); `same: why` where nothing that can be seen differs, which counts as no mutant; `left: why` where a test
could tell, which counts as survived. The last two are run by --explained only. --update writes there what was found. Exits 1 when
one survives without a reason, or, where not a few are drawn by --count, when less than --least (90) percent are killed.
"""

import argparse
import hashlib
import json
import os
import pickle
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib

import core
from core import HERE, ROOT

BUILD = os.path.join(ROOT, "build", "mutate")
KNOWN = os.path.join(HERE, "mutants.json")
SAMPLE = 400

# ---- sites ----------------------------------------------------------------------------------------------------------

SWAP = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "&&": "||", "||": "&&", "+": "-", "-": "+",
        "*": "/", "/": "*", "%": "/", "&": "|", "|": "&", "^": "|", "<<": ">>", ">>": "<<",
        "+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "|=": "&=", "&=": "|=", "^=": "|=", "<<=": ">>=", ">>=": "<<="}
NAMES = {"<": "bound", "<=": "bound", ">": "bound", ">=": "bound", "==": "equal", "!=": "equal", "&&": "logic",
         "||": "logic"}
WRAPPERS = ("ImplicitCastExpr", "ParenExpr", "ConstantExpr", "CStyleCastExpr")


class Site:
    """One change: text[start:end] becomes `to`, in place of a statement if `statement`."""

    def __init__(self, function, kind, start, end, to, condition=False, statement=False):
        self.function, self.kind, self.start, self.end, self.to = function, kind, start, end, to
        self.condition, self.statement, self.id, self.line = condition, statement, None, 0


class Finder:
    """Walks clang's syntax tree of a source text; `sites` are what it found."""

    def __init__(self, text, path):
        self.text, self.path, self.sites = text, os.path.basename(path), []
        self.functions = set(re.findall(r"^# *define +(\w+)\(", text, re.M)) | {"offsetof"}
        self.file, self.name, self.span = None, None, (0, 0)

    def places(self, node):
        """clang names a file only where it changes: say it everywhere."""
        for key, value in node.items():
            if key in ("loc", "begin", "end", "spellingLoc", "expansionLoc", "range") and isinstance(value, dict):
                if "offset" in value:
                    self.file = value.setdefault("file", self.file)
                self.places(value)
            elif key == "inner":
                for child in value:
                    self.places(child)

    def offset(self, place, end):
        """Where in the text this place is, or None: inside of a macro, or in another file."""
        if "expansionLoc" in place:
            whole = place["expansionLoc"]
            if whole.get("isMacroArgExpansion"):
                place = place["spellingLoc"]
            else:
                place = whole
                if end and self.text[place["offset"]:place["offset"] + place["tokLen"]] in self.functions:
                    return self.closing(place["offset"] + place["tokLen"])
        if "offset" not in place or os.path.basename(place.get("file") or "") != self.path:
            return None
        at = place["offset"] + (place["tokLen"] if end else 0)
        return at if self.span[0] <= at <= self.span[1] else None

    def closing(self, at):
        depth = 0
        while True:
            depth += {"(": 1, ")": -1}.get(self.text[at], 0)
            at += 1
            if depth == 0 and self.text[at - 1] == ")":
                return at

    def extent(self, node):
        """(start, end) in the text, or None."""
        if "range" not in node or not node["range"].get("begin") or not node["range"].get("end"):
            return None
        start, end = self.offset(node["range"]["begin"], False), self.offset(node["range"]["end"], True)
        return (start, end) if start is not None and end is not None and start < end else None

    def add(self, kind, extent, to, **more):
        if extent:
            self.sites.append(Site(self.name, kind, *extent, to, **more))

    def tree(self, root):
        self.places(root)
        for node in root["inner"]:
            if node["kind"] != "FunctionDecl" or not any(n.get("kind") == "CompoundStmt" for n in node.get("inner", ())):
                continue
            self.name, self.span = node["name"], (0, len(self.text))
            extent = self.extent(node)
            if extent:
                self.span = extent
                body = node["inner"][-1]
                self.returns = node["type"]["qualType"].split("(")[0].strip()
                self.last = body["inner"][-1] if body.get("inner") else None
                self.walk(body, None)
        return self.finish()

    def finish(self):
        """Ids, lines; in the order of the text, each change once."""
        seen, count, out = set(), {}, []
        for site in sorted(self.sites, key=lambda s: (s.start, -s.end, s.kind, s.to)):
            key = site.start, site.end, site.to, site.condition
            if key in seen:
                continue
            seen.add(key)
            words = " ".join(self.text[site.start:site.end].split()) + " -> " + " ".join(site.to.split())
            name = "%s:%s:%s" % (site.function, site.kind, hashlib.sha256(words.encode()).hexdigest()[:6])
            count[name] = count.get(name, -1) + 1
            site.id = "%s:%d" % (name, count[name])
            site.line = self.text.count("\n", 0, site.start) + 1
            out.append(site)
        return out

    def walk(self, node, parent):
        kind, inner = node.get("kind"), node.get("inner", ())
        if kind in (None, "UnaryExprOrTypeTraitExpr", "ConstantExpr", "RecordDecl", "EnumDecl") or \
                kind == "VarDecl" and node.get("storageClass") == "static":
            return
        getattr(self, "on_" + kind, lambda *_: None)(node, inner, parent)
        if kind in ("CompoundStmt", "IfStmt", "ForStmt", "WhileStmt", "DoStmt", "CaseStmt", "DefaultStmt", "LabelStmt"):
            for child in self.bodies(kind, inner):
                self.drop(child)
        for child in inner:
            self.walk(child, parent if kind in ("ParenExpr", "CStyleCastExpr") or
                      kind == "ImplicitCastExpr" and node.get("castKind") != "NullToPointer" else node)

    def bodies(self, kind, inner):
        return {"CompoundStmt": inner, "IfStmt": inner[1:], "ForStmt": inner[4:], "WhileStmt": inner[1:],
                "DoStmt": inner[:1], "CaseStmt": inner[1:]}.get(kind, inner)

    def drop(self, node):
        """A statement left out."""
        kind, bare = node.get("kind"), node
        while bare.get("kind") in WRAPPERS:
            bare = bare["inner"][0]
        if bare.get("kind") not in ("CallExpr", "BinaryOperator", "CompoundAssignOperator", "UnaryOperator", "ReturnStmt",
                                    "BreakStmt", "ContinueStmt") or node is self.last and kind == "ReturnStmt":
            return
        extent = self.extent(node)
        semicolon = extent and self.text.find(";", extent[1])
        if extent and not self.text[extent[1]:semicolon].strip():
            name = {"ReturnStmt": "return", "CallExpr": "call"}.get(bare["kind"], "statement")
            self.add("no-" + name, (extent[0], semicolon + 1), ";", statement=True)

    def on_BinaryOperator(self, node, inner, parent):
        extent, op = self.extent(node), node["opcode"]
        left, right = self.extent(inner[0]), self.extent(inner[1])
        if not (extent and left and right) or op not in SWAP:
            return
        between = self.text[left[1]:right[0]]
        if between.strip() != op or "*" in node["type"]["qualType"] and op not in ("+", "-"):
            return
        a, b = self.text[left[0]:left[1]], self.text[right[0]:right[1]]
        self.add(NAMES.get(op, "math"), extent, a + between.replace(op, SWAP[op]) + b)
        if op in ("&&", "||"):  # one side left away
            for side in (left, right):
                self.add("side", side, "1" if op == "&&" else "0", condition=True)

    on_CompoundAssignOperator = on_BinaryOperator

    def on_UnaryOperator(self, node, inner, parent):
        extent, op = self.extent(node), node["opcode"]
        if not extent:
            return
        words = self.text[extent[0]:extent[1]]
        if op in ("++", "--") and words.count(op) == 1:
            self.add("step", extent, words.replace(op, "--" if op == "++" else "++"))
        elif op == "!" and words.startswith("!"):
            self.add("not", extent, "!" + words)
        elif op in ("-", "~") and words.startswith(op):
            self.add("sign", extent, "+" + words[1:])

    def on_IntegerLiteral(self, node, inner, parent):
        extent = self.extent(node)
        if not extent or parent and parent.get("castKind") == "NullToPointer":
            return
        word = self.text[extent[0]:extent[1]]
        if not re.fullmatch(r"\w+", word) or word == "NULL":
            return
        arithmetic = (parent or {}).get("kind") in ("BinaryOperator", "ArraySubscriptExpr") and parent.get("opcode") != "="
        if node["value"] != "1" or arithmetic:  # a flag of 2 is a flag still
            self.add("constant", extent, word + " + 1")
        if node["value"] == "1":
            self.add("constant", extent, word + " - 1")

    def condition(self, node, kinds):
        extent = self.extent(node)
        if extent:
            words = self.text[extent[0]:extent[1]]
            changes = {"negated": "!(%s)" % words, "true": "1", "false": "0"}
            for kind in kinds:
                self.add(kind, extent, changes[kind], condition=True)

    def on_IfStmt(self, node, inner, parent):
        self.condition(inner[0], ("negated", "true", "false"))

    def on_ConditionalOperator(self, node, inner, parent):
        begin = node["range"]["begin"].get("expansionLoc")
        if not begin or begin.get("isMacroArgExpansion"):
            return self.condition(inner[0], ("negated", "true", "false"))
        extent = self.extent(node)  # MIN or MAX, whose condition has no place in the text
        words = self.text[extent[0]:extent[1]] if extent else ""
        other = {"MIN(": "MAX(", "MAX(": "MIN("}.get(words[:4])
        if other:
            self.add("minmax", extent, other + words[4:])

    def on_WhileStmt(self, node, inner, parent):
        self.condition(inner[0], ("false",))

    def on_DoStmt(self, node, inner, parent):
        self.condition(inner[1], ("false",))

    def on_ForStmt(self, node, inner, parent):
        self.condition(inner[2], ("false",))

    def on_ReturnStmt(self, node, inner, parent):
        extent = self.extent(inner[0]) if inner else None
        if extent and self.text[extent[0]:extent[1]] not in ("0", "NULL"):
            self.add("return-zero", extent, "NULL" if "*" in self.returns else "0")


def find_sites(source):
    """All sites of a C file. Offsets count bytes: the text is read as if each byte were a character."""
    with open(source, encoding="latin-1") as file:
        text = file.read()
    out = subprocess.run(["clang", "-std=c99", "-fsyntax-only", "-I" + ROOT, "-Xclang", "-ast-dump=json", source],
                         check=True, stdout=subprocess.PIPE).stdout
    return text, Finder(text, source).tree(json.loads(out))


def sample(sites, count):
    """Those that stand for all: the ones with the lowest hash, so that an edit changes few of them."""
    drawn = sorted(sites, key=lambda s: hashlib.sha256(s.id.encode()).digest())[:count]
    return sorted(drawn, key=lambda s: s.start)


# ---- the program with all of them -------------------------------------------------------------------------------------

PRELUDE = """extern int mutant_alive; extern unsigned char *mutant_reached;
#ifdef REACH
#define MUTANT(n) (mutant_reached[n] = 1, mutant_alive == (n))
#else
#define MUTANT(n) (mutant_alive == (n))
#endif
#line 1 "datsync.c"
"""

# The file of reached sites is shared memory: what a process that is killed had reached is there too.
RUNTIME = """#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int mutant_alive = -1;
static unsigned char nowhere[SITES + 1];
unsigned char *mutant_reached = nowhere;
__attribute__((constructor)) static void begin(void)
{
    const char *alive = getenv("DATSYNC_MUTANT"), *path = getenv("DATSYNC_REACH");
    int fd = path ? open(path, O_RDWR | O_CREAT, 0666) : -1;
    if (alive)
        mutant_alive = atoi(alive);
    if (fd >= 0 && ftruncate(fd, SITES + 1) == 0) {
        void *p = mmap(NULL, SITES + 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p != MAP_FAILED)
            mutant_reached = p;
    }
    if (fd >= 0)
        close(fd);
}
"""


def render(text, sites, numbers):
    """The text with all of these sites in it, each behind its number. No line is added or taken away."""
    groups = {}
    for site in sites:
        groups.setdefault((site.start, site.end), []).append(site)
    spans = sorted(groups, key=lambda s: (s[0], -s[1]))
    at = [0]

    def span(start, end):
        """text[start:end] with the spans in it."""
        out, here = [], start
        while at[0] < len(spans) and spans[at[0]][1] <= end:
            begin, stop = spans[at[0]]
            at[0] += 1
            out.append(text[here:begin])
            out.append(wrapped(span(begin, stop), groups[begin, stop]))
            here = stop
        out.append(text[here:end])
        return "".join(out)

    def wrapped(inner, here):
        """The original stays last and keeps its line feeds; the changes have none. Conditions go around values."""
        statements = [s for s in here if s.statement]
        for condition in (False, True):
            changes = ["MUTANT(%d) ? (%s) : " % (numbers[s.id], s.to.replace("\n", " ")) for s in here
                       if s.condition is condition and not s.statement]
            if changes:
                inner = "(%s(%s)%s)" % ("".join(changes), inner, " != 0" if condition else "")
        return "{ if (!MUTANT(%d)) { %s } }" % (numbers[statements[0].id], inner) if statements else inner

    return span(0, len(text))


def planted(text, site):
    """The text with this one change and nothing else."""
    return text[:site.start] + ("{ ; }" if site.statement else "(%s)" % site.to) + text[site.end:]


def lines_of(text, site):
    """The changed lines before and after."""
    start, end = text.rfind("\n", 0, site.start) + 1, text.find("\n", site.end)
    after = text[start:site.start] + ("" if site.statement else site.to) + text[site.end:end]
    return text[start:end], after


def compiler(*args):
    return subprocess.run(["gcc", "-std=c99", "-I" + ROOT, "-I" + HERE, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:20]


class Programs:
    """The command, the test driver, the suite's adapter and the interface's checks with these sites in them."""

    def __init__(self, text, sites, numbers, folder, flags):
        self.folder, self.bad = folder, []
        shutil.rmtree(folder, ignore_errors=True)
        for out, files in core.PROGRAMS.items():
            for name in files if out not in core.LINKED else ():  # they include the datsync.c that lies beside them
                os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
                shutil.copy(os.path.join(ROOT, name), self.path(name))
        flags = ["-g1", *flags]
        sites = self.compilable(text, sites, numbers)
        with open(os.path.join(folder, "runtime.c"), "w") as file:
            file.write(RUNTIME.replace("SITES", str(max(numbers.values()) + 1)))
        with open(os.path.join(folder, "datsync.c"), "w", encoding="latin-1") as file:
            file.write(PRELUDE + render(text, sites, numbers))
        running = [subprocess.Popen(["gcc", "-std=c99", "-w", *flags, "-I" + ROOT, "-I" + HERE, "-c", "-o", self.path(o), path])
                   for o, path in (("core.o", self.path("datsync.c")), ("probe.o", self.path("tests/probe.c")))]
        for process in running:
            if process.wait() != 0:
                sys.exit("mutate: the program with the mutants does not compile")
        more = [self.path("runtime.c"), os.path.join(ROOT, "net_posix.c"), *core.libraries()]
        for out, files in core.PROGRAMS.items():
            if out in core.LINKED:
                own = [os.path.join(ROOT, name) for name in files] + [self.path("core.o")]
            else:
                own = [self.path("probe.o" if name == "tests/probe.c" else name) for name in files]
            done = compiler("-w", *flags, "-o", self.path("run-" + out), *own, *more)
            if done.returncode:
                sys.exit("mutate: " + done.stderr.decode()[-3000:])

    def path(self, name):
        return os.path.join(self.folder, name)

    def compilable(self, text, sites, numbers):
        """Leave out the sites that do not compile: those of the lines that the compiler complains of."""
        for _ in range(20):
            with open(self.path("try.c"), "w", encoding="latin-1") as file:
                file.write(PRELUDE.replace('"datsync.c"', '"mutants.c"') + render(text, sites, numbers))
            done = compiler("-w", "-fsyntax-only", "-fmax-errors=0", self.path("try.c"))
            if done.returncode == 0:
                return sites
            lines = set(map(int, re.findall(r"^mutants\.c:(\d+):\d+: error", done.stderr.decode(), re.M)))
            suspects = [s for s in sites if lines & set(range(s.line, s.line + text.count("\n", s.start, s.end) + 1))]
            if not suspects:
                sys.exit("mutate: " + done.stderr.decode()[-3000:])
            bad = {s.id for s in suspects if not self.compiles(text, s)}
            bad = bad or {s.id for s in suspects}  # alone they do: then it is how they are put in
            self.bad += [s for s in sites if s.id in bad]
            sites = [s for s in sites if s.id not in bad]
        sys.exit("mutate: it does not come to an end that compiles")

    def compiles(self, text, site):
        with open(self.path("one.c"), "w", encoding="latin-1") as file:
            file.write(planted(text, site))
        return compiler("-w", "-fsyntax-only", self.path("one.c")).returncode == 0

    def use(self):
        """Make these the programs that the tests run."""
        for part in core.PROGRAMS:
            link = os.path.join(BUILD, "now", part)
            if os.path.lexists(link):
                os.remove(link)
            os.symlink(self.path("run-" + part), link)


def assembly(text, folder):
    path = os.path.join(folder, "same.c")
    with open(path, "w", encoding="latin-1") as file:
        file.write(text)
    done = compiler("-w", "-O2", "-S", "-o", "-", path)
    return done.stdout if done.returncode == 0 else None


# ---- tests ------------------------------------------------------------------------------------------------------------

class Children:
    """Forked copies of this process, in groups of their own, each with a pipe on which it tells what it does."""

    def __init__(self, jobs):
        self.jobs, self.running = jobs, {}

    def start(self, task, work, limit):
        """`work(tell)` is run in a child; `limit(task, lines)` is how long it may take from its last line on."""
        reader, writer = os.pipe()
        folder = tempfile.mkdtemp(prefix="mutate-")
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setpgid(0, 0)
                os.close(reader)
                null = os.open(os.devnull, os.O_RDWR)
                for fd in (0, 1, 2):
                    os.dup2(null, fd)
                work(lambda line: os.write(writer, line.encode() + b"\n"), folder)
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass  # it was faster
        self.running[reader] = [task, pid, b"", time.monotonic(), limit, folder]

    def ended(self):
        """Wait until one ends: (task, its lines, whether it was late)."""
        while True:
            now = time.monotonic()
            ready, _, _ = select.select(list(self.running), [], [], 0.2)
            for reader in ready:
                child = self.running[reader]
                got = os.read(reader, 65536)
                if not got:
                    return self.end(reader, False)
                child[2] += got
                child[3] = time.monotonic()
            for reader, (task, _, got, since, limit, _) in self.running.items():
                if reader not in ready and now - since > limit(task, got.decode().splitlines()):
                    return self.end(reader, True)

    def end(self, reader, late):
        task, pid, got, _, _, folder = self.running.pop(reader)
        try:
            os.killpg(pid, signal.SIGKILL)  # also what a test left behind
        except OSError:
            pass
        os.close(reader)
        os.waitpid(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)
        return task, got.decode().splitlines(), late


def run_item(item):
    """Whether this test passes. Everything is torn down behind it: the next one may run on another program."""
    from _pytest.runner import runtestprotocol
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


class Session:
    """A plugin of pytest: it collects all tests once, then forks for each run."""

    def __init__(self, then):
        self.then = then

    def pytest_runtestloop(self, session):
        import pathlib
        self.session = session
        self.tests = {item.nodeid: item for item in session.items}

        def alone(items, folder):
            session.items[:] = items
            session.config._tmp_path_factory._basetemp = pathlib.Path(folder)

        self.alone = alone
        self.then(self)
        return True


class Reach:
    """test id: (seconds, bits of the sites it reaches, whether it passes). Kept by test file in build/mutate/reach."""

    def __init__(self, text, sites, numbers, jobs, say):
        self.text, self.sites, self.numbers, self.jobs, self.say = text, sites, numbers, jobs, say
        self.key = hashlib.sha256("\n".join(s.id for s in sites).encode()).hexdigest()[:20]
        self.folder = os.path.join(BUILD, "reach")
        os.makedirs(self.folder, exist_ok=True)
        self.known, self.totals, self.masks = {}, {}, {}
        for site in sites:
            self.masks[site.function] = self.masks.get(site.function, 0) | 1 << numbers[site.id]

    def path(self, file):
        return os.path.join(self.folder, "%s-%s-%s" % (os.path.basename(file), self.key, digest(file)))

    def measure(self, run):
        files, missing = {}, {}
        for item in run.session.items:
            files.setdefault(str(item.path), []).append(item)
        for file, items in files.items():
            try:
                with open(self.path(file), "rb") as kept:
                    self.known.update(pickle.loads(zlib.decompress(kept.read())))
            except OSError:
                missing[file] = items
        if not missing:
            return
        began = time.monotonic()
        programs = Programs(self.text, self.sites, self.numbers, os.path.join(BUILD, "reaching"), ["-O1", "-DREACH"])
        programs.use()
        self.say("measuring which test reaches what: %d tests" % sum(map(len, missing.values())))
        children, bits = Children(self.jobs), tempfile.mkdtemp(prefix="mutate-reach-")
        waiting = [item for items in missing.values() for item in items]
        waiting.reverse()
        out = {file: {} for file in missing}
        while waiting or children.running:
            while waiting and len(children.running) < self.jobs:
                item = waiting.pop()
                path = os.path.join(bits, str(len(waiting)))
                children.start((item, path, time.monotonic()), self.work(run, item, path), lambda task, lines: 180)
            (item, path, start), lines, late = children.ended()
            reached = 0
            if os.path.exists(path):
                with open(path, "rb") as file:
                    reached = int("".join("1" if c else "0" for c in reversed(file.read())) or "0", 2)
                os.remove(path)
            out[str(item.path)][item.nodeid] = (time.monotonic() - start, reached, lines == ["passed"] and not late)
        shutil.rmtree(bits, ignore_errors=True)
        for file, told in out.items():
            stem = os.path.basename(file) + "-"
            for name in os.listdir(self.folder):
                if name.startswith(stem):
                    os.remove(os.path.join(self.folder, name))
            with open(self.path(file), "wb") as kept:
                kept.write(zlib.compress(pickle.dumps(told)))
            self.known.update(told)
        self.say("  %.0f s" % (time.monotonic() - began))

    @staticmethod
    def work(run, item, path):
        def work(tell, folder):
            os.environ["DATSYNC_REACH"] = path
            run.alone([item], folder)
            tell("passed" if run_item(item) else "failed")
        return work

    def order(self, site, available):
        """The tests that reach a site: one of each test function before the second of any, first those of which a large part
        goes through the site's C function in little time."""
        number, mask = self.numbers[site.id], self.masks[site.function]
        functions, out = {}, []
        for name, (seconds, reached, passed) in self.known.items():
            if passed and name in available and reached >> number & 1:
                if name not in self.totals:
                    self.totals[name] = bits_in(reached)
                score = bits_in(reached & mask) / self.totals[name] / (0.1 + seconds)
                function = name if "test_api.py" in name else name.split("[")[0]  # there, each is another test
                functions.setdefault(function, []).append((-score, name))
        for tests in functions.values():
            out += [(i.bit_length(), score, name) for i, (score, name) in enumerate(sorted(tests))]
        return [name for *_, name in sorted(out)]


def bits_in(number):
    return bin(number).count("1")


class Hunt:
    """Runs the tests on the mutants; `results` are {id: (verdict, by which test or why, seconds)}."""

    def __init__(self, text, sites, chosen, numbers, options, known, say):
        self.text, self.sites, self.chosen, self.numbers = text, sites, chosen, numbers
        self.options, self.say, self.results, self.bad = options, say, {}, []
        self.known, self.reach = {} if options.fresh else known, None

    def __call__(self, run):
        flags = ["-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        programs = Programs(self.text, self.chosen, self.numbers, os.path.join(BUILD, "hunting"), flags)
        programs.use()
        bad = {s.id for s in programs.bad}
        self.bad = [s for s in self.chosen if s.id in bad]
        self.chosen = [s for s in self.chosen if s.id not in bad]
        hints, rest = {}, []
        for site in self.chosen:
            what, _, by = self.known.get(site.id, "").partition(": ")
            if what == "killed" and by in run.tests:
                hints[site.id] = by
            elif what in ("same", "left") and not self.options.explained:
                self.results[site.id] = ("survived", "", 0)
            else:
                rest.append(site)
        self.hunt(run, [s for s in self.chosen if s.id in hints], lambda site: [hints[site.id]])
        rest += [s for s in self.chosen if s.id in hints and self.results[s.id][0] == "survived"]
        if not rest:
            return
        reach = self.reach = Reach(self.text, self.sites, self.numbers, self.options.jobs, self.say)
        reach.measure(run)
        failing = [n for n, (_, _, passed) in reach.known.items() if not passed and n in run.tests]
        if failing:
            self.say("%d tests fail or were late without any mutant, and are left out: %s" % (len(failing), ", ".join(failing[:8])))
        programs.use()
        self.hunt(run, rest, lambda site: reach.order(site, run.tests))

    def hunt(self, run, chosen, tests_of):
        """Each of these against its tests."""
        children, waiting, done = Children(self.options.jobs), list(reversed(chosen)), 0
        while waiting or children.running:
            while waiting and len(children.running) < self.options.jobs:
                site = waiting.pop()
                tests = tests_of(site)
                children.start((site, tests, time.monotonic()), self.work(run, site, tests), self.limit)
            (site, tests, start), lines, late = children.ended()
            seconds = time.monotonic() - start
            verdict, by = "survived", "no test reaches it" if not tests else "%d of %d tests passed" % (
                sum(l.startswith("start") for l in lines), len(tests))
            last = lines[-1].split(" ", 1) if lines else ["", ""]
            if late:
                verdict, by = "timed out", last[1]
            elif last[0] == "killed":
                verdict, by = "killed", last[1]
            self.results[site.id] = (verdict, by, round(seconds, 1))
            done += 1
            if verdict == "survived" or self.options.verbose:
                self.say("%4d/%d %5.1f s  %s %s (%s)" % (done, len(chosen), seconds, verdict, site.id, by))

    def limit(self, task, lines):
        last = lines[-1].split(" ", 1) if lines else ["", ""]
        if not self.reach:
            return 60
        return 15 + 6 * (self.reach.known[last[1]][0] if last[0] in ("start", "again") else 0)

    def work(self, run, site, tests):
        def work(tell, folder):
            began = time.monotonic()
            for name in tests:
                os.environ["DATSYNC_MUTANT"] = str(self.numbers[site.id])
                run.alone([run.tests[name]], folder)
                tell("start " + name)
                if not run_item(run.tests[name]):
                    # A test that fails without it too (a busy machine) tells nothing.
                    os.environ["DATSYNC_MUTANT"] = "-1"
                    tell("again " + name)
                    if run_item(run.tests[name]):
                        tell("killed " + name)
                        return
                if time.monotonic() - began > self.options.budget:
                    return
        return work


def update(hunt, known, sample_ids):
    """What killed which, into mutants.json. A reason stays where nothing did."""
    for id, (verdict, by, _) in hunt.results.items():
        if verdict != "survived":
            known[id] = "killed: " + by
        elif known.get(id, "").startswith("killed"):
            del known[id]
    with open(KNOWN, "w") as file:
        json.dump({id: known[id] for id in sorted(known) if id in sample_ids}, file, indent=1, ensure_ascii=False)
        file.write("\n")


def report(text, hunt, known, say):
    """Print the survivors and the figures; returns the share and the results as JSON."""
    original = None
    counts = {"killed": 0, "timed out": 0, "survived": 0, "left": 0, "same": 0}
    out, stale = [], []
    for site in sorted(hunt.chosen, key=lambda s: s.start):
        verdict, by, seconds = hunt.results[site.id]
        before, after = lines_of(text, site)
        if site.id in known and not known[site.id].startswith("killed"):
            if verdict == "survived":
                verdict, by = known[site.id].split(": ", 1)
            else:
                stale.append((site.id, verdict))
        elif verdict == "survived":
            original = original or assembly(text, BUILD)
            if assembly(planted(text, site), BUILD) == original:
                verdict, by = "same", "the same machine code"
        counts[verdict] += 1
        if verdict == "survived":
            say("\ndatsync.c:%d: %s (%s)" % (site.line, site.id, by))
            say("\n".join("- " + l for l in before.split("\n")) + "\n" + "\n".join("+ " + l for l in after.split("\n")))
        out.append({"id": site.id, "line": site.line, "verdict": verdict, "by": by, "seconds": seconds, "before": before,
                    "after": after})
    for id, verdict in stale:
        say("mutants.json has a reason for it, and it is now %s: %s" % (verdict, id))
    killed = counts["killed"] + counts["timed out"]
    share = 100.0 * killed / max(1, killed + counts["survived"] + counts["left"])
    say("\n%d sites in all, %d chosen: %d do not compile, %d change nothing that can be seen; of the others %d were killed, %d of "
        "them by being late; %d survived, %d of them with the reason in mutants.json: %.1f %%" % (
            len(hunt.sites), len(hunt.chosen) + len(hunt.bad), len(hunt.bad), counts["same"], killed, counts["timed out"],
            counts["survived"] + counts["left"], counts["left"], share))
    return share, dict(counts, share=round(share, 2), sites=len(hunt.sites), stale=[i for i, _ in stale], mutants=out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sample", type=int, default=SAMPLE, help="how many sites stand for all (%d)" % SAMPLE)
    parser.add_argument("--count", type=int, help="only so many of these, drawn by --seed")
    parser.add_argument("--seed", type=int, default=1, help="of that draw (1)")
    parser.add_argument("--all", action="store_true", help="every site there is: days")
    parser.add_argument("--id", action="append", help="this one (repeatable; a part of an id takes all that have it)")
    parser.add_argument("--again", metavar="FILE", help="those that survived in this result of --json")
    parser.add_argument("--explained", action="store_true", help="run those that mutants.json has a reason for, too")
    parser.add_argument("--fresh", action="store_true", help="do not look which test killed it the last time")
    parser.add_argument("--update", action="store_true", help="write to mutants.json which test killed what")
    parser.add_argument("--jobs", type=int, default=2, help="tests that run at once")
    parser.add_argument("--list", action="store_true", help="print the chosen ones, run nothing")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests for one mutant (60)")
    parser.add_argument("--least", type=float, default=90, metavar="PERCENT", help="exit 1 below this share (90)")
    parser.add_argument("--verbose", action="store_true", help="a line for each mutant")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="the tests to hunt with (those that run the C code)")
    options = parser.parse_args()

    def say(line):
        print(line, flush=True)

    source = os.path.join(ROOT, "datsync.c")
    text, sites = find_sites(source)
    numbers = {s.id: n for n, s in enumerate(sites)}
    if options.id:
        chosen = [s for s in sites if any(i in s.id for i in options.id)]
    elif options.again:
        with open(options.again) as file:
            survived = {m["id"] for m in json.load(file)["mutants"] if m["verdict"] == "survived"}
        chosen = [s for s in sites if s.id in survived]
    elif options.all:
        chosen = sites
    else:
        chosen = sample(sites, options.sample)
    if options.count and options.count < len(chosen):
        chosen = sorted(random.Random(options.seed).sample(chosen, options.count), key=lambda s: s.start)
    if options.list:
        for site in chosen:
            before, after = lines_of(text, site)
            say("datsync.c:%d: %s\n- %s\n+ %s" % (site.line, site.id, before.strip(), after.strip()))
        say("%d of %d sites" % (len(chosen), len(sites)))
        return 0
    with open(KNOWN) as file:
        known = json.load(file)
    import pytest
    sys.path.insert(0, HERE)
    os.makedirs(BUILD, exist_ok=True)
    # The tests read these names when they are imported: links tell them which programs are meant just now.
    os.makedirs(os.path.join(BUILD, "now"), exist_ok=True)
    os.environ.update(core.environment(lambda program: os.path.join(BUILD, "now", program)))
    hunt = Hunt(text, sites, chosen, numbers, options, known, say)
    code = pytest.main(["-p", "no:cacheprovider", "-p", "no:terminal", "-m", "not interop", "--rootdir", ROOT,
                        *(options.tests or core.tests())], plugins=[Session(hunt)])
    if not hunt.results and chosen:
        sys.exit("mutate: pytest ended with %s" % code)
    share, told = report(text, hunt, known, say)
    if options.update:
        update(hunt, known, {s.id for s in sample(sites, SAMPLE)})
    if options.json:
        with open(options.json, "w") as file:
            json.dump(told, file, indent=1)
    return 1 if told["survived"] or not options.count and share < options.least else 0


if __name__ == "__main__":
    sys.exit(main())
