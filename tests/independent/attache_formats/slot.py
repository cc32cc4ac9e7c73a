"""Slot: what opens the store. Its key file, its blob and the SRK sealed to it.

blob      = Wrap(K = slot's own secret, key_id = slot, sk || rekey_pk, slot aad)
enc, ct   = HPKE base 0x0020/0x0001/0x0002 to pk, info LP("attache/srk/1", format, suite, store, slot, pk), aad empty, of SRK
signature = Ed25519(rekey, LP("attache/srk-sig/1", store, slot, pk, number, enc, ct))

A secret on its way to the broker: HPKE base 0x0020/0x0001/0x0002 to the broker's receive key,
info = LP("attache/slot-channel/1", store, broker id, boot, key_id, operator id)
aad  = SHA-256(LP("attache/slot-request/1", verb, store, request id, slot, kind, name))
"""

import base64
import binascii

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from . import hpke
from .lp import lp, u16, u64
from .primitives import FORMAT, SUITE, Refused, ed25519_verify, sha256

KEY_FILE_PREFIX = "attache-slot-key-1:"


def srk_info(store: bytes, slot: bytes, pk: bytes) -> bytes:
    return lp("attache/srk/1", u16(FORMAT), u16(SUITE), store, slot, pk)


def signed_bytes(store: bytes, slot: bytes, pk: bytes, number: int, enc: bytes, ct: bytes) -> bytes:
    return lp("attache/srk-sig/1", store, slot, pk, u64(number), enc, ct)


def seal_srk(srk: bytes, store: bytes, slot: bytes, pk: bytes, sk_e: bytes) -> tuple[hpke.Context, bytes]:
    context = hpke.setup_sender(hpke.AES_256_GCM, pk, srk_info(store, slot, pk), sk_e)
    return context, context.seal(srk, b"")


def open_srk(blob_plaintext: bytes, store: bytes, slot: bytes, number: int, enc: bytes, ct: bytes, signature: bytes) -> bytes:
    """The signature is checked, with the rekey_pk of the slot's own blob, before anything is opened."""
    if len(blob_plaintext) != 64:
        raise Refused("length")
    sk, rekey_pk = blob_plaintext[:32], blob_plaintext[32:]
    pk = hpke.public_key(sk)
    ed25519_verify(rekey_pk, signature, signed_bytes(store, slot, pk, number, enc, ct))
    context = hpke.setup_receiver(hpke.AES_256_GCM, enc, sk, srk_info(store, slot, pk))
    return context.open(ct, b"")


def passphrase_parameters(parameters: bytes) -> tuple[int, int, int, bytes]:
    """memory in KiB u32 || passes u32 || lanes u32 || salt 32; at most 1 GiB, 4 GiB of memory times passes, 64 lanes."""
    if len(parameters) != 44:
        raise Refused("length")
    memory, passes, lanes = (int.from_bytes(parameters[i:i + 4], "big") for i in (0, 4, 8))
    if memory > 1 << 20 or memory * passes > 1 << 22 or not 1 <= lanes <= 64 or passes < 1 or memory < 8 * lanes:
        raise Refused("cost")
    return memory, passes, lanes, parameters[12:]


def passphrase_secret(passphrase: bytes, parameters: bytes) -> bytes:
    """Argon2id, version 0x13 (RFC 9106), of 32 bytes."""
    memory, passes, lanes, salt = passphrase_parameters(parameters)
    return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(passphrase)


def kms_plaintext(store: bytes, slot: bytes, secret: bytes) -> bytes:
    """What a KMS plugin encrypts for a slot of kind kms."""
    return lp("attache/kms-slot/1", store, slot, secret)


def kms_parameters(key_id: str, ciphertext: bytes, annotations: dict[str, bytes]) -> bytes:
    """The parameters of that slot: what the plugin answered, and gets back."""
    size = sum(len(name.encode()) + len(value) for name, value in annotations.items())
    if not 1 <= len(key_id.encode()) <= 1024 or not 1 <= len(ciphertext) <= 1024:
        raise Refused("size")
    if len(annotations) > 64 or size > 32 * 1024:
        raise Refused("annotations")
    return lp(key_id, ciphertext, [(name, annotations[name]) for name in sorted(annotations, key=str.encode)])


def channel_info(store: bytes, broker_id: str, boot: bytes, key_id: bytes, operator_id: str) -> bytes:
    return lp("attache/slot-channel/1", store, broker_id, boot, key_id, operator_id)


def request_digest(verb: str, store: bytes, request_id: bytes, slot: bytes, kind: str, name: str) -> bytes:
    return sha256(lp("attache/slot-request/1", verb, store, request_id, slot, kind, name))


def unseal_info(store: bytes, broker_id: str, boot: bytes, boot_key: bytes, slot: bytes) -> bytes:
    """What binds a secret to a sealed broker; the boot key by its fingerprint."""
    return lp("attache/unseal/1", store, broker_id, boot, sha256(boot_key), slot)


def key_file(secret: bytes) -> str:
    return KEY_FILE_PREFIX + base64.urlsafe_b64encode(secret).decode().rstrip("=") + "\n"


def parse_key_file(text: str) -> bytes:
    if not text.startswith(KEY_FILE_PREFIX):
        raise Refused("prefix")
    if not text.endswith("\n"):
        raise Refused("newline")
    body = text[len(KEY_FILE_PREFIX):-1]
    if len(body) != 43:
        raise Refused("length")
    try:
        secret = base64.b64decode(body + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Refused("alphabet") from None
    if key_file(secret) != text:  # "+", "/" or spare bits that are not zero
        raise Refused("alphabet" if set(body) & set("+/") else "spare bits")
    return secret
