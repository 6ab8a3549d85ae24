#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tigerchat_fuzz::block(bytes));
