//! Cuts what a peer sends into records, wherever TCP cut it, and greets it.
//!
//! ```text
//!  without a key   Hello ──▶ Clear (C format, then ours behind SWITCH)
//!  with a key      Hello ──ACK, challenge──▶ Proof ──message 2──▶ Sealed
//! ```

use channel_crypto::{HandshakeError, Key, MESSAGE_BYTES, Opener, Sealer};
use common::wire::compat::{CLIENT_RECORD_BYTES, ClientRecord};
use common::wire::native::{
    self, ACK_BYTES, CLIENT_MESSAGE_BYTES, ClientMessage, ack_flags, offer_flags,
};
use common::wire::partial::Partial;
use std::sync::Arc;

/// Hello and acknowledgement, which the proof of the key is bound to.
const PROLOGUE_BYTES: usize = CLIENT_RECORD_BYTES + ACK_BYTES;
/// Said about this program in every acknowledgement.
pub const ACK_FLAGS: u8 = ack_flags::PONGS;

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
    /// We have a key, and the peer offers none.
    #[error(
        "{}, expected one with our key; start tcpcopy-user there with the same --key-file, or this program without one",
        if *native { "a tcpcopy-user without a key" } else { "a C tcpcopy, which knows no keys" }
    )]
    NoKey {
        /// It speaks our format.
        native: bool,
    },
    /// The peer has a key, and we have none.
    #[error(
        "tcpcopy wants a proof of its key; start this program with the same --key-file, or tcpcopy without one"
    )]
    KeyWanted,
    /// The peer has another key, or replays what it has heard.
    #[error("tcpcopy has another key; give both programs the same --key-file")]
    WrongKey,
    /// No random numbers, or a bug.
    #[error("{0}")]
    Failed(String),
    /// Behind the proof.
    #[error(transparent)]
    Record(#[from] channel_crypto::BadRecord),
}

impl Refused {
    /// What a peer of ours is told before the connection is closed.
    pub fn last_words(&self) -> Vec<u8> {
        match self {
            Self::NoKey { native: true } => native::ack(ACK_FLAGS | ack_flags::KEYED).to_vec(),
            Self::KeyWanted => native::ack(ACK_FLAGS).to_vec(),
            Self::WrongKey => channel_crypto::REFUSAL.to_vec(),
            _ => Vec::new(),
        }
    }
}

/// How a peer is written to.
#[derive(Debug)]
pub enum Format {
    /// As C programs do.
    Compat,
    /// Our own, with these flags of the acknowledgement.
    Native(u8),
    /// Our own, sealed.
    Sealed(Box<Sealer>),
}

/// What the bytes of a peer come to.
#[derive(Debug)]
pub enum Event {
    /// The peer is to be told this, before anything else.
    Answer(Vec<u8>),
    /// The peer is one: it has said hello, and proved the key if we have one.
    Greeted {
        /// Its internal version.
        version: u16,
        /// It pings, so its silence means that it is gone.
        pings: bool,
        /// How it is written to.
        format: Format,
    },
    /// A record behind the greeting.
    Record(ClientRecord),
}

#[derive(Debug)]
enum Phase {
    Hello,
    /// Message 1 is due.
    Proof {
        version: u16,
        pings: bool,
        prologue: [u8; PROLOGUE_BYTES],
    },
    Clear {
        /// The hello offered the native format.
        offered: bool,
        /// The peer has changed to it.
        native: bool,
    },
    Sealed(Box<Opener>),
}

/// State of one connection's inbound stream.
#[derive(Debug)]
pub struct Reader {
    key: Option<Arc<Key>>,
    /// Routes are confirmed, which peers must understand.
    confirms: bool,
    partial: Partial<MESSAGE_BYTES>,
    phase: Phase,
}

impl Reader {
    /// Of a connection on which nothing has been said. With a key, only who proves the same is listened to; if routes
    /// are confirmed, only who speaks the native format.
    pub fn new(key: Option<Arc<Key>>, confirms: bool) -> Self {
        Self {
            key,
            confirms,
            partial: Partial::default(),
            phase: Phase::Hello,
        }
    }

