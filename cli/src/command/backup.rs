//! `attache backup`: one state of the store in a file, what the store knows of such files, and whether one is whole.

use std::time::{Duration, Instant};

use attache_backup::{Sealed, verifier_of};
use attache_proto::attache::v1::{self as pb, backups_client::BackupsClient};
use attache_translog::Verifier;
use indicatif::ProgressBar;
use pb::{create_backup_response::Part as Answer, keys_client::KeysClient};
use serde::Serialize;
use tonic::Streaming;
use uuid::Uuid;

use super::{Changed, Shell, hex, or_dash, time, uuid_text};
use crate::args::backup::{Create, Verify};
use crate::backup_file::{Checked, Part, check};
use crate::failure::{Exit, Failure};
use crate::output::{Console, Human, Report};
use crate::session::{Session, change_failure, mutation};

/// How long a broker may think between two parts of a backup.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// A piece is never larger than this.
const MESSAGE_LIMIT_BYTES: usize = 8 * 1024 * 1024;
/// Without a terminal, how far it is is said this often.
const SAY_EVERY: Duration = Duration::from_secs(5);

const NOT_MADE: &str = "no backup was made";
const NOT_VERIFIED: &str = "the backup was not verified";

#[derive(Debug, Serialize)]
struct BackupJson {
    backup: String,
    incarnation: u32,
    seq: u64,
    created: Option<String>,
    created_by: String,
    hash: String,
    size_bytes: u64,
    verified: Option<String>,
    verified_by: Option<String>,
}

#[derive(Debug, Serialize)]
struct MadeJson {
    file: String,
    backup: BackupJson,
    #[serde(flatten)]
    changed: Changed,
}

#[derive(Debug, Serialize)]
struct WouldJson {
    file: String,
    state_seq: u64,
    about_bytes: u64,
    #[serde(flatten)]
    changed: Changed,
}

#[derive(Debug, Serialize)]
struct VerifyJson {
    clean: bool,
    file: String,
    vkey: Option<String>,
    backup: Option<HeadJson>,
    recorded: bool,
    findings: Vec<FindingJson>,
}

#[derive(Debug, Serialize)]
struct HeadJson {
    backup: String,
    store: String,
    incarnation: u32,
    seq: u64,
    created: Option<String>,
    rows: u64,
    hash: String,
    size_bytes: u64,
}

#[derive(Debug, Serialize)]
struct FindingJson {
    offset: Option<u64>,
    finding: String,
}

impl From<pb::Backup> for BackupJson {
    fn from(backup: pb::Backup) -> Self {
        Self {
            backup: uuid_text(&backup.id),
            incarnation: backup.incarnation,
            seq: backup.seq,
            created: time(backup.created),
            created_by: backup.created_by,
            hash: hex(&backup.hash),
            size_bytes: backup.size,
            verified: time(backup.verified),
            verified_by: Some(backup.verified_by).filter(|by| !by.is_empty()),
        }
    }
}

/// Makes a backup, and verifies what was written before it gets its name.
///
/// # Errors
/// As [`crate::status`] says, here and below; [`Exit::Precondition`] when the file is there already.
///
/// # Cancel safety
/// Dropped before its end, it leaves no file; the broker puts that on record.
pub async fn create(args: Create, shell: &Shell) -> Result<Report, Failure> {
    Part::refuse(&args.file)?;
    let session = shell.session().await?;
    let (id, mutation) = mutation(args.dry_run.dry_run);
    let request = pb::CreateBackupRequest {
        mutation,
        reason: args.reason.unwrap_or_default(),
    };
    let mut incoming = Incoming::open(&session, id, request).await?;
    let begun = incoming.begun().await?;
    let file = args.file.display().to_string();
    if args.dry_run.dry_run {
        let text = format!(
            "{file} would hold the store at sequence {}, in at most about {}",
            begun.seq,
            bytes(begun.about_bytes)
        );
        let changed = Changed::new(id, None, true);
        let would = WouldJson {
            file: file.clone(),
            state_seq: begun.seq,
            about_bytes: begun.about_bytes,
            changed,
        };
        return Report::new(&would, vec![file], Human::Text(text));
    }
    // Made only now: whoever is told to stop from here on takes it away.
    let part = Part::begin(&args.file)?;
    let (made, changed) = receive(incoming, part, &begun, &shell.console).await?;
    let text = format!(
        "made {file}: the store at sequence {}, {}; SHA-256 {}",
        made.seq,
        bytes(made.size_bytes),
        made.hash
    );
    let made = MadeJson {
        file: file.clone(),
        backup: made,
        changed,
    };
    Report::new(&made, vec![file], Human::Text(text))
}

