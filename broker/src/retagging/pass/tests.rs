use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Rows by table and key: the epoch that each tag is of.
type Rows = BTreeMap<(usize, u8), u32>;

/// A store as far as a pass sees it.
#[derive(Debug, Clone)]
struct World {
    rows: Rows,
    active: u32,
    /// Rows that cannot be read.
    damaged: Vec<(usize, u8)>,
    dropped_before: u32,
}

const PAGE: usize = 3;

impl World {
    fn carry_out(&mut self, step: Step) -> Happened {
        match step {
            Step::Look(table, after) => {
                let number = tables().position(|it| it == table).unwrap();
                let after = after.map(|key| key[0]);
                let page: Vec<_> = self
                    .rows
                    .iter()
                    .filter(|((of, key), _)| *of == number && after.is_none_or(|it| *key > it))
                    .map(|(name, epoch)| (*name, *epoch))
                    .take(PAGE)
                    .collect();
                let Some(((_, last), _)) = page.last().copied() else {
                    return Happened::TableEnded;
                };
                let mut tagged = 0;
                for (name, epoch) in &page {
                    if *epoch == self.active {
                        continue;
                    }
                    if !self.damaged.contains(name) {
                        self.rows.insert(*name, self.active);
                        tagged += 1;
                    }
                }
                Happened::Looked {
                    looked: page.len() as u64,
                    tagged,
                    last: vec![last],
                }
            }
            Step::Drop => {
                // What must never be: a key goes that a row still has a good tag of.
                let mut good = self
                    .rows
                    .iter()
                    .filter(|(name, _)| !self.damaged.contains(name));
                assert!(good.all(|(_, epoch)| *epoch == self.active));
                self.dropped_before = self.active;
                Happened::Dropped
            }
            Step::Over => Happened::Dropped,
        }
    }
}

/// What else happens between two steps.
#[derive(Debug, Clone)]
enum Meanwhile {
    Nothing,
    /// The process is killed: what is kept in memory is gone.
    Crash,
    /// The keyring changes under a drop.
    Conflict,
    /// Somebody writes a row under the active key.
    Write(usize, u8),
    /// A commit that was begun before the rotation ends.
    Late(usize, u8),
    Remove(usize, u8),
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    let table = 0..tables().count();
    prop_oneof![
        4 => Just(Meanwhile::Nothing),
        1 => Just(Meanwhile::Crash),
        1 => Just(Meanwhile::Conflict),
        2 => (table.clone(), any::<u8>()).prop_map(|(table, key)| Meanwhile::Write(table, key)),
        1 => (table.clone(), any::<u8>()).prop_map(|(table, key)| Meanwhile::Late(table, key)),
        1 => (table, any::<u8>()).prop_map(|(table, key)| Meanwhile::Remove(table, key)),
    ]
}

proptest! {
    #[test]
    fn keys_go_once_no_row_names_them_and_whatever_happens_it_ends(
        rows in prop::collection::btree_map((0..tables().count(), any::<u8>()), 1_u32..3, 0..40),
        meant in prop::collection::vec(meanwhile(), 0..60),
    ) {
        let mut world = World { rows, active: 2, damaged: Vec::new(), dropped_before: 1 };
        let (mut pass, mut steps) = (Pass::new(), 0);
        let mut meant = meant.into_iter();
        // A batch that was being made when the key was taken up is committed before the first page of the retagging is.
        let mut committed = false;
        loop {
            match meant.next() {
                Some(Meanwhile::Crash) => pass = Pass::new(),
                Some(Meanwhile::Conflict) => pass.happened(Happened::Conflict),
                Some(Meanwhile::Write(table, key)) => drop(world.rows.insert((table, key), 2)),
                Some(Meanwhile::Late(table, key)) if !committed => drop(world.rows.insert((table, key), 1)),
                Some(Meanwhile::Remove(table, key)) => drop(world.rows.remove(&(table, key))),
                Some(Meanwhile::Nothing | Meanwhile::Late(..)) | None => {}
            }
            let step = pass.step();
            if step == Step::Over {
                break;
            }
            let happened = world.carry_out(step);
            committed |= matches!(happened, Happened::Looked { tagged: 1.., .. } | Happened::TableEnded);
            pass.happened(happened);
            steps += 1;
            prop_assert!(steps < 10_000, "it does not end");
        }
        prop_assert_eq!(world.dropped_before, 2);
    }

    #[test]
    fn a_row_that_cannot_be_read_keeps_no_key(
        rows in prop::collection::btree_map((0..tables().count(), any::<u8>()), 1_u32..3, 1..20),
        which in any::<prop::sample::Index>(),
    ) {
        let name = *which.get(&rows.keys().copied().collect::<Vec<_>>());
        let mut world = World { rows, active: 2, damaged: vec![name], dropped_before: 1 };
        world.rows.insert(name, 1);
        let mut pass = Pass::new();
        for _ in 0..500 {
            let happened = world.carry_out(pass.step());
            pass.happened(happened);
        }
        prop_assert_eq!((pass.step(), world.dropped_before), (Step::Over, 2));
    }
}
