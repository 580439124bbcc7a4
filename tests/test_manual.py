"""The manual pages and the shell completions say what the program, its header and docs/COMMAND.md say: no more, no less."""

import glob
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time

import pytest
import tools
from tools import ROOT

FOLDER, FILE = "sub folder", "file.txt"  # what lies in the folder in which completions are tried


def text_of(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def need(program):
    if shutil.which(program) is None:
        pytest.skip("%s is not installed" % program)


# ---- what the program says --------------------------------------------------------------------------

class Program:
    """Commands with their words and options, as the help texts have them."""

    def __init__(self):
        self.help = tools.run("-h").out
        self.words, self.options, self.short = {}, {}, {}
        for name in re.findall(r"^  datsync ((?:feed )?[a-z]+) ", self.help, re.M):
            usage, about, listed = tools.run(*name.split(), "-h").out.split("\n\n")
            head, self.words[name] = usage.split(" [OPTIONS] ")
            assert head == "usage: datsync " + name
            line = r"^  datsync %s %s +%s$" % tuple(re.escape(text) for text in (name, self.words[name], about))
            assert re.search(line, self.help, re.M), line
            rows = re.findall(r"^  --([a-z-]+)(?: (\S+))? +(.+)$", listed, re.M)
            assert len(rows) == listed.count("\n")
            self.options[name] = {option: value for option, value, _ in rows}
            self.short.update((option, short) for option, _, text in rows for short in re.findall(r"\(also -(.)\)", text))
        self.values = {option: value for options in self.options.values() for option, value in options.items()}


@pytest.fixture(scope="module")
def program():
    program = Program()
    assert len(program.words) >= 18 and len(program.values) >= 29, "the help texts are not read to their end"
    return program


# ---- what the pages say -----------------------------------------------------------------------------

def page(section):
    return text_of("man", "datsync.%d" % section)


def part(text, title, macro="Sh"):
    """The text of one section or subsection of a page."""
    end = {"Sh": r"^\.Sh |\Z", "Ss": r"^\.Ss |^\.Sh |\Z"}[macro]
    found = re.search(r"^\.%s %s\n(.*?)(?=%s)" % (macro, re.escape(title), end), text, re.M | re.S)
    assert found, title
    return found.group(1)


def items(text):
    """The (head, body) of each .It; a head in .Xo .Xc has several lines."""
    for item in re.split(r"^\.It ", text, flags=re.M)[1:]:
        yield item[3:].split(".Xc\n", 1) if item.startswith("Xo\n") else item.split("\n", 1)


def plain(macros):
    """A line of mdoc as the reader sees it, without spaces."""
    shown = {"Ar": "", "Cm": "", "Ns": "", "Oo": "[", "Oc": "]"}
    return "".join(shown.get(word, word) for word in macros.split())


def options_of(line):
    """`Fl -a Ar X | Fl -b`, or with commas, or `Fl b , -bb`: {a: X, b: ""}, with no single letters."""
    line = re.sub(r"Fl [a-z] , -", "Fl -", line)
    return {name: plain(value) for name, value in re.findall(r"Fl -([a-z-]+)(.*?)(?= [|,] Fl|$)", line)}


def commands_of_page():
    text = page(1)
    network, everywhere = ({name: value for head, _ in items(part(text, title, "Ss")) for name, value in options_of(head).items()}
                           for title in ("Network", "Everywhere"))
    assert sorted(everywhere) == ["help", "json", "quiet"]
    words, options = {}, {}
    for head, _ in items(part(text, "COMMANDS")):
        name, *lines = head.rstrip("\n").split("\n")
        assert name.startswith(".Cm ")
        name = name[4:]
        options[name] = {"help": "", "quiet": ""}
        words[name] = []
        for line in lines:
            if line == ".Op Ar network":
                assert "peer" not in options[name]
                options[name].update(network)
            elif line.startswith(".Op Fl "):
                new = options_of(line)
                assert new and not set(new) & set(options[name]), line
                options[name].update(new)
            else:
                found = re.fullmatch(r"\.(Op )?((?:Ar|Cm) .*)", line)
                words[name].append(("[%s]" if found.group(1) else "%s") % plain(found.group(2)))
    return {name: " ".join(list_) for name, list_ in words.items()}, options


@pytest.mark.parametrize("section", [1, 3])
def test_lint(section, tmp_path):
    need("mandoc")
    for number in (1, 3):  # the pages refer to each other
        (tmp_path / ("man%d" % number)).mkdir()
        shutil.copy(os.path.join(ROOT, "man", "datsync.%d" % number), tmp_path / ("man%d" % number))
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "style", os.path.join(ROOT, "man", "datsync.%d" % section)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, check=False,
                          env=dict(os.environ, MANPATH=str(tmp_path)))
    assert (done.returncode, done.stdout) == (0, "")


