//! Reading a disassembly: the main loop of each kernel, and what it costs beside its mma.
//!
//! A loop is a branch back to an instruction that every way to the branch leads through (a natural loop). Of the
//! loops that hold mma instructions and hold no smaller loop that does, the main loop is the one with the most.
//! What the compiler puts out of line for warps whose lanes have parted (BRA.DIV) is not counted: it is not run as
//! long as they stay together. The count is of instructions that are there, whichever way branches go.

use std::collections::{BTreeMap, BTreeSet};

/// The main loop of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainLoop {
    /// Instructions but NOP.
    pub instructions: usize,
    /// mma instructions among them.
    pub mma: usize,
    /// False when the mma instructions stand in no loop: then the whole kernel is counted.
    pub is_loop: bool,
}

/// One instruction: its text without address and predicate.
#[derive(Debug)]
struct Instruction {
    text: String,
    /// Runs only where a predicate holds.
    guarded: bool,
}

/// One kernel's instructions, and which one each label stands before.
#[derive(Debug, Default)]
struct Code {
    instructions: Vec<Instruction>,
    labels: BTreeMap<String, usize>,
}

/// The main loop of every kernel that has mma instructions, from what nvdisasm prints.
pub fn main_loops(text: &str) -> BTreeMap<String, MainLoop> {
    let found = sections(text).into_iter();
    found.filter_map(|(name, code)| Some((name, main_loop(&code)?))).collect()
}

fn sections(text: &str) -> BTreeMap<String, Code> {
    let mut found: BTreeMap<String, Code> = BTreeMap::new();
    let mut name = None;
    for line in text.lines() {
        let line = line.trim();
        // `.sectioninfo` is another thing.
        if let Some(section) = line.strip_prefix(".section\t") {
            let section = section.trim().split([',', ' ']).next().unwrap_or_default();
            name = section.strip_prefix(".text.").map(str::to_string);
        } else if let Some(name) = &name {
            let code = found.entry(name.clone()).or_default();
            if let Some(label) = line.strip_suffix(':') {
                code.labels.insert(label.to_string(), code.instructions.len());
            } else if let Some(instruction) = instruction(line) {
                code.instructions.push(instruction);
            }
        }
    }
    found
}

/// `/*00d0*/  @!P0 BRA ...;`
fn instruction(line: &str) -> Option<Instruction> {
    let (_, rest) = line.strip_prefix("/*")?.split_once("*/")?;
    let rest = rest.split(';').next()?.trim();
    if rest.is_empty() {
        return None;
    }
    let (guarded, text) = match rest.strip_prefix('@') {
        Some(rest) => (true, rest.split_once(' ')?.1.trim()),
        None => (false, rest),
    };
    Some(Instruction { text: text.to_string(), guarded })
}

impl Instruction {
    /// The operation without its suffixes.
    fn operation(&self) -> &str {
        self.text.split([' ', '.']).next().unwrap_or_default()
    }

    fn is_mma(&self) -> bool {
        self.operation() == "HMMA"
    }

    /// The label in `` `(.L_x_3) ``.
    fn label(&self) -> Option<&str> {
        self.text.split_once("`(")?.1.split(')').next()
    }
}

impl Code {
    /// Where an instruction leads.
    fn next(&self, at: usize) -> Vec<usize> {
        let instruction = &self.instructions[at];
        let text = instruction.text.as_str();
        let below = (at + 1 < self.instructions.len()).then_some(at + 1);
        let target = instruction.label().and_then(|label| self.labels.get(label)).copied();
        let ends = |otherwise: Option<usize>| match instruction.guarded {
            true => otherwise.into_iter().chain(below).collect(),
            false => otherwise.into_iter().collect(),
        };
        match instruction.operation() {
            "BRA" if text.starts_with("BRA.DIV") => below.into_iter().collect(),
            // `BRA.U !UP0, ...` has its condition among the operands.
            "BRA" if text.contains(',') => target.into_iter().chain(below).collect(),
            "BRA" => ends(target),
            // A jump too far for BRA; a call of a function has that one's name.
            "CALL" if text.contains("`(.L_") => ends(target),
            "EXIT" | "RET" | "BRX" | "JMP" | "JMX" => ends(None),
            // Goes on where the BSSY above it says.
            "BSYNC" => {
                let barrier = text.rsplit(' ').next().unwrap_or_default();
                let sets = |other: &&Instruction| {
                    other.operation() == "BSSY" && other.text.contains(&format!("{barrier},"))
                };
                let setter = self.instructions[..at].iter().rev().find(sets);
                let to = setter.and_then(Instruction::label).and_then(|l| self.labels.get(l));
                ends(to.copied().or(below))
            }
            _ => below.into_iter().collect(),
        }
    }

