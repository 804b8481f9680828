//! A page of text: titles, lines of a name and a value, tables, bars; in colour on a terminal.

use std::io::IsTerminal;

use crate::cli::output::visible;

/// Columns before a line's value.
const NAMES: usize = 20;

/// Columns of the longest bar.
const BAR: usize = 40;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const LOSS: &str = "\x1b[32m";
const RESET: &str = "\x1b[0m";

/// Lines that will be printed together.
pub(super) struct Page {
    lines: Vec<String>,
    colour: bool,
}

impl Page {
    /// In colour if standard output is a terminal and nobody has asked for none (no-color.org).
    pub(super) fn new() -> Self {
        let off = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            lines: Vec::new(),
            colour: std::io::stdout().is_terminal() && !off("NO_COLOR") && !dumb,
        }
    }

    #[cfg(test)]
    fn with_colour(colour: bool) -> Self {
        Self { lines: Vec::new(), colour }
    }

    fn paint(&self, style: &str, text: &str) -> String {
        match self.colour && !text.is_empty() {
            true => format!("{style}{text}{RESET}"),
            false => text.to_string(),
        }
    }

    /// A part's first line.
    pub(super) fn title(&mut self, text: &str) {
        let text = visible(text);
        self.lines.push(self.paint(BOLD, &text));
    }

    /// A name and its value, which may have several lines.
    pub(super) fn line(&mut self, name: &str, value: impl AsRef<str>) {
        for (i, part) in value.as_ref().lines().enumerate() {
            let name = if i == 0 { name } else { "" };
            self.lines.push(format!("  {name:<NAMES$}{}", visible(part)).trim_end().to_string());
        }
    }

    /// What is wrong, and what to do about it.
    pub(super) fn problem(&mut self, problem: &str, hint: Option<&str>) {
        for part in problem.lines() {
            let line = format!("  {}", visible(part));
            self.lines.push(self.paint(RED, &line));
        }
        if let Some(hint) = hint {
            self.lines.push(format!("  hint: {}", visible(hint)));
        }
    }

    /// A line that is neither.
    pub(super) fn plain(&mut self, text: &str) {
        self.lines.push(visible(text));
    }

    pub(super) fn blank(&mut self) {
        if self.lines.last().is_some_and(|line| !line.is_empty()) {
            self.lines.push(String::new());
        }
    }

    /// Rows of cells under their names; columns whose name ends in `>` are set to the right.
    pub(super) fn table(&mut self, names: &[&str], rows: &[Vec<String>]) {
        let cell = |row: &[String], i: usize| row.get(i).map_or(0, |cell| width(cell));
        let widths: Vec<usize> = (0..names.len())
            .map(|i| {
                let widest = rows.iter().map(|row| cell(row, i)).max().unwrap_or(0);
                widest.max(width(names[i].trim_end_matches('>')))
            })
            .collect();
        let set = |cells: &[String]| {
            let mut line = String::from(" ");
            for ((cell, name), &columns) in cells.iter().zip(names).zip(&widths) {
                let cell = visible(cell);
                let room = " ".repeat(columns.saturating_sub(width(&cell)));
                match name.ends_with('>') {
                    true => line.push_str(&format!(" {room}{cell} ")),
                    false => line.push_str(&format!(" {cell}{room} ")),
                }
            }
            line.trim_end().to_string()
        };
        let heads: Vec<String> = names.iter().map(|n| n.trim_end_matches('>').into()).collect();
        let head = set(&heads);
        self.lines.push(self.paint(DIM, &head));
        self.lines.extend(rows.iter().map(|row| set(row)));
    }

    /// A bar for each count, under each other.
    pub(super) fn bars(&mut self, bars: &[(String, usize)]) {
        let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
        let names = bars.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
        for (name, count) in bars {
            let room = " ".repeat(names - width(name));
            let bar = bar(*count, most);
            let gap = " ".repeat(BAR - width(&bar));
            let bar = self.paint(LOSS, &bar);
            self.lines.push(format!("  {room}{} {bar}{gap} {}", visible(name), thousands(*count)));
        }
    }

    /// A text in pieces, of which some have loss: those in colour, or in brackets.
    pub(super) fn mask<'a>(&mut self, pieces: impl Iterator<Item = (&'a str, bool)>) {
        let mut lines = vec![String::from("  ")];
        for (text, loss) in pieces {
            let (open, close) =
                if loss && !self.colour { ("\u{27e6}", "\u{27e7}") } else { ("", "") };
            let style = if loss { LOSS } else { DIM };
            let text = format!("{open}{text}{close}");
            for (i, part) in text.split('\n').enumerate() {
                if i > 0 {
                    lines.push(String::from("  "));
                }
                let part = self.paint(style, &visible(part));
                lines.last_mut().expect("one at least").push_str(&part);
            }
        }
        self.lines.extend(lines.iter().map(|line| line.trim_end().to_string()));
    }

    /// Another page below this one.
    pub(super) fn add(&mut self, other: Page) {
        self.blank();
        self.lines.extend(other.lines);
    }

    pub(super) fn text(&self) -> String {
        let mut text = self.lines.join("\n");
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }
}

