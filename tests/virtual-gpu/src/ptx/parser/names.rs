//! What a name means where it stands: registers, variables and labels of nested scopes.
//!
//! A scope's names end with its brace and hide those outside. Registers become indices. Variables and
//! labels become names that are unique in the function: as written if that is free, else with `$1`.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::ptx::ast::{Register, Type};

/// `.reg .b32 %r<100>;`
struct Range<'a> {
    prefix: &'a str,
    first: u32,
    count: u32,
    depth: usize,
}

/// What a single name stands for.
#[derive(Clone)]
pub(super) enum Meaning<'a> {
    /// `width` registers from `first`: more than one for `.v2` and `.v4`.
    Register { first: u32, width: u32 },
    /// A variable by its unique name; `element` is the bytes from `.x` to `.y`.
    Variable { name: Cow<'a, str>, element: u32 },
}

struct Entry<'a> {
    meaning: Meaning<'a>,
    depth: usize,
}

#[derive(Default)]
struct Scope<'a> {
    /// Lengths of `Names::ranges`, `hidden` and `pending` when it was opened.
    ranges: usize,
    hidden: usize,
    pending: usize,
    labels: HashMap<&'a str, Cow<'a, str>>,
}

/// A label that was used: which operand of which statement, and where, for errors.
#[derive(Clone, Copy)]
pub(super) struct Use<'a> {
    pub label: &'a str,
    pub statement: usize,
    pub operand: usize,
    pub start: usize,
    pub line: u32,
}

/// The names of one function.
#[derive(Default)]
pub(super) struct Names<'a> {
    pub registers: Vec<Register>,
    ranges: Vec<Range<'a>>,
    single: HashMap<&'a str, Entry<'a>>,
    /// How many of `single` look like `%r1`: where there are none, none hides one of a range.
    like_registers: usize,
    /// What entries of `single` hid, in the order in which they did.
    hidden: Vec<(&'a str, Option<Entry<'a>>)>,
    scopes: Vec<Scope<'a>>,
    /// Labels that were used and are not found yet.
    pending: Vec<Use<'a>>,
    taken: HashSet<Cow<'a, str>>,
    /// The number that was last put behind a name.
    counters: HashMap<&'a str, u32>,
}

impl<'a> Names<'a> {
    pub fn open(&mut self) {
        self.scopes.push(Scope {
            ranges: self.ranges.len(),
            hidden: self.hidden.len(),
            pending: self.pending.len(),
            labels: HashMap::new(),
        });
    }

    pub fn depth(&self) -> usize {
        self.scopes.len()
    }

    /// Ends the innermost scope: `found` gets the uses of its labels. Those of outer ones stay.
    pub fn close(&mut self, mut found: impl FnMut(Use<'a>, Cow<'a, str>)) {
        let Some(scope) = self.scopes.pop() else { return };
        self.ranges.truncate(scope.ranges);
        for (name, entry) in self.hidden.drain(scope.hidden..).rev() {
            self.like_registers -= looks_like_register(name) as usize;
            match entry {
                Some(entry) => {
                    self.like_registers += looks_like_register(name) as usize;
                    self.single.insert(name, entry)
                }
                None => self.single.remove(name),
            };
        }
        if scope.labels.is_empty() {
            return;
        }
        let mut kept = scope.pending;
        for i in scope.pending..self.pending.len() {
            let usage = self.pending[i];
            match scope.labels.get(usage.label) {
                Some(name) => found(usage, name.clone()),
                None => {
                    self.pending[kept] = usage;
                    kept += 1;
                }
            }
        }
        self.pending.truncate(kept);
    }

