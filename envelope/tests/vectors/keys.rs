//! Wraps, values, slots and the keyring.

use attache_arena::{Arena, ArenaError};
use attache_envelope::key::{
    AnchorSealKey, Dek, Kek, KekWrapKey, SecretKey, SigningSeed, SlotSecret, Srk,
};
use attache_envelope::keyring::{FreshSrk, SealedKeyring};
use attache_envelope::lp::Lp;
use attache_envelope::name::{FieldName, Keyspace};
use attache_envelope::shares::{Collected, SHARE_BYTES, Share, ShareSet, split};
use attache_envelope::sign::VerifyingKey;
use attache_envelope::slot::kms::{self, KmsCiphertext};
use attache_envelope::slot::passphrase::PassphraseParameters;
use attache_envelope::slot::{self, Slot, SlotAbout, SlotIdentity, SrkSeal};
use attache_envelope::value::{CtHash, DataKey, ValueBinding};
use attache_envelope::wrap::{
    self, AnchorBinding, DekBinding, KekBinding, OVERHEAD_BYTES, PreparedKek, SlotBinding,
    WrappedKey,
};
use attache_envelope::x25519::Enc;
use attache_envelope::{EnvelopeError, FORMAT, SUITE};

use super::case::{Expected, Fields, run};
use super::replay::Replay;

/// Stored bytes as a wrapped key; bytes of another length are not one.
fn wrapped(given: &Fields) -> Option<WrappedKey> {
    given
        .bytes("stored")
        .try_into()
        .ok()
        .map(WrappedKey::from_bytes)
}

#[test]
fn wrap_dek() {
    run("wrap-dek", true, |given, expected| {
        let keyspace: Keyspace = given.parse("keyspace");
        let binding = DekBinding {
            store: given.id("store"),
            keyspace: &keyspace,
            secret: given.id("secret"),
            value: given.id("value"),
            kek: given.id("key_id"),
            ct_hash: CtHash::from_bytes(given.array("ct_hash")),
        };
        let kek = PreparedKek::new(Kek::new(&given.array("k"))).unwrap();
        let mut opened = [0; 32];
        match expected {
            Expected::Out(out) => {
                let dek = given.array("plaintext");
                assert_eq!(binding.aad(), out.bytes("aad"));
                let random = Replay::new(&given.bytes("salt"));
                let stored = kek.wrap_dek(&random, &binding, Dek::new(&dek)).unwrap();
                assert_eq!(stored.as_bytes().as_slice(), out.bytes("stored"));
                kek.unwrap_dek(&binding, &stored, &mut opened).unwrap();
                assert_eq!(opened, dek);
            }
            Expected::Refused => {
                if let Some(stored) = wrapped(given) {
                    let result = kek.unwrap_dek(&binding, &stored, &mut opened);
                    assert_eq!(result, Err(EnvelopeError::Refused));
                }
                assert_eq!(opened, [0; 32]);
            }
        }
    });
}

#[test]
fn wrap_kek() {
    run("wrap-kek", true, |given, expected| {
        let keyspace: Keyspace = given.parse("keyspace");
        let binding = KekBinding {
            store: given.id("store"),
            keyspace: &keyspace,
            epoch: given.u32("epoch"),
            kek: given.id("kek_id"),
        };
        let (k, key_id) = (given.array("k"), given.id("key_id"));
        let key = KekWrapKey::new(&k);
        let mut opened = [0; 32];
        match expected {
            Expected::Out(out) => {
                let kek = given.array("plaintext");
                assert_eq!(binding.aad(), out.bytes("aad"));
                let random = Replay::new(&given.bytes("salt"));
                let stored =
                    wrap::wrap_kek(&random, key, key_id, &binding, Kek::new(&kek)).unwrap();
                assert_eq!(stored.as_bytes().as_slice(), out.bytes("stored"));
                wrap::unwrap_kek(key, key_id, &binding, &stored, &mut opened).unwrap();
                assert_eq!(opened, kek);
            }
            Expected::Refused => {
                if let Some(stored) = wrapped(given) {
                    let result = wrap::unwrap_kek(key, key_id, &binding, &stored, &mut opened);
                    assert_eq!(result, Err(EnvelopeError::Refused));
                }
                assert_eq!(opened, [0; 32]);
            }
        }
    });
}

