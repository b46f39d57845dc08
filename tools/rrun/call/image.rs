//! Commands on images, and fetching the image of a `run`.

use rrun_core::ImageRef;
use rrun_image::registry::{RegistriesConf, Registry};
use rrun_image::{Arch, Event, ImageError, LayerState, Progress as _, images};
use rrun_store::{ImageRecord, Store};

use crate::environment::Environment;
use crate::failure::{ExitCode, Failure, chain};
use crate::report::{self, Progress};
use crate::request::{CreateRequest, PullWhen};

/// An image error with its hint.
pub(crate) fn failed(error: &ImageError) -> Failure {
    let failure = Failure::general(chain(error));
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// What a transfer does, in the words of its progress lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    Pulling,
    Pushing,
    Loading,
}

/// Shows the events of a transfer.
#[derive(Debug)]
pub(crate) struct Show {
    lines: Progress,
    doing: Doing,
}

impl Show {
    /// Shows nothing when `quiet`.
    pub(crate) fn new(doing: Doing, quiet: bool) -> Self {
        Self {
            lines: Progress::new(quiet),
            doing,
        }
    }
}

impl rrun_image::Progress for Show {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::DefaultTag(tag) => self.lines.say(&format!("Using default tag: {tag}")),
            Event::Pulling(image) => {
                let tag = image.tag().unwrap_or("latest");
                self.lines
                    .say(&format!("{tag}: Pulling from {}", image.path()));
            }
            Event::Pushing(image) => {
                self.lines
                    .say(&format!("The push refers to repository [{}]", image.name()));
            }
            Event::Layer { digest, state } => self.layer(&digest.short(), *state),
            Event::Digest(digest) => self.lines.say(&format!("Digest: {digest}")),
            Event::Note(text) => self.lines.say(text),
            _ => {}
        }
    }
}

impl Show {
    fn layer(&self, part: &str, state: LayerState) {
        let (moving, done, there) = match self.doing {
            Doing::Pulling => ("Downloading", "Pull complete", "Already exists"),
            Doing::Pushing => ("Pushing", "Pushed", "Layer already exists"),
            Doing::Loading => ("Loading layer", "Loaded", "Already exists"),
        };
        match state {
            LayerState::Waiting if self.doing == Doing::Loading => {}
            LayerState::Waiting => self.lines.state(part, "Waiting"),
            LayerState::Exists => self.lines.state(part, there),
            LayerState::Moving { done, total } => self.lines.bytes(part, moving, done, total),
            LayerState::Retrying { attempt, at } => {
                let text = format!("Retrying at byte {at} (attempt {attempt})");
                self.lines.state(part, &text);
            }
            LayerState::Complete => self.lines.state(part, done),
        }
    }
}

/// A name as typed, after the aliases of registries.conf.
pub(crate) fn reference(text: &str, conf: &RegistriesConf) -> Result<ImageRef, Failure> {
    let full = conf.alias(text).unwrap_or_else(|| text.to_owned());
    full.parse::<ImageRef>().map_err(|error| {
        Failure::new(
            ExitCode::FLAGS,
            format!("invalid reference format: {text:?}: {error}"),
        )
    })
}

/// How registries are spoken with, from the files of this user.
pub(crate) fn registry(
    environment: &Environment,
    platform: Option<&str>,
) -> Result<Registry, Failure> {
    let conf = RegistriesConf::read(&environment.registries_files)?;
    Ok(Registry {
        conf,
        credential_files: environment.auth_files.clone(),
        arch: arch(platform)?,
        user_agent: format!("rrun/{}", super::VERSION),
        ..Registry::default()
    })
}

/// The architecture of `--platform`; this machine's without it.
pub(crate) fn arch(platform: Option<&str>) -> Result<Arch, Failure> {
    let Some(text) = platform else {
        return Ok(Arch::native());
    };
    let mut parts = text.split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("linux"), Some(architecture), variant) if !architecture.is_empty() => Ok(Arch {
            architecture: architecture.to_owned(),
            variant: variant.unwrap_or_default().to_owned(),
        }),
        _ => {
            Err(Failure::flags(format!("invalid platform {text:?}"))
                .hint("it looks like linux/arm64"))
        }
    }
}

/// The image of a container to be made.
pub(crate) fn find_or_pull(
    store: &Store,
    name: &str,
    request: &CreateRequest,
    environment: &Environment,
    quiet: bool,
) -> Result<ImageRecord, Failure> {
    if request.pull != PullWhen::Always {
        match images::find(store, name) {
            Ok((record, _)) => return Ok(record),
            Err(ImageError::NoSuchImage(_)) if request.pull == PullWhen::Missing => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    let registry = registry(environment, request.platform.as_deref())?;
    let image = reference(name, &registry.conf)?.or_latest();
    if request.pull == PullWhen::Missing {
        report::note(&format!("Unable to find image '{image}' locally"));
    }
    let show = Show::new(Doing::Pulling, quiet);
    let pulled = registry
        .pull(store, &image, &show)
        .map_err(|error| failed(&error))?;
    show.event(&Event::Note(&format!(
        "Status: Downloaded newer image for {}",
        pulled.image
    )));
    let (record, _) =
        images::find(store, &pulled.image.canonical()).map_err(|error| failed(&error))?;
    Ok(record)
}
