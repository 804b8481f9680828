//! What IEEE 754 says, found by search: among all numbers of a format, the neighbours of an exact value.
//!
//! A result is given as a comparison with any candidate, made in integers of any length. The numbers of a
//! format are ordered as their bits, so 16 to 64 halvings find the largest one that is not above it.

use std::cmp::Ordering;

/// ±magnitude · 2^exponent; limbs of 32 bits, lowest first.
#[derive(Clone, Debug)]
pub struct Exact {
    negative: bool,
    limbs: Vec<u32>,
    exponent: i32,
}

impl Exact {
    pub fn new(value: i128, exponent: i32) -> Exact {
        let mut rest = value.unsigned_abs();
        let mut limbs = Vec::new();
        while rest != 0 {
            limbs.push(rest as u32);
            rest >>= 32;
        }
        Exact { negative: value < 0, limbs, exponent }
    }

    pub fn is_zero(&self) -> bool {
        self.limbs.iter().all(|&limb| limb == 0)
    }

    /// As f64: exact for up to 53 bits and exponents well inside f64's.
    pub fn small(&self) -> f64 {
        let magnitude =
            self.limbs.iter().rev().fold(0.0, |x, limb| x * 4294967296.0 + f64::from(*limb));
        let value = magnitude * f64::powi(2.0, self.exponent);
        if self.negative { -value } else { value }
    }

    pub fn negated(mut self) -> Exact {
        self.negative = !self.negative;
        self
    }

    pub fn times(&self, other: &Exact) -> Exact {
        let mut limbs = vec![0u32; self.limbs.len() + other.limbs.len() + 1];
        for (i, &x) in self.limbs.iter().enumerate() {
            let mut carry = 0u64;
            for (j, &y) in other.limbs.iter().enumerate() {
                let sum = u64::from(x) * u64::from(y) + u64::from(limbs[i + j]) + carry;
                limbs[i + j] = sum as u32;
                carry = sum >> 32;
            }
            limbs[i + other.limbs.len()] += carry as u32;
        }
        let exponent = self.exponent + other.exponent;
        Exact { negative: self.negative != other.negative, limbs, exponent }
    }

    /// The limbs of the same value with a lower exponent.
    fn limbs_at(&self, exponent: i32) -> Vec<u32> {
        let up = (self.exponent - exponent) as usize;
        let mut out = vec![0u32; up / 32];
        let mut carry = 0u64;
        for &limb in &self.limbs {
            let wide = u64::from(limb) << (up % 32) | carry;
            out.push(wide as u32);
            carry = wide >> 32;
        }
        out.push(carry as u32);
        out
    }

    pub fn plus(&self, other: &Exact) -> Exact {
        if self.is_zero() {
            return other.clone();
        }
        if other.is_zero() {
            return self.clone();
        }
        let exponent = self.exponent.min(other.exponent);
        let (mut x, mut y) = (self.limbs_at(exponent), other.limbs_at(exponent));
        let length = x.len().max(y.len()) + 1;
        x.resize(length, 0);
        y.resize(length, 0);
        if self.negative == other.negative {
            let mut carry = 0u64;
            for (x, y) in x.iter_mut().zip(&y) {
                let sum = u64::from(*x) + u64::from(*y) + carry;
                *x = sum as u32;
                carry = sum >> 32;
            }
            return Exact { negative: self.negative, limbs: x, exponent };
        }
        let self_larger = x.iter().rev().ge(y.iter().rev());
        let (mut large, small) = if self_larger { (x, y) } else { (y, x) };
        let mut borrow = 0i64;
        for (x, y) in large.iter_mut().zip(&small) {
            let difference = i64::from(*x) - i64::from(*y) - borrow;
            *x = difference as u32;
            borrow = i64::from(difference < 0);
        }
        let negative = if self_larger { self.negative } else { other.negative };
        Exact { negative, limbs: large, exponent }
    }

    pub fn cmp(&self, other: &Exact) -> Ordering {
        let difference = self.plus(&other.clone().negated());
        match (difference.is_zero(), difference.negative) {
            (true, _) => Ordering::Equal,
            (false, true) => Ordering::Less,
            (false, false) => Ordering::Greater,
        }
    }
}

/// A format by the widths of its fields; with infinity and NaNs as IEEE 754 has them, or as E4M3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fmt {
    pub exponent_bits: u32,
    pub fraction_bits: u32,
    pub infinite: bool,
}