#[test]
fn wrap_slot() {
    run("wrap-slot", true, |given, expected| {
        let kdf_parameters = given.bytes("kdf_parameters");
        let binding = SlotBinding {
            store: given.id("store"),
            slot: given.id("slot"),
            kind: given.parse("kind"),
            kdf_parameters: &kdf_parameters,
        };
        let k = given.array("k");
        let secret = SlotSecret::new(&k);
        match expected {
            Expected::Out(out) => {
                let blob = given.bytes("plaintext");
                assert_eq!(binding.aad(), out.bytes("aad"));
                let random = Replay::new(&given.bytes("salt"));
                let stored = wrap::wrap_slot_blob(&random, secret, &binding, &blob).unwrap();
                assert_eq!(stored, out.bytes("stored"));
                let mut opened = vec![0; blob.len()];
                wrap::unwrap_slot_blob(secret, &binding, &stored, &mut opened).unwrap();
                assert_eq!(opened, blob);
            }
            Expected::Refused => {
                let stored = given.bytes("stored");
                let mut opened = vec![0; stored.len().saturating_sub(OVERHEAD_BYTES)];
                let result = wrap::unwrap_slot_blob(secret, &binding, &stored, &mut opened);
                assert_eq!(result, Err(EnvelopeError::Refused));
            }
        }
    });
}

#[test]
fn wrap_anchor() {
    run("wrap-anchor", true, |given, expected| {
        let binding = AnchorBinding {
            store: given.id("store"),
            incarnation: given.u32("incarnation"),
            seq: given.u64("seq"),
        };
        let (k, key_id) = (given.array("k"), given.id("key_id"));
        let key = AnchorSealKey::new(&k);
        match expected {
            Expected::Out(out) => {
                let record = given.bytes("plaintext");
                assert_eq!(binding.aad(), out.bytes("aad"));
                let random = Replay::new(&given.bytes("salt"));
                let stored = wrap::wrap_anchor(&random, key, key_id, &binding, &record).unwrap();
                assert_eq!(stored, out.bytes("stored"));
                let opened = wrap::unwrap_anchor(key, key_id, &binding, &stored).unwrap();
                assert_eq!(opened, record);
            }
            Expected::Refused => {
                let result = wrap::unwrap_anchor(key, key_id, &binding, &given.bytes("stored"));
                assert_eq!(result, Err(EnvelopeError::Refused));
            }
        }
    });
}

#[test]
fn value() {
    run("value", true, |given, expected| {
        let keyspace: Keyspace = given.parse("keyspace");
        let field: FieldName = given.parse("field");
        let binding = ValueBinding {
            store: given.id("store"),
            keyspace: &keyspace,
            secret: given.id("secret"),
            value: given.id("value"),
            field: &field,
        };
        let dek = given.array("dek");
        match expected {
            Expected::Out(out) => {
                let plaintext = given.bytes("plaintext");
                assert_eq!(binding.aad(), out.bytes("aad"));
                let key = DataKey::random(&Replay::new(&dek)).unwrap();
                let (ct, used) = key.seal(&plaintext, &binding).unwrap();
                assert_eq!(ct, out.bytes("ct"));
                assert_eq!(CtHash::of(&ct).as_bytes().as_slice(), out.bytes("ct_hash"));
                used.dek().verify_tag(&ct, &binding).unwrap();
                let mut opened = vec![0; plaintext.len()];
                Dek::new(&dek).open(&ct, &binding, &mut opened).unwrap();
                assert_eq!(opened, plaintext);
            }
            Expected::Refused => {
                let ct = given.bytes("ct");
                let mut opened = vec![0; ct.len().saturating_sub(16)];
                let result = Dek::new(&dek).open(&ct, &binding, &mut opened);
                assert_eq!(result, Err(EnvelopeError::Refused));
                assert_eq!(opened, vec![0; opened.len()]);
                let result = Dek::new(&dek).verify_tag(&ct, &binding);
                assert_eq!(result, Err(EnvelopeError::Refused));
            }
        }
    });
}

#[test]
fn keyring() {
    let arena = Arena::new().unwrap();
    run("keyring", true, |given, expected| {
        let (store, number, srk) = (given.id("store"), given.u64("number"), given.array("srk"));
        match expected {
            Expected::Out(out) => {
                let record = given.bytes("record");
                let fresh = arena
                    .key_with::<ArenaError, _>(|cell| {
                        *cell = srk;
                        Ok(())
                    })
                    .unwrap();
                let (sealed, used) = FreshSrk::new(fresh).seal(store, number, &record).unwrap();
                assert_eq!(sealed.ct(), out.bytes("ct"));
                assert_eq!(used.expose(), &srk);
                let mut opened = vec![0; record.len()];
                sealed.open(Srk::new(&srk), store, &mut opened).unwrap();
                assert_eq!(opened, record);
            }
            Expected::Refused => {
                let stored = Lp::record().u64(number).bytes(&given.bytes("ct"));
                let sealed = SealedKeyring::decode(stored.as_bytes()).unwrap();
                let mut opened = vec![0; sealed.record_bytes()];
                let result = sealed.open(Srk::new(&srk), store, &mut opened);
                assert_eq!(result, Err(EnvelopeError::Refused));
            }
        }
    });
}

