"""Each construction as a vector file sees it: `seal` makes `out` from `in`, `open` reads it back.

`open` is given `in` and `out` merged for a case that must open, and `in` alone for a case with `refused`.
It returns the fields it recovered, which must equal those of the case. Hashes and MACs have no `open`.
"""

from collections.abc import Callable

import local_constructions
import wire_constructions
from attache_formats import (anchor, audit, backup, denial, generation, hpke, keyring, lp, note, put, release, renewal, row,
                             shares, slot, succession, value, wrap)
from attache_formats.primitives import Refused, ed25519_public, ed25519_sign, sha256
from construction import Construction, Fields, h, s


# LP

def _lp_field(spec: Fields) -> lp.Field:
    (kind, content), = spec.items()
    if kind in ("u16", "u32", "u64"):
        return getattr(lp, kind)(content)
    if kind == "list":
        return [tuple(_lp_field(part) for part in element) for element in content]  # type: ignore[misc]
    return content if kind == "str" else bytes.fromhex(content)


def lp_seal(f: Fields) -> Fields:
    return {"lp": lp.lp(*map(_lp_field, f["fields"])).hex()}


# Wrap under each aad

def aad_dek(f: Fields) -> bytes:
    store, secret, value_, key_id, ct_hash = h(f, "store", "secret", "value", "key_id", "ct_hash")
    return wrap.aad_dek(store, f["keyspace"], secret, value_, key_id, ct_hash)


def aad_kek(f: Fields) -> bytes:
    store, kek_id = h(f, "store", "kek_id")
    return wrap.aad_kek(store, f["keyspace"], f["epoch"], kek_id)


def aad_slot(f: Fields) -> bytes:
    store, slot_, kdf = h(f, "store", "slot", "kdf_parameters")
    return wrap.aad_slot(store, slot_, f["kind"], kdf)


def aad_anchor(f: Fields) -> bytes:
    return wrap.aad_anchor(*h(f, "store"), *s(f, "incarnation", "seq"))


def wrap_construction(aad: Callable[[Fields], bytes], aad_formula: str, key_id: str = "key_id") -> Construction:
    def seal(f: Fields) -> Fields:
        k, id_, salt, plaintext = h(f, "k", key_id, "salt", "plaintext")
        w = wrap.seal(k, id_, salt, plaintext, aad(f))
        return {"info": w.info.hex(), "okm": w.okm.hex(), "enc": w.enc.hex(), "commit": w.commit.hex(),
                "aad": aad(f).hex(), "ct": w.ct.hex(), "stored": w.stored.hex()}

    def open_(f: Fields) -> Fields:
        k, id_, stored = h(f, "k", key_id, "stored")
        return {"plaintext": wrap.open_(k, id_, stored, aad(f)).hex()}

    formula = (f"okm = HKDF-SHA256-Expand(k, LP('attache/wrap/1', {key_id}, salt), 64); "
               f"stored = salt || okm[32..] || AES-256-GCM(okm[..32], nonce 0, plaintext, aad); aad = {aad_formula}")
    return Construction(formula, seal, open_)


# Value and keyring

def value_aad(f: Fields) -> bytes:
    store, secret, value_ = h(f, "store", "secret", "value")
    return value.aad(store, f["keyspace"], secret, value_, f["field"])


def value_seal(f: Fields) -> Fields:
    dek, plaintext = h(f, "dek", "plaintext")
    ct = value.seal(dek, plaintext, value_aad(f))
    return {"aad": value_aad(f).hex(), "ct": ct.hex(), "ct_hash": sha256(ct).hex()}


def value_open(f: Fields) -> Fields:
    return {"plaintext": value.open_(*h(f, "dek", "ct"), value_aad(f)).hex()}


def keyring_seal(f: Fields) -> Fields:
    srk, store, record = h(f, "srk", "store", "record")
    n = f["number"]
    return {"info": keyring.key_info(store, n).hex(), "key": keyring.key(srk, store, n).hex(),
            "aad": keyring.aad(store, n).hex(), "ct": keyring.seal(srk, store, n, record).hex()}


