"""What all cases share: deterministic random bytes, ids, and the three ways to make a case."""

from typing import Any

from attache_formats.primitives import sha256
from constructions import CONSTRUCTIONS, Fields

Case = dict[str, Any]

BROKER = "spiffe://example.internal/broker/broker-0"
OPERATOR = "spiffe://example.internal/operator/alice"
POD_UID = "1f0c2b7e-58a3-4d0c-9c55-0a7d0be2f9a4"
NODE = "spiffe://example.internal/node/local/7d9f3b52-0a6e-4a63-8a39-1f1f7a0b8c11"
NEWLINE = b"\n"
U64_MAX, U32_MAX = (1 << 64) - 1, (1 << 32) - 1


def rand(label: str, size: int = 32) -> str:
    out, counter = b"", 0
    while len(out) < size:
        out += sha256(f"attache vector {label} {counter}".encode())
        counter += 1
    return out[:size].hex()


def uuid(label: str, version: int = 4) -> str:
    raw = bytearray.fromhex(rand(label, 16))
    raw[6], raw[8] = raw[6] & 0x0F | version << 4, raw[8] & 0x3F | 0x80
    return raw.hex()


def flip(hex_: str, byte: int) -> str:
    """One bit of one byte."""
    raw = bytearray.fromhex(hex_)
    raw[byte] ^= 0x01
    return raw.hex()


def positive(construction: str, name: str, in_: Fields) -> Case:
    return {"name": name, "in": in_, "out": CONSTRUCTIONS[construction].seal(in_)}


def negative(name: str, refused: str, base: Fields, /, **changes: Any) -> Case:
    return {"name": name, "in": base | changes, "refused": refused}


def opening(case: Case, without: list[str], with_: list[str]) -> Fields:
    """What an opener is given for a positive case."""
    return {k: v for k, v in case["in"].items() if k not in without} | {k: case["out"][k] for k in with_}


def swaps(base: Fields, refused: str, /, **others: Any) -> list[Case]:
    """One case for each field put at another value, all else right."""
    return [negative(f"swapped {field}", refused, base, **{field: other}) for field, other in others.items()]


STORE, OTHER_STORE = uuid("store"), uuid("other store")
SECRET, VALUE, KEK_ID = uuid("secret"), uuid("value"), uuid("kek id")
