//! Rust's tokens, as far as rules about sources need them: comments are gone, brackets are trees.

use Token::{Float, Group, Sign, Text, Word};

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// A name or a keyword.
    Word(String),
    /// One character of punctuation.
    Sign(char),
    /// A string literal of any kind, escapes as they are written.
    Text(String),
    Float(String),
    /// What stands in brackets; with the opening one.
    Group(char, Vec<Token>),
    /// Another literal, or a lifetime.
    Other,
}

/// The tokens of a whole file.
pub fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut lexer = Lexer { text: text.chars().collect(), at: 0 };
    let tokens = lexer.until(None)?;
    Ok(tokens)
}

struct Lexer {
    text: Vec<char>,
    at: usize,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.text.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let from = self.at;
        while self.at < self.text.len() && wanted(self.peek(0)) {
            self.at += 1;
        }
        self.text[from..self.at].iter().collect()
    }

    /// The tokens up to the closing bracket, or to the end.
    fn until(&mut self, closing: Option<char>) -> Result<Vec<Token>, String> {
        let mut tokens = Vec::new();
        while self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                (c, _) if c.is_whitespace() => self.at += 1,
                ('/', '/') => drop(self.take_while(|c| c != '\n')),
                ('/', '*') => self.comment(),
                (open @ ('(' | '[' | '{'), _) => {
                    self.at += 1;
                    let close = if open == '(' { ')' } else { char::from(open as u8 + 2) };
                    tokens.push(Group(open, self.until(Some(close))?));
                }
                (close @ (')' | ']' | '}'), _) => {
                    self.at += 1;
                    return if closing == Some(close) { Ok(tokens) } else { Err(self.unexpected(close)) };
                }
                ('"', _) => tokens.push(self.string()),
                ('\'', _) => tokens.push(self.character()),
                (c, _) if c.is_ascii_digit() => {
                    // `x.0.1` is no float.
                    let is_index = matches!(tokens[..], [.., ref before, Sign('.')] if *before != Sign('.'));
                    let number = if is_index { self.index() } else { self.number() };
                    tokens.push(number);
                }
                (c, _) if is_word(c) => tokens.push(self.word()),
                (c, _) => {
                    self.at += 1;
                    tokens.push(Sign(c));
                }
            }
        }
        if closing.is_none() { Ok(tokens) } else { Err("it ends within brackets".into()) }
    }

    fn unexpected(&self, bracket: char) -> String {
        let line = self.text[..self.at].iter().filter(|c| **c == '\n').count() + 1;
        format!("{bracket} in line {line} closes nothing")
    }

    fn comment(&mut self) {
        let mut depth = 0;
        while self.at < self.text.len() {
            let step = match (self.peek(0), self.peek(1)) {
                ('/', '*') => 1,
                ('*', '/') => -1,
                _ => 0,
            };
            depth += step;
            self.at += if step == 0 { 1 } else { 2 };
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) -> Token {
        self.at += 1;
        let from = self.at;
        while self.at < self.text.len() && self.peek(0) != '"' {
            self.at += if self.peek(0) == '\\' { 2 } else { 1 };
        }
        let text = self.text[from..self.at].iter().collect();
        self.at += 1;
        Text(text)
    }

    /// `r"…"`, `r#"…"#`: nothing is escaped, and the end has as many signs as the beginning.
    fn raw_string(&mut self) -> Token {
        let signs = self.take_while(|c| c == '#').len();
        self.at += 1;
        let from = self.at;
        let closes = |lexer: &Self| lexer.peek(0) == '"' && (1..=signs).all(|ahead| lexer.peek(ahead) == '#');
        while self.at < self.text.len() && !closes(self) {
            self.at += 1;
        }
        let text = self.text[from..self.at].iter().collect();
        self.at += 1 + signs;
        Text(text)
    }

    /// A character, or a lifetime.
    fn character(&mut self) -> Token {
        self.at += 1;
        if self.peek(0) == '\\' {
            self.at += 2;
            self.take_while(|c| c != '\'');
            self.at += 1;
        } else if self.peek(1) == '\'' {
            self.at += 2;
        } else {
            self.take_while(is_word);
        }
        Token::Other
    }

    fn index(&mut self) -> Token {
        self.take_while(|c| c.is_ascii_digit());
        Token::Other
    }

    fn number(&mut self) -> Token {
        let mut text = self.take_while(is_word);
        let mut float = text.ends_with("f32") || text.ends_with("f64");
        // `1.5`, but neither `1..5` nor `x.0.begin()`.
        if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
            self.at += 1;
            text = format!("{text}.{}", self.take_while(is_word));
            float = true;
        }
        if float { Float(text) } else { Token::Other }
    }

    fn word(&mut self) -> Token {
        let word = self.take_while(is_word);
        match (word.as_str(), self.peek(0), self.peek(1)) {
            ("r" | "br" | "cr", '"', _) | ("r" | "br" | "cr", '#', '#' | '"') => self.raw_string(),
            ("b" | "c", '"', _) => self.string(),
            ("b", '\'', _) => self.character(),
            ("r", '#', _) => {
                self.at += 1;
                Word(self.take_while(is_word))
            }
            _ => Word(word),
        }
    }
}
