"""How the key that signs an audit log names the one that signs next.

statement   = LP("attache/audit-key/1", store 16, epoch u32, key before 32, key after 32)
endorsement = Ed25519(key before, statement)
"""

from .lp import lp, u32
from .primitives import ed25519_public, ed25519_sign, ed25519_verify


def statement(store: bytes, epoch: int, before: bytes, after: bytes) -> bytes:
    return lp("attache/audit-key/1", store, u32(epoch), before, after)


def endorse(store: bytes, epoch: int, seed: bytes, after: bytes) -> bytes:
    return ed25519_sign(seed, statement(store, epoch, ed25519_public(seed), after))


def verify(store: bytes, epoch: int, before: bytes, after: bytes, endorsement: bytes) -> None:
    ed25519_verify(before, endorsement, statement(store, epoch, before, after))