def keyring_open(f: Fields) -> Fields:
    srk, store, ct = h(f, "srk", "store", "ct")
    return {"record": keyring.open_(srk, store, f["number"], ct).hex()}


# Slot

def hpke_out(context: hpke.Context) -> Fields:
    out = {"enc": context.enc.hex(), "shared_secret": context.shared_secret.hex(),
           "exporter_secret": context.exporter_secret.hex()}
    return out | ({"key": context.key.hex(), "base_nonce": context.base_nonce.hex()} if context.key else {})


def srk_seal(f: Fields) -> Fields:
    srk, store, slot_, sk, ikm_e, seed = h(f, "srk", "store", "slot", "sk", "ikm_e", "rekey_seed")
    pk, (sk_e, _) = hpke.public_key(sk), hpke.derive_key_pair(ikm_e)
    context, ct = slot.seal_srk(srk, store, slot_, pk, sk_e)
    message = slot.signed_bytes(store, slot_, pk, f["number"], context.enc, ct)
    return {"pk": pk.hex(), "sk_e": sk_e.hex(), "info": slot.srk_info(store, slot_, pk).hex(), **hpke_out(context),
            "ct": ct.hex(), "rekey_pk": ed25519_public(seed).hex(), "signed": message.hex(),
            "signature": ed25519_sign(seed, message).hex()}


def srk_open(f: Fields) -> Fields:
    sk, rekey_pk, store, slot_, enc, ct, signature = h(f, "sk", "rekey_pk", "store", "slot", "enc", "ct", "signature")
    return {"srk": slot.open_srk(sk + rekey_pk, store, slot_, f["number"], enc, ct, signature).hex()}


def _secret_parts(f: Fields) -> tuple[bytes, bytes]:
    store, boot, key_id, request_id, slot_ = h(f, "store", "boot", "key_id", "request_id", "slot")
    return (slot.channel_info(store, f["broker_id"], boot, key_id, f["operator_id"]),
            slot.request_digest(f["verb"], store, request_id, slot_, f["kind"], f["name"]))


def slot_secret_seal(f: Fields) -> Fields:
    sk_r, ikm_e, secret = h(f, "sk_r", "ikm_e", "secret")
    (info, digest), pk_r, (sk_e, _) = _secret_parts(f), hpke.public_key(sk_r), hpke.derive_key_pair(ikm_e)
    context = hpke.setup_sender(hpke.AES_256_GCM, pk_r, info, sk_e)
    return {"pk_r": pk_r.hex(), "sk_e": sk_e.hex(), "info": info.hex(), "digest": digest.hex(), **hpke_out(context),
            "sealed": context.seal(secret, digest).hex()}


def slot_secret_open(f: Fields) -> Fields:
    sk_r, enc, sealed = h(f, "sk_r", "enc", "sealed")
    info, digest = _secret_parts(f)
    return {"secret": hpke.setup_receiver(hpke.AES_256_GCM, enc, sk_r, info).open(sealed, digest).hex()}


def _unseal_info(f: Fields, pk_r: bytes) -> bytes:
    store, boot, slot_ = h(f, "store", "boot", "slot")
    return slot.unseal_info(store, f["broker_id"], boot, pk_r, slot_)


def unseal_seal(f: Fields) -> Fields:
    sk_r, ikm_e, secret = h(f, "sk_r", "ikm_e", "secret")
    pk_r, (sk_e, _) = hpke.public_key(sk_r), hpke.derive_key_pair(ikm_e)
    info = _unseal_info(f, pk_r)
    context = hpke.setup_sender(hpke.AES_256_GCM, pk_r, info, sk_e)
    return {"pk_r": pk_r.hex(), "sk_e": sk_e.hex(), "info": info.hex(), **hpke_out(context),
            "sealed": context.seal(secret, b"").hex()}


def unseal_open(f: Fields) -> Fields:
    sk_r, enc, sealed = h(f, "sk_r", "enc", "sealed")
    info = _unseal_info(f, hpke.public_key(sk_r))
    return {"secret": hpke.setup_receiver(hpke.AES_256_GCM, enc, sk_r, info).open(sealed, b"").hex()}


