//! `printf`.
//!
//! Source: Go `fmt`, print.go and format.go.

use super::data::Data;
use super::print::{exponent_text, plain, quote, render, shortest};

/// Widths and precisions past this are refused, as in Go.
const WIDTH_MAX: usize = 1_000_000;

#[derive(Debug, Default)]
struct Flags {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Formats values; what does not fit is said in the text, as Go does.
pub(super) fn sprintf(format: &str, values: &[Data]) -> String {
    let mut out = String::new();
    let mut letters = format.chars().peekable();
    let mut values_left = values.iter();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let flags = flags(&mut letters, &mut values_left);
        let Some(verb) = letters.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        match values_left.next() {
            Some(value) => out.push_str(&one(verb, &flags, value)),
            None => out.push_str(&format!("%!{verb}(MISSING)")),
        }
    }
    let extra: Vec<String> = values_left.map(typed).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn flags(
    letters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    values: &mut std::slice::Iter<'_, Data>,
) -> Flags {
    let mut flags = Flags::default();
    while let Some(letter) = letters.peek() {
        match letter {
            '-' => flags.minus = true,
            '+' => flags.plus = true,
            '#' => flags.sharp = true,
            ' ' => flags.space = true,
            '0' => flags.zero = true,
            _ => break,
        }
        letters.next();
    }
    flags.width = count(letters, values);
    if letters.peek() == Some(&'.') {
        letters.next();
        flags.precision = Some(count(letters, values).unwrap_or(0));
    }
    flags
}

fn count(
    letters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    values: &mut std::slice::Iter<'_, Data>,
) -> Option<usize> {
    if letters.peek() == Some(&'*') {
        letters.next();
        let Some(Data::Int(number)) = values.next() else {
            return None;
        };
        return usize::try_from(*number).ok().map(|n| n.min(WIDTH_MAX));
    }
    let mut number: Option<usize> = None;
    while let Some(digit) = letters.peek().and_then(|letter| letter.to_digit(10)) {
        let digit = usize::try_from(digit).unwrap_or(0);
        number = Some((number.unwrap_or(0) * 10 + digit).min(WIDTH_MAX));
        letters.next();
    }
    number
}

fn typed(value: &Data) -> String {
    match value {
        Data::Missing | Data::Nil => "<nil>".to_owned(),
        other => format!("{}={}", other.type_name(), plain(other)),
    }
}

fn bad(verb: char, value: &Data) -> String {
    format!("%!{verb}({})", typed(value))
}

fn one(verb: char, flags: &Flags, value: &Data) -> String {
    if verb == 'T' {
        return pad(flags, &value.type_name());
    }
    match value {
        // Verbs go on to the elements.
        Data::List(Some(list)) if verb != 'v' => {
            let parts: Vec<String> = list.iter().map(|item| one(verb, flags, item)).collect();
            format!("[{}]", parts.join(" "))
        }
        _ if verb == 'v' => match value {
            Data::Int(_) => integer(10, flags, value, verb),
            Data::Text(text) if flags.sharp => pad(flags, &quote(text)),
            other => pad(flags, &render(other, flags.plus)),
        },
        Data::Bool(flag) if verb == 't' => pad(flags, &flag.to_string()),
        Data::Text(text) => text_verb(verb, flags, text, value),
        Data::Int(number) => match verb {
            'd' => integer(10, flags, value, verb),
            'b' => integer(2, flags, value, verb),
            'o' => integer(8, flags, value, verb),
            'x' | 'X' => integer(16, flags, value, verb),
            'c' => pad(flags, &letter(*number).to_string()),
            'q' => pad(flags, &format!("'{}'", letter(*number))),
            'U' => pad(flags, &format!("U+{number:04X}")),
            _ => bad(verb, value),
        },
        Data::Float(number) => float(verb, flags, *number).unwrap_or_else(|| bad(verb, value)),
        Data::Missing
        | Data::Nil
        | Data::Bool(_)
        | Data::List(_)
        | Data::Map(_)
        | Data::Struct(_)
        | Data::Lookup(_)
        | Data::LookupTitle => bad(verb, value),
    }
}

fn letter(number: i64) -> char {
    u32::try_from(number)
        .ok()
        .and_then(char::from_u32)
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn text_verb(verb: char, flags: &Flags, text: &str, value: &Data) -> String {
    let cut: String = match flags.precision {
        Some(length) => text.chars().take(length).collect(),
        None => text.to_owned(),
    };
    let hex = |upper: bool| -> String {
        cut.bytes()
            .map(|byte| {
                if upper {
                    format!("{byte:02X}")
                } else {
                    format!("{byte:02x}")
                }
            })
            .collect()
    };
    match verb {
        's' => pad(flags, &cut),
        'q' => pad(flags, &quote(&cut)),
        'x' => pad(flags, &hex(false)),
        'X' => pad(flags, &hex(true)),
        _ => bad(verb, value),
    }
}

fn integer(radix: u32, flags: &Flags, value: &Data, verb: char) -> String {
    let Data::Int(number) = value else {
        return bad(verb, value);
    };
    let size = number.unsigned_abs();
    let mut digits = match radix {
        2 => format!("{size:b}"),
        8 => format!("{size:o}"),
        16 if verb == 'X' => format!("{size:X}"),
        16 => format!("{size:x}"),
        _ => size.to_string(),
    };
    if let Some(precision) = flags.precision {
        digits = format!(
            "{}{digits}",
            "0".repeat(precision.saturating_sub(digits.len()))
        );
    }
    if flags.sharp {
        let prefix = match verb {
            'x' => "0x",
            'X' => "0X",
            'o' => "0",
            'b' => "0b",
            _ => "",
        };
        digits = format!("{prefix}{digits}");
    }
    signed(flags, *number < 0, &digits, flags.precision.is_none())
}

/// Puts the sign before the digits, and zeros between the two when asked for.
fn signed(flags: &Flags, negative: bool, digits: &str, zeros: bool) -> String {
    let sign = match (negative, flags.plus, flags.space) {
        (true, _, _) => "-",
        (false, true, _) => "+",
        (false, false, true) => " ",
        (false, false, false) => "",
    };
    if flags.zero && !flags.minus && zeros {
        let room = flags.width.unwrap_or(0);
        let fill = "0".repeat(room.saturating_sub(sign.len() + digits.len()));
        return format!("{sign}{fill}{digits}");
    }
    pad(flags, &format!("{sign}{digits}"))
}

fn float(verb: char, flags: &Flags, number: f64) -> Option<String> {
    let size = number.abs();
    let precision = flags.precision;
    let scientific = |digits: Option<usize>| {
        let text = match digits {
            Some(digits) => format!("{size:.digits$e}"),
            None => format!("{size:e}"),
        };
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        format!("{mantissa}{}", exponent_text(exponent.parse().unwrap_or(0)))
    };
    let digits = match verb {
        'f' | 'F' => format!("{size:.*}", precision.unwrap_or(6)),
        'e' => scientific(Some(precision.unwrap_or(6))),
        'E' => scientific(Some(precision.unwrap_or(6))).to_uppercase(),
        'g' | 'G' => general(size, precision, scientific),
        _ => return None,
    };
    Some(signed(flags, number < 0.0, &digits, true))
}

fn general(
    size: f64,
    precision: Option<usize>,
    scientific: impl Fn(Option<usize>) -> String,
) -> String {
    let Some(precision) = precision else {
        return shortest(size);
    };
    let precision = precision.max(1);
    let rounded = scientific(Some(precision - 1));
    let exponent: i32 = rounded
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok())
        .unwrap_or(0);
    let trim = |text: String| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    };
    let bound = i32::try_from(precision).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= bound {
        let (mantissa, exponent) = rounded.split_once('e').unwrap_or((&rounded, "+00"));
        return format!("{}e{exponent}", trim(mantissa.to_owned()));
    }
    let decimals = usize::try_from(bound - 1 - exponent).unwrap_or(0);
    trim(format!("{size:.decimals$}"))
}

fn pad(flags: &Flags, text: &str) -> String {
    let room = flags.width.unwrap_or(0);
    let fill = room.saturating_sub(text.chars().count());
    if flags.minus {
        format!("{text}{}", " ".repeat(fill))
    } else if flags.zero {
        format!("{}{text}", "0".repeat(fill))
    } else {
        format!("{}{text}", " ".repeat(fill))
    }
}
