//! Nodes and operators: `Nodes` and `Operators` of attache.v1.

use std::sync::Arc;

use attache_envelope::name::{ClusterName, NodeName};
use attache_mtls::spiffe::{NodeId, OperatorId, PeerId};
use attache_proto::attache::v1 as pb;
use pb::{nodes_server::Nodes, operators_server::Operators};
use tonic::{Code, Request, Response, Status};

use super::{
    clusters::no_cluster,
    field::{missing, note, operator_id, optional, page, page_token, parse, time},
    mutate::{Asked, Prepared, digest, mutate},
    peer::{OperatorPeer, Peers},
    rpc_error::RpcError,
};
use crate::{
    audit::Clock,
    identity::{BanRecord, Directory, READMISSION, View},
    mutation::Mutations,
    registry::Registry,
    store::{Change, Table},
};

/// The service.
#[derive(Clone)]
pub struct FleetService {
    /// Admits callers, and knows them.
    pub peers: Peers,
    /// The clusters that nodes belong to.
    pub registry: Arc<Registry>,
    /// Changes.
    pub mutations: Mutations,
    /// The time on record.
    pub clock: Clock,
}

#[tonic::async_trait]
impl Nodes for FleetService {
    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        self.peers.operator(request.extensions()).await?;
        let asked = request.into_inner();
        let page = page(asked.page)?;
        let cluster: Option<ClusterName> = optional("cluster", &asked.cluster)?;
        let directory = self.peers.gate().directory();
        let view = directory.view();
        let mut ids: Vec<NodeId> = view
            .nodes
            .keys()
            .filter_map(|id| id.parse::<NodeId>().ok())
            .filter(|id| cluster.as_ref().is_none_or(|c| id.cluster() == c.as_str()))
            .collect();
        ids.sort_by_key(ToString::to_string);
        let after = page.after.as_deref();
        ids.retain(|id| after.is_none_or(|after| id.to_string().as_str() > after));
        let more = ids.len() > page.size;
        ids.truncate(page.size);
        let last = ids.last().filter(|_| more).map(ToString::to_string);
        let next_token = page_token(last.as_deref());
        let nodes = ids
            .iter()
            .filter_map(|id| node_view(directory, &view, id))
            .collect();
        Ok(Response::new(pb::ListNodesResponse { nodes, next_token }))
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<pb::CreateJoinTokenResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("node.join-token", &asked);
        let name: ClusterName = parse("cluster", &asked.cluster)?;
        let node: NodeName = parse("node", &asked.node)?;
        let cluster = self
            .registry
            .clusters()
            .cluster(name.as_str())
            .ok_or_else(|| no_cluster(&name))?;
        let found = cluster.facts().node(&node).await.map_err(|e| {
            tracing::warn!(error = %e, "the cluster's record cannot be read");
            RpcError::unavailable(
                "CLUSTER_AWAY",
                "the cluster's record of nodes cannot be read; see the broker's log",
            )
        })?;
        let found = found.ok_or_else(|| {
            RpcError::new(
                Code::NotFound,
                "NO_NODE",
                format!("cluster {name} has no node {node}; look at its record of nodes"),
            )
        })?;
        let by = peer.id.to_string();
        let (text, id, record) = self
            .peers
            .gate()
            .draw_join_token(&name, (&node, &found.uid), by)
            .map_err(RpcError::from)?;
        let answer = pb::CreateJoinTokenResponse {
            node_uid: record.node_uid.clone(),
            not_after: time(record.not_after),
            ..Default::default()
        };
        let prepare = async {
            let mut change = Change::default();
            change.require_absent(Table::JoinToken, id);
            change.put(Table::JoinToken, id, record.encode());
            self.peers.gate().forget_expired_tokens(&mut change).await?;
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: "node.join-token",
            object: format!("{name}/{node}"),
            mutation,
            digest,
            reason: String::new(),
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        // The kept answer has no token: a repeat cannot show it again.
        let token = if committed.repeated || committed.seq == 0 {
            String::new()
        } else {
            text.to_string()
        };
        Ok(Response::new(pb::CreateJoinTokenResponse {
            committed: Some(committed),
            token,
            ..answer
        }))
    }

