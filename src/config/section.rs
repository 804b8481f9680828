//! What a section of the run file is made of, and the one macro that declares it.
//!
//! A key's name, type, default, meaning and allowed range stand together, once. From that one
//! place come the struct, the reader with its refusals, and the commented file of `dayrun init`.
//! Serde's derive alone cannot do it: it drops the doc comments.

use serde::de::DeserializeOwned;

use super::error::ConfigError;
use super::read::Source;

/// One key of the run file, as text.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub section: &'static str,
    pub name: &'static str,
    /// What values are allowed: `a number above 0`.
    pub expects: &'static str,
    /// The doc comment, line by line.
    pub doc: &'static [&'static str],
    /// The default as TOML; `None` for a key without one.
    pub default: Option<String>,
    /// A value to show, as TOML, where there is no default.
    pub example: &'static str,
}

impl Key {
    /// `train.learning_rate`.
    pub fn dotted(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// Takes one key out of a parsed section and turns it into its type.
pub(super) fn take<T: DeserializeOwned>(
    table: &mut toml::Table,
    section: &'static str,
    name: &'static str,
    expects: &'static str,
    allowed: impl Fn(&T) -> bool,
    source: &Source,
) -> Result<Option<T>, ConfigError> {
    let Some(value) = table.remove(name) else { return Ok(None) };
    let shown = cut(value.to_string());
    match value.try_into::<T>() {
        Ok(value) if allowed(&value) => Ok(Some(value)),
        _ => {
            let key = format!("{section}.{name}");
            Err(ConfigError::Value { at: source.place(&key), key, value: shown, expects })
        }
    }
}

/// A value as a message quotes it: the beginning of a long one.
fn cut(text: String) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} [...]", &text[..end]),
        None => text,
    }
}

/// A default as TOML text; `None` when it has no TOML form (an absent optional value).
pub(super) fn default_text<T: serde::Serialize>(value: &T) -> Option<String> {
    toml::Value::try_from(value).ok().map(|value| value.to_string())
}

/// Declares a section. Each key reads:
///
/// ```text
/// /// Meaning, for a person.
/// name: Type = default, "what is allowed", |v| check;
/// name: Option<Type>, "what is allowed", "example", |v| check;
/// ```
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])*
        $section:literal $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $key:ident: $type:ty = $default:expr, $expects:literal, $check:expr
                    $(, example $example:literal)?;
            )*
        }
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub struct $name {
            $(
                $(#[doc = $doc])*
                #[doc = ""]
                #[doc = concat!("Allowed: ", $expects, ".")]
                pub $key: $type,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl $name {
            /// The section's name in the file.
            pub const SECTION: &'static str = $section;

            /// The section's own meaning, line by line.
            pub const DOC: &'static [&'static str] = &[$($section_doc),*];

            /// Every key, in the order of the file.
            pub fn keys() -> Vec<$crate::config::Key> {
                let default = Self::default();
                vec![$($crate::config::Key {
                    section: $section,
                    name: stringify!($key),
                    expects: $expects,
                    doc: &[$($doc),*],
                    default: $crate::config::section::default_text(&default.$key),
                    example: concat!("", $($example)?),
                },)*]
            }

            /// Reads the section. The keys are known to exist; types and ranges are checked here.
            pub(super) fn read(
                table: &mut toml::Table,
                source: &$crate::config::read::Source,
            ) -> Result<Self, $crate::config::ConfigError> {
                let default = Self::default();
                Ok(Self {
                    $($key: $crate::config::section::take::<$type>(
                        table, $section, stringify!($key), $expects, $check, source,
                    )?.unwrap_or(default.$key),)*
                })
            }
        }
    };
}
pub(super) use section;
