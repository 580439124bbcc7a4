#!/bin/sh
# A feed made of this project's own files, shared by one process and cloned by another over loopback.
set -eu

datsync=${DATSYNC:-build/datsync}
dir=${DEMO_DIR:-build/demo}
server=

finish() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
}
trap finish EXIT
trap 'exit 130' INT TERM

say() {
    printf '\n%s\n' "$*"
}

# Print a command, then run it.
show() {
    printf '  $ datsync %s\n' "$*"
    code=0
    "$datsync" "$@" > "$dir/out" 2>&1 || code=$?
    sed 's/^/    /' "$dir/out"
    return "$code"
}

rm -rf "$dir"
mkdir -p "$dir"

say "1. A feed of this project's files: one archive, in blocks of 64 KiB."
tar -cf "$dir/source.tar" --exclude=./build --exclude=./.git .
show feed create "$dir/origin"
show feed append "$dir/origin" "$dir/source.tar"
show feed info "$dir/origin"
link=$("$datsync" feed info "$dir/origin" | sed -n 's/^link: //p')

say "2. One process shares it on loopback."
printf '  $ datsync feed share %s --listen 127.0.0.1:0\n' "$dir/origin"
"$datsync" feed share "$dir/origin" --listen 127.0.0.1:0 > "$dir/share.out" 2> "$dir/share.err" &
server=$!
address=
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    address=$(sed -n 's/^listening on //p' "$dir/share.out")
    [ -n "$address" ] && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
if [ -z "$address" ]; then
    cat "$dir/share.err" >&2
    exit 1
fi
sed 's/^/    /' "$dir/share.out"

say "3. Another process clones it: first two blocks of it, then, resuming, the rest."
show feed clone "$link" "$dir/copy" --peer "$address" --range 0:2
show feed clone "$link" "$dir/copy" --peer "$address"

say "4. Every block, hash and signature of the copy, checked."
show feed verify "$dir/copy"

say "5. The bytes are the same."
"$datsync" feed cat "$dir/copy" > "$dir/copy.tar"
cmp "$dir/source.tar" "$dir/copy.tar"
printf '    %s and %s are identical (%s bytes)\n' "$dir/source.tar" "$dir/copy.tar" "$(wc -c < "$dir/copy.tar" | tr -d ' ')"
