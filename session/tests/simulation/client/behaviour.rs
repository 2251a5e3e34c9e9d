//! The kinds of clients.

use super::builder::Builder;
use super::{Leave, Manner, Need, Script};
use crate::rng::Rng;
use crate::setting::{Class, Clients, Setting};
use common::flow::Nanos;
use common::packet::{Endpoint, SeqNumber, TcpFlags, TcpOptions, Timestamps};

/// What SYNs offer.
const OFFERED_MSS: [Option<u16>; 6] = [
    None,
    Some(536),
    Some(1220),
    Some(1460),
    Some(1460),
    Some(8960),
];

fn micros(rng: &mut Rng, range: std::ops::Range<u64>) -> Nanos {
    Nanos::from_micros(rng.pick(range))
}

pub fn script(
    rng: &mut Rng,
    setting: &Setting,
    client: Endpoint,
    begins: Nanos,
    iss: Option<SeqNumber>,
    cut: bool,
) -> Script {
    let mixed = setting.clients == Clients::Mixed;
    let manner = match rng.pick(0..100) {
        _ if !mixed => Manner::Requests,
        0..58 => Manner::Requests,
        58..74 => Manner::Pipelined,
        74..84 => Manner::Upload,
        84..93 => Manner::Duplex,
        _ => Manner::Scan,
    };
    let leave = match rng.pick(0..20) {
        0 | 1 => Leave::Reset,
        2..6 => Leave::HalfClose,
        6 if mixed => Leave::Vanish,
        _ => Leave::Close,
    };
    // A third of the sessions cross the wrap-around within their first requests.
    let own = SeqNumber(if rng.chance(333) {
        u32::MAX - rng.pick(0..3000) as u32
    } else {
        rng.next() as u32
    });
    let iss = iss.unwrap_or(own);
    let timestamps = rng.chance(700).then(|| Timestamps {
        val: rng.next() as u32,
        ecr: 0,
    });
    let options = TcpOptions {
        timestamps,
        ..TcpOptions::default()
    };
    let syn_options = TcpOptions {
        mss: if mixed {
            OFFERED_MSS[rng.pick(0..6) as usize]
        } else {
            Some(1460)
        },
        window_scale: (!mixed || rng.chance(800))
            .then(|| if mixed { rng.pick(0..15) as u8 } else { 7 }),
        sack_permitted: !mixed || rng.chance(800),
        ..options
    };
    let scale = u32::from(syn_options.window_scale.unwrap_or(0));
    let bytes: u32 = if mixed && rng.chance(100) {
        3_000
    } else {
        64_000
    };
    let irs = SeqNumber(rng.next() as u32);
    let mut b = Builder {
        now: begins,
        iss,
        seq: iss,
        ack: irs,
        options,
        syn_options,
        window: (bytes >> scale).max(1) as u16,
        packets: Vec::new(),
        stream: Vec::new(),
        starts: Vec::new(),
        needs: Vec::new(),
        // One byte back, as Windows sends them, or none, as Linux does. In front of all data the byte
        // belongs to nothing.
        probes_with_byte: rng.chance(500) && !cut,
        repeats: if mixed && rng.chance(250) { 150 } else { 0 },
        rng,
    };
    let rtt = micros(b.rng, 50..40_000);
    b.say(TcpFlags::SYN);
    b.seq += 1;
    b.now += rtt;
    if manner == Manner::Scan {
        if b.rng.chance(500) {
            b.say(TcpFlags::RST);
        }
    } else {
        b.ack += 1;
        talk(&mut b, setting, manner, leave, rtt);
    }
    let mut packets = b.packets;
    let (stream, starts, needs) = (b.stream, b.starts, b.needs);
    let cut = cut && manner != Manner::Scan;
    if cut {
        // The capture began later than the connection.
        let first = 1 + rng.pick(0..packets.len() as u64 - 1) as usize;
        packets.drain(..first);
    }
    packets.sort_by_key(|p| p.at);
    Script {
        client,
        manner,
        leave,
        stream,
        starts,
        needs,
        iss,
        from_syn: !cut,
        packets,
    }
}

