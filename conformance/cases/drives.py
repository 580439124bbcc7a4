"""Drives: the two feeds of a hyperdrive 9 on one connection, the folder that is laid out, entries that lie."""

import os

from dat import drive as drives
from dat import evil, wire
from dat import peer as peers
from dat.bitfield import OLD_PAGE_BYTES
from dat.drive import Drive, DriveConversation
from suite.case import DEFACTO, MUST, case, register
from suite.stage import WHOLE, Departure, words

SOURCE = "hyperdrive 9.16 with dat-storage; DEP-0007 and the whitepaper"
FILES = {"/hello.txt": b"hello\n", "/sub/a.bin": bytes(range(256)) * 300, "/sub/deep/b": b"b" * 65536, "/z": b"the last"}


def drive_of(files=FILES):
    made = Drive(seed=b"\x2a" * 32)
    for path, data in files.items():
        made.put(path, data, mtime=1500000000000)
    return made


def serves_drive(stage, made, *options):
    """The adapter shares the dat folder of a drive; a connection that knows both keys."""
    drives.write_folder(made, stage.store, page_bytes=OLD_PAGE_BYTES)
    stage.feeds = [made.metadata, made.content]
    stage.start("serve", [made.key], "--drive", "--live", *options)
    return stage.connect()


def clones_drive(stage, made, *options):
    stage.feeds = [made.metadata, made.content]
    stage.start("clone", [made.key], "--drive", *options, dial=True)
    return stage.connect()


def converse(stage, peer, made, wait=True, **options):
    conversation = DriveConversation(peer, made, timeout=stage.patience * 2, **options)
    conversation.thread = peers.Background(conversation.run)
    if wait:
        stage.join(conversation)
    return conversation


def laid_out(folder):
    """{path: bytes} of what lies in the folder, without `.dat`."""
    found = {}
    for where, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f != ".dat" or where != folder]
        for name in names:
            with open(os.path.join(where, name), "rb") as file:
                found["/" + os.path.relpath(os.path.join(where, name), folder)] = file.read()
    return found


def assert_files(stage, made, files=None):
    """The folder holds the drive's files, and its feeds are without a fault."""
    found, files = laid_out(stage.store), made.files() if files is None else files
    # the deployed code leaves empty files out
    if {p: d for p, d in found.items() if d} != {p: d for p, d in files.items() if d}:
        missing, more = sorted(set(files) - set(found)), sorted(set(found) - set(files))
        raise Departure("the drive's files", "missing %s, too many %s, others differ" % (missing[:5], more[:5]))
    problems = [p for p in drives.audit_folder(stage.store) if "roots" not in p]
    if problems:
        raise Departure("a dat folder without a fault", "; ".join(problems[:5]))


SHAPES = {
    "one-file": {"/hello.txt": b"hello\n"},
    "folders": FILES,
    "blocks": {"/big": bytes(200000), "/small": b"x"},
    "many": {"/d%d/f%02d" % (i % 7, i): b"%d" % i * 10 for i in range(60)},
    "names": {"/with space.txt": b"1", "/\u00fcml\u00e4ut": b"2", "/a.b.c/.hidden": b"3", "/%41": b"4", "/-rf": b"5"},
}
for slug, files in SHAPES.items():
    def clone(stage, files=files):
        made = drive_of(files)
        converse(stage, clones_drive(stage, made), made)
        stage.exits(0)
        assert_files(stage, made)

    def serve(stage, files=files):
        made = drive_of(files)
        peer = serves_drive(stage, made)
        copy = Drive(made.key)
        conversation = DriveConversation(peer, copy, download=True, timeout=stage.patience)
        try:
            conversation.run()
        except (peers.PeerError, ValueError) as error:
            peer.fail("the whole drive", str(error))
        if copy.files() != made.files():
            peer.fail("the drive's files", "others")
    register("hyperdrive.clone/" + slug, "drive", MUST, SOURCE, "A drive (%s) is cloned and laid out" % slug.replace("-", " "),
             "What a `dat clone` is for.", clone)
    register("hyperdrive.serve/" + slug, "drive", MUST, SOURCE, "A drive (%s) is served from its folder, content from the files themselves" % slug.replace("-", " "),
             "What a `dat share` is for.", serve)


@case("hyperdrive.feeds/content-key", "drive", MUST, SOURCE,
      "A server of a drive opens the content feed on a second channel, with the key that block 0 of the metadata names",
      "The link names the metadata alone.")
def _(stage):
    made = drive_of()
    peer = serves_drive(stage, made).meets()
    peer.open(made.content.key)
    peer.send(wire.request(0), 1)
    got = peer.until(wire.Data, key=made.content.key, expected="Data of the content feed")
    if got.value != made.content.blocks[0]:
        peer.fail("block 0 of the content", words(got))


@case("hyperdrive.feeds/header-asked-for", "drive", MUST, SOURCE,
      "A downloader opens the content feed once it has block 0 of the metadata",
      "Only there does the content key stand.")
def _(stage):
    made = drive_of()
    peer = clones_drive(stage, made, "--live").meets()
    peer.until(wire.Want)
    peer.send(wire.Have(made.metadata.length - 1))
    peer.send(wire.Have(0, WHOLE, b"\x02\xf8"))
    seen = set()
    while made.content.discovery_key not in peer.remote_feeds.values():
        got = peer._await(peer.receive, "a Feed for the content").message
        if isinstance(got, wire.Request) and got.index not in seen:
            seen.add(got.index)
            peer.send(made.metadata.answer(got))
    if 0 not in seen:
        peer.fail("a Request of block 0 before the content feed", "none")


