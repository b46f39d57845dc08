//! Throughput of published ports and of the way out of a container, by iperf3, next to slirp4netns.
//!
//! One container of each contender runs an iperf3 server behind a published port; the others idle
//! while one is measured.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::finish;
use crate::stage::{Stage, User};
use crate::support::{figures, program};

/// The image's name everywhere.
const IMAGE: &str = "localhost/iperf:latest";
/// Length of one measurement.
const SECONDS: &str = "2";
/// The port of iperf3 inside.
const PORT_INSIDE: u16 = 5201;
/// The first published port; one that services do not use and the kernel does not give out.
const PORT_FIRST: u16 = 28_201;
/// Where the host's own iperf3 listens.
const PORT_HOST: u16 = 28_200;
/// Until servers listen.
const SETTLE: Duration = Duration::from_millis(700);
/// An address of a documentation range: nothing is sent to it, the kernel only picks a source.
const ELSEWHERE: &str = "198.51.100.1:9";

/// One way of connecting a container.
struct Contender {
    name: &'static str,
    program: PathBuf,
    network: &'static [&'static str],
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Host,
    Container,
}

/// What is measured: `None` is a published port, else the address that the container connects to.
struct Row {
    name: String,
    sender: Sender,
    out: bool,
    /// Gbit/s of each contender, by round.
    rates: Vec<Vec<f64>>,
}

fn contenders(stage: &Stage) -> Vec<Contender> {
    let mut list = vec![Contender {
        name: "rrun",
        program: stage.rrun.clone(),
        network: &[],
    }];
    if let Some(podman) = program::find("podman").filter(|_| program::find("slirp4netns").is_some())
    {
        list.push(Contender {
            name: "podman, slirp4netns",
            program: podman.clone(),
            network: &["--network", "slirp4netns:port_handler=slirp4netns"],
        });
        list.push(Contender {
            name: "podman, rootlesskit ports",
            program: podman,
            network: &["--network", "slirp4netns:port_handler=rootlesskit"],
        });
    }
    list
}

/// Prints all of it.
pub(crate) fn measure(stage: &Stage, rounds: usize, clock: &AtomicU64) -> Result<(), String> {
    let iperf = program::find("iperf3").ok_or("iperf3 is not installed")?;
    println!("iperf3: {}", program::version(&iperf, "--version"));
    if let Some(slirp) = program::find("slirp4netns") {
        println!("{}", program::version(&slirp, "--version"));
    }
    let archive = image(stage, &iperf)?;
    let list = contenders(stage);
    for (number, contender) in list.iter().enumerate() {
        start(stage, contender, number, &archive, clock)?;
    }
    let port = PORT_HOST.to_string();
    let mut server = Server(spawn(Command::new(&iperf).args(["-s", "-p", &port]))?);
    std::thread::sleep(SETTLE);
    let mut rows = rows(list.len());
    for round in 0..rounds {
        for row in &mut rows {
            for turn in 0..list.len() {
                let at = (turn + round) % list.len();
                clock.fetch_add(1, Ordering::Release);
                let rate = once(stage, &list[at], at, row, &iperf)
                    .map_err(|why| format!("{}, {}: {why}", row.name, list[at].name))?;
                row.rates[at].push(rate);
            }
        }
    }
    server.end();
    for contender in &list {
        let mut command = stage.command(User::Ranged, &contender.program);
        finish(command.args(["rm", "-f", &container(contender)]), clock)?;
    }
    print(&list, &rows);
    Ok(())
}

fn rows(count: usize) -> Vec<Row> {
    let row = |name: &str, sender, out| Row {
        name: name.to_owned(),
        sender,
        out,
        rates: vec![Vec::new(); count],
    };
    vec![
        row("published port, host sends", Sender::Host, false),
        row("published port, container sends", Sender::Container, false),
        row("way out, container sends", Sender::Container, true),
        row("way out, host sends", Sender::Host, true),
    ]
}

fn container(contender: &Contender) -> String {
    contender.name.replace([',', ' '], "")
}

