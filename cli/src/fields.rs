//! The fields of a put: where each value comes from, and the values themselves.
//!
//! ```text
//! FIELD            asked for without echo          FIELD=@PATH   a file, byte for byte
//! FIELD=-          standard input                  --literal FIELD=VALUE
//! ```
//!
//! A value is read once, into a buffer that never grows (growing would leave copies behind) and is wiped when dropped.
//! No error repeats anything that stands where a value may stand.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use attache_envelope::name::FieldName;
use attache_envelope::{MAX_FIELDS, MAX_VERSION_BYTES};
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};
use crate::output::Console;
use crate::terminal;

/// Where a value comes from.
pub enum Source {
    /// A person is asked.
    Ask,
    /// A file.
    File(PathBuf),
    /// Standard input, to its end.
    Stdin,
    /// The command line.
    Literal(Zeroizing<Vec<u8>>),
}

/// A field of a put, its value not read yet.
pub struct FieldInput {
    /// The field.
    pub field: FieldName,
    /// Where its value comes from.
    pub source: Source,
}

/// A field with its value. It cannot be printed.
pub struct FieldValue {
    /// The field.
    pub field: FieldName,
    /// The value.
    pub value: Zeroizing<Vec<u8>>,
}

/// Parses the fields of a command line.
///
/// # Errors
/// [`Exit::Usage`] for a malformed field, one that is there twice, too many, or standard input for two.
pub fn parse(fields: &[OsString], literals: &[OsString]) -> Result<Vec<FieldInput>, Failure> {
    let named = fields
        .iter()
        .enumerate()
        .map(|(index, text)| parse_field(text, index + 1));
    let literal = literals
        .iter()
        .enumerate()
        .map(|(index, text)| parse_literal(text, index + 1));
    let inputs = named.chain(literal).collect::<Result<Vec<_>, _>>()?;
    if inputs.len() > MAX_FIELDS {
        return Err(Failure::usage(format!(
            "{} fields were given; a version has {MAX_FIELDS} at most",
            inputs.len()
        )));
    }
    let mut names: Vec<&FieldName> = inputs.iter().map(|input| &input.field).collect();
    names.sort_unstable();
    if let Some([twice, _]) = names
        .windows(2)
        .find_map(|pair| <[_; 2]>::try_from(pair).ok().filter(|[a, b]| a == b))
    {
        return Err(Failure::usage(format!("field {twice} is given twice")));
    }
    if inputs
        .iter()
        .filter(|input| matches!(input.source, Source::Stdin))
        .count()
        > 1
    {
        return Err(
            Failure::usage("two fields cannot both come from standard input")
                .mend("give one as FIELD=@PATH"),
        );
    }
    Ok(inputs)
}

/// Reads every value, in order.
///
/// # Errors
/// [`Exit::Usage`] when they are over 1 MiB together or cannot be asked for; [`Exit::Failed`] when a file cannot be read.
pub fn read(
    inputs: Vec<FieldInput>,
    trim_newline: bool,
    console: &Console,
) -> Result<Vec<FieldValue>, Failure> {
    let mut left = MAX_VERSION_BYTES;
    let mut values = Vec::with_capacity(inputs.len());
    for FieldInput { field, source } in inputs {
        let mut value = match source {
            Source::Ask => terminal::ask_value(field.as_str())?,
            Source::Literal(value) => value,
            Source::Stdin => read_capped(&mut io::stdin().lock(), left)
                .map_err(|error| unreadable(&field, "standard input", &error))?,
            Source::File(path) => {
                let shown = path.display().to_string();
                let bytes = File::open(&path).and_then(|mut file| read_capped(&mut file, left));
                bytes.map_err(|error| unreadable(&field, &shown, &error))?
            }
        };
        if let Some(line_bytes) = one_line(&value) {
            if trim_newline {
                value.truncate(line_bytes);
            } else {
                console.hint(&format!("warning: the value of {field} is one line and ends in a newline, which is stored too; --trim-newline drops it"));
            }
        }
        left = left.checked_sub(value.len()).ok_or_else(|| {
            Failure::usage(format!(
                "the values are over {MAX_VERSION_BYTES} bytes together, counted up to {field}"
            ))
            .mend("a version holds 1 MiB at most: split it into several secrets")
        })?;
        values.push(FieldValue { field, value });
    }
    Ok(values)
}

