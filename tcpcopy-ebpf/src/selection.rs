//! Which sessions are captured, of those that match: not those of denied clients, only those of this
//! instance's shard, and of these a share. Decided by the client's endpoint alone, so that each packet of
//! a session gets the same answer, and by the functions that user space uses, in `common::flow`.

use aya_ebpf::btf_maps::lpm_trie::Key;
use common::abi::{TapCounter, config_flags};
use common::flow::{Block, flow_hash};
use common::packet::{Addr, Endpoint, TcpFlags};
use ebpf_kit::config;

use crate::maps::DENY;
use crate::matching::count;

/// True if the session of this client is taken. Else its SYN is counted, which stands for all of
/// it in the report. What is switched off the verifier removes, the hash included.
#[inline(always)]
pub fn takes(client: Endpoint, flags: TcpFlags) -> bool {
    let why = if config::flags() & config_flags::DENY != 0 && denied(client.addr) {
        TapCounter::Denied
    } else if !config::chooses_sessions() {
        return true;
    } else {
        let hash = flow_hash(client);
        if !config::own_shard().holds(hash) {
            TapCounter::OtherShard
        } else if !config::own_share().takes(hash) {
            TapCounter::NotSampled
        } else {
            return true;
        }
    };
    if flags.has(TcpFlags::SYN) && !flags.has(TcpFlags::ACK) {
        count(why);
    }
    false
}

/// The same for datagrams, which have no beginning that could stand for the rest: what is left out is
/// not counted. Their share is chosen in user space, which counts it.
#[inline(always)]
pub fn takes_datagram(client: Endpoint) -> bool {
    let denied = config::flags() & config_flags::DENY != 0 && denied(client.addr);
    !denied && (!config::chooses_sessions() || config::own_shard().holds(flow_hash(client)))
}

/// The client is on the list; to be asked only if there is one.
#[inline(always)]
pub fn denied(client: Addr) -> bool {
    DENY.get(&Key::new(u32::from(Block::MAX_BITS), client.0))
        .is_some()
}
