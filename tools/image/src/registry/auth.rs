//! The `WWW-Authenticate` header and the tokens it leads to.

use serde_json::Value;

/// What a 401 answer asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token from somewhere else.
    Bearer {
        /// Where to get it.
        realm: String,
        /// For which service.
        service: Option<String>,
        /// For which action; empty when the server names none.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best challenge of one header: Bearer before Basic.
    ///
    /// Source: RFC 9110 section 11.6.1; distribution-spec "Token Authentication".
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let mut basic = None;
        let mut rest = header.trim();
        while !rest.is_empty() {
            let end = rest.find(' ').unwrap_or(rest.len());
            let scheme = &rest[..end];
            let (parameters, after) = parse_parameters(&rest[end..]);
            if scheme.eq_ignore_ascii_case("bearer") {
                let find = |key: &str| {
                    parameters
                        .iter()
                        .find(|(name, _)| name.eq_ignore_ascii_case(key))
                        .map(|(_, value)| value.clone())
                };
                if let Some(realm) = find("realm") {
                    return Some(Self::Bearer {
                        realm,
                        service: find("service"),
                        scope: find("scope").filter(|scope| !scope.is_empty()),
                    });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Self::Basic);
            }
            rest = after;
        }
        basic
    }
}

/// Reads `key=value` and `key="value"` pairs; returns them and what follows (another scheme).
fn parse_parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    loop {
        let key_len = rest
            .find(|letter: char| !letter.is_ascii_alphanumeric() && !"-_".contains(letter))
            .unwrap_or(rest.len());
        let after_key = rest[key_len..].trim_start();
        let Some(value_text) = after_key.strip_prefix('=') else {
            return (found, rest);
        };
        let value_text = value_text.trim_start();
        let key = rest[..key_len].to_owned();
        let (value, after) = match value_text.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value_text.find([',', ' ']).unwrap_or(value_text.len());
                (value_text[..end].to_owned(), &value_text[end..])
            }
        };
        found.push((key, value));
        rest = after.trim_start_matches([' ', ',']);
        if rest.is_empty() {
            return (found, rest);
        }
    }
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            _ => value.push(letter),
        }
    }
    (value, "")
}

/// The token in a token server's answer.
pub(crate) fn token_of(answer: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(answer).ok()?;
    ["token", "access_token"]
        .iter()
        .filter_map(|key| value.get(key).and_then(Value::as_str))
        .find(|token| !token.is_empty())
        .map(str::to_owned)
}

/// Percent-encodes a query or form value (everything but unreserved characters).
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        let cases = [
            (
                r#"Bearer realm="https://a/t",service="r",scope="repository:x:pull,push""#,
                bearer("https://a/t", Some("r"), Some("repository:x:pull,push")),
            ),
            (
                "bearer realm=https://a/t, service=r",
                bearer("https://a/t", Some("r"), None),
            ),
            (r#"Bearer realm = "a\"b""#, bearer("a\"b", None, None)),
            (
                r#"Basic realm="x", Bearer realm="t""#,
                bearer("t", None, None),
            ),
            ("Basic", Some(Challenge::Basic)),
            (r#"Bearer service="r""#, None),
            ("Negotiate", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Challenge::parse(text), expected, "input {text:?}");
        }
    }

    #[test]
    fn tokens_come_under_two_names() {
        assert_eq!(token_of(br#"{"token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(
            token_of(br#"{"token":"","access_token":"b"}"#).as_deref(),
            Some("b")
        );
        assert_eq!(token_of(b"{}"), None);
        assert_eq!(encode("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
