#!/usr/bin/env bash
# Takes one mitigation away at a time, and requires the test that proves it to fail, by its assertion.
#   tests/sabotage/run.sh                         every patch
#   tests/sabotage/run.sh S8 T4                   the patches of these threats
#   tests/sabotage/run.sh --changed-since REV     the patches whose files differ from REV
#   tests/sabotage/run.sh --lot N                 N patches, drawn by the commit that is checked out; all must apply
# Works on a copy of the tree, uncommitted files included; the tree itself is not touched. Needs root, as the tests do.
# The dependencies that are built already are taken over, those of release first. The last line is "N passed, N failed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
built=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR=${SABOTAGE_TARGET_DIR:-$built/sabotage} CARGO_INCREMENTAL=1 CARGO_TERM_COLOR=never

passed=0
failed=0
scratch=$(mktemp -d)
# Some tests become another user, who has to come through.
chmod 755 "$scratch"

finish() {
  # Built for the path of the copy, which is of no use to the next one.
  find "$CARGO_TARGET_DIR" \( -name '*attache-*' -o -name '*attache_*' \) -prune -exec rm -rf {} + 2>/dev/null
  rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM

pass() { passed=$((passed + 1)); echo "ok      $1: $2"; }
fail() { failed=$((failed + 1)); echo "FAILED  $1: $2"; }
end() { echo "$passed passed, $failed failed"; [ "$failed" -eq 0 ]; exit; }

# field PATCH NAME: a line of the patch's head.
field() { sed -n "/^---/q; s/^# $2: //p" "$1"; }

# --- Which patches ---------------------------------------------------------------------------------------------------

changed_since=
lot=
wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    --changed-since)
      changed_since=${2:?"--changed-since needs a revision"}
      shift
      ;;
    --lot)
      lot=${2:?"--lot needs a number"}
      shift
      ;;
    -*) echo "run.sh: $1 is not known; see the head of this file" >&2; exit 2 ;;
    *) wanted+=("$1") ;;
  esac
  shift
done

