//! PTX text to syntax tree. The top level is scanned when a module is loaded; bodies are parsed when a kernel is asked for.

mod ast;
mod body;
mod lexer;
mod top;

pub(crate) use ast::*;
pub(crate) use body::{parse_body, parse_instruction, parse_readable};
pub(crate) use top::{Function, Top, parse_top};

use crate::error::{LoadError, LoadErrorKind};
use lexer::{Kind, Lexer, Token};

/// A parser position with the helpers both levels use.
pub(crate) struct Parser<'a> {
    lexer: Lexer<'a>,
    file: &'a str,
}

type Result<T> = std::result::Result<T, LoadError>;

impl<'a> Parser<'a> {
    fn new(file: &'a str, text: &'a str, at: usize, line: u32) -> Parser<'a> {
        Parser { lexer: Lexer::new(text, at, line), file }
    }

    fn error<T>(&self, token: Token<'a>, message: impl Into<String>) -> Result<T> {
        let text = match token.kind {
            Kind::Word(w) => w.chars().take(80).collect(),
            Kind::Str(s) => format!("\"{}\"", s.chars().take(80).collect::<String>()),
            Kind::Punct(b) => (b as char).to_string(),
            Kind::End => "end of file".to_owned(),
        };
        Err(LoadError {
            kind: LoadErrorKind::Syntax,
            file: self.file.to_owned(),
            line: token.line,
            text,
            message: message.into(),
        })
    }

    fn next(&mut self) -> Token<'a> {
        self.lexer.next()
    }

    fn peek(&self) -> Kind<'a> {
        self.lexer.peek().kind
    }

    fn eat(&mut self, punct: u8) -> bool {
        let yes = self.peek() == Kind::Punct(punct);
        if yes {
            self.next();
        }
        yes
    }

    fn expect(&mut self, punct: u8) -> Result<Token<'a>> {
        let token = self.next();
        if token.kind == Kind::Punct(punct) {
            Ok(token)
        } else {
            self.error(token, format!("expected `{}`", punct as char))
        }
    }

    fn word(&mut self) -> Result<&'a str> {
        let token = self.next();
        match token.kind {
            Kind::Word(w) => Ok(w),
            _ => self.error(token, "expected a name"),
        }
    }

    fn int(&mut self) -> Result<i128> {
        let negative = self.eat(b'-');
        let token = self.next();
        if let Kind::Word(w) = token.kind
            && let Some(Operand::Int(v)) = number(w)
        {
            return Ok(if negative { -v } else { v });
        }
        self.error(token, "expected an integer")
    }

    fn size(&mut self) -> Result<usize> {
        let token = self.lexer.peek();
        let value = self.int()?;
        // Nothing on a GPU is larger than this; it keeps sums of sizes from overflowing.
        if (0..1i128 << 40).contains(&value) { Ok(value as usize) } else { self.error(token, "size out of range") }
    }

    fn skip_to_semicolon(&mut self) {
        while !matches!(self.next().kind, Kind::Punct(b';') | Kind::End) {}
    }

    /// The type of a declaration, how many of it are an element, and the alignment; 0: its own.
    fn element(&mut self) -> Result<(Ty, usize, usize)> {
        let mut align = 0;
        let mut ty = None;
        let mut lanes = 1usize;
        loop {
            let token = self.lexer.peek();
            match token.kind {
                Kind::Word(".align") => {
                    self.next();
                    align = self.size()?;
                }
                Kind::Word(".v2") => {
                    self.next();
                    lanes = 2;
                }
                Kind::Word(".v4") => {
                    self.next();
                    lanes = 4;
                }
                Kind::Word(".attribute") => {
                    self.next();
                    while !matches!(self.next().kind, Kind::Punct(b')') | Kind::End) {}
                }
                Kind::Word(w) if w.starts_with('.') => {
                    self.next();
                    match Ty::parse(&w[1..]) {
                        Some(t) => ty = Some(t),
                        None => return self.error(token, "unknown type in a declaration"),
                    }
                }
                _ => break,
            }
        }
        let Some(ty) = ty else {
            let token = self.next();
            return self.error(token, "expected a type");
        };
        Ok((ty, lanes, align))
    }

    /// A declaration after its space word: `.align 16 .b8 name[2048] = {…}` up to the `;`. Several names may follow.
    fn variables(&mut self, space: Space, linkage: &'a str, out: &mut Vec<Var<'a>>) -> Result<()> {
        let line = self.lexer.peek().line;
        let (ty, lanes, align) = self.element()?;
        loop {
            let name = self.word()?;
            let mut count = lanes;
            let mut sized = true;
            while self.eat(b'[') {
                if self.eat(b']') {
                    sized = false;
                    continue;
                }
                let token = self.lexer.peek();
                count = match count.checked_mul(self.size()?) {
                    Some(count) if count < 1 << 36 => count,
                    _ => return self.error(token, "array too large"),
                };
                self.expect(b']')?;
            }
            let mut init = Vec::new();
            if self.eat(b'=') {
                self.initialiser(ty, &mut init, 0)?;
            }
            if sized && init.len() > count {
                let token = self.lexer.peek();
                return self.error(token, format!("{} initial values for {count} elements", init.len()));
            }
            let token = self.lexer.peek();
            if !init.is_empty() && !matches!(space, Space::Global | Space::Const) {
                return self.error(token, format!("a variable in .{} has no initial value", space.name()));
            }
            if ty == Ty::Pred {
                return self.error(token, "a predicate is a register");
            }
            if !sized && init.is_empty() && linkage != ".extern" {
                return self.error(token, format!("`{name}` has no size and is not `.extern`"));
            }
            let size = if sized { count * ty.bytes() } else { init.len() * ty.bytes() };
            let align = if align == 0 { ty.bytes() * lanes } else { align };
            if !align.is_power_of_two() {
                let token = self.next();
                return self.error(token, "alignment is not a power of two");
            }
            out.push(Var { linkage, space, name, ty, element: ty.bytes() * lanes, align, size, init, line });
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(())
    }

    fn initialiser(&mut self, ty: Ty, out: &mut Vec<Init<'a>>, depth: usize) -> Result<()> {
        let token = self.lexer.peek();
        if self.eat(b'{') {
            // A level for each dimension of an array, of which nobody has as many.
            if depth == 32 {
                return self.error(token, "initial value nested too deeply");
            }
            while !self.eat(b'}') {
                self.initialiser(ty, out, depth + 1)?;
                if !self.eat(b',') {
                    self.expect(b'}')?;
                    break;
                }
            }
            return Ok(());
        }
        let negative = self.eat(b'-');
        let token = self.next();
        let Kind::Word(w) = token.kind else { return self.error(token, "expected an initial value") };
        let typed = |float: bool| if float { !ty.float() && !ty.untyped() } else { ty.float() };
        let value = match number(w) {
            Some(Operand::Int(_)) if typed(false) => return self.error(token, "an integer where a float is expected"),
            Some(Operand::F32(_) | Operand::F64(_)) if typed(true) => {
                return self.error(token, "a float where an integer is expected");
            }
            Some(Operand::Int(v)) => {
                Init::Bits(if negative { -v } else { v } as u64 & u64::MAX >> (64 - 8 * ty.bytes().min(8)))
            }
            Some(Operand::F32(bits)) => Init::Bits(u64::from(bits) ^ if negative { 1 << 31 } else { 0 }),
            Some(Operand::F64(bits)) if ty == Ty::F64 => Init::Bits(bits ^ if negative { 1 << 63 } else { 0 }),
            Some(Operand::F64(bits)) => {
                let v = f64::from_bits(bits) as f32;
                Init::Bits(u64::from(if negative { -v } else { v }.to_bits()))
            }
            _ if w == "generic" && self.eat(b'(') => {
                let name = self.word()?;
                self.expect(b')')?;
                let offset = if self.eat(b'+') { self.int()? as i64 } else { 0 };
                Init::Address(name, offset)
            }
            _ => {
                let offset = if self.eat(b'+') { self.int()? as i64 } else { 0 };
                Init::Address(w, offset)
            }
        };
        out.push(value);
        Ok(())
    }
}

