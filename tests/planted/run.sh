#!/usr/bin/env bash
# Plants one bug after the other into a copy of the machine and lets the simulator look for it.
#
#   tests/planted/run.sh                     all of them
#   tests/planted/run.sh will-twice …        some of them
#   CULEX_PLANTED_SEEDS=2000 tests/planted/run.sh    fewer seeds than 10,000
#
# The table goes to standard output. Exit code 1 if a bug survives. Needs git and cargo; nothing outside target/planted/
# is touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seeds=${CULEX_PLANTED_SEEDS:-10000}
unset CULEX_PLANTED_SEEDS
planted=$PWD/target/planted
tree=$planted/tree
runner=$planted/build/release/culex-planted

say() { printf '%s\n' "$*" >&2; }

copy() {
    local name
    rm -rf "$tree"
    mkdir -p "$tree"
    # All members, or the workspace is incomplete; nothing that was built or installed.
    for name in Cargo.toml Cargo.lock $(sed -n 's/^members = \[\(.*\)\]$/\1/p' Cargo.toml | tr -d '",'); do
        mkdir -p "$tree/$(dirname "$name")"
        [ -e "$tree/$name" ] || tar -c --exclude=node_modules --exclude=target "$name" | tar -x -C "$tree"
    done
    # Newer than what was built last time, which may have had a bug in it.
    find "$tree/core/src" -name '*.rs' -exec touch {} +
}

build() {
    RUSTFLAGS='-A warnings' CARGO_TARGET_DIR=$planted/build \
        cargo build --quiet --release --locked --manifest-path "$tree/tests/planted/runner/Cargo.toml"
}

# The copy lies within a repository that must not be taken for its own.
apply() { (cd "$tree" && GIT_CEILING_DIRECTORIES=$planted git apply "$@"); }

header() { sed -n "s/^# $2: //p" "$1"; }

if [ $# -eq 0 ]; then
    set -- $(cd tests/planted && ls -- *.patch | sed 's/\.patch$//')
fi
copy
say 'building, without any bug'
build
say "running $seeds seeds"
false_alarms=$("$runner" "$seeds")
if [ -n "$false_alarms" ]; then say "these break a promise without any bug, and are left out: $false_alarms"; fi

survivors=0
echo '| planted bug | promise expected | promise that broke | seeds until found | profile |'
echo '|---|---|---|---:|---|'
for name in "$@"; do
    patch=$PWD/tests/planted/$name.patch
    expected=$(header "$patch" promise)
    shards=$(header "$patch" shards)
    apply "$patch"
    if build; then
        found=$(timeout 600 "$runner" "$seeds" "$false_alarms" "$expected" "${shards:-1}") || true
    else
        found='-|0|does not build|'
    fi
    apply --reverse "$patch"
    IFS='|' read -r promise count profile before <<<"${found:--|hangs|-|}"
    if [ "$promise" = - ]; then
        survivors=$((survivors + 1))
        promise='**survives**'
    fi
    echo "| $name | $expected | $promise${before:+ ($before)} | $count | $profile |"
done
if [ "$survivors" -gt 0 ]; then
    say "$survivors of $# planted bugs were not found by what should find them"
    exit 1
fi
