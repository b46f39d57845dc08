//! Translation of addresses by the kernel's packet filter, spoken to directly: no program needs
//! to be installed.
//!
//! Source: `linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h`.

use std::io;
use std::net::Ipv4Addr;

use rustix::net::netlink;

use super::netlink::{CREATE, Request, exchange, open};

/// Our table.
const TABLE: &str = "rrun";
/// Our chain in it.
const CHAIN: &str = "postrouting";
/// The subsystem of the packet filter; message numbers follow it.
const NFTABLES: u16 = 10 << 8;
const NEW_TABLE: u16 = NFTABLES;
const DELETE_TABLE: u16 = NFTABLES | 2;
const NEW_CHAIN: u16 = NFTABLES | 3;
const NEW_RULE: u16 = NFTABLES | 6;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// Flags of requests.
const ACK: u16 = 4;
const APPEND: u16 = 0x800;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// Where the chain hooks in, `NF_INET_POST_ROUTING`, and its place there, `NF_IP_PRI_NAT_SRC`.
const POST_ROUTING: u32 = 4;
const PRIORITY: u32 = 100;
/// `NFT_META_OIFNAME`: the name of the interface a packet leaves by.
const OIFNAME: u32 = 7;
/// Bytes of an interface's name. Source: `linux/if.h`.
const NAME_BYTES: usize = 16;

#[expect(
    clippy::big_endian_bytes,
    reason = "the packet filter speaks network order"
)]
fn number(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

/// Lets packets from the network of `gateway` leave by other interfaces than `bridge` under the
/// host's address. Replaces what was said before.
///
/// # Errors
///
/// The kernel's, for instance when it has no nftables.
pub(super) fn masquerade(gateway: Ipv4Addr, prefix_bits: u8, bridge: &str) -> io::Result<()> {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix_bits))
        .unwrap_or(u32::MAX);
    let network = gateway.to_bits() & mask;
    let messages = [
        header(BATCH_BEGIN, 0, 0, 10),
        table(NEW_TABLE, CREATE),
        // Whatever it held; it exists now, so this cannot fail.
        table(DELETE_TABLE, 0),
        table(NEW_TABLE, CREATE),
        chain(),
        rule(number(network), number(mask), bridge),
        header(BATCH_END, 0, 0, 10),
    ];
    let mut bytes = Vec::new();
    for (request, index) in messages.into_iter().zip(0..) {
        bytes.extend(request.finish(index));
    }
    exchange(&open(Some(netlink::NETFILTER))?, &bytes, 5)
}

/// A message with `struct nfgenmsg`.
fn header(kind: u16, flags: u16, family: u8, resource: u8) -> Request {
    let mut request = Request::new(kind, flags);
    request.put(&[family, 0, 0, resource]);
    request
}

fn table(kind: u16, flags: u16) -> Request {
    let mut request = header(kind, flags | ACK, IPV4, 0);
    request.text(1, TABLE);
    request
}

fn chain() -> Request {
    let mut request = header(NEW_CHAIN, CREATE | ACK, IPV4, 0);
    request.text(1, TABLE);
    request.text(3, CHAIN);
    request.nest(4, |hook| {
        hook.attribute(1, &number(POST_ROUTING));
        hook.attribute(2, &number(PRIORITY));
    });
    request.text(7, "nat");
    request
}

/// One expression of a rule: a name and what `fill` writes.
fn expression(rule: &mut Request, name: &str, fill: impl FnOnce(&mut Request)) {
    rule.nest(1, |element| {
        element.text(1, name);
        element.nest(2, fill);
    });
}

/// `ip saddr & MASK == NETWORK, oifname != BRIDGE, masquerade`, all through register 1.
fn rule(network: [u8; 4], mask: [u8; 4], bridge: &str) -> Request {
    let register = number(1);
    let mut name = [0; NAME_BYTES];
    for (to, from) in name.iter_mut().zip(bridge.bytes()) {
        *to = from;
    }
    let compare = |rule: &mut Request, operation: u32, value: &[u8]| {
        expression(rule, "cmp", |cmp| {
            cmp.attribute(1, &register);
            cmp.attribute(2, &number(operation));
            cmp.nest(3, |data| data.attribute(1, value));
        });
    };
    let mut request = header(NEW_RULE, CREATE | APPEND | ACK, IPV4, 0);
    request.text(1, TABLE);
    request.text(2, CHAIN);
    request.nest(4, |rule| {
        // Four bytes of the network header from 12 on: the source address.
        expression(rule, "payload", |payload| {
            for (kind, value) in [(1, 1), (2, 1), (3, 12), (4, 4)] {
                payload.attribute(kind, &number(value));
            }
        });
        expression(rule, "bitwise", |bitwise| {
            bitwise.attribute(1, &register);
            bitwise.attribute(2, &register);
            bitwise.attribute(3, &number(4));
            bitwise.nest(4, |data| data.attribute(1, &mask));
            bitwise.nest(5, |data| data.attribute(1, &[0; 4]));
        });
        compare(rule, 0, &network);
        expression(rule, "meta", |meta| {
            meta.attribute(1, &register);
            meta.attribute(2, &number(OIFNAME));
        });
        compare(rule, 1, &name);
        expression(rule, "masq", |_| {});
    });
    request
}
