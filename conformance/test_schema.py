"""Every file of vectors/ is as schema.json says, and proofs.json as the Python implementation makes it; datsync agrees."""

import glob
import json
import os

import pytest

import record
from dat import wire
from dat.feed import Feed
from dat.tree import VerifyError
from probe import CREATE, VECTORS
from test_vectors import in_one_batch_each, recorded_proof

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
        damaged = load("proofs.json")
        damage(damaged)
        assert not check.is_valid(damaged)


def test_the_recorder_makes_the_same_again():
    with open(record.FILE, encoding="utf-8") as file:
        assert file.read() == record.document()


def test_every_proof(probe):
    """datsync's answers to every digest that can occur, for every block of every feed of up to 33."""
    done = 0
    for entry in PROOFS["proofs"]:
        in_one_batch_each(probe, entry["length"])
        for index, rows in enumerate(entry["blocks"]):
            for digest, nodes, verified_by in rows:
                assert recorded_proof(probe, (index, digest, 0)) == (nodes, verified_by), (entry["length"], index, digest)
                done += 1
        probe.ask("close", 0)
    assert done > 20000


def reader_of(entry):
    feed = record.make(entry["blocks"], entry["size"])
    reader = Feed(feed.key)
    held = [feed.answer(wire.request(i)) for i in entry["holds"]]
    for data in held:
        reader.put(data)
    return reader, held


@pytest.mark.parametrize("entry", PROOFS["data"], ids=lambda e: e["id"])
def test_data_by_the_python_implementation(entry):
    reader, _ = reader_of(entry)
    try:
        reader.put(wire.Data.decode(bytes.fromhex(entry["hex"])))
        taken = True
    except (VerifyError, wire.CodecError):
        taken = False
    assert taken == (entry["result"] == "valid")


# A signature of another size cannot be handed to the driver: dep-0002.verify/signature-of-63-bytes sends one.
@pytest.mark.parametrize("entry", [e for e in PROOFS["data"] if not e["id"].endswith("signature-short")], ids=lambda e: e["id"])
def test_data_by_datsync(probe, entry):
    if entry["id"].endswith("-short"):  # it does not get as far as being verified
        assert probe.code("decode", wire.encode_frame(0, wire.Data.TYPE, bytes.fromhex(entry["hex"]))) < 0
        return
    reader, held = reader_of(entry)
    probe.ask("open", 0, "memory", CREATE, reader.key, None)
    for data in held:
        assert probe.ask("put", 0, data.index, data.value, data.signature, *data.nodes) == ["1"]
    data = wire.Data.decode(bytes.fromhex(entry["hex"]))
    if entry["result"] == "valid":
        assert probe.ask("put", 0, data.index, data.value, data.signature, *data.nodes) == ["1"]
    else:
        assert probe.code("put", 0, data.index, data.value, data.signature, *data.nodes) < 0
