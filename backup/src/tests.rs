//! What a writer wrote reads back; nothing else does.

use attache_envelope::id::{BackupId, ChainId, StoreId};
use attache_translog::{Signer, Verifier};
use proptest::prelude::*;

use super::*;
use crate::vectors::{Expected, Fields, run};

type Tables = Vec<(String, Vec<(Vec<u8>, Vec<u8>)>)>;

const SEED: [u8; 32] = [7; 32];

fn head() -> Head {
    Head {
        store_format: 5,
        store: StoreId::from_bytes([1; 16]),
        backup: BackupId::from_bytes([2; 16]),
        incarnation: 1,
        seq: 42,
        created_ms: 1_700_000_000_000,
        anchor_t: [3; 32],
        audit: AuditHead {
            chain: ChainId::from_bytes([4; 16]),
            size: 33,
            root: [5; 32],
        },
    }
}

fn signer(head: &Head, seed: &[u8; 32]) -> Signer {
    Signer::from_seed(&backup_origin(head.store), seed).unwrap()
}

fn write(head: Head, tables: &Tables, seed: &[u8; 32]) -> (Vec<u8>, Sealed) {
    let mut out = Vec::new();
    let mut writer = Writer::begin(head, &mut out);
    for (name, rows) in tables {
        writer.table(name, &mut out).unwrap();
        for (key, value) in rows {
            writer.row(key, value, &mut out).unwrap();
        }
    }
    let sealed = writer.finish(&signer(&head, seed), &mut out).unwrap();
    (out, sealed)
}

/// Why a file was refused.
#[derive(Debug, PartialEq)]
enum Refused {
    Bytes(BackupError),
    End(EndError),
}

/// Reads a file in pieces of these sizes, over and over.
fn read(
    file: &[u8],
    pieces: &[usize],
    verifier: &Verifier,
) -> Result<(Head, Tables, Sealed), Refused> {
    let mut reader = Reader::new();
    let (mut head, mut tables): (Option<Head>, Tables) = (None, Vec::new());
    let mut rest = file;
    let mut sizes = pieces.iter().cycle();
    loop {
        while let Some(item) = reader.item().map_err(Refused::Bytes)? {
            match item {
                Item::Head(found) => head = Some(found),
                Item::Table(name) => tables.push((name.to_owned(), Vec::new())),
                Item::Row { key, value } => {
                    let (_, rows) = tables.last_mut().unwrap();
                    rows.push((key.to_vec(), value.to_vec()));
                }
                Item::TableEnd | Item::End => {}
            }
        }
        if rest.is_empty() {
            break;
        }
        let (piece, left) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        reader.push(piece);
        rest = left;
    }
    let end = reader.finish().map_err(Refused::Bytes)?;
    let sealed = end.verify(verifier).map_err(Refused::End)?;
    Ok((head.unwrap(), tables, sealed))
}

fn whole(file: &[u8]) -> Result<(Head, Tables, Sealed), Refused> {
    read(
        file,
        &[file.len().max(1)],
        signer(&head(), &SEED).verifier(),
    )
}

fn small() -> Tables {
    let row = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
    vec![
        ("anchor".into(), vec![row(b"", b"sealed")]),
        ("grant".into(), Vec::new()),
        ("head".into(), vec![row(b"a", b"1"), row(b"b", b"")]),
    ]
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let (file, _) = write(head(), &small(), &SEED);
    assert!(whole(&file).is_ok());
    for bit in 0..file.len() * 8 {
        let mut edited = file.clone();
        edited[bit / 8] ^= 1 << (bit % 8);
        assert!(whole(&edited).is_err(), "bit {bit}");
    }
    for length in 0..file.len() {
        let refused = whole(&file[..length]).unwrap_err();
        let Refused::Bytes(error) = refused else {
            panic!("cut at {length}: {refused:?}")
        };
        assert_eq!(error.found, Found::Cut, "cut at {length}");
        assert!(error.offset <= length as u64);
    }
    let mut longer = file;
    longer.push(0);
    let refused = whole(&longer).unwrap_err();
    assert!(matches!(refused, Refused::Bytes(it) if it.found == Found::Trailing));
}

#[test]
fn a_length_out_of_bounds_is_refused_before_anything_of_it_is_there() {
    let (file, _) = write(head(), &small(), &SEED);
    for (kind, key, value) in [
        (2, MAX_KEY_BYTES + 1, 0),
        (2, 0, MAX_VALUE_BYTES + 1),
        (2, usize::try_from(u32::MAX).unwrap(), 0),
        (1, 65, 0),
        (1, 0, 0),
        (1, 1, 1),
        (3, 0, 9),
        (4, 0, 4097),
        (4, 1, 1),
        (0, 0, 0),
        (5, 0, 0),
    ] {
        let mut reader = Reader::new();
        reader.push(&file[..HEAD_BYTES]);
        assert!(matches!(reader.item(), Ok(Some(Item::Head(_)))));
        let lengths = [key, value].map(|it| u32::try_from(it).unwrap().to_be_bytes());
        reader.push(&[&[kind], lengths.concat().as_slice()].concat());
        let refused = reader.item().unwrap_err();
        assert_eq!(refused.found, Found::Frame, "{kind} {key} {value}");
        assert_eq!(refused.offset, HEAD_BYTES as u64);
    }
}

