"""The files of cli/ stand one upon the other: the head of cli/main.c has them bottom up, and each includes headers of those before it.

A header offers what its own file defines and another one uses: nothing else is public.
"""

import os
import re
import shutil
import subprocess

import pytest

from test_walls import SODIUM, STRICT
from tools import ROOT

CLI = os.path.join(ROOT, "cli")


def text_of(name):
    with open(os.path.join(CLI, name), encoding="utf-8") as file:
        return file.read()


def code_of(name):
    """Without comments and text between quotes, which may have names in it."""
    return re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"', " ", text_of(name), flags=re.S)


def listed():
    words = re.search(r"bottom up\..*?\n \*\n(.*?)\n \*\n", text_of("main.c"), re.S).group(1)
    return re.findall(r"^ \*   (\w+)", words, re.M)


FILES = sorted(os.listdir(CLI))
ORDER = listed()
HEADERS = [name for name in FILES if name.endswith(".h")]
SOURCES = [name for name in FILES if name.endswith(".c")]


def room(name):
    return name[:-2]


def included(name):
    return re.findall(r'^#include "(.*)"', text_of(name), re.M)


def offered(header):
    """The functions that a header declares."""
    return re.findall(r"^(?!typedef\b|#)\w[^;{}()]*?\b(\w+)\([^;{]*\);", re.sub(r"\{[^{}]*\}", "", code_of(header)), re.M)


def defined(source):
    """{function: whether it is static}."""
    found = re.findall(r"^(static )?(?!typedef\b|static\b)\w[^;{}()=]*?\b(\w+)\([^;{]*\)\n\{", code_of(source), re.M)
    return {name: bool(static) for static, name in found}


def test_the_head_of_main_names_the_files():
    assert sorted(ORDER) == sorted({room(name) for name in FILES}) and ORDER[-1] == "main"
    assert {name[-2:] for name in FILES} == {".c", ".h"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_includes_what_stands_before_it(name):
    """And of its own only the header."""
    own = [room(name) + ".h"] if name.endswith(".c") and room(name) + ".h" in HEADERS else []
    below = [room + ".h" for room in ORDER[:ORDER.index(room(name))]] + ["datsync.h", "discovery.h"]
    got = included(name)
    assert len(got) == len(set(got)) and got[:len(own)] == own
    assert [other for other in got if other not in own + below] == []


@pytest.mark.parametrize("name", FILES)
def test_commands_are_apart(name):
    """Only main knows those who run a command."""
    table = re.search(r"^static const command commands\[\] = \{\n(.*?)^\};", code_of("main.c"), re.M | re.S).group(1)
    runs = set(re.findall(r"\b(\w+)\},", table))
    of_commands = {header for header in HEADERS if runs & set(offered(header))}
    assert len(runs) >= 17 and runs <= {function for header in of_commands for function in offered(header)}
    assert set(included(name)) & of_commands <= (of_commands if name == "main.c" else {room(name) + ".h"})


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is missing")
@pytest.mark.parametrize("header", HEADERS)
def test_a_header_stands_by_itself(header, tmp_path):
    """It needs none before it, and may come twice."""
    (tmp_path / "alone.c").write_text('#include "%s"\n#include "%s"\nint nothing;\n' % (header, header), encoding="utf-8")
    done = subprocess.run(["gcc", *STRICT, *SODIUM, "-I", CLI, "-I", ROOT, "-fsyntax-only", "alone.c"], cwd=str(tmp_path),
                          stderr=subprocess.PIPE, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[:2000]


@pytest.mark.parametrize("header", HEADERS)
def test_what_a_header_offers_is_its_own_and_used(header):
    functions = offered(header)
    own = defined(room(header) + ".c") if functions else {}
    assert functions or header == "cli.h"
    for function in functions:
        assert own.get(function) is False, function + " is not defined there"
        assert any(re.search(r"\b%s\b" % function, code_of(name)) for name in SOURCES if room(name) != room(header)), \
            function + " is used by no other file"


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_not_offered_is_static(source):
    functions = defined(source)
    assert functions
    public = ["main"] if source == "main.c" else offered(room(source) + ".h")
    assert sorted(name for name, static in functions.items() if not static) == sorted(public)
    assert re.findall(r"^(?!static\b|typedef\b|const char \*const about_names)\w[^(){};]*(?:=|;)", code_of(source), re.M) == []
