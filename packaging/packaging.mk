# Installing, and packages. The Makefile includes this.

INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
BASHDIR ?= $(DATADIR)/bash-completion/completions
ZSHDIR ?= $(DATADIR)/zsh/site-functions
FISHDIR ?= $(DATADIR)/fish/vendor_completions.d
CMAKEDIR ?= $(LIBDIR)/cmake/datsync
DESTDIR ?=

# ---------------------------------------------------------------- installing --------------------------------------

# What goes where: MODE FILE PLACE. The shared library comes with its links.
INSTALLED = 755:build/datsync:$(BINDIR)/datsync 644:datsync.h:$(INCLUDEDIR)/datsync.h 644:discovery.h:$(INCLUDEDIR)/discovery.h \
	644:build/libdatsync.a:$(LIBDIR)/libdatsync.a 755:build/$(SHARED_REAL):$(LIBDIR)/$(SHARED_REAL) \
	644:build/datsync.pc:$(LIBDIR)/pkgconfig/datsync.pc \
	644:build/datsync-config.cmake:$(CMAKEDIR)/datsync-config.cmake \
	644:build/datsync-config-version.cmake:$(CMAKEDIR)/datsync-config-version.cmake \
	644:man/datsync.1:$(MANDIR)/man1/datsync.1 644:man/datsync.3:$(MANDIR)/man3/datsync.3 \
	644:completions/datsync.bash:$(BASHDIR)/datsync 644:completions/_datsync:$(ZSHDIR)/_datsync \
	644:completions/datsync.fish:$(FISHDIR)/datsync.fish

.PHONY: install uninstall
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

.PHONY: dist check-dist deb check-deb need-dist need-deb
need-dist:
	@test -e .git && git rev-parse HEAD >/dev/null 2>&1 || { echo "datsync: this is not a git checkout: there is nothing to make a tarball of" >&2; exit 1; }
need-deb: | need-dist
	$(call NEED,dh,debhelper,$(ALL_TOO))
	@test -e $(DH_PYTHON) || $(call MISSING,dh-python,$(ALL_TOO))
	$(call NEED,lintian,lintian,$(ALL_TOO))

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
		$(PYTEST) tests/test_packaging.py -k 'installed or library'
