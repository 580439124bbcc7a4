# datsync. GNU make. The targets:
#
#   all        build/datsync, build/libdatsync.a, build/libdatsync.so
#   deps       install what is missing to build and test (Debian; elsewhere it says what to install); with ALL=1 what the
#              builds for other systems need, too (1 GB)
#   demo       a feed made of this project's own files, cloned between two processes
#   check      all tests under ASan and UBSan, and all warnings of gcc and clang
#   conformance  the conformance suite on PEER='command' (datsync's adapter); report in build/conformance
#   coverage   which lines of datsync.c the tests of check run, and which they do not
#   mutate     small faults planted in datsync.c, one at a time, against the tests (ten minutes; MUTATE='--count 30' tries a few)
#   bugs       every planted bug against all cases (most of an hour; check tries a few of them for each)
#   interop    the same against the JavaScript peers
#   check-win32  the Windows build under wine: the vectors, the command line, clones from and to Linux and JS
#   valgrind   a part of the suite under valgrind
#   bench      the benchmark
#   install    with PREFIX and DESTDIR; uninstall takes it back
#   warnings format format-check clean
#
# CC, CFLAGS, CPPFLAGS, LDFLAGS and LDLIBS are the user's. TESTS='conformance/test_x.py -k y' narrows check.

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:

ifeq ($(origin CC),default)
CC := cc
endif
CFLAGS ?= -O2 -g
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
DESTDIR ?=
TESTS ?= conformance
NPM ?= npm

VERSION := $(shell sed -n 's/^.define DATSYNC_VERSION "\(.*\)"/\1/p' datsync.h)
SOVERSION := 0
SYSTEM := $(shell uname -s)
WARN := -std=c99 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror
SODIUM_CFLAGS := $(shell pkg-config --cflags libsodium 2>/dev/null)
SODIUM_LIBS := $(shell pkg-config --libs libsodium 2>/dev/null || echo -lsodium)
COMPILE = $(CC) $(WARN) $(CPPFLAGS) $(SODIUM_CFLAGS)
LINK = $(CFLAGS) $(LDFLAGS)
LIBS = $(SODIUM_LIBS) $(LDLIBS)

SOURCES := datsync.c net_posix.c
EXAMPLES := embed foreign_loop
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

build/datsync: build/cli.o build/libdatsync.a
	$(CC) $(LINK) -o $@ build/cli.o build/libdatsync.a $(LIBS)

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

build/%.o: %.c datsync.h | need-cc need-sodium
	mkdir -p build
	$(COMPILE) $(CFLAGS) -c -o $@ $<

build/pic/%.o: %.c datsync.h | need-cc need-sodium
	mkdir -p build/pic
	$(COMPILE) $(CFLAGS) -fPIC -c -o $@ $<

build/asan/datsync: cli.c $(SOURCES) datsync.h | need-cc need-sodium
	mkdir -p build/asan
	$(COMPILE) $(SANITIZE) -o $@ cli.c $(SOURCES) $(LDFLAGS) $(LIBS)

# The test driver takes in datsync.c whole, to reach what is static.
build/asan/probe: conformance/probe.c $(SOURCES) datsync.h | need-cc need-sodium
	mkdir -p build/asan
	$(COMPILE) $(SANITIZE) -I. -o $@ $< net_posix.c $(LDFLAGS) $(LIBS)

# The peer under test that the conformance suite runs; it takes in datsync.c as well.
build/asan/adapter: conformance/adapters/datsync.c $(SOURCES) datsync.h | need-cc need-sodium
	mkdir -p build/asan
	$(COMPILE) $(SANITIZE) -I. -o $@ $< net_posix.c $(LDFLAGS) $(LIBS)

# A program of the public interface alone.
build/asan/api: conformance/api.c $(SOURCES) datsync.h | need-cc need-sodium
	mkdir -p build/asan
	$(COMPILE) $(SANITIZE) -I. -o $@ $< $(SOURCES) $(LDFLAGS) $(LIBS)

build/api: conformance/api.c build/libdatsync.a datsync.h
	$(COMPILE) $(LINK) -I. -o $@ $< build/libdatsync.a $(LIBS)

build/probe: conformance/probe.c build/net_posix.o datsync.c datsync.h
	$(COMPILE) $(CFLAGS) -I. -o $@ $< build/net_posix.o $(LDFLAGS) $(LIBS)

