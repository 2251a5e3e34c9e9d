//! Loading raw instructions, which aya cannot: two bpf(2) commands.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use aya_obj::generated::{BPF_F_XDP_HAS_FRAGS, bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};

use super::access::Hook;
use super::insn::Insn;
use crate::bpf::BpfError;
use crate::bpf::error::kernel_release;

/// Enough for the verifier's words on any filter that it refuses; what is longer is cut by the kernel.
const LOG_BYTES: usize = 1 << 20;
/// As the objects say: no helper in use demands another.
const LICENSE: &std::ffi::CStr = c"Apache-2.0";

/// Loads a program of the kind that runs at `hook`. Its name is cut to 15 bytes, as `bpftool` shows it.
///
/// What the kernel compares with the other programs of a tail call array is set as aya sets it: type,
/// expected attach type and whether fragments are understood (kernel/bpf/core.c,
/// `__bpf_prog_map_compatible`).
pub fn load(hook: Hook, insns: &[Insn], name: &str) -> Result<OwnedFd, BpfError> {
    let failed = match try_load(hook, insns, name, &mut []) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    if failed.raw_os_error() == Some(libc::EPERM) {
        return Err(BpfError::Permission {
            action: format!("load BPF program {name}"),
        });
    }
    let mut log = vec![0; LOG_BYTES];
    let error = match try_load(hook, insns, name, &mut log) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[..end]);
    Err(BpfError::refused(name, error, &log))
}

fn try_load(hook: Hook, insns: &[Insn], name: &str, log: &mut [u8]) -> io::Result<OwnedFd> {
    // SAFETY: a union of plain integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the union is all zero, which is valid for this view of it.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    (load.prog_type, load.expected_attach_type, load.prog_flags) = match hook {
        Hook::Tcx => (bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32, 0, 0),
        Hook::Socket => (bpf_prog_type::BPF_PROG_TYPE_SOCKET_FILTER as u32, 0, 0),
        Hook::Xdp => (
            bpf_prog_type::BPF_PROG_TYPE_XDP as u32,
            bpf_attach_type::BPF_XDP as u32,
            BPF_F_XDP_HAS_FRAGS,
        ),
    };
    load.insn_cnt = insns.len() as u32;
    load.insns = insns.as_ptr() as u64;
    load.license = LICENSE.as_ptr() as u64;
    if !log.is_empty() {
        load.log_level = 1;
        load.log_size = log.len() as u32;
        load.log_buf = log.as_mut_ptr() as u64;
    }
    let room = load.prog_name.len() - 1;
    for (to, from) in load.prog_name.iter_mut().zip(name.bytes().take(room)) {
        *to = from as std::ffi::c_char;
    }
    // SAFETY: the attributes name buffers that live until the call returns.
    let fd = unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &attr) }?;
    // SAFETY: a descriptor that the kernel just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Puts a program into a slot of a tail call array, in place of what is there; atomic for running
/// programs.
pub(super) fn put(array: &impl AsFd, slot: u32, program: &impl AsFd) -> Result<(), BpfError> {
    let fd = program.as_fd().as_raw_fd();
    // SAFETY: a union of plain integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the union is all zero, which is valid for this view of it.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = array.as_fd().as_raw_fd() as u32;
    element.key = &raw const slot as u64;
    element.__bindgen_anon_1.value = &raw const fd as u64;
    // SAFETY: key and value are four bytes each, as the map has them, and live until the call returns.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &attr) }
        .map(drop)
        .map_err(|error| BpfError::Map {
            map: super::chain::ARRAY,
            action: "insert a program",
            error: format!("{error} (kernel {})", kernel_release()),
        })
}

/// bpf(2).
///
/// # Safety
///
/// The buffers that `attr` names for `command` must be valid for what the command does with them.
unsafe fn bpf(command: bpf_cmd, attr: &bpf_attr) -> io::Result<c_long> {
    // SAFETY: by the caller's contract; the size is that of the union.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as c_long,
            std::ptr::from_ref(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
