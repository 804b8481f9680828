//! Variables of module scope and initialisers, with the bytes that they must hold.

use super::parse;
use crate::ptx::ast::{Initialiser, Linkage, Module, Space, Type, Variable};

fn module(text: &'static str) -> Module<'static> {
    match parse(text) {
        Ok(module) => module,
        Err(error) => panic!("{error}"),
    }
}

fn variable(text: &'static str) -> Variable<'static> {
    let text = format!(".version 8.1 .target sm_80 {text}");
    module(Box::leak(text.into_boxed_str())).variables.remove(0)
}

/// The initialiser's bytes, where it is nothing but bytes.
fn bytes(text: &'static str) -> Vec<u8> {
    match &variable(text).init[..] {
        [Initialiser::Bytes(bytes)] => bytes.clone(),
        other => panic!("{text}: {other:?}"),
    }
}

fn address(symbol: &'static str, generic: bool, offset: i64) -> Initialiser<'static> {
    Initialiser::Address { symbol, generic, offset }
}

#[test]
fn space_type_alignment_size_and_linkage() {
    type Facts = (Space, Type, u32, Option<u64>, Linkage);
    let facts = |text| -> Facts {
        let v = variable(text);
        assert_eq!((v.name.as_ref(), v.line), ("x", 1));
        (v.space, v.ty, v.align, v.size, v.linkage)
    };
    use Linkage::*;
    use Space::*;
    assert_eq!(facts(".global .u32 x;"), (Global, Type::U32, 4, Some(4), Internal));
    assert_eq!(
        facts(".visible .const .align 16 .b8 x[40];"),
        (Const, Type::B8, 16, Some(40), Visible)
    );
    assert_eq!(facts(".weak .shared .f64 x[2][3][4];"), (Shared, Type::F64, 8, Some(192), Weak));
    assert_eq!(facts(".common .global .s16 x;"), (Global, Type::S16, 2, Some(2), Common));
    assert_eq!(facts(".extern .shared .align 16 .b8 x[];"), (Shared, Type::B8, 16, None, Extern));
    assert_eq!(facts(".extern .shared .align 16 .b8 x[0];"), (Shared, Type::B8, 16, None, Extern));
    assert_eq!(facts(".global .v4 .f32 x;"), (Global, Type::F32, 16, Some(16), Internal));
    assert_eq!(
        facts(".global .align 32 .v2 .u16 x[3];"),
        (Global, Type::U16, 32, Some(12), Internal)
    );
    let managed = ".visible .global .attribute(.managed) .align 4 .b32 x;";
    assert_eq!(facts(managed), (Global, Type::B32, 4, Some(4), Visible));
    assert_eq!(facts(".global .b8 x[4 * (2 + 1)];").3, Some(12));
    assert_eq!(facts(".global .b64 x[3000000000];").3, Some(24_000_000_000));
}

#[test]
fn several_in_one_declaration_and_extern_ones_that_are_defined_later() {
    let m = module(
        ".version 8.1 .target sm_80 .extern .global .u32 a[2];\n.global .u32 b = 1, c[2] = {2};\n\
         .visible .global .u32 a[2] = {7, 8}; .extern .global .u32 b;",
    );
    let names: Vec<_> =
        m.variables.iter().map(|v| (v.name.as_ref(), v.linkage, v.init.len())).collect();
    let internal = Linkage::Internal;
    assert_eq!(names, [("a", Linkage::Visible, 1), ("b", internal, 1), ("c", internal, 1)]);
}

#[test]
fn values_of_every_type() {
    assert_eq!(bytes(".global .b8 x[5] = {1, 0xFF, -2};"), [1, 255, 254]);
    assert_eq!(bytes(".global .u16 x = 0x1234;"), [0x34, 0x12]);
    assert_eq!(bytes(".global .s64 x = -2;"), (-2i64).to_le_bytes());
    assert_eq!(bytes(".global .b128 x = -2;"), (-2i128).to_le_bytes());
    assert_eq!(bytes(".global .b128 x = 0xFFFFFFFFFFFFFFFF;"), (u64::MAX as u128).to_le_bytes());
    assert_eq!(bytes(".global .f32 x = 0f3FC00000;"), 1.5f32.to_le_bytes());
    assert_eq!(bytes(".global .f32 x = -1.5;"), (-1.5f32).to_le_bytes());
    assert_eq!(bytes(".global .f32 x = 3;"), 3f32.to_le_bytes());
    assert_eq!(bytes(".global .f64 x = 0d3FF8000000000000;"), 1.5f64.to_le_bytes());
    assert_eq!(bytes(".global .f64 x = 0f3FC00000;"), 1.5f64.to_le_bytes());
    assert_eq!(bytes(".global .b32 x = 0f3FC00000;"), 1.5f32.to_le_bytes());
    assert_eq!(bytes(".global .b64 x = 0.1;"), 0.1f64.to_le_bytes());
    assert_eq!(bytes(".global .b32 x = (1 << 8) + 2;"), [2, 1, 0, 0]);
}

#[test]
fn rows_vectors_and_lists_without_an_end() {
    assert_eq!(bytes(".global .b8 x[2][3] = {{1}, {2, 3, 4}};"), [1, 0, 0, 2, 3, 4]);
    assert_eq!(bytes(".global .b8 x[2][3] = {1, 2, 3, 4};"), [1, 2, 3, 4]);
    assert_eq!(
        bytes(".global .b8 x[2][2][2] = {{{1}, {2}}, {{}, {3, 4},},};"),
        [1, 0, 2, 0, 0, 0, 3, 4]
    );
    assert_eq!(bytes(".global .v2 .u8 x[2] = {{1}, {2, 3}};"), [1, 0, 2, 3]);
    assert_eq!(bytes(".global .v2 .u8 x = {4, 5};"), [4, 5]);
    assert_eq!(variable(".global .b16 x[] = {1, 2, 3};").size, Some(6));
    assert_eq!(variable(".global .b8 x[][4] = {{1}, {2}, {3}};").size, Some(12));
    assert_eq!(variable(".global .b8 x[][4] = {1, 2, 3, 4, 5};").size, Some(8));
    assert_eq!(variable(".global .b8 x[4] = {};").init, []);
}

#[test]
fn addresses() {
    assert_eq!(variable(".global .u64 x = y;").init, [address("y", false, 0)]);
    let init = variable(".global .u64 x[4] = {generic(y), 5, y+8, generic(y)-4};").init;
    let five = Initialiser::Bytes(5u64.to_le_bytes().to_vec());
    assert_eq!(init, [address("y", true, 0), five, address("y", false, 8), address("y", true, -4)]);
    // Structures with pointers in them: an address byte by byte.
    let init = variable(
        ".global .align 8 .b8 x[17] = {1, 2, 0xFF(y), 0xFF00(y), 0xFF0000(y), 0xFF000000(y), 0xFF00000000(y), \
         0xFF0000000000(y), 0xFF000000000000(y), 0xFF00000000000000(y), 3};",
    )
    .init;
    let [one, three] = [vec![1, 2], vec![3]].map(Initialiser::Bytes);
    assert_eq!(init, [one, address("y", false, 0), three]);
}

#[test]
fn initialisers_that_do_not_fit_are_refused() {
    for (text, expected) in [
        (".global .b8 x[2] = {1, 2, 3};", "at most 2 items"),
        (".global .b8 x[2][2] = {1, 2, 3, 4, 5};", "at most 4 items"),
        (".global .b8 x[2][2] = {{1, 2, 3}};", "at most 2 items"),
        (".global .b8 x[2][2] = {{1}, 2};", "rows"),
        (".global .b8 x[2] = {{1}};", "no more dimensions"),
        (".global .b32 x = y;", "8 bytes"),
        (".global .b16 x = 1.5;", "a value of the variable's type"),
        (".global .b8 x[8] = {0xFF(y), 1};", "all eight bytes"),
        (".global .b8 x[8] = {0xFF(y)};", "all eight bytes"),
        (".global .b8 x[8] = {0xFF(y), 0xFF00(z)};", "in order"),
        (".global .b8 x[2][1000000000000] = {{1}, {2}};", "fewer zeros"),
        (".global .b64 x[4000000000][4000000000];", "less than 2^48 bytes"),
        (".global .b8 x[-1];", "less than 2^48 bytes"),
        (".global .align 3 .b8 x;", "power of two"),
        (".global .texref x;", "one type that is known here"),
        (".global .pred x;", "not `.pred`"),
        (".global .u32 x; .global .u32 x;", "one definition of `x`"),
    ] {
        let text: &'static str =
            Box::leak(format!(".version 8.1 .target sm_80 {text}").into_boxed_str());
        let error = parse(text).unwrap_err();
        assert!(error.expected.contains(expected), "{text}: {error}");
    }
}
