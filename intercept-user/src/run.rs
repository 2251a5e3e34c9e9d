//! From the command line to the exit report.
//!
//! ```text
//!  checks ─▶ listen ─▶ attach ─▶ threads ─▶ "ready" ─▶ signal, --duration or a failed thread
//!                                                          │
//!  report ◀─ counters ◀─ detach ◀─ threads end, sockets close
//! ```
//! Sockets are closed before the program is detached: the other order oopsed a kernel (design 3.7).

use crate::channel::{Announced, ControlOptions, ListenError, TargetSink, listen};
use crate::cli::{Args, CaptureKind};
use crate::doctor::{Announcements, Vigil};
use crate::mapping::Mappings;
use crate::report::{Report, Setting};
use crate::service::{Service, ServiceError, ServiceOptions};
use crate::startup::{ChannelTaken, Taking, check_filter, forwarding_settings, on_target};
use crate::worker::Limits;
use channel_crypto::{Key, KeyError};
use common::abi::InterceptCounter;
use common::flow::Nanos;
use dataplane::bpf::responses::{ResponsesConfig, RuleWriter, Sources};
use dataplane::bpf::{BpfError, Filter};
use dataplane::cores::CoreError;
use dataplane::iface::{IfaceError, Interface};
use dataplane::{clock, placement};
use operator::log::LogLevel;
use operator::privileges::{MissingCapability, check_privileges};
use operator::signals::{Hangup, Signals};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a thread that ended by itself is looked for.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Why the program did not run, or did not end well: one line each.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// `-i`.
    #[error(transparent)]
    Interface(#[from] IfaceError),
    /// `--cores`.
    #[error(transparent)]
    Cores(#[from] CoreError),
    /// Not root.
    #[error(transparent)]
    Privileges(#[from] MissingCapability),
    /// `-b`, `-p`.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// `--key-file`.
    #[error("--key-file: {0}")]
    Key(#[from] KeyError),
    /// `-F`.
    #[error(transparent)]
    Filter(#[from] ChannelTaken),
    /// Kernel program and its sockets.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// Threads.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Signal handlers.
    #[error("cannot install signal handlers: {0}")]
    Signals(std::io::Error),
    /// A thread ended that should have gone on, without an error of its own.
    #[error("a thread ended by itself; this is a bug")]
    Ended,
}

/// Runs until asked to stop. `object` is the BPF object.
pub fn run(args: &Args, object: &[u8]) -> Result<Report, RunError> {
    let interface = Interface::by_name(&args.iface)?;
    if let Some(cores) = &args.cores {
        cores.check_available()?;
    }
    let key = match &args.key_file {
        Some(path) => Some(Arc::new(Key::read(path)?)),
        None => None,
    };
    let listener = listen(SocketAddr::new(args.bind, args.port))?;
    check_privileges()?;
    if !args.on_target {
        warn_of_forwarding(&args.iface);
    }
    if key.is_none() && !args.bind.is_loopback() {
        tracing::warn!(
            address = %SocketAddr::new(args.bind, args.port),
            "no --key-file: whoever reaches this address can read the headers of responses and have them sent to \
             itself; give this program and tcpcopy-user the same --key-file, or keep the port private"
        );
    }
    if let Some(filter) = &args.selection {
        check_filter(filter, &interface, args.port)?;
    }
    let hangup = match args.filter_file {
        Some(_) => Hangup::Reloads,
        None => Hangup::Ends,
    };
    let mut signals = Signals::install(hangup).map_err(RunError::Signals)?;

    let cores = args
        .cores
        .as_ref()
        .map_or(&[] as &[usize], |list| list.cores());
    let workers = workers(args, &interface, cores.len());
    let config = ResponsesConfig {
        ifname: &args.iface,
        workers: workers as u32,
        sources: match &args.selection {
            _ if args.on_target => Sources::OwnOfRoutes {
                routes: on_target::map_entries(args.max_routes, workers as u32),
            },
            Some(filter) => Sources::Filtered(filter),
            None => Sources::Learned,
        },
        log_packets: args.level() >= LogLevel::Debug,
    };
    let mut responses = Taking::attach(object, &config, args.capture)?;
    let used = &cores[..workers.min(cores.len())];
    placement::log(&args.iface, workers, used, responses.sockets());
    let captures = (0..workers as u32)
        .map(|worker| responses.take_captures(worker))
        .collect();
    let options = ServiceOptions {
        limits: Limits {
            routes: args.max_routes as usize,
            route_idle: Nanos(args.route_idle.as_nanos() as u64),
            ..Limits::default()
        },
        control: ControlOptions {
            confirms: args.on_target,
            key,
            ..ControlOptions::default()
        },
        cores: used.to_vec(),
        mappings: args.mappings.clone(),
    };
    let announced = Announcements::default();
    let targets = if args.on_target {
        Some(on_target::check_targets(args.iface.clone()))
    } else {
        let rules = responses.take_rules();
        let (tcp, mappings) = (args.selection.is_none(), args.mappings.clone());
        rules.map(|writer| learn(writer, tcp, mappings, announced.clone()))
    };
    let kernel = responses.take_kernel_routes(workers)?;
    let service = Service::start(listener, captures, &options, targets, kernel)?;
    let started = clock::now();
    tracing::info!(
        iface = args.iface, workers, mode = responses.mode(),
        filter = match &args.selection {
            _ if args.on_target => "the sessions that tcpcopy announces",
            Some(filter) => filter.expression(),
            None => "learned from tcpcopy",
        },
        address = %SocketAddr::new(args.bind, args.port),
        "ready: taking responses, listening for tcpcopy",
    );
    if args.log_file.is_some() {
        // Who waits for the program to be ready watches stderr, wherever the log goes.
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "intercept-user: ready");
    }

    let reload = || {
        if let Some(path) = &args.filter_file {
            reload_filter(path, &responses, &interface, args.port);
        }
    };
    let here = (args.iface.as_str(), interface.index);
    let mut vigil = Vigil::new(here, args.selection.as_ref(), announced);
    let failed = wait(
        &mut signals,
        args.duration,
        &service,
        &mut || {
            if !args.no_doctor {
                vigil.tick(|| taken(&responses));
            }
        },
        &reload,
    );
    tracing::info!("stopping");
    let duration = clock::now().since(started);
    // Ends the threads, which closes their sockets, ...
    let outcome = service.stop();
    // ... and only then takes the program off.
    responses.detach();
    let outcome = outcome?;
    if failed {
        return Err(RunError::Ended);
    }
    let setting = Setting {
        iface: args.iface.clone(),
        mode: responses.mode(),
        workers,
        duration,
        clock_resolution: clock::resolution(),
    };
    let kernel = responses
        .counters()
        .into_iter()
        .map(|(c, value)| (c.name(), value));
    Ok(Report::new(setting, outcome, kernel))
}

/// Without --cores one worker serves everything; with it one for each core, by XDP as many as there are queues.
fn workers(args: &Args, interface: &Interface, cores: usize) -> usize {
    if args.on_target || args.capture == CaptureKind::Tcx {
        return cores.max(1);
    }
    let queues = (interface.rx_queues as usize).max(1);
    let workers = cores.min(queues).max(1);
    if cores > workers {
        tracing::info!(
            cores,
            queues,
            "{} has no use for more workers than queues",
            args.iface
        );
    }
    workers
}

/// Lets the program take the responses of each target that a tcpcopy announces, those of TCP only if no
/// filter says which. The first SYN-ACK of a new target may come before that; the target sends it again.
fn learn(mut rules: RuleWriter, tcp: bool, mappings: Mappings, heard: Announcements) -> TargetSink {
    Box::new(move |target| match target {
        Announced::Tcp(announced) if !tcp => heard.add(announced),
        Announced::Tcp(announced) => {
            heard.add(announced);
            for target in std::iter::once(announced).chain(mappings.inner(announced)) {
                match rules.add(target) {
                    Ok(()) => tracing::info!(%target, "taking responses of a new target"),
                    Err(error) => {
                        tracing::error!(%target, %error, "responses of this target are not taken");
                    }
                }
            }
        }
        Announced::Udp(target) => match rules.add_udp(target) {
            Ok(()) => tracing::info!(%target, "dropping the answers of a new UDP target"),
            Err(error) => {
                tracing::error!(%target, %error, "answers of this UDP target are not dropped");
            }
        },
    })
}

/// Responses taken so far.
fn taken(responses: &Taking) -> u64 {
    let captured = |(counter, _): &(InterceptCounter, u64)| *counter == InterceptCounter::Captured;
    let counters = responses.counters();
    counters.into_iter().find(captured).map_or(0, |(_, n)| n)
}

/// A bad new filter leaves the old one in force.
fn reload_filter(path: &Path, responses: &Taking, interface: &Interface, port: u16) {
    let replace = || -> Result<Filter, RunError> {
        let filter = Filter::from_file(path).map_err(BpfError::from)?;
        check_filter(&filter, interface, port)?;
        responses.replace_filter(&filter)?;
        Ok(filter)
    };
    match replace() {
        Ok(filter) => tracing::info!(filter = filter.expression(), "filter replaced"),
        Err(error) => tracing::error!("filter not replaced, the old one stays in force: {error}"),
    }
}

fn warn_of_forwarding(ifname: &str) {
    let on = forwarding_settings(Path::new("/proc"), ifname);
    if !on.is_empty() {
        tracing::warn!(
            "IP forwarding is on ({}): the black hole ends with this process, then responses are forwarded \
             to the real clients; turn it off on {ifname}, or drop the target's packets in the firewall",
            on.join(", ")
        );
    }
}

/// Waits for the end; true if a thread ended by itself.
fn wait(
    signals: &mut Signals,
    duration: Option<Duration>,
    service: &Service,
    watch: &mut dyn FnMut(),
    reload: &dyn Fn(),
) -> bool {
    let end = duration.map(|d| Instant::now() + d);
    loop {
        let left = end.map_or(WATCH_INTERVAL, |end| {
            end.saturating_duration_since(Instant::now())
        });
        if left.is_zero() || signals.wait(left.min(WATCH_INTERVAL)) > 0 {
            return false;
        }
        if signals.take_reload() {
            reload();
        }
        watch();
        if service.failed() {
            return true;
        }
    }
}
