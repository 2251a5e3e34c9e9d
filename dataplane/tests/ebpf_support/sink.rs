//! Where a program that is run on single packets redirects them to.

use std::os::fd::AsRawFd;

use dataplane::afxdp::{AfXdpRx, OpenOptions, open};

use super::netns::Pair;
use super::programs::Loaded;

/// A socket for queue 0, on a veth of its own. Fields drop in order.
pub struct Sink {
    _rx: AfXdpRx,
    _pair: Pair,
}

/// Opens one and puts it into the program's map.
pub fn sink(program: &mut Loaded) -> Sink {
    let pair = Pair::new(1);
    pair.enter_near();
    let options = OpenOptions {
        rx: true,
        ..OpenOptions::new("vb", 0)
    };
    let rx = open(&options).unwrap().rx.unwrap();
    program.put_socket(0, rx.as_raw_fd());
    Sink {
        _rx: rx,
        _pair: pair,
    }
}
