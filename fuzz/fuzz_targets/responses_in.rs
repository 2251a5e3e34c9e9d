//! See `session/tests/support`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::session_support::responses_in(data));
