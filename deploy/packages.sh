#!/usr/bin/env bash
# Installs, by apt, those of Debian's packages that are missing: what try.sh and the tests run beside the product.
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need runc runc
need cc gcc
need openssl openssl
need findmnt util-linux
need script bsdutils
need setpriv util-linux
need unshare util-linux
need nsenter util-linux
# One program's clock can be another's.
need faketime faketime
# Faults at single system calls of a running broker, and an HSM.
need strace strace
need softhsm2-util softhsm2
# A test cluster: its network, and what runc is built with.
need ip iproute2
need nft nftables
need pkg-config pkg-config
[ -e /usr/include/seccomp.h ] || missing+=(libseccomp-dev)
[ -x /bin/busybox ] || [ -x /usr/bin/busybox ] || missing+=(busybox-static)
[ -x /usr/bin/python3 ] || missing+=(python3)
python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing+=(python3 python3-venv)

if [ "${#missing[@]}" -eq 0 ]; then
  echo "packages: nothing is missing"
  exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "packages: missing ${missing[*]}, and there is no apt-get: install them by hand" >&2
  exit 1
fi
echo "packages: apt-get install ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
