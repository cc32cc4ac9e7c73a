"""What a node signs when it renews after its certificate's end.

transcript = LP("attache/late-renewal/1", broker id, SHA-256(certificate), SHA-256(request), version, time u64)
"""

from .lp import lp, u64
from .primitives import sha256


def transcript(broker_id: str, certificate: bytes, request: bytes, version: str, at: int) -> bytes:
    return lp("attache/late-renewal/1", broker_id, sha256(certificate), sha256(request), version, u64(at))
