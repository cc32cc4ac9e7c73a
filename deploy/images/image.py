"""Lays a program out as an OCI image: one layer, nothing in it but the program, its users, its licence and its SBOM.

`pack` writes OUT/PACKAGE.oci.tar, an OCI image layout (image-spec 1.1); `unpack` writes the same files into OUT/PACKAGE.
Bytes depend on the arguments, the files and SOURCE_DATE_EPOCH alone. The layer is not compressed: what a compressor
writes differs from version to version, and registries and runtimes take it as it is.
"""

import argparse
import hashlib
import io
import json
import os
import tarfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# The user that each image names; the chart says which container of a pod runs as another.
USERS = {"attache-broker": 4841, "attache-node-plugin": 4840}
TITLES = {
    "attache-broker": "Attaché broker",
    "attache-node-plugin": "Attaché node plugin",
}


def files(asked: argparse.Namespace) -> dict[str, tuple[int, bytes]]:
    """Everything in the image, by path: mode and content."""
    uid = USERS[asked.package]
    passwd = f"root:x:0:0::/:/\nattache:x:{uid}:{uid}::/:/\n"
    group = f"root:x:0:\nattache:x:{uid}:\n"
    return {
        f"usr/bin/{asked.package}": (0o755, Path(asked.binary).read_bytes()),
        f"usr/share/attache/{asked.package}.cdx.json": (0o644, Path(asked.sbom).read_bytes()),
        "usr/share/attache/LICENSE": (0o644, (ROOT / "LICENSE").read_bytes()),
        "etc/passwd": (0o644, passwd.encode()),
        "etc/group": (0o644, group.encode()),
        # Without it the C library would look a name up in DNS before /etc/hosts.
        "etc/nsswitch.conf": (0o644, b"hosts: files dns\n"),
    }


def archive(entries: dict[str, tuple[int, bytes]], epoch: int) -> bytes:
    """A tar of these files and the folders above them: sorted, root's, all of one time."""
    folders = {str(parent) for path in entries for parent in Path(path).parents} - {"."}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(folders | set(entries)):
            member = tarfile.TarInfo(path)
            member.mtime = epoch
            if path in entries:
                member.mode, content = entries[path]
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
    return buffer.getvalue()


class Layout:
    """The blobs of an image layout, by their path in it."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[int, bytes]] = {}

    def add(self, media_type: str, content: bytes) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        self.entries[f"blobs/sha256/{digest}"] = (0o644, content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def add_json(self, media_type: str, value: dict) -> dict:
        return self.add(media_type, text(value))


def text(value: dict) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def image(asked: argparse.Namespace, version: str, epoch: int) -> Layout:
    uid = USERS[asked.package]
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    platform = {"architecture": ARCHITECTURES[asked.target.split("-")[0]], "os": "linux"}
    layout = Layout()
    layer = layout.add("application/vnd.oci.image.layer.v1.tar", archive(files(asked), epoch))
    config = layout.add_json("application/vnd.oci.image.config.v1+json", {
        **platform,
        "created": created,
        "config": {
            "User": f"{uid}:{uid}",
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": [f"/usr/bin/{asked.package}"],
            "Labels": {
                "org.opencontainers.image.title": TITLES[asked.package],
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        "history": [{"created": created, "created_by": "deploy/images/build.sh"}],
    })
    manifest = layout.add_json("application/vnd.oci.image.manifest.v1+json", {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    })
    name = f"attache.dev/{asked.package}:{version}"
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            **manifest,
            "platform": platform,
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": version},
        }],
    }
    layout.entries["index.json"] = (0o644, text(index))
    layout.entries["oci-layout"] = (0o644, text({"imageLayoutVersion": "1.0.0"}))
    print(f"{name} {manifest['digest']} {layer['size']} bytes")
    return layout


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("verb", choices=["pack", "unpack"])
    for option in ["--package", "--target", "--binary", "--sbom", "--out"]:
        arguments.add_argument(option, required=True)
    asked = arguments.parse_args()
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    if asked.verb == "pack":
        content = archive(image(asked, version, epoch).entries, epoch)
        (Path(asked.out) / f"{asked.package}.oci.tar").write_bytes(content)
        return
    for path, (mode, content) in files(asked).items():
        file = Path(asked.out) / asked.package / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)


main()
