#!/usr/bin/env bash
# Changes the code in every small way that cargo-mutants knows, and requires a test to notice each change.
#   tests/mutants.sh                  everything below
#   tests/mutants.sh envelope attest  these parts
#   tests/mutants.sh FILE.rs...       these files
#   tests/mutants.sh --list [PART...] what would be changed, without building
# For the pure crates and for the modules that decide: where a condition the wrong way round is a hole, and where no
# compiler or socket would show it. What a test cannot notice stands in tests/mutants-accepted.txt, each with its reason.
# MUTANTS_GO_ON=1 goes on with a run that was broken off: what was noticed in it is not tried again.
# MUTANTS_SHARD=K/N takes the Kth of N shares of each part, counted from 0, so that a part can be run in pieces.
#
# Every change is a build and a run of the part's tests. Both are kept short by a copy of the tree in which the big
# crates consist of the modules concerned alone (the tests are the same), and by fewer cases of each property.
# A change takes 2 to 4 s of one core. Seen side by side on two cores with other builds: settings 60 changes in 2 minutes,
# policy 61 in 5, target 72 in 10, attest 472 in 25, envelope 660 in 43, translog 403 in 40, half of it loops without end.
# Run a part before a release, and a file after it was changed.
# A test that takes more than 30 s, or four times its time, counts as having noticed; on a loaded machine that proves
# nothing, so the changes that were noticed that way are printed.
# Needs root, as the tests of mounts do. The last line is "N caught, N missed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=27.1.0
accepted=$PWD/tests/mutants-accepted.txt
out=$(realpath -m "${MUTANTS_OUT:-target/mutants}")
tree=$out/tree
export CARGO_TARGET_DIR=$out/build CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=0 PROPTEST_CASES=${PROPTEST_CASES:-24}

# A change may make a test ask for memory without end.
ulimit -v $((12 * 1024 * 1024))

if ! cargo mutants --version >/dev/null 2>&1; then
  cargo install --locked --quiet cargo-mutants --version "$version" || exit 1
fi

# part NAME: the package of a part, its files, which of its tests to run, and which of those are too slow to be run on
# what others notice.
part() {
  tests=()
  slow=()
  case $1 in
    envelope | translog | settings)
      package=attache-$1
      files=("$1/src/**/*.rs")
      ;;
    attest | policy)
      package=attache-broker
      files=("broker/src/$1/**/*.rs")
      tests=("$1::")
      ;;
    target)
      package=attache-node-plugin
      files=(node-plugin/src/volume.rs node-plugin/src/mounter/target.rs)
      ;;
    broker/src/attest/*.rs | broker/src/policy/*.rs)
      package=attache-broker
      files=("$1")
      tests=("$(cut -d/ -f3 <<<"${1%.rs}")::")
      ;;
    node-plugin/src/volume.rs | node-plugin/src/mounter/*.rs | node-plugin/src/ipc/*.rs | envelope/src/*.rs | \
      translog/src/*.rs | settings/src/*.rs)
      package=attache-${1%%/*}
      files=("$1")
      ;;
    *)
      echo "mutants.sh: $1 is no part; there are settings, target, policy, attest, envelope, translog, and their files" >&2
      exit 2
      ;;
  esac
  # Without the races, which take seconds and are to notice nothing here that the verbs' tests do not.
  [ $package != attache-node-plugin ] || tests=(-- --skip mounter::tests::hostile --skip mounter::tests::crash)
  # Without those that look through all crates, of which the copy has parts.
  [ $package != attache-envelope ] || tests=(-- --skip labels_are_those_of --skip every_vector_file_is)
  [ $package != attache-translog ] || slow=(-- --skip verify::tests::every_ --skip verify::tests::any_ --skip verify::recovery)
}

# keep CRATE MODULE...: leaves these modules of a crate, and the dependencies that they name.
keep() {
  local crate=$1 file name
  shift
  sed -i '/^pub use /d' "$crate/src/lib.rs"
  for file in "$crate"/src/*; do
    name=$(basename "$file" .rs)
    case " lib $* " in
      *" $name "*) ;;
      *) rm -r "$file" && sed -i "/^\(pub \)\?mod $name;\$/d" "$crate/src/lib.rs" ;;
    esac
  done
  # What the unit tests include from there stays.
  [ ! -d "$crate/tests" ] || find "$crate/tests" -name '*.rs' -delete
  # Programs and test programs come last in a manifest.
  sed -i '/^\[\[/,$d' "$crate/Cargo.toml"
  for name in $(awk '/^\[/ { deps = /dependencies\]$/ } deps && match($0, /^[a-z0-9_-]+/) { print substr($0, 1, RLENGTH) }' \
    "$crate/Cargo.toml"); do
    # The reader of the vectors is a part of several crates' tests.
    grep -q -r -w "${name//-/_}" "$crate/src" tests/independent/reader.rs || sed -i "/^$name\(\.workspace\)\? = /d" "$crate/Cargo.toml"
  done
}

# join CRATE TEST...: makes tests of their own a part of the crate's unit tests: one build in place of one each.
join() {
  local crate=$1 test
  shift
  printf '#[cfg(test)]\nextern crate self as attache_%s;\n' "$crate" >>"$crate/src/lib.rs"
  for test in "$@"; do
    printf '#[cfg(test)]\n#[path = "../tests/%s.rs"]\nmod %s;\n' "$test" "${test%/main}" >>"$crate/src/lib.rs"
  done
}

list=no
if [ "${1:-}" = --list ]; then
  list=yes
  shift
fi
[ $# -gt 0 ] || set -- settings target policy attest envelope translog

# Lines of the accepted file: a change as cargo-mutants names it, without line and column, then " # " and the reason.
known=$(mktemp)
trap 'rm -f "$known"' EXIT
sed -n '/^#/d; s/ # .*//p' "$accepted" >"$known"
if grep -v -E '^#|^$| # ..........' "$accepted"; then
  echo "mutants.sh: each line above of $accepted needs a reason" >&2
  exit 2