build/examples/%: examples/%.c build/libdatsync.a datsync.h
	mkdir -p build/examples
	$(COMPILE) $(LINK) -I. -o $@ $< build/libdatsync.a $(LIBS)

# For 64-bit Windows, with MinGW. libsodium is built from Debian's source and kept where the next clone finds it.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/datsync
WIN32 := x86_64-w64-mingw32
WIN32_SODIUM = $(CACHE)/sodium-$(WIN32)
WIN32_COMPILE = $(WIN32)-gcc $(WARN) -O2 -g -D_WIN32_WINNT=0x0600 -DSODIUM_STATIC -I$(WIN32_SODIUM)/include -I.
WIN32_LIBS = $(WIN32_SODIUM)/lib/libsodium.a -static -lssp -lws2_32 -lntdll -lshell32
WIN32_PROGRAMS := datsync probe adapter api

$(CACHE)/sodium-%/lib/libsodium.a: | need-sodium-source
	sh conformance/sodium.sh $* $(CACHE)

build/win32/datsync.exe: cli.c datsync.c
build/win32/probe.exe: conformance/probe.c
build/win32/adapter.exe: conformance/adapters/datsync.c
build/win32/api.exe: conformance/api.c datsync.c
build/win32/%.exe: net_win32.c datsync.h | $(WIN32_SODIUM)/lib/libsodium.a need-win32
	mkdir -p build/win32
	$(WIN32_COMPILE) -o $@ $(filter-out $(TAKEN_IN),$(filter %.c,$^)) $(WIN32_LIBS)
build/win32/probe.exe build/win32/adapter.exe: TAKEN_IN := datsync.c
build/win32/probe.exe build/win32/adapter.exe: datsync.c

.PHONY: examples
examples: $(EXAMPLES:%=build/examples/%)

# ---------------------------------------------------------------- what is needed ----------------------------------

# One line for what is missing, and which target brings it.
MISSING = { echo "datsync: $(1) is missing: run 'make deps', or install it" >&2; exit 1; }

MISSING_ALL = { echo "datsync: $(1) is missing: run 'make deps ALL=1', or install it" >&2; exit 1; }

.PHONY: need-cc need-sodium need-pytest need-npm need-valgrind need-clang need-clang-format need-win32 need-wine need-sodium-source
need-cc:
	@command -v $(firstword $(CC)) >/dev/null 2>&1 || $(call MISSING,a C compiler ($(CC)))
need-sodium: | need-cc
	@echo '#include <sodium.h>' | $(CC) $(CPPFLAGS) $(SODIUM_CFLAGS) -E - >/dev/null 2>&1 || $(call MISSING,libsodium with its header)
need-pytest:
	@$(PYTHON) -c 'import pytest' 2>/dev/null || $(call MISSING,pytest for $(PYTHON))
need-npm:
	@command -v $(NPM) >/dev/null 2>&1 && command -v node >/dev/null 2>&1 || $(call MISSING,node with npm)
need-valgrind:
	@command -v valgrind >/dev/null 2>&1 || $(call MISSING,valgrind)
need-win32:
	@command -v $(WIN32)-gcc >/dev/null 2>&1 || $(call MISSING_ALL,MinGW ($(WIN32)-gcc))
need-wine:
	@command -v $(WINE) >/dev/null 2>&1 || $(call MISSING_ALL,wine (wine64))
need-sodium-source:
	@command -v autoreconf >/dev/null 2>&1 && command -v dpkg-source >/dev/null 2>&1 && command -v libtoolize >/dev/null 2>&1 || \
		$(call MISSING_ALL,autoconf with automake and libtool or dpkg-dev)
need-clang:
	@command -v clang >/dev/null 2>&1 || $(call MISSING,clang)
need-clang-format:
	@command -v clang-format >/dev/null 2>&1 || $(call MISSING,clang-format)

DEBIAN := gcc:gcc clang:clang make:make pkg-config:pkg-config node:nodejs npm:npm valgrind:valgrind clang-format:clang-format tcpdump:tcpdump chromium:chromium
# What ALL=1 adds: for builds for other systems, and to run them.
DEBIAN_ALL := $(WIN32)-gcc:gcc-mingw-w64-x86-64-win32 /usr/lib/wine/wine64:wine64 autoreconf:autoconf automake:automake \
	libtoolize:libtool dpkg-source:dpkg-dev

