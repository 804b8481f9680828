//! The CPU path: queries by blocks, keys by tiles; forward, backward and the cache.

mod backward;
mod blocks;
mod cache;
mod forward;
mod tile;

pub use backward::backward;
pub use cache::{append, decode};
pub use forward::forward;
pub use tile::{KEYS, reserve};

use super::{Dims, OP, check, check_at_least, check_documents};
