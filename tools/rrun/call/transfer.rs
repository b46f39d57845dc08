//! Images in and out: registries and archives.

use std::io::IsTerminal;

use rrun_image::archive::{self, Input, SaveFormat};
use rrun_image::create::{self, Labels};
use rrun_image::registry::PullStatus;
use rrun_image::{Event, Progress as _};

use super::image::{Doing, Show, arch, failed, reference, registry};
use super::images::store;
use crate::args::{ImportArgs, LoadArgs, PullArgs, PushArgs, SaveArgs};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::report;

/// `rrun pull`.
pub(crate) fn pull(args: &PullArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let registry = registry(environment, args.platform.as_deref())?;
    let image = reference(&args.image, &registry.conf)?;
    let store = store(environment)?;
    let mut wanted = vec![image.clone()];
    if args.all_tags {
        let tags = registry.tags(&image).map_err(|error| failed(&error))?;
        wanted = tags
            .iter()
            .map(|tag| image.at_tag(tag).map_err(Failure::from))
            .collect::<Result<_, _>>()?;
    }
    for image in wanted {
        let show = Show::new(Doing::Pulling, args.quiet);
        let pulled = registry
            .pull(&store, &image, &show)
            .map_err(|error| failed(&error))?;
        let status = match pulled.status {
            PullStatus::Downloaded => "Downloaded newer image",
            PullStatus::UpToDate => "Image is up to date",
        };
        show.event(&Event::Note(&format!(
            "Status: {status} for {}",
            pulled.image
        )));
        report::line(&pulled.image.canonical())?;
    }
    Ok(ExitCode::OK)
}

/// `rrun push`.
pub(crate) fn push(args: &PushArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let registry = registry(environment, None)?;
    let image = reference(&args.image, &registry.conf)?;
    let show = Show::new(Doing::Pushing, args.quiet);
    let pushed = registry
        .push(&store(environment)?, &image, &show)
        .map_err(|error| failed(&error))?;
    if args.quiet {
        report::line(&image.or_latest().canonical())?;
    } else {
        report::line(&format!(
            "{}: digest: {} size: {}",
            image.or_latest().tag().unwrap_or("latest"),
            pushed.digest,
            pushed.size
        ))?;
    }
    Ok(ExitCode::OK)
}

/// `rrun load`.
pub(crate) fn load(args: &LoadArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let mut stdin;
    let input = match &args.input {
        Some(path) => Input::Path(path),
        None if std::io::stdin().is_terminal() => {
            return Err(
                Failure::general("requested load from stdin, but stdin is empty")
                    .hint("name a file with -i"),
            );
        }
        None => {
            stdin = std::io::stdin().lock();
            Input::Stream(&mut stdin)
        }
    };
    let show = Show::new(Doing::Loading, args.quiet);
    let store = store(environment)?;
    let loaded =
        archive::load(&store, input, &arch(None)?, &show).map_err(|error| failed(&error))?;
    for image in loaded {
        for name in &image.names {
            report::line(&format!("Loaded image: {name}"))?;
        }
        if image.names.is_empty() {
            report::line(&format!("Loaded image ID: {}", image.id))?;
        }
    }
    Ok(ExitCode::OK)
}

/// `rrun save`.
pub(crate) fn save(args: &SaveArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let format = SaveFormat::from_word(&args.format).ok_or_else(|| {
        Failure::flags(format!(
            "invalid argument {:?} for \"--format\"",
            args.format
        ))
        .hint("there are: docker-archive, oci-archive, oci-dir")
    })?;
    let store = store(environment)?;
    match &args.output {
        Some(path) => archive::save_to_path(&store, &args.images, format, path),
        None if std::io::stdout().is_terminal() => {
            return Err(Failure::general("cowardly refusing to save to a terminal")
                .hint("use the -o flag or redirect"));
        }
        None => {
            archive::save_to_stream(&store, &args.images, format, &mut std::io::stdout().lock())
        }
    }
    .map_err(|error| failed(&error))?;
    Ok(ExitCode::OK)
}

/// `rrun import`.
pub(crate) fn import(args: &ImportArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let conf = rrun_image::registry::RegistriesConf::default();
    let name = args
        .reference
        .as_deref()
        .map(|text| reference(text, &conf))
        .transpose()?;
    let labels = Labels {
        name: name.as_ref(),
        changes: &args.change,
        message: args.message.as_deref().unwrap_or_default(),
        author: "",
    };
    let arch = arch(args.platform.as_deref())?;
    let show = Show::new(Doing::Loading, false);
    let store = store(environment)?;
    let source = args.source.as_str();
    let id = if source == "-" {
        let mut stdin = std::io::stdin().lock();
        create::import(&store, Input::Stream(&mut stdin), &labels, &arch, &show)
    } else if source.starts_with("http://") || source.starts_with("https://") {
        create::import_url(&store, source, &labels, &arch, &show)
    } else {
        create::import(&store, Input::Path(source.as_ref()), &labels, &arch, &show)
    }
    .map_err(|error| failed(&error))?;
    report::line(&id.to_string())?;
    Ok(ExitCode::OK)
}
