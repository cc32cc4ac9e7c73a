"""Wrap: a committing AEAD under a long-lived key, one derived key for each salt.

okm    = HKDF-SHA256-Expand(K, LP("attache/wrap/1", key_id, salt), 64)
stored = salt 32 || commit 32 || AES-256-GCM(okm[..32], nonce 0, plaintext, aad),  commit = okm[32..]
"""

from dataclasses import dataclass

from .lp import lp, u16, u32, u64
from .primitives import FORMAT, SUITE, TAG_BYTES, Refused, gcm_open, gcm_seal, hkdf_expand, same

SALT_BYTES = 32
COMMIT_BYTES = 32


@dataclass(frozen=True)
class Wrapped:
    info: bytes
    okm: bytes
    enc: bytes
    commit: bytes
    ct: bytes
    stored: bytes


def derive(k: bytes, key_id: bytes, salt: bytes) -> tuple[bytes, bytes]:
    info = lp("attache/wrap/1", key_id, salt)
    return info, hkdf_expand(k, info, 64)


def seal(k: bytes, key_id: bytes, salt: bytes, plaintext: bytes, aad: bytes) -> Wrapped:
    info, okm = derive(k, key_id, salt)
    enc, commit = okm[:32], okm[32:]
    ct = gcm_seal(enc, plaintext, aad)
    return Wrapped(info, okm, enc, commit, ct, salt + commit + ct)


def open_(k: bytes, key_id: bytes, stored: bytes, aad: bytes) -> bytes:
    if len(stored) < SALT_BYTES + COMMIT_BYTES + TAG_BYTES:
        raise Refused("length")
    salt, commit, ct = stored[:32], stored[32:64], stored[64:]
    _, okm = derive(k, key_id, salt)
    if not same(okm[32:], commit):
        raise Refused("commit")
    return gcm_open(okm[:32], ct, aad)


def aad_dek(store: bytes, keyspace: str, secret: bytes, value: bytes, key_id: bytes, ct_hash: bytes,
            format: int = FORMAT) -> bytes:
    return lp("attache/dek/1", u16(FORMAT), u16(SUITE), store, keyspace, secret, value, key_id, ct_hash)


def aad_kek(store: bytes, keyspace: str, epoch: int, kek_id: bytes,
            format: int = FORMAT) -> bytes:
    return lp("attache/kek/1", u16(FORMAT), u16(SUITE), store, keyspace, u32(epoch), kek_id)


def aad_slot(store: bytes, slot: bytes, kind: str, kdf_parameters: bytes,
             format: int = FORMAT) -> bytes:
    return lp("attache/slot/1", u16(FORMAT), u16(SUITE), store, slot, kind, kdf_parameters)


def aad_anchor(store: bytes, incarnation: int, seq: int) -> bytes:
    return lp("attache/anchor/1", u16(FORMAT), u16(SUITE), store, u32(incarnation), u64(seq))
