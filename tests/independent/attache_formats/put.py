"""Put: DEKs sealed by the operator's CLI to the broker's receive key, bound to everything that is put.

info   = LP("attache/put/1", store, broker id, boot, key_id, operator id)
digest = SHA-256(LP("attache/commit-put/1", store, request id, keyspace, name, secret, expected head version, flags,
                 note, [(field, value, SHA-256(ct))] by field, [carried] by name))
sealed = HPKE base 0x0020/0x0001/0x0002, aad = digest, plaintext = DEKs in the order of the fields
Any other request of an operator: digest = SHA-256(LP("attache/request/1", verb, encoded))
"""

from dataclasses import dataclass

from . import hpke
from .lp import lp, u32, u64
from .primitives import Refused, sha256


@dataclass(frozen=True)
class Sent:
    field: str
    value: bytes
    ct_hash: bytes
    dek: bytes = b""


def request_digest(verb: str, encoded: bytes) -> bytes:
    """`encoded`: the request in protobuf, fields ascending, without its `mutation`."""
    return sha256(lp("attache/request/1", verb, encoded))


def info(store: bytes, broker_id: str, boot: bytes, key_id: bytes, operator_id: str) -> bytes:
    return lp("attache/put/1", store, broker_id, boot, key_id, operator_id)


def in_order(sent: list[Sent]) -> list[Sent]:
    return sorted(sent, key=lambda s: s.field.encode())


def digest_input(store: bytes, request_id: bytes, keyspace: str, name: str, secret: bytes, expected: int, flags: int,
                 note: str, sent: list[Sent], carried: list[str]) -> bytes:
    if {s.field for s in sent} & set(carried):
        raise Refused("sent and carried")
    return lp(
        "attache/commit-put/1", store, request_id, keyspace, name, secret, u64(expected), u32(flags), note,
        [(s.field, s.value, s.ct_hash) for s in in_order(sent)],
        [(c,) for c in sorted(carried, key=str.encode)],
    )


def seal(pk_r: bytes, info_: bytes, digest: bytes, sent: list[Sent], sk_e: bytes) -> tuple[hpke.Context, bytes]:
    context = hpke.setup_sender(hpke.AES_256_GCM, pk_r, info_, sk_e)
    return context, context.seal(b"".join(s.dek for s in in_order(sent)), digest)


def open_(sk_r: bytes, enc: bytes, info_: bytes, digest: bytes, ct: bytes, count: int) -> list[bytes]:
    plaintext = hpke.setup_receiver(hpke.AES_256_GCM, enc, sk_r, info_).open(ct, digest)
    if len(plaintext) != 32 * count:
        raise Refused("length")
    return [plaintext[i:i + 32] for i in range(0, len(plaintext), 32)]
