//! Words, numbers and punctuation of PTX text. Modifiers stay attached to their opcode: `ld.global.v4.f32` is one word.

/// One token with the line it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind<'a>,
    pub(crate) line: u32,
    /// Byte offset of the token's start.
    pub(crate) start: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// An identifier, directive, opcode with modifiers, or number.
    Word(&'a str),
    Str(&'a str),
    Punct(u8),
    End,
}

/// A cursor over PTX text. Never fails: bytes it does not know become punctuation, which the parser rejects with a line.
#[derive(Clone)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    pub(crate) at: usize,
    pub(crate) line: u32,
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'%' | b'.')
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str, at: usize, line: u32) -> Lexer<'a> {
        Lexer { text, at, line }
    }

    /// Skips white space and comments.
    fn skip_blank(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(&b) = bytes.get(self.at) {
            match b {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'/' if bytes.get(self.at + 1) == Some(&b'/') => {
                    while self.at < bytes.len() && bytes[self.at] != b'\n' {
                        self.at += 1;
                    }
                }
                b'/' if bytes.get(self.at + 1) == Some(&b'*') => {
                    self.at += 2;
                    while self.at < bytes.len() && !(bytes[self.at] == b'*' && bytes.get(self.at + 1) == Some(&b'/')) {
                        self.line += u32::from(bytes[self.at] == b'\n');
                        self.at += 1;
                    }
                    self.at = (self.at + 2).min(bytes.len());
                }
                _ => break,
            }
        }
    }

    pub(crate) fn next(&mut self) -> Token<'a> {
        self.skip_blank();
        let bytes = self.text.as_bytes();
        let (start, line) = (self.at, self.line);
        let kind = match bytes.get(start) {
            None => Kind::End,
            Some(b'"') => {
                self.at += 1;
                while self.at < bytes.len() && bytes[self.at] != b'"' {
                    self.line += u32::from(bytes[self.at] == b'\n');
                    self.at += 1 + usize::from(bytes[self.at] == b'\\');
                }
                self.at = (self.at + 1).min(bytes.len());
                let end = if self.at > start + 1 { self.at - 1 } else { self.at };
                Kind::Str(self.text.get(start + 1..end).unwrap_or(""))
            }
            Some(&b) if is_word(b) => {
                loop {
                    match bytes.get(self.at) {
                        // `.reg.b32` is two directives; an opcode keeps its modifiers.
                        Some(b'.') if b == b'.' && self.at > start => break,
                        Some(&b) if is_word(b) => self.at += 1,
                        // `L1::evict_last`: a doubled colon belongs to the word, a single one ends a label.
                        Some(b':') if bytes.get(self.at + 1) == Some(&b':') => self.at += 2,
                        _ => break,
                    }
                }
                Kind::Word(&self.text[start..self.at])
            }
            Some(&b) => {
                self.at += 1;
                while !self.text.is_char_boundary(self.at) {
                    self.at += 1;
                }
                Kind::Punct(b)
            }
        };
        Token { kind, line, start }
    }

    pub(crate) fn peek(&self) -> Token<'a> {
        self.clone().next()
    }

    /// With the cursor just behind a `{`: moves behind the matching `}`. False when the text ends first.
    pub(crate) fn skip_braces(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        let mut depth = 1;
        loop {
            self.skip_blank();
            match bytes.get(self.at) {
                None => return false,
                Some(b'"') => {
                    self.next();
                }
                Some(&b) => {
                    self.at += 1;
                    match b {
                        b'{' => depth += 1,
                        b'}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        return true;
                    }
                }
            }
        }
    }

    pub(crate) fn slice(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end.max(start)).unwrap_or("")
    }
}
