//! Whole replays with a guest in one of the parts, each request compared on both servers.

use std::net::Ipv4Addr;

use lab::{
    Host, Process,
    replay::{Capture, Copy, Intercept, PRODUCTION_PORT, TARGET_PORT, stop},
};

use super::{
    cases::{expect, with_log},
    nics::Way,
    scene::{FAR, LOAD_LIMIT, Place, Scene, Servers},
};
use crate::Result;

/// Requests of one replay: two seconds at the pace of [`Scene::load`].
const REQUESTS: u64 = 300;
/// Requests in the middle of which a program is killed.
const REQUESTS_AMID_KILL: u64 = 150;
/// It has replayed so many of them then: traffic is under way in both directions.
const REQUESTS_BEFORE_KILL: usize = 30;

/// The guest at the mirror port: it receives by one card of a pair and sends by the other. The assistant is the lab's.
/// Killed amid a replay, then a whole one.
pub fn mirror(scene: &mut Scene, pair: usize) -> Result<()> {
    let pair = &scene.pairs[pair];
    let (mirrored, switched, address, way) = (
        pair.mirrored.name,
        pair.switched.name,
        pair.address,
        pair.way,
    );
    scene.connect(switched, address)?;
    killed_mirror(scene, mirrored, &[switched])?;
    let log = replay_from(scene, mirrored, &[switched], Place::Lab)?;
    expect_way(&log, mirrored, way)?;
    // An interface that is not the mirror's may be in use: its driver's rings are left alone.
    expect(&log, "sending by AF_XDP", &[switched, "zero_copy=false"])
}

/// One card for all: what the mirror brings, the channel, and what is sent, by the sockets that receive. Killed amid a
/// replay, then a whole one.
pub fn one_card(scene: &mut Scene, pair: usize) -> Result<()> {
    let pair = &scene.pairs[pair];
    let (name, address, way) = (pair.switched.name, pair.address, pair.way);
    scene.connect(name, address)?;
    killed_mirror(scene, name, &[])?;
    let log = replay_from(scene, name, &[], Place::Lab)?;
    expect_way(&log, name, way)?;
    for worker in ["worker=0", "worker=1"] {
        expect(&log, "sending on the queue it receives on", &[name, worker])?;
    }
    Ok(())
}

/// The guest as assistant host; tcpcopy taps production in the lab. Killed amid a replay, then a whole one.
pub fn intercept(scene: &mut Scene, pair: usize) -> Result<()> {
    let pair = &scene.pairs[pair];
    let (name, address, way) = (pair.switched.name, pair.address, pair.way);
    scene.connect(name, address)?;
    route_answers(scene, address)?;
    let mut copy = Copy::new(Capture::Tap);
    address.clone_into(&mut copy.intercept);
    let report = scene.lab.file("tap.json");
    let replay = |scene: &mut Scene, signal: &str| -> Result<String> {
        let servers = scene.servers(Place::Lab, Place::Lab)?;
        scene.guest.start("intercept", &intercept_line(name))?;
        scene.guest.wait_for_link(name)?;
        let mut tcpcopy = copy.start(&scene.lab, scene.programs, &report)?;
        if signal == "KILL" {
            // tcpcopy would wait for the sessions that are left without answers: it goes at once, too.
            return kill_amid(scene, &servers, "intercept");
        }
        let load = scene.load(Place::Lab, REQUESTS);
        stop(&mut tcpcopy)?;
        let log = scene.guest.stop("intercept", signal)?;
        load.and_then(|()| scene.all_replayed(&servers, REQUESTS))
            .map_err(|error| with_log(&error.to_string(), &log))?;
        Ok(log)
    };
    let log = replay(scene, "KILL").and_then(|_| replay(scene, "INT"));
    route_answers(scene, &Host::Assistant.address().to_string())?;
    expect_way(&log?, name, way)
}

