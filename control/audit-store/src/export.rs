//! A log in one file, written and verified as a stream, and the proof of one entry.

use std::io::{self, Read, Write};

use creto_audit::event::ChainedEvent;
use creto_audit::export::{
    BUNDLE_BYTES_MAX, EXPORT_END, EXPORT_HEAD_BYTES, ExportError, ExportHead, Seen, Summary, Verifier,
};
use creto_audit::limits::{EXPORT_MILESTONES_MAX, NOTE_BYTES_MAX, SALT_BYTES};
use creto_audit::proof::InclusionProof;
use creto_audit::tile::{Entry, TILE_WIDTH, entries, push_entry, push_hidden};
use creto_audit::tree::{consistency_proof, inclusion_proof};
use creto_audit::{LogVerifier, SignedCheckpoint};
use thiserror::Error;

use crate::disk::Disk;
use crate::error::StoreError;
use crate::reader::LogReader;

#[cfg(test)]
mod tests;

/// What was exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exported {
    /// Leaves in all.
    pub leaves: u64,
    /// Leaves of which the entry is in it.
    pub disclosed: u64,
    /// Leaves whose entry the log itself does not have any more.
    pub dropped: u64,
}

/// Why an export could not be written or does not hold.
#[derive(Debug, Error)]
pub enum ExportFailure {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] StoreError),
    /// The export cannot be read or written.
    #[error("the export cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// It does not hold.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// Writes the log up to its checkpoint. Of entries for which `disclose` says no, only the hash goes in.
///
/// # Errors
/// [`ExportFailure`]: what was written is no export then.
pub fn export<D: Disk>(
    log: &LogReader<D>,
    out: &mut impl Write,
    mut disclose: impl FnMut(&ChainedEvent) -> bool,
) -> Result<Exported, ExportFailure> {
    let checkpoint = log.checkpoint();
    let keys = log.verifier().public().to_text();
    let milestones = thinned(log.milestones()?);
    let head = ExportHead {
        leaves: checkpoint.size,
        checkpoint_bytes: length(checkpoint.note().len()),
        keys_bytes: length(keys.len()),
        milestones: length(milestones.len()),
    };
    out.write_all(&head.to_bytes())?;
    out.write_all(checkpoint.note().as_bytes())?;
    out.write_all(keys.as_bytes())?;
    for milestone in &milestones {
        out.write_all(&length(milestone.note().len()).to_le_bytes())?;
        out.write_all(milestone.note().as_bytes())?;
    }
    let mut exported = Exported { leaves: 0, disclosed: 0, dropped: 0 };
    let mut bundle = Vec::new();
    for block in log.blocks(0) {
        let block = block?;
        bundle.clear();
        for entry in entries(&block.bundle) {
            exported.leaves += 1;
            match entry {
                Entry::Full(entry) if is_disclosed(entry, &mut disclose) => {
                    exported.disclosed += 1;
                    push_entry(&mut bundle, entry);
                }
                entry => {
                    exported.dropped += u64::from(matches!(entry, Entry::Hidden));
                    push_hidden(&mut bundle);
                }
            }
        }
        out.write_all(&length(bundle.len()).to_le_bytes())?;
        out.write_all(&bundle)?;
        out.write_all(block.tile.as_flattened())?;
    }
    out.write_all(EXPORT_END)?;
    out.flush()?;
    Ok(exported)
}

/// What cannot be read as an event is disclosed: an export hides nothing that is wrong.
fn is_disclosed(entry: &[u8], disclose: &mut impl FnMut(&ChainedEvent) -> bool) -> bool {
    entry.get(SALT_BYTES..).and_then(|event| ChainedEvent::parse(event).ok()).is_none_or(|event| disclose(&event))
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("texts and bundles are far below 4 GiB")
}

/// Evenly, the latest kept.
fn thinned(milestones: Vec<SignedCheckpoint>) -> Vec<SignedCheckpoint> {
    let step = milestones.len().div_ceil(EXPORT_MILESTONES_MAX).max(1);
    let last = milestones.len().saturating_sub(1);
    milestones
        .into_iter()
        .enumerate()
        .filter(|(at, _)| (last - at).is_multiple_of(step))
        .map(|(_, milestone)| milestone)
        .collect()
}

