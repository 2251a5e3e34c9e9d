//! Any pcap filter in front of a capture.
//!
//! ```text
//!  expression ── compile (libpcap) ──▶ classic BPF ── translate (pure) ──▶ eBPF
//!                                                                           │ program: raw bpf(2)
//!       chain: a tail call array joins it to the capture programs ◀─────────┘
//! ```
//! * [`classic`], [`insn`]: both instruction sets; [`access`]: packet bytes; [`mod@translate`]: the rest.
//! * `compile`: libpcap's compiler and interpreter.
//! * [`program`]: loading; `chain`: joining and replacing.
//!
//! Filters see frames as they are on the wire, VLAN tags included. With tcx a frame is what GRO made of
//! several, so `len`, `less` and `greater` mean the merged one there. A tag that the network card has
//! taken off before XDP runs is not seen with XDP.
//!
//! On tunnelled traffic a filter judges the packet inside: the same program with an offset that is added
//! to every access, or, if the tunnel carries IP without a link header, the expression compiled for that.

pub mod access;
mod chain;
pub mod classic;
mod compile;
pub mod insn;
pub mod program;
pub mod translate;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use access::Hook;
pub(super) use chain::{Chain, Parts};
use classic::ClassicInsn;
use common::packet::{Header, Position};
use compile::Link;
use translate::{TranslateError, translate};

/// Longest expression, which is also the longest argument that Linux passes on (MAX_ARG_STRLEN). libpcap's
/// optimiser takes time by the square of it: 3 s for this much, the whole of it hosts, and 17 s for twice as
/// much, in which nobody would hear a signal.
const MAX_EXPRESSION_BYTES: usize = 128 << 10;
/// Largest filter file in bytes, comments and all.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Characters of an expression that errors quote.
const MAX_SHOWN_CHARS: usize = 200;
/// For errors about nothing.
const EXAMPLE: &str = "expected a pcap filter such as 'src net 10.0.0.0/8'";

/// Why an expression is not usable. One line each, with the expression.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Nothing.
    #[error("filter is empty, {EXAMPLE}")]
    Empty,
    /// Nobody wants to wait for it.
    #[error(
        "filter '{expression}' has {got} bytes, expected at most {MAX_EXPRESSION_BYTES}: use networks instead of \
         many hosts"
    )]
    TooLong {
        /// Its beginning.
        expression: String,
        /// Its length.
        got: usize,
    },
    /// libpcap says no.
    #[error("filter '{expression}': {reason}")]
    Compile {
        /// As given.
        expression: String,
        /// In libpcap's words.
        reason: String,
    },
    /// Valid for libpcap, but not in the kernel.
    #[error("filter '{expression}' {reason}")]
    Translate {
        /// As given.
        expression: String,
        /// Why.
        reason: TranslateError,
    },
    /// No file, or no text in it.
    #[error("cannot read filter file {}: {source}", path.display())]
    File {
        /// As given.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Something is wrong with what the file says.
    #[error("{}: {error}", path.display())]
    InFile {
        /// As given.
        path: PathBuf,
        /// What.
        error: Box<FilterError>,
    },
}

/// A compiled expression.
#[derive(Clone, PartialEq, Eq)]
pub struct Filter {
    expression: String,
    /// Only ever what libpcap's compiler made.
    program: Vec<ClassicInsn>,
    /// For packets inside tunnels, if these are what it judges.
    inner: Option<Inner>,
}

/// What a filter of packets inside tunnels has in addition.
#[derive(Clone, PartialEq, Eq)]
struct Inner {
    /// For IP packets that have no link header. `None`: the expression asks for something of such a
    /// header, and matches none of them.
    ip: Option<Vec<ClassicInsn>>,
}

