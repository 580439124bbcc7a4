"""The conformance suite stands alone: conformance/ and vectors/, and nothing else of this project, are all that it needs."""

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest

from tools import ROOT, SUITE

TESTS = ["test_schema.py", "test_drive_reference.py"]
CASES = ["sanity/", "dep-0010.want/ignored-start-8", "dep-0010.framing/keep-alive", "dep-0002.proof/remembers", "hyperdrive.evil/"]
# Where else something is looked for if nobody says where it is; what is missing is then told.
DEFAULTS = {("javascript.py", "build")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder in which there is nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    for name in ("conformance", "vectors"):
        shutil.copytree(os.path.join(ROOT, name), str(folder / name), symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def call(folder, *words):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DATSYNC", "PYTEST", "PYTHON"))}
    return subprocess.run([sys.executable, *words], cwd=str(folder), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, timeout=300)


def test_cases(alone):
    """Some of each of these groups, on the Python peer."""
    done = call(alone, "-m", "pytest", "-q", "-p", "no:cacheprovider", "conformance/test_conformance.py", "-k", " or ".join(CASES),
                "--peer", sys.executable + " conformance/adapters/python.py", "--report", "out")
    assert done.returncode == 0, done.stdout
    with open(str(alone / "out" / "results.json"), encoding="utf-8") as file:
        told = json.load(file)
    assert {group for case in told["cases"] for group in CASES if group in case["id"]} == set(CASES)
    assert len(told["cases"]) > 20 and set(told["peers"][0]["verdicts"]) >= {"PASS"}
    assert told["peers"][0]["verdicts"]["PASS"] == len(told["cases"])


@pytest.mark.parametrize("name", TESTS)
def test_its_own_tests(alone, name):
    done = call(alone, "-m", "pytest", "-q", "-p", "no:cacheprovider", "conformance/" + name)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout


def test_without_a_peer_it_says_so(alone):
    done = call(alone, "-m", "pytest", "-q", "-p", "no:cacheprovider", "conformance/test_conformance.py")
    assert done.returncode == 4 and "no peer to test" in done.stdout, done.stdout


# ---- what its files name ----------------------------------------------------------------------------

FILES = sorted(os.path.relpath(os.path.join(at, name), SUITE) for at, _, names in os.walk(SUITE) for name in names if name.endswith(".py"))
OWN = {name.partition(".")[0] for name in os.listdir(SUITE)}
STANDARD = getattr(sys, "stdlib_module_names", None)  # from Python 3.10 on
OUTSIDE = {name for name in os.listdir(ROOT) if not name.startswith(".")} - set(os.listdir(SUITE)) - {"conformance", "vectors"} | {"build"}


def nodes(name):
    with open(os.path.join(SUITE, name), encoding="utf-8") as file:
        return list(ast.walk(ast.parse(file.read(), name)))


def text_of(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_what_is_there(name):
    if STANDARD is None:
        pytest.skip("this Python does not say what its library has")
    found = {alias.name for node in nodes(name) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in nodes(name) if isinstance(node, ast.ImportFrom) and not node.level}
    assert {module.partition(".")[0] for module in found} <= OWN | set(STANDARD) | {"pytest", "jsonschema"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_names_no_file_elsewhere(name):
    """Neither as a path nor word by word, as os.path.join takes it."""
    paths = [text_of(node) for node in nodes(name) if "/" in text_of(node) and not any(c.isspace() for c in text_of(node))]
    paths += [text_of(word) for node in nodes(name) if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "join"
              for word in node.args]
    found = {part for path in paths for part in path.split("/")} & OUTSIDE
    assert {(name, part) for part in found} <= DEFAULTS
