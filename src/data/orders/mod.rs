//! The quickstart's task: sentences about orders, to be answered with exact JSON.
//!
//! A seeded generator. Every row is one sentence made from a pattern, a customer, a quantity, an
//! item and a city, and its answer is determined by the sentence: the three strings stand in it
//! letter for letter, the quantity in digits or in words. The answer is compact JSON with a fixed
//! order of keys: `{"customer":"Amara","item":"oak tables","quantity":3,"city":"Lisbon"}`.
//!
//! The word lists and the patterns lie beside this file; what stands below `# held out` in one
//! of them never reaches a training row, so two of the three held-out splits measure what the
//! adapter does with words, and with sentences, that it has never seen.

use std::collections::HashSet;

use serde_json::json;

use crate::rng::Rng;

/// What the system turn says. Short on purpose: a row without one gets the template's default
/// system prompt, which is longer than an order.
pub const INSTRUCTION: &str = "Order to JSON.";

/// The seed of the rows in data/orders/.
pub const SEED: u64 = 20;

/// Rows in each file of data/orders/, as the quickstart uses them.
pub const SIZES: [(Split, usize); 4] = [
    (Split::Train, 800),
    (Split::SameKind, 100),
    (Split::UnseenWords, 50),
    (Split::UnseenPatterns, 50),
];

/// Which words and patterns a row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Training words in training patterns.
    Train,
    /// Made like `Train`, other rows.
    SameKind,
    /// Names, goods and cities that occur in no training row, in training patterns.
    UnseenWords,
    /// Training words in patterns that occur in no training row.
    UnseenPatterns,
}

impl Split {
    /// In the order of the files and of every table.
    pub const ALL: [Split; 4] =
        [Split::Train, Split::SameKind, Split::UnseenWords, Split::UnseenPatterns];

    /// The stem of the split's file, and its name in tables: `unseen_words`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::SameKind => "same_kind",
            Split::UnseenWords => "unseen_words",
            Split::UnseenPatterns => "unseen_patterns",
        }
    }

    /// The split's rows as they lie in the repository, in the chat format (`messages`).
    pub fn jsonl(self) -> &'static str {
        match self {
            Split::Train => include_str!("../../../data/orders/train.jsonl"),
            Split::SameKind => include_str!("../../../data/orders/same_kind.jsonl"),
            Split::UnseenWords => include_str!("../../../data/orders/unseen_words.jsonl"),
            Split::UnseenPatterns => include_str!("../../../data/orders/unseen_patterns.jsonl"),
        }
    }
}

/// One order and the sentence that tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub sentence: String,
    pub customer: String,
    pub item: String,
    pub quantity: u32,
    pub city: String,
}

impl Order {
    /// The exact text that the model must answer.
    pub fn answer(&self) -> String {
        json!({
            "customer": self.customer,
            "item": self.item,
            "quantity": self.quantity,
            "city": self.city,
        })
        .to_string()
    }

    /// One line of a chat file, without its line break.
    pub fn line(&self) -> String {
        json!({"messages": [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": self.sentence},
            {"role": "assistant", "content": self.answer()},
        ]})
        .to_string()
    }
}

/// `rows` different orders of a split. The same split, number and seed give the same orders.
///
/// Orders of [`Split::SameKind`] and [`Split::UnseenPatterns`] may by chance share a single word
/// with a training row (that is their kind), but a whole sentence of `SameKind` is never one of
/// the first 800 of `Train` under the same seed.
pub fn orders(split: Split, rows: usize, seed: u64) -> Vec<Order> {
    let lists = Lists::of(split);
    let rng = Rng::new(&[seed]).named(split.name());
    let mut dice = Dice { rng, place: 0 };
    let mut seen: HashSet<String> = HashSet::new();
    if split == Split::SameKind {
        seen.extend(orders(Split::Train, SIZES[0].1, seed).into_iter().map(|o| o.sentence));
    }
    // Patterns are dealt like cards, so that each comes up equally often.
    let mut deck: Vec<&str> = Vec::new();
    let mut made = Vec::with_capacity(rows);
    while made.len() < rows {
        if deck.is_empty() {
            deck.clone_from(&lists.patterns);
            rng.named("deck").named(&made.len().to_string()).shuffle(&mut deck);
        }
        let pattern = deck.pop().unwrap_or_default();
        let order = lists.order(pattern, &mut dice);
        if seen.insert(order.sentence.clone()) {
            made.push(order);
        }
    }
    made
}