fn parse_field(text: &OsStr, position: usize) -> Result<FieldInput, Failure> {
    let (field, rest) = split(text);
    let field = parse_name(field, &format!("FIELD number {position}"))?;
    let source = match rest {
        None => Source::Ask,
        Some(b"-") => Source::Stdin,
        Some([b'@', path @ ..]) if !path.is_empty() => {
            Source::File(PathBuf::from(OsString::from_vec(path.to_vec())))
        }
        Some(b"@") => {
            return Err(Failure::usage(format!("{field}=@ names no file"))
                .mend(format!("write {field}=@PATH")));
        }
        Some(_) => {
            return Err(Failure::usage(format!("the value of {field} stands on the command line, where the process list and the shell's history show it"))
                .mend(format!("write {field} to be asked, {field}=@PATH or {field}=-; if it is meant: --literal {field}=VALUE")));
        }
    };
    Ok(FieldInput { field, source })
}

fn parse_literal(text: &OsStr, position: usize) -> Result<FieldInput, Failure> {
    let which = format!("--literal number {position}");
    let (field, Some(value)) = split(text) else {
        return Err(
            Failure::usage(format!("{which} has no value")).mend("write --literal FIELD=VALUE")
        );
    };
    let field = parse_name(field, &which)?;
    Ok(FieldInput {
        field,
        source: Source::Literal(Zeroizing::new(value.to_vec())),
    })
}

/// What stands before the first `=`, and what stands behind it.
fn split(text: &OsStr) -> (&[u8], Option<&[u8]>) {
    let bytes = text.as_bytes();
    match bytes
        .iter()
        .position(|byte| *byte == b'=')
        .and_then(|at| bytes.split_at_checked(at))
    {
        Some((field, rest)) => (field, rest.split_first().map(|(_, value)| value)),
        None => (bytes, None),
    }
}

fn parse_name(bytes: &[u8], which: &str) -> Result<FieldName, Failure> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| Failure::usage(format!("{which} is not UTF-8")))?;
    text.parse()
        .map_err(|error| Failure::usage(format!("{which}: {error}")))
}

/// Reads to the end, into a buffer with room for one byte more than `limit`: a value that fills it is too long.
fn read_capped(from: &mut impl Read, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(vec![0; limit.saturating_add(1)]);
    let mut filled = 0;
    while let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) {
        match from.read(free) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if filled > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is over {limit} bytes, and a version holds 1 MiB at most"),
        ));
    }
    buffer.truncate(filled);
    // A copy of its own size; the large buffer is wiped.
    Ok(Zeroizing::new(buffer.to_vec()))
}

fn unreadable(field: &FieldName, from: &str, error: &io::Error) -> Failure {
    let exit = if error.kind() == io::ErrorKind::FileTooLarge {
        Exit::Usage
    } else {
        Exit::Failed
    };
    Failure::new(
        exit,
        format!("the value of {field} was not read from {from}"),
    )
    .caused_by(error)
}

