"""HPKE base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256) 0x0020 and HKDF-SHA256 0x0001, from primitives.

AEADs: AES-128-GCM 0x0001 (for the RFC's own vectors only), AES-256-GCM 0x0002, export only 0xFFFF.
The ephemeral key is DeriveKeyPair(ikm_e), so that a sender can be replayed.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from .lp import u16
from .primitives import Refused, gcm_open, gcm_seal, hkdf_expand, hkdf_extract

AES_128_GCM = 0x0001
AES_256_GCM = 0x0002
EXPORT_ONLY = 0xFFFF
_KEM, _KDF = 0x0020, 0x0001
_KEY_BYTES = {AES_128_GCM: 16, AES_256_GCM: 32, EXPORT_ONLY: 0}
_KEM_SUITE = b"KEM" + u16(_KEM)


@dataclass(frozen=True)
class Context:
    """One direction of one setup, at sequence number 0."""

    enc: bytes
    shared_secret: bytes
    key: bytes
    base_nonce: bytes
    exporter_secret: bytes
    suite_id: bytes

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        return gcm_seal(self._aead_key(), plaintext, aad, self.base_nonce)

    def open(self, ct: bytes, aad: bytes) -> bytes:
        return gcm_open(self._aead_key(), ct, aad, self.base_nonce)

    def export(self, exporter_context: bytes, length: int) -> bytes:
        """Section 5.3."""
        return _labeled_expand(self.suite_id, self.exporter_secret, b"sec", exporter_context, length)

    def _aead_key(self) -> bytes:
        if not self.key:
            raise Refused("export only")
        return self.key


def public_key(sk: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(sk).public_key().public_bytes_raw()


def derive_key_pair(ikm: bytes) -> tuple[bytes, bytes]:
    """(sk, pk), section 7.1.3."""
    prk = _labeled_extract(_KEM_SUITE, b"", b"dkp_prk", ikm)
    sk = _labeled_expand(_KEM_SUITE, prk, b"sk", b"", 32)
    return sk, public_key(sk)


def setup_sender(aead: int, pk_r: bytes, info: bytes, sk_e: bytes) -> Context:
    """SetupBaseS with a given ephemeral key."""
    enc = public_key(sk_e)
    return _schedule(aead, enc, _dh(sk_e, pk_r), pk_r, info)


def setup_receiver(aead: int, enc: bytes, sk_r: bytes, info: bytes) -> Context:
    """SetupBaseR."""
    return _schedule(aead, enc, _dh(sk_r, enc), public_key(sk_r), info)


def _dh(sk: bytes, pk: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(sk).exchange(X25519PublicKey.from_public_bytes(pk))
    except ValueError:  # wrong length, or an all-zero result (section 7.1.4)
        raise Refused("public key") from None


def _schedule(aead: int, enc: bytes, dh: bytes, pk_r: bytes, info: bytes) -> Context:
    """ExtractAndExpand of section 4.1, then KeySchedule of section 5.1 in mode 0 with no psk."""
    eae_prk = _labeled_extract(_KEM_SUITE, b"", b"eae_prk", dh)
    shared = _labeled_expand(_KEM_SUITE, eae_prk, b"shared_secret", enc + pk_r, 32)
    suite = b"HPKE" + u16(_KEM) + u16(_KDF) + u16(aead)
    psk_id_hash = _labeled_extract(suite, b"", b"psk_id_hash", b"")
    info_hash = _labeled_extract(suite, b"", b"info_hash", info)
    context = b"\x00" + psk_id_hash + info_hash
    secret = _labeled_extract(suite, shared, b"secret", b"")
    key_bytes = _KEY_BYTES[aead]
    return Context(
        enc=enc,
        shared_secret=shared,
        key=_labeled_expand(suite, secret, b"key", context, key_bytes) if key_bytes else b"",
        base_nonce=_labeled_expand(suite, secret, b"base_nonce", context, 12) if key_bytes else b"",
        exporter_secret=_labeled_expand(suite, secret, b"exp", context, 32),
        suite_id=suite,
    )


def _labeled_extract(suite_id: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hkdf_extract(salt, b"HPKE-v1" + suite_id + label + ikm)


def _labeled_expand(suite_id: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return hkdf_expand(prk, u16(length) + b"HPKE-v1" + suite_id + label + info, length)
