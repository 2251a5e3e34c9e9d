//! The smallest XDP program that feeds an AF_XDP socket, written out by hand so that these tests need no
//! BPF toolchain: it puts metadata in front of every packet and redirects it to the socket of its queue.

use common::abi::XdpMeta;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What the program writes in front of each packet.
pub const META: XdpMeta = XdpMeta {
    captured_ns: 7777,
    frame_len: 12_345,
    cookie: 0x1234_5678,
};

// Commands and constants of include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_PASS: i32 = 2;
const CALL_REDIRECT_MAP: i32 = 51;
const CALL_ADJUST_META: i32 = 54;

/// Attached as long as it lives. Drop the socket first.
pub struct Redirect {
    _link: OwnedFd,
    _program: OwnedFd,
    map: OwnedFd,
}

/// `union bpf_attr` as the fields that the commands here use, each at its offset.
#[repr(C, align(8))]
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Self {
        Self([0; 128])
    }
    fn u32(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }
    fn pointer<T>(mut self, at: usize, to: &[T]) -> Self {
        self.0[at..at + 8].copy_from_slice(&(to.as_ptr().expose_provenance() as u64).to_ne_bytes());
        self
    }
    fn call(self, command: i64) -> std::io::Result<i64> {
        // SAFETY: the attribute block is larger than any field the commands read, zero elsewhere, and
        // the buffers it points at outlive the call in all callers.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), 128usize) };
        if answer < 0 {
            Err(std::io::Error::last_os_error())
        } else {
            Ok(answer)
        }
    }
    fn open(self, command: i64, what: &str) -> OwnedFd {
        let fd = self.call(command).unwrap_or_else(|e| panic!("{what}: {e}"));
        // SAFETY: the kernel just returned it to us.
        unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
    }
}

/// One `struct bpf_insn`.
const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> [u8; 8] {
    let (o, i) = (off.to_ne_bytes(), imm.to_ne_bytes());
    [code, dst | src << 4, o[0], o[1], i[0], i[1], i[2], i[3]]
}

impl Redirect {
    /// Attaches to `ifindex`, natively.
    pub fn attach(ifindex: u32, queues: u32) -> Self {
        let map = Attr::new()
            .u32(0, BPF_MAP_TYPE_XSKMAP)
            .u32(4, 4)
            .u32(8, 4)
            .u32(12, queues)
            .open(BPF_MAP_CREATE, "XSKMAP");
        let program = [
            insn(0xbf, 6, 1, 0, 0),                              // r6 = ctx
            insn(0xb7, 2, 0, 0, -(size_of::<XdpMeta>() as i32)), // r2 = -16
            insn(0x85, 0, 0, 0, CALL_ADJUST_META),               // r0 = adjust_meta(ctx, -16)
            insn(0x55, 0, 0, 8, 0),                              // failed: go on without
            insn(0x61, 1, 6, 8, 0),                              // r1 = ctx->data_meta
            insn(0x61, 2, 6, 0, 0),                              // r2 = ctx->data
            insn(0xbf, 3, 1, 0, 0),                              // r3 = r1
            insn(0x07, 3, 0, 0, 16),                             // r3 += 16
            insn(0x2d, 3, 2, 3, 0),                              // beyond the data: go on
            insn(0x7a, 1, 0, 0, META.captured_ns as i32),        // meta->captured_ns
            insn(0x62, 1, 0, 8, META.frame_len as i32),          // meta->frame_len
            insn(0x62, 1, 0, 12, META.cookie as i32),            // meta->cookie
            insn(0x61, 2, 6, 16, 0),                             // r2 = ctx->rx_queue_index
            insn(0x18, 1, 1, 0, map.as_raw_fd()),                // r1 = map
            insn(0, 0, 0, 0, 0),
            insn(0xb7, 3, 0, 0, XDP_PASS), // r3 = action without a socket
            insn(0x85, 0, 0, 0, CALL_REDIRECT_MAP), // r0 = redirect_map(…)
            insn(0x95, 0, 0, 0, 0),        // return r0
        ];
        let license = *b"GPL\0";
        let program = Attr::new()
            .u32(0, BPF_PROG_TYPE_XDP)
            .u32(4, program.len() as u32)
            .pointer(8, &program)
            .pointer(16, &license)
            .u32(68, BPF_XDP)
            .open(BPF_PROG_LOAD, "program");
        let link = Attr::new()
            .u32(0, program.as_raw_fd() as u32)
            .u32(4, ifindex)
            .u32(8, BPF_XDP)
            .open(BPF_LINK_CREATE, "link");
        Self {
            _link: link,
            _program: program,
            map,
        }
    }

    /// Packets of `queue` go to `socket` from now on.
    pub fn set(&self, queue: u32, socket: RawFd) {
        let (key, value) = ([queue], [socket as u32]);
        Attr::new()
            .u32(0, self.map.as_raw_fd() as u32)
            .pointer(8, &key)
            .pointer(16, &value)
            .call(BPF_MAP_UPDATE_ELEM)
            .expect("XSKMAP entry");
    }
}
