//! A connection to a broker that may be sealed: on its enrollment listener, as nobody, by the trust bundle or by the key that
//! the context has recorded.
//!
//! What travels is sealed to the boot key by HPKE within TLS; the secret of a passphrase slot is derived here. Nothing leaves
//! this module that is not sealed.

use std::time::{Duration, Instant};

use attache_envelope::id::{BootId, SlotId, StoreId};
use attache_envelope::key::KEY_BYTES;
use attache_envelope::shares::ShareSet;
use attache_envelope::slot::SlotKind;
use attache_envelope::slot::passphrase::PassphraseParameters;
use attache_envelope::unseal::UnsealChannel;
use attache_envelope::x25519::PublicKey;
use attache_envelope::{EnvelopeError, SystemRandom};
use attache_mtls::connect::Connector;
use attache_mtls::spiffe::BrokerId;
use attache_mtls::tls::{anonymous_client_config, recorded_client_config};
use attache_proto::attache::v1::{self as pb, unsealing_client::UnsealingClient};
use attache_proto::details::Details;
use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::Status;
use tonic::transport::Channel;
use tower::service_fn;
use zeroize::Zeroizing;

use crate::context::{Context, Settings};
use crate::failure::{Exit, Failure};
use crate::offered::malformed;
use crate::recorded::Recorded;
use crate::renewal::{Files, read_bundle};
use crate::session::{self, CONNECT_LIMIT};
use crate::status;

/// Where a broker listens for those who have no certificate, unless it is told otherwise.
const ENROLL_PORT: u16 = 7444;
/// How long a broker that was opened may take until it serves.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// How long a broker that tries others is left alone, where it does not say.
const BUSY: Duration = Duration::from_secs(1);
/// And at most: a stranger's word must not hold anybody up.
const LONGEST: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);
/// A store has no more slots.
const MAX_SLOTS: usize = 16;

/// A broker that may be sealed.
#[derive(Debug, Clone)]
pub struct Door {
    channel: Channel,
    broker: BrokerId,
}

/// A broker's answer to `GetSeal`, checked.
#[derive(Debug)]
pub struct Seal {
    /// The store.
    pub store: StoreId,
    /// What it says while it is sealed.
    pub sealed: Option<SealedBroker>,
}

/// What a sealed broker says.
#[derive(Debug)]
pub struct SealedBroker {
    /// What a secret is sealed to.
    pub boot_key: PublicKey,
    /// An operator sealed it.
    pub by_operator: bool,
    /// That operator's SPIFFE ID, where the broker could read it.
    pub sealed_by: Option<String>,
    /// And when.
    pub sealed_at: Option<pb::Time>,
    /// Its slots, by their own word.
    pub slots: Vec<SealedSlot>,
    boot: BootId,
}

/// What a broker makes of what it is given.
#[derive(Debug)]
pub enum Tried {
    /// It was tried.
    Given(Given),
    /// It was not tried, since others are: how long to wait.
    NotYet(Duration),
}

/// A slot of a sealed broker.
#[derive(Debug, Clone)]
pub struct SealedSlot {
    /// Its uuid.
    pub slot: SlotId,
    /// Its name.
    pub name: String,
    /// How its secret is had, in the broker's word.
    pub kind: String,
    /// How a passphrase becomes its secret.
    pub passphrase: Option<PassphraseParameters>,
    /// Where the shares stand that open it.
    pub ceremony: Option<Ceremony>,
}

/// Shares that several people give one broker, one after the other.
#[derive(Debug, Clone)]
pub struct Ceremony {
    /// What the slot's shares are known by.
    pub set: ShareSet,
    /// The numbers of those that were given, ascending.
    pub given: Vec<u8>,
    /// When they are forgotten.
    pub ends: Option<pb::Time>,
    /// When the last ceremony ended that had too few.
    pub lapsed: Option<pb::Time>,
}

/// What came of something that was given.
#[derive(Debug)]
pub enum Given {
    /// The broker is open.
    Opened,
    /// It does not open that slot.
    IsAnothers,
    /// It is a share that was taken, and more are needed.
    Taken(Box<Ceremony>),
}

impl SealedSlot {
    /// Whether its secret is had so.
    #[must_use]
    pub fn is(&self, kind: SlotKind) -> bool {
        self.kind == kind.name()
    }
}

/// The address for those who have no certificate: the port beside the other one.
#[must_use]
pub fn enrollment_of(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((host, _)) => format!("{host}:{ENROLL_PORT}"),
        None => address.to_owned(),
    }
}

