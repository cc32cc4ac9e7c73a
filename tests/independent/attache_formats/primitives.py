"""The primitives every construction stands on, and the one error.

HKDF and HMAC come from the standard library; AES-GCM, X25519 and Ed25519 from `cryptography`.
"""

import hashlib
import hmac as _hmac

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT = 1
SUITE = 1
# Of a store, and of the rows of a backup of it.
STORE_FORMAT = 5
ZERO_NONCE = bytes(12)
TAG_BYTES = 16


class Refused(Exception):
    """Input that must not be accepted; the text is the `refused` word of a vector."""


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    return _hmac.new(key, data, hashlib.sha256).digest()


def same(a: bytes, b: bytes) -> bool:
    return _hmac.compare_digest(a, b)


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    """RFC 5869, section 2.2."""
    return hmac_sha256(salt or bytes(32), ikm)


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2.3."""
    okm, block, counter = b"", b"", 1
    while len(okm) < length:
        block = hmac_sha256(prk, block + info + bytes([counter]))
        okm += block
        counter += 1
    return okm[:length]


def gcm_seal(key: bytes, plaintext: bytes, aad: bytes, nonce: bytes = ZERO_NONCE) -> bytes:
    """ciphertext || tag16"""
    return AESGCM(key).encrypt(nonce, plaintext, aad)


def gcm_open(key: bytes, ct: bytes, aad: bytes, nonce: bytes = ZERO_NONCE) -> bytes:
    if len(ct) < TAG_BYTES:
        raise Refused("length")
    try:
        return AESGCM(key).decrypt(nonce, ct, aad)
    except InvalidTag:
        raise Refused("tag") from None


def ed25519_public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def ed25519_verify(public: bytes, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise Refused("signature") from None
