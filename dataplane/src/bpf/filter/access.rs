//! Reading packet bytes in a translated filter.
//!
//! ```text
//!  offset ── within data..data_end? ── yes ─▶ load, two instructions
//!                     │ no
//!                     └─▶ helper (page fragments), out of the way at the end of the program
//!                             └─ fails: the packet is shorter, the filter does not match
//! ```
//! A live skb has the outermost VLAN tag in its metadata, not among its bytes. Filters are compiled
//! for frames as they are on the wire, so the offsets are those of the frame with its tag:
//!
//! ```text
//!  wire offset   0 ........ 11 | 12 13 14 15 | 16 ....
//!  tagged        bytes 0 to 11 | the tag     | bytes 12 ...     moved = 4
//!  untagged      bytes as they are                              moved = 0
//! ```
//! The stack slot `STAY` holds 4 - moved, so that what is added to a packet pointer is never negative,
//! which the verifier would not follow.
//!
//! A packet inside a tunnel (XDP only) begins at an offset that the program before has left in a map. It is
//! kept in the same slot.

use std::os::fd::RawFd;

use super::insn::{Assembler, FP, Label, R0, R1, R2, R3, R4, R5, R6, R8, R9, Reg, Size, alu, jump};

/// Where the filter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// tcx, on an `__sk_buff`.
    Tcx,
    /// XDP with fragments, on an `xdp_md`.
    Xdp,
    /// A packet socket, on an `__sk_buff` whose bytes only the helper may read.
    Socket,
}

impl Hook {
    /// The packet is an skb, with its tag in the metadata.
    const fn is_skb(self) -> bool {
        matches!(self, Self::Tcx | Self::Socket)
    }
}

/// Helpers, by their number in include/uapi/linux/bpf.h.
mod helper {
    pub const SKB_LOAD_BYTES: i32 = 26;
    pub const XDP_GET_BUFF_LEN: i32 = 188;
    pub const XDP_LOAD_BYTES: i32 = 189;
}

/// Fields of `struct __sk_buff`.
mod skb {
    pub const LEN: i16 = 0;
    pub const VLAN_PRESENT: i16 = 20;
    pub const VLAN_TCI: i16 = 24;
    pub const VLAN_PROTO: i16 = 28;
    pub const DATA: i16 = 76;
    pub const DATA_END: i16 = 80;
}

/// Fields of `struct xdp_md`.
mod xdp {
    pub const DATA: i16 = 0;
    pub const DATA_END: i16 = 4;
}

/// Stack: bytes that a helper copies to.
const COPY: i16 = -72;
/// Stack: 4, or 0 if the tag is in the metadata (tcx); where the packet begins (XDP).
const STAY: i16 = -80;
/// Stack: the key of a map look-up.
const KEY: i16 = -104;
/// Most bytes in front of the packet that is judged: with [`MAX_DIRECT`] within what the verifier allows.
/// Decoders of tunnels stop far before.
const MAX_BASE: u32 = 0x3fff;
/// `bpf_map_lookup_elem`.
const LOOKUP: i32 = 1;
/// Stack: the tag as it would be on the wire, read as a number.
const TAG: i16 = -88;
/// Stack: an offset in the tag's neighbourhood.
const OFFSET: i16 = -96;

/// Where the tag is inserted: behind both MAC addresses.
const TAG_AT: u32 = 12;
/// First byte behind it.
const TAG_END: u32 = 16;
/// Bytes of a tag.
const TAG_BYTES: u32 = TAG_END - TAG_AT;
/// Largest offset that is added to a packet pointer. The verifier allows 65,535 (`MAX_PACKET_OFF`);
/// beyond this, far behind all headers, the helper does.
const MAX_DIRECT: u32 = 0x7fff;

/// Offset of a helper's copy.
#[derive(Clone, Copy)]
enum From {
    /// As it is.
    Fixed(u32),
    /// Plus [`STAY`].
    Moving(u32),
    /// In `R1`.
    Computed,
}

/// Something that is placed behind the program.
enum Aside {
    Copy {
        entry: Label,
        back: Label,
        from: From,
        size: Size,
        dst: Reg,
    },
    Tag {
        entry: Label,
        done: Label,
        at: u32,
        size: Size,
        dst: Reg,
    },
    Bytewise {
        entry: Label,
        done: Label,
        size: Size,
        dst: Reg,
    },
}

