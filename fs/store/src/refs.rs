//! stub
use rrun_core::Digest;

use crate::{ImageRecord, NamedImage, Resolved, Store, StoreError};

impl Store {
    /// Lets `name` lead to an image. The image it led to before stays, without a name if that
    /// was its last.
    ///
    /// # Errors
    ///
    /// `LayerMissing`, `BlobMissing` when a part of the image is not in the store; `RefName`.
    pub fn set_ref(&self, name: &str, image: &ImageRecord) -> Result<(), StoreError> {
        let _ = (name, image);
        Ok(())
    }

    /// Keeps an image that has no name; does nothing when it has one.
    ///
    /// # Errors
    ///
    /// As [`Store::set_ref`].
    pub fn set_untagged(&self, image: &ImageRecord) -> Result<(), StoreError> {
        let _ = image;
        Ok(())
    }

    /// All names and all images without a name, sorted by name.
    ///
    /// # Errors
    ///
    /// `Corrupt`; `Io`.
    pub fn refs(&self) -> Result<Vec<NamedImage>, StoreError> {
        Ok(Vec::new())
    }

    /// Forgets a name; the image goes with the next `gc` if it has no other. Returns what the
    /// name led to.
    ///
    /// # Errors
    ///
    /// `ImageUnknown`.
    pub fn remove_ref(&self, name: &str) -> Result<ImageRecord, StoreError> {
        Err(StoreError::ImageUnknown(name.to_owned()))
    }

    /// Forgets every name of an image; returns them.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn remove_image(&self, config: &Digest) -> Result<Vec<String>, StoreError> {
        let _ = config;
        Ok(Vec::new())
    }

    /// Finds an image by its exact name, its id (with or without `sha256:`), or the start of it.
    ///
    /// # Errors
    ///
    /// `ImageUnknown`; `ImageAmbiguous`.
    pub fn resolve(&self, name_or_id: &str) -> Result<Resolved, StoreError> {
        Err(StoreError::ImageUnknown(name_or_id.to_owned()))
    }
}
