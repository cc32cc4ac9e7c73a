"""Audit: leaf bodies as canonical TLV, and one RFC 6962 tree a chain.

body = format u16 || suite u16 || items;  item = tag u16 || length u32 || value, tags ascending, none twice
leaf = SHA-256(0x00 || body);  node = SHA-256(0x01 || left || right);  empty root = SHA-256("")
segment = "ATTAUDIT" || format u16 || suite u16 || store 16 || chain 16 || first index u64 || 0 x12 || records
record  = length u32 || kind u8 (1 leaf, 2 checkpoint) || body
chain   = SHA-256(LP("attache/chain/1", store, broker id))[..16]
"""

from .lp import lp, u16, u32, u64
from .primitives import FORMAT, SUITE, Refused, sha256


def body(items: list[tuple[int, bytes]]) -> bytes:
    out = u16(FORMAT) + u16(SUITE)
    for tag, value in items:
        out += u16(tag) + u32(len(value)) + value
    return out


def parse_body(data: bytes) -> list[tuple[int, bytes]]:
    if len(data) < 4:
        raise Refused("length")
    if data[:2] != u16(FORMAT):
        raise Refused("format")
    if data[2:4] != u16(SUITE):
        raise Refused("suite")
    items: list[tuple[int, bytes]] = []
    at = 4
    while at < len(data):
        if len(data) - at < 6:
            raise Refused("length")
        tag, size = int.from_bytes(data[at:at + 2], "big"), int.from_bytes(data[at + 2:at + 6], "big")
        if len(data) - at - 6 < size:
            raise Refused("length")
        if items and tag <= items[-1][0]:
            raise Refused("duplicate" if tag == items[-1][0] else "order")
        items.append((tag, data[at + 6:at + 6 + size]))
        at += 6 + size
    return items


def leaf_hash(body_: bytes) -> bytes:
    return sha256(b"\x00" + body_)


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right)


def root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, over leaf hashes."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return node_hash(root(leaves[:k]), root(leaves[k:]))


def inclusion(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1, leaf side first."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return inclusion(index, leaves[:k]) + [root(leaves[k:])]
    return inclusion(index - k, leaves[k:]) + [root(leaves[:k])]


def consistency(first: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """PROOF of RFC 6962, section 2.1.2."""
    if first == len(leaves):
        return [] if whole else [root(leaves)]
    k = _split(len(leaves))
    if first <= k:
        return consistency(first, leaves[:k], whole) + [root(leaves[k:])]
    return consistency(first - k, leaves[k:], False) + [root(leaves[:k])]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: list[bytes], root_: bytes) -> None:
    """RFC 9162, section 2.1.3.2."""
    if index >= size:
        raise Refused("index")
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            raise Refused("proof length")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise Refused("proof length")
    if r != root_:
        raise Refused("root")


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, proof: list[bytes]) -> None:
    """RFC 9162, section 2.1.4.2."""
    if first == 0 or first > second:
        raise Refused("size")
    if first == second:
        if proof:
            raise Refused("proof length")
        if first_root != second_root:
            raise Refused("root")
        return
    path = [first_root] + proof if first & (first - 1) == 0 else list(proof)
    if not path:
        raise Refused("proof length")
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            raise Refused("proof length")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise Refused("proof length")
    if fr != first_root or sr != second_root:
        raise Refused("root")


def _split(n: int) -> int:
    """The largest power of two smaller than n."""
    return 1 << (n - 1).bit_length() - 1


def peaks(leaves: list[bytes]) -> list[bytes]:
    """Roots of the perfect subtrees along the right edge, largest first: one for each bit of the size."""
    out, at = [], 0
    for bit in reversed(range(len(leaves).bit_length())):
        if len(leaves) >> bit & 1:
            out.append(root(leaves[at:at + (1 << bit)]))
            at += 1 << bit
    return out


def chain_id(store: bytes, broker_id: str, incarnation: int | None = None) -> bytes:
    """incarnation: that with which the log begins, where the one before was lost."""
    since = [] if incarnation is None else [u32(incarnation)]
    return sha256(lp("attache/chain/1", store, broker_id, *since))[:16]


LEAF, CHECKPOINT = 1, 2
_MAGIC, _HEADER = b"ATTAUDIT", 64


def segment(store: bytes, chain: bytes, first_index: int, records: list[tuple[int, bytes]]) -> bytes:
    header = _MAGIC + u16(FORMAT) + u16(SUITE) + store + chain + u64(first_index) + bytes(12)
    return header + b"".join(u32(len(data)) + bytes([kind]) + data for kind, data in records)


def parse_segment(data: bytes) -> tuple[bytes, bytes, int, list[tuple[int, bytes]]]:
    """Records until a length of 0, behind which all is zero."""
    if len(data) < _HEADER:
        raise Refused("length")
    if data[:8] != _MAGIC or any(data[52:64]):
        raise Refused("magic")
    if data[8:10] != u16(FORMAT):
        raise Refused("format")
    if data[10:12] != u16(SUITE):
        raise Refused("suite")
    records, at = [], _HEADER
    while size := int.from_bytes(data[at:at + 4].ljust(4, b"\0"), "big"):
        record = data[at + 5:at + 5 + size]
        if size > 1 << 20 or len(record) < size:
            raise Refused("length")
        if data[at + 4] not in (LEAF, CHECKPOINT):
            raise Refused("kind")
        records.append((data[at + 4], record))
        at += 5 + size
    if any(data[at:]):
        raise Refused("trailing")
    return data[12:28], data[28:44], int.from_bytes(data[44:52], "big"), records
