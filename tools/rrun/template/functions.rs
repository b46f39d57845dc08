//! The functions of templates: Go's own, and those Docker adds.
//!
//! Source: Go `text/template`, funcs.go; docker/cli, templates.go.

use super::data::Data;
use super::escape;
use super::print::plain;
use super::printf::sprintf;

/// What a function takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Any,
    Text,
    Int,
}

/// Name, fixed arguments, what any further ones are.
type Signature = (&'static str, &'static [Takes], Option<Takes>);

const SIGNATURES: [Signature; 26] = [
    ("and", &[Takes::Any], Some(Takes::Any)),
    ("eq", &[Takes::Any], Some(Takes::Any)),
    ("ge", &[Takes::Any, Takes::Any], None),
    ("gt", &[Takes::Any, Takes::Any], None),
    ("html", &[], Some(Takes::Any)),
    ("index", &[Takes::Any], Some(Takes::Any)),
    ("join", &[Takes::Any, Takes::Text], None),
    ("js", &[], Some(Takes::Any)),
    ("json", &[Takes::Any], None),
    ("le", &[Takes::Any, Takes::Any], None),
    ("len", &[Takes::Any], None),
    ("lower", &[Takes::Text], None),
    ("lt", &[Takes::Any, Takes::Any], None),
    ("ne", &[Takes::Any, Takes::Any], None),
    ("not", &[Takes::Any], None),
    ("or", &[Takes::Any], Some(Takes::Any)),
    ("pad", &[Takes::Text, Takes::Int, Takes::Int], None),
    ("print", &[], Some(Takes::Any)),
    ("printf", &[Takes::Text], Some(Takes::Any)),
    ("println", &[], Some(Takes::Any)),
    ("slice", &[Takes::Any], Some(Takes::Int)),
    ("split", &[Takes::Text, Takes::Text], None),
    ("title", &[Takes::Text], None),
    ("truncate", &[Takes::Text, Takes::Int], None),
    ("upper", &[Takes::Text], None),
    ("urlquery", &[], Some(Takes::Any)),
];

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallError {
    /// Said of the function: it cannot be called so.
    Function(String),
    /// Said of the whole call.
    Call(String),
    /// Said of the argument with this number.
    Argument(usize, String),
}

/// Whether there is a function of this name.
pub(super) fn exists(name: &str) -> bool {
    SIGNATURES.iter().any(|(known, ..)| *known == name)
}

/// What is wrong with an argument written out in the template.
pub(super) fn wrong_literal(name: &str, index: usize, value: &Data) -> Option<&'static str> {
    let (_, fixed, more) = SIGNATURES.iter().find(|(known, ..)| *known == name)?;
    match (fixed.get(index).copied().or(*more)?, value) {
        (Takes::Text, Data::Text(_)) | (Takes::Int, Data::Int(_)) | (Takes::Any, _) => None,
        (Takes::Text, _) => Some("string"),
        (Takes::Int, _) => Some("integer"),
    }
}

fn wrong(expected: Takes, value: &Data) -> Option<String> {
    let name = match (expected, value) {
        (Takes::Any, _) | (Takes::Text, Data::Text(_)) | (Takes::Int, Data::Int(_)) => return None,
        (Takes::Text, _) => "string",
        (Takes::Int, _) => "int",
    };
    Some(match value {
        Data::Missing => format!("invalid value; expected {name}"),
        Data::Nil => format!("dereference of nil pointer of type *{name}"),
        other => format!(
            "wrong type for value; expected {name}; got {}",
            other.type_name()
        ),
    })
}

/// Checks the number and the types of arguments.
pub(super) fn check(name: &str, values: &[Data]) -> Result<(), CallError> {
    let found = SIGNATURES.iter().find(|(known, ..)| *known == name);
    let Some((_, fixed, more)) = found else {
        return Err(CallError::Function(format!(
            "{name:?} is not a defined function"
        )));
    };
    let count = values.len();
    if more.is_some() && count < fixed.len() {
        return Err(CallError::Function(format!(
            "wrong number of args for {name}: want at least {} got {count}",
            fixed.len()
        )));
    }
    if more.is_none() && count != fixed.len() {
        return Err(CallError::Function(format!(
            "wrong number of args for {name}: want {} got {count}",
            fixed.len()
        )));
    }
    for (index, value) in values.iter().enumerate() {
        let expected = fixed.get(index).copied().or(*more).unwrap_or(Takes::Any);
        if let Some(why) = wrong(expected, value) {
            return Err(CallError::Argument(index, why));
        }
    }
    Ok(())
}

