# datsync. GNU make. The targets (make help):
#
#   all        build/datsync, build/libdatsync.a, build/libdatsync.so
#   deps       install what is missing to build and test (Debian; elsewhere it says what to install); with ALL=1 what the
#              builds for other systems and packages need, too (2 GB)
#   demo       a feed made of this project's own files, cloned between two processes
#   quick      the vectors, the tests of the core and the suite's first conversation, without sanitizers: a minute
#   check      all tests under ASan and UBSan, and all warnings of gcc and clang
#   check-clang  the messages, peers and the C interface among them under clang's sanitizers
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
#   bench      the benchmark
#   install    with PREFIX and DESTDIR; uninstall takes it back
#   warnings format format-check clean
#
# CC, CFLAGS, CPPFLAGS, LDFLAGS and LDLIBS are the user's; WERROR= lets warnings be. TESTS='conformance/test_x.py -k y' narrows
# each check; JOBS=N runs N tests at once, JOBS=0 one by one in pytest itself.

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
INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
BASHDIR ?= $(DATADIR)/bash-completion/completions
ZSHDIR ?= $(DATADIR)/zsh/site-functions
FISHDIR ?= $(DATADIR)/fish/vendor_completions.d
CMAKEDIR ?= $(LIBDIR)/cmake/datsync
DESTDIR ?=
TESTS ?= conformance
NPM ?= npm

VERSION := $(shell sed -n 's/^.define DATSYNC_VERSION "\(.*\)"/\1/p' datsync.h)
SOVERSION := 0
SYSTEM := $(shell uname -s)
WERROR ?= -Werror
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion $(WERROR)
WARN := -std=c99 $(WARNINGS)
SODIUM_CFLAGS := $(shell pkg-config --cflags libsodium 2>/dev/null)
SODIUM_LIBS := $(shell pkg-config --libs libsodium 2>/dev/null || echo -lsodium)
COMPILE = $(CC) $(WARN) $(CPPFLAGS) $(SODIUM_CFLAGS)
LINK = $(CFLAGS) $(LDFLAGS)
LIBS = $(SODIUM_LIBS) $(LDLIBS)

SOURCES := datsync.c net_posix.c
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

build/api: conformance/api.c build/libdatsync.a datsync.h
	$(COMPILE) $(LINK) -I. -o $@ $< build/libdatsync.a $(LIBS)

build/probe build/adapter: build/net_posix.o datsync.c datsync.h
build/probe: conformance/probe.c
build/adapter: conformance/adapters/datsync.c
build/probe build/adapter:
	$(COMPILE) $(CFLAGS) -I. -o $@ $(filter conformance/%,$^) build/net_posix.o $(LDFLAGS) $(LIBS)

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

# ---------------------------------------------------------------- programs for tests ------------------------------

# The command, the test driver, the peer under test that the conformance suite runs, and checks of the public interface; each in
# one go, as build/WAY/PROGRAM. The driver and the adapter take in datsync.c whole, to reach what is static.
PROGRAMS := datsync probe adapter api
datsync_MAIN := cli.c datsync.c
probe_MAIN := conformance/probe.c
adapter_MAIN := conformance/adapters/datsync.c
api_MAIN := conformance/api.c datsync.c

asan_COMPILE = $(COMPILE) $(SANITIZE)
asan_LIBS = $(LDFLAGS) $(LIBS)

# clang's sanitizers find what gcc's don't, an offset from NULL for one.
clang_COMPILE = clang $(WARN) $(CPPFLAGS) $(SODIUM_CFLAGS) $(SANITIZE)
clang_LIBS = $(LDFLAGS) $(LIBS)

tcc_COMPILE = tcc -std=c99 -Wall -Werror -g $(SODIUM_CFLAGS)
tcc_LIBS = $(SODIUM_LIBS)

# Other processors, libraries and systems. libsodium is built from Debian's source and kept where the next clone finds it.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/datsync
CROSS := i386 s390x mips armhf aarch64 musl win32
i386_HOST := i686-linux-gnu
s390x_HOST := s390x-linux-gnu
mips_HOST := mips-linux-gnu
armhf_HOST := arm-linux-gnueabihf
aarch64_HOST := aarch64-linux-gnu
musl_HOST := x86_64-linux-musl
win32_HOST := x86_64-w64-mingw32
s390x_RUN := qemu-s390x
mips_RUN := qemu-mips
armhf_RUN := qemu-arm
aarch64_RUN := qemu-aarch64