def passphrase_seal(f: Fields) -> Fields:
    return {"secret": slot.passphrase_secret(f["passphrase"].encode(), *h(f, "parameters")).hex()}


def kms_slot_seal(f: Fields) -> Fields:
    annotations = {part["name"]: bytes.fromhex(part["value"]) for part in f["annotations"]}
    return {"plaintext": slot.kms_plaintext(*h(f, "store", "slot", "secret")).hex(),
            "parameters": slot.kms_parameters(f["key_id"], *h(f, "ciphertext"), annotations).hex()}


def shares_seal(f: Fields) -> Fields:
    secret, set_, coefficients = h(f, "secret", "set", "coefficients")
    made = shares.split(secret, f["threshold"], f["count"], set_, coefficients)
    commitments = [shares.commitment(share[:16], share[16], share[17:]) for share in made]
    return {"shares": [share.hex() for share in made], "record": shares.record(set_, f["threshold"], commitments).hex(),
            "commitments": [c.hex() for c in commitments]}


def shares_open(f: Fields) -> Fields:
    commitments = [bytes.fromhex(c) for c in f["commitments"]]
    given = [bytes.fromhex(share) for share in f.get("given", f["shares"] if "shares" in f else [])]
    return {"secret": shares.combine(*h(f, "set"), f["threshold"], commitments, given).hex()}


def share_file_seal(f: Fields) -> Fields:
    store, slot_, share = h(f, "store", "slot", "share")
    return {"text": shares.file_text(shares.File(store, slot_, f["threshold"], f["count"], share))}


def share_file_open(f: Fields) -> Fields:
    file = shares.parse_file(f["text"])
    return {"store": file.store.hex(), "slot": file.slot.hex(), "threshold": file.threshold, "count": file.count,
            "share": file.share.hex()}


def key_file_seal(f: Fields) -> Fields:
    return {"text": slot.key_file(*h(f, "secret"))}


def key_file_open(f: Fields) -> Fields:
    return {"secret": slot.parse_key_file(f["text"]).hex()}


# Rows and the anchor

def row_seal(f: Fields) -> Fields:
    k_row, store, key, body = h(f, "k_row", "store", "key", "body")
    built = row.build(k_row, store, f["table"], key, f["epoch"], f["seq"], body)
    return {"mac_input": row.tag_input(store, f["table"], key, f["epoch"], f["seq"], body).hex(),
            "tag": built[-32:].hex(), "row": built.hex()}


def row_open(f: Fields) -> Fields:
    k_row, store, key, built = h(f, "k_row", "store", "key", "row")
    return {"body": row.verify(k_row, store, f["table"], key, built).hex()}


def set_seal(f: Fields) -> Fields:
    """`steps` are applied in order to an A of zero; each outcome is listed."""
    k_set, store = h(f, "k_set", "store")
    a, count, steps = bytes(32), 0, []
    for step in f["steps"]:
        key, tag = h(step, "key", "tag")
        element = row.set_element(k_set, store, f["table"], key, tag)
        add = step["op"] == "add"
        a, count = (row.set_add if add else row.set_remove)(a, element), count + (1 if add else -1)
        steps.append({"mac_input": row.set_input(store, f["table"], key, tag).hex(), "element": element.hex(),
                      "a": a.hex(), "count": count})
    return {"steps": steps, "a": a.hex(), "count": count}


def _sums(f: Fields) -> tuple[list[anchor.Table], list[anchor.Head]]:
    return ([(t["table"], *h(t, "a"), t["count"]) for t in f["tables"]],
            [(*h(c, "chain"), c["size"], *h(c, "root")) for c in f["chains"]])


def anchor_seal(f: Fields) -> Fields:
    k, store, t_prev = h(f, "k_anchor_mac", "store", "t_prev")
    parts = (store, f["incarnation"], f["seq"], t_prev, *_sums(f))
    return {"mac_input": anchor.chain_input(*parts).hex(), "t": anchor.chain(k, *parts).hex()}


