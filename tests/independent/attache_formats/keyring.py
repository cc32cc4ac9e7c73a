"""Keyring: one record under a key expanded from the SRK, which seals once.

key = HKDF-Expand(SRK, LP("attache/keyring/1", store, number), 32)
ct  = AES-256-GCM(key, nonce 0, record, LP("attache/keyring-aad/1", format, suite, store, number))
record = format u16 || suite u16 || count u32 || (purpose u8 || state u8 || epoch u32 || id 16 || key 32)*, ascending
"""

from .lp import lp, u16, u32, u64
from .primitives import FORMAT, SUITE, Refused, gcm_open, gcm_seal, hkdf_expand

Entry = tuple[int, int, int, bytes, bytes]
PURPOSES, ACTIVE, OLD, MAX_KEYS = range(1, 10), 1, 2, 1024


def record(entries: list[Entry]) -> bytes:
    """Entries are (purpose, state, epoch, id, key)."""
    return u16(FORMAT) + u16(SUITE) + u32(len(entries)) + b"".join(
        bytes([purpose, state]) + u32(epoch) + id_ + key_ for purpose, state, epoch, id_, key_
        in sorted(entries, key=lambda e: (e[0], e[2])))


def parse_record(data: bytes) -> list[Entry]:
    """Ascending by purpose and epoch; each purpose with one active key; no id twice."""
    if len(data) < 8:
        raise Refused("length")
    if data[:2] != u16(FORMAT):
        raise Refused("format")
    if data[2:4] != u16(SUITE):
        raise Refused("suite")
    count = int.from_bytes(data[4:8], "big")
    if count > MAX_KEYS:
        raise Refused("count")
    if len(data) != 8 + 54 * count:
        raise Refused("length")
    entries: list[Entry] = []
    for at in range(8, len(data), 54):
        purpose, state, epoch = data[at], data[at + 1], int.from_bytes(data[at + 2:at + 6], "big")
        if purpose not in PURPOSES:
            raise Refused("purpose")
        if state not in (ACTIVE, OLD):
            raise Refused("state")
        if epoch == 0:
            raise Refused("epoch")
        if entries and entries[-1][0::2][:2] >= (purpose, epoch):
            raise Refused("order")
        entries.append((purpose, state, epoch, data[at + 6:at + 22], data[at + 22:at + 54]))
    active = [purpose for purpose, state, *_ in entries if state == ACTIVE]
    if active != list(PURPOSES):
        raise Refused("active")
    if len({id_ for *_, id_, _ in entries}) != count:
        raise Refused("id")
    return entries


def key_info(store: bytes, number: int) -> bytes:
    return lp("attache/keyring/1", store, u64(number))


def key(srk: bytes, store: bytes, number: int) -> bytes:
    return hkdf_expand(srk, key_info(store, number), 32)


def aad(store: bytes, number: int) -> bytes:
    return lp("attache/keyring-aad/1", u16(FORMAT), u16(SUITE), store, u64(number))


def seal(srk: bytes, store: bytes, number: int, record: bytes) -> bytes:
    return gcm_seal(key(srk, store, number), record, aad(store, number))


def open_(srk: bytes, store: bytes, number: int, ct: bytes) -> bytes:
    return gcm_open(key(srk, store, number), ct, aad(store, number))
