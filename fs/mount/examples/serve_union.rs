//! Serves a union of plain directories: `serve_union UPPER WORK MOUNTPOINT LOWER...`, the first
//! lower directory uppermost. Ends when it is unmounted. Needs root.
#![allow(clippy::expect_used, missing_docs, reason = "an example")]

use std::path::PathBuf;
use std::sync::Arc;

use rrun_mount::{ServeOptions, Stats, mount, serve};
use rrun_union::{DirLayers, IdStore, Options, Union, XattrDialect};
use rustix::mount::MountFlags;

fn main() {
    let mut args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let layers = args.split_off(3.min(args.len()));
    let [upper, work, place] = args.as_slice() else {
        return;
    };
    // The caller's mask is applied by the union, per request.
    let _old = rustix::process::umask(rustix::fs::Mode::empty());
    let lower = Arc::new(DirLayers::open(&layers, false).expect("lower"));
    let options = Options {
        ids: IdStore::Real,
        xattrs: XattrDialect::Trusted,
        ..Options::default()
    };
    let union = Arc::new(Union::open(lower, Some((upper, work)), options).expect("union"));
    let mounted = mount(place, "serve_union", MountFlags::empty()).expect("mount");
    let connection = mounted.connection().expect("device");
    let (options, stats) = (ServeOptions::default(), Stats::default());
    serve(&connection, &union, &options, &stats, &|| {}).expect("serve");
}
