//! The process behind a control socket, as the kernel shows it to others.

use std::path::Path;

use creto_node::config::cpu_list_from_text;

/// The process that listens on this socket, if one does and the kernel says which.
pub(crate) fn behind(socket: &Path) -> Option<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let peer = runtime.block_on(async { tokio::net::UnixStream::connect(socket).await.ok()?.peer_cred().ok() })?;
    peer.pid()
}

/// A soft limit of a process, by the name that `/proc/PID/limits` has for it; `Some(None)` is unlimited.
pub(crate) fn soft_limit(pid: i32, name: &str) -> Option<Option<u64>> {
    limit_in(&std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?, name)
}

/// The CPUs that a process may run on.
pub(crate) fn cpus(pid: i32) -> Option<Vec<u16>> {
    cpus_in(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn cpus_in(text: &str) -> Option<Vec<u16>> {
    cpu_list_from_text(text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim())
}

fn limit_in(text: &str, name: &str) -> Option<Option<u64>> {
    let values = text.lines().find_map(|line| line.strip_prefix(name))?;
    match values.split_ascii_whitespace().next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 1048576              files     \n\
                    Max locked memory         unlimited            unlimited            bytes     \n";
        assert_eq!(limit_in(text, "Max open files"), Some(Some(1024)));
        assert_eq!(limit_in(text, "Max locked memory"), Some(None));
        assert_eq!(limit_in(text, "Max nothing"), None);
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(
            soft_limit(own, "Max open files"),
            Some(rustix::process::getrlimit(rustix::process::Resource::Nofile).current)
        );
    }

    #[test]
    fn the_cpus_of_a_process_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpus_in("Name:\tcreto\nCpus_allowed:\td\nCpus_allowed_list:\t0,2-3\n"), Some(vec![0, 2, 3]));
        assert_eq!(cpus_in("Name:\tcreto\n"), None);
        assert!(cpus(i32::try_from(std::process::id()).unwrap()).is_some_and(|cpus| !cpus.is_empty()));
    }

    #[test]
    fn the_process_behind_a_socket_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert_eq!(behind(&path), None);
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(behind(&path), i32::try_from(std::process::id()).ok());
    }
}
