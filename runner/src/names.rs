//! Container names: unique, kept as symbolic links to ids; and finding a container by either.

use std::fs::File;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::{At, RunnerError};

/// Longest name in bytes: a file name.
const NAME_BYTES_MAX: usize = 255;
/// Hex digits of an id.
const ID_DIGITS: usize = 64;
/// How long to wait for another command that gives a name, which takes it microseconds.
const GIVING_MAX: Duration = Duration::from_secs(5);
/// Between two looks.
const GIVING_PAUSE: Duration = Duration::from_millis(1);

const ADJECTIVES: [&str; 64] = [
    "able", "amber", "ample", "brave", "breezy", "brisk", "bright", "calm", "candid", "clear",
    "clever", "cosy", "crisp", "dapper", "deft", "eager", "early", "easy", "exact", "fair",
    "fleet", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "handy", "happy",
    "hardy", "honest", "jolly", "keen", "kind", "lively", "loyal", "lucid", "mellow", "merry",
    "mild", "neat", "nimble", "noble", "patient", "placid", "polite", "proud", "quick", "quiet",
    "ready", "robust", "serene", "sharp", "silent", "steady", "sunny", "tidy", "upbeat", "vivid",
    "warm", "wise", "witty", "zesty",
];

const SURNAMES: [&str; 64] = [
    "abel",
    "ampere",
    "babbage",
    "banach",
    "bernoulli",
    "bohr",
    "boole",
    "borel",
    "cantor",
    "cauchy",
    "cayley",
    "chandra",
    "church",
    "curie",
    "darwin",
    "dijkstra",
    "dirac",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "fourier",
    "franklin",
    "galois",
    "gauss",
    "germain",
    "godel",
    "haber",
    "hamilton",
    "hamming",
    "hertz",
    "hilbert",
    "hopper",
    "hubble",
    "huygens",
    "jacobi",
    "kepler",
    "knuth",
    "lagrange",
    "laplace",
    "leibniz",
    "lovelace",
    "markov",
    "maxwell",
    "meitner",
    "mendel",
    "newton",
    "noether",
    "pascal",
    "pauli",
    "planck",
    "poisson",
    "raman",
    "ramanujan",
    "riemann",
    "shannon",
    "sylvester",
    "tesla",
    "turing",
    "volta",
    "weyl",
    "wiles",
    "wirth",
];

/// Whether a text is a whole container id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a text may be a container's name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    first
        && text.len() > 1
        && text.len() <= NAME_BYTES_MAX
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// A new random container id.
///
/// # Errors
///
/// When the kernel gives no random bytes.
pub fn random_id() -> Result<String, RunnerError> {
    let bytes = random_bytes().at("read", "/dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A random name that no container has now.
///
/// # Errors
///
/// When the kernel gives no random bytes.
pub fn random_name(containers: &Path) -> Result<String, RunnerError> {
    let mut suffix = String::new();
    loop {
        let bytes = random_bytes().at("read", "/dev/urandom")?;
        let pick = |list: &[&'static str; 64], at: usize| {
            let index = usize::from(bytes.get(at).copied().unwrap_or(0)) % list.len();
            list.get(index).copied().unwrap_or("plain")
        };
        let name = format!("{}_{}{suffix}", pick(&ADJECTIVES, 0), pick(&SURNAMES, 1));
        if std::fs::symlink_metadata(containers.join("names").join(&name)).is_err() {
            return Ok(name);
        }
        suffix = bytes
            .get(2)
            .map(|byte| (byte % 10).to_string())
            .unwrap_or_default();
    }
}

fn random_bytes() -> io::Result<[u8; 32]> {
    use std::io::Read;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The right to give names, until it is dropped. Whoever has it knows that a name whose container
/// is not there was left by a kill.
#[derive(Debug)]
#[must_use = "others take the name of a container that is not there yet"]
pub struct Giving {
    _lock: File,
}

impl Giving {
    fn begin(names: &Path) -> Result<Self, RunnerError> {
        let lock = File::open(names).at("open", names)?;
        let deadline = Instant::now() + GIVING_MAX;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _lock: lock }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(GIVING_PAUSE);
                }
                Err(errno) => return Err(io::Error::from(errno)).at("lock", names),
            }
        }
    }
}

/// Takes away all names whose containers are not there.
///
/// # Errors
///
/// When the names cannot be locked, listed or removed.
pub(crate) fn sweep(containers: &Path) -> Result<(), RunnerError> {
    let names = containers.join("names");
    if !names.is_dir() {
        return Ok(());
    }
    let _giving = Giving::begin(&names)?;
    for entry in std::fs::read_dir(&names).at("list", &names)? {
        let link = entry.at("list", &names)?.path();
        if dangles(&link) {
            std::fs::remove_file(&link).at("remove the name", link)?;
        }
    }
    Ok(())
}

