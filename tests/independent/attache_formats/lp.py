"""LP: each field as u32 big-endian length, then its bytes.

A list adds 1 + n fields to the LP it stands in: its u32 count, then LP(parts) of each element.
An int has no width of its own, so it is given as u16(..), u32(..) or u64(..).
"""

from collections.abc import Sequence

Part = bytes | str
Field = bytes | str | Sequence[tuple[Part, ...]]


def u16(n: int) -> bytes:
    return n.to_bytes(2, "big")


def u32(n: int) -> bytes:
    return n.to_bytes(4, "big")


def u64(n: int) -> bytes:
    return n.to_bytes(8, "big")


def lp(*fields: Field) -> bytes:
    out = b""
    for field in fields:
        if isinstance(field, bytes):
            out += _prefixed(field)
        elif isinstance(field, str):
            out += _prefixed(field.encode("utf-8"))
        elif isinstance(field, (list, tuple)):
            out += _prefixed(u32(len(field)))
            for element in field:
                out += _prefixed(lp(*element))
        else:
            raise TypeError(f"LP field of type {type(field).__name__}")
    return out


def _prefixed(data: bytes) -> bytes:
    return u32(len(data)) + data
