//! Several data sets as one: how often each is seen, and which rows are held out.

use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::columns::Columns;
use crate::rng::Rng;

/// What keeps the random numbers of both uses apart, and from those of packing.
const HELD_OUT: u64 = 3;
const PARTS: u64 = 4;

/// A file or a directory of rows, how often they are seen, and what their columns are called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "PathOrTable", into = "PathOrTable")]
pub struct Source {
    pub path: PathBuf,
    /// How often its documents are seen in an epoch: 2 twice, 0.5 every second one of them, and in the
    /// next epoch the others.
    pub weight: f64,
    pub columns: Columns,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathOrTable {
    Path(PathBuf),
    Table {
        path: PathBuf,
        #[serde(default = "one")]
        weight: f64,
        #[serde(default, skip_serializing_if = "Columns::is_empty")]
        columns: Columns,
    },
}

fn one() -> f64 {
    1.0
}

impl From<PathOrTable> for Source {
    fn from(given: PathOrTable) -> Self {
        match given {
            PathOrTable::Path(path) => path.into(),
            PathOrTable::Table { path, weight, columns } => Self { path, weight, columns },
        }
    }
}

impl From<Source> for PathOrTable {
    fn from(source: Source) -> Self {
        let Source { path, weight, columns } = source;
        match weight == 1.0 && columns.is_empty() {
            true => PathOrTable::Path(path),
            false => PathOrTable::Table { path, weight, columns },
        }
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self { path, weight: 1.0, columns: Columns::default() }
    }
}

/// Which rows are held out of training, for evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    /// Of all rows, about: each is drawn by itself.
    pub share: f64,
    pub seed: u64,
}

impl HeldOut {
    /// Whether row `row` of data set `set` is held out. Depends on nothing else.
    pub fn holds(self, set: usize, row: usize) -> bool {
        Rng::new(&[self.seed, HELD_OUT, set as u64]).unit(row as u64) < self.share
    }
}

/// The documents of an epoch, data set by data set: each as often as its set's weight says. Of a weight's
/// fraction the epochs take turns, so that all documents are seen equally often in the end.
pub fn epoch_documents(sets: &[(Range<u32>, f64)], seed: u64, epoch: u64) -> Vec<u32> {
    let mut all = Vec::new();
    for (set, (documents, weight)) in sets.iter().enumerate() {
        for _ in 0..*weight as u64 {
            all.extend(documents.clone());
        }
        let part = weight.fract() * documents.len() as f64;
        if part > 0.0 {
            let mut order: Vec<u32> = documents.clone().collect();
            Rng::new(&[seed, PARTS, set as u64]).shuffle(&mut order);
            let part = (part.round() as usize).clamp(1, order.len());
            let start = (u128::from(epoch) * part as u128 % order.len() as u128) as usize;
            all.extend(order.iter().cycle().skip(start).take(part));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(documents: &[u32], most: u32) -> Vec<usize> {
        (0..most).map(|d| documents.iter().filter(|&&x| x == d).count()).collect()
    }

    #[test]
    fn weights_say_how_often() {
        let sets = [(0..3, 1.0), (3..5, 2.0), (5..15, 0.4), (15..15, 0.5), (15..17, 1.5)];
        let epoch = |e| epoch_documents(&sets, 7, e);
        assert_eq!(times(&epoch(0), 5), [1, 1, 1, 2, 2]);
        assert_eq!(epoch(0).len(), 3 + 4 + 4 + 3);
        assert_eq!(epoch(3), epoch(3));
        // Five epochs of two fifths: each document twice.
        let all: Vec<u32> = (0..5).flat_map(epoch).collect();
        assert_eq!(times(&all, 15)[5..], [2; 10]);
        assert_ne!(epoch(0)[7..11], epoch(1)[7..11]);
        // A small set is never left out altogether.
        assert_eq!(epoch_documents(&[(0..2, 0.01)], 0, 0).len(), 1);
        assert_eq!(epoch_documents(&[(0..3, 1.0)], 0, 9), [0, 1, 2]);
    }

    #[test]
    fn a_share_is_held_out() {
        let held = HeldOut { share: 0.1, seed: 5 };
        let rows: Vec<usize> = (0..10_000).filter(|&row| held.holds(0, row)).collect();
        // Five standard deviations of the binomial are 150.
        assert!((850..1150).contains(&rows.len()), "{}", rows.len());
        assert_ne!(rows, (0..10_000).filter(|&row| held.holds(1, row)).collect::<Vec<_>>());
        let other = HeldOut { seed: 6, ..held };
        assert_ne!(rows, (0..10_000).filter(|&row| other.holds(0, row)).collect::<Vec<_>>());
    }

    #[test]
    fn sources_are_paths_or_tables() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct File {
            train: Vec<Source>,
        }
        let text =
            "train = [\"a.jsonl\", { path = \"b\", weight = 2.5, columns = { prompt = \"q\" } }]\n";
        let file: File = toml::from_str(text).expect("valid");
        assert_eq!(file.train[0], PathBuf::from("a.jsonl").into());
        assert_eq!((file.train[1].weight, file.train[1].columns.theirs("prompt")), (2.5, "q"));
        let again = toml::to_string(&file).expect("written");
        assert_eq!(toml::from_str::<File>(&again).expect("read again"), file);
    }
}
