//! See `session/tests/support`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::session_support::packets_in(data));
