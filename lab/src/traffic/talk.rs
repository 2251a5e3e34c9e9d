//! Conversations in lines, for cases that need a server with manners of its own: what a connection says is the
//! test's choice, and what it heard is written into a book.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::net::sockopt::set_socket_recv_buffer_size;

use super::{AccessLog, Entry};
use crate::{
    LabError,
    world::{Host, Lab},
};

/// A conversation that stands still for this long is broken; a lost packet costs seconds at the very most.
const SILENCE_LIMIT: Duration = Duration::from_mins(1);

/// A line as a server heard it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Number of the connection at this server, from 0.
    pub connection: usize,
    /// The line without its end.
    pub line: String,
}

/// What a server heard, and whatever else the test wants to wait for.
#[derive(Debug, Default)]
pub struct Book {
    pages: Mutex<Pages>,
    changed: Condvar,
}

#[derive(Clone, Debug, Default)]
struct Pages {
    heard: Vec<Heard>,
    accepted: usize,
    ended: usize,
    open: bool,
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Pages)) {
        change(&mut self.pages());
        self.changed.notify_all();
    }

    fn wait(
        &self,
        what: &str,
        limit: Duration,
        done: impl Fn(&Pages) -> bool,
    ) -> Result<(), LabError> {
        let (pages, timeout) = self
            .changed
            .wait_timeout_while(self.pages(), limit, |pages| !done(pages))
            .unwrap_or_else(PoisonError::into_inner);
        if !timeout.timed_out() {
            return Ok(());
        }
        Err(LabError::Timeout {
            what: what.to_owned(),
            after: limit,
            detail: format!(
                "{} lines of {} connections, {} of them ended; the last: {:?}",
                pages.heard.len(),
                pages.accepted,
                pages.ended,
                pages.heard.last()
            ),
        })
    }

    /// Waits until a server has heard `lines` lines.
    pub fn wait_for_lines(&self, lines: usize, limit: Duration) -> Result<(), LabError> {
        self.wait(&format!("{lines} lines"), limit, |pages| {
            pages.heard.len() >= lines
        })
    }

    /// Waits until a server has accepted so many connections.
    pub fn wait_for_connections(
        &self,
        connections: usize,
        limit: Duration,
    ) -> Result<(), LabError> {
        let what = format!("{connections} connections");
        self.wait(&what, limit, |pages| pages.accepted >= connections)
    }

    /// Waits until so many connections have ended.
    pub fn wait_for_ends(&self, connections: usize, limit: Duration) -> Result<(), LabError> {
        let what = format!("the end of {connections} connections");
        self.wait(&what, limit, |pages| pages.ended >= connections)
    }

    /// Opens the gate at which [`Connection::wait_at_gate`] waits.
    pub fn open_gate(&self) {
        self.change(|pages| pages.open = true);
    }

    /// Everything heard so far, in the order of hearing.
    pub fn heard(&self) -> Vec<Heard> {
        self.pages().heard.clone()
    }

    /// The same as a log of requests: a line's first word is its id.
    pub fn log(&self) -> AccessLog {
        let entry = |heard: &Heard| {
            let (id, content) = heard.line.split_once(' ').unwrap_or((&heard.line, ""));
            Entry {
                id: id.to_owned(),
                content: content.to_owned(),
                intact: true,
            }
        };
        AccessLog::from_entries(self.pages().heard.iter().map(entry).collect())
    }
}

/// A connection at a server.
#[derive(Debug)]
pub struct Connection {
    /// Its number at this server, from 0.
    pub number: usize,
    stream: BufReader<TcpStream>,
    book: Arc<Book>,
}

impl Connection {
    /// The next line, written into the book; `None` at the end.
    pub fn hear(&mut self) -> Option<String> {
        let line = read_line(&mut self.stream)?;
        self.book.change(|pages| {
            pages.heard.push(Heard {
                connection: self.number,
                line: line.clone(),
            });
        });
        Some(line)
    }

