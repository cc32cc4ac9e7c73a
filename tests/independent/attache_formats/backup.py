"""A backup: head, frames, and a signed note at the end.

file  = head 160 || (kind u8 || key length u32 || value length u32 || key || value) ...
kinds   1 a table, key = its name    2 a row    3 the table's end, value = its count u64    4 the end, value = the note
note    attache/backup/<store> LF backup LF incarnation LF seq LF size LF base64(SHA-256) LF, of the bytes before the end's frame
"""

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from . import note
from .primitives import Refused, ed25519_public, sha256

MAGIC, FORMAT, SUITE, HEAD = b"ATBACKUP", 1, 1, 160
TABLE, ROW, TABLE_END, END = 1, 2, 3, 4
_HEAD = struct.Struct(">8sHHHH16s16sIIQQ32s16sQ32s")
_FRAME = struct.Struct(">BII")
_MOST = {TABLE: (64, 0), ROW: (4096, 2 * 1024 * 1024), TABLE_END: (0, 8), END: (0, 4096)}


@dataclass(frozen=True)
class Head:
    store_format: int
    store: bytes
    backup: bytes
    incarnation: int
    seq: int
    created: int
    anchor_t: bytes
    chain: bytes
    audit_size: int
    audit_root: bytes

    def encode(self) -> bytes:
        return _HEAD.pack(MAGIC, FORMAT, SUITE, self.store_format, 0, self.store, self.backup, self.incarnation, 0, self.seq, self.created,
                          self.anchor_t, self.chain, self.audit_size, self.audit_root)


Rows = dict[bytes, bytes]


def origin(store: bytes) -> str:
    return f"attache/backup/{note.uuid_text(store)}"


def _text(head: Head, size: int, hash_: bytes) -> str:
    lines = [origin(head.store), note.uuid_text(head.backup), head.incarnation, head.seq, size, base64.b64encode(hash_).decode()]
    return "".join(f"{line}\n" for line in lines)


def _frame(kind: int, key: bytes, value: bytes) -> bytes:
    return _FRAME.pack(kind, len(key), len(value)) + key + value


def write(head: Head, tables: list[tuple[str, list[tuple[bytes, bytes]]]], seed: bytes) -> tuple[bytes, str]:
    """The file, and the note that it ends in."""
    out = head.encode()
    for name, rows in tables:
        out += _frame(TABLE, name.encode(), b"")
        for key, value in rows:
            out += _frame(ROW, key, value)
        out += _frame(TABLE_END, b"", len(rows).to_bytes(8, "big"))
    signed = note.sign(_text(head, len(out), sha256(out)), origin(head.store), seed, ed25519_public(seed))
    return out + _frame(END, b"", signed.encode()), signed


def _read_head(data: bytes) -> Head:
    if len(data) < HEAD:
        raise Refused("cut")
    magic, format_, suite, store_format, zero, *rest = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise Refused("magic")
    if format_ != FORMAT:
        raise Refused("format")
    if suite != SUITE:
        raise Refused("suite")
    store, backup, incarnation, more, seq, created, anchor_t, chain, audit_size, audit_root = rest
    if zero or more:
        raise Refused("zero")
    return Head(store_format, store, backup, incarnation, seq, created, anchor_t, chain, audit_size, audit_root)


def _frames(data: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Offset, kind, key and value of each frame."""
    at = HEAD
    while at < len(data):
        if len(data) - at < _FRAME.size:
            raise Refused("cut")
        kind, key, value = _FRAME.unpack_from(data, at)
        most = _MOST.get(kind)
        exact = kind == TABLE_END and value != 8 or kind == TABLE and key == 0
        if most is None or key > most[0] or value > most[1] or exact:
            raise Refused("frame")
        start = at + _FRAME.size
        if len(data) - start < key + value:
            raise Refused("cut")
        yield at, kind, data[start:start + key], data[start + key:start + key + value]
        at = start + key + value
        if kind == END and at < len(data):
            raise Refused("trailing")


def read_unverified(data: bytes) -> tuple[Head, dict[str, Rows], tuple[int, bytes]]:
    """Head, tables, and the end: where its frame begins, and its note. Nobody has vouched for any of it."""
    head = _read_head(data)
    tables: dict[str, Rows] = {}
    last_name, rows = b"", None
    end: tuple[int, bytes] | None = None
    for at, kind, key, value in _frames(data):
        if kind == TABLE and rows is None and key > last_name:
            last_name, rows = key, {}
            tables[key.decode()] = rows
        elif kind == ROW and rows is not None and (not rows or key > next(reversed(rows))):
            rows[key] = value
        elif kind == TABLE_END and rows is not None:
            if int.from_bytes(value, "big") != len(rows):
                raise Refused("count")
            rows = None
        elif kind == END and rows is None:
            end = at, value
        else:
            raise Refused("order")
    if end is None:
        raise Refused("cut")
    return head, tables, end


def verify_end(data: bytes, head: Head, end: tuple[int, bytes], pk: bytes) -> None:
    size, signed = end
    text = note.open_(signed.decode(), note.vkey(origin(head.store), pk))
    if text != _text(head, size, sha256(data[:size])):
        raise Refused("other bytes")


def read(data: bytes, pk: bytes) -> tuple[Head, dict[str, Rows]]:
    """Head and tables of a backup that the audit key pk has signed."""
    head, tables, end = read_unverified(data)
    verify_end(data, head, end, pk)
    return head, tables
