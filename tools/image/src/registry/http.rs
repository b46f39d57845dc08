//! One repository on one registry host: requests with authorization, redirects and retries.

use std::io::Read;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Method, Request, Response, StatusCode, header};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body, SendBody};

use crate::ImageError;
use crate::registry::auth::{Challenge, encode, token_of};
use crate::registry::conf::Endpoint;
use crate::registry::credentials::Credentials;
use crate::registry::url::{is_loopback, origin, resolve, same_origin};

/// Requests that fail for a passing reason are tried this often: five tries with doubling
/// pauses bridge about three seconds, the restart of a proxy or a lost Wi-Fi packet burst.
pub(crate) const ATTEMPTS_MAX: u32 = 5;
/// The first pause between two tries; each next one is twice as long.
const BACKOFF: Duration = Duration::from_millis(200);
/// The longest pause a server may ask for with `Retry-After`; more would look like a hang.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(20);
/// Redirects followed for one request: registries use one, object stores behind them two.
const REDIRECTS_MAX: usize = 5;
/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a server may think before its answer begins, and be silent inside a body.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest error text or token read: tokens stay below 16 KiB.
const SMALL_ANSWER_MAX: u64 = 1 << 20;
/// Characters of an error page kept for the message.
const MESSAGE_CHARS_MAX: usize = 200;
/// The host behind `docker.io`.
const HUB_HOST: &str = "registry-1.docker.io";

/// A request's body.
#[derive(Debug)]
pub(crate) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
}

/// A request before it is authorized and sent.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) accept: Option<&'static str>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) payload: Payload<'a>,
}

impl Ask<'_> {
    pub(crate) fn get(url: String) -> Self {
        Self {
            method: Method::GET,
            url,
            accept: None,
            headers: Vec::new(),
            payload: Payload::None,
        }
    }
}

/// A repository that has been reached. The lock guards the current `Authorization` value and is
/// never held while waiting for the network.
#[derive(Debug)]
pub(crate) struct Connection {
    agent: Agent,
    base: String,
    repository: String,
    display: String,
    scope: String,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<String>>,
}

/// What a client says of itself and wants to do.
#[derive(Debug, Clone)]
pub(crate) struct Intent<'a> {
    pub(crate) user_agent: &'a str,
    pub(crate) display: String,
    pub(crate) actions: &'static str,
    pub(crate) credentials: Option<Credentials>,
}

impl Connection {
    /// Finds out how to speak with the host (HTTPS, or HTTP where that is allowed) and gets a
    /// token if it wants one.
    pub(crate) fn open(endpoint: &Endpoint, intent: &Intent<'_>) -> Result<Self, ImageError> {
        let host = if endpoint.host == rrun_core::DEFAULT_DOMAIN {
            HUB_HOST
        } else {
            &endpoint.host
        };
        let loopback = is_loopback(host);
        let schemes: &[&str] = if endpoint.insecure || loopback {
            &["https", "http"]
        } else {
            &["https"]
        };
        let mut failure = None;
        for scheme in schemes {
            let connection = Self {
                agent: agent(intent.user_agent, endpoint.insecure || loopback, loopback),
                base: format!("{scheme}://{host}"),
                repository: endpoint.path.clone(),
                display: intent.display.clone(),
                scope: format!("repository:{}:{}", endpoint.path, intent.actions),
                credentials: intent.credentials.clone(),
                authorization: Mutex::new(None),
            };
            match connection.ping() {
                Ok(()) => return Ok(connection),
                Err(error @ ImageError::Network { .. }) => {
                    failure = Some(failure.filter(|_| !loopback).unwrap_or(error));
                }
                Err(other) => return Err(other),
            }
        }
        Err(failure.unwrap_or_else(|| ImageError::Network {
            url: host.to_owned(),
            reason: "no scheme to try".to_owned(),
        }))
    }

    fn ping(&self) -> Result<(), ImageError> {
        let url = format!("{}/v2/", self.base);
        let response = self.once(&Ask::get(url.clone()), &url, false)?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(challenge) = challenge_of(&response)
        {
            // Without credentials some repositories of a Basic registry may still be readable.
            if challenge != Challenge::Basic || self.credentials.is_some() {
                self.authorize(&challenge)?;
            }
        }
        Ok(())
    }

