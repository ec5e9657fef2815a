//! OCI archives of our own programs: no image registry is asked, and the same inputs give the same bytes.
//!
//! An image is a list of files. What comes out is an OCI image layout in a tar archive, which `ctr images import` takes and
//! names after the annotation in its index.

use std::{
    collections::BTreeMap,
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::build;

/// The image of every pod's sandbox.
pub(crate) const PAUSE_IMAGE: &str = "localhost/orlop/pause:1";
/// A server and a client for trying things out, with busybox around them.
pub(crate) const TEST_IMAGE: &str = "localhost/orlop/test:1";

/// The static busybox of Debian's package busybox-static.
const BUSYBOX: &str = "/bin/busybox";

/// What [`build`] made.
pub(crate) struct Images {
    /// An archive per image.
    pub(crate) archives: Vec<PathBuf>,
}

/// Builds the programs and writes the archives into `out_dir`. An archive that would be the same is left untouched, so that
/// its time tells whether it has to be imported again.
pub(crate) fn build(out_dir: &Path) -> Result<Images> {
    let program = static_program("test-image")?;
    let images = [
        ("pause", pause_image(program.clone())),
        ("test", test_image(program)?),
    ];
    write(out_dir, &images)
}

/// Writes an archive for each of our own programs, from the directory that they were built into. They carry the shared
/// libraries of the machine that linked them: what runs is what was built. The network plugin has none, since it is copied out
/// of its image onto nodes that may have others.
pub(crate) fn programs(directory: &Path, out_dir: &Path) -> Result<Images> {
    let mut proxy = program_image(directory, "proxy-ebpf")?;
    let plugin = build::plugin()?;
    proxy.add("opt/cni/bin/orlop-cni", Entry::File(plugin, 0o755));
    let images = [
        ("control-plane", program_image(directory, "control-plane")?),
        ("kubelet", program_image(directory, "kubelet")?),
        ("proxy-ebpf", proxy),
    ];
    write(out_dir, &images)
}

fn write(out_dir: &Path, images: &[(&str, Image)]) -> Result<Images> {
    fs::create_dir_all(out_dir).with_context(|| format!("create {}", out_dir.display()))?;
    let mut archives = Vec::new();
    for (name, image) in images {
        let path = out_dir.join(format!("{name}.tar"));
        let archive = image.archive()?;
        if fs::read(&path).is_ok_and(|current| current == archive) {
            archives.push(path);
            continue;
        }
        let temporary = path.with_extension("new");
        fs::write(&temporary, archive).with_context(|| format!("write {}", temporary.display()))?;
        fs::rename(&temporary, &path).with_context(|| format!("write {}", path.display()))?;
        archives.push(path);
    }
    Ok(Images { archives })
}

/// The image `localhost/orlop/<name>:1`: the program at `/usr/bin`, and its libraries.
fn program_image(directory: &Path, name: &str) -> Result<Image> {
    let mut image = Image::new(&format!("localhost/orlop/{name}:1"));
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let program = directory.join(name);
    image.add(&format!("usr/bin/{name}"), Entry::File(read(&program)?, 0o755));
    for library in libraries(&program)? {
        let inside = library.trim_start_matches('/');
        image.add(inside, Entry::File(read(Path::new(&library))?, 0o755));
    }
    image.entrypoint = vec![format!("/usr/bin/{name}")];
    Ok(image)
}

/// The shared libraries, and the loader, that a program is started with.
pub(crate) fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `name => /path (address)`, or `/path (address)` for the loader; the kernel's own vdso has no path.
    let paths = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(str::to_owned).collect())
}

fn pause_image(program: Vec<u8>) -> Image {
    let mut image = Image::new(PAUSE_IMAGE);
    image.add("pause", Entry::File(program, 0o755));
    image.entrypoint = vec!["/pause".to_owned()];
    image
}

