"""Dat feeds and drives from Python: libdatsync by ctypes. This text and those of the public names are the manual.

A feed is a signed log of blocks of bytes; who has its link can clone it from any peer that holds it. A drive is a folder of
files in two feeds, as `dat` keeps it.

    import datsync

    with datsync.Feed.create("readings") as feed:       # a folder without a feed
        feed.append(b"12.5", b"13.1")
        with datsync.share(feed) as sharer:             # serves in a thread of its own
            copy = datsync.clone(feed.link, "copy", [sharer.address],
                                 progress=lambda p: print(p.held, "of", p.total, "blocks"))
    print(len(copy), copy[0], copy[-1])
    copy.close()

The library is the file that the environment variable DATSYNC_LIBRARY names; else libdatsync.so.0 beside this file, in
build/ of the source tree, or where the system keeps libraries. The number in that name is the interface that is spoken
here.

Blocks are bytes-like objects, keys `bytes` (public 32, secret 64), sizes bytes, times seconds. Indexes are those of a
sequence: negative ones count from the end. A folder is a path; None keeps everything in memory.

Errors. `Error` is what the library says. TypeError and ValueError: an argument is wrong, and nothing was done. IndexError:
no such block. After `close()`, and in a child after a fork, every use of what was open is an Error of Code.STATE.

Threads. An object may be used by several; calls on one object, and on what shares it, wait for each other. Callbacks must
not use the object that calls them (Code.STATE); only `progress` of a download may. What a callback raises ends the call in
order and comes out of it; so does Ctrl-C, but of `append`, `flush` and `verify`, which finish first. (Signal handlers are
replaced while a call lasts that has callbacks.)

Closing a feed or drive ends its sharing, commits, and gives back its lock. What is not closed is closed when it is
collected (with a ResourceWarning), or at exit.

SPDX-License-Identifier: MIT
"""

import atexit
import ctypes
import enum
import math
import operator
import os
import signal
import socket
import sys
import threading
import time
import traceback
import types
import warnings
import weakref
from ctypes import CFUNCTYPE, byref, c_char_p, c_int, c_int64, c_short, c_size_t, c_ssize_t, c_uint, c_uint32, c_uint64, \
    c_void_p
from typing import NamedTuple

__all__ = ["Code", "Drive", "Entry", "Error", "Fault", "Feed", "Imported", "Locked", "NoPeer", "NotFound", "Progress", "Sharer",
           "Timeout", "clone", "clone_drive", "hidden", "open", "share"]

# ---------------------------------------------------------------- the C interface ------------------------------------

_NAMES = {"darwin": "libdatsync.0.dylib", "win32": "datsync.dll"}
_CREATE, _READ_ONLY, _NO_SYNC, _ARCHIVE = 1, 2, 4, 16
_DOWNLOAD, _UPLOAD = 1, 2
_POLL_READ = 1
_MAX_BLOCK, _MAX_BLOCKS = 8388608 - 8192, 1 << 32
_PARTS = ("key", "secret_key", "tree", "signatures", "bitfield", "data")  # enum datsync_part
_CHANGES = ("added", "updated", "removed", "unchanged", "refused")  # enum datsync_change
_Ev = enum.IntEnum("_Ev", "LISTENING CONNECTED PEER DISCONNECTED UNREACHABLE LENGTH BLOCK UPLOAD REJECT COMPLETE FAILED TICK "
                          "CONTENT PLAN ENTRY REMOVED REFUSED VERSION AWAY BACK", start=0)
Code = enum.IntEnum("Code", {name: -int(number) for number, name in (word.split(":") for word in """
    1:NOMEM 2:INVALID 3:STATE 4:TOO_BIG 5:UNSUPPORTED 6:RANDOM 20:MORE 21:FRAME 22:MESSAGE 23:SPACE 24:RLE 40:NOT_FOUND 41:HASH
    42:SIGNATURE 43:NO_SIGNATURE 44:PROOF 45:OTHER_FEED 46:LOCKED 47:READ_ONLY 48:CORRUPT 49:KEY 50:OVERWRITTEN 60:CLOSED 61:PROTOCOL 62:TIMEOUT
    63:FIRST_FEED 64:SELF 65:DUPLICATE 66:EARLY 67:DONE 68:UNKNOWN_FEED 69:SLOW 70:BAD_DATA 80:IO 81:NO_SPACE 82:ACCESS 83:NO_ENTRY
    84:IN_USE 85:REFUSED 86:AGAIN 87:ADDRESS 88:UNREACHABLE 100:HEADER 101:INDEX 102:ENTRY 103:PATH 104:RANGE 105:NAME 106:LINK
    107:NOT_FOLDER 108:IS_FOLDER 109:CHANGED 110:BUSY 111:PARTIAL""".split())}, module=__name__)
Code.__doc__ = "The library's errors: DATSYNC_E_... of datsync.h, where their meaning is told."

# Types: i int, u unsigned, w uint32_t, l int64_t, q uint64_t, z size_t, h intptr_t, t short, p any pointer, s a string, - void.
_TYPES = {"i": c_int, "u": c_uint, "w": c_uint32, "l": c_int64, "q": c_uint64, "z": c_size_t, "h": c_ssize_t, "t": c_short,
          "p": c_void_p, "s": c_char_p, "-": None}


def _call(letters):
    """The type of a function, its result first."""
    return CFUNCTYPE(*(_TYPES[letter] for letter in letters))


def _struct(name, *members):
    """The struct datsync_NAME: a type, then its members, in the header's order."""
    return type(name, (ctypes.Structure,), {"_fields_": [(member, _TYPES.get(kind, kind)) for kind, names in
                                                         zip(members[::2], members[1::2]) for member in names.split()]})


_Bytes = _struct("bytes", "s", "data", "z", "len")
_Store = _struct("store", "p", "ctx", _call("lpiqpz"), "read", "p", "write size truncate sync punch lock", _call("-p"), "close")
_FeedOptions = _struct("feed_options", "p", "env", _Store, "store", "s", "key secret_key", "u", "flags")
_Files = _struct("files", "p", "ctx", "i", "case_folds",
                "p", "open_file read write truncate close_file stat list mkdir rename unlink rmdir set sync", _call("-p"), "close")
