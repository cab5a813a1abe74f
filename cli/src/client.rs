//! What the verbs that talk to a node share: where it is, whose keys are used, what a refusal means for the status.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use creto_agent::keystore::LockKind;
use creto_agent::{
    Agent, AgentKeys, AgentName, CertificateReadError, ChannelError, ConnectError, ConnectOptions, KeysError,
    LookupError, NodeCertificate, PrekeyError, ReceiveError, RotateError, SendError,
};
use creto_node::config::Config;
use creto_service::client::ClientError;

use crate::args::{Global, KeysArgs, ReachArgs};
use crate::exit::{Exit, Failure, plain};
use crate::{passphrase, traces};

/// Folder of the agents' keys, beside the configuration.
const KEYS_FOLDER: &str = "agents";
/// What a file of keys is called, behind the name of its agent.
const KEYS_EXTENSION: &str = "keys";

/// Runs one conversation with a node to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        let what = format!("no runtime can be started: {}", plain(&error));
        Failure::new(Exit::System, what, "check the limits on open files and threads (ulimit -a)")
    })?;
    runtime.block_on(work)
}

/// Folder of the agents' keys.
pub(crate) fn keys_folder(global: &Global, args: &KeysArgs) -> PathBuf {
    match &args.folder {
        Some(folder) => folder.clone(),
        None => global.config_path().parent().unwrap_or(Path::new("")).join(KEYS_FOLDER),
    }
}

/// The file of an agent's keys: one folder per organization.
pub(crate) fn keys_path(folder: &Path, name: &AgentName) -> PathBuf {
    folder.join(format!("{name}.{KEYS_EXTENSION}"))
}

/// The keys of an agent that was created here.
pub(crate) fn load_keys(global: &Global, args: &KeysArgs, name: &AgentName) -> Result<AgentKeys, Failure> {
    let path = keys_path(&keys_folder(global, args), name);
    let loaded = match AgentKeys::load(&path) {
        // Nobody is asked for a passphrase that opens nothing.
        Err(KeysError::Locked { locks, .. })
            if args.pkcs11_token.is_some() || locks.contains(&LockKind::Passphrase) =>
        {
            AgentKeys::load_locked(&path, &*passphrase::lock_of(args, name)?)
        }
        loaded => loaded,
    };
    let keys = loaded.map_err(|error| match &error {
        KeysError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Failure::new(
            Exit::Usage,
            format!("there are no keys of {name} here: {} does not exist", path.display()),
            format!("make them with `creto agent create {name}`, or name their folder with --keys"),
        ),
        _ => keys_failure(&error),
    })?;
    if keys.name() != name {
        let what = format!("{} holds the keys of {}", path.display(), keys.name());
        return Err(Failure::new(Exit::Usage, what, "put each file of keys back under its agent's name"));
    }
    Ok(keys)
}

/// Connects as `name` and logs in, with options of the caller's own.
pub(crate) async fn connect_with(
    global: &Global,
    reach: &ReachArgs,
    name: &AgentName,
    set: impl FnOnce(&mut ConnectOptions),
) -> Result<Agent, Failure> {
    let keys = load_keys(global, &reach.keys, name)?;
    let (config, _) = global.load_config_or_default()?;
    let node = resolve(reach.node.as_deref(), &config)?;
    let certificate = node_certificate(reach.certificate.as_deref(), &config)?;
    let mut options = ConnectOptions::new(node, certificate, keys);
    options.tree_digest = config.crypto.tree_digest;
    options.trace = traces::propagation();
    set(&mut options);
    Agent::connect(options).await.map_err(|error| connect_failure(&error))
}

/// The certificate that is trusted: as it was given, or the configuration's.
pub(crate) fn node_certificate(given: Option<&Path>, config: &Config) -> Result<NodeCertificate, Failure> {
    let certificate = given.map_or_else(|| config.certificate(), Path::to_owned);
    NodeCertificate::from_file(&certificate).map_err(|error| match &error {
        CertificateReadError::File { path, source } => Failure::new(
            Exit::Usage,
            format!("the node's certificate {} cannot be read: {}", path.display(), plain(source)),
            "copy it from the node (data/node.crt there), and name it with --certificate",
        ),
        _ => Failure::of(Exit::Usage, &error),
    })
}

/// The address to connect to: as it was given, or the configuration's as agents are told it.
pub(crate) fn resolve(given: Option<&str>, config: &Config) -> Result<SocketAddr, Failure> {
    let text = given.map_or_else(|| config.advertised(), str::to_owned);
    let unknown = |reason: &str| {
        let next = "give the node as HOST:PORT, such as 127.0.0.1:7443";
        Failure::new(Exit::Usage, format!("{text} is not the address of a node: {reason}"), next)
    };
    let mut addresses = text.to_socket_addrs().map_err(|error| unknown(&plain(&error)))?;
    let mut address = addresses.next().ok_or_else(|| unknown("the name has no address"))?;
    // Listening everywhere is an address to bind; the way there from here is the loopback.
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    Ok(address)
}

pub(crate) fn keys_failure(error: &KeysError) -> Failure {
    match error {
        KeysError::File { .. } => {
            Failure::new(Exit::System, error.to_string(), "check the folder, or name another with --keys")
        }
        KeysError::Permissions { .. }
        | KeysError::Format { .. }
        | KeysError::Version { .. }
        | KeysError::Unsupported { .. } => Failure::new(Exit::Usage, error.to_string(), ""),
        KeysError::Locked { locks, .. } => {
            let next = match locks[..] {
                [LockKind::Token] => {
                    "name it with --pkcs11-module and --pkcs11-token, and its PIN with --passphrase-file"
                }
                _ => "give it with --passphrase-file, or run this on a terminal",
            };
            let what = error.to_string();
            Failure::new(Exit::Locked, what.split("; ").next().unwrap_or(&what), next)
        }
        KeysError::WrongPassphrase { .. } => Failure::of(Exit::Locked, error),
        KeysError::Damaged { .. } => Failure::of(Exit::Found, error),
        // Also when another agent's keys are found where these belong (`OtherKeys`): the file is as it was.
        _ => Failure::of(Exit::System, error),
    }
}

