//! The instructions of `--change`, which edit an image's `config` object.

use serde_json::{Map, Value, json};

use crate::ImageError;

/// Applies one instruction: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME,
/// WORKDIR.
///
/// # Errors
///
/// `Change` for another instruction or malformed arguments.
pub fn apply(config: &mut Map<String, Value>, text: &str) -> Result<(), ImageError> {
    let bad = |reason: &str| ImageError::Change {
        text: text.to_owned(),
        reason: reason.to_owned(),
    };
    let trimmed = text.trim();
    let (word, rest) = trimmed
        .split_once(char::is_whitespace)
        .unwrap_or((trimmed, ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err(bad("it needs an argument"));
    }
    match word.to_ascii_uppercase().as_str() {
        "CMD" => set(config, "Cmd", command(rest)),
        "ENTRYPOINT" => set(config, "Entrypoint", command(rest)),
        "USER" => set(config, "User", json!(rest)),
        "STOPSIGNAL" => set(config, "StopSignal", json!(rest)),
        "WORKDIR" => {
            let old = config
                .get("WorkingDir")
                .and_then(Value::as_str)
                .unwrap_or("/");
            let new = if rest.starts_with('/') {
                rest.to_owned()
            } else {
                format!("{}/{rest}", old.trim_end_matches('/'))
            };
            set(config, "WorkingDir", json!(new));
        }
        "ENV" => env(config, rest).ok_or_else(|| bad("expected KEY=VALUE"))?,
        "LABEL" => {
            let pairs = pairs(rest).ok_or_else(|| bad("expected KEY=VALUE"))?;
            let labels = pairs.into_iter().map(|(key, value)| (key, json!(value)));
            add_to(config, "Labels", labels);
        }
        "EXPOSE" => {
            for port in words(rest).ok_or_else(|| bad("a quote is not closed"))? {
                let port = port_of(&port).ok_or_else(|| bad("expected PORT[/tcp|udp|sctp]"))?;
                add_to(config, "ExposedPorts", [(port, json!({}))]);
            }
        }
        "VOLUME" => {
            let list = exec_form(rest).or_else(|| words(rest));
            for path in list.ok_or_else(|| bad("a quote is not closed"))? {
                add_to(config, "Volumes", [(path, json!({}))]);
            }
        }
        _ => {
            return Err(bad(
                "only CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, \
                            VOLUME and WORKDIR can be given",
            ));
        }
    }
    Ok(())
}

fn set(config: &mut Map<String, Value>, key: &str, value: Value) {
    config.insert(key.to_owned(), value);
}

/// Adds entries to the object in a field, which is made if there is none.
fn add_to(
    config: &mut Map<String, Value>,
    field: &str,
    entries: impl IntoIterator<Item = (String, Value)>,
) {
    let entry = config.entry(field.to_owned()).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    if let Value::Object(map) = entry {
        map.extend(entries);
    }
}

/// A JSON list of strings.
fn exec_form(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// A JSON list, else a line for the shell.
fn command(text: &str) -> Value {
    match exec_form(text) {
        Some(list) => json!(list),
        None => json!(["/bin/sh", "-c", text]),
    }
}

fn env(config: &mut Map<String, Value>, text: &str) -> Option<()> {
    let pairs = match text.split_once(char::is_whitespace) {
        Some((key, value)) if !key.contains('=') => {
            vec![(key.to_owned(), value.trim().to_owned())]
        }
        Some(_) | None => pairs(text)?,
    };
    let entry = config.entry("Env".to_owned()).or_insert_with(|| json!([]));
    if !entry.is_array() {
        *entry = json!([]);
    }
    let list = entry.as_array_mut()?;
    for (key, value) in pairs {
        let new = json!(format!("{key}={value}"));
        let start = format!("{key}=");
        let same = |old: &&mut Value| old.as_str().is_some_and(|old| old.starts_with(&start));
        match list.iter_mut().find(same) {
            Some(old) => *old = new,
            None => list.push(new),
        }
    }
    Some(())
}

fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    words(text)?
        .into_iter()
        .map(|word| {
            let (key, value) = word.split_once('=')?;
            (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Splits at white space outside quotes; a backslash takes the next character as it is.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(letters.next()),
            (None, letter) if letter.is_whitespace() => words.extend(word.take()),
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

fn port_of(text: &str) -> Option<String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number_ok = port
        .split('-')
        .all(|part| part.parse::<u16>().is_ok_and(|number| number > 0));
    let protocol = protocol.to_ascii_lowercase();
    let protocol_ok = matches!(protocol.as_str(), "tcp" | "udp" | "sctp");
    (number_ok && protocol_ok).then(|| format!("{port}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_edit_the_config_and_keep_its_order() {
        let Value::Object(mut config) = json!({"Env": ["PATH=/bin"], "X": 1, "Cmd": null}) else {
            unreachable!("the literal is an object");
        };
        let changes = [
            r#"CMD ["a", "b c"]"#,
            "ENTRYPOINT run it",
            "ENV A=1 PATH=/usr/bin",
            "ENV OLD two words",
            r#"ENV Q="a b" R=c\ d"#,
            "LABEL k=v",
            "EXPOSE 80 53/udp",
            r#"VOLUME ["/d"]"#,
            "workdir /w",
            "WORKDIR x",
            "USER u:g",
            "STOPSIGNAL SIGINT",
        ];
        for change in changes {
            apply(&mut config, change).unwrap();
        }
        let expected = r#"{"Env":["PATH=/usr/bin","A=1","OLD=two words","Q=a b","R=c d"],"X":1,"Cmd":["a","b c"],"Entrypoint":["/bin/sh","-c","run it"],"Labels":{"k":"v"},"ExposedPorts":{"80/tcp":{},"53/udp":{}},"Volumes":{"/d":{}},"WorkingDir":"/w/x","User":"u:g","StopSignal":"SIGINT"}"#;
        assert_eq!(Value::Object(config.clone()).to_string(), expected);
        for bad in [
            "RUN x",
            "CMD",
            "",
            "ENV A",
            "ENV =x",
            "EXPOSE 0",
            "EXPOSE 1/x",
            "LABEL \"a=b",
        ] {
            assert!(apply(&mut config, bad).is_err(), "input {bad:?}");
        }
    }
}