def anchor_row_seal(f: Fields) -> Fields:
    k, key_id, salt, store, t_prev = h(f, "k", "key_id", "salt", "store", "t_prev")
    plaintext = anchor.record(t_prev, *_sums(f))
    stored = wrap.seal(k, key_id, salt, plaintext, wrap.aad_anchor(store, f["incarnation"], f["seq"])).stored
    return {"plaintext": plaintext.hex(), "row": anchor.row(f["incarnation"], f["seq"], key_id, stored).hex()}


# Put

def _sent(f: Fields) -> list[put.Sent]:
    return [put.Sent(x["field"], *h(x, "value", "ct_hash"), bytes.fromhex(x.get("dek", ""))) for x in f["fields"]]


def _put_parts(f: Fields) -> tuple[bytes, bytes]:
    store, boot, key_id, request_id, secret = h(f, "store", "boot", "key_id", "request_id", "secret")
    info = put.info(store, f["broker_id"], boot, key_id, f["operator_id"])
    return info, put.digest_input(store, request_id, f["keyspace"], f["name"], secret, f["expected_head_version"],
                                  f["flags"], f["note"], _sent(f), f["carried"])


def put_seal(f: Fields) -> Fields:
    sk_r, ikm_e = h(f, "sk_r", "ikm_e")
    (info, digest_input), pk_r, (sk_e, _) = _put_parts(f), hpke.public_key(sk_r), hpke.derive_key_pair(ikm_e)
    context, sealed = put.seal(pk_r, info, sha256(digest_input), _sent(f), sk_e)
    return {"pk_r": pk_r.hex(), "sk_e": sk_e.hex(), "info": info.hex(), "digest_input": digest_input.hex(),
            "digest": sha256(digest_input).hex(), **hpke_out(context), "sealed": sealed.hex(),
            "deks": [x.dek.hex() for x in put.in_order(_sent(f))]}


def put_open(f: Fields) -> Fields:
    sk_r, enc, sealed = h(f, "sk_r", "enc", "sealed")
    info, digest_input = _put_parts(f)
    return {"deks": [d.hex() for d in put.open_(sk_r, enc, info, sha256(digest_input), sealed, len(f["fields"]))]}


# Release

def _release_info(f: Fields, pk: bytes) -> bytes:
    store, boot, session = h(f, "store", "boot", "session")
    return release.info(store, f["broker_id"], boot, f["node_id"], pk, session)


def _release_aad(f: Fields) -> bytes:
    granted = [release.Granted(g["keyspace"], g["name"], *h(g, "secret"), g["version"], g["field"],
                               *h(g, "value", "ct_hash")) for g in f["granted"]]
    return release.aad(*h(f, "store", "session", "nonce", "release", "leaf_hash"),
                       *s(f, "volume", "cluster", "namespace", "pod_uid", "container"), granted)


def release_seal(f: Fields) -> Fields:
    sk, ikm_e, nonce, release_ = h(f, "sk", "ikm_e", "nonce", "release")
    pk, (sk_e, _) = hpke.public_key(sk), hpke.derive_key_pair(ikm_e)
    info, aad = _release_info(f, pk), _release_aad(f)
    context = hpke.setup_sender(hpke.EXPORT_ONLY, pk, info, sk_e)
    k = release.key(context, nonce, release_)
    deks = [bytes.fromhex(dek) for dek in f["deks"]]
    return {"pk": pk.hex(), "sk_e": sk_e.hex(), "info": info.hex(), **hpke_out(context),
            "key_context": release.key_context(nonce, release_).hex(), "k": k.hex(), "aad": aad.hex(),
            "sealed": release.seal(k, deks, aad).hex()}


def release_open(f: Fields) -> Fields:
    sk, enc, nonce, release_, sealed = h(f, "sk", "enc", "nonce", "release", "sealed")
    context = hpke.setup_receiver(hpke.EXPORT_ONLY, enc, sk, _release_info(f, hpke.public_key(sk)))
    k = release.key(context, nonce, release_)
    return {"deks": [d.hex() for d in release.open_(k, sealed, _release_aad(f), len(f["granted"]))]}


def setup_seal(f: Fields) -> Fields:
    """Sender's setup alone, for public keys that must be refused."""
    pk, ikm_e = h(f, "pk", "ikm_e")
    return hpke_out(hpke.setup_sender(hpke.EXPORT_ONLY, pk, b"", hpke.derive_key_pair(ikm_e)[0]))


