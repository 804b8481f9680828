//! What was seen while loading: counts, why rows were left out, how long documents are.

use std::collections::BTreeMap;

use super::Document;
use super::error::RowProblem;
use super::records::Kind;

/// What was seen while loading one data set, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Rows that were not blank.
    pub rows: usize,
    /// Rows held out for evaluation; they are in no other count but `rows`, `skipped` and `kinds`.
    pub held_out: usize,
    /// How many rows of each kind were read.
    pub kinds: BTreeMap<Kind, usize>,
    /// Bad rows left out, and the first of them.
    pub skipped: usize,
    pub first_skipped: Option<String>,
    /// The bad rows by reason, with the first of each.
    pub reasons: BTreeMap<&'static str, Reason>,
    /// Rows cut to `max_length`.
    pub truncated: usize,
    /// Rows cut into several documents.
    pub split: usize,
    /// Pieces of those without a loss token, left out.
    pub pieces_without_loss: usize,
    /// Assistant turns that end without one of the model's stop tokens: it will not learn to stop.
    pub turns_without_stop: usize,
    /// Plain rows where a token lies on both sides of the border between prompt and completion.
    pub straddled: usize,
    /// Chat rows whose earlier turns the template shows differently once later messages follow: the
    /// model is taught to answer in a conversation as it reads in the end.
    pub rewritten: usize,
    pub documents: usize,
    pub tokens: usize,
    pub loss_tokens: usize,
    /// The longest document's tokens.
    pub longest: usize,
    /// The rows' lengths in tokens, before any was cut.
    pub lengths: Lengths,
}

/// Rows left out for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub rows: usize,
    /// The first of them: file, line and what is wrong.
    pub first: String,
}

impl Statistics {
    /// Counts a bad row; `at` is its file and place.
    pub(super) fn skip(&mut self, problem: &RowProblem, at: &str) {
        let text = format!("{at}: {problem}");
        self.skipped += 1;
        self.first_skipped.get_or_insert_with(|| text.clone());
        let reason = Reason { rows: 0, first: text };
        self.reasons.entry(problem.reason()).or_insert(reason).rows += 1;
    }

    /// Counts a document.
    pub(super) fn document(&mut self, document: &Document) {
        self.tokens += document.tokens.len();
        self.loss_tokens += document.loss_tokens();
        self.longest = self.longest.max(document.tokens.len());
        self.documents += 1;
    }

    /// Adds what was seen of another data set.
    pub fn add(&mut self, other: &Statistics) {
        self.rows += other.rows;
        self.held_out += other.held_out;
        for (kind, rows) in &other.kinds {
            *self.kinds.entry(*kind).or_default() += rows;
        }
        self.skipped += other.skipped;
        self.first_skipped = self.first_skipped.take().or_else(|| other.first_skipped.clone());
        for (reason, theirs) in &other.reasons {
            let ours = Reason { rows: 0, first: theirs.first.clone() };
            self.reasons.entry(reason).or_insert(ours).rows += theirs.rows;
        }
        self.truncated += other.truncated;
        self.split += other.split;
        self.pieces_without_loss += other.pieces_without_loss;
        self.turns_without_stop += other.turns_without_stop;
        self.straddled += other.straddled;
        self.rewritten += other.rewritten;
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.loss_tokens += other.loss_tokens;
        self.longest = self.longest.max(other.longest);
        self.lengths.add(&other.lengths);
    }
}

/// How often each length occurs. (There are never many: different lengths add up.)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths(BTreeMap<usize, usize>);

impl Lengths {
    /// Counts one.
    pub fn push(&mut self, length: usize) {
        *self.0.entry(length).or_default() += 1;
    }

    fn add(&mut self, other: &Lengths) {
        for (length, count) in &other.0 {
            *self.0.entry(*length).or_default() += count;
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.values().sum()
    }

    /// The length that a share of all (`0..=1`) do not exceed; `None` of none.
    pub fn quantile(&self, share: f64) -> Option<usize> {
        let rank = (share * self.count() as f64).ceil().max(1.0) as usize;
        let mut seen = 0;
        self.0.iter().find_map(|(length, count)| {
            seen += count;
            (seen >= rank).then_some(*length)
        })
    }

    /// How many are longer than `most`.
    pub fn above(&self, most: usize) -> usize {
        self.0.range(most + 1..).map(|(_, count)| count).sum()
    }

    /// Counts by powers of two: `(up to and with, how many)` from the first bucket that holds one to the
    /// last, empty ones between them included.
    pub fn buckets(&self) -> Vec<(usize, usize)> {
        let bucket = |length: usize| length.max(1).next_power_of_two();
        let mut buckets: Vec<(usize, usize)> = Vec::new();
        for (&length, &count) in &self.0 {
            while buckets.last().is_none_or(|(end, _)| *end < bucket(length)) {
                let next = buckets.last().map_or(bucket(length), |(end, _)| end * 2);
                buckets.push((next, 0));
            }
            if let Some((_, sum)) = buckets.last_mut() {
                *sum += count;
            }
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted_exactly() {
        let mut lengths = Lengths::default();
        for length in [3, 4, 5, 30, 30, 33] {
            lengths.push(length);
        }
        assert_eq!(lengths.buckets(), [(4, 2), (8, 1), (16, 0), (32, 2), (64, 1)]);
        assert_eq!((lengths.count(), lengths.above(30), lengths.above(33)), (6, 1, 0));
        assert_eq!(lengths.quantile(0.5), Some(5));
        assert_eq!((lengths.quantile(0.0), lengths.quantile(1.0)), (Some(3), Some(33)));
        assert_eq!(Lengths::default().quantile(0.5), None);
        assert!(Lengths::default().buckets().is_empty());
    }

    #[test]
    fn reasons_add_up() {
        let mut one = Statistics { rows: 2, ..Statistics::default() };
        one.skip(&RowProblem::TooLarge, "a:1");
        let mut two = Statistics { rows: 3, ..Statistics::default() };
        two.skip(&RowProblem::TooLarge, "b:1");
        two.skip(&RowProblem::Utf8(2), "b:2");
        one.add(&two);
        assert_eq!((one.rows, one.skipped), (5, 3));
        assert_eq!(one.reasons["too large"].rows, 2);
        assert!(one.reasons["too large"].first.starts_with("a:1: is longer than"));
        assert_eq!(one.reasons["not UTF-8"].first, "b:2: not UTF-8 at byte 2");
    }
}