/// A literal: decimal, hex, octal, binary, `0f3F800000`, `0d3FF0000000000000`, `1.5`.
fn number<'a>(word: &str) -> Option<Operand<'a>> {
    let bytes = word.as_bytes();
    if !bytes.first()?.is_ascii_digit() {
        return None;
    }
    let radix = |digits: &str, radix| {
        let value = i128::from_str_radix(digits.strip_suffix('U').unwrap_or(digits), radix).ok()?;
        (value <= i128::from(u64::MAX)).then_some(Operand::Int(value))
    };
    match bytes.get(..2) {
        Some(b"0f" | b"0F") if word.len() == 10 => u32::from_str_radix(&word[2..], 16).ok().map(Operand::F32),
        Some(b"0d" | b"0D") if word.len() == 18 => u64::from_str_radix(&word[2..], 16).ok().map(Operand::F64),
        Some(b"0x" | b"0X") if word.len() <= 19 => radix(&word[2..], 16),
        Some(b"0b" | b"0B") => radix(&word[2..], 2),
        _ if word.contains('.') || word.contains(['e', 'E']) => {
            word.parse::<f64>().ok().map(|v| Operand::F64(v.to_bits()))
        }
        // `0U` is a decimal zero with a suffix, not an octal number without digits.
        _ if bytes[0] == b'0' && bytes.len() > 1 => radix(word, 8),
        _ if word.len() <= 21 => radix(word, 10),
        _ => None,
    }
}
