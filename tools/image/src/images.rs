//! The images of the store: finding, listing, naming, removing.

use std::collections::BTreeSet;

use rrun_core::{Digest, ImageRef};
use rrun_store::{ImageRecord, Store, StoreError};
use serde_json::{Value, json};

use crate::{ImageConfig, ImageError};

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

/// One row of `images`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// Familiar repository name; `None` prints as `<none>`.
    pub repository: Option<String>,
    /// Tag; `None` prints as `<none>`.
    pub tag: Option<String>,
    /// The digest of the manifest this repository was pulled by.
    pub digest: Option<Digest>,
    /// The image id.
    pub id: Digest,
    /// When the image was made, as its configuration says (RFC 3339).
    pub created: String,
    /// The same in seconds since the epoch; 0 when not said.
    pub created_secs: i64,
    /// Sum of the sizes of the files in its layers, in bytes.
    pub size: u64,
}

/// All names and images without one, newest first, as `docker images` lists them.
///
/// # Errors
///
/// `Store`.
pub fn list(store: &Store) -> Result<Vec<ImageRow>, ImageError> {
    let mut rows = Vec::new();
    for named in store.refs()? {
        let name = named
            .name
            .as_deref()
            .and_then(|name| name.parse::<ImageRef>().ok());
        let config = config_of(store, &named.image)?;
        let created = config.text("created").to_owned();
        let repository = name.as_ref().map(ImageRef::familiar_name);
        let full = name.as_ref().map(ImageRef::name);
        let digest = named.image.repo_digests.iter().find_map(|text| {
            let (repository, digest) = text.split_once('@')?;
            (Some(repository) == full.as_deref()).then(|| digest.parse().ok())?
        });
        rows.push(ImageRow {
            repository,
            tag: name.and_then(|name| name.tag().map(str::to_owned)),
            digest,
            id: named.image.config,
            created_secs: seconds(&created),
            created,
            size: size_of(store, &named.image)?,
        });
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.created_secs));
    Ok(rows)
}

fn seconds(created: &str) -> i64 {
    let parsed = created.parse::<jiff::Timestamp>();
    parsed.map_or(0, jiff::Timestamp::as_second)
}

fn config_of(store: &Store, image: &ImageRecord) -> Result<ImageConfig, ImageError> {
    ImageConfig::parse(store.blob(&image.config)?)
}

fn size_of(store: &Store, image: &ImageRecord) -> Result<u64, ImageError> {
    let mut size = 0;
    for layer in &image.layers {
        size += store.layer_info(&layer.diff_id)?.content_size;
    }
    Ok(size)
}

/// One row of `history`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// The image, for the top row; the steps below have no image here.
    pub id: Option<Digest>,
    /// When the step was made (RFC 3339), as the configuration says.
    pub created: String,
    /// The command.
    pub created_by: String,
    /// Sum of the sizes of the files of its layer, in bytes.
    pub size: u64,
    /// The comment.
    pub comment: String,
}

/// The steps that made an image, newest first.
///
/// # Errors
///
/// `Store`, `Malformed`.
pub fn history(store: &Store, image: &ImageRecord) -> Result<Vec<HistoryRow>, ImageError> {
    let config = config_of(store, image)?;
    let mut layers = image.layers.iter();
    let mut rows = Vec::new();
    let steps = config.value.get("history").and_then(Value::as_array);
    for step in steps.into_iter().flatten() {
        let text = |key: &str| {
            step.get(key)
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned()
        };
        let empty = step
            .get("empty_layer")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let layer = if empty { None } else { layers.next() };
        rows.push(HistoryRow {
            id: None,
            created: text("created"),
            created_by: text("created_by"),
            size: match layer {
                Some(layer) => store.layer_info(&layer.diff_id)?.content_size,
                None => 0,
            },
            comment: text("comment"),
        });
    }
    // Imported oddities have fewer steps than layers.
    for layer in layers {
        rows.push(HistoryRow {
            id: None,
            created: config.text("created").to_owned(),
            created_by: String::new(),
            size: store.layer_info(&layer.diff_id)?.content_size,
            comment: String::new(),
        });
    }
    rows.reverse();
    if let Some(top) = rows.first_mut() {
        top.id = Some(image.config);
    }
    Ok(rows)
}

