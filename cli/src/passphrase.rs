//! Where the passphrase of encrypted keys comes from: a file, a credential of systemd, or whoever sits at the terminal.
//!
//! Never the command line, which every process of the machine can read, nor a variable with the passphrase itself, which
//! every child process inherits.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use creto_agent::AgentName;
use creto_agent::keystore::{KeyLock, Passphrase, PassphraseLock, TokenLock};
use creto_agent::limits::PASSPHRASE_BYTES_MAX;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::args::KeysArgs;
use crate::exit::{Exit, Failure, plain};

/// Set by systemd for a service with credentials (systemd.exec(5), LoadCredential= and LoadCredentialEncrypted=).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// The credential's name.
const CREDENTIAL: &str = "creto-passphrase";

/// What opens keys that are here: a token, or a passphrase from a file or a credential, or one that is asked for.
pub(crate) fn lock_of(args: &KeysArgs, name: &AgentName) -> Result<Box<dyn KeyLock>, Failure> {
    if let Some(token) = token_of(args)? {
        return Ok(Box::new(token));
    }
    let passphrase = match given(args.passphrase_file.as_deref())? {
        Some(passphrase) => passphrase,
        None => asked(&format!("Passphrase of {name}: "), &format!("the keys of {name} are encrypted"))?,
    };
    Ok(Box::new(PassphraseLock::new(passphrase)))
}

/// The token that is named, with its PIN from where passphrases come from.
pub(crate) fn token_of(args: &KeysArgs) -> Result<Option<TokenLock>, Failure> {
    let (Some(module), Some(label)) = (&args.pkcs11_module, &args.pkcs11_token) else { return Ok(None) };
    let pin = match given(args.passphrase_file.as_deref())? {
        Some(pin) => pin,
        None => asked(&format!("PIN of the token {label}: "), "the token wants its PIN")?,
    };
    Ok(Some(TokenLock::new(module, label, &pin)))
}

/// A new passphrase from a file or a credential, if there is one.
pub(crate) fn given_new(file: Option<&Path>) -> Result<Option<Passphrase>, Failure> {
    let passphrase = given(file)?;
    passphrase.as_ref().map_or(Ok(()), checked)?;
    Ok(passphrase)
}

/// A new passphrase, typed twice.
pub(crate) fn asked_new(name: &AgentName) -> Result<Passphrase, Failure> {
    let why = "a new passphrase is wanted";
    let first = asked(&format!("New passphrase of {name}: "), why)?;
    checked(&first)?;
    let second = asked("The same again: ", why)?;
    if !first.is_same_as(&second) {
        return Err(Failure::new(Exit::Usage, "the two passphrases differ", "try again"));
    }
    Ok(first)
}

fn checked(passphrase: &Passphrase) -> Result<(), Failure> {
    passphrase.check_new().map_err(|error| Failure::of(Exit::Usage, &error))
}

fn given(file: Option<&Path>) -> Result<Option<Passphrase>, Failure> {
    if let Some(file) = file {
        return first_line(file, true).map(Some);
    }
    let folder = std::env::var_os(CREDENTIALS).map(PathBuf::from);
    match folder.map(|folder| folder.join(CREDENTIAL)).filter(|file| file.exists()) {
        // Who may read it is systemd's to say: it may be an access list, which shows as a mode for the group.
        Some(credential) => first_line(&credential, false).map(Some),
        None => Ok(None),
    }
}

