//! Where user names and passwords for registries come from.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use rrun_core::{DEFAULT_DOMAIN, ImageRef};
use serde_json::Value;

use crate::ImageError;
use crate::error::At as _;

/// The key under which Docker keeps its hub's credentials.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name that marks an identity token in a helper's answer.
const TOKEN_USER: &str = "<token>";

/// Proof of identity for a registry. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user and password.
    Password {
        /// User name.
        user: String,
        /// Password or access token.
        password: String,
    },
    /// An OAuth2 refresh token.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user:?}, ...)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(...)"),
        }
    }
}

impl Credentials {
    /// The value of a Basic `Authorization` header, if these are a user and password.
    pub(crate) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                let plain = format!("{user}:{password}");
                Some(format!("Basic {}", STANDARD.encode(plain)))
            }
            Self::IdentityToken(_) => None,
        }
    }

    /// Looks for credentials in `files` (auth.json or config.json form), first match wins.
    ///
    /// In each file: a helper for this very host, then the keys from the longest path down to
    /// the host, then the file's default helper. Missing files are passed over.
    ///
    /// Source: containers-auth.json(5); Docker's config.json.
    ///
    /// # Errors
    ///
    /// `Settings` for a malformed file or a failing helper.
    pub fn find(files: &[PathBuf], image: &ImageRef) -> Result<Option<Self>, ImageError> {
        for file in files {
            let text = match std::fs::read(file) {
                Ok(text) => text,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error).at("read", file.display()),
            };
            let value: Value =
                serde_json::from_slice(&text).map_err(|error| ImageError::Settings {
                    object: file.display().to_string(),
                    reason: error.to_string(),
                })?;
            if let Some(found) = find_in(&value, file, image)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn find_in(
    value: &Value,
    file: &Path,
    image: &ImageRef,
) -> Result<Option<Credentials>, ImageError> {
    let host = image.domain();
    let server = if host == DEFAULT_DOMAIN {
        HUB_KEY
    } else {
        host
    };
    let helper = value.get("credHelpers").and_then(|helpers| {
        helpers
            .get(host)
            .or_else(|| helpers.get(server))
            .and_then(Value::as_str)
    });
    if let Some(helper) = helper {
        return ask_helper(helper, server);
    }
    if let Some(auths) = value.get("auths").and_then(Value::as_object) {
        for key in keys(image) {
            let entry = auths
                .iter()
                .find(|(name, _)| normalized(name) == key)
                .map(|(_, entry)| entry);
            if let Some(found) = entry.map(|entry| decode(entry, file, &key)).transpose()?
                && found.is_some()
            {
                return Ok(found);
            }
        }
    }
    match value.get("credsStore").and_then(Value::as_str) {
        Some(helper) => ask_helper(helper, server),
        None => Ok(None),
    }
}

/// `host/a/b`, `host/a`, `host`.
fn keys(image: &ImageRef) -> Vec<String> {
    let mut key = image.name();
    let mut keys = vec![key.clone()];
    while let Some(at) = key.rfind('/') {
        key.truncate(at);
        keys.push(key.clone());
    }
    keys
}

/// Docker's old keys carry a scheme and a version path.
fn normalized(key: &str) -> &str {
    let bare = key
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let bare = bare
        .strip_suffix("/v1")
        .or_else(|| bare.strip_suffix("/v2"))
        .unwrap_or(bare);
    match bare {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN,
        other => other,
    }
}

fn decode(entry: &Value, file: &Path, key: &str) -> Result<Option<Credentials>, ImageError> {
    let text = |field: &str| {
        entry
            .get(field)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credentials::IdentityToken(token.to_owned())));
    }
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Ok(Some(Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }));
    }
    let Some(encoded) = text("auth") else {
        return Ok(None);
    };
    let bytes = STANDARD
        .decode(encoded)
        .or_else(|_| STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')))
        .unwrap_or_default();
    let plain = String::from_utf8(bytes).unwrap_or_default();
    match plain.trim_end_matches('\0').split_once(':') {
        Some((user, password)) => Ok(Some(Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })),
        None => Err(ImageError::Settings {
            object: format!("{} (entry {key:?})", file.display()),
            reason: "auth is not base64 of USER:PASSWORD".to_owned(),
        }),
    }
}

/// Runs `docker-credential-HELPER get`.
///
/// Source: docker/docker-credential-helpers, "Development".
fn ask_helper(helper: &str, server: &str) -> Result<Option<Credentials>, ImageError> {
    let program = format!("docker-credential-{helper}");
    let failed = |reason: String| ImageError::Settings {
        object: format!("credential helper {program}"),
        reason,
    };
    if helper.contains('/') {
        return Err(failed("its name has a slash".to_owned()));
    }
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that ends without reading its input still gives a status below.
        drop(stdin.write_all(server.as_bytes()));
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        if answer.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(format!("{}: {}", output.status, answer.trim())));
    }
    let value: Value = serde_json::from_str(&answer).map_err(|error| failed(error.to_string()))?;
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("");
    let (user, secret) = (text("Username"), text("Secret"));
    Ok(match (user, secret) {
        ("", "") => None,
        (TOKEN_USER, token) => Some(Credentials::IdentityToken(token.to_owned())),
        (user, password) => Some(Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password {
            user: user.into(),
            password: password.into(),
        })
    }

    #[test]
    fn the_most_specific_key_of_the_first_file_wins() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("auth.json");
        let second = dir.path().join("config.json");
        // a:1, b:2, c:3
        std::fs::write(
            &first,
            r#"{"auths":{"r.io":{"auth":"YTox"},"r.io/ns":{"auth":"Yjoy"},"t.io":{"identitytoken":"tok"},"bad.io":{"auth":"!!"}}}"#,
        )
        .unwrap();
        std::fs::write(
            &second,
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"Yzoz"},"r.io":{"auth":"Yzoz"},"empty.io":{}}}"#,
        )
        .unwrap();
        let files = [dir.path().join("absent"), first, second];
        let find = |text: &str| Credentials::find(&files, &text.parse().unwrap());
        assert_eq!(find("r.io/x").unwrap(), password("a", "1"));
        assert_eq!(find("r.io/ns/x").unwrap(), password("b", "2"));
        assert_eq!(find("r.io/nsx/x").unwrap(), password("a", "1"));
        assert_eq!(find("alpine").unwrap(), password("c", "3"));
        assert_eq!(
            find("t.io/x").unwrap(),
            Some(Credentials::IdentityToken("tok".into()))
        );
        assert_eq!(find("empty.io/x").unwrap(), None);
        assert_eq!(find("other.io/x").unwrap(), None);
        assert!(find("bad.io/x").unwrap_err().to_string().contains("bad.io"));
        assert!(!format!("{:?}", find("r.io/x").unwrap()).contains('1'));
    }
}
