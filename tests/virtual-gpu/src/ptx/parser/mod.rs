//! Tokens to the syntax tree: a recursive descent, one token ahead.
//!
//! Here is what stands outside functions. `function` has what stands in them, `variable` declarations
//! and initialisers, `operand` operands, `constant` constant expressions, `names` what a name means in
//! the scope where it stands.

mod constant;
mod function;
mod names;
mod operand;
mod statement;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_errors;
#[cfg(test)]
mod tests_variables;
mod variable;

use std::collections::HashMap;

use super::ast::{Linkage, Module, Space};
use super::error::ParseError;
use super::lexer::{Lexer, Token};
use names::Names;

type Result<T> = std::result::Result<T, ParseError>;

/// Scopes, parentheses and lists may be nested so deep: the parser's own stack bounds them.
const NESTING: usize = 64;

/// Bytes of zeros that nested initialisers of one text may have between their rows.
const PADDING: u64 = 64 << 20;

/// Reads a PTX text (versions 7 to 9, 64-bit addresses).
///
/// # Errors
///
/// The first place that is not PTX as NVIDIA's compilers and LLVM write it for sm_80 and later, or that
/// uses a part of it that is not read: textures, surfaces, 32-bit addresses, `.reg` parameters,
/// addresses with coordinates. Opcodes are not looked at.
pub fn parse(text: &str) -> Result<Module<'_>> {
    let mut parser = Parser::new(text);
    parser.module()?;
    Ok(parser.module)
}

struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    /// The token that comes next, where it starts and its line.
    token: Token<'a>,
    start: usize,
    line: u32,
    /// Where the token before it ended.
    previous_end: usize,
    module: Module<'a>,
    /// Functions by name, as an index into `module.functions`; and variables of module scope, with
    /// the bytes of an element.
    functions: HashMap<&'a str, usize>,
    variables: HashMap<&'a str, u32>,
    names: Names<'a>,
    nesting: usize,
    /// What is left of the registers and padding that a text of this length may ask for.
    registers_left: u64,
    padding_left: u64,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let mut parser = Parser {
            text,
            lexer: Lexer::new(text),
            token: Token::End,
            start: 0,
            line: 1,
            previous_end: 0,
            module: Module::default(),
            functions: HashMap::new(),
            variables: HashMap::new(),
            names: Names::default(),
            nesting: 0,
            // Compilers use nearly every register that they declare, each in more text than a byte.
            registers_left: (1 << 16) + text.len() as u64,
            padding_left: PADDING,
        };
        parser.advance();
        parser
    }

    /// Takes the next token.
    fn advance(&mut self) {
        self.previous_end = self.lexer.pos;
        let closed = self.lexer.skip_blanks();
        self.start = self.lexer.pos;
        self.line = self.lexer.line;
        self.token = match closed {
            true => self.lexer.token(),
            false => Token::Bad("a comment that is not closed"),
        };
    }

    /// The error at the next token.
    fn error(&self, expected: impl Into<String>) -> ParseError {
        self.error_at(self.start, self.line, expected)
    }

    /// The error at a token that was taken already, or at the next one.
    fn error_at(&self, start: usize, line: u32, expected: impl Into<String>) -> ParseError {
        let found = match self.token {
            Token::Bad(what) if start == self.start => what.to_string(),
            Token::End if start == self.start => "the end of the text".to_string(),
            _ => {
                let mut lexer = Lexer::new(self.text);
                lexer.pos = start;
                lexer.token();
                let word = self.text.get(start..lexer.pos).unwrap_or("");
                format!("`{}`", word.chars().take(100).collect::<String>())
            }
        };
        ParseError::at(self.text, start, line, expected.into(), found)
    }

    fn fail<T>(&self, expected: impl Into<String>) -> Result<T> {
        Err(self.error(expected))
    }

    fn is(&self, mark: u8) -> bool {
        self.token == Token::Mark(mark)
    }

    /// Takes the mark if it comes next.
    fn take(&mut self, mark: u8) -> bool {
        let is = self.is(mark);
        if is {
            self.advance();
        }
        is
    }

    fn expect(&mut self, mark: u8) -> Result<()> {
        match self.take(mark) {
            true => Ok(()),
            false => self.fail(format!("`{}`", mark as char)),
        }
    }

    fn word(&mut self, what: &str) -> Result<&'a str> {
        let Token::Word(word) = self.token else { return self.fail(what) };
        self.advance();
        Ok(word)
    }

    fn string(&mut self) -> Result<&'a str> {
        let Token::Text(text) = self.token else { return self.fail("a text in quotes") };
        self.advance();
        Ok(text)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        let Token::Int { value, .. } = self.token else { return self.fail(what) };
        self.advance();
        Ok(value)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        match self.token {
            Token::Int { value, .. } if value <= u32::MAX as u64 => {
                self.advance();
                Ok(value as u32)
            }
            _ => self.fail(format!("{what} below 2^32")),
        }
    }

    /// One level deeper into scopes, lists and parentheses.
    fn descend(&mut self) -> Result<()> {
        if self.nesting == NESTING {
            return self.fail(format!("at most {NESTING} levels of nesting"));
        }
        self.nesting += 1;
        Ok(())
    }

    fn ascend(&mut self) {
        self.nesting -= 1;
    }

    fn module(&mut self) -> Result<()> {
        let mut aliases = Vec::new();
        loop {
            let Token::Dot(directive) = self.token else {
                match self.token {
                    Token::End => break,
                    Token::Mark(b';') => {
                        self.advance();
                        continue;
                    }
                    _ => return self.fail("a directive"),
                }
            };
            match directive {
                "version" => self.version()?,
                "target" => {
                    self.advance();
                    self.module.target = self.word("a target such as sm_80")?;
                    while self.take(b',') {
                        self.word("an option of the target")?;
                    }
                }
                "address_size" => {
                    self.advance();
                    let (start, line) = (self.start, self.line);
                    if self.u64("64")? != 64 {
                        return Err(self.error_at(start, line, "64: 32-bit addresses are not run"));
                    }
                }
                "file" => self.file()?,
                "loc" => drop(self.location()?),
                "section" => self.section()?,
                "pragma" => self.pragma()?,
                "alias" => {
                    self.advance();
                    let place = (self.start, self.line);
                    let alias = self.word("the alias's name")?;
                    self.expect(b',')?;
                    aliases.push((place, alias, self.word("the function that it means")?));
                    self.expect(b';')?;
                }
                _ => self.declaration()?,
            }
        }
        for ((start, line), alias, function) in aliases {
            self.resolve_alias(alias, function).map_err(|what| self.error_at(start, line, what))?;
        }
        match self.module.version {
            (0, 0) => self.fail("`.version` at the beginning of the text"),
            _ => Ok(()),
        }
    }

    /// `.version 8.1`, which is two numbers, not a fraction.
    fn version(&mut self) -> Result<()> {
        self.advance();
        let token = &self.text[self.start..self.lexer.pos.max(self.start)];
        let numbers =
            token.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (Token::F64(_), Some(version)) = (self.token, numbers) else {
            return self.fail("a version such as 8.1");
        };
        self.module.version = version;
        self.advance();
        Ok(())
    }

    /// `.file 1 "path", time, size`
    fn file(&mut self) -> Result<()> {
        self.advance();
        let index = self.u32("the file's number")?;
        let path = self.string()?;
        while self.take(b',') {
            self.u64("the file's time or size")?;
        }
        self.module.files.push((index, path));
        Ok(())
    }

    /// `.section .debug_info { … }`: nothing in it matters to what the code does.
    fn section(&mut self) -> Result<()> {
        self.advance();
        match self.token {
            Token::Dot(_) | Token::Word(_) => self.advance(),
            _ => return self.fail("the section's name"),
        }
        self.expect(b'{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.token {
                Token::Mark(b'{') => depth += 1,
                Token::Mark(b'}') => depth -= 1,
                Token::End | Token::Bad(_) => return self.fail("`}` at the section's end"),
                _ => {}
            }
            self.advance();
        }
        Ok(())
    }

    /// `.pragma "nounroll";`: advice to an optimiser.
    fn pragma(&mut self) -> Result<()> {
        self.advance();
        self.string()?;
        while self.take(b',') {
            self.string()?;
        }
        self.expect(b';')
    }

    /// A function or a variable of module scope.
    fn declaration(&mut self) -> Result<()> {
        let mut linkage = Linkage::Internal;
        loop {
            let Token::Dot(word) = self.token else {
                return self.fail("`.func`, `.entry` or a space");
            };
            linkage = match word {
                "visible" => Linkage::Visible,
                "extern" => Linkage::Extern,
                "weak" => Linkage::Weak,
                "common" => Linkage::Common,
                "entry" | "func" => return self.function(linkage, word == "entry"),
                _ => break,
            };
            self.advance();
        }
        let space = match self.token {
            Token::Dot("global") => Space::Global,
            Token::Dot("const") => Space::Const,
            Token::Dot("shared") => Space::Shared,
            _ => return self.fail("a directive of module scope that is known here"),
        };
        for (mut variable, element) in self.variables(space)? {
            variable.linkage = linkage;
            if linkage == Linkage::Extern && variable.size == Some(0) {
                // `.extern .shared .b8 name[0]` says the same as `name[]`.
                variable.size = None;
            }
            let std::borrow::Cow::Borrowed(name) = variable.name else { continue };
            if self.functions.contains_key(name) {
                return self.fail(format!("`{name}` once, not as a function and a variable"));
            }
            match self.variables.insert(name, element) {
                None => self.module.variables.push(variable),
                Some(_) => self.redeclare(variable)?,
            }
        }
        Ok(())
    }
}
