//! PTX as compilers write it, read and written out again: the tree has every token of the text.
//!
//! The texts lie in `ptx/` beside their sources: NVRTC 12.1 (PTX 8.1), nvcc 13.5 with `-G` (9.5), numba
//! 0.61 through NVVM (8.x), LLVM 22's own back end (7.0). And mutations of them, which must never panic.

use proptest::prelude::*;
use virtual_gpu::ptx::ast::{Body, Instruction, Module, Operand, Statement};
use virtual_gpu::ptx::{ParseError, parse};

const TEXTS: [(&str, &str); 6] = [
    ("calls, nvcc", include_str!("ptx/calls.nvcc-13.5.ptx")),
    ("calls, NVRTC", include_str!("ptx/calls.nvrtc-12.1.ptx")),
    ("reduce, numba", include_str!("ptx/reduce.numba-0.61.ptx")),
    ("switch, LLVM", include_str!("ptx/switch.llvm-22.ptx")),
    ("templates, NVRTC", include_str!("ptx/templates.nvrtc-12.1.ptx")),
    ("tensor, NVRTC", include_str!("ptx/tensor.nvrtc-12.1.ptx")),
];

/// An instruction as the text has it, without blanks: from its line to the next `;`.
fn written(lines: &[&str], instruction: &Instruction<'_>) -> String {
    let mut all = String::new();
    for line in &lines[instruction.line as usize - 1..] {
        let code = line.split("//").next().unwrap_or("");
        all.extend(code.chars().filter(|c| !c.is_whitespace()));
        if let Some((one, _)) = all.split_once(';') {
            return in_decimal(one.trim_start_matches('{')).replace("+0]", "]");
        }
    }
    panic!("no `;` behind line {}", instruction.line)
}

/// With hexadecimal integers in decimal.
fn in_decimal(text: &str) -> String {
    let mut pieces = text.split(",0x");
    let mut decimal = pieces.next().unwrap_or("").to_string();
    for piece in pieces {
        let digits = piece.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(piece.len());
        let value = u64::from_str_radix(&piece[..digits], 16).unwrap();
        decimal += &format!(",{value}{}", piece[digits..].trim_start_matches('U'));
    }
    decimal
}

/// The same from the tree.
fn rendered(body: &Body<'_>, instruction: &Instruction<'_>) -> String {
    let mut text = match instruction.guard {
        Some(guard) => {
            let name = &body.registers[guard.register as usize].name;
            format!("@{}{name}", if guard.negated { "!" } else { "" })
        }
        None => String::new(),
    };
    text += instruction.name;
    for modifier in &instruction.modifiers {
        text += ".";
        text += modifier;
    }
    let operands = instruction.operands.iter().map(|o| operand(body, o));
    // A list that is absent is an empty one in the tree.
    let present: Vec<_> = operands.filter(|o| instruction.name != "call" || o != "()").collect();
    text + &present.join(",")
}

