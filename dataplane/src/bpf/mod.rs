//! Loading, attaching and reading our BPF programs.
