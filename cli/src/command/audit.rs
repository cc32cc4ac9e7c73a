//! `attache audit tail`: records of the log, as they are and as they come.

use std::time::Duration;

use attache_proto::attache::v1::{self as pb, audit_client::AuditClient};
use attache_translog::Leaf;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tonic::{Status, Streaming};

use super::{Shell, uuid_text};
use crate::args::audit::Tail;
use crate::failure::{Exit, Failure};
use crate::output::{Human, Report, visible};
use crate::session::Session;
use crate::status;

/// How long a broker may think between two answers of a stream that has an end.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// A batch of leaves is never larger than this.
const MESSAGE_LIMIT_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, Serialize)]
struct RecordJson {
    index: u64,
    time: Option<String>,
    kind: String,
    boot: String,
    items: Map<String, Value>,
}

/// Shows the newest records, one a line, then those that come.
///
/// # Errors
/// As [`crate::status`] says.
pub async fn tail(args: Tail, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let request = pb::ReadLeavesRequest {
        first_index: 0,
        limit: 0,
        follow: args.follow,
        last: args.lines,
    };
    let mut leaves = Leaves::open(&session, request, args.follow).await?;
    while let Some(batch) = leaves.next().await? {
        for leaf in batch {
            if !shell.console.record(&record(&leaf)?)? {
                return nothing_more();
            }
        }
    }
    nothing_more()
}

/// A stream has printed its answer already.
fn nothing_more() -> Result<Report, Failure> {
    Ok(Report {
        data: Value::Null,
        names: Vec::new(),
        human: Human::Nothing,
        exit: Exit::Done,
    })
}

/// Leaves as a broker streams them.
pub(super) struct Leaves {
    stream: Streaming<pb::ReadLeavesResponse>,
    endless: bool,
}

const UNREAD: &str = "the audit log was not read";

impl Leaves {
    /// Asks for leaves. `endless`: more may come at any time.
    pub(super) async fn open(
        session: &Session,
        request: pb::ReadLeavesRequest,
        endless: bool,
    ) -> Result<Self, Failure> {
        let mut client =
            AuditClient::new(session.channel()).max_decoding_message_size(MESSAGE_LIMIT_BYTES);
        let stream = tokio::time::timeout(IDLE_LIMIT, client.read_leaves(request))
            .await
            .map_err(|_| too_slow())?;
        Ok(Self {
            stream: stream
                .map_err(|status| status::failure(UNREAD, &status))?
                .into_inner(),
            endless,
        })
    }

    /// The next batch; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<pb::AuditLeaf>>, Failure> {
        let message = self.stream.message();
        let answer: Result<Option<pb::ReadLeavesResponse>, Status> = if self.endless {
            message.await
        } else {
            tokio::time::timeout(IDLE_LIMIT, message)
                .await
                .map_err(|_| too_slow())?
        };
        Ok(answer
            .map_err(|status| status::failure(UNREAD, &status))?
            .map(|batch| batch.leaves))
    }
}

fn too_slow() -> Failure {
    Failure::new(Exit::Unavailable, UNREAD)
        .because(format!("the broker sent nothing for {IDLE_LIMIT:?}"))
        .mend("try again")
}

fn record(leaf: &pb::AuditLeaf) -> Result<Report, Failure> {
    let (time, kind, boot, items) = match Leaf::parse(&leaf.body) {
        Ok(parsed) => (
            time_text(parsed.time_ms),
            parsed.event.name(),
            uuid_text(&parsed.boot),
            parsed
                .event
                .items()
                .into_iter()
                .map(|(tag, text)| (tag.name(), text))
                .collect(),
        ),
        // A record of a newer broker, or an edited one: what `verify` is for. It is shown, not passed over.
        Err(error) => (
            None,
            "unreadable",
            String::new(),
            vec![("problem", error.to_string())],
        ),
    };
    let shown = items
        .iter()
        .map(|(tag, text)| format!("{tag}={}", visible(text)));
    let line = format!(
        "{:>6}  {}  {kind:<10}  {}",
        leaf.index,
        time.as_deref().unwrap_or("-"),
        shown.collect::<Vec<_>>().join("  ")
    );
    let items = items
        .iter()
        .map(|(tag, text)| ((*tag).to_owned(), text.as_str().into()));
    let record = RecordJson {
        index: leaf.index,
        time,
        kind: kind.to_owned(),
        boot,
        items: items.collect(),
    };
    Report::new(&record, vec![record.index.to_string()], Human::Text(line))
}

fn time_text(unix_ms: u64) -> Option<String> {
    let at = Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;
    use attache_translog::{Event, Stop};

    #[test]
    fn a_record_is_one_line_in_every_form() {
        let event = Event::from(Stop {
            broker: "spiffe://example/broker/b\n".into(),
        });
        let body = Leaf {
            time_ms: 1_795_428_245_678,
            boot: [7; 16],
            event,
        }
        .encode()
        .unwrap()
        .body()
        .to_vec();
        let report = record(&pb::AuditLeaf {
            index: 3,
            body: body.into(),
        })
        .unwrap();
        assert_eq!(
            report.render_record(Format::Table),
            "     3  2026-11-23T10:04:05.678Z  stop        actor=spiffe://example/broker/b\u{fffd}\n"
        );
        assert_eq!(report.render_record(Format::Name), "3\n");
        let json: Value = serde_json::from_str(&report.render_record(Format::Json)).unwrap();
        assert_eq!(
            (json["kind"].as_str(), json["index"].as_u64()),
            (Some("stop"), Some(3))
        );
        let unreadable = record(&pb::AuditLeaf {
            index: 4,
            body: vec![1, 2, 3].into(),
        })
        .unwrap();
        assert!(
            unreadable
                .render_record(Format::Table)
                .contains("unreadable  problem=")
        );
    }
}