/// Writes what comes to the part, reads it again behind that while the broker makes more, and finishes it once it is what the
/// broker says and signed.
async fn receive(
    mut incoming: Incoming,
    mut part: Part,
    begun: &pb::BackupBegun,
    console: &Console,
) -> Result<(BackupJson, Changed), Failure> {
    let mut progress = Progress::new(console, "written", begun.about_bytes);
    let mut checking = part.checking()?;
    let made = loop {
        match incoming.next().await? {
            Answer::Piece(piece) => {
                part.write(&piece)?;
                while checking.read_on()?.is_some() {}
                progress.advance(piece.len() as u64);
            }
            Answer::Made(made) => break made,
            Answer::Begun(_) => return Err(incoming.out_of_order()),
        }
    };
    progress.finish();
    part.sync()?;
    while checking.read_on()?.is_some() {}
    if !checking.is_at_end()? {
        return Err(incoming.failed("the file was changed by somebody while it was written"));
    }
    let verifier = Verifier::parse(&begun.vkey).ok();
    let verifier = verifier.as_ref().and_then(verifier_of).ok_or_else(|| {
        let why = "the key that the broker names is none of an audit log";
        incoming.failed(why)
    })?;
    let backup: BackupJson = made.backup.unwrap_or_default().into();
    match checking.finish(&[verifier]) {
        Checked::Whole(sealed, _) if is_of(&sealed, &backup) => {}
        Checked::Whole(..) => {
            return Err(incoming.failed("what came is not the backup that the broker made"));
        }
        Checked::Broken(error) => {
            return Err(incoming.failed(&format!("what was written is not whole: {error}")));
        }
        Checked::Unsigned(error) => {
            return Err(incoming.failed(&format!("what was written is not whole: {error}")));
        }
    }
    let finished = part.finish();
    finished.map_err(|failure| failure.of_request(incoming.id))?;
    Ok((backup, Changed::new(incoming.id, made.committed, false)))
}

fn is_of(sealed: &Sealed, backup: &BackupJson) -> bool {
    sealed.head.backup.to_string() == backup.backup && hex(&sealed.hash) == backup.hash
}

/// A backup on its way.
struct Incoming {
    id: Uuid,
    stream: Streaming<pb::CreateBackupResponse>,
}

impl Incoming {
    async fn open(
        session: &Session,
        id: Uuid,
        request: pb::CreateBackupRequest,
    ) -> Result<Self, Failure> {
        let client = BackupsClient::new(session.channel());
        let mut client = client.max_decoding_message_size(MESSAGE_LIMIT_BYTES);
        let opened = tokio::time::timeout(IDLE_LIMIT, client.create_backup(request)).await;
        let opened = opened.map_err(|_| too_slow(id))?;
        let stream = opened.map_err(|status| change_failure(NOT_MADE, id, &status))?;
        Ok(Self {
            id,
            stream: stream.into_inner(),
        })
    }

    async fn begun(&mut self) -> Result<pb::BackupBegun, Failure> {
        match self.next().await? {
            Answer::Begun(begun) => Ok(begun),
            Answer::Piece(_) | Answer::Made(_) => Err(self.out_of_order()),
        }
    }

    async fn next(&mut self) -> Result<Answer, Failure> {
        let message = tokio::time::timeout(IDLE_LIMIT, self.stream.message()).await;
        let message = message.map_err(|_| too_slow(self.id))?;
        let message = message.map_err(|status| change_failure(NOT_MADE, self.id, &status))?;
        let part = message.and_then(|message| message.part);
        part.ok_or_else(|| self.failed("the broker ended it before it was whole"))
    }