/// The guest as target host; both programs run in the lab.
pub fn target(scene: &mut Scene) -> Result<()> {
    scene.guest.clear(&[])?;
    let servers = scene.servers(Place::Lab, Place::Far(FAR))?;
    let mut assistant = Intercept::default().start(&scene.lab, scene.programs)?;
    let mut copy = Copy::new(Capture::Tap);
    copy.transfer = format!("{PRODUCTION_PORT}-{FAR}:{TARGET_PORT}");
    let mut tcpcopy = copy.start(&scene.lab, scene.programs, &scene.lab.file("tap.json"))?;
    let load = scene.load(Place::Lab, REQUESTS);
    stop(&mut tcpcopy)?;
    stop(&mut assistant)?;
    load?;
    scene.all_replayed(&servers, REQUESTS)
}

/// The guest as production host, tapped there; `says` is in the line that tells how.
pub fn tap(scene: &mut Scene, says: &str) -> Result<()> {
    let pair = &scene.pairs[0];
    let (name, address) = (pair.switched.name, pair.address);
    scene.connect(name, address)?;
    scene
        .guest
        .run(&format!("ip route replace 10.77.2.0/24 dev {name}"))?;
    let production = Place::Guest(address);
    let servers = scene.servers(production, Place::Lab)?;
    let mut assistant = Intercept::default().start(&scene.lab, scene.programs)?;
    scene
        .guest
        .start("tap", &tcpcopy_line(name, "", Host::Target.address()))?;
    let load = scene.load(production, REQUESTS);
    let log = scene.guest.stop("tap", "INT")?;
    stop(&mut assistant)?;
    load?;
    expect(&log, says, &[name])?;
    scene
        .all_replayed(&servers, REQUESTS)
        .map_err(|error| with_log(&error.to_string(), &log).into())
}

/// Segments leave by a VLAN interface on a zero-copy card.
pub fn vlan(scene: &mut Scene) -> Result<()> {
    let pair = &scene.pairs[0];
    let (mirrored, switched, address) = (pair.mirrored.name, pair.switched.name, pair.address);
    scene.connect(switched, address)?;
    let tagged = format!("{switched}.7");
    scene.guest.run(&format!(
        "real-ip link add link {switched} name {tagged} type vlan id 7
         real-ip addr add 10.77.7.60/24 dev {tagged} && real-ip link set {tagged} up
         real-ip -n far link add link far0 name far0.7 type vlan id 7
         real-ip -n far addr add 10.77.7.61/24 dev far0.7 && real-ip -n far link set far0.7 up"
    ))?;
    let sent = send_by(scene, mirrored, &tagged, "10.77.7.61");
    scene.guest.run(&format!(
        "real-ip link del {tagged}; real-ip -n far link del far0.7"
    ))?;
    sent
}

/// Segments leave by a bond of two cards.
pub fn bond(scene: &mut Scene) -> Result<()> {
    let pair = &scene.pairs[0];
    let (mirrored, switched, address) = (pair.mirrored.name, pair.switched.name, pair.address);
    let (first, second) = (scene.rows[0].nic.name, scene.rows[1].nic.name);
    scene.connect(switched, address)?;
    for port in [first, second] {
        scene.on_switch(&format!("ip link set {port} master br0"))?;
    }
    scene.guest.run(&format!(
        "real-ip link add bond0 type bond mode active-backup miimon 100
         for port in {first} {second}; do ip link set $port down; real-ip link set $port master bond0; done
         real-ip addr add 10.77.8.60/24 dev bond0 && real-ip link set bond0 up
         real-ip -n far addr add 10.77.8.61/24 dev far0"
    ))?;
    scene.guest.wait_for_link("bond0")?;
    let sent = send_by(scene, mirrored, "bond0", "10.77.8.61");
    scene
        .guest
        .run("real-ip link del bond0; real-ip -n far addr del 10.77.8.61/24 dev far0")?;
    for port in [first, second] {
        scene.on_switch(&format!("ip link set {port} nomaster"))?;
        scene.guest.run(&format!("ip link set {port} up"))?;
    }
    sent
}

/// A replay to the namespace in the guest by an interface without a driver of its own: AF_XDP sends there, by copy.
fn send_by(scene: &mut Scene, mirrored: &str, interface: &str, target: &'static str) -> Result<()> {
    let log = replay_from(scene, mirrored, &[interface], Place::Far(target))?;
    expect(
        &log,
        "sending by AF_XDP",
        &[&format!("ifname=\"{interface}\""), "zero_copy=false"],
    )
}

