//! The file system that a guest starts with: a shell, the test programs with their libraries, and a few kernel modules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context as _, Result, ensure};

use super::{images, kernel::Kernel, setup};

/// What a guest needs of what Debian builds as modules.
const MODULES: [&str; 10] = [
    "veth",
    "bridge",
    "sch_ingress",
    "sch_tbf",
    "cls_bpf",
    "vxlan",
    "tcp_diag",
    "udp_diag",
    "sctp",
    "sctp_diag",
];

/// Names to the tests what the kernel was built with, so that none of them is left out without reason.
const NEEDS: &str = "PROXY_EBPF_TEST_NEEDS";

/// What tests need that not every kernel has, as they call it, and as it is called in the configuration of a kernel.
const OPTIONS: [(&str, &str); 2] = [("netkit", "CONFIG_NETKIT"), ("SCTP", "CONFIG_IP_SCTP")];

/// Programs that every guest has; busybox is the rest.
const TOOLS: [&str; 4] = ["ip", "tc", "unshare", "nsenter"];

/// The certificates of the public authorities, of Debian's package ca-certificates.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Printed by the guest when it is done, before the exit status of all of it.
pub(super) const DONE: &str = "[done] ";

/// What a guest has and does besides what all of them have and do.
pub(super) struct Contents {
    /// Our programs, which are where they are outside too.
    pub(super) programs: Vec<PathBuf>,
    /// Names of programs of this machine, which come into the guest's path.
    pub(super) tools: Vec<&'static str>,
    /// Other files, where they are outside too.
    pub(super) files: Vec<PathBuf>,
    /// Names of kernel modules.
    pub(super) modules: Vec<&'static str>,
    /// What the guest runs, in a shell, after its file systems are mounted. It sets `failed` when something has.
    pub(super) script: String,
}

/// Makes the archive and returns its path.
pub(super) fn build(kernel: &Kernel, contents: &Contents) -> Result<PathBuf> {
    let mut archive = Cpio::default();
    let busybox = Path::new("/bin/busybox");
    archive.add_file("bin/busybox", &read(busybox)?);
    for tool in TOOLS.iter().chain(&contents.tools) {
        let path = setup::on_path(tool).with_context(|| format!("{tool} is not installed"))?;
        archive.add_program(&format!("usr/bin/{tool}"), &path, read(&path)?)?;
    }
    for program in &contents.programs {
        archive.add_program(&inside(program), program, stripped(program)?)?;
    }
    for file in &contents.files {
        archive.add_file(&inside(file), &read(file)?);
    }
    // What an HTTP client will not start without, even if it never speaks TLS.
    archive.add_file(
        CERTIFICATES.trim_start_matches('/'),
        &read(Path::new(CERTIFICATES))?,
    );
    let mut load = String::new();
    let wanted = MODULES.iter().chain(&contents.modules).copied();
    for (name, content) in modules(wanted, &kernel.modules()?)? {
        archive.add_file(&format!("modules/{name}.ko"), &content);
        load += &format!("insmod /modules/{name}.ko\n");
    }
    let needs = needs(&kernel.configuration()?);
    archive.add_file("init", INIT.as_bytes());
    archive.add_file("main", main(&load, &needs, &contents.script).as_bytes());
    let path = kernel.folder.with_extension("initramfs");
    fs::write(&path, archive.finish()).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The guest's first process. Containers get roots of their own, which the kernel lets nobody have whose own is that of the
/// initramfs itself: so it becomes another mount of the same.
const INIT: &str = "#!/bin/busybox sh\n\
    /bin/busybox mkdir -p /root\n\
    /bin/busybox mount -o bind / /root\n\
    cd /root\n\
    /bin/busybox mount -o move . /\n\
    exec /bin/busybox chroot . /main\n";

/// What it becomes.
fn main(load: &str, needs: &str, script: &str) -> String {
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mkdir -p /proc /sys /dev /tmp /run /sbin /var /etc\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/usr/bin:/bin RUST_BACKTRACE=1 {NEEDS}='{needs}'\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sys /sys\n\
         mount -t devtmpfs dev /dev\n\
         mount -t tmpfs tmp /tmp\n\
         mount -t tmpfs run /run\n\
         mount -t tmpfs var /var\n\
         mkdir -p /var/lib\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         mount -t bpf bpf /sys/fs/bpf\n\
         ip link set lo up\n\
         {load}\
         failed=0\n\
         {script}\n\
         echo \"{DONE}$failed\"\n\
         poweroff -f\n"
    )
}

/// What of [`OPTIONS`] a configuration has, built in or as a module.
fn needs(configuration: &str) -> String {
    let has = |option: &str| {
        let values = ["y", "m"].map(|value| format!("{option}={value}"));
        configuration
            .lines()
            .any(|line| values.iter().any(|value| line == value))
    };
    let names = OPTIONS
        .iter()
        .filter(|(_, option)| has(option))
        .map(|(name, _)| *name);
    names.collect::<Vec<_>>().join(" ")
}

fn inside(path: &Path) -> String {
    path.strip_prefix("/").unwrap_or(path).display().to_string()
}

