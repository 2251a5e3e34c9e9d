//! Somebody else's programs on an interface: two instructions, by raw bpf(2), since aya loads none that
//! are not in an object.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_INGRESS: u32 = 46;
pub const XDP_FLAGS_SKB_MODE: u32 = 2;
pub const XDP_FLAGS_DRV_MODE: u32 = 4;
pub const TCX_PASS: i32 = 0;
pub const TCX_DROP: i32 = 2;

/// An attached program; dropping it detaches.
pub struct Foreign {
    _link: OwnedFd,
    /// The kernel's id.
    pub id: u32,
}

impl Foreign {
    /// At the end of the tcx ingress hook.
    pub fn tcx(ifindex: u32, verdict: i32) -> Self {
        Self::attach(PROG_TYPE_SCHED_CLS, ATTACH_TCX_INGRESS, ifindex, verdict, 0)
    }

    /// XDP in the mode of `flags`, passing everything.
    pub fn xdp(ifindex: u32, flags: u32) -> Self {
        Self::attach(PROG_TYPE_XDP, ATTACH_XDP, ifindex, 2, flags)
    }

    fn attach(kind: u32, attach_type: u32, ifindex: u32, verdict: i32, flags: u32) -> Self {
        // r0 = verdict; exit
        let instructions: [u64; 2] = [0xb7 | u64::from(verdict as u32) << 32, 0x95];
        let license = c"GPL";
        let expected = if kind == PROG_TYPE_XDP { ATTACH_XDP } else { 0 };
        let load: [u64; 10] = [
            pair(kind, 2),
            instructions.as_ptr() as u64,
            license.as_ptr() as u64,
            0,
            0,
            0,
            0,
            0,
            pair(0, expected),
            0,
        ];
        let program = bpf(BPF_PROG_LOAD, &load);
        let create: [u64; 6] = [
            pair(program.as_raw_fd() as u32, ifindex),
            pair(attach_type, flags),
            0,
            0,
            0,
            0,
        ];
        let link = bpf(BPF_LINK_CREATE, &create);
        Self {
            _link: link,
            id: program_id(&program),
        }
    }
}

/// `struct bpf_prog_info` begins with type and id.
fn program_id(program: &OwnedFd) -> u32 {
    let mut info = [0u32; 64];
    let mut attr: [u64; 2] = [
        pair(program.as_raw_fd() as u32, size_of_val(&info) as u32),
        info.as_mut_ptr() as u64,
    ];
    // SAFETY: the attribute names a buffer of the length that it gives.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            attr.as_mut_ptr(),
            size_of_val(&attr),
        )
    };
    assert_eq!(
        failed,
        0,
        "program info: {}",
        std::io::Error::last_os_error()
    );
    info[1]
}

const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

fn bpf(command: libc::c_long, attr: &[u64]) -> OwnedFd {
    // SAFETY: the kernel copies the attribute of the given size; both commands return a new fd.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr));
        assert!(
            fd >= 0,
            "bpf command {command}: {}",
            std::io::Error::last_os_error()
        );
        OwnedFd::from_raw_fd(fd as i32)
    }
}
