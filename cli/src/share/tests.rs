use std::os::unix::fs::PermissionsExt as _;

use super::*;

const STORE: StoreId = StoreId::from_bytes([1; 16]);
const SLOT: SlotId = SlotId::from_bytes([2; 16]);
const SECRET: [u8; KEY_BYTES] = [7; KEY_BYTES];

fn new(threshold: u8, count: u8) -> NewShares {
    NewShares::split((STORE, SLOT), SlotSecret::new(&SECRET), (threshold, count)).unwrap()
}

fn of(shares: &NewShares) -> SharesOf<'_> {
    SharesOf {
        store: STORE,
        slot: SLOT,
        set: shares.set(),
    }
}

#[test]
fn shares_are_files_closed_to_others_that_give_the_secret_back() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("shares");
    let shares = new(2, 3);
    let files = shares.create(&folder, "recovery", "x").unwrap();
    let names: Vec<_> = files.iter().map(|it| it.file_name().unwrap()).collect();
    assert_eq!(names[2], "recovery-3-of-3.share");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&files[0])), (0o700, 0o400));

    let read = of(&shares).read(&files, "x").unwrap();
    let secret = of(&shares).secret(&read, "x").unwrap().unwrap();
    assert_eq!(**secret, SECRET);
    let few = of(&shares).read(&files[2..], "x").unwrap();
    assert!(of(&shares).secret(&few, "x").unwrap().is_none());

    // A second slot of that name makes no file over these, and leaves none of its own.
    fs::remove_file(&files[0]).unwrap();
    let before = fs::read(&files[1]).unwrap();
    assert!(new(2, 3).create(&folder, "recovery", "x").is_err());
    assert!(!files[0].exists());
    assert_eq!(fs::read(&files[1]).unwrap(), before);
}

#[test]
fn a_share_of_another_store_slot_or_set_and_one_that_is_given_twice_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let shares = new(2, 3);
    let files = shares.create(dir.path(), "recovery", "x").unwrap();
    let told = |of: SharesOf<'_>, files: &[PathBuf]| {
        let failure = of.read(files, "x").err().unwrap();
        assert_eq!(failure.exit, Exit::Precondition);
        failure.to_string()
    };
    let ours = of(&shares);
    let store = StoreId::from_bytes([9; 16]);
    let other = told(SharesOf { store, ..ours }, &files);
    assert!(other.contains("of another store"), "{other}");
    let slot = SlotId::from_bytes([9; 16]);
    let other = told(SharesOf { slot, ..ours }, &files);
    assert!(other.contains("of another slot"), "{other}");
    let (same, more) = (new(2, 3), new(2, 4));
    let other = told(of(&same), &files);
    assert!(other.contains("of another set"), "{other}");
    let other = told(of(&more), &files);
    assert!(other.contains("was edited"), "{other}");
    let twice = told(ours, &[files[0].clone(), files[0].clone()]);
    assert!(twice.contains("share 1 is there already"), "{twice}");

    // One character of its last line, which stays of the alphabet.
    let mut text = fs::read(&files[1]).unwrap();
    let at = text.len() - 30;
    text[at] = if text[at] == b'A' { b'B' } else { b'A' };
    let bent = dir.path().join("bent.share");
    create_private_once(&bent, &text).unwrap();
    let wrong = told(ours, &[bent]);
    assert!(
        wrong.contains("share 2 is not what was handed out"),
        "{wrong}"
    );
}