_Secrets = _struct("secrets", "p", "ctx load save", _call("-p"), "close")
_Stat = _struct("stat", "w", "mode uid gid", "q", "size blocks offset byte_offset mtime ctime")
_Entry = _struct("entry", "s", "path", "q", "version", "i", "deleted", _Stat, "stat", "i", "error")
_DriveOptions = _struct("drive_options", "p", "env", _Store, "metadata content", _Files, "files", _Secrets, "secrets",
                        "s", "key secret_key", "u", "flags")
_ImportEvent = _struct("import_event", "i", "change", "s", "path", "q", "size done", "i", "error")
_ImportOptions = _struct("import_options", "p", "ctx ignore on_event ready", "i", "dry_run keep")
_Layout = _struct("layout", "p", "ctx", "q", "version", "i", "force", "p", "select")
_Check = _struct("drive_check", "p", "ctx fault", "i", "deep")
_Pollfd = _struct("pollfd", "h", "handle", "t", "events revents")
_Net = _struct("net", "p", "ctx listen accept connect connected recv send close", _call("ippzi"), "poll",
              "p", "shutdown datagrams receive_from send_to join leave interfaces resolve resolved")
_Event = _struct("event", "i", "type", "p", "feed", "s", "address", "q", "index size", "i", "error", "p", "drive", "s", "path",
                 "u", "source")
_Options = _struct("options", "p", "env net", "u", "max_peers",
                   "w", "timeout_ms write_timeout_ms connect_timeout_ms handshake_timeout_ms", "i", "live ack",
                   "p", "extensions", "z", "extension_count frame_pool", "p", "ctx on_event stopped on_interest")
_CALLBACKS = {"on_event": "-ppp", "fault_fn": "-pqi", "entry_fn": "ipp", "ignore": "ipsi", "import": "ipp", "select": "ips",
              "fault": "-ppi"}
_FUNCTIONS = """
    s strerror i, i link_parse s p p p z, p os_net, q os_clock p, i os_store p s s u, i os_files p s u, i os_secrets p s,
    i feed_open p p, i feed_close p, p feed_key p, p feed_discovery_key p, p feed_secret_key p, i feed_writable p, q feed_length p,
    q feed_byte_length p, i feed_has p q, q feed_count p q q, l feed_append p p z, l feed_block_size p q, l feed_get p q p z,
    l feed_verify p p p, i feed_flush p, i feed_want p q q, - feed_unwant p,
    i drive_open p p, i drive_close p, i drive_flush p, p drive_metadata p, i drive_writable p, q drive_version p,
    i drive_find p q s p p, i drive_list p q s i p p p, l drive_read p p q p z, l drive_import p p, - drive_layout p p,
    l drive_verify p p,
    i new p p q, i free p, i add p p u, i add_drive p p u, i listen p s, i connect p s q, z pollfds p p z, q deadline p,
    i step p p z q, - stop p, u peers p, u candidates p, q offered p p"""


def _load():
    here, name = os.path.dirname(os.path.abspath(__file__)), _NAMES.get(sys.platform, "libdatsync.so.0")
    near = [os.path.join(here, name), os.path.join(here, "..", "..", "build", name)]
    path = os.environ.get("DATSYNC_LIBRARY") or next(filter(os.path.exists, near), name)
    functions = {}
    try:
        library = ctypes.CDLL(path)
        for line in _FUNCTIONS.split(","):
            result, function, *arguments = line.split()
            functions[function] = _call(result + "".join(arguments))(("datsync_" + function, library))
    except (OSError, AttributeError) as error:
        raise ImportError("libdatsync: %s (build it with make, or let DATSYNC_LIBRARY name another)" % error) from None
    return types.SimpleNamespace(**functions)


_c = _load()


def _callback(name, function):
    return _call(_CALLBACKS[name])(function)


def _address(thunk):
    return c_void_p.from_buffer_copy(thunk).value  # holds nothing, where ctypes.cast makes a circle


# ---------------------------------------------------------------- errors, arguments ----------------------------------


class Error(Exception):
    """What could not be done: `code` (a `Code`), `sentence`, and `where` (a folder, a path in a drive, an address, or
    None)."""

    def __init__(self, code, sentence=None, where=None):
        self.code = Code(code) if code in list(Code) else code
        self.sentence, self.where = sentence or _c.strerror(code).decode(), where
        super().__init__(self.code, self.sentence, where)

    def __str__(self):
        return self.sentence if self.where is None else "%s: %s" % (self.where, self.sentence)


class NotFound(Error):
    """No such feed, drive, folder or file, or a block that is not held here (Code.NOT_FOUND, NO_ENTRY)."""


class Locked(Error):
    """This feed is open already, in another process or this one (Code.LOCKED)."""


class NoPeer(Error):
    """A download is not complete, and nobody came, or nobody is left. `code`: the last thing that went wrong with a
    peer."""


class Timeout(Error):
    """A download got no new verified byte for so long (Code.TIMEOUT)."""


_SPECIAL = {Code.NOT_FOUND: NotFound, Code.NO_ENTRY: NotFound, Code.LOCKED: Locked}


def _error(code, where=None):
    return _SPECIAL.get(code, Error)(code, None, where)


def _check(result, where=None):
    if result < 0:
        raise _error(result, where)
    return result


def _text(value):
    return None if value is None else value.decode("utf-8", "surrogateescape")


def _utf8(value, what):
    if not isinstance(value, str):
        raise TypeError("%s is a str, not %s" % (what, type(value).__name__))
    if "\0" in value or not value:
        raise ValueError("%r is no %s" % (value, what))
    return value.encode("utf-8", "surrogateescape")


def _folder(value):
    value = None if value is None else os.fsencode(value)
    if value is not None and (not value or b"\0" in value):
        raise ValueError("%r is no folder" % value)
    return value


def _addresses(value):
    return [_utf8(address, "address") for address in ([value] if isinstance(value, str) else value or [])]


def _key(value, size, what):
    if value is not None and not isinstance(value, (bytes, bytearray)):
        raise TypeError("a %s is bytes, not %s" % (what, type(value).__name__))
    if value is not None and len(value) != size:
        raise ValueError("a %s has %d bytes, not %d" % (what, size, len(value)))
    return None if value is None else bytes(value)


