//! Debian's kernels: which there are, and how they are fetched without installing them.
//!
//! `apt` does the fetching, with a list of sources and a cache of its own below `.orlop/kernels`, so that the machine's
//! are not touched. The mirror is the one that the machine uses.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::build;

/// A line of stable kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series {
    version: (u16, u16),
    /// The Debian release that has it as its own.
    release: &'static str,
}

impl Series {
    /// The oldest that is supported, and those that most machines run.
    pub(crate) const ALL: [Self; 3] = [
        Self::new((5, 10), "bullseye"),
        Self::new((6, 1), "bookworm"),
        Self::new((6, 12), "trixie"),
    ];

    const fn new(version: (u16, u16), release: &'static str) -> Self {
        Self { version, release }
    }

    /// Whether a package is an unsigned-by-others, ready-to-boot kernel of this series for virtual machines.
    fn has(self, package: &str) -> bool {
        package
            .strip_prefix("linux-image-")
            .and_then(|rest| rest.strip_suffix("-cloud-amd64"))
            .and_then(|version| version.strip_prefix(&format!("{self}.")))
            // `6.12-cloud-amd64` is a name for the newest; backports to other releases carry their number.
            .is_some_and(|version| {
                version.starts_with(|first: char| first.is_ascii_digit()) && self.is_own(version)
            })
    }

    fn is_own(self, version: &str) -> bool {
        let backported = [".deb", "+deb", "~bpo"].iter().any(|mark| version.contains(mark));
        !backported || (self.release == "trixie" && version.contains("+deb13"))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.version.0, self.version.1)
    }
}

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|series| series.to_string() == text);
        let known = || Self::ALL.map(|series| series.to_string()).join(", ");
        found.ok_or_else(|| format!("no such series; there are {}", known()))
    }
}

/// A kernel that was fetched and unpacked.
pub(crate) struct Kernel {
    pub(crate) series: Series,
    pub(crate) package: String,
    /// What the package has in its root.
    pub(crate) folder: PathBuf,
}

impl Kernel {
    /// The compressed image.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder
            .join("boot")
            .join(format!("vmlinuz-{}", self.release()))
    }

    /// What it was built with, in lines `CONFIG_X=y`.
    pub(crate) fn configuration(&self) -> Result<String> {
        let path = self
            .folder
            .join("boot")
            .join(format!("config-{}", self.release()));
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// The modules' folder. Newer packages have it below /usr.
    pub(crate) fn modules(&self) -> Result<PathBuf> {
        let folders = ["usr/lib/modules", "lib/modules"];
        let mut folders = folders
            .map(|lib| self.folder.join(lib).join(self.release()))
            .into_iter();
        folders
            .find(|folder| folder.is_dir())
            .with_context(|| format!("{} has no modules", self.package))
    }

    fn release(&self) -> &str {
        self.package.strip_prefix("linux-image-").unwrap_or(&self.package)
    }
}

/// The newest kernel of each series, fetched unless it is there already.
pub(crate) fn fetch(series: &[Series], update: bool) -> Result<Vec<Kernel>> {
    let cache = build::root().join(".orlop/kernels");
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let mut apt = None;
    let mut kernels = Vec::new();
    for &series in series {
        let cached = unpacked(&cache)?
            .into_iter()
            .filter(|name| series.has(name))
            .max_by(newer);
        let package = match cached {
            Some(package) if !update => package,
            _ => {
                if apt.is_none() {
                    apt = Some(Apt::update(&cache)?);
                }
                let apt = apt.as_ref().context("the lists were read above")?;
                let package = apt.newest(series)?;
                apt.unpack(&package, &cache)?;
                package
            }
        };
        kernels.push(Kernel {
            series,
            folder: cache.join(&package),
            package,
        });
    }
    Ok(kernels)
}

/// The packages that were unpacked before.
fn unpacked(cache: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(cache).with_context(|| format!("read {}", cache.display()))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}

/// Orders package names by the numbers in them.
#[expect(clippy::ptr_arg, reason = "it is handed to an iterator over strings")]
fn newer(left: &String, right: &String) -> std::cmp::Ordering {
    let numbers = |name: &str| -> Vec<u64> {
        let numbers = name.split(|character: char| !character.is_ascii_digit());
        numbers.filter_map(|number| number.parse().ok()).collect()
    };
    numbers(left).cmp(&numbers(right))
}