# i386 runs on the processor itself, and so under the sanitizers; its libraries lie where a cross compiler has them.
i386_FLAGS := $(SANITIZE)
i386_LIBS := -Wl,-rpath=/usr/i686-linux-gnu/lib -Wl,--dynamic-linker=/usr/i686-linux-gnu/lib/ld-linux.so.2
win32_FLAGS := -O2 -g -D_WIN32_WINNT=0x0600 -DSODIUM_STATIC
win32_LIBS := -static -lssp -lws2_32 -lntdll -lshell32
win32_OS := net_win32.c
win32_EXE := .exe

# The linker would say of each program that looking up names and users then still needs the C library that it was linked with.
STATIC := -static -Wl,--no-warnings

define CROSS_WAY
$(1)_SODIUM := $(CACHE)/sodium-$($(1)_HOST)/lib/libsodium.a
$(1)_COMPILE = $($(1)_HOST)-gcc $(WARN) $(or $($(1)_FLAGS),-O2 -g) -I$(CACHE)/sodium-$($(1)_HOST)/include
$(1)_LIBS := $(CACHE)/sodium-$($(1)_HOST)/lib/libsodium.a $(or $($(1)_LIBS),$(STATIC))
endef
$(foreach way,$(CROSS),$(eval $(call CROSS_WAY,$(way))))

$(CACHE)/sodium-%/lib/libsodium.a: | need-sodium-source
	sh conformance/sodium.sh $* $(CACHE)

WAYS := $(CROSS) tcc
define PROGRAM_OF_WAY
build/$(1)/$(2)$($(1)_EXE): $($(2)_MAIN) datsync.c $(or $($(1)_OS),net_posix.c) datsync.h | need-$(1) $($(1)_SODIUM)
	mkdir -p build/$(1)
	$$($(1)_COMPILE) -I. -o $$@ $($(2)_MAIN) $(or $($(1)_OS),net_posix.c) $$($(1)_LIBS)
endef
$(foreach way,asan clang $(WAYS),$(foreach program,$(PROGRAMS),$(eval $(call PROGRAM_OF_WAY,$(way),$(program)))))
programs_of = $(PROGRAMS:%=build/$(1)/%$($(1)_EXE))

# ---------------------------------------------------------------- what is needed ----------------------------------

# One line for what is missing, and which target brings it.
MISSING = { echo "datsync: $(1) is missing: run 'make deps$(2)', or install it" >&2; exit 1; }
NOTHING :=
ALL_TOO := $(NOTHING) ALL=1
NEED = @command -v $(1) >/dev/null 2>&1 || $(call MISSING,$(2),$(3))

NEEDS := cc sodium pytest npm valgrind clang clang-format sodium-source asan
.PHONY: $(NEEDS:%=need-%) $(WAYS:%=need-%) need-dist need-deb
need-cc:
	$(call NEED,$(firstword $(CC)),a C compiler ($(CC)))
need-sodium: | need-cc
	@echo '#include <sodium.h>' | $(CC) $(CPPFLAGS) $(SODIUM_CFLAGS) -E - >/dev/null 2>&1 || $(call MISSING,libsodium with its header)
need-asan: | need-sodium
need-pytest:
	@$(PYTHON) -c 'import pytest' 2>/dev/null || $(call MISSING,pytest for $(PYTHON))
need-npm:
	$(call NEED,$(NPM),node with npm)
	$(call NEED,node,node with npm)
need-valgrind need-clang need-clang-format: need-%:
	$(call NEED,$*,$*)
need-tcc: | need-sodium
	$(call NEED,tcc,tcc,$(ALL_TOO))
$(CROSS:%=need-%): need-%:
	@echo '#include <stdio.h>' | $($*_HOST)-gcc -E - >/dev/null 2>&1 || $(call MISSING,$($*_HOST)-gcc with its C library,$(ALL_TOO))
	$(if $($*_RUN),$(call NEED,$(lastword $($*_RUN)),$(lastword $($*_RUN)),$(ALL_TOO)))
	$(if $(wildcard $($*_SODIUM)),,@$(MAKE) -s --no-print-directory need-sodium-source)
