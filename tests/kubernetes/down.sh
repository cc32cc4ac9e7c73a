#!/usr/bin/env bash
# Takes down the cluster that tests/kubernetes/up.sh has brought up, and removes its folder.
#
#   tests/kubernetes/down.sh [DIR]
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --quiet --locked -p attache-tests --bin attache-cluster
"${CARGO_TARGET_DIR:-target}/debug/attache-cluster" down "$@"
