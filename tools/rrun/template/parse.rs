//! From tokens to a tree.
//!
//! Source: Go `text/template/parse`, parse.go.

use super::TemplateError;
use super::functions;
use super::lex::{Kind, Token, tokens};
use super::node::{Branch, Command, Node, Operand, OperandKind, Pipe};
use super::number::Number;
use super::print::{quote, unquote};

/// Actions may nest so deep; far more than any template people write.
const DEPTH_MAX: usize = 200;

/// Parses a template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        source: text,
        tokens: tokens(text),
        at: 0,
        variables: vec!["$".to_owned()],
        ranges: 0,
        depth: 0,
    };
    let (nodes, end) = parser.list()?;
    match end {
        Ending::Eof => Ok(nodes),
        Ending::End => Err(parser.fail("unexpected {{end}}")),
        Ending::Else(_) => Err(parser.fail("unexpected {{else}}")),
    }
}

/// What stopped a list of nodes.
enum Ending {
    Eof,
    End,
    /// The keyword that follows on the same action: `{{else if ...}}`.
    Else(Option<String>),
}

struct Parser<'t> {
    source: &'t str,
    tokens: Vec<Token>,
    at: usize,
    variables: Vec<String>,
    ranges: usize,
    depth: usize,
}

impl Parser<'_> {
    fn fail(&self, why: impl Into<String>) -> TemplateError {
        let position = self
            .tokens
            .get(self.at.saturating_sub(1))
            .map_or(0, |t| t.position);
        let before = self.source.get(..position).unwrap_or_default();
        TemplateError::Parse {
            line: 1 + before.matches('\n').count(),
            why: why.into(),
        }
    }

    fn peek(&self) -> (Kind, &str) {
        match self.tokens.get(self.at) {
            Some(token) => (token.kind, token.text.as_str()),
            None => (Kind::End, ""),
        }
    }

    fn next(&mut self) -> Token {
        let token = self.tokens.get(self.at).or(self.tokens.last());
        let token = token.cloned().unwrap_or(Token {
            kind: Kind::End,
            position: self.source.len(),
            text: String::new(),
        });
        self.at += 1;
        token
    }

    fn skip_space(&mut self) {
        while self.peek().0 == Kind::Space {
            self.at += 1;
        }
    }

    fn next_word(&mut self) -> Token {
        self.skip_space();
        self.next()
    }

    fn unexpected(&self, token: &Token, context: &str) -> TemplateError {
        if token.kind == Kind::Error {
            return self.fail(&token.text);
        }
        let shown = match token.kind {
            Kind::End => "EOF".to_owned(),
            Kind::Keyword => format!("<{}>", token.text),
            _ if token.text.chars().count() > 10 => {
                let cut: String = token.text.chars().take(10).collect();
                format!("{}...", quote(&cut))
            }
            _ => quote(&token.text),
        };
        self.fail(format!("unexpected {shown} in {context}"))
    }

    /// Nodes up to `{{end}}`, `{{else}}` or the end of the text.
    fn list(&mut self) -> Result<(Vec<Node>, Ending), TemplateError> {
        let mut nodes = Vec::new();
        loop {
            let token = self.next();
            match token.kind {
                Kind::Text => nodes.push(Node::Text(token.text)),
                Kind::LeftDelimiter => {
                    if let Some(ending) = self.action(&mut nodes)? {
                        return Ok((nodes, ending));
                    }
                }
                Kind::End => return Ok((nodes, Ending::Eof)),
                _ => return Err(self.unexpected(&token, "input")),
            }
        }
    }

    fn action(&mut self, nodes: &mut Vec<Node>) -> Result<Option<Ending>, TemplateError> {
        self.skip_space();
        let (kind, word) = self.peek();
        let word = word.to_owned();
        if kind != Kind::Keyword {
            let pipe = self.pipeline("command", Kind::RightDelimiter)?;
            nodes.push(Node::Action(pipe));
            return Ok(None);
        }
        self.at += 1;
        match word.as_str() {
            "end" => {
                self.close("end")?;
                return Ok(Some(Ending::End));
            }
            "else" => {
                self.skip_space();
                if let (Kind::Keyword, next @ ("if" | "with")) = self.peek() {
                    return Ok(Some(Ending::Else(Some(next.to_owned()))));
                }
                self.close("else")?;
                return Ok(Some(Ending::Else(None)));
            }
            "if" => nodes.push(Node::If(self.branch("if")?)),
            "with" => nodes.push(Node::With(self.branch("with")?)),
            "range" => nodes.push(Node::Range(self.branch("range")?)),
            "break" | "continue" => {
                self.skip_space();
                let token = self.next();
                if token.kind != Kind::RightDelimiter {
                    return Err(self.unexpected(&token, &format!("{{{{{word}}}}}")));
                }
                if self.ranges == 0 {
                    return Err(self.fail(format!("{{{{{word}}}}} outside {{{{range}}}}")));
                }
                nodes.push(if word == "break" {
                    Node::Break
                } else {
                    Node::Continue
                });
            }
            _ => return Err(self.fail(format!("{{{{{word}}}}} is not available here"))),
        }
        Ok(None)
    }

    fn close(&mut self, context: &str) -> Result<(), TemplateError> {
        let token = self.next_word();
        if token.kind == Kind::RightDelimiter {
            return Ok(());
        }
        Err(self.unexpected(&token, context))
    }

    fn branch(&mut self, context: &str) -> Result<Branch, TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.fail("actions are nested too deep"));
        }
        let known = self.variables.len();
        let pipe = self.pipeline(context, Kind::RightDelimiter)?;
        if context == "range" {
            self.ranges += 1;
        }
        let (body, ending) = self.list()?;
        if context == "range" {
            self.ranges -= 1;
        }
        let otherwise = match ending {
            Ending::End => Vec::new(),
            Ending::Eof => return Err(self.fail("unexpected EOF")),
            Ending::Else(Some(word)) if word == context => {
                // `{{else if}}` is an `{{if}}` inside the `{{else}}`; one end closes both.
                self.next_word();
                let inner = self.branch(context)?;
                vec![if context == "if" {
                    Node::If(inner)
                } else {
                    Node::With(inner)
                }]
            }
            Ending::Else(Some(word)) => {
                self.at += 1;
                return Err(self.fail(format!("unexpected <{word}> in else")));
            }
            Ending::Else(None) => match self.list()? {
                (nodes, Ending::End) => nodes,
                (_, Ending::Eof) => return Err(self.fail("unexpected EOF")),
                (_, Ending::Else(_)) => {
                    return Err(self.fail("expected end; found {{else}}"));
                }
            },
        };
        self.variables.truncate(known);
        self.depth -= 1;
        Ok(Branch {
            pipe,
            body,
            otherwise,
        })
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Result<Pipe, TemplateError> {
        self.skip_space();
        let position = self.tokens.get(self.at).map_or(0, |token| token.position);
        let (variables, assigns) = self.declarations(context)?;
        let mut commands = Vec::new();
        loop {
            let token = self.next_word();
            match token.kind {
                kind if kind == end => {
                    self.check_pipeline(&commands, context)?;
                    return Ok(Pipe {
                        position,
                        variables,
                        assigns,
                        commands,
                    });
                }
                Kind::Boolean
                | Kind::CharacterConstant
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::Raw
                | Kind::Quoted
                | Kind::Variable
                | Kind::LeftParen => {
                    self.at -= 1;
                    commands.push(self.command()?);
                }
                _ => return Err(self.unexpected(&token, context)),
            }
        }
    }

    /// `$x :=`, `$i, $x :=`, `$x =`.
    fn declarations(&mut self, context: &str) -> Result<(Vec<String>, bool), TemplateError> {
        let start = self.at;
        let mut names = Vec::new();
        while self.peek().0 == Kind::Variable {
            let name = self.next().text;
            self.skip_space();
            match self.peek() {
                (kind @ (Kind::Assign | Kind::Declare), _) => {
                    self.at += 1;
                    self.skip_space();
                    names.push(name);
                    if kind == Kind::Declare {
                        self.variables.extend(names.iter().cloned());
                    }
                    return Ok((names, kind == Kind::Assign));
                }
                (Kind::Character, ",") => {
                    self.at += 1;
                    names.push(name);
                    self.skip_space();
                    if context == "range" && names.len() < 2 && self.peek().0 == Kind::Variable {
                        continue;
                    }
                    return Err(self.fail(format!("too many declarations in {context}")));
                }
                _ => break,
            }
        }
        // It was no declaration but the first operand.
        self.at = start;
        Ok((Vec::new(), false))
    }

    fn check_pipeline(&self, commands: &[Command], context: &str) -> Result<(), TemplateError> {
        if commands.is_empty() {
            return Err(self.fail(format!("missing value for {context}")));
        }
        for (index, command) in commands.iter().enumerate().skip(1) {
            let first = command.operands.first().map(|operand| &operand.kind);
            if matches!(
                first,
                Some(
                    OperandKind::Boolean(_)
                        | OperandKind::Dot
                        | OperandKind::Nil
                        | OperandKind::Number { .. }
                        | OperandKind::Text { .. }
                )
            ) {
                return Err(self.fail(format!(
                    "non executable command in pipeline stage {}",
                    index + 1
                )));
            }
        }
        Ok(())
    }

    fn command(&mut self) -> Result<Command, TemplateError> {
        let mut operands = Vec::new();
        loop {
            self.skip_space();
            if let Some(operand) = self.operand()? {
                operands.push(operand);
            }
            let token = self.next();
            match token.kind {
                Kind::Space => continue,
                Kind::RightDelimiter | Kind::RightParen => self.at -= 1,
                Kind::Pipe => {
                    self.skip_space();
                    if matches!(self.peek().0, Kind::RightDelimiter | Kind::RightParen) {
                        return Err(self.fail("missing value for command"));
                    }
                }
                _ => return Err(self.unexpected(&token, "operand")),
            }
            break;
        }
        if operands.is_empty() {
            return Err(self.fail("empty command"));
        }
        Ok(Command { operands })
    }

    fn operand(&mut self) -> Result<Option<Operand>, TemplateError> {
        let Some(first) = self.term()? else {
            return Ok(None);
        };
        let mut names = Vec::new();
        let position = self.tokens.get(self.at).map_or(0, |token| token.position);
        while self.peek().0 == Kind::Field {
            names.push(self.next().text.trim_start_matches('.').to_owned());
        }
        if names.is_empty() {
            return Ok(Some(first));
        }
        let kind = match first.kind {
            OperandKind::Field(mut path) => {
                path.extend(names);
                OperandKind::Field(path)
            }
            OperandKind::Variable { name, mut fields } => {
                fields.extend(names);
                OperandKind::Variable { name, fields }
            }
            OperandKind::Boolean(_)
            | OperandKind::Text { .. }
            | OperandKind::Number { .. }
            | OperandKind::Nil
            | OperandKind::Dot => {
                return Err(self.fail(format!(
                    "unexpected . after term {}",
                    quote(&first.to_string())
                )));
            }
            OperandKind::Chain { .. } | OperandKind::Function(_) | OperandKind::Pipe(_) => {
                OperandKind::Chain {
                    of: Box::new(first),
                    fields: names,
                }
            }
        };
        Ok(Some(Operand { position, kind }))
    }

    fn term(&mut self) -> Result<Option<Operand>, TemplateError> {
        let token = self.next_word();
        let position = token.position;
        let kind = match token.kind {
            Kind::Identifier => {
                if !functions::exists(&token.text) {
                    return Err(self.fail(format!("function {} not defined", quote(&token.text))));
                }
                OperandKind::Function(token.text)
            }
            Kind::Dot => OperandKind::Dot,
            Kind::Nil => OperandKind::Nil,
            Kind::Variable => {
                if !self.variables.contains(&token.text) {
                    return Err(self.fail(format!("undefined variable {}", quote(&token.text))));
                }
                OperandKind::Variable {
                    name: token.text,
                    fields: Vec::new(),
                }
            }
            Kind::Field => OperandKind::Field(vec![token.text.trim_start_matches('.').to_owned()]),
            Kind::Boolean => OperandKind::Boolean(token.text == "true"),
            Kind::Number => OperandKind::Number {
                value: Number::parse(&token.text).unwrap_or(Number::Int(0)),
                text: token.text,
            },
            Kind::CharacterConstant => {
                let value = unquote(&token.text).and_then(|text| {
                    let mut letters = text.chars();
                    letters.next().filter(|_| letters.next().is_none())
                });
                let Some(letter) = value else {
                    return Err(self.fail(format!("malformed character constant: {}", token.text)));
                };
                OperandKind::Number {
                    value: Number::Int(i64::from(u32::from(letter))),
                    text: token.text,
                }
            }
            Kind::Quoted | Kind::Raw => {
                let Some(value) = unquote(&token.text) else {
                    return Err(self.fail("invalid syntax"));
                };
                OperandKind::Text {
                    source: token.text,
                    value,
                }
            }
            Kind::LeftParen => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return Err(self.fail("parentheses are nested too deep"));
                }
                let pipe = self.pipeline("parenthesized pipeline", Kind::RightParen)?;
                self.depth -= 1;
                OperandKind::Pipe(Box::new(pipe))
            }
            _ => {
                self.at -= 1;
                return Ok(None);
            }
        };
        Ok(Some(Operand { position, kind }))
    }
}
