//! Floating point arithmetic in every form, against the exact results rounded by search.

use super::common::{Device, Random};
use super::exact::{BF16, F16, F32, F64, Fmt, edges, random_bits};

pub const PTX: &str = include_str!("float.ptx");
pub const PTX_90: &str = include_str!("float_90.ptx");

/// What each instruction gets: a, b and c of every thread.
pub type Operands = [Vec<u64>; 3];

/// Runs a kernel of many forms; results by form, then by thread.
pub fn run(ptx: &str, kernel: &str, forms: usize, [a, b, c]: &Operands) -> Vec<Vec<u64>> {
    let device = Device::new(ptx);
    let n = a.len();
    let [a, b, c] = [a, b, c].map(|values| device.buffer(values));
    let d = device.unwritten::<u64>(n * forms);
    let args = [a.into(), b.into(), c.into(), d.into(), (n as u32).into()];
    device.launch(kernel, (n as u32).div_ceil(128), 128, 0, &args);
    device.read::<u64>(d, n * forms).chunks(n).map(<[u64]>::to_vec).collect()
}

/// Edges with edges in all three places, then random patterns; packed formats get two numbers each.
pub fn operands(fmt: Fmt, packed: bool, count: usize) -> Operands {
    let mut random = Random(0x5EED + u64::from(fmt.fraction_bits));
    let edges = edges(fmt);
    let mut out = [vec![], vec![], vec![]];
    let mut push = |a: u64, b: u64, c: u64| {
        for (list, x) in out.iter_mut().zip([a, b, c]) {
            list.push(x);
        }
    };
    for (i, &a) in edges.iter().enumerate() {
        for (j, &b) in edges.iter().enumerate() {
            push(a, b, edges[(i * 5 + j * 3) % edges.len()]);
            push(a, b, random_bits(fmt, &mut random));
        }
    }
    for i in 0..count {
        let [a, b, c] = [(); 3].map(|()| random_bits(fmt, &mut random));
        // Every fourth sum cancels, or nearly.
        let c = match i % 4 {
            0 => fmt.fma("rn", a, b, None).map_or(c, |x| x ^ fmt.sign() ^ (random.next() & 1)),
            _ => c,
        };
        let b = if i % 8 == 1 { a ^ fmt.sign() ^ (random.next() & 3) } else { b };
        push(a, b, c);
    }
    if packed {
        for list in &mut out {
            let upper: Vec<u64> = list.iter().cycle().skip(7).take(list.len()).copied().collect();
            list.iter_mut().zip(upper).for_each(|(low, high)| *low |= high << 16);
        }
    }
    out
}

/// The opcode, modifiers and type of a form.
pub struct Form<'a> {
    pub text: &'a str,
    pub op: &'a str,
    pub fmt: Fmt,
    pub packed: bool,
    pub round: &'a str,
}

