//! From a request to the libraries and back.

use std::ffi::OsString;

use crate::args::Call;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};

mod system;
mod volume;

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The programs that are not commands: parts of a running container, and other names of ours.
pub(crate) fn hidden(argv: &[OsString]) -> Option<ExitCode> {
    let _first = argv.get(1)?;
    None
}

/// Does what was asked.
pub(crate) fn dispatch(call: Call, environment: Environment) -> Result<ExitCode, Failure> {
    match call {
        Call::Run(args) => {
            let request = crate::request::create(args.create, "run")?;
            Err(Failure::general(format!("not available yet: {request:?}")))
        }
        Call::Create(args) => {
            let request = crate::request::create(*args, "create")?;
            Err(Failure::general(format!("not available yet: {request:?}")))
        }
        Call::Exec(args) => {
            let request = crate::request::exec(args)?;
            Err(Failure::general(format!("not available yet: {request:?}")))
        }
        Call::Version(args) => system::version(&args),
        Call::Info(args) => system::info(&args, &environment),
        Call::VolumeCreate(args) => volume::create(&args, &environment),
        Call::VolumeLs(args) => volume::ls(&args, &environment),
        Call::VolumeInspect(args) => volume::inspect(&args, &environment),
        Call::VolumeRm(args) => volume::rm(&args, &environment),
        call => Err(Failure::general(format!("not available yet: {call:?}"))),
    }
}
