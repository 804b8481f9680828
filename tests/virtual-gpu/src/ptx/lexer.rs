//! PTX text to tokens, one at a time (PTX manual, chapter 4: Syntax).

/// A token; what borrows, borrows from the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    /// An identifier: `add`, `%r1`, `$L__BB0_1`, `_`.
    Word(&'a str),
    /// A dot and what follows it, without the dot: directives, modifiers, `shared::cta`, elements.
    Dot(&'a str),
    /// An integer's bits; `unsigned` where a U follows, or it does not fit 63 bits.
    Int {
        value: u64,
        unsigned: bool,
    },
    /// `0f3F800000`: bits.
    F32(u32),
    /// `0d3FF0000000000000` or a decimal: bits.
    F64(u64),
    /// What stands between the quotes.
    Text(&'a str),
    Mark(u8),
    /// `<<`, `>>`, `<=`, `>=`, `==`, `!=`, `&&`, `||`.
    Marks([u8; 2]),
    /// No token: what is wrong.
    Bad(&'static str),
    End,
}

const WORD: u8 = 1;
const DIGIT: u8 = 2;
const BLANK: u8 = 4;

/// What each byte can be: part of a word, a decimal digit, a blank.
const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        if b.is_ascii_alphanumeric() || b == b'_' || b == b'$' {
            class[i] |= WORD;
        }
        if b.is_ascii_digit() {
            class[i] |= DIGIT;
        }
        if matches!(b, b' ' | b'\t' | b'\r' | 0x0b | 0x0c) {
            class[i] |= BLANK;
        }
        i += 1;
    }
    class
};

fn is(b: u8, class: u8) -> bool {
    CLASS[b as usize] & class != 0
}

#[derive(Clone)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    /// The byte after the last token.
    pub pos: usize,
    /// The line of `pos`, from 1.
    pub line: u32,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Lexer { text, bytes: text.as_bytes(), pos: 0, line: 1 }
    }

    /// The byte `ahead` of the position, 0 past the end.
    fn byte(&self, ahead: usize) -> u8 {
        self.bytes.get(self.pos + ahead).copied().unwrap_or(0)
    }

    /// Past blanks, line ends and comments. False if a comment is not closed.
    pub fn skip_blanks(&mut self) -> bool {
        loop {
            match self.byte(0) {
                b'\n' => {
                    self.line += 1;
                    self.pos += 1;
                }
                b if is(b, BLANK) => self.pos += 1,
                b'/' if self.byte(1) == b'/' => {
                    let rest = &self.bytes[self.pos..];
                    self.pos += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                }
                b'/' if self.byte(1) == b'*' => {
                    let rest = &self.bytes[self.pos + 2..];
                    let Some(length) = rest.windows(2).position(|w| w == b"*/") else {
                        return false;
                    };
                    self.count_lines(self.pos, self.pos + length);
                    self.pos += length + 4;
                }
                _ => return true,
            }
        }
    }

    fn count_lines(&mut self, from: usize, to: usize) {
        self.line += self.bytes[from..to].iter().filter(|&&b| b == b'\n').count() as u32;
    }

    /// The next token; `skip_blanks` went before.
    pub fn token(&mut self) -> Token<'a> {
        let start = self.pos;
        let Some(&first) = self.bytes.get(start) else { return Token::End };
        if is(first, DIGIT) {
            return self.number();
        }
        if is(first, WORD) || (first == b'%' && is(self.byte(1), WORD)) {
            self.pos += 1;
            self.skip_word();
            return Token::Word(&self.text[start..self.pos]);
        }
        if first == b'.' {
            self.pos += 1;
            self.skip_word();
            while self.byte(0) == b':' && self.byte(1) == b':' && is(self.byte(2), WORD) {
                self.pos += 2;
                self.skip_word();
            }
            if self.pos == start + 1 {
                return Token::Bad("a dot with no word behind it");
            }
            return Token::Dot(&self.text[start + 1..self.pos]);
        }
        if first == b'"' {
            let rest = &self.bytes[start + 1..];
            let Some(length) = rest.iter().position(|&b| b == b'"') else {
                return Token::Bad("a text that is not closed");
            };
            self.pos += length + 2;
            self.count_lines(start, self.pos);
            return Token::Text(&self.text[start + 1..start + 1 + length]);
        }
        let pair = [first, self.byte(1)];
        if matches!(&pair, b"<<" | b">>" | b"<=" | b">=" | b"==" | b"!=" | b"&&" | b"||") {
            self.pos += 2;
            return Token::Marks(pair);
        }
        if first.is_ascii_graphic() {
            self.pos += 1;
            return Token::Mark(first);
        }
        Token::Bad("a byte that is no part of PTX")
    }

    fn skip_word(&mut self) {
        while is(self.byte(0), WORD) {
            self.pos += 1;
        }
    }

    /// `123`, `0x7F`, `0b101`, `017`, `5U`, `0f3F800000`, `0d3FF0000000000000`, `1.5e-3`.
    fn number(&mut self) -> Token<'a> {
        let start = self.pos;
        if self.byte(0) == b'0' {
            match self.byte(1) {
                b'x' | b'X' => return self.integer(start + 2, 16),
                b'b' | b'B' => return self.integer(start + 2, 2),
                b'f' | b'F' => {
                    return match self.bits(start + 2, 8) {
                        Some(bits) => Token::F32(bits as u32),
                        None => Token::Bad("0f without 8 hexadecimal digits"),
                    };
                }
                b'd' | b'D' => {
                    return match self.bits(start + 2, 16) {
                        Some(bits) => Token::F64(bits),
                        None => Token::Bad("0d without 16 hexadecimal digits"),
                    };
                }
                _ => {}
            }
        }
        self.skip_digits();
        let fraction = self.byte(0) == b'.' && is(self.byte(1), DIGIT);
        if !fraction && !matches!(self.byte(0), b'e' | b'E') {
            let octal = self.bytes[start] == b'0' && self.pos > start + 1;
            return self.integer(start, if octal { 8 } else { 10 });
        }
        if fraction {
            self.pos += 1;
            self.skip_digits();
        }
        if matches!(self.byte(0), b'e' | b'E') {
            self.pos += 1;
            if matches!(self.byte(0), b'+' | b'-') {
                self.pos += 1;
            }
            self.skip_digits();
        }
        if is(self.byte(0), WORD) {
            return Token::Bad("a number with letters behind it");
        }
        match self.text[start..self.pos].parse::<f64>() {
            Ok(value) => Token::F64(value.to_bits()),
            Err(_) => Token::Bad("a decimal number that cannot be read"),
        }
    }

    fn skip_digits(&mut self) {
        while is(self.byte(0), DIGIT) {
            self.pos += 1;
        }
    }

    /// Digits of `radix` from `from`, with a U behind them or not.
    fn integer(&mut self, from: usize, radix: u32) -> Token<'a> {
        self.pos = from;
        let mut value = 0u64;
        while let Some(digit) = (self.byte(0) as char).to_digit(radix) {
            let next = value.checked_mul(radix as u64).and_then(|v| v.checked_add(digit as u64));
            let Some(next) = next else {
                return Token::Bad("an integer of more than 64 bits");
            };
            value = next;
            self.pos += 1;
        }
        if self.pos == from {
            return Token::Bad("a number without digits");
        }
        let unsigned = matches!(self.byte(0), b'U' | b'u');
        self.pos += unsigned as usize;
        if is(self.byte(0), WORD) {
            return Token::Bad("a number with letters behind it");
        }
        Token::Int { value, unsigned: unsigned || value > i64::MAX as u64 }
    }

    /// Exactly `digits` hexadecimal digits.
    fn bits(&mut self, from: usize, digits: usize) -> Option<u64> {
        self.pos = from;
        let mut value = 0u64;
        for _ in 0..digits {
            value = value << 4 | (self.byte(0) as char).to_digit(16)? as u64;
            self.pos += 1;
        }
        (!is(self.byte(0), WORD)).then_some(value)
    }
}
