//! Regular expressions as Python's `re` has them, matched against module paths.

use fancy_regex::{Regex, RegexBuilder};

use super::targets::TargetError;

/// Steps of one match, at most: paths are short, and an expression that goes back and forth for
/// longer is refused instead of waited for.
const STEPS: usize = 100_000;

/// The longest expression, in bytes.
const LONGEST: usize = 1 << 14;

/// What this engine understands and Python's does not: PEFT could not load the adapter.
const NOT_PYTHON: [&str; 7] = [r"\p", r"\P", r"\z", r"\K", r"\h", r"\H", "[[:"];

/// One compiled expression, and where it stands.
pub(super) struct Pattern {
    field: &'static str,
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Matches a whole path: `re.fullmatch(text, path)`.
    pub fn full(field: &'static str, text: &str) -> Result<Self, TargetError> {
        // By itself first: "a)(b" must not become valid by what is put around it.
        Self::new(field, text, text)?;
        Self::new(field, text, &format!(r"\A(?:{text})\z"))
    }

    /// Matches a path or its end behind a dot: PEFT's `re.match(rf"(.*\.)?({text})$", path)`.
    pub fn ending(field: &'static str, text: &str) -> Result<Self, TargetError> {
        // PEFT's groups, so that a number in the text means the same.
        Self::new(field, text, &format!(r"\A(.*\.)?({text})\z"))
    }

    /// Matches up to the number of a path's layer, which is the first group. `text` is what stands
    /// before the number (`layers`); without it, anything.
    pub fn layer(field: &'static str, text: Option<&String>) -> Result<Self, TargetError> {
        let Some(text) = text else {
            return Self::new(field, "", r"\A.*?\.[^.]*\.(?P<idx>\d+)\.");
        };
        Self::new(field, text, &format!(r"\A(?:(?:^|.*?\.){text}\.(?P<idx>\d+)\.)"))
    }

    fn new(field: &'static str, text: &str, whole: &str) -> Result<Self, TargetError> {
        let error = |problem: String| {
            let pattern = text.chars().take(80).collect();
            TargetError::Pattern { field, pattern, problem }
        };
        if text.len() > LONGEST {
            return Err(error(format!("it has {} bytes, at most {LONGEST} are taken", text.len())));
        }
        if let Some(part) = NOT_PYTHON.iter().find(|part| has(text, part)) {
            return Err(error(format!("Python's re, with which PEFT reads it, has no {part}")));
        }
        let regex = RegexBuilder::new(whole).backtrack_limit(STEPS).build();
        let regex = regex.map_err(|source| error(format!("it is not valid: {source}")))?;
        Ok(Self { field, text: text.to_string(), regex })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches.
    pub fn is_match(&self, path: &str) -> Result<bool, TargetError> {
        self.regex.is_match(path).map_err(|source| self.too_long(source))
    }

    /// Whether it matches, and the text of its group `idx`, if that took part.
    pub fn first_group<'p>(&self, path: &'p str) -> Result<Option<Option<&'p str>>, TargetError> {
        let found = self.regex.captures(path).map_err(|source| self.too_long(source))?;
        Ok(found.map(|found| found.name("idx").map(|group| group.as_str())))
    }

    fn too_long(&self, source: fancy_regex::Error) -> TargetError {
        let problem = format!("it does not come to an end: {source}");
        TargetError::Pattern { field: self.field, pattern: self.text.clone(), problem }
    }
}

/// Whether `text` has `part`, not behind a backslash that makes a plain backslash.
fn has(text: &str, part: &str) -> bool {
    text.match_indices(part).any(|(at, _)| {
        let slashes = text[..at].bytes().rev().take_while(|byte| *byte == b'\\').count();
        slashes.is_multiple_of(2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str, path: &str) -> bool {
        Pattern::full("f", text).expect(text).is_match(path).expect("ends")
    }

    #[test]
    fn full_match_as_python() {
        let path = "model.layers.12.self_attn.q_proj";
        for (text, want) in [
            (r".*q_proj", true),
            (r".*\.(q|k)_proj", true),
            ("q_proj", false),
            (r".*q_pro", false),
            (r"model\.layers\.(?!3\.)\d+\..*_proj", true),
            (r"model\.layers\.(?!1)\d+\..*", false),
            (r".*(?<=attn)\.q_proj", true),
            (r"(?P<a>model)\..*|x", true),
            (r"x|model", false),
        ] {
            assert_eq!(full(text, path), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_or_never_ends_is_an_error() {
        for text in ["(", "a)(b", "*", r"\p{L}", r"(\1", &"a".repeat(LONGEST + 1)] {
            let error = Pattern::full("f", text).err().expect(text).to_string();
            assert!(error.starts_with("`f` has the regular expression"), "{error}");
        }
        assert!(Pattern::full("f", r"a\\p").is_ok(), "an escaped backslash, and a p");
        let slow = Pattern::full("f", r"(?:(?=a)(a|a)*)*b").expect("valid");
        let error = slow.is_match(&"a".repeat(64)).expect_err("exponential").to_string();
        assert!(error.contains("does not come to an end"), "{error}");
    }

    #[test]
    fn layers_are_counted_at_the_first_number() {
        let path = "model.layers.12.self_attn.experts.3.q_proj";
        let number = |text: Option<&str>| {
            let text = text.map(str::to_string);
            let pattern = Pattern::layer("f", text.as_ref()).expect("valid");
            pattern.first_group(path).expect("ends").flatten().map(str::to_string)
        };
        assert_eq!(number(None).as_deref(), Some("12"));
        assert_eq!(number(Some("layers")).as_deref(), Some("12"));
        assert_eq!(number(Some("experts")).as_deref(), Some("3"));
        assert_eq!(number(Some("h")), None);
    }
}
