//! The files of a workload's X.509-SVID.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use creto_service::svid::Svid;
use zeroize::Zeroizing;

use crate::args::agent::AgentCreateArgs;
use crate::exit::{Exit, Failure};

/// Larger than any file of an SVID.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// The SVID that the agent is registered with, if one is named.
pub(super) fn of(args: &AgentCreateArgs) -> Result<Option<Svid>, Failure> {
    let (Some(certificates), Some(key)) = (&args.svid, &args.svid_key) else { return Ok(None) };
    let certificates = read(certificates, false)?;
    let key = read(key, true)?;
    Svid::from_pem(&certificates, &key).map(Some).map_err(|error| Failure::of(Exit::Usage, &error))
}

fn read(path: &Path, is_secret: bool) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let unreadable = |error| Failure::file("read", path, &error);
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    if is_secret && mode & 0o077 != 0 {
        let what = format!("the key {} is open to others (mode {mode:03o})", path.display());
        let next =
            format!("run `chmod 600 {}`, and have the SVID issued again if anyone may have read it", path.display());
        return Err(Failure::new(Exit::Usage, what, next));
    }
    // Taken at once: a buffer that grows leaves what it held behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX));
    file.take(FILE_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}