impl<'a> Form<'a> {
    pub fn new(text: &'a str) -> Form<'a> {
        let mut parts = text.split('.');
        let op = parts.next().unwrap();
        let ty = text.rsplit('.').next().unwrap();
        let fmt = match ty {
            "f64" => F64,
            "f32" => F32,
            "f16" | "f16x2" => F16,
            "bf16" | "bf16x2" => BF16,
            _ => panic!("type of {text}"),
        };
        let round = parts.find(|part| matches!(*part, "rn" | "rz" | "rm" | "rp")).unwrap_or("rn");
        Form { text, op, fmt, packed: ty.ends_with("x2"), round }
    }

    pub fn has(&self, modifier: &str) -> bool {
        self.text.split('.').any(|part| part == modifier)
    }

    pub fn flush(&self, x: u64) -> u64 {
        if self.has("ftz") && self.fmt.is_subnormal(x) { x & self.fmt.sign() } else { x }
    }

    /// Of one number, one half of a packed register.
    pub fn expected(&self, [a, b, c]: [u64; 3]) -> u64 {
        let fmt = self.fmt;
        let [x, y, z] = [a, b, c].map(|x| self.flush(x));
        let result = match self.op {
            "add" => fmt.add(self.round, x, y),
            "sub" => fmt.add(self.round, x, y ^ fmt.sign()),
            "mul" => fmt.fma(self.round, x, y, None),
            "fma" | "mad" => fmt.fma(self.round, x, y, Some(z)),
            "div" => fmt.div(self.round, x, y),
            "rcp" => fmt.div(self.round, fmt.one(), x),
            "sqrt" => fmt.sqrt(self.round, x),
            "min" | "max" => return self.extreme(x, y),
            // f64 keeps a NaN and turns its sign; the others have one NaN.
            "neg" if fmt == F64 => return x ^ fmt.sign(),
            "abs" if fmt == F64 => return x & !fmt.sign(),
            "neg" => (!fmt.is_nan(x)).then_some(x ^ fmt.sign()),
            "abs" => (!fmt.is_nan(x)).then_some(x & !fmt.sign()),
            "copysign" => return a & fmt.sign() | b & !fmt.sign(),
            op => panic!("{op}"),
        };
        // A difference changes the sign of its second operand, but not if it is NaN.
        let inputs: &[u64] = match self.op {
            "rcp" | "sqrt" => &[a],
            "fma" | "mad" => &[a, b, c],
            _ => &[a, b],
        };
        self.limited(result, inputs)
    }

    /// `.ftz`, `.sat` and `.relu` of a result; `None` is NaN.
    fn limited(&self, result: Option<u64>, inputs: &[u64]) -> u64 {
        let fmt = self.fmt;
        let Some(bits) = result else {
            return if self.has("sat") { 0 } else { nan(fmt, inputs) };
        };
        let bits = self.flush(bits);
        if self.has("sat") && bits & fmt.sign() != 0 || self.has("relu") && bits & fmt.sign() != 0 {
            return 0;
        }
        if self.has("sat") { bits.min(fmt.one()) } else { bits }
    }

    fn extreme(&self, a: u64, b: u64) -> u64 {
        let fmt = self.fmt;
        let (x, y) = match self.has("xorsign") {
            true => (a & !fmt.sign(), b & !fmt.sign()),
            false => (a, b),
        };
        // Ordered as integers: negative numbers run backwards below the positive ones.
        let order = |x: u64| match x & fmt.sign() {
            0 => x as i128,
            _ => -1 - (x & !fmt.sign()) as i128,
        };
        let least = if order(x) < order(y) { x } else { y };
        let greatest = if order(x) < order(y) { y } else { x };
        let out = match (fmt.is_nan(x), fmt.is_nan(y)) {
            (true, true) => return nan(fmt, &[a, b]),
            (true, false) | (false, true) if self.has("NaN") => return nan(fmt, &[a, b]),
            (true, false) => y,
            (false, true) => x,
            _ if self.op == "min" => least,
            _ => greatest,
        };
        match self.has("xorsign") {
            true => out | (a ^ b) & fmt.sign(),
            false => out,
        }
    }
}

/// The NaN of a result: f64 keeps the first one's payload, the others have one for all.
pub fn nan(fmt: Fmt, inputs: &[u64]) -> u64 {
    if fmt != F64 {
        return fmt.sign() - 1;
    }
    let quiet = 1 << (fmt.fraction_bits - 1);
    let first = inputs.iter().find(|x| fmt.is_nan(**x));
    first.map_or(fmt.sign() | fmt.infinity() | quiet, |x| x | quiet)
}

/// Runs a kernel and compares every form with what is expected.
fn check(ptx: &str, kernel: &str, forms: &[String]) {
    let mut done: Vec<(Fmt, bool)> = vec![];
    let parsed: Vec<Form> = forms.iter().map(|text| Form::new(text)).collect();
    for first in &parsed {
        let (fmt, packed) = (first.fmt, first.packed);
        if done.contains(&(fmt, packed)) {
            continue;
        }
        done.push((fmt, packed));
        let values = operands(fmt, packed, 1500);
        let got = run(ptx, kernel, forms.len(), &values);
        let same = |form: &&Form| (form.fmt, form.packed) == (fmt, packed);
        for (form, got) in parsed.iter().zip(&got).filter(|(form, _)| same(form)) {
            for (i, &got) in got.iter().enumerate() {
                let abc = [0, 1, 2].map(|operand| values[operand][i]);
                let want = match packed {
                    true => {
                        let half =
                            |shift: u32| form.expected(abc.map(|x| x >> shift & 0xFFFF)) << shift;
                        half(16) | half(0)
                    }
                    false => form.expected(abc),
                };
                assert_eq!(got, want, "{} of {abc:x?}: {got:#x}, wanted {want:#x}", form.text);
            }
        }
    }
}

fn forms(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// `op.rn.f32` and so on: roundings times modifiers, as the kernels have them.
fn rounded(op: &str, roundings: &[&str], modifiers: &[&str], ty: &str) -> Vec<String> {
    let mut out = vec![];
    for round in roundings {
        for modifier in modifiers {
            out.push(format!("{op}{round}{modifier}.{ty}"));
        }
    }
    out
}

const ALL: [&str; 4] = [".rn", ".rz", ".rm", ".rp"];
const DEFAULT_TOO: [&str; 5] = ["", ".rn", ".rz", ".rm", ".rp"];
const FTZ_SAT: [&str; 4] = ["", ".ftz", ".sat", ".ftz.sat"];

fn check_f32(op: &str, roundings: &[&str], modifiers: &[&str]) {
    check(PTX, &format!("{op}_f32"), &rounded(op, roundings, modifiers, "f32"));
}

fn check_f64(op: &str) {
    let roundings = match op {
        "add" | "sub" | "mul" => &DEFAULT_TOO[..],
        _ => &ALL,
    };
    check(PTX, &format!("{op}_f64"), &rounded(op, roundings, &[""], "f64"));
}

/// The forms of f16 and f16x2.
fn check_f16(op: &str) {
    for ty in ["f16", "f16x2"] {
        let modifiers = ["", ".rn", ".ftz", ".sat", ".rn.ftz.sat"];
        check(PTX, &format!("{op}_{ty}"), &rounded(op, &[""], &modifiers, ty));
    }
}

#[test]
fn add_f32() {
    check_f32("add", &DEFAULT_TOO, &FTZ_SAT);
}

#[test]
fn sub_f32() {
    check_f32("sub", &DEFAULT_TOO, &FTZ_SAT);
}

#[test]
fn mul_f32() {
    check_f32("mul", &DEFAULT_TOO, &FTZ_SAT);
}

#[test]
fn fma_f32() {
    check_f32("fma", &ALL, &FTZ_SAT);
}

#[test]
fn mad_f32() {
    check_f32("mad", &ALL, &FTZ_SAT);
}

#[test]
fn div_f32() {
    check_f32("div", &ALL, &["", ".ftz"]);
}

#[test]
fn rcp_f32() {
    check_f32("rcp", &ALL, &["", ".ftz"]);
}

#[test]
fn sqrt_f32() {
    check_f32("sqrt", &ALL, &["", ".ftz"]);
}

#[test]
fn add_f64() {
    check_f64("add");
}

#[test]
fn sub_f64() {
    check_f64("sub");
}

#[test]
fn mul_f64() {
    check_f64("mul");
}

#[test]
fn fma_f64() {
    check_f64("fma");
}

#[test]
fn mad_f64() {
    check_f64("mad");
}

#[test]
fn div_f64() {
    check_f64("div");
}

#[test]
fn rcp_f64() {
    check_f64("rcp");
}

#[test]
fn sqrt_f64() {
    check_f64("sqrt");
}

#[test]
fn add_f16() {
    check_f16("add");
}

#[test]
fn sub_f16() {
    check_f16("sub");
}

#[test]
fn mul_f16() {
    check_f16("mul");
}

#[test]
fn fma_f16() {
    for ty in ["f16", "f16x2"] {
        let modifiers = ["", ".ftz", ".sat", ".ftz.sat", ".relu", ".ftz.relu"];
        check(PTX, &format!("fma_{ty}"), &rounded("fma", &[".rn"], &modifiers, ty));
    }
}

#[test]
fn fma_bf16() {
    for ty in ["bf16", "bf16x2"] {
        check(PTX, &format!("fma_{ty}"), &rounded("fma", &[".rn"], &["", ".relu"], ty));
    }
}

#[test]
fn add_sub_mul_bf16() {
    for op in ["add", "sub", "mul"] {
        for ty in ["bf16", "bf16x2"] {
            check(PTX_90, &format!("{op}_{ty}"), &rounded(op, &["", ".rn"], &[""], ty));
        }
    }
}

fn check_extreme(ty: &str, modifiers: &[&str]) {
    for op in ["min", "max"] {
        check(PTX, &format!("{op}_{ty}"), &rounded(op, &[""], modifiers, ty));
    }
}

const NAN_FTZ: [&str; 4] = ["", ".ftz", ".NaN", ".ftz.NaN"];

#[test]
fn min_max_f32() {
    check_extreme("f32", &NAN_FTZ);
}

#[test]
fn min_max_f64() {
    check_extreme("f64", &[""]);
}

#[test]
fn min_max_f16() {
    check_extreme("f16", &NAN_FTZ);
    check_extreme("f16x2", &NAN_FTZ);
}

#[test]
fn min_max_bf16() {
    check_extreme("bf16", &["", ".NaN"]);
    check_extreme("bf16x2", &["", ".NaN"]);
}

#[test]
fn min_max_of_magnitudes_with_the_products_sign() {
    for ty in ["f32", "f16", "f16x2", "bf16", "bf16x2"] {
        let mut all = rounded("min", &["", ".NaN"], &[".xorsign.abs"], ty);
        all.extend(rounded("max", &["", ".NaN"], &[".xorsign.abs"], ty));
        check(PTX_90, &format!("xorsign_{ty}"), &all);
    }
}

#[test]
fn neg_and_abs() {
    for op in ["neg", "abs"] {
        let types = "f32 ftz.f32 f64 f16 ftz.f16 f16x2 ftz.f16x2 bf16 bf16x2";
        let all: Vec<String> = forms(types).iter().map(|ty| format!("{op}.{ty}")).collect();
        check(PTX, &format!("{op}_all"), &all);
    }
}

#[test]
fn copysign() {
    check(PTX, "copysign_all", &forms("copysign.f32 copysign.f64"));
}

#[test]
fn testp() {
    for (kernel, fmt) in [("testp_f32", F32), ("testp_f64", F64)] {
        let values = operands(fmt, false, 1000);
        let got = run(PTX, kernel, 6, &values);
        for (i, &bits) in values[0].iter().enumerate() {
            let magnitude = bits & !fmt.sign();
            let (nan, infinite) = (fmt.is_nan(bits), magnitude == fmt.infinity());
            let subnormal = fmt.is_subnormal(bits);
            // Zero is a normal number here.
            let normal = !nan && !infinite && !subnormal;
            let want = [!nan && !infinite, infinite, !nan, nan, normal, subnormal];
            let got = [0, 1, 2, 3, 4, 5].map(|form| got[form][i] != 0);
            assert_eq!(got, want, "{kernel} of {bits:#x}");
        }
    }
}