def _link(value):
    """The key, version (0: none) and path ("": none) of a link."""
    if isinstance(value, (bytes, bytearray)):
        return _key(value, 32, "key"), 0, ""
    text, key, version = _utf8(value, "link"), ctypes.create_string_buffer(32), c_uint64()
    path = ctypes.create_string_buffer(len(text) + 1)
    code = _c.link_parse(text, key, byref(version), path, len(path))
    if code < 0:
        raise ValueError("%r: %s" % (value, {
            Code.UNSUPPORTED: "names can't be resolved here: a link needs the key",
            Code.INVALID: "behind the + a link has a version, 1 or above", Code.PATH: "the path in this link is none"}.get(
                code, "a link has 64 hexadecimal digits, with or without dat:// before them")))
    return key.raw, version.value, _text(path.value)


# ---------------------------------------------------------------- handles --------------------------------------------

_SIGNALS = sorted(signal.valid_signals())
_handles = set()  # what is open: closed at exit


class _Signals:
    """Python runs signal handlers wherever it is, so also where a callback begins; what they raise there is dropped by
    ctypes. In here they are noted, and run at the end, or when `deliver` is called."""

    def __enter__(self):
        self.noted, self.kept, self.on = [], {}, True
        if threading.current_thread() is threading.main_thread():
            try:
                for number in _SIGNALS:
                    handler = signal.getsignal(number)
                    if callable(handler):
                        self.kept[number] = handler
                        signal.signal(number, self._note)
            except BaseException:
                self.__exit__()
                raise
        return self

    def _note(self, number, frame):
        if self.on:
            self.noted.append((number, frame))
        else:
            self.kept[number](number, frame)

    def deliver(self):
        while self.noted:
            number, frame = self.noted.pop(0)
            self.kept[number](number, frame)

    def __exit__(self, *_):
        try:
            for number, handler in self.kept.items():
                signal.signal(number, handler)
        finally:  # if one that was put back has raised, those that were not pass their signals on
            self.on = False
            self.deliver()


class _Handle:
    """A feed or drive of the library, and what ends it in order: `with handle.lock: pointer = handle.use()`. `sync` is the
    synchronizer that uses it; `inside`: C is at work and may call back; `kept`: what C may still call. (Ctrl-C can come
    between any two steps of Python: only the lock's own `with` is sure to give it back.)"""

    def __init__(self, kind, pointer, where):
        self.kind, self.pointer, self.where, self.lock = kind, pointer, where, threading.RLock()
        self.sync, self.inside, self.doomed, self.kept = None, False, False, []
        _handles.add(self)

    def use(self):
        if self.sync is not None and self.sync.doomed:
            self.sweep()
        if self.pointer is None or self.inside:
            raise self.refusal("it is closed" if self.pointer is None else "called from inside its own callback")
        return self.pointer

    def refusal(self, why):
        return Error(Code.STATE, why, self.where)

    def refuse_inside(self):
        """What ends it must not be called by who holds it: in a callback, or in a signal handler during a call."""
        if self.lock._is_owned() and (self.inside or self.sync is not None and self.sync.thread is not None):
            raise self.refusal("it is in use by this thread")

    def close(self):
        while self.pointer is not None:
            self.refuse_inside()
            if self.sync is not None:
                self.sync.close()
            with self.lock, _Signals():
                if self.sync is None and self.pointer is not None:
                    pointer, self.pointer = self.pointer, None
                    _handles.discard(self)
                    _check((_c.feed_close if self.kind == "feed" else _c.drive_close)(pointer), self.where)

    def finish(self):
        """Its object was collected, in whatever thread."""
        if self.pointer is not None:
            self.doomed = True
            (self if self.sync is None else self.sync).sweep()
            warnings.warn("a %s was not closed: %s" % (self.kind, self.where), ResourceWarning, 2)

    def sweep(self):
        """End what was collected, but wait for nobody for long: the thread that serves does this when it ends, else the
        next call."""
        if self.lock.acquire(timeout=0.2):
            try:
                sync = self.sync
                if not self.inside and sync is not None and sync.doomed and sync.thread is None:
                    _check(sync.free(), self.where)
                if not self.inside and self.sync is None and self.doomed:
                    self.close()
            finally:
                self.lock.release()


@atexit.register
def _close_all():
    for handle in list(_handles):
        try:
            handle.close()
        except Exception:
            traceback.print_exc()


