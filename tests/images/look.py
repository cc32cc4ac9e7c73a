"""Looks into the images that deploy/images/build.sh made in a folder: every rule that they must keep, or exit 1.

What a digest names is hashed, the layer is unpacked in memory, and the program is searched for paths of the machine that
built it and for crates that its SBOM does not list.
"""

import hashlib
import io
import json
import re
import sys
import tarfile
from pathlib import Path

FILES = {"etc/group", "etc/nsswitch.conf", "etc/passwd", "usr/share/attache/LICENSE"}
USERS = {"attache-broker": 4841, "attache-node-plugin": 4840}
CRATE = re.compile(rb"/cargo/registry/src/[^/]+/([A-Za-z0-9_.+-]+?)-(\d+\.\d+\.\d+[A-Za-z0-9.+-]*)/")
ROOT = Path(__file__).resolve().parents[2]
found: list[str] = []


def must(holds: bool, what: str) -> None:
    if not holds:
        found.append(what)


def look(archive: Path) -> None:
    name = archive.name.removesuffix(".oci.tar")
    with tarfile.open(archive) as layout:
        blobs = {m.name: layout.extractfile(m).read() for m in layout if m.isfile()}
    for path, content in blobs.items():
        digest = path.removeprefix("blobs/sha256/")
        must(digest == path or hashlib.sha256(content).hexdigest() == digest, f"{name}: {path} is not its content")

    def blob(descriptor: dict) -> bytes:
        content = blobs["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
        must(len(content) == descriptor["size"], f"{name}: {descriptor['digest']} has another size")
        return content

    must(json.loads(blobs["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}, f"{name}: no image layout")
    [entry] = json.loads(blobs["index.json"])["manifests"]
    must(entry["annotations"]["io.containerd.image.name"].startswith(f"attache.dev/{name}:"), f"{name}: its name")
    manifest = json.loads(blob(entry))
    config = json.loads(blob(manifest["config"]))
    uid = USERS[name]
    must(config["config"]["User"] == f"{uid}:{uid}", f"{name}: a numeric user that is not root")
    must(config["config"]["Entrypoint"] == [f"/usr/bin/{name}"], f"{name}: the program is what is run")
    [layer] = [blob(descriptor) for descriptor in manifest["layers"]]
    must(config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()], f"{name}: its layer")

    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        members = tar.getmembers()
        files = {m.name: tar.extractfile(m).read() for m in members if m.isfile()}
    program, bill = f"usr/bin/{name}", f"usr/share/attache/{name}.cdx.json"
    must(set(files) == FILES | {program, bill}, f"{name}: more or less than the program and its papers: {sorted(files)}")
    must([m.name for m in members] == sorted(m.name for m in members), f"{name}: entries are sorted")
    for m in members:
        must((m.uid, m.gid, m.mtime) == (0, 0, members[0].mtime), f"{name}: owner or time of {m.name}")
        must(m.isfile() or m.isdir(), f"{name}: {m.name} is neither file nor folder")
        wanted = 0o755 if m.isdir() or m.name == program else 0o644
        must(m.mode == wanted, f"{name}: mode of {m.name}")
    look_at_program(name, files[program], json.loads(files[bill]))


def look_at_program(name: str, program: bytes, bill: dict) -> None:
    must(program[:4] == b"\x7fELF", f"{name}: no program")
    # PT_INTERP names the loader of a program that is not static.
    must(b"/ld-linux" not in program.split(b".shstrtab")[0][:4096], f"{name}: it asks for a loader")
    for place in [str(ROOT).encode() + b"/", str(Path.home()).encode() + b"/", b"/tmp/tmp."]:
        at = program.find(place)
        must(at < 0, f"{name}: a path of this machine is in it: {program[max(at, 0):][:80]!r}")
    listed = {(c["name"], c["version"]) for c in bill["components"]}
    linked = {(n.decode(), v.decode()) for n, v in CRATE.findall(program)}
    must(len(linked) > 20, f"{name}: hardly a crate is named in it")
    must(linked <= listed, f"{name}: linked and not in the SBOM: {sorted(linked - listed)}")
    own = bill["metadata"]["component"]
    must((own["name"], own["type"]) == (name, "application"), f"{name}: what the SBOM is of")
    must({"std", "glibc", "libgcc"} <= {n for n, _ in listed}, f"{name}: what the compiler links in is in the SBOM")
    must("proc-macro2" not in {n for n, _ in listed}, f"{name}: a macro's crate is in no program")
    for component in bill["components"]:
        of_registry = component["purl"].startswith("pkg:cargo/") and not component["name"].startswith("attache-")
        must(not of_registry or "hashes" in component, f"{name}: {component['name']} without a checksum")
        must("licenses" in component, f"{name}: {component['name']} without a licence")


archives = sorted(Path(sys.argv[1]).glob("*.oci.tar"))
must(len(archives) == 2, f"two images: {archives}")
for archive in archives:
    look(archive)
    print(f"{archive.name}: {archive.stat().st_size / 2**20:.1f} MiB")
for what in found:
    print(f"look.py: {what}", file=sys.stderr)
sys.exit(1 if found else 0)
