//! What `-F` may say until full pcap filters exist: TCP from given source ports, optionally from given
//! source hosts.
//!
//! ```text
//!  filter := term { "and" term }
//!  term   := "tcp" | ["tcp"] "src" "port" N | "src" "host" A | "(" choice ")"
//!  choice := term { "or" term }       all of one kind: ports, or hosts
//! ```
//! The result is the list of source endpoints: every host with every port, [`Addr::ANY`] for no host.

use common::abi::MAX_ENDPOINTS;
use common::packet::{Addr, Endpoint};
use std::net::IpAddr;

/// The forms that are accepted, for help and errors.
pub const FORMS: &str = "'tcp and src port N', 'tcp and src port N and src host A', \
    'src host A and tcp and src port N', 'tcp and (src port N or src port M)', \
    'tcp and src port N and (src host A or src host B)'; A is an IPv4 or IPv6 address";

/// Why a filter was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    /// A word that no form has at its place.
    #[error("filter: '{part}' is not supported here; accepted forms: {FORMS}")]
    Unsupported {
        /// The filter from the offending word on.
        part: String,
    },
    /// The filter ends where something must follow.
    #[error("filter: ends after '{after}', expected {expected}; accepted forms: {FORMS}")]
    Incomplete {
        /// Last word.
        after: String,
        /// What must follow.
        expected: &'static str,
    },
    /// Not a port.
    #[error("filter: '{got}' is not a port, expected 1 to 65535")]
    BadPort {
        /// The word.
        got: String,
    },
    /// Not an address.
    #[error(
        "filter: '{got}' is not an address, expected IPv4 or IPv6 in digits (no name, no network)"
    )]
    BadHost {
        /// The word.
        got: String,
    },
    /// Something that every form has is missing.
    #[error("filter: '{filter}' lacks {missing}; accepted forms: {FORMS}")]
    Missing {
        /// The filter.
        filter: String,
        /// What is missing.
        missing: &'static str,
    },
    /// More endpoints than the kernel map holds.
    #[error("filter: {got} combinations of host and port, expected at most {MAX_ENDPOINTS}")]
    TooMany {
        /// Hosts times ports.
        got: usize,
    },
}

/// Parses a filter into source endpoints, sorted and without duplicates.
pub fn parse(filter: &str) -> Result<Vec<Endpoint>, FilterError> {
    let mut parser = Parser {
        words: split(filter),
        at: 0,
        filter,
    };
    let mut terms = Terms::default();
    parser.conjunction(&mut terms)?;
    let missing = |missing| FilterError::Missing {
        filter: filter.to_owned(),
        missing,
    };
    if !terms.tcp {
        return Err(missing("'tcp'"));
    }
    let ports = terms.ports.ok_or_else(|| missing("'src port N'"))?;
    let hosts = terms.hosts.unwrap_or_else(|| vec![Addr::ANY]);
    let got = ports.len() * hosts.len();
    if got > MAX_ENDPOINTS as usize {
        return Err(FilterError::TooMany { got });
    }
    let mut rules: Vec<Endpoint> = hosts
        .iter()
        .flat_map(|&host| ports.iter().map(move |&port| Endpoint::new(host, port)))
        .collect();
    rules.sort_unstable();
    rules.dedup();
    Ok(rules)
}

/// What the terms so far say. A second list of ports or hosts beside the first would be an
/// intersection, which nobody means: refused.
#[derive(Default)]
struct Terms {
    tcp: bool,
    ports: Option<Vec<u16>>,
    hosts: Option<Vec<Addr>>,
}

enum Term {
    Tcp,
    Port(u16),
    Host(Addr),
}

struct Parser<'a> {
    /// Words with their byte offset, so that an error can quote the rest of the filter.
    words: Vec<(usize, &'a str)>,
    at: usize,
    filter: &'a str,
}