/// The same as a chat file.
pub fn jsonl(split: Split, rows: usize, seed: u64) -> String {
    orders(split, rows, seed).iter().map(|order| order.line() + "\n").collect()
}

/// A pattern's parts before they are filled in: the training ones, or the held-out ones.
#[doc(hidden)]
pub fn patterns(held_out: bool) -> Vec<&'static str> {
    section(include_str!("patterns.txt"), held_out)
}

/// Every word (whitespace apart) of the names, goods and cities that training rows never have.
#[doc(hidden)]
pub fn held_out_words() -> HashSet<&'static str> {
    let lists = Lists::of(Split::UnseenWords);
    [lists.names, lists.surnames, lists.cities, lists.goods, lists.modifiers]
        .concat()
        .into_iter()
        .flat_map(str::split_whitespace)
        .collect()
}

/// The entries above or below the line `# held out`.
fn section(list: &'static str, held_out: bool) -> Vec<&'static str> {
    const BORDER: &str = "# held out\n";
    let (train, held) = list.split_once(BORDER).unwrap_or((list, ""));
    let part = if held_out { held } else { train };
    part.lines().filter(|line| !line.starts_with('#')).collect()
}

/// What the rows of one split are made of.
struct Lists {
    names: Vec<&'static str>,
    surnames: Vec<&'static str>,
    cities: Vec<&'static str>,
    goods: Vec<&'static str>,
    modifiers: Vec<&'static str>,
    patterns: Vec<&'static str>,
}

impl Lists {
    fn of(split: Split) -> Self {
        let words = split == Split::UnseenWords;
        Self {
            names: section(include_str!("names.txt"), words),
            surnames: section(include_str!("surnames.txt"), words),
            cities: section(include_str!("cities.txt"), words),
            goods: section(include_str!("goods.txt"), words),
            modifiers: section(include_str!("modifiers.txt"), words),
            patterns: patterns(split == Split::UnseenPatterns),
        }
    }

    fn order(&self, pattern: &str, dice: &mut Dice) -> Order {
        let mut customer = dice.pick(&self.names).to_string();
        if dice.below(5) == 0 {
            customer = format!("{customer} {}", dice.pick(&self.surnames));
        }
        let mut item = dice.pick(&self.goods).to_string();
        if dice.below(5) < 2 {
            item = format!("{} {item}", dice.pick(&self.modifiers));
        }
        let city = dice.pick(&self.cities).to_string();
        let (quantity, number) = dice.quantity();
        let sentence = pattern
            .replace("{c}", &customer)
            .replace("{i}", &item)
            .replace("{t}", &city)
            .replace("{n}", &number)
            .replace("{N}", &capital(&number));
        Order { sentence, customer, item, quantity, city }
    }
}

/// Quantities that are also written as words.
#[doc(hidden)]
pub const IN_WORDS: [(u32, &str); 27] = [
    (2, "two"),
    (3, "three"),
    (4, "four"),
    (5, "five"),
    (6, "six"),
    (7, "seven"),
    (8, "eight"),
    (9, "nine"),
    (10, "ten"),
    (11, "eleven"),
    (12, "twelve"),
    (13, "thirteen"),
    (14, "fourteen"),
    (15, "fifteen"),
    (16, "sixteen"),
    (17, "seventeen"),
    (18, "eighteen"),
    (19, "nineteen"),
    (20, "twenty"),
    (30, "thirty"),
    (40, "forty"),
    (50, "fifty"),
    (60, "sixty"),
    (70, "seventy"),
    (80, "eighty"),
    (90, "ninety"),
    (100, "a hundred"),
];

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Draws from a counter-based stream, one place after the other.
struct Dice {
    rng: Rng,
    place: u64,
}

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.place += 1;
        self.rng.below(self.place, n as u64) as usize
    }

    fn pick(&mut self, list: &[&'static str]) -> &'static str {
        list[self.below(list.len())]
    }

    /// A quantity and how the sentence says it: two in five as words, else in digits, small ones
    /// more often than large.
    fn quantity(&mut self) -> (u32, String) {
        if self.below(5) < 2 {
            let (quantity, word) = IN_WORDS[self.below(IN_WORDS.len())];
            return (quantity, word.to_string());
        }
        let top = [12, 12, 99, 99, 600][self.below(5)];
        let quantity = 2 + self.below(top - 1) as u32;
        (quantity, quantity.to_string())
    }
}
