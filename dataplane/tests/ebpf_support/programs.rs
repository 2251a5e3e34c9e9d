//! The built objects and BPF_PROG_TEST_RUN.

use std::path::PathBuf;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray, XskMap};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use common::abi::{
    DecapConfig, DenyKey, EndpointKey, MAX_FEW, PoolConfig, PortWord, ProgramConfig,
    RING_BLOCK_BYTES, RecordHeader, config_flags, mirror_tail,
};
use common::flow::{Block, Shard, Share};
use common::packet::Endpoint;

use super::ring::Ring;

/// Marks our metadata in these tests.
pub const COOKIE: u32 = 0x5eed_c0de;
/// Return value of every tap run: TCX_NEXT (-1) as the kernel reports it.
pub const TCX_NEXT: u32 = u32::MAX;
pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_REDIRECT: u32 = 4;

/// Bytes of an object that `cargo xtask build-ebpf` wrote.
pub fn object(name: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |dir| root.join(dir));
    let path = target.join("bpf").join(name);
    std::fs::read(&path).unwrap_or_else(|e| {
        panic!(
            "{}: {e}: the BPF objects are built by `cargo xtask test`",
            path.display()
        )
    })
}

/// How a program is loaded.
pub struct Setup<'a> {
    pub object: &'a str,
    pub flags: u32,
    /// Endpoint maps to fill.
    pub maps: &'a [(&'static str, &'a [Endpoint])],
    /// Sizes of maps, beside those of the ring.
    pub map_entries: &'a [(&'static str, u32)],
    /// Of the one ring that all CPUs share.
    pub ring_bytes: u32,
    /// IPv4 transfers are constants, if there are few.
    pub few: bool,
    /// Which sessions are taken.
    pub shard: Shard,
    pub share: Share,
    /// Clients that are not.
    pub deny: Option<&'a [Block]>,
    /// Tunnels that the mirror opens.
    pub decap: DecapConfig,
    /// Addresses that `pool` takes.
    pub pool: PoolConfig,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            object: "",
            flags: config_flags::XDP_META,
            maps: &[],
            map_entries: &[],
            ring_bytes: 1 << 20,
            few: true,
            shard: Shard::WHOLE,
            share: Share::ALL,
            deny: None,
            decap: DecapConfig::NONE,
            pool: PoolConfig::NONE,
        }
    }
}

/// Some target is on a port that a transfer names.
fn covered(setup: &Setup<'_>) -> bool {
    let of = |wanted| {
        let lists = setup.maps.iter().filter(move |(name, _)| *name == wanted);
        lists.flat_map(|(_, list)| *list)
    };
    of("TARGETS").any(|t| of("TRANSFERS").any(|r| r.port == t.port))
}

/// A loaded object with its maps filled.
pub struct Loaded {
    pub ebpf: Ebpf,
    counters: PerCpuArray<MapData, u64>,
    ring: Ring,
}