    /// Every instruction that is reached from `from` without going through `without`.
    fn reached(&self, edges: &[Vec<usize>], from: usize, without: usize) -> BTreeSet<usize> {
        let mut seen = BTreeSet::new();
        let mut queue = Vec::from_iter((from != without).then_some(from));
        while let Some(at) = queue.pop() {
            if seen.insert(at) {
                queue.extend(edges[at].iter().filter(|&&next| next != without));
            }
        }
        seen
    }
}

fn main_loop(code: &Code) -> Option<MainLoop> {
    let count = code.instructions.len();
    let mma =
        |body: &BTreeSet<usize>| body.iter().filter(|&&at| code.instructions[at].is_mma()).count();
    let forward: Vec<Vec<usize>> = (0..count).map(|at| code.next(at)).collect();
    let mut backward = vec![Vec::new(); count];
    for (at, to) in forward.iter().enumerate() {
        to.iter().for_each(|&to| backward[to].push(at));
    }
    // What is out of line for parted lanes is not reached, and its ways back are none.
    let all = code.reached(&forward, 0, count);
    // Loops by their first instruction: those that share it are one.
    let mut loops: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let edges = forward.iter().enumerate().flat_map(|(at, to)| to.iter().map(move |&to| (at, to)));
    for (from, head) in edges.filter(|(from, head)| head <= from && all.contains(from)) {
        if !code.reached(&forward, 0, head).contains(&from) {
            let body = loops.entry(head).or_default();
            body.insert(head);
            body.extend(code.reached(&backward, from, head).intersection(&all));
        }
    }
    loops.retain(|_, body| mma(body) > 0);
    let innermost = loops
        .iter()
        .filter(|(head, body)| !loops.keys().any(|other| other != *head && body.contains(other)));
    // Of equals the first.
    let best = innermost.map(|(_, body)| body).rev().max_by_key(|body| mma(body));
    let body = best.unwrap_or(&all);
    let instructions = body.iter().filter(|&&at| code.instructions[at].operation() != "NOP");
    let (instructions, mma) = (instructions.count(), mma(body));
    (mma > 0).then_some(MainLoop { instructions, mma, is_loop: best.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> Option<MainLoop> {
        let mut text =
            "\t.section\t.text.k,\"ax\",@progbits\n\t.sectioninfo\t@\"X\"\nk:\n".to_string();
        for (i, line) in body.split('\n').map(str::trim).enumerate() {
            text += &match line.ends_with(':') {
                true => format!("{line}\n"),
                false => format!("        /*{:04x}*/   {line} ;\n", i * 16),
            };
        }
        main_loops(&text).remove("k")
    }

    #[test]
    fn the_innermost_loop_with_mma_is_counted_without_nops() {
        let found = of("MOV R1, R2
            .L_outer:
            LDSM R4, [R1]
            .L_inner:
            HMMA.16816.F32.BF16 R4, R4, R8, R4
            HMMA.16816.F32.BF16 R4, R4, R8, R4
            NOP
            IADD3 R1, R1, 0x1, RZ
            @P0 BRA `(.L_inner)
            .L_small:
            IADD3 R1, R1, 0x1, RZ
            BRA.U UP0, `(.L_small)
            @!P1 BRA `(.L_outer)
            EXIT
            .L_trap:
            BRA `(.L_trap)
            NOP");
        assert_eq!(found, Some(MainLoop { instructions: 4, mma: 2, is_loop: true }));
    }

    #[test]
    fn code_out_of_line_is_no_loop() {
        // The way of parted lanes comes back from the end of the kernel.
        let found = of("BRA.DIV UR6, `(.L_parted)
            .L_back:
            HMMA.16816.F32.BF16 R4, R4, R8, R4
            EXIT
            .L_parted:
            WARPSYNC.COLLECTIVE R4, `(.L_x)
            .L_x:
            BRA `(.L_back)");
        assert_eq!(found, Some(MainLoop { instructions: 3, mma: 1, is_loop: false }));
        // A piece of a loop that stands behind the kernel's end belongs to the loop.
        let found = of(".L_loop:
            @P0 BRA `(.L_far)
            .L_near:
            HMMA.16816.F32.BF16 R4, R4, R8, R4
            @P1 BRA `(.L_loop)
            EXIT
            .L_far:
            MOV R1, R2
            BRA `(.L_near)");
        assert_eq!(found, Some(MainLoop { instructions: 5, mma: 1, is_loop: true }));
    }

    #[test]
    fn parted_ways_meet_where_bssy_says() {
        let found = of(".L_loop:
            BSSY B0, `(.L_meet)
            @P0 BRA `(.L_skip)
            HMMA.16816.F32.BF16 R4, R4, R8, R4
            .L_skip:
            BSYNC B0
            .L_meet:
            @P1 BRA `(.L_loop)
            EXIT");
        assert_eq!(found, Some(MainLoop { instructions: 5, mma: 1, is_loop: true }));
        assert_eq!(of("MOV R1, R2\nEXIT"), None);
    }
}
