//! Where a model comes from: a path on this machine, the Hub (`hf://org/name`), and for the quickstart
//! whichever source has the demo model.

use std::borrow::Cow;
use std::path::Path;

mod demo;
pub mod hub;

pub use demo::{DEMO, NotFound, Pinned, Refusal, Sources, demo_model, find};
pub use hub::{Address, Hub, HubError};

use crate::progress::Report;

/// The path on this machine of the model that is called `path`: itself, or what [`Hub::fetch`]
/// fetched for an `hf://` address, as the environment says ([`Hub::from_env`]).
///
/// Errors: those of [`Address::parse`] and [`Hub::fetch`].
pub fn local<'a>(path: &'a Path, report: Report) -> Result<Cow<'a, Path>, HubError> {
    match Address::of(path) {
        None => Ok(path.into()),
        Some(text) => Ok(Hub::from_env().fetch(&Address::parse(text)?, report)?.into()),
    }
}
