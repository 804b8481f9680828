//! NF4 and double quantisation: bitsandbytes' bytes read exactly, its CUDA rule followed when
//! quantising.

pub mod bnb;
pub mod dynamic_map;
pub mod error;
pub mod nf4;
pub mod quantise;
#[doc(hidden)]
pub mod reference;

pub use dynamic_map::DYNAMIC_MAP;
pub use error::Error;
pub use nf4::{Absmax, Nf4Matrix};
pub use quantise::{double_quantise, quantise, quantise_rows};
