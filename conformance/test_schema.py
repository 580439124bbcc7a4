"""Every file of vectors/ is as schema.json says, and proofs.json as the Python implementation makes it."""

import glob
import json
import os

import pytest

import record
from dat import wire
from dat.content import VECTORS
from dat.tree import VerifyError

FILES = sorted(os.path.relpath(p, VECTORS) for p in glob.glob(os.path.join(VECTORS, "**", "*.json"), recursive=True)
               if os.path.basename(p) != "schema.json" and "/.dat/" not in p and not p.endswith("dat.json"))


def load(name):
    with open(os.path.join(VECTORS, name), encoding="utf-8") as file:
        return json.load(file)


PROOFS = load("proofs.json")


@pytest.mark.parametrize("name", FILES)
def test_schema(name):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema (python3-jsonschema) is not installed")
    jsonschema.Draft202012Validator(load("schema.json")).validate(load(name))


def test_the_schema_refuses():
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema (python3-jsonschema) is not installed")
    check = jsonschema.Draft202012Validator(load("schema.json"))
    for damage in (lambda d: d.pop("kind"), lambda d: d.update(more=1), lambda d: d["data"][0].pop("result"),
                   lambda d: d["data"][0].update(result="maybe"), lambda d: d["proofs"][0]["blocks"][0][0].append(1)):
        damaged = dict(load("proofs.json"))
        damaged.update(data=damaged["data"][:9], proofs=damaged["proofs"][:3])  # all of it takes seconds
        assert check.is_valid(damaged)
        damage(damaged)
        assert not check.is_valid(damaged)


def test_the_recorder_makes_the_same_again():
    with open(record.FILE, encoding="utf-8") as file:
        assert file.read() == record.document()


@pytest.mark.parametrize("entry", PROOFS["data"], ids=lambda e: e["id"])
def test_data_by_the_python_implementation(entry):
    reader, _ = record.reader(entry)
    try:
        reader.put(wire.Data.decode(bytes.fromhex(entry["hex"])))
        taken = True
    except (VerifyError, wire.CodecError):
        taken = False
    assert taken == (entry["result"] == "valid")
