//! Networks: the way out, published ports, shared networks, and what kill -9 leaves.

use std::io::{Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::time::{Duration, Instant};

use crate::support::{Home, User, can_run, for_all_users, has, is_root, processes, skip};

/// How long something that must happen may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A port of the host that nobody has just now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Tries until it works.
#[track_caller]
fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What an HTTP server at an address says; `None` when none answers.
fn get(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    Some(body.to_owned())
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Starts a web server that answers `x`, with more options.
fn serve(home: &Home, name: &str, options: &[&str]) -> String {
    let script = "mkdir -p /www; echo hello >/www/x; exec httpd -f -p 80 -h /www";
    let start = ["run", "-d", "--name", name];
    let end = ["bb:1", "sh", "-c", script];
    home.rrun(&[&start[..], options, &end].concat()).ok()
}

/// The host's address in its own network, when it has one.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("203.0.113.1:9").ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// A server of the host that says "out" to everybody.
fn host_server(ip: Ipv4Addr) -> u16 {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 1024];
            // Whoever goes away too early is not served.
            let _asked = stream.read(&mut buffer);
            let _gone = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nout\n");
        }
    });
    port
}

/// The uplinks an ordinary user can be given here.
fn uplinks(name: &str) -> Vec<&'static str> {
    use std::os::unix::fs::PermissionsExt;
    if name == "caller" && is_root() {
        return vec!["bridge"];
    }
    let usable = std::fs::metadata("/dev/net/tun")
        .is_ok_and(|data| data.permissions().mode() & 0o006 == 0o006);
    let mut list = vec!["bridge", "builtin"];
    if !usable {
        skip(&format!(
            "{name}: pasta and slirp4netns cannot open /dev/net/tun here"
        ));
        return list;
    }
    list.extend(["pasta", "slirp4netns"].into_iter().filter(|program| {
        let there = has(program);
        if !there {
            skip(&format!("{program} is not installed"));
        }
        there
    }));
    list
}

#[test]
fn a_container_reaches_the_outside() {
    let Some(ip) = own_address() else {
        return skip("this machine has no network");
    };
    let port = host_server(ip);
    for_all_users(|name, home| {
        for uplink in uplinks(name) {
            let url = format!("http://{ip}:{port}/");
            let run = |words: &[&str]| {
                home.rrun(&[&["run", "--rm", "--network", uplink, "bb:1"], words].concat())
            };
            let out = run(&["wget", "-q", "-O", "-", &url]).ok();
            assert_eq!(out, "out\n", "{name}, {uplink}");
            let links = run(&["ls", "/sys/class/net"]).ok();
            assert_eq!(links, "eth0\nlo\n", "{name}, {uplink}");
            if ["pasta", "slirp4netns"].contains(&uplink) {
                continue;
            }
            // A port where nobody listens refuses; it does not hang. Programs of others may.
            let closed = free_port().to_string();
            run(&["nc", "-w", "5", &ip.to_string(), &closed]).fails(1, "refused");
        }
    });
}

#[test]
fn our_own_uplink_takes_no_pace_from_the_host() {
    const KEY: &str = "net.ipv4.tcp_congestion_control";
    let path = format!("/proc/sys/{}", KEY.replace('.', "/"));
    let Ok(host) = std::fs::read_to_string(&path) else {
        return skip("the kernel does not tell its congestion control");
    };
    let unpaced = if host.starts_with("bbr") {
        "reno\n"
    } else {
        &host
    };
    for_all_users(|name, home| {
        let shown = |options: &[&str]| {
            let start = ["run", "--rm", "--network", "builtin"];
            home.rrun(&[&start, options, &["bb:1", "cat", &path]].concat())
                .ok()
        };
        assert_eq!(shown(&[]), unpaced, "{name}");
        // What the user chooses stays.
        let choice = format!("{KEY}={}", host.trim_end());
        assert_eq!(shown(&["--sysctl", &choice]), host, "{name}");
    });
}