    fn out_of_order(&self) -> Failure {
        self.failed("the broker's parts are out of order")
    }

    fn failed(&self, why: &str) -> Failure {
        Failure::new(Exit::Failed, NOT_MADE)
            .because(why)
            .mend("run the same command again")
            .of_request(self.id)
    }
}

fn too_slow(id: Uuid) -> Failure {
    Failure::new(Exit::Unavailable, NOT_MADE)
        .because(format!("the broker sent nothing for {IDLE_LIMIT:?}"))
        .mend("try again")
        .of_request(id)
}

/// Lists the backups that the store knows of.
///
/// # Errors
/// As [`create`].
pub async fn list(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let page = |page| {
        let session = &session;
        async move {
            let request = pb::ListBackupsRequest { page: Some(page) };
            let answer: pb::ListBackupsResponse = session
                .read(
                    "backups were not listed",
                    &request,
                    |channel, request| async move {
                        BackupsClient::new(channel).list_backups(request).await
                    },
                )
                .await?;
            Ok((answer.backups, answer.next_token))
        }
    };
    let backups = session.pages(page).await?;
    let mut backups: Vec<BackupJson> = backups.into_iter().map(Into::into).collect();
    backups.sort_by(|a, b| (&a.created, &a.backup).cmp(&(&b.created, &b.backup)));
    let row = |backup: &BackupJson| {
        vec![
            backup.backup.clone(),
            or_dash(backup.created.as_deref()),
            format!("{}/{}", backup.incarnation, backup.seq),
            bytes(backup.size_bytes),
            or_dash(backup.verified.as_deref()),
            backup.created_by.clone(),
        ]
    };
    let human = Human::Table {
        heads: &["BACKUP", "CREATED", "STATE", "SIZE", "VERIFIED", "BY"],
        rows: backups.iter().map(row).collect(),
    };
    let names = backups.iter().map(|backup| backup.backup.clone()).collect();
    Report::new(&serde_json::json!({ "backups": backups }), names, human)
}

/// Holds a file against its signature, and puts on record that it is whole.
///
/// # Errors
/// As [`create`]; what is wrong with the file is a finding and no error.
pub async fn verify(args: Verify, shell: &Shell) -> Result<Report, Failure> {
    let session = match args.offline {
        true => None,
        false => Some(shell.session().await?),
    };
    let audit = match (args.vkey, &session) {
        (Some(pinned), _) => vec![pinned],
        (None, Some(session)) => {
            shell
                .console
                .hint("the key is the broker's own word; --vkey pins it");
            own_keys(session).await?
        }
        (None, None) => return Err(Failure::usage(NOT_VERIFIED).mend("give --vkey")),
    };
    let verifiers: Option<Vec<_>> = audit.iter().map(verifier_of).collect();
    let verifiers = verifiers.ok_or_else(|| {
        Failure::usage(NOT_VERIFIED)
            .because("the key is none of an audit log")
            .mend("give the key that attache status shows as audit key")
    })?;
    let size = std::fs::metadata(&args.file).map_or(0, |found| found.len());
    let mut progress = Progress::new(&shell.console, "read", size);
    let checked = check(&args.file, &verifiers, |done| progress.at(done)).await?;
    progress.finish();
    let recorded = match (&checked, &session) {
        (Checked::Whole(sealed, _), Some(session)) => {
            record(sealed, session, &shell.console).await?
        }
        _ => false,
    };
    report(&args.file.display().to_string(), &audit, &checked, recorded)
}

/// The keys that the broker knows, the one that signs now first.
async fn own_keys(session: &Session) -> Result<Vec<Verifier>, Failure> {
    let request = pb::ShowAuditKeysRequest {};
    let shown: pb::ShowAuditKeysResponse = session
        .read(NOT_VERIFIED, &request, |channel, request| async move {
            KeysClient::new(channel).show_audit_keys(request).await
        })
        .await?;
    let keys: Result<_, _> = shown
        .keys
        .iter()
        .map(|key| Verifier::parse(&key.vkey))
        .collect();
    keys.map_err(|error| {
        Failure::new(Exit::Failed, NOT_VERIFIED).because(format!("the broker's keys: {error}"))
    })
}