/// A whole replay by tcpcopy in the guest; its log.
fn replay_from(scene: &mut Scene, mirrored: &str, links: &[&str], target: Place) -> Result<String> {
    let (servers, mut assistant) = start_mirror(scene, mirrored, links, target)?;
    let load = scene.load(Place::Lab, REQUESTS);
    let log = scene.guest.stop("mirror", "INT")?;
    stop(&mut assistant)?;
    load.and_then(|()| scene.all_replayed(&servers, REQUESTS))
        .map_err(|error| {
            let text = with_log(&error.to_string(), &log);
            format!("{text}; and the assistant's: {}", assistant.stdout())
        })?;
    Ok(log)
}

/// A replay by tcpcopy in the guest in which it is killed.
fn killed_mirror(scene: &mut Scene, mirrored: &str, links: &[&str]) -> Result<()> {
    let (servers, mut assistant) = start_mirror(scene, mirrored, links, Place::Lab)?;
    let killed = kill_amid(scene, &servers, "mirror");
    stop(&mut assistant)?;
    killed.map(drop)
}

/// Kills a program of the guest while requests come and are replayed; its log until then.
fn kill_amid(scene: &mut Scene, servers: &Servers, name: &str) -> Result<String> {
    let mut load = scene.start_load(Place::Lab, REQUESTS_AMID_KILL)?;
    let replayed = servers.wait_replayed(REQUESTS_BEFORE_KILL);
    let log = scene.guest.stop(name, "KILL")?;
    load.wait_success(LOAD_LIMIT)?;
    replayed.map_err(|error| with_log(&format!("before SIGKILL: {error}"), &log))?;
    Ok(log)
}

/// Starts servers, assistant, and tcpcopy in the guest.
fn start_mirror(
    scene: &mut Scene,
    mirrored: &str,
    links: &[&str],
    target: Place,
) -> Result<(Servers, Process)> {
    scene.mirror_to(mirrored)?;
    let servers = scene.servers(Place::Lab, target)?;
    let assistant = Intercept::default().start(&scene.lab, scene.programs)?;
    let address = match target {
        Place::Lab => Host::Target.address(),
        Place::Guest(address) | Place::Far(address) => address.parse()?,
    };
    // With an address of its own the one card looks like the host's, which a mirror would empty.
    let force = if links.is_empty() { "--force" } else { "" };
    let how = format!("--cores 0,1 --capture mirror {force}");
    scene
        .guest
        .start("mirror", &tcpcopy_line(mirrored, &how, address))?;
    for link in links.iter().chain([&mirrored]) {
        scene.guest.wait_for_link(link)?;
    }
    Ok((servers, assistant))
}

fn tcpcopy_line(interface: &str, how: &str, target: Ipv4Addr) -> String {
    format!(
        "tcpcopy-user --iface {interface} {how} -x {PRODUCTION_PORT}-{target}:{TARGET_PORT} -s {}",
        Host::Assistant.address()
    )
}

/// Intercept on an interface of the guest.
pub fn intercept_line(interface: &str) -> String {
    format!("intercept-user --iface {interface} --cores 2,3 -F 'tcp and src port {TARGET_PORT}'")
}

/// The log says how each queue is served.
pub fn expect_way(log: &str, interface: &str, way: Way) -> Result<()> {
    let mode = if way.native { "native" } else { "generic" };
    expect(
        log,
        "XDP program attached",
        &[&format!("mode=\"{mode}\""), interface],
    )?;
    let queues = |how: &str| {
        let how = format!("mode=\"{mode}, {how}\"");
        log.lines()
            .filter(|line| line.contains("receive queue") && line.contains(&how))
            .count()
    };
    let got = (queues("zero-copy"), queues("copy"));
    if got == (way.zero_copy as usize, way.copied as usize) {
        return Ok(());
    }
    let text = format!(
        "{interface}: got {} queues {mode}, zero-copy and {} {mode}, copy, expected {} and {}",
        got.0, got.1, way.zero_copy, way.copied
    );
    Err(with_log(&text, log).into())
}

/// The target sends what is for clients to this host.
fn route_answers(scene: &Scene, assistant: &str) -> Result<()> {
    scene.on(
        Host::Target,
        &format!("ip route replace 10.77.2.0/24 via {assistant}"),
    )
}
