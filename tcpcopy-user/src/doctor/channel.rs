//! The hop from here to intercept: does it take a connection, does it speak like one, and has it our key.

use crate::channel::{Channel, ChannelError, KeyRefusal};
use channel_crypto::Key;
use common::packet::Endpoint;
use common::wire::native::{self, ServerStream, ack_flags};
use dataplane::clock;
use doctor::Finding;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection within a data centre takes a millisecond, and with one lost SYN a second.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Our own intercept answers the hello within a round trip and a loop of its own; a C intercept never does.
const ANSWER_LIMIT: Duration = Duration::from_millis(700);

/// What an intercept did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It answered as ours do.
    Native,
    /// It took the connection and said nothing: a C intercept, or something else that waits.
    Silent,
    /// Nothing listens there.
    Refused,
    /// No answer.
    TimedOut,
    /// No way there, as the kernel says.
    Failed(String),
    /// It ended the connection upon our hello.
    Closed,
    /// The two have not come together about the key.
    Key(String),
    /// It said something that no intercept says.
    Alien(String),
}

/// Connects to an intercept, says hello, and hears; with a key, proves it and wants to see it.
pub fn reach(intercept: Endpoint, key: Option<&Arc<Key>>) -> Reach {
    let Some(key) = key else {
        return greet(intercept);
    };
    match Channel::connect_with(&[intercept], 1, false, Some(key), clock::now()) {
        Ok(_) => Reach::Native,
        Err(ChannelError::Key { refusal, .. }) => Reach::Key(refusal.to_string()),
        // The same again, to be told what it is.
        Err(_) => greet(intercept),
    }
}

