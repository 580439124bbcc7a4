# datsync. GNU make. The targets (make help):
#
#   all        build/datsync, build/libdatsync.a, build/libdatsync.so
#   deps       install what is missing to build and test (Debian; elsewhere it says what to install); with ALL=1 what the
#              builds for other systems and packages need, too (2 GB)
#   demo       a feed made of this project's own files, cloned between two processes
#   quick      the vectors, the tests of the core and the suite's first conversation, without sanitizers: a minute
#   check      all tests under ASan and UBSan, and all warnings of gcc and clang
#   check-clang  the messages, peers, discovery and the C interface among them under clang's sanitizers
#   check-small  what does not need drives, or the synchronizer, without them
#   conformance  the conformance suite on PEER='command' (datsync's adapter); report in build/conformance
#   coverage   which lines of datsync.c the tests of check run, and which they do not
#   mutate     small faults planted in datsync.c, one at a time, against the tests (ten minutes; MUTATE='--count 30' tries a few)
#   bugs       every planted bug against all cases (most of an hour; check tries a few of them for each)
#   interop    tests with the JavaScript peers: nine versions of hypercore, two of hyperdrive
#   check-all  everything that is for other places, where the tools for it are; says what it left out. Alone:
#     check-WAY  a build for another processor, library, compiler or system, run in emulation where it must be: the conformance
#                suite, the vectors, clones from and to this system's build and JS.
#                WAY: i386 s390x mips armhf aarch64 musl tcc win32
#     check-dist check-deb  what `dist` and `deb` make, unpacked or installed, and tested
#   dist deb   a tarball of the sources; Debian packages; in build/
#   valgrind   a part of the suite under valgrind
#   lab        what the laboratory makes of SEED=NUMBER: a number that fails is shrunk, and told as a story
#   soak       10,000 numbers of the laboratory (SOAK=N: as many), and its planted faults
#   bench      the benchmark
#   install    with PREFIX and DESTDIR; uninstall takes it back
#   warnings format format-check clean
#
# CC, CFLAGS, CPPFLAGS, LDFLAGS and LDLIBS are the user's; WERROR= lets warnings be. TESTS='tests/test_x.py -k y' narrows
# each check; JOBS=N runs N tests at once, JOBS=0 one by one in pytest itself; TRIES=2 tries what failed once more, alone.

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDARY:

ifeq ($(origin CC),default)
CC := cc
endif
CFLAGS ?= -O2 -g
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
TESTS ?= conformance tests

VERSION := $(shell sed -n 's/^.define DATSYNC_VERSION "\(.*\)"/\1/p' datsync.h 2>/dev/null)
SOVERSION := 0
SYSTEM := $(shell uname -s)
WERROR ?= -Werror
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion $(WERROR)
WARN := -std=c99 $(WARNINGS)
SODIUM_CFLAGS := $(shell pkg-config --cflags libsodium 2>/dev/null)
SODIUM_LIBS := $(shell pkg-config --libs libsodium 2>/dev/null || echo -lsodium)
COMPILE = $(CC) $(WARN) $(CPPFLAGS) $(SODIUM_CFLAGS)
LINK = $(CFLAGS) $(LDFLAGS)
# net_posix.c looks up names in threads, which older C libraries keep apart (glibc before 2.34).
LIBS = $(SODIUM_LIBS) -pthread $(LDLIBS)