def _forked():
    """What the parent has open is closed for a child, to which the threads that may hold the locks did not come."""
    for handle in _handles:
        if handle.sync is not None:
            handle.sync.ds = handle.sync.thread = None
        handle.pointer, handle.sync, handle.lock = None, None, threading.RLock()
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class _Sync:
    """A synchronizer of one feed or drive, and what its events told. It has the handle's lock, but waits without it."""

    def __init__(self, handle):
        self.handle, self.address, self.failed, self.trouble, self.fault, self.refused = handle, None, 0, None, None, []
        self.bytes = self.seen = self.news = self.plan = self.planned = self.sent = 0
        self.ds, self.thread, self.complete, self.ending, self.doomed = c_void_p(), None, False, False, False
        self.net, self.callback = _Net.from_address(_c.os_net()), _callback("on_event", self._on_event)

    def open(self, mode, listen, peers, live=False, max_peers=0):
        handle = self.handle
        options = _Options(net=ctypes.addressof(self.net), live=live, max_peers=max_peers, on_event=_address(self.callback))
        with handle.lock, _Signals():
            pointer = handle.use()
            if handle.sync is not None:
                raise handle.refusal("it is shared or downloaded already")
            self.wakes = socket.socketpair()
            self.wakes[1].setblocking(False)  # one byte wakes as well as many
            handle.sync, handle.inside = self, True
            try:
                _check(_c.new(byref(self.ds), byref(options), _c.os_clock(None)))
                _check((_c.add if handle.kind == "feed" else _c.add_drive)(self.ds, pointer, mode), handle.where)
                for address in listen:
                    _check(_c.listen(self.ds, address), _text(address))
                for address in peers:
                    _check(_c.connect(self.ds, address, _c.os_clock(None)), _text(address))
            except BaseException:
                self.free()
                raise
            finally:
                handle.inside = False

    def _on_event(self, _, ds, event):
        try:
            e = _Event.from_address(event)
            if e.type == _Ev.BLOCK:
                self.bytes += e.size
                self.news += 1
                if self.handle.kind == "drive" and e.feed != _c.drive_metadata(self.handle.pointer):
                    self.planned += e.size
            elif e.type == _Ev.UPLOAD:
                self.sent += e.size
            elif e.type in (_Ev.DISCONNECTED, _Ev.UNREACHABLE, _Ev.REJECT):
                if e.error not in (Code.DONE, 0):
                    self.trouble = (e.error, _text(e.address))
            elif e.type == _Ev.PEER:
                self.seen += 1
            elif e.type == _Ev.LISTENING:
                self.address = _text(e.address)
            elif e.type == (_Ev.COMPLETE if self.handle.kind == "feed" else _Ev.VERSION):
                self.complete = True
            elif e.type == _Ev.FAILED:
                self.failed = e.error
            elif e.type == _Ev.PLAN:
                self.plan, self.planned = e.size, 0
            elif e.type in (_Ev.ENTRY, _Ev.REMOVED):
                self.news += 1
            elif e.type == _Ev.REFUSED:
                self.refused.append((_text(e.path), _error(e.error, _text(e.path))))
        except BaseException as error:
            self.fault = error

    def turn(self, wait):
        """Wait at most so many seconds for the network, then do what is to be done."""
        with self.handle.lock:
            self.handle.use()
            if not self.ds:
                raise self.handle.refusal("it is closed")
            count = _c.pollfds(self.ds, None, 0)
            fds = (_Pollfd * (count + 1))()
            _c.pollfds(self.ds, fds, count)
            fds[count].handle, fds[count].events = self.wakes[0].fileno(), _POLL_READ
            wait = min(max(_c.deadline(self.ds) - _c.os_clock(None), 0), math.ceil(wait * 1000))
        _check(self.net.poll(self.net.ctx, fds, count + 1, wait))
        with self.handle.lock, _Signals():
            if not self.ds:
                return
            self.handle.use()
            if fds[count].revents:
                self.wakes[0].recv(4096)
            self.handle.inside = True
            try:
                result = _c.step(self.ds, fds, count, _c.os_clock(None))
            finally:
                self.handle.inside = False
        if self.fault is not None:
            raise self.fault
        _check(self.failed or result, self.handle.where)

    def look(self, function, *arguments):
        """Ask C, which says nothing once this is closed."""
        with self.handle.lock:
            return function(self.ds, *arguments) if self.ds else 0

    def wake(self):
        try:
            self.wakes[1].send(b"!")
        except OSError:
            pass  # it has ended meanwhile

    def start(self):
        self.thread = threading.Thread(target=self._serve, name="datsync", daemon=True)
        self.thread.start()

    def _serve(self):
        try:
            while not self.ending:
                self.turn(60)
        except BaseException as error:
            self.fault = error
        finally:
            self.thread = None
            if self.doomed:
                self.handle.sweep()

    def free(self):
        with _Signals():
            ds, self.ds, self.handle.sync, self.callback = self.ds, None, None, None
            for wake in self.wakes:
                wake.close()
            return _c.free(ds)

    def close(self):
        if self.ds:
            self.handle.refuse_inside()
            self.ending, thread = True, self.thread
            if thread is not None:
                self.wake()
                thread.join()
            with self.handle.lock:
                if self.ds:
                    _check(self.free(), self.handle.where)

    def sweep(self):
        """It was collected: its thread ends it, or who has the lock."""
        self.ending = self.doomed = True
        if self.thread is not None:
            self.wake()
        self.handle.sweep()


# ---------------------------------------------------------------- feeds and drives -----------------------------------


class Progress(NamedTuple):
    """Where a download is. Of a feed, `held` and `total` are blocks: what is here, and what there is by the word of peers
    (it can grow). Of a drive they are bytes to download for its version, 0 until that is known. `held` never falls. `bytes`
    were verified in this call; `peers` are connected."""
    held: int
    total: int
    bytes: int
    peers: int


class Fault(NamedTuple):
    """What `Feed.verify` found: the block, and which file of the folder is wrong (`data`, `tree`, ...)."""
    index: int
    part: str


class Entry(NamedTuple):
    """A file or folder of a drive. `mode` is as that of os.stat, `mtime` in seconds. `version` is the entry's number, 0 for
    a folder without one. `error`: None, or the Code of why it must not be laid out."""
    path: str
    size: int
    mode: int
    mtime: float
    version: int
    error: object


class Imported(NamedTuple):
    """What `Drive.import_` did: how many files and folders, and a list of (path, Error)."""
    added: int
    updated: int
    removed: int
    refused: list


def _plug(function, plug, *arguments):
    _check(function(byref(plug), *arguments), _text(arguments[0]))


def _flags(create=False, read_only=False, sync=True, archive=False):
    flags = (create, _CREATE), (read_only, _READ_ONLY), (not sync, _NO_SYNC), (archive, _ARCHIVE)
    return sum(flag for wanted, flag in flags if wanted)


def _request(peers, more, *, progress=None, timeout=30.0, listen=None, rate=10):
    peers, listen = _addresses(peers), _addresses(listen)
    if not peers and not listen:
        raise ValueError("there is no discovery: name a peer, or listen for one")
    if progress is not None and not callable(progress):
        raise TypeError("progress is a function")
    if timeout is not None and not timeout > 0 or not rate > 0:
        raise ValueError("timeout and rate are above 0")
    return types.SimpleNamespace(peers=peers, progress=progress, timeout=timeout, listen=listen, rate=rate, **more)