    /// Says a line. What becomes of it is the other side's business.
    pub fn say(&mut self, line: &str) {
        let _ = self
            .stream
            .get_mut()
            .write_all(format!("{line}\n").as_bytes());
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Whether the other side has said anything that was not read yet.
    pub fn has_something(&self) -> bool {
        let socket = self.socket();
        // A socket that cannot be made non-blocking would wait here, which the test would notice.
        let _ = socket.set_nonblocking(true);
        let peeked = socket.peek(&mut [0]);
        let _ = socket.set_nonblocking(false);
        !self.stream.buffer().is_empty() || peeked.is_ok()
    }

    /// Waits until the test opens the gate.
    pub fn wait_at_gate(&self) {
        // A gate that stays closed shows as lines that are missing.
        let _ = self
            .book
            .wait("the gate", SILENCE_LIMIT, |pages| pages.open);
    }
}

/// A server in a namespace, on threads of this process.
#[derive(Debug)]
pub struct TalkServer {
    book: Arc<Book>,
    listener: TcpListener,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TalkServer {
    /// Starts one on `host`; `manners` has each connection, on a thread of its own, and closes it by returning.
    pub fn start(
        lab: &Lab,
        host: Host,
        port: u16,
        manners: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Result<Self, LabError> {
        Self::start_with_buffer(lab, host, port, None, manners)
    }

    /// The same with a receive buffer of that many bytes, as in SO_RCVBUF (socket(7)).
    pub fn start_with_buffer(
        lab: &Lab,
        host: Host,
        port: u16,
        buffer_bytes: Option<usize>,
        manners: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Result<Self, LabError> {
        let address = SocketAddr::from((host.address(), port));
        let listen = LabError::system(format!("listen on {address}"));
        let listener = lab
            .host(host)
            .enter(|| TcpListener::bind(address))?
            .map_err(listen)?;
        if let Some(bytes) = buffer_bytes {
            // On the listener: the window of the handshake follows from it.
            set_socket_recv_buffer_size(&listener, bytes)
                .map_err(|errno| LabError::system("receive buffer")(errno.into()))?;
        }
        let accepting = listener.try_clone().map_err(LabError::system("listener"))?;
        let book = Arc::new(Book::default());
        let sockets = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (book, sockets, stop) =
                (Arc::clone(&book), Arc::clone(&sockets), Arc::clone(&stop));
            move || accept(&accepting, &book, &sockets, &stop, &Arc::new(manners))
        });
        Ok(Self {
            book,
            listener,
            sockets,
            stop,
            thread: Some(thread),
        })
    }

    /// What it hears.
    pub fn book(&self) -> &Book {
        &self.book
    }
}

impl Drop for TalkServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes accept(2); sockets of a gone namespace may fail.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.book.open_gate();
        for socket in self
            .sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            let _ = socket.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(
    listener: &TcpListener,
    book: &Arc<Book>,
    sockets: &Mutex<Vec<TcpStream>>,
    stop: &AtomicBool,
    manners: &Arc<impl Fn(&mut Connection) + Send + Sync + 'static>,
) {
    for number in 0.. {
        let accepted = listener.accept();
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok((stream, _)) = accepted else { return };
        if prepare(&stream).is_err() {
            continue;
        }
        if let Ok(copy) = stream.try_clone() {
            sockets
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(copy);
        }
        book.change(|pages| pages.accepted += 1);
        let (book, manners) = (Arc::clone(book), Arc::clone(manners));
        thread::spawn(move || {
            let mut connection = Connection {
                number,
                stream: BufReader::new(stream),
                book: Arc::clone(&book),
            };
            manners(&mut connection);
            // Not by dropping: the list above holds a copy of the socket.
            let _ = connection.socket().shutdown(Shutdown::Both);
            book.change(|pages| pages.ended += 1);
        });
    }
}

/// A client's end of a conversation.
#[derive(Debug)]
pub struct Talk(BufReader<TcpStream>);

impl Talk {
    /// From `host` to `server`.
    pub fn open(lab: &Lab, host: Host, server: (Host, u16)) -> Result<Self, LabError> {
        let address = SocketAddr::from((server.0.address(), server.1));
        let stream = lab
            .host(host)
            .enter(|| TcpStream::connect(address))?
            .and_then(|stream| prepare(&stream).map(|()| stream))
            .map_err(LabError::system(format!("connect to {address}")))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// An open connection.
    pub fn over(stream: TcpStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// Says a line.
    pub fn say(&mut self, line: &str) -> Result<(), LabError> {
        self.0
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .map_err(LabError::system("say a line"))
    }

    /// The next line; `None` at the end.
    pub fn hear(&mut self) -> Option<String> {
        read_line(&mut self.0)
    }

    /// Says a line and hears one.
    pub fn ask(&mut self, line: &str) -> Result<String, LabError> {
        self.say(line)?;
        self.hear().ok_or_else(|| LabError::EndedEarly {
            name: "the server's connection".to_owned(),
            status: "closed".to_owned(),
            detail: format!("no answer to {line:?}"),
        })
    }

    /// Has no more to say, but still listens.
    pub fn finish(&self) -> Result<(), LabError> {
        self.socket()
            .shutdown(Shutdown::Write)
            .map_err(LabError::system("shut down"))
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        self.0.get_ref()
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_LIMIT))?;
    stream.set_write_timeout(Some(SILENCE_LIMIT))
}

fn read_line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    // A line without its end was cut off: it counts as nothing.
    line.strip_suffix('\n').map(str::to_owned)
}
