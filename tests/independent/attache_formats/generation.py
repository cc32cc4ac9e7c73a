"""Generation: the file set of a mount, told equal by a digest and ordered by seq.

digest = SHA-256(LP([(path, mode, owner, value)] by path));  folder = "..<seq hex>-<first 16 hex of digest>"
mode: u32 permission bits. owner: "uid:gid", gid "-" when none.
"""

from .lp import lp, u32
from .primitives import sha256

File = tuple[str, int, str, bytes]


def digest_input(files: list[File]) -> bytes:
    in_order = sorted(files, key=lambda f: f[0].encode())
    return lp([(path, u32(mode), owner, value) for path, mode, owner, value in in_order])


def digest(files: list[File]) -> bytes:
    return sha256(digest_input(files))


def folder(seq: int, digest_: bytes) -> str:
    return f"..{seq:x}-{digest_.hex()[:16]}"