/// Calls a function with arguments that were checked. `and` and `or` are not among them: they
/// do not compute all their arguments.
pub(super) fn call(name: &str, values: &[Data]) -> Result<Data, CallError> {
    check(name, values)?;
    let failed = |why: String| CallError::Call(format!("error calling {name}: {why}"));
    let text = |index: usize| match values.get(index) {
        Some(Data::Text(text)) => text.as_str(),
        _ => "",
    };
    let int = |index: usize| match values.get(index) {
        Some(Data::Int(number)) => usize::try_from(*number).unwrap_or(0),
        _ => 0,
    };
    let first = values.first().unwrap_or(&Data::Missing);
    let second = values.get(1).unwrap_or(&Data::Missing);
    let rest = values.get(1..).unwrap_or_default();
    Ok(match name {
        "not" => Data::Bool(!first.truth()),
        "len" => Data::Int(length(first).map_err(failed)?),
        "index" => index_of(first, rest).map_err(failed)?,
        "slice" => slice(first, rest).map_err(failed)?,
        "eq" => equal_any(first, rest).map_err(failed)?,
        "ne" => Data::Bool(!equal(first, second).map_err(failed)?),
        "lt" => Data::Bool(less(first, second).map_err(failed)?),
        "le" => Data::Bool(
            less(first, second).map_err(failed)? || equal(first, second).map_err(failed)?,
        ),
        "gt" => Data::Bool(
            !less(first, second).map_err(failed)? && !equal(first, second).map_err(failed)?,
        ),
        "ge" => Data::Bool(!less(first, second).map_err(failed)?),
        "print" => Data::Text(sprint(values)),
        "println" => {
            let parts: Vec<String> = values.iter().map(plain).collect();
            Data::Text(format!("{}\n", parts.join(" ")))
        }
        "printf" => Data::Text(sprintf(text(0), rest)),
        "html" => Data::Text(escape::html(&sprint(values))),
        "js" => Data::Text(escape::js(&sprint(values))),
        "urlquery" => Data::Text(escape::url_query(&sprint(values))),
        "json" => Data::Text(first.json().to_string()),
        "join" => Data::Text(join(first, text(1)).map_err(failed)?),
        "split" => Data::List(Some(split(text(0), text(1)))),
        "lower" => Data::Text(text(0).to_lowercase()),
        "upper" => Data::Text(text(0).to_uppercase()),
        "title" => Data::Text(title(text(0))),
        "pad" if text(0).is_empty() => Data::Text(String::new()),
        "pad" => Data::Text(format!(
            "{}{}{}",
            " ".repeat(int(1)),
            text(0),
            " ".repeat(int(2))
        )),
        "truncate" => Data::Text(truncate(text(0), int(1))),
        _ => return Err(failed("it is not a function".to_owned())),
    })
}

/// `fmt.Sprint`: a space between two operands when neither is a string.
fn sprint(values: &[Data]) -> String {
    let mut out = String::new();
    let mut before_is_text = true;
    for value in values {
        let is_text = matches!(value, Data::Text(_));
        if !before_is_text && !is_text {
            out.push(' ');
        }
        out.push_str(&plain(value));
        before_is_text = is_text;
    }
    out
}

fn length(value: &Data) -> Result<i64, String> {
    let count = match value {
        Data::Text(text) => text.len(),
        Data::List(list) => list.as_ref().map_or(0, Vec::len),
        Data::Map(map) => map.as_ref().map_or(0, std::collections::BTreeMap::len),
        Data::Missing | Data::Nil => return Err("len of nil pointer".to_owned()),
        Data::Bool(_)
        | Data::Int(_)
        | Data::Float(_)
        | Data::Struct(_)
        | Data::Lookup(_)
        | Data::LookupTitle => return Err(format!("len of type {}", value.type_name())),
    };
    i64::try_from(count).map_err(|_| "too long".to_owned())
}

fn position(index: &Data, length: usize, last: bool) -> Result<usize, String> {
    let Data::Int(number) = index else {
        return Err(match index {
            Data::Missing | Data::Nil => "cannot index slice/array with nil".to_owned(),
            other => format!("cannot index slice/array with type {}", other.type_name()),
        });
    };
    usize::try_from(*number)
        .ok()
        .filter(|at| *at < length || last && *at == length)
        .ok_or_else(|| format!("index out of range: {number}"))
}

