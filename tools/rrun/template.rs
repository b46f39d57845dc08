//! The part of Go's templates that `--format` is mostly used for.
//!
//! Fields of any depth, `json`, `upper`, `lower`, `join`, `len`, `println` and text.
//! One type, [`Template`], is all the rest of the program sees, so that a full engine can
//! take its place.

use std::fmt;

use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Action(Vec<Word>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Field(Vec<String>),
    Text(String),
    Function(Function),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Json,
    Upper,
    Lower,
    Join,
    Len,
    Println,
}

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TemplateError {
    /// `{{` without `}}`.
    Unclosed,
    /// A word that is not in our part of the language.
    Unknown(String),
    /// The object has no such field.
    NoField(String),
    /// A function was given what it cannot use.
    Arguments(&'static str),
}

impl Template {
    /// Parses text; `\t` and `\n` stand for tab and newline, as in Docker.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some(start) = rest.find("{{") {
            if start > 0 {
                pieces.push(Piece::Text(rest[..start].to_owned()));
            }
            let after = &rest[start + 2..];
            let end = after.find("}}").ok_or(TemplateError::Unclosed)?;
            pieces.push(Piece::Action(words(after[..end].trim())?));
            rest = &after[end + 2..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// The text for one object.
    pub(crate) fn render(&self, object: &Value) -> Result<String, TemplateError> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Action(words) => out.push_str(&action(words, object)?),
            }
        }
        Ok(out)
    }

    /// The fields used, in order: the columns of `table TEMPLATE`.
    pub(crate) fn header(&self, title: &dyn Fn(&str) -> String) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Action(words) => {
                    for word in words {
                        if let Word::Field(path) = word {
                            out.push_str(&title(path.last().map_or("", String::as_str)));
                        }
                    }
                }
            }
        }
        out
    }
}

fn words(action: &str) -> Result<Vec<Word>, TemplateError> {
    let mut out = Vec::new();
    let mut rest = action.trim_start();
    while !rest.is_empty() {
        let end = if let Some(inner) = rest.strip_prefix('"') {
            inner.find('"').ok_or(TemplateError::Unclosed)? + 2
        } else {
            rest.find(char::is_whitespace).unwrap_or(rest.len())
        };
        let (word, tail) = rest.split_at(end);
        out.push(parse_word(word)?);
        rest = tail.trim_start();
    }
    if out.is_empty() {
        return Err(TemplateError::Unknown("{{}}".to_owned()));
    }
    Ok(out)
}

fn parse_word(word: &str) -> Result<Word, TemplateError> {
    if let Some(path) = word.strip_prefix('.') {
        let path = path.split('.').filter(|part| !part.is_empty());
        return Ok(Word::Field(path.map(ToOwned::to_owned).collect()));
    }
    if let Some(text) = word.strip_prefix('"') {
        return Ok(Word::Text(text.trim_end_matches('"').to_owned()));
    }
    let function = match word {
        "json" => Function::Json,
        "upper" => Function::Upper,
        "lower" => Function::Lower,
        "join" => Function::Join,
        "len" => Function::Len,
        "println" => Function::Println,
        _ => return Err(TemplateError::Unknown(word.to_owned())),
    };
    Ok(Word::Function(function))
}

fn field<'v>(object: &'v Value, path: &[String]) -> Result<&'v Value, TemplateError> {
    let mut value = object;
    for part in path {
        value = match value {
            Value::Object(map) => map
                .get(part)
                .ok_or_else(|| TemplateError::NoField(part.clone()))?,
            Value::Null => &Value::Null,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(TemplateError::NoField(part.clone()));
            }
        };
    }
    Ok(value)
}

fn action(words: &[Word], object: &Value) -> Result<String, TemplateError> {
    let argument = |word: &Word| match word {
        Word::Field(path) => field(object, path).cloned(),
        Word::Text(text) => Ok(Value::String(text.clone())),
        Word::Function(_) => Err(TemplateError::Arguments("nested calls are not supported")),
    };
    let Some((first, rest)) = words.split_first() else {
        return Ok(String::new());
    };
    let Word::Function(function) = first else {
        if !rest.is_empty() {
            return Err(TemplateError::Arguments("a field takes no arguments"));
        }
        return Ok(go_text(&argument(first)?));
    };
    let values = rest.iter().map(argument).collect::<Result<Vec<_>, _>>()?;
    match (function, values.as_slice()) {
        (Function::Json, [value]) => Ok(value.to_string()),
        (Function::Upper, [value]) => Ok(go_text(value).to_uppercase()),
        (Function::Lower, [value]) => Ok(go_text(value).to_lowercase()),
        (Function::Println, [value]) => Ok(format!("{}\n", go_text(value))),
        (Function::Join, [Value::Array(list), Value::String(separator)]) => {
            let texts: Vec<String> = list.iter().map(go_text).collect();
            Ok(texts.join(separator))
        }
        (Function::Len, [Value::Array(list)]) => Ok(list.len().to_string()),
        (Function::Len, [Value::Object(map)]) => Ok(map.len().to_string()),
        (Function::Len, [Value::String(text)]) => Ok(text.len().to_string()),
        (
            Function::Json
            | Function::Upper
            | Function::Lower
            | Function::Println
            | Function::Join
            | Function::Len,
            _,
        ) => Err(TemplateError::Arguments(
            "wrong number or type of arguments",
        )),
    }
}

/// A value as Go's `%v` prints it.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let texts: Vec<String> = list.iter().map(go_text).collect();
            format!("[{}]", texts.join(" "))
        }
        Value::Object(map) => {
            let texts: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_text(value)))
                .collect();
            format!("map[{}]", texts.join(" "))
        }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed => f.write_str("template parsing error: unclosed action"),
            Self::Unknown(word) => {
                write!(f, "template parsing error: function {word:?} not defined")
            }
            Self::NoField(name) => {
                write!(f, "template: can't evaluate field {name}: no such field")
            }
            Self::Arguments(why) => write!(f, "template: {why}"),
        }
    }
}

impl std::error::Error for TemplateError {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_render_fields_and_functions() {
        let object =
            json!({"State": {"Status": "running", "Pid": 7}, "Names": "web", "Cmd": ["a", "b"]});
        let cases = [
            ("{{.State.Status}}", "running"),
            ("{{ .Names }} : {{.State.Pid}}", "web : 7"),
            ("{{json .State}}", r#"{"Status":"running","Pid":7}"#),
            ("{{json .}}", &object.to_string()),
            (r#"{{join .Cmd ","}}"#, "a,b"),
            ("{{upper .Names}}\\t{{len .Cmd}}", "WEB\t2"),
            ("{{.Cmd}}", "[a b]"),
            ("plain", "plain"),
        ];
        for (text, expected) in cases {
            let template = Template::parse(text).unwrap();
            assert_eq!(
                template.render(&object).unwrap(),
                expected,
                "input {text:?}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(Template::parse("{{.A"), Err(TemplateError::Unclosed));
        assert_eq!(
            Template::parse("{{range .A}}"),
            Err(TemplateError::Unknown("range".into()))
        );
        let template = Template::parse("{{.Nope}}").unwrap();
        assert_eq!(
            template.render(&json!({"A": 1})),
            Err(TemplateError::NoField("Nope".into()))
        );
    }
}
