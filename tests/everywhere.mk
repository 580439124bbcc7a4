# Other processors, compilers, libraries and systems: builds for them, and the tests that each must pass. The Makefile includes this.

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
win32_LIBS := -static -lssp -lws2_32 -liphlpapi -lntdll -lshell32
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
	sh tests/sodium.sh $* $(CACHE)

WAYS := $(CROSS) tcc
$(foreach way,$(WAYS),$(foreach program,$(PROGRAMS),$(eval $(call PROGRAM_OF_WAY,$(way),$(program)))))

NOTHING :=
ALL_TOO := $(NOTHING) ALL=1
.PHONY: $(WAYS:%=need-%) need-sodium-source
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

# ---------------------------------------------------------------- testing -----------------------------------------

# What each build must pass; and more of the driver's tests where the processor is the most unlike this one.
EVERYWHERE_TESTS := everywhere vectors api lab conformance
i386_TESTS := feed peer drive drive_partial drive_faults drive_evil discovery hostile files datagrams cli cli_drive people layouts
s390x_TESTS := feed peer drive discovery files datagrams
win32_TESTS := win32 datagrams cli cli_drive people layouts
# What a build is compared with.
ON_ANOTHER = export DATSYNC_NATIVE=$(CURDIR)/build/datsync DATSYNC_JS=$(CURDIR)/build/js;

POSIX_WAYS := $(filter-out win32,$(WAYS))
.PHONY: check-all $(WAYS:%=check-%)
$(foreach way,$(WAYS),$(eval check-$(way): $(call programs_of,$(way))))
$(WAYS:%=check-%): build/datsync build/lab build/js/installed | need-pytest
$(POSIX_WAYS:%=check-%): check-%:
	$(call UNDER_TEST,build/$*) export DATSYNC_WRAPPER='$($*_RUN)'; $(ON_ANOTHER) \
		$(call TEST,everywhere or not interop,$(call TESTS_OR,$(EVERYWHERE_TESTS) $($*_TESTS)))

# wine has a system and a home of its own in build/wine, and one server for all tests: without it each program would start the
# whole system anew.
WINE ?= $(firstword $(wildcard /usr/lib/wine/wine64) wine64)
WINESERVER ?= $(firstword $(wildcard /usr/lib/wine/wineserver64) wineserver)
WINE_ENV := WINEPREFIX=$(CURDIR)/build/wine WINEDEBUG=-all WINEARCH=win64
win32_RUN = env HOME=$(CURDIR)/build/wine $(WINE)
win32_ALL = $(call TESTS_OR,$(EVERYWHERE_TESTS) $(win32_TESTS))
# Once in some thousand times wine does not start a program: what fails twice has failed.
check-win32: TRIES := 2
win32_MARKS = -m 'not posix and (everywhere or not interop)' $(if $(findstring conformance,$(win32_ALL)),--expect tests/wine.json)
check-win32:
	-$(WINE_ENV) $(WINESERVER) -k 2>/dev/null; rm -rf build/wine; mkdir -p build/wine
	$(WINE_ENV) $(WINESERVER) -p
	$(WINE_ENV) HOME=$(CURDIR)/build/wine timeout 120 $(WINE) wineboot -i >/dev/null 2>&1
	$(call UNDER_TEST,build/win32,.exe) export DATSYNC_WRAPPER='$(win32_RUN)' $(WINE_ENV); $(ON_ANOTHER) \
		$(call TRIED,,$(win32_MARKS) $(win32_ALL)); result=$$?; $(WINE_ENV) $(WINESERVER) -k; exit $$result

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
