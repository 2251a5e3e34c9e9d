//! The threads and what joins them: everything but the kernel programs. Tests run it over memory.
//!
//! ```text
//!  Service::start(listener, captures by worker) ─▶ control thread, worker threads
//!  Service::stop()  ─▶ flag, wake-ups, join  ─▶ what each leaves behind
//! ```

use crate::channel::{
    Control, ControlOptions, ControlTotals, TargetSink, command_rings, link_mesh,
};
use crate::mapping::Mappings;
use crate::routes::KernelRoutes;
use crate::worker::{Limits, Parts, Worker, WorkerReport};
use dataplane::wake::{Waker, WakerHandle};
use dataplane::{Capture, cores, handover};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

/// Hand-over ring of each ordered pair of workers: 4000 trimmed responses with their record heads.
const HANDOVER_RING_BYTES: usize = 1 << 20;

/// Settings.
#[derive(Clone, Debug, Default)]
pub struct ServiceOptions {
    /// Table sizes.
    pub limits: Limits,
    /// Of the reading side.
    pub control: ControlOptions,
    /// Core of each worker; a worker without one is not pinned.
    pub cores: Vec<usize>,
    /// Addresses that responses carry instead of those that were announced.
    pub mappings: Mappings,
}

/// Why the threads were not started, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Descriptors or memory.
    #[error("cannot create wake-up descriptors for {workers} workers: {source}; raise ulimit -n")]
    Waker {
        /// Number of workers.
        workers: usize,
        /// The kernel's reason.
        source: rustix::io::Errno,
    },
    /// No thread.
    #[error("cannot start thread {name}: {source}")]
    Thread {
        /// Which.
        name: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// Pinning.
    #[error(transparent)]
    Cores(#[from] cores::CoreError),
    /// A bug: the thread panicked (its message is on stderr).
    #[error("thread {name} ended by a panic")]
    Panicked {
        /// Which.
        name: String,
    },
}

/// What the threads leave behind.
pub struct Outcome {
    /// Of the control thread.
    pub control: ControlTotals,
    /// By worker.
    pub workers: Vec<WorkerReport>,
}

/// Running threads.
pub struct Service {
    stop: Arc<AtomicBool>,
    wakers: Vec<WakerHandle>,
    control: Option<JoinHandle<ControlTotals>>,
    workers: Vec<JoinHandle<Result<WorkerReport, cores::CoreError>>>,
}

impl Service {
    /// Starts one worker per element of `captures`, and the control thread. `listener` is nonblocking;
    /// `targets` is told of each target that peers announce. `kernel` has what must know the routes too, for
    /// each worker or for none.
    pub fn start(
        listener: TcpListener,
        captures: Vec<Vec<Box<dyn Capture>>>,
        options: &ServiceOptions,
        targets: Option<TargetSink>,
        mut kernel: Vec<Box<dyn KernelRoutes>>,
    ) -> Result<Self, ServiceError> {
        let workers = captures.len();
        let waker_error = |source| ServiceError::Waker { workers, source };
        let wakers = (0..workers)
            .map(|_| Waker::new())
            .collect::<Result<Vec<_>, _>>()
            .map_err(waker_error)?;
        let handles: Vec<WakerHandle> = wakers.iter().map(Waker::handle).collect();
        let meshes = handover::mesh(workers, HANDOVER_RING_BYTES).map_err(waker_error)?;
        let (sender, receivers) = command_rings(handles.clone());
        let links = link_mesh(&handles);
        let stop = Arc::new(AtomicBool::new(false));
        let mut service = Self {
            stop: Arc::clone(&stop),
            wakers: handles,
            control: None,
            workers: Vec::new(),
        };

        let ends = captures
            .into_iter()
            .zip(meshes)
            .zip(receivers)
            .zip(links)
            .zip(wakers);
        for (worker, ((((captures, handover), commands), links), waker)) in ends.enumerate() {
            let parts = Parts {
                worker: worker as u32,
                workers: workers as u32,
                captures,
                handover,
                links,
                commands,
                waker,
                limits: options.limits,
                mappings: options.mappings.clone(),
                kernel: kernel.pop(),
                stop: Arc::clone(&stop),
            };
            let core = options.cores.get(worker).copied();
            let thread = spawn(format!("worker-{worker}"), move || {
                // Pinned before the tables are made, so that their memory is on the core's node.
                core.map_or(Ok(()), cores::pin)?;
                Ok(Worker::new(parts).run())
            })?;
            service.workers.push(thread);
        }
        let control = Control::new(listener, sender, options.control.clone()).with_targets(targets);
        service.control = Some(spawn("control".to_owned(), move || control.run(&stop))?);
        Ok(service)
    }

    /// True once a thread has ended though nobody asked it to.
    pub fn failed(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
            || self.control.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Ends all threads; capture sources are closed on return.
    pub fn stop(mut self) -> Result<Outcome, ServiceError> {
        self.signal();
        let mut outcome = Outcome {
            control: ControlTotals::default(),
            workers: Vec::new(),
        };
        if let Some(thread) = self.control.take() {
            outcome.control = join(thread, "control")?;
        }
        for (n, thread) in std::mem::take(&mut self.workers).into_iter().enumerate() {
            outcome.workers.push(join(thread, &format!("worker-{n}"))??);
        }
        Ok(outcome)
    }

    fn signal(&self) {
        self.stop.store(true, Ordering::Release);
        for waker in &self.wakers {
            waker.wake();
        }
    }
}

/// A service that was not stopped (an error on the way) still ends its threads, so that sockets are closed
/// before programs are detached.
impl Drop for Service {
    fn drop(&mut self) {
        self.signal();
        for thread in self.workers.drain(..) {
            let _ = thread.join();
        }
        if let Some(thread) = self.control.take() {
            let _ = thread.join();
        }
    }
}

fn spawn<T: Send + 'static>(
    name: String,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ServiceError> {
    let builder = Builder::new().name(name.clone());
    builder
        .spawn(run)
        .map_err(|source| ServiceError::Thread { name, source })
}

fn join<T>(thread: JoinHandle<T>, name: &str) -> Result<T, ServiceError> {
    thread.join().map_err(|_| ServiceError::Panicked {
        name: name.to_owned(),
    })
}
