"""Row: authenticated record of a table; and the set hash over the tags of a table.

tag = HMAC(K_row[epoch], LP("attache/row/1", format, epoch, store, table, key, seq, body))
row = format u16 || mac_epoch u32 || seq u64 || body || tag 32
A   = sum of HMAC(K_set, LP("attache/set/1", store, table, key, tag)) mod 2^256, big-endian
"""

from .lp import lp, u16, u32, u64
from .primitives import FORMAT, Refused, hmac_sha256, same

_HEAD, _TAG = 14, 32


def tag_input(store: bytes, table: str, key: bytes, epoch: int, seq: int, body: bytes) -> bytes:
    return lp("attache/row/1", u16(FORMAT), u32(epoch), store, table, key, u64(seq), body)


def build(k_row: bytes, store: bytes, table: str, key: bytes, epoch: int, seq: int, body: bytes) -> bytes:
    tag = hmac_sha256(k_row, tag_input(store, table, key, epoch, seq, body))
    return u16(FORMAT) + u32(epoch) + u64(seq) + body + tag


def verify(k_row: bytes, store: bytes, table: str, key: bytes, row: bytes) -> bytes:
    """The body of a row that verifies."""
    if len(row) < _HEAD + _TAG:
        raise Refused("length")
    if row[:2] != u16(FORMAT):
        raise Refused("format")
    epoch, seq = int.from_bytes(row[2:6], "big"), int.from_bytes(row[6:14], "big")
    body, tag = row[_HEAD:-_TAG], row[-_TAG:]
    if not same(hmac_sha256(k_row, tag_input(store, table, key, epoch, seq, body)), tag):
        raise Refused("tag")
    return body


def set_input(store: bytes, table: str, key: bytes, tag: bytes) -> bytes:
    return lp("attache/set/1", store, table, key, tag)


def set_element(k_set: bytes, store: bytes, table: str, key: bytes, tag: bytes) -> bytes:
    return hmac_sha256(k_set, set_input(store, table, key, tag))


def set_add(a: bytes, element: bytes) -> bytes:
    return _mod256(int.from_bytes(a, "big") + int.from_bytes(element, "big"))


def set_remove(a: bytes, element: bytes) -> bytes:
    return _mod256(int.from_bytes(a, "big") - int.from_bytes(element, "big"))


def _mod256(n: int) -> bytes:
    return (n % (1 << 256)).to_bytes(32, "big")
