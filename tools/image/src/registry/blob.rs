//! A blob as a stream that survives broken connections.

use std::io::{self, Read};

use rrun_core::Digest;
use ureq::BodyReader;
use ureq::http::{Response, StatusCode, header};

use crate::registry::http::{ATTEMPTS_MAX, Ask, Connection, backoff};
use crate::{Event, ImageError, LayerState, Progress};

/// Reads a blob; when the connection breaks it goes on with a `Range` request from where it
/// was. Whoever reads checks the digest: nothing here is believed.
pub(crate) struct BlobReader<'a> {
    connection: &'a Connection,
    progress: &'a dyn Progress,
    digest: Digest,
    size: u64,
    at: u64,
    body: Option<BodyReader<'static>>,
    /// Tries since the last byte arrived.
    attempts: u32,
}

impl<'a> BlobReader<'a> {
    /// Opens the blob; `size` is what its descriptor announces.
    pub(crate) fn open(
        connection: &'a Connection,
        digest: Digest,
        size: u64,
        progress: &'a dyn Progress,
    ) -> Result<Self, ImageError> {
        let mut reader = Self {
            connection,
            progress,
            digest,
            size,
            at: 0,
            body: None,
            attempts: 0,
        };
        reader.connect()?;
        Ok(reader)
    }

    fn connect(&mut self) -> Result<(), ImageError> {
        let url = self.connection.url(&format!("blobs/{}", self.digest));
        let mut ask = Ask::get(url.clone());
        if self.at > 0 {
            ask.headers.push(("range", format!("bytes={}-", self.at)));
        }
        let response = self.connection.send(&ask)?;
        match response.status() {
            StatusCode::OK => {
                let mut body = unlimited(response);
                // A server without ranges starts over: pass over what is already here.
                skip(&mut body, self.at).map_err(|error| ImageError::Network {
                    url,
                    reason: error.to_string(),
                })?;
                self.body = Some(body);
                Ok(())
            }
            StatusCode::PARTIAL_CONTENT if starts_at(&response, self.at) => {
                self.body = Some(unlimited(response));
                Ok(())
            }
            StatusCode::NOT_FOUND => Err(ImageError::MissingMember {
                archive: format!("the registry's repository {}", self.connection.repository()),
                member: format!("blob {}", self.digest),
            }),
            _ => Err(self.connection.refusal(&url, response)),
        }
    }

    /// Prepares another try, or gives up with `reason`.
    fn reconnect(&mut self, reason: &str) -> io::Result<()> {
        loop {
            self.body = None;
            self.attempts += 1;
            if self.attempts >= ATTEMPTS_MAX {
                return Err(io::Error::other(format!(
                    "blob {} broke off after {} of {} bytes: {reason}",
                    self.digest, self.at, self.size
                )));
            }
            self.progress.event(&Event::Layer {
                digest: self.digest,
                state: LayerState::Retrying {
                    attempt: self.attempts,
                    at: self.at,
                },
            });
            std::thread::sleep(backoff(self.attempts));
            match self.connect() {
                Ok(()) => return Ok(()),
                Err(ImageError::Network { .. }) => {}
                Err(other) => return Err(io::Error::other(other.to_string())),
            }
        }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let want = buf.len().min(left);
        if want == 0 {
            return Ok(0);
        }
        loop {
            let result = match &mut self.body {
                Some(body) => body.read(&mut buf[..want]),
                None => Ok(0),
            };
            match result {
                Ok(0) => self.reconnect("the body ended early")?,
                Ok(count) => {
                    self.at += count as u64;
                    self.attempts = 0;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.reconnect(&error.to_string())?,
            }
        }
    }
}

fn unlimited(response: Response<ureq::Body>) -> BodyReader<'static> {
    response
        .into_body()
        .into_with_config()
        .limit(u64::MAX)
        .reader()
}

fn skip(body: &mut impl Read, count: u64) -> io::Result<()> {
    let skipped = io::copy(&mut body.take(count), &mut io::sink())?;
    if skipped == count {
        return Ok(());
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn starts_at(response: &Response<ureq::Body>, at: u64) -> bool {
    let text = response
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let start = text
        .strip_prefix("bytes ")
        .and_then(|rest| rest.split('-').next())
        .and_then(|start| start.trim().parse::<u64>().ok());
    start == Some(at)
}
