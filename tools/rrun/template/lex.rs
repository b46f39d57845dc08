//! From the text of a template to tokens.
//!
//! Source: Go `text/template/parse`, lex.go.

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Byte offset in the template.
    pub(super) position: usize,
    pub(super) text: String,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    LeftDelimiter,
    RightDelimiter,
    Space,
    Assign,
    Declare,
    Pipe,
    LeftParen,
    RightParen,
    /// A single other character, such as a comma.
    Character,
    /// `'x'`
    CharacterConstant,
    /// `"..."`
    Quoted,
    /// Between back quotes.
    Raw,
    Number,
    Boolean,
    Nil,
    Dot,
    /// `.Name`
    Field,
    /// `$name`
    Variable,
    Identifier,
    Keyword,
    End,
    /// The text is what is wrong; no token follows.
    Error,
}

const KEYWORDS: [&str; 9] = [
    "block", "break", "continue", "define", "else", "end", "if", "range", "with",
];
const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

/// All tokens; the last one is [`Kind::End`] or [`Kind::Error`].
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        text,
        at: 0,
        tokens: Vec::new(),
        depth: 0,
    };
    match lexer.run() {
        Ok(()) => lexer.push(Kind::End, lexer.at, ""),
        Err(why) => lexer.push(Kind::Error, lexer.at, &why),
    }
    lexer.tokens
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    tokens: Vec<Token>,
    depth: usize,
}

fn is_word(letter: char) -> bool {
    letter == '_' || letter.is_alphanumeric()
}

