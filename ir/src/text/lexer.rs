//! Tokens, read on demand, so that the bytes of a large constant never become tokens.
use super::print::is_bare;
use crate::{IrError, Result};

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// Letters, digits and `_`, starting with a letter.
    Word(String),
    /// `%name`
    Name(String),
    /// `"text"`
    Text(String),
    /// `7`, `-1`, `0x1f`
    Int(i64),
    /// `0.5`, `inf`, `nan`
    Float(f32),
    /// A single character.
    Punct(char),
    /// Nothing is left.
    End,
}

impl Token {
    /// For error messages.
    pub fn describe(&self) -> String {
        match self {
            Self::Word(w) => w.clone(),
            Self::Name(n) => format!("%{n}"),
            Self::Text(t) => format!("{t:?}"),
            Self::Int(v) => v.to_string(),
            Self::Float(v) => format!("{v:?}"),
            Self::Punct(c) => format!("{c:?}"),
            Self::End => "the end of the file".into(),
        }
    }
}

/// A cursor over the text, with one token of look-ahead.
pub struct Lexer<'a> {
    text: &'a str,
    /// First byte that no token has taken.
    at: usize,
    peeked: Option<(Token, usize)>,
    /// Where the last token started.
    start: usize,
}

impl<'a> Lexer<'a> {
    pub const fn new(text: &'a str) -> Self {
        Self { text, at: 0, peeked: None, start: 0 }
    }

    /// An error at the last token.
    pub fn error(&self, message: impl Into<String>) -> IrError {
        self.located(IrError::new(message))
    }

    /// Locates an error at the last token.
    pub fn located(&self, error: IrError) -> IrError {
        self.located_at(error, self.start)
    }

    /// Where the last token started.
    pub const fn position(&self) -> usize {
        self.start
    }

    /// Locates an error at a position.
    pub fn located_at(&self, error: IrError, position: usize) -> IrError {
        let before = &self.text[..position.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        error.at(format!("line {line}, column {column}"))
    }

    /// The next token, left in place.
    pub fn peek(&mut self) -> Result<&Token> {
        if self.peeked.is_none() {
            let start = self.start;
            let token = self.read()?;
            let token_start = std::mem::replace(&mut self.start, start);
            self.peeked = Some((token, token_start));
        }
        Ok(self.peeked.as_ref().map_or(&Token::End, |(t, _)| t))
    }

    /// The next token.
    pub fn next(&mut self) -> Result<Token> {
        match self.peeked.take() {
            Some((token, start)) => {
                self.start = start;
                Ok(token)
            }
            None => self.read(),
        }
    }

    /// Hexadecimal bytes up to the closing parenthesis, which is taken. No token may be peeked.
    pub fn hex_block(&mut self) -> Result<Vec<u8>> {
        self.start = self.at;
        let rest = &self.text.as_bytes()[self.at..];
        let mut bytes = Vec::new();
        let mut high = None;
        for (i, c) in rest.iter().enumerate() {
            let digit = match c {
                b'0'..=b'9' => c - b'0',
                b'a'..=b'f' => c - b'a' + 10,
                b'A'..=b'F' => c - b'A' + 10,
                b' ' | b'\n' | b'\r' | b'\t' => continue,
                b')' if high.is_none() => {
                    self.at += i + 1;
                    return Ok(bytes);
                }
                b')' => return Err(self.error("an odd number of hexadecimal digits")),
                _ => {
                    self.start = self.at + i;
                    return Err(self.error("expected a hexadecimal digit or a closing parenthesis"));
                }
            };
            match high.take() {
                None => high = Some(digit),
                Some(h) => bytes.push(h << 4 | digit),
            }
        }
        Err(self.error("the constant does not end"))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Takes characters while `keep` holds.
    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn read(&mut self) -> Result<Token> {
        loop {
            self.take_while(char::is_whitespace);
            if !self.rest().starts_with(';') {
                break;
            }
            self.take_while(|c| c != '\n');
        }
        self.start = self.at;
        let Some(c) = self.rest().chars().next() else { return Ok(Token::End) };
        match c {
            '%' => {
                self.at += 1;
                if self.rest().starts_with('"') {
                    return self.text_literal().map(Token::Name);
                }
                match self.take_while(is_bare) {
                    "" => Err(self.error("expected a name after %")),
                    name => Ok(Token::Name(name.to_owned())),
                }
            }
            '"' => self.text_literal().map(Token::Text),
            '0'..='9' | '-' => self.number(),
            'a'..='z' | 'A'..='Z' | '_' => {
                let word = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
                match word {
                    "inf" => Ok(Token::Float(f32::INFINITY)),
                    "nan" => self.nan(),
                    _ => Ok(Token::Word(word.to_owned())),
                }
            }
            _ => {
                self.at += c.len_utf8();
                Ok(Token::Punct(c))
            }
        }
    }

    fn number(&mut self) -> Result<Token> {
        let text = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
        if text == "-inf" {
            return Ok(Token::Float(f32::NEG_INFINITY));
        }
        let token = if let Some(hex) = text.strip_prefix("0x") {
            i64::from_str_radix(hex, 16).ok().map(Token::Int)
        } else if text.contains(['.', 'e']) {
            text.parse::<f32>().ok().filter(|v| v.is_finite()).map(Token::Float)
        } else {
            text.parse().ok().map(Token::Int)
        };
        token.ok_or_else(|| self.error(format!("{text} is not a number in range")))
    }

    /// `nan` or `nan(0xbits)`; the word is taken.
    fn nan(&mut self) -> Result<Token> {
        if !self.rest().starts_with('(') {
            return Ok(Token::Float(f32::from_bits(0x7fc0_0000)));
        }
        self.at += 1;
        let bits = self.take_while(|c| c != ')');
        let value = bits.strip_prefix("0x").and_then(|b| u32::from_str_radix(b, 16).ok()).map(f32::from_bits);
        match value.filter(|v| v.is_nan() && self.rest().starts_with(')')) {
            Some(v) => {
                self.at += 1;
                Ok(Token::Float(v))
            }
            None => Err(self.error("expected nan(0x…) with the bits of a NaN")),
        }
    }

    fn text_literal(&mut self) -> Result<String> {
        let rest = self.rest();
        let mut out = String::new();
        let mut chars = rest.char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(out);
                }
                '\n' => break,
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => out.push(c),
                    Some((j, 'u')) => {
                        let digits = rest[j + 1..].strip_prefix('{').and_then(|r| r.split_once('}'));
                        let code =
                            digits.and_then(|(d, _)| u32::from_str_radix(d, 16).ok().zip(Some(d.len())));
                        let Some((c, len)) = code.and_then(|(v, l)| char::from_u32(v).zip(Some(l))) else {
                            return Err(self.error("expected \\u{…} with the code of a character"));
                        };
                        out.push(c);
                        chars.nth(len + 1);
                    }
                    _ => return Err(self.error("expected \\\", \\\\ or \\u{…}")),
                },
                c => out.push(c),
            }
        }
        Err(self.error("the text has no closing quote"))
    }
}
