//! From a request to the libraries and back.

mod after_boot;
mod changes;
mod choice;
mod container;
mod copy_up;
mod cp;
mod create;
mod etc;
mod events;
mod fs_mode;
mod ground;
mod hidden;
mod image;
mod images;
mod init_layer;
mod inspect;
mod io_uring;
mod journal;
mod logs;
pub(crate) mod moment;
mod mount_points;
mod network;
mod oci;
mod overlayfs;
mod prune;
mod ps;
mod run;
mod stats;
mod system;
mod top;
mod transfer;
mod update;
mod volume;
mod within;

use crate::args::Call;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};

pub(crate) use hidden::{run as hidden, seal};
pub(crate) use oci::run as oci;
pub(crate) use run::Early;

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Does what was asked; `early` is what was begun before that was known.
pub(crate) fn dispatch(
    call: Call,
    environment: &Environment,
    early: Option<Early>,
) -> Result<ExitCode, Failure> {
    match call {
        Call::Run(args) => run::run(*args, environment, early),
        Call::Create(args) => run::create(*args, environment),
        Call::Start(args) => run::start_all(&args, environment),
        Call::Attach(args) => run::attach(&args, environment),
        Call::Stop(args) => container::stop(&args, environment),
        Call::Restart(args) => container::restart(&args, environment),
        Call::Kill(args) => container::kill(&args, environment),
        Call::Wait(args) => container::wait(&args, environment),
        Call::Rm(args) => container::rm(&args, environment),
        Call::Port(args) => network::port(&args, environment),
        Call::Rename(args) => container::rename(&args, environment),
        Call::Logs(args) => logs::logs(&args, environment),
        Call::Top(args) => top::top(&args, environment),
        Call::Cp(args) => cp::cp(&args, environment),
        Call::Events(args) => events::events(&args, environment),
        Call::Pause(args) => container::pause(&args, environment),
        Call::Unpause(args) => container::unpause(&args, environment),
        Call::Stats(args) => stats::stats(&args, environment),
        Call::Update(args) => update::update(&args, environment),
        Call::Exec(args) => container::exec_in(args, environment),
        Call::Ps(args) => ps::ps(&args, environment),
        Call::Version(args) => system::version(&args),
        Call::Info(args) => system::info(&args, environment),
        Call::VolumeCreate(args) => volume::create(&args, environment),
        Call::VolumeLs(args) => volume::ls(&args, environment),
        Call::VolumeInspect(args) => volume::inspect(&args, environment),
        Call::VolumeRm(args) => volume::rm(&args, environment),
        Call::VolumePrune(args) => prune::volumes(&args, environment),
        Call::Images(args) => images::ls(&args, environment),
        Call::Rmi(args) => images::rm(&args, environment),
        Call::Tag(args) => images::tag(&args, environment),
        Call::Untag(args) => images::untag(&args, environment),
        Call::History(args) => images::history(&args, environment),
        Call::Pull(args) => transfer::pull(&args, environment),
        Call::Push(args) => transfer::push(&args, environment),
        Call::Load(args) => transfer::load(&args, environment),
        Call::Save(args) => transfer::save(&args, environment),
        Call::Import(args) => transfer::import(&args, environment),
        Call::Diff(args) => changes::diff(&args, environment),
        Call::Commit(args) => changes::commit(&args, environment),
        Call::Export(args) => changes::export(&args, environment),
        Call::Inspect(args) => inspect::inspect(&args, environment),
        Call::ImagePrune(args) => prune::images(&args, environment),
        Call::ContainerPrune(args) => prune::containers(&args, environment),
        Call::ContainerExists(args) => choice::container_exists(&args.name, environment),
        Call::ImageExists(args) => Ok(choice::told(
            images::id_of(environment, &args.name).is_some(),
        )),
        Call::VolumeExists(args) => Ok(choice::told(
            volume::describe(environment, &args.name)?.is_some(),
        )),
        Call::SystemPrune(args) => prune::system(&args, environment),
        Call::StoreCheck(args) => system::check(&args, environment),
    }
}
