//! A filter that is too wide would cut this host off from those who connect to it.

use common::packet::{
    Addr, Endpoint, FrameAddresses, MacAddr, SeqNumber, TcpFlags, TcpFrame, TcpOptions,
    build_tcp_frame,
};
use dataplane::bpf::Filter;
use dataplane::iface::Interface;

/// Addresses of documentation (RFC 5737, RFC 3849): nobody's, so a filter that matches them matches anybody.
const ANYBODY: [Addr; 2] = [
    Addr::v4([192, 0, 2, 1]),
    Addr([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
];
/// Ethernet, IPv6 and TCP without options, which is more than IPv4 takes.
const FRAME_BYTES: usize = 128;

/// The filter matches packets to the channel, whoever sends them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "filter '{expression}' also takes the connections of tcpcopy to this host ({own}), and perhaps yours: \
     expected one that says whose responses are meant, such as 'tcp and src port 8080'"
)]
pub struct ChannelTaken {
    expression: String,
    own: Endpoint,
}

/// Refuses a filter that takes packets of anybody to the channel's port on one of the interface's addresses.
pub fn check_filter(filter: &Filter, interface: &Interface, port: u16) -> Result<(), ChannelTaken> {
    let addresses = interface.addresses.iter().map(|(addr, _)| *addr);
    check(filter, addresses, port)
}

fn check(
    filter: &Filter,
    addresses: impl Iterator<Item = Addr>,
    port: u16,
) -> Result<(), ChannelTaken> {
    let mut frame = [0; FRAME_BYTES];
    for address in addresses {
        let own = Endpoint::new(address, port);
        for anybody in ANYBODY.iter().filter(|a| a.is_v4() == address.is_v4()) {
            let segment = TcpFrame {
                src: Endpoint::new(*anybody, 40_000),
                dst: own,
                seq: SeqNumber(1),
                ack: SeqNumber(1),
                flags: TcpFlags::ACK,
                window: 1000,
                options: TcpOptions::default(),
                payload: &[],
                ip_id: 1,
            };
            let mac = FrameAddresses {
                src: MacAddr([2, 0, 0, 0, 0, 1]),
                dst: MacAddr([2, 0, 0, 0, 0, 2]),
            };
            if let Ok(len) = build_tcp_frame(&mut frame, mac, &segment)
                && filter.matches(&frame[..len])
            {
                return Err(ChannelTaken {
                    expression: filter.expression().to_owned(),
                    own,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_filters_that_take_everybody_are_refused() {
        let own = [Addr::v4([10, 77, 0, 40]), Addr([0xfd; 16])];
        for (expression, taken) in [
            ("tcp", true),
            ("dst port 36524", true),
            ("tcp and not port 22", true),
            ("ip6", true),
            ("tcp and dst host 10.77.0.40", true),
            ("tcp and src port 8080", false),
            ("src host 10.77.0.30", false),
            ("tcp and dst net 10.1.0.0/16", false),
        ] {
            let filter = Filter::compile(expression).unwrap();
            let result = check(&filter, own.into_iter(), 36_524);
            assert_eq!(result.is_err(), taken, "{expression}: {result:?}");
            if let Err(error) = result {
                let line = error.to_string();
                assert!(
                    line.contains(expression) && line.contains("36524"),
                    "{line}"
                );
            }
        }
    }
}