    /// The repository's path on this host.
    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }

    /// The address of something in this repository.
    pub(crate) fn url(&self, rest: &str) -> String {
        format!("{}/v2/{}/{rest}", self.base, self.repository)
    }

    /// Sends a request; answers 401 by authorizing once, passing failures by trying again.
    pub(crate) fn send(&self, ask: &Ask<'_>) -> Result<Response<Body>, ImageError> {
        let mut authorized = false;
        let mut attempt = 1;
        loop {
            let result = self.follow(ask);
            let pause = match &result {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !authorized => {
                    let Some(challenge) = challenge_of(response) else {
                        return result;
                    };
                    authorized = true;
                    self.authorize(&challenge)?;
                    continue;
                }
                Ok(response) if is_passing(response.status()) => {
                    retry_after(response).unwrap_or_else(|| backoff(attempt))
                }
                Ok(_) => return result,
                Err(ImageError::Network { .. }) => backoff(attempt),
                Err(_) => return result,
            };
            if attempt >= ATTEMPTS_MAX {
                return result;
            }
            attempt += 1;
            std::thread::sleep(pause);
        }
    }

    /// Sends once and follows redirects; another host gets no credentials.
    fn follow(&self, ask: &Ask<'_>) -> Result<Response<Body>, ImageError> {
        let mut url = ask.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.once(ask, &url, same_origin(&url, &self.base))?;
            let may_follow = ask.method == Method::GET || ask.method == Method::HEAD;
            if !(response.status().is_redirection() && may_follow) {
                return Ok(response);
            }
            let Some(location) = location_of(&response, &url) else {
                return Ok(response);
            };
            url = location;
        }
        Err(ImageError::Network {
            url: ask.url.clone(),
            reason: format!("more than {REDIRECTS_MAX} redirects"),
        })
    }

    fn once(
        &self,
        ask: &Ask<'_>,
        url: &str,
        authorize: bool,
    ) -> Result<Response<Body>, ImageError> {
        let mut request = self.builder(&ask.method, url, authorize);
        if let Some(accept) = ask.accept {
            request = request.header(header::ACCEPT, accept);
        }
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let network = |reason: String| ImageError::Network {
            url: url.to_owned(),
            reason,
        };
        let result = match ask.payload {
            Payload::None => {
                let request = request
                    .body(())
                    .map_err(|error| network(error.to_string()))?;
                self.agent.run(request)
            }
            Payload::Bytes(bytes) => {
                let request = request
                    .body(bytes)
                    .map_err(|error| network(error.to_string()))?;
                self.agent.run(request)
            }
        };
        result.map_err(|error| network(error.to_string()))
    }

    /// Sends a body that cannot be sent twice, so without retries.
    pub(crate) fn send_stream(
        &self,
        method: &Method,
        url: &str,
        headers: &[(&'static str, String)],
        body: &mut dyn Read,
    ) -> Result<Response<Body>, ImageError> {
        let mut request = self.builder(method, url, same_origin(url, &self.base));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let network = |reason: String| ImageError::Network {
            url: url.to_owned(),
            reason,
        };
        let request = request
            .body(SendBody::from_reader(body))
            .map_err(|error| network(error.to_string()))?;
        self.agent
            .run(request)
            .map_err(|error| network(error.to_string()))
    }

    fn builder(&self, method: &Method, url: &str, authorize: bool) -> ureq::http::request::Builder {
        let mut request = Request::builder().method(method.clone()).uri(url);
        if authorize {
            let current = self.authorization.lock().map(|value| value.clone());
            if let Ok(Some(value)) = current {
                request = request.header(header::AUTHORIZATION, value);
            }
        }
        request
    }

    /// Gets an `Authorization` value that answers the challenge.
    pub(crate) fn authorize(&self, challenge: &Challenge) -> Result<(), ImageError> {
        let value = match challenge {
            Challenge::Basic => self
                .credentials
                .as_ref()
                .and_then(Credentials::basic)
                .ok_or_else(|| self.denied("no basic auth credentials"))?,
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let scope = scope.as_deref().unwrap_or(&self.scope);
                self.token(realm, service.as_deref(), scope)?
            }
        };
        if let Ok(mut current) = self.authorization.lock() {
            *current = Some(value);
        }
        Ok(())
    }

    fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<String, ImageError> {
        if !realm.starts_with("https://") {
            let plain_allowed = realm.starts_with("http://")
                && (self.base.starts_with("http://") || self.credentials.is_none());
            if !plain_allowed {
                return Err(self.denied(&format!(
                    "it wants a password sent to {realm:?}, which is not https"
                )));
            }
        }
        let mut query = String::new();
        if let Some(service) = service {
            query.push_str(&format!("service={}&", encode(service)));
        }
        let mut response = match &self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                let form = format!(
                    "grant_type=refresh_token&{query}client_id=rrun&scope={}&refresh_token={}",
                    encode(scope),
                    encode(token)
                );
                let request = Request::post(realm)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                self.run_small(request, realm, Some(form.as_bytes()))?
            }
            Some(Credentials::Password { .. }) | None => {
                query.push_str(&format!("scope={}&", encode(scope)));
                let join = if realm.contains('?') { '&' } else { '?' };
                let url = format!("{realm}{join}{}", query.trim_end_matches('&'));
                let mut request = Request::get(&url);
                if let Some(basic) = self.credentials.as_ref().and_then(Credentials::basic) {
                    request = request.header(header::AUTHORIZATION, basic);
                }
                self.run_small(request, realm, None)?
            }
        };
        let status = response.status();
        let answer = small_body(&mut response);
        if matches!(status.as_u16(), 400 | 401 | 403) {
            return Err(self.denied(&message_of(&answer, status).1));
        }
        match token_of(&answer) {
            Some(token) if status.is_success() => Ok(format!("Bearer {token}")),
            _ => Err(ImageError::Registry {
                url: realm.to_owned(),
                status: status.as_u16(),
                message: "no token in the answer".to_owned(),
            }),
        }
    }

    fn run_small(
        &self,
        request: ureq::http::request::Builder,
        url: &str,
        body: Option<&[u8]>,
    ) -> Result<Response<Body>, ImageError> {
        let network = |reason: String| ImageError::Network {
            url: url.to_owned(),
            reason,
        };
        let result = match body {
            Some(bytes) => {
                let request = request
                    .body(bytes)
                    .map_err(|error| network(error.to_string()))?;
                self.agent.run(request)
            }
            None => {
                let request = request
                    .body(())
                    .map_err(|error| network(error.to_string()))?;
                self.agent.run(request)
            }
        };
        result.map_err(|error| network(error.to_string()))
    }

    fn denied(&self, reason: &str) -> ImageError {
        let action = if self.scope.ends_with("push") {
            "push"
        } else {
            "pull"
        };
        ImageError::Denied {
            action,
            name: self.display.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Turns an unwanted answer into an error that says what the server said.
    pub(crate) fn refusal(&self, url: &str, mut response: Response<Body>) -> ImageError {
        let status = response.status();
        let answer = small_body(&mut response);
        let (code, message) = message_of(&answer, status);
        match code.as_str() {
            "UNAUTHORIZED" | "DENIED" | "NAME_UNKNOWN" => self.denied(&message),
            "MANIFEST_UNKNOWN" => ImageError::ManifestUnknown(self.display.clone()),
            _ if matches!(status.as_u16(), 401 | 403) => self.denied(&message),
            _ if status == StatusCode::NOT_FOUND && url.contains("/manifests/") => {
                ImageError::ManifestUnknown(self.display.clone())
            }
            _ => ImageError::Registry {
                url: url.to_owned(),
                status: status.as_u16(),
                message,
            },
        }
    }
}

fn agent(user_agent: &str, insecure: bool, loopback: bool) -> Agent {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(user_agent)
        .accept_encoding("")
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(SILENCE_TIMEOUT))
        .timeout_per_read(Some(SILENCE_TIMEOUT))
        .timeout_per_write(Some(SILENCE_TIMEOUT));
    if loopback {
        config = config.proxy(None);
    }
    if insecure {
        config = config.tls_config(TlsConfig::builder().disable_verification(true).build());
    }
    config.build().new_agent()
}

