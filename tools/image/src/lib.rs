//! Images: registry, archives, import, export, commit, history.
