//! Access control lists of lower files, which the union keeps and follows itself.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]
#![allow(dead_code, reason = "the common module is shared with the model test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use common::{is_root, no_umask, options};
use rrun_union::{Caller, DirLayers, IdStore, Ino, SetAttr, Union};
use rustix::fs::{self as rfs, XattrFlags};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// `user::rwx user:1000:rwx group::--- mask::MASK other::---`.
fn acl(mask: u16) -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, id) in [
        (0x01_u16, 7_u16, u32::MAX),
        (0x02, 7, 1000),
        (0x04, 0, u32::MAX),
        (0x10, mask, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&bits.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    acl
}

/// A lower directory with a default ACL and a lower file with an ACL, below a fresh upper directory.
fn union(root: &Path, ids: IdStore) -> Option<Union> {
    no_umask();
    for dir in ["l/d", "u", "w"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let (dir, file) = (root.join("l/d"), root.join("l/f"));
    fs::write(&file, "text").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let set = |path: &Path, name: &str| rfs::setxattr(path, name, &acl(7), XattrFlags::empty());
    if let Err(error) = set(&dir, DEFAULT).and_then(|()| set(&file, ACCESS)) {
        println!("skipped: no ACLs on {}: {error}", root.display());
        return None;
    }
    let lower = Arc::new(DirLayers::open(&[root.join("l")], false).unwrap());
    let upper = (root.join("u"), root.join("w"));
    Some(Union::open(lower, Some((&upper.0, &upper.1)), options(ids, true)).unwrap())
}

fn kinds() -> Vec<IdStore> {
    if is_root() {
        vec![IdStore::Virtual, IdStore::Real]
    } else {
        vec![IdStore::Virtual]
    }
}

#[test]
fn a_new_file_inherits_from_a_directory_that_was_below() {
    for ids in kinds() {
        let place = tempfile::tempdir().unwrap();
        let Some(union) = union(place.path(), ids) else {
            return;
        };
        let caller = Caller {
            umask: 0o077,
            ..Caller::default()
        };
        let dir = union.lookup(Ino::ROOT, b"d").unwrap().ino;
        let made = union.mkdir(dir, b"new", 0o777, &caller).unwrap();
        assert_eq!(made.attr.perm, 0o770, "{ids:?}");
        let inherited = union.getxattr(made.ino, DEFAULT.as_bytes()).unwrap();
        assert_eq!(inherited, acl(7), "{ids:?}");
    }
}

#[test]
fn the_mask_of_a_file_that_was_below_follows_its_mode() {
    for ids in kinds() {
        let place = tempfile::tempdir().unwrap();
        let Some(union) = union(place.path(), ids) else {
            return;
        };
        let file = union.lookup(Ino::ROOT, b"f").unwrap().ino;
        let set = SetAttr {
            perm: Some(0o740),
            ..SetAttr::default()
        };
        assert_eq!(union.setattr(file, &set).unwrap().perm, 0o740, "{ids:?}");
        let masked = union.getxattr(file, ACCESS.as_bytes()).unwrap();
        assert_eq!(masked, acl(4), "{ids:?}");
    }
}
