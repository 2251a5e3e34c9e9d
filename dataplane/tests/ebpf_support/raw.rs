//! Programs from instructions, and runs of them on single packets.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::maps::MapData;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_type};
use dataplane::bpf::Filter;
use dataplane::bpf::filter::Hook;
use dataplane::bpf::filter::access::Base;
use dataplane::bpf::filter::classic::ClassicInsn;
use dataplane::bpf::filter::insn::{Assembler, R0, R1, R2, R3, R6, alu, jump};
use dataplane::bpf::filter::program::load;
use dataplane::bpf::filter::translate::translate;

/// What a translated filter returns here.
pub const MATCH: u32 = 1;
pub const NO_MATCH: u32 = 0;

/// A translated filter that returns its verdict.
pub fn load_filter(filter: &Filter, hook: Hook) -> OwnedFd {
    load_classic(filter.program(), hook)
}

/// The same of any classic program.
pub fn load_classic(program: &[ClassicInsn], hook: Hook) -> OwnedFd {
    load_based(program, hook, None)
}

/// The same for packets that begin at an offset.
pub fn load_at(program: &[ClassicInsn], offset: &Offset) -> OwnedFd {
    let base = Base {
        map: offset.0.fd().as_fd().as_raw_fd(),
        at: Offset::AT,
    };
    load_based(program, Hook::Xdp, Some(base))
}

fn load_based(program: &[ClassicInsn], hook: Hook, base: Option<Base>) -> OwnedFd {
    let verdict = |value: u32| {
        move |a: &mut Assembler| {
            a.alu64(alu::MOV, R0, value as i32);
            a.exit();
        }
    };
    let insns = translate(program, hook, base, &verdict(MATCH), &verdict(NO_MATCH))
        .unwrap_or_else(|e| panic!("{program:?}: {e}"));
    load(hook, &insns, "filter_test").unwrap_or_else(|e| panic!("{program:?}: {e}"))
}

#[link(name = "pcap")]
unsafe extern "C" {
    fn bpf_filter(insns: *const ClassicInsn, packet: *const u8, wire: u32, captured: u32) -> u32;
}

/// libpcap's verdict. The program must end on every way and jump forward only.
pub fn interpret(program: &[ClassicInsn], frame: &[u8]) -> bool {
    let len = frame.len() as u32;
    // SAFETY: by the caller's promise the interpreter stays inside the program; it checks the packet.
    unsafe { bpf_filter(program.as_ptr(), frame.as_ptr(), len, len) != 0 }
}

/// Where a packet begins, as the programs for tunnels tell it to a filter.
pub struct Offset(MapData);

impl Offset {
    /// Not the first word, so that a filter that reads that one is found out.
    const AT: i16 = 4;

    pub fn new() -> Self {
        let kind = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        let definition = aya_obj::Map::new_from_params(kind, 4, 8, 1, 0);
        Self(MapData::create(definition, "test_offset", None).unwrap())
    }

    pub fn set(&self, bytes: usize) {
        update(&self.0, &[u32::MAX, bytes as u32]);
    }
}

/// Puts the value under key 0.
fn update<V>(map: &MapData, value: &V) {
    let key = 0u32;
    // SAFETY: a union of plain integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: all zero, valid for this view.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.fd().as_fd().as_raw_fd() as u32;
    element.key = &raw const key as u64;
    element.__bindgen_anon_1.value = std::ptr::from_ref(value) as u64;
    assert_eq!(bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr), Ok(()));
}

/// A tail call array of one slot.
pub struct Slot(MapData);

impl Slot {
    pub fn new() -> Self {
        let kind = bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY as u32;
        let definition = aya_obj::Map::new_from_params(kind, 4, 4, 1, 0);
        Self(MapData::create(definition, "test_slot", None).unwrap())
    }

    pub fn put(&self, program: &OwnedFd) {
        update(&self.0, &program.as_raw_fd());
    }
}

/// What [`tagging`] returns if the kernel takes no tag for a packet.
pub const NOT_TAGGED: u32 = 77;

/// A tcx program that puts a VLAN tag into the metadata of its packet, as receiving does, and then goes
/// on to the program in the slot.
pub fn tagging(slot: &Slot, protocol: u16, tci: u16) -> OwnedFd {
    const VLAN_PUSH: i32 = 18;
    const TAIL_CALL: i32 = 12;
    let mut a = Assembler::default();
    let failed = a.label();
    a.alu64(alu::MOV, R6, R1);
    a.alu64(alu::MOV, R2, i32::from(protocol.to_be()));
    a.alu64(alu::MOV, R3, i32::from(tci));
    a.call(VLAN_PUSH);
    a.jump64(jump::NE, R0, 0, failed);
    a.alu64(alu::MOV, R1, R6);
    a.load_map(R2, slot.0.fd().as_fd().as_raw_fd());
    a.alu64(alu::MOV, R3, 0);
    a.call(TAIL_CALL);
    a.place(failed);
    a.alu64(alu::MOV, R0, NOT_TAGGED as i32);
    a.exit();
    load(Hook::Tcx, &a.finish().unwrap(), "tagging").unwrap()
}

/// What the program returned and how long a run took, in nanoseconds; `None` if the kernel does not make a
/// packet of these bytes.
pub fn run(program: &OwnedFd, frame: &[u8], repeat: u32) -> Option<(u32, u32)> {
    // SAFETY: a union of plain integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: all zero, valid for this view.
    let test = unsafe { &mut attr.test };
    test.prog_fd = program.as_raw_fd() as u32;
    test.data_in = frame.as_ptr() as u64;
    test.data_size_in = frame.len() as u32;
    test.repeat = repeat;
    match bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr) {
        Ok(()) => {}
        Err(libc::EINVAL) => return None,
        Err(e) => panic!("test run: {}", std::io::Error::from_raw_os_error(e)),
    }
    // SAFETY: the kernel filled this view.
    let test = unsafe { attr.test };
    Some((test.retval, test.duration))
}

/// The same for a program of a packet socket. Test runs of these begin behind the Ethernet header, live ones at it.
pub fn run_on_socket(program: &OwnedFd, frame: &[u8]) -> Option<(u32, u32)> {
    // Of a protocol of which the kernel knows nothing (for local experiments, IEEE 802).
    let header = [&[0; 12][..], &[0x88, 0xb5]].concat();
    run(program, &[&header, frame].concat(), 1)
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> Result<(), i32> {
    // SAFETY: the attributes name buffers that live until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as i64,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(())
    }
}