.PHONY: deps
deps:
	@want=; \
	for pair in $(DEBIAN) $(if $(ALL),$(DEBIAN_ALL)); do command -v $${pair%%:*} >/dev/null 2>&1 || want="$$want $${pair#*:}"; done; \
	test -e /usr/include/sodium.h || echo '#include <sodium.h>' | cc -E - >/dev/null 2>&1 || want="$$want libsodium-dev"; \
	/usr/bin/python3 -c 'import pytest' 2>/dev/null || python3 -c 'import pytest' 2>/dev/null || want="$$want python3 python3-pytest"; \
	/usr/bin/python3 -c 'import jsonschema' 2>/dev/null || want="$$want python3-jsonschema"; \
	if test -z "$$want"; then echo "datsync: nothing is missing"; exit 0; fi; \
	if ! command -v apt-get >/dev/null 2>&1; then \
		echo "datsync: install these, as your system calls them:$$want" >&2; exit 1; fi; \
	sudo=; if test "$$(id -u)" != 0; then sudo=sudo; command -v sudo >/dev/null 2>&1 || { \
		echo "datsync: as root: apt-get install$$want" >&2; exit 1; }; fi; \
	$$sudo apt-get update -q && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$want

# ---------------------------------------------------------------- testing -----------------------------------------

# The distribution's Python if it has pytest (a Python of one's own may shadow it), else what there is.
PYTHON = $(eval PYTHON := $$(shell /usr/bin/python3 -c 'import pytest' 2>/dev/null && echo /usr/bin/python3 || echo python3))$(PYTHON)
PYTEST = PYTHONPYCACHEPREFIX=$(CURDIR)/build/pycache $(PYTHON) -m pytest -o cache_dir=$(CURDIR)/build/pytest $(PYTEST_FLAGS)
UNDER_TEST = DATSYNC=$(CURDIR)/$(1)/datsync DATSYNC_PROBE=$(CURDIR)/$(1)/probe DATSYNC_ADAPTER=$(CURDIR)/$(1)/adapter \
	DATSYNC_API=$(CURDIR)/$(1)/api
# A driver that is not there yet is no reason not to run the rest.
PROBE := $(if $(wildcard conformance/probe.c),yes)

.PHONY: check conformance interop valgrind bench demo
check: build/datsync build/asan/datsync build/asan/adapter build/asan/api $(if $(PROBE),build/asan/probe) warnings | need-pytest
	$(call UNDER_TEST,build/asan) DATSYNC_FAST=$(CURDIR)/build/datsync $(PYTEST) -m 'not interop' $(TESTS)

# PEER='command' of an adapter; PEER_NAME, what the report calls it; EXPECT, a file of expected failures.
conformance: $(if $(PEER),,build/asan/adapter) | need-pytest
	$(call UNDER_TEST,build/asan) $(PYTEST) -q --tb=no -rN conformance/test_conformance.py --report build/conformance \
		$(if $(PEER),--peer "$$PEER") $(if $(PEER_NAME),--peer-name "$$PEER_NAME") $(if $(EXPECT),--expect "$$EXPECT")

.PHONY: coverage mutate bugs
coverage: | need-cc need-sodium need-pytest
	$(PYTHON) conformance/coverage.py

mutate: | need-cc need-sodium need-pytest need-clang
	$(PYTHON) conformance/mutate.py $(MUTATE)

bugs: | need-pytest
	DATSYNC_BIG=1 $(PYTEST) conformance/test_bugs.py

build/js/installed: conformance/js/package.json $(wildcard conformance/js/package-lock.json) | need-npm
	mkdir -p build/js
	cp $^ build/js/
	cd build/js && $(NPM) $(if $(wildcard conformance/js/package-lock.json),ci,install) --ignore-scripts --no-audit --no-fund
	touch $@

interop: build/asan/datsync $(if $(PROBE),build/asan/probe) build/js/installed | need-pytest
	$(call UNDER_TEST,build/asan) DATSYNC_JS=$(CURDIR)/build/js $(PYTEST) -m interop $(TESTS)

valgrind: build/datsync build/api $(if $(PROBE),build/probe) | need-pytest need-valgrind
	$(call UNDER_TEST,build) DATSYNC_WRAPPER='valgrind -q --error-exitcode=99 --leak-check=full' \
		$(PYTEST) -m valgrind $(TESTS)