/// Whether the container that a name leads to is not there.
fn dangles(link: &Path) -> bool {
    let there = link.metadata();
    there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Takes `name` away if its container is not there.
///
/// # Errors
///
/// When the names cannot be locked, or it cannot be removed.
pub fn forget(containers: &Path, name: &str) -> Result<(), RunnerError> {
    let names = containers.join("names");
    let link = names.join(name);
    if !is_name(name) || link.symlink_metadata().is_err() {
        return Ok(());
    }
    let _giving = Giving::begin(&names)?;
    if !dangles(&link) {
        return Ok(());
    }
    std::fs::remove_file(&link).at("remove the name", link)
}

/// Gives a name to a container, which has to be there before the right to give names is dropped.
///
/// # Errors
///
/// When another container has it, or somebody gives names for too long.
pub fn take(containers: &Path, name: &str, id: &str) -> Result<Giving, RunnerError> {
    if !is_name(name) {
        return Err(RunnerError::BadName(name.to_owned()));
    }
    let names = containers.join("names");
    std::fs::create_dir_all(&names).at("make", &names)?;
    let giving = Giving::begin(&names)?;
    let link = names.join(name);
    for _ in 0..2 {
        match symlink(Path::new("..").join(id), &link) {
            Ok(()) => return Ok(giving),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).at("take the name", link),
        }
        let owner = owner(containers, name)?.unwrap_or_default();
        if containers.join(&owner).is_dir() && !owner.is_empty() {
            return Err(RunnerError::NameInUse {
                name: name.to_owned(),
                id: owner,
            });
        }
        // The owner was removed without giving its name back.
        let _gone = std::fs::remove_file(&link);
    }
    Err(RunnerError::NameInUse {
        name: name.to_owned(),
        id: String::new(),
    })
}

/// Takes a name away from a container, if it has it.
///
/// # Errors
///
/// When the link cannot be read or removed.
pub fn release(containers: &Path, name: &str, id: &str) -> Result<(), RunnerError> {
    if is_name(name) && owner(containers, name)?.as_deref() == Some(id) {
        let link = containers.join("names").join(name);
        std::fs::remove_file(&link).at("remove the name", link)?;
    }
    Ok(())
}

fn owner(containers: &Path, name: &str) -> Result<Option<String>, RunnerError> {
    let link = containers.join("names").join(name);
    match std::fs::read_link(&link) {
        Ok(target) => {
            let id = target
                .file_name()
                .map(|id| id.to_string_lossy().into_owned());
            Ok(id.filter(|id| is_id(id)))
        }
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).at("read the name", link),
    }
}

/// The directory of the container with this id, name or beginning of an id.
///
/// # Errors
///
/// When there is none, or more than one.
pub fn resolve(containers: &Path, text: &str) -> Result<PathBuf, RunnerError> {
    let missing = || RunnerError::NoSuchContainer(text.to_owned());
    let text = text.strip_prefix('/').unwrap_or(text);
    if is_id(text) && containers.join(text).is_dir() {
        return Ok(containers.join(text));
    }
    if is_name(text)
        && let Some(id) = owner(containers, text)?
        && containers.join(&id).is_dir()
    {
        return Ok(containers.join(id));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(missing());
    }
    let entries = std::fs::read_dir(containers).map_err(|_| missing())?;
    let mut found = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| is_id(name) && name.starts_with(text));
    let first = found.next().ok_or_else(missing)?;
    if found.next().is_some() {
        return Err(RunnerError::Ambiguous(text.to_owned()));
    }
    Ok(containers.join(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_and_freed() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = ("a".repeat(64), format!("ab{}", "c".repeat(62)));
        for id in [&a, &b] {
            std::fs::create_dir(dir.path().join(id)).unwrap();
        }
        drop(take(dir.path(), "web", &a).unwrap());
        let taken = take(dir.path(), "web", &b);
        assert!(matches!(taken, Err(RunnerError::NameInUse { id, .. }) if id == a));
        assert_eq!(resolve(dir.path(), "web").unwrap(), dir.path().join(&a));
        assert_eq!(resolve(dir.path(), "ab").unwrap(), dir.path().join(&b));
        assert!(matches!(
            resolve(dir.path(), "a"),
            Err(RunnerError::Ambiguous(_))
        ));
        assert!(matches!(
            resolve(dir.path(), "../x"),
            Err(RunnerError::NoSuchContainer(_))
        ));
        release(dir.path(), "web", &b).unwrap();
        assert!(resolve(dir.path(), "web").is_ok());
        release(dir.path(), "web", &a).unwrap();
        assert!(resolve(dir.path(), "web").is_err());
        drop(take(dir.path(), "web", &"d".repeat(64)).unwrap());
        drop(take(dir.path(), "web", &b).unwrap());
        for bad in ["", "x", "-ab", "a/b", "a b"] {
            assert!(
                matches!(take(dir.path(), bad, &a), Err(RunnerError::BadName(_))),
                "{bad:?}"
            );
        }
        assert!(is_name(&random_name(dir.path()).unwrap()) && is_id(&random_id().unwrap()));
    }

    #[test]
    fn names_without_a_container_are_taken_away_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let containers = dir.path();
        let (there, gone) = ("a".repeat(64), "b".repeat(64));
        std::fs::create_dir(containers.join(&there)).unwrap();
        let left = || std::fs::read_dir(containers.join("names")).unwrap().count();
        for (name, id) in [("one", &there), ("two", &gone), ("three", &gone)] {
            drop(take(containers, name, id).unwrap());
        }
        for name in ["one", "two", "nobody", "../x"] {
            forget(containers, name).unwrap();
        }
        assert_eq!(left(), 2);
        sweep(containers).unwrap();
        assert_eq!(left(), 1);
        assert!(resolve(containers, "one").is_ok());
    }

    #[test]
    fn a_name_is_not_taken_from_a_container_that_is_being_made() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = ("a".repeat(64), "b".repeat(64));
        let giving = take(dir.path(), "web", &first).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| take(dir.path(), "web", &second));
            std::thread::sleep(GIVING_PAUSE * 20);
            std::fs::create_dir(dir.path().join(&first)).unwrap();
            drop(giving);
            let refused = other.join().unwrap();
            assert!(matches!(refused, Err(RunnerError::NameInUse { .. })));
        });
    }
}
