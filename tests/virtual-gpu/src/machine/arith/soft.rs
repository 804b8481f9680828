//! Exact arithmetic with one rounding at the end, for every format and rounding: the slow, certain way.
//!
//! A finite number is ±m·2^e with m of 128 bits. Sums that do not fit keep a sticky lowest bit: it says
//! that something nonzero was cut off below, which is all that a rounding far above needs to know.

use super::Round;

/// A binary format with a sign, an exponent and a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Bits of the significand, the implicit one counted.
    pub precision: u32,
    /// Exponent of the smallest normal number.
    pub min_exponent: i32,
    /// Where the sign is: bits of the format less one.
    pub sign_bit: u32,
    /// Magnitude of the largest finite number.
    pub max_finite: u64,
    /// Magnitude of infinity; `None` where the format has none.
    pub infinity: Option<u64>,
    /// The NaN that operations make.
    pub nan: u64,
}

pub const F64: Format = ieee(53, -1022, 64, 0xFFF8_0000_0000_0000);
pub const F32: Format = ieee(24, -126, 32, 0x7FFF_FFFF);
pub const F16: Format = ieee(11, -14, 16, 0x7FFF);
pub const BF16: Format = ieee(8, -126, 16, 0x7FFF);
/// The upper 19 bits of a 32-bit register: shift by `TF32_SHIFT`.
pub const TF32: Format = ieee(11, -126, 19, 0x3FFFF);
/// What lies below a TF32 number in its register.
pub const TF32_SHIFT: u32 = 13;
pub const E5M2: Format = ieee(3, -14, 8, 0x7F);
/// No infinity; the largest exponent holds numbers, all but the last, which is NaN.
pub const E4M3: Format = Format {
    precision: 4,
    min_exponent: -6,
    sign_bit: 7,
    max_finite: 0x7E,
    infinity: None,
    nan: 0x7F,
};

const fn ieee(precision: u32, min_exponent: i32, bits: u32, nan: u64) -> Format {
    let infinity = ((1 << (bits - precision)) - 1) << (precision - 1);
    Format {
        precision,
        min_exponent,
        sign_bit: bits - 1,
        max_finite: infinity - 1,
        infinity: Some(infinity),
        nan,
    }
}

/// (-1)^negative · mantissa · 2^exponent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    pub negative: bool,
    pub mantissa: u128,
    pub exponent: i32,
}

/// What bits of a format mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Nan,
    /// With its sign: true is negative.
    Infinity(bool),
    Finite(Number),
}

impl Number {
    fn zero(negative: bool) -> Number {
        Number { negative, mantissa: 0, exponent: 0 }
    }

    /// The same value with the highest bit of the mantissa at 125: room for a carry above.
    fn normal(self) -> Number {
        if self.mantissa == 0 {
            return self;
        }
        let up = self.mantissa.leading_zeros() as i32 - 2;
        let mantissa =
            if up >= 0 { self.mantissa << up } else { shift_sticky(self.mantissa, -up as u32) };
        Number { mantissa, exponent: self.exponent - up, ..self }
    }
}

/// `m >> by`, the lowest bit set if anything was lost.
fn shift_sticky(m: u128, by: u32) -> u128 {
    match by {
        0 => m,
        1..=127 => m >> by | u128::from(m << (128 - by) != 0),
        _ => u128::from(m != 0),
    }
}

/// Reads bits of `format` (those above it must be zero).
pub fn unpack(bits: u64, format: &Format) -> Value {
    let negative = bits >> format.sign_bit & 1 != 0;
    let magnitude = bits & ((1 << format.sign_bit) - 1);
    if format.infinity == Some(magnitude) {
        return Value::Infinity(negative);
    }
    if magnitude > format.max_finite {
        return Value::Nan;
    }
    let fraction_bits = format.precision - 1;
    let biased = (magnitude >> fraction_bits) as i32;
    let fraction = u128::from(magnitude & ((1 << fraction_bits) - 1));
    let mantissa = if biased == 0 { fraction } else { fraction | 1 << fraction_bits };
    let exponent = format.min_exponent - fraction_bits as i32 + (biased - 1).max(0);
    Value::Finite(Number { negative, mantissa, exponent })
}