impl Filter {
    /// Compiles an expression in the language of pcap-filter(7), and makes sure that it can run in the
    /// kernel. Names in it are resolved now.
    pub fn compile(expression: &str) -> Result<Self, FilterError> {
        // On one line, as it is shown.
        let expression = expression.split_whitespace().collect::<Vec<_>>().join(" ");
        if expression.is_empty() {
            return Err(FilterError::Empty);
        }
        if expression.len() > MAX_EXPRESSION_BYTES {
            return Err(FilterError::TooLong {
                got: expression.len(),
                expression: shortened(&expression),
            });
        }
        let program = match compile::compile(&expression, Link::Ethernet) {
            Ok(program) => program,
            Err(reason) => {
                return Err(FilterError::Compile {
                    expression: shortened(&expression),
                    reason,
                });
            }
        };
        for hook in [Hook::Tcx, Hook::Xdp, Hook::Socket] {
            if let Err(reason) = translate(&program, hook, None, &|a| a.exit(), &|a| a.exit()) {
                return Err(FilterError::Translate {
                    expression: shortened(&expression),
                    reason,
                });
            }
        }
        Ok(Self {
            expression,
            program,
            inner: None,
        })
    }

    /// The same expression for the packets inside tunnels, where there are such.
    #[must_use]
    pub fn of_inner_packets(self) -> Self {
        let ip = compile::compile(&self.expression, Link::Ip).and_then(|program| {
            translate(&program, Hook::Xdp, None, &|a| a.exit(), &|a| a.exit())
                .map_err(|reason| reason.to_string())?;
            Ok(program)
        });
        if let Err(reason) = &ip {
            tracing::warn!(
                filter = self.shown(),
                "matches no packet whose tunnel carries IP without a link header: {reason}"
            );
        }
        Self {
            inner: Some(Inner { ip: ip.ok() }),
            ..self
        }
    }

    /// True if it judges packets inside tunnels.
    pub const fn judges_inner(&self) -> bool {
        self.inner.is_some()
    }

    /// The program for IP packets without a link header; `None` if it matches none of them.
    pub fn ip_program(&self) -> Option<&[ClassicInsn]> {
        self.inner.as_ref()?.ip.as_deref()
    }

    /// Verdict on a frame whose packet, behind its tunnels, begins at `packet`.
    pub fn matches_at(&self, frame: &[u8], packet: Position) -> bool {
        if self.inner.is_none() {
            return self.matches(frame);
        }
        let bytes = frame.get(packet.offset..).unwrap_or_default();
        match packet.header {
            Header::Ethernet => self.matches(bytes),
            _ => self
                .ip_program()
                .is_some_and(|program| compile::interpret(program, bytes, bytes.len())),
        }
    }

    /// The same from a file: lines are joined, `#` begins a comment.
    pub fn from_file(path: &Path) -> Result<Self, FilterError> {
        let mut text = String::new();
        let read = File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
            .and_then(|len| {
                if len as u64 > MAX_FILE_BYTES {
                    Err(io::Error::other("more than 1 MiB"))
                } else {
                    Ok(())
                }
            });
        if let Err(source) = read {
            return Err(FilterError::File {
                path: path.to_owned(),
                source,
            });
        }
        Self::compile(&without_comments(&text)).map_err(|error| FilterError::InFile {
            path: path.to_owned(),
            error: Box::new(error),
        })
    }

    /// What it was compiled from, in one line.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The compiled program.
    pub fn program(&self) -> &[ClassicInsn] {
        &self.program
    }

    /// libpcap's own verdict on an Ethernet frame of which all bytes are there.
    pub fn matches(&self, frame: &[u8]) -> bool {
        compile::interpret(&self.program, frame, frame.len())
    }

    fn shown(&self) -> String {
        shortened(&self.expression)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.expression).finish()
    }
}

fn without_comments(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split_once('#').map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join(" ")
}

/// Errors and logs are lines for people.
fn shortened(expression: &str) -> String {
    match expression.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &expression[..end]),
        None => expression.to_owned(),
    }
}

#[cfg(test)]
mod tests;