/// Opens an address given by the user for reading; redirects are followed.
pub(crate) fn fetch_url(url: &str) -> Result<ureq::BodyReader<'static>, ImageError> {
    let host = origin(url).split("://").nth(1).unwrap_or("");
    let agent = agent(
        concat!("rrun/", env!("CARGO_PKG_VERSION")),
        false,
        is_loopback(host),
    );
    let network = |reason: String| ImageError::Network {
        url: url.to_owned(),
        reason,
    };
    let mut next = url.to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let response = agent
            .get(&next)
            .call()
            .map_err(|error| network(error.to_string()))?;
        let status = response.status();
        if status == StatusCode::OK {
            let body = response.into_body().into_with_config();
            return Ok(body.limit(u64::MAX).reader());
        }
        match location_of(&response, &next) {
            Some(location) if status.is_redirection() => next = location,
            Some(_) | None => {
                return Err(ImageError::Registry {
                    url: url.to_owned(),
                    status: status.as_u16(),
                    message: status.canonical_reason().unwrap_or("no file").to_owned(),
                });
            }
        }
    }
    Err(network(format!("more than {REDIRECTS_MAX} redirects")))
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502..=504)
}

/// The pause before the try after number `attempt`.
pub(crate) fn backoff(attempt: u32) -> Duration {
    BACKOFF.saturating_mul(1 << attempt.saturating_sub(1).min(8))
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The challenge of an answer.
pub(crate) fn challenge_of(response: &Response<Body>) -> Option<Challenge> {
    let found: Vec<_> = response
        .headers()
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| Challenge::parse(value.to_str().ok()?))
        .collect();
    found
        .iter()
        .find(|challenge| **challenge != Challenge::Basic)
        .or_else(|| found.first())
        .cloned()
}