/// Bits of the number of `format` that `number` rounds to; beyond its largest, infinity or the largest, as
/// the rounding says (the largest where there is no infinity).
pub fn round(number: Number, format: &Format, mode: Round) -> u64 {
    let Number { negative, mantissa, exponent } = number;
    let sign = u64::from(negative) << format.sign_bit;
    if mantissa == 0 {
        return sign;
    }
    let fraction_bits = format.precision as i32 - 1;
    let top = exponent + 127 - mantissa.leading_zeros() as i32;
    // What the last bit of the result stands for.
    let unit = top.max(format.min_exponent) - fraction_bits;
    let integer = round_to_unit(mantissa, unit - exponent, negative, mode);
    // A carry into the next binade only adds one to the exponent field, which is what it should do.
    let binade = i64::from(unit + fraction_bits - format.min_exponent);
    let magnitude = ((binade as u64) << fraction_bits).wrapping_add(integer as u64);
    if magnitude <= format.max_finite {
        return sign | magnitude;
    }
    let beyond = match mode {
        Round::Nearest | Round::Away => true,
        Round::Zero => false,
        Round::Down => negative,
        Round::Up => !negative,
    };
    sign | if beyond { format.infinity.unwrap_or(format.max_finite) } else { format.max_finite }
}

/// mantissa·2^-shift as an integer; the caller sees to it that a left shift fits.
fn round_to_unit(mantissa: u128, shift: i32, negative: bool, mode: Round) -> u128 {
    if shift <= 0 {
        return mantissa << -shift;
    }
    let (whole, rest, half) = match shift as u32 {
        shift @ 1..=127 => (mantissa >> shift, mantissa << (128 - shift), 1 << 127),
        128 => (0, mantissa, 1 << 127),
        // Less than half, and not nothing.
        _ => (0, 1, 1 << 127),
    };
    let up = match mode {
        Round::Nearest => rest > half || rest == half && whole & 1 != 0,
        Round::Away => rest >= half,
        Round::Zero => false,
        Round::Down => negative && rest != 0,
        Round::Up => !negative && rest != 0,
    };
    whole + u128::from(up)
}

/// The integer that a finite number rounds to, saturated to 127 bits, as a signed number.
pub fn to_integer(number: Number, mode: Round) -> i128 {
    let Number { negative, mantissa, exponent } = number;
    let top = exponent + 127 - mantissa.leading_zeros() as i32;
    let magnitude = if mantissa != 0 && top >= 126 {
        i128::MAX as u128
    } else if mantissa == 0 {
        0
    } else {
        round_to_unit(mantissa, -exponent, negative, mode)
    };
    if negative { -(magnitude as i128) } else { magnitude as i128 }
}

/// x + y; a sum of zero is negative in `Down` only, unless both are.
pub fn sum(x: Number, y: Number, mode: Round) -> Number {
    let nothing = if x.negative == y.negative { x.negative } else { mode == Round::Down };
    if x.mantissa == 0 && y.mantissa == 0 {
        return Number::zero(nothing);
    }
    let (x, y) = (x.normal(), y.normal());
    let y_larger = y.mantissa != 0 && (x.mantissa == 0 || y.exponent > x.exponent);
    let (large, small) = if y_larger { (y, x) } else { (x, y) };
    if small.mantissa == 0 {
        return large;
    }
    let low = shift_sticky(small.mantissa, large.exponent.abs_diff(small.exponent));
    let (negative, mantissa) = if large.negative == small.negative {
        (large.negative, large.mantissa + low)
    } else if large.mantissa >= low {
        (large.negative, large.mantissa - low)
    } else {
        (small.negative, low - large.mantissa)
    };
    if mantissa == 0 {
        return Number::zero(nothing);
    }
    Number { negative, mantissa, exponent: large.exponent }
}

/// x · y of two unpacked numbers: at most 53 bits each.
pub fn product(x: Number, y: Number) -> Number {
    Number {
        negative: x.negative != y.negative,
        mantissa: x.mantissa * y.mantissa,
        exponent: x.exponent + y.exponent,
    }
}

/// x / y, y not zero, cut off after at least 73 bits with a sticky one.
pub fn quotient(x: Number, y: Number) -> Number {
    let negative = x.negative != y.negative;
    if x.mantissa == 0 {
        return Number::zero(negative);
    }
    // One bit stays free for the sticky one: y may be 1.
    let up = x.mantissa.leading_zeros() - 1;
    let (high, low) = (x.mantissa << up, y.mantissa);
    let mantissa = ((high / low) << 1) | u128::from(high % low != 0);
    Number { negative, mantissa, exponent: x.exponent - up as i32 - y.exponent - 1 }
}

