//! `attache node`.

use attache_proto::attache::v1::{self as pb, nodes_client::NodesClient};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Changed, Shell, is_one_time, or_dash, time, with_suggestion};
use crate::args::fleet::{BanNode, JoinToken, ListNodes, ReadmitNodes, UnbanNode};
use crate::args::parse::NodeArg;
use crate::args::{DryRun, Format};
use crate::failure::{Exit, Failure};
use crate::near::nearest;
use crate::output::{self, Human, Report};
use crate::session::{Session, mutation};
use crate::terminal::confirm;

/// What a join token begins with.
const JOIN_TOKEN: &str = "attache-join-1:";

#[derive(Debug, Serialize)]
struct NodeJson {
    spiffe_id: String,
    cluster: String,
    name: String,
    uid: String,
    serial: String,
    joined: Option<String>,
    renewed: Option<String>,
    not_after: Option<String>,
    version: String,
    banned: bool,
    /// What the node says that its kernel lacks.
    lacks: Vec<String>,
}

impl From<pb::NodeView> for NodeJson {
    fn from(node: pb::NodeView) -> Self {
        Self {
            spiffe_id: node.spiffe_id,
            cluster: node.cluster,
            name: node.name,
            uid: node.uid,
            serial: node.serial,
            joined: time(node.joined),
            renewed: time(node.renewed),
            not_after: time(node.not_after),
            version: node.version,
            banned: node.banned,
            lacks: node.lacks,
        }
    }
}

#[derive(Serialize)]
struct TokenJson<'t> {
    cluster: String,
    node: String,
    node_uid: String,
    not_after: Option<String>,
    /// Only where it was made and not printed already.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'t str>,
    #[serde(flatten)]
    changed: Changed,
}

/// Lists nodes.
///
/// # Errors
/// As [`crate::status`] says, here and below.
pub async fn list(args: ListNodes, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let cluster = args
        .cluster
        .map(|cluster| cluster.to_string())
        .unwrap_or_default();
    let nodes: Vec<NodeJson> = all(&session, &cluster)
        .await?
        .into_iter()
        .map(NodeJson::from)
        .collect();
    let rows = nodes
        .iter()
        .map(|node| {
            let state = if node.banned { "banned" } else { "" };
            vec![
                format!("{}/{}", node.cluster, node.name),
                node.uid.clone(),
                or_dash(node.not_after.as_deref()),
                or_dash(Some(&node.version)),
                or_dash(Some(&node.lacks.join(", "))),
                state.to_owned(),
            ]
        })
        .collect();
    let names = nodes.iter().map(|node| node.spiffe_id.clone()).collect();
    let human = Human::Table {
        heads: &[
            "NODE",
            "UID",
            "CERTIFICATE UNTIL",
            "VERSION",
            "LACKS",
            "STATE",
        ],
        rows,
    };
    Report::new(&serde_json::json!({ "nodes": nodes }), names, human)
}

/// Makes a join token and prints it, alone, on standard output.
///
/// # Errors
/// As [`list`]; [`Exit::Failed`] when the token's only answer was lost.
pub async fn join_token(args: JoinToken, shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let dry_run = args.dry_run.dry_run;
    let (id, mutation) = mutation(dry_run);
    let (cluster, node) = (args.cluster.to_string(), args.node.to_string());
    let request = pb::CreateJoinTokenRequest {
        mutation,
        cluster: cluster.clone(),
        node: node.clone(),
    };
    let what = format!("no join token was made for {cluster}/{node}");
    let answer: Result<pb::CreateJoinTokenResponse, _> = session
        .change(&what, id, &request, |channel, request| async move {
            NodesClient::new(channel).create_join_token(request).await
        })
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => {
            return Err(with_suggestion(failure, &cluster, super::cluster::names(&session)).await);
        }
    };
    let token = Zeroizing::new(answer.token);
    let changed = Changed::new(id, answer.committed, dry_run);
    let until = or_dash(time(answer.not_after).as_deref());
    let mut data = TokenJson {
        cluster,
        node,
        node_uid: answer.node_uid,
        not_after: time(answer.not_after),
        token: None,
        changed,
    };
    let (cluster, node, uid) = (&data.cluster, &data.node, &data.node_uid);
    if dry_run {
        let text = format!("a join token for {cluster}/{node} ({uid}) would be made");
        return Report::new(&data, Vec::new(), Human::Text(text));
    }
    if token.is_empty() {
        return Err(Failure::new(Exit::Failed, what)
            .because("it was made, and its only answer was lost")
            .of_request(id)
            .mend("make another one"));
    }
    // It is printed as it is.
    if !is_one_time(&token, JOIN_TOKEN) {
        return Err(Failure::new(Exit::Failed, what)
            .because("what the broker answered has not the form of a join token")
            .of_request(id));
    }
    shell.console.hint(&format!(
        "for node {node} ({uid}) of cluster {cluster}, once, until {until}: put it into the agent's join_token_file, mode 0400"
    ));
    match shell.console.format {
        // Alone on standard output, out of a buffer that is wiped.
        Format::Table | Format::Name => {
            let line = Zeroizing::new(format!("{}\n", token.as_str()));
            output::print(line.as_bytes())?;
        }
        Format::Json | Format::Yaml => data.token = Some(token.as_str()),
    }
    Report::new(&data, Vec::new(), Human::Text(String::new()))
}