/// The first line of a file, without its end. A pipe will do.
fn first_line(path: &Path, must_be_private: bool) -> Result<Passphrase, Failure> {
    let unreadable = |error| Failure::file("read the passphrase in", path, &error);
    let file = File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    let mode = meta.permissions().mode() & 0o777;
    if must_be_private && meta.is_file() && mode & 0o077 != 0 {
        let what = format!("the passphrase in {} is open to others (mode {mode:03o})", path.display());
        let next = format!("run `chmod 600 {}`, and change the passphrase if anyone may have read it", path.display());
        return Err(Failure::new(Exit::Usage, what, next));
    }
    // More than the longest passphrase and the end of its line: what is too long is seen to be. All of it at once, so that
    // a buffer that grows leaves nothing behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 4));
    file.take(PASSPHRASE_BYTES_MAX as u64 + 3).read_to_end(&mut bytes).map_err(unreadable)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| {
        let what = format!("the passphrase in {} is not UTF-8", path.display());
        Failure::new(Exit::Usage, what, "give the file that it was made with, or save it as UTF-8")
    })?;
    Passphrase::new(text.to_owned()).map_err(|error| Failure::of(Exit::Usage, &error))
}

/// Asks on the terminal, without showing what is typed.
fn asked(prompt: &str, why: &str) -> Result<Passphrase, Failure> {
    let next =
        format!("give it with --passphrase-file, or as the systemd credential {CREDENTIAL}, or run this on a terminal");
    if !std::io::stderr().is_terminal() {
        return Err(Failure::new(Exit::Locked, format!("{why}, and there is no terminal to ask on"), next));
    }
    let typed = typed_unseen(prompt).map_err(|error| {
        Failure::new(Exit::Locked, format!("{why}, and the terminal cannot be asked: {}", plain(&error)), next)
    })?;
    Passphrase::new(typed).map_err(|error| Failure::of(Exit::Usage, &error))
}

/// One line from the terminal of this process, whatever standard input is. What is typed is not shown, from before the prompt
/// is: who answers at once is not seen either.
fn typed_unseen(prompt: &str) -> io::Result<String> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    let before = tcgetattr(&terminal)?;
    let mut unseen = before.clone();
    unseen.local_modes.remove(LocalModes::ECHO);
    // The end of the line is: the next output begins on its own.
    unseen.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(&terminal, OptionalActions::Now, &unseen)?;
    let read = terminal.write_all(prompt.as_bytes()).and_then(|()| line_of(&mut terminal));
    tcsetattr(&terminal, OptionalActions::Now, &before)?;
    read
}

/// Up to the end of a line, or of a longest passphrase and one byte more. Nothing is read ahead, nothing is left behind.
fn line_of(terminal: &mut File) -> io::Result<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 1));
    let mut byte = Zeroizing::new([0]);
    while bytes.len() <= PASSPHRASE_BYTES_MAX && terminal.read(&mut byte[..])? == 1 && byte[0] != b'\n' {
        bytes.push(byte[0]);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| io::Error::other("what was typed is not UTF-8"))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(content: &[u8], mode: u32) -> Result<Passphrase, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        first_line(&path, true)
    }

    #[test]
    fn the_first_line_of_a_file_is_the_passphrase_whatever_ends_it() {
        let expected = Passphrase::new(" correct horse ".to_owned()).unwrap();
        for content in
            [&b" correct horse "[..], b" correct horse \n", b" correct horse \r\n", b" correct horse \nsecond"]
        {
            assert!(line(content, 0o600).unwrap().is_same_as(&expected), "{content:?}");
        }
        let longest = "x".repeat(PASSPHRASE_BYTES_MAX);
        let expected = Passphrase::new(longest.clone()).unwrap();
        assert!(line(format!("{longest}\r\n").as_bytes(), 0o400).unwrap().is_same_as(&expected));
    }

    #[test]
    fn a_file_without_a_usable_passphrase_is_refused_with_what_to_do() {
        let too_long = "x".repeat(PASSPHRASE_BYTES_MAX + 1);
        for (content, mode, says) in [
            (&b""[..], 0o600, "empty"),
            (b"\nsecond", 0o600, "empty"),
            (too_long.as_bytes(), 0o600, "longer than 1024 bytes"),
            (b"\xff\xfe passphrase", 0o600, "UTF-8"),
            (b"correct horse", 0o640, "chmod 600"),
            (b"correct horse", 0o604, "mode 604"),
        ] {
            let failure = line(content, mode).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(format!("{failure:?}").contains(says), "{failure:?}");
        }
    }
}
