//! Logs as a broker writes them, and as somebody else left them.

use attache_translog::{Batch, EncodedLeaf, Header, Signer, Stop};

use super::*;

const STORE: [u8; 16] = [1; 16];
const CHAIN: [u8; 16] = [2; 16];

fn signer() -> Signer {
    Signer::from_seed(&attache_translog::log_origin(&STORE, &CHAIN), &[7; 32]).unwrap()
}

fn leaf(n: u64) -> EncodedLeaf {
    let event = Event::from(Stop {
        broker: format!("spiffe://attache.test/broker/{n}"),
    });
    Leaf {
        time_ms: n,
        boot: [3; 16],
        event,
    }
    .encode()
    .unwrap()
}

/// Two segments of two batches of three leaves each, zero-filled ahead; and the note of each batch.
fn log(dir: &Path) -> Vec<String> {
    let signer = signer();
    let mut frontier = Frontier::new();
    let (mut notes, mut next) = (Vec::new(), 0);
    for _ in 0..2 {
        let first_index = frontier.size();
        let mut bytes = Header {
            store: STORE,
            chain: CHAIN,
            first_index,
        }
        .encode()
        .to_vec();
        for _ in 0..2 {
            let mut batch = Batch::new(&frontier);
            for _ in 0..3 {
                batch.push(&leaf(next));
                next += 1;
            }
            let sealed = batch.seal(&signer).unwrap();
            bytes.extend(&sealed.bytes);
            notes.push(sealed.note.clone());
            frontier = sealed.frontier;
        }
        bytes.resize(bytes.len() + 100, 0);
        fs::write(dir.join(format!("{first_index:020}.seg")), bytes).unwrap();
    }
    fs::write(dir.join("lock"), "").unwrap();
    notes
}

fn findings(dir: &Path, kept: Option<&str>) -> Vec<String> {
    offline(dir, signer().verifier(), kept)
        .unwrap()
        .findings
        .into_iter()
        .map(|finding| finding.finding)
        .collect()
}

#[test]
fn a_whole_log_verifies_and_its_last_checkpoint_can_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let notes = log(dir.path());
    let verdict = offline(dir.path(), signer().verifier(), None).unwrap();
    assert_eq!((verdict.leaves, verdict.findings.len()), (12, 0));
    assert_eq!(verdict.checkpoint.as_ref().unwrap().1, notes[3]);
    let report = report(verdict).unwrap();
    assert_eq!(
        (
            report.exit,
            &report.data["clean"],
            &report.data["checkpoint"]["size"]
        ),
        (Exit::Done, &true.into(), &12.into())
    );
    for note in &notes {
        assert_eq!(findings(dir.path(), Some(note)), Vec::<String>::new());
    }
}

#[test]
fn every_edit_is_found_and_said() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let file = dir.path().join("00000000000000000000.seg");
    let good = fs::read(&file).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&file, &bad).unwrap();
        assert!(!findings(dir.path(), None).is_empty(), "byte {at}");
    }
    fs::write(&file, &good).unwrap();
    assert_eq!(findings(dir.path(), None), Vec::<String>::new());
    let mut bad = good;
    bad[HEADER + 30] ^= 1;
    fs::write(&file, bad).unwrap();
    let report = report(offline(dir.path(), signer().verifier(), None).unwrap()).unwrap();
    assert_eq!(report.exit, Exit::Found);
    let shown = report.render(crate::args::Format::Table, None, false);
    assert!(
        shown.contains("found: ") && shown.contains("00000000000000000000.seg, byte"),
        "{shown}"
    );
}

const HEADER: usize = attache_translog::HEADER_BYTES;

#[test]
fn a_missing_segment_and_a_missing_end_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let notes = log(dir.path());
    fs::rename(
        dir.path().join("00000000000000000006.seg"),
        dir.path().join("kept"),
    )
    .unwrap();
    assert_eq!(
        findings(dir.path(), None),
        Vec::<String>::new(),
        "the log alone does not show that its end is missing"
    );
    assert!(findings(dir.path(), Some(&notes[3]))[0].contains("truncated"));
    fs::rename(
        dir.path().join("kept"),
        dir.path().join("00000000000000000006.seg"),
    )
    .unwrap();
    fs::remove_file(dir.path().join("00000000000000000000.seg")).unwrap();
    assert!(findings(dir.path(), None)[0].contains("missing or out of order"));
}

#[test]
fn a_kept_checkpoint_of_another_key_is_a_finding_and_junk_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let other = Signer::from_seed(&attache_translog::log_origin(&STORE, &CHAIN), &[8; 32]).unwrap();
    let foreign = Checkpoint {
        size: 3,
        root: [0; 32],
    }
    .sign(&other)
    .unwrap();
    assert!(findings(dir.path(), Some(&foreign))[0].contains("not signed by this log's key"));
    assert!(
        !offline(dir.path(), other.verifier(), None)
            .unwrap()
            .findings
            .is_empty()
    );
    for junk in ["", "junk", "a\n\nb"] {
        assert_eq!(
            offline(dir.path(), signer().verifier(), Some(junk))
                .err()
                .unwrap()
                .exit,
            Exit::Failed
        );
    }
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(
        offline(empty.path(), signer().verifier(), None)
            .err()
            .unwrap()
            .exit,
        Exit::Precondition
    );
    assert_eq!(
        offline(&empty.path().join("absent"), signer().verifier(), None)
            .err()
            .unwrap()
            .exit,
        Exit::Failed
    );
}

