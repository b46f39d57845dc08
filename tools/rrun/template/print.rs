//! Values as Go's `fmt` prints them.

use super::data::Data;

/// A value by itself, as an action prints it.
pub(super) fn top(value: &Data) -> String {
    match value {
        Data::Missing => "<no value>".to_owned(),
        other => plain(other),
    }
}

/// `%v`
pub(super) fn plain(value: &Data) -> String {
    render(value, false)
}

/// `%v`, or `%+v` with the names of fields.
pub(super) fn render(value: &Data, names: bool) -> String {
    let join = |list: Vec<String>| list.join(" ");
    match value {
        Data::Missing | Data::Nil => "<nil>".to_owned(),
        Data::Bool(flag) => flag.to_string(),
        Data::Int(number) => number.to_string(),
        Data::Float(number) => shortest(*number),
        Data::Text(text) => text.clone(),
        Data::List(list) => {
            let parts = list.iter().flatten().map(|one| render(one, names));
            format!("[{}]", join(parts.collect()))
        }
        Data::Map(map) => {
            let parts = map.iter().flatten();
            let parts = parts.map(|(key, value)| format!("{key}:{}", render(value, names)));
            format!("map[{}]", join(parts.collect()))
        }
        Data::Struct(fields) => {
            let shown = fields
                .iter()
                .filter(|(_, value)| !matches!(value, Data::Lookup(_) | Data::LookupTitle));
            let parts = shown.map(|(name, value)| {
                let text = render(value, names);
                if names {
                    format!("{name}:{text}")
                } else {
                    text
                }
            });
            format!("{{{}}}", join(parts.collect()))
        }
        Data::Lookup(_) | Data::LookupTitle => "0x0".to_owned(),
    }
}

/// `%v` of a float: the shortest digits that read back the same, `%e` for large exponents.
pub(super) fn shortest(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..21).contains(&exponent) {
        return format!("{number}");
    }
    format!("{digits}{}", exponent_text(exponent))
}

/// `e+21`: Go gives exponents a sign and two digits.
pub(super) fn exponent_text(exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("e{sign}{:02}", exponent.abs())
}

/// `%q` of a string.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            letter if letter.is_control() && u32::from(letter) < 0x80 => {
                out.push_str(&format!("\\x{:02x}", u32::from(letter)));
            }
            letter if letter.is_control() => {
                out.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// The text a Go literal stands for; `None` when it is malformed.
pub(super) fn unquote(literal: &str) -> Option<String> {
    if let Some(raw) = literal.strip_prefix('`') {
        return raw.strip_suffix('`').map(|text| text.replace('\r', ""));
    }
    let delimiter = literal.chars().next()?;
    let body = literal.strip_prefix(delimiter)?.strip_suffix(delimiter)?;
    let mut out = Vec::new();
    let mut letters = body.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.extend(letter.to_string().into_bytes());
            continue;
        }
        let escape = letters.next()?;
        let mut digits = |count: usize, radix: u32| {
            let text: String = letters.by_ref().take(count).collect();
            (text.chars().count() == count)
                .then(|| u32::from_str_radix(&text, radix).ok())
                .flatten()
        };
        let code = match escape {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            '\\' | '\'' | '"' if escape == '\\' || escape == delimiter => u32::from(escape),
            'x' => {
                out.push(u8::try_from(digits(2, 16)?).ok()?);
                continue;
            }
            '0'..='7' => {
                let first = escape.to_digit(8)?;
                out.push(u8::try_from(first * 64 + digits(2, 8)?).ok()?);
                continue;
            }
            'u' => digits(4, 16)?,
            'U' => digits(8, 16)?,
            _ => return None,
        };
        out.extend(char::from_u32(code)?.to_string().into_bytes());
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}
