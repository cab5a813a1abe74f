//! Which nodes a control service serves: a folder of certificates, `NAME.crt` each.
//!
//! A file that is put there admits a node, one that is taken away ends its link, both within half a second.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use creto_crypto_accel::digest::sha256;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

use super::NODES_MAX;

/// What the names of files end with.
const EXTENSION: &str = "crt";

/// Which nodes are served. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Admitted(Arc<State>);

#[derive(Debug)]
struct State {
    folder: PathBuf,
    by_certificate: RwLock<BTreeMap<Vec<u8>, String>>,
}

/// Why the folder cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdmittedError {
    /// the folder or a file cannot be read
    #[error("{path} cannot be read: {source}; check that it belongs to the user that runs `creto control`")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// a file that holds no certificate
    #[error("{path} is no certificate in PEM ({reason}); copy data/node.crt of the node there, or take the file away")]
    Pem {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// too many of them
    #[error("{0} has more than {NODES_MAX} certificates; start another control service for the others")]
    Many(PathBuf),
}

impl Admitted {
    /// Reads the folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`AdmittedError`].
    pub fn open(folder: &Path) -> Result<Self, AdmittedError> {
        let failed = |source| AdmittedError::File { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let (known, problem) = read(folder)?;
        if let Some(problem) = problem {
            return Err(problem);
        }
        let by_certificate = RwLock::new(known);
        Ok(Self(Arc::new(State { folder: folder.to_owned(), by_certificate })))
    }

    /// Whether a node with this certificate is served.
    #[must_use]
    pub fn admits(&self, certificate: &CertificateDer<'_>) -> bool {
        self.name(certificate).is_some()
    }

    /// What the node with this certificate is called, if it is served.
    #[must_use]
    pub fn name(&self, certificate: &[u8]) -> Option<String> {
        self.0.by_certificate.read().unwrap_or_else(PoisonError::into_inner).get(certificate).cloned()
    }

    /// Every node that is served: its name, and SHA-256 of its certificate.
    #[must_use]
    pub fn list(&self) -> Vec<(String, String)> {
        let known = self.0.by_certificate.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> =
            known.iter().map(|(certificate, name)| (name.clone(), fingerprint(certificate))).collect();
        list.sort();
        list
    }

    /// Reads the folder again. A file that is no certificate admits nobody, and is the error; the others count. After an error of the
    /// folder itself whoever was served is served on.
    pub(crate) fn refresh(&self) -> Result<(), AdmittedError> {
        let (mut known, problem) = read(&self.0.folder)?;
        let mut served = self.0.by_certificate.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() > NODES_MAX {
            // Whoever is served is served on, and whoever was dismissed is not; nobody is admitted besides.
            known.retain(|certificate, _| served.contains_key(certificate));
        }
        *served = known;
        drop(served);
        problem.map_or(Ok(()), Err)
    }
}

/// A certificate in PEM, as DER.
///
/// # Errors
/// [`AdmittedError::Pem`], also when there is no such file.
pub fn read_certificate(path: &Path) -> Result<Vec<u8>, AdmittedError> {
    let read = CertificateDer::from_pem_file(path);
    let read = read.map_err(|error| AdmittedError::Pem { path: path.to_owned(), reason: error.to_string() })?;
    Ok(read.to_vec())
}

/// SHA-256 of a certificate in hexadecimal digits.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> String {
    sha256(&[certificate]).iter().fold(String::new(), |mut text, byte| {
        let _always = write!(text, "{byte:02x}");
        text
    })
}

/// The certificates, by themselves, and the first file that is none.
type Known = (BTreeMap<Vec<u8>, String>, Option<AdmittedError>);

fn read(folder: &Path) -> Result<Known, AdmittedError> {
    let failed = |source| AdmittedError::File { path: folder.to_owned(), source };
    let (mut known, mut problem) = (BTreeMap::new(), None);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // A file that is being written has another name until it is whole.
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        let Some(name) = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        match read_certificate(&path) {
            Ok(certificate) => drop(known.insert(certificate, name)),
            Err(error) => problem = problem.or(Some(error)),
        }
    }
    if known.len() > NODES_MAX {
        problem = Some(AdmittedError::Many(folder.to_owned()));
    }
    Ok((known, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, file: &str) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join(file), made.cert.pem()).unwrap();
        made.cert.der().to_vec()
    }

    #[test]
    fn who_is_admitted_is_what_lies_in_the_folder_and_a_file_that_is_none_stops_no_change_of_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("nodes");
        let admitted = Admitted::open(&folder).unwrap();
        assert!(admitted.list().is_empty(), "the folder is made");
        let (one, two) = (put(&folder, "one.crt"), put(&folder, "two.crt"));
        // Not whole yet, or of no concern.
        let (new, other) = (put(&folder, "three.crt.new"), put(&folder, "four.pem"));
        assert_eq!(admitted.name(&one), None, "it is read when it is refreshed");
        admitted.refresh().unwrap();
        assert_eq!((admitted.name(&one).as_deref(), admitted.name(&two).as_deref()), (Some("one"), Some("two")));
        assert!(admitted.name(&new).is_none() && admitted.name(&other).is_none());
        assert!(admitted.admits(&CertificateDer::from(one.clone())) && !admitted.admits(&CertificateDer::from(new)));

        std::fs::write(folder.join("bad.crt"), "no certificate").unwrap();
        std::fs::remove_file(folder.join("one.crt")).unwrap();
        assert!(matches!(admitted.refresh(), Err(AdmittedError::Pem { path, .. }) if path.ends_with("bad.crt")));
        assert_eq!((admitted.name(&one), admitted.name(&two).as_deref()), (None, Some("two")));
        assert!(matches!(Admitted::open(&folder), Err(AdmittedError::Pem { .. })), "a start says so");
        // Where there are too many, those that are served are, and a dismissal counts.
        std::fs::remove_file(folder.join("bad.crt")).unwrap();
        let pem = std::fs::read(folder.join("two.crt")).unwrap();
        for number in 0..NODES_MAX {
            put(&folder, &format!("many-{number}.crt"));
        }
        let late = put(&folder, "late.crt");
        assert!(matches!(admitted.refresh(), Err(AdmittedError::Many(_))));
        assert_eq!((admitted.name(&two).as_deref(), admitted.name(&late)), (Some("two"), None));
        std::fs::remove_file(folder.join("two.crt")).unwrap();
        assert!(admitted.refresh().is_err());
        assert_eq!(admitted.name(&two), None, "it was dismissed");
        std::fs::write(folder.join("two.crt"), pem).unwrap();
        std::fs::remove_file(folder.join("late.crt")).unwrap();
        std::fs::remove_file(folder.join("many-0.crt")).unwrap();
        admitted.refresh().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(admitted.refresh().is_err());
        assert_eq!(admitted.name(&two).as_deref(), Some("two"), "who was served is served on");
    }
}
