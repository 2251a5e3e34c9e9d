//! See `channel-crypto/tests/support`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::sealed_support::sealed(data));
