//! What an agent has pinned, for those who look: nothing here changes a table, and no agent has to run.
//!
//! Each part reads maps into plain values, which serialize to JSON and print as a table.

pub mod connections;
pub mod drops;
pub mod monitor;
pub mod services;
pub mod status;
pub mod trace;

use std::{fmt::Display, path::Path};

use anyhow::{Context as _, Result};

use crate::{apply::Maps, pins};

/// Opens the maps below `bpf_dir`; the error says what is likely wrong.
pub fn open(bpf_dir: &Path) -> Result<Maps> {
    let dir = pins::maps_of(bpf_dir);
    Maps::open(&dir).with_context(|| {
        format!(
            "no maps below {}: has proxy-ebpf run with this --bpf-dir, and are you root?",
            bpf_dir.display()
        )
    })
}

/// Rows below their heads, each column as wide as its widest cell.
fn columns<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heads.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let padded = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    };
    line(heads);
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
    text
}

/// The name of a network device of this namespace.
fn device_name(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?.into_string().ok()?;
    (!name.is_empty()).then_some(name)
}

/// Texts with commas between, or `none`.
fn list<T: Display>(items: impl IntoIterator<Item = T>, none: &str) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    match items.as_slice() {
        [] => none.to_owned(),
        items => items.join(", "),
    }
}