/// Words are separated by blanks; parentheses are words of their own.
fn split(filter: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut start = None;
    for (i, c) in filter.char_indices() {
        let single = matches!(c, '(' | ')');
        if single || c.is_whitespace() {
            if let Some(from) = start.take() {
                words.push((from, &filter[from..i]));
            }
            if single {
                words.push((i, &filter[i..=i]));
            }
        } else if start.is_none() {
            start = Some(i);
        }
    }
    if let Some(from) = start {
        words.push((from, &filter[from..]));
    }
    words
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).map(|&(_, word)| word)
    }

    fn take(&mut self, accepted: &[&str]) -> bool {
        let hit = self
            .peek()
            .is_some_and(|w| accepted.iter().any(|a| w.eq_ignore_ascii_case(a)));
        self.at += usize::from(hit);
        hit
    }

    fn unsupported(&self, at: usize) -> FilterError {
        let from = self
            .words
            .get(at)
            .map_or(self.filter.len(), |&(offset, _)| offset);
        FilterError::Unsupported {
            part: self.filter[from..].trim_end().to_owned(),
        }
    }

    /// The next word, whatever it is.
    fn word(&mut self, expected: &'static str) -> Result<&'a str, FilterError> {
        match self.peek() {
            Some(word) => {
                self.at += 1;
                Ok(word)
            }
            None => Err(self.incomplete(expected)),
        }
    }

    fn incomplete(&self, expected: &'static str) -> FilterError {
        let after = self.at.checked_sub(1).and_then(|i| self.words.get(i));
        let after = after.map_or("", |&(_, word)| word).to_owned();
        FilterError::Incomplete { after, expected }
    }

    fn conjunction(&mut self, terms: &mut Terms) -> Result<(), FilterError> {
        loop {
            let from = self.at;
            if self.take(&["("]) {
                self.group(from, terms)?;
            } else {
                let term = self.term()?;
                self.add(from, vec![term], terms)?;
            }
            if self.peek().is_none() {
                return Ok(());
            }
            // `tcp src port 80`: the protocol qualifies what follows, as in pcap-filter(7).
            let qualifies = self
                .words
                .get(from)
                .is_some_and(|w| w.1.eq_ignore_ascii_case("tcp"))
                && self.at == from + 1
                && self.peek().is_some_and(|w| w.eq_ignore_ascii_case("src"));
            if !qualifies && !self.take(&["and", "&&"]) {
                return Err(self.unsupported(self.at));
            }
        }
    }

    fn group(&mut self, from: usize, terms: &mut Terms) -> Result<(), FilterError> {
        let mut choice = vec![self.term()?];
        while self.take(&["or", "||"]) {
            choice.push(self.term()?);
        }
        if self.peek().is_none() {
            return Err(self.incomplete("')'"));
        }
        if !self.take(&[")"]) {
            return Err(self.unsupported(self.at));
        }
        self.add(from, choice, terms)
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        let from = self.at;
        if self.take(&["tcp"]) {
            return Ok(Term::Tcp);
        }
        if self.peek().is_none() {
            return Err(self.incomplete("'tcp', 'src port N' or 'src host A'"));
        }
        if !self.take(&["src"]) {
            return Err(self.unsupported(from));
        }
        if self.take(&["port"]) {
            let got = self.word("a port")?;
            return match got.parse::<u16>() {
                Ok(port) if port != 0 => Ok(Term::Port(port)),
                _ => Err(FilterError::BadPort {
                    got: got.to_owned(),
                }),
            };
        }
        if self.take(&["host"]) {
            let got = self.word("an address")?;
            return match got.parse::<IpAddr>() {
                Ok(ip) if !ip.is_unspecified() => Ok(Term::Host(ip.into())),
                _ => Err(FilterError::BadHost {
                    got: got.to_owned(),
                }),
            };
        }
        match self.peek() {
            Some(_) => Err(self.unsupported(from)),
            None => Err(self.incomplete("'port N' or 'host A'")),
        }
    }

    fn add(&self, from: usize, choice: Vec<Term>, terms: &mut Terms) -> Result<(), FilterError> {
        let mut ports = Vec::new();
        let mut hosts = Vec::new();
        let mut tcp = false;
        for term in choice {
            match term {
                Term::Tcp => tcp = true,
                Term::Port(port) => ports.push(port),
                Term::Host(host) => hosts.push(host),
            }
        }
        let kinds = u8::from(tcp) + u8::from(!ports.is_empty()) + u8::from(!hosts.is_empty());
        let again = (!ports.is_empty() && terms.ports.is_some())
            || (!hosts.is_empty() && terms.hosts.is_some());
        if kinds != 1 || again {
            return Err(self.unsupported(from));
        }
        terms.tcp |= tcp;
        if !ports.is_empty() {
            terms.ports = Some(ports);
        }
        if !hosts.is_empty() {
            terms.hosts = Some(hosts);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Endpoint {
        let addr = if host.is_empty() {
            Addr::ANY
        } else {
            host.parse::<IpAddr>().map_or(Addr::ANY, Addr::from)
        };
        Endpoint::new(addr, port)
    }

    #[test]
    fn accepted_forms() {
        for (filter, rules) in [
            ("tcp and src port 8080", vec![at("", 8080)]),
            ("tcp src port 8080", vec![at("", 8080)]),
            ("TCP AND SRC PORT 8080", vec![at("", 8080)]),
            ("tcp && src port 80", vec![at("", 80)]),
            ("  tcp  and\tsrc port 80 ", vec![at("", 80)]),
            (
                "tcp and src port 80 and src host 10.0.0.1",
                vec![at("10.0.0.1", 80)],
            ),
            (
                "src host 10.0.0.1 and tcp and src port 80",
                vec![at("10.0.0.1", 80)],
            ),
            ("src port 80 and tcp", vec![at("", 80)]),
            (
                "tcp and src port 80 and src host 2001:db8::1",
                vec![at("2001:db8::1", 80)],
            ),
            (
                "tcp and (src port 80 or src port 443)",
                vec![at("", 80), at("", 443)],
            ),
            ("tcp and(src port 443||src port 80)", vec![]),
            (
                "tcp and (src port 443 or src port 80 or src port 80)",
                vec![at("", 80), at("", 443)],
            ),
            ("tcp and (src port 80)", vec![at("", 80)]),
            (
                "tcp and (src port 1 or src port 2) and (src host 10.0.0.1 or src host 10.0.0.2)",
                vec![
                    at("10.0.0.1", 1),
                    at("10.0.0.1", 2),
                    at("10.0.0.2", 1),
                    at("10.0.0.2", 2),
                ],
            ),
        ] {
            if rules.is_empty() {
                // `443||src` is one word: operators need blanks around them, and the error says where.
                assert!(parse(filter).is_err(), "{filter}");
            } else {
                assert_eq!(parse(filter), Ok(rules), "{filter}");
            }
        }
    }

    #[test]
    fn refused_with_the_part_that_is_not_understood() {
        for (filter, quoted) in [
            ("udp and src port 80", "'udp and src port 80'"),
            ("tcp and dst port 80", "'dst port 80'"),
            ("tcp and port 80", "'port 80'"),
            ("tcp and src port 80 and net 10.0.0.0/8", "'net 10.0.0.0/8'"),
            ("tcp and src port 80 or src port 81", "'or src port 81'"),
            ("tcp and not src port 80", "'not src port 80'"),
            ("tcp and src portrange 1-2", "'src portrange 1-2'"),
            ("tcp and src net 10.0.0.0/8", "'src net 10.0.0.0/8'"),
            ("tcp and src port 80 and src port 81", "'src port 81'"),
            (
                "tcp and (src port 80 or src host 10.0.0.1)",
                "'(src port 80 or src host 10.0.0.1)'",
            ),
            ("tcp and ((src port 80))", "'(src port 80))'"),
            ("tcp and src port 80)", "')'"),
            (
                "tcp and src port 80 src host 10.0.0.1",
                "'src host 10.0.0.1'",
            ),
            ("tcp and src port 0", "'0' is not a port"),
            ("tcp and src port 65536", "'65536' is not a port"),
            ("tcp and src port http", "'http' is not a port"),
            (
                "tcp and src port 80 and src host example.org",
                "'example.org' is not an address",
            ),
            (
                "tcp and src port 80 and src host 10.0.0.0/8",
                "'10.0.0.0/8' is not an address",
            ),
            (
                "tcp and src port 80 and src host 0.0.0.0",
                "'0.0.0.0' is not an address",
            ),
            ("", "ends after ''"),
            ("tcp and", "ends after 'and'"),
            ("tcp and src", "ends after 'src'"),
            ("tcp and src port", "ends after 'port'"),
            ("tcp and (src port 80", "ends after '80', expected ')'"),
            ("tcp", "lacks 'src port N'"),
            ("src port 80", "lacks 'tcp'"),
            ("tcp and src host 10.0.0.1", "lacks 'src port N'"),
            ("tcp and src port 80 \u{2014} ü", "'\u{2014} ü'"),
        ] {
            let error = parse(filter).expect_err(filter).to_string();
            assert!(error.contains(quoted), "{filter}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn unsupported_parts_come_with_the_forms() {
        let error = parse("icmp").expect_err("icmp").to_string();
        assert!(
            error.contains("'tcp and src port N and src host A'"),
            "{error}"
        );
    }

    #[test]
    fn more_rules_than_the_map_holds_are_refused() {
        let ports: Vec<String> = (1..=300).map(|p| format!("src port {p}")).collect();
        let hosts: Vec<String> = (0..300)
            .map(|h| format!("src host 10.0.{}.{}", h / 256, h % 256))
            .collect();
        let filter = format!(
            "tcp and ({}) and ({})",
            ports.join(" or "),
            hosts.join(" or ")
        );
        assert_eq!(parse(&filter), Err(FilterError::TooMany { got: 90_000 }));
    }
}
