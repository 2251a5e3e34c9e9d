//! The lab's HTTP server: checks each request against its id, logs it, answers with a body of the size due.

use std::{
    cell::RefCell,
    convert::Infallible,
    fs::File,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    rc::Rc,
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, runtime::Builder, task::LocalSet};

use super::content::{Fnv, RequestId};
use crate::LabError;

/// Wait after a failed accept (out of descriptors): the next one fails at once too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Largest answer; every answer is a piece of one static body.
const ANSWER_BYTES: usize = 1024 * 1024;

static ANSWER: [u8; ANSWER_BYTES] = [b'.'; ANSWER_BYTES];

/// Serves on `listen` and logs to `log` until the process is killed.
pub fn run_server(listen: (Ipv4Addr, u16), log: &Path) -> Result<Infallible, LabError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::system("start the runtime"))?;
    // No buffering: the process is killed, and every line counts.
    let log = Rc::new(RefCell::new(
        File::create(log).map_err(LabError::file(log))?,
    ));
    LocalSet::new().block_on(&runtime, async move {
        let address = SocketAddr::from(listen);
        let listener = TcpListener::bind(address)
            .await
            .map_err(LabError::system(format!("listen on {address}")))?;
        eprintln!("ready on {address}");
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Without it the last segment of an answer waits for an acknowledgement (Nagle, RFC 896).
            let _ = stream.set_nodelay(true);
            let log = Rc::clone(&log);
            tokio::task::spawn_local(async move {
                let service = service_fn(move |request| answer(request, Rc::clone(&log)));
                // A client that goes away in the middle is its business; the log says what was complete.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

async fn answer(
    request: Request<Incoming>,
    log: Rc<RefCell<File>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let id = RequestId::from_path(head.uri.path());
    let intact = id.is_some_and(|id| {
        let spec = id.spec();
        (head.method == Method::POST) == spec.post && body.as_ref() == id.body()
    });

    let mut headers = Fnv::new();
    for (name, value) in &head.headers {
        headers.add(name.as_str().as_bytes());
        headers.add(value.as_bytes());
    }
    let mut checksum = Fnv::new();
    checksum.add(&body);
    let name = id.map_or_else(|| head.uri.path().replace(' ', "%20"), |id| id.to_string());
    let line = format!(
        "{name} {} {:016x} {} {:016x} {}\n",
        head.method,
        headers.value(),
        body.len(),
        checksum.value(),
        if intact { "ok" } else { "bad" },
    );
    if let Err(error) = log.borrow_mut().write_all(line.as_bytes()) {
        // A request that is not in the log would look lost: better a server that is visibly gone.
        eprintln!("cannot write the access log: {error}");
        std::process::exit(1);
    }

    let length = id.map_or(0, |id| id.spec().answer_bytes);
    let mut response = Response::new(Full::new(Bytes::from_static(&ANSWER[..length])));
    if !intact {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    Ok(response)
}
