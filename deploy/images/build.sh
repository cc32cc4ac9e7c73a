#!/usr/bin/env bash
# OCI images of the broker and of the node plugin: one static binary each on an empty base, with its SBOM.
#
#   deploy/images/build.sh OUT [--profile dist|release|dev] [--only PACKAGE] [--unpacked] [--quick]
#
# makes OUT/attache-broker.oci.tar and OUT/attache-node-plugin.oci.tar (OCI image layouts: `ctr images import`, `skopeo
# copy oci-archive:...`, `docker load`), named attache.dev/NAME:VERSION, and the SBOMs beside them. With --unpacked their
# files lie in OUT/NAME, and nothing is packed: for the Dockerfile. With --quick only our own crates are compiled again, and linked
# with what a build of the workspace has made already: for tests, and not the same bytes elsewhere.
#
# The same sources, toolchain and C library make the same bytes, wherever the sources lie: paths are cut off, times are
# SOURCE_DATE_EPOCH (default: the last commit's), owners and order in the archives are fixed. tests/images/run.sh holds it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

usage='usage: build.sh OUT [--profile dist|release|dev] [--only attache-broker|attache-node-plugin] [--unpacked] [--quick]'
out='' profile=dist packing=pack quick='' packages='attache-broker attache-node-plugin'
while [ $# -gt 0 ]; do
  case $1 in
    --profile) profile=${2:?"$usage"}; shift ;;
    --only) packages=${2:?"$usage"}; shift ;;
    --unpacked) packing=unpack ;;
    --quick) quick=yes ;;
    -*) echo "build.sh: unknown option $1; $usage" >&2; exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done
if [ -z "$out" ]; then echo "build.sh: name the folder for the images; $usage" >&2; exit 2; fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$root"

target=$(rustc -vV | sed -n 's/^host: //p')
case $target in
  *-linux-gnu) ;;
  *) echo "build.sh: the images are built on Linux with the GNU C library, and this toolchain is for $target" >&2; exit 1 ;;
esac
# dev lies in debug, every other profile in a folder of its name.
folder=$profile
if [ "$profile" = dev ]; then folder=debug; fi
built=${CARGO_TARGET_DIR:-$root/target}/images
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export LC_ALL=C TZ=UTC CARGO_INCREMENTAL=0

pack() {
  local package=$1 binary=$2
  python3 "$here/sbom.py" --package "$package" --target "$target" >"$out/$package.cdx.json"
  python3 "$here/image.py" "$packing" --package "$package" --target "$target" \
    --binary "$binary" --sbom "$out/$package.cdx.json" --out "$out"
}

if [ -n "$quick" ]; then
  # Dependencies are compiled the same, so those that are there are taken over.
  theirs=${CARGO_TARGET_DIR:-$root/target}/$folder own=$built/quick/$folder
  if [ ! -d "$own/deps" ] && [ -d "$theirs/deps" ]; then
    mkdir -p "$own"
    cp -a "$theirs/deps" "$theirs/build" "$theirs/.fingerprint" "$own/"
  fi
  programs=()
  for package in $packages; do programs+=(--bin "$package"); done
  # Whether the C library is in a program is a matter of its own crate alone, and cargo lets a wrapper say so.
  RUSTC_WORKSPACE_WRAPPER=$here/static-rustc.sh \
    cargo build --locked --profile "$profile" --target-dir "$built/quick" --workspace "${programs[@]}"
  for package in $packages; do pack "$package" "$own/$package"; done
  exit
fi

# Of two prefixes that fit, the later counts: the registry and the build folder may lie below the sources. Where a link is
# on the way, a compiler is told the one path and finds itself at the other.
home=${CARGO_HOME:-$HOME/.cargo}
flags=$'-C\x1ftarget-feature=+crt-static' maps=''
cut_off() {
  flags+=$'\x1f'"--remap-path-prefix=$1=$2"
  maps+=" $(printf %q "-ffile-prefix-map=$1=$2")"
}
for map in "$root=/attache" "$home=/cargo" "$built=/build"; do
  path=${map%=*} name=${map##*=}
  linked=$(realpath -m -- "$path")
  if [ "$linked" != "$path" ]; then cut_off "$linked" "$name"; fi
  cut_off "$path" "$name"
done
# Both take paths with blanks in them.
export CARGO_ENCODED_RUSTFLAGS=$flags CFLAGS="${CFLAGS:-}$maps" CC_SHELL_ESCAPED_FLAGS=1

# Each by itself: a feature that only one of them asks for stays out of the other.
for package in $packages; do
  cargo build --locked --profile "$profile" --target "$target" --target-dir "$built" --package "$package" --bins
  pack "$package" "$built/$target/$folder/$package"
done
