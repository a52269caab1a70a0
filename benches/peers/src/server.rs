//! Stores that are processes of their own, started for a comparison where they are installed, and
//! stopped after it.

use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

const START: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Redis whose log is synced before every answer.
    pub(crate) fn redis(dir: &Path) -> io::Result<Self> {
        let socket = dir.join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            "0",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--save",
            "",
            "--maxclients",
            "4096",
        ]);
        command.arg("--dir").arg(dir).arg("--unixsocket").arg(&socket);
        Self::start(command, &socket, format!("redis+unix://{}", socket.display()))
    }

    /// PostgreSQL as it comes, which is durable.
    pub(crate) fn postgres(dir: &Path) -> io::Result<Self> {
        let data = dir.join("postgres");
        std::fs::create_dir(&data)?;
        let as_nobody = |program: &str| -> io::Result<Command> {
            let program = found(program)?;
            if !is_root() {
                return Ok(Command::new(program));
            }
            // It refuses to run as root.
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
            Ok(command)
        };
        if is_root() {
            chown(dir, Some(65_534), Some(65_534))?;
            chown(&data, Some(65_534), Some(65_534))?;
        }
        let mut initdb = as_nobody("initdb")?;
        let made =
            initdb.args(["--username=bench", "--auth=trust", "-D"]).arg(&data).current_dir(dir).output()?;
        if !made.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()));
        }
        let mut command = as_nobody("postgres")?;
        command.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c"]).current_dir(dir);
        command.arg(format!("unix_socket_directories={}", dir.display()));
        let address = format!("host={} user=bench dbname=postgres", dir.display());
        Self::start(command, &dir.join(".s.PGSQL.5432"), address)
    }

    fn start(mut command: Command, socket: &Path, address: String) -> io::Result<Self> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut server = Self { child, address };
        for _ in 0..START.as_millis() / 100 {
            thread::sleep(Duration::from_millis(100));
            if let Some(ended) = server.child.try_wait()? {
                return Err(io::Error::other(format!("it ended with {ended}")));
            }
            if socket.exists() {
                // PostgreSQL listens a moment before it takes anybody.
                thread::sleep(Duration::from_millis(500));
                return Ok(server);
            }
        }
        Err(io::Error::other("it did not start in time"))
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// A program on the path, or where Debian keeps PostgreSQL's.
fn found(program: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"));
    let mut places = debian.chain(std::env::split_paths(&path)).map(|folder| folder.join(program));
    places.find(|file| file.is_file()).ok_or_else(|| io::Error::other(format!("{program} is not installed")))
}