    /// A use of a label that no scope declared, once all are closed.
    pub fn unknown_label(&self) -> Option<Use<'a>> {
        self.pending.first().copied()
    }

    pub fn use_label(&mut self, usage: Use<'a>) {
        self.pending.push(usage);
    }

    /// Registers of one name; `None` if the scope has it already.
    pub fn declare_register(&mut self, name: &'a str, ty: Type, width: u32) -> Option<()> {
        let first = self.registers.len() as u32;
        self.declare(name, Meaning::Register { first, width })?;
        match width {
            1 => self.registers.push(Register { name: name.to_string(), ty }),
            _ => {
                for element in ["x", "y", "z", "w"].iter().take(width as usize) {
                    self.registers.push(Register { name: format!("{name}.{element}"), ty });
                }
            }
        }
        Some(())
    }

    /// `prefix<count>`; `None` if the scope has it already.
    pub fn declare_range(&mut self, prefix: &'a str, ty: Type, count: u32) -> Option<()> {
        let depth = self.depth();
        if self.ranges.iter().any(|r| r.prefix == prefix && r.depth == depth) {
            return None;
        }
        let first = self.registers.len() as u32;
        self.ranges.push(Range { prefix, first, count, depth });
        let mut name = String::with_capacity(prefix.len() + 10);
        for i in 0..count {
            name.clear();
            name.push_str(prefix);
            push_decimal(&mut name, i);
            self.registers.push(Register { name: name.as_str().to_string(), ty });
        }
        Some(())
    }

    /// A variable, by its unique name; `None` if the scope has it already. `outside` says whether the
    /// module has the name.
    pub fn declare_variable(
        &mut self,
        name: &'a str,
        element: u32,
        outside: bool,
    ) -> Option<Cow<'a, str>> {
        let unique = self.unique(name, outside);
        self.declare(name, Meaning::Variable { name: unique.clone(), element })?;
        Some(unique)
    }

    /// A label, by its unique name; `None` if the scope has it already.
    pub fn declare_label(&mut self, name: &'a str) -> Option<Cow<'a, str>> {
        if self.scopes.last()?.labels.contains_key(name) {
            return None;
        }
        let unique = self.unique(name, false);
        self.scopes.last_mut()?.labels.insert(name, unique.clone());
        Some(unique)
    }

    fn declare(&mut self, name: &'a str, meaning: Meaning<'a>) -> Option<()> {
        let depth = self.depth();
        if self.single.get(name).is_some_and(|entry| entry.depth == depth) {
            return None;
        }
        let hidden = self.single.insert(name, Entry { meaning, depth });
        if hidden.is_none() {
            self.like_registers += looks_like_register(name) as usize;
        }
        self.hidden.push((name, hidden));
        Some(())
    }

    fn unique(&mut self, name: &'a str, outside: bool) -> Cow<'a, str> {
        if !outside && self.taken.insert(Cow::Borrowed(name)) {
            return Cow::Borrowed(name);
        }
        let counter = self.counters.entry(name).or_insert(0);
        loop {
            *counter += 1;
            let unique: Cow<str> = Cow::Owned(format!("{name}${counter}"));
            if self.taken.insert(unique.clone()) {
                return unique;
            }
        }
    }

    /// What the name means here: in the innermost scope that has it.
    pub fn find(&self, name: &str) -> Option<Meaning<'a>> {
        let ranged = self.find_in_ranges(name);
        if let Some((register, _)) = ranged
            && self.like_registers == 0
            && looks_like_register(name)
        {
            return Some(Meaning::Register { first: register, width: 1 });
        }
        match (self.single.get(name), ranged) {
            (Some(entry), Some((_, depth))) if entry.depth >= depth => Some(entry.meaning.clone()),
            (_, Some((first, _))) => Some(Meaning::Register { first, width: 1 }),
            (Some(entry), None) => Some(entry.meaning.clone()),
            (None, None) => None,
        }
    }

    /// The register's index and its scope's depth.
    fn find_in_ranges(&self, name: &str) -> Option<(u32, usize)> {
        let bytes = name.as_bytes();
        // `%r01` is not a name of `%r<10>`, and a prefix may end in a digit: `%f1<3>` has `%f10`.
        for range in self.ranges.iter().rev() {
            let prefix = range.prefix.as_bytes();
            if bytes.len() <= prefix.len() || bytes[..prefix.len()] != *prefix {
                continue;
            }
            let digits = &bytes[prefix.len()..];
            if digits.len() > 9 || (digits[0] == b'0' && digits.len() > 1) {
                continue;
            }
            if !digits.iter().all(u8::is_ascii_digit) {
                continue;
            }
            let index = digits.iter().fold(0u32, |n, &b| n * 10 + (b - b'0') as u32);
            if index < range.count {
                return Some((range.first + index, range.depth));
            }
        }
        None
    }
}

fn looks_like_register(name: &str) -> bool {
    name.starts_with('%') && name.as_bytes().last().is_some_and(u8::is_ascii_digit)
}

fn push_decimal(name: &mut String, n: u32) {
    let mut divisor = 1;
    while n / divisor >= 10 {
        divisor *= 10;
    }
    while divisor > 0 {
        name.push((b'0' + (n / divisor % 10) as u8) as char);
        divisor /= 10;
    }
}

/// Whether a name, with its element if it has one, is a special register (PTX manual, chapter 10).
pub(super) fn is_special(name: &str, element: Option<&str>) -> bool {
    let Some(name) = name.strip_prefix('%') else { return name == "WARP_SZ" && element.is_none() };
    match name {
        "tid" | "ntid" | "ctaid" | "nctaid" | "clusterid" | "nclusterid" | "cluster_ctaid"
        | "cluster_nctaid" => element.is_none_or(|e| matches!(e, "x" | "y" | "z" | "w")),
        _ if element.is_some() => false,
        "laneid"
        | "warpid"
        | "nwarpid"
        | "smid"
        | "nsmid"
        | "gridid"
        | "is_explicit_cluster"
        | "cluster_ctarank"
        | "cluster_nctarank"
        | "lanemask_eq"
        | "lanemask_le"
        | "lanemask_lt"
        | "lanemask_ge"
        | "lanemask_gt"
        | "clock"
        | "clock_hi"
        | "clock64"
        | "globaltimer"
        | "globaltimer_lo"
        | "globaltimer_hi"
        | "total_smem_size"
        | "aggr_smem_size"
        | "dynamic_smem_size"
        | "current_graph_exec"
        | "reserved_smem_offset_begin"
        | "reserved_smem_offset_end"
        | "reserved_smem_offset_cap"
        | "reserved_smem_offset_0"
        | "reserved_smem_offset_1" => true,
        _ => {
            let number = |prefix, suffix, below: u32| {
                let digits: Option<&str> =
                    name.strip_prefix(prefix).and_then(|rest: &str| rest.strip_suffix(suffix));
                let value = digits.and_then(|d| d.parse::<u32>().ok());
                value.is_some_and(|v| v < below && digits.is_some_and(|d| d == v.to_string()))
            };
            number("pm", "", 8) || number("pm", "_64", 8) || number("envreg", "", 32)
        }
    }
}
