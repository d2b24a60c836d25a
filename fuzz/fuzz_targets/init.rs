//! Bodies of `/init`, with all that is read of them: certificates, volumes, addresses, names.
#![no_main]

use envd::fuzzing::init_body;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Err(error) = init_body(input) {
        assert!(!error.is_empty());
    }
});
