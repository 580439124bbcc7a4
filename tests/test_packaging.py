"""Inside other projects: the examples as their heads say, what the two files need and give, and what `make install` and
`make dist` leave.

DATSYNC_INSTALLED: a root into which Debian packages were unpacked, instead of what `make install` installs (make check-deb).
"""

import glob
import os
import re
import shutil
import subprocess
import tarfile

import pytest

import tools
from tools import ROOT, share

INSTALLED = os.environ.get("DATSYNC_INSTALLED")
CAREFUL = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
# A make that is called here begins anew.
ENV = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def call(*words, **options):
    """What a program prints, which must succeed."""
    done = subprocess.run([str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=300,
                          env=dict(ENV, **options.pop("env", {})), check=False, **options)
    assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout


def needs(*programs):
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip("there is no " + program)


def source(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def sentences(text):
    """C or C++ without its comments."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.S)


# ---- dropped in -----------------------------------------------------------------------------------

def compiled(name, scratch):
    """An example beside the files that it needs, made by the line of its own head."""
    needs("cc", "c++")
    for file in ("examples/" + name, "datsync.c", "datsync.h", "net_posix.c"):
        shutil.copy(os.path.join(ROOT, file), scratch)
    line = re.search(r"^(?: \*|//) +((?:cc|c\+\+) .+)$", source("examples/" + name), re.M).group(1)
    call("sh", "-c", line, cwd=scratch)
    return os.path.join(scratch, os.path.splitext(name)[0])


def clones(program, tmp_path, **env):
    """A program that takes a link, an address and a folder downloads a feed."""
    made = tools.make_folder(str(tmp_path / "feed"), 500)
    with share(tmp_path / "feed") as server:
        copy = str(tmp_path / "copy")
        assert "500 blocks\n" in call(program, "dat://" + made.key.hex(), "127.0.0.1:%d" % server.port, copy, env=env)
        server.stop()
    tools.assert_folder(copy, made)


@pytest.mark.parametrize("name", ["embed.c", "foreign_loop.c", "embed_cxx.cpp"])
def test_the_examples_clone(name, tmp_path):
    (tmp_path / "scratch").mkdir()
    program = compiled(name, str(tmp_path / "scratch"))
    clones(program, tmp_path)
    assert subprocess.run([program], timeout=10, stderr=subprocess.DEVNULL, check=False).returncode == 2


def test_the_example_without_a_system(tmp_path):
    assert call(compiled("bare.c", str(tmp_path))) == "no files\nno sockets\nno clock\n"


STANDARD = ["limits.h", "stdio.h", "stdlib.h", "string.h"]
# All that datsync.c asks of the world: the C library's functions that every system has, and libsodium's.
WANTED = """
crypto_core_hsalsa20 crypto_generichash crypto_generichash_final crypto_generichash_init crypto_generichash_update
crypto_kdf_derive_from_key crypto_shorthash crypto_sign_detached crypto_sign_seed_keypair crypto_sign_verify_detached
crypto_stream_salsa20_xor_ic randombytes_buf sodium_init sodium_is_zero sodium_memzero
bsearch free memchr memcmp memcpy memmove memset qsort realloc snprintf strchr strcmp strcpy strlen strrchr
""".split()


def wants(compiler, file, out):
    """As written: the compiler neither brings functions of its own, but tcc, nor replaces one by another."""
    plain = ["-fno-builtin"] if compiler != "tcc" else []
    call(compiler, "-std=c99", "-O0", *plain, "-fno-stack-protector", "-c", "-o", out, os.path.join(ROOT, file))
    found = set(call("nm", "-u", out).split()) - {"U"}
    own = {name for name in found if name.startswith("__") or name == "_GLOBAL_OFFSET_TABLE_"}
    assert compiler == "tcc" or not own
    return sorted(found - own)


@pytest.mark.parametrize("compiler", ["gcc", "clang", "tcc"])
def test_what_datsync_needs(compiler, tmp_path):
    """Nothing of an operating system, with or without optimisation: neither in a header nor in a symbol."""
    needs(compiler, "nm")
    included = re.findall(r'^#include [<"](.+)[>"]', source("datsync.c"), re.M)
    assert included == ["datsync.h"] + STANDARD + ["sodium.h"]
    assert re.findall(r"^#include <(.+)>", source("datsync.h"), re.M) == ["stddef.h", "stdint.h"]
    assert wants(compiler, "datsync.c", tmp_path / "o") == sorted(WANTED)


# The same of discovery.c: of datsync.c it calls only what hands found peers over.
WANTED_BY_DISCOVERY = """
datsync_dht_add datsync_dht_answered datsync_dht_bootstrap datsync_dht_datagram datsync_dht_deadline datsync_dht_free
datsync_dht_new datsync_dht_remove datsync_dht_save datsync_dht_status datsync_dht_step
datsync_found datsync_interest datsync_ip_parse datsync_ip_text
crypto_hash_sha256_final crypto_hash_sha256_init crypto_hash_sha256_update crypto_shorthash randombytes_buf
sodium_base642bin sodium_bin2base64 sodium_bin2hex sodium_init sodium_is_zero sodium_memcmp sodium_memzero
free memchr memcmp memcpy memmove memset realloc strchr strlen strrchr
""".split()


@pytest.mark.parametrize("compiler", ["gcc", "clang", "tcc"])
def test_what_discovery_needs(compiler, tmp_path):
    needs(compiler, "nm")
    assert re.findall(r'^#include [<"](.+)[>"]', source("discovery.c"), re.M) == ["discovery.h", "sodium.h", "stdlib.h", "string.h"]
    assert re.findall(r'^#include [<"](.+)[>"]', source("discovery.h"), re.M) == ["datsync.h"]
    assert wants(compiler, "discovery.c", tmp_path / "o") == sorted(WANTED_BY_DISCOVERY)


@pytest.mark.parametrize("file", ["datsync.c", "discovery.c", "discovery_dht.c", "net_posix.c"] + sorted("cli/" + os.path.basename(f) for f in glob.glob(ROOT + "/cli/*.c")))
def test_ndebug_changes_nothing(file, tmp_path):
    needs("cc")
    for name, flags in (("with", ["-DNDEBUG"]), ("without", [])):
        call("cc", "-std=c99", "-O1", *flags, "-I", ROOT, "-c", "-o", tmp_path / name, os.path.join(ROOT, file))
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()


# ---- the library ----------------------------------------------------------------------------------

def public():
    """The functions that the headers declare."""
    text = re.sub(r"^#.*$", "", sentences(source("datsync.h") + source("discovery.h")), flags=re.M)
    text = re.sub(r"typedef\b[^;{]*\([^;{]*;|\{[^{}]*\}", ";", text.replace('extern "C" {', ""))
    while "{" in text:
        text = re.sub(r"\{[^{}]*\}", ";", text)
    return sorted(re.findall(r"\b(datsync_\w+)\(", text))


def library():
    """The shared library, of this build or installed."""
    if INSTALLED:
        return next(os.path.join(at, name) for at, _, names in os.walk(INSTALLED) for name in names if name == "libdatsync.so.0")
    path = os.path.join(ROOT, "build", "libdatsync.so")
    if not os.path.exists(path):
        pytest.skip("build/libdatsync.so is not built: make")
    return path


def test_what_the_library_gives():
    """Just the functions of the headers, under the name of its interface; Debian's list of its symbols is the same."""
    needs("nm", "readelf")
    given = [line.split()[-1] for line in call("nm", "-D", "--defined-only", library()).splitlines()]
    assert sorted(given) == public() and len(given) > 100
    assert "Library soname: [libdatsync.so.0]" in call("readelf", "-d", library())


def test_the_list_of_symbols():
    """That of the Debian package, by which a symbol that goes or comes is noticed."""
    listed = re.findall(r"^ (\w+)@Base 0\.1\.0$", source("packaging/debian/libdatsync0.symbols"), re.M)
    assert listed == public()


# ---- installed ------------------------------------------------------------------------------------

PLACES = ["bin/datsync", "include/datsync.h", "include/discovery.h", "LIB/cmake/datsync/datsync-config-version.cmake", "LIB/cmake/datsync/datsync-config.cmake",
          "LIB/libdatsync.a", "LIB/libdatsync.so", "LIB/libdatsync.so.0", "LIB/libdatsync.so.0.1.0", "LIB/pkgconfig/datsync.pc",
          "share/bash-completion/completions/datsync", "share/fish/vendor_completions.d/datsync.fish",
          "share/man/man1/datsync.1", "share/man/man3/datsync.3", "share/zsh/ZSH/_datsync"]


class Place:
    """Where it is installed: the root before the prefix, and the folders."""

    def __init__(self, root, prefix, lib, zsh):
        self.root, self.prefix, self.zsh = str(root), str(root) + prefix, zsh
        self.lib = os.path.join(self.prefix, lib)
        self.env = {"LD_LIBRARY_PATH": self.lib, "PKG_CONFIG_PATH": os.path.join(self.lib, "pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": self.root}

    def files(self):
        found = [os.path.relpath(os.path.join(at, name), self.prefix) for at, _, names in os.walk(self.prefix) for name in names]
        lib = os.path.relpath(self.lib, self.prefix)
        return sorted(re.sub(r"\.gz$", "", f.replace(self.zsh, "ZSH")) if "/zsh/" in f or "/man/" in f else
                      re.sub("^%s/" % re.escape(lib), "LIB/", f) for f in found)


def make_install(root, target="install"):
    call("make", "-C", ROOT, target, "DESTDIR=%s" % root, "PREFIX=/opt/datsync")
    return Place(root, "/opt/datsync", "lib", "site-functions")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Everything under a root of its own; what moves there as a whole still finds itself."""
    if INSTALLED:
        triple = call("gcc", "-print-multiarch").strip()
        return Place(INSTALLED, "/usr", "lib/" + triple, "vendor-completions")
    needs("make", "cc")
    library()
    return make_install(tmp_path_factory.mktemp("root"))


def test_installed_files(installed):
    own = [f for f in installed.files() if not f.startswith(("share/doc/", "share/doc-base/", "lib/python3/"))]
    assert own == sorted(PLACES)
    assert re.fullmatch(r"datsync \d+\.\d+\.\d+\n", call(os.path.join(installed.prefix, "bin", "datsync"), "--version"))


@pytest.mark.skipif(not INSTALLED, reason="only the Debian packages bring the Python binding")
def test_installed_for_python(installed, tmp_path):
    """The system's Python finds the module, and that the library beside it."""
    program = "import datsync; feed = datsync.Feed.create(None); feed.append(b'1', b'2'); print(len(feed), feed[1], datsync.__file__)"
    place = os.path.join(installed.prefix, "lib", "python3", "dist-packages")
    said = call("/usr/bin/python3", "-W", "ignore", "-c", program, cwd=tmp_path, env=dict(installed.env, PYTHONPATH=place, DATSYNC_LIBRARY=""))
    assert said == "2 b'2' %s/datsync.py\n" % place


@pytest.mark.parametrize("how", ["shared", "static"])
def test_installed_by_pkg_config(installed, how, tmp_path):
    needs("cc", "pkg-config")
    words = call("pkg-config", *["--static"] * (how == "static"), "--cflags", "--libs", "datsync", env=installed.env)
    if how == "static":  # the library is, the system's are not
        words = words.replace("-ldatsync", "-Wl,-Bstatic -ldatsync -Wl,-Bdynamic")
    call("cc", "-std=c99", *CAREFUL, "-o", tmp_path / "embed", os.path.join(ROOT, "examples", "embed.c"), *words.split())
    needed = call("readelf", "-d", tmp_path / "embed")
    assert ("[libdatsync.so.0]" in needed) == (how == "shared")
    clones(tmp_path / "embed", tmp_path, **installed.env)
    assert call("pkg-config", "--modversion", "datsync", env=installed.env) == call(
        os.path.join(installed.prefix, "bin", "datsync"), "--version").replace("datsync ", "")


@pytest.mark.parametrize("target", ["datsync", "static"])
def test_installed_by_cmake(installed, target, tmp_path):
    """find_package from C++, with either target."""
    needs("cmake", "c++")
    (tmp_path / "CMakeLists.txt").write_text("""
cmake_minimum_required(VERSION 3.10)
project(mine CXX)
set(CMAKE_CXX_STANDARD 17)
find_package(datsync 0.1 REQUIRED)
add_executable(mine "%s/examples/embed_cxx.cpp")
target_link_libraries(mine PRIVATE datsync::%s)
""" % (ROOT, target))
    call("cmake", "-S", tmp_path, "-B", tmp_path / "build", "-DCMAKE_PREFIX_PATH=" + installed.prefix,
         "-Ddatsync_DIR=" + os.path.join(installed.lib, "cmake", "datsync"))
    call("cmake", "--build", tmp_path / "build")
    needed = call("readelf", "-d", tmp_path / "build" / "mine")
    assert ("[libdatsync.so.0]" in needed) == (target == "datsync")
    clones(tmp_path / "build" / "mine", tmp_path, **installed.env)


@pytest.mark.parametrize("version, found", [("0.1", True), ("0.1.0", True), ("0.2", False), ("1.0", False), ("0.0", False), ("0.1.9", False)])
def test_installed_for_cmake_as_a_version(installed, version, found, tmp_path):
    needs("cmake")
    (tmp_path / "CMakeLists.txt").write_text("""
cmake_minimum_required(VERSION 3.10)
project(mine NONE)
find_package(datsync %s CONFIG)
message(STATUS "it is found: ${datsync_FOUND}")
""" % version)
    said = call("cmake", "-S", tmp_path, "-B", tmp_path / "build", "-Ddatsync_DIR=" + os.path.join(installed.lib, "cmake", "datsync"))
    assert ("it is found: 1" in said) == found, said


def test_uninstall_takes_it_back(tmp_path):
    needs("make", "cc")
    library()
    assert make_install(tmp_path).files() == sorted(PLACES)
    assert make_install(tmp_path, "uninstall").files() == []


# ---- the tarball ----------------------------------------------------------------------------------

def test_dist_is_what_is_committed(tmp_path):
    needs("make", "git")
    if not os.path.exists(os.path.join(ROOT, ".git")):
        pytest.skip("this is not a git checkout")
    call("git", "clone", "-q", ROOT, tmp_path / "clone")
    first = tmp_path / "clone" / "build" / "datsync-0.1.0.tar.gz"
    call("make", "-C", tmp_path / "clone", "dist")
    with tarfile.open(first) as tar:
        names = [m.name for m in tar if not m.isdir()]
        content = tar.extractfile("datsync-0.1.0/datsync.c").read()
    committed = call("git", "-C", ROOT, "-c", "core.quotePath=off", "ls-tree", "-r", "-z", "--name-only", "HEAD").split("\0")[:-1]
    assert sorted(names) == sorted("datsync-0.1.0/" + name for name in committed)
    assert content == (tmp_path / "clone" / "datsync.c").read_bytes()
    before = first.read_bytes()
    os.remove(first)
    call("make", "-C", tmp_path / "clone", "dist")
    assert first.read_bytes() == before  # the same each time
