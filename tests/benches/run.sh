#!/usr/bin/env bash
# Builds what is shipped and measures it. Needs root; a quiet machine; about ten minutes, five of them for the build.
#   tests/benches/run.sh                  everything
#   tests/benches/run.sh release put      these
# ATTACHE_BENCH_VALUES=N: how many values `rotate` fills a store with (default 1000000).
# ATTACHE_BENCH_SECRETS=N: how many secrets `footprint` fills a store with (default 1000000, which takes minutes).
set -euo pipefail
cd "$(dirname "$0")/../.."

[ "$(id -u)" -eq 0 ] || { echo "tests/benches/run.sh: needs root: it mounts and drops privileges" >&2; exit 1; }
[ $# -gt 0 ] || set -- release put audit publish rotate footprint backup
benches=()
for name in "$@"; do benches+=(--bench "$name"); done
cargo build --profile dist --locked --bins
cargo bench --profile dist --locked -p attache-tests "${benches[@]}"
