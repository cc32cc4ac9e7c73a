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