#[test]
fn srk_seal() {
    run("srk-seal", true, |given, expected| {
        let (store, slot) = (given.id("store"), given.id("slot"));
        // The blob's own wrap is checked by `wrap_slot`; here any secret and salt do.
        let secret = [7; 32];
        let secret = SlotSecret::new(&secret);
        let blob_random = Replay::new(&[given.bytes("sk"), vec![9; 32]].concat());
        let identity =
            |rekey| SlotIdentity::key_file(&blob_random, store, slot, secret, rekey).unwrap();
        let mut opened = [0; 32];
        match expected {
            Expected::Out(out) => {
                let seed = given.array("rekey_seed");
                let rekey = SigningSeed::new(&seed);
                let verifying = rekey.verifying_key().unwrap();
                assert_eq!(verifying.as_bytes().as_slice(), out.bytes("rekey_pk"));
                let identity = identity(verifying);
                assert_eq!(identity.pk.as_bytes().as_slice(), out.bytes("pk"));
                let srk = given.array("srk");
                let random = Replay::new(&given.bytes("ikm_e"));
                let seal = identity
                    .seal_srk(&random, store, given.u64("number"), Srk::new(&srk), rekey)
                    .unwrap();
                assert_eq!(seal.enc.as_bytes().as_slice(), out.bytes("enc"));
                assert_eq!(seal.ct.as_slice(), out.bytes("ct"));
                assert_eq!(seal.signature.as_slice(), out.bytes("signature"));
                let slot = Slot {
                    identity,
                    seal,
                    about: about(),
                };
                let proof = slot.open(store, secret, &mut opened).unwrap();
                assert_eq!(opened, srk);
                assert_eq!(proof.number, given.u64("number"));
                assert_eq!(proof.rekey, verifying);
            }
            Expected::Refused => {
                let slot = Slot {
                    identity: identity(VerifyingKey::from_bytes(given.array("rekey_pk"))),
                    seal: SrkSeal {
                        number: given.u64("number"),
                        enc: Enc::from_bytes(given.array("enc")),
                        ct: given.array("ct"),
                        signature: given.array("signature"),
                    },
                    about: about(),
                };
                let result = slot.open(store, secret, &mut opened);
                assert_eq!(result.err(), Some(EnvelopeError::Refused));
                assert_eq!(opened, [0; 32]);
            }
        }
    });
}

#[test]
fn passphrase() {
    run("passphrase", true, |given, expected| {
        let parameters = PassphraseParameters::decode(&given.bytes("parameters"));
        match expected {
            Expected::Out(out) => {
                let parameters = parameters.unwrap();
                assert_eq!(parameters.encode(), given.bytes("parameters"));
                let mut secret = [0; 32];
                let passphrase = given.text("passphrase").as_bytes();
                parameters.derive(passphrase, &mut secret).unwrap();
                assert_eq!(secret.as_slice(), out.bytes("secret"));
            }
            Expected::Refused => drop(parameters.unwrap_err()),
        }
    });
}

#[test]
fn kms_slot() {
    run("kms-slot", true, |given, expected| {
        let annotations = given.list("annotations");
        let annotations = annotations
            .iter()
            .map(|part| (part.text("name").to_owned(), part.bytes("value")));
        let kept = KmsCiphertext::new(
            given.text("key_id").to_owned(),
            given.bytes("ciphertext"),
            annotations.collect(),
        );
        match expected {
            Expected::Out(out) => {
                let (kept, secret) = (kept.unwrap(), given.array("secret"));
                let (store, slot) = (given.id("store"), given.id("slot"));
                assert_eq!(kept.encode(), out.bytes("parameters"));
                assert_eq!(KmsCiphertext::decode(&kept.encode()), Ok(kept));
                let plaintext = kms::plaintext(store, slot, SlotSecret::new(&secret));
                assert_eq!(plaintext.as_slice(), out.bytes("plaintext"));
                let mut read = [0; 32];
                kms::read_plaintext(&plaintext, store, slot, &mut read).unwrap();
                assert_eq!(read, secret);
            }
            Expected::Refused => drop(kept.unwrap_err()),
        }
    });
}