# Denial and generation

def denial_seal(f: Fields) -> Fields:
    parts = s(f, "cluster", "pod_uid", "volume_name", "public_reason")
    return {"mac_input": denial.mac_input(*parts).hex(), "id": denial.denial_id(*h(f, "k_denial"), *parts)}


def generation_seal(f: Fields) -> Fields:
    files = [(x["path"], x["mode"], x["owner"], *h(x, "value")) for x in f["files"]]
    digest = generation.digest(files)
    return {"digest_input": generation.digest_input(files).hex(), "digest": digest.hex(),
            "folder": generation.folder(f["seq"], digest)}


def late_renewal_seal(f: Fields) -> Fields:
    certificate, request = h(f, "certificate", "request")
    return {"transcript": renewal.transcript(f["broker_id"], certificate, request, *s(f, "version", "at")).hex()}


# Audit

def leaf_seal(f: Fields) -> Fields:
    body = audit.body([(item["tag"], *h(item, "value")) for item in f["items"]])
    return {"body": body.hex(), "leaf_hash": audit.leaf_hash(body).hex()}


def leaf_open(f: Fields) -> Fields:
    return {"items": [{"tag": t, "value": v.hex()} for t, v in audit.parse_body(*h(f, "body"))]}


def _leaves(f: Fields, name: str = "bodies") -> list[bytes]:
    return [audit.leaf_hash(bytes.fromhex(body)) for body in f[name]]


def root_seal(f: Fields) -> Fields:
    leaves = _leaves(f)
    return {"size": len(leaves), "leaf_hashes": [leaf.hex() for leaf in leaves], "root": audit.root(leaves).hex()}


def inclusion_seal(f: Fields) -> Fields:
    leaves = _leaves(f)
    return {"size": len(leaves), "leaf_hash": leaves[f["index"]].hex(), "root": audit.root(leaves).hex(),
            "proof": [p.hex() for p in audit.inclusion(f["index"], leaves)]}


def inclusion_open(f: Fields) -> Fields:
    leaf, root = h(f, "leaf_hash", "root")
    audit.verify_inclusion(leaf, f["index"], f["size"], [bytes.fromhex(p) for p in f["proof"]], root)
    return {}


def consistency_seal(f: Fields) -> Fields:
    leaves, first = _leaves(f), f["first"]
    return {"second": len(leaves), "first_root": audit.root(leaves[:first]).hex(),
            "second_root": audit.root(leaves).hex(), "proof": [p.hex() for p in audit.consistency(first, leaves)]}


def consistency_open(f: Fields) -> Fields:
    roots = h(f, "first_root", "second_root")
    audit.verify_consistency(f["first"], f["second"], *roots, [bytes.fromhex(p) for p in f["proof"]])
    return {}


# Notes

def _note_out(text: str, name: str, seed: bytes) -> Fields:
    pk = ed25519_public(seed)
    signature = ed25519_sign(seed, text.encode())
    return {"pk": pk.hex(), "key_id": note.key_id(name, pk).hex(), "vkey": note.vkey(name, pk),
            "signature": signature.hex(), "signature_line": note.signature_line(name, pk, signature),
            "note": note.sign(text, name, seed, pk)}


def note_seal(f: Fields) -> Fields:
    return _note_out(f["text"], f["name"], *h(f, "seed"))


def note_open(f: Fields) -> Fields:
    return {"text": note.open_(f["note"], f["vkey"])}


def checkpoint_seal(f: Fields) -> Fields:
    store, chain, root, seed = h(f, "store", "chain", "root", "seed")
    origin = note.checkpoint_origin(store, chain)
    text = note.checkpoint_text(origin, f["size"], root)
    return {"origin": origin, "text": text, **_note_out(text, origin, seed)}


def audit_key_seal(f: Fields) -> Fields:
    store, seed, after = h(f, "store", "seed", "after")
    before = ed25519_public(seed)
    return {"before": before.hex(), "statement": succession.statement(store, f["epoch"], before, after).hex(),
            "endorsement": succession.endorse(store, f["epoch"], seed, after).hex()}


