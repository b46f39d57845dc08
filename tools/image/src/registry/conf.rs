//! The subset of registries.conf that says where to ask.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use rrun_core::ImageRef;
use serde::Deserialize;

use crate::ImageError;
use crate::error::At as _;

/// Mirrors, insecure and blocked registries, and short-name aliases.
///
/// Source: containers-registries.conf(5), version 2.
#[derive(Debug, Clone, Default)]
pub struct RegistriesConf {
    registries: Vec<Entry>,
    aliases: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    #[serde(default)]
    registry: Vec<Entry>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Entry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror: Vec<Mirror>,
    mirror_by_digest_only: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

/// One place that may serve a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host and port.
    pub(crate) host: String,
    /// The repository there.
    pub(crate) path: String,
    /// Whether HTTP and unverifiable certificates are allowed.
    pub(crate) insecure: bool,
    /// Whether it is a mirror, whose failure is passed over.
    pub(crate) mirror: bool,
}

impl RegistriesConf {
    /// Reads `files` in order; entries of later files replace earlier ones of the same prefix.
    /// Missing files are passed over; a directory means its `*.conf` files, by name.
    ///
    /// # Errors
    ///
    /// `Settings` for malformed text, `Io` for unreadable files.
    pub fn read<P: AsRef<Path>>(files: &[P]) -> Result<Self, ImageError> {
        let mut conf = Self::default();
        for file in files {
            conf.read_path(file.as_ref())?;
        }
        Ok(conf)
    }

    fn read_path(&mut self, path: &Path) -> Result<(), ImageError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::IsADirectory => {
                let mut names = Vec::new();
                for entry in std::fs::read_dir(path).at("read", path.display())? {
                    let inner = entry.at("read", path.display())?.path();
                    if inner.extension().is_some_and(|ext| ext == "conf") {
                        names.push(inner);
                    }
                }
                names.sort();
                return names.iter().try_for_each(|inner| self.read_path(inner));
            }
            Err(error) => return Err(error).at("read", path.display()),
        };
        self.add(&text, &path.display().to_string())
    }

    fn add(&mut self, text: &str, object: &str) -> Result<(), ImageError> {
        let document: Document = toml::from_str(text).map_err(|error| ImageError::Settings {
            object: object.to_owned(),
            reason: error.to_string().trim().replace('\n', " "),
        })?;
        for mut entry in document.registry {
            if entry.prefix.is_empty() {
                entry.prefix.clone_from(&entry.location);
            }
            if entry.location.is_empty() && !entry.prefix.starts_with("*.") {
                entry.location.clone_from(&entry.prefix);
            }
            self.registries.retain(|old| old.prefix != entry.prefix);
            self.registries.push(entry);
        }
        self.aliases.extend(document.aliases);
        Ok(())
    }

    /// The full name an alias gives to the short name `text` (its tag or digest kept).
    #[must_use]
    pub fn alias(&self, text: &str) -> Option<String> {
        let end = text.find(['@', ':']).unwrap_or(text.len());
        let full = self.aliases.get(&text[..end])?;
        if full.is_empty() {
            return None;
        }
        Some(format!("{full}{}", &text[end..]))
    }

    /// Where to ask for `image`, in order.
    ///
    /// # Errors
    ///
    /// `Blocked`.
    pub(crate) fn endpoints(&self, image: &ImageRef) -> Result<Vec<Endpoint>, ImageError> {
        let name = image.name();
        let best = self
            .registries
            .iter()
            .filter_map(|entry| matched_len(&entry.prefix, &name).map(|len| (len, entry)))
            .max_by_key(|(len, entry)| (!entry.prefix.starts_with("*."), *len));
        let Some((len, entry)) = best else {
            return Ok(vec![endpoint(&name, false, false)]);
        };
        if entry.blocked {
            return Err(ImageError::Blocked(entry.prefix.clone()));
        }
        let rest = &name[len..];
        let by_digest = image.digest().is_some();
        let mut found = Vec::new();
        for mirror in &entry.mirror {
            let wanted = match mirror.pull_from_mirror.as_str() {
                "digest-only" => by_digest,
                "tag-only" => !by_digest,
                _ => by_digest || !entry.mirror_by_digest_only,
            };
            if wanted {
                let location = format!("{}{rest}", mirror.location);
                found.push(endpoint(&location, mirror.insecure, true));
            }
        }
        let location = if entry.location.is_empty() {
            name.clone()
        } else {
            format!("{}{rest}", entry.location)
        };
        found.push(endpoint(&location, entry.insecure, false));
        Ok(found)
    }
}

/// How many bytes of `name` the prefix covers, if it covers it at a component boundary.
fn matched_len(prefix: &str, name: &str) -> Option<usize> {
    let host_end = name.find('/').unwrap_or(name.len());
    if let Some(suffix) = prefix.strip_prefix('*') {
        let host = name[..host_end].split(':').next().unwrap_or("");
        return (suffix.len() > 1 && host.ends_with(suffix)).then_some(host_end);
    }
    let rest = name.strip_prefix(prefix)?;
    (!prefix.is_empty() && (rest.is_empty() || rest.starts_with(['/', ':'])))
        .then_some(prefix.len())
}

fn endpoint(location: &str, insecure: bool, mirror: bool) -> Endpoint {
    let (host, path) = location.split_once('/').unwrap_or((location, ""));
    Endpoint {
        host: host.to_owned(),
        path: path.to_owned(),
        insecure,
        mirror,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
unqualified-search-registries = ["docker.io"]
short-name-mode = "enforcing"
[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "127.0.0.1:5000/hub"
insecure = true
[[registry]]
location = "r.io/private"
blocked = true
[[registry]]
location = "127.0.0.1:9"
insecure = true
[[registry]]
prefix = "*.corp.io"
insecure = true
[aliases]
"alpine" = "quay.io/me/alpine"
"#;

    fn places(conf: &RegistriesConf, image: &str) -> Vec<String> {
        let endpoints = conf.endpoints(&image.parse().unwrap()).unwrap();
        endpoints
            .iter()
            .map(|e| format!("{}|{}|{}", e.host, e.path, e.insecure))
            .collect()
    }

    #[test]
    fn the_longest_prefix_decides_where_to_ask() {
        let mut conf = RegistriesConf::default();
        conf.add(TEXT, "test").unwrap();
        assert_eq!(
            places(&conf, "debian"),
            [
                "127.0.0.1:5000|hub/library/debian|true",
                "docker.io|library/debian|false"
            ]
        );
        assert_eq!(
            places(&conf, "r.io/privateer/x"),
            ["r.io|privateer/x|false"]
        );
        assert_eq!(places(&conf, "127.0.0.1:9/x"), ["127.0.0.1:9|x|true"]);
        assert_eq!(places(&conf, "a.corp.io/x"), ["a.corp.io|x|true"]);
        assert_eq!(places(&conf, "corp.io/x"), ["corp.io|x|false"]);
        let blocked = conf.endpoints(&"r.io/private/x".parse().unwrap());
        assert!(matches!(blocked, Err(ImageError::Blocked(_))));
        assert_eq!(
            conf.alias("alpine:3").as_deref(),
            Some("quay.io/me/alpine:3")
        );
        assert_eq!(conf.alias("alpines"), None);
        assert!(
            conf.add("[[registry]\n", "x.conf")
                .unwrap_err()
                .to_string()
                .contains("x.conf")
        );
    }
}
