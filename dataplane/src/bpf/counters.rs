//! The programs' per-CPU counters.

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};

use super::{BpfError, load};

/// Name of the map in most programs.
pub(super) const COUNTERS: &str = "COUNTERS";

/// A map of counters.
pub(super) struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, BpfError> {
        load::take(ebpf, name).map(Self)
    }

    /// Sum over all CPUs. A counter that cannot be read counts as 0: it is a figure in a report.
    pub(super) fn get(&self, index: u32) -> u64 {
        self.0
            .get(&index, 0)
            .map_or(0, |per_cpu| per_cpu.iter().sum())
    }
}
