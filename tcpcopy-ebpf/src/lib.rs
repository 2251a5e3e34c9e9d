//! tcpcopy-ebpf
