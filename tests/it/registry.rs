//! Push to and pull from a registry on loopback.

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::images::{rich_layers, rich_settings};
use crate::support::archive::docker_archive;
use crate::support::{Home, can_run, fixture, has, skip};

/// A docker-registry of this test's own.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(home: &Home) -> Result<Self, String> {
        if !has("docker-registry") {
            return Err("docker-registry is not installed".to_owned());
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let mut text = "version: 0.1\nlog: {level: error}\nstorage:\n".to_owned();
        writeln!(
            text,
            "  filesystem: {{rootdirectory: {}}}",
            home.path("registry").display()
        )
        .unwrap();
        writeln!(
            text,
            "  delete: {{enabled: true}}\nhttp: {{addr: \"{address}\"}}"
        )
        .unwrap();
        let config = home.write("registry.yml", text.as_bytes());
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let registry = Self { child, address };
        let started = Instant::now();
        while TcpStream::connect(&registry.address).is_err() {
            if started.elapsed() > Duration::from_secs(10) {
                return Err("docker-registry does not answer".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn what_is_pushed_is_pulled_again_and_runs() {
    let home = Home::new();
    let registry = match Registry::start(&home) {
        Ok(registry) => registry,
        Err(why) => return skip(&why),
    };
    let name = format!("{}/team/rich:1", registry.address);
    let file = home.write(
        "in.tar",
        &docker_archive("rich:1", &rich_settings(), &rich_layers()),
    );
    home.rrun(&["load", "-i", file.to_str().unwrap()]).ok();
    let id = home.rrun(&["images", "-q", "--no-trunc"]).ok();
    home.rrun(&["tag", "rich:1", &name]).ok();
    let pushed = home.rrun(&["push", &name]).ok();
    assert!(pushed.contains("digest: sha256:"), "{pushed}");
    let other = Home::new();
    let pulled = other.rrun(&["pull", &name]);
    assert!(pulled.err.contains("Pulling from team/rich"), "{pulled:?}");
    assert!(
        pulled.err.contains("Status: Downloaded newer image"),
        "{pulled:?}"
    );
    assert_eq!(other.rrun(&["images", "-q", "--no-trunc"]).ok(), id);
    let again = other.rrun(&["pull", &name]);
    assert!(again.err.contains("Image is up to date"), "{again:?}");
    other
        .rrun(&["pull", &format!("{}/team/rich:2", registry.address)])
        .fails(1, "team/rich:2");
    other
        .rrun(&["pull", &format!("{}/nobody/x", registry.address)])
        .fails(1, "nobody/x");
    if let (Ok(tar), Ok(())) = (fixture("busybox.tar"), can_run()) {
        let image = format!("{}/bb", registry.address);
        home.rrun(&["import", tar.to_str().unwrap(), &image]).ok();
        home.rrun(&["push", "-q", &image]).ok();
        let ran = other.rrun(&["run", "--rm", &image, "echo", "it runs"]);
        assert_eq!((ran.code, ran.out.as_str()), (0, "it runs\n"), "{ran:?}");
        assert!(ran.err.contains("Unable to find image"), "{ran:?}");
    }
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let name = format!("127.0.0.1:{port}/x:1");
    let ran = Home::new().rrun(&["pull", &name]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains(&format!("127.0.0.1:{port}")), "{ran:?}");
}
