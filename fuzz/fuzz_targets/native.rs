//! See `common/tests/support`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::common_support::native(data));