#[test]
fn a_backup_of_another_key_or_store_is_not_believed() {
    let (file, sealed) = write(head(), &small(), &SEED);
    let mine = signer(&head(), &SEED);
    assert_eq!(read(&file, &[9], mine.verifier()).unwrap().2, sealed);
    let other_key = signer(&head(), &[8; 32]);
    let other_store =
        Signer::from_seed(&backup_origin(StoreId::from_bytes([9; 16])), &SEED).unwrap();
    for other in [other_key, other_store] {
        let refused = read(&file, &[9], other.verifier()).unwrap_err();
        assert!(matches!(refused, Refused::End(_)), "{refused:?}");
        let tables = small();
        assert!(
            other.verifier().name() == mine.verifier().name() || {
                let mut out = Vec::new();
                let mut writer = Writer::begin(head(), &mut out);
                writer.table(&tables[0].0, &mut out).unwrap();
                writer.finish(&other, &mut out).is_err()
            }
        );
    }
}

#[test]
fn the_audit_logs_key_verifies_the_backups_of_its_store() {
    let store = head().store;
    let log = attache_translog::log_origin(store.as_bytes(), &[4; 16]);
    let audit = Signer::from_seed(&log, &SEED).unwrap();
    let verifier = verifier_of(audit.verifier()).unwrap();
    assert_eq!(&verifier, signer(&head(), &SEED).verifier());
    assert_eq!(verifier_of(&verifier), None);
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    let mut out = Vec::new();
    let mut writer = Writer::begin(head(), &mut out);
    assert_eq!(writer.row(b"a", b"", &mut out), Err(WriteError::Order));
    assert_eq!(writer.table("", &mut out), Err(WriteError::Order));
    writer.table("head", &mut out).unwrap();
    writer.row(b"b", b"", &mut out).unwrap();
    for key in [b"b", b"a"] {
        assert_eq!(writer.row(key, b"", &mut out), Err(WriteError::Order));
    }
    let long = vec![0; MAX_VALUE_BYTES + 1];
    assert_eq!(writer.row(b"c", &long, &mut out), Err(WriteError::TooLong));
    writer.row(b"c", &long[1..], &mut out).unwrap();
    for name in ["head", "grant"] {
        assert_eq!(writer.table(name, &mut out), Err(WriteError::Order));
    }
}

fn tables() -> impl Strategy<Value = Tables> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let rows = prop::collection::btree_map(bytes(), bytes(), 0..8);
    let tables = prop::collection::btree_map("[a-z-]{1,12}", rows, 0..5);
    tables.prop_map(|tables| {
        let rows = |(name, rows): (String, std::collections::BTreeMap<_, _>)| {
            (name, rows.into_iter().collect())
        };
        tables.into_iter().map(rows).collect()
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_in_pieces_of_any_size(
        tables in tables(), pieces in prop::collection::vec(1_usize..70, 1..5)
    ) {
        let (file, sealed) = write(head(), &tables, &SEED);
        let (found, rows, read) = read(&file, &pieces, signer(&head(), &SEED).verifier()).unwrap();
        prop_assert_eq!(found, head());
        prop_assert_eq!(rows, tables);
        prop_assert_eq!(read, sealed);
    }

    #[test]
    fn anything_else_is_refused_and_never_a_panic(
        tables in tables(), at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 1..20)
    ) {
        let (file, _) = write(head(), &tables, &SEED);
        let at = at.index(file.len());
        let mut edited = file.clone();
        for (place, byte) in edited[at..].iter_mut().zip(&bytes) {
            *place = *byte;
        }
        prop_assert_eq!(whole(&edited).is_ok(), edited == file);
    }
}

fn head_of(given: &Fields) -> Head {
    Head {
        store_format: given.u64("store_format").try_into().unwrap(),
        store: given.id("store"),
        backup: given.id("backup"),
        incarnation: given.u32("incarnation"),
        seq: given.u64("seq"),
        created_ms: given.u64("created"),
        anchor_t: given.array("anchor_t"),
        audit: AuditHead {
            chain: given.id("chain"),
            size: given.u64("audit_size"),
            root: given.array("audit_root"),
        },
    }
}

#[test]
fn backups_are_those_of_the_vectors() {
    run("backup", true, |given, expected| match expected {
        Expected::Out(out) => {
            let rows = |table: &Fields| {
                let row = |row: &Fields| (row.bytes("key"), row.bytes("value"));
                table.list("rows").iter().map(row).collect()
            };
            let tables = given.list("tables");
            let tables = tables
                .iter()
                .map(|it| (it.text("name").to_owned(), rows(it)));
            let tables: Tables = tables.collect();
            let (file, _) = write(head_of(given), &tables, &given.array("seed"));
            assert_eq!(file, out.bytes("file"));
            let verifier = Verifier::parse(out.text("vkey")).unwrap();
            let (head, found, _) = read(&file, &[64], &verifier).unwrap();
            assert_eq!((head, found), (head_of(given), tables));
        }
        Expected::Refused => {
            let verifier = Verifier::parse(given.text("vkey")).unwrap();
            let refused = read(&given.bytes("file"), &[64], &verifier);
            assert!(refused.is_err(), "{refused:?}");
        }
    });
}
