"""Signed notes of C2SP `signed-note` and `tlog-checkpoint`, and the anchor note.

key id = SHA-256(name || 0x0A || 0x01 || pk)[..4];  vkey = name+hex(key id)+base64(0x01 || pk)
note   = text || "\n" || "— " name " " base64(key id || Ed25519(text)) "\n"
"""

import base64
import binascii
import re
import uuid

from .primitives import Refused, ed25519_sign, ed25519_verify, sha256

_ED25519 = b"\x01"
_LINE = re.compile("— ([^ +\n]+) ([A-Za-z0-9+/=]+)\n")


def uuid_text(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw))


def checkpoint_origin(store: bytes, chain: bytes) -> str:
    return f"attache/{uuid_text(store)}/{uuid_text(chain)}"


def anchor_origin(store: bytes) -> str:
    return f"attache/anchor/{uuid_text(store)}"


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    return f"{origin}\n{size}\n{_b64(root)}\n"


def anchor_text(origin: str, incarnation: int, seq: int, t: bytes) -> str:
    return f"{origin}\n{incarnation}\n{seq}\n{_b64(t)}\n"


def summary_origin(store: bytes, chain: bytes) -> str:
    return f"{checkpoint_origin(store, chain)}/summary"


def summary_text(origin: str, size: int, root: bytes, anchor: tuple[int, int, bytes] | None, peaks: list[bytes],
                 intents: list[int]) -> str:
    lines = [origin, f"size {size}", f"root {_b64(root)}"]
    lines += [f"anchor {anchor[0]} {anchor[1]} {_b64(anchor[2])}"] if anchor else []
    lines += [f"peak {_b64(peak)}" for peak in peaks] + [f"intent {index}" for index in sorted(intents)]
    return "".join(f"{line}\n" for line in lines)


def parse_checkpoint(text: str, origin: str) -> tuple[int, bytes]:
    size, root = _body(text, origin, 3)
    return _decimal(size, 64), _hash(root)


def parse_anchor(text: str, origin: str) -> tuple[int, int, bytes]:
    incarnation, seq, t = _body(text, origin, 4)
    return _decimal(incarnation, 32), _decimal(seq, 64), _hash(t)


def key_id(name: str, pk: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + pk)[:4]


def vkey(name: str, pk: bytes) -> str:
    return f"{name}+{key_id(name, pk).hex()}+{_b64(_ED25519 + pk)}"


def parse_vkey(text: str) -> tuple[str, bytes]:
    parts = text.split("+", 2)
    if len(parts) != 3 or not parts[0] or " " in parts[0]:
        raise Refused("vkey")
    name, id_hex, encoded = parts
    key = _unb64(encoded, "vkey")
    if len(key) != 33 or key[:1] != _ED25519 or key_id(name, key[1:]).hex() != id_hex:
        raise Refused("vkey")
    return name, key[1:]


def signature_line(name: str, pk: bytes, signature: bytes) -> str:
    return f"— {name} {_b64(key_id(name, pk) + signature)}\n"


def sign(text: str, name: str, seed: bytes, pk: bytes) -> str:
    return text + "\n" + signature_line(name, pk, ed25519_sign(seed, text.encode()))


def open_(note: str, vkey_: str) -> str:
    """The text, when the key of vkey_ has signed it; lines of other keys are passed over."""
    name, pk = parse_vkey(vkey_)
    at = note.rfind("\n\n")
    if at < 0:
        raise Refused("malformed")
    text, lines = note[:at + 1], note[at + 2:]
    if not lines or _LINE.sub("", lines):
        raise Refused("malformed")
    for line_name, encoded in _LINE.findall(lines):
        blob = _unb64(encoded, "malformed")
        if line_name == name and blob[:4] == key_id(name, pk):
            ed25519_verify(pk, blob[4:], text.encode())
            return text
    raise Refused("no signature by this key")


def _body(text: str, origin: str, lines: int) -> list[str]:
    if not text.endswith("\n"):
        raise Refused("malformed")
    parts = text[:-1].split("\n")
    if len(parts) != lines:
        raise Refused("malformed")
    if parts[0] != origin:
        raise Refused("origin")
    return parts[1:]


def _decimal(text: str, bits: int) -> int:
    if not re.fullmatch("0|[1-9][0-9]*", text, re.ASCII) or int(text) >= 1 << bits:
        raise Refused("number")
    return int(text)


def _hash(text: str) -> bytes:
    raw = _unb64(text, "hash")
    if len(raw) != 32:
        raise Refused("hash")
    return raw


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(text: str, refusal: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(refusal) from None
    if _b64(raw) != text:
        raise Refused(refusal)
    return raw