/// The length without its line end of a value that is exactly one line with one.
fn one_line(value: &[u8]) -> Option<usize> {
    let line = value.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    (!line.is_empty() && !line.contains(&b'\n')).then_some(line.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    const QUIET: Console = Console {
        format: Format::Table,
        quiet: true,
        color: false,
        wide: None,
    };

    fn os(texts: &[&str]) -> Vec<OsString> {
        texts.iter().map(OsString::from).collect()
    }

    fn refused(fields: &[&str], literals: &[&str]) -> String {
        let failure = parse(&os(fields), &os(literals))
            .err()
            .expect("must be refused");
        assert_eq!(failure.exit, Exit::Usage);
        failure.to_string()
    }

    #[test]
    fn each_form_has_its_source() {
        let inputs = parse(&os(&["a", "b=@/x=y", "c=-"]), &os(&["d=v=w", "e="])).unwrap();
        assert!(matches!(&inputs[0].source, Source::Ask));
        assert!(matches!(&inputs[1].source, Source::File(path) if path.as_os_str() == "/x=y"));
        assert!(matches!(&inputs[2].source, Source::Stdin));
        assert!(matches!(&inputs[3].source, Source::Literal(value) if value.as_slice() == b"v=w"));
        assert!(matches!(&inputs[4].source, Source::Literal(value) if value.is_empty()));
    }

    #[test]
    fn a_value_in_the_wrong_place_is_refused_and_not_repeated() {
        for shown in [
            refused(&["password=hunter2"], &[]),
            refused(&["=hunter2"], &[]),
            refused(&["pass word=hunter2"], &[]),
            refused(&[], &["=hunter2"]),
        ] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert!(refused(&["password=hunter2"], &[]).contains("--literal password=VALUE"));
        assert!(refused(&[], &["password"]).contains("--literal FIELD=VALUE"));
        assert!(refused(&["password=@"], &[]).contains("names no file"));
        assert!(refused(&["a", "a=-"], &[]).contains("field a is given twice"));
        assert!(refused(&["a=-", "b=-"], &[]).contains("standard input"));
        assert!(refused(&[""], &[]).contains("is empty"));
        let many: Vec<String> = (0..65).map(|n| format!("f{n}")).collect();
        assert!(
            refused(&many.iter().map(String::as_str).collect::<Vec<_>>(), &[])
                .contains("64 at most")
        );
        let bytes = [OsString::from_vec(vec![0xff])];
        assert!(
            parse(&bytes, &[])
                .err()
                .unwrap()
                .to_string()
                .contains("not UTF-8")
        );
    }

    #[test]
    fn files_are_read_byte_for_byte_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        let read_file = |bytes: &[u8], trim| {
            std::fs::write(&path, bytes).unwrap();
            let field = "f".parse().unwrap();
            read(
                vec![FieldInput {
                    field,
                    source: Source::File(path.clone()),
                }],
                trim,
                &QUIET,
            )
        };
        for bytes in [&b""[..], b"\0\xff", b"line\n", b"two\nlines\n", b"\n"] {
            assert_eq!(read_file(bytes, false).unwrap()[0].value.as_slice(), bytes);
        }
        for (bytes, trimmed) in [
            (&b"line\n"[..], &b"line"[..]),
            (b"line\r\n", b"line"),
            (b"two\nlines\n", b"two\nlines\n"),
            (b"\n", b"\n"),
            (b"x\n\n", b"x\n\n"),
        ] {
            assert_eq!(read_file(bytes, true).unwrap()[0].value.as_slice(), trimmed);
        }
        assert_eq!(
            read_file(&vec![7; MAX_VERSION_BYTES], false).unwrap()[0]
                .value
                .len(),
            MAX_VERSION_BYTES
        );
        assert_eq!(
            read_file(&vec![7; MAX_VERSION_BYTES + 1], false)
                .err()
                .unwrap()
                .exit,
            Exit::Usage
        );
        assert_eq!(
            read_capped(&mut io::repeat(7), 10).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
    }

    #[test]
    fn the_limit_is_for_all_values_together() {
        let half = || Source::Literal(Zeroizing::new(vec![1; MAX_VERSION_BYTES / 2]));
        let input = |name: &str, source| FieldInput {
            field: name.parse().unwrap(),
            source,
        };
        assert!(read(vec![input("a", half()), input("b", half())], false, &QUIET).is_ok());
        let one_more = input("c", Source::Literal(Zeroizing::new(vec![1])));
        let refused = read(
            vec![input("a", half()), input("b", half()), one_more],
            false,
            &QUIET,
        )
        .err()
        .unwrap();
        assert_eq!(refused.exit, Exit::Usage);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let input = FieldInput {
            field: "f".parse().unwrap(),
            source: Source::File("/nonexistent/x".into()),
        };
        let refused = read(vec![input], false, &QUIET).err().unwrap();
        assert_eq!(refused.exit, Exit::Failed);
        assert!(
            refused
                .to_string()
                .contains("the value of f was not read from /nonexistent/x")
        );
    }
}