need-sodium-source:
	$(call NEED,autoreconf,autoconf,$(ALL_TOO))
	$(call NEED,automake,automake,$(ALL_TOO))
	$(call NEED,libtoolize,libtool,$(ALL_TOO))
	$(call NEED,dpkg-source,dpkg-dev,$(ALL_TOO))
need-dist:
	@test -e .git && git rev-parse HEAD >/dev/null 2>&1 || { echo "datsync: this is not a git checkout: there is nothing to make a tarball of" >&2; exit 1; }
need-deb: | need-dist
	$(call NEED,dh,debhelper,$(ALL_TOO))
	@test -e $(DH_PYTHON) || $(call MISSING,dh-python,$(ALL_TOO))
	$(call NEED,lintian,lintian,$(ALL_TOO))

DH_PYTHON := /usr/share/perl5/Debian/Debhelper/Sequence/python3.pm
# What tells that it is there (a command, or a file) and the package that brings it.
DEBIAN := gcc:gcc g++:g++ clang:clang make:make pkg-config:pkg-config cmake:cmake node:nodejs npm:npm valgrind:valgrind \
	clang-format:clang-format mandoc:mandoc zsh:zsh fish:fish tcpdump:tcpdump chromium:chromium \
	/usr/include/sodium.h:libsodium-dev /usr/share/doc/libclang-rt-dev:libclang-rt-dev
# What ALL=1 adds: for builds for other systems, and to run them; and for packages.
DEBIAN_ALL := tcc:tcc x86_64-linux-musl-gcc:musl-tools \
	i686-linux-gnu-gcc:gcc-i686-linux-gnu /usr/i686-linux-gnu/include/stdio.h:libc6-dev-i386-cross \
	s390x-linux-gnu-gcc:gcc-s390x-linux-gnu /usr/s390x-linux-gnu/include/stdio.h:libc6-dev-s390x-cross \
	mips-linux-gnu-gcc:gcc-mips-linux-gnu /usr/mips-linux-gnu/include/stdio.h:libc6-dev-mips-cross \
	arm-linux-gnueabihf-gcc:gcc-arm-linux-gnueabihf /usr/arm-linux-gnueabihf/include/stdio.h:libc6-dev-armhf-cross \
	aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu /usr/aarch64-linux-gnu/include/stdio.h:libc6-dev-arm64-cross \
	qemu-s390x:qemu-user x86_64-w64-mingw32-gcc:gcc-mingw-w64-x86-64-win32 /usr/lib/wine/wine64:wine64 \
	autoreconf:autoconf automake:automake libtoolize:libtool dpkg-source:dpkg-dev dh:debhelper lintian:lintian \
	$(DH_PYTHON):dh-python

.PHONY: deps
deps:
	@want=; \
	for pair in $(DEBIAN) $(if $(ALL),$(DEBIAN_ALL)); do what=$${pair%%:*}; \
		test -e "$$what" || command -v "$$what" >/dev/null 2>&1 || want="$$want $${pair#*:}"; done; \
	/usr/bin/python3 -c 'import pytest' 2>/dev/null || python3 -c 'import pytest' 2>/dev/null || want="$$want python3 python3-pytest"; \
	/usr/bin/python3 -c 'import jsonschema' 2>/dev/null || want="$$want python3-jsonschema"; \
	quicker=; /usr/bin/python3 -c 'import xdist' 2>/dev/null || python3 -c 'import xdist' 2>/dev/null || quicker=" python3-pytest-xdist"; \
	sudo=; test "$$(id -u)" = 0 || sudo=sudo; \
	if test -z "$$want" && { test -z "$$quicker" || ! command -v apt-get $$sudo >/dev/null 2>&1; }; then \
		echo "datsync: nothing is missing"; exit 0; fi; \
	if ! command -v apt-get >/dev/null 2>&1; then \
		echo "datsync: install these, as your system calls them:$$want" >&2; exit 1; fi; \
	want="$$want$$quicker"; \
	if test -n "$$sudo" && ! command -v sudo >/dev/null 2>&1; then \
		echo "datsync: as root: apt-get install$$want" >&2; exit 1; fi; \
	$$sudo apt-get update -q && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$want

# ---------------------------------------------------------------- testing -----------------------------------------

