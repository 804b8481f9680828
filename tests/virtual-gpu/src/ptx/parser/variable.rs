//! Declarations of variables and parameters, and initialisers (PTX manual, 5.4 and 7.1).

use std::borrow::Cow;

use super::constant::Constant;
use super::{Parser, Result};
use crate::ptx::ast::{Initialiser, Linkage, Space, Type, Variable};
use crate::ptx::lexer::Token;

/// `.align 16 .v4 .f32`: what stands before a variable's name.
pub(super) struct Form {
    pub ty: Type,
    pub vector: u32,
    align: Option<u32>,
}

impl<'a> Parser<'a> {
    /// `.global .align 4 .b8 a[4] = {1, 2}, b;` with the bytes of an element; takes the `;`.
    pub(super) fn variables(&mut self, space: Space) -> Result<Vec<(Variable<'a>, u32)>> {
        self.advance();
        let form = self.form()?;
        let mut variables = Vec::new();
        loop {
            let (mut variable, dimensions) = self.declarator(space, &form)?;
            if self.take(b'=') {
                if space == Space::Param {
                    return self.fail("a parameter without a value");
                }
                let open = variable.size.is_none();
                let items = self.initialiser(&form, &dimensions, open, &mut variable.init)?;
                if open {
                    variable.size = Some(self.bytes_of(&form, &[items], &dimensions[1..])?);
                }
            }
            variables.push((variable, form.ty.bytes()));
            if !self.take(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(variables)
    }

    /// `.param .align 8 .b8 name[16]`, from `.param` on, with the bytes of an element.
    pub(super) fn parameter(&mut self) -> Result<(Variable<'a>, u32)> {
        match self.token {
            Token::Dot("param") => self.advance(),
            Token::Dot("reg") => return self.fail("`.param`: `.reg` parameters are not run"),
            _ => return self.fail("`.param`"),
        }
        let form = self.form()?;
        Ok((self.declarator(Space::Param, &form)?.0, form.ty.bytes()))
    }

    /// Alignment, vector length, type and attributes, in any order.
    pub(super) fn form(&mut self) -> Result<Form> {
        let mut align = None;
        let mut vector = 1;
        let mut ty = None;
        // Behind `.ptr` stand the space and the alignment of what it points at.
        let mut pointer = false;
        while let Token::Dot(word) = self.token {
            match word {
                "align" => {
                    self.advance();
                    let (start, line) = (self.start, self.line);
                    let bytes = self.u32("an alignment")?;
                    if !bytes.is_power_of_two() || bytes > 1 << 20 {
                        return Err(self.error_at(start, line, "a power of two up to 2^20"));
                    }
                    if !pointer {
                        align = Some(bytes);
                    }
                    continue;
                }
                "attribute" => {
                    self.advance();
                    self.attributes()?;
                    continue;
                }
                "v2" => vector = 2,
                "v4" => vector = 4,
                "v8" => vector = 8,
                "ptr" => pointer = true,
                "global" | "const" | "local" | "shared" | "generic" | "param" if pointer => {}
                _ => match Type::from_name(word) {
                    Some(named) if ty.is_none() => ty = Some(named),
                    _ => return self.fail("one type that is known here, then a name"),
                },
            }
            self.advance();
        }
        match ty {
            Some(ty) => Ok(Form { ty, vector, align }),
            None => self.fail("a type"),
        }
    }

    /// `(.managed)`, `(.unified(1, 2))`: where memory lives makes no difference here.
    pub(super) fn attributes(&mut self) -> Result<()> {
        self.expect(b'(')?;
        let mut depth = 1;
        while depth > 0 {
            match self.token {
                Token::Mark(b'(') => depth += 1,
                Token::Mark(b')') => depth -= 1,
                Token::Dot(_) | Token::Int { .. } | Token::Mark(b',') => {}
                _ => return self.fail("`)` behind the attributes"),
            }
            self.advance();
        }
        Ok(())
    }

    /// A name with its dimensions; 0 for the first one in `name[]`.
    fn declarator(&mut self, space: Space, form: &Form) -> Result<(Variable<'a>, Vec<u64>)> {
        let line = self.line;
        if form.ty == Type::Pred {
            return self.fail("a type that memory holds, not `.pred`");
        }
        let name = self.word("the variable's name")?;
        let mut dimensions = Vec::new();
        let mut unsized_array = false;
        while self.take(b'[') {
            if dimensions.is_empty() && self.is(b']') {
                unsized_array = true;
                dimensions.push(0);
            } else {
                dimensions.push(self.integer()?);
            }
            self.expect(b']')?;
        }
        let bytes = self.bytes_of(form, &dimensions, &[])?;
        let variable = Variable {
            name: Cow::Borrowed(name),
            space,
            ty: form.ty,
            align: form.align.unwrap_or(form.ty.bytes() * form.vector),
            size: (!unsized_array).then_some(bytes),
            init: Vec::new(),
            linkage: Linkage::Internal,
            line,
        };
        Ok((variable, dimensions))
    }

    fn bytes_of(&self, form: &Form, outer: &[u64], inner: &[u64]) -> Result<u64> {
        let element = form.ty.bytes() as u64 * form.vector as u64;
        let bytes =
            outer.iter().chain(inner).try_fold(element, |bytes, &count| bytes.checked_mul(count));
        match bytes {
            Some(bytes) if bytes < 1 << 48 => Ok(bytes),
            _ => self.fail("less than 2^48 bytes in one variable"),
        }
    }

    /// A variable of module scope that is declared again: one of the two must be `.extern`.
    pub(super) fn redeclare(&mut self, variable: Variable<'a>) -> Result<()> {
        let earlier = self.module.variables.iter_mut().find(|v| v.name == variable.name);
        match earlier {
            Some(earlier) if earlier.linkage == Linkage::Extern => *earlier = variable,
            Some(_) if variable.linkage == Linkage::Extern => {}
            _ => return self.fail(format!("one definition of `{}` before this", variable.name)),
        }
        Ok(())
    }

    /// What stands behind `=`; `open` for `name[] =`. Returns how many items the outermost list has.
    fn initialiser(
        &mut self,
        form: &Form,
        dimensions: &[u64],
        open: bool,
        init: &mut Vec<Initialiser<'a>>,
    ) -> Result<u64> {
        let mut levels = dimensions.to_vec();
        if form.vector > 1 {
            levels.push(form.vector as u64);
        }
        let mut values = Values { ty: form.ty, init, written: 0, mask: None };
        let items = match levels.is_empty() {
            true => {
                self.value(&mut values)?;
                1
            }
            false => self.values(&levels, open, &mut values)?,
        };
        match values.mask {
            None => Ok(items),
            Some(_) => self.fail("all eight bytes of an address before this"),
        }
    }

    /// `{1, 2, {3, 4}}`. Rows that are too short end in zeros, as in C.
    fn values(&mut self, levels: &[u64], open: bool, values: &mut Values<'a, '_>) -> Result<u64> {
        let size = values.ty.bytes() as u64;
        // Rows in braces; without them, one flat list.
        let inner: u64 = levels[1..].iter().fold(1, |product, &n| product.saturating_mul(n));
        let base = values.written;
        let mut items = 0u64;
        let mut flat = None;
        self.descend()?;
        self.expect(b'{')?;
        while !self.is(b'}') {
            let row = self.is(b'{');
            if *flat.get_or_insert(!row) == row {
                return self.fail("a list of values, or one of rows, not both");
            }
            let limit = match (open, row) {
                (true, _) => u64::MAX,
                (false, true) => levels[0],
                (false, false) => levels[0].saturating_mul(inner),
            };
            if items == limit {
                return self.fail(format!("at most {limit} items"));
            }
            if row {
                if levels.len() == 1 {
                    return self.fail("a value: the array has no more dimensions");
                }
                let place = items.saturating_mul(inner).saturating_mul(size).saturating_add(base);
                self.pad(place, values)?;
                self.values(&levels[1..], false, values)?;
            } else {
                self.value(values)?;
            }
            items += 1;
            if !self.take(b',') {
                break;
            }
        }
        self.expect(b'}')?;
        self.ascend();
        match flat {
            Some(true) => Ok(items.div_ceil(inner.max(1))),
            _ => Ok(items),
        }
    }

    fn pad(&mut self, to: u64, values: &mut Values<'a, '_>) -> Result<()> {
        let zeros = to.saturating_sub(values.written);
        if zeros > self.padding_left {
            return self.fail("fewer zeros between the rows of an initialiser");
        }
        self.padding_left -= zeros;
        if zeros > 0 {
            values.append(std::iter::repeat_n(0, zeros as usize), zeros);
        }
        Ok(())
    }

    /// One value: a constant, an address, or a byte of one.
    fn value(&mut self, values: &mut Values<'a, '_>) -> Result<()> {
        let (start, line) = (self.start, self.line);
        let size = values.ty.bytes() as u64;
        let whole_address = values.ty.bytes() == 8 && !values.ty.is_float();
        if let Token::Word(_) = self.token {
            if !whole_address {
                return self.fail("a number: an address takes 8 bytes");
            }
            let (symbol, generic, offset) = self.symbol()?;
            values.push(Initialiser::Address { symbol, generic, offset }, 8);
            return Ok(());
        }
        let constant = self.constant()?;
        if let Constant::Int { value, .. } = constant
            && self.take(b'(')
        {
            // `0xFF00(symbol)`: the second byte of its address.
            let address = self.symbol()?;
            self.expect(b')')?;
            let (index, expected) = match values.mask {
                None => (0, address),
                Some(mask) => mask,
            };
            if size != 1 || address != expected || value != 0xFF << (8 * index) {
                return Err(self.error_at(start, line, "the eight bytes of an address in order"));
            }
            values.mask = (index < 7).then_some((index + 1, address));
            if index == 7 {
                let (symbol, generic, offset) = address;
                values.push(Initialiser::Address { symbol, generic, offset }, 8);
            }
            return Ok(());
        }
        if values.mask.is_some() {
            return Err(self.error_at(start, line, "all eight bytes of an address before this"));
        }
        let bits: u64 = match (values.ty, constant) {
            (Type::F32, Constant::F64(bits)) => (f64::from_bits(bits) as f32).to_bits() as u64,
            (Type::F64, Constant::F32(bits)) => (f32::from_bits(bits) as f64).to_bits(),
            (Type::F32, Constant::Int { value, .. }) => (value as i64 as f32).to_bits() as u64,
            (Type::F64, Constant::Int { value, .. }) => (value as i64 as f64).to_bits(),
            (_, Constant::Int { value, .. }) => value,
            (ty, Constant::F32(bits)) if ty.bytes() == 4 => bits as u64,
            (ty, Constant::F64(bits)) if ty.bytes() == 8 => bits,
            _ => return Err(self.error_at(start, line, "a value of the variable's type")),
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&bits.to_le_bytes());
        let negative =
            matches!(constant, Constant::Int { unsigned: false, value } if value >> 63 == 1);
        if negative {
            bytes[8..].fill(0xFF);
        }
        values.append(bytes.into_iter().take(size as usize), size);
        Ok(())
    }

    /// `symbol`, `symbol+4`, `generic(symbol)+4`.
    fn symbol(&mut self) -> Result<(&'a str, bool, i64)> {
        let mut symbol = self.word("a symbol")?;
        let generic = symbol == "generic" && self.take(b'(');
        let mut offset = 0i64;
        if generic {
            symbol = self.word("a symbol")?;
            offset = self.offset()?;
            self.expect(b')')?;
        }
        Ok((symbol, generic, offset.wrapping_add(self.offset()?)))
    }
}

type Address<'a> = (&'a str, bool, i64);

/// The initialiser of one variable as it is written.
struct Values<'a, 'v> {
    ty: Type,
    init: &'v mut Vec<Initialiser<'a>>,
    /// In bytes.
    written: u64,
    /// An address that is given byte by byte: the next byte.
    mask: Option<(u32, Address<'a>)>,
}

impl<'a> Values<'a, '_> {
    fn push(&mut self, item: Initialiser<'a>, bytes: u64) {
        self.init.push(item);
        self.written += bytes;
    }

    fn append(&mut self, bytes: impl Iterator<Item = u8>, count: u64) {
        match self.init.last_mut() {
            Some(Initialiser::Bytes(last)) => last.extend(bytes),
            _ => self.init.push(Initialiser::Bytes(bytes.collect())),
        }
        self.written += count;
    }
}
