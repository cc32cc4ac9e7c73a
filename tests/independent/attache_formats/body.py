"""Bodies of rows: format u16 || suite u16 || LP(fields). A row's key is beside it.

Times are u64 milliseconds since 1970, states u8; `who` and `by` are SPIFFE IDs. A recorded key is LP(spki, serial, not after).
"""

from .lp import Field, Part, lp, u16, u32, u64
from .primitives import FORMAT, SUITE, sha256

Bytes2 = tuple[bytes, bytes]
Key = tuple[bytes, str, int, int]


def record(*fields: Field) -> bytes:
    return u16(FORMAT) + u16(SUITE) + lp(*fields)


def _u8(n: int) -> bytes:
    return bytes([n])


def head(keyspace: str, name: str, secret: bytes, state: int, active: int, latest: int, created: int, changed: int,
         who: str) -> Bytes2:
    return f"{keyspace}/{name}".encode(), record(secret, _u8(state), u64(active), u64(latest), u64(created),
                                                 u64(changed), who)


def version(secret: bytes, number: int, fields: list[tuple[str, bytes]], created: int, who: str, note: str,
            pinned: int) -> Bytes2:
    by_field = sorted(fields, key=lambda f: f[0].encode())
    return secret + u64(number), record(u64(number), by_field, u64(created), who, note, _u8(pinned))


def value_key(value: bytes, secret: bytes, key_id: bytes, ct_hash: bytes, ct_bytes: int, wrapped: bytes) -> Bytes2:
    return value, record(secret, key_id, ct_hash, u32(ct_bytes), wrapped)


def kek(keyspace: str, epoch: int, kek_id: bytes, state: int, wrap_key_id: bytes, wrapped: bytes,
        created: int, changed: int, rate: int, values: int) -> Bytes2:
    body = record(kek_id, _u8(state), wrap_key_id, wrapped, u64(created), u64(changed), u32(rate), u64(values))
    return keyspace.encode() + b"\0" + u32(epoch), body


def kek_index(kek_id: bytes, value: bytes) -> Bytes2:
    return kek_id + value, b""


def keyspace(name: str, state: int, epoch: int, created: int, who: str, max_versions: int, max_age: int, max_wraps: int,
             automatic: int, backup_age: int) -> Bytes2:
    return name.encode(), record(_u8(state), u32(epoch), u64(created), who, u32(max_versions), u32(max_age),
                                 u64(max_wraps), _u8(automatic), u32(backup_age))


def request(operator: str, request_id: bytes, digest: bytes, result: bytes, created: int) -> Bytes2:
    return operator.encode() + b"\0" + request_id, record(digest, result, u64(created))


def backup(id_: bytes, incarnation: int, seq: int, hash_: bytes, size: int, created: int, who: str,
           verified: tuple[int, str] | None) -> Bytes2:
    found: list[tuple[Part, ...]] = [(u64(verified[0]), verified[1])] if verified else []
    return id_, record(u32(incarnation), u64(seq), hash_, u64(size), u64(created), who, found)


def slot(slot_: bytes, kind: str, kdf_parameters: bytes, pk: bytes, blob: bytes, number: int, enc: bytes, ct: bytes,
         signature: bytes, name: str, created: int, verified: int) -> Bytes2:
    return slot_, record(slot_, kind, kdf_parameters, pk, blob, u64(number), enc, ct, signature, name, u64(created),
                         u64(verified))


def keyring(number: int, ct: bytes) -> Bytes2:
    return b"keyring", record(u64(number), ct)


def _key(key: Key) -> tuple[Part, ...]:
    spki, serial, not_after, ca = key
    return spki, serial, u64(not_after), u32(ca)


def _keys(current: Key, next_: Key | None, previous: tuple[Key, int] | None) -> list[Field]:
    return [[_key(current)], [_key(next_)] if next_ else [],
            [(*_key(previous[0]), u64(previous[1]))] if previous else []]


def identity(id_: str, name: str, current: Key, next_: Key | None, previous: tuple[Key, int] | None, joined: int,
             renewed: int, version_: str) -> Bytes2:
    return id_.encode(), record(name, *_keys(current, next_, previous), u64(joined), u64(renewed), version_)


def operator(name: str, role: str, current: Key, next_: Key | None, previous: tuple[Key, int] | None,
             created: int, signed_in: int) -> Bytes2:
    return name.encode(), record(role, *_keys(current, next_, previous), u64(created), u64(signed_in))


def ban(id_: str, reason: str, by: str, at: int) -> Bytes2:
    return id_.encode(), record(reason, by, u64(at))


def join_token(id_: bytes, hash_: bytes, cluster: str, node_name: str, node_uid: str, not_after: int,
               by: str) -> Bytes2:
    return id_, record(hash_, cluster, node_name, node_uid, u64(not_after), by)


def operator_code(id_: bytes, hash_: bytes, name: str, not_after: int, by: str, used: bytes | None) -> Bytes2:
    spent: list[tuple[Part, ...]] = [(used,)] if used else []
    return id_, record(hash_, name, u64(not_after), by, spent)


def approval(node: str, name: str, spki: bytes, evidence: str, asked: int, not_after: int,
             decision: tuple[str, str, int] | None) -> Bytes2:
    """The key is the id: the first 16 digits of a hash over the node and the key that asks."""
    id_ = sha256(lp("attache/approval/1", node, spki)).hex()[:16]
    decided: list[tuple[Part, ...]] = [(decision[0], decision[1], u64(decision[2]))] if decision else []
    return id_.encode(), record(node, name, spki, evidence, u64(asked), u64(not_after), decided)


def cluster(name: str, issuer: str, audience: str, source: str, place: list[str], created: int, by: str) -> Bytes2:
    return name.encode(), record(issuer, audience, source, *place, u64(created), by)


def grant(name: str, keyspace_: str, secret: str, fields: list[str], to: str, created: int, by: str) -> Bytes2:
    ascending: list[tuple[Part, ...]] = [(field,) for field in sorted(fields)]
    return name.encode(), record(keyspace_, secret, ascending, to, u64(created), by)


def policy(name: str, condition: str, created: int, by: str) -> Bytes2:
    return name.encode(), record(condition, u64(created), by)


def incarnation(number: int, begun: int, cause: str) -> Bytes2:
    return b"incarnation", record(u32(number), u64(begun), cause)


def chain(broker: str, chain_: bytes) -> Bytes2:
    return f"chain/{broker}".encode(), record(chain_)


def ca_before(certificate: bytes, begun: int) -> Bytes2:
    return b"ca-before", record(certificate, u64(begun))


def readmission(not_after: int, by: str) -> Bytes2:
    return b"readmission", record(u64(not_after), by)


def ca(certificate: bytes) -> Bytes2:
    return b"ca", record(certificate)
