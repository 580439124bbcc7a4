"""README.md is a front page, and what the documents point to is there."""

import glob
import os
import re

import pytest

from tools import ROOT, own_files

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md"] + sorted(os.path.relpath(path, ROOT) for path in glob.glob(ROOT + "/docs/*.md"))


def text_of(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def without_code(name):
    return re.sub(r"^```.*?^```$", "", text_of(name), flags=re.M | re.S)


def anchors(name):
    """As GitHub makes them of headings."""
    found = []
    for title in re.findall(r"^#{1,6} (.+)$", without_code(name), re.M):
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", title).replace(" ", "-")
        found.append(anchor if anchor not in found else "%s-%d" % (anchor, found.count(anchor)))
    return found


def links(name):
    """(path, anchor) of each that leads to a file."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(name)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name, anchor


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    for path, anchor in links(name):
        assert not path.startswith("..") and os.path.exists(os.path.join(ROOT, path)), path
        assert not anchor or anchor in anchors(path), (path, anchor)


def test_the_front_page_is_one():
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 150
    for command in ("    make deps demo ", "    make deps check "):
        assert any(line.startswith(command) for line in lines[:30]), command


def test_the_front_page_leads_to_every_document():
    found = {path for path, _ in links("README.md")}
    assert set(DOCUMENTS) - {"README.md"} <= found


def test_the_map_names_what_is_there():
    """Every folder and source file beside README.md, and nothing else; docs are told of above it."""
    table = text_of("README.md").split("## The map of the code\n")[1]
    named = set()
    for cell in re.findall(r"^\| (`.*?) \|", table, re.M):
        folder = ""
        for name in re.findall(r"`([^`]+)`", cell):  # the others of a row lie beside the first
            place = name if os.path.dirname(name.rstrip("/")) or glob.glob(os.path.join(ROOT, name)) else folder + name
            assert glob.glob(os.path.join(ROOT, place)), name
            folder = os.path.dirname(place.rstrip("/")) + "/" if os.path.dirname(place.rstrip("/")) else folder
            named.add(place.split("/")[0])
    there = set(own_files("*.c", "*.h", "*/"))
    assert there - named <= {"build", "debian", "docs"}
