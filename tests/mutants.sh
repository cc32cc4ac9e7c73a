#!/usr/bin/env bash
# Changes the code in every small way that cargo-mutants knows, and requires a test to notice each change.
#   tests/mutants.sh                  everything below
#   tests/mutants.sh envelope attest  these parts
#   tests/mutants.sh FILE.rs...       these files
#   tests/mutants.sh --list [PART...] what would be changed, without building
# For the pure crates and for the modules that decide: where a condition the wrong way round is a hole, and where no
# compiler or socket would show it. What a test cannot notice stands in tests/mutants-accepted.txt, each with its reason.
#
# Not part of .ci/run: every change is a build and a run of the part's tests, on a copy of the tree. One part after the
# other takes the better part of a night on two cores; seconds a change (measured for the first three, the rest from
# builds of the same crates) and changes, as of 0.1:
#   settings    1 s x  55      1 min         policy   20 s x  61     20 min    the broker is linked for each
#   envelope    6 s x 663     65 min         attest   20 s x 469    160 min
#   translog   20 s x 403    135 min         target    5 s x  76      7 min    as root: its tests mount
# and a first build of each. Run a part before a release, and a file after it was changed.
# The last line is "N caught, N missed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=27.1.0
accepted=tests/mutants-accepted.txt
out=${MUTANTS_OUT:-target/mutants}

if ! cargo mutants --version >/dev/null 2>&1; then
  cargo install --locked --quiet cargo-mutants --version "$version" || exit 1
fi

# part NAME: the package of a part, its files, and which of its tests to run.
part() {
  tests=(--lib)
  case $1 in
    envelope | translog | settings)
      package=attache-$1
      files=("$1/src/**/*.rs")
      # The vectors of the independent implementation are tests of these two.
      [ "$1" = settings ] || tests=(--lib --tests)
      ;;
    attest | policy)
      package=attache-broker
      files=("broker/src/$1/**/*.rs" "broker/src/$1.rs")
      tests=(--lib "$1::")
      ;;
    target)
      package=attache-node-plugin
      files=(node-plugin/src/volume.rs node-plugin/src/mounter/target.rs)
      tests=(--lib)
      ;;
    broker/src/attest/*.rs | broker/src/policy/*.rs)
      package=attache-broker
      files=("$1")
      tests=(--lib "$(cut -d/ -f3 <<<"${1%.rs}")::")
      ;;
    broker/*.rs | node-plugin/*.rs | envelope/*.rs | translog/*.rs | settings/*.rs)
      package=attache-${1%%/*}
      files=("$1")
      ;;
    *)
      echo "mutants.sh: $1 is no part; there are envelope, translog, settings, attest, policy, target, and files" >&2
      exit 2
      ;;
  esac
}

list=no
if [ "${1:-}" = --list ]; then
  list=yes
  shift
fi
[ $# -gt 0 ] || set -- settings envelope translog policy attest target

# Lines of the accepted file: a change as cargo-mutants names it, without line and column, then " # " and the reason.
known=$(mktemp)
trap 'rm -f "$known"' EXIT
sed -n '/^#/d; s/ # .*//p' "$accepted" >"$known"
if grep -v -E '^#|^$| # ..........' "$accepted"; then
  echo "mutants.sh: each line above of $accepted needs a reason" >&2
  exit 2
fi

caught=0
missed=0
for name in "$@"; do
  part "$name"
  chosen=()
  for file in "${files[@]}"; do chosen+=(--file "$file"); done
  if [ $list = yes ]; then
    cargo mutants --list --package "$package" "${chosen[@]}"
    continue
  fi
  folder=$out/${name//\//-}
  mkdir -p "$folder"
  start=$SECONDS
  # Exit 2 is "some were missed", which is judged here; others are its own troubles.
  cargo mutants --package "$package" --test-package "$package" "${chosen[@]}" --output "$folder" \
    --no-shuffle --jobs 1 --timeout-multiplier 4 --minimum-test-timeout 60 --colors never -- "${tests[@]}"
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
  caught=$((caught + $(cat "$results/caught.txt" "$results/timeout.txt" | wc -l)))
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