def test_commands_of_the_page(program):
    words, options = commands_of_page()
    assert words == program.words
    assert list(options) == list(program.options)
    for name, of_program in program.options.items():
        assert (name, options[name]) == (name, of_program)


def test_each_option_is_described_once(program):
    described, short = [], {}
    for head, body in items(part(page(1), "OPTIONS")):
        assert body.strip()
        for letter, name in re.findall(r"^Fl ([a-z]) , -([a-z-]+)", head):
            short[name] = letter
        described += options_of(head).items()
    assert sorted(described) == sorted(program.values.items())
    assert short == program.short


def test_exit_status_of_the_page(program):
    told = re.findall(r"(\d+) ([a-z ]+)", re.search(r"^exit: (.*)$", program.help, re.M).group(1))
    listed = [int(head) for head, body in items(part(page(1), "EXIT STATUS")) if body.strip()]
    assert listed == [int(code) for code, _ in told]
    assert listed == [tools.DONE, tools.FAILED, tools.USAGE, tools.NO_PEER, tools.INTERRUPTED]
    assert [int(cells[0]) for cells in rows_of_document("| status | meaning |")] == listed


def part_of_document(begin, end):
    text = text_of("docs", "COMMAND.md")
    at = text.index(begin)
    return text[at:text.index(end, at)]


def rows_of_document(heading):
    """The cells of the table's rows; a bar in a cell is escaped."""
    for line in part_of_document(heading, "\n\n").split("\n")[2:]:
        yield [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_commands_of_the_document(program):
    listed = {}
    for command, _ in rows_of_document("| command | does |"):
        name, words = re.fullmatch(r"`((?:feed )?[a-z]+) (.*)`", command).groups()
        listed[name] = words
    assert listed == program.words


def test_options_of_the_document(program):
    """It need not have all of them, but none that isn't there."""
    told = set(re.findall(r"`--([a-z-]+)", text_of("docs", "COMMAND.md")))
    assert told <= set(program.values), told - set(program.values)


def test_events():
    """Three lists of the JSON events: the page's, the document's, and what is in the program."""
    of_document, of_page = {}, {}
    for names, _, members in rows_of_document("| event | command | members |"):
        for name in re.findall(r"`(\w+)`", names):
            of_document.setdefault(name, set()).update(re.findall(r"`(\w+)`", members))
    for head, body in items(part(page(1), "JSON EVENTS")):
        words = re.findall(r"^\.(?:Li|Pq Li) (.*)$", body, re.M)
        of_page[head[3:]] = {word for line in words for word in re.findall(r"\w+", line)}
    calls = [call for path in glob.glob(os.path.join(ROOT, "cli", "*.c"))
             for call in re.findall(r"\bjson_begin\((?!const char)(.*?)\);", text_of(path), re.S)]
    assert of_page == of_document
    assert list(of_page) == sorted({name for call in calls for name in re.findall(r'"(\w+)"', call)})


def test_examples_of_the_page_run(tmp_path):
    """All of them, one after the other in one shell, in an empty home."""
    lines = [line for block in re.findall(r"^\.Bd -literal -offset indent\n(.*?)^\.Ed", part(page(1), "EXAMPLES"), re.M | re.S)
             for line in block.splitlines()]
    assert len(lines) >= 14
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "list.txt").write_text("one\n")
    (tmp_path / "datsync").write_text("#!/bin/sh\nexec %s \"$@\"\n" % shlex.join(tools.command()))
    (tmp_path / "datsync").chmod(0o755)
    script = "\n".join(["set -e", "PATH=$PWD:$PATH", "trap 'kill $!' EXIT", *lines, "trap - EXIT"])
    done = subprocess.run(["sh", "-c", script.replace(":3282", ":%d" % tools.closed_port())], cwd=tmp_path,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, check=False,
                          timeout=60 * tools.PATIENCE, env=tools.environment({"HOME": str(tmp_path)}))
    tools.assert_sane(done.returncode, done.stderr)
    assert done.returncode == 0, done.stderr
    assert '"title": "Summer 2019"' in done.stdout and re.search(r"^ok \d+$", done.stdout, re.M)
    assert (tmp_path / "copy" / "list.txt").read_text() == (tmp_path / "part" / "list.txt").read_text() == "one\n"
    assert tools.run("status", str(tmp_path / "copy"), env={"HOME": str(tmp_path)}).out.count("writable: yes") == 1


