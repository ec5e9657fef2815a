//! `corpus list`, `corpus unpack TARGET DIRECTORY`, `corpus pack TARGET DIRECTORY`: between the repository's form of a corpus
//! and libFuzzer's, a file for each entry.

use std::{env, fs, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use fuzz::{TARGETS, corpus};

fn main() -> ExitCode {
    match run(&env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["list"] => TARGETS.iter().for_each(|target| println!("{}", target.name)),
        ["unpack", target, directory] => {
            let directory = Path::new(directory);
            fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
            for (number, entry) in corpus::read(target)?.iter().enumerate() {
                let path = directory.join(format!("{number:05}"));
                fs::write(&path, entry).with_context(|| format!("write {}", path.display()))?;
            }
        }
        ["pack", target, directory] => {
            let mut entries = corpus::read(target)?;
            for file in fs::read_dir(directory).with_context(|| format!("read {directory}"))? {
                let path = file?.path();
                entries.push(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
            }
            corpus::write(target, entries)?;
        }
        _ => bail!("usage: corpus list | unpack TARGET DIRECTORY | pack TARGET DIRECTORY"),
    }
    Ok(())
}