# A run of a few draws them, so that every one has its turn, and the same commit draws the same. That they apply is looked at for all.
if [ -n "$lot" ]; then
  seed=$(git rev-parse HEAD) || exit 2
  mapfile -t wanted < <(
    for patch in tests/sabotage/*.patch; do
      printf '%s %s\n' "$(printf '%s %s' "$seed" "$patch" | sha256sum | cut -c1-16)" "$(basename "$patch" .patch)"
    done | sort | head -n "$lot" | cut -d' ' -f2
  )
  for patch in tests/sabotage/*.patch; do
    git apply --check "$patch" 2>"$scratch/log" || fail "$(basename "$patch" .patch)" "the patch no longer applies: make it anew ($(head -n 1 "$scratch/log"))"
  done
fi

# The files that differ from the revision, those that are not committed and those that are new.
if [ -n "$changed_since" ]; then
  git diff --name-only "$changed_since" -- >"$scratch/changed" || exit 2
  git ls-files --others --exclude-standard >>"$scratch/changed"
fi

is_wanted() {
  local patch=$1 id threat file
  id=$(basename "$patch" .patch)
  threat=$(field "$patch" threat)
  if [ ${#wanted[@]} -gt 0 ]; then
    # A lot names patches, and one's name may be another's threat.
    if [ -n "$lot" ]; then threat=$id; fi
    printf '%s\n' "${wanted[@]}" | grep -q -x -F -e "$id" -e "$threat" || return 1
  fi
  [ -n "$changed_since" ] || return 0
  for file in $(field "$patch" files) "tests/sabotage/$id.patch" tests/sabotage/run.sh; do
    grep -q -x -F -- "$file" "$scratch/changed" && return 0
  done
  return 1
}

# A leaf crate that is changed rebuilds the programs: theirs go first, so that they are built few times.
patches=()
left=()
for programs in yes no; do
  for patch in tests/sabotage/*.patch; do
    if field "$patch" files | grep -q -E '^(broker|node-plugin|cli)/'; then first=yes; else first=no; fi
    [ $first = $programs ] || continue
    if is_wanted "$patch"; then patches+=("$root/$patch"); else left+=("$(basename "$patch" .patch)"); fi
  done
done
for name in "${wanted[@]}"; do
  [ -n "$changed_since" ] || [ -e "tests/sabotage/$name.patch" ] || fail "$name" "there is no such patch"
done
if [ -n "$lot" ]; then
  printf '%s of %s patches, drawn by the commit\n' "${#patches[@]}" "$((${#patches[@]} + ${#left[@]}))"
elif [ ${#left[@]} -gt 0 ]; then
  printf '\n!!! NOT RUN, %s PATCHES: %s !!!\n\n' "${#left[@]}" "${left[*]}"
fi
[ ${#patches[@]} -gt 0 ] || { echo "no patch is concerned"; end; }

# --- The copy --------------------------------------------------------------------------------------------------------

mkdir -p "$scratch/tree" "$CARGO_TARGET_DIR"
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
  tar --create --null --files-from=- | tar --extract --directory="$scratch/tree" || exit 1
cd "$scratch/tree" || exit 1
# What the tests start besides our own programs.
mkdir -p target && ln -s "$built/kubernetes" target/kubernetes

# The profile whose dependencies are there. Our own crates are built without optimisation: it is the build that takes time.
profile=()
name=debug
if [ -d "$built/release/deps" ] || [ -d "$CARGO_TARGET_DIR/release/deps" ]; then
  profile=(--release)
  name=release
  for crate in proto settings mtls envelope arena translog backup broker node-plugin cli tests; do
    profile+=(--config "profile.release.package.attache-$crate.opt-level=0")
  done
fi
if [ ! -d "$CARGO_TARGET_DIR/$name/deps" ] && [ -d "$built/$name/deps" ]; then
  mkdir -p "$CARGO_TARGET_DIR/$name"
  cp -a "$built/$name/deps" "$built/$name/build" "$built/$name/.fingerprint" "$CARGO_TARGET_DIR/$name/"
fi

# read_test PATCH: package, target (as cargo selects it), program (its file, without the hash) and test_name.
read_test() {
  local words
  # cargo test -p PACKAGE (--lib | --test NAME) TEST
  read -r -a words <<<"$(field "$1" test)"
  package=${words[3]}
  test_name=${words[-1]}
  if [ "${words[4]}" = --lib ]; then
    target=(--lib)
    program=${package//-/_}
  else
    target=(--test "${words[5]}")
    program=${words[5]}
  fi
}

# build PACKAGE TARGET...: the test programs, and for end-to-end tests the programs that they start. The whole workspace is
# selected in place of the one package: with another selection cargo would build most dependencies anew, since their
# features are those of what is selected.
build() {
  if [ "$1" = attache-tests ]; then
    cargo build --locked --workspace "${profile[@]}" --bins >"$scratch/log" 2>&1 || return 1
  fi
  cargo test --locked --workspace "${profile[@]}" --no-run "${@:2}" >"$scratch/log" 2>&1 || return 1
  sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$scratch/log" >"$scratch/programs"
}

# run_test: the test that was read, and no other, where cargo would run it. Without its mitigation it may wait for ever.
run_test() {
  local file
  file=$(grep -m1 -E "/$program-[0-9a-f]+\$" "$scratch/programs") || return 1
  (cd "${package#attache-}" && timeout 300 "$file" --exact "$test_name") >"$scratch/log" 2>&1
}

# ran RESULT SUM: exactly one test of that name ran, and ended like that.
ran() { [ "$(grep -c -x -F "test $test_name ... $1" "$scratch/log")" = 1 ] && grep -q "^test result: $2" "$scratch/log"; }
why() { grep -m1 -E '^error|could not compile' "$scratch/log" || tail -n 3 "$scratch/log" | tr '\n' ' '; }

# --- Each test without its patch -------------------------------------------------------------------------------------

echo "== ${#patches[@]} tests as they are"
targets=()
builds=
for patch in "${patches[@]}"; do
  read_test "$patch"
  targets+=("${target[@]}")
  if [ "$package" = attache-tests ]; then builds=$package; fi
done
mapfile -t targets < <(printf '%s\n' "${targets[*]}" | sed 's/ --/\n--/g' | sort -u | tr ' ' '\n')
build "$builds" "${targets[@]}" || { fail "all" "the tree does not build as it is: $(why)"; end; }

sound=()
for patch in "${patches[@]}"; do
  id=$(basename "$patch" .patch)
  read_test "$patch"
  run_test
  status=$?
  if [ "$status" -eq 0 ] && ran ok 'ok\. 1 passed; 0 failed; 0 ignored'; then
    sound+=("$patch")
  else
    fail "$id" "its test does not pass as it is, or did not run: $test_name: $(why)"
  fi
done
echo "built and run in $SECONDS s"

# --- Each with it ----------------------------------------------------------------------------------------------------

echo "== ${#sound[@]} tests without what they prove"
for patch in "${sound[@]}"; do
  id=$(basename "$patch" .patch)
  start=$SECONDS
  if ! git apply "$patch" 2>"$scratch/log"; then
    fail "$id" "the patch no longer applies: make it anew ($(head -n 1 "$scratch/log"))"
    continue
  fi
  read_test "$patch"
  if ! build "$package" "${target[@]}"; then
    fail "$id" "it does not build: $(why)"
  else
    run_test
    status=$?
    # 101 is the runner's own answer for tests that failed; a signal or a time limit is another.
    if [ "$status" -eq 101 ] && ran FAILED 'FAILED\. 0 passed; 1 failed; 0 ignored' && grep -q 'panicked at' "$scratch/log"; then
      pass "$id" "$test_name failed without $(field "$patch" removes) ($((SECONDS - start)) s)"
    elif [ "$status" -eq 0 ]; then
      fail "$id" "$test_name PASSES without $(field "$patch" removes)"
    else
      fail "$id" "$test_name did not fail by its assertion (exit $status): $(why)"
    fi
  fi
  git apply --reverse "$patch" || { fail "$id" "the patch could not be taken back"; end; }
done

echo "all of it: $SECONDS s"
end
