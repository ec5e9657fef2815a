//! `cargo xtask build-ebpf`: compiles `proxy-ebpf/ebpf` into the object that `proxy-ebpf/agent` embeds.
//!
//! The object is committed, so that a plain `cargo build` needs neither bpf-linker nor rust-src; this command makes it anew
//! and, with `--check`, only compares. The same sources give the same bytes on every machine: one compiler, one lock file,
//! every absolute path remapped, and the debug sections, where the rest differs, removed.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};
use sha2::{Digest as _, Sha256};

/// The compiler that the object's bytes depend on; rust-toolchain.toml pins it.
const RUSTC: &str = "1.95.0";
/// The last bpf-linker that uses rustc's own LLVM instead of a system one.
const BPF_LINKER: &str = "0.10.4";
const TARGET: &str = "bpfel-unknown-none";
/// Where the object is committed, from the root of the repository.
const OBJECT: &str = "proxy-ebpf/agent/src/programs.o";

/// Builds the object and writes it to its place; with `check` compares it with what is there.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask has no parent directory")?;
    let source = root.join("proxy-ebpf/ebpf");
    let sysroot = rust_src(&source)?;
    let linker = bpf_linker(root)?;
    let built = compile(root, &source, &sysroot, &linker)?;
    let linked = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let object = strip(&linked).with_context(|| format!("strip {}", built.display()))?;

    let path = root.join(OBJECT);
    let committed = fs::read(&path).unwrap_or_default();
    let digest = hex::encode(Sha256::digest(&object));
    if committed == object {
        println!("{OBJECT} is up to date ({} bytes, sha256 {digest})", object.len());
    } else if check {
        bail!("{OBJECT} is not what its sources build: run `cargo xtask build-ebpf` and commit the result");
    } else {
        fs::write(&path, &object).with_context(|| format!("write {}", path.display()))?;
        println!("{OBJECT} written ({} bytes, sha256 {digest})", object.len());
    }
    Ok(())
}

/// Makes sure that the pinned compiler has the sources of `core`, which the target needs built, and returns its sysroot.
fn rust_src(source: &Path) -> Result<PathBuf> {
    let version = output(Command::new("rustc").arg("--version").current_dir(source))?;
    ensure!(
        version.split_whitespace().nth(1) == Some(RUSTC),
        "the eBPF object is reproducible with rustc {RUSTC} only, but rustc here is `{}`: run `rustup toolchain install {RUSTC}` and \
         use cargo of that toolchain",
        version.trim()
    );
    let sysroot = PathBuf::from(
        output(
            Command::new("rustc")
                .args(["--print", "sysroot"])
                .current_dir(source),
        )?
        .trim(),
    );
    let library = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
    if !library.exists() {
        println!("rust-src is missing: running `rustup component add rust-src`");
        run_visibly(Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(source)).context(
            "rust-src is needed to build `core` for eBPF and could not be installed: run `rustup component add rust-src`",
        )?;
    }
    Ok(sysroot)
}

/// Finds the pinned bpf-linker, or builds one into `.orlop/tools`, where it replaces no other that the user may have.
fn bpf_linker(root: &Path) -> Result<PathBuf> {
    ensure!(
        cfg!(all(target_arch = "x86_64", target_os = "linux")),
        "bpf-linker {BPF_LINKER} borrows the LLVM of rustc, which is a shared library on x86_64 Linux only: use the committed \
         {OBJECT}, or build it on such a machine"
    );
    let tools = root.join(".orlop/tools");
    let private = tools.join("bin/bpf-linker");
    for candidate in [
        Path::new("bpf-linker"),
        &cargo_home()?.join("bin/bpf-linker"),
        &private,
    ] {
        let version = Command::new(candidate).arg("--version").output();
        if version.is_ok_and(|version| {
            String::from_utf8_lossy(&version.stdout).trim() == format!("bpf-linker {BPF_LINKER}")
        }) {
            return Ok(candidate.to_owned());
        }
    }
    println!(
        "bpf-linker {BPF_LINKER} is missing: building it into {} (about four minutes)",
        tools.display()
    );
    let mut install = cargo();
    install
        .args([
            "install",
            "bpf-linker",
            "--version",
            BPF_LINKER,
            "--locked",
            "--root",
        ])
        .arg(&tools);
    run_visibly(&mut install).with_context(|| {
        format!(
            "bpf-linker is needed to link eBPF and could not be installed: run `cargo install bpf-linker --version {BPF_LINKER} \
             --locked`"
        )
    })?;
    Ok(private)
}

