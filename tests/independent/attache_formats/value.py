"""Value: one field of one put under its own DEK, encrypted once.

ct = AES-256-GCM(DEK, nonce 0, bytes, LP("attache/value/1", format, suite, store, keyspace, secret, value, field))
"""

from .lp import lp, u16
from .primitives import FORMAT, SUITE, gcm_open, gcm_seal


def aad(store: bytes, keyspace: str, secret: bytes, value: bytes, field: str,
        format: int = FORMAT) -> bytes:
    return lp("attache/value/1", u16(FORMAT), u16(SUITE), store, keyspace, secret, value, field)


def seal(dek: bytes, plaintext: bytes, aad_: bytes) -> bytes:
    return gcm_seal(dek, plaintext, aad_)


def open_(dek: bytes, ct: bytes, aad_: bytes) -> bytes:
    return gcm_open(dek, ct, aad_)
