//! intercept-ebpf
