//! Root's private networks: a bridge of the kernel, one pair of interfaces for each container.

use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::config::{Mac, NetState};
use super::netlink::{Peer, Route};
use super::{nat, uplink};
use crate::state;

/// The bridge's name.
const BRIDGE: &str = "rrun0";
/// The bridge's own address.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 1);
/// Length of the network's prefix.
const PREFIX_BITS: u8 = 16;
/// Addresses of containers, as offsets in the network: not the network's own, not the bridge's,
/// not the last, which means all.
const FIRST: u32 = 2;
const LAST: u32 = (1 << (32 - 16)) - 2;
/// Largest packet. Source: Docker.
const MTU: u16 = 1500;
/// Where addresses that are taken are files. The bridge is the host's, whatever the data root is;
/// after a reboot both are gone.
const TAKEN: &str = "/run/rrun/ipam/bridge";

/// Connects a container to the bridge, making it first when it is not there.
///
/// # Errors
///
/// Says which step failed.
pub(super) fn connect(
    dir: &Path,
    id: &str,
    mac: Option<Mac>,
    netns: &OwnedFd,
    state: &mut NetState,
) -> Result<(), String> {
    let route = Route::open().at("speak to the kernel about its network")?;
    let index = match route.index(BRIDGE) {
        Ok(index) => index,
        Err(_) => make(&route, &mut state.warnings)?,
    };
    let address = Taken::open()
        .and_then(|taken| taken.take(dir))
        .at("take an address")?;
    let connected = plug(&route, index, id, (address, mac), netns);
    if let Err(text) = connected {
        release(address, dir);
        return Err(text);
    }
    state.address = Some(address);
    state.prefix_bits = PREFIX_BITS;
    state.gateway = Some(GATEWAY);
    state.mac = Some(mac_for(address, mac));
    Ok(())
}

/// Adds what was being done to an error.
trait At<T> {
    fn at(self, what: &str) -> Result<T, String>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: &str) -> Result<T, String> {
        self.map_err(|error| format!("could not {what}: {error}"))
    }
}

