#!/usr/bin/env bash
# Brings a Kubernetes of two nodes up on this machine and leaves it for playing; prints where its KUBECONFIG is.
#
#   tests/kubernetes/up.sh [DIR [VERSION]]
#
# DIR must be new or empty (target/cluster when left out). Needs root, Debian, Rust; builds what is missing, which takes some ten
# minutes the first time and nothing later. tests/kubernetes/down.sh takes it down.
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=${1:-target/cluster}
version=${2:-1.37.2}

if [ "$(id -u)" -ne 0 ]; then
  echo "tests/kubernetes/up.sh: needs root: it makes namespaces, a bridge and control groups (try: sudo $0)" >&2
  exit 1
fi
deploy/packages.sh
tests/kubernetes/build.sh "$version"
cargo build --quiet --locked -p attache-tests --bin attache-cluster
"${CARGO_TARGET_DIR:-target}/debug/attache-cluster" up "$dir" --version "$version"
echo "export PATH=$PWD/target/kubernetes/$version/bin:$PWD/target/kubernetes/bin:\$PATH"
