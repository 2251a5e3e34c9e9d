//! Per-CPU counters of the programs: arrays of u64, indexed by these enums.

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident, $count:ident { $($(#[$vmeta:meta])* $variant:ident => $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }

        impl $name {
            /// Every counter, in index order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Index in the array map.
            #[inline(always)]
            pub const fn index(self) -> u32 {
                self as u32
            }

            /// Name in reports: `snake_case`, stable.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        /// Entries of the map.
        pub const $count: u32 = $name::ALL.len() as u32;
    };
}

counters! {
    /// Counters of tcpcopy's `tap` and `mirror` programs.
    TapCounter, TAP_COUNTERS {
        /// Packets that matched a transfer and were handed over.
        Captured => "captured",
        /// Packets that matched a transfer but go to a target, skipped so that our own output is never
        /// captured again. What goes to a target and matches no transfer is not counted.
        ToTarget => "to_target",
        /// IP fragments that are not put together, passed on untouched: those in tunnels, and where tunnels are
        /// opened those that may be of one.
        Fragment => "fragment",
        /// Captured bytes end inside a header.
        Truncated => "truncated",
        /// IP header contradicts itself.
        BadIp => "bad_ip",
        /// TCP data offset out of range.
        BadTcp => "bad_tcp",
        /// Matching packets lost because the ring of their CPU and worker was full, or another was writing to it.
        RingFull => "ring_full",
        /// Matching packets lost because the kernel could not copy their bytes.
        LoadFailed => "load_failed",
        /// Matching packets larger than all continuation records together.
        TooLarge => "too_large",
        /// Redirects refused (no socket on the queue: the packet goes to the stack).
        RedirectFailed => "redirect_failed",
        /// SYNs of clients that are denied; like the two below, all packets of such a session are left
        /// alone, and its SYN stands for it in the report.
        Denied => "denied",
        /// SYNs of sessions that another instance replays.
        OtherShard => "other_shard",
        /// SYNs of sessions outside the share that is replayed.
        NotSampled => "not_sampled",
        /// Packets of a transfer that the filter (`-F`) rejected, passed on untouched.
        Filtered => "filtered",
        /// UDP length out of range.
        BadUdp => "bad_udp",
        /// Packets in tunnels that are opened, whatever is in them.
        Tunnelled => "tunnelled",
        /// Packets in tunnels that `--decap` does not name, passed on.
        TunnelOther => "tunnel_other",
        /// Packets in more tunnels, one in the other, than are opened; passed on.
        TunnelTooDeep => "tunnel_too_deep",
        /// IP fragments to an address of a transfer, to be put together by a worker; each is counted as
        /// captured as well, or by the cause of its loss.
        FragmentTaken => "fragment_taken",
    }
}

counters! {
    /// Counters of intercept's programs.
    InterceptCounter, INTERCEPT_COUNTERS {
        /// Responses handed over.
        Captured => "captured",
        /// Responses whose payload was trimmed off.
        Trimmed => "trimmed",
        /// IP fragments from a matching source address, passed to the stack.
        Fragment => "fragment",
        /// Captured bytes end inside a header.
        Truncated => "truncated",
        /// IP header contradicts itself.
        BadIp => "bad_ip",
        /// TCP data offset out of range.
        BadTcp => "bad_tcp",
        /// Trimming failed; the packet was handed over whole.
        TrimFailed => "trim_failed",
        /// Responses dropped because no socket served their queue.
        RedirectFailed => "redirect_failed",
        /// Packets that the filter (`-F`) rejected, passed to the stack.
        Filtered => "filtered",
        /// UDP answers of targets, which nobody needs: dropped, so that they reach no real client.
        UdpDropped => "udp_dropped",
        /// Responses dropped because the ring of their CPU and worker was full, or another was writing to it.
        RingFull => "ring_full",
        /// Responses dropped because the kernel could not copy their headers.
        LoadFailed => "load_failed",
    }
}

counters! {
    /// Counters of tcpcopy's `pool` program, in its map `POOL_COUNTS`.
    PoolCounter, POOL_COUNTERS {
        /// Responses handed over.
        Captured => "captured",
        /// UDP answers of targets, which nobody needs.
        UdpDropped => "udp_dropped",
        /// IP fragments to an address of the pool, dropped: they carry no ports.
        Fragment => "fragment",
        /// Packets to an address of the pool that are no response (pings, other ports, what cannot be decoded), dropped.
        OtherDropped => "other_dropped",
        /// Responses lost because the ring of their CPU and worker was full, or another was writing to it.
        RingFull => "ring_full",
        /// Responses lost because the kernel could not copy their headers.
        LoadFailed => "load_failed",
        /// ARP requests answered.
        ArpAnswered => "arp_answered",
        /// IPv6 neighbour solicitations answered.
        NdpAnswered => "ndp_answered",
        /// ARP requests and neighbour solicitations that could not be made an answer of, dropped.
        AnswerFailed => "answer_failed",
        /// ARP and neighbour discovery packets by which another host claims an address of the pool.
        Conflict => "conflict",
    }
}
