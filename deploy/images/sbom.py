"""Writes the software bill of materials of one program to standard output: CycloneDX 1.6, JSON.

It lists what is linked into the static binary: the crates that cargo resolves for this target with this program's
features (not what only builds them, and no macros that ran at build time), Rust's standard library, the C library and
libgcc. Checksums are Cargo.lock's. The same resolution makes the same bytes: no time, no serial number.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^(?P<depth>\d+)(?P<name>\S+) v(?P<version>\S+)(?: \(.*\))?\|(?P<license>[^|]*)\|(?P<url>[^|]*?)(?: \(\*\))?$")


def run(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def linked(package: str, target: str) -> tuple[dict[str, dict], dict[str, set[str]]]:
    """The crates by reference, and which needs which."""
    tree = run(
        "cargo", "tree", "--locked", "--package", package, "--target", target,
        "--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", "{p}|{l}|{r}",
    )
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    crates: dict[str, dict] = {}
    needs: dict[str, set[str]] = {}
    above: list[str] = []
    for line in tree.splitlines():
        found = LINE.match(line)
        if not found:
            sys.exit(f"sbom.py: cargo tree printed a line that is not understood: {line!r}")
        name, version = found["name"], found["version"]
        reference = f"pkg:cargo/{name}@{version}"
        crate = {"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference}
        if checksum := checksums[name, version]:
            crate["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        if found["license"]:
            # The slash is how cargo once wrote "or".
            expression = re.sub(r"\s*/\s*", " OR ", found["license"])
            crate["licenses"] = [{"expression": expression}]
        if found["url"]:
            crate["externalReferences"] = [{"type": "vcs", "url": found["url"]}]
        crates[reference] = crate
        del above[int(found["depth"]):]
        needs.setdefault(reference, set())
        if above:
            needs[above[-1]].add(reference)
        above.append(reference)
    return crates, needs


def runtime() -> list[dict]:
    """What the compiler links in by itself."""
    rust = re.search(r"^release: (\S+)$", run("rustc", "-vV"), re.MULTILINE)[1]
    try:
        glibc = run("dpkg-query", "--show", "--showformat", "${source:Version}", "libc6-dev")
        glibc_url = f"pkg:deb/debian/glibc@{glibc.replace('+', '%2B')}"
    except (OSError, subprocess.CalledProcessError):
        glibc = run("getconf", "GNU_LIBC_VERSION").split()[1]
        glibc_url = f"pkg:generic/glibc@{glibc}"
    gcc = run("cc", "-dumpfullversion").strip()
    rows = [
        ("std", rust, f"pkg:generic/rust-std@{rust}", "MIT OR Apache-2.0"),
        ("glibc", glibc, glibc_url, "LGPL-2.1-or-later"),
        ("libgcc", gcc, f"pkg:generic/libgcc@{gcc}", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    ]
    return [
        {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url,
         "licenses": [{"expression": expression}]}
        for name, version, url, expression in rows
    ]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--package", required=True)
    arguments.add_argument("--target", required=True)
    asked = arguments.parse_args()
    crates, needs = linked(asked.package, asked.target)
    own = next(reference for reference in crates if reference.startswith(f"pkg:cargo/{asked.package}@"))
    program = {**crates.pop(own), "type": "application"}
    libraries = runtime()
    needs[own] |= {library["bom-ref"] for library in libraries}
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": program},
        "components": libraries + [crates[reference] for reference in sorted(crates)],
        "dependencies": [{"ref": ref, "dependsOn": sorted(needs[ref])} for ref in sorted(needs)],
    }
    json.dump(bill, sys.stdout, indent=1, sort_keys=True, ensure_ascii=False)
    print()


main()
