#!/usr/bin/env bash
# The images: what is in them, and that a second build, in another folder, makes the same bytes. Last line: the sum.
#
#   tests/images/run.sh [--all] [--profile dist|release|dev]
#
# The node plugin is built again from nothing (every crate, all that it shares with the broker); with --all the broker too,
# which takes three times as long. The second build differs from the first in the folder of the sources, of what is built, of
# cargo's home, in time zone, umask and time of day. It has the same toolchain and C library: another compiler makes another
# program. Images for tests are of profile dev; what is shipped is of dist: --profile dist before a release.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

again=attache-node-plugin profile=release
while [ $# -gt 0 ]; do
  case $1 in
    --all) again='attache-node-plugin attache-broker' ;;
    --profile) profile=$2; shift ;;
    *) echo "usage: tests/images/run.sh [--all] [--profile dist|release|dev]" >&2; exit 2 ;;
  esac
  shift
done

passed=0 failed=0
count() { if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; fi; }
elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT
export SOURCE_DATE_EPOCH=1700000000

start=$SECONDS
"$root/deploy/images/build.sh" "$elsewhere/first" --profile "$profile"
count "build" $?
echo "images: the first build took $((SECONDS - start)) s (what was built before is taken up)"
python3 "$here/look.py" "$elsewhere/first"
count "what is in the images" $?

# As the tree is, what git ignores left out.
mkdir -p "$elsewhere/copy of the sources"
(cd "$root" && git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from - --ignore-failed-read) |
  tar --extract --directory "$elsewhere/copy of the sources"
ln -s "${CARGO_HOME:-$HOME/.cargo}" "$elsewhere/home"
for package in $again; do
  start=$SECONDS
  (umask 077 && CARGO_HOME=$elsewhere/home CARGO_TARGET_DIR=$elsewhere/built TZ=Asia/Tokyo \
    "$elsewhere/copy of the sources/deploy/images/build.sh" "$elsewhere/second" --profile "$profile" --only "$package") &&
    cmp "$elsewhere/first/$package.oci.tar" "$elsewhere/second/$package.oci.tar"
  count "$package is the same, built again elsewhere" $?
  echo "images: $package took $((SECONDS - start)) s from nothing"
done
sha256sum "$elsewhere"/first/*.oci.tar | sed "s|$elsewhere/first/||"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
