//! The core against a model of the store, with puts, rotations, other changes and crashes at every step.

use std::collections::{BTreeMap, BTreeSet};

use attache_envelope::body::KekPhase;
use attache_envelope::id::ValueId;
use proptest::prelude::*;

use super::*;

/// Values of a page in the model.
const PAGE: usize = 2;

/// A store with one keyspace: which value is wrapped under which epoch.
#[derive(Debug, Default)]
struct Model {
    keys: BTreeMap<u32, (KekPhase, u64)>,
    values: BTreeMap<ValueId, u32>,
    damaged: BTreeSet<ValueId>,
    puts: u8,
}

/// What the world does, and what becomes of a step.
#[derive(Debug, Clone, Copy)]
enum Action {
    Put,
    Rotate,
    /// The value of this number is destroyed.
    Destroy(u8),
    Damage(u8),
    /// The key of this number does its step.
    Step(u32),
    /// Its step stood on what has changed.
    Conflict(u32),
    /// Its step is committed, and the process killed before it knows.
    KilledBehind(u32),
    Killed,
}

fn value(number: u8) -> ValueId {
    ValueId::from_bytes([number; 16])
}

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        model.keys.insert(1, (KekPhase::Active, 0));
        model
    }

    fn active(&self) -> u32 {
        let mut active = self
            .keys
            .iter()
            .filter(|(_, (phase, _))| *phase == KekPhase::Active);
        let (epoch, _) = active.next().unwrap();
        assert!(active.next().is_none(), "two active keys");
        *epoch
    }

    fn rotate(&mut self) -> u32 {
        let old = self.active();
        self.keys.insert(old, (KekPhase::DecryptOnly, 0));
        self.keys.insert(old + 1, (KekPhase::Active, 0));
        old
    }

    fn put(&mut self) {
        self.puts = self.puts.wrapping_add(1);
        self.values.insert(value(self.puts), self.active());
    }

    fn under(&self, epoch: u32) -> Vec<ValueId> {
        let of = self.values.iter().filter(|(_, its)| **its == epoch);
        of.map(|(value, _)| *value).collect()
    }

    /// Does a step of the job of `epoch` durably.
    fn carry_out(&mut self, epoch: u32, step: Step) -> Happened {
        let under = self.under(epoch);
        match step {
            Step::Count => {
                let (_, of) = self.keys.get_mut(&epoch).unwrap();
                let left = under.len() as u64;
                *of = if *of == 0 { left } else { *of };
                Happened::Counted { left, of: *of }
            }
            Step::Rewrap { after } => {
                let rest = under.iter().filter(|it| {
                    after
                        .as_deref()
                        .is_none_or(|after| &it.as_bytes()[..] > after)
                });
                let page: Vec<_> = rest.take(PAGE).copied().collect();
                let Some(last) = page.last().map(|last| last.as_bytes().to_vec()) else {
                    return Happened::PageEmpty;
                };
                let (broken, whole): (Vec<_>, Vec<_>) =
                    page.into_iter().partition(|it| self.damaged.contains(it));
                let active = self.active();
                for it in &whole {
                    self.values.insert(*it, active);
                }
                let (values, unreadable) = (whole.len() as u64, broken.len() as u64);
                Happened::Rewrapped {
                    values,
                    unreadable,
                    strays: 0,
                    last,
                }
            }
            Step::Retire if under.is_empty() => {
                self.keys.get_mut(&epoch).unwrap().0 = KekPhase::Retired;
                Happened::Retired
            }
            Step::Retire => Happened::Conflict,
            Step::Wait => Happened::Waited,
            Step::Over => Happened::Retired,
        }
    }

    /// What a start finds.
    fn jobs(&self) -> BTreeMap<u32, Job> {
        let old = self
            .keys
            .iter()
            .filter(|(_, (phase, _))| *phase == KekPhase::DecryptOnly);
        old.map(|(epoch, _)| (*epoch, Job::new())).collect()
    }

    fn check(&self) {
        let active = self.active();
        for (value, epoch) in &self.values {
            let (phase, _) = self.keys[epoch];
            assert!(*epoch <= active);
            assert_ne!(phase, KekPhase::Retired, "{value} is under a retired key");
        }
    }
}

