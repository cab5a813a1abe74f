//! A private PostgreSQL for tests: from the distribution's package, in a folder of its own, over a Unix socket.
//!
//! Where there is none, tests print "skipped: no PostgreSQL"; `CRETO_REQUIRE_POSTGRES=1` makes them fail instead.
//! `CRETO_POSTGRES` names the folder of its programs where distributions do not put it.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Who runs the server, when whoever runs the tests may not: it refuses root.
#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// A server. It ends with whoever holds it, and with this process, however that ends.
pub(crate) struct Server {
    programs: PathBuf,
    folder: PathBuf,
    user: Option<User>,
    options: Vec<String>,
    port: u16,
    running: Option<(Child, ChildStdin)>,
}

/// Runs the server for as long as somebody holds its standard input, then removes its folder, unless told to keep it.
const SCRIPT: &str = r#"
exec 2>/dev/null
"$1/postgres" -D "$2/data" "${@:3}" >>"$2/log" 2>&1 &
server=$!
read -r word
kill -QUIT "$server" 2>/dev/null
wait "$server"
[ "$word" = keep ] || rm -rf "$2"
"#;

const WITHIN: Duration = Duration::from_secs(60);

impl Server {
    /// One that only this process knows, for tests that stop it or set it up otherwise. `None`, and it is said, where there is no
    /// PostgreSQL.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(
                std::env::var_os("CRETO_REQUIRE_POSTGRES").is_none(),
                "no PostgreSQL; install the package postgresql"
            );
            eprintln!("skipped: no PostgreSQL");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("creto-pg-").tempdir().unwrap().keep();
        let user = is_root().then(unprivileged);
        if let Some(user) = user {
            std::os::unix::fs::chown(&folder, Some(user.uid), Some(user.gid)).unwrap();
        }
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut server = Self { programs, folder, user, options, port: 5_432, running: None };
        let made = server
            .program("initdb")
            .args([
                "--username=creto",
                "--encoding=UTF8",
                "--locale=C",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
            ])
            .arg("--pgdata")
            .arg(server.folder.join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        server.run();
        Some(server)
    }

    /// The one that tests of this process share, each with a database of its own.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[])).as_ref()
    }

    /// Its folder: the socket is in it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The URL of a new database.
    pub(crate) fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// The URL of a database.
    pub(crate) fn url(&self, database: &str) -> String {
        let folder = self.folder.to_str().unwrap().replace('/', "%2F");
        format!("postgres://creto@{folder}:{}/{database}", self.port)
    }

    /// Has a statement run by its superuser, and returns what it printed.
    pub(crate) fn sql(&self, database: &str, statement: &str) -> String {
        let mut psql = self.program("psql");
        psql.args(["--no-psqlrc", "-At", "-v", "ON_ERROR_STOP=1", "-U", "creto", "-d", database, "-c", statement]);
        let output = psql.arg("-h").arg(&self.folder).args(["-p", &self.port.to_string()]).output().unwrap();
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Puts a file into its folder that its user may read, and nobody else.
    pub(crate) fn put(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some(user) = self.user {
            std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)).unwrap();
        }
        path
    }

    /// Kills all of its processes: SIGKILL, nothing written.
    pub(crate) fn kill(&mut self) {
        let pid = self.pid().expect("it runs");
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        // Those that ended meanwhile need not be killed.
        let kill = format!("kill -9 {pid}; kill -9 {children} 2>/dev/null; true");
        Command::new("sh").args(["-c", &kill]).status().unwrap();
        self.end();
    }

    /// Stops it in good order.
    pub(crate) fn stop(&mut self) {
        let pid = self.pid().expect("it runs");
        let stopped = Command::new("sh").args(["-c", &format!("kill -INT {pid}")]).status().unwrap();
        assert!(stopped.success());
        self.end();
    }

    /// It listens on TCP, too, on this machine, when it is started the next time.
    pub(crate) fn listen(&mut self, port: u16) {
        self.options.extend(["-c".to_owned(), "listen_addresses=127.0.0.1".to_owned()]);
        self.port = port;
    }

    /// Starts it again on what it had.
    pub(crate) fn start_again(&mut self) {
        assert!(self.running.is_none(), "it runs");
        self.run();
    }

    fn end(&mut self) {
        let (mut child, mut stdin) = self.running.take().expect("it runs");
        let _gone = stdin.write_all(b"keep\n");
        drop(stdin);
        child.wait().unwrap();
    }

    fn run(&mut self) {
        let until = Instant::now() + WITHIN;
        loop {
            // What an earlier start said is no word of this one.
            let said = self.log().len();
            let mut command = self.as_user("bash");
            command.args(["-c", SCRIPT, "bash"]).arg(&self.programs).arg(&self.folder);
            command.arg("-k").arg(&self.folder).args(["-c", "listen_addresses=", "-c", "max_connections=50"]);
            command.args(["-c", "shared_buffers=16MB", "-p", &self.port.to_string()]).args(&self.options);
            let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
            let stdin = child.stdin.take().unwrap();
            self.running = Some((child, stdin));
            while Instant::now() < until {
                let mut ready = self.program("pg_isready");
                ready.arg("-q").arg("-h").arg(&self.folder).args(["-p", &self.port.to_string()]);
                if ready.status().unwrap().success() {
                    return;
                }
                // What a killed one left may not be let go yet: then it ends at once, and is started again.
                if self.log().get(said..).is_some_and(|since| since.contains("is still in use")) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(Instant::now() < until, "PostgreSQL does not start: {}", self.log());
            self.end();
        }
    }

    /// The process that all others are children of.
    fn pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?.lines().next()?.parse().ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn program(&self, name: &str) -> Command {
        let mut command = self.as_user(self.programs.join(name));
        command.stdin(Stdio::null());
        command
    }

    fn as_user(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env_remove("PGDATA").env("LC_ALL", "C");
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((mut child, stdin)) = self.running.take() {
            drop(stdin);
            let _ended = child.wait();
        } else {
            let _removed = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// The newest programs there are.
fn programs() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("CRETO_POSTGRES") {
        return Some(folder.into());
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|entry| entry.path().join("bin")).collect();
    let version = |bin: &PathBuf| bin.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    versions.sort_by_key(version);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = versions.into_iter().rev().chain(std::env::split_paths(&path));
    folders.find(|folder| folder.join("postgres").exists() && folder.join("initdb").exists())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn unprivileged() -> User {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    };
    find("postgres").or_else(|| find("nobody")).expect("this system has a user without rights")
}