fn code_point(letter: char) -> String {
    format!("U+{:04X} '{letter}'", u32::from(letter))
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn push(&mut self, kind: Kind, position: usize, text: &str) {
        let text = text.to_owned();
        self.tokens.push(Token {
            kind,
            position,
            text,
        });
    }

    fn push_from(&mut self, kind: Kind, start: usize) {
        let text = self.text.get(start..self.at).unwrap_or_default().to_owned();
        self.push(kind, start, &text);
    }

    fn run(&mut self) -> Result<(), String> {
        let mut trim = false;
        loop {
            let rest = self.rest();
            let (plain, more) = match rest.find("{{") {
                Some(open) => (open, true),
                None => (rest.len(), false),
            };
            let start = self.at;
            let mut text = rest.get(..plain).unwrap_or_default();
            if trim {
                text = text.trim_start_matches(SPACES);
            }
            let after = rest.get(plain + 2..).unwrap_or_default();
            let trims_left = more && after.starts_with('-') && after[1..].starts_with(SPACES);
            if trims_left {
                text = text.trim_end_matches(SPACES);
            }
            let text = text.to_owned();
            if !text.is_empty() {
                self.push(Kind::Text, start, &text);
            }
            self.at += plain;
            if !more {
                return Ok(());
            }
            let open = self.at;
            self.at += if trims_left { 3 } else { 2 };
            trim = self.action(open)?;
        }
    }

    /// Tokens up to the closing delimiter; whether it trims what follows.
    fn action(&mut self, open: usize) -> Result<bool, String> {
        let body = self.rest().trim_start_matches(SPACES);
        let is_comment = if self.at - open == 3 {
            body.starts_with("/*")
        } else {
            self.rest().starts_with("/*")
        };
        if is_comment {
            return self.comment();
        }
        self.push(Kind::LeftDelimiter, open, "{{");
        self.depth = 0;
        loop {
            if let Some((length, trims)) = self.at_right() {
                if self.depth > 0 {
                    return Err("unclosed left paren".to_owned());
                }
                let start = self.at;
                self.at += length;
                self.push(Kind::RightDelimiter, start, "}}");
                return Ok(trims);
            }
            self.inside()?;
        }
    }

    /// Length of the closing delimiter when we are at it, and whether it trims.
    fn at_right(&self) -> Option<(usize, bool)> {
        let rest = self.rest();
        if rest.starts_with("}}") {
            return Some((2, false));
        }
        let tail = rest.strip_prefix(SPACES)?;
        tail.starts_with("-}}").then_some((4, true))
    }

    fn comment(&mut self) -> Result<bool, String> {
        let rest = self.rest();
        let end = rest.find("*/").ok_or("unclosed comment")?;
        let tail = rest.get(end + 2..).unwrap_or_default();
        let (length, trims) = if tail.starts_with("}}") {
            (2, false)
        } else if tail
            .strip_prefix(SPACES)
            .is_some_and(|t| t.starts_with("-}}"))
        {
            (4, true)
        } else {
            return Err("comment ends before closing delimiter".to_owned());
        };
        self.at += end + 2 + length;
        Ok(trims)
    }

    /// One token inside an action.
    fn inside(&mut self) -> Result<(), String> {
        let start = self.at;
        let letter = self.peek().ok_or("unclosed action")?;
        let second = self.rest().chars().nth(1);
        self.at += letter.len_utf8();
        match letter {
            letter if SPACES.contains(&letter) => {
                while self.peek().is_some_and(|next| SPACES.contains(&next))
                    && self.at_right().is_none()
                {
                    self.at += 1;
                }
                self.push_from(Kind::Space, start);
            }
            '=' => self.push_from(Kind::Assign, start),
            ':' if second == Some('=') => {
                self.at += 1;
                self.push_from(Kind::Declare, start);
            }
            ':' => return Err("expected :=".to_owned()),
            '|' => self.push_from(Kind::Pipe, start),
            '"' => self.delimited('"', Kind::Quoted, "unterminated quoted string", start)?,
            '\'' => self.delimited(
                '\'',
                Kind::CharacterConstant,
                "unterminated character constant",
                start,
            )?,
            '`' => {
                let length = self
                    .rest()
                    .find('`')
                    .ok_or("unterminated raw quoted string")?;
                self.at += length + 1;
                self.push_from(Kind::Raw, start);
            }
            '$' => self.word(Kind::Variable, start)?,
            '.' if second.is_none_or(|next| !next.is_ascii_digit()) => {
                if second.is_some_and(is_word) {
                    self.word(Kind::Field, start)?;
                } else {
                    self.push_from(Kind::Dot, start);
                }
            }
            '.' | '+' | '-' | '0'..='9' => self.number(start)?,
            letter if is_word(letter) => self.word(Kind::Identifier, start)?,
            '(' => {
                self.depth += 1;
                self.push_from(Kind::LeftParen, start);
            }
            ')' => {
                self.push_from(Kind::RightParen, start);
                self.depth = self.depth.checked_sub(1).ok_or("unexpected right paren")?;
            }
            ' '..='~' => self.push_from(Kind::Character, start),
            _ => {
                return Err(format!(
                    "unrecognized character in action: {}",
                    code_point(letter)
                ));
            }
        }
        Ok(())
    }

    fn delimited(
        &mut self,
        end: char,
        kind: Kind,
        unterminated: &str,
        start: usize,
    ) -> Result<(), String> {
        loop {
            let letter = self.peek().filter(|letter| *letter != '\n');
            let letter = letter.ok_or(unterminated)?;
            self.at += letter.len_utf8();
            if letter == end {
                self.push_from(kind, start);
                return Ok(());
            }
            if letter == '\\' {
                let escaped = self.peek().filter(|letter| *letter != '\n');
                self.at += escaped.ok_or(unterminated)?.len_utf8();
            }
        }
    }

    fn at_terminator(&self) -> bool {
        match self.peek() {
            None => true,
            Some(letter) => {
                SPACES.contains(&letter)
                    || ".,|:)(".contains(letter)
                    || self.rest().starts_with("}}")
            }
        }
    }

    fn word(&mut self, kind: Kind, start: usize) -> Result<(), String> {
        while let Some(letter) = self.peek().filter(|letter| is_word(*letter)) {
            self.at += letter.len_utf8();
        }
        if !self.at_terminator() {
            let letter = self.peek().unwrap_or_default();
            return Err(format!("bad character {}", code_point(letter)));
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        let kind = match (kind, text) {
            (Kind::Identifier, "true" | "false") => Kind::Boolean,
            (Kind::Identifier, "nil") => Kind::Nil,
            (Kind::Identifier, word) if KEYWORDS.contains(&word) => Kind::Keyword,
            (Kind::Identifier, "template") => Kind::Keyword,
            (kind, _) => kind,
        };
        self.push_from(kind, start);
        Ok(())
    }

    fn number(&mut self, start: usize) -> Result<(), String> {
        while let Some(letter) = self.peek() {
            let before = self.text.get(..self.at).and_then(|t| t.chars().next_back());
            let sign = "+-".contains(letter) && before.is_some_and(|b| "eEpP".contains(b));
            if !(is_word(letter) || letter == '.' || sign) {
                break;
            }
            self.at += letter.len_utf8();
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        if super::number::Number::parse(text).is_none() {
            return Err(format!("bad number syntax: {}", super::print::quote(text)));
        }
        self.push_from(Kind::Number, start);
        Ok(())
    }
}