def audit_key_open(f: Fields) -> Fields:
    store, before, after, endorsement = h(f, "store", "before", "after", "endorsement")
    succession.verify(store, f["epoch"], before, after, endorsement)
    return {"after": after.hex()}


def summary_seal(f: Fields) -> Fields:
    store, chain, seed = h(f, "store", "chain", "seed")
    origin, leaves = note.summary_origin(store, chain), _leaves(f)
    t = (*s(f["anchor"], "incarnation", "seq"), *h(f["anchor"], "t")) if f["anchor"] else None
    peaks = audit.peaks(leaves)
    text = note.summary_text(origin, len(leaves), audit.root(leaves), t, peaks, f["intents"])
    return {"peaks": [peak.hex() for peak in peaks], "text": text, **_note_out(text, origin, seed)}


def segment_seal(f: Fields) -> Fields:
    records = [(audit.LEAF, *h(x, "leaf")) if "leaf" in x else (audit.CHECKPOINT, x["note"].encode())
               for x in f["records"]]
    built = audit.segment(*h(f, "store", "chain"), f["first_index"], records)
    return {"header": built[:64].hex(), "segment": built.hex()}


def segment_open(f: Fields) -> Fields:
    store, chain, first_index, records = audit.parse_segment(*h(f, "segment"))
    return {"store": store.hex(), "chain": chain.hex(), "first_index": first_index, "records": [
        {"leaf": data.hex()} if kind == audit.LEAF else {"note": data.decode()} for kind, data in records]}


def chain_id_seal(f: Fields) -> Fields:
    return {"chain": audit.chain_id(*h(f, "store"), f["broker_id"], f.get("incarnation")).hex()}


def checkpoint_open(f: Fields) -> Fields:
    origin = note.checkpoint_origin(*h(f, "store", "chain"))
    size, root = note.parse_checkpoint(note.open_(f["note"], f["vkey"]), origin)
    return {"size": size, "root": root.hex()}


def anchor_note_seal(f: Fields) -> Fields:
    store, t, seed = h(f, "store", "t", "seed")
    origin = note.anchor_origin(store)
    text = note.anchor_text(origin, f["incarnation"], f["seq"], t)
    return {"origin": origin, "text": text, **_note_out(text, origin, seed)}


def anchor_note_open(f: Fields) -> Fields:
    origin = note.anchor_origin(*h(f, "store"))
    incarnation, seq, t = note.parse_anchor(note.open_(f["note"], f["vkey"]), origin)
    return {"incarnation": incarnation, "seq": seq, "t": t.hex()}


def _backup_head(f: Fields) -> backup.Head:
    store, id_, anchor_t, chain, root = h(f, "store", "backup", "anchor_t", "chain", "audit_root")
    return backup.Head(f["store_format"], store, id_, f["incarnation"], f["seq"], f["created"], anchor_t, chain, f["audit_size"], root)


def backup_seal(f: Fields) -> Fields:
    seed, = h(f, "seed")
    tables = [(table["name"], [tuple(h(row, "key", "value")) for row in table["rows"]]) for table in f["tables"]]
    file, signed = backup.write(_backup_head(f), tables, seed)
    return {"vkey": note.vkey(backup.origin(*h(f, "store")), ed25519_public(seed)), "note": signed, "file": file.hex()}


def backup_open(f: Fields) -> Fields:
    head, tables = backup.read(*h(f, "file"), note.parse_vkey(f["vkey"])[1])
    return {"store_format": head.store_format, "store": head.store.hex(), "backup": head.backup.hex(),
            "incarnation": head.incarnation, "seq": head.seq, "created": head.created, "anchor_t": head.anchor_t.hex(), "chain": head.chain.hex(),
            "audit_size": head.audit_size, "audit_root": head.audit_root.hex(), "tables": [
                {"name": name, "rows": [{"key": key.hex(), "value": value.hex()} for key, value in rows.items()]}
                for name, rows in tables.items()]}


_HPKE = "HPKE base 0x0020/0x0001/"
_NOTE = "key_id = SHA-256(name || 0x0A || 0x01 || pk)[..4]; note = text || LF || '— ' name ' ' base64(key_id || Ed25519(text)) LF"

