//! ebpf-kit
