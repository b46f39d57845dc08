use std::sync::atomic::{AtomicUsize, Ordering};

use rrun_core::ImageRef;
use rrun_store::Store;

use super::{Credentials, PullStatus, Registry};
use crate::testing::{Image, Recorder, Reply, Seen, Server};
use crate::{ImageError, Silent};

fn image() -> Image {
    let noise: Vec<u8> = (0..200_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    Image::new(&[&[("big", &noise)], &[("etc/small", b"x\n")]])
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

fn name(server: &Server) -> ImageRef {
    format!("{}/x:t", server.host).parse().unwrap()
}

#[test]
fn a_pull_brings_verified_layers_once() {
    let image = image();
    let served = image.clone();
    let server = Server::start(move |seen| served.answer(seen));
    let (_dir, store) = store();
    let progress = Recorder::default();
    let registry = Registry::default();
    let pulled = registry.pull(&store, &name(&server), &progress).unwrap();
    assert_eq!(pulled.id, image.id());
    assert_eq!(pulled.status, PullStatus::Downloaded);
    assert!(store.has_layer(&image.diff_id(0)).unwrap());
    assert!(store.has_layer(&image.diff_id(1)).unwrap());
    assert_eq!(store.blob(&image.id()).unwrap(), image.config);
    assert_eq!(progress.count("Complete"), 2);
    registry.pull(&store, &name(&server), &progress).unwrap();
    assert_eq!(server.count("GET", &image.blob(0).to_string()), 1);
    assert_eq!(progress.count("Exists"), 2);
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    for ranges in [true, false] {
        let image = image();
        let served = image.clone();
        let big = image.blob(0).to_string();
        let tries = AtomicUsize::new(0);
        let server = Server::start(move |seen| {
            let mut reply = served.answer(seen);
            if seen.target.ends_with(&big) {
                let range = seen.header("range").to_owned();
                if ranges && let Some(start) = range.strip_prefix("bytes=") {
                    let start: usize = start.trim_end_matches('-').parse().unwrap();
                    let len = reply.body.len();
                    reply.body.drain(..start);
                    reply.status = 206;
                    let value = format!("bytes {start}-{}/{len}", len - 1);
                    reply = reply.with("Content-Range", value);
                }
                if tries.fetch_add(1, Ordering::Relaxed) < 2 {
                    reply.cut = Some(reply.body.len() / 3);
                }
            }
            reply
        });
        let (_dir, store) = store();
        let progress = Recorder::default();
        Registry::default()
            .pull(&store, &name(&server), &progress)
            .unwrap();
        assert!(store.has_layer(&image.diff_id(0)).unwrap());
        assert_eq!(progress.count("Retrying"), 2, "ranges {ranges}");
        let seen = server.seen();
        assert!(
            seen.iter()
                .any(|one| one.header("range").starts_with("bytes="))
        );
    }
}

#[test]
fn a_token_is_fetched_for_the_scope_and_only_from_its_server() {
    let image = image();
    let served = image.clone();
    let server = Server::start(move |seen| {
        if seen.target.starts_with("/token") {
            // u:p
            assert_eq!(seen.header("authorization"), "Basic dTpw");
            assert!(
                seen.target.contains("scope=repository%3Ax%3Apull"),
                "{}",
                seen.target
            );
            assert!(seen.target.contains("service=s"), "{}", seen.target);
            return Reply::new(200, r#"{"token":"T"}"#);
        }
        if seen.header("authorization") == "Bearer T" {
            return served.answer(seen);
        }
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"s\"",
            seen.header("host")
        );
        Reply::new(401, "").with("WWW-Authenticate", realm)
    });
    let (_dir, store) = store();
    let registry = Registry {
        credentials: Some(Credentials::Password {
            user: "u".into(),
            password: "p".into(),
        }),
        ..Registry::default()
    };
    registry.pull(&store, &name(&server), &Silent).unwrap();
    assert_eq!(server.count("GET", "/token"), 1);
}

#[test]
fn an_identity_token_is_posted() {
    let image = image();
    let served = image.clone();
    let server = Server::start(move |seen| {
        if seen.target.starts_with("/token") {
            let form = String::from_utf8_lossy(&seen.body).into_owned();
            assert!(form.contains("grant_type=refresh_token"), "{form}");
            assert!(form.contains("refresh_token=idt"), "{form}");
            return Reply::new(200, r#"{"access_token":"T"}"#);
        }
        if seen.header("authorization") == "Bearer T" {
            return served.answer(seen);
        }
        let realm = format!("Bearer realm=\"http://{}/token\"", seen.header("host"));
        Reply::new(401, "").with("WWW-Authenticate", realm)
    });
    let (_dir, store) = store();
    let registry = Registry {
        credentials: Some(Credentials::IdentityToken("idt".into())),
        ..Registry::default()
    };
    registry.pull(&store, &name(&server), &Silent).unwrap();
    assert_eq!(server.count("POST", "/token"), 1);
}

#[test]
fn a_redirect_to_another_host_gets_no_credentials() {
    let image = image();
    let (front, back) = (image.clone(), image.clone());
    let storage = Server::start(move |seen| {
        assert_eq!(seen.header("authorization"), "");
        back.answer(seen)
    });
    let host = storage.host.clone();
    let server = Server::start(move |seen| {
        if seen.header("authorization") != "Basic dTpw" {
            return Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"r\"");
        }
        if seen.target.contains("/blobs/") {
            let location = format!("http://{host}{}", seen.target);
            return Reply::new(307, "").with("Location", location);
        }
        front.answer(seen)
    });
    let (_dir, store) = store();
    let registry = Registry {
        credentials: Some(Credentials::Password {
            user: "u".into(),
            password: "p".into(),
        }),
        ..Registry::default()
    };
    registry.pull(&store, &name(&server), &Silent).unwrap();
    assert_eq!(storage.count("GET", "/blobs/"), 3);
    assert!(
        storage
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_empty())
    );
}

type Answer = Box<dyn Fn(&Image, &Seen) -> Reply + Send + Sync>;

#[test]
fn what_is_wrong_is_named_and_nothing_is_kept() {
    let pull = |answer: Answer| {
        let image = image();
        let served = image.clone();
        let server = Server::start(move |seen| answer(&served, seen));
        let (dir, store) = store();
        let error = Registry::default()
            .pull(&store, &name(&server), &Silent)
            .unwrap_err();
        let all = store.has_layer(&image.diff_id(0)).unwrap()
            && store.has_layer(&image.diff_id(1)).unwrap();
        assert!(!all, "{error}");
        assert!(store.refs().unwrap().is_empty());
        drop(dir);
        (image, error)
    };
    let (image, error) = pull(Box::new(|image, seen| {
        let mut reply = image.answer(seen);
        if seen.target.ends_with(&image.blob(1).to_string()) {
            let at = reply.body.len() - 6;
            reply.body[at] ^= 1;
        }
        reply
    }));
    assert!(
        error.to_string().contains(&image.blob(1).to_string()),
        "{error}"
    );
    let (image, error) = pull(Box::new(|image, seen| {
        if seen.target.ends_with(&image.blob(1).to_string()) {
            return Reply::new(404, "");
        }
        image.answer(seen)
    }));
    assert!(matches!(error, ImageError::MissingMember { .. }), "{error}");
    assert!(
        error.to_string().contains(&image.blob(1).to_string()),
        "{error}"
    );
    let (_, error) = pull(Box::new(|image, seen| match image.answer(seen) {
        reply if seen.target.contains("/manifests/") => {
            let text = String::from_utf8(reply.body).unwrap();
            Reply::new(200, text.replace("v1.tar+gzip", "v1.tar+magic"))
        }
        reply => reply,
    }));
    assert!(error.to_string().contains("tar+magic"), "{error}");
    let (_, error) = pull(Box::new(|_, seen| {
        if seen.target == "/v2/" {
            Reply::new(200, "")
        } else {
            Reply::new(404, "no")
        }
    }));
    assert!(matches!(error, ImageError::ManifestUnknown(_)), "{error}");
    let (_, error) = pull(Box::new(|_, _| {
        Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"r\"")
    }));
    assert!(error.to_string().contains("pull access denied"), "{error}");
    let (_, error) = pull(Box::new(|_, seen| match seen.target.as_str() {
        "/v2/" => Reply::new(200, ""),
        _ => Reply::new(200, r#"{"schemaVersion":1}"#),
    }));
    assert!(error.to_string().contains("manifest.v1"), "{error}");
}

#[test]
fn a_manifest_asked_for_by_digest_must_have_it() {
    let image = image();
    let server = Server::start(move |seen| {
        let mut seen = seen.clone();
        if seen.target.contains("/manifests/") {
            seen.target = "/v2/x/manifests/t".into();
        }
        image.answer(&seen)
    });
    let (_dir, store) = store();
    let wrong = format!("{}/x@sha256:{}", server.host, "ab".repeat(32));
    let error = Registry::default()
        .pull(&store, &wrong.parse().unwrap(), &Silent)
        .unwrap_err();
    assert!(
        matches!(error, ImageError::DigestMismatch { .. }),
        "{error}"
    );
}

/// Debian's registry on a free port, ended when dropped.
struct RealRegistry {
    child: std::process::Child,
    host: String,
    _dir: tempfile::TempDir,
}

impl RealRegistry {
    fn start() -> Option<Self> {
        if !crate::testing::have("docker-registry") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: \"{host}\"}}\n",
            dir.path().join("data").display()
        );
        let file = dir.path().join("cfg.yml");
        std::fs::write(&file, config).unwrap();
        let child = std::process::Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..100 {
            if std::net::TcpStream::connect(&host).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Some(Self {
            child,
            host,
            _dir: dir,
        })
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[test]
fn a_real_registry_takes_what_we_push_and_gives_it_back() {
    let Some(real) = RealRegistry::start() else {
        return;
    };
    let image = image();
    let served = image.clone();
    let server = Server::start(move |seen| served.answer(seen));
    let (_dir, first) = store();
    let registry = Registry::default();
    registry.pull(&first, &name(&server), &Silent).unwrap();
    let target: ImageRef = format!("{}/a/b:v1", real.host).parse().unwrap();
    crate::images::tag(&first, &name(&server).to_string(), &target).unwrap();
    let progress = Recorder::default();
    let pushed = registry.push(&first, &target, &progress).unwrap();
    assert_eq!(progress.count("Complete"), 2);
    // Again, and under another repository: nothing is compressed or sent.
    let again = registry.push(&first, &target, &progress).unwrap();
    assert_eq!(again.digest, pushed.digest);
    let other: ImageRef = format!("{}/c:v1", real.host).parse().unwrap();
    crate::images::tag(&first, &target.to_string(), &other).unwrap();
    assert_eq!(
        registry.push(&first, &other, &progress).unwrap().digest,
        pushed.digest
    );
    assert_eq!(registry.tags(&target).unwrap(), ["v1"]);

    let (_dir, second) = store();
    let pulled = registry.pull(&second, &target, &progress).unwrap();
    assert_eq!((pulled.id, pulled.digest), (image.id(), pushed.digest));
    let pulled = registry.pull(&second, &target, &progress).unwrap();
    assert_eq!(pulled.status, PullStatus::UpToDate);
    let by_digest = target.at_digest(pushed.digest);
    registry.pull(&second, &by_digest, &progress).unwrap();
    assert_eq!(
        crate::images::find(&second, &by_digest.to_string())
            .unwrap()
            .0
            .config,
        image.id()
    );
    let absent = target.at_tag("absent").unwrap();
    let error = registry.pull(&second, &absent, &Silent).unwrap_err();
    assert!(error.to_string().contains("manifest unknown"), "{error}");
    let absent: ImageRef = format!("{}/none", real.host).parse().unwrap();
    let error = registry.pull(&second, &absent, &Silent).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
}

#[test]
fn mirrors_are_asked_first_and_passed_over_when_they_fail() {
    let image = image();
    let served = image.clone();
    let dead = Server::start(|_| Reply::new(404, ""));
    let mirror = Server::start(move |seen| {
        let mut seen = seen.clone();
        seen.target = seen.target.replace("/v2/hub/x/", "/v2/x/");
        served.answer(&seen)
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"example.invalid\"\n[[registry.mirror]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}/hub\"\n",
        dead.host, mirror.host
    );
    std::fs::write(&file, text).unwrap();
    let registry = Registry {
        conf: super::RegistriesConf::read(&[file]).unwrap(),
        ..Registry::default()
    };
    let (_dir, store) = store();
    let progress = Recorder::default();
    let wanted: ImageRef = "example.invalid/x:t".parse().unwrap();
    let pulled = registry.pull(&store, &wanted, &progress).unwrap();
    assert_eq!(pulled.id, image.id());
    assert_eq!(progress.count("passed over"), 1);
    assert!(crate::images::find(&store, "example.invalid/x:t").is_ok());
}