class _Dat:
    """What feeds and drives have in common."""

    _h = None

    def __init__(self, *arguments):
        try:
            with _Signals():  # Ctrl-C comes when there is an object that can be closed
                self._open(*arguments)
        except BaseException:
            if self._h is not None:
                self.close()
            raise

    def _opened(self, folder, opener, options, key, secret_key, flags):
        where, pointer = os.fsdecode(folder or "") or "a %s in memory" % self._kind, c_void_p()
        options.key, options.secret_key, options.flags = key or (secret_key and secret_key[32:]), secret_key, flags
        _check(opener(byref(pointer), byref(options)), where)
        self._h, self._folder, self.refused = _Handle(self._kind, pointer.value, where), folder, []
        self._finalizer = weakref.finalize(self, self._h.finish)
        self._finalizer.atexit = False

    def _read(self, function, size=None):
        """A number of the object, or the bytes of its (metadata) feed."""
        with self._h.lock:
            p = self._h.use()
            found = function(p) if size is None else function(p if self._kind == "feed" else _c.drive_metadata(p))
            return found if size is None or not found else ctypes.string_at(found, size)

    key = property(lambda self: self._read(_c.feed_key, 32), doc="The public key, 32 bytes: who has it can read.")
    discovery_key = property(lambda self: self._read(_c.feed_discovery_key, 32), doc="32 bytes that may be told to strangers.")
    secret_key = property(lambda self: self._read(_c.feed_secret_key, 64),
                          doc="64 bytes, or None: who has it can write, and must do so in one place only.")
    link = property(lambda self: "dat://" + self.key.hex(), doc="`dat://` and the key in hexadecimal.")
    folder = property(lambda self: self._folder, doc="The folder as it was given; None: in memory.")
    closed = property(lambda self: self._h.pointer is None, doc="True after `close()`.")

    def flush(self):
        """Commit: when this returns, everything is durable, and may be told to peers."""
        self._commit(_c.feed_flush if self._kind == "feed" else _c.drive_flush)

    def _commit(self, function):
        with self._h.lock:
            p = self._h.use()
            _check(function(p), self._h.where)
            if self._h.sync is not None:
                self._h.sync.wake()

    def close(self):
        """End its sharing, commit, give back the lock. Closing twice is no error. It is closed even if the commit fails,
        which is an Error; it is not if a callback of its own calls this (Code.STATE)."""
        self._h.close()
        self._finalizer.detach()  # what a signal handler raises while it runs would be dropped

    def __enter__(self):
        with self._h.lock:
            self._h.use()
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        return "<datsync.%s %r%s>" % (type(self).__name__, self._h.where, " closed" if self.closed else "")

    def _download(self, request):
        """From the opened feed or drive to the end of a download. Returns what was refused."""
        with self._h.lock:
            p = self._h.use()
            if (_c.feed_writable if self._kind == "feed" else _c.drive_writable)(p):
                raise self._h.refusal("this is where it is written; nothing can be newer")
            self._prepare(p, request)
        told, told_at, news, fresh, limit = None, -math.inf, 0, time.monotonic(), request.timeout or math.inf
        with _Signals() as signals:  # Ctrl-C comes where this delivers it, and in progress; not while it ends
            sync = _Sync(self._h)
            try:
                sync.open(_DOWNLOAD | _UPLOAD, request.listen, request.peers)
                while not sync.complete:
                    sync.turn(max(min(0.5, fresh + limit - time.monotonic()), 0))
                    signals.deliver()
                    now = time.monotonic()
                    if sync.news != news:
                        news, fresh = sync.news, now
                    late = now - fresh >= limit
                    if not sync.complete and (late or not request.listen and not sync.look(_c.candidates)):
                        raise self._incomplete(sync, request, late)
                    if request.progress and (sync.complete or now - told_at >= 1 / request.rate):
                        held, total = self._counts(sync, request)
                        held = max(held, told.held if told else 0)
                        state = Progress(held, max(held, total), sync.bytes, sync.look(_c.peers))
                        if state != told or sync.complete:
                            told, told_at, signals.on = state, now, False
                            request.progress(state)
                            signals.on = True
                sync.look(_c.stop)
                while sync.look(_c.candidates):  # who is still speaking reads the end, within two seconds
                    sync.turn(1)
                    signals.deliver()
            finally:
                signals.on = True
                sync.close()
        return sync.refused

    def _incomplete(self, sync, request, late):
        code, who = sync.trouble or (Code.TIMEOUT if late else Code.CLOSED, None)
        why = "; %s: %s" % (who, _c.strerror(code).decode()) if who else ""
        if not sync.seen:
            return NoPeer(code, "no peer served this %s%s" % (self._kind, why), self._h.where)
        kept = "%d of %d %s are kept%s" % (*self._counts(sync, request), "blocks" if self._kind == "feed" else "bytes", why)
        if late:
            return Timeout(Code.TIMEOUT, "nothing came for %g s; %s" % (request.timeout, kept), self._h.where)
        return NoPeer(code, "not complete, and no peer is left; " + kept, self._h.where)


