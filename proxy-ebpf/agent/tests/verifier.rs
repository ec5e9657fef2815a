//! What the running kernel's verifier says of every program: that it is safe, and how many instructions that took.
//!
//! A test binary of its own, because the log of a program that is accepted is only seen by making room for no more file
//! descriptors, which is a limit of the process: the verifier is done when the kernel finds out, and the load fails with a log.

use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};
use proxy_ebpf::{
    pins::{self, Pins},
    programs::{self, Features},
};

/// The most that a kernel looks at before it refuses a program, since Linux 5.2.
const INSTRUCTIONS_MAX: u32 = 1_000_000;

#[test]
fn every_program_is_accepted() {
    let folder = tempfile::tempdir().expect("make a folder");
    let bpf_dir = folder.path().join("bpf");
    let pins = Pins::open(&bpf_dir).expect("mount a BPF file system; this test needs root");
    let features = Features::detect().expect("ask the kernel");
    println!("[kernel] {features:?}");
    let mut ebpf = programs::load(&pins.maps(), features, &[]).expect("create the maps");
    let mut names: Vec<_> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    assert!(names.len() >= programs::HOOKS.len(), "{names:?}");

    let mut refused = Vec::new();
    for name in &names {
        match verify(&mut ebpf, name) {
            Ok(instructions) => {
                println!("[verifier] {name} {instructions}");
                assert!(
                    instructions < INSTRUCTIONS_MAX / 2,
                    "{name} leaves no room to grow"
                );
            }
            Err(error) => {
                println!("[verifier] {name} refused");
                refused.push(format!("{name}: {error}"));
            }
        }
    }
    drop((ebpf, pins));
    pins::remove(&bpf_dir).expect("unmount it");
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// Loads a program and returns how many instructions the verifier looked at.
fn verify(ebpf: &mut Ebpf, name: &str) -> Result<u32, String> {
    let program = ebpf.program_mut(name).expect("its name is from there");
    let log = without_descriptors(|| load(program)).expect_err("no descriptor can be made");
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = log
    else {
        return Err(log.to_string());
    };
    if io_error.raw_os_error() != Some(libc::EMFILE) {
        return Err(format!("{io_error}: {verifier_log}"));
    }
    let instructions = processed(&verifier_log.to_string())
        .ok_or_else(|| format!("the log has no count of instructions: {verifier_log}"))?;
    load(program).map_err(|error| error.to_string())?;
    // Kernels since 5.16 say it of a loaded program too.
    let info = program.info().map_err(|error| error.to_string())?;
    let said = info.verified_instruction_count();
    assert!(
        said.is_none_or(|said| said == instructions),
        "{name}: {said:?} or {instructions}?"
    );
    Ok(instructions)
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        other => panic!(
            "this test does not load programs of type {:?} yet",
            other.prog_type()
        ),
    }
}

/// Runs `f` while the process can open nothing more.
fn without_descriptors<T>(f: impl FnOnce() -> T) -> T {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    limits(libc::getrlimit, &raw mut limit);
    let lowered = libc::rlimit { rlim_cur: 0, ..limit };
    limits(libc::setrlimit, &raw const lowered);
    let result = f();
    limits(libc::setrlimit, &raw const limit);
    result
}

/// Gets or sets the limit on descriptors.
#[expect(
    unsafe_code,
    reason = "nix has a wrapper, in a feature that nothing else here needs"
)]
fn limits<P>(call: unsafe extern "C" fn(libc::__rlimit_resource_t, P) -> libc::c_int, limit: P) {
    // SAFETY: the caller's limit outlives the call.
    let result = unsafe { call(libc::RLIMIT_NOFILE, limit) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// The number in `processed 123 insns (limit 1000000) ...`.
fn processed(log: &str) -> Option<u32> {
    let (_, rest) = log.split_once("processed ")?;
    rest.split(' ').next()?.parse().ok()
}
