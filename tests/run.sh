#!/usr/bin/env bash
# All tests, with their own set-up. Needs root, Debian and Rust; says what it does; can be run again.
# The last line is the sum of every part: "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/.."

passed=0
failed=0
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

say() { printf '\n== %s\n' "$*"; }

# count NAME STATUS: one check that is not a test runner's own.
count() {
  if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; fi
}

if [ "$(id -u)" -ne 0 ]; then
  echo "tests/run.sh: needs root: it mounts tmpfs, runs containers and drops privileges (try: sudo tests/run.sh)"
  echo "0 passed, 1 failed"
  exit 1
fi

say "packages"
deploy/packages.sh
count "packages" $?

say "Kubernetes, from Go modules"
start=$SECONDS
tests/kubernetes/build.sh
count "tests/kubernetes/build.sh" $?
echo "Kubernetes: $((SECONDS - start)) s"

say "build (release)"
start=$SECONDS
cargo build --release --locked --bins
count "build" $?
echo "build: $((SECONDS - start)) s"

say "images, for the tests on Kubernetes"
start=$SECONDS
deploy/images/build.sh target/kubernetes/images --profile dev
count "images" $?
echo "images: $((SECONDS - start)) s"

say "unit, property and end-to-end tests"
start=$SECONDS
cargo test --release --locked --workspace --no-fail-fast 2>&1 | tee "$logs/cargo"
status=${PIPESTATUS[0]}
read -r p f < <(awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }' "$logs/cargo")
passed=$((passed + p))
failed=$((failed + f))
# A build error or a crashed test program prints no result line: it must not pass for silence.
if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then count "cargo test (exit $status)" 1; fi
if [ "$p" -eq 0 ]; then count "cargo test ran no test" 1; fi
echo "cargo test: $((SECONDS - start)) s"

say "independent implementation of the formats"
start=$SECONDS
tests/independent/run.sh 2>&1 | tee "$logs/independent"
status=${PIPESTATUS[0]}
read -r p f < <(awk '/^[0-9]+ passed, [0-9]+ failed/ { p = $1; f = $3 } END { print p + 0, f + 0 }' "$logs/independent")
passed=$((passed + p))
failed=$((failed + f))
if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then count "independent (exit $status)" 1; fi
if [ "$p" -eq 0 ]; then count "independent ran no test" 1; fi
echo "independent: $((SECONDS - start)) s"

say "the main job (deploy/try.sh), twice: the second run must find nothing in its way"
for round in 1 2; do
  start=$SECONDS
  deploy/try.sh
  count "deploy/try.sh, round $round" $?
  echo "deploy/try.sh, round $round: $((SECONDS - start)) s"
done

say "sum"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
