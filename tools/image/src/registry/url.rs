//! Addresses: hosts, origins, redirect targets.

use std::net::IpAddr;

/// Whether Docker would allow plain HTTP for this host.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name == "localhost"
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Scheme, host and port.
pub(crate) fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| start + at);
    &url[..end]
}

/// Whether two addresses are on one server.
pub(crate) fn same_origin(one: &str, other: &str) -> bool {
    origin(one).eq_ignore_ascii_case(origin(other))
}

/// Makes the target of a redirect absolute.
pub(crate) fn resolve(base: &str, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let origin = origin(base);
    if let Some(rest) = location.strip_prefix("//") {
        let scheme = origin.split("://").next().unwrap_or("https");
        return format!("{scheme}://{rest}");
    }
    if location.starts_with('/') {
        return format!("{origin}{location}");
    }
    let path_end = base.find(['?', '#']).unwrap_or(base.len());
    let parent = base[..path_end].rfind('/').unwrap_or(path_end);
    if parent < origin.len() {
        return format!("{origin}/{location}");
    }
    format!("{}/{location}", &base[..parent])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_resolve_against_the_request() {
        let base = "https://r.io:5000/v2/x/blobs/uploads/?a=/b";
        let cases = [
            ("http://o.io/p", "http://o.io/p"),
            ("//o.io/p", "https://o.io/p"),
            ("/p?q", "https://r.io:5000/p?q"),
            ("u1?s=2", "https://r.io:5000/v2/x/blobs/uploads/u1?s=2"),
        ];
        for (location, expected) in cases {
            assert_eq!(resolve(base, location), expected, "input {location:?}");
        }
        assert_eq!(resolve("https://r.io", "p"), "https://r.io/p");
        assert!(same_origin("https://R.io/a", "https://r.io/b"));
        assert!(!same_origin("https://r.io/a", "https://r.io:444/a"));
        assert!(!same_origin("https://r.io/a", "http://r.io/a"));
        assert!(!same_origin("https://r.io.evil/a", "https://r.io/a"));
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for host in [
            "localhost",
            "localhost:5",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5",
            "[::1]",
        ] {
            assert!(is_loopback(host), "input {host:?}");
        }
        for host in [
            "localhost.io",
            "128.0.0.1",
            "r.io:5000",
            "[::2]",
            "127.0.0.1.io",
        ] {
            assert!(!is_loopback(host), "input {host:?}");
        }
    }
}
