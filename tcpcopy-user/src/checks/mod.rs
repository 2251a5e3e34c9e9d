//! What is refused before anything is attached: settings that make no sense on this host.
//!
//! No loops and no production (a replayed request that reaches production is the one accident that
//! cannot be taken back), no capture by surprise, and a missing privilege named before some system call
//! says EPERM.

mod mirror;
mod offloads;
mod pool;
mod targets;
mod udp;

pub use mirror::check_mirror;
pub use offloads::{Offload, offloads_in_the_way};
use operator::privileges::{MissingCapability, MissingToSend};
pub use operator::privileges::{check_privileges, check_transmit_privileges};
pub use pool::{PoolError, check_own_ports, check_pool_addresses};
pub use targets::{check_clients, check_targets};
pub use udp::check_udp_targets;

use crate::cli::Transfer;
use common::packet::{Addr, Endpoint};

/// Why the program does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Not root and not given the capabilities.
    #[error(transparent)]
    Privileges(#[from] MissingCapability),
    /// The same with files, for which less is needed.
    #[error(transparent)]
    MissingToSend(#[from] MissingToSend),
    /// `--pool`.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The transfer list would capture what is sent to a target.
    #[error(
        "target {target} would be captured again by the transfer {by}: a loop; expected a target that no transfer names as online address"
    )]
    TargetCaptured {
        /// The target.
        target: Endpoint,
        /// The transfer that matches it.
        by: Transfer,
    },
    /// The address of a target is an online address.
    #[error(
        "target {target} is on the online address of the transfer {of}: replayed requests would reach production; expected another host"
    )]
    TargetOnline {
        /// The target.
        target: Endpoint,
        /// The transfer.
        of: Transfer,
    },
    /// The target is the host whose traffic is captured.
    #[error(
        "target {target} is an address of {iface}, where requests to any address are captured: replayed requests would reach production; expected another host"
    )]
    TargetIsHost {
        /// The target.
        target: Endpoint,
        /// The capture interface.
        iface: String,
    },
    /// `-c` contains a target.
    #[error("-c contains {addr}, the address of target {target}; expected addresses of no host")]
    ClientIsTarget {
        /// The address.
        addr: Addr,
        /// The target.
        target: Endpoint,
    },
    /// `-c` is of the other family.
    #[error(
        "-c and the target {target} are of different IP families; expected addresses of the target's family"
    )]
    ClientFamily {
        /// The target.
        target: Endpoint,
    },
    /// Packets without a link header (tun, WireGuard, tunnels of IP).
    #[error(
        "{iface} carries IP packets without Ethernet headers, of which nothing would be captured; expected an interface with Ethernet frames, such as the one below it"
    )]
    NoEthernet {
        /// The interface.
        iface: String,
    },
    /// Mirror capture on an interface in use.
    #[error(
        "--capture mirror takes packets away from {iface}, but {why}; use --capture tap, --decap with the tunnels that alone are to be taken, or --force if it does receive a switch's mirror"
    )]
    MirrorRefused {
        /// The interface.
        iface: String,
        /// What shows that it is in use.
        why: String,
    },
}
