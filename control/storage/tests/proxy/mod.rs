//! Stands between a client and a server on a Unix socket, and cuts the connection where it hurts.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// What happens to the next commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Fate {
    /// It passes.
    Passes = 0,
    /// The connection ends before the server hears of it.
    CutBefore = 1,
    /// The connection ends when the server has answered, and nobody hears the answer.
    CutBehind = 2,
    /// As `CutBehind`, and nobody is let in any more.
    CutAndShut = 3,
    /// Nobody is let in.
    Shut = 4,
    /// Everybody is let in, and nothing is carried any more.
    Silent = 5,
}

/// Listens in `folder` for a server that listens in `server`, until the process ends.
#[derive(Clone)]
pub(crate) struct Proxy(Arc<State>);

#[derive(Default)]
struct State {
    fate: AtomicU8,
    /// How many came.
    accepted: AtomicU32,
}

const SOCKET: &str = ".s.PGSQL.5432";

impl Proxy {
    pub(crate) fn start(server: &Path, folder: &Path) -> Self {
        let listener = UnixListener::bind(folder.join(SOCKET)).unwrap();
        let proxy = Self(Arc::default());
        let (accepting, server) = (proxy.clone(), server.join(SOCKET));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                accepting.0.accepted.fetch_add(1, Ordering::SeqCst);
                if accepting.fate() == Fate::Shut {
                    continue;
                }
                let Ok(server) = UnixStream::connect(&server) else { continue };
                let (proxy, answers) = (accepting.clone(), (server.try_clone().unwrap(), client.try_clone().unwrap()));
                std::thread::spawn(move || proxy.carry(client, server));
                std::thread::spawn(move || carry_all(answers.0, answers.1));
            }
        });
        proxy
    }

    pub(crate) fn set(&self, fate: Fate) {
        self.0.fate.store(fate as u8, Ordering::SeqCst);
    }

    /// How many connections there were.
    pub(crate) fn accepted(&self) -> u32 {
        self.0.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn fate(&self) -> Fate {
        match self.0.fate.load(Ordering::SeqCst) {
            0 => Fate::Passes,
            1 => Fate::CutBefore,
            2 => Fate::CutBehind,
            3 => Fate::CutAndShut,
            4 => Fate::Shut,
            _ => Fate::Silent,
        }
    }

    /// What the client says, up to a commit whose fate is not to pass.
    fn carry(&self, mut client: UnixStream, mut server: UnixStream) {
        let mut bytes = [0; 65_536];
        while let Ok(count @ 1..) = client.read(&mut bytes) {
            let said = &bytes[..count];
            let fate = self.fate();
            if fate == Fate::Silent {
                continue;
            }
            // A message of the simple protocol: Q, length, text, zero.
            if fate != Fate::Passes && fate != Fate::Shut && said == b"Q\0\0\0\x0bCOMMIT\0" {
                self.set(if fate == Fate::CutAndShut { Fate::Shut } else { Fate::Passes });
                // No answer from here on.
                let _cut = client.shutdown(std::net::Shutdown::Both);
                if fate != Fate::CutBefore {
                    let _sent = server.write_all(said);
                    // Its end comes behind the commit: the server reads what it was sent in order.
                    let _sent = server.write_all(b"X\0\0\0\x04");
                    // Closed by the server when it has done both; the other thread reads until then.
                    return;
                }
                break;
            }
            if server.write_all(said).is_err() {
                break;
            }
        }
        let _cut = server.shutdown(std::net::Shutdown::Both);
        let _cut = client.shutdown(std::net::Shutdown::Both);
    }
}

fn carry_all(mut from: UnixStream, mut to: UnixStream) {
    let mut bytes = [0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        // Read to its end, also when nobody hears it.
        let _gone = to.write_all(&bytes[..count]);
    }
    let _cut = to.shutdown(std::net::Shutdown::Both);
}
