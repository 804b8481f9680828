//! Every form in a small text, with the tree that it must become (PTX manual, chapters 4 to 11).

use std::borrow::Cow;

use super::parse;
use crate::ptx::ast::*;

const HEAD: &str = ".version 8.1\n.target sm_80\n.address_size 64\n";

/// A text that lives as long as the test: a few hundred bytes for each case.
fn keep(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// The module of a text behind the usual head of three lines.
fn module(text: &str) -> Module<'static> {
    match parse(keep(format!("{HEAD}{text}"))) {
        Ok(module) => module,
        Err(error) => panic!("{error}"),
    }
}

/// The body of a kernel with this text from line 5 on; `r0` to `r9` are %r0 to %r9, 10 is %rd0,
/// 20 is %p0, 30 is %f0.
fn body(text: &str) -> Body<'static> {
    let registers = ".reg .b32 %r<10>; .reg .b64 %rd<10>; .reg .pred %p<10>; .reg .f32 %f<10>;";
    let mut module = module(&format!(".entry k(.param .u64 a) {{ {registers}\n{text}\n}}\n"));
    module.functions.remove(0).body.unwrap()
}

fn instructions<'b, 'a>(body: &'b Body<'a>) -> Vec<&'b Instruction<'a>> {
    let instruction = |s: &'b Statement<'a>| match s {
        Statement::Instruction(i) => Some(i),
        _ => None,
    };
    body.statements.iter().filter_map(instruction).collect()
}

/// The operands of one instruction.
fn operands(text: &str) -> Vec<Operand<'static>> {
    let body = body(text);
    let [instruction] = instructions(&body)[..] else { panic!("{text}: not one instruction") };
    instruction.operands.clone()
}

fn symbol(name: &str, offset: i64) -> Operand<'static> {
    Operand::Symbol { name: Cow::Owned(name.into()), offset }
}

