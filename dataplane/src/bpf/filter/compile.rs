//! libpcap: the expression's compiler, and its interpreter as the oracle.
//!
//! Six functions, bound here: the `pcap` crate does not show what a compiled instruction consists of.
//! libpcap compiles on a handle without a device, so nothing of the system is touched but name
//! resolution, if the expression has names.

use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::ptr::NonNull;
use std::sync::Mutex;

use super::classic::ClassicInsn;

/// What a packet begins with, by libpcap's number.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Link {
    /// `DLT_EN10MB`.
    Ethernet = 1,
    /// `DLT_RAW`: an IP header of either version (12 on Linux and most others).
    Ip = 12,
}

/// What a match returns, `MAXIMUM_SNAPLEN`; only zero or not matters.
const SNAPLEN: c_int = 262_144;
/// `PCAP_NETMASK_UNKNOWN`: `ip broadcast` is refused by its own message.
const NETMASK_UNKNOWN: c_uint = 0xffff_ffff;

/// `pcap_t`.
#[repr(C)]
struct Handle {
    opaque: [u8; 0],
}

/// `struct bpf_program`.
#[repr(C)]
struct Program {
    len: c_uint,
    insns: *mut ClassicInsn,
}

#[link(name = "pcap")]
unsafe extern "C" {
    fn pcap_open_dead(linktype: c_int, snaplen: c_int) -> *mut Handle;
    fn pcap_close(handle: *mut Handle);
    fn pcap_compile(
        handle: *mut Handle,
        program: *mut Program,
        text: *const c_char,
        optimize: c_int,
        netmask: c_uint,
    ) -> c_int;
    fn pcap_geterr(handle: *mut Handle) -> *const c_char;
    fn pcap_freecode(program: *mut Program);
    fn bpf_filter(
        insns: *const ClassicInsn,
        packet: *const u8,
        wire_len: c_uint,
        captured_len: c_uint,
    ) -> c_uint;
}

/// pcap_compile was not reentrant before libpcap 1.8.
static COMPILER: Mutex<()> = Mutex::new(());

/// Compiles an expression for packets that begin so. The error is libpcap's own text.
pub(super) fn compile(expression: &str, link: Link) -> Result<Vec<ClassicInsn>, String> {
    let text = CString::new(expression).map_err(|_| "contains a zero byte".to_owned())?;
    let _one_at_a_time = COMPILER
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    // SAFETY: no pointers.
    let handle = NonNull::new(unsafe { pcap_open_dead(link as c_int, SNAPLEN) })
        .ok_or("libpcap has no memory")?;
    let mut program = Program {
        len: 0,
        insns: std::ptr::null_mut(),
    };
    // SAFETY: a live handle, a program to fill, a text that ends in zero.
    let failed = unsafe {
        pcap_compile(
            handle.as_ptr(),
            &raw mut program,
            text.as_ptr(),
            1,
            NETMASK_UNKNOWN,
        )
    };
    let result = if failed == 0 && !program.insns.is_null() {
        // SAFETY: libpcap allocated and filled that many instructions; ours have its layout.
        Ok(unsafe { std::slice::from_raw_parts(program.insns, program.len as usize) }.to_vec())
    } else {
        // SAFETY: a string inside the live handle, ended by zero.
        Err(unsafe { CStr::from_ptr(pcap_geterr(handle.as_ptr())) }
            .to_string_lossy()
            .into_owned())
    };
    // SAFETY: both came from libpcap and are not used again; freeing an unfilled program does nothing.
    unsafe {
        pcap_freecode(&raw mut program);
        pcap_close(handle.as_ptr());
    }
    result
}

/// Runs a program that [`compile`] made on a packet of which `frame` was captured.
pub(super) fn interpret(program: &[ClassicInsn], frame: &[u8], wire_len: usize) -> bool {
    let wire_len = c_uint::try_from(wire_len).unwrap_or(c_uint::MAX);
    let captured = c_uint::try_from(frame.len()).unwrap_or(c_uint::MAX);
    // SAFETY: the interpreter follows the program from its first instruction to a return, which
    // libpcap's compiler puts at the end of every branch, and reads the packet within `captured`.
    unsafe { bpf_filter(program.as_ptr(), frame.as_ptr(), wire_len, captured) != 0 }
}