/// Where a filter finds the beginning of what it judges: a map with one value, and in this a `u32`.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// The map.
    pub map: RawFd,
    /// Offset in bytes of the number in the value.
    pub at: i16,
}

/// Writes loads. `R6` is the context, `R9` the start of the packet (tcx: plus [`STAY`]; none on a socket).
pub(super) struct Access {
    hook: Hook,
    /// Of a packet inside a tunnel, with XDP.
    base: Option<Base>,
    reject: Label,
    asides: Vec<Aside>,
}

impl Access {
    pub(super) const fn new(hook: Hook, base: Option<Base>, reject: Label) -> Self {
        Self {
            hook,
            base,
            reject,
            asides: Vec::new(),
        }
    }

    /// Code at the start of the program.
    pub(super) fn prologue(&self, a: &mut Assembler) {
        match self.hook {
            Hook::Xdp => {
                if let Some(base) = self.base {
                    a.store(Size::W, FP, KEY, 0);
                    a.load_map(R1, base.map);
                    a.alu64(alu::MOV, R2, FP);
                    a.alu64(alu::ADD, R2, i32::from(KEY));
                    a.call(LOOKUP);
                    a.jump64(jump::EQ, R0, 0, self.reject);
                    a.load(Size::W, R1, R0, base.at);
                    a.jump64(jump::GT, R1, MAX_BASE as i32, self.reject);
                    a.store(Size::DW, FP, STAY, R1);
                    a.load(Size::W, R9, R6, xdp::DATA);
                    a.alu64(alu::ADD, R9, R1);
                } else {
                    a.load(Size::W, R9, R6, xdp::DATA);
                }
            }
            Hook::Tcx | Hook::Socket => {
                let untagged = a.label();
                if self.hook == Hook::Tcx {
                    a.load(Size::W, R9, R6, skb::DATA);
                }
                a.load(Size::W, R1, R6, skb::VLAN_PRESENT);
                a.store(Size::DW, FP, TAG, 0);
                a.alu64(alu::MOV, R2, TAG_BYTES as i32);
                a.jump64(jump::EQ, R1, 0, untagged);
                a.alu64(alu::MOV, R2, 0);
                // The protocol is in network order there, the tag control information is not.
                a.load(Size::W, R3, R6, skb::VLAN_PROTO);
                a.from_network(R3, Size::H);
                a.alu32(alu::LSH, R3, 16);
                a.load(Size::W, R4, R6, skb::VLAN_TCI);
                a.alu32(alu::OR, R3, R4);
                a.store(Size::DW, FP, TAG, R3);
                a.place(untagged);
                a.store(Size::DW, FP, STAY, R2);
                if self.hook == Hook::Tcx {
                    a.alu64(alu::ADD, R9, R2);
                }
            }
        }
    }

    /// `dst = length of the packet`, with its tag.
    pub(super) fn length(&self, a: &mut Assembler, dst: Reg) {
        match self.hook {
            Hook::Xdp => {
                a.alu64(alu::MOV, R1, R6);
                a.call(helper::XDP_GET_BUFF_LEN);
                a.alu32(alu::MOV, dst, R0);
                if self.base.is_some() {
                    a.load(Size::DW, R1, FP, STAY);
                    a.alu32(alu::SUB, dst, R1);
                }
            }
            Hook::Tcx | Hook::Socket => {
                a.load(Size::W, dst, R6, skb::LEN);
                a.load(Size::DW, R1, FP, STAY);
                a.alu32(alu::ADD, dst, TAG_BYTES as i32);
                a.alu32(alu::SUB, dst, R1);
            }
        }
    }