fn address(base: Operand<'static>, offset: i64) -> Operand<'static> {
    Operand::Address { base: Box::new(base), offset }
}

use Operand::{Int, List, Not, Reg, Sink, Special, Vector};

#[test]
fn the_head_and_what_a_debugger_wants() {
    let text = "//c\n.version 8.10\n.target sm_90a, texmode_independent, debug\n.address_size 64\n\
        .pragma \"x\", \"y\";\n.file 1 \"a.cu\", 1234, 5\n.file\t2 \"b.h\"\n\
        .section .debug_str {\n$L__info_string0:\n.b8 95,90,0 // }\n.b32 .debug_abbrev\n{ } /* } */ }\n\
        .section\t.debug_loc\t{\t}\n";
    let module = parse(text).unwrap();
    assert_eq!((module.version, module.target), ((8, 10), "sm_90a"));
    assert_eq!(module.files, [(1, "a.cu"), (2, "b.h")]);
    assert!(module.variables.is_empty() && module.functions.is_empty());
}

#[test]
fn an_instruction_has_guard_name_modifiers_line_and_location() {
    let b = body(
        "@!%p1 add.sat.s32 %r1, %r2, -5;\n.loc 1 12 3\nret ;\n\
         .loc 2 7 1, function_name $L__info_string0+16, inlined_at 1 12 3\n\
         @%p2 ld.global.L1::no_allocate.L2::128B.v2.u32 {%r1,%r2}, [%rd1];\n\
         mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 %r1;",
    );
    let i = instructions(&b);
    assert_eq!(i[0].guard, Some(Guard { register: 21, negated: true }));
    assert_eq!((i[0].name, &i[0].modifiers[..]), ("add", &["sat", "s32"][..]));
    assert_eq!((i[0].line, i[0].location), (5, None));
    assert_eq!(i[0].operands, [Reg(1), Reg(2), Int(-5i64 as u64)]);
    let location = Some(Location { file: 1, line: 12, column: 3 });
    assert_eq!((i[1].name, i[1].line, i[1].location), ("ret", 7, location));
    assert_eq!(i[1].guard, None);
    assert_eq!(i[2].guard, Some(Guard { register: 22, negated: false }));
    assert_eq!(i[2].modifiers, ["global", "L1::no_allocate", "L2::128B", "v2", "u32"]);
    assert_eq!(i[2].location, Some(Location { file: 2, line: 7, column: 1 }));
    assert_eq!(i[3].modifiers[2], "m16n8k16");
}

#[test]
fn registers_of_ranges_lists_and_vectors() {
    let b = body(
        ".reg .b16 %rs<2>, h; .reg .v4 .f32 v; mov.v4.f32 v, {v.w, v.r, _, %f1}; mov.f32 %f0, v;",
    );
    let names: Vec<_> = b.registers[40..].iter().map(|r| (r.name.as_str(), r.ty)).collect();
    let f = Type::F32;
    let expected = [("%rs0", Type::B16), ("%rs1", Type::B16), ("h", Type::B16)];
    assert_eq!(names[..3], expected);
    assert_eq!(names[3..], [("v.x", f), ("v.y", f), ("v.z", f), ("v.w", f)]);
    let i = instructions(&b);
    let v = Vector(vec![Reg(43), Reg(44), Reg(45), Reg(46)]);
    assert_eq!(i[0].operands, [v.clone(), Vector(vec![Reg(46), Reg(43), Sink, Reg(31)])]);
    assert_eq!(i[1].operands, [Reg(30), v]);
    assert_eq!(b.registers[9].name, "%r9");
    // A name that hides one of a range, whatever it begins with.
    let b = body(".reg .b32 x<4>; { .reg .b32 x2; mov.b32 x2, x1; } mov.b32 x2, x3;");
    assert_eq!(instructions(&b)[0].operands, [Reg(44), Reg(41)]);
    assert_eq!(instructions(&b)[1].operands, [Reg(42), Reg(43)]);
    let b = body(
        "{ .reg .b32 %r1; { .reg .b32 %r1; mov.b32 %r1, %r2; } mov.b32 %r1, %r3; } mov.b32 %r1, 1;",
    );
    assert_eq!(instructions(&b)[0].operands, [Reg(41), Reg(2)]);
    assert_eq!(instructions(&b)[1].operands, [Reg(40), Reg(3)]);
    assert_eq!(instructions(&b)[2].operands, [Reg(1), Int(1)]);
    // Ranges whose prefixes overlap, names in digits, and more than nine of them.
    let b = body(".reg .b32 %r1<13>, %q<102>; mov.b32 %r112, %q101; mov.b32 %r9, %q10;");
    assert_eq!(b.registers[52].name, "%r112");
    assert_eq!(instructions(&b)[0].operands, [Reg(52), Reg(53 + 101)]);
    assert_eq!(instructions(&b)[1].operands, [Reg(9), Reg(53 + 10)]);
}

#[test]
fn immediates() {
    let value = |text: &str| operands(&format!("mov.b32 %r1, {text};"))[1].clone();
    for (text, bits) in [
        ("0", 0),
        ("42", 42),
        ("42U", 42),
        ("-1", u64::MAX),
        ("0x7Ff", 0x7FF),
        ("0XFFFFFFFFFFFFFFFF", u64::MAX),
        ("18446744073709551615U", u64::MAX),
        ("-9223372036854775808", 1 << 63),
        ("0b1011", 11),
        ("0B1U", 1),
        ("017", 15),
        ("00", 0),
        ("~0", u64::MAX),
        ("+7", 7),
        ("- 7", -7i64 as u64),
        ("2 + 3 * 4", 14),
    ] {
        assert_eq!(value(text), Int(bits), "{text}");
    }
    assert_eq!(value("0f3F800000"), Operand::F32(1f32.to_bits()));
    assert_eq!(value("0Fff800000"), Operand::F32(0xFF80_0000));
    assert_eq!(value("-0f3F800000"), Operand::F32((-1f32).to_bits()));
    assert_eq!(value("0d4000000000000000"), Operand::F64(2f64.to_bits()));
    assert_eq!(value("-0D4000000000000000"), Operand::F64((-2f64).to_bits()));
    assert_eq!(value("1.5"), Operand::F64(1.5f64.to_bits()));
    assert_eq!(value("25e-1"), Operand::F64(2.5f64.to_bits()));
    assert_eq!(value("1.25E+2"), Operand::F64(125f64.to_bits()));
    assert_eq!(value("WARP_SZ"), Special("WARP_SZ"));
}

#[test]
fn constant_expressions() {
    let value = |text: &str| operands(&format!("mov.b64 %rd1, ({text});"))[1].clone();
    for (text, expected) in [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("-7 / 2", -3),
        ("-7 % 4", -3),
        ("1 << 4 | 3", 19),
        ("-16 >> 2", -4),
        ("6 & 3 ^ 8", 10),
        ("~5", -6),
        ("!5 + !0", 1),
        ("1 < 2 && 2 <= 2", 1),
        ("3 > 4 || 4 >= 5", 0),
        ("1 == 1 ? 5 : 6", 5),
        ("1 != 1 ? 5 : 0 ? 6 : 7", 7),
        ("-1 < 1", 1),
        ("-1 < 1U", 0),
        ("0xFFFFFFFFFFFFFFFF >> 63", 1),
        ("0xFFFFFFFFFFFFFFFF / 2", i64::MAX),
        ("1 << 64", 0),
        ("-9223372036854775807 - 1", i64::MIN),
    ] {
        assert_eq!(value(text), Int(expected as u64), "{text}");
    }
}

#[test]
fn names_of_every_kind() {
    let m = module(
        ".global .u32 g; .func f() { ret; } .extern .func e();\n\
         .entry k(.param .u64 a) { .reg .b32 x, %r; .reg .pred p, q; .shared .v4 .f32 s[2]; .local .b8 l[8];\n\
         t.a x, g, g+4, a, s, s+8, s.z, l, f, e;\n t.b %tid, %tid.x, %ctaid.z, %nctaid.y, %laneid, %clock64;\n\
         t.c p|q, _|p, !q, p|_;\n t.d %lanemask_lt, %pm7, %pm3_64, %envreg31, %cluster_ctaid.x, %globaltimer_hi; }",
    );
    let k = &m.functions[2];
    let i = instructions(k.body.as_ref().unwrap());
    let s = symbol;
    let expected =
        [Reg(0), s("g", 0), s("g", 4), s("a", 0), s("s", 0), s("s", 8), s("s", 8), s("l", 0)];
    assert_eq!(i[0].operands[..8], expected);
    assert_eq!(i[0].operands[8..], [s("f", 0), s("e", 0)]);
    assert_eq!(
        i[1].operands,
        ["%tid", "%tid.x", "%ctaid.z", "%nctaid.y", "%laneid", "%clock64"].map(Special)
    );
    let pair = |a, b| Operand::Pair(Box::new(a), Box::new(b));
    assert_eq!(
        i[2].operands,
        [pair(Reg(2), Reg(3)), pair(Sink, Reg(2)), Not(3), pair(Reg(2), Sink)]
    );
    let names =
        ["%lanemask_lt", "%pm7", "%pm3_64", "%envreg31", "%cluster_ctaid.x", "%globaltimer_hi"];
    assert_eq!(i[3].operands, names.map(Special));
    // What is declared hides a special register.
    let b = body(".reg .b32 %laneid; mov.u32 %r1, %laneid;");
    assert_eq!(instructions(&b)[0].operands[1], Reg(40));
}

#[test]
fn addresses_and_vectors() {
    let o = operands(
        ".shared .b8 s[64]; t [%rd1], [%rd1+16], [%rd1+-16], [%rd1-4], [s], [s+4], [s+28-2*4], [a], [a+0x10], \
         [16], [-1], [%r1 + 4], {%r1, %r2, 3, 0f00000000}, {%tid.x};",
    );
    let rd1 = Reg(11);
    assert_eq!(o[..4], [0, 16, -16, -4].map(|n| address(rd1.clone(), n)));
    assert_eq!(o[4..7], [0, 4, 20].map(|n| address(symbol("s", 0), n)));
    assert_eq!(o[7..9], [0, 16].map(|n| address(symbol("a", 0), n)));
    assert_eq!(o[9..12], [address(Int(16), 0), address(Int(u64::MAX), 0), address(Reg(1), 4)]);
    assert_eq!(o[12], Vector(vec![Reg(1), Reg(2), Int(3), Operand::F32(0)]));
    assert_eq!(o[13], Vector(vec![Special("%tid.x")]));
}

#[test]
fn scopes_hide_names_and_end() {
    let b = body(
        "{ .reg .b32 %r<2>; .reg .pred %p1; mov.b32 %r1, %r0; { .reg .b32 %r1; mov.b32 %r1, %r0; } \
         mov.b32 %r1, %r5; @%p1 bra L; L: mov.b32 %r1, 1; bra L; }\n\
         { .reg .b32 %r<2>; mov.b32 %r1, 2; L: bra L; bra M; }\n\
         L: mov.b32 %r1, 3; @%p1 bra L; M: bra.uni L; { bra L; bra M; }",
    );
    let i = instructions(&b);
    assert_eq!(i[0].operands, [Reg(41), Reg(40)]);
    assert_eq!(i[1].operands, [Reg(43), Reg(40)]);
    assert_eq!(i[2].operands, [Reg(41), Reg(5)]);
    assert_eq!(i[3].guard, Some(Guard { register: 42, negated: false }));
    assert_eq!(
        (&i[4].operands[..], &i[6].operands[..]),
        (&[Reg(41), Int(1)][..], &[Reg(45), Int(2)][..])
    );
    assert_eq!(i[9].operands[0], Reg(1));
    assert_eq!(i[10].guard, Some(Guard { register: 21, negated: false }));
    let targets: Vec<_> =
        [3, 5, 7, 8, 10, 11, 12, 13].iter().map(|&n| i[n].operands[0].clone()).collect();
    let names = ["L", "L", "L$1", "M", "L$2", "L$2", "L$2", "M"];
    assert_eq!(targets, names.map(|name| symbol(name, 0)));
    let labels = b.statements.iter().filter_map(|s| match s {
        Statement::Label(name) => Some(name.as_ref()),
        _ => None,
    });
    assert_eq!(labels.collect::<Vec<_>>(), ["L", "L$1", "L$2", "M"]);
}

#[test]
fn variables_of_scopes_have_names_of_their_own() {
    let m = module(
        ".shared .b32 s; .entry k(.param .u64 a) { .reg .b64 %rd1;\n\
         { .param .b32 p0; .param .align 8 .b8 p1[16]; st.param.b32 [p0+0], 1; }\n\
         { .param .b32 p0; st.param.b32 [p0+4], 1; { .param .b32 p0; st.param.b32 [p0], 2; } st.b32 [p0], 3; }\n\
         { .local .b32 p0$1, a, s; mov.b64 %rd1, p0$1; mov.b64 %rd1, a; mov.b64 %rd1, s; }\n\
         mov.b64 %rd1, a; mov.b64 %rd1, s; }",
    );
    let b = m.functions[0].body.as_ref().unwrap();
    let names: Vec<_> = b.variables.iter().map(|v| (v.name.as_ref(), v.size, v.align)).collect();
    let four = |name| (name, Some(4), 4);
    assert_eq!(names[..4], [four("p0"), ("p1", Some(16), 8), four("p0$1"), four("p0$2")]);
    assert_eq!(names[4..], [four("p0$1$1"), four("a$1"), four("s$1")]);
    assert!(b.variables[..4].iter().all(|v| v.space == Space::Param));
    assert_eq!(b.variables[4].space, Space::Local);
    let i = instructions(b);
    let bases: Vec<_> = i[..4].iter().map(|i| i.operands[0].clone()).collect();
    let expected = [("p0", 0), ("p0$1", 4), ("p0$2", 0), ("p0$1", 0)];
    assert_eq!(bases, expected.map(|(name, offset)| address(symbol(name, 0), offset)));
    let moved: Vec<_> = i[4..].iter().map(|i| i.operands[1].clone()).collect();
    assert_eq!(moved, ["p0$1$1", "a$1", "s$1", "a", "s"].map(|name| symbol(name, 0)));
}

#[test]
fn branches_and_their_targets() {
    let b = body(
        "T: .branchtargets A, B;\nbrx.idx.uni %r1, T;\n{ A: ret; U: .branchtargets A, B, A;\n\
         @%p1 brx.idx %r2, U; bra.uni A; }\nA: B: exit;",
    );
    let targets = b.statements.iter().filter_map(|s| match s {
        Statement::BranchTargets { name, labels } => Some((name.as_ref(), labels.join(" "))),
        _ => None,
    });
    let targets: Vec<_> = targets.collect();
    assert_eq!(targets, [("T", "A$1 B".to_string()), ("U", "A B A".to_string())]);
    let i = instructions(&b);
    assert_eq!((i[0].name, &i[0].modifiers[..]), ("brx", &["idx", "uni"][..]));
    assert_eq!(i[0].operands, [Reg(1), symbol("T", 0)]);
    assert_eq!(i[2].operands, [Reg(2), symbol("U", 0)]);
    assert_eq!(i[3].operands, [symbol("A", 0)]);
    assert_eq!(i[4].name, "exit");
}

#[test]
fn calls_in_every_form() {
    let m = module(
        ".func (.param .b32 r) f(.param .b32 x, .param .b64 y); .func g();\n\
         .entry k() { .reg .b64 %rd<3>; .reg .b32 %r1; .param .b32 p, q;\n\
         call g;\n call.uni (p), f, (q, 3);\n call g, ();\n call (_), f, (p, %r1);\n\
         C: .callprototype (.param .b32 _) _ (.param .align 8 .b8 _[16], .param .b64 _) .noreturn;\n\
         call (p), %rd1, (q), C;\n D: .calltargets f, g;\n call %rd2, (), D;\n call %rd2, D;\n E: .callprototype _ ();\n }",
    );
    let b = m.functions[2].body.as_ref().unwrap();
    let i = instructions(b);
    let (p, q, f, g) = (symbol("p", 0), symbol("q", 0), symbol("f", 0), symbol("g", 0));
    let none = || List(vec![]);
    let (p, q) = (move || p.clone(), move || q.clone());
    assert_eq!(i[0].operands, [none(), g.clone(), none()]);
    assert_eq!(i[1].operands, [List(vec![p()]), f.clone(), List(vec![q(), Int(3)])]);
    assert_eq!(i[1].modifiers, ["uni"]);
    assert_eq!(i[2].operands, [none(), g, none()]);
    assert_eq!(i[3].operands, [List(vec![Sink]), f, List(vec![p(), Reg(3)])]);
    assert_eq!(i[4].operands, [List(vec![p()]), Reg(1), List(vec![q()]), symbol("C", 0)]);
    assert_eq!(i[5].operands, [none(), Reg(2), none(), symbol("D", 0)]);
    assert_eq!(i[6].operands, [none(), Reg(2), none(), symbol("D", 0)]);
    let Statement::CallPrototype { name, returns, params } = &b.statements[4] else { panic!() };
    assert_eq!((name.as_ref(), returns.len(), returns[0].size), ("C", 1, Some(4)));
    assert_eq!((params[0].size, params[0].align, params[1].ty), (Some(16), 8, Type::B64));
    let Statement::CallTargets { name, functions } = &b.statements[6] else { panic!() };
    assert_eq!((name.as_ref(), &functions[..]), ("D", &["f", "g"][..]));
    let Statement::CallPrototype { returns, params, .. } = &b.statements[9] else { panic!() };
    assert!(returns.is_empty() && params.is_empty());
}

#[test]
fn functions_and_their_directives() {
    let m = module(
        ".visible .entry a(.param .u64 .ptr .global .align 16 p, .param .align 8 .b8 s[12]) .maxntid 128, 2\n\
         .minnctapersm 3 .maxnreg 64 .explicitcluster .reqnctapercluster 2,1,1 { }\n\
         .weak .func (.param .b64 r) b(.param .b32 x) .noreturn { ret; }\n\
         .extern .func c(.param .b64 y, .param .align 4 .b8 rest[]); .func d() .abi_preserve 5;\n\
         .entry e .reqntid 32 .maxclusterrank 8 .blocksareclusters .language \"C\" { } .func d() { ret; }\n\
         .visible .func alias(.param .b32 z); .alias alias, b;",
    );
    let names: Vec<_> = m.functions.iter().map(|f| (f.name, f.entry, f.linkage)).collect();
    let (internal, visible) = (Linkage::Internal, Linkage::Visible);
    assert_eq!(names[..2], [("a", true, visible), ("b", false, Linkage::Weak)]);
    assert_eq!(names[2..4], [("c", false, Linkage::Extern), ("d", false, internal)]);
    assert_eq!(names[4..], [("e", true, internal), ("alias", false, visible)]);
    let [a, b, c, d, e, alias] = &m.functions[..] else { panic!() };
    assert_eq!((a.maxntid, a.reqntid, a.line), (Some([128, 2, 1]), None, 4));
    assert_eq!((e.maxntid, e.reqntid), (None, Some([32, 1, 1])));
    // The alignment is that of what the pointer points at.
    assert_eq!((a.params[0].align, a.params[0].ty, a.params[0].size), (8, Type::U64, Some(8)));
    assert_eq!(
        (a.params[1].align, a.params[1].size, a.params[1].space),
        (8, Some(12), Space::Param)
    );
    assert_eq!((b.returns[0].name.as_ref(), b.returns[0].size), ("r", Some(8)));
    assert_eq!((c.body.is_none(), c.params[1].size), (true, None));
    assert_eq!((d.body.as_ref().unwrap().statements.len(), d.line), (1, 8));
    assert_eq!(alias.body.as_ref().unwrap().statements.len(), 1);
    assert_eq!(alias.params[0].name, "x");
}
