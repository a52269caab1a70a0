//! Three servers, of which two copy the third, each through a proxy that can hold its copy up.

use std::fs;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use idemkv::{Policy, Recovery, SharedOptions};

use crate::proxy::Proxy;
use crate::server::{Client, Place, Running, Server, free_ports};

/// A commit waits until one of the others has it.
pub const QUORUM: &str = "ANY 1 (a, b, c)";
/// A commit waits for no other server.
pub const NO_QUORUM: &str = "";

const NAMES: [&str; 3] = ["a", "b", "c"];

pub struct Cluster {
    place: Place,
    ports: [u16; 3],
    nodes: [Node; 3],
    primary: usize,
}

#[derive(Default)]
struct Node {
    live: Option<Live>,
    /// Between a standby and its primary.
    link: Option<Proxy>,
}

struct Live {
    running: Running,
    server: Server,
    asked: Mutex<Client>,
}

/// Waits until the servers say so.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "{what}: it did not come to that");
        thread::yield_now();
    }
}

impl Cluster {
    /// `quorum` says for whom commits wait. `None` without the programs of the server.
    pub fn start(quorum: &str) -> Option<Self> {
        let place = Place::find()?;
        let settings = format!(
            "synchronous_standby_names = '{quorum}'\nwal_keep_size = '512MB'\n\
             wal_retrieve_retry_interval = '100ms'\nshared_buffers = '16MB'\n"
        );
        for name in NAMES {
            place.init(name, &settings)?;
        }
        let mut cluster = Self { place, ports: free_ports(), nodes: Default::default(), primary: 0 };
        cluster.start_node(0);
        for (node, name) in NAMES.iter().enumerate().skip(1) {
            fs::write(cluster.place.directory.join(name).join("standby.signal"), "").ok()?;
            cluster.start_node(node);
            cluster.follow(node);
        }
        Some(cluster)
    }

    fn start_node(&mut self, node: usize) {
        let (running, server) = self.place.start(NAMES[node], self.ports[node]).unwrap();
        let asked = Mutex::new(Client::connect(&server));
        self.nodes[node].live = Some(Live { running, server, asked });
    }

    fn live(&self, node: usize) -> &Live {
        let Some(live) = &self.nodes[node].live else { panic!("{} does not run", NAMES[node]) };
        live
    }

    pub fn server(&self, node: usize) -> &Server {
        &self.live(node).server
    }

    /// One value.
    fn ask(&self, node: usize, query: &str) -> String {
        let rows = self.live(node).asked.lock().unwrap().run(query);
        rows[0][0].clone().unwrap_or_default()
    }

    /// One value of the primary.
    pub fn one(&self, query: &str) -> String {
        self.ask(self.primary, query)
    }

    pub fn primary(&self) -> &Server {
        self.server(self.primary)
    }

    /// Those that run.
    pub fn standbys(&self) -> Vec<usize> {
        (0..NAMES.len()).filter(|node| *node != self.primary && self.nodes[*node].live.is_some()).collect()
    }

    pub fn ports(&self, nodes: &[usize]) -> Vec<u16> {
        nodes.iter().map(|node| self.ports[*node]).collect()
    }

    /// Of all servers, in an order that says nothing of which is the primary.
    pub fn options(&self) -> SharedOptions {
        options(&self.ports)
    }

    /// Holds up what a standby is sent and what it says, or nothing any more.
    pub fn stall(&self, standby: usize, stalls: bool) {
        self.nodes[standby].link.as_ref().unwrap().stall(stalls);
    }

    /// Whether a commit of the primary waits for a standby.
    pub fn has_waiting_commit(&self) -> bool {
        self.one("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") != "0"
    }

    /// Waits until all standbys have what the primary has.
    pub fn catch_up(&self) {
        let end = self.one("SELECT pg_current_wal_flush_lsn()");
        for standby in self.standbys() {
            let has = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
            wait_until("a standby catches up", || self.ask(standby, &has) == "t");
        }
    }