# wine has a system and a home of its own in build/wine. It takes as long to start a program there as most tests do to run it.
WINE ?= $(firstword $(wildcard /usr/lib/wine/wine64) wine64)
WINESERVER ?= $(firstword $(wildcard /usr/lib/wine/wineserver64) wineserver)
WINE_ENV := WINEPREFIX=$(CURDIR)/build/wine WINEDEBUG=-all WINEARCH=win64
WIN32_TESTS ?= $(addprefix conformance/test_,win32.py vectors.py api.py cli.py cli_drive.py)
.PHONY: check-win32
check-win32: $(WIN32_PROGRAMS:%=build/win32/%.exe) build/datsync build/js/installed | need-wine need-pytest
	-$(WINE_ENV) $(WINESERVER) -k 2>/dev/null; rm -rf build/wine; mkdir -p build/wine
	$(WINE_ENV) HOME=$(CURDIR)/build/wine timeout 120 $(WINE) wineboot -i >/dev/null 2>&1
	$(WINE_ENV) DATSYNC=$(CURDIR)/build/win32/datsync.exe DATSYNC_PROBE=$(CURDIR)/build/win32/probe.exe \
		DATSYNC_API=$(CURDIR)/build/win32/api.exe DATSYNC_WRAPPER='env HOME=$(CURDIR)/build/wine $(WINE)' DATSYNC_NATIVE=$(CURDIR)/build/datsync \
		DATSYNC_JS=$(CURDIR)/build/js $(PYTEST) -m 'not posix and (win32 or not interop)' $(WIN32_TESTS); \
		result=$$?; $(WINE_ENV) $(WINESERVER) -k; exit $$result

bench: build/datsync
	$(PYTHON) bench/bench.py

demo: build/datsync
	DATSYNC=build/datsync sh examples/demo.sh

# ---------------------------------------------------------------- warnings, style ---------------------------------

ALL_C = cli.c $(SOURCES) $(EXAMPLES:%=examples/%.c) $(if $(PROBE),conformance/probe.c) conformance/adapters/datsync.c conformance/api.c

# All sources, under each of the two compilers that is there; and the header as C++.
.PHONY: warnings format format-check
warnings: | need-sodium
	@mkdir -p build; for cc in gcc clang; do \
		if command -v $$cc >/dev/null 2>&1; then for file in $(ALL_C); do \
			$$cc $(WARN) $(CPPFLAGS) $(SODIUM_CFLAGS) -O2 -I. -c -o build/warnings.o $$file || exit 1; done; fi; done
	@rm -f build/warnings.o
	@for cxx in g++ clang++; do if command -v $$cxx >/dev/null 2>&1; then \
		echo '#include "datsync.h"' | $$cxx -std=c++11 -Wall -Wextra -Werror -I. -fsyntax-only -x c++ - || exit 1; fi; done

FORMATTED = $(filter-out datsync.c,$(ALL_C)) net_win32.c
format: | need-clang-format
	clang-format -i $(FORMATTED)
format-check: | need-clang-format
	clang-format --dry-run -Werror $(FORMATTED)

# ---------------------------------------------------------------- installing --------------------------------------

.PHONY: install uninstall clean
install: all build/datsync.pc
	mkdir -p $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(INCLUDEDIR)
	install -m 755 build/datsync $(DESTDIR)$(BINDIR)/datsync
	install -m 644 datsync.h $(DESTDIR)$(INCLUDEDIR)/datsync.h
	install -m 644 build/libdatsync.a $(DESTDIR)$(LIBDIR)/libdatsync.a
	install -m 755 build/$(SHARED_REAL) $(DESTDIR)$(LIBDIR)/$(SHARED_REAL)
	test $(SHARED) = $(SHARED_REAL) || ln -sf $(SHARED_REAL) $(DESTDIR)$(LIBDIR)/$(SHARED)
	ln -sf $(SHARED_REAL) $(DESTDIR)$(LIBDIR)/$(SHARED_LINK)
	install -m 644 build/datsync.pc $(DESTDIR)$(LIBDIR)/pkgconfig/datsync.pc

# Made anew each time: the folders are those of this call.
.PHONY: build/datsync.pc
build/datsync.pc: datsync.pc.in
	mkdir -p build
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
		-e 's|@VERSION@|$(VERSION)|' datsync.pc.in > $@

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/datsync $(DESTDIR)$(INCLUDEDIR)/datsync.h $(DESTDIR)$(LIBDIR)/pkgconfig/datsync.pc
	rm -f $(addprefix $(DESTDIR)$(LIBDIR)/,libdatsync.a $(SHARED) $(SHARED_LINK) $(SHARED_REAL))

clean:
	rm -rf build
