//! What rrun answers to command lines, right and wrong, without any image.

use crate::support::{Home, Ran};

fn rrun(words: &[&str]) -> Ran {
    Home::new().rrun(words)
}

/// What is typed, the exit code, what is wrong, what was meant.
const MISTAKES: [(&[&str], i32, &str, &str); 12] = [
    (
        &["run", "-rm", "img"],
        125,
        "unknown shorthand flag: 'r' in -rm",
        "--rm?",
    ),
    (
        &["-it", "run", "img"],
        125,
        "unknown shorthand flag: 'i' in -it",
        "run -it",
    ),
    (
        &["-ps"],
        125,
        "unknown shorthand flag: 'p' in -ps",
        "rrun ps",
    ),
    (&["ps", "aq"], 1, "does not take the argument", "ps -aq"),
    (
        &["run", "--", "name", "x", "img"],
        125,
        "stray '--'",
        "--name",
    ),
    (
        &["tag", "one"],
        1,
        "requires exactly 2 arguments",
        "See 'rrun tag --help'",
    ),
    (
        &["run"],
        1,
        "requires at least 1 argument",
        "See 'rrun run --help'",
    ),
    (
        &["exec", "x"],
        1,
        "requires at least 2 arguments",
        "See 'rrun exec --help'",
    ),
    (
        &["frobnicate"],
        1,
        "'frobnicate' is not a command",
        "See 'rrun --help'",
    ),
    (
        &["run", "--frob", "img"],
        125,
        "unknown flag: --frob",
        "See 'rrun run --help'",
    ),
    (
        &["images", "--frmat", "x"],
        125,
        "unknown flag: --frmat",
        "--format?",
    ),
    (
        &["run", "--network", "nope", "img"],
        125,
        "network nope not found",
        "container:NAME",
    ),
];

#[test]
fn mistaken_commands_get_the_form_that_was_meant() {
    for (words, code, says, hint) in MISTAKES {
        let ran = rrun(words);
        assert_eq!(ran.code, code, "{words:?}: {ran:?}");
        assert!(ran.err.contains(says), "{words:?}: {ran:?}");
        assert!(ran.err.contains(hint), "{words:?}: {ran:?}");
        assert_eq!(ran.out, "", "{words:?}");
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let top = rrun(&["--help"]).ok();
    for word in ["Management Commands:", "Commands:", "  run ", "  volume "] {
        assert!(top.contains(word), "no {word:?} in {top}");
    }
    assert_eq!(rrun(&[]).ok(), top);
    assert!(rrun(&["run", "--help"]).ok().contains("--entrypoint"));
    assert!(rrun(&["-v"]).ok().starts_with("rrun version "));
    assert!(rrun(&["version"]).ok().contains("Engine:"));
    let json = rrun(&["version", "--format", "{{json .Client.Version}}"]).ok();
    assert_eq!(json, format!("\"{}\"\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn volumes_are_named_directories() {
    let home = Home::new();
    assert_eq!(home.rrun(&["volume", "ls"]).ok(), "DRIVER    VOLUME NAME\n");
    assert_eq!(home.rrun(&["volume", "create", "v1"]).ok(), "v1\n");
    assert_eq!(home.rrun(&["volume", "ls", "-q"]).ok(), "v1\n");
    let place = home
        .rrun(&["volume", "inspect", "-f", "{{.Mountpoint}}", "v1"])
        .ok();
    assert!(std::path::Path::new(place.trim()).is_dir());
    assert_eq!(home.rrun(&["volume", "rm", "v1"]).ok(), "v1\n");
    home.rrun(&["volume", "rm", "v1"])
        .fails(1, "no such volume");
    home.rrun(&["volume", "create", "a/b"])
        .fails(1, "invalid characters");
}
