//! cvt in every form: integers in 128 bits, floats rounded by search, 16-bit formats with all their numbers.

use super::common::Random;
use super::exact::{BF16, E4M3, E5M2, Exact, F16, F32, F64, Fmt, Number, TF32, edges, random_bits};
use super::float::{Operands, run};

const PTX: &str = include_str!("convert.ptx");
const PTX_90: &str = include_str!("convert_90.ptx");

const INTEGERS: [&str; 8] = ["u8", "u16", "s8", "s16", "u32", "u64", "s32", "s64"];
/// The order of sources in the kernels.
const SOURCES: [&str; 8] = ["u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64"];
const ROUNDINGS: [&str; 4] = ["rn", "rz", "rm", "rp"];
const WHOLE: [&str; 4] = ["rni", "rzi", "rmi", "rpi"];

fn format(ty: &str) -> Option<Fmt> {
    Some(match ty {
        "f64" => F64,
        "f32" => F32,
        "f16" | "f16x2" => F16,
        "bf16" | "bf16x2" => BF16,
        "tf32" => TF32,
        "e4m3x2" => E4M3,
        "e5m2x2" => E5M2,
        _ => return None,
    })
}

/// Bits of an integer type, and whether it is signed.
fn integer(ty: &str) -> (u32, bool) {
    (ty[1..].parse().unwrap_or_else(|_| panic!("type {ty}")), ty.starts_with('s'))
}

fn range(ty: &str) -> (i128, i128) {
    let (bits, signed) = integer(ty);
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// The low bits of a register as a number.
fn integer_value(register: u64, ty: &str) -> i128 {
    let (bits, signed) = integer(ty);
    let low = i128::from(register) & ((1 << bits) - 1);
    if signed && low >> (bits - 1) != 0 { low - (1 << bits) } else { low }
}

/// A conversion as it is written.
struct Form<'a> {
    parts: Vec<&'a str>,
    to: &'a str,
    from: &'a str,
}

