//! The core against a model of the store, with damage, conflicts and crashes at every step.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

/// Rows of a page in the model.
const PAGE: usize = 2;

/// A destroyed keyspace: its values, and its secrets with the value that each has. True: damaged.
#[derive(Debug, Default, Clone)]
struct Model {
    values: BTreeMap<u8, bool>,
    secrets: BTreeMap<u8, bool>,
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Step,
    Conflict,
    /// The step is committed, and the process killed before it knows.
    KilledBehind,
    Killed,
    DamageValue(u8),
    DamageSecret(u8),
}

fn at_value(number: u8) -> Passed {
    Passed::Value(NonZeroU32::MIN, vec![number])
}

impl Model {
    fn new(count: u8) -> Self {
        let all: BTreeMap<_, _> = (0..count).map(|number| (number, false)).collect();
        Self {
            values: all.clone(),
            secrets: all,
            ended: false,
        }
    }

    /// Does a step durably.
    fn carry_out(&mut self, step: &Step) -> Happened {
        let after = match step {
            Step::Remove(after) => after,
            Step::End if self.values.is_empty() && self.secrets.is_empty() => {
                self.ended = true;
                return Happened::Ended;
            }
            Step::End => return Happened::Conflict,
            Step::Wait => return Happened::Waited,
            Step::Over => return Happened::Ended,
        };
        let (page, of_values): (Vec<_>, _) = match after {
            Some(Passed::Secret(after)) => {
                let rest = self.secrets.keys().filter(|it| {
                    after
                        .as_ref()
                        .is_none_or(|after| [**it].as_slice() > after.as_slice())
                });
                (rest.take(PAGE).copied().collect(), false)
            }
            Some(Passed::Value(_, after)) => {
                let rest = self
                    .values
                    .keys()
                    .filter(|it| [**it].as_slice() > after.as_slice());
                (rest.take(PAGE).copied().collect(), true)
            }
            None => (self.values.keys().take(PAGE).copied().collect(), true),
        };
        let passed = match page.last() {
            Some(last) if of_values => Some(at_value(*last)),
            Some(last) => Some(Passed::Secret(Some(vec![*last]))),
            None if of_values => Some(Passed::Secret(None)),
            None => None,
        };
        let goes = |it: &u8| match of_values {
            true => !self.values[it],
            // A secret stays while its value does.
            false => !self.secrets[it] && !self.values.contains_key(it),
        };
        let (go, stay): (Vec<_>, Vec<_>) = page.into_iter().partition(goes);
        for it in &go {
            match of_values {
                true => self.values.remove(it),
                false => self.secrets.remove(it),
            };
        }
        let rows = go.len() as u64;
        Happened::Removed {
            values: if of_values { rows } else { 0 },
            rows,
            unreadable: stay.len() as u64,
            passed,
        }
    }

    fn run(&mut self, job: &mut Job, until: &Step) {
        for _ in 0..200 {
            if job.step() == *until {
                return;
            }
            let happened = self.carry_out(&job.step());
            job.happened(happened);
        }
        panic!("it does not come to {until:?}: {job:?}, {self:?}");
    }
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => Just(Action::Step),
        2 => Just(Action::Conflict),
        2 => Just(Action::KilledBehind),
        1 => Just(Action::Killed),
        1 => (0..12u8).prop_map(Action::DamageValue),
        1 => (0..12u8).prop_map(Action::DamageSecret),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_nothing_but_damage_stays_and_the_end_is_true(
        count in 0..12u8,
        actions in prop::collection::vec(action(), 0..60),
    ) {
        let (mut model, mut job) = (Model::new(count), Job::new());
        for action in actions {
            match action {
                Action::Step | Action::KilledBehind => {
                    let happened = model.carry_out(&job.step());
                    job.happened(happened);
                    if matches!(action, Action::KilledBehind) && !model.ended {
                        job = Job::new();
                    }
                }
                Action::Conflict => job.happened(Happened::Conflict),
                Action::Killed if !model.ended => job = Job::new(),
                Action::Killed => {}
                Action::DamageValue(number) => {
                    model.values.entry(number).and_modify(|it| *it = true);
                }
                Action::DamageSecret(number) => {
                    model.secrets.entry(number).and_modify(|it| *it = true);
                }
            }
            let over = job.step() == Step::Over;
            prop_assert_eq!(over, model.ended);
            prop_assert!(!over || (model.values.is_empty() && model.secrets.is_empty()));
        }
        let damaged = |of: &BTreeMap<u8, bool>| of.values().any(|it| *it);
        if damaged(&model.values) || damaged(&model.secrets) {
            model.run(&mut job, &Step::Wait);
            prop_assert!(model.values.values().all(|it| *it));
            let stays = |it: &u8| model.secrets[it] || model.values.contains_key(it);
            prop_assert!(model.secrets.keys().all(stays));
            // Whoever looks mends what is damaged; then everything goes.
            model.values.values_mut().for_each(|it| *it = false);
            model.secrets.values_mut().for_each(|it| *it = false);
        }
        model.run(&mut job, &Step::Over);
        prop_assert!(model.values.is_empty() && model.secrets.is_empty());
    }
}
