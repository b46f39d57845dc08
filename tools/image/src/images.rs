//! The images of the store: finding, listing, naming, removing.

use rrun_core::ImageRef;
use rrun_store::{ImageRecord, Store, StoreError};

use crate::ImageError;

/// Finds an image by name (familiar or full), id or the start of one; also gives the name when
/// it was found by one.
///
/// # Errors
///
/// `NoSuchImage`, `AmbiguousId`, `Store`.
pub fn find(store: &Store, text: &str) -> Result<(ImageRecord, Option<ImageRef>), ImageError> {
    if let Ok(name) = text.parse::<ImageRef>() {
        let name = name.or_latest();
        match store.resolve(&name.canonical()) {
            Ok(found) => return Ok((found.image, Some(name))),
            Err(StoreError::ImageUnknown(_)) => {}
            Err(other) => return Err(other.into()),
        }
        if let Some(found) = find_by_digest(store, &name)? {
            return Ok((found, Some(name)));
        }
    }
    match store.resolve(text) {
        Ok(found) => Ok((found.image, None)),
        Err(StoreError::ImageUnknown(_) | StoreError::RefName(_)) => {
            Err(ImageError::NoSuchImage(text.to_owned()))
        }
        Err(other) => Err(other.into()),
    }
}

/// An image known by `name@digest`, whatever tag it was pulled by.
fn find_by_digest(store: &Store, name: &ImageRef) -> Result<Option<ImageRecord>, ImageError> {
    let Some(digest) = name.digest() else {
        return Ok(None);
    };
    let wanted = format!("{}@{digest}", name.name());
    let found = store
        .refs()?
        .into_iter()
        .find(|image| image.image.repo_digests.contains(&wanted));
    Ok(found.map(|image| image.image))
}