    /// `dst = packet[k..k + size]`, a number in network order, or no match.
    pub(super) fn absolute(&mut self, a: &mut Assembler, size: Size, dst: Reg, k: u32) {
        let end = k.saturating_add(size.bytes());
        if end > i32::MAX as u32 {
            return a.always(self.reject);
        }
        let (back, done) = (a.label(), a.label());
        match self.hook {
            Hook::Xdp => {
                let from = if self.base.is_some() {
                    From::Moving(k)
                } else {
                    From::Fixed(k)
                };
                self.fixed(a, R9, k, from, size, dst, back);
            }
            Hook::Tcx | Hook::Socket if end <= TAG_AT => {
                if self.hook == Hook::Tcx {
                    a.load(Size::W, R1, R6, skb::DATA);
                }
                self.fixed(a, R1, k, From::Fixed(k), size, dst, back);
            }
            Hook::Tcx | Hook::Socket if k >= TAG_END => {
                let rest = k - TAG_BYTES;
                self.fixed(a, R9, rest, From::Moving(rest), size, dst, back);
            }
            Hook::Tcx | Hook::Socket => {
                let tagged = a.label();
                a.load(Size::DW, R1, FP, STAY);
                if k >= TAG_AT && end <= TAG_END {
                    a.jump64(jump::EQ, R1, 0, tagged);
                    self.asides.push(Aside::Tag {
                        entry: tagged,
                        done,
                        at: k,
                        size,
                        dst,
                    });
                } else {
                    let whole = a.label();
                    a.jump64(jump::NE, R1, 0, whole);
                    a.alu64(alu::MOV, R1, k as i32);
                    a.goto(tagged);
                    a.place(whole);
                    self.asides.push(Aside::Bytewise {
                        entry: tagged,
                        done,
                        size,
                        dst,
                    });
                }
                // Untagged here: R9 is the start plus four.
                self.fixed(a, R9, k - TAG_BYTES, From::Fixed(k), size, dst, back);
            }
        }
        a.place(back);
        a.from_network(dst, size);
        a.place(done);
    }

    /// `dst = packet[X + k..]`, X being `R8`.
    pub(super) fn indirect(&mut self, a: &mut Assembler, size: Size, dst: Reg, k: u32) {
        let Ok(k) = i32::try_from(k) else {
            return a.always(self.reject);
        };
        let (back, done, copy) = (a.label(), a.label(), a.label());
        // 64 bits wide: the sum of two 32-bit numbers does not wrap, nor does it in libpcap.
        a.alu64(alu::MOV, R1, R8);
        a.alu64(alu::ADD, R1, k);
        if self.hook.is_skb() {
            let (near, plain, moved) = (a.label(), a.label(), a.label());
            a.load(Size::DW, R5, FP, STAY);
            a.jump64(jump::NE, R5, 0, plain);
            a.jump64(jump::GE, R1, TAG_END as i32, moved);
            a.jump64(jump::GT, R1, (TAG_AT - size.bytes()) as i32, near);
            a.goto(plain);
            a.place(moved);
            a.alu64(alu::SUB, R1, TAG_BYTES as i32);
            a.place(plain);
            self.asides.push(Aside::Bytewise {
                entry: near,
                done,
                size,
                dst,
            });
        }
        if self.hook == Hook::Socket {
            a.goto(copy);
        } else {
            a.jump64(jump::GT, R1, MAX_DIRECT as i32, copy);
            if self.hook == Hook::Xdp {
                a.alu64(alu::MOV, R2, R9);
            } else {
                a.load(Size::W, R2, R6, skb::DATA);
            }
            a.alu64(alu::ADD, R2, R1);
            self.checked(a, R2, 0, size, dst, copy);
        }
        self.asides.push(Aside::Copy {
            entry: copy,
            back,
            from: From::Computed,
            size,
            dst,
        });
        a.place(back);
        a.from_network(dst, size);
        a.place(done);
    }