fn test_image(program: Vec<u8>) -> Result<Image> {
    let mut image = Image::new(TEST_IMAGE);
    image.add("test", Entry::File(program, 0o755));
    image.entrypoint = vec!["/test".to_owned()];
    image.command = vec!["serve".to_owned()];
    let busybox = fs::read(BUSYBOX)
        .with_context(|| format!("read {BUSYBOX}, which comes with the package busybox-static"))?;
    if is_dynamic(&busybox) {
        bail!(
            "{BUSYBOX} needs shared libraries, which the image does not have: install the package busybox-static"
        );
    }
    image.add("bin/busybox", Entry::File(busybox, 0o755));
    for applet in applets()? {
        image.add(&format!("bin/{applet}"), Entry::Symlink("busybox".to_owned()));
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    image.add("etc/passwd", Entry::File(passwd.into(), 0o644));
    image.add(
        "etc/group",
        Entry::File("root:x:0:\nnogroup:x:65534:\n".into(), 0o644),
    );
    image.add("root", Entry::Directory(0o700));
    image.add("tmp", Entry::Directory(0o1777));
    Ok(image)
}

/// The commands that this busybox has.
fn applets() -> Result<Vec<String>> {
    let output = Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .with_context(|| format!("start {BUSYBOX}"))?;
    let text = String::from_utf8(output.stdout).context("read the list of busybox's commands")?;
    Ok(text
        .lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect())
}

/// Builds one of our programs without any shared library and returns it.
fn static_program(package: &str) -> Result<Vec<u8>> {
    let target = format!("{ARCH}-unknown-linux-gnu");
    // With --target the flags reach the program alone, not the build scripts and macros, and its artifacts have a directory
    // of their own: neither build makes the other start over.
    build::cargo(&[
        "build",
        "--release",
        "--package",
        package,
        "--target",
        &target,
        "--config",
        &format!("target.{target}.rustflags=['-Ctarget-feature=+crt-static']"),
    ])?;
    let path = static_path(package);
    let program = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    if is_dynamic(&program) {
        bail!("{} was not linked statically", path.display());
    }
    Ok(program)
}

/// Where [`build`] leaves the test image's program, which runs anywhere.
pub(crate) fn test_program() -> PathBuf {
    static_path("test-image")
}

fn static_path(package: &str) -> PathBuf {
    let target = format!("{ARCH}-unknown-linux-gnu");
    build::target().join(target).join("release").join(package)
}

/// Whether the program names a dynamic loader.
fn is_dynamic(program: &[u8]) -> bool {
    let loader = b"/ld-linux";
    program.windows(loader.len()).any(|window| window == loader)
}

/// Something in an image's file system.
#[derive(Debug, Clone)]
enum Entry {
    /// A directory with its mode.
    Directory(u32),
    /// A file's content and mode.
    File(Vec<u8>, u32),
    /// A symbolic link's target.
    Symlink(String),
}

/// An image of one layer.
#[derive(Debug, Clone)]
struct Image {
    reference: String,
    /// By path without a leading slash. Sorted, so that directories come before what is in them.
    entries: BTreeMap<String, Entry>,
    entrypoint: Vec<String>,
    command: Vec<String>,
}

impl Image {
    fn new(reference: &str) -> Self {
        Image {
            reference: reference.to_owned(),
            entries: BTreeMap::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
        }
    }

    /// Adds an entry, and the directories above it that are not there yet.
    fn add(&mut self, path: &str, entry: Entry) {
        for (end, _) in path.match_indices('/') {
            self.entries
                .entry(path[..end].to_owned())
                .or_insert(Entry::Directory(0o755));
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The OCI layout as a tar archive.
    fn archive(&self) -> Result<Vec<u8>> {
        let layer = tar(&self.entries)?;
        let architecture = match ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let mut blobs = Blobs::default();
        // Not compressed: the layer's digest is also the one of its content, and importing is as fast as copying.
        let layer = blobs.add("application/vnd.oci.image.layer.v1.tar", layer);
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask images" }],
        });
        let config = blobs.add(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().into(),
        );
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [layer],
        });
        let mut manifest = blobs.add(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().into(),
        );
        let tag = self.reference.rsplit(':').next().unwrap_or_default();
        manifest["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": tag,
        });
        manifest["platform"] = json!({ "architecture": architecture, "os": "linux" });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        let mut files = blobs.files;
        files.insert(
            "index.json".to_owned(),
            Entry::File(index.to_string().into(), 0o644),
        );
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        files.insert(
            "oci-layout".to_owned(),
            Entry::File(layout.to_string().into(), 0o644),
        );
        for directory in ["blobs", "blobs/sha256"] {
            files.insert(directory.to_owned(), Entry::Directory(0o755));
        }
        tar(&files)
    }
}

