"""Anchor chain: one T a commit.

T = HMAC(K_anchor_mac, LP("attache/anchor-chain/1", store, incarnation, seq, T_prev,
         [(table, A, count)] by table, [(chain, size, root)] by chain)),  T_0 = 32 zeros
row = format u16 || suite u16 || LP(incarnation, seq, key_id, Wrap of LP(T_prev, [(table, A, count)], [(chain, size, root)]))
"""

from .lp import Field, lp, u16, u32, u64
from .primitives import FORMAT, SUITE, hmac_sha256

T_0 = bytes(32)
Table = tuple[str, bytes, int]
Head = tuple[bytes, int, bytes]


def _sums(tables: list[Table], heads: list[Head]) -> list[Field]:
    return [[(table, a, u32(count)) for table, a, count in sorted(tables, key=lambda t: t[0].encode())],
            [(chain, u64(size), root) for chain, size, root in sorted(heads)]]


def chain_input(store: bytes, incarnation: int, seq: int, t_prev: bytes, tables: list[Table], heads: list[Head]) -> bytes:
    return lp("attache/anchor-chain/1", store, u32(incarnation), u64(seq), t_prev, *_sums(tables, heads))


def record(t_prev: bytes, tables: list[Table], heads: list[Head]) -> bytes:
    """The plaintext of the wrap."""
    return lp(t_prev, *_sums(tables, heads))


def row(incarnation: int, seq: int, key_id: bytes, wrapped: bytes) -> bytes:
    return u16(FORMAT) + u16(SUITE) + lp(u32(incarnation), u64(seq), key_id, wrapped)


def chain(k_anchor_mac: bytes, *fields: object) -> bytes:
    return hmac_sha256(k_anchor_mac, chain_input(*fields))  # type: ignore[arg-type]