    /// A load at a constant distance from `base`, or by helper.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one load; a struct would only name them twice"
    )]
    fn fixed(
        &mut self,
        a: &mut Assembler,
        base: Reg,
        distance: u32,
        from: From,
        size: Size,
        dst: Reg,
        back: Label,
    ) {
        let entry = a.label();
        if self.hook != Hook::Socket && distance <= MAX_DIRECT - size.bytes() {
            self.checked(a, base, distance as i16, size, dst, entry);
        } else {
            a.goto(entry);
        }
        self.asides.push(Aside::Copy {
            entry,
            back,
            from,
            size,
            dst,
        });
    }

    /// The comparison with `data_end` by which the verifier learns that the load is inside.
    fn checked(
        &self,
        a: &mut Assembler,
        base: Reg,
        off: i16,
        size: Size,
        dst: Reg,
        otherwise: Label,
    ) {
        let data_end = if self.hook == Hook::Xdp {
            xdp::DATA_END
        } else {
            skb::DATA_END
        };
        a.alu64(alu::MOV, R3, base);
        a.alu64(alu::ADD, R3, i32::from(off) + size.bytes() as i32);
        a.load(Size::W, R4, R6, data_end);
        a.jump64(jump::GT, R3, R4, otherwise);
        a.load(size, dst, base, off);
    }

    /// What was put aside, behind everything else.
    pub(super) fn finish(self, a: &mut Assembler) {
        for aside in &self.asides {
            match *aside {
                Aside::Copy {
                    entry,
                    back,
                    from,
                    size,
                    dst,
                } => {
                    a.place(entry);
                    match from {
                        From::Fixed(k) => a.alu64(alu::MOV, R2, k as i32),
                        From::Moving(k) => {
                            a.load(Size::DW, R2, FP, STAY);
                            a.alu64(alu::ADD, R2, k as i32);
                        }
                        From::Computed => {
                            a.jump64(jump::GT, R1, i32::MAX, self.reject);
                            a.alu64(alu::MOV, R2, R1);
                            if self.base.is_some() {
                                a.load(Size::DW, R1, FP, STAY);
                                a.alu64(alu::ADD, R2, R1);
                            }
                        }
                    }
                    self.copy(a, size);
                    a.load(size, dst, FP, COPY);
                    a.goto(back);
                }
                Aside::Tag {
                    entry,
                    done,
                    at,
                    size,
                    dst,
                } => {
                    a.place(entry);
                    a.load(Size::W, dst, FP, TAG);
                    a.alu32(alu::RSH, dst, 8 * (TAG_END - at - size.bytes()) as i32);
                    a.alu32(alu::AND, dst, low_bytes(size));
                    a.goto(done);
                }
                Aside::Bytewise {
                    entry,
                    done,
                    size,
                    dst,
                } => self.bytewise(a, entry, done, size, dst),
            }
        }
    }

    /// Copies `size` bytes from offset `R2` to the stack.
    fn copy(&self, a: &mut Assembler, size: Size) {
        a.alu64(alu::MOV, R1, R6);
        a.alu64(alu::MOV, R3, FP);
        a.alu64(alu::ADD, R3, i32::from(COPY));
        a.alu64(alu::MOV, R4, size.bytes() as i32);
        a.call(if self.hook == Hook::Xdp {
            helper::XDP_LOAD_BYTES
        } else {
            helper::SKB_LOAD_BYTES
        });
        a.jump64(jump::NE, R0, 0, self.reject);
    }

    /// A load from wire offset `R1` of a tagged packet that overlaps an edge of the tag: rare (an
    /// expression such as `ether[10:4]`), so byte by byte.
    fn bytewise(&self, a: &mut Assembler, entry: Label, done: Label, size: Size, dst: Reg) {
        a.place(entry);
        a.store(Size::DW, FP, OFFSET, R1);
        a.alu32(alu::MOV, dst, 0);
        for i in 0..size.bytes() {
            let (behind, copy, have) = (a.label(), a.label(), a.label());
            a.load(Size::DW, R2, FP, OFFSET);
            a.alu64(alu::ADD, R2, i as i32);
            a.jump64(jump::LT, R2, TAG_AT as i32, copy);
            a.jump64(jump::GE, R2, TAG_END as i32, behind);
            a.alu64(alu::MOV, R1, TAG_END as i32 - 1);
            a.alu64(alu::SUB, R1, R2);
            a.alu64(alu::LSH, R1, 3);
            a.load(Size::W, R0, FP, TAG);
            a.alu32(alu::RSH, R0, R1);
            a.goto(have);
            a.place(behind);
            a.alu64(alu::SUB, R2, TAG_BYTES as i32);
            a.place(copy);
            self.copy(a, Size::B);
            a.load(Size::B, R0, FP, COPY);
            a.place(have);
            a.alu32(alu::AND, R0, 0xff);
            a.alu32(alu::LSH, dst, 8);
            a.alu32(alu::OR, dst, R0);
        }
        a.goto(done);
    }
}

const fn low_bytes(size: Size) -> i32 {
    match size {
        Size::B => 0xff,
        Size::H => 0xffff,
        Size::W | Size::DW => -1,
    }
}
