//! Texts that are not PTX, or not run: the line, the column, and what was expected there.

use super::parse;
use crate::ptx::error::ParseError;

/// The error in a kernel's body with this text in line 4.
fn error(text: &str) -> ParseError {
    let text = format!(
        ".version 8.1\n.target sm_80\n.entry k() {{ .reg .b32 %r<4>; .reg .pred %p;\n{text}\n}}\n"
    );
    parse(&text).unwrap_err()
}

#[test]
fn an_error_says_where_and_what() {
    let error = error("  add.u32 %r1, %r2, %r4; // no such register");
    assert_eq!((error.line, error.column), (4, 21));
    assert_eq!(error.found, "`%r4`");
    assert_eq!(error.text, "add.u32 %r1, %r2, %r4; // no such register");
    assert_eq!(
        error.to_string(),
        "PTX line 4, column 21: expected a register that is declared, or a special one, found `%r4` in: \
         add.u32 %r1, %r2, %r4; // no such register"
    );
}

#[test]
fn errors_in_bodies() {
    for (text, column, expected) in [
        ("mov.u32 %r1, %nosuch;", 14, "declared"),
        ("mov.u32 %r1, %laneid.x;", 14, "declared"),
        ("mov.u32 %r1, %tid.q;", 14, "declared"),
        ("mov.u32 %r1, nosuch;", 14, "declared"),
        ("mov.u32 %r01, 1;", 9, "declared"),
        ("bra L;", 5, "a label that is declared"),
        ("{ L: } bra L;", 12, "a label that is declared"),
        ("L: L: ret;", 4, "a label that the scope does not have yet"),
        ("call %r1, (), P;", 15, "a label that is declared"),
        (".reg .b32 %r<5>;", 11, "does not have yet"),
        (".reg .b32 x, x;", 14, "does not have yet"),
        (".reg .b32 %x<4000000000>;", 11, "fewer registers"),
        (".reg .b32 %x<4294967296>;", 14, "below 2^32"),
        (".reg .b33 x;", 6, "a register's type"),
        ("@%r1 ret;", 2, "a predicate register"),
        ("@%laneid ret;", 2, "a predicate register"),
        ("not.pred %p, !%tid.x;", 15, "a predicate register"),
        ("mov.u32 %r1, 5 6;", 16, "`;`"),
        ("mov.u32 %r1 %r2;", 13, "`;`"),
        ("mov.u32 %r1,;", 13, "an operand"),
        ("mov.u32 %r1, (1 / 0);", 17, "a divisor"),
        ("mov.u32 %r1, (1 + 1.5);", 17, "integers"),
        ("mov.u32 %r1, 18446744073709551616;", 14, "an operand"),
        ("mov.f32 %r1, 0f3F80000;", 14, "an operand"),
        ("mov.u32 %r1, 12abc;", 14, "an operand"),
        ("mov.u32 %r1, 0x;", 14, "an operand"),
        ("ld.u32 %r1, [%r1;", 17, "`]`"),
        ("tex.2d %r1, [%r1, {%r2}];", 17, "are not run"),
        ("mov.b64 {%r1, [%r2]}, 1;", 15, "in a vector"),
        ("mov.u32 %r1, %r2 é;", 18, "`;`"),
        (".foo;", 1, "an instruction"),
        ("ld.u32 %r1, \"text\";", 13, "an operand"),
        ("/* no end", 1, "an instruction"),
    ] {
        let error = error(text);
        assert_eq!((error.line, error.column), (4, column), "{error}");
        assert!(error.expected.contains(expected), "{error}");
    }
    assert_eq!(
        error("mov.u32 %r1, 18446744073709551616;").found,
        "an integer of more than 64 bits"
    );
    assert_eq!(error("/* no end").found, "a comment that is not closed");
}

#[test]
fn errors_of_module_scope() {
    for (text, line, expected) in [
        ("", 1, "`.version`"),
        (".version 8", 1, "a version such as 8.1"),
        (".version 8.1\n.target 80", 2, "a target"),
        (".version 8.1\n\n.address_size 32", 3, "32-bit addresses are not run"),
        (".version 8.1 mov.u32 x, y;", 1, "a directive"),
        (".version 8.1 .nosuch", 1, "a directive of module scope"),
        (".version 8.1 .entry k(.reg .b32 x) {}", 1, "`.reg` parameters"),
        (".version 8.1 .entry k() .nosuch {}", 1, "a function's body"),
        (".version 8.1 .entry k() {\nret;\n", 3, "an instruction, a label"),
        (".version 8.1 .entry k() {}\n.func k() {}", 2, "one body"),
        (".version 8.1 .global .u32 k;\n.func k() {}", 2, "no variable has"),
        (".version 8.1 .func k();\n.global .u32 k;", 2, "not as a function and a variable"),
        (".version 8.1 .func k(.param .b32 a, .param .b32 a);", 1, "different names"),
        (".version 8.1 .alias a, b;", 1, "of a function with a body"),
        (".version 8.1 .func b() {}\n.alias a, b;", 2, "without a body before"),
        (".version 8.1 .section .debug { { }", 1, "section's end"),
        (".version 8.1 .file 1 \"a", 1, "a text in quotes"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.line, line, "{error}");
        assert!(error.expected.contains(expected), "{error}");
    }
}

#[test]
fn nesting_has_a_limit() {
    for (open, close) in [("{", "}"), ("mov.u32 %r1, (", ")"), ("mov.u32 %r1, -", "")] {
        let (open, rest) = open.split_at(open.len() - 1);
        let deep = |n: usize| format!("{open}{}{}", rest.repeat(n), close.repeat(n));
        assert!(error(&deep(100_000)).expected.contains("at most 64 levels"));
    }
    let rows = format!(".version 8.1 .global .b8 x[2] = {}", "{".repeat(100_000));
    assert!(parse(&rows).is_err());
}

#[test]
fn a_long_line_is_quoted_in_part() {
    let error = error(&format!("mov.u32 %r1, {};", "(1)".repeat(10_000)));
    assert_eq!((error.text.len(), error.found.as_str()), (200, "`(`"));
}