/// What `docker image inspect` shows of an image.
///
/// # Errors
///
/// `Store`, `Malformed`.
pub fn inspect(store: &Store, text: &str) -> Result<Value, ImageError> {
    let (image, _) = find(store, text)?;
    let config = config_of(store, &image)?;
    let names = store.resolve(&image.config.to_string())?.names;
    let familiar = |name: &String| {
        let parsed = name.parse::<ImageRef>().ok()?;
        parsed.tag().is_some().then(|| parsed.to_string())
    };
    let tags: Vec<_> = names.iter().filter_map(familiar).collect();
    let digests: Vec<_> = image
        .repo_digests
        .iter()
        .map(|text| {
            text.parse::<ImageRef>()
                .map_or_else(|_| text.clone(), |r| r.to_string())
        })
        .collect();
    let inner = config.value.get("config").cloned().unwrap_or(Value::Null);
    let layers: Vec<_> = config.diff_ids.iter().map(ToString::to_string).collect();
    let tagged = jiff::Timestamp::new(image.tagged.secs, 0).unwrap_or_default();
    let mut value = json!({
        "Id": image.config.to_string(),
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": "",
        "Comment": config.text("comment"),
        "Created": config.text("created"),
        "DockerVersion": config.text("docker_version"),
        "Author": config.text("author"),
        "Config": inner,
        "Architecture": config.text("architecture"),
    });
    let rest = json!({
        "Os": config.text("os"),
        "Size": size_of(store, &image)?,
        "GraphDriver": {"Data": {}, "Name": "rrun"},
        "RootFS": {"Type": "layers", "Layers": layers},
        "Metadata": {"LastTagTime": tagged.to_string()},
    });
    if let (Value::Object(value), Value::Object(rest)) = (&mut value, rest) {
        if !config.text("variant").is_empty() {
            value.insert("Variant".to_owned(), json!(config.text("variant")));
        }
        value.extend(rest);
    }
    Ok(value)
}

/// Gives an image another name.
///
/// # Errors
///
/// `NoSuchImage`, `Store`.
pub fn tag(store: &Store, source: &str, name: &ImageRef) -> Result<(), ImageError> {
    let (mut image, _) = find(store, source)?;
    image.tagged = crate::registry::now();
    let name = name.clone().without_digest().or_latest();
    Ok(store.set_ref(&name.canonical(), &image)?)
}

/// Takes names from an image, all when none is given; the image stays.
///
/// # Errors
///
/// `NoSuchImage` also for a name that is not this image's; `Store`.
pub fn untag(store: &Store, source: &str, names: &[String]) -> Result<(), ImageError> {
    let (image, _) = find(store, source)?;
    let mut taken = Vec::new();
    for name in names {
        match find(store, name)? {
            (other, Some(known)) if other.config == image.config => {
                taken.push(known.without_digest().or_latest().canonical());
            }
            _ => return Err(ImageError::NoSuchImage(name.clone())),
        }
    }
    if names.is_empty() {
        taken = store.resolve(&image.config.to_string())?.names;
    }
    for name in taken {
        store.remove_ref(&name)?;
    }
    Ok(store.set_untagged(&image)?)
}

/// A container that stands on an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The image id.
    pub image: Digest,
    /// The container's short id, for messages.
    pub container: String,
    /// Whether it runs.
    pub running: bool,
}

/// One line of what `rmi` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone.
    Untagged(String),
    /// An image or a layer that nothing needs any more is gone.
    Deleted(Digest),
}

impl std::fmt::Display for Removed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Untagged(name) => write!(f, "Untagged: {name}"),
            Self::Deleted(digest) => write!(f, "Deleted: {digest}"),
        }
    }
}

/// Whether conflicts are overridden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// They are errors.
    No,
    /// As far as Docker allows.
    Yes,
}