/// Runs cargo for the eBPF target and returns the path of what bpf-linker wrote.
fn compile(root: &Path, source: &Path, sysroot: &Path, linker: &Path) -> Result<PathBuf> {
    run_visibly(cargo().args(["fetch", "--quiet", "--locked"]).current_dir(source))
        .context("fetch what proxy-ebpf/ebpf needs")?;
    let target_dir = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), PathBuf::from)
        .join("ebpf");
    let mut rustflags = vec![
        // Without debug info there is nothing to make BTF of.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // aya's bindings want to know whose registers a probe sees; there are no probes here, so any fixed value will do.
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
    ];
    let paths = [
        (root.to_owned(), "/orlop"),
        (sysroot.to_owned(), "/rustc-sysroot"),
    ];
    let paths = paths
        .into_iter()
        .chain(registries()?.into_iter().map(|registry| (registry, "/registry")));
    rustflags.extend(paths.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));
    let mut build = cargo();
    build
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--target",
            TARGET,
            "-Zbuild-std=core",
            "--target-dir",
        ])
        .arg(&target_dir)
        .current_dir(source)
        // Lets the pinned stable compiler take -Zbuild-std; only this child gets it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\x1f"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("RUSTC_WRAPPER", wrapper(&target_dir)?)
        .env_remove("RUSTFLAGS");
    run_visibly(&mut build).context("compile proxy-ebpf/ebpf")?;
    Ok(target_dir.join(TARGET).join("release/programs"))
}

/// Cargo's names for crates hold a hash of where they lie, which orders the functions in the object. This stands between
/// cargo and the compiler and names a crate by what it is.
const WRAPPER: &str = r#"#!/bin/sh
rustc=$1
shift
for argument; do
    shift
    case $argument in metadata=*) argument=metadata=$CARGO_CRATE_NAME-$CARGO_PKG_VERSION ;; esac
    set -- "$@" "$argument"
done
exec "$rustc" "$@"
"#;

fn wrapper(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("rustc-wrapper");
    // Cargo builds anew what another wrapper built, and this one should be the same at every call.
    if fs::read_to_string(&path).ok().as_deref() != Some(WRAPPER) {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::write(&path, WRAPPER).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", path.display()))?;
    }
    Ok(path)
}

/// The folders that hold downloaded crates. Each is named after its registry, which may be a mirror: all are remapped to one.
fn registries() -> Result<Vec<PathBuf>> {
    let sources = cargo_home()?.join("registry/src");
    let mut registries = Vec::new();
    for entry in fs::read_dir(&sources).with_context(|| format!("read {}", sources.display()))? {
        registries.push(
            entry
                .with_context(|| format!("read {}", sources.display()))?
                .path(),
        );
    }
    registries.sort();
    Ok(registries)
}

/// Removes the debug sections. BTF stays: the kernel shows it to whoever dumps a program or a map.
fn strip(elf: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(elf).context("not an ELF object")?;
    for section in builder.sections.iter_mut() {
        let name: &[u8] = &section.name;
        if name.starts_with(b".debug_") || name.starts_with(b".rel.debug_") {
            section.delete = true;
        }
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections and of symbols in one table; the writer wants one each.
    if !builder
        .sections
        .iter()
        .any(|section| matches!(section.data, SectionData::SectionString))
    {
        let names = builder.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder
        .write(&mut stripped)
        .context("write the stripped object")?;
    Ok(stripped)
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = env::home_dir().context("neither CARGO_HOME nor HOME is set")?;
    Ok(home.join(".cargo"))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("output of {command:?}"))
}

fn run_visibly(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strip_leaves_the_committed_object_alone() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(OBJECT);
        let object = fs::read(path).expect("the object is committed");
        assert_eq!(
            strip(&object).expect("a committed object is an ELF object"),
            object
        );
    }

    #[test]
    fn strip_refuses_what_is_no_object() {
        let error = strip(b"#!/bin/sh").expect_err("a script is no object");
        assert!(format!("{error:#}").starts_with("not an ELF object"), "{error:#}");
    }
}
