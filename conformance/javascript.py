"""Where node is and the packages of js/package.json: in DATSYNC_JS, DEPS or build/js (make interop installs them)."""

import os
import shutil

HERE = os.path.dirname(os.path.abspath(__file__))
NODE = shutil.which("node")
REASON = "there is no node" if NODE is None else "the JavaScript packages are not installed: make interop"


def packages(one):
    """The folder in whose node_modules this one is, or None."""
    places = os.environ.get("DATSYNC_JS"), os.environ.get("DEPS"), os.path.join(HERE, "..", "build", "js")
    return next((os.path.abspath(d) for d in places if d and os.path.isdir(os.path.join(d, "node_modules", one))), None)


DEPS = packages("hypercore")
# Where dat 13 is, and what finds peers for it (js/discovery/package.json): in DATSYNC_REAL_DAT or beneath DEPS.
REAL_DAT = next((d for d in (os.environ.get("DATSYNC_REAL_DAT"), DEPS and os.path.join(DEPS, "discovery"))
                 if d and os.path.isdir(os.path.join(d, "node_modules", "dat"))), None)
