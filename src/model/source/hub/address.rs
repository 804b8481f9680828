//! `hf://org/name`: what a model on the Hub is called in a run file and on the command line.

use std::fmt;
use std::path::Path;

use super::HubError;

const SCHEME: &str = "hf://";

/// A model on the Hub, or one GGUF file of a repository: `hf://org/name`, `hf://org/name@revision`,
/// `hf://org/name/model-Q8_0.gguf`. A revision is a branch, a tag or a commit; one with a slash is
/// written with `%2F`, or as `refs/pr/1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `org/name`.
    pub repo: String,
    /// `main` where none is given.
    pub revision: String,
    pub file: Option<String>,
}

impl Address {
    /// The text of a path that is an address: it begins with `hf:`.
    pub fn of(path: &Path) -> Option<&str> {
        path.to_str().filter(|text| text.starts_with("hf:"))
    }

    /// Reads an address.
    ///
    /// Errors: [`HubError::Address`] with what is wrong; datasets and spaces are refused by name.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let wrong =
            |problem: &str| HubError::Address { text: text.into(), problem: problem.into() };
        // A path that was put together again has lost a slash.
        let rest = text.strip_prefix(SCHEME).or_else(|| text.strip_prefix("hf:/"));
        let rest = rest.ok_or_else(|| wrong("does not begin with hf://"))?.trim_end_matches('/');
        if rest.starts_with("datasets/") {
            return Err(wrong(
                "is a dataset, not a model; datasets of the Hub are not fetched yet",
            ));
        }
        if rest.starts_with("spaces/") {
            return Err(wrong("is a space, not a model"));
        }
        let mut parts = rest.splitn(3, '/');
        let (Some(org), Some(second)) = (parts.next(), parts.next()) else {
            return Err(wrong("has no organisation: the form is hf://org/name"));
        };
        let mut file = parts.next();
        let (name, mut revision) = match second.split_once('@') {
            Some((name, revision)) => (name, revision.replace("%2F", "/").replace("%2f", "/")),
            None => (second, "main".into()),
        };
        if revision == "refs" {
            // refs/pr/1 and refs/convert/parquet have two parts more.
            let mut parts = file.unwrap_or_default().splitn(3, '/');
            let two = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            revision = format!("refs/{}/{}", two.0, two.1);
            file = parts.next();
        }
        if !is_name(org) || !is_name(name) {
            return Err(wrong("is not a name on the Hub: letters, digits and `-_.` make one up"));
        }
        if !revision.split('/').all(is_name) {
            return Err(wrong(
                "has a revision that is none: letters, digits and `-_.` make one up",
            ));
        }
        if file.is_some_and(|file| !file.ends_with(".gguf") || !file.split('/').all(is_name)) {
            return Err(wrong("names a file that is no GGUF file; the form is hf://org/name"));
        }
        Ok(Self { repo: format!("{org}/{name}"), revision, file: file.map(str::to_string) })
    }
}

/// A part of a path that can be part of a file's name in the cache.
fn is_name(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty() && part.len() <= 255 && !part.starts_with('.') && part.chars().all(plain)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.repo)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(f, "/{file}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let full = |repo: &str, revision: &str, file: Option<&str>| Address {
            repo: repo.into(),
            revision: revision.into(),
            file: file.map(str::to_string),
        };
        for (text, want) in [
            ("hf://org/name", full("org/name", "main", None)),
            ("hf://org/na.me-1_B@v1.0", full("org/na.me-1_B", "v1.0", None)),
            ("hf://org/name/a.gguf", full("org/name", "main", Some("a.gguf"))),
            ("hf://org/name@x/dir/a.gguf", full("org/name", "x", Some("dir/a.gguf"))),
            ("hf://org/name@refs/pr/1", full("org/name", "refs/pr/1", None)),
            ("hf://org/name@refs/pr/1/a.gguf", full("org/name", "refs/pr/1", Some("a.gguf"))),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address, want, "{text}");
            assert_eq!(address.to_string(), text);
        }
        let branch = full("org/name", "my/branch", None);
        assert_eq!(Address::parse("hf://org/name@my%2Fbranch/").unwrap(), branch);
        assert_eq!(Address::parse("hf:/org/name").unwrap(), full("org/name", "main", None));
    }

    #[test]
    fn what_is_no_model_is_refused_by_name() {
        for (text, part) in [
            ("hf://name", "no organisation"),
            ("hf://", "no organisation"),
            ("hf:name", "does not begin with hf://"),
            ("hf://datasets/org/name", "is a dataset"),
            ("hf://spaces/org/name", "is a space"),
            ("hf://../name", "not a name"),
            ("hf://org/..", "not a name"),
            ("hf://org/name@", "revision"),
            ("hf://org/name@../../x", "revision"),
            ("hf://org/name@refs", "revision"),
            ("hf://org/name@a%2F..", "revision"),
            ("hf://org/name/model.safetensors", "no GGUF file"),
            ("hf://org/name/../x.gguf", "no GGUF file"),
            ("hf://org/na me", "not a name"),
            ("hf://org//x.gguf", "not a name"),
        ] {
            let said = Address::parse(text).unwrap_err().to_string();
            assert!(said.contains(part) && said.contains(text), "{text}: {said}");
        }
    }
}
