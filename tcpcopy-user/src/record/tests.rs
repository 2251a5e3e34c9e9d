use super::*;
use common::flow::{CaptureMeta, Nanos};
use dataplane::memory::MemoryCapture;
use savefile::Reader;
use savefile::write::Rotation;
use std::fs::File;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("record-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn what_workers_take_is_in_the_file_with_wall_clock_times() {
    let folder = folder("all");
    let path = folder.join("t.pcapng.zst");
    let recording = Recording {
        path: path.clone(),
        rotation: Rotation::default(),
    };
    let mut recorder = Recorder::create(&recording, "eth9", &[]).unwrap();
    let ports = [(); 2].map(|()| MemoryCapture::new().unwrap());
    let mut sources: Vec<Vec<Box<dyn Capture>>> = ports
        .iter()
        .map(|p| vec![Box::new(p.clone()) as Box<dyn Capture>])
        .collect();
    for sources in &mut sources {
        recorder.tee(sources, 2);
    }
    recorder.start().unwrap();
    for n in 0..200u8 {
        let meta = CaptureMeta {
            at: clock::now(),
            vlan_tci: (n % 2 == 0).then_some(u16::from(n)),
            ..CaptureMeta::default()
        };
        ports[usize::from(n % 2)].push(&[n; 80], meta);
    }
    let mut taken = 0;
    for source in sources.iter_mut().flatten() {
        while source.recv(&mut |batch| taken += batch.len()) > 0 {}
    }
    assert_eq!(taken, 200);
    let report = recorder.finish().unwrap();
    assert_eq!((report.packets, report.lost, report.files), (200, 0, 1));
    assert_eq!(report.error, None);

    let mut reader = Reader::new(File::open(&path).unwrap()).unwrap();
    let mut found = vec![0; 200];
    while let Some(packet) = reader.next().unwrap() {
        let n = packet.bytes[0];
        found[usize::from(n)] += 1;
        let tagged = n % 2 == 0;
        assert_eq!(packet.bytes.len(), if tagged { 84 } else { 80 });
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let age = now.as_nanos() as u64 - packet.at_ns;
        assert!(Nanos(age) < Nanos::from_secs(60), "{age}");
    }
    assert_eq!(found, vec![1; 200]);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_disk_that_is_full_ends_the_recording_and_nothing_else() {
    let recording = Recording {
        path: "/dev/full".into(),
        rotation: Rotation::default(),
    };
    let error = Recorder::create(&recording, "eth9", &[]).err().unwrap();
    assert!(
        error
            .to_string()
            .contains("--write: cannot create /dev/full"),
        "{error}"
    );

    let folder = folder("full");
    let rotation = Rotation {
        max_bytes: Some(1),
        max_age_ns: None,
    };
    let recording = Recording {
        path: folder.join("t.pcapng"),
        rotation,
    };
    let mut recorder = Recorder::create(&recording, "eth9", &[]).unwrap();
    // The second file cannot be created.
    std::fs::create_dir(folder.join("t-00002.pcapng")).unwrap();
    let port = MemoryCapture::new().unwrap();
    let mut sources: Vec<Box<dyn Capture>> = vec![Box::new(port.clone())];
    recorder.tee(&mut sources, 1);
    for n in 0..50u8 {
        port.push(&[n; 80], CaptureMeta::default());
    }
    while sources[0].recv(&mut |_| ()) > 0 {}
    recorder.start().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    for n in 0..50u8 {
        port.push(&[n; 80], CaptureMeta::default());
    }
    while sources[0].recv(&mut |_| ()) > 0 {}
    let report = recorder.finish().unwrap();
    assert_eq!(report.packets + report.lost, 100);
    assert!(report.lost >= 50 - 14, "{report:?}");
    assert!(report.error.unwrap().contains("t-00002.pcapng"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_file_that_is_replayed_is_not_overwritten() {
    let folder = folder("same");
    let path = folder.join("t.pcapng");
    std::fs::write(&path, b"precious").unwrap();
    let recording = Recording {
        path: folder
            .join("../")
            .join(folder.file_name().unwrap())
            .join("t.pcapng"),
        rotation: Rotation::default(),
    };
    let error = Recorder::create(&recording, "x", std::slice::from_ref(&path))
        .err()
        .unwrap();
    assert!(error.to_string().contains("--read"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_dir_all(&folder).unwrap();
}