class Feed(_Dat):
    """A feed in a folder or in memory, as a sequence of blocks (`bytes`): `feed[i]`, `feed[a:b]`, `len(feed)`, iteration.
    The length is that of the longest signed tree known; a block that is not held here is NotFound."""
    _kind = "feed"

    @classmethod
    def create(cls, folder=None, *, secret_key=None, sync=True):
        """A new feed, with new keys or those of `secret_key`, in a folder that is made if need be (not those above it).
        Code.OTHER_FEED: it holds one already. `sync=False` never waits for the disk (see DATSYNC_NO_SYNC in datsync.h)."""
        return cls(folder, None, secret_key, _flags(create=True, sync=sync), True)

    @classmethod
    def open(cls, folder, *, key=None, secret_key=None, create=False, read_only=False, sync=True):
        """The feed that the folder holds; with `create` and a key, an empty one where there is none. `key` must be its key.
        `read_only` takes no lock. NotFound, Locked; Code.OTHER_FEED, KEY, CORRUPT, ACCESS, IO."""
        return cls(folder, key, secret_key, _flags(create, read_only, sync))

    def _open(self, folder, key, secret_key, flags, fresh=False):
        key, secret_key, name, options = _key(key, 32, "key"), _key(secret_key, 64, "secret key"), _folder(folder), _FeedOptions()
        store = options.store
        if name is not None:
            _plug(_c.os_store, store, name, None, flags)
            if fresh and store.read(store.ctx, 0, 0, ctypes.create_string_buffer(32), 32) == 32:
                store.close(store.ctx)
                raise _error(Code.OTHER_FEED, _text(name))
        self._opened(folder, _c.feed_open, options, key, secret_key, flags)

    byte_length = property(lambda self: self._read(_c.feed_byte_length), doc="The bytes of all blocks, held or not.")
    writable = property(lambda self: bool(self._read(_c.feed_writable)), doc="True if one can append: the secret key is here.")

    @property
    def held(self):
        """How many blocks are here."""
        with self._h.lock:
            p = self._h.use()
            return _c.feed_count(p, 0, _c.feed_length(p))

    def append(self, *blocks):
        """Append blocks, signed once, and return the new length. They are durable, and told to peers, after the next
        commit: `flush()`, or by itself within seconds while it is shared. ValueError: a block of over 8380416 bytes.
        Code.READ_ONLY, NO_SPACE, IO. After an Error nothing is appended."""
        kept = [block if isinstance(block, bytes) else bytes(memoryview(block)) for block in blocks]  # a str is a TypeError
        if any(len(block) > _MAX_BLOCK for block in kept):
            raise ValueError("a block has at most %d bytes" % _MAX_BLOCK)
        with self._h.lock:
            p = self._h.use()
            array = (_Bytes * len(kept))(*((block, len(block)) for block in kept))
            return _check(_c.feed_append(p, array, len(kept)) if kept else _c.feed_length(p), self._h.where)

    def _index(self, p, index):
        index, length = operator.index(index), _c.feed_length(p)
        return index + length if index < 0 else index, length

    def get(self, index):
        """The block with this index, as `feed[index]`. IndexError: there is none. NotFound: it is not held here."""
        with self._h.lock:
            p = self._h.use()
            index, length = self._index(p, index)
            if not 0 <= index < length:
                raise IndexError("no block %d: the length is %d" % (index, length))
            where = "%s: block %d" % (self._h.where, index)
            size = _check(_c.feed_block_size(p, index), where)
            block = ctypes.create_string_buffer(size + 1)
            return ctypes.string_at(block, _check(_c.feed_get(p, index, block, size), where))

    def has(self, index):
        """Is this block held here? False also where there is none."""
        with self._h.lock:
            p = self._h.use()
            index, length = self._index(p, index)
            return 0 <= index < length and bool(_c.feed_has(p, index))

    def __len__(self):
        return self._read(_c.feed_length)

    def __getitem__(self, index):
        return [self.get(i) for i in range(*index.indices(len(self)))] if isinstance(index, slice) else self.get(index)

    def __iter__(self):
        return (self.get(i) for i in range(len(self)))

    def verify(self):
        """Read everything, check it against the tree and its signature: a list of `Fault`, [] if all is well. What is faulty
        is held no more, unless the feed was opened for reading only."""
        faults = []
        note = _callback("fault_fn", lambda _, index, part: faults.append(Fault(index, _PARTS[part])))
        with self._h.lock, _Signals():
            p = self._h.use()
            _check(_c.feed_verify(p, note, None), self._h.where)
        return faults

    def pull(self, peers=(), **options):
        """Download what peers have, until all is here; the arguments and errors are those of `clone`."""
        self._download(self._request(peers, **options))

    @staticmethod
    def _request(peers, *, ranges=(), **options):
        ranges = [(operator.index(a), min(operator.index(b), _MAX_BLOCKS)) for a, b in ranges] or [(0, _MAX_BLOCKS)]
        if not all(0 <= a <= b for a, b in ranges):
            raise ValueError("a range of blocks is (start, end), with 0 <= start <= end")
        return _request(peers, {"ranges": ranges}, **options)

    def _prepare(self, p, request):
        _c.feed_unwant(p)
        for a, b in request.ranges:
            _check(_c.feed_want(p, a, b), self._h.where)

    def _counts(self, sync, request):
        with self._h.lock:
            p = self._h.use()
            length, offered = _c.feed_length(p), sync.look(_c.offered, p)
            length = max(length, offered) if offered <= _MAX_BLOCKS else length  # a wild word would make the total useless
            parts = [(a, min(b, length)) for a, b in request.ranges if a < min(b, length)]
            return sum(_c.feed_count(p, a, b) for a, b in parts), sum(b - a for a, b in parts)


def hidden(path, is_folder):
    """What `Drive.import_` leaves out by default, as the command does: dotfiles, but `.well-known/dat`."""
    name = path.rsplit("/", 1)[-1]
    if path.startswith("/.well-known/") and path.count("/") == 2:
        return name != "dat"
    return name.startswith(".") and not (is_folder and path == "/.well-known")


def _entry(e):
    return Entry(_text(e.path), e.stat.size, e.stat.mode, e.stat.mtime / 1000, e.version, Code(e.error) if e.error else None)