fi

# The copy, uncommitted files included. Its files are new, so that nothing is left in them of an earlier run's changes.
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
  tar --create --null --files-from=- | tar --extract --touch --directory="$tree" || exit 1
(
  cd "$tree" || exit 1
  sed -i 's/^members = .*/members = ["settings", "envelope", "translog", "metrics", "broker", "node-plugin"]/' Cargo.toml
  keep broker attest policy kubernetes metrics causes
  # What is measured of other modules stays behind with them.
  { printf 'mod api;\npub use api::ApiMetrics;\n'; sed -n '/^const BUCKETS_S/,/^];/p' broker/src/metrics/mod.rs; } >"$tree/.metrics"
  mv "$tree/.metrics" broker/src/metrics/mod.rs
  rm broker/src/metrics/standing.rs
  keep node-plugin ipc mounter volume
  join envelope formats_page vectors/main
  join translog formats vectors
) || exit 1

caught=0
missed=0
for name in "$@"; do
  part "$name"
  chosen=()
  for file in "${files[@]}"; do chosen+=(--file "$file"); done
  if [ $list = yes ]; then
    cargo mutants --dir "$tree" --list --package "$package" "${chosen[@]}"
    continue
  fi
  [ -z "${MUTANTS_SHARD:-}" ] || chosen+=(--shard "$MUTANTS_SHARD")
  folder=$out/${name//\//-}
  mkdir -p "$folder"
  start=$SECONDS
  options=(--dir "$tree" --in-place --package "$package" --test-package "$package" "${chosen[@]}" --output "$folder"
    --no-shuffle --timeout-multiplier 4 --minimum-test-timeout 30 --colors never)
  # A part that was broken off goes on where it was, unless its code has changed.
  iterate=()
  [ -z "${MUTANTS_GO_ON:-}" ] || iterate=(--iterate)
  # What the quick tests do not notice gets the slow ones too.
  if [ ${#slow[@]} -gt 0 ]; then
    cargo mutants "${options[@]}" "${iterate[@]}" -- --lib "${slow[@]}"
    iterate=(--iterate)
  fi
  # Exit 2 is "some were missed", which is judged here, and 3 "some took for ever", which is noticed; others are its own
  # troubles.
  cargo mutants "${options[@]}" "${iterate[@]}" -- --lib "${tests[@]}"
  status=$?
  case $status in
    0 | 2 | 3) ;;
    *)
      echo "mutants.sh: cargo-mutants could not work on $name (exit $status)" >&2
      missed=$((missed + 1))
      continue
      ;;
  esac
  results=$folder/mutants.out
  sed 's/^/noticed by its time limit: /' "$results/timeout.txt"
  touch "$results/previously_caught.txt"
  caught=$((caught + $(cat "$results"/{caught,previously_caught,timeout}.txt | wc -l)))
  while IFS= read -r mutant; do
    bare=$(sed -E 's/^([^:]+):[0-9]+:[0-9]+: /\1: /' <<<"$mutant")
    if grep -q -x -F -- "$bare" "$known"; then
      echo "accepted: $mutant"
    else
      echo "MISSED: $mutant"
      missed=$((missed + 1))
    fi
  done <"$results/missed.txt"
  echo "$name: $((SECONDS - start)) s"
done

[ $list = yes ] && exit
echo "$caught caught, $missed missed"
[ "$missed" -eq 0 ]
