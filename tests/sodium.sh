#!/bin/sh
# sodium.sh HOST CACHE: libsodium, static, for another processor or system, from Debian's source package, with HOST-gcc.
# CACHE/sodium-HOST gets its lib and include. It takes a minute, once.
set -e
host=$1 cache=$2
mkdir -p "$cache/source"
cd "$cache/source"
exec 9>lock
flock 9 # one at a time unpacks the source
if ! ls libsodium-*/configure >/dev/null 2>&1; then
    if ! ls libsodium_*.dsc >/dev/null 2>&1; then
        # The binary packages' own mirror and release, asked for sources too; the system's lists stay as they are.
        . /etc/os-release
        mirror=$(apt-cache policy | sed -n "s|^ *[0-9]* \(http[^ ]*/debian\) $VERSION_CODENAME/main .*|\1|p" | head -n 1)
        test -n "$mirror" || { echo "datsync: no Debian mirror is known to apt, for the source of libsodium" >&2; exit 1; }
        mkdir -p lists/partial
        keys=$(ls /usr/share/keyrings/debian-archive-keyring.gpg)
        echo "deb-src [signed-by=$keys] $mirror $VERSION_CODENAME main" > sources.list
        own="-o Dir::Etc::sourcelist=$PWD/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$PWD/lists"
        apt-get $own -q -q update
        apt-get $own -q -q --download-only source libsodium
    fi
    rm -rf libsodium-*/
    dpkg-source --no-check -x libsodium_*.dsc >/dev/null
    (cd libsodium-*/ && autoreconf -fi >/dev/null 2>&1)
fi
rm -rf "build-$host"
mkdir "build-$host"
cd "build-$host"
{
    ../libsodium-*/configure --host="$host" --disable-shared --enable-static --prefix="$cache/sodium-$host.new"
    make -j"$(nproc)"
    rm -rf "$cache/sodium-$host.new"
    make install
} > ../"$host.log" 2>&1 || { tail -n 20 ../"$host.log" >&2; exit 1; }
rm -rf "$cache/sodium-$host" "../build-$host"
mv "$cache/sodium-$host.new" "$cache/sodium-$host"