    async fn ban_node(
        &self,
        request: Request<pb::BanNodeRequest>,
    ) -> Result<Response<pb::BanResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("node.ban", &asked);
        let id = known_node(&self.peers.gate().directory().view(), &asked.spiffe_id)?;
        let reason = note("reason", asked.reason)?;
        let asked = Asked {
            peer,
            verb: "node.ban",
            object: id.to_string(),
            mutation,
            digest,
            reason,
        };
        Ok(Response::new(self.ban(asked, PeerId::Node(id)).await?))
    }

    async fn unban_node(
        &self,
        request: Request<pb::BanNodeRequest>,
    ) -> Result<Response<pb::BanResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("node.unban", &asked);
        let id = known_node(&self.peers.gate().directory().view(), &asked.spiffe_id)?;
        let reason = note("reason", asked.reason)?;
        let asked = Asked {
            peer,
            verb: "node.unban",
            object: id.to_string(),
            mutation,
            digest,
            reason,
        };
        Ok(Response::new(self.unban(asked).await?))
    }

    async fn readmit_nodes(
        &self,
        request: Request<pb::ReadmitNodesRequest>,
    ) -> Result<Response<pb::ReadmitNodesResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("node.readmit", &asked);
        let reason = note("reason", asked.reason)?;
        let by = peer.id.to_string();
        let prepare = async {
            let (word, nodes) = self.peers.gate().readmission(by)?;
            let mut change = Change::default();
            change.put(Table::Meta, READMISSION, word.encode());
            let answer = pb::ReadmitNodesResponse {
                committed: None,
                nodes,
                not_after: time(word.not_after),
            };
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: "node.readmit",
            object: "all nodes from before the restore".to_owned(),
            mutation,
            digest,
            reason,
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        Ok(Response::new(pb::ReadmitNodesResponse {
            committed: Some(committed),
            ..answer
        }))
    }
}

#[tonic::async_trait]
impl Operators for FleetService {
    async fn list_operators(
        &self,
        request: Request<pb::ListOperatorsRequest>,
    ) -> Result<Response<pb::ListOperatorsResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let page = page(request.into_inner().page)?;
        let view = self.peers.gate().directory().view();
        let after = page.after.as_deref();
        let mut names: Vec<&String> = view
            .operators
            .keys()
            .filter(|n| after.is_none_or(|after| n.as_str() > after))
            .collect();
        names.sort();
        let more = names.len() > page.size;
        names.truncate(page.size);
        let next_token = page_token(names.last().filter(|_| more).map(|n| n.as_str()));
        let operators = names
            .into_iter()
            .filter_map(|name| operator_view(&view, &peer, name))
            .collect();
        Ok(Response::new(pb::ListOperatorsResponse {
            operators,
            next_token,
        }))
    }

    async fn add_operator(
        &self,
        request: Request<pb::AddOperatorRequest>,
    ) -> Result<Response<pb::AddOperatorResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("operator.add", &asked);
        let id = operator_id(peer.id.trust_domain(), &asked.name)?;
        let gate = self.peers.gate();
        let by = peer.id.to_string();
        let (text, code, record) = gate.draw_operator_code(&id, by).map_err(RpcError::from)?;
        let answer = pb::AddOperatorResponse {
            not_after: time(record.not_after),
            ..Default::default()
        };
        let prepare = async {
            gate.is_free(&id)?;
            let mut change = Change::default();
            change.require_absent(Table::OperatorCode, code);
            change.put(Table::OperatorCode, code, record.encode());
            gate.forget_expired_codes(&mut change).await?;
            Ok(Prepared { change, answer })
        };
        let asked = Asked {
            peer,
            verb: "operator.add",
            object: id.to_string(),
            mutation,
            digest,
            reason: String::new(),
        };
        let (answer, committed) = mutate(&self.mutations, asked, prepare, |_| ()).await?;
        // The kept answer has no code: a repeat cannot show it again.
        let code = if committed.repeated || committed.seq == 0 {
            String::new()
        } else {
            text.to_string()
        };
        Ok(Response::new(pb::AddOperatorResponse {
            committed: Some(committed),
            code,
            ..answer
        }))
    }

    async fn ban_operator(
        &self,
        request: Request<pb::BanOperatorRequest>,
    ) -> Result<Response<pb::BanResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("operator.ban", &asked);
        let id = self.known_operator(&peer, &asked.name)?;
        let reason = note("reason", asked.reason)?;
        let asked = Asked {
            peer,
            verb: "operator.ban",
            object: id.to_string(),
            mutation,
            digest,
            reason,
        };
        Ok(Response::new(self.ban(asked, PeerId::Operator(id)).await?))
    }

    async fn unban_operator(
        &self,
        request: Request<pb::BanOperatorRequest>,
    ) -> Result<Response<pb::BanResponse>, Status> {
        let peer = self.peers.operator(request.extensions()).await?;
        let mut asked = request.into_inner();
        let mutation = asked.mutation.take();
        let digest = digest("operator.unban", &asked);
        let id = self.known_operator(&peer, &asked.name)?;
        let reason = note("reason", asked.reason)?;
        let asked = Asked {
            peer,
            verb: "operator.unban",
            object: id.to_string(),
            mutation,
            digest,
            reason,
        };
        Ok(Response::new(self.unban(asked).await?))
    }
}

