# The tests of datsync: their programs, what runs them, and what they need. The Makefile includes this.

NPM ?= npm

# ---------------------------------------------------------------- programs for tests ------------------------------

# The command, the test driver, the peer under test that the conformance suite runs, and checks of the public interface; each in
# one go, as build/WAY/PROGRAM. The driver and the adapter take in datsync.c whole, to reach what is static.
PROGRAMS := datsync probe adapter api lab discovery dht
datsync_MAIN := $(CLI) datsync.c discovery.c discovery_dht.c
datsync_MORE := $(CLI_H)
probe_MAIN := tests/probe.c tests/world.c
probe_MORE := tests/world.h tests/base.h
adapter_MAIN := conformance/adapters/datsync.c discovery.c discovery_dht.c
api_MAIN := tests/api.c datsync.c
lab_MAIN := tests/lab.c tests/lab_net.c tests/lab_finding.c tests/world.c datsync.c discovery.c discovery_dht.c
lab_MORE := tests/lab.h tests/world.h tests/base.h
discovery_MAIN := tests/discovery.c discovery.c discovery_dht.c datsync.c
discovery_MORE := tests/base.h
dht_MAIN := tests/dht.c discovery_dht.c datsync.c
dht_MORE := tests/base.h

asan_COMPILE = $(COMPILE) $(SANITIZE)
asan_LIBS = $(LDFLAGS) $(LIBS)

# clang's sanitizers find what gcc's don't, an offset from NULL for one.
clang_COMPILE = clang $(WARN) $(CPPFLAGS) $(SODIUM_CFLAGS) $(SANITIZE)
clang_LIBS = $(LDFLAGS) $(LIBS)

# Without what may be left out.
SMALL := no-drive peers-alone
no-drive_COMPILE = $(COMPILE) $(SANITIZE) -DDATSYNC_NO_DRIVE
peers-alone_COMPILE = $(COMPILE) $(SANITIZE) -DDATSYNC_NO_DRIVE -DDATSYNC_NO_SYNCHRONIZER
no-drive_LIBS = $(LDFLAGS) $(LIBS)
peers-alone_LIBS = $(LDFLAGS) $(LIBS)

define PROGRAM_OF_WAY
build/$(1)/$(2)$($(1)_EXE): $($(2)_MAIN) $($(2)_MORE) datsync.c $(or $($(1)_OS),net_posix.c) $(HEADERS) | need-$(1) $($(1)_SODIUM)
	mkdir -p build/$(1)
	$$($(1)_COMPILE) -I. -o $$@ $($(2)_MAIN) $(or $($(1)_OS),net_posix.c) $$($(1)_LIBS)
endef
$(foreach way,asan clang,$(foreach program,$(PROGRAMS),$(eval $(call PROGRAM_OF_WAY,$(way),$(program)))))
$(foreach way,$(SMALL),$(eval $(call PROGRAM_OF_WAY,$(way),probe)))
programs_of = $(PROGRAMS:%=build/$(1)/%$($(1)_EXE))

build/api: tests/api.c build/libdatsync.a datsync.h
	$(COMPILE) $(LINK) -I. -o $@ $< build/libdatsync.a $(LIBS)

build/discovery: tests/discovery.c tests/base.h build/libdatsync.a $(HEADERS)
	$(COMPILE) $(LINK) -I. -o $@ $< build/libdatsync.a $(LIBS)

build/lab: $(lab_MAIN) $(lab_MORE) datsync.h
	mkdir -p build
	$(COMPILE) $(CFLAGS) -I. -o $@ $(lab_MAIN) $(LDFLAGS) $(LIBS)

build/probe build/adapter: build/net_posix.o datsync.c datsync.h
build/probe: $(probe_MAIN) $(probe_MORE)
build/adapter: conformance/adapters/datsync.c build/discovery.o build/discovery_dht.o discovery.h
build/probe build/adapter:
	$(COMPILE) $(CFLAGS) -I. -o $@ $(filter conformance/%.c tests/%.c build/%.o,$^) $(LDFLAGS) $(LIBS)

# ---------------------------------------------------------------- running them ------------------------------------

# $(call TRIED,FOR ALL,TESTS): what failed is tried once more with TRIES=2, one by one on a machine that does nothing else, and told.
# A deadline that a busy machine missed passes then; a fault fails twice.
TRIES ?= 1
TRIED = ( $(PYTEST) $(1) $(2); code=$$?; test $(TRIES)$$code = 21 || exit $$code; \
	echo "datsync: what failed is tried once more, alone"; $(PYTEST) --last-failed $(2) )

# $(call TEST,MARKS,TESTS): as many at once as there are processors, if pytest-xdist is there; those that do many things side by side
# themselves after the others, which would be too slow beside them. (5: there were none of these.)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
XDIST = $(eval XDIST := $$(shell $$(PYTHON) -c 'import xdist' 2>/dev/null && printf %s '-n $$(JOBS) --dist loadgroup'))$(XDIST)
define TEST
$(call TRIED,$(XDIST),-m '($(1)) and not crowd' $(2)); first=$$?; case $$first in 0|1|5) ;; *) exit $$first;; esac; \
	$(call TRIED,$(XDIST),-m '($(1)) and crowd' $(2)); case $$first$$? in 00|05|50) ;; *) exit 1;; esac
endef

# TESTS if it was given, else the files of these names, wherever they lie.
TESTS_OR = $(if $(filter file,$(origin TESTS)),$(foreach name,$(1),$(or $(wildcard conformance/test_$(name).py),tests/test_$(name).py)),$(TESTS))

build/js/installed: conformance/js/package.json $(wildcard conformance/js/package-lock.json) | need-npm
	mkdir -p build/js
	cp $^ build/js/
	cd build/js && $(NPM) $(if $(wildcard conformance/js/package-lock.json),ci,install) --ignore-scripts --no-audit --no-fund
	touch $@

# Of other years, and what finds peers: each in a folder of its own.
build/js/old/installed build/js/discovery/installed: build/js/%/installed: conformance/js/%/package.json conformance/js/%/package-lock.json | need-npm
	mkdir -p build/js/$*
	cp $^ build/js/$*/
	cd build/js/$* && $(NPM) ci --ignore-scripts --no-audit --no-fund
	touch $@

# ---------------------------------------------------------------- what they need ----------------------------------

NEEDS := npm valgrind clang clang-format asan $(SMALL)
.PHONY: $(NEEDS:%=need-%)
need-asan $(SMALL:%=need-%): | need-sodium
need-npm:
	$(call NEED,$(NPM),node with npm)
	$(call NEED,node,node with npm)
need-valgrind need-clang need-clang-format: need-%:
	$(call NEED,$*,$*)

DH_PYTHON := /usr/share/perl5/Debian/Debhelper/Sequence/python3.pm
# What tells that it is there (a command, or a file) and the package that brings it.
DEBIAN := gcc:gcc g++:g++ clang:clang make:make pkg-config:pkg-config cmake:cmake node:nodejs npm:npm valgrind:valgrind \
	clang-format:clang-format mandoc:mandoc zsh:zsh fish:fish tcpdump:tcpdump ip:iproute2 chromium:chromium \
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