#[test]
fn shares() {
    run("shares", true, |given, expected| {
        let share = |text: &String| {
            let bytes = hex::decode(text).unwrap();
            Share::from_bytes(bytes.as_slice().try_into().unwrap())
        };
        match expected {
            Expected::Out(out) => {
                let drawn = [given.bytes("set"), given.bytes("coefficients")].concat();
                let (random, secret) = (Replay::new(&drawn), given.array("secret"));
                let number = |name: &str| u8::try_from(given.u64(name)).unwrap();
                let (threshold, count) = (number("threshold"), number("count"));
                let (set, made) =
                    split(&random, SlotSecret::new(&secret), threshold, count).unwrap();
                assert_eq!(set.encode(), out.bytes("record"));
                let written = made.iter().map(|share| {
                    let mut bytes = [0; SHARE_BYTES];
                    share.write(&mut bytes);
                    hex::encode(bytes)
                });
                assert_eq!(written.collect::<Vec<_>>(), out.texts("shares"));
                let mut collected = Collected::new(&set);
                for text in out.texts("shares").iter().rev() {
                    collected.take(share(text)).unwrap();
                }
                let mut read = [0; 32];
                collected.combine(&mut read).unwrap();
                assert_eq!(read, secret);
            }
            Expected::Refused => {
                let commitments = given.texts("commitments");
                let commitments = commitments
                    .iter()
                    .map(|text| Lp::new().bytes(&hex::decode(text).unwrap()))
                    .collect::<Vec<_>>();
                let record = Lp::new()
                    .bytes(&given.bytes("set"))
                    .u8(u8::try_from(given.u64("threshold")).unwrap())
                    .list(commitments);
                let set = ShareSet::decode(record.as_bytes()).unwrap();
                let mut collected = Collected::new(&set);
                let given = given.texts("given");
                let taken: Result<Vec<_>, _> = given
                    .iter()
                    .map(|text| collected.take(share(text)))
                    .collect();
                assert!(taken.is_err() || collected.combine(&mut [0; 32]).is_err());
            }
        }
    });
}

#[test]
fn share_file() {
    run("share-file", true, |given, expected| match expected {
        Expected::Out(out) => {
            let number = |name: &str| u8::try_from(given.u64(name)).unwrap();
            let file = slot::ShareFile {
                store: given.id("store"),
                slot: given.id("slot"),
                threshold: number("threshold"),
                count: number("count"),
                share: Share::from_bytes(&given.array("share")),
            };
            let text = file.text();
            assert_eq!(str::from_utf8(&text).unwrap(), out.text("text"));
            let read = slot::ShareFile::parse(&text).unwrap();
            assert_eq!((read.store, read.slot), (file.store, file.slot));
            assert_eq!((read.threshold, read.count), (file.threshold, file.count));
            let mut bytes = [0; SHARE_BYTES];
            read.share.write(&mut bytes);
            assert_eq!(bytes, given.array("share"));
        }
        Expected::Refused => {
            let text = given.text("text").as_bytes();
            assert!(slot::ShareFile::parse(text).is_err());
        }
    });
}

/// What is not part of the construction.
fn about() -> SlotAbout {
    SlotAbout {
        name: "any".parse().unwrap(),
        created_ms: 1,
        verified_ms: None,
    }
}

#[test]
fn key_file() {
    run("key-file", true, |given, expected| {
        let mut read = [0; 32];
        match expected {
            Expected::Out(out) => {
                let secret = given.array("secret");
                let mut text = [0; slot::KEY_FILE_BYTES];
                slot::write_key_file(SlotSecret::new(&secret), &mut text);
                assert_eq!(str::from_utf8(&text).unwrap(), out.text("text"));
                slot::parse_key_file(&text, &mut read).unwrap();
                assert_eq!(read, secret);
            }
            Expected::Refused => {
                slot::parse_key_file(given.text("text").as_bytes(), &mut read).unwrap_err();
            }
        }
    });
}

#[test]
fn format_and_suite_of_the_vectors_are_those_of_this_build() {
    assert_eq!((FORMAT, SUITE), (1, 1));
}

#[test]
fn a_public_key_is_that_of_its_private_key() {
    run("srk-seal", true, |given, expected| {
        if let Expected::Out(out) = expected {
            let sk = given.array("sk");
            let pk = SecretKey::new(&sk).public_key().unwrap();
            assert_eq!(pk.as_bytes().as_slice(), out.bytes("pk"));
        }
    });
}
