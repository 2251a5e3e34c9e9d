//! A filter between a program that is attached and the capture program.
//!
//! ```text
//!  entry ── tail call FILTERS[0] ──▶ filter ── match ── tail call FILTERS[1] ──▶ capture program
//!                                       │ no match
//!                                       └─▶ counted as `filtered`, the packet goes on
//! ```
//! Replacing the filter is one update of the array: packets see the old one or the new one.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use common::abi::{INNER_OFFSET_AT, filter_slots};

use super::access::{Base, Hook};
use super::classic::ClassicInsn;
use super::insn::{Assembler, FP, R0, R1, R2, R3, R6, Size, alu, jump};
use super::translate::translate;
use super::{Filter, program};
use crate::bpf::BpfError;
use crate::bpf::programs;

/// The tail call array.
pub(super) const ARRAY: &str = "FILTERS";
const COUNTERS: &str = "COUNTERS";
/// The mirror's state between two programs.
const INNER: &str = "INNER";
/// Name of the program, as `bpftool prog` lists it.
const NAME: &str = "filter";
/// `bpf_tail_call`, `bpf_map_lookup_elem`.
const TAIL_CALL: i32 = 12;
const LOOKUP: i32 = 1;

/// `ret #0`.
const NO_PACKET: &[ClassicInsn] = &[ClassicInsn {
    code: 0x06,
    jt: 0,
    jf: 0,
    k: 0,
}];

/// What a capture program's chain consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    /// Where the programs run.
    pub(crate) hook: Hook,
    /// Program that is attached.
    pub(crate) entry: &'static str,
    /// Capture program, which goes on with what matched.
    pub(crate) selected: &'static str,
    /// Index of `filtered` in the counters.
    pub(crate) counter: u32,
    /// What a packet that does not match is answered with: pass it on.
    pub(crate) pass: i32,
}

/// The means to replace the filter of a loaded object.
#[derive(Debug)]
pub(crate) struct Chain {
    parts: Parts,
    // The kernel empties the array when no process has it open.
    array: OwnedFd,
    counters: OwnedFd,
    /// Where the packet that is judged begins, if tunnels are opened.
    inner: Option<OwnedFd>,
}

impl Chain {
    /// Loads the selected program and the first filter. The entry program must not be attached yet, so
    /// that no packet finds the array empty.
    pub(crate) fn install(
        ebpf: &mut Ebpf,
        parts: Parts,
        filter: &Filter,
    ) -> Result<Self, BpfError> {
        let chain = Self {
            parts,
            array: descriptor(ebpf, ARRAY)?,
            counters: descriptor(ebpf, COUNTERS)?,
            inner: filter
                .judges_inner()
                .then(|| descriptor(ebpf, INNER))
                .transpose()?,
        };
        let selected = programs::load_program(ebpf, parts.hook, parts.selected)?;
        program::put(&chain.array, filter_slots::SELECTED, selected)?;
        chain.replace(filter)?;
        Ok(chain)
    }

    /// [`Self::replace`] for capture that may have been started without a filter; its programs lack the
    /// place for one then.
    pub(crate) fn replace_in(chain: Option<&Self>, filter: &Filter) -> Result<(), BpfError> {
        chain.ok_or(BpfError::NoFilter)?.replace(filter)
    }

    /// From now on packets are judged by `filter`; on an error by the one before.
    pub(crate) fn replace(&self, filter: &Filter) -> Result<(), BpfError> {
        let Parts {
            hook,
            counter,
            pass,
            ..
        } = self.parts;
        let (array, counters) = (self.array.as_raw_fd(), self.counters.as_raw_fd());
        let accept = |a: &mut Assembler| {
            a.alu64(alu::MOV, R1, R6);
            a.load_map(R2, array);
            a.alu64(alu::MOV, R3, filter_slots::SELECTED as i32);
            a.call(TAIL_CALL);
            // Only reached if the slot is empty.
            a.alu64(alu::MOV, R0, pass);
            a.exit();
        };
        let reject = |a: &mut Assembler| {
            let absent = a.label();
            a.store(Size::W, FP, -4, counter as i32);
            a.load_map(R1, counters);
            a.alu64(alu::MOV, R2, FP);
            a.alu64(alu::ADD, R2, -4);
            a.call(LOOKUP);
            a.jump64(jump::EQ, R0, 0, absent);
            a.load(Size::DW, R1, R0, 0);
            a.alu64(alu::ADD, R1, 1);
            a.store(Size::DW, R0, 0, R1);
            a.place(absent);
            a.alu64(alu::MOV, R0, pass);
            a.exit();
        };
        let base = self.inner.as_ref().map(|map| Base {
            map: map.as_raw_fd(),
            at: INNER_OFFSET_AT,
        });
        let load = |classic: &[ClassicInsn]| {
            let insns = translate(classic, hook, base, &accept, &reject).map_err(|reason| {
                super::FilterError::Translate {
                    expression: filter.shown(),
                    reason,
                }
            })?;
            tracing::debug!(
                filter = filter.expression(),
                classic = classic.len(),
                instructions = insns.len(),
                "filter loaded"
            );
            program::load(hook, &insns, NAME)
        };
        let ethernet = load(&filter.program)?;
        if base.is_some() {
            let ip = load(filter.ip_program().unwrap_or(NO_PACKET))?;
            program::put(&self.array, filter_slots::IP_FILTER, &ip)?;
        }
        program::put(&self.array, filter_slots::FILTER, &ethernet)
    }
}

/// A descriptor of our own for a map of the object.
fn descriptor(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, BpfError> {
    let data: &MapData = match ebpf.map(name) {
        Some(Map::ProgramArray(data) | Map::PerCpuArray(data)) => data,
        _ => {
            return Err(BpfError::Object {
                reason: format!("it has no map {name} of the expected kind"),
            });
        }
    };
    data.fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| BpfError::Map {
            map: name,
            action: "duplicate its descriptor",
            error: e.to_string(),
        })
}
