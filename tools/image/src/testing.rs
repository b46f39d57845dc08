//! What the tests share: a registry that misbehaves on demand, and images made by hand.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use rrun_core::Digest;
use serde_json::json;

use crate::spec::{digest_of, media};
use crate::{Event, Progress};

/// A request as the server saw it; header names are lower-case.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Only this many bytes of the body are sent before the connection closes.
    pub(crate) cut: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// An HTTP server on a loopback port that lives as long as the test process.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) host: String,
    log: Log,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Log::default();
        let shared = Arc::clone(&log);
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&shared));
                std::thread::spawn(move || serve(stream, &*answer, &log));
            }
        });
        Self { host, log }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }

    /// How many requests had this method and a target containing `part`.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        let seen = self.seen();
        let fits = |one: &&Seen| one.method == method && one.target.contains(part);
        seen.iter().filter(fits).count()
    }
}

fn serve(mut stream: TcpStream, answer: &(impl Fn(&Seen) -> Reply + ?Sized), log: &Log) {
    let Some(seen) = read_request(&mut stream) else {
        return;
    };
    log.lock().unwrap().push(seen.clone());
    let reply = answer(&seen);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.body.len()));
    let sent = if seen.method == "HEAD" {
        0
    } else {
        reply.cut.unwrap_or(reply.body.len())
    };
    let _gone = stream.write_all(head.as_bytes());
    let _gone = stream.write_all(&reply.body[..sent]);
}

fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        let count = stream.read(&mut buffer).ok()?;
        bytes.extend_from_slice(&buffer[..count]);
        // 0x16 starts a TLS handshake, which this server does not speak.
        if count == 0 || bytes.first() == Some(&0x16) {
            return None;
        }
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .and_then(|len| len.parse().ok())
        .unwrap_or(0);
    let mut body = bytes[end + 4..].to_vec();
    let missing = usize::saturating_sub(length, body.len());
    let mut rest = vec![0; missing];
    stream.read_exact(&mut rest).ok()?;
    body.extend_from_slice(&rest);
    Some(Seen {
        method,
        target,
        headers,
        body,
    })
}

/// A layer tar of these files.
pub(crate) fn layer_tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, contents) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(contents.len() as u64);
        tar.append_data(&mut header, path, *contents).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// An image with gzip layers.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) tars: Vec<Vec<u8>>,
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl Image {
    pub(crate) fn new(layers: &[&[(&str, &[u8])]]) -> Self {
        Self::of_tars(layers.iter().map(|files| layer_tar(files)).collect())
    }

    pub(crate) fn of_tars(tars: Vec<Vec<u8>>) -> Self {
        let blobs: Vec<_> = tars.iter().map(|tar| gzip(tar)).collect();
        let diff_ids: Vec<_> = tars.iter().map(|tar| digest_of(tar).to_string()).collect();
        // Odd spacing and an unknown field: the bytes must survive everything.
        let config = format!(
            "{{ \"architecture\":\"{}\",\"os\":\"linux\",\"x.unknown\":  1,\n\"created\":\"2020-01-02T03:04:05Z\",\"config\":{{\"Cmd\":[\"sh\"]}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":{}}},\"history\":[{{\"created_by\":\"one\"}}]}}",
            crate::Arch::native().architecture,
            json!(diff_ids)
        )
        .into_bytes();
        let layers: Vec<_> = blobs
            .iter()
            .map(|blob| {
                json!({"mediaType": media::OCI_LAYER_GZIP, "size": blob.len(),
                       "digest": digest_of(blob).to_string()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_MANIFEST,
            "config": {"mediaType": media::OCI_CONFIG, "size": config.len(),
                       "digest": digest_of(&config).to_string()},
            "layers": layers,
        });
        Self {
            tars,
            blobs,
            config,
            manifest: manifest.to_string().into_bytes(),
        }
    }

    pub(crate) fn id(&self) -> Digest {
        digest_of(&self.config)
    }

    pub(crate) fn diff_id(&self, number: usize) -> Digest {
        digest_of(&self.tars[number])
    }

    pub(crate) fn blob(&self, number: usize) -> Digest {
        digest_of(&self.blobs[number])
    }

    /// What a well-behaved registry answers for the repository `x`, tag `t`.
    pub(crate) fn answer(&self, seen: &Seen) -> Reply {
        let last = seen.target.rsplit('/').next().unwrap_or("");
        if seen.target == "/v2/" {
            return Reply::new(200, "{}");
        }
        if seen.target.contains("/manifests/") {
            let known = last == "t" || last == digest_of(&self.manifest).to_string();
            if !known {
                let text =
                    r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
                return Reply::new(404, text);
            }
            return Reply::new(200, self.manifest.clone())
                .with("Content-Type", media::OCI_MANIFEST);
        }
        let all = self.blobs.iter().chain([&self.config]);
        let blob = all.clone().find(|blob| digest_of(blob).to_string() == last);
        match blob {
            Some(blob) => Reply::new(200, blob.clone()),
            None => Reply::new(404, ""),
        }
    }
}

/// Keeps the events as text.
#[derive(Debug, Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<String>>);

impl Progress for Recorder {
    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

impl Recorder {
    pub(crate) fn count(&self, part: &str) -> usize {
        let events = self.0.lock().unwrap();
        events.iter().filter(|event| event.contains(part)).count()
    }
}

/// Whether a program can be started here; says so when not.
pub(crate) fn have(program: &str) -> bool {
    let found = std::process::Command::new(program)
        .arg("--version")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}
