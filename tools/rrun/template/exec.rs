//! Carrying out a template on a value.
//!
//! Source: Go `text/template`, exec.go.

use super::data::Data;
use super::functions::{self, CallError};
use super::node::{Branch, Command, Node, Operand, OperandKind, Pipe};
use super::number::Number;
use super::{Missing, TemplateError, print};

/// Longest text a template may make: far above any list, below what hurts.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// What is being carried out.
pub(super) struct Run<'t> {
    pub(super) source: &'t str,
    pub(super) missing: Missing,
    pub(super) variables: Vec<(String, Data)>,
    pub(super) out: String,
}

/// How a list of nodes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Break,
    Continue,
}

type Outcome<T> = Result<T, TemplateError>;

/// An error's place: byte offset and the text of the node.
type Place<'n> = (usize, &'n dyn std::fmt::Display);

impl Run<'_> {
    fn fail(&self, place: Place<'_>, why: impl Into<String>) -> TemplateError {
        let (position, node) = place;
        let before = self.source.get(..position).unwrap_or_default();
        let column = match before.rfind('\n') {
            Some(newline) => position - newline - 1,
            None => position,
        };
        TemplateError::Execute {
            line: 1 + before.matches('\n').count(),
            column,
            node: node.to_string(),
            why: why.into(),
        }
    }

    /// Carries out nodes with `dot` as the current value.
    pub(super) fn list(&mut self, nodes: &[Node], dot: &Data) -> Outcome<Flow> {
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Action(pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    if pipe.variables.is_empty() {
                        self.out.push_str(&print::top(&value));
                    }
                }
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
                Node::If(branch) | Node::With(branch) => {
                    let known = self.variables.len();
                    let value = self.pipe(&branch.pipe, dot)?;
                    let inner = if matches!(node, Node::With(_)) {
                        &value
                    } else {
                        dot
                    };
                    let flow = if value.truth() {
                        self.list(&branch.body, inner)?
                    } else {
                        self.list(&branch.otherwise, dot)?
                    };
                    self.variables.truncate(known);
                    if flow != Flow::Go {
                        return Ok(flow);
                    }
                }
                Node::Range(branch) => {
                    let known = self.variables.len();
                    self.range(branch, dot)?;
                    self.variables.truncate(known);
                }
            }
            if self.out.len() > OUTPUT_BYTES_MAX {
                return Err(self.fail((0, &"range"), "the output is too long"));
            }
        }
        Ok(Flow::Go)
    }

    fn range(&mut self, branch: &Branch, dot: &Data) -> Outcome<()> {
        let pipe = &branch.pipe;
        let value = self.commands(pipe, dot)?;
        let items: Vec<(Data, Data)> = match value {
            Data::List(list) => (0..).map(Data::Int).zip(list.unwrap_or_default()).collect(),
            Data::Map(map) => map
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (Data::Text(key), value))
                .collect(),
            Data::Int(count) => (0..count.clamp(0, 1 << 20))
                .map(|number| (Data::Int(number), Data::Int(number)))
                .collect(),
            Data::Missing => Vec::new(),
            other => {
                let text = format!("range can't iterate over {}", print::plain(&other));
                return Err(self.fail((pipe.position, pipe), text));
            }
        };
        let empty = items.is_empty();
        for (key, item) in items {
            let known = self.variables.len();
            match pipe.variables.as_slice() {
                [one] => self.set(one, item.clone(), pipe.assigns),
                [first, second] => {
                    self.set(first, key, pipe.assigns);
                    self.set(second, item.clone(), pipe.assigns);
                }
                _ => {}
            }
            let flow = self.list(&branch.body, &item)?;
            self.variables.truncate(known);
            if flow == Flow::Break {
                break;
            }
        }
        if empty {
            self.list(&branch.otherwise, dot)?;
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Data, assigns: bool) {
        let known = self.variables.iter_mut().rev();
        let mut known = known.filter(|(known, _)| known == name);
        match known.next() {
            Some((_, slot)) if assigns => *slot = value,
            _ => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Data) -> Outcome<Data> {
        let value = self.commands(pipe, dot)?;
        for name in &pipe.variables {
            self.set(name, value.clone(), pipe.assigns);
        }
        Ok(value)
    }

    fn commands(&mut self, pipe: &Pipe, dot: &Data) -> Outcome<Data> {
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value)?);
        }
        Ok(value.unwrap_or(Data::Missing))
    }

    fn command(&mut self, command: &Command, dot: &Data, last: Option<Data>) -> Outcome<Data> {
        let Some((first, rest)) = command.operands.split_first() else {
            return Ok(Data::Missing);
        };
        let place: Place<'_> = (first.position, first);
        match &first.kind {
            OperandKind::Function(name) => {
                let whole: Place<'_> = (first.position, command);
                self.function(name, (first, whole), rest, dot, last)
            }
            OperandKind::Field(names) => self.fields(dot.clone(), names, place, rest, dot, last),
            OperandKind::Variable { name, fields } => {
                let value = self.variable(name);
                self.fields(value, fields, place, rest, dot, last)
            }
            OperandKind::Chain { of, fields } => {
                let value = self.operand(of, dot)?;
                self.fields(value, fields, place, rest, dot, last)
            }
            OperandKind::Nil => Err(self.fail(place, "nil is not a command")),
            OperandKind::Pipe(_)
            | OperandKind::Dot
            | OperandKind::Boolean(_)
            | OperandKind::Number { .. }
            | OperandKind::Text { .. } => {
                if !rest.is_empty() || last.is_some() {
                    let text = format!("can't give argument to non-function {first}");
                    return Err(self.fail(place, text));
                }
                self.operand(first, dot)
            }
        }
    }

    fn variable(&self, name: &str) -> Data {
        let mut known = self.variables.iter().rev();
        known
            .find(|(known, _)| known == name)
            .map_or(Data::Missing, |(_, value)| value.clone())
    }

    fn operand(&mut self, operand: &Operand, dot: &Data) -> Outcome<Data> {
        let place: Place<'_> = (operand.position, operand);
        Ok(match &operand.kind {
            OperandKind::Dot => dot.clone(),
            OperandKind::Nil => Data::Missing,
            OperandKind::Boolean(flag) => Data::Bool(*flag),
            OperandKind::Number { value, .. } => match value {
                Number::Int(number) => Data::Int(*number),
                Number::Float(number) => Data::Float(*number),
            },
            OperandKind::Text { value, .. } => Data::Text(value.clone()),
            OperandKind::Field(names) => self.fields(dot.clone(), names, place, &[], dot, None)?,
            OperandKind::Variable { name, fields } => {
                let value = self.variable(name);
                self.fields(value, fields, place, &[], dot, None)?
            }
            OperandKind::Chain { of, fields } => {
                let value = self.operand(of, dot)?;
                self.fields(value, fields, place, &[], dot, None)?
            }
            OperandKind::Pipe(pipe) => self.pipe(pipe, dot)?,
            OperandKind::Function(name) => self.function(name, (operand, place), &[], dot, None)?,
        })
    }

    /// Follows the names of fields; the last may be a method with arguments.
    fn fields(
        &mut self,
        value: Data,
        names: &[String],
        place: Place<'_>,
        arguments: &[Operand],
        dot: &Data,
        last: Option<Data>,
    ) -> Outcome<Data> {
        let mut value = value;
        for name in names {
            value = self.field(&value, name, place)?;
        }
        let given = !arguments.is_empty() || last.is_some();
        match (&value, given) {
            (Data::Lookup(_) | Data::LookupTitle, _) => {
                let mut values = Vec::new();
                for argument in arguments {
                    values.push(self.operand(argument, dot)?);
                }
                values.extend(last);
                self.lookup(&value, &values, place)
            }
            (_, true) if names.is_empty() => {
                let text = format!("can't give argument to non-function {}", place.1);
                Err(self.fail(place, text))
            }
            (_, true) => {
                let name = names.last().map_or("", String::as_str);
                let text = format!("{name} has arguments but cannot be invoked as function");
                Err(self.fail(place, text))
            }
            (_, false) => Ok(value),
        }
    }

    fn lookup(&self, method: &Data, values: &[Data], place: Place<'_>) -> Outcome<Data> {
        let [Data::Text(key)] = values else {
            let text = format!(
                "wrong number of args for Label: want 1 got {}",
                values.len()
            );
            return Err(self.fail(place, text));
        };
        Ok(Data::Text(match method {
            Data::Lookup(map) => map.get(key).cloned().unwrap_or_default(),
            _ => {
                let word = key.rsplit('.').next().unwrap_or_default();
                word.replace(['-', '_'], " ")
            }
        }))
    }

    fn field(&self, value: &Data, name: &str, place: Place<'_>) -> Outcome<Data> {
        let no_entry = || format!("map has no entry for key {}", print::quote(name));
        let why = match value {
            Data::Struct(fields) => {
                if let Some((_, found)) = fields.iter().find(|(known, _)| known == name) {
                    return Ok(found.clone());
                }
                match self.missing {
                    Missing::Raw => no_entry(),
                    Missing::Typed(kind) => {
                        format!("can't evaluate field {name} in type {kind}")
                    }
                }
            }
            Data::Map(map) => {
                if let Some(found) = map.as_ref().and_then(|map| map.get(name)) {
                    return Ok(found.clone());
                }
                no_entry()
            }
            Data::Missing | Data::Nil => match self.missing {
                Missing::Raw => format!("nil data; no entry for key {}", print::quote(name)),
                Missing::Typed(kind) => format!("nil pointer evaluating {kind}.{name}"),
            },
            other => match self.missing {
                Missing::Raw => format!("can't evaluate field {name} in type interface {{}}"),
                Missing::Typed(_) => {
                    format!("can't evaluate field {name} in type {}", other.type_name())
                }
            },
        };
        Err(self.fail(place, why))
    }

    fn function(
        &mut self,
        name: &str,
        (operand, whole): (&Operand, Place<'_>),
        arguments: &[Operand],
        dot: &Data,
        last: Option<Data>,
    ) -> Outcome<Data> {
        let place: Place<'_> = (operand.position, operand);
        if (name == "and" || name == "or") && !arguments.is_empty() {
            let mut value = Data::Missing;
            for argument in arguments {
                value = self.operand(argument, dot)?;
                // The first that decides is the answer; those after it are not computed.
                if value.truth() == (name == "or") {
                    return Ok(value);
                }
            }
            return Ok(last.unwrap_or(value));
        }
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for argument in arguments {
            values.push(self.operand(argument, dot)?);
        }
        values.extend(last);
        if let ("and" | "or", [value]) = (name, values.as_slice()) {
            return Ok(value.clone());
        }
        functions::call(name, &values).map_err(|error| match error {
            CallError::Function(why) => self.fail(place, why),
            CallError::Call(why) => self.fail(whole, why),
            CallError::Argument(index, why) => match arguments.get(index) {
                Some(argument) => {
                    let literal = matches!(
                        argument.kind,
                        OperandKind::Number { .. }
                            | OperandKind::Text { .. }
                            | OperandKind::Boolean(_)
                    );
                    let expected = values.get(index).filter(|_| literal);
                    let expected = expected.and_then(|v| functions::wrong_literal(name, index, v));
                    let why = match expected {
                        Some(expected) => format!("expected {expected}; found {argument}"),
                        None => why,
                    };
                    self.fail((argument.position, argument), why)
                }
                None => self.fail(place, why),
            },
        })
    }
}