fn operand(body: &Body<'_>, operand_: &Operand<'_>) -> String {
    let list =
        |list: &[Operand<'_>]| list.iter().map(|o| operand(body, o)).collect::<Vec<_>>().join(",");
    let offset = |n: i64| if n == 0 { String::new() } else { format!("+{n}") };
    match operand_ {
        Operand::Reg(i) => body.registers[*i as usize].name.clone(),
        Operand::Not(i) => format!("!{}", body.registers[*i as usize].name),
        Operand::Special(name) => name.to_string(),
        Operand::Int(bits) => (*bits as i64).to_string(),
        Operand::F32(bits) => format!("0f{bits:08X}"),
        Operand::F64(bits) => format!("0d{bits:016X}"),
        Operand::Symbol { name, offset: n } => format!("{}{}", as_written(body, name), offset(*n)),
        Operand::Address { base, offset: n } => format!("[{}{}]", operand(body, base), offset(*n)),
        Operand::Vector(elements) => format!("{{{}}}", list(elements)),
        Operand::List(elements) => format!("({})", list(elements)),
        Operand::Pair(a, b) => format!("{}|{}", operand(body, a), operand(body, b)),
        Operand::Sink => "_".into(),
    }
}

/// The name without what made it unique among the body's labels and variables.
fn as_written<'n>(body: &Body<'_>, name: &'n str) -> &'n str {
    match name.rsplit_once('$') {
        Some((bare, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            let taken = names(body).iter().filter(|n| **n == bare).count();
            if taken > 0 { bare } else { name }
        }
        _ => name,
    }
}

/// What the body declares beside registers.
fn names<'b>(body: &'b Body<'_>) -> Vec<&'b str> {
    let mut names: Vec<&str> = body.variables.iter().map(|v| v.name.as_ref()).collect();
    for statement in &body.statements {
        match statement {
            Statement::Instruction(_) => {}
            Statement::Label(name)
            | Statement::BranchTargets { name, .. }
            | Statement::CallPrototype { name, .. }
            | Statement::CallTargets { name, .. } => names.push(name),
        }
    }
    names
}

fn instructions<'m, 'a>(
    module: &'m Module<'a>,
) -> impl Iterator<Item = (&'m Body<'a>, &'m Instruction<'a>)> {
    let bodies = module.functions.iter().filter_map(|f| f.body.as_ref());
    bodies.flat_map(|body| {
        body.statements.iter().filter_map(move |s| match s {
            Statement::Instruction(instruction) => Some((body, instruction)),
            _ => None,
        })
    })
}

#[test]
fn every_instruction_is_written_out_as_it_was_read() {
    for (name, text) in TEXTS {
        let module = parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let lines: Vec<_> = text.lines().collect();
        let mut count = 0;
        for (body, instruction) in instructions(&module) {
            let expected = written(&lines, instruction);
            assert_eq!(rendered(body, instruction), expected, "{name}, line {}", instruction.line);
            count += 1;
        }
        assert_eq!(count, instruction_lines(text), "{name}: instructions");
    }
}

/// How many instructions a text has, counted in its lines: those inside functions that end a
/// statement and do not begin with a directive or a label with one.
fn instruction_lines(text: &str) -> usize {
    let mut depth = 0i32;
    let mut count = 0;
    let mut statement = String::new();
    let code = text.lines().map(|line| line.split("//").next().unwrap_or(""));
    let code = code.collect::<Vec<_>>().join("\n").replace(';', ";\n");
    for line in code.lines() {
        let mut line = line.trim();
        if line == "{" || line == "}" {
            statement.clear();
        }
        // A brace that begins a statement is a scope's; one of a vector stands further on.
        while statement.is_empty() && line.starts_with(['{', '}']) {
            depth += if line.starts_with('{') { 1 } else { -1 };
            line = line[1..].trim_start();
        }
        if line.is_empty() || line.starts_with(".loc") || line.ends_with(':') {
            continue;
        }
        statement += line;
        statement += " ";
        if line.ends_with(';') {
            let directive = statement.starts_with('.') || statement.contains(": .");
            count += (depth > 0 && !directive) as usize;
            statement.clear();
        }
    }
    count
}

#[test]
fn what_the_sources_declare_is_there() {
    let module = parse(TEXTS[1].1).unwrap();
    let function = |name| module.functions.iter().find(|f| f.name == name).unwrap();
    let calls = function("calls");
    // __launch_bounds__(128, 2); int *, int and a structure of 24 bytes.
    assert_eq!((calls.entry, calls.maxntid), (true, Some([128, 1, 1])));
    assert_eq!(calls.params.iter().map(|p| p.size).collect::<Vec<_>>(), [8, 4, 24].map(Some));
    assert_eq!(function("twice").returns[0].size, Some(24));
    let variable = |name| module.variables.iter().find(|v| v.name == name).unwrap();
    assert_eq!((variable("dynamic").size, variable("table").size), (None, Some(16)));
    // Lines of calls.cu: the call of `twice` is in its line 23.
    let line = instructions(&module).find_map(|(_, i)| match &i.operands[..] {
        [_, Operand::Symbol { name, .. }, ..] if i.name == "call" && name == "twice" => i.location,
        _ => None,
    });
    let twice = include_str!("ptx/calls.cu").lines().position(|l| l.contains("twice(p)")).unwrap();
    assert_eq!(line.unwrap().line as usize, twice + 1);
    assert_eq!(module.files[0].0, line.unwrap().file);
}

/// The tree holds together: registers exist, names are unique, branches go to labels.
fn check(module: &Module<'_>) {
    for body in module.functions.iter().filter_map(|f| f.body.as_ref()) {
        let mut names = names(body);
        let declared = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), declared);
        let check_register = |i: u32| assert!((i as usize) < body.registers.len());
        for statement in &body.statements {
            let Statement::Instruction(instruction) = statement else { continue };
            instruction.guard.iter().for_each(|guard| check_register(guard.register));
            for operand in &instruction.operands {
                registers(operand, &check_register);
            }
            if let ("bra", Some(Operand::Symbol { name, .. })) =
                (instruction.name, instruction.operands.first())
            {
                assert!(names.binary_search(&name.as_ref()).is_ok(), "{name}");
            }
        }
    }
}

