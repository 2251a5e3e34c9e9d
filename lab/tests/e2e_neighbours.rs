//! The tap beside other people's programs and frames: a tcx program that ends the chain, a classic tc filter, and
//! live frames with a VLAN tag.

use std::path::Path;

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{SchedClassifierLinkId, TcAttachOptions},
    },
};
use lab::{
    Host, Lab,
    replay::{Capture, RunOptions, RunResult, run_prepared},
    testing::{compile_bpf, programs, require_root},
    world::run,
};

fn replay(seed: u64, prepare: &mut dyn FnMut(&Lab) -> Result<(), lab::LabError>) -> RunResult {
    let mut options = RunOptions::new(Capture::Tap);
    options.requests = 2000;
    options.seed = seed;
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let result = run_prepared(&programs, &options, prepare, &mut |text| {
        eprintln!("{text}");
    })
    .unwrap();
    eprintln!("{}", result.table());
    result
}

/// Attaches `object`'s program `name` to production's eth0 by tcx; it stays as long as what is returned.
fn attach_tcx(lab: &Lab, object: &Path, name: &str) -> (Ebpf, SchedClassifierLinkId) {
    lab.host(Host::Production)
        .enter(|| {
            let mut bpf = Ebpf::load_file(object).unwrap();
            let program: &mut SchedClassifier = bpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
            let options = TcAttachOptions::TcxOrder(LinkOrder::default());
            let link = program
                .attach_with_options("eth0", TcAttachType::Ingress, options)
                .unwrap();
            (bpf, link)
        })
        .unwrap()
}

#[test]
fn tap_before_a_foreign_tcx_program_that_passes() {
    require_root();
    let mut foreign = None;
    // TCX_PASS (0) ends the chain: programs after it do not run.
    let result = replay(41, &mut |lab| {
        let object = compile_bpf(lab.folder(), "foreign", "classifier", "return 0;")?;
        foreign = Some(attach_tcx(lab, &object, "foreign"));
        Ok(())
    });
    assert!(foreign.is_some());
    assert_eq!(result.faults(), Vec::<String>::new());
}

#[test]
fn tap_beside_a_classic_tc_filter() {
    require_root();
    let result = replay(42, &mut |lab| {
        let object = compile_bpf(lab.folder(), "classic", "classifier", "return 0;")?;
        let production = lab.host(Host::Production);
        run(production
            .command("tc")
            .args(["qdisc", "add", "dev", "eth0", "clsact"]))?;
        run(production
            .command("tc")
            .args([
                "filter",
                "add",
                "dev",
                "eth0",
                "ingress",
                "bpf",
                "direct-action",
                "object-file",
            ])
            .arg(object)
            .args(["section", "classifier"]))
        .map(drop)
    });
    assert_eq!(result.faults(), Vec::<String>::new());
}

#[test]
fn tap_with_live_priority_tagged_frames() {
    require_root();
    // This kernel has no 802.1Q devices; frames tagged with VLAN 0 and a priority (IEEE 802.1Q, 6.9) are the ones
    // that a stack without them takes. The client's own frames get the tag as they leave.
    let result = replay(43, &mut |lab| {
        let push = "vlan_push(ctx, __builtin_bswap16(0x8100), 3 << 13); return 0;";
        let object = compile_bpf(lab.folder(), "tagger", "classifier", push)?;
        let client = lab.host(Host::Client);
        run(client
            .command("tc")
            .args(["qdisc", "add", "dev", "eth0", "clsact"]))?;
        run(client
            .command("tc")
            .args([
                "filter",
                "add",
                "dev",
                "eth0",
                "egress",
                "bpf",
                "direct-action",
                "object-file",
            ])
            .arg(object)
            .args(["section", "classifier"]))?;
        assert_tagged(lab);
        Ok(())
    });
    assert_eq!(result.faults(), Vec::<String>::new());
}

/// The proof that the frames on production's interface do carry the tag.
fn assert_tagged(lab: &Lab) {
    let mut dump = lab
        .command(Host::Production, "tcpdump")
        .args(["-i", "eth0", "-c", "1", "-nn", "-e", "-Q", "in", "vlan"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let client = lab.host(Host::Client);
    let mut ended = None;
    for _ in 0..200 {
        // Port 9, discard: refused, but the SYN is a tagged frame.
        let to = (Host::Production.address(), 9);
        client
            .enter(|| drop(std::net::TcpStream::connect(to)))
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        ended = dump.try_wait().unwrap();
        if ended.is_some() {
            break;
        }
    }
    if ended.is_none() {
        dump.kill().unwrap();
    }
    let output = dump.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("vlan 0, p 3"),
        "no tagged frame: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