# ---- datsync(3) -------------------------------------------------------------------------------------

def squeezed(text):
    """C without comments, with single spaces and none beside punctuation."""
    text = re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", " ", text, flags=re.S)).strip()
    return re.sub(r" ?([(),*\[\]]) ?", r"\1", text)


def functions_of_header():
    """(group, result, name, arguments) of each function and function type, in the header's order."""
    text, found = text_of("datsync.h"), []
    for title, body in re.findall(r"^/\* [-=]{8,} (.*?) [-=]+ \*/\n(.*?)(?=^/\* [-=]{8,}|\Z)", text, re.M | re.S):
        body = re.sub(r"^ *#.*$", "", re.sub(r"/\*.*?\*/", " ", body, flags=re.S), flags=re.M)
        while "{" in body:
            body = re.sub(r"\{[^{}]*\}", "", body)
        for statement in body.split(";"):
            match = re.fullmatch(r"(.*?)\b(datsync_\w+)\((.*)\)", squeezed(statement))
            if match:
                result, name, arguments = match.groups()
                found.append((re.sub(r"^\d\. ", "", title), result.strip(), name, arguments.split(",")))
    return found


def functions_of_page():
    found, group, result = [], None, []
    for line in part(page(3), "SYNOPSIS").splitlines():
        macro, *words = shlex.split(line)
        if macro == ".Ss":
            group = " ".join(words).lower()
        elif macro == ".Ft":
            result = words
        elif macro in (".Fn", ".Fo"):
            found.append((group, squeezed(result.pop()), words[0], [squeezed(word) for word in words[1:]]))
        elif macro == ".Fa":
            found[-1][3].extend(squeezed(word) for word in words)
        else:
            assert line in (".In datsync.h", ".Fc")
    return found


def test_synopsis():
    of_header, of_page = functions_of_header(), functions_of_page()
    assert len(of_header) == len({name for _, _, name, _ in of_header}) > 120
    for expected, got in zip(of_header, of_page):
        assert got == expected
    assert len(of_page) == len(of_header)
    # The header's parser has left out nothing that looks like a function at the start of a line.
    header = re.sub(r"/\*.*?\*/", "", text_of("datsync.h"), flags=re.S)
    assert {name for _, _, name, _ in of_header} == set(re.findall(r"^(?!\s|#).*?\b(datsync_\w+)\(", header, re.M))


def test_each_function_is_described_once():
    described = [name for head, body in items(part(page(3), "DESCRIPTION")) if body.strip()
                 for name in re.findall(r"\bFn (datsync_\w+)", head)]
    described += re.findall(r"^\.Fn (datsync_\w+)", part(page(3), "RETURN VALUES"), re.M)
    assert sorted(described) == sorted(name for _, _, name, _ in functions_of_header())


def test_errors():
    listed = re.search(r"enum datsync_error \{.*?\};", text_of("datsync.h"), re.S).group(0)
    numbers = re.findall(r"^    (DATSYNC_\w+) = (-?\d+)", listed, re.M)
    source = text_of("datsync.c")
    source = source[source.index("\nconst char *datsync_strerror(int error)\n"):]
    sentences = dict(re.findall(r'\{(DATSYNC_\w+), "([^"]*)"\},', source[:source.index("\n}\n")]))
    assert len(numbers) == len(sentences) > 50
    of_page = [(*head.split(" Dv ")[::-1], " ".join(body.replace(".El", "").split()))
               for head, body in items(part(page(3), "ERRORS"))]
    assert of_page == [(name, number.replace("-", "\\-"), sentences[name]) for name, number in numbers]


