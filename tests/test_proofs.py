"""datsync held against vectors/proofs.json: what it answers to every digest, and what it takes of others' answers."""

import pytest

import record
from dat import wire
from probe import CREATE
from test_vectors import in_one_batch_each, load, recorded_proof

PROOFS = load("proofs.json")


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


# A signature of another size cannot be handed to the driver: dep-0002.verify/signature-of-63-bytes sends one.
@pytest.mark.parametrize("entry", [e for e in PROOFS["data"] if not e["id"].endswith("signature-short")], ids=lambda e: e["id"])
def test_data(probe, entry):
    if entry["id"].endswith("-short"):  # it does not get as far as being verified
        assert probe.code("decode", wire.encode_frame(0, wire.Data.TYPE, bytes.fromhex(entry["hex"]))) < 0
        return
    reader, held = record.reader(entry)
    probe.ask("open", 0, "memory", CREATE, reader.key, None)
    for data in held:
        assert probe.ask("put", 0, data.index, data.value, data.signature, *data.nodes) == ["1"]
    data = wire.Data.decode(bytes.fromhex(entry["hex"]))
    if entry["result"] == "valid":
        assert probe.ask("put", 0, data.index, data.value, data.signature, *data.nodes) == ["1"]
    else:
        assert probe.code("put", 0, data.index, data.value, data.signature, *data.nodes) < 0
