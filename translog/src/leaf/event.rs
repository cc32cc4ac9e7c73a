//! The kinds of leaves and the tags of their items: the registry. Numbers here are in logs for good; a number is never
//! used again for anything else. Within a struct the fields stand in the order of their tags, as their items do.

use super::tlv::{LeafError, Reader, Writer};
use super::value::{Ending, Field, Generation, ReleasedValue};

macro_rules! tags {
    ($( $(#[$doc:meta])* $name:ident = $number:literal $text:literal, )*) => {
        /// What an item of a leaf says.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Tag { $( $(#[$doc])* $name = $number, )* }

        impl Tag {
            /// Every tag, ascending.
            pub const ALL: &[Self] = &[$( Self::$name, )*];

            /// The number in the byte form.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $( Self::$name => $number, )* }
            }

            /// The name that people see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }
        }
    };
}

tags! {
    /// u16: the kind of the leaf.
    Kind = 1 "kind",
    /// u64, ms since 1970: when.
    Time = 2 "time",
    /// uuid: the broker process.
    Boot = 3 "boot",
    /// SPIFFE ID: who did it, or asked for it.
    Actor = 4 "actor",
    /// bytes: the serial number of the certificate that the actor showed.
    Serial = 5 "serial",
    /// 16 bytes: the caller's request.
    RequestId = 6 "request",
    /// text: what was asked for, such as `secret.put`.
    Verb = 7 "verb",
    /// text: what it was asked for, such as `payments/db`.
    Object = 8 "object",
    /// 32 bytes: the digest of the request.
    Digest = 9 "digest",
    /// u64: the store's seq that a mutation expects to get.
    ExpectedSeq = 10 "expected-seq",
    /// 16 bytes: one release.
    ReleaseId = 11 "release",
    /// 16 bytes: the sealing session of a node and a broker.
    Session = 12 "session",
    /// 16 bytes: drawn by the node's agent for the release.
    Nonce = 13 "nonce",
    /// 32 bytes: SHA-256 of the agent's public key.
    PluginKey = 14 "plugin-key",
    /// SPIFFE ID: the identity that a leaf is about, where that is not the actor.
    Identity = 15 "identity",
    /// text.
    Cluster = 16 "cluster",
    /// text.
    Namespace = 17 "namespace",
    /// text.
    ServiceAccount = 18 "service-account",
    /// text.
    PodName = 19 "pod",
    /// text: the pod's uid.
    PodUid = 20 "pod-uid",
    /// text.
    Container = 21 "container",
    /// text: the container's image, as the pod names it.
    Image = 22 "image",
    /// text: the CSI volume id.
    VolumeId = 23 "volume-id",
    /// text: the volume's name in the pod.
    VolumeName = 24 "volume",
    /// list of (keyspace, name, secret uuid, version u64, field, value uuid).
    Values = 25 "values",
    /// list of text: references that were refused, or left out as optional.
    References = 26 "references",
    /// LP(incarnation u32, seq u64, digest 32).
    Generation = 27 "generation",
    /// 4 bytes, shown as 8 hex digits: the decision that a pod's author sees.
    DenialId = 28 "decision",
    /// text: why, as far as the caller may know.
    PublicReason = 29 "reason",
    /// text: why.
    TrueReason = 30 "true-reason",
    /// list of text: the names of the policies that determined the answer.
    Policies = 31 "policies",
    /// u64: how many.
    Count = 32 "count",
    /// u64, ms since 1970: the first of them.
    First = 33 "first",
    /// u64, ms since 1970: the last of them.
    Last = 34 "last",
    /// u8: 1 committed, 2 not committed.
    Ending = 35 "ending",
    /// u32: the store's incarnation.
    Incarnation = 36 "incarnation",
    /// u64: the store's seq.
    Seq = 37 "seq",
    /// 32 bytes: the anchor chain's value at that seq.
    AnchorT = 38 "anchor",
    /// u64: the index of the intent that is closed.
    IntentIndex = 39 "intent",
    /// u64: the first index of the segment in which the log was cut.
    CutSegment = 40 "cut-segment",
    /// u64: the byte in that segment from which on it was zeroed.
    CutOffset = 41 "cut-offset",
    /// u64: how many bytes were zeroed, up to the last that was not zero.
    CutBytes = 42 "cut-bytes",
    /// u64: how many whole leaves were among them.
    CutLeaves = 43 "cut-leaves",
    /// 32 bytes: SHA-256 of a certificate's SubjectPublicKeyInfo.
    KeyHash = 44 "key",
    /// u64, ms since 1970: a certificate's end.
    NotAfter = 45 "not-after",
    /// text: by what an identity was proved, such as `join-token`.
    Evidence = 46 "evidence",
    /// bytes: the serial number of the certificate issued.
    IssuedSerial = 47 "issued-serial",
    /// text: the broker's version.
    Software = 48 "software",
    /// text: how key memory is protected.
    KeyMemory = 49 "key-memory",
    /// u64: how many leaves the log had.
    Size = 50 "size",
    /// u32: the epoch of a key.
    Epoch = 51 "epoch",
    /// 32 bytes: the Ed25519 public key that signed until then.
    KeyBefore = 52 "public-key-before",
    /// 32 bytes: the Ed25519 public key that signs from then on.
    KeyAfter = 53 "public-key",
    /// 64 bytes: the signature of the key before over what names the key after it.
    Endorsement = 54 "endorsement",
}

/// Whether each tag is greater than the one before it, and all come after the three that every leaf has.
const fn ascend(mut tags: &[Tag]) -> bool {
    let mut last = Tag::Boot;
    while let [tag, rest @ ..] = tags {
        if tag.number() <= last.number() {
            return false;
        }
        (last, tags) = (*tag, rest);
    }
    true
}

macro_rules! events {
    ($(
        $(#[$doc:meta])*
        $name:ident = $number:literal $text:literal {
            $( $(#[$field_doc:meta])* $field:ident: $type:ty = $tag:ident, )*
        }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $name { $( $(#[$field_doc])* pub $field: $type, )* }

            // The items are written and read in the order of the fields.
            const _: () = assert!(ascend(&[$( Tag::$tag, )*]), "fields stand in the order of their tags");

            impl From<$name> for Event {
                fn from(event: $name) -> Self {
                    Self::$name(event)
                }
            }
        )*

        /// What happened: one variant a kind.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Event { $( $(#[$doc])* $name($name), )* }

        impl Event {
            /// Every kind: its number and its name.
            pub const KINDS: &[(u16, &'static str)] = &[$( ($number, $text), )*];

            /// The kind's number in the byte form.
            #[must_use]
            pub const fn kind(&self) -> u16 {
                match self { $( Self::$name(_) => $number, )* }
            }

            /// The kind's name that people see.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $( Self::$name(_) => $text, )* }
            }

            /// The event's items as text for people, in the order of their tags; those that are absent are left out.
            #[must_use]
            pub fn items(&self) -> Vec<(Tag, String)> {
                match self { $(
                    Self::$name(event) => [$( (Tag::$tag, event.$field.shown()), )*]
                        .into_iter()
                        .filter_map(|(tag, text)| Some((tag, text?)))
                        .collect(),
                )* }
            }

            pub(super) fn write(&self, out: &mut Writer) {
                match self { $( Self::$name(event) => { $( event.$field.write(Tag::$tag, out); )* } )* }
            }

            pub(super) fn read(kind: u16, reader: &mut Reader<'_>) -> Result<Self, LeafError> {
                match kind {
                    $( $number => Ok(Self::$name($name { $( $field: Field::read(Tag::$tag, reader)?, )* })), )*
                    number => Err(LeafError::Unknown { what: "leaf kind", number }),
                }
            }
        }
    };
}

events! {
    /// A broker process took up its log.
    Start = 1 "start" {
        /// The broker's SPIFFE ID.
        broker: String = Actor,
        /// The store's incarnation.
        incarnation: u32 = Incarnation,
        /// The store's seq.
        seq: u64 = Seq,
        /// The broker's version.
        software: String = Software,
        /// How key memory is protected.
        key_memory: String = KeyMemory,
    }

    /// A broker process shut down in order, or was sealed.
    Stop = 2 "stop" {
        /// The broker's SPIFFE ID.
        broker: String = Actor,
    }

    /// Values were handed to a container's node.
    Release = 3 "release" {
        /// The node's SPIFFE ID.
        node: String = Actor,
        /// The serial number of the node's certificate.
        serial: Vec<u8> = Serial,
        /// This release, and no retry of it.
        release: [u8; 16] = ReleaseId,
        /// The sealing session.
        session: [u8; 16] = Session,
        /// Drawn by the agent.
        nonce: [u8; 16] = Nonce,
        /// SHA-256 of the agent's public key.
        plugin_key: [u8; 32] = PluginKey,
        /// The cluster.
        cluster: String = Cluster,
        /// The pod's namespace.
        namespace: String = Namespace,
        /// The pod's service account.
        service_account: String = ServiceAccount,
        /// The pod's name.
        pod_name: String = PodName,
        /// The pod's uid.
        pod_uid: String = PodUid,
        /// The one container that mounts the volume.
        container: String = Container,
        /// The container's image.
        image: Option<String> = Image,
        /// The CSI volume id.
        volume_id: String = VolumeId,
        /// The volume's name in the pod.
        volume_name: String = VolumeName,
        /// What was handed over, in the order of the sealed keys.
        values: Vec<ReleasedValue> = Values,
        /// Optional references that were left out.
        left_out: Option<Vec<String>> = References,
        /// The generation that the delivery then holds.
        generation: Generation = Generation,
        /// The grants that allowed it.
        policies: Vec<String> = Policies,
    }

    /// A request was refused: the first of its key. What was not attested is absent.
    Denial = 4 "denial" {
        /// The SPIFFE ID of the peer's certificate.
        actor: String = Actor,
        /// The serial number of that certificate.
        serial: Vec<u8> = Serial,
        /// The caller's request.
        request: Option<[u8; 16]> = RequestId,
        /// What was asked for.
        verb: String = Verb,
        /// What it was asked for, where that is no workload's volume.
        object: Option<String> = Object,
        /// The cluster.
        cluster: Option<String> = Cluster,
        /// The pod's namespace.
        namespace: Option<String> = Namespace,
        /// The pod's service account.
        service_account: Option<String> = ServiceAccount,
        /// The pod's name.
        pod_name: Option<String> = PodName,
        /// The pod's uid.
        pod_uid: Option<String> = PodUid,
        /// The container.
        container: Option<String> = Container,
        /// The container's image.
        image: Option<String> = Image,
        /// The CSI volume id.
        volume_id: Option<String> = VolumeId,
        /// The volume's name in the pod.
        volume_name: Option<String> = VolumeName,
        /// What was refused.
        references: Option<Vec<String>> = References,
        /// The decision that the pod's author sees.
        denial: Option<[u8; 4]> = DenialId,
        /// What the caller was told.
        public_reason: String = PublicReason,
        /// What is true.
        true_reason: String = TrueReason,
        /// The policies that determined it.
        policies: Option<Vec<String>> = Policies,
    }

    /// Repeats of a refusal, counted in memory since its denial leaf or the last of these.
    Refusals = 5 "refusals" {
        /// The SPIFFE ID of the peer's certificate.
        actor: String = Actor,
        /// The decision, for refusals after attestation.
        denial: Option<[u8; 4]> = DenialId,
        /// What the callers were told.
        public_reason: String = PublicReason,
        /// How many repeats.
        count: u64 = Count,
        /// When the first of them came.
        first_ms: u64 = First,
        /// When the last of them came.
        last_ms: u64 = Last,
    }

    /// An operator's change is about to be committed. Every intent is closed by one outcome.
    Intent = 6 "intent" {
        /// The operator's SPIFFE ID.
        operator: String = Actor,
        /// The serial number of the operator's certificate.
        serial: Vec<u8> = Serial,
        /// The request.
        request: [u8; 16] = RequestId,
        /// What is changed.
        verb: String = Verb,
        /// On what.
        object: String = Object,
        /// The digest of the request.
        digest: [u8; 32] = Digest,
        /// The store's seq that it is built for.
        expected_seq: u64 = ExpectedSeq,
        /// Why, in the operator's words, where they gave any.
        reason: Option<String> = TrueReason,
    }

    /// An intent's end.
    Outcome = 7 "outcome" {
        /// The operator's SPIFFE ID.
        operator: String = Actor,
        /// The request.
        request: [u8; 16] = RequestId,
        /// SHA-256 of what was made outside of the store: a backup's file.
        made: Option<[u8; 32]> = Digest,
        /// Why not, where it was not committed.
        reason: Option<String> = TrueReason,
        /// Committed or not.
        ending: Ending = Ending,
        /// The store's seq at which it was committed.
        seq: Option<u64> = Seq,
        /// The anchor chain's value there.
        anchor_t: Option<[u8; 32]> = AnchorT,
        /// The intent's index.
        intent: u64 = IntentIndex,
    }

    /// A start found the log torn behind its last checkpoint and zeroed the rest.
    Cut = 8 "cut" {
        /// The first index of the segment.
        segment: u64 = CutSegment,
        /// The byte in it from which on it was zeroed.
        offset: u64 = CutOffset,
        /// How many bytes, up to the last that was not zero.
        bytes: u64 = CutBytes,
        /// How many whole leaves were among them: none was ever acknowledged.
        leaves: u64 = CutLeaves,
        /// How many leaves the log kept.
        size: u64 = Size,
    }

    /// An operator signed in: on the admin socket, by recovery, or by another operator's code.
    Bootstrap = 9 "bootstrap" {
        /// The new operator's SPIFFE ID.
        operator: String = Identity,
        /// SHA-256 of its SubjectPublicKeyInfo.
        key: [u8; 32] = KeyHash,
        /// When its certificate ends.
        not_after_ms: u64 = NotAfter,
        /// By what, where that was a code: its id, and who made it.
        evidence: Option<String> = Evidence,
        /// Its certificate's serial number.
        serial: Vec<u8> = IssuedSerial,
    }

    /// A node was enrolled.
    Enrollment = 10 "enrollment" {
        /// The node's SPIFFE ID.
        node: String = Identity,
        /// SHA-256 of its SubjectPublicKeyInfo.
        key: [u8; 32] = KeyHash,
        /// When its certificate ends.
        not_after_ms: u64 = NotAfter,
        /// What proved it, such as `join-token` and the token's id.
        evidence: String = Evidence,
        /// Its certificate's serial number.
        serial: Vec<u8> = IssuedSerial,
    }

    /// An identity renewed its certificate.
    Renewal = 11 "renewal" {
        /// The identity's SPIFFE ID.
        identity: String = Actor,
        /// The serial number that it renewed from.
        previous_serial: Vec<u8> = Serial,
        /// SHA-256 of its SubjectPublicKeyInfo.
        key: [u8; 32] = KeyHash,
        /// When its certificate ends.
        not_after_ms: u64 = NotAfter,
        /// By what the key was proved, where that was no connection.
        evidence: Option<String> = Evidence,
        /// Its certificate's serial number.
        serial: Vec<u8> = IssuedSerial,
    }

    /// An identity was banned by the broker itself. An operator's ban is an intent and its outcome.
    Ban = 12 "ban" {
        /// The banned identity's SPIFFE ID.
        identity: String = Identity,
        /// Why.
        reason: String = TrueReason,
    }

    /// Something that an operator must look at, such as a second enrollment of a live node.
    Alarm = 13 "alarm" {
        /// The identity that it is about.
        identity: String = Identity,
        /// What was seen.
        reason: String = TrueReason,
    }

    /// A copy of the store's anchor.
    Anchor = 14 "anchor" {
        /// The store's incarnation.
        incarnation: u32 = Incarnation,
        /// The store's seq.
        seq: u64 = Seq,
        /// The anchor chain's value there.
        t: [u8; 32] = AnchorT,
    }

    /// A key of a keyspace was retired by the broker itself: its values are wrapped again, and by the index nothing is
    /// wrapped under it any more.
    Retirement = 15 "retirement" {
        /// The key, such as `payments@1`.
        key: String = Object,
        /// How many values of it were wrapped again.
        values: u64 = Count,
    }

    /// What was left of a destroyed keyspace was removed by the broker itself: no row of it is in the store but the one by
    /// which its name stays taken.
    Removal = 16 "removal" {
        /// The keyspace.
        keyspace: String = Object,
        /// How many values were removed since the broker that came to the end was started.
        values: u64 = Count,
    }

    /// The store was opened by one of its slots.
    Opening = 17 "opening" {
        /// The broker's SPIFFE ID.
        broker: String = Actor,
        /// The slot, by its name and uuid.
        slot: String = Object,
        /// How its secret was had, such as `the key file /etc/attache/slot.key`.
        how: String = Evidence,
    }

    /// What was given to open the broker while it was sealed: noted then, unsigned, in a file beside the store.
    Attempts = 18 "unseal-attempts" {
        /// The broker's SPIFFE ID.
        broker: String = Actor,
        /// The slot, where it is one attempt.
        slot: Option<String> = Object,
        /// How it ended.
        ending: String = TrueReason,
        /// How many: 1, or those that were only counted.
        count: u64 = Count,
        /// When the first of them came.
        first_ms: u64 = First,
        /// When the last of them came.
        last_ms: u64 = Last,
        /// From which address, where it is one attempt.
        address: Option<String> = Evidence,
    }

    /// Versions that their keyspace does not keep are about to be taken out of the store by the broker itself. What the store
    /// refuses, since something has changed, is done and recorded once more.
    Pruning = 19 "pruning" {
        /// The keyspace.
        keyspace: String = Object,
        /// The versions, such as `payments/db@1`.
        versions: Vec<String> = References,
        /// How many values go with them.
        values: u64 = Count,
    }

    /// The key that signs the log is about to be another. What the store refuses is recorded once more, with another key.
    Succession = 20 "audit-key" {
        /// The epoch of the key after.
        epoch: u32 = Epoch,
        /// The public key before.
        before: [u8; 32] = KeyBefore,
        /// The public key after.
        after: [u8; 32] = KeyAfter,
        /// What the key before signed: see [`Succession::endorse`](crate::Succession::endorse).
        endorsement: [u8; 64] = Endorsement,
    }

    /// A key of a keyspace is about to be rotated by the broker itself, as the keyspace's settings demand. What the store
    /// refuses, since something has changed, is done and recorded once more if it still has to be.
    Rotation = 22 "rotation" {
        /// The key that wraps no more, such as `payments@1`.
        key: String = Object,
        /// What it is past.
        reason: String = TrueReason,
    }

    /// A broker that an operator had sealed was opened again: by whom and when it was sealed, as noted then, unsigned, in a file
    /// beside the store. What could not be read of it is absent.
    Sealing = 24 "operator-seal" {
        /// The operator's SPIFFE ID.
        operator: Option<String> = Actor,
        /// The serial number of the operator's certificate.
        serial: Option<Vec<u8>> = Serial,
        /// The request.
        request: Option<[u8; 16]> = RequestId,
        /// The broker's SPIFFE ID.
        broker: String = Object,
        /// Why, in the operator's words, or what is wrong with the note.
        reason: Option<String> = TrueReason,
        /// When it was sealed.
        since_ms: Option<u64> = First,
    }
}
