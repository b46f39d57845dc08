//! A parsed template.

use std::fmt;

use super::number::Number;

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    Break,
    Continue,
}

/// `{{if}}`, `{{with}}`, `{{range}}`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Branch {
    pub(super) pipe: Pipe,
    pub(super) body: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

/// Commands, each getting the value of the one before as its last argument.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipe {
    /// Byte offset in the template.
    pub(super) position: usize,
    /// Variables it sets, with their `$`.
    pub(super) variables: Vec<String>,
    /// Whether the variables exist already: `=` in place of `:=`.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

/// Operands separated by spaces: a function and its arguments, or one value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Command {
    pub(super) operands: Vec<Operand>,
}

/// A value to be computed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operand {
    /// Byte offset in the template.
    pub(super) position: usize,
    pub(super) kind: OperandKind,
}

/// What an operand is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum OperandKind {
    Dot,
    Nil,
    Boolean(bool),
    Number {
        text: String,
        value: Number,
    },
    Text {
        source: String,
        value: String,
    },
    /// `.A.B`
    Field(Vec<String>),
    /// `$x.A`
    Variable {
        name: String,
        fields: Vec<String>,
    },
    /// `(pipeline).A`
    Chain {
        of: Box<Operand>,
        fields: Vec<String>,
    },
    Function(String),
    Pipe(Box<Pipe>),
}

fn fields(f: &mut fmt::Formatter<'_>, names: &[String]) -> fmt::Result {
    names.iter().try_for_each(|name| write!(f, ".{name}"))
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            OperandKind::Dot => f.write_str("."),
            OperandKind::Nil => f.write_str("nil"),
            OperandKind::Boolean(value) => write!(f, "{value}"),
            OperandKind::Number { text, .. } => f.write_str(text),
            OperandKind::Text { source, .. } => f.write_str(source),
            OperandKind::Field(names) => fields(f, names),
            OperandKind::Variable { name, fields: rest } => {
                f.write_str(name)?;
                fields(f, rest)
            }
            OperandKind::Chain { of, fields: rest } => {
                write!(f, "{of}")?;
                fields(f, rest)
            }
            OperandKind::Function(name) => f.write_str(name),
            OperandKind::Pipe(pipe) => write!(f, "({pipe})"),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, operand) in self.operands.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{operand}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            let sign = if self.assigns { "=" } else { ":=" };
            write!(f, "{} {sign} ", self.variables.join(", "))?;
        }
        for (index, command) in self.commands.iter().enumerate() {
            if index > 0 {
                f.write_str(" | ")?;
            }
            write!(f, "{command}")?;
        }
        Ok(())
    }
}
