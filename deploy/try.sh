#!/usr/bin/env bash
# The main job on this machine, narrated and checked line by line. Needs root, Debian and Rust; installs by apt what is
# missing, builds in release, runs in seconds once built, and can be run again.
#   deploy/try.sh              runs it and cleans up
#   deploy/try.sh --dev        the same from a development build, which the tests have made
#   deploy/try.sh --keep DIR   leaves all of it running in DIR, a new or empty folder; DIR/env says where everything is, DIR/stop.sh ends it
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ]; then
  echo "deploy/try.sh: needs root: it mounts tmpfs and runs containers (try: sudo deploy/try.sh)" >&2
  exit 1
fi
if ! command -v cargo >/dev/null 2>&1; then
  echo "deploy/try.sh: needs Rust 1.95 or newer: https://rustup.rs" >&2
  exit 1
fi
deploy/packages.sh
profile=release folder=release
if [ "${1:-}" = --dev ]; then
  profile=dev folder=debug
  shift
fi
echo "building ($profile); the first time takes some minutes"
cargo build --profile "$profile" --locked --quiet --workspace --bins
exec "${CARGO_TARGET_DIR:-target}/$folder/attache-try" "$@"