/// Refuses every call of a node from now on.
///
/// # Errors
/// As [`list`]; when the name is not confirmed or names no node.
pub async fn ban(args: BanNode, shell: &Shell) -> Result<Report, Failure> {
    if !args.dry_run.dry_run {
        confirm(
            &format!(
                "Node {} will be banned: it gets no secret any more",
                args.node
            ),
            &args.node.to_string(),
            args.yes,
        )?;
    }
    set_ban(true, &args.node, args.reason, args.dry_run, shell).await
}

/// Lets a banned node call again.
///
/// # Errors
/// As [`list`].
pub async fn unban(args: UnbanNode, shell: &Shell) -> Result<Report, Failure> {
    set_ban(false, &args.node, args.reason, args.dry_run, shell).await
}

#[derive(Debug, Serialize)]
struct ReadmissionJson {
    /// How many nodes are left from before the restore.
    nodes: u32,
    not_after: Option<String>,
    #[serde(flatten)]
    changed: Changed,
}

/// Lets every node in that is left from before a restore, for an hour.
///
/// # Errors
/// As [`list`]; when `all` is not confirmed, or no node is left.
pub async fn readmit(args: ReadmitNodes, shell: &Shell) -> Result<Report, Failure> {
    let dry_run = args.dry_run.dry_run;
    if !dry_run {
        confirm(
            "Every live node from before the restore will be let in for an hour, with a key that nobody looks at: by its \
             plugin's own token, and once each",
            "all",
            args.yes,
        )?;
    }
    let session = shell.session().await?;
    let (id, mutation) = mutation(dry_run);
    let request = pb::ReadmitNodesRequest {
        mutation,
        reason: args.reason.unwrap_or_default(),
    };
    let answer: pb::ReadmitNodesResponse = session
        .change(
            "no node was readmitted",
            id,
            &request,
            |channel, request| async move { NodesClient::new(channel).readmit_nodes(request).await },
        )
        .await?;
    let changed = Changed::new(id, answer.committed, dry_run);
    let data = ReadmissionJson {
        nodes: answer.nodes,
        not_after: time(answer.not_after),
        changed,
    };
    let text = format!(
        "nodes from before the restore {} let in until {}, each once: {}; see them come with: attache node list",
        data.changed.says("are", "would be"),
        or_dash(data.not_after.as_deref()),
        data.nodes
    );
    Report::new(&data, Vec::new(), Human::Text(text))
}

#[derive(Debug, Serialize)]
struct BanJson {
    spiffe_id: String,
    banned: bool,
    #[serde(flatten)]
    changed: Changed,
}

async fn set_ban(
    banned: bool,
    node: &NodeArg,
    reason: Option<String>,
    dry_run: DryRun,
    shell: &Shell,
) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let word = if banned { "banned" } else { "unbanned" };
    let what = format!("node {node} was not {word}");
    let spiffe_id = resolve(node, &session, &what).await?;
    let (id, mutation) = mutation(dry_run.dry_run);
    let request = pb::BanNodeRequest {
        mutation,
        spiffe_id: spiffe_id.clone(),
        reason: reason.unwrap_or_default(),
    };
    let answer: Result<pb::BanResponse, _> = session
        .change(&what, id, &request, |channel, request| async move {
            let mut client = NodesClient::new(channel);
            if banned {
                client.ban_node(request).await
            } else {
                client.unban_node(request).await
            }
        })
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => {
            let ids = async {
                Ok(all(&session, "")
                    .await?
                    .into_iter()
                    .map(|node| node.spiffe_id)
                    .collect())
            };
            return Err(with_suggestion(failure, &spiffe_id, ids).await);
        }
    };
    let changed = Changed::new(id, answer.committed, dry_run.dry_run);
    let text = format!("node {spiffe_id} {} {word}", changed.says("is", "would be"));
    Report::new(
        &BanJson {
            spiffe_id: spiffe_id.clone(),
            banned,
            changed,
        },
        vec![spiffe_id],
        Human::Text(text),
    )
}

/// The whole SPIFFE ID of a node that was named by its cluster and its name or uid there.
async fn resolve(node: &NodeArg, session: &Session, what: &str) -> Result<String, Failure> {
    let (cluster, wanted) = match node {
        NodeArg::Id(id) => return Ok(id.to_string()),
        NodeArg::Named { cluster, node } => (cluster, node),
    };
    let known = all(session, cluster.as_str()).await?;
    let mut fitting = known
        .iter()
        .filter(|view| view.name == *wanted || view.uid == *wanted);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one.spiffe_id.clone()),
        (Some(_), Some(_)) => Err(Failure::new(Exit::Precondition, what)
            .because(format!(
                "several nodes of cluster {cluster} have joined under this name"
            ))
            .mend("name one by its uid: attache node list")),
        (None, _) => {
            let missing = Failure::new(Exit::Precondition, what).because("no such node has joined");
            Err(
                match nearest(wanted, known.iter().map(|view| view.name.as_str())) {
                    Some(near) => missing.mend(format!("did you mean {cluster}/{near}?")),
                    None => missing.mend("see which have: attache node list"),
                },
            )
        }
    }
}

async fn all(session: &Session, cluster: &str) -> Result<Vec<pb::NodeView>, Failure> {
    session
        .pages(|page| {
            let request = pb::ListNodesRequest {
                cluster: cluster.to_owned(),
                page: Some(page),
            };
            async move {
                let answer: pb::ListNodesResponse = session
                    .read(
                        "nodes cannot be listed",
                        &request,
                        |channel, request| async move {
                            NodesClient::new(channel).list_nodes(request).await
                        },
                    )
                    .await?;
                Ok((answer.nodes, answer.next_token))
            }
        })
        .await
}
