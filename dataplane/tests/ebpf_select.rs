//! Which sessions the programs `tap` and `mirror` take: denied clients, shards and shares, with the same
//! answer as user space for each packet of a session.

mod ebpf_support;

use common::abi::{TAP_COUNTERS, TapCounter};
use common::flow::{Block, Shard, Share, flow_hash};
use common::packet::{Addr, Endpoint};
use ebpf_support::frames::*;
use ebpf_support::programs::*;
use ebpf_support::{Rng, privileged};

const ONLINE: [u8; 4] = [10, 77, 0, 20];
const ONLINE6: &str = "2001:db8::20";
const TUPLES: usize = 1000;

/// A program, and the counter of what it takes: without a socket, that is a failed redirect.
const PROGRAMS: [(&str, TapCounter); 2] = [
    ("tap", TapCounter::Captured),
    ("mirror", TapCounter::RedirectFailed),
];

struct Choice<'a> {
    shard: Shard,
    share: Share,
    deny: Option<&'a [Block]>,
}

impl Choice<'_> {
    fn load(&self, program: &str) -> Loaded {
        let online = [v4(ONLINE, 80), v6(ONLINE6, 80)];
        let mut loaded = Loaded::new(&Setup {
            object: "tcpcopy-ebpf",
            maps: &[("TRANSFERS", &online)],
            shard: self.shard,
            share: self.share,
            deny: self.deny,
            ..Setup::default()
        });
        if program == "tap" {
            loaded.classifier("tap");
        } else {
            loaded.xdp("mirror");
        }
        loaded
    }

    /// Why user space would leave a client's session alone.
    fn refuses(&self, client: Endpoint) -> Option<TapCounter> {
        let hash = flow_hash(client);
        let deny = self.deny.unwrap_or_default();
        if deny.iter().any(|block| block.contains(client.addr)) {
            Some(TapCounter::Denied)
        } else if !self.shard.holds(hash) {
            Some(TapCounter::OtherShard)
        } else if !self.share.takes(hash) {
            Some(TapCounter::NotSampled)
        } else {
            None
        }
    }
}

/// The counters that one run moves.
fn moved(loaded: &mut Loaded, program: &str, frame: &[u8]) -> Vec<TapCounter> {
    let before = loaded.counters(TAP_COUNTERS);
    let output = loaded.run(program, frame).unwrap();
    let pass = if program == "tap" { TCX_NEXT } else { XDP_PASS };
    assert_eq!(output.verdict, pass, "{program}");
    let after = loaded.counters(TAP_COUNTERS);
    if program == "tap" {
        loaded.records();
    }
    let at = |list: &[u64], c: &TapCounter| list[c.index() as usize];
    TapCounter::ALL
        .iter()
        .filter(|c| at(&after, c) != at(&before, c))
        .copied()
        .collect()
}