fn greet(intercept: Endpoint) -> Reach {
    let mut stream = match TcpStream::connect_timeout(&intercept.to_socket(), CONNECT_LIMIT) {
        Ok(stream) => stream,
        Err(e) => {
            return match e.kind() {
                ErrorKind::ConnectionRefused => Reach::Refused,
                ErrorKind::TimedOut => Reach::TimedOut,
                _ => Reach::Failed(e.to_string()),
            };
        }
    };
    let limited = stream.set_read_timeout(Some(ANSWER_LIMIT / 10));
    if limited
        .and_then(|()| stream.write_all(&native::hello(0)))
        .is_err()
    {
        return Reach::Closed;
    }
    let end = Instant::now() + ANSWER_LIMIT;
    let (mut heard, mut bytes) = (ServerStream::default(), [0; 1024]);
    while Instant::now() < end {
        match stream.read(&mut bytes) {
            Ok(0) => return Reach::Closed,
            Ok(n) => {
                if let Err(bad) = heard.feed(bytes.get(..n).unwrap_or_default(), |_| ()) {
                    return Reach::Alien(bad.to_string());
                }
                if heard.flags() & ack_flags::KEYED != 0 {
                    return Reach::Key(KeyRefusal::Required.to_string());
                }
                if heard.is_native() {
                    return Reach::Native;
                }
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Reach::Closed,
            // The limit of one read.
            Err(_) => {}
        }
    }
    Reach::Silent
}

/// Judges one. `six`: a target that needs our own format.
pub fn judge(intercept: Endpoint, reach: &Reach, six: Option<Endpoint>) -> Option<Finding> {
    let (cause, what, fix) = match (reach, six) {
        (Reach::Native, _) | (Reach::Silent, None) => return None,
        (Reach::Silent, Some(target)) => (
            "channel_not_native",
            format!(
                "intercept {intercept} took the connection and has not answered our offer to speak more than the C format, which carries IPv4 only, but target {target} is IPv6"
            ),
            "run intercept-user of this version there".to_owned(),
        ),
        (Reach::Refused, _) => (
            "channel_refused",
            format!(
                "intercept {intercept} refused the connection, expected intercept-user to listen there"
            ),
            "start intercept-user on that host, or correct -s, or -p to its -p".to_owned(),
        ),
        (Reach::TimedOut, _) => (
            "channel_unreachable",
            format!(
                "intercept {intercept} has not answered for {} s, expected a connection",
                CONNECT_LIMIT.as_secs()
            ),
            format!(
                "look whether that host is up and its firewall lets TCP port {} in",
                intercept.port
            ),
        ),
        (Reach::Failed(why), _) => (
            "channel_unreachable",
            format!("intercept {intercept} cannot be reached: {why}, expected a connection"),
            format!(
                "look whether that host is up, and at `ip route get {}`",
                intercept.addr
            ),
        ),
        (Reach::Closed, _) => (
            "channel_closed",
            format!(
                "intercept {intercept} took the connection and closed it upon our hello, expected it to stay: it refuses this version, or is no intercept"
            ),
            "look at its log, and use the same version on both sides".to_owned(),
        ),
        (Reach::Key(refusal), _) => (
            "channel_unauthenticated",
            format!("intercept {intercept} {refusal}"),
            "start both with the same --key-file, or both without one".to_owned(),
        ),
        (Reach::Alien(said), _) => (
            "channel_wrong_protocol",
            format!("what listens at {intercept} is no intercept: {said}"),
            "correct -s, or -p to the -p of intercept-user".to_owned(),
        ),
    };
    Some(Finding::new(cause, what, fix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn end(text: &str) -> Endpoint {
        text.parse::<std::net::SocketAddr>()
            .expect("address")
            .into()
    }

    #[test]
    fn each_way_to_fail_has_its_cause() {
        let six = Some(end("[2001:db8::30]:8080"));
        let cases = [
            (Reach::Native, None, None),
            (Reach::Native, six, None),
            (Reach::Silent, None, None),
            (Reach::Silent, six, Some("channel_not_native")),
            (Reach::Refused, None, Some("channel_refused")),
            (Reach::TimedOut, None, Some("channel_unreachable")),
            (
                Reach::Failed("no route".into()),
                six,
                Some("channel_unreachable"),
            ),
            (Reach::Closed, None, Some("channel_closed")),
            (
                Reach::Key("has no key".into()),
                None,
                Some("channel_unauthenticated"),
            ),
            (
                Reach::Alien("got 7".into()),
                None,
                Some("channel_wrong_protocol"),
            ),
        ];
        for (reach, six, cause) in cases {
            let found = judge(end("10.0.0.40:36524"), &reach, six);
            assert_eq!(found.map(|f| f.cause), cause, "{reach:?}");
        }
    }

    /// A peer that does `act` with one connection.
    fn peer(act: impl FnOnce(TcpStream) + Send + 'static) -> Reach {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let at = listener.local_addr().expect("address");
        let thread = std::thread::spawn(move || act(listener.accept().expect("accept").0));
        let reach = reach(at.into(), None);
        thread.join().expect("peer");
        reach
    }

    fn hear(stream: &mut TcpStream) {
        let mut hello = [0; 14];
        stream.read_exact(&mut hello).expect("hello");
    }

    #[test]
    fn peers_are_told_apart() {
        let ours = peer(|mut s| {
            hear(&mut s);
            s.write_all(&native::ack(0)).expect("ack");
            hear_end(s);
        });
        assert_eq!(ours, Reach::Native);
        let keyed = peer(|mut s| {
            hear(&mut s);
            let flags = ack_flags::KEYED | ack_flags::PONGS;
            s.write_all(&native::ack(flags)).expect("ack");
            hear_end(s);
        });
        assert!(matches!(keyed, Reach::Key(_)), "{keyed:?}");
        let silent = peer(|mut s| {
            hear(&mut s);
            hear_end(s);
        });
        assert_eq!(silent, Reach::Silent);
        assert_eq!(peer(|mut s| hear(&mut s)), Reach::Closed);
        let alien = peer(|mut s| {
            hear(&mut s);
            s.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").expect("banner");
            hear_end(s);
        });
        assert!(matches!(alien, Reach::Alien(_)), "{alien:?}");
        let free = TcpListener::bind("127.0.0.1:0").expect("bind");
        let at = free.local_addr().expect("address");
        drop(free);
        assert_eq!(reach(at.into(), None), Reach::Refused);
    }

    fn hear_end(mut stream: TcpStream) {
        let _ = stream.read(&mut [0; 64]);
    }
}
