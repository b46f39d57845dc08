//! Serves a union over the FUSE protocol.
