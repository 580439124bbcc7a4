#!/bin/sh
# usage: bench/setup.sh [FOLDER]     (build/bench-js)
#
# Installs hypercore 6.26 and what it needs into FOLDER, and builds its native sodium against the system's libsodium:
# sodium-native 2.4.9 has no prebuilt file for a node of today, npm then leaves it out without a word, and hypercore
# falls back to cryptography in JavaScript, ten times slower. That would not be a fair comparison.
#
# needs: node, npm, a C++ compiler, python3, libsodium with its header, node's headers (NODEDIR: the folder that has
# include/node; /usr if it is there, else next to the node that runs)
#
# SPDX-License-Identifier: MIT
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dest=${1:-$here/../build/bench-js}
npm=${NPM:-npm}

mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
rm -f "$dest/installed"
cp "$here/package.json" "$dest/"
test ! -e "$here/package-lock.json" || cp "$here/package-lock.json" "$dest/"
cd "$dest"
if test -e package-lock.json; then how=ci; else how=install; fi
"$npm" $how --ignore-scripts --no-audit --no-fund --loglevel=error

nodedir=${NODEDIR:-}
for d in /usr "$(dirname "$(dirname "$(node -p process.execPath)")")"; do
	test -n "$nodedir" || test ! -e "$d/include/node/node.h" || nodedir=$d
done
test -n "$nodedir" || { echo "setup.sh: node's headers are missing; name their folder in NODEDIR" >&2; exit 1; }

# The library that the linker takes for -lsodium.
echo 'int main(void) { return 0; }' > probe.c
cc -o probe probe.c -Wl,--no-as-needed $(pkg-config --libs libsodium 2>/dev/null || echo -lsodium)
so=$(ldd ./probe | awk '/libsodium/ { print $3; exit }')
rm -f probe probe.c
test -n "$so" || { echo "setup.sh: libsodium is missing" >&2; exit 1; }

sodium=$dest/node_modules/sodium-native
mkdir -p "$sodium/lib"
cp "$(readlink -f "$so")" "$sodium/lib/libsodium-$(node -p process.arch).so"
gyp=$("$npm" root -g)/npm/node_modules/node-gyp/bin/node-gyp.js
test -e "$gyp" || gyp=$("$npm" root -g)/node-gyp/bin/node-gyp.js
(cd "$sodium" && node "$gyp" rebuild --nodedir="$nodedir") > "$dest/build.log" 2>&1 ||
	{ echo "setup.sh: sodium-native was not built; see $dest/build.log" >&2; exit 1; }

node -e "process.exit(require('sodium-universal') === require('sodium-native') ? 0 : 1)" ||
	{ echo "setup.sh: hypercore does not take the native sodium" >&2; exit 1; }
touch "$dest/installed"
echo "hypercore 6.26 with native sodium: $dest"
