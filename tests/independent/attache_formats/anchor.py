"""Anchor chain: one T a commit.

T = HMAC(K_anchor_mac, LP("attache/anchor-chain/1", store, incarnation, seq, T_prev,
         [(table, A, count)] by table, [(chain, size, root)] by chain)),  T_0 = 32 zeros
"""

from .lp import lp, u32, u64
from .primitives import hmac_sha256

T_0 = bytes(32)
Table = tuple[str, bytes, int]
Head = tuple[bytes, int, bytes]


def chain_input(store: bytes, incarnation: int, seq: int, t_prev: bytes, tables: list[Table], heads: list[Head]) -> bytes:
    return lp(
        "attache/anchor-chain/1", store, u32(incarnation), u64(seq), t_prev,
        [(table, a, u32(count)) for table, a, count in sorted(tables, key=lambda t: t[0].encode())],
        [(chain, u64(size), root) for chain, size, root in sorted(heads)],
    )


def chain(k_anchor_mac: bytes, *fields: object) -> bytes:
    return hmac_sha256(k_anchor_mac, chain_input(*fields))  # type: ignore[arg-type]