CONSTRUCTIONS: dict[str, Construction] = {
    "lp": Construction("each field: u32 big-endian length || bytes; a list: field(u32 count), then field(LP(parts)) for each element", lp_seal),
    "wrap-dek": wrap_construction(aad_dek, "LP('attache/dek/1', format, suite, store, keyspace, secret, value, key_id, ct_hash)"),
    "wrap-kek": wrap_construction(aad_kek, "LP('attache/kek/1', format, suite, store, keyspace, epoch, kek_id)"),
    "wrap-slot": wrap_construction(aad_slot, "LP('attache/slot/1', format, suite, store, slot, kind, KDF parameters)", "slot"),
    "wrap-anchor": wrap_construction(aad_anchor, "LP('attache/anchor/1', format, suite, store, incarnation, seq)"),
    "value": Construction("ct = AES-256-GCM(dek, nonce 0, plaintext, LP('attache/value/1', format, suite, store, keyspace, secret, value, field))", value_seal, value_open),
    "keyring": Construction("key = HKDF-Expand(srk, LP('attache/keyring/1', store, number), 32); ct = AES-256-GCM(key, nonce 0, record, LP('attache/keyring-aad/1', format, suite, store, number))", keyring_seal, keyring_open),
    "srk-seal": Construction(_HPKE + "0x0002 to pk of srk, info = LP('attache/srk/1', format, suite, store, slot, pk), aad empty; signature = Ed25519(rekey, LP('attache/srk-sig/1', store, slot, pk, number, enc, ct)), checked first", srk_seal, srk_open),
    "unseal": Construction(_HPKE + "0x0002 to the boot key, info = LP('attache/unseal/1', store, broker id, boot, SHA-256(boot key), slot); aad empty; plaintext = the slot's secret, or a share of it", unseal_seal, unseal_open),
    "slot-secret": Construction(_HPKE + "0x0002 to the receive key, info = LP('attache/slot-channel/1', store, broker id, boot, key_id, operator id); aad = digest = SHA-256(LP('attache/slot-request/1', verb, store, request id, slot, kind, name)); plaintext = the slot's secret", slot_secret_seal, slot_secret_open),
    "passphrase": Construction("parameters = memory in KiB u32 || passes u32 || lanes u32 || salt 32; secret = Argon2id 0x13 (RFC 9106) of 32 bytes over the passphrase", passphrase_seal, passphrase_seal),
    "kms-slot": Construction("plaintext = LP('attache/kms-slot/1', store, slot, secret); parameters = LP(key id, ciphertext, [(annotation, value)] by annotation)", kms_slot_seal, kms_slot_seal),
    "shares": Construction("y_i = secret + c_1 i + ... + c_(n-1) i^(n-1) over GF(256) modulo 0x11b, byte by byte; share = set 16 || i u8 || y_i; commitment = SHA-256(LP('attache/share/1', set, i u8, y_i)); record = LP(set, n u8, [commitment])", shares_seal, shares_open),
    "share-file": Construction("five lines, each with LF: 'attache-share-1', 'store ' uuid, 'slot ' uuid, 'share ' i ' of ' m ', any ' n ' open the slot', base64url of the share without padding", share_file_seal, share_file_open),
    "key-file": Construction("'attache-slot-key-1:' || base64url without padding of 32 bytes || LF", key_file_seal, key_file_open),
    "row": Construction("tag = HMAC(k_row, LP('attache/row/1', format, epoch, store, table, key, seq, body)); row = format u16 || epoch u32 || seq u64 || body || tag", row_seal, row_open),
    "set-hash": Construction("a = sum of HMAC(k_set, LP('attache/set/1', store, table, key, tag)) mod 2^256, big-endian; removal subtracts", set_seal),
    "anchor-chain": Construction("t = HMAC(k_anchor_mac, LP('attache/anchor-chain/1', store, incarnation, seq, t_prev, [(table, a, count)] by table, [(chain, size, root)] by chain)); T_0 = 32 zeros", anchor_seal),
    "anchor-row": Construction("format u16 || suite u16 || LP(incarnation, seq, key_id, Wrap under k of LP(t_prev, [(table, a, count)] by table, [(chain, size, root)] by chain))", anchor_row_seal),
    "put": Construction(_HPKE + "0x0002, info = LP('attache/put/1', store, broker id, boot, key_id, operator id); aad = digest = SHA-256(LP('attache/commit-put/1', store, request id, keyspace, name, secret, expected head version, flags, note, [(field, value, SHA-256(ct))] by field, [carried] by name)); plaintext = DEKs by field", put_seal, put_open),
    "release": Construction(_HPKE + "0xFFFF, info = LP('attache/deliver/1', suite, store, broker id, boot, node id, pk, session); k = export(LP('attache/release-key/1', nonce, release), 32); sealed = AES-256-GCM(k, nonce 0, DEKs, LP('attache/release/1', store, session, nonce, release, leaf hash, volume, cluster, namespace, pod uid, container, [(keyspace, name, secret, version, field, value, SHA-256(ct))]))", release_seal, release_open),
    "release-setup": Construction(_HPKE + "0xFFFF, sender's setup to pk with an empty info; a pk of small order is refused", setup_seal, setup_seal),
    "denial": Construction("id = first 8 hex of HMAC(k_denial, LP('attache/denial/1', cluster, pod uid, volume name, public reason))", denial_seal),
    "generation": Construction("digest = SHA-256(LP([(path, mode, owner, value)] by path)); folder = '..' seq hex '-' first 16 hex of digest", generation_seal),
    "late-renewal": Construction("LP('attache/late-renewal/1', broker id, SHA-256(certificate), SHA-256(request), version, time u64)", late_renewal_seal),
    "audit-leaf": Construction("body = format u16 || suite u16 || (tag u16 || length u32 || value)*, tags ascending; leaf_hash = SHA-256(0x00 || body)", leaf_seal, leaf_open),
    "merkle-root": Construction("RFC 6962 root over SHA-256(0x00 || body), SHA-256(0x01 || l || r); empty = SHA-256('')", root_seal),
    "merkle-inclusion": Construction("RFC 6962 2.1.1, leaf side first", inclusion_seal, inclusion_open),
    "merkle-consistency": Construction("RFC 6962 2.1.2", consistency_seal, consistency_open),
    "audit-key": Construction("LP('attache/audit-key/1', store, epoch u32, key before, key after), signed by the key before",
                              audit_key_seal, audit_key_open),
    "signed-note": Construction(_NOTE, note_seal, note_open),
    "checkpoint": Construction("text = origin LF size LF base64(root) LF; origin = name = attache/<store>/<chain>; " + _NOTE, checkpoint_seal, checkpoint_open),
    "segment": Construction("'ATTAUDIT' || format u16 || suite u16 || store || chain || first index u64 || 0 x12 || (length u32 || kind u8 || body)*, kind 1 a leaf, 2 a checkpoint; zeros behind", segment_seal, segment_open),
    "summary": Construction("text = name LF 'size ' n LF 'root ' base64(root) LF ['anchor ' incarnation ' ' seq ' ' base64(t) LF] ('peak ' base64(hash) LF)* ('intent ' index LF)*; name = attache/<store>/<chain>/summary; " + _NOTE, summary_seal, note_open),
    "chain-id": Construction("SHA-256(LP('attache/chain/1', store, broker id))[..16]; with the incarnation u32 as a third part, where the log before was lost", chain_id_seal),
    "anchor-note": Construction("text = origin LF incarnation LF seq LF base64(t) LF; origin = name = attache/anchor/<store>; " + _NOTE, anchor_note_seal, anchor_note_open),
    "backup": Construction("head 160 || (kind u8 || key's length u32 || value's length u32 || key || value)*, kind 1 a table, 2 a row, 3 the table's end, 4 the end, a note: text = origin LF backup LF incarnation LF seq LF size LF base64(SHA-256 of the bytes before) LF; origin = name = attache/backup/<store>; " + _NOTE, backup_seal, backup_open),
    **local_constructions.CONSTRUCTIONS,
    **wire_constructions.CONSTRUCTIONS,
}

__all__ = ["CONSTRUCTIONS", "Construction", "Fields", "Refused"]
