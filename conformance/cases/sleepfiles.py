"""The SLEEP files that a peer writes, and those that it must be able to read."""

import os
import time

from dat import sleep, wire
from dat.bitfield import OLD_PAGE_BYTES, PAGE_BYTES
from cases.feeds import part_of
from suite.case import DEFACTO, MUST, case, register
from suite.stage import Adapter, Departure

SOURCE = "DEP-0009 (SLEEP); hypercore 6.26"


def cloned(stage, feed):
    stage.clones(feed)
    stage.serve()
    stage.exits(0)
    return sleep.read_files(stage.folder_of(0, feed))


def same(name, found, expected, what):
    """One file byte for byte; zeros that were not cut off at the end count as the same."""
    if found is None:
        raise Departure("a file `%s`" % name, "none")
    if found.rstrip(b"\0") != expected.rstrip(b"\0"):
        at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
        raise Departure("%s: %s" % (name, what), "byte %d is %s, not %s" % (at, found[at:at + 1].hex() or "missing", expected[at:at + 1].hex() or "the end"))


def pages_of(bitfield):
    """The page size of a new bitfield file: 3584, before hypercore 6.22.1 3328."""
    old = (bitfield or b"").startswith(sleep.encode_header(sleep.BITFIELD, OLD_PAGE_BYTES)[:7])
    return OLD_PAGE_BYTES if old else PAGE_BYTES


for name, what, level in (("key", "the public key, 32 bytes", MUST), ("data", "the blocks, end to end", MUST),
                          ("tree", "hash and size of each node, by tree index", MUST),
                          ("signatures", "the signature of the length, at its last block", MUST),
                          ("bitfield", "block bits, tree bits and index, in pages of 3584 or 3328 bytes", DEFACTO)):
    def run(stage, name=name, what=what):
        feed = stage.feed(21, 33)
        found = cloned(stage, feed).get(name)
        mine = sleep.read(stage.folder_of(0, feed))
        if name in ("tree", "signatures", "bitfield"):  # a clone need not hold every signature and node
            for i in mine.tree.nodes:
                if mine.tree.get(i) != feed.tree.get(i):
                    raise Departure("node %d as published" % i, "another")
            for i, signature in mine.signatures.items():
                if signature != feed.signatures[i]:
                    raise Departure("signature %d as published" % i, "another")
        expected = sleep.files(mine, pages_of(found))[name] if name not in ("key", "data") else sleep.files(feed)[name]
        same(name, found, expected, what)
    register("dep-0009.files/" + name, "sleep", level, SOURCE, "After a clone the file `%s` is %s" % (name, what),
             "Folders are opened by other implementations: the layout is an interface.", run, "E8" if name == "bitfield" else None)

for name, type in (("tree", sleep.TREE), ("signatures", sleep.SIGNATURES), ("bitfield", sleep.BITFIELD)):
    def run(stage, name=name, type=type):
        found = cloned(stage, stage.feed(3))[name][:32]
        expected = sleep.encode_header(type, pages_of(found) if type == sleep.BITFIELD else None)
        if found != expected:
            raise Departure(expected.hex(), found.hex())
    register("dep-0009.header/" + name, "sleep", DEFACTO, SOURCE, "The file `%s` begins with its 32-byte header" % name,
             "By it a reader knows the entry size and the algorithm.", run, "E8" if name == "bitfield" else None)

for slug, blocks, size in (("one-block", 1, 10), ("empty-blocks", 3, 0), ("8193-blocks", 8193, 1), ("large", 3, 300000)):
    def run(stage, blocks=blocks, size=size):
        feed = stage.feed(blocks, size, batch=blocks)
        cloned(stage, feed)
        stage.holds(feed)
    register("dep-0009.clone/" + slug, "sleep", MUST, SOURCE, "The folder of a clone of %d block%s of %d bytes is whole" % (blocks, "s" if blocks > 1 else "", size),
             "Pages, offsets and empty blocks all have their edges.", run)


@case("dep-0009.files/no-secret-key", "sleep", MUST, SOURCE,
      "A clone's folder holds no secret key",
      "It has none; an empty or made-up file would make it a writer.")
def _(stage):
    found = cloned(stage, stage.feed(3)).get("secret_key")
    if found and sleep._belongs(found, stage.feeds[0].key):
        raise Departure("no secret key", "one that fits")
    if found and any(found):
        raise Departure("no secret key", "%d bytes" % len(found))


@case("dep-0009.files/sparse-clone", "sleep", MUST, SOURCE,
      "Where blocks are missing, those that are there lie at their own offsets",
      "The data file has holes; a block's place is the sum of the sizes left of it.")
def _(stage):
    feed = stage.feed(12, 30)
    peer = stage.wanted(feed)
    for i in (11, 2, 7):
        peer.send(wire.Have(i))
        peer.send(feed.answer(peer.until(wire.Request, where=lambda r: r.index == i)))
    peer.ping()
    time.sleep(0.5)
    stage.stop()
    stage.holds(feed, blocks={2, 7, 11})


