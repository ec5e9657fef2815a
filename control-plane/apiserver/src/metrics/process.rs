//! This process as the kernel sees it.

use std::fs;

/// What every Go program's `/metrics` tells of its process.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) start_seconds: f64,
    pub(super) open_files: u64,
}

/// The kernel reports times in hundredths of a second, whatever its own clock is.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

impl Process {
    /// Reads `/proc`; what cannot be read is 0.
    pub(super) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Process {
            open_files: fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
            ..parse(&text("/proc/self/stat"), &text("/proc/stat")).unwrap_or_default()
        }
    }
}

/// Reads `/proc/self/stat` and the boot time in `/proc/stat`.
fn parse(stat: &str, system: &str) -> Option<Process> {
    // The second field is the program's name in parentheses, which may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(Process {
        cpu_seconds: (number(14)? + number(15)?) as f64 / TICKS_PER_SECOND,
        start_seconds: boot.trim().parse::<f64>().ok()? + number(22)? as f64 / TICKS_PER_SECOND,
        virtual_bytes: number(23)?,
        resident_bytes: number(24)? * PAGE_BYTES,
        open_files: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_behind_the_name() {
        let stat =
            "1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 5 0 1000 8192 3 18446744073709551615";
        let process = parse(stat, "cpu 1\nbtime 1700000000\n").unwrap();
        assert_eq!(
            (process.cpu_seconds, process.start_seconds),
            (2.0, 1_700_000_010.0)
        );
        assert_eq!((process.virtual_bytes, process.resident_bytes), (8192, 12288));
        assert_eq!(parse("", ""), None);
        assert!(Process::read().resident_bytes > 0);
    }
}