pub const F64: Fmt = Fmt { exponent_bits: 11, fraction_bits: 52, infinite: true };
pub const F32: Fmt = Fmt { exponent_bits: 8, fraction_bits: 23, infinite: true };
pub const F16: Fmt = Fmt { exponent_bits: 5, fraction_bits: 10, infinite: true };
pub const BF16: Fmt = Fmt { exponent_bits: 8, fraction_bits: 7, infinite: true };
pub const TF32: Fmt = Fmt { exponent_bits: 8, fraction_bits: 10, infinite: true };
pub const E5M2: Fmt = Fmt { exponent_bits: 5, fraction_bits: 2, infinite: true };
pub const E4M3: Fmt = Fmt { exponent_bits: 4, fraction_bits: 3, infinite: false };

/// What bits mean.
#[derive(Clone, Debug)]
pub enum Number {
    Nan,
    Infinity,
    Finite(Exact),
}

impl Fmt {
    pub fn sign(self) -> u64 {
        1 << (self.exponent_bits + self.fraction_bits)
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exponent_bits) - 1) << self.fraction_bits
    }

    /// The largest finite magnitude.
    pub fn largest(self) -> u64 {
        if self.infinite { self.infinity() - 1 } else { self.sign() - 2 }
    }

    pub fn is_nan(self, bits: u64) -> bool {
        let magnitude = bits & (self.sign() - 1);
        if self.infinite { magnitude > self.infinity() } else { magnitude == self.sign() - 1 }
    }

    pub fn is_subnormal(self, bits: u64) -> bool {
        let magnitude = bits & (self.sign() - 1);
        magnitude != 0 && magnitude < 1 << self.fraction_bits
    }

    /// One: an exponent field of the bias.
    pub fn one(self) -> u64 {
        ((1 << (self.exponent_bits - 1)) - 1) << self.fraction_bits
    }

    /// The magnitude that bits without a sign stand for, the one above the largest too.
    fn magnitude(self, bits: u64) -> Exact {
        let bias = (1 << (self.exponent_bits - 1)) - 1;
        let field = (bits >> self.fraction_bits) as i32;
        let fraction = i128::from(bits & ((1 << self.fraction_bits) - 1));
        let implicit = if field == 0 { 0 } else { 1 << self.fraction_bits };
        Exact::new(fraction + implicit, field.max(1) - bias - self.fraction_bits as i32)
    }

    pub fn number(self, bits: u64) -> Number {
        let (negative, magnitude) = (bits & self.sign() != 0, bits & (self.sign() - 1));
        if self.is_nan(bits) {
            return Number::Nan;
        }
        if self.infinite && magnitude == self.infinity() {
            return Number::Infinity;
        }
        let exact = self.magnitude(magnitude);
        Number::Finite(if negative { exact.negated() } else { exact })
    }

    /// The result of rounding a positive value, given as its order against candidates.
    fn round_magnitude(
        self,
        round: &str,
        negative: bool,
        order: &dyn Fn(&Exact) -> Ordering,
    ) -> u64 {
        // `low` is not above the value, `high` is; the one above the largest stands for infinity.
        let (mut low, mut high) = (0, self.largest() + 1);
        if order(&self.magnitude(high)) != Ordering::Less {
            low = high;
        } else {
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                match order(&self.magnitude(middle)) {
                    Ordering::Less => high = middle,
                    _ => low = middle,
                }
            }
        }
        let beyond = low == self.largest() + 1;
        let exact = !beyond && order(&self.magnitude(low)) == Ordering::Equal;
        let up = match round {
            _ if exact => false,
            "rz" => false,
            "rm" => negative,
            "rp" => !negative,
            _ if beyond => true,
            "rn" | "rna" => {
                let half = Exact::new(1, -1);
                let middle = self.magnitude(low).plus(&self.magnitude(low + 1)).times(&half);
                match order(&middle) {
                    Ordering::Less => false,
                    Ordering::Greater => true,
                    Ordering::Equal => round == "rna" || low & 1 == 1,
                }
            }
            _ => panic!("rounding {round}"),
        };
        let low = low.min(self.largest());
        let bits = if up { low + 1 } else { low };
        if bits > self.largest() && !self.infinite { self.largest() } else { bits }
    }

    /// The result for a value with this sign whose magnitude has this order against candidates.
    pub fn round(self, round: &str, negative: bool, order: &dyn Fn(&Exact) -> Ordering) -> u64 {
        let sign = if negative { self.sign() } else { 0 };
        sign | self.round_magnitude(round, negative, order)
    }

    /// An exact value, rounded. A zero is positive.
    pub fn nearest(self, round: &str, value: &Exact) -> u64 {
        let negative = value.negative && !value.is_zero();
        let magnitude = Exact { negative: false, ..value.clone() };
        self.round(round, negative, &|candidate| magnitude.cmp(candidate))
    }

    /// a · b + c with one rounding; `None` is NaN. `c` of `None` is absent: a product.
    pub fn fma(self, round: &str, a: u64, b: u64, c: Option<u64>) -> Option<u64> {
        let sign = (a ^ b) & self.sign();
        let product = match (self.number(a), self.number(b)) {
            (Number::Nan, _) | (_, Number::Nan) => return None,
            (Number::Infinity, Number::Finite(x)) | (Number::Finite(x), Number::Infinity) => {
                if x.is_zero() {
                    return None;
                }
                None
            }
            (Number::Finite(x), Number::Finite(y)) => Some(x.times(&y)),
            _ => None,
        };
        let Some(c) = c else {
            return Some(match product {
                None => sign | self.infinity(),
                Some(product) if product.is_zero() => sign,
                Some(product) => self.nearest(round, &product),
            });
        };
        match (product, self.number(c)) {
            (_, Number::Nan) => None,
            (None, Number::Infinity) => (c & self.sign() == sign).then_some(c),
            (None, _) => Some(sign | self.infinity()),
            (_, Number::Infinity) => Some(c),
            (Some(product), Number::Finite(addend)) => {
                let sum = product.plus(&addend);
                if !sum.is_zero() {
                    return Some(self.nearest(round, &sum));
                }
                // Two zeros of one sign keep it; otherwise zero is positive but when rounding down.
                let both_zero = product.is_zero() && addend.is_zero();
                Some(if both_zero && sign == c & self.sign() {
                    sign
                } else if round == "rm" {
                    self.sign()
                } else {
                    0
                })
            }
        }
    }

    pub fn add(self, round: &str, a: u64, b: u64) -> Option<u64> {
        self.fma(round, a, self.one(), Some(b))
    }

    pub fn div(self, round: &str, a: u64, b: u64) -> Option<u64> {
        let sign = (a ^ b) & self.sign();
        let bits = match (self.number(a), self.number(b)) {
            (Number::Nan, _) | (_, Number::Nan) | (Number::Infinity, Number::Infinity) => {
                return None;
            }
            (Number::Infinity, _) => self.infinity(),
            (_, Number::Infinity) => 0,
            (Number::Finite(x), Number::Finite(y)) => match (x.is_zero(), y.is_zero()) {
                (true, true) => return None,
                (true, false) => 0,
                (false, true) => self.infinity(),
                (false, false) => {
                    let (x, y) = (Exact { negative: false, ..x }, Exact { negative: false, ..y });
                    // x / y against r is x against r · y.
                    let order = |candidate: &Exact| x.cmp(&candidate.times(&y));
                    return Some(self.round(round, sign != 0, &order));
                }
            },
        };
        Some(sign | bits)
    }

    pub fn sqrt(self, round: &str, a: u64) -> Option<u64> {
        match self.number(a) {
            Number::Nan => None,
            Number::Finite(x) if x.is_zero() => Some(a),
            _ if a & self.sign() != 0 => None,
            Number::Infinity => Some(a),
            Number::Finite(x) => {
                let order = |candidate: &Exact| x.cmp(&candidate.times(candidate));
                Some(self.round(round, false, &order))
            }
        }
    }
}

