//! Notes: what verifies, and every way in which one does not.

use super::*;

const NAME: &str = "attache/test";
const TEXT: &str = "first line\n\nsecond line\n";

fn signer(seed: u8) -> Signer {
    Signer::from_seed(NAME, &[seed; 32]).unwrap()
}

#[test]
fn a_signed_note_opens_to_its_text() {
    let signer = signer(1);
    let note = signer.sign(TEXT).unwrap();
    assert_eq!(signer.verifier().open(&note), Ok(TEXT));
}

#[test]
fn the_key_survives_its_text() {
    let verifier = signer(1).verifier().clone();
    assert_eq!(Verifier::parse(&verifier.vkey()), Ok(verifier));
}

#[test]
fn every_single_byte_edit_of_a_note_is_refused() {
    let signer = signer(1);
    let note = signer.sign(TEXT).unwrap().into_bytes();
    for at in 0..note.len() {
        for byte in (0..=255).filter(|byte| *byte != note[at]) {
            let mut edited = note.clone();
            edited[at] = byte;
            let opened = std::str::from_utf8(&edited).map(|edited| signer.verifier().open(edited));
            assert!(!matches!(opened, Ok(Ok(_))), "byte {at} as {byte}");
        }
        let mut shorter = note.clone();
        shorter.remove(at);
        let opened = std::str::from_utf8(&shorter).map(|shorter| signer.verifier().open(shorter));
        assert!(!matches!(opened, Ok(Ok(_))), "without byte {at}");
    }
}

#[test]
fn lines_of_other_keys_are_passed_over_and_prove_nothing() {
    let (ours, theirs) = (signer(1), signer(2));
    let note = ours.sign(TEXT).unwrap();
    let cosignature = theirs.sign(TEXT).unwrap().split_off(TEXT.len() + 1);
    assert_eq!(
        ours.verifier().open(&format!("{note}{cosignature}")),
        Ok(TEXT)
    );
    assert_eq!(
        ours.verifier().open(&format!("{TEXT}\n{cosignature}")),
        Err(NoteError::Unsigned)
    );
    // The shortest that can be a line: a key's id and one byte more.
    let short = format!("{note}\u{2014} x AAAAAAA=\n");
    assert_eq!(ours.verifier().open(&short), Ok(TEXT));
}

#[test]
fn a_broken_line_of_the_key_itself_refuses_the_note() {
    let signer = signer(1);
    let note = signer.sign(TEXT).unwrap();
    let other = signer.sign("another text\n").unwrap();
    let line = other.split("\n\n").nth(1).unwrap();
    assert_eq!(
        signer.verifier().open(&format!("{note}{line}")),
        Err(NoteError::Signature)
    );
    let short = STANDARD.encode([&signer.verifier.id[..], &[7; 63]].concat());
    let forged = format!("{TEXT}\n\u{2014} {NAME} {short}\n");
    assert_eq!(signer.verifier().open(&forged), Err(NoteError::Signature));
}

#[test]
fn malformed_notes_are_refused() {
    let signer = signer(1);
    let note = signer.sign(TEXT).unwrap();
    let malformed = [
        String::new(),
        "\n\n".into(),
        TEXT.into(),
        note.trim_end().into(),
        note.replace('\u{2014}', "-"),
        format!("{note}\n"),
        format!("{note}trailing"),
        note.replace("first", "fi\tst"),
        note.replace("first", "fi\u{0}st"),
        note.replace('\n', "\r\n"),
        format!("{note}\u{2014} {NAME} AAAA\n"),
        format!("{note}\u{2014} {NAME} !!!!AAAA\n"),
        format!("{note}\u{2014} a+b AAAAAAAA\n"),
        format!("{note}{}", "\u{2014} x AAAAAAAA\n".repeat(MAX_SIGNATURES)),
        format!("{}{note}", "x".repeat(MAX_NOTE_BYTES)),
    ];
    for note in malformed {
        assert_eq!(
            signer.verifier().open(&note),
            Err(NoteError::Malformed),
            "{note:.80}"
        );
    }
}

#[test]
fn the_longest_note_is_read_and_a_longer_one_is_not() {
    let key = signer(1);
    let verifier = key.verifier();
    let around = key.sign("\n").unwrap().len() - 1;
    for (bytes, read) in [(65_536, true), (65_537, false)] {
        let text = format!("{}\n", "x".repeat(bytes - around - 1));
        let note = key.sign(&text).unwrap();
        assert_eq!(note.len(), bytes);
        let opened = verifier.open(&note);
        assert_eq!(opened.ok(), read.then_some(text.as_str()), "{bytes} bytes");
    }
}

#[test]
fn what_is_no_text_of_a_note_is_not_signed() {
    for text in ["", "no newline", "tab\t\n", "nul\0\n"] {
        assert_eq!(signer(1).sign(text), Err(NoteError::Malformed), "{text:?}");
    }
}

#[test]
fn key_names_without_form_are_refused() {
    for name in [
        "",
        "with space",
        "with+plus",
        "with\nnewline",
        "with\u{a0}space",
        "with\u{7f}",
    ] {
        assert_eq!(
            Verifier::new(name, [1; 32]),
            Err(NoteError::Name),
            "{name:?}"
        );
        assert!(Signer::from_seed(name, &[1; 32]).is_err());
    }
}

#[test]
fn malformed_key_texts_are_refused() {
    let vkey = signer(1).verifier().vkey();
    let (rest, encoded) = vkey.rsplit_once('+').unwrap();
    let other_type = STANDARD.encode([&[2][..], &[1; 32]].concat());
    let refused = [
        String::new(),
        rest.into(),
        format!("+{encoded}"),
        vkey.to_uppercase(),
        vkey.replace(NAME, "attache/other"),
        format!("{vkey}A"),
        format!("{vkey}\n"),
        format!("{vkey}="),
        format!("{rest}+{other_type}"),
        format!("{rest}+{}", STANDARD.encode([1; 32])),
        format!("{rest}+{}", STANDARD.encode([1; 34])),
    ];
    for text in refused {
        assert_ne!(text, vkey);
        assert_eq!(
            Verifier::parse(&text),
            Err(NoteError::VerifierKey),
            "{text}"
        );
    }
}