# The distribution's Python if it has pytest (a Python of one's own may shadow it), else what there is.
PYTHON = $(eval PYTHON := $$(shell /usr/bin/python3 -c 'import pytest' 2>/dev/null && echo /usr/bin/python3 || echo python3))$(PYTHON)
PYTEST = PYTHONPYCACHEPREFIX=$(CURDIR)/build/pycache $(PYTHON) -m pytest -o cache_dir=$(CURDIR)/build/pytest $(PYTEST_FLAGS)
# $(call TEST,MARKS,TESTS): as many at once as there are processors, if pytest-xdist is there; those that do many things side by side
# themselves after the others, which would be too slow beside them. (5: there were none of these.)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
XDIST = $(eval XDIST := $$(shell $$(PYTHON) -c 'import xdist' 2>/dev/null && printf %s '-n $$(JOBS) --dist loadgroup'))$(XDIST)
define TEST
$(PYTEST) $(XDIST) -m '($(1)) and not crowd' $(2); first=$$?; case $$first in 0|1|5) ;; *) exit $$first;; esac; $(PYTEST) $(XDIST) -m '($(1)) and crowd' $(2); \
	case $$first$$? in 00|05|50) ;; *) exit 1;; esac
endef
UNDER_TEST = export DATSYNC=$(CURDIR)/$(1)/datsync$(2) DATSYNC_PROBE=$(CURDIR)/$(1)/probe$(2) DATSYNC_ADAPTER=$(CURDIR)/$(1)/adapter$(2) \
	DATSYNC_API=$(CURDIR)/$(1)/api$(2);

.PHONY: help quick check check-clang conformance interop valgrind bench demo
help:
	@sed -n '/^#   /,/^$$/s/^# \{0,1\}//p' Makefile

QUICK_TESTS := vectors api tree feed peer drive walls
quick: build/datsync build/api build/probe build/adapter | need-pytest
	$(call UNDER_TEST,build) $(call TEST,not interop and not everywhere,$(call TESTS_OR,$(QUICK_TESTS)) \
		$(if $(filter file,$(origin TESTS)),'conformance/test_conformance.py::test_case[sanity/first]'))

check: all $(call programs_of,asan) warnings | need-pytest
	$(call UNDER_TEST,build/asan) export DATSYNC_FAST=$(CURDIR)/build/datsync; $(call TEST,not interop and not everywhere,$(TESTS))

# A part of it under clang's sanitizers: the messages, peers and the C interface.
CLANG_TESTS := api vectors peer
check-clang: build/clang/probe build/clang/api build/datsync | need-pytest
	$(call UNDER_TEST,build/clang) $(call TEST,not interop and not everywhere,$(call TESTS_OR,$(CLANG_TESTS)))

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

build/js/old/installed: conformance/js/old/package.json conformance/js/old/package-lock.json | need-npm
	mkdir -p build/js/old
	cp $^ build/js/old/
	cd build/js/old && $(NPM) ci --ignore-scripts --no-audit --no-fund
	touch $@

interop: build/asan/datsync build/asan/probe build/js/installed build/js/old/installed | need-pytest
	$(call UNDER_TEST,build/asan) export DATSYNC_JS=$(CURDIR)/build/js; $(call TEST,interop and not everywhere,$(TESTS))

valgrind: build/datsync build/api build/probe | need-pytest need-valgrind
	$(call UNDER_TEST,build) export DATSYNC_WRAPPER='valgrind -q --error-exitcode=99 --leak-check=full'; $(call TEST,valgrind,$(TESTS))

# ---------------------------------------------------------------- everywhere --------------------------------------

# TESTS if it was given, else these.
TESTS_OR = $(if $(filter file,$(origin TESTS)),$(addprefix conformance/test_,$(1:%=%.py)),$(TESTS))
# What each build must pass; and more of the driver's tests where the processor is the most unlike this one.
EVERYWHERE_TESTS := everywhere vectors api conformance
i386_TESTS := feed peer drive drive_partial drive_faults drive_evil hostile tree cli cli_drive people layouts
s390x_TESTS := feed peer drive tree
win32_TESTS := win32 cli cli_drive people layouts
# What a build is compared with.
ON_ANOTHER = export DATSYNC_NATIVE=$(CURDIR)/build/datsync DATSYNC_JS=$(CURDIR)/build/js;

