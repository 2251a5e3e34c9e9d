//! The load generator: keep-alive connections, then connections of one request each.
//!
//! Requests start at a steady rate, spread over a bounded number of connections; a late one is sent at once, so the
//! rate is made up for. Every answer is checked for status and length.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header::{CONNECTION, HOST},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    runtime::Builder,
    task::LocalSet,
    time::{Instant, sleep_until, timeout},
};

use super::content::RequestId;
use crate::LabError;

/// A request that takes this long has failed: the lab's answers take milliseconds, three lost SYNs take 7 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// What load to make.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The server.
    pub server: (Ipv4Addr, u16),
    /// Requests in all; the first half on keep-alive connections.
    pub requests: u64,
    /// Connections at a time.
    pub connections: u64,
    /// Requests started per second.
    pub rate: u64,
    /// Everything follows from it.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// Requests sent.
    pub requests: u64,
    /// Requests without a correct answer.
    pub errors: u64,
    /// Kinds of errors.
    pub by_kind: BTreeMap<String, u64>,
    /// Seconds from the first request to the last answer.
    pub seconds: f64,
    /// Median of the time to the complete answer, in microseconds.
    pub p50_us: u64,
    /// 99th percentile of it.
    pub p99_us: u64,
}

impl LoadReport {
    /// As printed by the tool.
    pub fn to_json(&self) -> Value {
        json!({
            "requests": self.requests,
            "errors": self.errors,
            "by_kind": self.by_kind,
            "seconds": self.seconds,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
        })
    }

    /// Reads it back.
    pub fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            requests: value["requests"].as_u64()?,
            errors: value["errors"].as_u64()?,
            by_kind: value["by_kind"]
                .as_object()?
                .iter()
                .map(|(kind, count)| Some((kind.clone(), count.as_u64()?)))
                .collect::<Option<_>>()?,
            seconds: value["seconds"].as_f64()?,
            p50_us: value["p50_us"].as_u64()?,
            p99_us: value["p99_us"].as_u64()?,
        })
    }
}

/// Makes the load and waits for its end.
pub fn run_load(options: &LoadOptions) -> Result<LoadReport, LabError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::system("start the runtime"))?;
    let run = Rc::new(Run {
        options: options.clone(),
        start: Instant::now(),
        next: Cell::new(0),
        tally: RefCell::default(),
    });
    LocalSet::new().block_on(&runtime, async {
        let kept = options.requests / 2;
        run.phase(kept, Phase::KeepAlive).await;
        run.phase(options.requests, Phase::OneRequest).await;
    });
    Ok(run.report())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    KeepAlive,
    OneRequest,
}

#[derive(Default)]
struct Tally {
    requests: u64,
    errors: BTreeMap<String, u64>,
    micros: Vec<u64>,
}

struct Run {
    options: LoadOptions,
    start: Instant,
    next: Cell<u64>,
    tally: RefCell<Tally>,
}

impl Run {
    /// Sends requests up to number `end`, on all connections.
    async fn phase(self: &Rc<Self>, end: u64, phase: Phase) {
        let connections: Vec<_> = (0..self.options.connections)
            .map(|_| {
                let run = Rc::clone(self);
                tokio::task::spawn_local(async move { run.connection(end, phase).await })
            })
            .collect();
        for connection in connections {
            // A task of ours neither panics nor is aborted.
            let _ = connection.await;
        }
    }

    async fn connection(&self, end: u64, phase: Phase) {
        let mut kept: Option<SendRequest<Full<Bytes>>> = None;
        loop {
            let number = self.next.get();
            if number >= end {
                return;
            }
            self.next.set(number + 1);
            sleep_until(self.start + Duration::from_micros(number * 1_000_000 / self.options.rate))
                .await;

            let begin = Instant::now();
            let result =
                match timeout(REQUEST_TIMEOUT, self.request(number, phase, kept.take())).await {
                    Ok(result) => result,
                    Err(_) => Err("timeout".to_owned()),
                };
            let mut tally = self.tally.borrow_mut();
            tally.requests += 1;
            match result {
                Ok(sender) => {
                    tally.micros.push(begin.elapsed().as_micros() as u64);
                    kept = sender.filter(|_| phase == Phase::KeepAlive);
                }
                Err(kind) => *tally.errors.entry(kind).or_default() += 1,
            }
        }
    }

    /// One request; gives the connection back if it stays open.
    async fn request(
        &self,
        number: u64,
        phase: Phase,
        kept: Option<SendRequest<Full<Bytes>>>,
    ) -> Result<Option<SendRequest<Full<Bytes>>>, String> {
        let id = RequestId {
            seed: self.options.seed,
            number,
        };
        let spec = id.spec();
        let mut sender = match kept {
            Some(sender) if !sender.is_closed() => sender,
            Some(_) => return Err("server closed a kept connection".to_owned()),
            None => self.connect().await?,
        };
        sender
            .ready()
            .await
            .map_err(|error| format!("connection: {error}"))?;
        // Of the one-request connections, each second one is closed by the server and each second one by us.
        let server_closes = phase == Phase::OneRequest && number.is_multiple_of(2);
        let mut request = Request::builder()
            .method(if spec.post { "POST" } else { "GET" })
            .uri(id.path())
            .header(HOST, "lab");
        if server_closes {
            request = request.header(CONNECTION, "close");
        }
        let request = request
            .body(Full::new(Bytes::from(id.body())))
            .map_err(|error| format!("request: {error}"))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| format!("no answer: {error}"))?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| format!("half an answer: {error}"))?;
        let length = body.to_bytes().len();
        if !status.is_success() {
            return Err(format!("status {}", status.as_u16()));
        }
        if length != spec.answer_bytes {
            return Err("answer of a wrong length".to_owned());
        }
        Ok((!server_closes).then_some(sender))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = TcpStream::connect(SocketAddr::from(self.options.server))
            .await
            .map_err(|error| format!("connect: {}", error.kind()))?;
        stream
            .set_nodelay(true)
            .map_err(|error| format!("connect: {error}"))?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("connection: {error}"))?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }

    fn report(&self) -> LoadReport {
        let mut tally = self.tally.borrow_mut();
        tally.micros.sort_unstable();
        let quantile = |part: usize| {
            let rank = tally.micros.len() * part / 100;
            tally
                .micros
                .get(rank.min(tally.micros.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0)
        };
        LoadReport {
            requests: tally.requests,
            errors: tally.errors.values().sum(),
            by_kind: tally.errors.clone(),
            seconds: self.start.elapsed().as_secs_f64(),
            p50_us: quantile(50),
            p99_us: quantile(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_pipe() {
        let report = LoadReport {
            requests: 7,
            errors: 2,
            by_kind: BTreeMap::from([("timeout".to_owned(), 2)]),
            seconds: 0.5,
            p50_us: 10,
            p99_us: 20,
        };
        assert_eq!(LoadReport::from_json(&report.to_json()), Some(report));
        assert_eq!(LoadReport::from_json(&json!({"requests": 7})), None);
    }
}
