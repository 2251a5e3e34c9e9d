//! Tunnels around a packet.

use common::abi::DecapConfig;
use common::packet::{
    DecapError, DecodeError, Header, MAX_LAYERS, Peeled, Position, decapsulate, decode_frame,
    decode_from_ip, peel,
};

/// What is taken out of tunnels is what stands at its offset; plain frames are what the decoder for these
/// says; each layer lies behind the one before.
pub fn open(data: &[u8]) {
    let plain = decode_frame(data);
    let got = decapsulate(data, &DecapConfig::AUTO);
    match got {
        Ok(inner) => {
            assert_eq!(decode_from_ip(data, inner.packet.ip.l3), Ok(inner.packet));
            assert_eq!(inner.outer.is_none(), plain.is_ok());
            assert_eq!(inner.outer.is_none(), inner.kinds == 0);
        }
        Err(DecapError::Decode(error)) => match plain {
            Ok(_) => panic!("plain, and yet {error}"),
            Err(DecodeError::NotTcp | DecodeError::NotIp) => {}
            Err(other) => assert_eq!(other, error),
        },
        Err(DecapError::TooDeep) => {}
        Err(DecapError::NotTaken) => panic!("all are taken"),
    }
    let mut at = Position::FRAME;
    for layers in 0..=MAX_LAYERS {
        match peel(data, at, &DecapConfig::AUTO) {
            Ok(Peeled::Tunnel(_, next)) => {
                assert!(next.offset > at.offset, "{at:?} {next:?}");
                at = next;
                if layers == MAX_LAYERS {
                    assert_eq!(got, Err(DecapError::TooDeep));
                }
            }
            Ok(Peeled::Packet(packet)) => {
                assert_eq!(got.map(|inner| inner.packet), Ok(packet));
                assert!(at.header != Header::Ip || packet.ip.l3 == at.offset);
                break;
            }
            Err(error) => {
                assert_eq!(got, Err(DecapError::Decode(error)));
                break;
            }
        }
    }
}
