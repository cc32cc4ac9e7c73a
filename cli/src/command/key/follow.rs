//! Waiting for keys whose values the broker wraps again: it does so without us, and can be left and joined at any time.

use std::fmt;
use std::time::Duration;

use attache_proto::attache::v1::{self as pb, keys_client::KeysClient};
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::time::Instant;

use crate::failure::{Exit, Failure};
use crate::output::Console;
use crate::session::Session;

/// How often the broker is asked.
const LOOK: Duration = Duration::from_millis(250);
/// How often a line is written where there is no terminal for a bar.
const LINE: Duration = Duration::from_secs(5);

/// How far a key is.
#[derive(Debug, Serialize)]
pub(super) struct RewrapJson {
    key: String,
    total: u64,
    done: u64,
    /// Values a second at most; null for as many as go.
    rate: Option<u32>,
    per_second: u64,
    left_s: Option<u64>,
    unreadable: u64,
    problem: Option<String>,
}

impl RewrapJson {
    pub(super) fn new(of: &pb::Rewrap) -> Self {
        Self {
            key: format!("{}@{}", of.keyspace, of.epoch),
            total: of.total,
            done: of.done,
            rate: Some(of.rate).filter(|rate| *rate > 0),
            per_second: of.per_second,
            left_s: of.left_s,
            unreadable: of.unreadable,
            problem: Some(of.problem.clone()).filter(|problem| !problem.is_empty()),
        }
    }
}

impl fmt::Display for RewrapJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} of {}, {}/s",
            self.key, self.done, self.total, self.per_second
        )?;
        match (&self.problem, self.left_s) {
            (Some(problem), _) => write!(f, ", stands still: {problem}"),
            (None, Some(left)) => write!(f, ", {left} s left"),
            (None, None) => Ok(()),
        }
    }
}

/// The keys of a keyspace, or of all, whose values are being wrapped again.
///
/// # Errors
/// As [`crate::status`] says.
pub(super) async fn rewraps(session: &Session, keyspace: &str) -> Result<Vec<pb::Rewrap>, Failure> {
    session
        .pages(|page| {
            let request = pb::ListRewrapsRequest {
                keyspace: keyspace.to_owned(),
                page: Some(page),
            };
            async move {
                let answer: pb::ListRewrapsResponse = session
                    .read(
                        "it cannot be seen how far the re-wrap is",
                        &request,
                        |channel, request| async move {
                            KeysClient::new(channel).list_rewraps(request).await
                        },
                    )
                    .await?;
                Ok((answer.rewraps, answer.next_token))
            }
        })
        .await
}

/// Waits until no key of the keyspace, or of any, has values that are still to be wrapped again; `limit`: that long at most.
///
/// # Errors
/// [`Exit::Interrupted`] for Ctrl-C, [`Exit::Partly`] when what is left cannot be read or the time is over, and as [`rewraps`]: the broker goes
/// on in each case.
///
/// # Cancel safety
/// May be dropped at any time.
pub(super) async fn follow(
    session: &Session,
    keyspace: &str,
    limit: Option<Duration>,
    console: &Console,
) -> Result<(), Failure> {
    let end = limit.map(|limit| Instant::now() + limit);
    let mut shown = Shown::new(console);
    loop {
        let under_way = match rewraps(session, keyspace).await {
            Ok(under_way) => under_way,
            Err(failure) if failure.mend.is_none() => {
                return Err(failure.mend(join_again(keyspace)));
            }
            Err(failure) => return Err(failure),
        };
        if under_way.is_empty() {
            shown.bar.finish_and_clear();
            return Ok(());
        }
        if under_way
            .iter()
            .all(|it| it.unreadable > 0 && !it.problem.is_empty())
        {
            shown.bar.abandon();
            let left: Vec<_> = under_way
                .iter()
                .map(|it| RewrapJson::new(it).to_string())
                .collect();
            return Err(Failure::new(Exit::Partly, "not every value is wrapped again")
                .because(left.join("; "))
                .mend("attache-broker check-store names what is damaged; the rest is wrapped again"));
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            shown.bar.abandon();
            let left: Vec<_> = under_way
                .iter()
                .map(|it| RewrapJson::new(it).to_string())
                .collect();
            return Err(
                Failure::new(Exit::Partly, "not every value is wrapped again yet")
                    .because(format!("{}; the broker goes on", left.join("; ")))
                    .mend(join_again(keyspace)),
            );
        }
        shown.show(&under_way);
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = tokio::signal::ctrl_c() => {
                shown.bar.abandon();
                return Err(Failure::new(Exit::Interrupted, "no longer waiting")
                    .because("the broker goes on wrapping values again")
                    .mend(join_again(keyspace)));
            }
        }
    }
}