/// Removes a name, and the image with its last name. The caller runs `gc` afterwards.
///
/// # Errors
///
/// `NoSuchImage`; `InUse` when a container or another name needs it.
pub fn remove(
    store: &Store,
    text: &str,
    force: Force,
    users: &[ImageUser],
) -> Result<Vec<Removed>, ImageError> {
    let (image, name) = find(store, text)?;
    let names = store.resolve(&image.config.to_string())?.names;
    let by_name = name
        .map(|name| name.canonical())
        .filter(|name| names.contains(name));
    let mut lines = Vec::new();
    if let Some(name) = &by_name
        && names.len() > 1
    {
        let same_repository = |other: &&String| repository(other) == repository(name);
        store.remove_ref(name)?;
        lines.push(Removed::Untagged(familiar(name)));
        if names.iter().filter(same_repository).count() == 1 {
            lines.extend(digests_of(&image, repository(name)));
        }
        return Ok(lines);
    }
    if by_name.is_none() && names.len() > 1 && force == Force::No {
        return Err(in_use(
            text,
            "image is referenced by more than one name (must be forced)".to_owned(),
            true,
        ));
    }
    check_users(text, &image, force, users)?;
    let kept = kept_chains(store, &image)?;
    store.remove_image(&image.config)?;
    let mut told: Vec<&str> = Vec::new();
    for name in &names {
        lines.push(Removed::Untagged(familiar(name)));
        if !told.contains(&repository(name)) {
            told.push(repository(name));
            lines.extend(digests_of(&image, repository(name)));
        }
    }
    lines.push(Removed::Deleted(image.config));
    let diff_ids = image.diff_ids();
    for count in (1..=diff_ids.len()).rev() {
        let chain = rrun_store::chain_id(&diff_ids[..count]);
        if kept.contains(&chain) {
            break;
        }
        lines.push(Removed::Deleted(chain));
    }
    Ok(lines)
}

fn check_users(
    text: &str,
    image: &ImageRecord,
    force: Force,
    users: &[ImageUser],
) -> Result<(), ImageError> {
    let mut users = users.iter().filter(|user| user.image == image.config);
    let user = users
        .clone()
        .find(|user| user.running)
        .or_else(|| users.next());
    let Some(user) = user else {
        return Ok(());
    };
    let (container, id) = (&user.container, image.config.short());
    if user.running {
        let reason =
            format!("container {container} is running on its image {id} (cannot be forced)");
        return Err(in_use(text, reason, false));
    }
    if force == Force::Yes {
        return Ok(());
    }
    let reason =
        format!("container {container} is using its referenced image {id} (must be forced)");
    Err(in_use(text, reason, true))
}

fn in_use(image: &str, reason: String, force_helps: bool) -> ImageError {
    ImageError::InUse {
        image: image.to_owned(),
        reason,
        force_helps,
    }
}

fn repository(name: &str) -> &str {
    let end = name.rfind('/').map_or(0, |slash| slash + 1);
    let suffix = name[end..]
        .find([':', '@'])
        .map_or(name.len(), |at| end + at);
    &name[..suffix]
}

fn familiar(name: &str) -> String {
    name.parse::<ImageRef>()
        .map_or_else(|_| name.to_owned(), |name| name.to_string())
}

fn digests_of(image: &ImageRecord, repository: &str) -> Vec<Removed> {
    let matching = image
        .repo_digests
        .iter()
        .filter(|text| text.split('@').next() == Some(repository));
    matching
        .map(|text| Removed::Untagged(familiar(text)))
        .collect()
}

/// The chainIDs every other image stands on.
fn kept_chains(store: &Store, image: &ImageRecord) -> Result<BTreeSet<Digest>, ImageError> {
    let mut kept = BTreeSet::new();
    for other in store.refs()? {
        if other.image.config == image.config {
            continue;
        }
        let diff_ids = other.image.diff_ids();
        kept.extend((1..=diff_ids.len()).map(|count| rrun_store::chain_id(&diff_ids[..count])));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests;
