//! Scalar arithmetic on bit patterns: formats, roundings, flushing. Pure functions, shared by the families.
//!
//! Every function takes and returns the bits of a register: f32 as `u32`, f64 as `u64`, 16-bit formats in
//! the low half of a `u32` whose upper half is zero. What the compiler can vectorise (round to nearest) is
//! in `single`, `double` and `half`; everything else goes through exact integers in `soft`.

pub mod approx;
pub mod double;
pub mod half;
pub mod single;
pub mod soft;

/// Where a result goes that lies between two numbers of its format (PTX manual 9.7.3, rounding modifiers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Round {
    /// `.rn`: the nearer one, in the middle the even one.
    #[default]
    Nearest,
    /// `.rna`: the nearer one, in the middle the one of larger magnitude.
    Away,
    /// `.rz`
    Zero,
    /// `.rm`
    Down,
    /// `.rp`
    Up,
}

impl Round {
    /// `rn`, `rz`, `rm`, `rp` or `rna`, without the dot.
    pub fn from_name(name: &str) -> Option<Round> {
        Some(match name {
            "rn" => Round::Nearest,
            "rna" => Round::Away,
            "rz" => Round::Zero,
            "rm" => Round::Down,
            "rp" => Round::Up,
            _ => return None,
        })
    }
}