impl Loaded {
    pub fn new(setup: &Setup<'_>) -> Self {
        let endpoints = || setup.maps.iter().flat_map(|(_, list)| *list);
        let mut flags = setup.flags;
        for (on, bits) in [
            (
                endpoints().any(|e| e.addr.is_any()),
                config_flags::ANY_RULES | config_flags::ANY_TARGETS,
            ),
            (
                endpoints().any(|e| !e.addr.is_any()),
                config_flags::EXACT_RULES,
            ),
            (setup.deny.is_some(), config_flags::DENY),
            (covered(setup), config_flags::COVERED_TARGETS),
        ] {
            if on {
                flags |= bits;
            }
        }
        let cpus = 256;
        let ring_blocks = setup.ring_bytes / RING_BLOCK_BYTES as u32;
        let config = ProgramConfig {
            workers: 1,
            flags,
            cookie: COOKIE,
            cpus,
            shard: setup.shard.index(),
            shards: setup.shard.count(),
            share: setup.share.as_thousandths(),
            ring_blocks,
            few_count: 0,
            reserved: 0,
            few: [0; MAX_FEW],
        };
        let transfers = setup.maps.iter().filter(|(name, _)| *name == "TRANSFERS");
        let transfers: Vec<Endpoint> = transfers.flat_map(|(_, list)| *list).copied().collect();
        let config = if setup.few {
            config.with_rules(&transfers)
        } else {
            config
        };
        let tap = setup.object == "tcpcopy-ebpf";
        let mut loader = EbpfLoader::new();
        loader.override_global("CONFIG", bytemuck::bytes_of(&config), true);
        loader.override_global("DECAP", bytemuck::bytes_of(&setup.decap), false);
        loader.override_global("POOL_CONFIG", bytemuck::bytes_of(&setup.pool), false);
        loader.map_max_entries("CPU_RINGS", cpus);
        loader.map_max_entries("BLOCKS", ring_blocks);
        loader.map_max_entries("NEXT", ring_blocks);
        for (map, entries) in setup.map_entries {
            loader.map_max_entries(map, *entries);
        }
        let mut ebpf = loader.load(&object(setup.object)).unwrap();
        for (name, endpoints) in setup.maps {
            let map = ebpf.map_mut(name).unwrap();
            let mut map = HashMap::<_, [u8; size_of::<EndpointKey>()], u32>::try_from(map).unwrap();
            // Transfers without an address are bits of PORTS.
            let any = |e: &&Endpoint| *name == "TRANSFERS" && e.addr.is_any();
            for endpoint in endpoints.iter().filter(|e| !any(e)) {
                map.insert(
                    bytemuck::cast::<_, [u8; 20]>(EndpointKey::new(*endpoint)),
                    0,
                    0,
                )
                .unwrap();
            }
        }
        if tap {
            let map = ebpf.map_mut("PORTS").unwrap();
            let mut ports = Array::<_, [u64; 2]>::try_from(map).unwrap();
            let transfers = setup.maps.iter().filter(|(name, _)| *name == "TRANSFERS");
            for endpoint in transfers.flat_map(|(_, list)| *list) {
                let index = PortWord::index(endpoint.port);
                let mut word: PortWord = bytemuck::cast(ports.get(&index, 0).unwrap());
                let bits = if endpoint.addr.is_any() {
                    &mut word.any
                } else {
                    &mut word.exact
                };
                *bits |= PortWord::bit(endpoint.port);
                ports
                    .set(index, bytemuck::cast::<_, [u64; 2]>(word), 0)
                    .unwrap();
            }
        }
        for block in setup.deny.iter().copied().flatten() {
            let map = ebpf.map_mut("DENY").unwrap();
            let mut map = LpmTrie::<_, [u8; 16], u32>::try_from(map).unwrap();
            let DenyKey { bits, addr } = DenyKey::new(*block);
            map.insert(&Key::new(bits, addr.0), 0, 0).unwrap();
        }
        let counters = PerCpuArray::try_from(ebpf.take_map("COUNTERS").unwrap()).unwrap();
        let ring = Ring::new(&ebpf, ring_blocks);
        Self {
            ebpf,
            counters,
            ring,
        }
    }

    /// Loads one program for test runs; prints what the verifier made of it.
    pub fn classifier(&mut self, name: &str) -> &SchedClassifier {
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap_or_else(|e| panic!("{name}: {e}"));
        report(name, &program.info().unwrap());
        program
    }

    /// The same for XDP.
    pub fn xdp(&mut self, name: &str) -> &Xdp {
        let program: &mut Xdp = self.ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap_or_else(|e| panic!("{name}: {e}"));
        report(name, &program.info().unwrap());
        program
    }