/// An archive of iperf3 and the libraries it is linked with.
fn image(stage: &Stage, iperf: &Path) -> Result<PathBuf, String> {
    let root = stage.dir.join("iperf");
    let linked = Command::new("ldd").arg(iperf).output();
    let linked = linked.map_err(|error| format!("could not run ldd: {error}"))?;
    let text = String::from_utf8_lossy(&linked.stdout).into_owned();
    let libraries = text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from);
    for file in libraries.chain([iperf.to_owned()]) {
        let copy = root.join(file.strip_prefix("/").unwrap_or(&file));
        let dir = copy.parent().ok_or("a file has no directory")?;
        std::fs::create_dir_all(dir).map_err(|error| format!("could not mkdir: {error}"))?;
        std::fs::copy(&file, copy).map_err(|error| format!("could not copy: {error}"))?;
    }
    // iperf3 makes the buffers it sends in a file there.
    std::fs::create_dir_all(root.join("tmp")).map_err(|e| format!("could not mkdir: {e}"))?;
    let archive = stage.dir.join("iperf.tar");
    let mut tar = program::limited("tar");
    tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".");
    program::timed(&mut tar, Path::new("/dev/null"))?;
    Ok(archive)
}

fn start(
    stage: &Stage,
    contender: &Contender,
    number: usize,
    archive: &Path,
    clock: &AtomicU64,
) -> Result<(), String> {
    let mut import = stage.command(User::Ranged, &contender.program);
    import.arg("import").arg(archive).arg(IMAGE);
    let (name, ports) = (
        container(contender),
        format!("127.0.0.1:{}:{PORT_INSIDE}", published(number)),
    );
    let mut run = stage.command(User::Ranged, &contender.program);
    run.args(["run", "-d", "--name", &name, "-p", &ports]);
    run.args(contender.network);
    run.args([IMAGE, "/usr/bin/iperf3", "-s"]);
    for mut command in [import, run] {
        if !finish(&mut command, clock)?.success {
            return Err(format!("{}: {}", contender.name, stage.complaint()));
        }
    }
    Ok(())
}

fn published(number: usize) -> u16 {
    PORT_FIRST + u16::try_from(number).unwrap_or(0)
}

/// Measures once; Gbit/s.
fn once(
    stage: &Stage,
    contender: &Contender,
    number: usize,
    row: &Row,
    iperf: &Path,
) -> Result<f64, String> {
    let (address, port) = if row.out {
        (own_address()?, PORT_HOST)
    } else {
        ("127.0.0.1".to_owned(), published(number))
    };
    let mut words = vec!["-c".to_owned(), address, "-p".to_owned(), port.to_string()];
    words.extend(["-t", SECONDS, "-J"].map(str::to_owned));
    // The client sends but for -R.
    let client = if row.out {
        Sender::Container
    } else {
        Sender::Host
    };
    if row.sender != client {
        words.push("-R".to_owned());
    }
    let mut command = if row.out {
        let mut command = stage.command(User::Ranged, &contender.program);
        command.args(["exec", &container(contender), "/usr/bin/iperf3"]);
        command
    } else {
        Command::new(iperf)
    };
    let output = command.args(words).stdout(Stdio::piped()).output();
    let output = output.map_err(|error| format!("could not start iperf3: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    rate(&text).ok_or_else(|| {
        let told = text.lines().find(|line| line.contains("\"error\""));
        format!("iperf3: {}", told.unwrap_or("nothing was said").trim())
    })
}

/// What the receiver got, in Gbit/s, of the JSON that iperf3 prints.
fn rate(text: &str) -> Option<f64> {
    let (_, sum) = text.split_once("\"sum_received\"")?;
    let (_, value) = sum.split_once("\"bits_per_second\":")?;
    let digits = value.trim_start().split([',', '}', '\n']).next()?;
    digits.trim().parse::<f64>().ok().map(|bits| bits / 1e9)
}

/// This host's address on the way to elsewhere, which containers can reach too.
fn own_address() -> Result<String, String> {
    let find = || -> std::io::Result<String> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(ELSEWHERE)?;
        Ok(socket.local_addr()?.ip().to_string())
    };
    find().map_err(|error| format!("this host has no address but its loopback: {error}"))
}

/// A process that ends with this.
struct Server(Child);

impl Server {
    fn end(&mut self) {
        // One that has ended already needs no signal.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(Stdio::null()).spawn();
    child.map_err(|error| format!("could not start iperf3: {error}"))
}

fn print(list: &[Contender], rows: &[Row]) {
    let names: Vec<&str> = list.iter().map(|contender| contender.name).collect();
    println!(
        "| Gbit/s, medians, user | {} | rrun / slirp4netns |",
        names.join(" | ")
    );
    println!("|---|{}---|", "---|".repeat(list.len()));
    for row in rows {
        let medians: Vec<Option<f64>> = row.rates.iter().map(|r| figures::median(r)).collect();
        let text = |value: &Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
        let cells: Vec<String> = medians.iter().map(text).collect();
        let ratio = figures::ratio(medians[0], medians.get(1).copied().flatten());
        println!("| {} | {} | {ratio} |", row.name, cells.join(" | "));
    }
}
