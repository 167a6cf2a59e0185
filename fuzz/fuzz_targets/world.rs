#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| culex_fuzz_targets::world(bytes));
