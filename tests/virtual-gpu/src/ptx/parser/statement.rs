//! What stands between a function's braces (PTX manual, 4.3 and chapter 9).

use std::borrow::Cow;

use super::names::Use;
use super::{Parser, Result};
use crate::ptx::ast::{
    Body, Guard, Instruction, Location, Operand, Space, Statement, Type, Variable,
};
use crate::ptx::lexer::Token;

impl<'a> Parser<'a> {
    /// `{ … }` with the scopes in it flattened.
    pub(super) fn body(&mut self) -> Result<Body<'a>> {
        self.expect(b'{')?;
        let outer = self.names.depth();
        let mut body = Body::default();
        let mut location = None;
        loop {
            match self.token {
                Token::Mark(b'}') => {
                    let Body { statements, .. } = &mut body;
                    self.names.close(|usage, name| rename(statements, usage, name));
                    if self.names.depth() < outer {
                        break;
                    }
                    self.ascend();
                    self.advance();
                }
                Token::Mark(b'{') => {
                    self.descend()?;
                    self.advance();
                    self.names.open();
                }
                Token::Mark(b';') => self.advance(),
                Token::Dot("reg") => self.registers()?,
                Token::Dot("param") => self.local_variables(Space::Param, &mut body)?,
                Token::Dot("local") => self.local_variables(Space::Local, &mut body)?,
                Token::Dot("shared") => self.local_variables(Space::Shared, &mut body)?,
                Token::Dot("global") => self.local_variables(Space::Global, &mut body)?,
                Token::Dot("const") => self.local_variables(Space::Const, &mut body)?,
                Token::Dot("loc") => location = Some(self.location()?),
                Token::Dot("pragma") => self.pragma()?,
                Token::Dot("file") => self.file()?,
                Token::Dot("section") => self.section()?,
                Token::Word(_) | Token::Mark(b'@') => self.statement(&mut body, location)?,
                _ => return self.fail("an instruction, a label, a declaration or `}`"),
            }
        }
        if let Some(usage) = self.names.unknown_label() {
            return Err(self.error_at(
                usage.start,
                usage.line,
                "a label that is declared in the function",
            ));
        }
        self.expect(b'}')?;
        body.registers = std::mem::take(&mut self.names.registers);
        Ok(body)
    }

    /// `.reg .b32 %r<100>, x; .reg .v4 .f32 v;`
    fn registers(&mut self) -> Result<()> {
        self.advance();
        let mut width = 1;
        match self.token {
            Token::Dot("v2") => width = 2,
            Token::Dot("v4") => width = 4,
            _ => {}
        }
        if width > 1 {
            self.advance();
        }
        let ty = match self.token {
            Token::Dot(name) => Type::from_name(name),
            _ => None,
        };
        let Some(ty) = ty else { return self.fail("a register's type") };
        self.advance();
        loop {
            let (start, line) = (self.start, self.line);
            let name = self.word("a register's name")?;
            let mut count = width;
            let ranged = width == 1 && self.take(b'<');
            if ranged {
                count = self.u32("a number of registers")?;
            }
            match self.registers_left.checked_sub(count as u64) {
                Some(left) => self.registers_left = left,
                None => {
                    return Err(self.error_at(start, line, "fewer registers, for so short a text"));
                }
            }
            let declared = match ranged {
                true => {
                    self.expect(b'>')?;
                    self.names.declare_range(name, ty, count)
                }
                false => self.names.declare_register(name, ty, width),
            };
            if declared.is_none() {
                return Err(self.error_at(start, line, "a name that the scope does not have yet"));
            }
            if !self.take(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    fn local_variables(&mut self, space: Space, body: &mut Body<'a>) -> Result<()> {
        let (start, line) = (self.start, self.line);
        for (mut variable, element) in self.variables(space)? {
            let Cow::Borrowed(name) = variable.name else { continue };
            let outside = self.variables.contains_key(name) || self.functions.contains_key(name);
            match self.names.declare_variable(name, element, outside) {
                Some(unique) => variable.name = unique,
                None => {
                    return Err(self.error_at(
                        start,
                        line,
                        "names that the scope does not have yet",
                    ));
                }
            }
            body.variables.push(variable);
        }
        Ok(())
    }

    /// `.loc 1 12 5, function_name $L__info_string0, inlined_at 1 20 3`
    pub(super) fn location(&mut self) -> Result<Location> {
        self.advance();
        let file = self.u32("the file's number")?;
        let line = self.u32("the line")?;
        let column = self.u32("the column")?;
        while self.take(b',') {
            match self.word("`function_name` or `inlined_at`")? {
                "function_name" => {
                    self.word("a label of `.debug_str`")?;
                    self.offset()?;
                }
                "inlined_at" => {
                    for what in ["the file's number", "the line", "the column"] {
                        self.u32(what)?;
                    }
                }
                _ => return self.fail("`function_name` or `inlined_at` before this"),
            }
        }
        Ok(Location { file, line, column })
    }

    /// An instruction, with its guard, or a label and what belongs to it.
    fn statement(&mut self, body: &mut Body<'a>, location: Option<Location>) -> Result<()> {
        let line = self.line;
        let guard = match self.take(b'@') {
            false => None,
            true => {
                let negated = self.take(b'!');
                let (start, line) = (self.start, self.line);
                match self.operand()? {
                    Operand::Reg(register)
                        if self.names.registers[register as usize].ty == Type::Pred =>
                    {
                        Some(Guard { register, negated })
                    }
                    _ => return Err(self.error_at(start, line, "a predicate register")),
                }
            }
        };
        let start = self.start;
        let name = self.word("an opcode")?;
        if guard.is_none() && self.take(b':') {
            return self.label(name, start, line, body);
        }
        let mut modifiers = Vec::new();
        while let Token::Dot(modifier) = self.token {
            modifiers.push(modifier);
            self.advance();
        }
        let statement = body.statements.len();
        let operands = match name {
            "call" => self.call(statement)?,
            "bra" => {
                let label = self.label_operand(statement, 0)?;
                vec![label]
            }
            "brx" => {
                let index = self.operand()?;
                self.expect(b',')?;
                vec![index, self.label_operand(statement, 1)?]
            }
            _ if self.is(b';') => Vec::new(),
            _ => {
                let mut operands = Vec::with_capacity(4);
                loop {
                    operands.push(self.operand()?);
                    if !self.take(b',') {
                        break operands;
                    }
                }
            }
        };
        if !self.take(b';') {
            return self.fail("`;` behind the instruction");
        }
        let instruction = Instruction { guard, name, modifiers, operands, line, location };
        body.statements.push(Statement::Instruction(instruction));
        Ok(())
    }

    /// A label that is used: its unique name is put in when its scope ends.
    fn label_operand(&mut self, statement: usize, operand: usize) -> Result<Operand<'a>> {
        Ok(Operand::Symbol { name: self.label_name(statement, operand)?, offset: 0 })
    }

    fn label_name(&mut self, statement: usize, operand: usize) -> Result<Cow<'a, str>> {
        let (start, line) = (self.start, self.line);
        let label = self.word("a label")?;
        self.names.use_label(Use { label, statement, operand, start, line });
        Ok(Cow::Borrowed(label))
    }

    /// `call (r), f, (a, b), prototype;` and its shorter forms.
    fn call(&mut self, statement: usize) -> Result<Vec<Operand<'a>>> {
        let mut operands = vec![Operand::List(Vec::new())];
        if self.is(b'(') {
            operands[0] = self.list()?;
            self.expect(b',')?;
        }
        operands.push(self.operand()?);
        operands.push(Operand::List(Vec::new()));
        if self.take(b',') {
            if self.is(b'(') {
                operands[2] = self.list()?;
                if !self.take(b',') {
                    return Ok(operands);
                }
            }
            operands.push(self.label_operand(statement, 3)?);
        }
        Ok(operands)
    }

    /// What stands behind `name:`.
    fn label(&mut self, name: &'a str, start: usize, line: u32, body: &mut Body<'a>) -> Result<()> {
        let Some(name) = self.names.declare_label(name) else {
            return Err(self.error_at(start, line, "a label that the scope does not have yet"));
        };
        let statement = body.statements.len();
        let list = match self.token {
            Token::Dot("branchtargets") => {
                self.advance();
                let mut labels = Vec::new();
                loop {
                    labels.push(self.label_name(statement, labels.len())?);
                    if !self.take(b',') {
                        break;
                    }
                }
                Statement::BranchTargets { name, labels }
            }
            Token::Dot("calltargets") => {
                self.advance();
                let mut functions = Vec::new();
                loop {
                    functions.push(self.word("a function")?);
                    if !self.take(b',') {
                        break;
                    }
                }
                Statement::CallTargets { name, functions }
            }
            Token::Dot("callprototype") => {
                self.advance();
                let returns = self.prototype_list()?;
                self.word("`_`")?;
                let params = self.prototype_list()?;
                while let Token::Dot("noreturn" | "abi_preserve" | "abi_preserve_control") =
                    self.token
                {
                    self.advance();
                    if let Token::Int { .. } = self.token {
                        self.advance();
                    }
                }
                Statement::CallPrototype { name, returns, params }
            }
            _ => {
                body.statements.push(Statement::Label(name));
                return Ok(());
            }
        };
        body.statements.push(list);
        self.expect(b';')
    }

    /// Parameters of a prototype; none if no parenthesis stands there.
    fn prototype_list(&mut self) -> Result<Vec<Variable<'a>>> {
        match self.is(b'(') {
            true => Ok(self.parameters()?.into_iter().map(|(variable, _)| variable).collect()),
            false => Ok(Vec::new()),
        }
    }
}

/// Gives a use of a label its unique name.
fn rename<'a>(statements: &mut [Statement<'a>], usage: Use<'a>, unique: Cow<'a, str>) {
    match &mut statements[usage.statement] {
        Statement::BranchTargets { labels, .. } => labels[usage.operand] = unique,
        Statement::Instruction(instruction) => {
            instruction.operands[usage.operand] = Operand::Symbol { name: unique, offset: 0 };
        }
        _ => {}
    }
}
