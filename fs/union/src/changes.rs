//! What differs from the lower tree: read from the upper directory's entries, so that it costs
//! what changed and not what exists.

use std::sync::Arc;

use rrun_core::{Attr, Change, ChangeKind, Errno, FileType, NodeId};

use crate::node::{Node, Slot};
use crate::types::Ino;
use crate::union::{Found, Union};

/// Deepest path reported: a bound for the recursion; 4096 bytes of path hold no more parts.
const DEPTH_MAX: usize = 2048;

/// One change, with the numbers by which its files can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// What happened and where.
    pub change: Change,
    /// The file as it is now; `None` when deleted.
    pub now: Option<Ino>,
}

impl Union {
    /// Calls `each` for every difference from the lower tree, parents before children, names in
    /// byte order.
    ///
    /// # Errors
    ///
    /// Errors of reading the upper directory; what `each` returns.
    pub fn changes(&self, each: &mut dyn FnMut(Changed) -> Result<(), Errno>) -> Result<(), Errno> {
        let Found::Own(root) = self.find(Ino::ROOT)? else {
            return Ok(());
        };
        let mut path = Vec::new();
        self.changes_in(&root, &mut path, 0, each)
    }

    fn changes_in(
        &self,
        node: &Arc<Node>,
        path: &mut Vec<u8>,
        depth: usize,
        each: &mut dyn FnMut(Changed) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        if depth > DEPTH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.load(node)?;
        let (lower, mut names) = {
            let state = node.lock();
            let dir = state.dir.as_deref().ok_or(Errno::ENOTDIR)?;
            let names: Vec<(Box<[u8]>, Slot)> = dir
                .slots
                .iter()
                .map(|(name, slot)| (name.clone(), *slot))
                .collect();
            (dir.lower, names)
        };
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let len = path.len();
        for (name, slot) in names {
            if len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let below = self.lower_child(lower, &name)?;
            match slot {
                Slot::Whiteout => {
                    let kind = ChangeKind::Deleted;
                    each(Changed {
                        change: Change {
                            kind,
                            path: path.clone(),
                        },
                        now: None,
                    })?;
                }
                Slot::File { id, .. } => {
                    let found = self.find(Ino(id))?;
                    self.change_of(&found, below, path, depth, each)?;
                }
            }
            path.truncate(len);
        }
        Ok(())
    }

    fn change_of(
        &self,
        found: &Found,
        below: Option<NodeId>,
        path: &mut Vec<u8>,
        depth: usize,
        each: &mut dyn FnMut(Changed) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let Found::Own(node) = found else {
            return Err(Errno::EIO);
        };
        let kind = if below.is_some() {
            ChangeKind::Modified
        } else {
            ChangeKind::Added
        };
        let change = Change {
            kind,
            path: path.clone(),
        };
        each(Changed {
            change,
            now: Some(Ino(node.id)),
        })?;
        if node.kind != FileType::Directory {
            return Ok(());
        }
        let continues = {
            let state = node.lock();
            state.dir.as_deref().and_then(|dir| dir.lower)
        };
        if continues.is_some() && continues == below {
            return self.changes_in(node, path, depth + 1, each);
        }
        // Not the lower directory of this name: what that one had is gone, all this one has is new.
        self.replaced(node, below, path, depth, each)
    }

    fn replaced(
        &self,
        node: &Arc<Node>,
        below: Option<NodeId>,
        path: &mut Vec<u8>,
        depth: usize,
        each: &mut dyn FnMut(Changed) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        if depth > DEPTH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let below_dir = match below {
            Some(lower) => Some(lower).filter(|_| self.is_dir(lower)),
            None => None,
        };
        let mut names: Vec<(Box<[u8]>, Option<Ino>)> = Vec::new();
        self.readdir(Ino(node.id), 2, false, &mut |entry| {
            names.push((entry.name.into(), Some(Ino(0))));
            true
        })?;
        if let Some(lower) = below_dir {
            let mut gone = Vec::new();
            self.lower.entries(lower, 0, &mut |entry| {
                gone.push(Box::<[u8]>::from(entry.name));
                true
            })?;
            for name in gone {
                if self.find_child(Ino(node.id), &name)?.is_none() {
                    names.push((name, None));
                }
            }
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let len = path.len();
        for (name, now) in names {
            if len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if now.is_none() {
                let kind = ChangeKind::Deleted;
                each(Changed {
                    change: Change {
                        kind,
                        path: path.clone(),
                    },
                    now: None,
                })?;
            } else {
                let found = self.find_child(Ino(node.id), &name)?.ok_or(Errno::ENOENT)?;
                let child = self.own(&found)?;
                let child_below = self.lower_child(below_dir, &name)?;
                let kind = if child_below.is_some() {
                    ChangeKind::Modified
                } else {
                    ChangeKind::Added
                };
                let change = Change {
                    kind,
                    path: path.clone(),
                };
                each(Changed {
                    change,
                    now: Some(Ino(child.id)),
                })?;
                if child.kind == FileType::Directory {
                    self.replaced(&child, child_below, path, depth + 1, each)?;
                }
            }
            path.truncate(len);
        }
        Ok(())
    }

    pub(crate) fn is_dir(&self, lower: NodeId) -> bool {
        self.lower
            .attr(lower)
            .is_ok_and(|attr: Attr| attr.kind == FileType::Directory)
    }
}