/// The `Location` of an answer to a request for `url`, made absolute.
pub(crate) fn location_of(response: &Response<Body>, url: &str) -> Option<String> {
    let text = response.headers().get(header::LOCATION)?.to_str().ok()?;
    Some(resolve(url, text))
}

/// The next page of a list: the `Link` header with `rel=next`.
pub(crate) fn next_page(response: &Response<Body>, url: &str) -> Option<String> {
    let text = response.headers().get(header::LINK)?.to_str().ok()?;
    let (target, parameters) = text.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.replace(['"', ' '], "").contains("rel=next");
    is_next.then(|| resolve(url, target))
}

/// Reads a body of at most `limit` bytes.
pub(crate) fn read_body(
    response: &mut Response<Body>,
    limit: u64,
    object: &str,
) -> Result<Vec<u8>, ImageError> {
    let body = response.body_mut().with_config().limit(limit + 1);
    body.read_to_vec().map_err(|error| {
        if matches!(error, ureq::Error::BodyExceedsLimit(_)) {
            return ImageError::TooBig {
                object: object.to_owned(),
                limit_bytes: limit,
            };
        }
        ImageError::Network {
            url: object.to_owned(),
            reason: error.to_string(),
        }
    })
}

fn small_body(response: &mut Response<Body>) -> Vec<u8> {
    read_body(response, SMALL_ANSWER_MAX, "answer").unwrap_or_default()
}

/// The first error's code and message, or what can be said of an answer that has none.
fn message_of(answer: &[u8], status: StatusCode) -> (String, String) {
    let value: Value = serde_json::from_slice(answer).unwrap_or(Value::Null);
    let text = |pointer: &str| {
        let found = value.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or("").to_owned()
    };
    let code = text("/errors/0/code");
    let mut message = text("/errors/0/message");
    if message.is_empty() {
        message = text("/details");
    }
    if message.is_empty() {
        let page = String::from_utf8_lossy(answer);
        message = page
            .chars()
            .filter(|letter| !letter.is_control())
            .take(MESSAGE_CHARS_MAX)
            .collect();
    }
    if message.is_empty() {
        message = status
            .canonical_reason()
            .unwrap_or("no reason given")
            .to_owned();
    }
    (code, message)
}
