//! Operands of instructions (PTX manual, chapter 6).

use super::constant::Constant;
use super::names::{Meaning, is_special};
use super::{Parser, Result};
use crate::ptx::ast::Operand;
use crate::ptx::lexer::Token;

impl<'a> Parser<'a> {
    /// Any operand.
    pub(super) fn operand(&mut self) -> Result<Operand<'a>> {
        match self.token {
            Token::Word(_) => {
                let operand = self.named()?;
                if !self.is(b'|') {
                    return Ok(operand);
                }
                self.advance();
                let second = match self.token {
                    Token::Word(_) => self.named()?,
                    _ => return self.fail("a register behind `|`"),
                };
                Ok(Operand::Pair(Box::new(operand), Box::new(second)))
            }
            Token::Mark(b'[') => self.address(),
            Token::Mark(b'{') => self.vector(),
            Token::Mark(b'!') => {
                self.advance();
                let (start, line) = (self.start, self.line);
                match self.named()? {
                    Operand::Reg(register) => Ok(Operand::Not(register)),
                    _ => Err(self.error_at(start, line, "a predicate register behind `!`")),
                }
            }
            Token::Int { .. }
            | Token::F32(_)
            | Token::F64(_)
            | Token::Mark(b'-' | b'+' | b'~' | b'(') => self.number(),
            _ => self.fail("an operand"),
        }
    }

    fn number(&mut self) -> Result<Operand<'a>> {
        Ok(match self.constant()? {
            Constant::Int { value, .. } => Operand::Int(value),
            Constant::F32(bits) => Operand::F32(bits),
            Constant::F64(bits) => Operand::F64(bits),
        })
    }

    /// `.x` right behind a name.
    fn element(&mut self) -> Option<&'a str> {
        match self.token {
            Token::Dot(element) if self.start == self.previous_end => Some(element),
            _ => None,
        }
    }

    /// A register, special register, symbol with its offset, or `_`.
    fn named(&mut self) -> Result<Operand<'a>> {
        let operand = self.named_without_offset()?;
        match operand {
            Operand::Symbol { name, .. } if matches!(self.token, Token::Mark(b'+' | b'-')) => {
                Ok(Operand::Symbol { name, offset: self.offset()? })
            }
            operand => Ok(operand),
        }
    }

    fn named_without_offset(&mut self) -> Result<Operand<'a>> {
        let (start, line) = (self.start, self.line);
        let name = self.word("a name")?;
        match self.names.find(name) {
            Some(Meaning::Register { first, width: 1 }) => Ok(Operand::Reg(first)),
            Some(Meaning::Register { first, width }) => match self.element() {
                None => Ok(Operand::Vector((first..first + width).map(Operand::Reg).collect())),
                Some(element) => match element_index(element) {
                    Some(index) if index < width => {
                        self.advance();
                        Ok(Operand::Reg(first + index))
                    }
                    _ => self.fail("an element that the vector has"),
                },
            },
            Some(Meaning::Variable { name, element: bytes }) => {
                let mut offset = 0;
                if let Some(element) = self.element() {
                    let Some(index) = element_index(element) else {
                        return self.fail("`.x`, `.y`, `.z` or `.w`");
                    };
                    offset = (index * bytes) as i64;
                    self.advance();
                }
                Ok(Operand::Symbol { name, offset })
            }
            None if name == "_" => Ok(Operand::Sink),
            None => {
                let element = self.element();
                if is_special(name, element) {
                    if element.is_some() {
                        self.advance();
                    }
                    return Ok(Operand::Special(&self.text[start..self.previous_end]));
                }
                if self.variables.contains_key(name) || self.functions.contains_key(name) {
                    return Ok(Operand::Symbol { name: name.into(), offset: 0 });
                }
                Err(self.error_at(
                    start,
                    line,
                    match name.starts_with('%') {
                        true => "a register that is declared, or a special one",
                        false => "a register, variable or function that is declared",
                    },
                ))
            }
        }
    }

    /// `+4`, `-4`, `+-4`, and more of them.
    pub(super) fn offset(&mut self) -> Result<i64> {
        let mut offset = 0u64;
        while let Token::Mark(sign @ (b'+' | b'-')) = self.token {
            self.advance();
            let value = self.term()?;
            offset = match sign {
                b'+' => offset.wrapping_add(value),
                _ => offset.wrapping_sub(value),
            };
        }
        Ok(offset as i64)
    }

    /// `[%rd1+16]`, `[name+4]`, `[16]`.
    fn address(&mut self) -> Result<Operand<'a>> {
        self.expect(b'[')?;
        let (base, inner) = match self.token {
            Token::Word(_) => match self.named_without_offset()? {
                Operand::Symbol { name, offset } => (Operand::Symbol { name, offset: 0 }, offset),
                base @ Operand::Reg(_) => (base, 0),
                _ => return self.fail("an address of a register, a symbol or a number"),
            },
            _ => (Operand::Int(self.integer()?), 0),
        };
        let offset = inner.wrapping_add(self.offset()?);
        if self.is(b',') {
            return self
                .fail("`]`: addresses with coordinates (textures, tensor maps) are not run");
        }
        self.expect(b']')?;
        Ok(Operand::Address { base: Box::new(base), offset })
    }

    /// `{%r1, %r2}`
    fn vector(&mut self) -> Result<Operand<'a>> {
        self.expect(b'{')?;
        let mut elements = Vec::new();
        loop {
            if matches!(self.token, Token::Mark(b'{' | b'[')) {
                return self.fail("a register or a number in a vector");
            }
            elements.push(self.operand()?);
            if !self.take(b',') {
                break;
            }
        }
        self.expect(b'}')?;
        Ok(Operand::Vector(elements))
    }

    /// `(a, b)` of a call.
    pub(super) fn list(&mut self) -> Result<Operand<'a>> {
        self.expect(b'(')?;
        let mut operands = Vec::new();
        while !self.is(b')') {
            operands.push(self.operand()?);
            if !self.take(b',') {
                break;
            }
        }
        self.expect(b')')?;
        Ok(Operand::List(operands))
    }
}

/// `.x` to `.w` and `.r` to `.a`, from 0.
fn element_index(element: &str) -> Option<u32> {
    Some(match element {
        "x" | "r" => 0,
        "y" | "g" => 1,
        "z" | "b" => 2,
        "w" | "a" => 3,
        _ => return None,
    })
}
