//! The blocks that are in the journal, or are about to be, and not in their place yet.

use std::{collections::HashMap, io, sync::Arc};

use super::BLOCK;

pub(super) type Block = [u8; BLOCK];

/// Blocks by their number.
pub(super) type Blocks = HashMap<u64, Arc<Block>>;

/// What hides the file's content.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// What has been written since the journal's last change of segments.
    active: Blocks,
    /// What is being put into its place.
    frozen: Arc<Blocks>,
}

impl Overlay {
    pub(super) fn get(&self, number: u64) -> Option<&Arc<Block>> {
        self.active.get(&number).or_else(|| self.frozen.get(&number))
    }

    /// How many blocks were written since the last change of segments.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.frozen.is_empty()
    }

    /// Puts `data` at a byte of a block; `beneath` reads a block that is not here.
    pub(super) fn write(
        &mut self,
        number: u64,
        at: usize,
        data: &[u8],
        beneath: impl FnOnce(&mut Block) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(block) = self.active.get_mut(&number) {
            Arc::make_mut(block)[at..at + data.len()].copy_from_slice(data);
            return Ok(());
        }
        let mut block = match self.frozen.get(&number) {
            Some(block) if data.len() < BLOCK => **block,
            _ => [0; BLOCK],
        };
        if data.len() < BLOCK && !self.frozen.contains_key(&number) {
            beneath(&mut block)?;
        }
        block[at..at + data.len()].copy_from_slice(data);
        self.active.insert(number, Arc::new(block));
        Ok(())
    }

    /// The blocks of `numbers`, which are all here.
    pub(super) fn collect(&self, numbers: impl Iterator<Item = u64>) -> Vec<(u64, Arc<Block>)> {
        numbers
            .filter_map(|number| Some((number, self.get(number)?.clone())))
            .collect()
    }

    /// Sets what is active aside, to be put into its place. What was set aside before has to be thawed by now.
    pub(super) fn freeze(&mut self) -> Arc<Blocks> {
        self.frozen = Arc::new(std::mem::take(&mut self.active));
        self.frozen.clone()
    }

    /// Forgets what was set aside: it is in its place.
    pub(super) fn thaw(&mut self) {
        self.frozen = Arc::default();
    }

    /// Forgets what lies beyond so many blocks.
    pub(super) fn truncate(&mut self, blocks: u64) {
        self.active.retain(|number, _| *number < blocks);
    }
}
