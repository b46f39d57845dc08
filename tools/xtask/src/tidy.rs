//! `cargo xtask tidy`: the house rules that compilers do not check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Outcome;

/// Who may import whom, of our own crates and of the foreign ones that have one home.
///
/// A crate that is not here may not exist; an import that is not here may not either.
const EDGES: &[(&str, &[&str])] = &[
    ("fs/core", &[]),
    ("fs/store", &["rrun-core"]),
    ("fs/union", &["rrun-core"]),
    (
        "fs/mount",
        &["rrun-core", "rrun-union", "fuser", "io-uring"],
    ),
    ("runner", &["rrun-core"]),
    (
        "tools/image",
        &["rrun-core", "rrun-store", "rrun-union", "ureq"],
    ),
    (
        "tools/build",
        &["rrun-core", "rrun-store", "rrun-union", "rrun-image"],
    ),
    ("tools/xtask", &[]),
    (
        ".",
        &[
            "rrun-core",
            "rrun-store",
            "rrun-union",
            "rrun-mount",
            "rrun-runner",
            "rrun-image",
            "rrun-build",
            "clap",
        ],
    ),
];

/// Foreign crates that only the crates named in [`EDGES`] may use.
const GUARDED: &[&str] = &["clap", "fuser", "io-uring", "ureq"];

/// A file longer than this must be listed in [`RATCHET`]; it is then its cap.
const FILE_LINES_MAX: usize = 600;

/// Files that outgrew the cap, with the length they may not exceed. Only ever shrink it.
const RATCHET: &[(&str, usize)] = &[
    ("fs/union/src/layers.rs", 650),
    ("fs/union/src/upper/mod.rs", 640),
    ("fs/union/tests/model.rs", 860),
];

/// Directories of sources.
const SOURCES: &[&str] = &["fs", "runner", "tools", "tests", "benches"];

/// Checks everything and reports all that is wrong at once.
pub(crate) fn run(root: &Path) -> Outcome {
    let mut faults = Vec::new();
    edges(root, &mut faults)?;
    let files = rust_files(root)?;
    for (name, text) in &files {
        file(name, text, &mut faults);
    }
    unsafe_modules(&files, &mut faults);
    test_files(root, &files, &mut faults)?;
    for (name, _) in RATCHET {
        if !files.contains_key(*name) {
            faults.push(format!("{name}: in the ratchet, but gone"));
        }
    }
    if faults.is_empty() {
        println!("tidy: {} files keep the rules", files.len());
        return Ok(());
    }
    Err(format!(
        "{} faults\n  {}",
        faults.len(),
        faults.join("\n  ")
    ))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("could not read {}: {error}", path.display()))
}

fn rust_files(root: &Path) -> Result<BTreeMap<String, String>, String> {
    let mut files = BTreeMap::new();
    let mut dirs: Vec<PathBuf> = SOURCES.iter().map(|dir| root.join(dir)).collect();
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap_or(&path);
                files.insert(name.display().to_string(), read(&path)?);
            }
        }
    }
    Ok(files)
}

/// The names under `[dependencies]` of a manifest, not those of the tests.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end().ends_with("dependencies]")
                && !section.starts_with("dev-")
                && !section.starts_with("workspace.");
        } else if inside
            && let Some((name, _)) = line.split_once(['.', '=', ' '])
            && !name.starts_with('#')
        {
            names.push(name);
        }
    }
    names
}

fn edges(root: &Path, faults: &mut Vec<String>) -> Outcome {
    for (dir, allowed) in EDGES {
        let path = root.join(dir).join("Cargo.toml");
        if !path.is_file() {
            continue;
        }
        let manifest = read(&path)?;
        for name in dependencies(&manifest) {
            let ours = name.starts_with("rrun-") || GUARDED.contains(&name);
            if ours && !allowed.contains(&name) {
                faults.push(format!("{dir}: may not depend on {name}"));
            }
        }
    }
    let workspace = read(&root.join("Cargo.toml"))?;
    let members = workspace
        .lines()
        .find_map(|line| line.strip_prefix("members = "));
    for member in members.unwrap_or_default().split('"').skip(1).step_by(2) {
        if !EDGES.iter().any(|(dir, _)| *dir == member) {
            faults.push(format!("{member}: not in tidy's table of dependencies"));
        }
    }
    Ok(())
}

fn file(name: &str, text: &str, faults: &mut Vec<String>) {
    for (number, line) in text.lines().enumerate() {
        if !line.is_ascii() {
            faults.push(format!("{name}:{}: not ASCII", number + 1));
        }
        if line.contains('\t') {
            faults.push(format!("{name}:{}: a tab", number + 1));
        }
    }
    let lines = text.lines().count();
    let cap = RATCHET
        .iter()
        .find(|(listed, _)| *listed == name)
        .map_or(FILE_LINES_MAX, |(_, cap)| *cap);
    if lines > cap {
        faults.push(format!("{name}: {lines} lines, more than {cap}"));
    }
}

/// `unsafe` has one home per crate: a module named `sys`.
fn unsafe_modules(files: &BTreeMap<String, String>, faults: &mut Vec<String>) {
    // Split, so that this file does not name what it looks for.
    let marks = [
        concat!("allow(", "unsafe_code"),
        concat!("expect(", "unsafe_code"),
    ];
    for (name, text) in files {
        let found =
            text.contains("unsafe_code") && marks.iter().any(|mark| squeeze(text).contains(mark));
        let home = name.ends_with("/sys.rs") || name.contains("/sys/") || name.contains("tests/");
        if found && !home {
            faults.push(format!("{name}: unsafe code outside a sys module"));
        }
    }
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Every file of `tests/it` is a module of its main file: none is forgotten.
fn test_files(root: &Path, files: &BTreeMap<String, String>, faults: &mut Vec<String>) -> Outcome {
    let main = "tests/it/main.rs";
    let Some(text) = files.get(main) else {
        return Ok(());
    };
    for name in files.keys() {
        let Some(rest) = name.strip_prefix("tests/it/") else {
            continue;
        };
        let module = rest.split(['/', '.']).next().unwrap_or(rest);
        if module != "main" && !text.contains(&format!("mod {module};")) {
            faults.push(format!("{name}: not declared in {main}"));
        }
    }
    let manifest = read(&root.join("Cargo.toml"))?;
    if !manifest.contains(main) {
        faults.push(format!("{main}: not declared in Cargo.toml"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_give_their_dependencies_only() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\nclap.workspace = true\n# note = 1\nlibc = \"0\"\n\
                        [dev-dependencies]\ntempfile.workspace = true\n";
        assert_eq!(dependencies(manifest), ["clap", "libc"]);
    }

    #[test]
    fn the_house_keeps_its_rules() {
        run(&crate::root()).unwrap();
    }
}
