//! Device options: which way the programs take on a card, what they say of it, and whether its frames arrive.

use std::{net::Ipv4Addr, time::Duration};

use lab::traffic::Flood;

use super::{
    TRANSMIT,
    cases::{expect, with_log},
    guest::mac,
    replays::expect_way,
    scene::Scene,
};
use crate::Result;

/// Nobody listens there: resets to it are what intercept is told to take.
const PORT: u16 = 9;

/// More than the card's queue holds (256), and than the socket's frames (8192).
const FRAMES_ALONE: u64 = 10_000;

/// Attaches intercept to the row's card, sends resets there and counts.
pub fn row(scene: &mut Scene, row: usize) -> Result<()> {
    let number = u8::try_from(row)?;
    let row = &scene.rows[row];
    let (name, mtu, way, reason) = (row.nic.name, row.mtu, row.way, row.reason);
    let (here, there) = (
        Ipv4Addr::new(10, 99, number, 1),
        Ipv4Addr::new(10, 99, number, 2),
    );
    let mac = mac(scene.number(name)?);
    scene.guest.clear(&[])?;
    scene.on_switch(&format!("ip addr replace {here}/24 dev {name}"))?;
    scene.on_switch(&format!(
        "ip neigh replace {there} lladdr {mac} dev {name} nud permanent"
    ))?;
    scene.guest.run(&format!(
        "ip link set {name} mtu {mtu}; rm -f /tmp/row.json"
    ))?;
    scene.guest.start(
        "row",
        &format!(
            "intercept-user --iface {name} -F 'tcp and dst port {PORT}' --report /tmp/row.json"
        ),
    )?;
    scene.guest.wait_for_link(name)?;
    let flood = Flood {
        from: here,
        to: (there, PORT),
        duration: Duration::from_millis(300),
        rate: Some(2000),
    };
    let sent = flood.run(&scene.lab.switch())?.sent;
    // What is on its way, nothing counts from here.
    std::thread::sleep(Duration::from_millis(700));
    let log = scene.guest.stop("row", "INT")?;
    expect_way(&log, name, way)?;
    if let Some(reason) = reason {
        expect(&log, reason, &[name])?;
    }
    let report: serde_json::Value = serde_json::from_str(&scene.guest.run("cat /tmp/row.json")?)?;
    let received = report["packets"]["received"].as_u64();
    if received != Some(sent) {
        let text = format!("{name}: sent {sent} frames, the program received {received:?}");
        return Err(with_log(&text, &log).into());
    }
    Ok(())
}

/// A socket that only transmits on the row's card, which does zero-copy: without a program, each frame reaches the tap.
pub fn transmit_only(scene: &mut Scene, row: usize) -> Result<()> {
    let name = scene.rows[row].nic.name;
    scene.guest.clear(&[])?;
    scene.guest.wait_for_link(name)?;
    let before = scene.received_by_tap(name)?;
    let answer = scene
        .guest
        .run(&format!("{TRANSMIT} {name} 0 {FRAMES_ALONE}"))?;
    let received = scene.received_by_tap(name)? - before;
    let told: serde_json::Value = serde_json::from_str(&answer)?;
    // The guest itself may say something on the link meanwhile.
    let all = (FRAMES_ALONE..FRAMES_ALONE + 10).contains(&received);
    if told["zero_copy"] == true && told["counters"]["tx_in_device"] == 0 && all {
        return Ok(());
    }
    Err(format!(
        "{name}: expected {FRAMES_ALONE} frames by zero-copy, none left, the tap received {received}: {answer}"
    )
    .into())
}
