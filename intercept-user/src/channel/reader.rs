//! Cuts what a peer sends into records, wherever TCP cut it.

use common::wire::compat::{CLIENT_RECORD_BYTES, ClientRecord};
use common::wire::native::{self, CLIENT_MESSAGE_BYTES, ClientMessage};
use common::wire::partial::Partial;

/// Why a peer is disconnected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// The first 14 bytes are no hello: another protocol, or a tcpcopy before internal version 6.
    #[error(
        "first bytes are {got:02x?}, expected a tcpcopy hello (00 00 00 00 00 00 00 06 …); \
         is the peer a tcpcopy of version 1.0 or later, and is this its port?"
    )]
    NotHello {
        /// What came instead.
        got: [u8; CLIENT_RECORD_BYTES],
    },
    /// Routes must be confirmed, for which the C format has no words.
    #[error(
        "the peer speaks the C tools' format, in which no route can be confirmed: with --on-target the answers to its \
         first packets would reach real clients; connect tcpcopy-user of this version"
    )]
    NotNative,
}

/// State of one connection's inbound stream.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    partial: Partial<CLIENT_MESSAGE_BYTES>,
    greeted: bool,
    /// Peers that do not offer the native format are refused.
    native_only: bool,
    format: Format,
}

/// What a peer speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    /// The C programs' format.
    #[default]
    Compat,
    /// The same, but its hello offered the native format.
    Offered,
    /// The native format, to which it has changed.
    Native,
}

impl Reader {
    /// With `native_only`, peers that do not offer the native format are refused.
    pub fn new(native_only: bool) -> Self {
        Self {
            native_only,
            ..Self::default()
        }
    }

    /// Takes bytes and calls `record` for each complete record, the hello included.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut record: impl FnMut(ClientRecord),
    ) -> Result<(), Refused> {
        loop {
            let want = if self.format == Format::Native {
                CLIENT_MESSAGE_BYTES
            } else {
                CLIENT_RECORD_BYTES
            };
            let Some(unit) = self.partial.take(want, &mut bytes) else {
                return Ok(());
            };
            if self.format == Format::Native {
                record(ClientMessage::decode(*unit));
                continue;
            }
            let mut compat = [0; CLIENT_RECORD_BYTES];
            compat.copy_from_slice(&unit[..CLIENT_RECORD_BYTES]);
            let decoded = ClientRecord::decode(&compat, !self.greeted);
            match decoded {
                ClientRecord::Hello { extension, .. } => {
                    self.greeted = true;
                    if native::offered(extension) {
                        self.format = Format::Offered;
                    } else if self.native_only {
                        return Err(Refused::NotNative);
                    }
                }
                _ if !self.greeted => return Err(Refused::NotHello { got: compat }),
                ClientRecord::Unknown {
                    kind: native::SWITCH,
                } if self.format == Format::Offered => {
                    self.format = Format::Native;
                    continue;
                }
                _ => {}
            }
            record(decoded);
        }
    }

    /// The hello has arrived.
    pub fn greeted(&self) -> bool {
        self.greeted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::{Addr, Endpoint};
    use common::wire::compat;

    fn stream() -> (Vec<u8>, Vec<ClientRecord>) {
        let client = Endpoint::new(Addr::v4([10, 9, 9, 1]), 41_439);
        let target = Endpoint::new(Addr::v4([10, 9, 0, 2]), 8001);
        let mut bytes = compat::hello().to_vec();
        bytes.extend(compat::add(client, target).expect("IPv4"));
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0]);
        let records = vec![
            ClientRecord::Hello {
                version: 6,
                extension: [0; 6],
            },
            ClientRecord::Add { client, target },
            ClientRecord::Unknown { kind: 99 },
        ];
        (bytes, records)
    }

    #[test]
    fn where_routes_are_confirmed_c_peers_are_refused() {
        let mut reader = Reader::new(true);
        assert_eq!(
            reader.feed(&stream().0, |r| panic!("{r:?}")),
            Err(Refused::NotNative)
        );
        let mut reader = Reader::new(true);
        assert_eq!(reader.feed(&native::hello(), |_| ()), Ok(()));
    }

    #[test]
    fn every_cut_gives_the_same_records() {
        let (bytes, records) = stream();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut reader = Reader::default();
                let mut got = Vec::new();
                for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    reader.feed(part, |r| got.push(r)).expect("well formed");
                }
                assert_eq!(got, records, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn behind_the_switch_every_cut_gives_the_same_messages() {
        let client = Endpoint::new(Addr([0x20; 16]), 41_439);
        let target = Endpoint::new(Addr([0x30; 16]), 8001);
        let mut bytes = native::hello().to_vec();
        bytes.extend(native::switch());
        bytes.extend(ClientMessage::add(client, target).to_bytes());
        bytes.extend(ClientMessage::del(client, target).to_bytes());
        for cut in 0..=bytes.len() {
            let mut reader = Reader::default();
            let mut got = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                reader.feed(part, |r| got.push(r)).expect("well formed");
            }
            let want = [
                ClientRecord::Add { client, target },
                ClientRecord::Del { client, target },
            ];
            assert_eq!(got[1..], want, "cut at {cut}");
        }
    }

    #[test]
    fn a_switch_that_was_not_offered_is_an_unknown_record() {
        let mut bytes = compat::hello().to_vec();
        bytes.extend(native::switch());
        let mut got = Vec::new();
        Reader::default()
            .feed(&bytes, |r| got.push(r))
            .expect("well formed");
        let kind = native::SWITCH;
        assert_eq!(got[1..], [ClientRecord::Unknown { kind }]);
    }

    #[test]
    fn other_protocols_are_refused_at_the_first_record() {
        let mut reader = Reader::default();
        let error = reader
            .feed(b"GET / HTTP/1.1\r\n", |_| panic!("no record"))
            .expect_err("http");
        assert!(
            error.to_string().contains("expected a tcpcopy hello"),
            "{error}"
        );
        assert!(!reader.greeted());
    }

    #[test]
    fn an_add_is_no_hello() {
        let (bytes, _) = stream();
        let mut reader = Reader::default();
        assert!(reader.feed(&bytes[14..28], |_| ()).is_err());
    }

    #[test]
    fn another_version_is_tolerated_as_in_c() {
        let mut hello = compat::hello();
        hello[7] = 5;
        let mut got = Vec::new();
        Reader::default()
            .feed(&hello, |r| got.push(r))
            .expect("tolerated");
        assert_eq!(
            got,
            [ClientRecord::Hello {
                version: 5,
                extension: [0; 6]
            }]
        );
    }
}