POSIX_WAYS := $(filter-out win32,$(WAYS))
.PHONY: check-all $(WAYS:%=check-%)
$(foreach way,$(WAYS),$(eval check-$(way): $(call programs_of,$(way))))
$(WAYS:%=check-%): build/datsync build/js/installed | need-pytest
$(POSIX_WAYS:%=check-%): check-%:
	$(call UNDER_TEST,build/$*) export DATSYNC_WRAPPER='$($*_RUN)'; $(ON_ANOTHER) \
		$(call TEST,everywhere or not interop,$(call TESTS_OR,$(EVERYWHERE_TESTS) $($*_TESTS)))

# wine has a system and a home of its own in build/wine, and one server for all tests: without it each program would start the
# whole system anew.
WINE ?= $(firstword $(wildcard /usr/lib/wine/wine64) wine64)
WINESERVER ?= $(firstword $(wildcard /usr/lib/wine/wineserver64) wineserver)
WINE_ENV := WINEPREFIX=$(CURDIR)/build/wine WINEDEBUG=-all WINEARCH=win64
win32_RUN = env HOME=$(CURDIR)/build/wine $(WINE)
check-win32:
	-$(WINE_ENV) $(WINESERVER) -k 2>/dev/null; rm -rf build/wine; mkdir -p build/wine
	$(WINE_ENV) $(WINESERVER) -p
	$(WINE_ENV) HOME=$(CURDIR)/build/wine timeout 120 $(WINE) wineboot -i >/dev/null 2>&1
	$(call UNDER_TEST,build/win32,.exe) export DATSYNC_WRAPPER='$(win32_RUN)' $(WINE_ENV); $(ON_ANOTHER) \
		$(PYTEST) -m 'not posix and (everywhere or not interop)' --expect conformance/wine.json $(call TESTS_OR,$(EVERYWHERE_TESTS) $(win32_TESTS)); \
		result=$$?; $(WINE_ENV) $(WINESERVER) -k; exit $$result

# Whatever can be run here; what cannot is told by name, with what it lacks.
check-all:
	@mkdir -p build; : > build/everywhere; for one in $(WAYS) dist deb; do \
		case $$one in dist|deb) peers=;; *) peers=need-npm;; esac; \
		if ! $(MAKE) -s --no-print-directory need-pytest $$peers need-$$one >build/lacking 2>&1; then \
			result="left out  check-$$one: $$(sed -n 's/^datsync: //p' build/lacking | head -n 1)"; \
		elif $(MAKE) --no-print-directory check-$$one; then result="passed    check-$$one"; \
		else result="FAILED    check-$$one"; fi; \
		echo "$$result" >> build/everywhere; \
	done; cat build/everywhere; ! grep -q '^FAILED' build/everywhere

bench: build/datsync
	$(PYTHON) bench/bench.py

demo: build/datsync
	DATSYNC=build/datsync sh examples/demo.sh

# ---------------------------------------------------------------- warnings, style ---------------------------------

ALL_C = cli.c $(SOURCES) $(EXAMPLES:%=examples/%.c) conformance/probe.c conformance/adapters/datsync.c conformance/api.c

# All sources, under each of the two compilers that is there, as the oldest and the newest C that they are meant for, without
# and with NDEBUG; and the header as C++.
.PHONY: warnings format format-check
warnings: | need-sodium
	@mkdir -p build; for cc in gcc clang; do if command -v $$cc >/dev/null 2>&1; then \
		for as in 'c99 -O2 -c -o build/warnings.o' 'c17 -DNDEBUG -fsyntax-only'; do for file in $(ALL_C); do \
			$$cc -std=$$as $(WARNINGS) -Werror $(CPPFLAGS) $(SODIUM_CFLAGS) -I. $$file || exit 1; \
		done; done; fi; done
	@for cxx in g++ clang++; do if command -v $$cxx >/dev/null 2>&1; then \
		echo '#include "datsync.h"' | $$cxx -std=c++11 $(WARNINGS) -Werror -I. -fsyntax-only -x c++ - || exit 1; \
		for file in $(EXAMPLES_CXX:%=examples/%.cpp); do \
			$$cxx -std=c++17 $(WARNINGS) -Werror $(CPPFLAGS) -I. -c -o build/warnings.o $$file || exit 1; done; fi; done
	@rm -f build/warnings.o

FORMATTED = $(filter-out datsync.c,$(ALL_C)) $(EXAMPLES_CXX:%=examples/%.cpp) net_win32.c
format: | need-clang-format
	clang-format -i $(FORMATTED)
