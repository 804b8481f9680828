//! Loading: symbols get addresses, functions are lowered, every kernel gets its program.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::machine::lower::{Lowering, Refusal, Symbol};
use crate::machine::program::{
    FUNCTION_WINDOW, Function as Frame, MOST_LOCAL, Program, SHARED_WINDOW,
};
use crate::machine::{Guard, Inst, Op, layout};
use crate::machine::{
    compare, control, convert, data, float, integer, memory as memory_ops, tensor, warp_ops,
};
use crate::memory::Memory;
use crate::module::{KernelCode, LoadError, Module, ParamLayout};
use crate::ptx::ast::{
    self, Function, Initialiser, Instruction, Operand, Space, Statement, Variable,
};

/// Functions that calls may name though no text defines them.
const BUILTINS: [&str; 2] = ["vprintf", "__assertfail"];

/// Bytes of a kernel's parameters, at most (PTX manual, "Kernel Function Parameters").
const MOST_PARAMS: u64 = 32764;
/// Bytes of shared memory that a text can ask for: more than any GPU has; launches look closer.
const MOST_SHARED: u32 = 1 << 20;

/// Parses and lowers a PTX text. The text's global variables are put into `memory`.
///
/// # Errors
/// What cannot be parsed, what the machine does not know, and variables that memory has no place for.
pub fn load(text: &str, memory: &Arc<Memory>) -> Result<Module, LoadError> {
    // The layout recurses, as deep as a function has blocks.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(1 << 29).spawn_scoped(scope, || {
            let tree = crate::ptx::parse(text)?;
            Loader::new(text, &tree, memory)?.module()
        });
        let refused = |why: String| LoadError::Refused { line: 0, text: String::new(), why };
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => Err(refused(format!("starting a thread: {error}"))),
        }
    })
}

struct Loader<'a> {
    text: &'a str,
    tree: &'a ast::Module<'a>,
    memory: &'a Arc<Memory>,
    /// A function's number is its first place in the text.
    numbers: HashMap<&'a str, u32>,
    /// Definitions by number.
    definitions: Vec<Option<&'a Function<'a>>>,
    globals: HashMap<String, (u64, u64)>,
    /// Variables of shared memory, of the module.
    shared: HashMap<&'a str, &'a Variable<'a>>,
    /// What every function mentions, by number.
    mentions: Vec<BTreeSet<&'a str>>,
    /// Numbers of functions whose addresses are taken.
    pointed_at: BTreeSet<u32>,
}

