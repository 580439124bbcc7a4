#!/bin/sh
# This project's own files, as a drive and as a feed, shared by one process and cloned by another over loopback.
set -eu

datsync=${DATSYNC:-build/datsync}
export DATSYNC_NO_DISCOVERY=1 # nothing leaves this machine: peers are named by their address
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

# Start a share in the background, and wait until it has told its address.
serve() {
    printf '  $ datsync %s\n' "$*"
    : > "$dir/share.out"
    "$datsync" "$@" > "$dir/share.out" 2> "$dir/share.err" &
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
}

stop_serving() {
    kill "$server"
    wait "$server" || true
    server=
}

rm -rf "$dir"
mkdir -p "$dir/drive"

say "1. A drive: a folder of files (here the sources of datsync)."
cp ./*.c ./*.h ./*.md "$dir/drive"
cp -R examples "$dir/drive"
show create "$dir/drive" --title datsync --secret-dir "$dir/secrets"
show ls "$dir/drive" --secret-dir "$dir/secrets"
link=$("$datsync" keys "$dir/drive" --secret-dir "$dir/secrets" | sed -n 1p)

say "2. One process shares it on loopback, another one clones it."
serve share "$dir/drive" --secret-dir "$dir/secrets" --listen 127.0.0.1:0
show clone "$link" "$dir/files" --peer "$address" --secret-dir "$dir/nobody"

say "3. Every entry, block, hash and signature of the copy, checked; the files are the same."
show verify "$dir/files" --secret-dir "$dir/nobody"
diff -r -x .dat "$dir/drive" "$dir/files"
printf '    %s and %s are identical\n' "$dir/drive" "$dir/files"

say "4. What changes is pulled."
stop_serving
echo "It was not there before." > "$dir/drive/NEWS"
serve share "$dir/drive" --secret-dir "$dir/secrets" --listen 127.0.0.1:0
show pull "$dir/files" --peer "$address" --secret-dir "$dir/nobody"
show cat "$dir/files" NEWS --secret-dir "$dir/nobody"
stop_serving

say "5. A bare feed of this project's files: one archive, in blocks of 64 KiB."
tar -cf "$dir/source.tar" --exclude=./build --exclude=./.git .
show feed create "$dir/origin"
show feed append "$dir/origin" "$dir/source.tar"
show feed info "$dir/origin"
link=$("$datsync" feed info "$dir/origin" | sed -n 's/^link: //p')

say "6. One process shares it on loopback."
serve feed share "$dir/origin" --listen 127.0.0.1:0

say "7. Another process clones it: first two blocks of it, then, resuming, the rest."
show feed clone "$link" "$dir/copy" --peer "$address" --range 0:2
show feed clone "$link" "$dir/copy" --peer "$address"

say "8. Every block, hash and signature of the copy, checked."
show feed verify "$dir/copy"

say "9. The bytes are the same."
"$datsync" feed cat "$dir/copy" > "$dir/copy.tar"
cmp "$dir/source.tar" "$dir/copy.tar"
printf '    %s and %s are identical (%s bytes)\n' "$dir/source.tar" "$dir/copy.tar" "$(wc -c < "$dir/copy.tar" | tr -d ' ')"