fn index_of(value: &Data, indexes: &[Data]) -> Result<Data, String> {
    let mut value = value.clone();
    if matches!(value, Data::Missing) {
        return Err("index of untyped nil".to_owned());
    }
    for index in indexes {
        value = match &value {
            Data::List(list) => {
                let list = list.as_deref().unwrap_or_default();
                let at = position(index, list.len(), false)?;
                list.get(at).cloned().unwrap_or(Data::Missing)
            }
            Data::Text(text) => {
                let at = position(index, text.len(), false)?;
                Data::Int(text.as_bytes().get(at).copied().map_or(0, i64::from))
            }
            Data::Map(map) => match index {
                Data::Text(key) => {
                    let empty = std::collections::BTreeMap::new();
                    let map = map.as_ref().unwrap_or(&empty);
                    map.get(key)
                        .cloned()
                        .unwrap_or_else(|| Data::zero_like(map))
                }
                other => {
                    return Err(format!(
                        "value has type {}; should be string",
                        other.type_name()
                    ));
                }
            },
            Data::Missing | Data::Nil => return Err("index of nil pointer".to_owned()),
            other => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(value)
}

fn slice(value: &Data, bounds: &[Data]) -> Result<Data, String> {
    if bounds.len() > 3 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    let length = match value {
        Data::Text(text) => text.len(),
        Data::List(list) => list.as_ref().map_or(0, Vec::len),
        Data::Missing => return Err("slice of untyped nil".to_owned()),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    if bounds.len() == 3 && matches!(value, Data::Text(_)) {
        return Err("cannot 3-index slice a string".to_owned());
    }
    let mut range = [0, length, length];
    for (slot, bound) in range.iter_mut().zip(bounds) {
        *slot = position(bound, length, true)?;
    }
    let [from, to, _] = range;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(match value {
        Data::Text(text) => Data::Text(
            String::from_utf8_lossy(text.as_bytes().get(from..to).unwrap_or_default()).into_owned(),
        ),
        Data::List(list) => {
            let list = list.as_deref().unwrap_or_default();
            Data::List(Some(list.get(from..to).unwrap_or_default().to_vec()))
        }
        other => other.clone(),
    })
}

fn equal_any(first: &Data, others: &[Data]) -> Result<Data, String> {
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        if equal(first, other)? {
            return Ok(Data::Bool(true));
        }
    }
    Ok(Data::Bool(false))
}

const INCOMPATIBLE: &str = "incompatible types for comparison";

fn is_nil(value: &Data) -> bool {
    matches!(
        value,
        Data::Missing | Data::Nil | Data::List(None) | Data::Map(None)
    )
}

fn equal(left: &Data, right: &Data) -> Result<bool, String> {
    Ok(match (left, right) {
        (Data::Bool(left), Data::Bool(right)) => left == right,
        (Data::Int(left), Data::Int(right)) => left == right,
        #[expect(clippy::float_cmp, reason = "Go compares floats so")]
        (Data::Float(left), Data::Float(right)) => left == right,
        (Data::Text(left), Data::Text(right)) => left == right,
        (Data::Struct(left), Data::Struct(right)) => left == right,
        (left, right) if is_nil(left) || is_nil(right) => is_nil(left) && is_nil(right),
        (value @ (Data::List(_) | Data::Map(_)), _)
        | (_, value @ (Data::List(_) | Data::Map(_))) => {
            return Err(format!(
                "non-comparable type {}: {}",
                plain(value),
                value.type_name()
            ));
        }
        _ => return Err(INCOMPATIBLE.to_owned()),
    })
}

fn less(left: &Data, right: &Data) -> Result<bool, String> {
    match (left, right) {
        (Data::Int(left), Data::Int(right)) => Ok(left < right),
        (Data::Float(left), Data::Float(right)) => Ok(left < right),
        (Data::Text(left), Data::Text(right)) => Ok(left < right),
        (Data::Bool(_), Data::Bool(_)) => Err("invalid type for comparison".to_owned()),
        _ => Err(INCOMPATIBLE.to_owned()),
    }
}

fn join(value: &Data, separator: &str) -> Result<String, String> {
    match value {
        Data::Missing | Data::Nil => Ok(String::new()),
        Data::List(list) => {
            let parts: Vec<String> = list.iter().flatten().map(plain).collect();
            Ok(parts.join(separator))
        }
        // Docker's own join takes the values of a map too.
        Data::Map(map) => {
            let mut parts: Vec<String> = map.iter().flatten().map(|(_, v)| plain(v)).collect();
            parts.sort();
            Ok(parts.join(separator))
        }
        other => Err(format!("expected slice, got {}", other.type_name())),
    }
}

fn split(text: &str, separator: &str) -> Vec<Data> {
    if separator.is_empty() {
        return text
            .chars()
            .map(|one| Data::Text(one.to_string()))
            .collect();
    }
    text.split(separator)
        .map(|part| Data::Text(part.to_owned()))
        .collect()
}

/// `strings.Title`: every letter after one that is no part of a word.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for letter in text.chars() {
        if inside {
            out.push(letter);
        } else {
            out.extend(letter.to_uppercase());
        }
        inside = letter.is_alphanumeric() || letter == '_';
    }
    out
}

fn truncate(text: &str, length: usize) -> String {
    let bytes = text.as_bytes();
    match bytes.get(..length) {
        Some(cut) => String::from_utf8_lossy(cut).into_owned(),
        None => text.to_owned(),
    }
}