def test_example_of_the_library(tmp_path):
    cc = shlex.split(os.environ.get("CC", "cc"))
    need(cc[0])
    example = re.search(r"^\.Bd -literal\n(.*?)^\.Ed", part(page(3), "EXAMPLES"), re.M | re.S).group(1)
    example = example.replace("\\e", "\\")
    assert example == re.search(r"^```c\n(.*?)^```", text_of("README.md"), re.M | re.S).group(1)
    (tmp_path / "embed.c").write_text(example)
    done = subprocess.run([*cc, "-fsyntax-only", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", ROOT, "embed.c"],
                          cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# ---- completions ------------------------------------------------------------------------------------
#
# A shell under test takes command lines, the last word unfinished, and gives for each (words, kind): what it offers, and FOLDER or
# FILE where it offers those.

@pytest.fixture
def place(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / FOLDER).mkdir()
    (tmp_path / "here" / FILE).write_text("")
    return tmp_path / "here"


def sorted_out(offered):
    """Names of files, out of what a shell offers."""
    names = {re.sub("^--secret-dir=", "", name).replace("\\ ", " ").rstrip("/") for name in offered}
    return names - {FOLDER, FILE}, FILE if FILE in names else FOLDER if FOLDER in names else None


def environment(place):
    return {"PATH": os.environ["PATH"], "HOME": str(place.parent), "LC_ALL": "C", "TERM": "dumb"}


def output(place, *argv):
    done = subprocess.run(argv, cwd=place, env=environment(place), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout


def words_of(line):
    """As readline divides them."""
    return [word for piece in line.split(" ") for word in re.findall(r"[=:]+|[^=:]+", piece) or [""]]


def ask_bash(place, lines):
    script = ["source %s" % shlex.quote(os.path.join(ROOT, "completions", "datsync.bash")),
              'compopt() { printf "<%s>\\n" "$2"; }']
    for line in lines:
        words = words_of(line)
        script += ["COMP_WORDS=(%s) COMP_CWORD=%d" % (shlex.join(words), len(words) - 1),
                   '_datsync datsync "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"',
                   'printf "%s\\n" "${COMPREPLY[@]}"; echo .']
    kinds = {"<plusdirs>": FOLDER, "<default>": FILE}
    for answer in output(place, "bash", "--norc", "--noprofile", "-uc", "\n".join(script)).split(".\n")[:-1]:
        yield sorted_out(kinds.get(name, name) for name in answer.split("\n") if name)


def ask_fish(place, lines):
    script = "source $argv[1]; for line in $argv[2..-1]; complete -C $line; echo .; end"
    out = output(place, "fish", "--no-config", "-c", script, os.path.join(ROOT, "completions", "datsync.fish"), *lines)
    for answer in re.split(r"^\.\n", out, flags=re.M)[:-1]:
        yield sorted_out(row.split("\t")[0] for row in answer.splitlines())


class Terminal:
    """A shell at a terminal."""

    def __init__(self, place, setup, *argv):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(argv, cwd=place, env=environment(place), stdin=slave, stdout=slave, stderr=slave,
                                        start_new_session=True)
        os.close(slave)
        (place.parent / "setup").write_text(setup + "PS1='ready: '\n")
        self.type("source ../setup\n")
        self.until(lambda seen: "ready: " in seen)  # before the prompt is there, a line is not edited by the shell

    def type(self, text):
        os.write(self.master, text.encode())

    def until(self, done, timeout=30):
        """Read, and pass over, what it shows, until `done` of all that has come since."""
        seen, deadline = "", time.monotonic() + timeout
        while not done(seen):
            assert time.monotonic() < deadline, seen
            if select.select([self.master], [], [], 0.01)[0]:
                seen += os.read(self.master, 65536).decode(errors="replace")
        return seen

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


BASH = "source %s\n" % shlex.quote(os.path.join(ROOT, "completions", "datsync.bash"))
ZSH = "setopt no_beep; bindkey -e; fpath=(%s $fpath); autoload -Uz compinit; compinit -u -D\n" % shlex.quote(
    os.path.join(ROOT, "completions"))
# compadd is what all completion comes down to; here it writes down what it was given.
ZSH_RECORDING = r"""
compadd() {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
    local -a hits
    builtin compadd -A hits "$@"
    (( $#hits )) && print -rl -- $hits >> ../answer
    builtin compadd "$@"
}
recorded() { _main_complete; print -r . >> ../answer }
zle -C recorded complete-word recorded; bindkey '^I' recorded
"""


def ask_zsh(place, lines):
    answer = place.parent / "answer"
    with Terminal(place, ZSH + ZSH_RECORDING, "zsh", "-f", "-i") as zsh:
        for line in lines:
            answer.write_text("")
            zsh.type("%s\t\x15" % line)
            zsh.until(lambda _: answer.read_text().endswith(".\n"))
            yield sorted_out(answer.read_text().splitlines()[:-1])


SHELLS = {"bash": ask_bash, "fish": ask_fish, "zsh": ask_zsh}

LINK = "dat://" + 32 * "ab"

# What the words are, after what stands before them.
WORDS = {
    **{name + " ": FOLDER for name in ("create", "share", "pull", "sync", "log", "status", "verify", "ls", "cat", "feed create",
                                       "feed append", "feed cat", "feed info", "feed verify", "feed share")},
    "clone ": None, "clone %s " % LINK: FOLDER, "feed clone ": None, "feed clone %s " % LINK: FOLDER, "clone %s x " % LINK: None,
    "keys export ": FOLDER, "keys import ": FOLDER, "ls x ": None, "cat x ": None, "log x ": None, "feed info x ": None,
    "feed append x ": FILE, "feed append x y z ": FILE, "feed append --block-size 9 x ": FILE,
    "discover ": None, "doctor ": None, "create --secret-dir=": FOLDER, "share --peer h:1 --peer=h:2 ": FOLDER, "clone --peer h:1 %s " % LINK: FOLDER,
    "clone --listen :1 ": None, "create -- ": FOLDER, "create -- --title ": None,
}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(shell, program, place):
    need(shell)
    drive = {name for name in program.words if " " not in name}
    bare = {name[5:] for name in program.words if " " in name}
    expected = {"": (drive | {"feed"}, None), "--": ({"--help", "--version"}, None),
                "feed ": (bare, None), "feed --": ({"--help"}, None), "feed c": ({name for name in bare if name[0] == "c"}, None),
                "keys ": ({"export", "import"}, FOLDER)}
    for name, options in program.options.items():
        expected[name + " --"] = ({"--" + option for option in options}, None)
    expected.update((line, (set(), kind)) for line, kind in WORDS.items())
    for name, options in program.options.items():  # an option is no word, nor is its value, but what follows is one
        for option, value in options.items():
            line = "%s --%s " % (name, option)
            if value:
                expected[line] = (set(), {"DIR": FOLDER, "FILE": FILE}.get(value))
                line += "x "
            if option != "help":
                expected[line] = expected[name + " "]
                if "clone" in name:
                    expected["%s%s " % (line, LINK)] = (set(), FOLDER)
    expected["share --json --no-"] = ({"--no-ignore-hidden", "--no-listen", "--no-discovery", "--no-mdns", "--no-server", "--no-dht",
                                          "--no-sync"}, None)
    expected["share x --wa"] = ({"--watch"}, None)
    answers = list(SHELLS[shell](place, ["datsync " + line for line in expected]))
    assert len(answers) == len(expected)
    for (line, wanted), (words, kind) in zip(expected.items(), answers):
        if not line.split(" ")[-1].startswith("-"):  # options may be offered where a word is due, too
            words = {word for word in words if not word.startswith("-")}
        assert (line, words, kind) == (line, *wanted)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_of_names_with_spaces(shell, place):
    """At a real terminal, where the shell has to quote the name for itself."""
    need(shell)
    argv = {"bash": (BASH, "bash", "--norc", "--noprofile", "-i"), "zsh": (ZSH, "zsh", "-f", "-i")}[shell]
    with Terminal(place, *argv) as terminal:
        terminal.type("datsync status su\t")
        terminal.until(lambda seen: "folder" in seen)
        terminal.type("\x01printf '<%s>' \n")
        seen = terminal.until(lambda seen: "<status>" in seen and seen.count("<") >= 5)
        assert re.search("<datsync><status><%s/?>" % FOLDER, seen)