#[test]
fn a_published_port_leads_into_the_container() {
    for_all_users(|name, home| {
        let (first, second) = (free_port(), free_port());
        let publish = [format!("{first}:80"), format!("127.0.0.1:{second}:80/tcp")];
        serve(home, "web", &["-p", &publish[0], "-p", &publish[1]]);
        for port in [first, second] {
            let body = eventually("the server answers", || get(local(port)));
            assert_eq!(body, "hello\n", "{name}");
        }
        let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), first);
        let listed = home.rrun(&["port", "web"]).ok();
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            assert_eq!(get(v6).as_deref(), Some("hello\n"), "{name}");
            assert!(
                listed.contains(&format!("80/tcp -> [::]:{first}\n")),
                "{name}: {listed}"
            );
        }
        assert!(
            listed.contains(&format!("80/tcp -> 0.0.0.0:{first}\n")),
            "{name}: {listed}"
        );
        assert!(
            listed.contains(&format!("80/tcp -> 127.0.0.1:{second}\n")),
            "{name}: {listed}"
        );
        home.rrun(&["port", "web", "81"])
            .fails(1, "no public port '81' published for web");
        let shown = home.rrun(&["ps", "--format", "{{.Ports}}"]).ok();
        assert!(
            shown.contains(&format!("0.0.0.0:{first}->80/tcp")),
            "{name}: {shown}"
        );
        let asked = home.rrun(&["inspect", "-f", "{{json .HostConfig.PortBindings}}", "web"]);
        assert_eq!(
            asked.ok(),
            format!(
                "{{\"80/tcp\":[{{\"HostIp\":\"\",\"HostPort\":\"{first}\"}},\
                 {{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"{second}\"}}]}}\n"
            ),
            "{name}"
        );
        home.rrun(&["run", "--name", "late", "-p", &publish[0], "bb:1", "true"])
            .fails(125, "port is already allocated");
        home.rrun(&["stop", "-t", "0", "web"]).ok();
        assert_eq!(home.rrun(&["port", "web"]).ok(), "", "{name}");
        assert!(
            TcpListener::bind((Ipv4Addr::LOCALHOST, first)).is_ok(),
            "{name}: the port is free"
        );
        // Now it is the other's turn.
        home.rrun(&["start", "late"]).ok();
    });
}

#[test]
fn a_port_of_a_foreign_program_is_refused_in_dockers_words() {
    let foreign = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = foreign.local_addr().unwrap().port();
    for_all_users(|_, home| {
        let publish = format!("127.0.0.1:{port}:80");
        home.rrun(&["run", "--rm", "-p", &publish, "bb:1", "true"])
            .fails(
                125,
                &format!("listen tcp4 127.0.0.1:{port}: bind: address already in use"),
            );
        assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "");
    });
}

/// The host's port of a container's port 80.
fn port_of(home: &Home, name: &str, port: &str) -> u16 {
    let listed = home.rrun(&["port", name, port]).ok();
    let (_, number) = listed.lines().next().unwrap().rsplit_once(':').unwrap();
    number.parse().unwrap()
}

#[test]
fn exposed_ports_and_ranges_get_ports_of_the_host() {
    for_all_users(|name, home| {
        serve(
            home,
            "all",
            &["-P", "--expose", "80", "--expose", "90-91/udp"],
        );
        let port = port_of(home, "all", "80");
        assert_eq!(
            eventually("it answers", || get(local(port))),
            "hello\n",
            "{name}"
        );
        assert!(port_of(home, "all", "91/udp") > 0);
        let exposed = home.rrun(&["inspect", "-f", "{{json .Config.ExposedPorts}}", "all"]);
        assert_eq!(
            exposed.ok(),
            "{\"80/tcp\":{},\"90/udp\":{},\"91/udp\":{}}\n",
            "{name}"
        );
        serve(home, "any", &["-p", "80-82"]);
        let port = port_of(home, "any", "80");
        assert_eq!(
            eventually("it answers", || get(local(port))),
            "hello\n",
            "{name}"
        );
        // A taken port of a range is passed over.
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let first = taken.local_addr().unwrap().port().min(65_000);
        serve(
            home,
            "range",
            &["-p", &format!("{first}-{}:80", first + 20)],
        );
        let port = port_of(home, "range", "80");
        assert!(port > first && port <= first + 20, "{name}: {port}");
        // The port that the host chose serves the next run as well, whichever it is.
        home.rrun(&["restart", "-t", "0", "any"]).ok();
        let port = port_of(home, "any", "80");
        assert_eq!(
            eventually("it answers again", || get(local(port))),
            "hello\n",
            "{name}"
        );
    });
}

#[test]
fn both_directions_end_by_themselves() {
    for_all_users(|name, home| {
        home.rrun(&[
            "run",
            "-d",
            "--name",
            "echo",
            "-p",
            "127.0.0.1::7",
            "bb:1",
            "nc",
            "-ll",
            "-p",
            "7",
            "-e",
            "cat",
        ])
        .ok();
        let port = port_of(home, "echo", "7");
        let sent: Vec<u8> = (0..3_000_000_u32)
            .map(|n| n.to_le_bytes()[n as usize % 3])
            .collect();
        let got = eventually("the echo is complete", || {
            let mut stream = TcpStream::connect(local(port)).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut reader = stream.try_clone().unwrap();
            let reading = std::thread::spawn(move || {
                let mut got = Vec::new();
                reader.read_to_end(&mut got).ok().map(|_| got)
            });
            stream.write_all(&sent).ok()?;
            stream.shutdown(Shutdown::Write).ok()?;
            reading.join().unwrap().filter(|got| !got.is_empty())
        });
        assert!(got == sent, "{name}: {} bytes of {}", got.len(), sent.len());
    });
}