    /// Takes bytes and calls `each` for what they come to, in order.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Event)) -> Result<(), Refused> {
        loop {
            if let Phase::Sealed(opener) = &mut self.phase {
                let Some(mut plain) = opener.next(&mut bytes)? else {
                    return Ok(());
                };
                while let Some(unit) = self.partial.take(CLIENT_MESSAGE_BYTES, &mut plain) {
                    each(Event::Record(message(unit)));
                }
                continue;
            }
            let want = match self.phase {
                Phase::Proof { .. } => MESSAGE_BYTES,
                Phase::Clear { native: true, .. } => CLIENT_MESSAGE_BYTES,
                _ => CLIENT_RECORD_BYTES,
            };
            let Some(&unit) = self.partial.take(want, &mut bytes) else {
                return Ok(());
            };
            let mut compat = [0; CLIENT_RECORD_BYTES];
            compat.copy_from_slice(&unit[..CLIENT_RECORD_BYTES]);
            match &mut self.phase {
                Phase::Hello => self.hello(&compat, &mut each)?,
                Phase::Proof { .. } => self.proof(&unit, &mut each)?,
                Phase::Clear { native: true, .. } => each(Event::Record(message(&unit))),
                Phase::Clear { offered, native } => match ClientRecord::decode(&compat, false) {
                    ClientRecord::Unknown {
                        kind: native::SWITCH,
                    } if *offered => *native = true,
                    record => each(Event::Record(record)),
                },
                Phase::Sealed(_) => {}
            }
        }
    }

    fn ack_flags(&self) -> u8 {
        if self.confirms {
            ACK_FLAGS | ack_flags::CONFIRMS
        } else {
            ACK_FLAGS
        }
    }

    fn hello(
        &mut self,
        hello: &[u8; CLIENT_RECORD_BYTES],
        each: &mut impl FnMut(Event),
    ) -> Result<(), Refused> {
        let ClientRecord::Hello { version, extension } = ClientRecord::decode(hello, true) else {
            return Err(Refused::NotHello { got: *hello });
        };
        let offered = native::offered(extension);
        let flags = if offered {
            native::flags_of_offer(extension)
        } else {
            0
        };
        if self.confirms && !offered {
            return Err(Refused::NotNative);
        }
        let pings = flags & offer_flags::PINGS != 0;
        match (&self.key, flags & offer_flags::KEYED != 0) {
            (None, true) => return Err(Refused::KeyWanted),
            (Some(_), false) => return Err(Refused::NoKey { native: offered }),
            (None, false) => {
                self.phase = Phase::Clear {
                    offered,
                    native: false,
                };
                let format = if offered {
                    Format::Native(self.ack_flags())
                } else {
                    Format::Compat
                };
                each(Event::Greeted {
                    version,
                    pings,
                    format,
                });
            }
            (Some(_), true) => {
                let challenge = channel_crypto::challenge().map_err(|e| failed(&e))?;
                let ack = native::keyed_ack(self.ack_flags(), challenge);
                let mut prologue = [0; PROLOGUE_BYTES];
                let (first, second) = prologue.split_at_mut(CLIENT_RECORD_BYTES);
                first.copy_from_slice(hello);
                second.copy_from_slice(&ack);
                self.phase = Phase::Proof {
                    version,
                    pings,
                    prologue,
                };
                each(Event::Answer(ack.to_vec()));
            }
        }
        Ok(())
    }

    fn proof(
        &mut self,
        message: &[u8; MESSAGE_BYTES],
        each: &mut impl FnMut(Event),
    ) -> Result<(), Refused> {
        let (
            Phase::Proof {
                version,
                pings,
                prologue,
            },
            Some(key),
        ) = (&self.phase, &self.key)
        else {
            return Ok(());
        };
        let (answer, sealed) =
            channel_crypto::respond(key, prologue, message).map_err(|e| match e {
                HandshakeError::WrongKey => Refused::WrongKey,
                HandshakeError::Failed(_) => failed(&e),
            })?;
        each(Event::Answer(answer.to_vec()));
        each(Event::Greeted {
            version: *version,
            pings: *pings,
            format: Format::Sealed(Box::new(sealed.sealer)),
        });
        self.phase = Phase::Sealed(Box::new(sealed.opener));
        Ok(())
    }
}

