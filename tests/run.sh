#!/usr/bin/env bash
# All tests, with their own set-up. Needs root, Debian and Rust; says what it does; can be run again.
#   tests/run.sh               of a development build: it is there in half the time
#   tests/run.sh --release     of what users build; before a release
# The last line is the sum of every part: "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/.."

profile=dev try=(deploy/try.sh --dev)
case ${1:-} in
  '') ;;
  --release) profile=release try=(deploy/try.sh) ;;
  *) echo "usage: tests/run.sh [--release]" >&2; exit 2 ;;
esac

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

say "build ($profile)"
start=$SECONDS
cargo build --profile "$profile" --locked --workspace --bins
count "build" $?
echo "build: $((SECONDS - start)) s"

say "images, for the tests on Kubernetes"
start=$SECONDS
deploy/images/build.sh target/kubernetes/images --profile "$profile" --quick
count "images" $?
echo "images: $((SECONDS - start)) s"

say "unit, property and end-to-end tests, two programs at a time"
start=$SECONDS
cargo test --profile "$profile" --locked --workspace --no-run --message-format=json-render-diagnostics >"$logs/artifacts"
count "build of the tests" $?
echo "build of the tests: $((SECONDS - start)) s"

# Most of them wait, for a disk, for kubelet, for what was killed; the one that waits longest goes first. Each has a mount namespace
# of its own, so that none finds another's mounts, and 25 minutes at most.
programs() {
  python3 - "$logs/artifacts" <<'END'
import json, os, sys

first = ["kubernetes_faults", "plugin_crash", "crash"]
found = []
for line in open(sys.argv[1], encoding="utf-8"):
    it = json.loads(line)
    if it["reason"] == "compiler-artifact" and it["profile"]["test"] and it["executable"]:
        folder, name = os.path.dirname(it["manifest_path"]), it["target"]["name"]
        place = first.index(name) if name in first else len(first)
        found.append((place, os.path.relpath(it["target"]["src_path"]), folder, it["executable"]))
for _, source, folder, program in sorted(found):
    print(source, folder, program)
END
}

# run_program NUMBER SOURCE FOLDER PROGRAM: prints all of it at its end, and keeps it.
run_program() {
  local log=$logs/program-$1 status start=$SECONDS
  # What it has open is opened in there too; appended to, since what a crashed one leaves running would write over the line below.
  # shellcheck disable=SC2016
  (cd "$3" && timeout --kill-after=10 1500 unshare --mount --propagation private \
    bash -c 'exec >>"$1" 2>&1 </dev/null; exec "$0"' "$4" "$log")
  status=$?
  # A crashed or overdue program prints no result line: it must not pass for silence.
  if [ "$status" -ne 0 ] && ! grep -q '^test result: FAILED' "$log"; then
    echo "test result: FAILED. 0 passed; 1 failed (exit $status)" >>"$log"
  fi
  (
    flock 9
    printf '\n     Running %s (%s)\n' "$2" "$4"
    cat "$log"
    echo "$2: $((SECONDS - start)) s"
  ) 9>"$logs/.lock"
}

start=$SECONDS
number=0
while read -r source folder program; do
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
  number=$((number + 1))
  run_program "$number" "$source" "$folder" "$program" &
done < <(programs)
wait
cargo test --profile "$profile" --locked --workspace --doc >"$logs/program-doc" 2>&1
status=$?
cat "$logs/program-doc"
if [ "$status" -ne 0 ] && ! grep -q '^test result: FAILED' "$logs/program-doc"; then count "tests in docs (exit $status)" 1; fi
read -r p f < <(cat "$logs"/program-* | awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }')
passed=$((passed + p))
failed=$((failed + f))
if [ "$number" -lt 60 ]; then count "$number test programs were found, of more than 60" 1; fi
echo "$number test programs: $((SECONDS - start)) s"

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

say "the main job (${try[*]}), twice: the second run must find nothing in its way"
for round in 1 2; do
  start=$SECONDS
  "${try[@]}"
  count "${try[*]}, round $round" $?
  echo "${try[*]}, round $round: $((SECONDS - start)) s"
done

say "sum"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
