//! AF_PACKET with TPACKET_V3: what libpcap and most capture programs use.
//!
//! ```text
//!   packet that the BPF filter takes ─▶ block of the ring ── full, or 1 ms old ──▶ poll ▶ all its packets
//! ```
//! As small as it gets: a block is walked and given back, nothing is copied. Its memory is that of the
//! tap's rings. The kernel writes blocks of many packets, so the reader is woken once per block; 1 ms is
//! the shortest that the kernel offers for a block that does not fill.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dataplane::iface::Interface;
use dataplane::poll::PollSet;

use crate::reader::{Reader, wait_for};

const BLOCK_BYTES: usize = 256 * 1024;
/// Largest packet is what a block holds; the kernel wants a frame size that divides the block.
const FRAME_BYTES: usize = 2048;
/// After which a block is handed over that is not full.
pub const BLOCK_TIMEOUT: Duration = Duration::from_millis(1);

/// The socket and its ring.
pub struct PacketRing {
    socket: OwnedFd,
    ring: NonNull<u8>,
    blocks: usize,
    next: usize,
    poll: PollSet,
}

// SAFETY: the mapping belongs to the value alone.
unsafe impl Send for PacketRing {}

impl PacketRing {
    /// On an interface of this thread's namespace, for TCP to `addr` and `port`.
    pub fn open(ifname: &str, addr: [u8; 4], port: u16, ring_bytes: usize) -> Self {
        let interface = Interface::by_name(ifname).expect("interface");
        // SAFETY: a new socket; with protocol 0 it receives nothing yet.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        let blocks = ring_bytes / BLOCK_BYTES;
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        option(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version);
        option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1);
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: FRAME_BYTES as u32,
            tp_frame_nr: (blocks * BLOCK_BYTES / FRAME_BYTES) as u32,
            tp_retire_blk_tov: BLOCK_TIMEOUT.as_millis() as u32,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        option(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request);
        let mut filter = filter(addr, port);
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program);
        // SAFETY: a new mapping of the ring that the socket was just given, unmapped on drop.
        let ring = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                blocks * BLOCK_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        assert!(
            ring != libc::MAP_FAILED,
            "map the ring: {}",
            std::io::Error::last_os_error()
        );
        // SAFETY: plain integers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = interface.index as i32;
        // SAFETY: an address of the length given.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        assert_eq!(bound, 0, "bind: {}", std::io::Error::last_os_error());
        Self {
            socket,
            ring: NonNull::new(ring.cast()).expect("not null"),
            blocks,
            next: 0,
            poll: PollSet::new(),
        }
    }

    /// Packets that the kernel dropped because the ring was full, since the last call.
    pub fn dropped(&self) -> u64 {
        // SAFETY: plain integers.
        let mut stats: libc::tpacket_stats_v3 = unsafe { std::mem::zeroed() };
        let mut len = size_of_val(&stats) as u32;
        // SAFETY: the kernel writes at most `len` bytes into the structure.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        assert_eq!(result, 0, "statistics: {}", std::io::Error::last_os_error());
        u64::from(stats.tp_drops)
    }
}

impl Reader for PacketRing {
    fn take(&mut self) -> (u64, u64) {
        // SAFETY: block `next` lies in the mapping. Its header is the kernel's until the status says
        // otherwise (load-acquire), then ours until the status is stored (release). The offsets in it are
        // the kernel's and stay inside the block.
        unsafe {
            let block = self.ring.add(self.next * BLOCK_BYTES);
            let header = block.cast::<libc::tpacket_block_desc>();
            let bh1 = &raw mut (*header.as_ptr()).hdr.bh1;
            let status = AtomicU32::from_ptr(&raw mut (*bh1).block_status);
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return (0, 0);
            }
            let (packets, mut bytes) = ((*bh1).num_pkts, 0);
            let mut packet = block.add((*bh1).offset_to_first_pkt as usize);
            for _ in 0..packets {
                let packet_header = packet.cast::<libc::tpacket3_hdr>().as_ptr();
                bytes += u64::from((*packet_header).tp_snaplen);
                packet = packet.add((*packet_header).tp_next_offset as usize);
            }
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % self.blocks;
            (u64::from(packets), bytes)
        }
    }

    fn rest(&mut self, worked: bool) {
        if !worked {
            wait_for(&mut self.poll, self.socket.as_raw_fd());
        }
    }
}

impl Drop for PacketRing {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, used by nobody any more.
        unsafe { libc::munmap(self.ring.as_ptr().cast(), self.blocks * BLOCK_BYTES) };
    }
}

/// `tcp dst port PORT and ip dst host ADDR`, as libpcap compiles it.
fn filter(addr: [u8; 4], port: u16) -> Vec<libc::sock_filter> {
    let load = |code: u32, at| (libc::BPF_LD | libc::BPF_ABS | code, 0, 0, at);
    let equal = |value, no| (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, no, value);
    [
        load(libc::BPF_H, 12),
        equal(0x0800, 10),
        load(libc::BPF_B, 23),
        equal(6, 8),
        load(libc::BPF_W, 30),
        equal(u32::from_be_bytes(addr), 6),
        load(libc::BPF_H, 20),
        // A later fragment has no ports.
        (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 4, 0, 0x1fff),
        (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 14),
        (libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 16),
        equal(u32::from(port), 1),
        (libc::BPF_RET | libc::BPF_K, 0, 0, 262_144),
        (libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
    .map(|(code, jt, jf, k)| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    })
    .to_vec()
}

fn option<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) {
    // SAFETY: the value is a plain structure of the size given, which the kernel reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    };
    assert_eq!(
        result,
        0,
        "socket option {name}: {}",
        std::io::Error::last_os_error()
    );
}