fn talk(b: &mut Builder<'_>, setting: &Setting, manner: Manner, leave: Leave, rtt: Nanos) {
    b.say(TcpFlags(0));
    let greeting = setting.target.greeting;
    if greeting > 0 {
        b.now += micros(b.rng, 5..4_000);
        b.read(greeting);
    }
    let said = usize::from(greeting > 0);
    if manner == Manner::Duplex {
        duplex(b, rtt);
    } else {
        turns(b, setting, manner, leave, rtt, said);
    }
    b.now += micros(b.rng, 0..20_000);
    match leave {
        Leave::Vanish => {}
        Leave::Reset => b.say(TcpFlags::RST),
        // A duplex client has not sent its FIN yet.
        Leave::HalfClose if manner != Manner::Duplex => {
            b.ack += 1;
            b.say(TcpFlags(0));
        }
        Leave::HalfClose | Leave::Close => {
            b.say(TcpFlags::FIN);
            b.seq += 1;
            b.ack += 1;
            b.now += rtt;
            b.say(TcpFlags(0));
        }
    }
}

/// Requests in turns: one at a time, or several before the answers are read.
fn turns(
    b: &mut Builder<'_>,
    setting: &Setting,
    manner: Manner,
    leave: Leave,
    rtt: Nanos,
    said: usize,
) {
    let count = if manner == Manner::Upload {
        b.rng.pick(1..3)
    } else {
        b.rng.pick(1..8)
    };
    let mut need = Need {
        full: said,
        sure: said,
    };
    for n in 0..count {
        b.now += micros(b.rng, 0..20_000);
        if setting.clients == Clients::Mixed && b.rng.chance(40) {
            for _ in 0..b.rng.pick(1..4) {
                b.now += Nanos::from_millis(b.rng.pick(100..1_000));
                b.probe();
            }
        }
        let requests = if manner == Manner::Pipelined {
            b.rng.pick(1..5)
        } else {
            1
        };
        let mut answers = Vec::new();
        for r in 0..requests {
            let last = n + 1 == count && r + 1 == requests;
            let (len, answer) = sizes(b.rng, setting, manner);
            b.request(len, answer, need, last && leave == Leave::HalfClose);
            answers.push(answer);
        }
        // The answers arrive at the client a service time and a round trip later.
        b.now += rtt + micros(b.rng, 10..3_000);
        for answer in &answers {
            b.read(*answer);
        }
        // From the first turn with several answers on, only the first of them is sure to be told from
        // the next turn's.
        if need.sure == need.full {
            need.sure += 1;
        }
        need.full += answers.len();
    }
}

fn sizes(rng: &mut Rng, setting: &Setting, manner: Manner) -> (usize, u32) {
    // A small window takes an upload at a few segments a round trip.
    let most = if setting.target.rx_window < 3_000 {
        30_000
    } else {
        200_000
    };
    let len = match rng.pick(0..4) {
        _ if manner == Manner::Upload => rng.pick(12_000..most),
        0 => rng.pick(8..40),
        1 => rng.pick(3_000..12_000),
        _ => rng.pick(40..1_500),
    };
    let answer = if rng.chance(200) {
        rng.pick(4_000..20_000)
    } else {
        rng.pick(1..1_400)
    };
    (len as usize, answer as u32)
}

/// Both sides talk at once: acknowledgements of answers come sooner than a round trip after own data.
fn duplex(b: &mut Builder<'_>, rtt: Nanos) {
    let nothing = Need { full: 0, sure: 0 };
    let mut coming: Vec<(Nanos, u32)> = Vec::new();
    for _ in 0..b.rng.pick(5..25) {
        b.now += micros(b.rng, 100..4_000);
        let (len, answer) = (b.rng.pick(8..400) as usize, b.rng.pick(20..2_000) as u32);
        b.request(len, answer, nothing, false);
        coming.push((b.now + rtt, answer));
        b.now += micros(b.rng, 20..600);
        let here: u32 = coming
            .iter()
            .filter(|(at, _)| *at <= b.now)
            .map(|(_, n)| n)
            .sum();
        coming.retain(|(at, _)| *at > b.now);
        if here > 0 {
            b.read(here);
        }
    }
    b.now += rtt + Nanos::from_millis(1);
    let rest = coming.iter().map(|(_, n)| n).sum();
    b.read(rest);
}

/// True if every byte of this client must reach the target.
pub fn must_arrive(script: &Script, setting: &Setting) -> bool {
    setting.class == Class::Gentle && script.from_syn
}
