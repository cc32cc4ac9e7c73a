#!/usr/bin/env bash
# Checks every vector with the independent implementation. Makes .venv when it is missing; can be run again.
# The last line is "N passed, N failed"; the exit code is not 0 when something failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "run.sh: Python 3.11 or later is needed; set PYTHON to one" >&2
    exit 1
}

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "run.sh: Python's venv is missing; install python3-venv" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
fi

# The stamp is written last, so that an interrupted or outdated environment is made anew.
stamp=.venv/requirements.installed
if ! cmp -s requirements.txt "$stamp"; then
    rm -rf .venv
    "$python" -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.txt
    cp requirements.txt "$stamp"
fi

exec .venv/bin/python -B check.py
