//! How many packets were dropped, and why.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use proxy_ebpf_common::{DropCount, DropReason, maps};

/// What the programs have counted since the maps were made, for every reason, of all CPUs together.
pub fn read(maps_dir: &Path) -> Result<Vec<(DropReason, DropCount)>> {
    let path = maps_dir.join(maps::DROPS);
    let data = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
    let counts = PerCpuArray::<_, DropCount>::try_from(Map::PerCpuArray(data))
        .with_context(|| format!("{} is no array of counts", path.display()))?;
    DropReason::ALL
        .into_iter()
        .map(|reason| {
            let by_cpu = counts
                .get(&(reason as u32), 0)
                .with_context(|| format!("read {}", path.display()))?;
            Ok((reason, sum(&by_cpu)))
        })
        .collect()
}

fn sum(by_cpu: &[DropCount]) -> DropCount {
    by_cpu
        .iter()
        .fold(DropCount::default(), |total, count| DropCount {
            packets: total.packets.wrapping_add(count.packets),
            bytes: total.bytes.wrapping_add(count.bytes),
        })
}
