//! `version`, `info`.

use std::fs;

use serde_json::json;

use crate::args::{InfoArgs, VersionArgs};
use crate::call::VERSION;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::report;

/// `rrun version`: a client and an engine block, as scripts expect, though both are this file.
pub(crate) fn version(args: &VersionArgs) -> Result<ExitCode, Failure> {
    let os = std::env::consts::OS;
    let arch = oci_architecture();
    if args.format.is_some() {
        let block = json!({"Version": VERSION, "Os": os, "Arch": arch, "KernelVersion": kernel()});
        let object = json!({"Client": block.clone(), "Server": block});
        report::objects(
            args.format.as_deref().map(|format| {
                if format == "json" {
                    "{{json .}}"
                } else {
                    format
                }
            }),
            &[object],
        )?;
        return Ok(ExitCode::OK);
    }
    report::text_out(&format!(
        "Client:\n Version:           {VERSION}\n OS/Arch:           {os}/{arch}\n\n\
         Server: (none; the client is the engine)\n Engine:\n  Version:          {VERSION}\n  \
         OS/Arch:          {os}/{arch}\n  Kernel:           {}\n",
        kernel()
    ))?;
    Ok(ExitCode::OK)
}

/// The architecture's name in image configs.
pub(crate) fn oci_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// `rrun info`.
pub(crate) fn info(args: &InfoArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let object = json!({
        "ServerVersion": VERSION,
        "KernelVersion": kernel(),
        "OSType": std::env::consts::OS,
        "Architecture": oci_architecture(),
        "DockerRootDir": environment.data_dir.display().to_string(),
        "RuntimeDir": environment.runtime_dir.display().to_string(),
        "Rootless": environment.uid != 0,
        "Driver": "rrun-union (FUSE)",
        "Uplinks": super::network::uplinks(environment),
        "FuseDevice": fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok(),
    });
    if let Some(format) = args.format.as_deref() {
        let format = if format == "json" {
            "{{json .}}"
        } else {
            format
        };
        report::objects(Some(format), &[object])?;
        return Ok(ExitCode::OK);
    }
    if let Some(map) = object.as_object() {
        for (key, value) in map {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), ToOwned::to_owned);
            report::line(&format!(" {key}: {text}"))?;
        }
    }
    Ok(ExitCode::OK)
}

/// `rrun store check`.
pub(crate) fn check(
    args: &crate::args::StoreCheckArgs,
    environment: &Environment,
) -> Result<ExitCode, Failure> {
    let store = super::images::store(environment)?;
    let repair = if args.repair {
        rrun_store::Repair::Yes
    } else {
        rrun_store::Repair::No
    };
    let found = store.check(repair)?;
    for problem in &found.problems {
        report::line(problem)?;
    }
    let bytes = crate::human::size(found.bytes);
    report::line(&format!(
        "checked {} files, {bytes}: {} problems",
        found.checked,
        found.problems.len()
    ))?;
    for layer in &found.broken_layers {
        report::line(&format!("layer {layer} must be fetched again"))?;
    }
    Ok(if found.problems.is_empty() {
        ExitCode::OK
    } else {
        ExitCode::GENERAL
    })
}