SOURCES := datsync.c discovery.c discovery_dht.c net_posix.c
HEADERS := datsync.h discovery.h
CLI := $(sort $(wildcard cli/*.c))
CLI_H := $(sort $(wildcard cli/*.h))
EXAMPLES := embed foreign_loop bare
EXAMPLES_CXX := embed_cxx
SANITIZE := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all

# Only datsync_... leaves the shared library.
ifeq ($(SYSTEM),Darwin)
SHARED := libdatsync.$(SOVERSION).dylib
SHARED_LINK := libdatsync.dylib
SHARED_REAL := $(SHARED)
SHARED_FLAGS = -dynamiclib -install_name $(LIBDIR)/$(SHARED) -Wl,-exported_symbols_list,build/exports
EXPORTS := _datsync_*
else
SHARED := libdatsync.so.$(SOVERSION)
SHARED_LINK := libdatsync.so
SHARED_REAL := libdatsync.so.$(VERSION)
SHARED_FLAGS = -shared -Wl,-soname,$(SHARED) -Wl,--version-script,build/exports
EXPORTS := { global: datsync_*; local: *; };
endif

# ---------------------------------------------------------------- building ----------------------------------------

.PHONY: all
all: build/datsync build/libdatsync.a build/$(SHARED_LINK)

build/datsync: $(CLI:%.c=build/%.o) build/libdatsync.a
	$(CC) $(LINK) -o $@ $^ $(LIBS)

build/libdatsync.a: $(SOURCES:%.c=build/%.o)
	rm -f $@
	$(AR) rcs $@ $^

build/$(SHARED_REAL): $(SOURCES:%.c=build/pic/%.o) build/exports
	$(CC) $(LINK) $(SHARED_FLAGS) -o $@ $(filter %.o,$^) $(LIBS)

build/$(SHARED_LINK): build/$(SHARED_REAL)
	test $(SHARED) = $(SHARED_REAL) || ln -sf $(SHARED_REAL) build/$(SHARED)
	ln -sf $(SHARED_REAL) $@

build/exports: Makefile
	mkdir -p build
	echo '$(EXPORTS)' > $@

build/cli/%.o: cli/%.c $(CLI_H) $(HEADERS) | need-cc need-sodium
	mkdir -p build/cli
	$(COMPILE) $(CFLAGS) -I. -c -o $@ $<

build/%.o: %.c $(HEADERS) | need-cc need-sodium
	mkdir -p build
	$(COMPILE) $(CFLAGS) -c -o $@ $<

build/pic/%.o: %.c $(HEADERS) | need-cc need-sodium
	mkdir -p build/pic
	$(COMPILE) $(CFLAGS) -fPIC -c -o $@ $<

build/examples/%: examples/%.c build/libdatsync.a datsync.h
	mkdir -p build/examples
	$(COMPILE) $(LINK) -I. -o $@ $< build/libdatsync.a $(LIBS)

build/examples/%: examples/%.cpp build/libdatsync.a datsync.h
	mkdir -p build/examples
	$(CXX) -std=c++17 $(WARNINGS) $(CPPFLAGS) $(LINK) -I. -o $@ $< build/libdatsync.a $(LIBS)

# No file of the operating system's: datsync.c and libsodium alone.
build/examples/bare: examples/bare.c build/datsync.o datsync.h
	mkdir -p build/examples
	$(COMPILE) $(LINK) -I. -o $@ $< build/datsync.o $(LIBS)

.PHONY: examples
examples: $(EXAMPLES:%=build/examples/%) $(EXAMPLES_CXX:%=build/examples/%)

# ---------------------------------------------------------------- what is needed ----------------------------------

# One line for what is missing, and which target brings it.
MISSING = { echo "datsync: $(1) is missing: run 'make deps$(2)', or install it" >&2; exit 1; }
NEED = @command -v $(1) >/dev/null 2>&1 || $(call MISSING,$(2),$(3))

.PHONY: need-cc need-sodium need-pytest
need-cc:
	$(call NEED,$(firstword $(CC)),a C compiler ($(CC)))
need-sodium: | need-cc
	@echo '#include <sodium.h>' | $(CC) $(CPPFLAGS) $(SODIUM_CFLAGS) -E - >/dev/null 2>&1 || $(call MISSING,libsodium with its header)
need-pytest:
	@$(PYTHON) -c 'import pytest' 2>/dev/null || $(call MISSING,pytest for $(PYTHON))

# The distribution's Python if it has pytest (a Python of one's own may shadow it), else what there is.
PYTHON = $(eval PYTHON := $$(shell /usr/bin/python3 -c 'import pytest' 2>/dev/null && echo /usr/bin/python3 || echo python3))$(PYTHON)
PYTEST = PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/build/pycache $(PYTHON) -m pytest -o cache_dir=$(CURDIR)/build/pytest $(PYTEST_FLAGS)
UNDER_TEST = export DATSYNC=$(CURDIR)/$(1)/datsync$(2) DATSYNC_PROBE=$(CURDIR)/$(1)/probe$(2) DATSYNC_ADAPTER=$(CURDIR)/$(1)/adapter$(2) \
	DATSYNC_API=$(CURDIR)/$(1)/api$(2) DATSYNC_LAB=$(CURDIR)/$(1)/lab$(2) DATSYNC_DISCOVERY=$(CURDIR)/$(1)/discovery$(2) \
	DATSYNC_DHT=$(CURDIR)/$(1)/dht$(2) DATSYNC_NATIVE_LAB=$(CURDIR)/build/lab;

# Programs for the tests and deps; other processors and systems; install and packages. The suite needs none of them: it runs on
# conformance/ and vectors/ alone.
include $(wildcard tests/tests.mk tests/everywhere.mk packaging/packaging.mk)

# ---------------------------------------------------------------- testing -----------------------------------------

.PHONY: help quick check check-clang check-small conformance coverage mutate bugs interop valgrind lab soak bench demo
help:
	@sed -n '/^#   /,/^$$/s/^# \{0,1\}//p' Makefile

QUICK_TESTS := vectors api files feed peer drive discovery walls cli_walls
quick: build/datsync build/api build/probe build/adapter build/discovery | need-pytest
	$(call UNDER_TEST,build) $(call TEST,not interop and not everywhere,$(call TESTS_OR,$(QUICK_TESTS)) \
		$(if $(filter file,$(origin TESTS)),'conformance/test_conformance.py::test_case[sanity/first]'))

check: all $(call programs_of,asan) build/lab warnings | need-pytest
	$(call UNDER_TEST,build/asan) export DATSYNC_FAST=$(CURDIR)/build/datsync DATSYNC_SCREENSHOTS=$(CURDIR)/build/screenshots; \
		$(call TEST,not interop and not everywhere,$(TESTS))

# A part of it under clang's sanitizers: the messages, peers, discovery and the C interface.
CLANG_TESTS := api vectors peer discovery
check-clang: build/clang/probe build/clang/api build/clang/discovery build/datsync | need-pytest
	$(call UNDER_TEST,build/clang) $(call TEST,not interop and not everywhere,$(call TESTS_OR,$(CLANG_TESTS)))

# What is left without drives, and without the synchronizer too, passes what does not need them.
SMALL_TESTS := vectors proofs feed peer files
check-small: $(SMALL:%=build/%/probe) | need-pytest
	$(call UNDER_TEST,build/no-drive) $(call TEST,not interop and not everywhere and not drive,$(call TESTS_OR,$(SMALL_TESTS)))
	$(call UNDER_TEST,build/peers-alone) $(call TEST,not interop and not everywhere and not drive and not synchronizer,$(call TESTS_OR,$(SMALL_TESTS)))

# PEER='command' of an adapter; PEER_NAME, what the report calls it; EXPECT, a file of expected failures.
conformance: $(if $(PEER),,build/asan/adapter) | need-pytest
	$(call UNDER_TEST,build/asan) $(PYTEST) -q --tb=no -rN conformance/test_conformance.py --report build/conformance \
		$(if $(PEER),--peer "$$PEER") $(if $(PEER_NAME),--peer-name "$$PEER_NAME") $(if $(EXPECT),--expect "$$EXPECT")

coverage: | need-cc need-sodium need-pytest
	$(PYTHON) tests/coverage.py

mutate: | need-cc need-sodium need-pytest need-clang
	$(PYTHON) tests/mutate.py $(MUTATE)

bugs: | need-pytest
	DATSYNC_BIG=1 $(PYTEST) conformance/test_bugs.py

interop: build/asan/datsync build/asan/probe build/js/installed build/js/old/installed | need-pytest
	$(call UNDER_TEST,build/asan) export DATSYNC_JS=$(CURDIR)/build/js; $(call TEST,interop and not everywhere,$(TESTS))

valgrind: build/datsync build/api build/probe build/discovery | need-pytest need-valgrind
	$(call UNDER_TEST,build) export DATSYNC_WRAPPER='valgrind -q --error-exitcode=99 --leak-check=full'; $(call TEST,valgrind,$(TESTS))

# SEED=N: what a number that fails is about, shrunk and told. make soak: 10,000 numbers (SOAK=N: as many).
SEED ?= 1
SOAK ?= 10000
lab: build/lab
	build/lab --story $(SEED)
soak: build/lab | need-pytest
	DATSYNC_SOAK=$(SOAK) DATSYNC_LAB=$(CURDIR)/build/lab $(PYTEST) $(XDIST) tests/test_lab.py

bench: build/datsync
	$(PYTHON) bench/bench.py

demo: build/datsync
	DATSYNC=build/datsync sh examples/demo.sh

# ---------------------------------------------------------------- warnings, style ---------------------------------

ALL_C = $(CLI) $(SOURCES) $(EXAMPLES:%=examples/%.c) $(wildcard tests/*.c) conformance/adapters/datsync.c

# All sources, under each of the two compilers that is there, as the oldest and the newest C that they are meant for, without
# and with NDEBUG; and the headers as C++.
.PHONY: warnings format format-check
warnings: | need-sodium
	@mkdir -p build; for cc in gcc clang; do if command -v $$cc >/dev/null 2>&1; then \
		for as in 'c99 -O2 -c -o build/warnings.o' 'c17 -DNDEBUG -fsyntax-only'; do for file in $(ALL_C); do \
			$$cc -std=$$as $(WARNINGS) -Werror $(CPPFLAGS) $(SODIUM_CFLAGS) -I. $$file || exit 1; \
		done; done; fi; done
	@for cxx in g++ clang++; do if command -v $$cxx >/dev/null 2>&1; then \
		printf '#include "%s"\n' $(HEADERS) | $$cxx -std=c++11 $(WARNINGS) -Werror -I. -fsyntax-only -x c++ - || exit 1; \
		for file in $(EXAMPLES_CXX:%=examples/%.cpp); do \
			$$cxx -std=c++17 $(WARNINGS) -Werror $(CPPFLAGS) -I. -c -o build/warnings.o $$file || exit 1; done; fi; done
	@rm -f build/warnings.o

FORMATTED = $(ALL_C) $(CLI_H) $(HEADERS) $(wildcard tests/*.h) $(EXAMPLES_CXX:%=examples/%.cpp) net_win32.c $(wildcard bench/*.c)
format: | need-clang-format
	clang-format -i $(FORMATTED)
format-check: | need-clang-format
	clang-format --dry-run -Werror $(FORMATTED)

.PHONY: clean
clean:
	rm -rf build
