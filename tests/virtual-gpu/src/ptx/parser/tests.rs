//! Every form in a small text, with the tree that it must become.

use super::parse;
use crate::ptx::ast::*;

const HEAD: &str = ".version 8.1\n.target sm_80\n.address_size 64\n";

/// The body's statements of the text between a kernel's braces.
fn body(text: &str) -> Body<'_> {
    let text = format!("{HEAD}.entry k() {{\n{text}\n}}\n");
    // Leaked: a few hundred bytes for each case.
    let mut module = parse(Box::leak(text.into_boxed_str())).unwrap();
    module.functions.remove(0).body.unwrap()
}

fn instructions<'b, 'a>(body: &'b Body<'a>) -> Vec<&'b Instruction<'a>> {
    let instruction = |s: &'b Statement<'a>| match s {
        Statement::Instruction(i) => Some(i),
        _ => None,
    };
    body.statements.iter().filter_map(instruction).collect()
}

#[test]
fn an_instruction_has_guard_name_modifiers_and_operands() {
    let b = body(".reg .pred %p<2>;\n.reg .b32 %r<4>;\n@!%p1 add.sat.s32 %r1, %r2, -5;");
    assert_eq!(b.registers.len(), 6);
    assert_eq!(b.registers[5], Register { name: "%r3".into(), ty: Type::B32 });
    let i = instructions(&b)[0];
    assert_eq!(i.guard, Some(Guard { register: 1, negated: true }));
    assert_eq!((i.name, &i.modifiers[..], i.line), ("add", &["sat", "s32"][..], 7));
    assert_eq!(i.operands, [Operand::Reg(3), Operand::Reg(4), Operand::Int(-5i64 as u64)]);
}

#[test]
fn an_error_says_where_and_what() {
    let e = parse(".version 8.1\n.target sm_80\n.entry k() {\n  mov.u32 %r1, 0;\n}").unwrap_err();
    assert_eq!((e.line, e.column, e.found.as_str()), (4, 11, "`%r1`"));
    assert_eq!(e.text, "mov.u32 %r1, 0;");
}