fn registers(operand: &Operand<'_>, check: &impl Fn(u32)) {
    match operand {
        Operand::Reg(i) | Operand::Not(i) => check(*i),
        Operand::Address { base, .. } => registers(base, check),
        Operand::Vector(all) | Operand::List(all) => all.iter().for_each(|o| registers(o, check)),
        Operand::Pair(a, b) => [a, b].into_iter().for_each(|o| registers(o, check)),
        _ => {}
    }
}

/// The error names a line that is there, and quotes it.
fn check_error(text: &str, error: &ParseError) {
    let line = text.split('\n').nth(error.line as usize - 1).expect("a line of the text");
    let quoted: String = line.trim().chars().take(200).collect();
    assert_eq!(error.text, quoted);
    assert!(error.column as usize <= line.len() + 1);
    assert!(!error.expected.is_empty() && !error.found.is_empty());
}

fn check_text(text: &str) {
    match parse(text) {
        Ok(module) => check(&module),
        Err(error) => check_error(text, &error),
    }
}

/// One change to a text's bytes; places are in millionths of its length.
#[derive(Debug, Clone)]
enum Change {
    Set(u32, u8),
    Remove(u32, usize),
    Duplicate(u32, usize, u32),
    Insert(u32, &'static str),
    Cut(u32),
}

fn change() -> impl Strategy<Value = Change> {
    let place = || 0..1_000_000u32;
    let marks = b"{}[]()<>;:,.%@!|+-*/\"$_0123456789abcdefxU \n\x00\xff".to_vec();
    let pieces = vec![
        "{",
        "}",
        "(",
        "[",
        ";",
        "/*",
        "*/",
        "//",
        "\"",
        "0f",
        "0x",
        ".reg .b32 %r<999999999>;",
        "@!",
        ".section .x {",
        "99999999999999999999",
        "é",
        "{ L: bra L; }",
        ".param .b32 param0;",
        "%tid.x",
        "= {{1},{2}}",
        "[4000000000]",
        "0xFF(",
        "generic(",
        "? 1 : 2",
        "<< 99",
        "/ 0",
        ".alias a, b;",
    ];
    prop_oneof![
        (place(), prop::sample::select(marks)).prop_map(|(at, byte)| Change::Set(at, byte)),
        (place(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (place(), 1..60usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (place(), 1..400usize, place()).prop_map(|(at, n, to)| Change::Duplicate(at, n, to)),
        (place(), prop::sample::select(pieces)).prop_map(|(at, piece)| Change::Insert(at, piece)),
        place().prop_map(Change::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let length = bytes.len();
    let at = |place: u32| (place as u64 * length as u64 / 1_000_000) as usize;
    match *change {
        Change::Set(place, byte) if length > 0 => bytes[at(place)] = byte,
        Change::Set(..) => {}
        Change::Remove(place, n) => drop(bytes.drain(at(place)..(at(place) + n).min(length))),
        Change::Duplicate(place, n, to) => {
            let piece = bytes[at(place)..(at(place) + n).min(length)].to_vec();
            bytes.splice(at(to)..at(to), piece);
        }
        Change::Insert(place, piece) => drop(bytes.splice(at(place)..at(place), piece.bytes())),
        Change::Cut(place) => bytes.truncate(at(place)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_text_is_read_or_refused(
        text in 0..TEXTS.len(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let mut bytes = TEXTS[text].1.as_bytes().to_vec();
        for change in &changes {
            apply(&mut bytes, change);
        }
        check_text(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_tokens_are_read_or_refused(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "(", ")", "[", "]", ";", ",", "+", "-", "!", "|", "@", "=", "<", ">", "_", ":", "?",
            "1", "0x7F", "0f3F800000", "1.5", "\"t\"", "%r1", "%p1", "%tid.x", "x", "L", ".x", ".b32",
            ".reg .b32 %r<4>;", ".reg .pred %p<2>;", ".param", ".global .b32", ".shared .b8", ".const",
            ".align 8", ".v4 .f32", "mov.b32", "bra", "call", "brx.idx", ".entry k", ".func", ".loc 1 2 3",
            ".branchtargets", ".callprototype", ".calltargets", "generic(", "0xFF(", "/*", "//", "\n",
        ]), 0..60),
        inside in any::<bool>(),
    ) {
        let tokens = tokens.join(" ");
        let kernel = if inside { ".entry k() { .reg .b32 %r<4>; .reg .pred %p<2>; " } else { "" };
        check_text(&format!(".version 8.1 .target sm_80 {kernel}{tokens}"));
    }
}
