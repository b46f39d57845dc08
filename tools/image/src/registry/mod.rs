//! Registries: the distribution API over HTTP and HTTPS.

mod auth;
mod blob;
mod conf;
mod credentials;
mod http;
mod pull;
mod push;
mod url;

pub use conf::RegistriesConf;
pub use credentials::Credentials;
pub(crate) use http::fetch_url;
pub use pull::{PullStatus, Pulled, Registry};
pub(crate) use pull::{check_counts, now, record_layers, wanted_layers};
pub use push::Pushed;

#[cfg(test)]
mod tests;