/// `attache audit verify DIR --vkey KEY`, and its exit.
async fn saved(log: &Path, at_least: Option<&Path>, save: &Path) -> Exit {
    use crate::{args::Format, args::Global, environment::Environment, output::Console};
    let shell = Shell {
        environment: Environment::default(),
        global: Global {
            context: None,
            output: Format::Table,
            no_color: true,
            quiet: true,
        },
        console: Console {
            format: Format::Table,
            quiet: true,
            color: false,
            wide: None,
        },
    };
    let args = Verify {
        dir: Some(log.to_owned()),
        vkey: Some(signer().verifier().clone()),
        at_least: at_least.map(Path::to_owned),
        save: Some(save.to_owned()),
    };
    match verify(args, &shell).await {
        Ok(report) => report.exit,
        Err(failure) => failure.exit,
    }
}

#[tokio::test]
async fn a_kept_checkpoint_is_replaced_only_where_the_log_continues_it() {
    let dir = tempfile::tempdir().unwrap();
    let notes = log(dir.path());
    let kept = dir.path().join("kept");
    let text = || fs::read_to_string(&kept).unwrap();
    fs::write(&kept, &notes[0]).unwrap();
    assert_eq!(saved(dir.path(), None, &kept).await, Exit::Done);
    assert_eq!(text(), notes[3]);

    let end = dir.path().join("00000000000000000006.seg");
    fs::rename(&end, dir.path().join("end")).unwrap();
    for at_least in [None, Some(kept.as_path())] {
        assert_eq!(saved(dir.path(), at_least, &kept).await, Exit::Found);
        assert_eq!(text(), notes[3], "the newer one stays");
    }
    let older = dir.path().join("older");
    fs::write(&older, &notes[0]).unwrap();
    assert_eq!(saved(dir.path(), Some(&older), &kept).await, Exit::Usage);
    assert_eq!(text(), notes[3]);

    fs::rename(dir.path().join("end"), &end).unwrap();
    let other = Signer::from_seed(&attache_translog::log_origin(&STORE, &CHAIN), &[8; 32]).unwrap();
    let foreign = Checkpoint {
        size: 3,
        root: [0; 32],
    };
    for (note, exit) in [
        (foreign.sign(&other).unwrap(), Exit::Found),
        ("junk".to_owned(), Exit::Failed),
    ] {
        fs::write(&kept, &note).unwrap();
        assert_eq!(saved(dir.path(), None, &kept).await, exit);
        assert_eq!(text(), note);
    }
}

fn sent(index: u64, n: u64) -> pb::AuditLeaf {
    pb::AuditLeaf {
        index,
        body: leaf(n).body().to_vec().into(),
    }
}

fn signed(leaves: u64) -> Checkpoint {
    let mut frontier = Frontier::new();
    (0..leaves).for_each(|n| frontier.append(*leaf(n).hash()));
    Checkpoint {
        size: leaves,
        root: frontier.root(),
    }
}

fn recomputed(
    leaves: &[pb::AuditLeaf],
    signed: &Checkpoint,
    kept: Option<Checkpoint>,
) -> Vec<FindingJson> {
    let mut tree = Recomputed::new(kept);
    leaves.iter().for_each(|leaf| tree.append(leaf));
    tree.findings(signed, kept)
}

#[test]
fn what_a_broker_sends_is_believed_only_as_far_as_it_is_signed() {
    let honest: Vec<_> = (0..5).map(|n| sent(n, n)).collect();
    assert_eq!(recomputed(&honest, &signed(5), None), []);
    for kept in 0..=5 {
        assert_eq!(
            recomputed(&honest, &signed(5), Some(signed(kept))),
            [],
            "{kept}"
        );
    }
    let texts = |found: Vec<FindingJson>| {
        found
            .into_iter()
            .map(|finding| finding.finding)
            .collect::<Vec<_>>()
            .join("; ")
    };
    assert!(texts(recomputed(&honest[..4], &signed(5), None)).contains("the broker sent 4"));
    let mut swapped = honest.clone();
    swapped[2] = sent(2, 7);
    assert!(texts(recomputed(&swapped, &signed(5), None)).contains("not those that were signed"));
    let mut misplaced = honest.clone();
    misplaced[2].index = 3;
    assert!(texts(recomputed(&misplaced, &signed(5), None)).contains("record 3 in its place"));
    let mut malformed = honest.clone();
    malformed[1].body = vec![0].into();
    assert!(texts(recomputed(&malformed, &signed(5), None)).contains("malformed"));
    let forked = Checkpoint {
        size: 3,
        root: [0; 32],
    };
    assert!(texts(recomputed(&honest, &signed(5), Some(forked))).contains("rewritten"));
    assert!(texts(recomputed(&honest, &signed(5), Some(signed(6)))).contains("truncated"));
}