impl<'a> Loader<'a> {
    fn new(
        text: &'a str,
        tree: &'a ast::Module<'a>,
        memory: &'a Arc<Memory>,
    ) -> Result<Loader<'a>, LoadError> {
        let mut numbers = HashMap::new();
        let mut definitions: Vec<Option<&Function>> = Vec::new();
        for function in &tree.functions {
            let next = definitions.len() as u32;
            let number = *numbers.entry(function.name).or_insert(next);
            if number == next {
                definitions.push(None);
            }
            if function.body.is_some() {
                definitions[number as usize] = Some(function);
            }
        }
        let mentions: Vec<BTreeSet<&str>> = definitions
            .iter()
            .map(|function| function.map(mentions_of).unwrap_or_default())
            .collect();
        let mut loader = Loader {
            text,
            tree,
            memory,
            numbers,
            definitions,
            globals: HashMap::new(),
            shared: HashMap::new(),
            mentions,
            pointed_at: BTreeSet::new(),
        };
        loader.find_pointed_at();
        loader.place_variables()?;
        Ok(loader)
    }

    fn refused(&self, line: u32, why: String) -> LoadError {
        let text = self.text.lines().nth(line.saturating_sub(1) as usize).unwrap_or_default();
        LoadError::Refused { line, text: text.trim().to_owned(), why }
    }

    /// Functions that are named otherwise than by a direct call.
    fn find_pointed_at(&mut self) {
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for variable in &self.tree.variables {
            for init in &variable.init {
                if let Initialiser::Address { symbol, .. } = init {
                    names.insert(symbol);
                }
            }
        }
        for body in self.definitions.iter().flatten().filter_map(|function| function.body.as_ref())
        {
            for statement in &body.statements {
                match statement {
                    Statement::Instruction(instruction) if instruction.name != "call" => {
                        each_name(&instruction.operands, &mut |name| {
                            names.insert(name);
                        });
                    }
                    Statement::CallTargets { functions, .. } => names.extend(functions),
                    _ => {}
                }
            }
        }
        let numbers = names.into_iter().filter_map(|name| self.numbers.get(name));
        self.pointed_at = numbers.copied().collect();
    }

    /// Gives every variable of the module its place, and global ones their first contents.
    fn place_variables(&mut self) -> Result<(), LoadError> {
        let bodies =
            self.definitions.iter().flatten().filter_map(|function| function.body.as_ref());
        let inner = bodies.flat_map(|body| &body.variables);
        let mut filled = Vec::new();
        for variable in self.tree.variables.iter().chain(inner) {
            match variable.space {
                Space::Shared => {
                    self.shared.insert(&variable.name, variable);
                }
                Space::Global | Space::Const => {
                    let Some(bytes) =
                        variable.size.filter(|_| variable.linkage != ast::Linkage::Extern)
                    else {
                        continue;
                    };
                    let address = self.memory.alloc(bytes.max(1)).map_err(|why| {
                        let name = variable.name.clone().into_owned();
                        LoadError::Memory { line: variable.line, name, bytes, why }
                    })?;
                    self.globals.insert(variable.name.clone().into_owned(), (address, bytes));
                    filled.push((variable, address, bytes));
                }
                _ => {}
            }
        }
        for (variable, address, bytes) in filled {
            let contents = self.contents(variable, bytes)?;
            self.memory.write(address, &contents).map_err(|why| {
                let name = variable.name.clone().into_owned();
                LoadError::Memory { line: variable.line, name, bytes, why }
            })?;
        }
        Ok(())
    }

    fn contents(&self, variable: &Variable, bytes: u64) -> Result<Vec<u8>, LoadError> {
        let mut contents = Vec::new();
        for init in &variable.init {
            match init {
                Initialiser::Bytes(bytes) => contents.extend(bytes),
                Initialiser::Address { symbol, offset, .. } => {
                    let address = if let Some((address, _)) = self.globals.get(*symbol) {
                        *address
                    } else if let Some(number) = self.numbers.get(symbol) {
                        FUNCTION_WINDOW + u64::from(*number)
                    } else if self.shared.contains_key(symbol) {
                        SHARED_WINDOW
                    } else {
                        return Err(self.refused(variable.line, format!("{symbol} is not defined")));
                    };
                    contents.extend(address.wrapping_add_signed(*offset).to_le_bytes());
                }
            }
        }
        if contents.len() as u64 > bytes {
            return Err(self.refused(variable.line, format!("{} is too small", variable.name)));
        }
        contents.resize(bytes as usize, 0);
        Ok(contents)
    }

    fn module(&self) -> Result<Module, LoadError> {
        let mut kernels = HashMap::new();
        for function in self.definitions.iter().flatten() {
            if function.entry {
                kernels.insert(function.name.to_owned(), self.kernel(function)?);
            } else {
                // Not every function is called by a kernel; what is wrong with it is told all the same.
                let mut program = Program::default();
                let shared = self.shared_layout(&BTreeSet::from([self.numbers[function.name]])).0;
                self.lower_function(function, &shared, &mut program)?;
            }
        }
        Ok(Module { kernels, globals: self.globals.clone(), memory: self.memory.clone() })
    }

    fn kernel(&self, kernel: &'a Function<'a>) -> Result<KernelCode, LoadError> {
        let reachable = self.reachable(self.numbers[kernel.name]);
        let (shared, static_shared_bytes) = self.shared_layout(&reachable);
        let mut shared_names: Vec<(u32, String)> =
            shared.iter().map(|(name, offset)| (*offset, (*name).to_owned())).collect();
        shared_names.sort();
        let mut program = Program {
            static_shared_bytes,
            shared_names,
            files: self.tree.files.iter().map(|(_, name)| (*name).to_owned()).collect(),
            pointers: vec![None; self.definitions.len()],
            ..Program::default()
        };
        let fits = |what: &str, bytes: u64, most: u64| match bytes {
            bytes if bytes <= most => Ok(()),
            _ => Err(self.refused(kernel.line, format!("{bytes} bytes of {what}: {most} at most"))),
        };
        fits("shared memory", static_shared_bytes.into(), MOST_SHARED.into())?;
        let mut params = Vec::new();
        for param in &kernel.params {
            let size = param.size.unwrap_or(0);
            let offset = program.param_bytes.next_multiple_of(param.align.max(1));
            fits("parameters", u64::from(offset) + size, MOST_PARAMS)?;
            params.push(ParamLayout { offset, size: size as u32, align: param.align });
            program.param_bytes = offset + size as u32;
        }
        self.lower_function(kernel, &shared, &mut program)?;
        for number in reachable {
            let Some(function) = self.definitions[number as usize].filter(|f| !f.entry) else {
                continue;
            };
            program.pointers[number as usize] = Some(program.functions.len() as u32);
            self.lower_function(function, &shared, &mut program)?;
        }
        Ok(KernelCode {
            program,
            params,
            max_threads: kernel.maxntid.or(kernel.reqntid),
            required_threads: kernel.reqntid,
        })
    }

    /// Numbers of a function and of all that it can come to call.
    fn reachable(&self, from: u32) -> BTreeSet<u32> {
        let mut found = BTreeSet::from([from]);
        let mut to_see = vec![from];
        while let Some(number) = to_see.pop() {
            let named =
                self.mentions[number as usize].iter().filter_map(|name| self.numbers.get(name));
            let mut next: Vec<u32> = named.copied().collect();
            if self.definitions[number as usize].is_some_and(calls_pointers) {
                next.extend(&self.pointed_at);
            }
            to_see.extend(next.into_iter().filter(|number| found.insert(*number)));
        }
        found
    }

    /// Offsets of the shared variables that these functions mention, and the bytes of the static ones.
    /// Arrays without a size come after them, all at the same place.
    fn shared_layout(&self, functions: &BTreeSet<u32>) -> (HashMap<&'a str, u32>, u32) {
        let mut used: Vec<&Variable> = functions
            .iter()
            .flat_map(|number| &self.mentions[*number as usize])
            .filter_map(|name| self.shared.get(name).copied())
            .collect();
        used.sort_by_key(|variable| (variable.line, variable.name.clone()));
        used.dedup_by_key(|variable| &variable.name);
        let (mut offsets, mut bytes) = (HashMap::new(), 0u64);
        let short = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut open = Vec::new();
        for variable in used {
            match variable.size {
                Some(size) if size > 0 => {
                    bytes = bytes.next_multiple_of(variable.align.max(1).into());
                    offsets.insert(&*variable.name, short(bytes));
                    bytes += size;
                }
                _ => open.push(variable),
            }
        }
        let align = open.iter().map(|variable| variable.align.max(1)).max().unwrap_or(1);
        if !open.is_empty() {
            bytes = bytes.next_multiple_of(align.max(16).into());
        }
        offsets.extend(open.iter().map(|variable| (&*variable.name, short(bytes))));
        (offsets, short(bytes))
    }

    /// Appends a function's code and frame to a program.
    fn lower_function(
        &self,
        function: &'a Function<'a>,
        shared: &HashMap<&str, u32>,
        program: &mut Program,
    ) -> Result<(), LoadError> {
        let Some(body) = &function.body else { return Ok(()) };
        let mut symbols = HashMap::new();
        for name in &self.mentions[self.numbers[function.name] as usize] {
            if let Some(symbol) = self.module_symbol(name, shared) {
                symbols.insert((*name).to_owned(), symbol);
            }
        }
        for (i, statement) in (0..).zip(&body.statements) {
            if let Statement::Label(name) = statement {
                symbols.insert(name.clone().into_owned(), Symbol::Label(i));
            }
        }
        let mut frame = Frame { name: function.name.to_owned(), ..Frame::default() };
        let mut locals = HashMap::new();
        let mut place = |variable: &Variable, local_bytes: &mut u32| {
            // Too large a frame is refused below: what is too large by far only has to stay so.
            let at = local_bytes.next_multiple_of(variable.align.max(1));
            let size = variable.size.unwrap_or(0).min(1 << 24) as u32;
            *local_bytes = (at + size).min(1 << 24);
            locals.insert(variable.name.clone().into_owned(), (at, size));
            (at, size)
        };
        if function.entry {
            let mut at = 0;
            for param in &function.params {
                at = u32::next_multiple_of(at, param.align.max(1));
                symbols.insert(param.name.clone().into_owned(), Symbol::Param(at));
                at += param.size.unwrap_or(0) as u32;
            }
        } else {
            for param in &function.params {
                frame.params.push(place(param, &mut frame.local_bytes));
            }
            for result in &function.returns {
                frame.returns.push(place(result, &mut frame.local_bytes));
            }
        }
        for variable in &body.variables {
            if matches!(variable.space, Space::Local | Space::Param) {
                place(variable, &mut frame.local_bytes);
            }
        }
        if frame.local_bytes > MOST_LOCAL {
            let why = format!("more than {MOST_LOCAL} bytes of local memory in {}", function.name);
            return Err(self.refused(function.line, why));
        }
        let mut lowering = Lowering::new(body, symbols).with_locals(locals);
        frame.entry = program.code.len() as u32;
        self.lower_body(function, body, &mut lowering, program)?;
        (frame.slots, frame.predicates, frame.constants, frame.specials) = lowering.finish();
        frame.local_bytes = frame.local_bytes.next_multiple_of(16);
        program.functions.push(frame);
        Ok(())
    }

    fn module_symbol(&self, name: &str, shared: &HashMap<&str, u32>) -> Option<Symbol> {
        if let Some((address, _)) = self.globals.get(name) {
            Some(Symbol::Global(*address))
        } else if let Some(offset) = shared.get(name) {
            Some(Symbol::Shared(*offset))
        } else {
            // A function that is only declared is as good as none: calls of it are refused.
            let number = self.numbers.get(name)?;
            self.definitions[*number as usize].map(|_| Symbol::Function(*number))
        }
    }

    /// Lowers the blocks in their layout order, and turns labels into places.
    fn lower_body(
        &self,
        function: &Function,
        body: &ast::Body,
        lowering: &mut Lowering,
        program: &mut Program,
    ) -> Result<(), LoadError> {
        let (blocks, order) =
            layout::blocks(&body.statements).map_err(|(line, why)| self.refused(line, why))?;
        let entry = program.code.len() as u32;
        let mut places: HashMap<u32, u32> = HashMap::new();
        for (at, number) in order.iter().enumerate() {
            let block = &blocks[*number];
            places.insert(block.start as u32, program.code.len() as u32);
            for statement in &body.statements[block.start..block.end] {
                let Statement::Instruction(instruction) = statement else { continue };
                let inst = lower_instruction(instruction, lowering)
                    .map_err(|Refusal(why)| self.refused(instruction.line, why))?;
                program.code.push(inst);
                program.lines.push((instruction.line, self.source_line(instruction)));
            }
            let next = order.get(at + 1);
            if block.falls_through && next != Some(&(number + 1)) {
                let target = blocks[number + 1].start as u32;
                let op = Op::Control(control::Op::Branch { target });
                program.code.push(Inst { guard: None, op });
                program.lines.push(program.lines.last().copied().unwrap_or((function.line, None)));
            }
            // The last block of the text need not be the last one here.
            if block.returns {
                program.code.push(Inst { guard: None, op: Op::Control(control::Op::Ret) });
                program.lines.push(program.lines.last().copied().unwrap_or((function.line, None)));
            }
        }
        if order.is_empty() {
            program.code.push(Inst { guard: None, op: Op::Control(control::Op::Ret) });
            program.lines.push((function.line, None));
        }
        for inst in &mut program.code[entry as usize..] {
            if let Op::Control(op) = &mut inst.op {
                control::retarget(op, |statement| places.get(&statement).copied().unwrap_or(entry));
            }
        }
        Ok(())
    }

    /// Index of the file in the module's list, and the line.
    fn source_line(&self, instruction: &Instruction) -> Option<(u32, u32)> {
        let location = instruction.location?;
        let file = self.tree.files.iter().position(|(number, _)| *number == location.file)?;
        Some((file as u32, location.line))
    }
}