impl<'a> Form<'a> {
    fn new(text: &'a str) -> Form<'a> {
        let parts: Vec<&str> = text.split('.').collect();
        let [.., to, from] = parts[..] else { panic!("{text}") };
        Form { to, from, parts }
    }

    fn has(&self, modifier: &str) -> bool {
        self.parts.contains(&modifier)
    }

    fn round(&self) -> &str {
        let known = |part: &&&str| part.starts_with('r') && **part != "relu";
        self.parts.iter().find(known).copied().unwrap_or("rn")
    }

    fn flush(&self, ty: &str, bits: u64) -> u64 {
        let flush = self.has("ftz") && ty == "f32" && F32.is_subnormal(bits);
        if flush { bits & F32.sign() } else { bits }
    }

    /// One number to one number; `register` is the result's bits.
    fn expected(&self, source: u64, register: u32) -> u64 {
        match (format(self.from), format(self.to)) {
            (None, None) => {
                let (low, high) = range(self.to);
                let x = integer_value(source, self.from);
                let x = if self.has("sat") { x.clamp(low, high) } else { x };
                in_register(integer_value(x as u64, self.to), register)
            }
            (None, Some(to)) => {
                let x = integer_value(source, self.from);
                self.limited(to, to.nearest(self.round(), &Exact::new(x, 0)))
            }
            (Some(from), None) => {
                let bits = self.flush(self.from, source & (from.sign() | (from.sign() - 1)));
                in_register(self.to_integer(from, bits), register)
            }
            (Some(from), Some(to)) => {
                let bits = self.flush(self.from, source & (from.sign() | (from.sign() - 1)));
                self.limited(to, self.to_float(from, to, bits))
            }
        }
    }

    fn to_integer(&self, from: Fmt, bits: u64) -> i128 {
        let (low, high) = range(self.to);
        let (width, _) = integer(self.to);
        if from.is_nan(bits) {
            // PTX manual 9.7.9.21, "Integer Notes".
            let zero = self.from != "f64" && width != 64;
            return match zero {
                true => 0,
                false if low < 0 => low,
                false => 1 << (width - 1),
            };
        }
        // `as` saturates, and 128 bits are more than any type here has.
        (rounded(self.round(), as_f64(from, bits)) as i128).clamp(low, high)
    }

    fn to_float(&self, from: Fmt, to: Fmt, bits: u64) -> u64 {
        let negative = bits & from.sign() != 0;
        let sign = if negative { to.sign() } else { 0 };
        match from.number(bits) {
            Number::Nan if to == F64 && from == F64 => bits | 1 << 51,
            // f64 has room for a NaN's payload.
            Number::Nan if to == F64 && from == F32 => {
                sign | to.infinity() | 1 << 51 | (bits & ((1 << 23) - 1)) << 29
            }
            Number::Nan if to == F64 => 0x7FFF_FFFF_E000_0000,
            Number::Nan => to.sign() - 1,
            Number::Infinity if self.has("satfinite") => sign | to.largest(),
            Number::Infinity => sign | to.infinity(),
            Number::Finite(x) if x.is_zero() => sign,
            Number::Finite(_) if self.round().ends_with('i') => {
                let whole = rounded(self.round(), as_f64(from, bits));
                match to == F64 {
                    true => whole.to_bits(),
                    // No number of the other formats rounds to more than 24 bits.
                    false if whole.abs() > 1e30 => bits,
                    false => sign | to.nearest("rn", &Exact::new(whole.abs() as i128, 0)),
                }
            }
            Number::Finite(x) => to.nearest(self.round(), &x),
        }
    }

    /// The modifiers that act on a result.
    fn limited(&self, to: Fmt, bits: u64) -> u64 {
        let bits = self.flush(self.to, bits);
        let magnitude = bits & (to.sign() - 1);
        let negative = bits & to.sign() != 0;
        if self.has("sat") {
            return if negative || to.is_nan(bits) { 0 } else { bits.min(to.one()) };
        }
        if self.has("relu") && negative && !to.is_nan(bits) {
            return 0;
        }
        if self.has("satfinite") && !to.is_nan(bits) {
            return bits & to.sign() | magnitude.min(to.largest());
        }
        match self.to {
            // The upper bits of a register; the NaN has all of them.
            "tf32" if to.is_nan(bits) => 0x7FFF_FFFF,
            _ => bits,
        }
    }
}

fn in_register(x: i128, bits: u32) -> u64 {
    (x & ((1 << bits) - 1)) as u64
}

/// Exactly: every format here is a part of f64.
fn as_f64(from: Fmt, bits: u64) -> f64 {
    let sign = if bits & from.sign() != 0 { -1.0 } else { 1.0 };
    match from.number(bits) {
        _ if from == F64 => f64::from_bits(bits),
        Number::Nan => f64::NAN,
        Number::Infinity => sign * f64::INFINITY,
        // The sign of a zero, too.
        Number::Finite(x) => x.small().abs() * sign,
    }
}

fn rounded(round: &str, x: f64) -> f64 {
    match round {
        "rni" => x.round_ties_even(),
        "rzi" => x.trunc(),
        "rmi" => x.floor(),
        "rpi" => x.ceil(),
        _ => panic!("rounding {round}"),
    }
}

/// Registers whose low bits are at the borders of every type, and random ones.
fn integers() -> Operands {
    let mut random = Random(0xC0DE);
    let mut out: Vec<u64> = vec![0, 1, 2, u64::MAX];
    for bit in 0..64 {
        for near in [-1i64, 0, 1] {
            out.push((1u64 << bit).wrapping_add_signed(near));
            out.push((1u64 << bit).wrapping_neg().wrapping_add_signed(near));
        }
    }
    for _ in 0..1500 {
        // Long ones, short ones, and long ones with few bits, which lie half-way.
        let x = random.next();
        let few = x >> (random.next() % 64) << (random.next() % 64);
        out.extend([x, few, !few]);
    }
    with_others(out)
}

/// a, and as b and c the same values elsewhere.
fn with_others(a: Vec<u64>) -> Operands {
    let shifted = |by: usize| a.iter().cycle().skip(by).take(a.len()).copied().collect();
    let (b, c) = (shifted(5), shifted(11));
    [a, b, c]
}

/// Numbers of a format: edges, random ones, whole ones and those half-way between.
fn numbers(fmt: Fmt) -> Operands {
    let mut random = Random(0xF10A7);
    if fmt == F16 || fmt == BF16 {
        return with_others((0..1 << 16).collect());
    }
    let mut out = edges(fmt);
    for power in 0..66 {
        for near in [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 1.5] {
            for x in [f64::powi(2.0, power) + near, -f64::powi(2.0, power) + near] {
                let bits = if fmt == F64 { x.to_bits() } else { u64::from((x as f32).to_bits()) };
                out.extend([bits.wrapping_sub(1), bits, bits + 1]);
            }
        }
    }
    // Borders of narrower formats, exact and just beside.
    for narrow in [F32, F16, BF16, E5M2, E4M3] {
        for edge in edges(narrow) {
            if let Number::Finite(x) = narrow.number(edge) {
                let bits = fmt.nearest("rn", &x);
                let half =
                    1u64 << (fmt.fraction_bits - narrow.fraction_bits.min(fmt.fraction_bits));
                out.extend([bits, bits + half / 2, bits + half / 2 + 1]);
                out.extend([bits.saturating_sub(1), bits + 1, bits.saturating_sub(half / 2)]);
            }
        }
    }
    for _ in 0..2000 {
        out.push(random_bits(fmt, &mut random));
    }
    let all = fmt.sign() | (fmt.sign() - 1);
    out.iter_mut().for_each(|x| *x &= all);
    with_others(out)
}

/// Compares every form of a kernel; the results' registers have as many bits as `register` says.
fn check(
    ptx: &str,
    kernel: &str,
    forms: &[String],
    values: &Operands,
    register: impl Fn(&Form) -> u32,
) {
    let got = run(ptx, kernel, forms.len(), values);
    for (text, got) in forms.iter().zip(&got) {
        let form = Form::new(text);
        for (&a, &got) in values[0].iter().zip(got) {
            let want = form.expected(a, register(&form));
            let want = if form.to == "tf32" && want != 0x7FFF_FFFF { want << 13 } else { want };
            assert_eq!(got, want, "{text} of {a:#x}: {got:#x}, wanted {want:#x}");
        }
    }
}

/// A register of the type's own width; there are none of 8 bits.
fn own(form: &Form) -> u32 {
    integer_bits(form.to).max(16)
}

fn integer_bits(ty: &str) -> u32 {
    if format(ty).is_some() { 64 } else { integer(ty).0 }
}

/// Names with every part of one list in front of every part of the next.
fn product(lists: &[&[&str]]) -> Vec<String> {
    lists.iter().fold(vec!["cvt".to_owned()], |names, list| {
        let longer = |name: &String| {
            let name = name.clone();
            list.iter().map(move |part| match part.is_empty() {
                true => name.clone(),
                false => format!("{name}.{part}"),
            })
        };
        names.iter().flat_map(longer).collect()
    })
}

#[test]
fn integers_to_integers() {
    let forms: Vec<String> =
        SOURCES.iter().flat_map(|from| product(&[&INTEGERS, &[from]])).collect();
    check(PTX, "integers", &forms, &integers(), own);
}

#[test]
fn integers_to_integers_saturated() {
    let needs = |text: &String| {
        let form = Form::new(text);
        let ((low, high), (least, most)) = (range(form.to), range(form.from));
        low > least || high < most
    };
    let forms: Vec<String> = SOURCES
        .iter()
        .flat_map(|from| product(&[&["sat"], &INTEGERS, &[from]]))
        .filter(needs)
        .collect();
    check(PTX, "integers_sat", &forms, &integers(), own);
}

#[test]
fn integers_in_wider_registers() {
    let (small, all) = (["u8", "u16", "s8", "s16"], ["u8", "u16", "s8", "s16", "u32", "s32"]);
    let mut forms: Vec<String> = ["u8", "u16", "u32", "s8", "s16", "s32"]
        .iter()
        .flat_map(|from| product(&[&all, &[from]]))
        .collect();
    let wide = forms.len();
    for from in ["u8", "u16", "s8", "s16", "u32", "s32"] {
        forms.extend(product(&[&small, &[from]]));
    }
    let values = integers();
    let got = run(PTX, "integers_in_wider_registers", forms.len(), &values);
    for (i, (text, got)) in forms.iter().zip(&got).enumerate() {
        for (&a, &got) in values[0].iter().zip(got) {
            let want = Form::new(text).expected(a, if i < wide { 64 } else { 32 });
            assert_eq!(got, want, "{text} of {a:#x}, form {i}: {got:#x}, wanted {want:#x}");
        }
    }
}

#[test]
fn f32_to_integers() {
    let forms = product(&[&WHOLE, &["", "ftz"], &INTEGERS, &["f32"]]);
    check(PTX, "f32_to_integers", &forms, &numbers(F32), own);
}

#[test]
fn f64_to_integers() {
    check(PTX, "f64_to_integers", &product(&[&WHOLE, &INTEGERS, &["f64"]]), &numbers(F64), own);
}

#[test]
fn every_f16_to_integers() {
    check(PTX, "f16_to_integers", &product(&[&WHOLE, &INTEGERS, &["f16"]]), &numbers(F16), own);
}

#[test]
fn every_bf16_to_integers() {
    let forms = product(&[&WHOLE, &INTEGERS, &["bf16"]]);
    // bf16 is converted to registers of 8 bits, seen as u8 afterwards.
    let register = |form: &Form| integer_bits(form.to);
    check(PTX_90, "bf16_to_integers", &forms, &numbers(BF16), register);
}

#[test]
fn integers_to_f32() {
    let mut forms = product(&[&ROUNDINGS, &["f32"], &SOURCES]);
    forms.extend(product(&[&["rn.sat.f32"], &SOURCES]));
    check(PTX, "integers_to_f32", &forms, &integers(), own);
}

#[test]
fn integers_to_f64() {
    let forms = product(&[&ROUNDINGS, &["f64"], &SOURCES]);
    check(PTX, "integers_to_f64", &forms, &integers(), own);
}

#[test]
fn integers_to_f16() {
    let forms = product(&[&ROUNDINGS, &["f16"], &SOURCES]);
    check(PTX, "integers_to_f16", &forms, &integers(), own);
}

#[test]
fn integers_to_bf16() {
    let forms = product(&[&ROUNDINGS, &["bf16"], &SOURCES]);
    check(PTX_90, "integers_to_bf16", &forms, &integers(), own);
}

#[test]
fn f64_to_floats() {
    let mut forms = vec![];
    for modifier in ["", "ftz", "sat"] {
        forms.extend(product(&[&ROUNDINGS, &[modifier], &["f32.f64"]]));
    }
    forms.extend(product(&[&ROUNDINGS, &["f16.f64"]]));
    forms.extend(product(&[&WHOLE, &["f64.f64"]]));
    forms.extend(product(&[&["", "sat"], &["f64.f64"]]));
    check(PTX, "from_f64", &forms, &numbers(F64), own);
    let forms = product(&[&ROUNDINGS, &["bf16.f64"]]);
    check(PTX_90, "f64_to_bf16", &forms, &numbers(F64), own);
}

#[test]
fn f32_to_floats() {
    let mut forms = vec![];
    for modifier in ["", "ftz", "sat"] {
        forms.extend(product(&[&ROUNDINGS, &[modifier], &["f16.f32"]]));
    }
    for modifier in ["", "ftz", "sat"] {
        forms.extend(product(&[&WHOLE, &[modifier], &["f32.f32"]]));
    }
    forms.extend(product(&[&["", "ftz", "sat", "ftz.sat"], &["f32.f32"]]));
    forms.extend(product(&[&["", "ftz", "sat"], &["f64.f32"]]));
    forms.extend(product(&[&["rn", "rz", "rn.relu"], &["bf16.f32"]]));
    forms.extend(product(&[&["rn.relu.f16.f32", "rz.relu.f16.f32", "rna.tf32.f32"]]));
    check(PTX, "from_f32", &forms, &numbers(F32), own);
    let forms = product(&[&["rm", "rp"], &["bf16.f32"]]);
    check(PTX_90, "f32_to_bf16", &forms, &numbers(F32), own);
}

#[test]
fn every_f16_to_floats() {
    let mut forms = product(&[&["f32.f16", "ftz.f32.f16", "sat.f32.f16", "f64.f16"]]);
    forms.extend(product(&[&WHOLE, &["f16.f16"]]));
    forms.extend(product(&[&["f32.f16", "f64.f16"]]));
    check(PTX, "from_f16", &forms, &numbers(F16), own);
    let forms = product(&[&ROUNDINGS, &["bf16.f16"]]);
    check(PTX_90, "f16_to_bf16", &forms, &numbers(F16), own);
}

#[test]
fn every_bf16_to_floats() {
    let mut forms = product(&[&["f32.bf16", "ftz.f32.bf16", "f64.bf16"]]);
    forms.extend(product(&[&ROUNDINGS, &["f16.bf16"]]));
    forms.extend(product(&[&WHOLE, &["bf16.bf16"]]));
    check(PTX_90, "from_bf16", &forms, &numbers(BF16), own);
}

#[test]
fn satfinite_and_tf32() {
    let forms = product(&[&[
        "rn.satfinite.f16.f32",
        "rz.satfinite.f16.f32",
        "rn.relu.satfinite.f16.f32",
        "rn.satfinite.bf16.f32",
        "rz.relu.satfinite.bf16.f32",
        "rna.satfinite.tf32.f32",
        "rn.tf32.f32",
        "rz.tf32.f32",
        "rn.relu.tf32.f32",
        "rz.relu.tf32.f32",
    ]]);
    check(PTX_90, "satfinite", &forms, &numbers(F32), own);
}

/// `d, a, b`: a becomes the upper part.
fn check_pairs(ptx: &str, kernel: &str, forms: &[String], part_bits: u32) {
    let values = numbers(F32);
    let got = run(ptx, kernel, forms.len(), &values);
    for (text, got) in forms.iter().zip(&got) {
        let form = Form::new(text);
        for (i, &got) in got.iter().enumerate() {
            let [a, b] = [0, 1].map(|operand| values[operand][i]);
            let want = form.expected(a, 64) << part_bits | form.expected(b, 64);
            assert_eq!(got, want, "{text} of {a:#x}, {b:#x}: {got:#x}, wanted {want:#x}");
        }
    }
}

#[test]
fn pairs_of_halves() {
    let forms = product(&[&["rn", "rz", "rn.relu", "rz.relu"], &["f16x2.f32"]])
        .into_iter()
        .chain(product(&[&["rn", "rz", "rn.relu", "rz.relu"], &["bf16x2.f32"]]));
    check_pairs(PTX, "pairs", &forms.collect::<Vec<_>>(), 16);
    let forms = ["f16x2.f32", "bf16x2.f32"]
        .iter()
        .flat_map(|types| product(&[&["rn.satfinite", "rz.relu.satfinite"], &[types]]));
    check_pairs(PTX_90, "pairs_satfinite", &forms.collect::<Vec<_>>(), 16);
}

#[test]
fn pairs_of_bytes() {
    let forms = ["e4m3x2.f32", "e5m2x2.f32"]
        .iter()
        .flat_map(|types| product(&[&["rn.satfinite", "rn.satfinite.relu"], &[types]]));
    check_pairs(PTX_90, "pairs_of_bytes", &forms.collect::<Vec<_>>(), 8);
}

/// All numbers in the low part, others in the upper one.
fn check_both(kernel: &str, forms: &[String], source: (u32, u64), result_bits: u32) {
    let (source_bits, count) = source;
    let low: Vec<u64> = (0..count).collect();
    let values: Vec<u64> =
        low.iter().map(|x| (((x * 7919 + 13) % count) << source_bits) | x).collect();
    let values = with_others(values);
    let got = run(PTX_90, kernel, forms.len(), &values);
    for (text, got) in forms.iter().zip(&got) {
        let form = Form::new(text);
        for (&a, &got) in values[0].iter().zip(got) {
            let [upper, lower] = [a >> source_bits, a].map(|x| form.expected(x, 64));
            let want = upper << result_bits | lower;
            assert_eq!(got, want, "{text} of {a:#x}: {got:#x}, wanted {want:#x}");
        }
    }
}

#[test]
fn every_f16_to_bytes() {
    let forms = ["e4m3x2.f16x2", "e5m2x2.f16x2"]
        .iter()
        .flat_map(|types| product(&[&["rn.satfinite", "rn.satfinite.relu"], &[types]]));
    check_both("f16x2_to_bytes", &forms.collect::<Vec<_>>(), (16, 1 << 16), 8);
}

#[test]
fn every_byte_to_f16() {
    let forms = ["f16x2.e4m3x2", "f16x2.e5m2x2"]
        .iter()
        .flat_map(|types| product(&[&["rn", "rn.relu"], &[types]]));
    check_both("bytes_to_f16x2", &forms.collect::<Vec<_>>(), (8, 1 << 8), 16);
}

#[test]
fn between_neighbours_of_f16_and_bf16() {
    // Every pair of neighbours: the lower one, half-way less a bit, half-way, half-way and a bit.
    for (fmt, first) in [(F16, 0), (BF16, 4)] {
        let (mut values, mut nearest, mut lower) = (vec![], vec![], vec![]);
        for low in 0..fmt.infinity() {
            // Beyond the largest one the next step counts as infinity.
            let [x, next] = [low, low + 1].map(|bits| match bits == fmt.infinity() {
                true if fmt == F16 => 65536.0,
                true => f64::powi(2.0, 128),
                false => as_f64(fmt, bits),
            });
            let middle = ((x + next) / 2.0) as f32;
            for bits in [x as f32, middle.next_down(), middle, middle.next_up()].map(f32::to_bits) {
                values.push(u64::from(bits));
                lower.push(low);
            }
            nearest.extend([low, low, low + (low & 1), low + 1]);
        }
        let n = values.len();
        let operands = [values.clone(), values.clone(), values.clone()];
        let got = run(PTX, "pairs", 8, &operands);
        for i in 0..n {
            let (rn, rz) = (got[first][i], got[first + 1][i]);
            assert_eq!(rn, nearest[i] << 16 | nearest[i], "rn of {:#x}", values[i]);
            assert_eq!(rz, lower[i] << 16 | lower[i], "rz of {:#x}", values[i]);
        }
    }
}

#[test]
fn cvt_pack() {
    let types = ["u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2"];
    let values = integers();
    let got = run(PTX, "packs", types.len(), &values);
    for (ty, got) in types.iter().zip(&got) {
        let bits = integer(ty).0;
        let (low, high) = range(ty);
        for (i, &got) in got.iter().enumerate() {
            let [a, b] = [0, 1].map(|operand| {
                in_register(integer_value(values[operand][i], "s32").clamp(low, high), bits)
            });
            let c = if bits == 16 { 0 } else { values[2][i] << (2 * bits) };
            let want = (c | a << bits | b) & 0xFFFF_FFFF;
            let operands = [0, 1, 2].map(|operand| values[operand][i] as u32);
            assert_eq!(got, want, "{ty} of {operands:x?}: {got:#x}, wanted {want:#x}");
        }
    }
}