class Drive(_Dat):
    """A drive: a folder of files as `dat` keeps it, its two feeds in `.dat`; or all in memory. Secret keys are in
    `secret_dir` (~/.dat/secret_keys). Paths in a drive begin with `/`; a version is the number of an entry, None the
    newest, 0 the empty drive."""
    _kind = "drive"

    @classmethod
    def create(cls, folder, *, secret_key=None, secret_dir=None, archive=False, sync=True):
        """Make a folder a drive; then `import_` its files. `archive` keeps the content of all versions. No dat.json is
        written. Code.OTHER_FEED: it is a drive already. Otherwise as `Feed.create`."""
        return cls(folder, None, secret_key, secret_dir, _flags(True, False, sync, archive), True)

    @classmethod
    def open(cls, folder, *, key=None, secret_key=None, secret_dir=None, create=False, read_only=False, archive=False, sync=True):
        """The drive that the folder holds; otherwise as `Feed.open`. Code.HEADER: what it holds is not a drive."""
        return cls(folder, key, secret_key, secret_dir, _flags(create, read_only, sync, archive))

    def _open(self, folder, key, secret_key, secret_dir, flags, fresh=False):
        key, secret_key, name = _key(key, 32, "key"), _key(secret_key, 64, "secret key"), _folder(folder)
        options, secret_dir = _DriveOptions(), _folder(secret_dir)
        if name is not None:
            inside = name + b"/.dat"
            there = os.path.exists(os.fsdecode(inside + b"/metadata.key"))
            if fresh and there or not there and not flags & _CREATE:
                raise _error(Code.OTHER_FEED if fresh else Code.NOT_FOUND, _text(name))
            try:
                _plug(_c.os_files, options.files, name, flags)
                _plug(_c.os_store, options.metadata, inside, b"metadata.", flags)
                _plug(_c.os_store, options.content, inside, b"content.", flags)
                if _c.os_secrets(byref(options.secrets), secret_dir) < 0 and (secret_dir is not None or fresh or secret_key):
                    raise _error(Code.NO_ENTRY, "~/.dat/secret_keys" if secret_dir is None else _text(secret_dir))
            except BaseException:
                for plug in options.metadata, options.content, options.secrets, options.files:
                    if plug.close:
                        plug.close(plug.ctx)
                raise
        self._opened(folder, _c.drive_open, options, key, secret_key, flags)

    version = property(lambda self: self._read(_c.drive_version), doc="The newest version known.")
    writable = property(lambda self: bool(self._read(_c.drive_writable)), doc="True for the owner: the secret keys are here.")

    def _ask(self, function, p, version, path, *arguments):
        """Of a version: an Error if there is none, or if the metadata on the way is not here."""
        newest, path_ = _c.drive_version(p), _utf8(path, "path")
        version = newest if version is None else operator.index(version)
        if not 0 <= version <= newest:
            raise ValueError("there is no version %d: the newest is %d" % (version, newest))
        result = function(p, version, path_, *arguments) if version else Code.NOT_FOUND
        if result == Code.MORE:
            raise NotFound(Code.NOT_FOUND, "the metadata that this needs is not here", path)
        _check(result, path)

    def list(self, path="/", *, deep=True, version=None):
        """The files and folders beneath a path, a list of `Entry`; with `deep=False` only those in that folder itself.
        NotFound."""
        found = []
        note = _callback("entry_fn", lambda _, entry: found.append(_entry(_Entry.from_address(entry))) or 0)
        with self._h.lock, _Signals():
            p = self._h.use()
            if path != "/" or version != 0 and _c.drive_version(p):
                self._ask(_c.drive_list, p, version, path, deep, note, None, None)
        return found

    def read(self, path, *, version=None):
        """The bytes of a file, each block checked against the tree. NotFound: no such file, or it is not all here.
        Code.IS_FOLDER; HASH: the file in the folder was changed."""
        entry, parts, at, piece = _Entry(), [], 0, ctypes.create_string_buffer(1 << 20)
        with self._h.lock:
            p = self._h.use()
            self._ask(_c.drive_find, p, version, path, byref(entry), None)
            is_folder = entry.stat.mode & 0o170000 == 0o40000
            _check(Code.NOT_FOUND if entry.deleted else Code.IS_FOLDER if is_folder else entry.error, path)
            while at < entry.stat.size:
                got = _check(_c.drive_read(p, byref(entry), at, piece, len(piece)) or Code.NOT_FOUND, path)
                parts.append(ctypes.string_at(piece, got))
                at += got
        return b"".join(parts)

    def import_(self, *, ignore=hidden, progress=None):
        """As the owner, bring the drive up to its folder, commit, and return `Imported`. `ignore(path, is_folder)` true
        leaves a path out, and removes it from the drive; None ignores nothing. A .datignore is read by the command only:
        with the default it is a ValueError. `progress(path, done, size)` tells of files in bytes, of large ones several
        times. Symbolic links are refused. An exception keeps what was imported before it. Code.READ_ONLY."""
        rules = self._folder is not None and os.path.join(os.fsdecode(self._folder), ".datignore")
        if ignore is hidden and rules and os.path.lexists(rules):
            raise ValueError("%s has a .datignore, which is not read here: give `ignore`" % self._h.where)
        counts, refused, failed, options = dict.fromkeys(_CHANGES, 0), [], [], _ImportOptions()

        def on_ignore(_, path, is_folder):
            try:
                signals.deliver()
                if not failed:
                    return bool(ignore and ignore(_text(path), bool(is_folder)))
            except BaseException as error:
                failed.append(error)
            options.keep = 1  # from here on, nothing is put and nothing removed
            return 1

        def on_event(_, event):
            try:
                signals.deliver()
                e = _ImportEvent.from_address(event)
                change, path = _CHANGES[e.change], _text(e.path)
                if change == "refused":
                    refused.append((path, _error(e.error, path)))
                counts[change] += e.done == e.size
                if change in ("added", "updated") and progress and not failed:
                    progress(path, e.done, e.size)
            except BaseException as error:
                failed.append(error)
            return len(failed)

        thunks = _callback("ignore", on_ignore), _callback("import", on_event)
        options.ignore, options.on_event = map(_address, thunks)
        with self._h.lock, _Signals() as signals:
            p = self._h.use()
            self._h.inside = True
            try:
                result = _c.drive_import(p, byref(options))
            finally:
                self._h.inside = False
        if failed:
            raise failed[0]
        _check(result, self._h.where)
        return Imported(counts["added"], counts["updated"], counts["removed"], refused)

    def verify(self):
        """Check all files that should be here against the tree: a list of (path, Error), [] if all is well. Nothing is
        written."""
        faults = []
        note = _callback("fault", lambda _, entry, error: faults.append((_Entry.from_address(entry).path, error)))
        with self._h.lock, _Signals():
            p = self._h.use()
            _check(_c.drive_verify(p, byref(_Check(fault=_address(note), deep=1))), self._h.where)
        return [(_text(path), _error(error, _text(path))) for path, error in faults]

    def pull(self, peers=(), **options):
        """Download and lay out; the arguments and errors are those of `clone_drive`. Returns, and keeps in `refused`, a
        list of (path, Error): what was not laid out, or was changed here and is kept."""
        self.refused = self._download(self._request(peers, **options))
        return self.refused

    @staticmethod
    def _request(peers, *, version=None, select=None, force=False, **options):
        if version is not None and not 0 < operator.index(version) < 1 << 64:
            raise ValueError("a version to lay out is 1 or above")
        if select is not None and not callable(select):
            raise TypeError("select is a function")
        return _request(peers, {"version": version or 0, "select": select, "force": force}, **options)

    def _prepare(self, p, request):
        handle, select = self._h, request.select  # what the drive keeps must not keep the Drive

        def on_select(_, path):
            sync = handle.sync  # None: the files are only looked at
            try:
                return bool((sync is None or sync.fault is None) and select(_text(path)))
            except BaseException as error:
                if sync is not None:
                    sync.fault = error
                return 0

        layout = _Layout(version=request.version, force=request.force)
        if select is not None:
            handle.kept.append(_callback("select", on_select))
            layout.select = _address(handle.kept[-1])
        _c.drive_layout(p, byref(layout))

    def _counts(self, sync, request):
        return min(sync.planned, sync.plan), sync.plan