fn message(unit: &[u8; MESSAGE_BYTES]) -> ClientRecord {
    let mut message = [0; CLIENT_MESSAGE_BYTES];
    message.copy_from_slice(&unit[..CLIENT_MESSAGE_BYTES]);
    ClientMessage::decode(message)
}

fn failed(error: &HandshakeError) -> Refused {
    Refused::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::{Addr, Endpoint};
    use common::wire::compat;

    fn records_of(reader: &mut Reader, bytes: &[u8]) -> Vec<ClientRecord> {
        let mut records = Vec::new();
        reader
            .feed(bytes, |event| match event {
                Event::Record(record) => records.push(record),
                Event::Greeted { .. } => {}
                Event::Answer(_) => panic!("without a key"),
            })
            .expect("well formed");
        records
    }

    fn stream() -> (Vec<u8>, Vec<ClientRecord>) {
        let client = Endpoint::new(Addr::v4([10, 9, 9, 1]), 41_439);
        let target = Endpoint::new(Addr::v4([10, 9, 0, 2]), 8001);
        let mut bytes = compat::hello().to_vec();
        bytes.extend(compat::add(client, target).expect("IPv4"));
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0]);
        let records = vec![
            ClientRecord::Add { client, target },
            ClientRecord::Unknown { kind: 99 },
        ];
        (bytes, records)
    }

    #[test]
    fn where_routes_are_confirmed_c_peers_are_refused() {
        let mut reader = Reader::new(None, true);
        assert_eq!(
            reader.feed(&stream().0, |r| panic!("{r:?}")),
            Err(Refused::NotNative)
        );
        let mut reader = Reader::new(None, true);
        assert_eq!(reader.feed(&native::hello(0), |_| ()), Ok(()));
    }

    #[test]
    fn every_cut_gives_the_same_records() {
        let (bytes, records) = stream();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut reader = Reader::new(None, false);
                let mut got = Vec::new();
                for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    got.extend(records_of(&mut reader, part));
                }
                assert_eq!(got, records, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn behind_the_switch_every_cut_gives_the_same_messages() {
        let client = Endpoint::new(Addr([0x20; 16]), 41_439);
        let target = Endpoint::new(Addr([0x30; 16]), 8001);
        let mut bytes = native::hello(0).to_vec();
        bytes.extend(native::switch());
        bytes.extend(ClientMessage::add(client, target).to_bytes());
        bytes.extend(ClientMessage::del(client, target).to_bytes());
        for cut in 0..=bytes.len() {
            let mut reader = Reader::new(None, false);
            let mut got = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                got.extend(records_of(&mut reader, part));
            }
            let want = [
                ClientRecord::Add { client, target },
                ClientRecord::Del { client, target },
            ];
            assert_eq!(got, want, "cut at {cut}");
        }
    }

    #[test]
    fn a_switch_that_was_not_offered_is_an_unknown_record() {
        let mut bytes = compat::hello().to_vec();
        bytes.extend(native::switch());
        let kind = native::SWITCH;
        let got = records_of(&mut Reader::new(None, false), &bytes);
        assert_eq!(got, [ClientRecord::Unknown { kind }]);
    }

    #[test]
    fn other_protocols_are_refused_at_the_first_record() {
        let mut reader = Reader::new(None, false);
        let error = reader
            .feed(b"GET / HTTP/1.1\r\n", |_| panic!("no event"))
            .expect_err("http");
        assert!(
            error.to_string().contains("expected a tcpcopy hello"),
            "{error}"
        );
    }

    #[test]
    fn an_add_is_no_hello() {
        let (bytes, _) = stream();
        let mut reader = Reader::new(None, false);
        assert!(reader.feed(&bytes[14..28], |_| ()).is_err());
    }

    #[test]
    fn another_version_is_tolerated_as_in_c() {
        let mut hello = compat::hello();
        hello[7] = 5;
        let mut got = None;
        Reader::new(None, false)
            .feed(&hello, |e| got = Some(e))
            .expect("tolerated");
        assert!(
            matches!(got, Some(Event::Greeted { version: 5, .. })),
            "{got:?}"
        );
    }

    fn key(n: u8) -> Arc<Key> {
        Arc::new(Key::from_bytes(&[n; 32]))
    }

    fn refused(key: Option<Arc<Key>>, bytes: &[u8]) -> Refused {
        Reader::new(key, false)
            .feed(bytes, |e| panic!("{e:?}"))
            .expect_err("refused")
    }

    #[test]
    fn keys_on_one_side_are_refused_with_last_words_for_our_own_programs() {
        let ours = native::hello(offer_flags::PINGS);
        let with_key = native::hello(offer_flags::PINGS | offer_flags::KEYED);
        let flags = |refused: &Refused| {
            let words: [u8; ACK_BYTES] = refused.last_words().try_into().expect("an ACK");
            native::flags_of_ack(words).expect("ours")
        };
        let c = refused(Some(key(1)), &compat::hello());
        assert_eq!(c, Refused::NoKey { native: false });
        assert!(c.last_words().is_empty());
        assert!(c.to_string().contains("C tcpcopy"), "{c}");
        let no_key = refused(Some(key(1)), &ours);
        assert_eq!(flags(&no_key), ACK_FLAGS | ack_flags::KEYED);
        let wanted = refused(None, &with_key);
        assert_eq!(wanted, Refused::KeyWanted);
        assert_eq!(flags(&wanted), ACK_FLAGS);
        for r in [&c, &no_key, &wanted] {
            assert!(r.to_string().contains("--key-file"), "{r}");
        }
    }

    /// The greeting with a key, cut into pieces of `piece` bytes, then two messages.
    fn greeted(
        server: Option<Arc<Key>>,
        client: u8,
        piece: usize,
    ) -> Result<Vec<ClientRecord>, Refused> {
        let hello = native::hello(offer_flags::KEYED);
        let mut reader = Reader::new(server, false);
        let mut answers = Vec::new();
        let mut say = |bytes: &[u8], answers: &mut Vec<u8>| {
            let mut records = Vec::new();
            for part in bytes.chunks(piece) {
                reader.feed(part, |event| match event {
                    Event::Answer(bytes) => answers.extend(bytes),
                    Event::Greeted { format, .. } => assert!(matches!(format, Format::Sealed(_))),
                    Event::Record(record) => records.push(record),
                })?;
            }
            Ok::<_, Refused>(records)
        };
        say(&hello, &mut answers)?;
        let prologue = [&hello[..], &answers].concat();
        let key = Key::from_bytes(&[client; 32]);
        let (initiator, one) = channel_crypto::Initiator::begin(&key, &prologue).expect("begin");
        answers.clear();
        say(&one, &mut answers)?;
        let two = answers[..].try_into().expect("message 2");
        let mut sealed = initiator.finish(two).expect("proved");
        let mut wire = Vec::new();
        let token = [
            ClientMessage::ping(1).to_bytes(),
            ClientMessage::ping(2).to_bytes(),
        ]
        .concat();
        sealed.sealer.seal(&token, &mut wire);
        say(&wire, &mut answers)
    }

    #[test]
    fn with_a_key_every_cut_of_the_greeting_works_and_another_key_does_not() {
        for piece in [1, 7, 14, 1000] {
            let got = greeted(Some(key(3)), 3, piece).expect("greeted");
            let want = [1, 2].map(|token| ClientRecord::Ping { token });
            assert_eq!(got, want, "pieces of {piece}");
        }
        let refused = greeted(Some(key(3)), 4, 1000).expect_err("another key");
        assert_eq!(refused, Refused::WrongKey);
        assert_eq!(refused.last_words(), [0u8; 2]);
    }
}