format-check: | need-clang-format
	clang-format --dry-run -Werror $(FORMATTED)

# ---------------------------------------------------------------- installing --------------------------------------

# What goes where: MODE FILE PLACE. The shared library comes with its links.
INSTALLED = 755:build/datsync:$(BINDIR)/datsync 644:datsync.h:$(INCLUDEDIR)/datsync.h \
	644:build/libdatsync.a:$(LIBDIR)/libdatsync.a 755:build/$(SHARED_REAL):$(LIBDIR)/$(SHARED_REAL) \
	644:build/datsync.pc:$(LIBDIR)/pkgconfig/datsync.pc \
	644:build/datsync-config.cmake:$(CMAKEDIR)/datsync-config.cmake \
	644:build/datsync-config-version.cmake:$(CMAKEDIR)/datsync-config-version.cmake \
	644:man/datsync.1:$(MANDIR)/man1/datsync.1 644:man/datsync.3:$(MANDIR)/man3/datsync.3 \
	644:completions/datsync.bash:$(BASHDIR)/datsync 644:completions/_datsync:$(ZSHDIR)/_datsync \
	644:completions/datsync.fish:$(FISHDIR)/datsync.fish

.PHONY: install uninstall clean
install: all build/datsync.pc build/datsync-config.cmake build/datsync-config-version.cmake
	@set -e; for one in $(INSTALLED); do mode=$${one%%:*} rest=$${one#*:}; to="$(DESTDIR)$${rest#*:}"; \
		mkdir -p "$${to%/*}"; echo "$$to"; install -m $$mode "$${rest%%:*}" "$$to"; done
	test $(SHARED) = $(SHARED_REAL) || ln -sf $(SHARED_REAL) "$(DESTDIR)$(LIBDIR)/$(SHARED)"
	ln -sf $(SHARED_REAL) "$(DESTDIR)$(LIBDIR)/$(SHARED_LINK)"

uninstall:
	@for one in $(INSTALLED) ::$(LIBDIR)/$(SHARED) ::$(LIBDIR)/$(SHARED_LINK); do rm -f "$(DESTDIR)$${one##*:}"; done
	rmdir "$(DESTDIR)$(CMAKEDIR)"

# Made anew each time: the folders are those of this call.
.PHONY: build/datsync.pc build/datsync-config.cmake build/datsync-config-version.cmake
build/datsync.pc build/datsync-config.cmake build/datsync-config-version.cmake: build/%: packaging/%.in
	mkdir -p build
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
		-e 's|@VERSION@|$(VERSION)|' -e 's|@CMAKEDIR@|$(CMAKEDIR)|' -e 's|@SHARED@|$(SHARED)|' -e 's|@SHARED_REAL@|$(SHARED_REAL)|' $< > $@

# ---------------------------------------------------------------- packages ----------------------------------------

NAME := datsync-$(VERSION)

.PHONY: dist check-dist deb check-deb
# What is committed.
dist: | need-dist
	mkdir -p build
	git archive --format=tar.gz --prefix=$(NAME)/ -o build/$(NAME).tar.gz HEAD

check-dist: dist
	rm -rf build/dist; mkdir -p build/dist
	tar -C build/dist -xzf build/$(NAME).tar.gz
	$(MAKE) -C build/dist/$(NAME) check $(if $(DIST_TESTS),TESTS="$(DIST_TESTS)")

deb: dist | need-deb
	rm -rf build/deb; mkdir -p build/deb
	tar -C build/deb -xzf build/$(NAME).tar.gz
	cp build/$(NAME).tar.gz build/deb/datsync_$(VERSION).orig.tar.gz
	mv build/deb/$(NAME)/packaging/debian build/deb/$(NAME)/
	cd build/deb/$(NAME) && dpkg-buildpackage -us -uc

# The packages by lintian's rules; and their content, unpacked and used.
check-deb: deb | need-pytest
	cd build/deb && lintian --info --display-info --pedantic --fail-on error,warning,info,pedantic *.changes
	for deb in $$(ls build/deb/*.deb | grep -v dbgsym); do dpkg-deb -x $$deb build/deb/root || exit 1; done
	DATSYNC_INSTALLED=$(CURDIR)/build/deb/root DATSYNC=$(CURDIR)/build/deb/root/usr/bin/datsync \
		$(PYTEST) conformance/test_packaging.py -k 'installed or library'

clean:
	rm -rf build