/// The modules with all that they depend on, in the order in which they are loaded.
fn modules(wanted: impl Iterator<Item = &'static str>, folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    find_modules(folder, &mut files)?;
    let mut ordered = Vec::new();
    let mut seen = BTreeSet::new();
    for name in wanted {
        add_module(name, &files, &mut seen, &mut ordered)?;
    }
    Ok(ordered)
}

fn add_module(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    seen: &mut BTreeSet<String>,
    ordered: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    // What is no file is built into the kernel.
    let Some(path) = files.get(name) else {
        return Ok(());
    };
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let content = if path.extension().is_some_and(|extension| extension == "xz") {
        let mut unpack = Command::new("xz");
        captured(unpack.args(["--decompress", "--stdout"]).arg(path))?
    } else {
        read(path)?
    };
    for dependency in dependencies(&content) {
        add_module(&dependency, files, seen, ordered)?;
    }
    ordered.push((name.to_owned(), content));
    Ok(())
}

/// The modules that a module names in its section `.modinfo`, which is a list of terminated strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(start) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let list = module[start + key.len()..].split(|&byte| byte == 0).next();
    let list = String::from_utf8_lossy(list.unwrap_or_default());
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// Every module below a folder by its name, in which the kernel knows no dashes.
fn find_modules(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("read {}", folder.display()))?
            .path();
        if path.is_dir() && !path.is_symlink() {
            find_modules(&path, files)?;
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some((name, _)) = name.split_once(".ko") {
            files.insert(name.replace('-', "_"), path.clone());
        }
    }
    Ok(())
}

/// The program without what only debuggers read: two thirds of a debug build.
fn stripped(path: &Path) -> Result<Vec<u8>> {
    // Kernels may be tested by several processes at once.
    let small = path.with_extension(format!("{}.stripped", process::id()));
    captured(Command::new("strip").arg("-o").arg(&small).arg(path))?;
    let content = read(&small);
    fs::remove_file(&small).with_context(|| format!("remove {}", small.display()))?;
    content
}

fn captured(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", error.trim());
    Ok(output.stdout)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// An archive in the one format that Linux unpacks at start: cpio's "newc", each header thirteen numbers of eight
/// hexadecimal digits after a magic number, everything padded to four bytes.
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    /// Paths that are in it.
    paths: BTreeSet<String>,
}

impl Cpio {
    const DIRECTORY: u32 = 0o040_755;
    const FILE: u32 = 0o100_755;

    /// Adds a program with the libraries that it is started with.
    fn add_program(&mut self, inside: &str, path: &Path, content: Vec<u8>) -> Result<()> {
        self.add_file(inside, &content);
        for library in images::libraries(path)? {
            self.add_file(library.trim_start_matches('/'), &read(Path::new(&library))?);
        }
        Ok(())
    }

    /// Adds a file, and the folders above it. A path that is there already is left alone.
    fn add_file(&mut self, path: &str, content: &[u8]) {
        for (end, _) in path.match_indices('/') {
            self.add(&path[..end], Self::DIRECTORY, &[]);
        }
        self.add(path, Self::FILE, content);
    }

    fn add(&mut self, path: &str, mode: u32, content: &[u8]) {
        if !self.paths.insert(path.to_owned()) {
            return;
        }
        let inode = self.paths.len();
        self.header(path, inode, mode, content.len());
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn header(&mut self, path: &str, inode: usize, mode: u32, size: usize) {
        let links = 1;
        let name_size = path.len() + 1;
        // Owner, group, time, and the numbers of the device it is on and of the one it is, are all zero.
        let fields = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
            0
        );
        // Writing to a vector cannot fail.
        let _ = write!(self.bytes, "{fields}{path}\0");
        self.pad();
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.header("TRAILER!!!", 0, 0, 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_read_by_cpios_rules() {
        let mut archive = Cpio::default();
        archive.add_file("a/b", b"hello");
        archive.add_file("a/b", b"ignored");
        let bytes = archive.finish();
        let mut entries = Vec::new();
        let mut rest = bytes.as_slice();
        loop {
            assert_eq!(&rest[..6], b"070701");
            let field = |number: usize| {
                let digits = &rest[6 + number * 8..14 + number * 8];
                usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&rest[110..110 + name_size - 1]).unwrap();
            let start = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                break;
            }
            entries.push((name.to_owned(), mode, rest[start..start + size].to_vec()));
            rest = &rest[start + size.next_multiple_of(4)..];
        }
        let expected = [
            ("a".to_owned(), 0o040_755, Vec::new()),
            ("a/b".to_owned(), 0o100_755, b"hello".to_vec()),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn tests_need_what_a_kernel_was_built_with() {
        let configuration = "CONFIG_IP_SCTP=m\n# CONFIG_NETKIT is not set\nCONFIG_NETKIT_OTHER=y\n";
        assert_eq!(needs(configuration), "SCTP");
        assert_eq!(needs("CONFIG_NETKIT=y\nCONFIG_IP_SCTP=m\n"), "netkit SCTP");
        assert_eq!(needs(""), "");
    }

    #[test]
    fn a_module_names_what_it_depends_on() {
        let module = b"\x7fELF...\0license=GPL\0depends=udp_tunnel,ip6_udp_tunnel\0name=vxlan\0";
        assert_eq!(dependencies(module), ["udp_tunnel", "ip6_udp_tunnel"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }
}