/// The numbers where formats end and change, with both signs, and some NaNs.
pub fn edges(fmt: Fmt) -> Vec<u64> {
    let one = fmt.one();
    let smallest = 1 << fmt.fraction_bits;
    let nan = fmt.infinity() | 1 << (fmt.fraction_bits - 1);
    let mut out = Vec::new();
    for magnitude in [
        0,
        1,
        smallest - 1,
        smallest,
        smallest + 1,
        one - 1,
        one,
        one + 1,
        one + smallest,
        fmt.largest(),
        fmt.infinity(),
        nan,
        nan + 1,
        fmt.infinity() | 1,
    ] {
        out.extend([magnitude, magnitude | fmt.sign()]);
    }
    out
}

/// Bits of a format: any pattern, or a number of ordinary size, with few bits so that results are often
/// exact or half-way.
pub fn random_bits(fmt: Fmt, random: &mut super::common::Random) -> u64 {
    let (bits, choice) = (random.next(), random.next());
    let all = fmt.sign() | (fmt.sign() - 1);
    let cut = (choice >> 8) % u64::from(fmt.fraction_bits + 1);
    let few = bits & all & !((1 << cut) - 1);
    match choice % 4 {
        0 => bits & all,
        1 => few,
        _ => {
            let fields = fmt.sign() | ((1 << fmt.fraction_bits) - 1);
            let span = ((choice >> 32) % 16) << fmt.fraction_bits;
            let x = if choice & 4 == 0 { bits } else { few };
            (x & fields) + (fmt.one() & fmt.infinity()) - (8 << fmt.fraction_bits) + span
        }
    }
}
