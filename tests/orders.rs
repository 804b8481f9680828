//! The quickstart's rows: made again byte for byte, and held out as they claim.

use std::collections::HashSet;
use std::path::Path;

use dayrun::data::orders::{self, IN_WORDS, SEED, SIZES, Split};
use regex::Regex;

/// `DAYRUN_WRITE_ORDERS=1 cargo test --test orders reproduces` writes the files instead.
#[test]
fn the_generator_reproduces_the_files() {
    let write = std::env::var_os("DAYRUN_WRITE_ORDERS").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/orders");
    for (split, rows) in SIZES {
        let made = orders::jsonl(split, rows, SEED);
        if write {
            std::fs::write(folder.join(format!("{}.jsonl", split.name())), &made).unwrap();
        } else {
            assert!(made == split.jsonl(), "data/orders/{}.jsonl differs", split.name());
            assert_eq!(split.jsonl().lines().count(), rows);
        }
    }
}

#[test]
fn another_seed_gives_other_rows_and_a_longer_list_begins_with_the_shorter() {
    let short = orders::orders(Split::Train, 50, SEED);
    assert_eq!(orders::orders(Split::Train, 90, SEED)[..50], short);
    assert_ne!(orders::orders(Split::Train, 50, SEED + 1), short);
}

/// Every string of the answer stands in the sentence exactly once, as a whole word, and so does
/// the quantity: the sentence alone determines the answer.
#[test]
fn the_sentence_determines_the_answer() {
    for split in Split::ALL {
        for order in orders::orders(split, 2000, SEED) {
            let sentence = &order.sentence;
            for value in [&order.customer, &order.item, &order.city] {
                assert_eq!(whole_words(sentence, value), 1, "{value:?} in {sentence:?}");
            }
            let digits = whole_words(sentence, &order.quantity.to_string());
            let word = IN_WORDS.iter().find(|(n, _)| *n == order.quantity);
            let words = word.map_or(0, |(_, word)| whole_words(&sentence.to_lowercase(), word));
            assert_eq!(digits + words, 1, "{} in {sentence:?}", order.quantity);
            assert!(!sentence.contains(['{', '}']), "{sentence:?}");
        }
    }
}

#[test]
fn unseen_words_occur_in_no_training_row() {
    // The files' rows, and many more of the same seed.
    let more = orders::jsonl(Split::Train, 10_000, SEED);
    let training = words(&format!("{} {}", contents(Split::Train.jsonl()), contents(&more)));
    for word in words(&orders::held_out_words().into_iter().collect::<Vec<_>>().join(" ")) {
        assert!(!training.contains(&word), "held-out word {word:?} is in a training row");
    }
    let rows = orders::orders(Split::UnseenWords, 50, SEED);
    let training = orders::orders(Split::Train, 800, SEED);
    for row in rows {
        for other in &training {
            assert!(row.customer != other.customer && row.item != other.item);
            assert_ne!(row.city, other.city);
        }
    }
}

/// No row in an unseen pattern can be read with a training pattern's wording.
#[test]
fn unseen_patterns_are_no_training_patterns() {
    let number = IN_WORDS.map(|(_, word)| word).join("|");
    let number = format!("(?i:[0-9]+|{number})");
    let readers: Vec<Regex> = orders::patterns(false)
        .into_iter()
        .map(|pattern| {
            let pattern = regex::escape(pattern);
            let pattern = ["c", "i", "t"].iter().fold(pattern, |pattern, slot| {
                pattern.replace(&format!(r"\{{{slot}\}}"), "[A-Za-z -]+")
            });
            let pattern = pattern.replace(r"\{n\}", &number).replace(r"\{N\}", &number);
            Regex::new(&format!("^{pattern}$")).unwrap()
        })
        .collect();
    // The readers do read what they were made for.
    for order in orders::orders(Split::SameKind, 100, SEED) {
        assert!(readers.iter().any(|reader| reader.is_match(&order.sentence)), "{order:?}");
    }
    for order in orders::orders(Split::UnseenPatterns, 200, SEED) {
        for reader in &readers {
            assert!(!reader.is_match(&order.sentence), "{:?} is {reader}", order.sentence);
        }
    }
}

#[test]
fn same_kind_rows_are_other_rows() {
    let training: HashSet<String> =
        orders::orders(Split::Train, 800, SEED).into_iter().map(|order| order.sentence).collect();
    assert_eq!(training.len(), 800);
    for order in orders::orders(Split::SameKind, 100, SEED) {
        assert!(!training.contains(&order.sentence), "{order:?}");
    }
}

#[test]
fn the_lists_are_wide_and_without_repeats() {
    assert!(orders::patterns(false).len() >= 60);
    assert!(orders::patterns(true).len() >= 12);
    let all = [orders::patterns(false), orders::patterns(true)].concat();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    for pattern in all {
        let slots = pattern.matches('{').count();
        assert_eq!(slots, 4, "{pattern:?}");
    }
}

/// What the user and the assistant say in a chat file.
fn contents(jsonl: &str) -> String {
    jsonl
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {}\n", row["messages"][1]["content"], row["messages"][2]["content"])
        })
        .collect()
}

fn words(text: &str) -> HashSet<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

fn whole_words(text: &str, part: &str) -> usize {
    Regex::new(&format!(r"\b{}\b", regex::escape(part))).unwrap().find_iter(text).count()
}
