"""Release: DEKs of the granted values sealed to one agent, once, under a key exported for this attempt.

session: HPKE base 0x0020/0x0001/0xFFFF, info = LP("attache/deliver/1", suite, store, broker id, boot, node id, pk, session)
k       = export(LP("attache/release-key/1", nonce, release), 32)
aad     = LP("attache/release/1", store, session, nonce, release, leaf hash, volume, cluster, namespace, pod uid,
             container, [(keyspace, name, secret, version, field, value, SHA-256(ct))])
sealed  = AES-256-GCM(k, nonce 0, DEKs in the aad's order, aad)
"""

from dataclasses import dataclass

from . import hpke
from .lp import lp, u16, u64
from .primitives import SUITE, Refused, gcm_open, gcm_seal


@dataclass(frozen=True)
class Granted:
    keyspace: str
    name: str
    secret: bytes
    version: int
    field: str
    value: bytes
    ct_hash: bytes


def info(store: bytes, broker_id: str, boot: bytes, node_id: str, pk: bytes, session: bytes) -> bytes:
    return lp("attache/deliver/1", u16(SUITE), store, broker_id, boot, node_id, pk, session)


def key_context(nonce: bytes, release: bytes) -> bytes:
    return lp("attache/release-key/1", nonce, release)


def key(session: hpke.Context, nonce: bytes, release: bytes) -> bytes:
    return session.export(key_context(nonce, release), 32)


def aad(store: bytes, session: bytes, nonce: bytes, release: bytes, leaf_hash: bytes, volume: str, cluster: str,
        namespace: str, pod_uid: str, container: str, granted: list[Granted]) -> bytes:
    return lp(
        "attache/release/1", store, session, nonce, release, leaf_hash, volume, cluster, namespace, pod_uid, container,
        [(g.keyspace, g.name, g.secret, u64(g.version), g.field, g.value, g.ct_hash) for g in granted],
    )


def seal(k: bytes, deks: list[bytes], aad_: bytes) -> bytes:
    return gcm_seal(k, b"".join(deks), aad_)


def open_(k: bytes, sealed: bytes, aad_: bytes, count: int) -> list[bytes]:
    plaintext = gcm_open(k, sealed, aad_)
    if len(plaintext) != 32 * count:
        raise Refused("length")
    return [plaintext[i:i + 32] for i in range(0, len(plaintext), 32)]
