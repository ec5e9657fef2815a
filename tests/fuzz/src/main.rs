//! The program that libFuzzer drives, for the target that `ORLOP_FUZZ_TARGET` names. `cargo xtask fuzz` builds and starts it.

#![no_main]

use std::sync::LazyLock;

use fuzz::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("ORLOP_FUZZ_TARGET").expect("ORLOP_FUZZ_TARGET names a target");
    Target::find(&name).unwrap_or_else(|| panic!("there is no target {name}"))
});

fuzz_target!(|input: &[u8]| TARGET.run(input));