@case("hyperdrive.feeds/content-first", "drive", DEFACTO, SOURCE,
      "A content feed that the server opened before the downloader knew its key is joined later",
      "`dat share` opens both at once.")
def _(stage):
    made = drive_of()
    peer = clones_drive(stage, made)
    peer.start()
    peer.open(made.content.key)
    peer.meets()
    converse(stage, peer, made)
    stage.exits(0)
    assert_files(stage, made)


@case("hyperdrive.files/dat-folder", "drive", DEFACTO, SOURCE,
      "A clone's .dat holds key, tree, signatures and bitfield of both feeds, and no content.data",
      "`dat` opens such a folder; the content lies in the files themselves.")
def _(stage):
    made = drive_of()
    converse(stage, clones_drive(stage, made), made)
    stage.exits(0)
    inside = os.path.join(stage.store, ".dat")
    names = set(os.listdir(inside))
    lacking = {"%s.%s" % (f, n) for f in ("metadata", "content") for n in ("key", "tree", "signatures", "bitfield")} - names
    if lacking or "metadata.data" not in names:
        raise Departure("both feeds' files in .dat", "without %s" % sorted(lacking or {"metadata.data"}))
    if "content.data" in names and os.path.getsize(os.path.join(inside, "content.data")):
        raise Departure("no content.data", "one of %d bytes" % os.path.getsize(os.path.join(inside, "content.data")))
    if "metadata.ogd" in names and os.path.getsize(os.path.join(inside, "metadata.ogd")):
        raise Departure("no metadata.ogd, or an empty one: it marks the owner", "one with a byte in it")


@case("hyperdrive.files/no-secret", "drive", MUST, SOURCE,
      "A clone's folder holds no secret key",
      "Folders are copied and shared.")
def _(stage):
    made = drive_of()
    converse(stage, clones_drive(stage, made), made)
    stage.exits(0)
    for where, _, names in os.walk(stage.store):
        for name in names:
            if "secret" in name and os.path.getsize(os.path.join(where, name)):
                raise Departure("no secret key", name)


@case("hyperdrive.history/overwritten", "drive", MUST, SOURCE,
      "Of a file that was put twice the newer one is laid out",
      "The last entry of a name counts.")
def _(stage):
    made = drive_of({"/a": b"old", "/b": b"b"})
    made.put("/a", b"new and longer", mtime=1500000000000)
    converse(stage, clones_drive(stage, made), made)
    stage.exits(0)
    assert_files(stage, made, {"/a": b"new and longer", "/b": b"b"})


@case("hyperdrive.history/deleted", "drive", MUST, SOURCE,
      "A file that was deleted is not laid out",
      "A deletion is an entry without a value.")
def _(stage):
    made = drive_of({"/a": b"a", "/sub/b": b"b", "/sub/c": b"c"})
    made.delete("/sub/b")
    converse(stage, clones_drive(stage, made), made)
    stage.exits(0)
    assert_files(stage, made, {"/a": b"a", "/sub/c": b"c"})


# What no honest owner writes. A reader may refuse an entry or the drive; it must not crash, nor write outside its folder or
# into `.dat`; and it should still be able to stop.
for name in sorted(evil.CASES):
    def run(stage, name=name):
        made = evil.make(name)
        outside = os.path.join(stage.folder, "outside")
        os.makedirs(outside)
        for path, target in made.plant.items():
            where = stage.store + path
            os.makedirs(os.path.dirname(where), exist_ok=True)
            if target:
                os.symlink(outside, where)
            else:
                os.makedirs(where)
        stage.feeds = made.feeds
        stage.start("clone", [made.key], "--drive", "--live", dial=True)
        peer = stage.connect()
        conversation = converse(stage, peer, made.drive, wait=False, live=True)
        quiet, last = 0, 0
        for _ in range(40):  # until nothing was asked for during 0.75 s
            peers.time.sleep(0.15)
            count = sum(isinstance(e.message, wire.Request) for e in list(peer.log))
            quiet, last = quiet + 1 if count == last else 0, count
            if not stage.adapter.running or (count and quiet == 5):
                break
        if not last:  # whoever does nothing does no harm either
            peer.fail("Requests of the metadata", "none")
        conversation.stop()
        stage.stopped = True  # it may refuse the drive, and so exit 1
        stage.adapter.tell("stop")
        try:
            code = stage.adapter.wait(stage.patience)
        except Departure as error:
            code = 0
            stage.loosely("the peer stops when it is told to", error.got, peer)
        if code < 0 or code > 1:
            peer.fail("the peer lays out the drive, or refuses it", "exit %d" % code)
        harm = sorted(os.path.join(where, n) for where, _, names in os.walk(stage.folder) for n in names
                      if not os.path.join(where, n).startswith(stage.store + os.sep))
        if harm:
            peer.fail("no file outside the clone's folder", ", ".join(h[len(stage.folder):] for h in harm))
        key = os.path.join(stage.store, ".dat", "metadata.key")
        if os.path.exists(key) and open(key, "rb").read() != made.key:
            peer.fail("the clone's own files untouched", "another .dat/metadata.key")
        inside = os.path.join(stage.store, ".dat")
        bad = [n for n in ("metadata.ogd", "evil") if os.path.exists(os.path.join(inside, n)) and os.path.getsize(os.path.join(inside, n))]
        if bad:
            peer.fail("the clone's own files untouched", ".dat/%s" % ", ".join(bad))
    register("hyperdrive.evil/" + name, "drive", MUST, "robustness; hyperdrive 9.16 follows some of these",
             "A drive with %s harms nothing outside its folder, nor .dat" % evil.make(name).meaning,
             "Names, sizes and indexes are the owner's word, and anybody can be an owner.", run)
