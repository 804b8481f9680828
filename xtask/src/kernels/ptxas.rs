//! Reading what `ptxas -v` says, and what PTX says about a kernel's launch.

use std::collections::BTreeMap;

/// What a kernel takes on one architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub registers: u32,
    /// Bytes written to and read from local memory because registers did not suffice.
    pub spilled: u32,
    /// Bytes of local memory of a thread, spills among them.
    pub stack: u32,
    /// Bytes of shared memory that are declared with a size.
    pub shared: u32,
}

/// The kernels by name. A function that a kernel calls counts as the kernel's.
pub fn resources(log: &str) -> BTreeMap<String, Resources> {
    let mut found: BTreeMap<String, Resources> = BTreeMap::new();
    let mut kernel = None;
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            kernel = rest.split('\'').next().map(str::to_string);
        }
        let Some(kernel) = &kernel else { continue };
        let own = found.entry(kernel.clone()).or_default();
        let before = |what: &str| -> Option<u32> {
            line.split(what)
                .next()
                .filter(|before| *before != line)?
                .rsplit([' ', ','])
                .find_map(|word| (!word.is_empty()).then(|| word.parse().ok()))?
        };
        own.stack += before(" bytes stack frame").unwrap_or(0);
        own.spilled += before(" bytes spill stores").unwrap_or(0);
        own.spilled += before(" bytes spill loads").unwrap_or(0);
        own.registers = before(" registers").unwrap_or(own.registers);
        own.shared = before(" bytes smem").unwrap_or(own.shared);
    }
    found
}

/// What PTX says of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// Threads of a block: what `__launch_bounds__` promises; `None` without it.
    pub threads: Option<u32>,
    /// Whether it has shared memory whose size the launch gives.
    pub dynamic: bool,
}

/// The kernels in the order of the text.
pub fn entries(ptx: &str) -> Vec<Entry> {
    let dynamic: Vec<&str> = ptx
        .lines()
        .filter(|line| line.starts_with(".extern .shared"))
        .filter_map(|line| line.rsplit(' ').next()?.split('[').next())
        .collect();
    let kernel = |text: &str| {
        let name = text.split(['(', ' ', '\n']).next().unwrap_or_default().to_string();
        let head = text.split('{').next().unwrap_or_default();
        let sizes = [".maxntid", ".reqntid"].iter().find_map(|word| head.split(word).nth(1));
        let threads = sizes.map(|sizes| {
            let line = sizes.lines().next().unwrap_or_default();
            line.split(',').filter_map(|size| size.trim().parse::<u32>().ok()).product()
        });
        let uses = |name: &&str| {
            let mut words = text.split(|c: char| !(c.is_alphanumeric() || "_$".contains(c)));
            words.any(|word| word == *name)
        };
        Entry { name, threads, dynamic: dynamic.iter().any(uses) }
    };
    ptx.split(".entry ").skip(1).map(kernel).collect()
}

/// `// shared: NAME BYTES` in a source's opening comment: the shared memory that a launch gives a block.
pub fn shared_lines(source: &str) -> BTreeMap<String, u32> {
    let head = source.lines().take_while(|line| line.starts_with("//"));
    let lines = head.filter_map(|line| line.strip_prefix("// shared:"));
    lines
        .filter_map(|line| {
            let (name, bytes) = line.trim().split_once(' ')?;
            Some((name.to_string(), bytes.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let log = "ptxas info    : 320 bytes gmem, 336 bytes cmem[4]\n\
            ptxas info    : Compiling entry function 'a' for 'sm_80'\n\
            ptxas info    : Function properties for a\n    \
                24 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n\
            ptxas info    : Used 203 registers, used 1 barriers, 24 bytes cumulative stack size, 49152 bytes smem, 424 bytes cmem[0]\n\
            ptxas info    : Compile time = 45.999 ms\n\
            ptxas info    : Compiling entry function 'b' for 'sm_80'\n\
            ptxas info    : Function properties for b\n    \
                0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
            ptxas info    : Used 18 registers, used 0 barriers\n";
        let found = resources(log);
        let a = Resources { registers: 203, spilled: 28, stack: 24, shared: 49152 };
        assert_eq!(found["a"], a);
        assert_eq!(found["b"], Resources { registers: 18, ..Resources::default() });
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn ptx_says_threads_and_dynamic_shared_memory() {
        let ptx = ".extern .shared .align 16 .b8 tile[];\n.visible .entry a(\n\t.param .u64 a_0\n)\n\
            .maxntid 128, 2, 1\n{\n\tmov.u32 %r1, tile;\n}\n.visible .entry b(\n)\n{\n\tmov.u32 %r1, tiles;\n}\n";
        let entry = |name: &str, threads, dynamic| Entry { name: name.into(), threads, dynamic };
        assert_eq!(entries(ptx), [entry("a", Some(256), true), entry("b", None, false)]);
        let source = "// x.cu — what\n// shared: a 1024\n// shared: b  64\n\n// shared: c 1\n";
        let expected = [("a".to_string(), 1024), ("b".to_string(), 64)];
        assert_eq!(shared_lines(source), BTreeMap::from(expected));
    }
}
