//! A packet socket with a ring, and several that share an interface's packets.
//!
//! ```text
//!  open: ring, filter that takes nothing, bound ─▶ join (fanout) ─▶ select (our program) ─▶ ... ─▶ stop
//! ```
//! The order matters: bound and without a filter a socket would take everything, and only one that is bound
//! may join. Whoever is last has the socket closed: reader and capture share it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::c_int;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::PacketReader;
use crate::iface::Interface;
use crate::mmap::Mapping;

/// Holds the largest packet of GRO, 64 KiB with its headers. Small, since a quiet line takes a block for what
/// comes within [`RingSize::timeout_ms`], however little that is.
const BLOCK_BYTES: usize = 128 << 10;
/// The kernel wants a frame size that divides the block; the version with blocks has no other use for it.
const FRAME_BYTES: usize = 2048;
/// Fewest blocks: one is read, one is written, and two wait.
const MIN_BLOCKS: usize = 4;
/// On a quiet line the blocks together must last so long: a worker sleeps 100 ms at most.
const LASTS_MS: usize = 128;
/// Longest time for which a packet may wait in a block that does not fill.
const MAX_TIMEOUT_MS: usize = 8;

/// Shape of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingSize {
    pub(super) block_bytes: usize,
    pub(super) blocks: usize,
    /// After which a block is handed over that is not full.
    pub(crate) timeout_ms: usize,
}

impl RingSize {
    /// Of about so many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        let blocks = (bytes / BLOCK_BYTES).max(MIN_BLOCKS);
        Self {
            block_bytes: BLOCK_BYTES,
            blocks,
            timeout_ms: LASTS_MS.div_ceil(blocks).clamp(1, MAX_TIMEOUT_MS),
        }
    }

    /// Memory that it takes.
    pub(crate) const fn bytes(self) -> usize {
        self.block_bytes * self.blocks
    }
}

/// The capture's hold on a socket, beside its reader's.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: Arc<OwnedFd>,
    /// The kernel forgets its count when it is read.
    dropped: AtomicU64,
}

impl PacketSocket {
    /// Bound to an interface; takes nothing yet. `outgoing`: the program is asked of what this host sends, too.
    pub(crate) fn open(
        interface: &Interface,
        size: RingSize,
        outgoing: bool,
    ) -> io::Result<(Self, PacketReader)> {
        let socket = unbound(SocketFlags::empty())?;
        let version = libc::tpacket_versions::TPACKET_V3 as c_int;
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        // In front of each packet: how long the segments were that GRO merged. Must be said before the ring is
        // made.
        set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1)?;
        // Since 4.20. Our program does not take such packets either: this only saves the kernel asking it.
        let ignore = c_int::from(!outgoing);
        let _ = set(
            &socket,
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            &ignore,
        );
        let request = libc::tpacket_req3 {
            tp_block_size: size.block_bytes as u32,
            tp_block_nr: size.blocks as u32,
            tp_frame_size: FRAME_BYTES as u32,
            tp_frame_nr: (size.bytes() / FRAME_BYTES) as u32,
            tp_retire_blk_tov: size.timeout_ms as u32,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let ring = Mapping::new(socket.as_fd(), 0, size.bytes(), true)?;
        let this = Self {
            socket: Arc::new(socket),
            dropped: AtomicU64::new(0),
        };
        this.stop()?;
        bind(&this.socket, interface.index, libc::ETH_P_ALL)?;
        let reader = PacketReader::new(Arc::clone(&this.socket), ring, size);
        Ok((this, reader))
    }

    /// Takes what this program of a socket filter says from now on.
    pub(crate) fn select(&self, program: &impl AsFd) -> io::Result<()> {
        let fd = program.as_fd().as_raw_fd();
        set(&self.socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &fd)
    }

    /// Takes nothing any more; what is in the ring stays. The last block is handed over when it is
    /// [`RingSize::timeout_ms`] old, as ever.
    pub(crate) fn stop(&self) -> io::Result<()> {
        // `ret #0`.
        let nothing = [libc::sock_filter {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: 0,
        }];
        filter(&self.socket, nothing)
    }

    /// Packets that were to be taken and were not: the ring was full.
    pub(crate) fn dropped(&self) -> u64 {
        let mut stats = libc::tpacket_stats_v3 {
            tp_packets: 0,
            tp_drops: 0,
            tp_freeze_q_cnt: 0,
        };
        let mut len = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes into a structure of integers.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        let new = if result == 0 { stats.tp_drops } else { 0 };
        self.dropped.fetch_add(u64::from(new), Ordering::Relaxed) + u64::from(new)
    }
}

/// Shares the interface's packets out among `sockets`: `program` says which of them gets one, by its place here.
/// A single socket gets all anyway. `outgoing` as in [`PacketSocket::open`].
pub(crate) fn join(
    sockets: &[PacketSocket],
    program: &impl AsFd,
    outgoing: bool,
) -> io::Result<()> {
    let [first, others @ ..] = sockets else {
        return Ok(());
    };
    if others.is_empty() {
        return Ok(());
    }
    // Lower half: the group. Of other flags than its own the group takes no socket.
    let ignore = if outgoing {
        0
    } else {
        libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING
    };
    let kind = (libc::PACKET_FANOUT_EBPF | ignore) << 16;
    let new = kind | libc::PACKET_FANOUT_FLAG_UNIQUEID << 16;
    set(&first.socket, libc::SOL_PACKET, libc::PACKET_FANOUT, &new)?;
    let group = group_of(&first.socket)?;
    for other in others {
        let arg = kind | group;
        set(&other.socket, libc::SOL_PACKET, libc::PACKET_FANOUT, &arg)?;
    }
    // Of the whole group. Until now the first would have had all.
    let fd = program.as_fd().as_raw_fd();
    set(
        &first.socket,
        libc::SOL_PACKET,
        libc::PACKET_FANOUT_DATA,
        &fd,
    )
}

/// Number of the group that the kernel made.
fn group_of(socket: &OwnedFd) -> io::Result<u32> {
    let mut value: u32 = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into an integer.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(value & 0xffff)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A packet socket without a protocol: nothing is received before it is bound.
pub(crate) fn unbound(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | flags;
    Ok(socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        flags,
        None,
    )?)
}

/// One instruction of a classic filter.
pub(crate) const fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// Binds a packet socket to an interface, or with 0 to all of them, and to an ethertype or `ETH_P_ALL`.
pub(crate) fn bind(socket: &OwnedFd, index: u32, protocol: c_int) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: index as c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: an address of the length given, which the kernel copies.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    checked(result)
}

/// setsockopt(2) with a value that holds no reference that the kernel keeps.
pub(crate) fn set<T: Copy>(
    socket: &OwnedFd,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the value is of the size given, and lives, with what it points to, until the call returns: the
    // kernel copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    checked(result)
}

/// Gives a socket a classic filter (socket(7), `SO_ATTACH_FILTER`).
pub(crate) fn filter<const N: usize>(
    socket: &OwnedFd,
    mut instructions: [libc::sock_filter; N],
) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: N as u16,
        filter: instructions.as_mut_ptr(),
    };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn checked(result: c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_last_on_quiet_lines() {
        for (mib, blocks, timeout_ms) in
            [(64, 512, 1), (16, 128, 1), (8, 64, 2), (1, 8, 8), (0, 4, 8)]
        {
            let size = RingSize::of(mib << 20);
            assert_eq!(
                (size.blocks, size.timeout_ms),
                (blocks, timeout_ms),
                "{mib}"
            );
        }
    }
}