/// Verifies an export with the log's public keys and nothing else. `since` is a checkpoint that was seen before. `seen` is told
/// of each event; that they are in the log is only known when this returns.
///
/// # Errors
/// [`ExportFailure::Export`]: the first thing that does not fit.
pub fn verify_export(
    mut file: impl Read,
    log: &LogVerifier,
    since: Option<SignedCheckpoint>,
    mut seen: impl FnMut(Seen<'_>),
) -> Result<(SignedCheckpoint, Summary), ExportFailure> {
    let mut bytes = [0; EXPORT_HEAD_BYTES];
    let mut at = At { leaf: 0, leaves: 0 };
    if at.read(&mut file, &mut bytes).is_err() {
        return Err(ExportError::NotAnExport.into());
    }
    let head = ExportHead::parse(&bytes)?;
    at.leaves = head.leaves;
    let checkpoint = log.verify(&at.take(&mut file, head.checkpoint_bytes)?).map_err(ExportError::from)?;
    if checkpoint.size != head.leaves {
        return Err(ExportError::OtherSize { leaves: head.leaves, size: checkpoint.size }.into());
    }
    at.take(&mut file, head.keys_bytes)?;
    let mut milestones = Vec::new();
    for _ in 0..head.milestones {
        let note = at.u32(&mut file)?;
        if note as usize > NOTE_BYTES_MAX {
            return Err(ExportError::Form.into());
        }
        milestones.push(log.verify(&at.take(&mut file, note)?).map_err(ExportError::from)?);
    }
    let mut verifier = Verifier::new(checkpoint.clone(), milestones, since)?;
    let (mut bundle, mut tile) = (Vec::new(), vec![[0; 32]; TILE_WIDTH]);
    while at.leaf < head.leaves {
        let bundle_bytes = at.u32(&mut file)? as usize;
        if bundle_bytes > BUNDLE_BYTES_MAX {
            return Err(ExportError::Form.into());
        }
        bundle.resize(bundle_bytes, 0);
        at.read(&mut file, &mut bundle)?;
        let count = head.block_leaves(at.leaf);
        let tile = &mut tile[..count];
        at.read(&mut file, tile.as_flattened_mut())?;
        verifier.block(&bundle, tile, &mut seen)?;
        at.leaf += count as u64;
    }
    let mut end = [0; EXPORT_END.len()];
    at.read(&mut file, &mut end)?;
    if end != *EXPORT_END || file.read(&mut [0])? != 0 {
        return Err(ExportError::Form.into());
    }
    Ok((checkpoint, verifier.finish()?))
}

/// Verifies the files of a log themselves, as they are. `since` is a checkpoint that was seen before.
///
/// # Errors
/// [`ExportFailure::Export`]: the first thing that does not fit.
pub fn verify_log<D: Disk>(log: &LogReader<D>, since: Option<SignedCheckpoint>) -> Result<Summary, ExportFailure> {
    let mut verifier = Verifier::new(log.checkpoint().clone(), log.milestones()?, since)?;
    for block in log.blocks(0) {
        let block = block?;
        verifier.block(&block.bundle, &block.tile, |_| ())?;
    }
    Ok(verifier.finish()?)
}

/// How far a file was read.
struct At {
    leaf: u64,
    leaves: u64,
}

impl At {
    fn read(&self, file: &mut impl Read, bytes: &mut [u8]) -> Result<(), ExportFailure> {
        file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ExportError::Truncated { leaf: self.leaf, leaves: self.leaves }.into(),
            _ => ExportFailure::Io(error),
        })
    }

    fn take(&self, file: &mut impl Read, bytes: u32) -> Result<Vec<u8>, ExportFailure> {
        let mut taken = vec![0; bytes as usize];
        self.read(file, &mut taken)?;
        Ok(taken)
    }

    fn u32(&self, file: &mut impl Read) -> Result<u32, ExportFailure> {
        let mut bytes = [0; 4];
        self.read(file, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

/// The proof that leaf `index` is in the log, and, if an older checkpoint is given, that the log grew out of it.
///
/// # Errors
/// [`StoreError::NoLeaf`] when it is not there or was dropped.
pub fn prove<D: Disk>(
    log: &LogReader<D>,
    index: u64,
    since: Option<&SignedCheckpoint>,
) -> Result<InclusionProof, StoreError> {
    let checkpoint = log.checkpoint();
    if index >= checkpoint.size {
        return Err(StoreError::NoLeaf(index));
    }
    let grown_from = match since {
        Some(since) if since.size > 0 && since.size <= checkpoint.size => {
            Some((since.size, consistency_proof(&mut log.nodes(), since.size, checkpoint.size)?))
        }
        _ => None,
    };
    let path = inclusion_proof(&mut log.nodes(), index, checkpoint.size)?;
    Ok(InclusionProof { index, entry: log.entry(index)?, path, checkpoint: checkpoint.note().to_owned(), grown_from })
}
