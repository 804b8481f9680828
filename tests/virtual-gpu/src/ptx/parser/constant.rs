//! Constants and constant expressions (PTX manual, 4.5).

use super::{Parser, Result};
use crate::ptx::lexer::Token;

/// What a constant expression comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Constant {
    Int { value: u64, unsigned: bool },
    F32(u32),
    F64(u64),
}

impl<'a> Parser<'a> {
    /// A constant expression: operators, `?:` last.
    pub(super) fn constant(&mut self) -> Result<Constant> {
        self.descend()?;
        let condition = self.binary(0)?;
        let result = if self.is(b'?') {
            let chosen = self.truth(condition)?;
            self.advance();
            let yes = self.constant()?;
            self.expect(b':')?;
            let no = self.constant()?;
            if chosen { yes } else { no }
        } else {
            condition
        };
        self.ascend();
        Ok(result)
    }

    /// An integer constant expression.
    pub(super) fn integer(&mut self) -> Result<u64> {
        let (start, line) = (self.start, self.line);
        let constant = self.constant()?;
        self.as_integer(constant, start, line)
    }

    /// What can stand behind the `+` of an offset: a product at most, so that `+4-2` is two of them.
    pub(super) fn term(&mut self) -> Result<u64> {
        let (start, line) = (self.start, self.line);
        let constant = self.binary(10)?;
        self.as_integer(constant, start, line)
    }

    fn as_integer(&self, constant: Constant, start: usize, line: u32) -> Result<u64> {
        match constant {
            Constant::Int { value, .. } => Ok(value),
            _ => Err(self.error_at(start, line, "an integer")),
        }
    }

    fn truth(&self, constant: Constant) -> Result<bool> {
        match constant {
            Constant::Int { value, .. } => Ok(value != 0),
            _ => self.fail("integers in a constant expression with operators"),
        }
    }

    /// Operators that bind at least as strongly as `least`, from the left.
    fn binary(&mut self, least: u8) -> Result<Constant> {
        let mut left = self.unary()?;
        while let Some((operator, strength)) = binary_operator(self.token)
            && strength >= least
        {
            let (Constant::Int { value: a, unsigned }, start, line) = (left, self.start, self.line)
            else {
                return self.fail("integers in a constant expression with operators");
            };
            self.advance();
            let right = self.binary(strength + 1)?;
            let Constant::Int { value: b, unsigned: right_unsigned } = right else {
                return Err(self.error_at(start, line, "integers on both sides"));
            };
            let unsigned = unsigned || right_unsigned;
            let Some(value) = apply(operator, a, b, unsigned) else {
                return Err(self.error_at(start, line, "a divisor that is not 0"));
            };
            let compares = strength <= 2 || matches!(strength, 6 | 7);
            left = Constant::Int { value, unsigned: unsigned && !compares };
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Constant> {
        let constant = match self.token {
            Token::Int { value, unsigned } => Constant::Int { value, unsigned },
            Token::F32(bits) => Constant::F32(bits),
            Token::F64(bits) => Constant::F64(bits),
            Token::Mark(b'(') => {
                self.advance();
                let inner = self.constant()?;
                self.expect(b')')?;
                return Ok(inner);
            }
            Token::Mark(sign @ (b'-' | b'+' | b'!' | b'~')) => {
                self.descend()?;
                let (start, line) = (self.start, self.line);
                self.advance();
                let inner = self.unary()?;
                self.ascend();
                return match (sign, inner) {
                    (b'+', inner) => Ok(inner),
                    (b'-', Constant::Int { value, unsigned }) => {
                        Ok(Constant::Int { value: value.wrapping_neg(), unsigned })
                    }
                    (b'-', Constant::F32(bits)) => Ok(Constant::F32(bits ^ 1 << 31)),
                    (b'-', Constant::F64(bits)) => Ok(Constant::F64(bits ^ 1 << 63)),
                    (b'~', Constant::Int { value, unsigned }) => {
                        Ok(Constant::Int { value: !value, unsigned })
                    }
                    (b'!', Constant::Int { value, .. }) => {
                        Ok(Constant::Int { value: (value == 0) as u64, unsigned: false })
                    }
                    _ => Err(self.error_at(start, line, "an integer behind `~` or `!`")),
                };
            }
            _ => return self.fail("a constant"),
        };
        self.advance();
        Ok(constant)
    }
}

/// The operator's marks and how strongly it binds, as in C.
fn binary_operator(token: Token<'_>) -> Option<([u8; 2], u8)> {
    Some(match token {
        Token::Marks(m @ [b'|', b'|']) => (m, 1),
        Token::Marks(m @ [b'&', b'&']) => (m, 2),
        Token::Mark(m @ b'|') => ([m, 0], 3),
        Token::Mark(m @ b'^') => ([m, 0], 4),
        Token::Mark(m @ b'&') => ([m, 0], 5),
        Token::Marks(m @ ([b'=', b'='] | [b'!', b'='])) => (m, 6),
        Token::Marks(m @ ([b'<', b'='] | [b'>', b'='])) => (m, 7),
        Token::Mark(m @ (b'<' | b'>')) => ([m, 0], 7),
        Token::Marks(m @ ([b'<', b'<'] | [b'>', b'>'])) => (m, 8),
        Token::Mark(m @ (b'+' | b'-')) => ([m, 0], 9),
        Token::Mark(m @ (b'*' | b'/' | b'%')) => ([m, 0], 10),
        _ => return None,
    })
}

/// In 64 bits, signed unless one side is unsigned; `None` where it divides by 0.
fn apply(operator: [u8; 2], a: u64, b: u64, unsigned: bool) -> Option<u64> {
    let less = |a: u64, b: u64| if unsigned { a < b } else { (a as i64) < b as i64 };
    Some(match &operator {
        b"||" => (a != 0 || b != 0) as u64,
        b"&&" => (a != 0 && b != 0) as u64,
        b"|\0" => a | b,
        b"^\0" => a ^ b,
        b"&\0" => a & b,
        b"==" => (a == b) as u64,
        b"!=" => (a != b) as u64,
        b"<\0" => less(a, b) as u64,
        b">\0" => less(b, a) as u64,
        b"<=" => !less(b, a) as u64,
        b">=" => !less(a, b) as u64,
        b"<<" => a.checked_shl(u32::try_from(b).unwrap_or(64)).unwrap_or(0),
        b">>" if unsigned => a.checked_shr(u32::try_from(b).unwrap_or(64)).unwrap_or(0),
        b">>" => (a as i64 >> b.min(63)) as u64,
        b"+\0" => a.wrapping_add(b),
        b"-\0" => a.wrapping_sub(b),
        b"*\0" => a.wrapping_mul(b),
        b"/\0" if unsigned => a.checked_div(b)?,
        b"%\0" if unsigned => a.checked_rem(b)?,
        b"/\0" if b != 0 => (a as i64).wrapping_div(b as i64) as u64,
        b"%\0" if b != 0 => (a as i64).wrapping_rem(b as i64) as u64,
        _ => return None,
    })
}
