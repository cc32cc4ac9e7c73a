//! A file is there whole or not at all.

use super::*;

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_part_is_closed_to_others_and_gets_its_name_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    let mut part = Part::begin(&file).unwrap();
    part.write(b"whole").unwrap();
    assert_eq!(fs::metadata(part.path()).unwrap().mode() & 0o777, 0o600);
    assert!(!file.exists());
    part.sync().unwrap();
    part.finish().unwrap();
    assert_eq!(text(&file), "whole");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_part_that_is_not_finished_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = Part::begin(&dir.path().join("backup")).unwrap();
    part.write(b"half").unwrap();
    drop(part);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_a_killed_process_left_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    fs::write(
        dir.path().join("backup.part"),
        b"a longer half of another one",
    )
    .unwrap();
    let mut part = Part::begin(&file).unwrap();
    part.write(b"whole").unwrap();
    part.finish().unwrap();
    assert_eq!(text(&file), "whole");
}

#[test]
fn one_process_writes_a_file_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    let first = Part::begin(&file).unwrap();
    let refused = Part::begin(&file).err().unwrap();
    assert_eq!(refused.exit, Exit::Precondition);
    assert!(first.path().exists(), "the second took it away");
    drop(first);
    Part::begin(&file).unwrap();
}

#[test]
fn nothing_that_is_there_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    let part = Part::begin(&file).unwrap();
    fs::write(&file, b"theirs").unwrap();
    let late = part.finish().unwrap_err();
    let early = Part::begin(&file).err().unwrap();
    for refused in [late, early] {
        assert_eq!(refused.exit, Exit::Precondition);
        assert!(refused.why.unwrap().contains("is there already"));
    }
    assert_eq!(text(&file), "theirs");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    std::os::unix::fs::symlink("/dev/null", dir.path().join("link.part")).unwrap();
    assert!(Part::begin(&dir.path().join("link")).is_err());
}

#[test]
fn a_part_that_another_file_has_come_into_the_place_of_is_not_given_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup");
    let mut part = Part::begin(&file).unwrap();
    part.write(b"ours").unwrap();
    fs::remove_file(part.path()).unwrap();
    let theirs = Part::begin(&file).unwrap();
    let taken = |failed: Failure| {
        assert_eq!(failed.exit, Exit::Failed);
        assert!(failed.why.unwrap().contains("is another file now"));
    };
    taken(part.finish().unwrap_err());
    assert!(!file.exists());
    assert!(theirs.path().exists(), "another's part was taken away");
    theirs.finish().unwrap();
    assert_eq!(text(&file), "");
}

#[test]
fn a_part_that_was_cut_between_two_pieces_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = Part::begin(&dir.path().join("backup")).unwrap();
    let mut checking = part.checking().unwrap();
    part.write(b"one").unwrap();
    assert_eq!(checking.read_on().unwrap(), Some(3));
    let cut = File::options().write(true).open(part.path()).unwrap();
    cut.set_len(0).unwrap();
    part.write(b"three").unwrap();
    while checking.read_on().unwrap().is_some() {}
    assert!(!checking.is_at_end().unwrap() || checking.finish(&[]).finding().is_some());
    assert_eq!(text(part.path()), "three");
}

#[test]
fn a_part_is_read_as_far_as_it_is_written_and_one_that_was_cut_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = Part::begin(&dir.path().join("backup")).unwrap();
    let mut checking = part.checking().unwrap();
    assert_eq!(checking.read_on().unwrap(), None);
    // Less than a head: more is needed to say anything of it.
    for length in [1, 2] {
        part.write(b"A").unwrap();
        assert!(!checking.is_at_end().unwrap());
        assert_eq!(checking.read_on().unwrap(), Some(length));
        assert_eq!(checking.read_on().unwrap(), None);
        assert!(checking.is_at_end().unwrap());
    }
    File::options()
        .write(true)
        .open(part.path())
        .unwrap()
        .set_len(1)
        .unwrap();
    assert_eq!(checking.read_on().unwrap(), None);
    assert!(!checking.is_at_end().unwrap());
    assert!(matches!(checking.finish(&[]), Checked::Broken(_)));
}