/// The content-addressed files of an image layout.
#[derive(Default)]
struct Blobs {
    files: BTreeMap<String, Entry>,
}

impl Blobs {
    /// Adds a blob and returns its descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = hex::encode(Sha256::digest(&content));
        let descriptor =
            json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len() });
        self.files
            .insert(format!("blobs/sha256/{digest}"), Entry::File(content, 0o644));
        descriptor
    }
}

/// A tar archive of the entries in order, all owned by root and made at the epoch.
fn tar(entries: &BTreeMap<String, Entry>) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let added = match entry {
            Entry::Directory(mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                header.set_size(0);
                archive.append_data(&mut header, format!("{path}/"), &[][..])
            }
            Entry::File(content, mode) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(*mode);
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, path, content.as_slice())
            }
            Entry::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                archive.append_link(&mut header, path, target)
            }
        };
        added.with_context(|| format!("add {path} to the archive"))?;
    }
    archive.into_inner().context("finish the archive")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn image() -> Image {
        let mut image = Image::new("localhost/orlop/x:7");
        image.add("etc/deep/file", Entry::File(b"hello".to_vec(), 0o640));
        image.add("tmp", Entry::Directory(0o1777));
        image.add("bin/sh", Entry::Symlink("busybox".to_owned()));
        image.entrypoint = vec!["/x".to_owned()];
        image
    }

    /// Path, mode, kind and content of each entry.
    fn read(archive: &[u8]) -> Vec<(String, u32, tar::EntryType, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let path = entry.path().unwrap().display().to_string();
            (
                path,
                entry.header().mode().unwrap(),
                entry.header().entry_type(),
                content,
            )
        });
        entries.collect()
    }

    #[test]
    fn an_archive_is_the_same_every_time() {
        assert_eq!(image().archive().unwrap(), image().archive().unwrap());
    }

    #[test]
    fn a_layer_has_parents_first_and_modes_kept() {
        let entries = read(&tar(&image().entries).unwrap());
        let paths: Vec<&str> = entries.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(
            paths,
            ["bin/", "bin/sh", "etc/", "etc/deep/", "etc/deep/file", "tmp/"]
        );
        assert_eq!(entries[1].2, tar::EntryType::Symlink);
        assert_eq!((entries[4].1, entries[4].3.as_slice()), (0o640, &b"hello"[..]));
        assert_eq!(entries[5].1, 0o1777);
    }

    #[test]
    fn every_descriptor_leads_to_its_blob() {
        let files: BTreeMap<String, Vec<u8>> = read(&image().archive().unwrap())
            .into_iter()
            .map(|(path, _, _, content)| (path, content))
            .collect();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"]
                .as_str()
                .unwrap()
                .strip_prefix("sha256:")
                .unwrap();
            let content = &files[&format!("blobs/sha256/{digest}")];
            assert_eq!(hex::encode(Sha256::digest(content)), digest);
            assert_eq!(descriptor["size"], content.len());
            content.clone()
        };
        let parse = |content: &[u8]| serde_json::from_slice::<Value>(content).unwrap();
        assert_eq!(parse(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");
        let index = parse(&files["index.json"]);
        let entry = &index["manifests"][0];
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "localhost/orlop/x:7"
        );
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "7");
        let manifest = parse(&blob(entry));
        let config = parse(&blob(&manifest["config"]));
        blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(config["config"]["Entrypoint"], json!(["/x"]));
    }
}
