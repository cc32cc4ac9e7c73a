//! What a start must know of all segments before the last, in a signed note beside that last one, so that it reads one
//! segment and not the log.
//!
//! ```text
//! <log's origin>/summary "\n"
//! size <first index of the segment> "\n"
//! root <base64(hash)> "\n"                      over the leaves before the segment
//! anchor <incarnation> <seq> <base64(T)> "\n"   the newest on record; the line is left out when there is none
//! peak <base64(hash)> "\n"                      the tree's right edge, largest subtree first
//! intent <index> "\n"                           each intent without an outcome, ascending
//! ```
//!
//! The segment's own checkpoints prove the peaks. A summary that is missing or does not verify costs a start the
//! reading of the whole log, and nothing else: it must never be needed.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use attache_mtls::public_file::write_public;
use attache_translog::{AnchorNote, Frontier, Hash, Signer, Verifier};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::segment_file::{first_index, summary_path};
use super::writer::Carried;

/// The state of a log where a segment begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    size: u64,
    root: Hash,
    peaks: Vec<Hash>,
    carried: Carried,
}

impl Summary {
    /// The state behind the leaves of `frontier`.
    pub(super) fn of(frontier: &Frontier, carried: &Carried) -> Self {
        Self {
            size: frontier.size(),
            root: frontier.root(),
            peaks: frontier.peaks().to_vec(),
            carried: carried.clone(),
        }
    }

    /// Signs the summary and puts it into the folder.
    ///
    /// # Errors
    /// What the system says; no draft is left behind.
    pub(super) fn store(&self, dir: &Path, signer: &Signer) -> io::Result<()> {
        let path = summary_path(dir, self.size);
        let note = signer
            .sign(&self.text(signer.verifier().name()))
            .map_err(io::Error::other)?;
        write_public(&path, note.as_bytes(), 0o644)
            .inspect_err(|_| drop(std::fs::remove_file(path.with_extension("tmp"))))
    }

    /// Reads the summary of the segment that begins with leaf `size`; `None` when there is none that verifies.
    pub(super) fn load(dir: &Path, size: u64, verifier: &Verifier) -> Option<Self> {
        let note = std::fs::read_to_string(summary_path(dir, size)).ok()?;
        Self::parse(&note, verifier).filter(|summary| summary.size == size)
    }

    /// Whether a file of that name is one that [`Summary::store`] had not finished.
    pub(super) fn is_draft(path: &Path) -> bool {
        let digits = path.file_stem().and_then(|stem| stem.to_str());
        path.extension().is_some_and(|extension| extension == "tmp")
            && digits.and_then(first_index).is_some()
    }

    /// The tree and what is carried; `None` when the peaks do not fit the size and the root.
    pub(super) fn resume(self) -> Option<(Frontier, Carried)> {
        let frontier = Frontier::resume(self.size, self.peaks, &self.root).ok()?;
        Some((frontier, self.carried))
    }

    fn text(&self, name: &str) -> String {
        let mut text = format!(
            "{name}\nsize {}\nroot {}\n",
            self.size,
            STANDARD.encode(self.root)
        );
        if let Some(anchor) = &self.carried.anchor {
            let (incarnation, seq, t) = (anchor.incarnation, anchor.seq, STANDARD.encode(anchor.t));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "anchor {incarnation} {seq} {t}");
        }
        for peak in &self.peaks {
            let _ = writeln!(text, "peak {}", STANDARD.encode(peak));
        }
        for index in &self.carried.open_intents {
            let _ = writeln!(text, "intent {index}");
        }
        text
    }

    fn parse(note: &str, verifier: &Verifier) -> Option<Self> {
        let mut lines = verifier.open(note).ok()?.lines();
        if lines.next() != Some(verifier.name()) {
            return None;
        }
        let size = lines.next()?.strip_prefix("size ")?.parse().ok()?;
        let root = parse_hash(lines.next()?.strip_prefix("root ")?)?;
        let (mut peaks, mut carried) = (Vec::new(), Carried::default());
        for line in lines {
            match line.split_once(' ')? {
                ("anchor", rest) => {
                    let (incarnation, rest) = rest.split_once(' ')?;
                    let (seq, t) = rest.split_once(' ')?;
                    carried.anchor = Some(AnchorNote {
                        incarnation: incarnation.parse().ok()?,
                        seq: seq.parse().ok()?,
                        t: parse_hash(t)?,
                    });
                }
                ("peak", hash) => peaks.push(parse_hash(hash)?),
                ("intent", index) => {
                    carried.open_intents.insert(index.parse().ok()?);
                }
                _ => return None,
            }
        }
        Some(Self {
            size,
            root,
            peaks,
            carried,
        })
    }
}

/// What a log's key is named as where it signs summaries.
pub(super) fn key_name(origin: &str) -> String {
    format!("{origin}/summary")
}

fn parse_hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use attache_translog::leaf_hash;

    use super::*;
    use crate::vectors::{Expected, Fields, run};

    #[test]
    fn summaries_are_those_of_the_vectors() {
        run("summary", true, |given, expected| match expected {
            Expected::Out(out) => check(given, &out),
            Expected::Refused => {
                let verifier = Verifier::parse(given.text("vkey")).unwrap();
                assert!(Summary::parse(given.text("note"), &verifier).is_none());
            }
        });
    }

    fn check(given: &Fields, out: &Fields) {
        let mut frontier = Frontier::new();
        for body in given.texts("bodies") {
            frontier.append(leaf_hash(&hex::decode(body).unwrap()));
        }
        let anchor = given.object("anchor");
        let intents = given.value("intents").as_array().unwrap();
        let carried = Carried {
            anchor: anchor.map(|anchor| AnchorNote {
                incarnation: anchor.u32("incarnation"),
                seq: anchor.u64("seq"),
                t: anchor.array("t"),
            }),
            open_intents: intents
                .iter()
                .map(|index| index.as_u64().unwrap())
                .collect(),
        };
        let summary = Summary::of(&frontier, &carried);
        let (dir, seed) = (tempfile::tempdir().unwrap(), given.array("seed"));
        let (store, chain) = (given.array("store"), given.array("chain"));
        let origin = attache_translog::log_origin(&store, &chain);
        let signer = Signer::from_seed(&key_name(&origin), &seed).unwrap();
        summary.store(dir.path(), &signer).unwrap();
        let note = std::fs::read_to_string(summary_path(dir.path(), frontier.size())).unwrap();
        assert_eq!(note, out.text("note"));
        let read = Summary::load(dir.path(), frontier.size(), signer.verifier()).unwrap();
        assert_eq!(read, summary);
        let (resumed, again) = read.resume().unwrap();
        assert_eq!((resumed.root(), again), (frontier.root(), carried));
    }
}
