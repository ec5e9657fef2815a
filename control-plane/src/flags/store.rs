//! Where everything is stored.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use clap::Args;
use store::{EmbeddedOptions, EtcdOptions, EtcdTls};

use super::duration;

/// The embedded store, or etcd.
#[derive(Debug, Args)]
pub(crate) struct StoreFlags {
    /// Where the embedded store keeps its file (in DIR/store).
    #[arg(long, value_name = "DIR", default_value = "/var/lib/orlop")]
    pub(crate) data_dir: PathBuf,
    /// The client URLs of an etcd cluster (3.4 or newer) to use instead of the embedded store.
    #[arg(long, value_name = "URL[,URL]", value_delimiter = ',')]
    pub(crate) etcd_servers: Vec<String>,
    /// The certificates that etcd's are checked against.
    #[arg(long, value_name = "FILE", requires = "etcd_servers")]
    pub(crate) etcd_cafile: Option<PathBuf>,
    /// The certificate shown to etcd.
    #[arg(long, value_name = "FILE", requires_all = ["etcd_servers", "etcd_keyfile"])]
    pub(crate) etcd_certfile: Option<PathBuf>,
    /// The key of the certificate shown to etcd.
    #[arg(long, value_name = "FILE", requires_all = ["etcd_servers", "etcd_certfile"])]
    pub(crate) etcd_keyfile: Option<PathBuf>,
    /// What all keys in etcd begin with.
    #[arg(long, value_name = "PREFIX", default_value = "/registry")]
    pub(crate) etcd_prefix: String,
    /// How often old history is compacted, such as 5m; 0 leaves that, in etcd, to others. It goes for the embedded store too.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(crate) etcd_compaction_interval: Duration,
}

impl StoreFlags {
    /// The embedded store's directory.
    pub(crate) fn embedded_dir(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    /// How to open the embedded store.
    pub(crate) fn embedded(&self) -> EmbeddedOptions {
        EmbeddedOptions {
            compaction_interval: self.compaction_interval(),
            ..EmbeddedOptions::new(self.embedded_dir())
        }
    }

    fn compaction_interval(&self) -> Option<Duration> {
        let interval = self.etcd_compaction_interval;
        (!interval.is_zero()).then_some(interval)
    }

    /// How to reach etcd, if that is the store.
    pub(crate) fn etcd(&self) -> anyhow::Result<Option<EtcdOptions>> {
        if self.etcd_servers.is_empty() {
            return Ok(None);
        }
        let secure = self.etcd_servers.iter().find(|url| url.starts_with("https://"));
        let client_files = self.etcd_certfile.clone().zip(self.etcd_keyfile.clone());
        let tls = match (&self.etcd_cafile, secure) {
            (Some(ca_file), _) => Some(EtcdTls {
                ca_file: ca_file.clone(),
                client_files,
            }),
            (None, Some(url)) => bail!("--etcd-servers {url} needs --etcd-cafile"),
            (None, None) => None,
        };
        Ok(Some(EtcdOptions {
            tls,
            prefix: self.etcd_prefix.clone(),
            compaction_interval: self.compaction_interval(),
            ..EtcdOptions::new(self.etcd_servers.clone())
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::flags::Cli;

    #[test]
    fn etcd_flags() {
        let parse =
            |flags: &str| Cli::try_parse_from(["control-plane"].into_iter().chain(flags.split_whitespace()));
        let options = |flags: &str| parse(flags).unwrap().apiserver.store.etcd();
        assert!(options("").unwrap().is_none());
        let plain = options("--etcd-servers http://a:2379,http://b:2379")
            .unwrap()
            .unwrap();
        assert_eq!(plain.endpoints, ["http://a:2379", "http://b:2379"]);
        assert_eq!(
            (plain.prefix.as_str(), plain.compaction_interval),
            ("/registry", Some(Duration::from_secs(300)))
        );
        let embedded = |flags: &str| {
            parse(flags)
                .unwrap()
                .apiserver
                .store
                .embedded()
                .compaction_interval
        };
        assert_eq!(embedded(""), Some(Duration::from_secs(300)));
        assert_eq!(
            embedded("--etcd-compaction-interval 90s"),
            Some(Duration::from_secs(90))
        );
        assert_eq!(embedded("--etcd-compaction-interval 0"), None);
        let never = options("--etcd-servers http://a:2379 --etcd-compaction-interval 0 --etcd-prefix /x");
        let never = never.unwrap().unwrap();
        assert_eq!((never.prefix.as_str(), never.compaction_interval), ("/x", None));
        let error = options("--etcd-servers https://a:2379").unwrap_err().to_string();
        assert!(error.contains("--etcd-cafile"), "{error}");
        let files = "--etcd-cafile ca --etcd-certfile cert --etcd-keyfile key";
        let tls = options(&format!("--etcd-servers https://a:2379 {files}"))
            .unwrap()
            .unwrap()
            .tls
            .unwrap();
        assert_eq!(tls.client_files, Some(("cert".into(), "key".into())));
        assert!(parse(files).is_err(), "files without servers");
        assert!(parse("--etcd-servers https://a --etcd-cafile ca --etcd-certfile cert").is_err());
    }
}
