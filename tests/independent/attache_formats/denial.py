"""Denial id: what a pod's author sees of a refusal, the same on every retry.

id = first 8 hex of HMAC(K_denial, LP("attache/denial/1", cluster, pod uid, volume name, public reason))
"""

from .lp import lp
from .primitives import hmac_sha256


def mac_input(cluster: str, pod_uid: str, volume_name: str, public_reason: str) -> bytes:
    return lp("attache/denial/1", cluster, pod_uid, volume_name, public_reason)


def denial_id(k_denial: bytes, cluster: str, pod_uid: str, volume_name: str, public_reason: str) -> str:
    return hmac_sha256(k_denial, mac_input(cluster, pod_uid, volume_name, public_reason)).hex()[:8]