impl Door {
    /// Points at a context's broker. No certificate of the operator is needed, and none is shown.
    ///
    /// # Errors
    /// [`Exit::Failed`] when the trust bundle cannot be used.
    pub fn of(
        settings: &Settings,
        context: &Context,
        enroll: Option<&str>,
    ) -> Result<Self, Failure> {
        let unusable = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(Exit::Failed, "the broker cannot be called").caused_by(error)
        };
        let files = Files::of(settings, context);
        let (bundle, broker) = (
            read_bundle(&files.trust_bundle)?.into(),
            context.broker.clone(),
        );
        let connector = match Recorded::of(&files).read() {
            Some(recorded) => recorded_client_config(bundle, broker.clone(), recorded)
                .map(|tls| Connector::for_recorded_key(tls, CONNECT_LIMIT)),
            None => anonymous_client_config(bundle, broker.clone())
                .map(|tls| Connector::new(tls, CONNECT_LIMIT)),
        };
        let connector = connector.map_err(|error| unusable(&error))?;
        let address = enroll.or(context.enroll.as_deref());
        let address = address.map_or_else(|| enrollment_of(&context.address), str::to_owned);
        let to = address.clone();
        let open = service_fn(move |_: Uri| {
            let (connector, to) = (connector.clone(), to.clone());
            async move { connector.connect(to).await.map(TokioIo::new) }
        });
        let channel = session::channel(&address, open)?;
        Ok(Self { channel, broker })
    }

    /// Asks whether it is sealed, and what opens it.
    ///
    /// # Errors
    /// As [`crate::status`] says; [`Exit::Failed`] for an answer that is not the pinned broker's, or malformed.
    pub async fn seal(&self, what: &str) -> Result<Seal, Failure> {
        let request = pb::GetSealRequest {};
        let answer: Result<pb::GetSealResponse, Status> =
            session::attempt(&self.channel, &request, |channel, request| async move {
                UnsealingClient::new(channel).get_seal(request).await
            })
            .await;
        let answer = answer.map_err(|status| status::failure(what, &status))?;
        check(answer, &self.broker.to_string())
            .map_err(|why| Failure::new(Exit::Failed, what).because(why))
    }

    /// Gives the secret of a slot, or a share of it.
    ///
    /// # Errors
    /// As [`crate::status`] says.
    pub async fn unseal(
        &self,
        seal: &Seal,
        sealed: &SealedBroker,
        slot: &SealedSlot,
        secret: &[u8],
        what: &str,
    ) -> Result<Tried, Failure> {
        let failed = |error: EnvelopeError| Failure::new(Exit::Failed, what).caused_by(&error);
        let channel = UnsealChannel {
            store: seal.store,
            broker_id: &self.broker.to_string(),
            boot: sealed.boot,
            boot_key: sealed.boot_key,
            slot: slot.slot,
        };
        let (enc, ciphertext) = channel.seal(&SystemRandom, secret).map_err(failed)?;
        let request = pb::UnsealRequest {
            boot: sealed.boot.as_bytes().to_vec(),
            slot: slot.slot.as_bytes().to_vec(),
            enc: enc.as_bytes().to_vec(),
            sealed: ciphertext,
        };
        let answer: Result<pb::UnsealResponse, Status> =
            session::attempt(&self.channel, &request, |channel, request| async move {
                UnsealingClient::new(channel).unseal(request).await
            })
            .await;
        match answer {
            Ok(answer) if answer.open => Ok(Tried::Given(Given::Opened)),
            Ok(answer) => {
                let taken = answer
                    .ceremony
                    .ok_or("it says of no share that it was taken");
                let taken = taken.map_err(malformed).and_then(ceremony);
                let taken = taken.map_err(|why| Failure::new(Exit::Failed, what).because(why))?;
                Ok(Tried::Given(Given::Taken(Box::new(taken))))
            }
            Err(status) => match status::reason(&status).as_deref() {
                Some("WRONG_SECRET") => Ok(Tried::Given(Given::IsAnothers)),
                // The answer to an attempt of ours was lost, or somebody else's came first.
                Some("NOT_SEALED") => Ok(Tried::Given(Given::Opened)),
                Some("TOO_MANY_ATTEMPTS" | "UNSEAL_BUSY") => {
                    let after = Details::of(&status).and_then(|it| it.retry_after);
                    Ok(Tried::NotYet(after.unwrap_or(BUSY).clamp(LOOK, LONGEST)))
                }
                Some(_) | None => Err(status::failure(what, &status)),
            },
        }
    }

    /// Waits until the broker is open, so long as that may take: it says so once it serves. `false`: it does not.
    pub async fn serves(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < SERVES_WITHIN {
            // Between the two states nobody answers for a moment.
            let looked = self.seal("it is not known whether the broker serves").await;
            if looked.is_ok_and(|seal| seal.sealed.is_none()) {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }
}

/// Checks a broker's answer.
fn check(answer: pb::GetSealResponse, pinned: &str) -> Result<Seal, String> {
    if answer.broker_id != pinned {
        return Err(format!(
            "the broker says that it is {}, and {pinned} is pinned",
            answer.broker_id
        ));
    }
    let store = StoreId::try_from(answer.store.as_slice()).map_err(malformed)?;
    if !answer.sealed {
        return Ok(Seal {
            store,
            sealed: None,
        });
    }
    if answer.slots.len() > MAX_SLOTS {
        return Err(malformed("it has more slots than a store can have"));
    }
    let slots: Result<Vec<_>, String> = answer.slots.into_iter().map(slot).collect();
    let sealed = SealedBroker {
        boot: BootId::try_from(answer.boot.as_slice()).map_err(malformed)?,
        boot_key: PublicKey::try_from(answer.boot_key.as_slice()).map_err(malformed)?,
        by_operator: answer.by_operator,
        sealed_by: Some(answer.sealed_by).filter(|by| !by.is_empty()),
        sealed_at: answer.sealed_at,
        slots: slots?,
    };
    Ok(Seal {
        store,
        sealed: Some(sealed),
    })
}

fn slot(slot: pb::SealedSlot) -> Result<SealedSlot, String> {
    let cost = |cost: pb::PassphraseCost| {
        let salt = <[u8; 32]>::try_from(cost.salt).map_err(|_| malformed("the salt"))?;
        // Bounded there: a stranger's word must not take this machine's memory.
        PassphraseParameters::from_parts(cost.memory_kib, cost.passes, cost.lanes, salt)
            .map_err(malformed)
    };
    Ok(SealedSlot {
        slot: SlotId::try_from(slot.slot.as_slice()).map_err(malformed)?,
        name: slot.name,
        kind: slot.kind,
        passphrase: slot.passphrase.map(cost).transpose()?,
        ceremony: slot.ceremony.map(ceremony).transpose()?,
    })
}

fn ceremony(ceremony: pb::Ceremony) -> Result<Ceremony, String> {
    let set = ShareSet::decode(&ceremony.share_set).map_err(malformed)?;
    let number = |number: &u32| {
        let number = u8::try_from(*number).ok();
        number.filter(|number| (1..=set.count()).contains(number))
    };
    let given: Option<Vec<u8>> = ceremony.given.iter().map(number).collect();
    let given = given.ok_or_else(|| malformed("the number of a share"))?;
    Ok(Ceremony {
        given,
        ends: ceremony.ends,
        lapsed: ceremony.lapsed,
        set,
    })
}

/// What a slot's secret is held in. Boxed, so that moving it leaves no copy.
pub type Secret = Box<Zeroizing<[u8; KEY_BYTES]>>;

/// What a passphrase makes with a slot's parameters.
///
/// # Errors
/// [`EnvelopeError::Refused`] when there is no memory for it.
pub fn derived(
    parameters: &PassphraseParameters,
    passphrase: &[u8],
) -> Result<Secret, EnvelopeError> {
    let mut secret = Box::new(Zeroizing::new([0; KEY_BYTES]));
    parameters.derive(passphrase, &mut secret)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PINNED: &str = "spiffe://example.internal/broker/b0";

    fn share_set() -> Vec<u8> {
        let secret = attache_envelope::key::SlotSecret::new(&[7; 32]);
        let split = attache_envelope::shares::split(&SystemRandom, secret, 3, 4);
        split.unwrap().0.encode()
    }

    fn answer() -> pb::GetSealResponse {
        pb::GetSealResponse {
            sealed: true,
            store: vec![1; 16],
            broker_id: PINNED.to_owned(),
            boot: vec![2; 16],
            boot_key: vec![3; 32],
            by_operator: true,
            sealed_by: "spiffe://example.internal/operator/ada".to_owned(),
            sealed_at: Some(pb::Time { unix_ms: 0 }),
            slots: vec![pb::SealedSlot {
                slot: vec![4; 16],
                name: "board".to_owned(),
                kind: "passphrase".to_owned(),
                passphrase: Some(pb::PassphraseCost {
                    memory_kib: 65_536,
                    passes: 3,
                    lanes: 4,
                    salt: vec![5; 32],
                }),
                ceremony: Some(pb::Ceremony {
                    share_set: share_set(),
                    given: vec![1, 3],
                    ends: None,
                    lapsed: None,
                }),
            }],
        }
    }

    #[test]
    fn an_answer_that_is_not_the_pinned_brokers_or_asks_for_too_much_is_refused() {
        let good = check(answer(), PINNED).unwrap();
        assert_eq!(good.sealed.unwrap().slots[0].name, "board");
        let change = |change: fn(&mut pb::GetSealResponse)| {
            let mut changed = answer();
            change(&mut changed);
            check(changed, PINNED).unwrap_err()
        };
        assert!(change(|it| it.broker_id.push('1')).contains("is pinned"));
        let malformed: [fn(&mut pb::GetSealResponse); 9] = [
            |it| it.store.truncate(15),
            |it| it.boot.clear(),
            |it| it.boot_key = vec![0; 32],
            |it| it.slots = vec![it.slots[0].clone(); 17],
            |it| it.slots[0].passphrase.as_mut().unwrap().memory_kib = u32::MAX,
            |it| it.slots[0].passphrase.as_mut().unwrap().salt.truncate(31),
            |it| it.slots[0].ceremony.as_mut().unwrap().share_set.clear(),
            |it| it.slots[0].ceremony.as_mut().unwrap().given = vec![0],
            |it| it.slots[0].ceremony.as_mut().unwrap().given = vec![5],
        ];
        for malform in malformed {
            let why = change(malform);
            assert!(why.contains("malformed"), "{why}");
        }
    }

    #[test]
    fn the_address_is_beside_the_other_one() {
        assert_eq!(enrollment_of("broker.example:7443"), "broker.example:7444");
        assert_eq!(enrollment_of("[::1]:9"), "[::1]:7444");
    }
}