#[test]
fn datagrams_find_their_way_back() {
    if let Err(why) = can_run() {
        return skip(&why);
    }
    if !has("perl") {
        return skip("perl is not installed");
    }
    let script = "use IO::Socket::INET; my $s = IO::Socket::INET->new(Proto => 'udp', LocalPort => 5000) or die; \
                  while (1) { $s->recv(my $m, 65000); $s->send(uc $m); }";
    for (name, user) in User::all() {
        let home = Home::of(user);
        home.rrun(&[
            "run",
            "-d",
            "--name",
            "udp",
            "-p",
            "127.0.0.1::5000/udp",
            "--rootfs",
            "/",
            "perl",
            "-e",
            script,
        ])
        .ok();
        let port = port_of(&home, "udp", "5000/udp");
        let clients = [(); 3].map(|()| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            socket.connect(local(port)).unwrap();
            socket
        });
        for (number, client) in clients.iter().enumerate() {
            let answer = eventually("the datagram comes back", || {
                // One that is lost is sent again.
                let _lost = client.send(format!("hey {number}").as_bytes());
                let mut buffer = [0; 100];
                let count = client.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
            });
            assert_eq!(answer, format!("HEY {number}"), "{name}");
        }
    }
}

#[test]
fn a_network_can_be_shared() {
    for_all_users(|name, home| {
        serve(home, "web", &["-h", "box", "--add-host", "other:1.2.3.4"]);
        let run = |words: &[&str]| {
            home.rrun(
                &[
                    &["run", "--rm", "--network", "container:web", "bb:1"],
                    words,
                ]
                .concat(),
            )
        };
        let body = eventually("it answers", || {
            let ran = run(&["wget", "-q", "-O", "-", "http://box/x"]);
            (ran.code == 0).then_some(ran.out)
        });
        assert_eq!(body, "hello\n", "{name}");
        assert_eq!(run(&["hostname"]).ok(), "box\n", "{name}");
        assert!(
            run(&["cat", "/etc/hosts"])
                .ok()
                .contains("1.2.3.4\tother\n"),
            "{name}"
        );
        home.rrun(&[
            "run",
            "--rm",
            "--network",
            "container:web",
            "-p",
            "80",
            "bb:1",
            "true",
        ])
        .fails(125, "port publishing and the container type network mode");
        home.rrun(&["stop", "-t", "0", "web"]).ok();
        run(&["true"]).fails(125, "cannot join network of a non running container");
    });
}

#[test]
fn kill_9_leaves_no_port_and_no_process() {
    for_all_users(|name, home| {
        for part in ["__net", "__monitor"] {
            let port = free_port();
            let id = serve(home, "web", &["-p", &format!("{port}:80")]);
            eventually("it answers", || get(local(port)));
            let pids = processes(&format!("{part} "));
            let victims: Vec<u32> = pids
                .into_iter()
                .filter(|pid| {
                    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    String::from_utf8_lossy(&words).contains(id.trim())
                })
                .collect();
            assert!(!victims.is_empty(), "{name}: no {part}");
            for pid in victims {
                let status = std::process::Command::new("kill")
                    .args(["-9", &pid.to_string()])
                    .status();
                assert!(status.unwrap().success());
            }
            if part == "__net" {
                // The monitor starts another, which serves the same ports.
                let body = eventually("it answers again", || get(local(port)));
                assert_eq!(body, "hello\n", "{name}");
                home.rrun(&["rm", "-f", "web"]).ok();
            } else {
                eventually("the port is free", || {
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()
                });
                eventually("all processes are gone", || {
                    processes(id.trim()).is_empty().then_some(())
                });
                let status = home
                    .rrun(&["inspect", "-f", "{{.State.Status}}", "web"])
                    .ok();
                assert_eq!(status, "exited\n", "{name}");
                home.rrun(&["start", "web"]).ok();
                let body = eventually("it answers after a new start", || get(local(port)));
                assert_eq!(body, "hello\n", "{name}");
                home.rrun(&["rm", "-f", "web"]).ok();
            }
            eventually("nothing is left", || {
                processes(id.trim()).is_empty().then_some(())
            });
        }
    });
}