fn join_again(keyspace: &str) -> String {
    let command = format!("attache key status {keyspace}");
    format!("see how far it is with: {} --wait", command.trim_end())
}

/// How fast it is and how long it takes, as the broker knows it: whoever joins has seen nothing yet.
fn pace(under_way: &[pb::Rewrap]) -> String {
    let per_second: u64 = under_way.iter().map(|it| it.per_second).sum();
    // They are worked at by turns; one of which it is not known makes it unknown.
    let left: Option<Vec<u64>> = under_way.iter().map(|it| it.left_s).collect();
    match left.and_then(|left| left.into_iter().max()) {
        Some(left) => format!("{per_second}/s  {left} s left"),
        None => format!("{per_second}/s"),
    }
}

/// A bar on a terminal, else a line now and then.
struct Shown<'c> {
    console: &'c Console,
    bar: ProgressBar,
    next_line: Instant,
}

impl<'c> Shown<'c> {
    fn new(console: &'c Console) -> Self {
        Self {
            console,
            bar: console.joined_progress(),
            next_line: Instant::now() + LINE,
        }
    }

    fn show(&mut self, under_way: &[pb::Rewrap]) {
        self.bar
            .set_length(under_way.iter().map(|it| it.total).sum());
        self.bar
            .set_position(under_way.iter().map(|it| it.done).sum());
        self.bar.set_message(pace(under_way));
        if self.bar.is_hidden() && Instant::now() >= self.next_line {
            for it in under_way {
                self.console.hint(&RewrapJson::new(it).to_string());
            }
            self.next_line = Instant::now() + LINE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_and_why_it_stands_still() {
        let mut rewrap = pb::Rewrap {
            keyspace: "payments".into(),
            epoch: 1,
            total: 5_000,
            done: 1_200,
            per_second: 830,
            left_s: Some(5),
            ..Default::default()
        };
        let line = |rewrap: &pb::Rewrap| RewrapJson::new(rewrap).to_string();
        assert_eq!(line(&rewrap), "payments@1: 1200 of 5000, 830/s, 5 s left");
        rewrap.problem = "the audit log has no room".into();
        assert_eq!(
            line(&rewrap),
            "payments@1: 1200 of 5000, 830/s, stands still: the audit log has no room"
        );
        rewrap.problem.clear();
        rewrap.left_s = None;
        assert_eq!(line(&rewrap), "payments@1: 1200 of 5000, 830/s");
    }

    #[test]
    fn a_bar_says_how_fast_the_broker_is_and_when_it_is_over() {
        let rewrap = |per_second, left_s| pb::Rewrap {
            per_second,
            left_s,
            ..Default::default()
        };
        let (fast, slow) = (rewrap(800, Some(5)), rewrap(30, Some(90)));
        assert_eq!(pace(std::slice::from_ref(&fast)), "800/s  5 s left");
        assert_eq!(pace(&[fast.clone(), slow]), "830/s  90 s left");
        assert_eq!(pace(&[fast, rewrap(0, None)]), "800/s");
    }

    #[test]
    fn how_to_join_again_is_a_command() {
        assert_eq!(
            join_again("payments"),
            "see how far it is with: attache key status payments --wait"
        );
        assert_eq!(
            join_again(""),
            "see how far it is with: attache key status --wait"
        );
    }
}
