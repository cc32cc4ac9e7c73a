//! The slot file: the secret of a key-file slot, 0400, made once and read at each start.
//!
//! Its one copy in this process goes into the arena; the text is wiped.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use attache_arena::{Arena, Key};
use attache_envelope::key::SlotSecret;
use attache_envelope::slot::{KEY_FILE_BYTES, parse_key_file, write_key_file};
use attache_mtls::private_file::read_private;
use zeroize::Zeroizing;

use super::error::UnlockError;

/// Writes a new slot file, durably and whole or not at all; a file that is there already is never touched.
pub(super) fn create(path: &Path, secret: &Key) -> std::io::Result<()> {
    let mut text = Zeroizing::new([0; KEY_FILE_BYTES]);
    write_key_file(SlotSecret::new(secret.expose()), &mut text);
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = Path::new(&unfinished);
    // Of one that was killed while it wrote.
    match fs::remove_file(unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(unfinished)?;
    let whole = file
        .write_all(text.as_slice())
        .and_then(|()| file.sync_all());
    // Unlike a rename, a link takes no other file's place.
    let named = whole.and_then(|()| fs::hard_link(unfinished, path));
    fs::remove_file(unfinished)?;
    named?;
    File::open(folder)?.sync_all()
}

/// Reads a slot file that must be a regular file of this process's own uid, closed to everybody else.
pub(super) fn read(path: &Path, arena: &Arena) -> Result<Key, UnlockError> {
    let text = read_private(path)?;
    arena.key_with(|cell| {
        parse_key_file(&text, cell).map_err(|source| UnlockError::SlotFileShape {
            path: path.display().to_string(),
            source,
        })
    })
}
