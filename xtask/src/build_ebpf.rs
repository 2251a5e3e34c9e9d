//! `cargo xtask build-ebpf`.

/// Builds both BPF objects into `target/bpf`.
pub fn run() -> crate::Result<()> {
    Err("build-ebpf: not there yet".into())
}