/// A client of either family; few networks, so that blocks are met.
fn client(rng: &mut Rng) -> Endpoint {
    let bits = rng.next();
    let port = (bits >> 48) as u16;
    if bits & 1 == 0 {
        v4(
            [
                10,
                (bits >> 8) as u8 & 3,
                (bits >> 16) as u8,
                (bits >> 24) as u8,
            ],
            port,
        )
    } else {
        let mut a = [0u8; 16];
        a[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        a[5] = (bits >> 8) as u8 & 3;
        a[8..].copy_from_slice(&rng.next().to_be_bytes());
        Endpoint::new(Addr(a), port)
    }
}

fn online(client: Endpoint) -> Endpoint {
    if client.addr.is_v4() {
        v4(ONLINE, 80)
    } else {
        v6(ONLINE6, 80)
    }
}

/// Runs random sessions through both programs; how many were taken, and how many refused, by reason.
fn compare(choice: &Choice<'_>, seed: u64) -> [usize; 4] {
    let mut seen = [0; 4];
    for (program, takes) in PROGRAMS {
        let mut loaded = choice.load(program);
        let mut rng = Rng(seed);
        for _ in 0..TUPLES {
            let client = client(&mut rng);
            let refused = choice.refuses(client);
            let to = online(client);
            let got = moved(&mut loaded, program, &syn(client, to));
            assert_eq!(
                got,
                [refused.unwrap_or(takes)],
                "{program}: SYN of {client}"
            );
            // Later packets get the same answer, and are not counted again.
            let got = moved(&mut loaded, program, &tcp(client, to, b"x"));
            let want = refused.map_or_else(|| vec![takes], |_| Vec::new());
            assert_eq!(got, want, "{program}: data of {client}");
            seen[match refused {
                None => 0,
                Some(TapCounter::Denied) => 1,
                Some(TapCounter::OtherShard) => 2,
                Some(_) => 3,
            }] += 1;
        }
    }
    seen
}

fn block(addr: Endpoint, prefix: u8) -> Block {
    Block::new(addr.addr, prefix).unwrap()
}

#[test]
fn both_programs_decide_as_user_space_does() {
    privileged();
    let deny = [
        block(v4([10, 1, 0, 0], 0), 16),
        block(v4([10, 2, 128, 0], 0), 17),
        block(v4([10, 3, 0, 7], 0), 32),
        block(v6("2001:db8:1::", 0), 48),
        block(v6("2001:db8:2:8000::", 0), 49),
    ];
    let all = 2 * TUPLES;
    for (shard, share, deny, mean) in [
        ((0, 1), 100_000, None, [all, 0, 0, 0]),
        ((0, 1), 12_500, None, [all / 8, 0, 0, all * 7 / 8]),
        ((0, 1), 500, None, [all / 200, 0, 0, all * 199 / 200]),
        ((0, 1), 0, None, [0, 0, 0, all]),
        ((1, 3), 100_000, None, [all / 3, 0, all * 2 / 3, 0]),
        (
            (1, 2),
            50_000,
            Some(&deny[..]),
            // 10.1/16 and 2001:db8:1/48 are a quarter each of their families, 10.2.128/17 an eighth.
            [all * 11 / 64, all * 5 / 16, all * 22 / 64, all * 11 / 64],
        ),
        ((0, 1), 100_000, Some(&[][..]), [all, 0, 0, 0]),
    ] {
        let choice = Choice {
            shard: Shard::new(shard.0, shard.1).unwrap(),
            share: Share::thousandths(share),
            deny,
        };
        let seen = compare(&choice, 0xdec1_de00_0000_0000 | u64::from(share));
        println!("shard {shard:?}, share {share}: {seen:?}");
        for (seen, mean) in seen.iter().zip(mean) {
            assert!(
                seen.abs_diff(mean) <= all / 25,
                "{seen}, expected about {mean}"
            );
        }
    }
}

#[test]
fn a_whole_address_space_can_be_denied() {
    privileged();
    let deny = [block(v4([0; 4], 0), 0)];
    let choice = Choice {
        shard: Shard::WHOLE,
        share: Share::ALL,
        deny: Some(&deny),
    };
    let [taken, denied, ..] = compare(&choice, 77);
    assert!(
        taken > TUPLES / 2 && denied > TUPLES / 2,
        "{taken} {denied}"
    );
}

#[test]
fn shards_share_out_every_session() {
    privileged();
    for (program, takes) in PROGRAMS {
        let mut shards: Vec<Loaded> = (0..3)
            .map(|k| {
                let shard = Shard::new(k, 3).unwrap();
                Choice {
                    shard,
                    share: Share::ALL,
                    deny: None,
                }
                .load(program)
            })
            .collect();
        let mut rng = Rng(0x5eed);
        for _ in 0..1000 {
            let client = client(&mut rng);
            let frame = syn(client, online(client));
            let verdicts = shards.iter_mut().map(|s| moved(s, program, &frame));
            let taken = verdicts.filter(|counters| *counters == [takes]).count();
            assert_eq!(taken, 1, "{program}: {client}");
        }
    }
}

#[test]
fn cost() {
    privileged();
    let deny: Vec<Block> = (0..=255)
        .map(|n| block(v4([192, 168, n, 0], 0), 24))
        .collect();
    let frame = tcp(v4([10, 77, 2, 1], 40_000), v4(ONLINE, 80), b"");
    for (what, shard, share, deny) in [
        ("all", Shard::WHOLE, Share::ALL, None),
        ("share", Shard::WHOLE, Share::NONE, None),
        (
            "deny list of 256 blocks",
            Shard::WHOLE,
            Share::NONE,
            Some(&deny[..]),
        ),
    ] {
        let choice = Choice { shard, share, deny };
        let mut loaded = choice.load("mirror");
        let best = (0..10)
            .map(|_| loaded.nanoseconds("mirror", &frame, 100_000))
            .min();
        println!("mirror, {what}: {} ns", best.unwrap());
        assert_eq!(
            moved(&mut loaded, "mirror", &frame).is_empty(),
            !share.is_all()
        );
    }
}
