//! The programs' per-CPU counters.

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};

use super::{BpfError, load};

/// The map `COUNTERS`, or another of its form.
pub(super) struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Self::take_map(ebpf, "COUNTERS")
    }

    pub(super) fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, BpfError> {
        load::take(ebpf, name).map(Self)
    }

    /// Sum over all CPUs. A counter that cannot be read counts as 0: it is a figure in a report.
    pub(super) fn get(&self, index: u32) -> u64 {
        self.0
            .get(&index, 0)
            .map_or(0, |per_cpu| per_cpu.iter().sum())
    }
}
