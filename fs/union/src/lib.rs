//! The union file system as an ordinary library.