/// apt, with lists and sources of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Reads the lists of all releases that a series comes from.
    fn update(cache: &Path) -> Result<Self> {
        let apt = Self {
            folder: cache.join(".apt"),
        };
        for folder in ["lists/partial", "archives/partial"] {
            let folder = apt.folder.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let mut sources = String::new();
        for (site, suffix) in mirrors()? {
            for series in Series::ALL {
                sources += &format!("deb {site} {}{suffix} main\n", series.release);
            }
        }
        let path = apt.sources();
        fs::write(&path, sources).with_context(|| format!("write {}", path.display()))?;
        println!("reading the lists of Debian's kernels");
        apt.run("apt-get", &["update", "-qq"], cache)?;
        Ok(apt)
    }

    fn newest(&self, series: Series) -> Result<String> {
        let names = self.run("apt-cache", &["pkgnames", "linux-image-"], &self.folder)?;
        let names = names.lines().map(str::to_owned).filter(|name| series.has(name));
        names
            .max_by(newer)
            .with_context(|| format!("the mirror has no kernel of the series {series}"))
    }

    /// Downloads a package and unpacks it into a folder of its name, all of it or nothing.
    fn unpack(&self, package: &str, cache: &Path) -> Result<()> {
        let folder = cache.join(package);
        if folder.is_dir() {
            return Ok(());
        }
        println!("fetching {package}");
        let archives = self.folder.join("archives");
        self.run("apt-get", &["download", "-qq", package], &archives)?;
        let archive = fs::read_dir(&archives)
            .with_context(|| format!("read {}", archives.display()))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get has downloaded no archive of {package}"))?;
        let partial = self.folder.join("unpacked");
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
        }
        let mut unpack = Command::new("dpkg-deb");
        output(unpack.arg("--extract").arg(&archive).arg(&partial))?;
        fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
        fs::rename(&partial, &folder).with_context(|| format!("create {}", folder.display()))
    }

    fn run(&self, program: &str, arguments: &[&str], folder: &Path) -> Result<String> {
        let setting = |name: &str, value: PathBuf| format!("{name}={}", value.display());
        let settings = [
            setting("Dir::Etc::SourceList", self.sources()),
            setting("Dir::Etc::SourceParts", "/dev/null".into()),
            setting("Dir::State::Lists", self.folder.join("lists")),
            setting("Dir::Cache", self.folder.clone()),
            "Acquire::Languages=none".to_owned(),
            // The folder belongs to whoever runs this, who need not let apt's own user into it.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder);
        for setting in settings {
            command.args(["-o", &setting]);
        }
        output(&mut command)
    }

    fn sources(&self) -> PathBuf {
        self.folder.join("sources.list")
    }
}

/// The machine's mirrors of Debian's archive, with what is appended to the names of its releases there.
fn mirrors() -> Result<Vec<(String, &'static str)>> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(ORIGIN) $(RELEASE) $(SITE)"]);
    let targets = output(&mut command)?;
    let mut mirrors: Vec<_> = targets
        .lines()
        .filter_map(|line| {
            let [origin, release, site] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let suffix = match release.split_once('-') {
                None => "",
                Some((_, "security")) => "-security",
                Some(_) => return None,
            };
            (origin == "Debian").then(|| (site.to_owned(), suffix))
        })
        .collect();
    mirrors.sort_unstable();
    mirrors.dedup();
    ensure!(
        !mirrors.is_empty(),
        "apt knows no mirror of Debian, whose kernels are booted: run this on Debian, after `apt-get update`"
    );
    Ok(mirrors)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {command:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_has_its_releases_own_kernels() {
        let rows = [
            ("5.10", "linux-image-5.10.0-46-cloud-amd64", true),
            ("5.10", "linux-image-5.10.0-46-amd64", false),
            ("6.1", "linux-image-6.1.0-56-cloud-amd64", true),
            ("6.1", "linux-image-6.1.0-0.deb11.52-cloud-amd64", false),
            ("6.1", "linux-image-6.12.118+deb13-cloud-amd64", false),
            ("6.1", "linux-image-6.1-cloud-amd64", false),
            ("6.12", "linux-image-6.12.118+deb13-cloud-amd64", true),
            ("6.12", "linux-image-6.12.117+deb12-cloud-amd64", false),
            ("6.12", "linux-image-6.12-cloud-amd64", false),
        ];
        for (series, package, expected) in rows {
            let series: Series = series.parse().unwrap();
            assert_eq!(series.has(package), expected, "{series} {package}");
        }
        assert!("5.4".parse::<Series>().is_err());
    }

    #[test]
    fn names_are_ordered_by_number() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ];
        let newest = names.map(str::to_owned).into_iter().max_by(newer);
        assert_eq!(newest.as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
    }
}
