//! How a union behaves.

/// Where owners, modes and devices of files in the upper directory are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdStore {
    /// In the files themselves: we may chown and mknod.
    Real,
    /// In `user.containers.override_stat`: every file on disk belongs to the server's user.
    Virtual,
}

/// A run of ids that exist inside the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdWindow {
    /// First id.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// Which owner a viewer is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdView {
    /// The true one.
    True,
    /// Everything belongs to these: what a container with one id sees.
    Squash {
        /// Shown owner.
        uid: u32,
        /// Shown group.
        gid: u32,
    },
    /// The true one if it lies in a window, else 65534.
    Windows {
        /// Users that exist.
        uids: Vec<IdWindow>,
        /// Groups that exist.
        gids: Vec<IdWindow>,
    },
}

/// The id shown for one that does not exist inside.
///
/// Source: `/proc/sys/kernel/overflowuid`, its default.
pub(crate) const OVERFLOW_ID: u32 = 65_534;

impl IdView {
    pub(crate) fn show(&self, uid: u32, gid: u32) -> (u32, u32) {
        let inside = |windows: &[IdWindow], id: u32| {
            let found = windows
                .iter()
                .any(|w| id >= w.start && id - w.start < w.count);
            if found { id } else { OVERFLOW_ID }
        };
        match self {
            Self::True => (uid, gid),
            Self::Squash { uid, gid } => (*uid, *gid),
            Self::Windows { uids, gids } => (inside(uids, uid), inside(gids, gid)),
        }
    }
}

/// The namespace of the marks in the upper directory.
///
/// Source: kernel `Documentation/filesystems/overlayfs.rst`, "userxattr".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrDialect {
    /// `trusted.overlay.`: needs `CAP_SYS_ADMIN` in the initial user namespace.
    Trusted,
    /// `user.overlay.`.
    User,
}

/// Who writes the upper directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A union.
    Union,
    /// The kernel's overlayfs, mounted on a read-only union over FUSE. Such an upper directory can
    /// only be looked at.
    Kernel,
}

/// When reading a file sets its access time.
///
/// Source: `mount(8)`, the options `relatime`, `strictatime`, `noatime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessTimes {
    /// Once after each change, and once a day.
    Relative,
    /// Each time.
    Strict,
    /// Never.
    Never,
}

/// Through which mount the upper directory is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpperMount {
    /// The one it was found through.
    Shared,
    /// A private copy, as in kernel overlayfs: the other can be unmounted meanwhile, and its
    /// flags for access times do not matter. Where the privilege for it is missing, as `Shared`.
    Private,
}

/// How a [`Union`](crate::Union) is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches, each named after its mount option"
)]
pub struct Options {
    /// Where owners are kept.
    pub ids: IdStore,
    /// Which owners are shown.
    pub view: IdView,
    /// Namespace of our marks.
    pub xattrs: XattrDialect,
    /// Who writes the upper directory.
    pub writer: Writer,
    /// Refuse every change; take no lock on the upper directory.
    pub read_only: bool,
    /// Copy up metadata and written blocks only, leaving the rest to the lower file.
    pub sparse_copy_up: bool,
    /// Rename lower directories by a redirect; otherwise `EXDEV`.
    pub redirect_dir: bool,
    /// Answer fsync without doing it.
    pub volatile: bool,
    /// A new upper directory takes the attributes of the lower root, also with true owners; kernel
    /// overlayfs leaves them as they are.
    pub dress_root: bool,
    /// When an upper file's access time is set.
    pub access_times: AccessTimes,
    /// The mount of the upper directory.
    pub upper_mount: UpperMount,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ids: IdStore::Virtual,
            view: IdView::True,
            xattrs: XattrDialect::User,
            writer: Writer::Union,
            read_only: false,
            sparse_copy_up: true,
            redirect_dir: true,
            volatile: false,
            dress_root: true,
            access_times: AccessTimes::Relative,
            upper_mount: UpperMount::Shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_show_what_exists_inside() {
        let windows = IdView::Windows {
            uids: vec![
                IdWindow { start: 0, count: 1 },
                IdWindow {
                    start: 100,
                    count: 10,
                },
            ],
            gids: vec![IdWindow {
                start: 0,
                count: 65536,
            }],
        };
        let cases = [
            (IdView::True, (7, 8), (7, 8)),
            (IdView::Squash { uid: 0, gid: 0 }, (7, 8), (0, 0)),
            (windows.clone(), (0, 0), (0, 0)),
            (windows.clone(), (109, 65535), (109, 65535)),
            (windows, (110, 65536), (OVERFLOW_ID, OVERFLOW_ID)),
        ];
        for (view, (uid, gid), shown) in cases {
            assert_eq!(view.show(uid, gid), shown, "view {view:?} of {uid}:{gid}");
        }
    }
}
