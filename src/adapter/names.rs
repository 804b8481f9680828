//! How a configuration names modules: by lists, by regular expressions, by layers.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Modules by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Names {
    /// A regular expression that matches whole paths, as Python's `re.fullmatch`.
    Pattern(String),
    /// Whole paths, or their ends behind a dot: `q_proj`, `self_attn.q_proj`.
    List(Vec<String>),
}

/// PEFT's `target_modules`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Names", into = "Names")]
pub enum TargetModules {
    /// Every linear but the head.
    AllLinear,
    Named(Names),
}

/// How PEFT spells [`TargetModules::AllLinear`].
const ALL_LINEAR: &str = "all-linear";

impl TargetModules {
    /// Modules by the ends of their paths.
    pub fn list(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::Named(Names::List(names.into_iter().map(Into::into).collect()))
    }
}

impl From<Names> for TargetModules {
    fn from(names: Names) -> Self {
        match names {
            Names::Pattern(name) if name.eq_ignore_ascii_case(ALL_LINEAR) => Self::AllLinear,
            names => Self::Named(names),
        }
    }
}

impl From<TargetModules> for Names {
    fn from(targets: TargetModules) -> Self {
        match targets {
            TargetModules::AllLinear => Names::Pattern(ALL_LINEAR.into()),
            TargetModules::Named(names) => names,
        }
    }
}

/// One value or a list of them, kept as it was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// All of them.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// PEFT's `rank_pattern` and `alpha_pattern`: a value for modules whose path ends in what a regular
/// expression matches. The first that matches counts, so that their order is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Patterns<T>(pub Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (pattern, value) in &self.0 {
            map.serialize_entry(pattern, value)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Patterns<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a table of regular expressions and their values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Patterns(all))
            }
        }
        deserializer.deserialize_map(InOrder(std::marker::PhantomData))
    }
}