pub(crate) fn connect_failure(error: &ConnectError) -> Failure {
    match error {
        ConnectError::Refused(_) | ConnectError::RefusedWith(_) | ConnectError::Protocol(_) => {
            Failure::of(Exit::Refused, error)
        }
        ConnectError::PrekeysWithoutSessions => Failure::of(Exit::Usage, error),
        ConnectError::Socket(_) | ConnectError::State(_) | ConnectError::KeyLog(_) => Failure::of(Exit::System, error),
        ConnectError::Lost { .. } => {
            Failure::new(Exit::Unreachable, error.to_string(), "try again when the node is back")
        }
        _ => Failure::of(Exit::Unreachable, error),
    }
}

pub(crate) fn send_failure(error: &SendError) -> Failure {
    match error {
        SendError::Disconnected(error) => connect_failure(error),
        SendError::TooLarge { .. } | SendError::NoHandoff => Failure::of(Exit::Usage, error),
        SendError::Refused { .. } | SendError::RefusedWith { .. } => Failure::of(Exit::Refused, error),
        SendError::Recipient { source: LookupError::TimedOut { .. } | LookupError::Closed, .. } => {
            Failure::of(Exit::Unreachable, error)
        }
        SendError::Recipient { .. } => Failure::of(Exit::Refused, error),
        SendError::NoPrekey { source, .. } if !is_from_the_node(source) => Failure::of(Exit::Unreachable, error),
        SendError::NoPrekey { .. } => {
            let what = error.to_string();
            let next = "wait until it receives, or send with --prekeys prefer";
            let is_none = error.code() == Some(creto_agent::RejectCode::NoPrekey);
            if is_none { Failure::new(Exit::Refused, what, next) } else { Failure::of(Exit::Refused, error) }
        }
        _ => Failure::of(Exit::Unreachable, error),
    }
}

/// Whether the node was reached and said something, be it something that does not hold.
fn is_from_the_node(error: &PrekeyError) -> bool {
    let nobody_said = matches!(
        error,
        PrekeyError::TimedOut
            | PrekeyError::Closed
            | PrekeyError::SessionOver
            | PrekeyError::Record(LookupError::TimedOut { .. } | LookupError::Closed)
    );
    !nobody_said
}

pub(crate) fn rotate_failure(error: &RotateError) -> Failure {
    match error {
        RotateError::Keys(error) => keys_failure(error),
        RotateError::Behind { .. } | RotateError::Refused(_) | RotateError::RefusedWith(_) => {
            Failure::of(Exit::Refused, error)
        }
        _ => Failure::of(Exit::Unreachable, error),
    }
}

pub(crate) fn receive_failure(error: &ReceiveError) -> Failure {
    match error {
        ReceiveError::Disconnected(error) => connect_failure(error),
        ReceiveError::State(_) => Failure::of(Exit::System, error),
        ReceiveError::Replaced | ReceiveError::Refused(_) => Failure::of(Exit::Refused, error),
        _ => Failure::of(Exit::Unreachable, error),
    }
}

pub(crate) fn channel_failure(error: &ChannelError) -> Failure {
    match error {
        ChannelError::Send(error) => send_failure(error),
        ChannelError::Disconnected(error) => connect_failure(error),
        ChannelError::Mailbox(error) => receive_failure(error),
        ChannelError::State(_) => Failure::of(Exit::System, error),
        ChannelError::Record { .. } => Failure::of(Exit::Found, error),
        ChannelError::Owner { source: LookupError::TimedOut { .. } | LookupError::Closed, .. }
        | ChannelError::TimedOut
        | ChannelError::Closed => Failure::of(Exit::Unreachable, error),
        _ => Failure::of(Exit::Refused, error),
    }
}

pub(crate) fn control_failure(error: &ClientError) -> Failure {
    match error {
        ClientError::Refused { error, .. } => Failure::new(Exit::Refused, error.message.clone(), error.next.clone()),
        ClientError::NotAllowed(_) => Failure::of(Exit::System, error),
        _ => Failure::of(Exit::Unreachable, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_prekey_the_status_says_whether_the_node_refused_or_did_not_answer() {
        let status = |source| send_failure(&SendError::NoPrekey { recipient: "acme/b".into(), source }).exit;
        assert_eq!(status(PrekeyError::Refused(creto_agent::RejectCode::NoPrekey)), Exit::Refused);
        assert_eq!(status(PrekeyError::Unsupported), Exit::Refused);
        assert_eq!(status(PrekeyError::TimedOut), Exit::Unreachable);
        assert_eq!(status(PrekeyError::Closed), Exit::Unreachable);
        assert_eq!(connect_failure(&ConnectError::PrekeysWithoutSessions).exit, Exit::Usage);
    }

    #[test]
    fn a_rotation_that_finds_the_keys_of_another_agent_ends_with_status_5_and_what_to_do() {
        let error = KeysError::OtherKeys { path: "agents/acme/worker.keys".into(), name: "acme/planner".into() };
        let failure = rotate_failure(&RotateError::Keys(error));
        assert_eq!(failure.exit, Exit::System);
        let text = format!("{failure:?}");
        assert!(text.contains("holds keys of acme/planner") && text.contains("next: \"move it to where"), "{text}");
    }
}
