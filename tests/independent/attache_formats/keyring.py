"""Keyring: one record under a key expanded from the SRK, which seals once.

key = HKDF-Expand(SRK, LP("attache/keyring/1", store, number), 32)
ct  = AES-256-GCM(key, nonce 0, record, LP("attache/keyring-aad/1", format, suite, store, number))
The record is opaque bytes here.
"""

from .lp import lp, u16, u64
from .primitives import FORMAT, SUITE, gcm_open, gcm_seal, hkdf_expand


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