/// Asks every family.
fn lower_instruction(instruction: &Instruction, to: &mut Lowering) -> Result<Inst, Refusal> {
    let guard = match instruction.guard {
        Some(guard) => {
            let (pred, _) = to.src_pred(&Operand::Reg(guard.register))?;
            Some(Guard { pred, negated: guard.negated })
        }
        None => None,
    };
    let op = if let Some(op) = control::lower(instruction, to)? {
        Op::Control(op)
    } else if let Some(op) = data::lower(instruction, to)? {
        Op::Data(op)
    } else if let Some(op) = memory_ops::lower(instruction, to)? {
        Op::Memory(op)
    } else if let Some(op) = float::lower(instruction, to)? {
        Op::Float(op)
    } else if let Some(op) = integer::lower(instruction, to)? {
        Op::Integer(op)
    } else if let Some(op) = compare::lower(instruction, to)? {
        Op::Compare(op)
    } else if let Some(op) = convert::lower(instruction, to)? {
        Op::Convert(op)
    } else if let Some(op) = tensor::lower(instruction, to)? {
        Op::Tensor(op)
    } else if let Some(op) = warp_ops::lower(instruction, to)? {
        Op::Warp(op)
    } else {
        return Err(Refusal::form(instruction, "this instruction is not known"));
    };
    Ok(Inst { guard, op })
}

fn calls_pointers(function: &Function) -> bool {
    let Some(body) = &function.body else { return false };
    body.statements.iter().any(|statement| {
        matches!(statement, Statement::Instruction(call)
            if call.name == "call" && matches!(call.operands.get(1), Some(Operand::Reg(_))))
    })
}

/// Names in a function's operands.
fn mentions_of<'a>(function: &'a Function<'a>) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for statement in function.body.iter().flat_map(|body| &body.statements) {
        if let Statement::Instruction(instruction) = statement {
            each_name(&instruction.operands, &mut |name| {
                if !BUILTINS.contains(&name) {
                    names.insert(name);
                }
            });
        }
    }
    names
}

fn each_name<'a>(operands: &'a [Operand<'a>], found: &mut impl FnMut(&'a str)) {
    for operand in operands {
        match operand {
            Operand::Symbol { name, .. } => found(name),
            Operand::Address { base, .. } => each_name(std::slice::from_ref(&**base), found),
            Operand::Vector(parts) | Operand::List(parts) => each_name(parts, found),
            Operand::Pair(a, b) => {
                each_name(std::slice::from_ref(&**a), found);
                each_name(std::slice::from_ref(&**b), found);
            }
            _ => {}
        }
    }
}
