//! The order of a function's basic blocks: topological, with every loop in one piece, its head first.
//!
//! A warp always runs the strand with the lowest program counter. In this order that strand can never be
//! the one that another waits for, so strands that part at a branch meet again at the first place that
//! both reach (Diamos et al. 2011, "SIMD re-convergence at thread frontiers"). The order is Bourdoncle's
//! weak topological order (1993, "Efficient chaotic iteration strategies with widenings", figure 4).

use std::collections::HashMap;

use crate::ptx::ast::{Instruction, Operand, Statement};

/// Statements `start..end` run from the first to the last; then control goes to one of `next`.
#[derive(Debug, Clone)]
pub struct Block {
    pub start: usize,
    pub end: usize,
    /// Indices of blocks. Where control can fall off the end, the next block in the text is the last.
    pub next: Vec<usize>,
    pub falls_through: bool,
    /// Control can come to the end of the body, which returns.
    pub returns: bool,
}

/// The blocks of a body in the text's order, and the order to lay them out in (unreachable ones left off).
/// Errors name a label that is not there, with the line of the branch.
pub fn blocks(statements: &[Statement]) -> Result<(Vec<Block>, Vec<usize>), (u32, String)> {
    let mut starts = vec![0];
    for (i, statement) in statements.iter().enumerate() {
        match statement {
            Statement::Label(_) => starts.push(i),
            Statement::Instruction(instruction) if ends_block(instruction) => starts.push(i + 1),
            _ => {}
        }
    }
    starts.sort_unstable();
    starts.dedup();
    starts.retain(|start| *start < statements.len());
    let block_at = |statement: usize| starts.partition_point(|start| *start <= statement) - 1;

    let mut labels: HashMap<&str, usize> = HashMap::new();
    let mut lists: HashMap<&str, Vec<&str>> = HashMap::new();
    for (i, statement) in statements.iter().enumerate() {
        match statement {
            Statement::Label(name) => {
                labels.insert(name, block_at(i));
            }
            Statement::BranchTargets { name, labels } => {
                lists.insert(name, labels.iter().map(|label| &**label).collect());
            }
            _ => {}
        }
    }

    let mut blocks = Vec::with_capacity(starts.len());
    for (number, start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(statements.len());
        let (mut next, falls_through) = match statements[*start..end].last() {
            Some(Statement::Instruction(last)) => leads_to(last, &labels, &lists)?,
            _ => (Vec::new(), true),
        };
        let returns = falls_through && end == statements.len();
        let falls_through = falls_through && !returns;
        if falls_through {
            next.push(number + 1);
        }
        blocks.push(Block { start: *start, end, next, falls_through, returns });
    }
    let order = weak_topological_order(&blocks);
    Ok((blocks, order))
}

fn ends_block(instruction: &Instruction) -> bool {
    matches!(instruction.name, "bra" | "brx" | "ret" | "exit" | "trap")
}

/// Blocks that a block's last instruction leads to, and whether control can go past it.
fn leads_to(
    last: &Instruction,
    labels: &HashMap<&str, usize>,
    lists: &HashMap<&str, Vec<&str>>,
) -> Result<(Vec<usize>, bool), (u32, String)> {
    let label = |name: &str| {
        labels.get(name).copied().ok_or_else(|| (last.line, format!("label {name} is not defined")))
    };
    let names: Vec<&str> = match (last.name, last.operands.as_slice()) {
        ("bra", [Operand::Symbol { name, .. }]) => vec![name],
        ("brx", [_, Operand::Symbol { name, .. }]) => lists
            .get(&**name)
            .ok_or_else(|| (last.line, format!("branch targets {name} are not defined")))?
            .clone(),
        _ => Vec::new(),
    };
    let blocks = names.into_iter().map(label).collect::<Result<_, _>>()?;
    Ok((blocks, last.guard.is_some() || !ends_block(last)))
}

struct Orderer<'b> {
    blocks: &'b [Block],
    /// Depth-first number: 0 not visited, `u32::MAX` placed.
    number: Vec<u32>,
    count: u32,
    stack: Vec<usize>,
}

/// Recursive: the caller sees to a stack that is deep enough for the number of blocks.
fn weak_topological_order(blocks: &[Block]) -> Vec<usize> {
    if blocks.is_empty() {
        return Vec::new();
    }
    let mut orderer =
        Orderer { blocks, number: vec![0; blocks.len()], count: 0, stack: Vec::new() };
    let mut backwards = Vec::with_capacity(blocks.len());
    orderer.visit(0, &mut backwards);
    backwards.reverse();
    backwards
}

impl Orderer<'_> {
    /// Appends the blocks that only `block` leads to, last first, and `block` itself; gives the number of
    /// the outermost loop head that it can go back to.
    fn visit(&mut self, block: usize, backwards: &mut Vec<usize>) -> u32 {
        self.stack.push(block);
        self.count += 1;
        self.number[block] = self.count;
        let mut head = self.count;
        let mut is_loop = false;
        for next in self.successors(block) {
            let reaches = if self.number[next] == 0 {
                self.visit(next, backwards)
            } else {
                self.number[next]
            };
            if reaches <= head {
                head = reaches;
                is_loop = true;
            }
        }
        if head == self.number[block] {
            self.number[block] = u32::MAX;
            let mut member = self.stack.pop();
            if is_loop {
                while let Some(inner) = member.filter(|inner| *inner != block) {
                    self.number[inner] = 0;
                    member = self.stack.pop();
                }
                let mut body = Vec::new();
                for next in self.successors(block) {
                    if self.number[next] == 0 {
                        self.visit(next, &mut body);
                    }
                }
                backwards.append(&mut body);
            }
            backwards.push(block);
        }
        head
    }

    /// Those that come first in the text are visited last, and so laid out first.
    fn successors(&self, block: usize) -> Vec<usize> {
        let mut next = self.blocks[block].next.clone();
        next.sort_unstable_by(|a, b| b.cmp(a));
        next.dedup();
        next
    }
}
