//! Cuts what a peer sends into records, wherever TCP cut it.

use common::wire::compat::{CLIENT_RECORD_BYTES, ClientRecord};

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
}

/// State of one connection's inbound stream.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    partial: [u8; CLIENT_RECORD_BYTES],
    filled: usize,
    greeted: bool,
}

impl Reader {
    /// Takes bytes and calls `record` for each complete record, the hello included.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut record: impl FnMut(ClientRecord),
    ) -> Result<(), Refused> {
        loop {
            let take = (CLIENT_RECORD_BYTES - self.filled).min(bytes.len());
            let (head, rest) = bytes.split_at(take);
            self.partial[self.filled..self.filled + take].copy_from_slice(head);
            self.filled += take;
            bytes = rest;
            if self.filled < CLIENT_RECORD_BYTES {
                return Ok(());
            }
            self.filled = 0;
            let decoded = ClientRecord::decode(&self.partial, !self.greeted);
            if !self.greeted && !matches!(decoded, ClientRecord::Hello { .. }) {
                return Err(Refused::NotHello { got: self.partial });
            }
            self.greeted = true;
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
