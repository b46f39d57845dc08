//! Go's templates, as far as `--format` needs them: everything but `define` and its kin.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what takes some kinds of values refuses all others alike"
)]

mod data;
mod escape;
mod exec;
mod functions;
mod lex;
mod node;
mod number;
mod parse;
mod print;
mod printf;
#[cfg(test)]
mod tests;

use std::fmt;

use exec::Run;
use node::{Branch, Node, Operand, OperandKind, Pipe};
use serde_json::Value;

pub(crate) use data::Data;
pub(crate) use print::quote;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    source: String,
    nodes: Vec<Node>,
}

/// What is said of a field that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// As of a map: `inspect` falls back to untyped JSON.
    Raw,
    /// As of a struct of this type.
    Typed(&'static str),
}

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TemplateError {
    /// It is not a template.
    Parse {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// It does not fit the value.
    Execute {
        /// Line, from 1.
        line: usize,
        /// Bytes before it in the line.
        column: usize,
        /// The part that failed.
        node: String,
        /// What is wrong.
        why: String,
    },
}

impl Template {
    /// Parses text.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self {
            nodes: parse::parse(text)?,
            source: text.to_owned(),
        })
    }

    /// The text for one object.
    pub(crate) fn render(&self, object: &Value, missing: Missing) -> Result<String, TemplateError> {
        self.execute(&Data::typed(object), missing)
    }

    fn execute(&self, data: &Data, missing: Missing) -> Result<String, TemplateError> {
        let mut run = Run {
            source: &self.source,
            missing,
            variables: vec![("$".to_owned(), data.clone())],
            out: String::new(),
        };
        run.list(&self.nodes, data)?;
        Ok(run.out)
    }

    /// The header of `table TEMPLATE`: the template with titles for values, and functions that
    /// would change them left out.
    pub(crate) fn header(
        &self,
        titles: &[(&str, &str)],
        missing: Missing,
    ) -> Result<String, TemplateError> {
        let mut fields: Vec<(String, Data)> = titles
            .iter()
            .map(|(name, title)| ((*name).to_owned(), Data::Text((*title).to_owned())))
            .collect();
        fields.push(("Label".to_owned(), Data::LookupTitle));
        let mut bare = self.clone();
        strip(&mut bare.nodes);
        bare.execute(&Data::Struct(fields), missing)
    }
}

/// Functions that leave titles alone.
const KEPT_IN_HEADERS: [&str; 6] = ["json", "title", "lower", "upper", "truncate", "split"];

/// Turns `{{json .X}}` and its like into `{{.X}}`.
fn strip(nodes: &mut [Node]) {
    for node in nodes {
        match node {
            Node::Action(pipe) => strip_pipe(pipe),
            Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
                let Branch {
                    pipe,
                    body,
                    otherwise,
                } = branch;
                strip_pipe(pipe);
                strip(body);
                strip(otherwise);
            }
            Node::Text(_) | Node::Break | Node::Continue => {}
        }
    }
}

fn strip_pipe(pipe: &mut Pipe) {
    let named = |operand: &Operand| matches!(&operand.kind, OperandKind::Function(name) if KEPT_IN_HEADERS.contains(&name.as_str()));
    for command in &mut pipe.commands {
        if command.operands.len() > 1 && command.operands.first().is_some_and(named) {
            command.operands.remove(0);
            command.operands.truncate(1);
        }
        for operand in &mut command.operands {
            if let OperandKind::Pipe(inner) = &mut operand.kind {
                strip_pipe(inner);
            }
        }
    }
    let first = pipe.commands.first().cloned();
    pipe.commands
        .retain(|command| Some(command) == first.as_ref() || !command.operands.iter().any(named));
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse { line, why } => {
                write!(f, "template parsing error: template: :{line}: {why}")
            }
            Self::Execute {
                line,
                column,
                node,
                why,
            } => write!(
                f,
                "template parsing error: template: :{line}:{column}: executing \"\" at <{node}>: {why}"
            ),
        }
    }
}

impl std::error::Error for TemplateError {}