impl FleetService {
    async fn ban(&self, asked: Asked, banned: PeerId) -> Result<pb::BanResponse, RpcError> {
        let id = asked.object.clone();
        let ban = BanRecord {
            reason: asked.reason.clone(),
            by: asked.peer.id.to_string(),
            at: self.clock.now(),
        };
        let own = asked.peer.id.to_string() == id;
        let prepare = async {
            if own {
                return Err(RpcError::new(
                    Code::FailedPrecondition,
                    "OWN_BAN",
                    "you cannot ban yourself: nobody might be left to lift it; ask another operator",
                ));
            }
            if self.peers.gate().directory().view().bans.contains_key(&id) {
                return Err(RpcError::new(
                    Code::AlreadyExists,
                    "BANNED",
                    format!("{id} is banned already"),
                ));
            }
            let mut change = Change::default();
            change.require_absent(Table::Ban, id.clone());
            change.put(Table::Ban, id.clone(), ban.encode());
            Ok(Prepared {
                change,
                answer: pb::BanResponse::default(),
            })
        };
        let (gate, taken) = (Arc::clone(self.peers.gate()), ban.clone());
        let (_, committed): (pb::BanResponse, _) =
            mutate(&self.mutations, asked, prepare, move |seq| {
                gate.banned(&banned, seq, &taken);
            })
            .await?;
        Ok(pb::BanResponse {
            committed: Some(committed),
        })
    }

    async fn unban(&self, asked: Asked) -> Result<pb::BanResponse, RpcError> {
        let id = asked.object.clone();
        let prepare = async {
            let view = self.peers.gate().directory().view();
            let (seq, _) = view.bans.get(&id).ok_or_else(|| {
                RpcError::new(
                    Code::NotFound,
                    "NOT_BANNED",
                    format!("{id} is not banned; nothing is to be lifted"),
                )
            })?;
            let mut change = Change::default();
            change.require_at(Table::Ban, id.clone(), *seq);
            change.deletes.push((Table::Ban, id.clone().into_bytes()));
            Ok(Prepared {
                change,
                answer: pb::BanResponse::default(),
            })
        };
        let (directory, taken) = (self.peers.gate().directory().clone(), id.clone());
        let (_, committed): (pb::BanResponse, _) =
            mutate(&self.mutations, asked, prepare, move |_| {
                directory.change(|view| drop(view.bans.remove(&taken)));
            })
            .await?;
        Ok(pb::BanResponse {
            committed: Some(committed),
        })
    }

    fn known_operator(&self, peer: &OperatorPeer, name: &str) -> Result<OperatorId, RpcError> {
        let id = operator_id(peer.id.trust_domain(), name)?;
        if !self
            .peers
            .gate()
            .directory()
            .view()
            .operators
            .contains_key(name)
        {
            return Err(RpcError::new(
                Code::NotFound,
                "NO_OPERATOR",
                format!(
                    "there is no operator {name}; see those there are with: attache operator list"
                ),
            ));
        }
        Ok(id)
    }
}

fn known_node(view: &View, text: &str) -> Result<NodeId, RpcError> {
    if text.is_empty() {
        return Err(missing("spiffe_id"));
    }
    let id = match text.parse::<PeerId>() {
        Ok(PeerId::Node(id)) => id,
        Ok(PeerId::Operator(_) | PeerId::Broker(_)) => {
            return Err(RpcError::invalid(
                "spiffe_id",
                "is not a node's; see those there are with: attache node list",
            ));
        }
        Err(error) => return Err(RpcError::invalid("spiffe_id", error.to_string())),
    };
    if !view.nodes.contains_key(text) {
        return Err(RpcError::new(
            Code::NotFound,
            "NO_NODE",
            format!("there is no node {id}; see those there are with: attache node list"),
        ));
    }
    Ok(id)
}

fn node_view(directory: &Directory, view: &View, id: &NodeId) -> Option<pb::NodeView> {
    let text = id.to_string();
    let (_, node) = view.nodes.get(&text)?;
    Some(pb::NodeView {
        banned: view.bans.contains_key(&text),
        cluster: id.cluster().to_owned(),
        uid: id.node_uid().to_owned(),
        name: node.name.clone(),
        serial: node.keys.current.serial.clone(),
        joined: time(node.joined),
        renewed: time(node.renewed),
        not_after: time(node.keys.not_after()),
        version: node.version.clone(),
        lacks: directory
            .lacking()
            .of(&text)
            .words()
            .map(str::to_owned)
            .collect(),
        spiffe_id: text,
    })
}

fn operator_view(view: &View, peer: &OperatorPeer, name: &str) -> Option<pb::OperatorView> {
    let (_, operator) = view.operators.get(name)?;
    let id = OperatorId::new(peer.id.trust_domain().clone(), name)
        .ok()?
        .to_string();
    Some(pb::OperatorView {
        banned: view.bans.contains_key(&id),
        spiffe_id: id,
        name: name.to_owned(),
        role: operator.role.name().to_owned(),
        serial: operator.keys.current.serial.clone(),
        created: time(operator.created),
        not_after: time(operator.keys.not_after()),
    })
}