# ---------------------------------------------------------------- sharing and cloning --------------------------------


class Sharer:
    """Serves a feed or drive to all who come: what is given, or what a folder holds, which is then closed with it.

    It serves while it is let: `start()` a thread, as `share` does, or call `step` in a loop of your own; `close` it, or use
    `with`. `peers` are dialled as well. With `live`, connections stay after everything is there. More than `max_peers` are
    refused. A feed or drive is shared once, and not while it is downloaded (Code.STATE). Code.IN_USE, ADDRESS: of `listen`.
    A drive's owner should `import_` first: a file that was changed since is not served."""

    def __init__(self, what, listen="127.0.0.1:0", *, peers=(), live=False, max_peers=64):
        listen, peers = _addresses(listen), _addresses(peers)
        if not listen and not peers or not 0 < operator.index(max_peers) < 1 << 31:
            raise ValueError("listen, or name a peer; max_peers is above 0")
        self._own = None if isinstance(what, _Dat) else open(what)
        self._what = what if self._own is None else self._own
        self._sync = _Sync(self._what._h)
        self._finalizer = weakref.finalize(self, self._sync.sweep)
        self._finalizer.atexit = False
        try:
            self._sync.open(_UPLOAD, listen, peers, live, max_peers)
        except BaseException:
            self.close()
            raise

    address = property(lambda self: self._sync.address, doc="HOST:PORT where it listens, or None; 0 has become the port chosen.")
    link = property(lambda self: self._what.link, doc="The link of what is shared.")
    peers = property(lambda self: self._sync.look(_c.peers), doc="How many are connected.")
    sent = property(lambda self: self._sync.sent, doc="The bytes of the blocks that were sent.")
    error = property(lambda self: self._sync.fault, doc="What ended the thread, or None; `close` raises it.")

    def start(self):
        """Serve in a thread of its own."""
        self.step(0)
        self._sync.start()
        return self

    def step(self, timeout=1.0):
        """One turn: wait at most so many seconds for the network, then do what is to be done."""
        if self._sync.thread is not None:
            raise self._what._h.refusal("its thread serves")
        self._sync.turn(timeout)

    def close(self):
        """End all connections and commit; close what it opened. Raises what ended the thread, once."""
        try:
            self._sync.close()
            self._finalizer.detach()
        finally:
            if self._own is not None:
                self._own.close()
        fault, self._sync.fault = self._sync.fault, None
        if fault is not None:
            raise fault

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def share(what, listen="127.0.0.1:0", **options):
    """A `Sharer` of a feed, a drive or a folder, with these options, which serves in a thread of its own until it is
    closed."""
    return Sharer(what, listen, **options).start()


def open(folder, **options):
    """The `Drive` or `Feed` that a folder holds, with the options of its class's `open`."""
    key = os.path.join(os.fsdecode(folder), ".dat", "metadata.key")
    return (Drive if os.path.exists(key) else Feed).open(folder, **options)


def _pulled(opened, request):
    try:
        opened.refused = opened._download(request)
    except BaseException:
        opened.close()
        raise
    return opened


def clone(link, folder=None, peers=(), *, sync=True, **options):
    """Download a feed into a folder (or memory) and return it, open. It goes on where it was interrupted.

    `link`: `dat://KEY`, 64 digits, `https://HOST/KEY`, or the key. `peers`: addresses, HOST:PORT. Options: `progress(Progress)` is called where
    something changed, at most `rate` (10) times a second, and at the end. `timeout` (30): seconds without a new verified
    byte; None: no limit. `ranges`: only the blocks of these pairs (start, end). `listen`: an address where peers can come.

    Errors: NoPeer, Timeout, Locked; Code.OTHER_FEED: another feed is there; STATE: this is where it is written; those of
    `Feed.open`. After any, as after an exception in `progress` and after Ctrl-C, what came is kept and the feed is
    closed."""
    key, version, path = _link(link)
    if version or path:
        raise ValueError("%r: a feed has neither versions nor paths" % link)
    request = Feed._request(peers, **options)
    return _pulled(Feed.open(folder, key=key, create=True, sync=sync), request)


def clone_drive(link, folder=None, peers=(), *, secret_dir=None, archive=False, sync=True, **options):
    """Download a drive, lay out its files in a folder (or keep them in memory, for `read`), and return it, open: as
    `clone`, but for `ranges`. Look at `refused` of what is returned (see `Drive.pull`). `version`: another than the newest
    (Code.NOT_FOUND: there is none). `select(path)` false leaves a file out. A link's `+VERSION` is `version`, its `/PATH`
    selects that file or folder. `force` overwrites what was changed here. A
    folder that has files and is no drive is refused (Code.STATE), but with `force`."""
    key, version, path = _link(link)
    if version and options.setdefault("version", version) not in (None, version):
        raise ValueError("%r: version names another, %r" % (link, options["version"]))
    if path:
        if options.get("select") is not None:
            raise ValueError("%r: select contradicts the path in this link" % link)
        options["select"] = lambda at: at == path or at.startswith(path + "/")
    if version:
        options["version"] = version
    request = Drive._request(peers, **options)
    if folder is not None and not request.force and os.path.isdir(folder):
        names = os.listdir(os.fsdecode(folder))
        if names and ".dat" not in names:
            raise Error(Code.STATE, "it is not empty, and no drive is here", os.fsdecode(folder))
    return _pulled(Drive.open(folder, key=key, create=True, secret_dir=secret_dir, archive=archive, sync=sync), request)