/// Characters: near enough to columns for what stands in tables.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// A bar in eighths of a column; what is not nothing can be seen.
fn bar(count: usize, most: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (count as u128 * 8 * BAR as u128 / most as u128) as usize;
    let eighths = if count > 0 { eighths.max(1) } else { 0 };
    format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8])
}

/// `1,234,567`.
pub(super) fn thousands(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `98.4 MB`.
pub(super) fn size(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.1} kB", value * 1e-3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value * 1e-6),
        _ => format!("{:.2} GB", value * 1e-9),
    }
}

/// `134.5 M`.
pub(super) fn many(number: u64) -> String {
    let value = number as f64;
    match number {
        0..10_000 => thousands(number),
        10_000..1_000_000 => format!("{:.1} k", value * 1e-3),
        1_000_000..1_000_000_000 => format!("{:.1} M", value * 1e-6),
        _ => format!("{:.2} G", value * 1e-9),
    }
}

/// `3 rows`, `1 row`.
pub(super) fn of(count: usize, what: &str) -> String {
    format!("{} {what}{}", thousands(count), if count == 1 { "" } else { "s" })
}

/// `42.0 %` of a whole.
pub(super) fn share(part: usize, whole: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        assert_eq!([0, 999, 1000, 1234567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([7, 98_362_432, 4_200_000_000].map(size), ["7 B", "98.4 MB", "4.20 GB"]);
        assert_eq!([576, 134_515_008].map(many), ["576", "134.5 M"]);
        assert_eq!((of(1, "row"), of(1200, "row")), ("1 row".into(), "1,200 rows".into()));
        assert_eq!(bar(0, 8), "");
        assert_eq!(bar(1, 100_000), "▏");
        assert_eq!(bar(7, 7), "█".repeat(BAR));
    }

    #[test]
    fn the_loss_is_seen_in_colour_and_without() {
        let pieces = [("a\nb", false), ("c\n", true), ("\u{1b}[2J", false)];
        let mut plain = Page::with_colour(false);
        plain.mask(pieces.into_iter());
        assert_eq!(plain.text(), "  a\n  b\u{27e6}c\n  \u{27e7}\\u{1b}[2J\n");
        let mut colour = Page::with_colour(true);
        colour.mask(pieces.into_iter());
        let text = colour.text();
        assert!(text.contains("\x1b[32mc\x1b[0m") && text.contains("\x1b[2mb\x1b[0m"), "{text:?}");
        assert!(text.contains("\\u{1b}[2J"), "{text:?}");
    }

    #[test]
    fn tables_stand_in_columns() {
        let mut page = Page::with_colour(false);
        let row = |a: &str, b: &str| vec![a.to_string(), b.to_string()];
        page.table(&["name", "count>"], &[row("a", "1"), row("longer", "1,000")]);
        assert_eq!(page.text(), "  name    count\n  a           1\n  longer  1,000\n");
    }
}
