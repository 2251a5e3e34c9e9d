//! Drivers of the decoders for arbitrary bytes, shared by the fuzz target (`fuzz/`) and the replay of its
//! corpus (`replay_corpus.rs`). A violated rule is a panic.
//!
//! ```text
//!  bytes ──▶ decode_frame ──▶ fields ──▶ build_tcp_frame ──▶ decode_frame     the same again
//!      ├──▶ TcpOptions::parse ──▶ emit ──▶ parse
//!      └──▶ FrameDecoder (whole, and in pieces) ──▶ decode_record ──▶ encode_record ──▶ decode_record
//!  bytes ──▶ decapsulate ──▶ the inner frame ──▶ decapsulate                  the same packet
//! ```

mod channel;
mod frame;
mod native;
mod options;
mod tunnels;

/// Runs one input.
pub fn decoder(data: &[u8]) {
    frame::decode(data);
    options::parse(data);
    channel::responses(data);
    channel::clients(data);
}

/// Runs one input of the target for the native format.
pub fn native(data: &[u8]) {
    native::from_intercept(data);
    native::from_tcpcopy(data);
}

/// Runs one input of the target for tunnels.
pub fn tunnels(data: &[u8]) {
    tunnels::open(data);
}