/// The square root of a number that is not negative (or is zero), cut off after 63 bits with a sticky one.
pub fn root(x: Number) -> Number {
    if x.mantissa == 0 {
        return x;
    }
    // An even exponent.
    let up = x.mantissa.leading_zeros()
        - u32::from((x.exponent - x.mantissa.leading_zeros() as i32) & 1 != 0);
    let square = x.mantissa << up;
    let root = square.isqrt();
    let mantissa = root << 1 | u128::from(root * root != square);
    Number { negative: x.negative, mantissa, exponent: (x.exponent - up as i32) / 2 - 1 }
}

/// a · b + c with one rounding. `Err` where the result is NaN.
fn fma_value(a: Value, b: Value, c: Value, mode: Round) -> Option<Value> {
    use Value::*;
    let product = match (a, b) {
        (Nan, _) | (_, Nan) => return None,
        (Infinity(s), Infinity(t)) => Infinity(s != t),
        (Infinity(s), Finite(n)) | (Finite(n), Infinity(s)) => {
            if n.mantissa == 0 {
                return None;
            }
            Infinity(s != n.negative)
        }
        (Finite(x), Finite(y)) => Finite(self::product(x, y)),
    };
    add_value(product, c, mode)
}

fn add_value(a: Value, b: Value, mode: Round) -> Option<Value> {
    use Value::*;
    Some(match (a, b) {
        (Nan, _) | (_, Nan) => return None,
        (Infinity(s), Infinity(t)) if s != t => return None,
        (Infinity(s), _) | (_, Infinity(s)) => Infinity(s),
        (Finite(x), Finite(y)) => Finite(sum(x, y, mode)),
    })
}

/// The bits of a value, `None` being NaN.
pub fn pack(value: Option<Value>, format: &Format, mode: Round) -> u64 {
    match value {
        None | Some(Value::Nan) => format.nan,
        Some(Value::Infinity(negative)) => {
            u64::from(negative) << format.sign_bit | format.infinity.unwrap_or(format.max_finite)
        }
        Some(Value::Finite(number)) => round(number, format, mode),
    }
}

/// a · b + c.
pub fn fma(a: u64, b: u64, c: u64, format: &Format, mode: Round) -> u64 {
    let [a, b, c] = [a, b, c].map(|bits| unpack(bits, format));
    pack(fma_value(a, b, c, mode), format, mode)
}

/// a + b.
pub fn add(a: u64, b: u64, format: &Format, mode: Round) -> u64 {
    pack(add_value(unpack(a, format), unpack(b, format), mode), format, mode)
}

/// a · b.
pub fn mul(a: u64, b: u64, format: &Format, mode: Round) -> u64 {
    use Value::*;
    let value = match (unpack(a, format), unpack(b, format)) {
        (Finite(x), Finite(y)) => Some(Finite(product(x, y))),
        (x, y) => fma_value(x, y, Finite(Number::zero(false)), mode),
    };
    pack(value, format, mode)
}

/// a / b.
pub fn div(a: u64, b: u64, format: &Format, mode: Round) -> u64 {
    use Value::*;
    let value = match (unpack(a, format), unpack(b, format)) {
        (Nan, _) | (_, Nan) | (Infinity(_), Infinity(_)) => None,
        (Infinity(s), Finite(n)) => Some(Infinity(s != n.negative)),
        (Finite(n), Infinity(s)) => Some(Finite(Number::zero(s != n.negative))),
        (Finite(x), Finite(y)) if y.mantissa == 0 => {
            (x.mantissa != 0).then_some(Infinity(x.negative != y.negative))
        }
        (Finite(x), Finite(y)) => Some(Finite(quotient(x, y))),
    };
    pack(value, format, mode)
}

/// The square root of a.
pub fn sqrt(a: u64, format: &Format, mode: Round) -> u64 {
    use Value::*;
    let value = match unpack(a, format) {
        Infinity(false) => Some(Infinity(false)),
        Finite(n) if n.mantissa == 0 || !n.negative => Some(Finite(root(n))),
        _ => None,
    };
    pack(value, format, mode)
}

/// From one format to another.
pub fn convert(bits: u64, from: &Format, to: &Format, mode: Round) -> u64 {
    pack(Some(unpack(bits, from)), to, mode)
}
