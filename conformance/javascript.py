"""Where node is and the packages of js/package.json: in DATSYNC_JS, DEPS or build/js (make interop installs them)."""

import os
import shutil

HERE = os.path.dirname(os.path.abspath(__file__))
NODE = shutil.which("node")
REASON = "there is no node" if NODE is None else "the JavaScript packages are not installed: make interop"
PLACES = [os.path.abspath(d) for d in (os.environ.get("DATSYNC_JS"), os.environ.get("DEPS"), os.path.join(HERE, "..", "build", "js"))
          if d]


def first_with(one, folders):
    """The folder in whose node_modules this one is, or None."""
    return next((d for d in folders if os.path.isdir(os.path.join(d, "node_modules", one))), None)


def packages(one):
    return first_with(one, PLACES)


DEPS = packages("hypercore")
# Where dat 13 is, and what finds peers for it (js/discovery/package.json): in DATSYNC_REAL_DAT or beneath those.
REAL_DAT = first_with("dat", [os.environ.get("DATSYNC_REAL_DAT", ""), *(os.path.join(d, "discovery") for d in PLACES)])