/// Puts it on record; false when the store knows no such backup.
async fn record(sealed: &Sealed, session: &Session, console: &Console) -> Result<bool, Failure> {
    let (id, mutation) = mutation(false);
    let request = pb::RecordVerifiedBackupRequest {
        mutation,
        id: sealed.head.backup.as_bytes().to_vec(),
        hash: sealed.hash.to_vec(),
    };
    let what = "the backup is whole, and that was not put on record";
    let recorded: Result<pb::RecordVerifiedBackupResponse, _> = session
        .change(what, id, &request, |channel, request| async move {
            BackupsClient::new(channel)
                .record_verified_backup(request)
                .await
        })
        .await;
    match recorded {
        Ok(_) => Ok(true),
        Err(failure) if failure.exit == Exit::Precondition => {
            let why = failure.why.unwrap_or_default();
            console.hint(&format!("not put on record: {why}"));
            Ok(false)
        }
        Err(failure) => Err(failure),
    }
}

fn report(
    file: &str,
    audit: &[Verifier],
    checked: &Checked,
    recorded: bool,
) -> Result<Report, Failure> {
    let finding = checked.finding();
    let (head, line) = match (checked, &finding) {
        (Checked::Whole(sealed, _), _) => {
            let head = sealed.head;
            let line = format!(
                "verified: {file} is backup {} of store {} at sequence {}, whole and as it was signed: {} rows, {}",
                head.backup,
                head.store,
                head.seq,
                sealed.rows,
                bytes(sealed.size)
            );
            (Some(HeadJson::of(sealed)), line)
        }
        (_, Some((Some(offset), found))) => {
            (None, format!("found: {file}, byte {offset}: {found}"))
        }
        (_, found) => {
            let found = found.as_ref().map_or("", |(_, found)| found.as_str());
            (None, format!("found: {file}: {found}"))
        }
    };
    let by = match checked {
        Checked::Whole(_, by) => *by,
        Checked::Broken(_) | Checked::Unsigned(_) => 0,
    };
    let data = VerifyJson {
        clean: finding.is_none(),
        file: file.to_owned(),
        vkey: audit.get(by).or(audit.first()).map(Verifier::vkey),
        backup: head,
        recorded,
        findings: finding
            .into_iter()
            .map(|(offset, finding)| FindingJson { offset, finding })
            .collect(),
    };
    let report = Report::new(&data, vec![], Human::Text(line))?;
    Ok(if data.clean { report } else { report.found() })
}

impl HeadJson {
    fn of(sealed: &Sealed) -> Self {
        let head = &sealed.head;
        let unix_ms = i64::try_from(head.created_ms).unwrap_or(i64::MAX);
        Self {
            backup: head.backup.to_string(),
            store: head.store.to_string(),
            incarnation: head.incarnation,
            seq: head.seq,
            created: time(Some(pb::Time { unix_ms })),
            rows: sealed.rows,
            hash: hex(&sealed.hash),
            size_bytes: sealed.size,
        }
    }
}

/// How far it is: a bar with its rate on a terminal, else a line every few seconds.
struct Progress<'a> {
    console: &'a Console,
    bar: ProgressBar,
    word: &'static str,
    begun: Instant,
    said: Instant,
    done: u64,
}

impl<'a> Progress<'a> {
    fn new(console: &'a Console, word: &'static str, size: u64) -> Self {
        let now = Instant::now();
        Self {
            console,
            bar: console.bytes_progress(size),
            word,
            begun: now,
            said: now,
            done: 0,
        }
    }

    fn advance(&mut self, count: u64) {
        self.at(self.done + count);
    }

    fn at(&mut self, done: u64) {
        self.done = done;
        self.bar.set_position(done);
        if self.bar.is_hidden() && self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            let per_second = self.rate();
            let (done, word) = (bytes(done), self.word);
            self.console
                .hint(&format!("{done} {word}, {}/s", bytes(per_second)));
        }
    }

    fn rate(&self) -> u64 {
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.done.saturating_mul(1000) / ms.max(1)
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}