fn exists_already(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Docker's rule: the address says the hardware address, so neighbours never hold a wrong one.
fn mac_for(address: Ipv4Addr, asked: Option<Mac>) -> Mac {
    let [a, b, c, d] = address.octets();
    asked.unwrap_or(Mac([0x02, 0x42, a, b, c, d]))
}

/// Makes the bridge. Translation of addresses comes first, so that a bridge that exists has it.
fn make(route: &Route, warnings: &mut Vec<String>) -> Result<u32, String> {
    if let Err(error) = nat::masquerade(GATEWAY, PREFIX_BITS, BRIDGE) {
        warnings.push(format!(
            "containers reach this host only, since the kernel's packet filter (nftables) cannot \
             be used: {error}"
        ));
    }
    if let Err(error) = std::fs::write("/proc/sys/net/ipv4/ip_forward", "1") {
        warnings.push(format!(
            "containers reach this host only, since forwarding cannot be enabled: {error}"
        ));
    }
    exists_already(route.add_bridge(BRIDGE)).at("make the bridge rrun0")?;
    let index = route.index(BRIDGE).at("find the bridge rrun0")?;
    exists_already(route.add_address(index, GATEWAY, PREFIX_BITS))
        .at("give the bridge rrun0 its address")?;
    Ok(index)
}

fn plug(
    route: &Route,
    bridge: u32,
    id: &str,
    (address, mac): (Ipv4Addr, Option<Mac>),
    netns: &OwnedFd,
) -> Result<(), String> {
    let short: String = id.chars().take(9).collect();
    let name = format!("veth{short}");
    let peer = Peer {
        name: uplink::INTERFACE,
        mac: mac_for(address, mac),
        mtu: MTU,
        netns: netns.as_fd(),
    };
    let mut made = route.add_pair(&name, MTU, Some(bridge), &peer);
    // A network namespace is taken apart some time after its last process.
    if made
        .as_ref()
        .is_err_and(|error| error.raw_os_error() == Some(libc::EEXIST))
    {
        if let Ok(old) = route.index(&name) {
            let _gone = route.remove(old);
        }
        made = route.add_pair(&name, MTU, Some(bridge), &peer);
    }
    made.at("connect the container to the bridge rrun0")
}

/// The interface of a container that [`connect`] plugged in gets its address, from inside.
pub(super) fn configure(address: Ipv4Addr) -> io::Result<()> {
    let network = (address, PREFIX_BITS);
    super::netlink::configure(uplink::INTERFACE, None, None, network, GATEWAY)
}

/// Whether an address is one of the bridge's network.
pub(super) fn is_ours(address: Ipv4Addr) -> bool {
    (address.to_bits() ^ GATEWAY.to_bits()) >> (32 - u32::from(PREFIX_BITS)) == 0
}

/// Gives an address back, if it is this container's.
pub(super) fn release(address: Ipv4Addr, dir: &Path) {
    if let Ok(taken) = Taken::open() {
        taken.give(address, dir);
    }
}

/// The addresses that are taken: a file for each, holding the path of its container's directory.
/// Who has the lock may change them.
struct Taken {
    dir: PathBuf,
    _lock: File,
}

impl Taken {
    fn open() -> io::Result<Self> {
        Self::open_at(Path::new(TAKEN))
    }

    fn open_at(dir: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(dir)?;
        let lock = File::options()
            .create(true)
            .append(true)
            .open(dir.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// Takes the lowest address that nobody has who lives.
    fn take(&self, container: &Path) -> io::Result<Ipv4Addr> {
        let network = GATEWAY.to_bits() & (u32::MAX << (32 - u32::from(PREFIX_BITS)));
        for offset in FIRST..=LAST {
            let address = Ipv4Addr::from_bits(network + offset);
            let path = self.dir.join(address.to_string());
            if let Some(owner) = owner(&path) {
                let alive = owner != container && state::monitor_alive(&owner).unwrap_or(false);
                if alive {
                    continue;
                }
                std::fs::remove_file(&path)?;
            }
            let mut file = File::options().write(true).create_new(true).open(&path)?;
            file.write_all(std::os::unix::ffi::OsStrExt::as_bytes(
                container.as_os_str(),
            ))?;
            return Ok(address);
        }
        Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
    }

    /// Takes back whatever a container has, known or not.
    fn forget(&self, container: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if owner(&path).is_some_and(|owner| owner == container) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn give(&self, address: Ipv4Addr, container: &Path) {
        let path = self.dir.join(address.to_string());
        if owner(&path).is_some_and(|owner| owner == container) {
            let _gone = std::fs::remove_file(path);
        }
    }
}

/// Gives back the address of a container that was killed before it was written down.
pub(super) fn forget(container: &Path) {
    // Without the directory nobody has an address; another taker finds what stays.
    if Path::new(TAKEN).is_dir() {
        let _kept = Taken::open().and_then(|taken| taken.forget(container));
    }
}

/// Whose an address is; an empty file, left by a kill, is nobody's.
fn owner(path: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let bytes = crate::files::read_bounded(path, 4096).ok()?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_once_and_come_back() {
        let home = tempfile::tempdir().unwrap();
        let container = |name: &str| {
            let dir = home.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            dir
        };
        let (first, second) = (container("a"), container("b"));
        let locks = [&first, &second].map(|dir| state::take_lock(dir).unwrap().unwrap());
        let taken = Taken::open_at(&home.path().join("ipam")).unwrap();
        assert_eq!(taken.take(&first).unwrap(), Ipv4Addr::new(10, 87, 0, 2));
        assert_eq!(taken.take(&second).unwrap(), Ipv4Addr::new(10, 87, 0, 3));
        taken.give(Ipv4Addr::new(10, 87, 0, 2), &second);
        assert_eq!(
            taken.take(&container("c")).unwrap(),
            Ipv4Addr::new(10, 87, 0, 4)
        );
        taken.give(Ipv4Addr::new(10, 87, 0, 2), &first);
        let fourth = container("d");
        let fourth_lock = state::take_lock(&fourth).unwrap().unwrap();
        assert_eq!(taken.take(&fourth).unwrap(), Ipv4Addr::new(10, 87, 0, 2));
        taken.forget(&second).unwrap();
        assert_eq!(
            taken.take(&container("f")).unwrap(),
            Ipv4Addr::new(10, 87, 0, 3)
        );
        // A monitor that was killed lets go of its lock, and so of its address.
        drop((locks, fourth_lock));
        assert_eq!(
            taken.take(&container("e")).unwrap(),
            Ipv4Addr::new(10, 87, 0, 2)
        );
    }
}
