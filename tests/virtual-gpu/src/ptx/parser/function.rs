//! Functions: what stands before the body (PTX manual, 11.1 to 11.4), and aliases.

use std::borrow::Cow;

use super::names::Names;
use super::{Parser, Result};
use crate::ptx::ast::{Function, Linkage, Variable};
use crate::ptx::lexer::Token;

impl<'a> Parser<'a> {
    /// `.entry name (…) .maxntid 256, 1, 1 { … }` and `.func (…) name (…) { … }` or `;`.
    pub(super) fn function(&mut self, linkage: Linkage, entry: bool) -> Result<()> {
        self.advance();
        while self.token == Token::Dot("attribute") {
            self.advance();
            self.attributes()?;
        }
        self.names = Names::default();
        self.names.open();
        let returns = match !entry && self.is(b'(') {
            true => self.parameters()?,
            false => Vec::new(),
        };
        let (start, line) = (self.start, self.line);
        let name = self.word("the function's name")?;
        let params = match self.is(b'(') {
            true => self.parameters()?,
            false => Vec::new(),
        };
        for (parameter, element) in returns.iter().chain(&params) {
            let Cow::Borrowed(name) = parameter.name else { continue };
            if self.names.declare_variable(name, *element, false).is_none() {
                return self.fail(format!("two parameters of different names, not two `{name}`"));
            }
        }
        let strip = |list: Vec<(Variable<'a>, u32)>| list.into_iter().map(|(v, _)| v).collect();
        let mut function = Function {
            name,
            entry,
            returns: strip(returns),
            params: strip(params),
            body: None,
            linkage,
            maxntid: None,
            reqntid: None,
            line,
        };
        self.limits(&mut function)?;
        if self.variables.contains_key(name) {
            return Err(self.error_at(start, line, "a name that no variable has"));
        }
        // Known before its body: it may call itself.
        let index = match self.functions.get(name) {
            Some(&index) => index,
            None => {
                let index = self.module.functions.len();
                self.functions.insert(name, index);
                self.module.functions.push(function.clone());
                index
            }
        };
        if self.take(b';') {
            return Ok(());
        }
        if self.module.functions[index].body.is_some() {
            return Err(self.error_at(start, line, "one body for each function"));
        }
        function.body = Some(self.body()?);
        self.module.functions[index] = function;
        Ok(())
    }

    /// `(.param .b32 a, .param .b32 b)`
    pub(super) fn parameters(&mut self) -> Result<Vec<(Variable<'a>, u32)>> {
        self.expect(b'(')?;
        let mut parameters = Vec::new();
        while !self.is(b')') {
            parameters.push(self.parameter()?);
            if !self.take(b',') {
                break;
            }
        }
        self.expect(b')')?;
        Ok(parameters)
    }

    /// Launch limits and advice between the parameters and the body.
    fn limits(&mut self, function: &mut Function<'a>) -> Result<()> {
        while let Token::Dot(directive) = self.token {
            match directive {
                "maxntid" => function.maxntid = Some(self.extents()?),
                "reqntid" => function.reqntid = Some(self.extents()?),
                "reqnctapercluster" => drop(self.extents()?),
                "minnctapersm"
                | "maxnctapersm"
                | "maxnreg"
                | "maxclusterrank"
                | "abi_preserve"
                | "abi_preserve_control" => {
                    self.advance();
                    self.u32("a number")?;
                }
                "noreturn" | "explicitcluster" | "blocksareclusters" | "unique" => self.advance(),
                "pragma" => self.pragma()?,
                "language" => {
                    self.advance();
                    self.string()?;
                }
                "attribute" => {
                    self.advance();
                    self.attributes()?;
                }
                _ => {
                    return self
                        .fail("a function's body, or a directive for it that is known here");
                }
            }
        }
        Ok(())
    }

    /// `.maxntid 256, 1, 1`: missing numbers are 1.
    fn extents(&mut self) -> Result<[u32; 3]> {
        self.advance();
        let mut extents = [1; 3];
        for (i, extent) in extents.iter_mut().enumerate() {
            if i > 0 && !self.take(b',') {
                break;
            }
            *extent = self.u32("a number of threads")?;
        }
        Ok(extents)
    }

    /// A declared function gets the body of the one that its alias names.
    pub(super) fn resolve_alias(
        &mut self,
        alias: &'a str,
        function: &'a str,
    ) -> std::result::Result<(), String> {
        let body = self.functions.get(function).map(|&i| &self.module.functions[i]);
        let Some(meant) = body.filter(|f| f.body.is_some() && !f.entry) else {
            return Err(format!("`.alias` of a function with a body, not `{function}`"));
        };
        let meant = meant.clone();
        let declared = self.functions.get(alias).map(|&i| &mut self.module.functions[i]);
        let Some(declared) = declared.filter(|f| f.body.is_none()) else {
            return Err("`.func` with the alias's name and without a body before `.alias`".into());
        };
        // The body speaks of its own parameters, so they come with it.
        declared.returns = meant.returns;
        declared.params = meant.params;
        declared.body = meant.body;
        Ok(())
    }
}
