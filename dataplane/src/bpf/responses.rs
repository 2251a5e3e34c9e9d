//! The black hole for targets' responses: XDP, trimmed to headers, into AF_XDP.
//!
//! Matching packets never reach the host's stack while the program is attached: without a socket on
//! their queue they are dropped. When the process dies the program goes with it.

use aya::maps::{HashMap, MapData};
use common::abi::{EndpointKey, InterceptCounter, ProgramConfig, config_flags};
use common::packet::Endpoint;

use super::error::chain;
use super::filter::{Hook, Parts};
use super::load::RawKey;
use super::queues::{QueueCapture, QueueSetup, XDP_PASS};
use super::{BpfError, Filter, QueuePort, load};
use crate::iface::Interface;
use crate::placement::QueueSocket;

/// Whose packets are taken.
#[derive(Clone, Copy, Debug)]
pub enum Sources<'a> {
    /// Those whose packets the operator's filter selects.
    Filtered(&'a Filter),
    /// Those that [`RuleWriter::add`] is told of, but nothing that is addressed to this host.
    Learned,
    /// This host is the target: of what it sends to the network, the responses of the sessions that
    /// [`super::RouteWriter::insert`] is told of. By [`super::ResponseRecords`] only.
    OwnOfRoutes {
        /// Most sessions at a time.
        routes: u32,
    },
}

/// What to take and where.
#[derive(Clone, Copy, Debug)]
pub struct ResponsesConfig<'a> {
    /// Interface that targets route client addresses to.
    pub ifname: &'a str,
    /// Queue `q` belongs to worker `q % workers`.
    pub workers: u32,
    /// Sources whose packets are taken.
    pub sources: Sources<'a>,
    /// A log record per matching packet, at debug level. Slow.
    pub log_packets: bool,
}

impl<'a> ResponsesConfig<'a> {
    /// For the loader, and the filter if there is one.
    pub(super) fn program(&self) -> (ProgramConfig, Option<&'a Filter>) {
        let mut program = load::config(self.workers, 1, self.log_packets, &[], &[]);
        let filter = match self.sources {
            Sources::Filtered(filter) => {
                program.flags |= config_flags::BEHIND_FILTER;
                Some(filter)
            }
            Sources::Learned => {
                program.flags |= config_flags::LEARNED_RULES;
                None
            }
            Sources::OwnOfRoutes { .. } => None,
        };
        (program, filter)
    }
}

/// What is attached instead if there is a filter.
const FILTERED: Parts = Parts {
    hook: Hook::Xdp,
    entry: "responses_filtered",
    selected: "responses",
    counter: InterceptCounter::Filtered.index(),
    pass: XDP_PASS,
};

/// The attached program and its sockets.
pub struct Responses {
    queues: QueueCapture,
    rules: Option<RuleWriter>,
}

/// Adds sources to the attached program. Usable from any thread.
pub struct RuleWriter {
    rules: HashMap<MapData, RawKey, u32>,
    local: HashMap<MapData, [u8; 16], u32>,
}

impl RuleWriter {
    /// For the maps of a loaded program.
    pub(super) fn new(
        rules: HashMap<MapData, RawKey, u32>,
        local: HashMap<MapData, [u8; 16], u32>,
    ) -> Result<Self, BpfError> {
        let mut writer = Self { rules, local };
        writer.protect_own()?;
        Ok(writer)
    }

    /// From now on packets of `source` are taken. Also takes over changes of this host's addresses.
    pub fn add(&mut self, source: Endpoint) -> Result<(), BpfError> {
        self.protect_own()?;
        // Fragments carry no port: those of a source are found by its bare address.
        for endpoint in [source, Endpoint::new(source.addr, 0)] {
            insert(
                &mut self.rules,
                "RESPONSES",
                bytemuck::cast(EndpointKey::new(endpoint)),
            )?;
        }
        Ok(())
    }

    /// From now on UDP datagrams of `source`, and UDP fragments of its address, are dropped unless they
    /// are for this host.
    pub fn add_udp(&mut self, source: Endpoint) -> Result<(), BpfError> {
        self.protect_own()?;
        for endpoint in [source, Endpoint::new(source.addr, 0)] {
            insert(
                &mut self.rules,
                "RESPONSES",
                bytemuck::cast(EndpointKey::udp(endpoint)),
            )?;
        }
        Ok(())
    }

    fn protect_own(&mut self) -> Result<(), BpfError> {
        for address in Interface::local_addresses()? {
            insert(&mut self.local, "LOCAL", address.0)?;
        }
        Ok(())
    }
}

fn insert<K: aya::Pod>(
    map: &mut HashMap<MapData, K, u32>,
    name: &'static str,
    key: K,
) -> Result<(), BpfError> {
    map.insert(key, 0, 0).map_err(|e| BpfError::Map {
        map: name,
        action: "insert an entry",
        error: chain(&e),
    })
}

impl Responses {
    /// Loads `object`, attaches its program `responses` (native, else generic, said in the log) and opens
    /// one AF_XDP socket per receive queue that exists then.
    pub fn attach(object: &[u8], config: &ResponsesConfig<'_>) -> Result<Self, BpfError> {
        let interface = Interface::by_name(config.ifname)?;
        let (program, filter) = config.program();
        let ebpf = load::load(
            object,
            program,
            load::log_size(config.log_packets).as_slice(),
        )?;
        let setup = QueueSetup {
            program: "responses",
            interface,
            workers: config.workers,
            also_tx: false,
            cookie: program.cookie,
            log_packets: config.log_packets,
            object_name: "intercept-ebpf",
            filter: filter.map(|filter| (FILTERED, filter)),
        };
        let mut queues = QueueCapture::start(ebpf, &setup)?;
        let rules = RuleWriter::new(queues.take_map("RESPONSES")?, queues.take_map("LOCAL")?)?;
        Ok(Self {
            queues,
            rules: Some(rules),
        })
    }

    /// The means to add sources, once. With [`Sources::Filtered`] those of UDP only, which the filter does not decide.
    pub fn take_rules(&mut self) -> Option<RuleWriter> {
        self.rules.take()
    }

    /// Replaces the filter, with [`Sources::Filtered`]; on an error the old one stays in force.
    pub fn replace_filter(&self, filter: &Filter) -> Result<(), BpfError> {
        self.queues.replace_filter(filter)
    }

    /// How each receive queue is served, by queue; taken ports included.
    pub fn sockets(&self) -> &[QueueSocket] {
        self.queues.sockets()
    }

    /// The sockets of a worker's queues, once.
    pub fn take_ports(&mut self, worker: u32) -> Vec<QueuePort> {
        self.queues.take_ports(worker)
    }

    /// True if the driver runs the program, false in generic mode.
    pub fn native(&self) -> bool {
        self.queues.native()
    }

    /// The program's counters, summed over CPUs.
    pub fn counters(&self) -> Vec<(InterceptCounter, u64)> {
        InterceptCounter::ALL
            .iter()
            .map(|c| (*c, self.queues.counters.get(c.index())))
            .collect()
    }

    /// Detaches in the safe order. All ports that were taken must have been dropped before: their
    /// sockets close, then this waits until the driver has given up their memory (zero-copy only),
    /// then the program goes. Counters stay readable; further calls do nothing.
    pub fn detach(&mut self) {
        self.queues.detach();
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.queues.detach();
    }
}
