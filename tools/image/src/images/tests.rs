use super::*;
use crate::archive::{Input, load};
use crate::testing::{Image, layer_tar};
use crate::{Arch, Silent};

fn store_with(tags: &[&str]) -> (tempfile::TempDir, Store, Image) {
    let image = Image::new(&[&[("a", b"1234")], &[("b", b"12345678")]]);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let manifest = json!([{"Config": "c", "RepoTags": tags, "Layers": ["0", "1"]}]);
    let archive = layer_tar(&[
        ("manifest.json", manifest.to_string().as_bytes()),
        ("c", &image.config),
        ("0", &image.tars[0]),
        ("1", &image.tars[1]),
    ]);
    load(
        &store,
        Input::Stream(&mut &archive[..]),
        &Arch::native(),
        &Silent,
    )
    .unwrap();
    (dir, store, image)
}

fn lines(removed: &[Removed]) -> Vec<String> {
    removed.iter().map(ToString::to_string).collect()
}

#[test]
fn images_are_found_by_every_way_to_say_them() {
    let (_dir, store, image) = store_with(&["x:1", "localhost:5/y"]);
    let id = image.id();
    let ways = [
        "x:1".to_owned(),
        "docker.io/library/x:1".to_owned(),
        "localhost:5/y:latest".to_owned(),
        "localhost:5/y".to_owned(),
        id.to_string(),
        id.hex(),
        id.short(),
        id.hex()[..4].to_owned(),
    ];
    for way in ways {
        assert_eq!(find(&store, &way).unwrap().0.config, id, "input {way:?}");
    }
    for way in ["x", "y", "X", "", "zzz"] {
        let error = find(&store, way).unwrap_err();
        assert!(
            matches!(error, ImageError::NoSuchImage(_)),
            "input {way:?}: {error}"
        );
    }
}

#[test]
fn rows_say_what_docker_says() {
    let (_dir, store, image) = store_with(&["x:1", "x:2"]);
    let rows = list(&store).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].repository.as_deref(), Some("x"));
    assert_eq!((rows[0].id, rows[0].size), (image.id(), 12));
    assert_eq!(rows[0].created_secs, 1_577_934_245);
    let (record, _) = find(&store, "x:1").unwrap();
    let steps = history(&store, &record).unwrap();
    assert_eq!((steps.len(), steps[0].id), (2, Some(image.id())));
    assert_eq!(steps[1].created_by, "one");
    let value = inspect(&store, "x:1").unwrap();
    let keys: Vec<_> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = "Id RepoTags RepoDigests Parent Comment Created DockerVersion Author Config \
                    Architecture Os Size GraphDriver RootFS Metadata";
    assert_eq!(keys.join(" "), expected);
    assert_eq!(value["RepoTags"], json!(["x:1", "x:2"]));
    assert_eq!(value["Size"], json!(12));
}

#[test]
fn the_last_name_takes_the_image_with_it() {
    let (_dir, store, image) = store_with(&["x:1", "x:2"]);
    let removed = remove(&store, "x:1", Force::No, &[]).unwrap();
    assert_eq!(lines(&removed), ["Untagged: x:1"]);
    let user = |running| ImageUser {
        image: image.id(),
        container: "c0ffee".into(),
        running,
    };
    let error = remove(&store, "x:2", Force::No, &[user(false)]).unwrap_err();
    assert!(error.to_string().contains("c0ffee"), "{error}");
    assert!(error.hint().unwrap().contains("-f"));
    let error = remove(&store, "x:2", Force::Yes, &[user(true)]).unwrap_err();
    assert!(error.to_string().contains("cannot be forced"), "{error}");
    let removed = lines(&remove(&store, "x:2", Force::Yes, &[user(false)]).unwrap());
    assert_eq!(
        removed[..2],
        [
            "Untagged: x:2".to_owned(),
            format!("Deleted: {}", image.id())
        ]
    );
    assert_eq!(removed.len(), 4);
    assert_eq!(removed[3], format!("Deleted: {}", image.diff_id(0)));
    assert!(store.refs().unwrap().is_empty());
    store.gc(&[]).unwrap();
    assert!(find(&store, "x:2").is_err());
}

#[test]
fn an_id_with_several_names_is_removed_by_force_only() {
    let (_dir, store, image) = store_with(&["x:1"]);
    tag(&store, "x:1", &"localhost:5/y".parse().unwrap()).unwrap();
    let id = image.id().short();
    let error = remove(&store, &id, Force::No, &[]).unwrap_err();
    assert!(error.to_string().contains("must be forced"), "{error}");
    let removed = lines(&remove(&store, &id, Force::Yes, &[]).unwrap());
    assert!(
        removed.contains(&"Untagged: localhost:5/y:latest".to_owned()),
        "{removed:?}"
    );
    assert!(store.refs().unwrap().is_empty());
}
