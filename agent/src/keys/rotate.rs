//! Replacing the encryption key: each step is on disk before the next one is taken.

use std::io;
use std::path::Path;

use creto_envelope::control::RotationMode;
use creto_envelope::{KeyId, Purpose, SignedKeyRecord};

use super::file::Opener;
use super::ring::{Ring, Standing};
use super::{AgentKeys, Contents, Kept, Mark, file, new_seed};
use crate::clock;
use crate::error::KeysError;
use crate::stats::UNPOISONED;

impl AgentKeys {
    /// Gets the next key ready and saves it. Blocks on the disk, as everything here.
    pub(crate) fn begin_rotation(&self, mode: RotationMode, node_version: u32) -> Result<(), KeysError> {
        let seed = new_seed()?;
        self.change(|ring| {
            ring.begin(mode, node_version, seed, clock::now_ms());
            ((), true)
        })
    }

    /// The record that publishes the pending key, if there is one, and why it is published.
    pub(crate) fn pending_record(
        &self,
        valid_from_ms: u64,
        valid_until_ms: u64,
    ) -> Option<(RotationMode, SignedKeyRecord)> {
        let ring = self.ring();
        let pending = ring.pending.as_ref()?;
        let purpose = Some(Purpose::Rotation(pending.mode));
        let valid_ms = valid_from_ms..valid_until_ms;
        Some((pending.mode, self.record_of(&pending.key, pending.key.version, valid_ms, purpose)))
    }

    /// The node has the pending key: it is the current one from now on.
    pub(crate) fn rotation_published(&self, version: u32) -> Result<(), KeysError> {
        self.change(|ring| ((), ring.published(version, clock::now_ms())))
    }

    /// Holds the keys against the node's current record, see [`Ring::reconcile`].
    pub(crate) fn reconcile(&self, node_version: u32, node_key: KeyId) -> Result<Standing, KeysError> {
        self.change(|ring| ring.reconcile(node_version, node_key, clock::now_ms()))
    }

    /// Whether a key was saved and is not known to be published.
    pub(crate) fn has_pending(&self) -> bool {
        self.ring().pending.is_some()
    }

    /// Erases replaced keys whose grace period is over.
    pub(crate) fn erase_ended(&self, grace_ms: u64) -> Result<(), KeysError> {
        if self.file().is_none() {
            self.ring_mut().end_grace(grace_ms, clock::now_ms());
            return Ok(());
        }
        self.change(|ring| ((), ring.end_grace(grace_ms, clock::now_ms())))
    }

    /// Reads the file again if another process has replaced it. Says whether it did.
    pub(super) fn reload_if_changed(&self) -> bool {
        self.reload().unwrap_or_else(|error| {
            tracing::error!(%error, "the key file was changed and cannot be read");
            false
        })
    }

    pub(super) fn reload(&self) -> Result<bool, KeysError> {
        let Some(path) = self.file() else { return Ok(false) };
        let mut kept = self.kept.lock().expect(UNPOISONED);
        let mark = Mark::of(path);
        if mark.is_none() || kept.mark == mark {
            return Ok(false);
        }
        let contents = file::read(path, kept.held.as_ref().into())?;
        if !self.is_of_same_agent(&contents) {
            // Not known from now on: each step looks again, and none writes over it.
            return Err(KeysError::OtherKeys { path: path.to_owned(), name: contents.name.to_string() });
        }
        // Somebody may have put a plain copy there: what was encrypted is encrypted when it is written again.
        let held = contents.held.or_else(|| kept.held.take());
        *kept = Kept { mark, held };
        self.ring_mut().merge(contents.ring);
        Ok(true)
    }

    /// Whether a file has this agent's name and every one of its signing keys.
    fn is_of_same_agent(&self, file: &Contents) -> bool {
        let Contents { name, trust_domain, seeds, .. } = file;
        (name, trust_domain) == (&self.name, &self.trust_domain)
            && (seeds.ed25519, seeds.ml_dsa_65) == (self.seeds.ed25519, self.seeds.ml_dsa_65)
            && seeds.fn_dsa_512_public() == self.seeds.fn_dsa_512_public()
    }

    /// Before a file is written that these keys are not kept in: nothing may be in it that would then be nowhere.
    pub(super) fn check_replaceable(&self, path: &Path, opener: Opener<'_>) -> Result<(), KeysError> {
        let there = match file::read(path, opener) {
            Ok(contents) => contents,
            Err(KeysError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.is_of_same_agent(&there) && self.ring().holds(&there.ring) {
            return Ok(());
        }
        Err(KeysError::OtherKeys { path: path.to_owned(), name: there.name.to_string() })
    }

    /// Changes the ring on top of what the file says now, and saves it when the change says so; other processes of the
    /// same agent wait.
    fn change<R>(&self, change: impl FnOnce(&mut Ring) -> (R, bool)) -> Result<R, KeysError> {
        let path = self.file().ok_or_else(|| KeysError::NoFile { name: self.name.to_string() })?;
        let _lock = file::lock(path)?;
        // Not on top of something else: the file may hold keys that are nowhere else, another agent's too.
        self.reload()?;
        let mut kept = self.kept.lock().expect(UNPOISONED);
        let (answer, is_new) = change(&mut self.ring_mut());
        if is_new {
            // Should it fail, the next step starts from what the file says. It may be a while until that can be read, and
            // until then nothing that may not be saved must be published.
            kept.mark = None;
            let held = kept.held.as_ref();
            let written = file::write(path, &self.name, &self.trust_domain, &self.seeds, &self.ring(), held);
            if let Err(error) = written {
                self.ring_mut().give_up_pending();
                return Err(error);
            }
            kept.mark = Mark::of(path);
        }
        Ok(answer)
    }
}