def opens(slug, change, title, why, level=DEFACTO, erratum=None, page_bytes=OLD_PAGE_BYTES):
    """A server reads a folder that was changed, and serves the feed whole."""
    def run(stage):
        feed = stage.feed(21, 33)
        stage.lay(feed, page_bytes=page_bytes)
        change(stage.store)
        stage.feeds = [feed]
        stage.start("serve", [feed.key], "--live")
        stage.connect()
        stage.copies()
    register("dep-0009.opens/" + slug, "sleep", level, SOURCE, "A folder %s is opened and served" % title, why, run, erratum)


def edit(name, change):
    def apply(folder):
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            content = file.read()
        with open(path, "wb") as file:
            file.write(change(content))
    return apply


def left_empty(*names):
    """Files that random-access-file 1 leaves behind: it makes whatever it is asked for."""
    def apply(folder):
        for name in names:
            with open(os.path.join(folder, name), "wb"):
                pass
    return apply


opens("as-written", left_empty(), "as the deployed code writes it, with bitfield pages of 3584 bytes",
      "Folders are handed on. (Versions before 6.22.1 read no such pages.)", MUST, page_bytes=PAGE_BYTES)
opens("pages-of-3328", left_empty(), "with bitfield pages of 3328 bytes",
      "Folders of 2017 and 2018 have them; an existing header's size is honoured.", erratum="E8")
opens("index-of-zeros", edit("bitfield", lambda c: c[:32 + 3072] + bytes(256)), "whose bitfield index is all zeros", "The index is a cache; zeros are safe.")
opens("zeros-behind", edit("tree", lambda c: c + bytes(400)), "with zeros behind its tree", "Files are grown in steps.")
opens("all-signatures", left_empty(), "with a signature for each length", "Every append was signed alone.")
opens("empty-secret-key", left_empty("secret_key"), "with an empty secret_key file",
      "random-access-file 1, under hypercore before 6.12.2, leaves one in each folder: it is no key.", MUST)


@case("dep-0009.resume/empty-secret-key", "resume", MUST, "random-access-file 1.8; hypercore 6.6 to 7.7",
      "A clone whose folder has an empty secret_key file goes on as a reader",
      "random-access-file 1 leaves one behind: who takes it for ownership downloads nothing, and forks the feed with its next append.")
def _(stage):
    feed = stage.feed(20)
    stage.lay(part_of(feed, range(10)))
    left_empty("secret_key")(stage.store)
    stage.clones(feed)
    stage.serve()
    stage.exits(0)
    stage.holds(feed)


@case("dep-0009.opens/zeroed-bitfield-header", "sleep", MUST, "hypercore 6.23.1 to 7.4.0 (overwrite) leaves such folders",
      "An owner's folder whose bitfield has a header of zeros is refused, or repaired; no block is appended in the place of another",
      "It reads as a feed of no blocks: the next append would be a second block 0, and fork the feed.")
def _(stage):
    feed = stage.feed(8)
    stage.lay(feed, secret=True)
    edit("bitfield", lambda c: bytes(32) + c[32:])(stage.store)
    before = sleep.read_files(stage.store)
    stage.adapter = Adapter(stage.command, ["serve", "--key", feed.key.hex(), "--store", stage.store, "--listen", "--live"], stage.env)
    line = stage.adapter.line(stage.patience * 2)
    if line is not None:  # repaired: then it is a peer, and not one that can do nothing
        stage.port = int(line.split()[-1])
        stage.connect([feed.key]).meets()
        stage.adapter.tell("append " + b"a block 0 of another kind".hex())
        stage.adapter.tell("stop")
    stage.adapter.wait(stage.patience)
    after = sleep.read_files(stage.store)
    for name in ("data", "tree", "signatures"):
        if not after[name].startswith(before[name].rstrip(b"\0")):
            raise Departure("what is in the file `%s` left as it was" % name, "it is overwritten")


@case("dep-0009.opens/one-signature", "sleep", DEFACTO, SOURCE,
      "A folder with one signature for a batch of 21 blocks is opened and served",
      "A batch is signed once.")
def _(stage):
    stage.serves(stage.feed(21, 33, batch=21))
    stage.copies()


@case("dep-0009.opens/no-data-file", "sleep", DEFACTO, SOURCE,
      "A folder of an empty feed, without a data file, is opened",
      "There is none until the first block.")
def _(stage):
    peer = stage.serves(stage.feed(0)).meets()
    peer.send(wire.Want(0, 1 << 20))
    peer.until(wire.Have)


@case("dep-0009.opens/secret-key-appends", "sleep", MUST, SOURCE,
      "With the secret key in the folder a block can be appended",
      "The owner moves house.")
def _(stage):
    feed = stage.feed(4)
    peer = stage.serves(feed, secret=True).meets()
    stage.adapter.tell("append " + b"five".hex())
    peer.send(wire.Want(0, 1 << 20))
    peer.until(wire.Have, where=lambda h: h.start == 4, expected="a Have of block 4")
    feed.append(b"five")
    if peer.ask(4).signature != feed.signatures[4]:
        peer.fail("the owner's signature of 5 blocks", "another")