    /// Puts a classifier or XDP program into a slot of a tail call array.
    pub fn put_program(&mut self, array: &str, slot: u32, name: &str) {
        let program = self.ebpf.program_mut(name).unwrap();
        if let Ok(xdp) = <&mut Xdp>::try_from(&mut *program) {
            xdp.load().unwrap_or_else(|e| panic!("{name}: {e}"));
        } else {
            let classifier = <&mut SchedClassifier>::try_from(&mut *program).unwrap();
            classifier.load().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let fd = self.ebpf.program(name).unwrap().fd().unwrap();
        let fd = fd.try_clone().unwrap();
        let map = self.ebpf.map_mut(array).unwrap();
        let mut map = ProgramArray::try_from(map).unwrap();
        map.set(slot, &fd, 0).unwrap();
    }

    /// Loads the programs that `mirror` goes on in, as `dataplane` does.
    pub fn tails(&mut self) {
        for (index, name) in [
            (mirror_tail::TUNNEL, "mirror_tunnel"),
            (mirror_tail::INNER, "mirror_inner"),
            (mirror_tail::FOUND, "mirror_found"),
            (mirror_tail::LOG, "mirror_log"),
        ] {
            let fd = self.xdp(name).fd().unwrap().try_clone().unwrap();
            let mut map = ProgramArray::try_from(self.ebpf.map_mut("TAIL").unwrap()).unwrap();
            map.set(index, &fd, 0).unwrap();
        }
    }

    /// All entries of a hash map.
    pub fn entries<K: bytemuck::Pod, V: bytemuck::Pod>(&mut self, name: &str) -> Vec<(K, V)> {
        let map =
            HashMap::<_, [u8; 40], [u8; 40]>::try_from(self.ebpf.map_mut(name).unwrap()).unwrap();
        map.iter()
            .map(|entry| entry.unwrap())
            .map(|(k, v)| {
                (
                    bytemuck::pod_read_unaligned(&k),
                    bytemuck::pod_read_unaligned(&v),
                )
            })
            .collect()
    }

    /// Runs the program once; `None` if the kernel does not make a packet of these bytes.
    pub fn run(&self, name: &str, frame: &[u8]) -> Option<Output> {
        let mut out = vec![0; frame.len() + 512];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = match self.test_run(name, options) {
            Ok(result) => result,
            Err(ProgramError::SyscallError(e))
                if e.io_error.raw_os_error() == Some(libc::EINVAL) =>
            {
                return None;
            }
            Err(e) => panic!("test run of {name}: {e}"),
        };
        out.truncate(result.data_size_out as usize);
        Some(Output {
            verdict: result.return_value,
            bytes: out,
        })
    }

    /// Mean nanoseconds of a run.
    pub fn nanoseconds(&self, name: &str, frame: &[u8], repeat: u32) -> u128 {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::new()
        };
        self.test_run(name, options).unwrap().duration.as_nanos()
    }

    fn test_run(
        &self,
        name: &str,
        options: TestRunOptions<'_>,
    ) -> Result<aya::programs::TestRunResult, ProgramError> {
        let program = self.ebpf.program(name).unwrap();
        if let Ok(xdp) = <&Xdp>::try_from(program) {
            xdp.test_run(options)
        } else {
            <&SchedClassifier>::try_from(program)
                .unwrap()
                .test_run(options)
        }
    }

    /// Sum over CPUs.
    pub fn counter(&self, index: u32) -> u64 {
        self.counters.get(&index, 0).unwrap().iter().sum()
    }

    /// All of `n` counters.
    pub fn counters(&self, n: u32) -> Vec<u64> {
        (0..n).map(|i| self.counter(i)).collect()
    }

    /// Puts a socket into XSKS.
    pub fn put_socket(&mut self, queue: u32, fd: i32) {
        let mut xsks = XskMap::try_from(self.ebpf.map_mut("XSKS").unwrap()).unwrap();
        xsks.set(queue, fd, 0).unwrap();
    }

    /// Takes all records out of the ring.
    pub fn records(&mut self) -> Vec<(RecordHeader, Vec<u8>)> {
        self.ring.take()
    }

    /// The same without taking them: what a reader who does not keep up has in front of it.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Sets worker 0's wish to be woken, or tells whether it is still set.
    pub fn sleep_flag(&mut self) -> Array<&mut MapData, [u64; 8]> {
        Array::try_from(self.ebpf.map_mut("SLEEP").unwrap()).unwrap()
    }
}

/// What a run did.
pub struct Output {
    pub verdict: u32,
    pub bytes: Vec<u8>,
}

fn report(name: &str, info: &aya::programs::ProgramInfo) {
    println!(
        "{name}: {} instructions verified, {} bytes translated",
        info.verified_instruction_count().unwrap_or(0),
        info.size_translated().unwrap_or(0)
    );
}
