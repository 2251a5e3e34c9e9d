//! Memory layouts shared with BPF programs.
//!
//! Every type is `repr(C)`, without padding (bytemuck's derive refuses padding), with its size asserted
//! at compile time on both sides, and has named integers where Rust would use an enum or a bool.

mod counters;
mod decap;
mod pool;
mod record;
mod ring;
mod rules;
mod stamp;

pub use counters::{
    INTERCEPT_COUNTERS, InterceptCounter, POOL_COUNTERS, PoolCounter, TAP_COUNTERS, TapCounter,
};
pub use decap::{
    DecapConfig, DecapPort, DecapRule, INNER_OFFSET_AT, MAX_DECAP_PORTS, MAX_DECAP_RULES,
    MAX_STREAMS, MIRROR_TAILS, StreamKey, StreamState, decap_flags, mirror_tail,
};
pub use pool::{MAX_POOL_ADDRESSES, PoolConfig, after, numbers, pool_flags};
pub use record::{MAX_CONTINUATIONS, RecordHeader, XdpMeta, record_flags};
pub use ring::{
    RECORD_ALIGN_BYTES, RECORD_HEADER_BYTES, RECORD_LAST_START, RECORD_MAX_DATA_BYTES,
    RING_BLOCK_BYTES, RING_WARM_BLOCKS, RingChain, RingHead, record_bytes, record_start,
};
pub use rules::{
    DenyKey, EndpointKey, MAX_DENIED, MAX_ENDPOINTS, MAX_FEW, MAX_LOCAL_ADDRESSES, PORT_WORDS,
    PairKey, PortWord, ProgramConfig, config_flags, filter_slots, fragment_slots, udp_slots,
};
pub use stamp::{STAMP_EVERY, STAMPED_PER_TICK, Stamps};
