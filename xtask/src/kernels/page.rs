//! The text of docs/kernels.md.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::occupancy::{ARCHITECTURES, REGISTERS, RESERVED};
use super::sass::MainLoop;
use super::{Kernel, NOT_HOT};
use crate::wheels::{NVCC, NVDISASM, NVRTC};

/// The page: the kernels by file.
pub fn render(files: &BTreeMap<String, Vec<Kernel>>) -> String {
    let mut out = head();
    for (file, kernels) in files {
        let _ = write!(
            out,
            "\n## {file}\n\n\
         | kernel | threads | registers | spills | shared memory | blocks | warps | limited by | mma | instructions per mma |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        );
        kernels.iter().for_each(|kernel| out += &row(kernel));
    }
    out
}

fn head() -> String {
    let names: Vec<&str> = ARCHITECTURES.iter().map(|own| own.name).collect();
    let mut out = format!(
        "# What the compiler makes of every kernel\n\n\
         Written by `cargo xtask kernels`; `cargo xtask kernels --check` fails when it is stale or a hot kernel\n\
         spills. **Nothing here was measured on a GPU:** it is what the assembler and the disassembler say, and\n\
         arithmetic. Compilers: NVRTC {}, ptxas {}, nvdisasm {}.\n\n\
         Where a cell has five numbers they are those of {}; one number stands for all.\n\n\
         - **threads** of a block, as `__launch_bounds__` says.\n\
         - **registers** of a thread; there are {} on a multiprocessor, 255 at most for a thread.\n\
         - **spills**: bytes that a thread writes to and reads from local memory because registers did not\n\
         \x20 suffice (counted once in the code, however often it runs); 0 in a hot kernel. *stack*: local memory\n\
         \x20 for another reason, such as an array whose index is not known to the compiler.\n\
         - **shared memory** of a block in bytes: what the kernel declares + what the launch gives it. {} more\n\
         \x20 are the system's.\n\
         - **blocks**, **warps**: how many are on a multiprocessor at a time. **limited by** what there is too\n\
         \x20 little of for one more block.\n\
         - **mma**, **instructions per mma**: HMMA instructions (16x8x16, bf16 in, f32 out) of the main loop, and\n\
         \x20 all its instructions but NOP by them. The main loop is the innermost loop that has the most; it is\n\
         \x20 counted as it stands, both ways of a branch included, so a short loop with a long prologue\n\
         \x20 inside shows a high number. † marks a kernel whose mma stand in no loop: all of it is counted.\n\n\
         | architecture | a card | warps | blocks | shared memory, KiB |\n\
         | --- | --- | --- | --- | --- |\n",
        NVRTC.version,
        NVCC.version,
        NVDISASM.version,
        names.join(", "),
        thousands(REGISTERS),
        thousands(RESERVED),
    );
    for own in &ARCHITECTURES {
        let shared = own.shared / 1024;
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {shared} |",
            own.name, own.card, own.warps, own.blocks
        );
    }
    if !NOT_HOT.is_empty() {
        out += "\nMay spill, since they take no noticeable part of a step:\n\n";
        for (name, why) in NOT_HOT {
            let _ = writeln!(out, "- `{name}`: {why}");
        }
    }
    out
}

fn row(kernel: &Kernel) -> String {
    let own = &kernel.resources;
    let blocks: Vec<(u32, &str)> = ARCHITECTURES
        .iter()
        .zip(own)
        .map(|(arch, own)| {
            arch.blocks_of(kernel.threads, own.registers, own.shared + kernel.dynamic)
        })
        .collect();
    let spills = own.iter().map(|own| match own {
        own if own.spilled > 0 => format!("**{}**", own.spilled),
        own if own.stack > 0 => format!("0, stack {}", own.stack),
        _ => "0".to_string(),
    });
    let shared = own.iter().map(|own| match (own.shared, kernel.dynamic) {
        (fixed, 0) => fixed.to_string(),
        (fixed, dynamic) => format!("{fixed} + {dynamic}"),
    });
    let warps = blocks.iter().map(|(blocks, _)| (blocks * kernel.threads.div_ceil(32)).to_string());
    let of_loops = |shown: &dyn Fn(&MainLoop) -> String| {
        let dash = || "–".to_string();
        cell(kernel.loops.iter().map(|found| found.as_ref().map_or_else(dash, shown)))
    };
    let mma = of_loops(&|found| found.mma.to_string());
    let each = of_loops(&|found| {
        let each = found.instructions as f64 / found.mma as f64;
        format!("{each:.1}{}", if found.is_loop { "" } else { "†" })
    });
    let cells = [
        format!("`{}`", kernel.name),
        kernel.threads.to_string(),
        cell(own.iter().map(|own| own.registers.to_string())),
        cell(spills),
        cell(shared),
        cell(blocks.iter().map(|(blocks, _)| blocks.to_string())),
        cell(warps),
        cell(blocks.iter().map(|(_, by)| by.to_string())),
        mma,
        each,
    ];
    format!("| {} |\n", cells.join(" | "))
}

/// One value if all are the same, or all of them.
fn cell(values: impl Iterator<Item = String>) -> String {
    let mut values: Vec<String> = values.collect();
    if values.windows(2).all(|pair| pair[0] == pair[1]) {
        values.truncate(1);
    }
    values.join(" / ")
}

/// 65536 as 65,536.
fn thousands(n: u32) -> String {
    match n / 1000 {
        0 => n.to_string(),
        high => format!("{high},{:03}", n % 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ptxas::Resources;
    use super::*;

    #[test]
    fn a_row_tells_spills_in_bold_and_equal_numbers_once() {
        let resources =
            |registers, spilled| Resources { registers, spilled, stack: 0, shared: 512 };
        let found = MainLoop { instructions: 90, mma: 32, is_loop: true };
        let kernel = Kernel {
            name: "k".to_string(),
            threads: 128,
            dynamic: 1024,
            resources: [128, 128, 128, 255, 128].map(|n| resources(n, n / 255 * 12)).to_vec(),
            loops: vec![Some(found); 5],
        };
        assert_eq!(
            row(&kernel),
            "| `k` | 128 | 128 / 128 / 128 / 255 / 128 | 0 / 0 / 0 / **12** / 0 | 512 + 1024 | \
             4 / 4 / 4 / 2 / 4 | 16 / 16 / 16 / 8 / 16 | registers | 32 | 2.8 |\n"
        );
        assert_eq!((thousands(65536).as_str(), thousands(64).as_str()), ("65,536", "64"));
    }
}