fn action() -> impl Strategy<Value = Action> {
    let key = 1..4u32;
    prop_oneof![
        3 => Just(Action::Put),
        1 => Just(Action::Rotate),
        1 => any::<u8>().prop_map(Action::Destroy),
        1 => (0..8u8).prop_map(Action::Damage),
        6 => key.clone().prop_map(Action::Step),
        2 => key.clone().prop_map(Action::Conflict),
        2 => key.prop_map(Action::KilledBehind),
        1 => Just(Action::Killed),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_every_value_has_its_key_and_each_rotation_ends(
        actions in prop::collection::vec(action(), 0..120),
    ) {
        let (mut model, mut jobs) = (Model::new(), BTreeMap::new());
        for action in actions {
            match action {
                Action::Put => model.put(),
                Action::Rotate => {
                    let old = model.rotate();
                    jobs.insert(old, Job::new());
                }
                Action::Destroy(number) => drop(model.values.remove(&value(number))),
                Action::Damage(number) => drop(model.damaged.insert(value(number))),
                Action::Step(key) | Action::KilledBehind(key) => {
                    if let Some(job) = jobs.get_mut(&key) {
                        let happened = model.carry_out(key, job.step());
                        job.happened(happened);
                    }
                    if matches!(action, Action::KilledBehind(_)) {
                        jobs = model.jobs();
                    }
                }
                Action::Conflict(key) => {
                    if let Some(job) = jobs.get_mut(&key) {
                        job.happened(Happened::Conflict);
                    }
                }
                Action::Killed => jobs = model.jobs(),
            }
            model.check();
        }
        // Whoever looks mends what is damaged; then everything ends, whatever came before.
        model.damaged.clear();
        jobs = model.jobs();
        for (key, job) in &mut jobs {
            for _ in 0..2 * model.values.len() + 8 {
                let happened = model.carry_out(*key, job.step());
                job.happened(happened);
            }
            prop_assert_eq!(job.step(), Step::Over);
            let (done, of) = job.done();
            prop_assert_eq!(done, of);
        }
        model.check();
        let active = model.active();
        prop_assert!(model.values.values().all(|epoch| *epoch == active));
    }
}

#[test]
fn a_pass_that_only_took_strays_out_of_the_index_is_looked_at_again_in_a_while() {
    let mut job = Job::new();
    job.happened(Happened::Counted { left: 3, of: 3 });
    job.happened(Happened::Rewrapped {
        values: 1,
        unreadable: 0,
        strays: 0,
        last: vec![0],
    });
    job.happened(Happened::PageEmpty);
    assert_eq!(
        (job.step(), job.done()),
        (Step::Rewrap { after: None }, (1, 3))
    );
    job.happened(Happened::Rewrapped {
        values: 0,
        unreadable: 0,
        strays: 2,
        last: vec![1],
    });
    job.happened(Happened::PageEmpty);
    assert_eq!((job.step(), job.done()), (Step::Wait, (1, 1)));
    job.happened(Happened::Waited);
    job.happened(Happened::PageEmpty);
    assert_eq!(job.step(), Step::Retire);
}

#[test]
fn what_cannot_be_read_is_waited_for_and_the_rest_is_done() {
    let mut model = Model::new();
    for _ in 0..5 {
        model.put();
    }
    model.damaged.insert(value(2));
    let old = model.rotate();
    let mut job = Job::new();
    for _ in 0..20 {
        if job.step() == Step::Wait {
            break;
        }
        let happened = model.carry_out(old, job.step());
        job.happened(happened);
    }
    assert_eq!(
        (job.step(), job.done(), job.unreadable()),
        (Step::Wait, (4, 5), 1)
    );
    assert_eq!(model.under(old), [value(2)]);
    model.damaged.clear();
    for _ in 0..8 {
        let happened = model.carry_out(old, job.step());
        job.happened(happened);
    }
    assert_eq!(
        (job.step(), job.done(), job.unreadable()),
        (Step::Over, (5, 5), 0)
    );
}