    /// Ends the primary by a signal. Returns which one it was.
    pub fn kill_primary(&mut self, signal: &str) -> usize {
        self.kill(self.primary, signal);
        self.primary
    }

    pub fn kill(&mut self, node: usize, signal: &str) {
        self.nodes[node].live.take().unwrap().running.end(signal);
    }

    /// Makes the standbys take nothing more from their primary, so that none confirms its commits
    /// any more.
    pub fn part_standbys(&self) {
        for standby in self.standbys() {
            self.copy_from(standby, "");
        }
        for standby in self.standbys() {
            let receives = "SELECT count(*) FROM pg_stat_wal_receiver";
            wait_until("a standby stops receiving", || self.ask(standby, receives) == "0");
        }
    }

    /// Promotes the standby that has most of the log, once none receives anything. The other one
    /// copies it. Returns the primary before.
    pub fn promote(&mut self) -> usize {
        let standbys = self.standbys();
        let has = |standby: &usize| -> u64 {
            let end = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn";
            self.ask(*standby, end).parse().unwrap()
        };
        let next = standbys.iter().copied().max_by_key(has).unwrap();
        assert_eq!(self.ask(next, "SELECT pg_promote()"), "t");
        wait_until("a standby becomes the primary", || self.ask(next, "SELECT pg_is_in_recovery()") == "f");
        let before = std::mem::replace(&mut self.primary, next);
        for standby in standbys.into_iter().filter(|standby| *standby != next) {
            self.follow(standby);
        }
        before
    }

    /// Has a standby copy the primary, through a proxy of their own.
    fn follow(&mut self, standby: usize) {
        let link = Proxy::to(self.ports[self.primary]);
        let info =
            format!("host=127.0.0.1 port={} user=idemkv application_name={}", link.port, NAMES[standby]);
        self.copy_from(standby, &info);
        self.nodes[standby].link = Some(link);
        let streams = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{}' AND state = 'streaming'",
            NAMES[standby]
        );
        wait_until("a standby copies the primary", || self.one(&streams) == "1");
    }

    fn copy_from(&self, standby: usize, primary: &str) {
        let mut client = self.live(standby).asked.lock().unwrap();
        client.run(&format!("ALTER SYSTEM SET primary_conninfo = '{primary}'"));
        client.run("SELECT pg_reload_conf()");
    }

    /// Makes a standby of a server that does not run, with a new copy of the primary's data.
    pub fn copy_anew(&mut self, node: usize) {
        let data = self.place.directory.join(NAMES[node]);
        fs::remove_dir_all(&data).ok();
        let copied = self
            .place
            .program("pg_basebackup")
            .args(["-h", "127.0.0.1", "-p", &self.ports[self.primary].to_string(), "-U", "idemkv"])
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--write-recovery-conf", "-D"])
            .arg(&data)
            .status();
        assert!(copied.unwrap().success(), "pg_basebackup");
        // What it copies, and through which proxy, comes with `follow`.
        fs::write(data.join("postgresql.auto.conf"), "").unwrap();
        self.start_node(node);
        self.follow(node);
    }
}

/// Of the servers at these ports, each of which may be the primary.
pub fn options(ports: &[u16]) -> SharedOptions {
    let list = |words: Vec<String>| words.join(",");
    let hosts = list(ports.iter().map(|_| "127.0.0.1".to_owned()).collect());
    let ports = list(ports.iter().map(u16::to_string).collect());
    let policy = Policy::default().ttl(Duration::from_secs(3_600)).recovery(Recovery::Rerun);
    SharedOptions::new(format!("host={hosts} port={ports} user=idemkv dbname=postgres"))
        .schema("failover")
        .policy(policy)
        .statement_timeout(Duration::from_secs(2))
        .call_timeout(Duration::from_secs(2))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for live in self.nodes.iter_mut().filter_map(|node| node.live.take()) {
            live.running.end("KILL");
        }
        fs::remove_dir_all(&self.place.directory).ok();
    }
}
