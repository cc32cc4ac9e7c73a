"""Shares: a secret of 32 bytes in m shares of which any n give it back; Shamir over GF(256), byte by byte.

y_i        = secret + c_1 i + ... + c_(n-1) i^(n-1), i = 1 .. m, modulo x^8 + x^4 + x^3 + x + 1
share      = set 16 || i u8 || y_i 32
commitment = SHA-256(LP("attache/share/1", set, i u8, y_i))
set        = LP(set 16, n u8, [commitment])
"""

from .lp import lp
from .primitives import Refused, sha256

# Powers of the generator 3, and their logarithms.
_POWERS = [1]
for _ in range(254):
    _last = _POWERS[-1]
    _doubled = (_last << 1) ^ (0x11B if _last & 0x80 else 0)
    _POWERS.append(_doubled ^ _last)
_LOGS = {power: log for log, power in enumerate(_POWERS)}


def _times(a: int, b: int) -> int:
    return _POWERS[(_LOGS[a] + _LOGS[b]) % 255] if a and b else 0


def _over(a: int, b: int) -> int:
    return _POWERS[(_LOGS[a] - _LOGS[b]) % 255] if a else 0


def _power(a: int, n: int) -> int:
    return _POWERS[_LOGS[a] * n % 255]


def commitment(set_: bytes, index: int, y: bytes) -> bytes:
    return sha256(lp("attache/share/1", set_, bytes([index]), y))


def record(set_: bytes, threshold: int, commitments: list[bytes]) -> bytes:
    return lp(set_, bytes([threshold]), [(c,) for c in commitments])


def split(secret: bytes, threshold: int, count: int, set_: bytes, coefficients: bytes) -> list[bytes]:
    if not 2 <= threshold <= count <= 32 or len(coefficients) != 32 * (threshold - 1):
        raise Refused("threshold")
    shares = []
    for index in range(1, count + 1):
        y = bytearray(secret)
        for power in range(1, threshold):
            for at, c in enumerate(coefficients[32 * (power - 1):32 * power]):
                y[at] ^= _times(c, _power(index, power))
        shares.append(set_ + bytes([index]) + bytes(y))
    return shares


def combine(set_: bytes, threshold: int, commitments: list[bytes], shares: list[bytes]) -> bytes:
    known: dict[int, bytes] = {}
    for share in shares:
        of, index, y = share[:16], share[16], share[17:]
        if of != set_:
            raise Refused("other set")
        if not 1 <= index <= len(commitments) or commitment(of, index, y) != commitments[index - 1]:
            raise Refused("commitment")
        if index in known:
            raise Refused("twice")
        known[index] = y
    if len(known) < threshold:
        raise Refused("too few")
    used = dict(list(known.items())[:threshold])
    secret = bytearray(32)
    for index, y in used.items():
        weight = 1
        for other in used:
            if other != index:
                weight = _times(weight, _over(other, other ^ index))
        for at in range(32):
            secret[at] ^= _times(y[at], weight)
    return bytes(secret)
