//! Results that a process replays from memory: what it costs, and that no other process can tell.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use idemkv::{
    Begin, BeginError, Completion, Engine, Fingerprint, Observer, Pooling, Record, Scope, SharedError,
    SharedOptions, Status,
};

use crate::proxy::Proxy;
use crate::server::{Client, Gate, Server, claim, request, within};

#[track_caller]
fn replayed(scope: &Scope, key: &str) -> Record {
    match scope.begin(key, request()) {
        Ok(Begin::Done(record)) => record,
        other => panic!("{other:?}"),
    }
}

fn from_memory(engine: &Engine) -> u64 {
    engine.shared_stats().unwrap().replayed_from_memory
}

/// Has the record in the memory of this engine, and shows it.
#[track_caller]
fn hot(engine: &Engine, scope: &Scope, key: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    let before = from_memory(engine);
    while from_memory(engine) == before {
        assert!(Instant::now() < until, "it is not kept");
        replayed(scope, key);
    }
}

#[derive(Default)]
struct Seen(AtomicU64);

impl Observer for Seen {
    fn replayed(&self, _: &Record) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_replay_of_a_hot_key_takes_no_statement() {
    let server = server!();
    let seen = Arc::new(Seen::default());
    let quiet = || {
        let options = server.options("cache_hot").session(Duration::from_secs(300));
        options.sweep_every(None).count_every(None)
    };
    let store = quiet().observer(Arc::clone(&seen)).connect().unwrap();
    let scope = store.scope("charges");
    let done = claim(&scope, "key").complete("reply").unwrap();
    replayed(&scope, "key");
    let before = store.shared_stats().unwrap().statements;
    for _ in 0..1_000 {
        let record = replayed(&scope, "key");
        assert_eq!((record.body(), record.fence(), record.key()), (&b"reply"[..], done.fence(), &b"key"[..]));
        assert_eq!((record.expires(), record.completed()), (done.expires(), done.completed()));
    }
    assert_eq!(store.shared_stats().unwrap().statements, before);
    let stats = store.stats();
    assert_eq!((stats.replayed, seen.0.load(Ordering::Relaxed), from_memory(&store)), (1_001, 1_001, 1_000));
    assert!(stats.cached_bytes > 0);
    // Another request is none of its business, and no key's record answers for another.
    assert!(matches!(scope.begin("key", Fingerprint::of("other")), Err(BeginError::KeyReused)));
    claim(&store.scope("refunds"), "key").complete("other").unwrap();
    assert_eq!(replayed(&store.scope("refunds"), "key").body(), b"other");
    // With no memory for it each replay asks the store.
    let without = quiet().cache_bytes(0).connect().unwrap();
    let scope = without.scope("charges");
    replayed(&scope, "key");
    let before = without.shared_stats().unwrap().statements;
    replayed(&scope, "key");
    assert_eq!(without.shared_stats().unwrap().statements, before + 1);
    assert_eq!((from_memory(&without), without.stats().cached_bytes), (0, 0));
    let scope = store.scope("charges");
    hot(&store, &scope, "key");
    store.close().unwrap();
    assert!(matches!(scope.begin("key", request()), Err(BeginError::Closed)));
}

#[test]
fn memory_has_a_limit() {
    let server = server!();
    let store = server.options("cache_limit").cache_bytes(1 << 20).connect().unwrap();
    let scope = store.scope("");
    let body = vec![b'x'; 10_000];
    for number in 0..300 {
        let key = format!("key {number}");
        claim(&scope, &key).complete(&body).unwrap();
        assert_eq!(replayed(&scope, &key).body(), &body);
        assert!(store.stats().cached_bytes <= 1 << 20);
    }
    assert!(store.stats().cached_bytes > 1 << 19);
    hot(&store, &scope, "key 0");
}

/// Which fences of the one key can't be replayed any more, as far as each participant knows: a file
/// with a number for each.
struct Board {
    file: File,
    path: PathBuf,
}

const SLOTS: usize = 8;

impl Board {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("idemkv-board-{name}-{}", std::process::id()));
        fs::write(&path, [0; SLOTS * 8]).unwrap();
        Self::open(&path)
    }

    fn open(path: &Path) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        Self { file, path: path.to_owned() }
    }

    fn put(&self, slot: usize, fence: u64) {
        self.file.write_all_at(&fence.to_ne_bytes(), slot as u64 * 8).unwrap();
    }

    fn highest(&self) -> u64 {
        let mut all = [0; SLOTS * 8];
        self.file.read_exact_at(&mut all, 0).unwrap();
        all.chunks(8).map(|slot| u64::from_ne_bytes(slot.try_into().unwrap())).max().unwrap()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}

/// On a line of its own, also among what the rig of the tests says.
fn say(what: &str) {
    std::io::stdout().write_all(format!("\n{what}\n").as_bytes()).unwrap();
}

/// Begins with the one key for ever. Says what it was granted, and a replay of a record that had
/// been forgotten before the begin.
fn replay_for_ever(scope: &Scope, board: &Board, slot: usize) {
    loop {
        let gone = board.highest();
        match scope.begin("key", request()) {
            Ok(Begin::Done(record)) => {
                let fence = record.fence().get();
                if fence <= gone {
                    say(&format!("wrong {fence} {gone}"));
                }
            }
            Ok(Begin::Fresh(claim)) => {
                let fence = claim.fence().get();
                // From now on no begin may be answered with an older record.
                board.put(slot, fence - 1);
                if claim.complete("reply").is_ok() {
                    say(&format!("granted {fence}"));
                }
            }
            Ok(Begin::InFlight(pending)) => drop(pending.wait_timeout(Duration::from_millis(50))),
            Err(_) => thread::yield_now(),
        }
    }
}

/// Runs in a process of its own.
#[test]
fn a_child_that_replays() {
    let Ok(url) = std::env::var("IDEMKV_TEST_CHILD") else { return };
    let schema = std::env::var("IDEMKV_TEST_SCHEMA").unwrap();
    let Ok(board) = std::env::var("IDEMKV_TEST_BOARD") else { return };
    let slot: usize = std::env::var("IDEMKV_TEST_SLOT").unwrap().parse().unwrap();
    let policy = idemkv::Policy::default().recovery(idemkv::Recovery::Rerun);
    let options = SharedOptions::new(url).schema(schema).session(Duration::from_secs(1)).policy(policy);
    let store = options.connect().unwrap();
    thread::spawn({
        let store = store.clone();
        move || {
            let mut before = 0;
            loop {
                thread::park_timeout(Duration::from_millis(20));
                let now = from_memory(&store);
                if now > before + 100 {
                    println!("\nhot");
                }
                before = now;
            }
        }
    });
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                let board = std::mem::ManuallyDrop::new(Board::open(Path::new(&board)));
                replay_for_ever(&store.scope(""), &board, slot);
            });
        }
    });
}

/// A process, and what it says.
struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    fn start(server: &Server, schema: &str, board: &Board, slot: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "cache::a_child_that_replays", "--nocapture"]);
        command.env("IDEMKV_TEST_CHILD", server.url()).env("IDEMKV_TEST_SCHEMA", schema);
        command.env("IDEMKV_TEST_BOARD", &board.path).env("IDEMKV_TEST_SLOT", slot.to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (put, lines) = mpsc::channel();
        let out = child.stdout.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if put.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits until it says something that begins so. What is wrong fails the test.
    #[track_caller]
    fn says(&self, what: &str) {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(30)).unwrap();
            assert!(!line.starts_with("wrong"), "a forgotten record was replayed: {line}");
            if line.starts_with(what) {
                return;
            }
        }
    }

    #[track_caller]
    fn said_nothing_wrong(&self) {
        for line in self.lines.try_iter() {
            assert!(!line.starts_with("wrong"), "a forgotten record was replayed: {line}");
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Forgets the record that the key has. What is on the board then, no begin may be answered with.
fn forget(scope: &Scope, board: &Board, slot: usize) -> bool {
    let Ok(Status::Done(record)) = scope.get("key") else { return false };
    let forgotten = scope.forget_if("key", &record).unwrap();
    if forgotten {
        board.put(slot, record.fence().get());
    }
    forgotten
}

struct SetAtTheEnd<'a>(&'a AtomicBool);

impl Drop for SetAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_forgotten_record_is_replayed_by_no_process() {
    let server = server!();
    let board = Board::new("forgets");
    let stores: Vec<_> = (0..2)
        .map(|_| server.options("cache_forgets").session(Duration::from_secs(2)).connect().unwrap())
        .collect();
    let mut processes: Vec<_> =
        (0..2).map(|slot| Process::start(server, "cache_forgets", &board, slot)).collect();
    for process in &processes {
        process.says("hot");
    }
    let (forgotten, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|threads| {
        for (number, store) in stores.iter().enumerate() {
            let (board, forgotten, is_over, scope) = (&board, &forgotten, &is_over, store.scope(""));
            threads.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let done = forget(&scope, board, 4 + number);
                    forgotten.fetch_add(u64::from(done), Ordering::Relaxed);
                    // What came since is hot again, here too.
                    for _ in 0..20 {
                        let gone = board.highest();
                        if let Ok(Begin::Done(record)) = scope.begin("key", request()) {
                            assert!(record.fence().get() > gone, "a forgotten record was replayed");
                        }
                    }
                }
            });
        }
        // Whatever happens, the threads end.
        let _over = SetAtTheEnd(&is_over);
        // Meanwhile one is killed, and another starts.
        for number in 0..3 {
            processes[0].says("granted");
            processes[0].said_nothing_wrong();
            processes[0] = Process::start(server, "cache_forgets", &board, 2 + number % 2);
            processes[0].says("hot");
        }
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            processes[1].says("granted");
        }
    });
    processes.iter().for_each(Process::said_nothing_wrong);
    assert!(forgotten.into_inner() > 5);
}

#[test]
fn a_process_that_is_stopped_over_the_end_of_its_session_replays_nothing_old_when_it_goes_on() {
    let server = server!();
    let board = Board::new("stopped");
    let process = Process::start(server, "cache_stopped", &board, 0);
    process.says("hot");
    let store = server.options("cache_stopped").instance("forgetting").connect().unwrap();
    let lagging = "SELECT count(*) FROM cache_stopped.sessions s, cache_stopped.meta m \
        WHERE s.seen < m.forgets AND s.instance IS DISTINCT FROM 'forgetting' \
          AND s.replays_until_ms > extract(epoch FROM clock_timestamp()) * 1000";
    for _ in 0..3 {
        process.signal("-STOP");
        let started = Instant::now();
        assert!(forget(&store.scope(""), &board, 1));
        assert_eq!(server.sql(lagging)[0][0].as_deref(), Some("0"), "it may replay what is forgotten");
        assert!(started.elapsed() < Duration::from_secs(5), "its session lasts a second");
        process.signal("-CONT");
        process.says("granted");
        process.says("hot");
    }
    process.said_nothing_wrong();
}

/// Notes that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_record_that_was_read_before_it_was_forgotten_is_not_kept() {
    let server = server!();
    let (one, two) = (server.connect("cache_fill"), server.connect("cache_fill"));
    let (here, there) = (one.scope(""), two.scope(""));
    let done = claim(&here, "key").complete("reply").unwrap();
    // The answer is there, and its caller has not looked at it yet.
    let mut read: Pin<Box<dyn Future<Output = Result<Begin, BeginError>>>> =
        Box::pin(here.begin_async("key", request()));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(read.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(within(Duration::from_secs(10), || woken.0.load(Ordering::Acquire)));
    assert!(there.forget("key").unwrap());
    let Poll::Ready(Ok(Begin::Done(record))) = read.as_mut().poll(&mut Context::from_waker(&waker)) else {
        panic!()
    };
    assert_eq!(record.fence(), done.fence());
    drop(read);
    let next = claim(&here, "key");
    assert!(next.fence() > done.fence());
}

#[test]
fn a_record_that_is_being_forgotten_is_not_kept() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let (one, two) = (server.connect("cache_leaving"), server.connect("cache_leaving"));
    let options = SharedOptions::new(proxy.url()).schema("cache_leaving").session(Duration::from_secs(3));
    let silent = options.connect().unwrap();
    let (here, there) = (one.scope(""), two.scope(""));
    claim(&here, "key").complete("reply").unwrap();
    hot(&one, &here, "key");
    proxy.stall(true);
    thread::scope(|threads| {
        let forgetting = threads.spawn(|| there.forget("key"));
        let leaving = || server.one("SELECT leaving FROM cache_leaving.keys") == "t";
        assert!(within(Duration::from_secs(10), leaving));
        // It waits for the silent one. The other two have dropped the record, and ask the store.
        let settled =
            "SELECT count(*) FROM cache_leaving.sessions s, cache_leaving.meta m WHERE s.seen = m.forgets";
        assert!(within(Duration::from_secs(2), || server.one(settled) == "2"));
        let before = (from_memory(&one), from_memory(&two));
        for _ in 0..20 {
            if forgetting.is_finished() {
                break;
            }
            // Still a replay: the key is done until no process has it in memory.
            drop((here.begin("key", request()), there.get("key")));
        }
        assert_eq!((from_memory(&one), from_memory(&two)), before);
        assert!(forgetting.join().unwrap().unwrap());
    });
    assert!(matches!(here.get("key"), Ok(Status::Vacant | Status::InFlight(_) | Status::Interrupted(_))));
    proxy.stall(false);
    drop(silent);
}

#[test]
fn a_process_that_lost_its_session_replays_nothing_until_it_has_another() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let short = Duration::from_millis(500);
    let cut_off = SharedOptions::new(proxy.url()).schema("cache_lost").session(Duration::from_secs(1));
    let policy = idemkv::Policy::default().recovery(idemkv::Recovery::Rerun);
    let cut_off = cut_off.call_timeout(short).statement_timeout(short).policy(policy).connect().unwrap();
    let (here, other) = (cut_off.scope(""), server.connect("cache_lost"));
    claim(&here, "key").complete("old").unwrap();
    hot(&cut_off, &here, "key");
    proxy.stall(true);
    assert!(other.scope("").forget("key").unwrap());
    let begun = here.begin("key", request());
    assert!(
        matches!(begun, Err(BeginError::Shared(SharedError::Unavailable(_) | SharedError::NoSession(_)))),
        "{begun:?}"
    );
    let next = claim(&other.scope(""), "key");
    proxy.stall(false);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < until);
        match here.begin("key", request()) {
            Ok(Begin::InFlight(_)) => break,
            Err(_) => {}
            other => panic!("{other:?}"),
        }
    }
    next.complete("new").unwrap();
    hot(&cut_off, &here, "key");
    assert_eq!(replayed(&here, "key").body(), b"new");
}

#[test]
fn a_renewal_that_commits_after_the_end_of_its_session_prolongs_no_replay() {
    let server = server!();
    // A notification would come with the answer of the renewal.
    let late = server.options("cache_late").session(Duration::from_secs(12)).pooling(Pooling::Transaction);
    let late = late.statement_timeout(Duration::from_secs(30)).connect().unwrap();
    let (here, other) = (late.scope(""), server.connect("cache_late"));
    claim(&here, "key").complete("old").unwrap();
    hot(&late, &here, "key");
    let id = server.one("SELECT id FROM cache_late.sessions ORDER BY started_ms LIMIT 1");
    let gate = Gate::shut(server, "cache_late", "UPDATE ON cache_late.sessions", &format!("NEW.id = {id}"));
    gate.holds(1);
    let over = format!(
        "SELECT replays_until_ms < extract(epoch FROM clock_timestamp()) * 1000 FROM cache_late.sessions WHERE id = {id}"
    );
    assert!(within(Duration::from_secs(20), || server.one(&over) == "t"));
    thread::scope(|threads| {
        let forgetting = threads.spawn(|| other.scope("").forget("key"));
        assert!(within(Duration::from_secs(10), || server.one("SELECT leaving FROM cache_late.keys") == "t"
            || forgetting.is_finished()));
        // With its row passed over, this would be time enough.
        within(Duration::from_millis(300), || forgetting.is_finished());
        // Until it goes on nothing is asked: a begin would have the session renewed again.
        let goes_on = format!(
            "SELECT EXISTS (SELECT FROM cache_late.sessions s JOIN cache_late.sessions o USING (nonce) \
               WHERE o.id = {id} AND s.until_ms > {} + 11000)",
            server.one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        );
        gate.open();
        assert!(within(Duration::from_secs(10), || server.one(&goes_on) == "t"));
        assert!(forgetting.join().unwrap().unwrap());
    });
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        match here.begin("key", request()) {
            Ok(Begin::Done(record)) => panic!("{record:?} was forgotten"),
            Ok(Begin::Fresh(claim)) => drop(claim.release()),
            Ok(Begin::InFlight(_)) | Err(_) => {}
        }
    }
}

#[test]
fn a_process_that_no_notification_reaches_drops_records_with_its_next_renewal() {
    let server = server!();
    let deaf = server.options("cache_deaf").session(Duration::from_secs(3)).pooling(Pooling::Transaction);
    let deaf = deaf.connect().unwrap();
    let (here, other) = (deaf.scope(""), server.connect("cache_deaf"));
    for round in 0..3 {
        claim(&here, "key").complete("reply").unwrap();
        claim(&here, &format!("other {round}")).complete("reply").unwrap();
        hot(&deaf, &here, "key");
        let started = Instant::now();
        assert!(other.scope("").forget("key").unwrap());
        assert!(started.elapsed() < Duration::from_millis(2_500), "it is renewed every second");
    }
    claim(&here, "key").complete("reply").unwrap();
}

#[test]
fn a_forget_takes_milliseconds_and_leaves_other_records_in_memory() {
    let server = server!();
    let (one, two) = (server.connect("cache_quick"), server.connect("cache_quick"));
    let (here, there) = (one.scope(""), two.scope(""));
    for round in 0..5 {
        let (key, other) = (format!("key {round}"), format!("other {round}"));
        claim(&here, &key).complete("reply").unwrap();
        claim(&here, &other).complete("reply").unwrap();
        hot(&one, &here, &key);
        hot(&one, &here, &other);
        let started = Instant::now();
        assert!(there.forget(&key).unwrap());
        // A renewal comes after five seconds.
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        let before = from_memory(&one);
        replayed(&here, &other);
        assert_eq!(from_memory(&one), before + 1);
        claim(&here, &key).release().unwrap();
    }
}

#[test]
fn a_connection_that_is_lost_empties_the_memory() {
    let server = server!();
    let (one, two) = (server.connect("cache_broken"), server.connect("cache_broken"));
    let (here, there) = (one.scope(""), two.scope(""));
    claim(&here, "key").complete("reply").unwrap();
    claim(&here, "other").complete("reply").unwrap();
    hot(&one, &here, "key");
    // Behind the back of all processes, as a failover that loses results does.
    server.sql("DELETE FROM cache_broken.keys WHERE key = 'other'");
    let mut client = Client::connect(server);
    client.run(
        "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a, pg_stat_activity me \
           WHERE me.pid = pg_backend_pid() AND a.application_name = 'idemkv' \
             AND a.query LIKE '%cache\\_broken%'",
    );
    assert!(there.forget("key").unwrap());
    let next = (claim(&here, "key"), claim(&here, "other"));
    assert!(next.0.interrupted().is_none());
}

/// The server's clock runs eight percent fast: as fast as any daemon slews one.
#[test]
fn a_record_is_not_replayed_past_its_expiry_though_the_servers_clock_is_faster() {
    let server = server!();
    let clock =
        "(1780000000000 + (extract(epoch FROM clock_timestamp()) * 1000 - 1780000000000) * 1.08)::bigint";
    let options = || server.options("cache_expiry").clock(clock).session(Duration::from_secs(3));
    let (one, two) = (options().connect().unwrap(), options().cache_bytes(0).connect().unwrap());
    let (here, there) = (one.scope(""), two.scope(""));
    let keys: Vec<_> = (0..5_u32).map(|number| format!("key {number}")).collect();
    for (number, key) in keys.iter().enumerate() {
        let ttl = Duration::from_millis(2_500 + 370 * number as u64);
        claim(&here, key).complete_with("reply", Completion::new().ttl(ttl)).unwrap();
        hot(&one, &here, key);
    }
    let granted: Vec<_> = keys.iter().map(|_| AtomicBool::new(false)).collect();
    let is_over = || granted.iter().all(|granted| granted.load(Ordering::Acquire));
    let claims = thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over() {
                for (key, granted) in keys.iter().zip(&granted) {
                    let granted = granted.load(Ordering::Acquire);
                    let begun = here.begin(key, request());
                    assert!(!(granted && matches!(begun, Ok(Begin::Done(_)))), "another has the claim");
                }
            }
        });
        let mut claims = Vec::new();
        for (key, granted) in keys.iter().zip(&granted) {
            let claim = loop {
                match there.begin(key, request()) {
                    Ok(Begin::Fresh(claim)) => break Some(claim),
                    Ok(Begin::InFlight(_)) => break None,
                    Ok(Begin::Done(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            };
            granted.store(true, Ordering::Release);
            claims.extend(claim);
        }
        claims
    });
    assert!(from_memory(&one) > 1_000);
    drop(claims);
}

/// A key that had expired may have been used again before the clock went back.
#[test]
fn a_clock_that_is_set_back_makes_no_expired_record_good_again() {
    let server = server!();
    server.sql("CREATE SCHEMA cache_back; CREATE TABLE cache_back.shift (ms bigint); INSERT INTO cache_back.shift VALUES (0)");
    let clock =
        "((extract(epoch FROM clock_timestamp()) * 1000)::bigint + (SELECT ms FROM cache_back.shift))";
    let options =
        || server.options("cache_back").clock(clock).session(Duration::from_secs(60)).sweep_every(None);
    let (one, two) = (options().connect().unwrap(), options().connect().unwrap());
    let (here, there) = (one.scope(""), two.scope(""));
    claim(&here, "key").complete_with("old", Completion::new().ttl(Duration::from_secs(30))).unwrap();
    hot(&one, &here, "key");
    // Another record is forgotten, and so the session is renewed at once.
    let renew = || {
        claim(&there, "other").complete("reply").unwrap();
        assert!(there.forget("other").unwrap());
    };
    server.sql("UPDATE cache_back.shift SET ms = 40000");
    renew();
    let next = claim(&there, "key");
    assert!(within(Duration::from_secs(2), || matches!(
        here.begin("key", request()),
        Ok(Begin::InFlight(_))
    )));
    server.sql("UPDATE cache_back.shift SET ms = 0");
    renew();
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        assert!(matches!(here.begin("key", request()), Ok(Begin::InFlight(_))));
    }
    next.complete("new").unwrap();
    assert_eq!(replayed(&here, "key").body(), b"new");
}

/// A step that is smaller than what the clock may be slewed by between two renewals.
#[test]
fn a_clock_that_is_set_back_a_little_makes_no_expired_record_good_again() {
    let server = server!();
    server.sql("CREATE SCHEMA cache_step; CREATE TABLE cache_step.shift (ms bigint); INSERT INTO cache_step.shift VALUES (0)");
    let clock =
        "((extract(epoch FROM clock_timestamp()) * 1000)::bigint + (SELECT ms FROM cache_step.shift))";
    let options =
        || server.options("cache_step").clock(clock).session(Duration::from_secs(60)).sweep_every(None);
    let (one, two) = (options().connect().unwrap(), options().connect().unwrap());
    let (here, there) = (one.scope(""), two.scope(""));
    let renew = || {
        claim(&there, "other").complete("reply").unwrap();
        assert!(there.forget("other").unwrap());
    };
    renew();
    claim(&here, "key").complete_with("old", Completion::new().ttl(Duration::from_secs(4))).unwrap();
    hot(&one, &here, "key");
    let next = loop {
        if let Begin::Fresh(claim) = there.begin("key", request()).unwrap() {
            break claim;
        }
    };
    server.sql("UPDATE cache_step.shift SET ms = -400");
    renew();
    let until = Instant::now() + Duration::from_millis(400);
    while Instant::now() < until {
        assert!(matches!(here.begin("key", request()), Ok(Begin::InFlight(_))));
    }
    drop(next.complete("new").unwrap());
}

#[test]
fn a_process_that_was_replaced_is_waited_for_while_it_may_replay() {
    let server = server!();
    let named = || server.options("cache_named").instance("worker-1").session(Duration::from_secs(3));
    // No notification reaches it, so it learns of both with its next renewal.
    let one = named().pooling(Pooling::Transaction).connect().unwrap();
    let here = one.scope("");
    claim(&here, "key").complete("reply").unwrap();
    hot(&one, &here, "key");
    let two = named().connect().unwrap();
    let is_forgotten = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| {
            assert!(two.scope("").forget("key").unwrap());
            is_forgotten.store(true, Ordering::Release);
        });
        loop {
            let gone = is_forgotten.load(Ordering::Acquire);
            let begun = here.begin("key", request());
            assert!(!(gone && matches!(begun, Ok(Begin::Done(_)))), "{begun:?}");
            if gone {
                return;
            }
        }
    });
}

#[test]
fn a_process_that_is_closed_or_keeps_no_results_is_not_waited_for() {
    let server = server!();
    let long = || server.options("cache_closed").session(Duration::from_secs(600));
    let (one, two) = (long().connect().unwrap(), server.connect("cache_closed"));
    let without = long().cache_bytes(0).connect().unwrap();
    let here = one.scope("");
    claim(&here, "key").complete("reply").unwrap();
    hot(&one, &here, "key");
    one.close().unwrap();
    assert!(two.scope("").forget("key").unwrap());
    assert_eq!(server.one("SELECT count(*) FROM cache_closed.sessions WHERE seen IS NOT NULL"), "1");
    drop(without);
}

/// A failover to a standby that lost the last forget. The next one gets its number. `breaks` is how
/// the processes notice that they talk to another server.
fn number_again(schema: &str, options: SharedOptions, breaks: impl Fn(&Server)) {
    let server = server!();
    let one = options.connect().unwrap();
    let two = server.options(schema).cache_bytes(0).connect().unwrap();
    let (here, there) = (one.scope(""), two.scope(""));
    claim(&there, "lost").complete("x").unwrap();
    claim(&there, "key").complete("old").unwrap();
    assert!(there.forget("lost").unwrap());
    let sessions =
        format!("SELECT string_agg(seen::text, ',') FROM {schema}.sessions WHERE seen IS NOT NULL");
    assert!(within(Duration::from_secs(10), || server.one(&sessions) == "1"));
    hot(&one, &here, "key");
    server.sql(&format!(
        "UPDATE {schema}.meta SET forgets = 0; UPDATE {schema}.sessions SET seen = 0 WHERE seen = 1"
    ));
    breaks(server);
    assert!(there.forget("key").unwrap());
    let granted = claim(&there, "key");
    let begun = here.begin("key", request());
    assert!(matches!(begun, Ok(Begin::InFlight(_))), "{begun:?}");
    granted.complete("new").unwrap();
}

#[test]
fn behind_a_pooler_another_server_is_noticed() {
    let server = server!();
    server.sql("CREATE SCHEMA cache_pooler; CREATE TABLE cache_pooler.server (id bigint); INSERT INTO cache_pooler.server VALUES (7)");
    let options = server.options("cache_pooler").pooling(Pooling::Transaction);
    let options = options.session(Duration::from_secs(6)).server("(SELECT id FROM cache_pooler.server)");
    number_again("cache_pooler", options, |server| {
        server.sql("UPDATE cache_pooler.server SET id = 8");
    });
}

#[test]
fn a_record_whose_mark_a_failover_took_back_is_marked_again() {
    let server = server!();
    let one = server.options("cache_mark").session(Duration::from_secs(3)).connect().unwrap();
    let two = server.options("cache_mark").cache_bytes(0).connect().unwrap();
    let (here, there) = (one.scope(""), two.scope(""));
    claim(&there, "key").complete("old").unwrap();
    claim(&there, "another").complete("x").unwrap();
    hot(&one, &here, "key");
    // A process that is silent holds the forget up.
    server.sql(
        "INSERT INTO cache_mark.sessions (id, nonce, until_ms, started_ms, replays_until_ms, seen) \
         VALUES (1, gen_random_uuid(), 9000000000000, 0, 9000000000000, 0)",
    );
    let leaving = || server.one("SELECT leaving FROM cache_mark.keys WHERE key = 'key'");
    thread::scope(|threads| {
        let forgetting = threads.spawn(|| there.forget("key"));
        assert!(within(Duration::from_secs(5), || leaving() == "t"));
        // The failover: connections break, and the standby does not have the mark.
        server.sql(
            "UPDATE cache_mark.meta SET forgets = 0; UPDATE cache_mark.keys SET leaving = false; \
             UPDATE cache_mark.sessions SET seen = 0; SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = 'idemkv' AND query LIKE '%cache_mark%'",
        );
        hot(&one, &here, "key");
        server.sql("DELETE FROM cache_mark.sessions WHERE id = 1");
        // Another record is forgotten: the same number.
        let three = server.options("cache_mark").cache_bytes(0).connect().unwrap();
        assert!(three.scope("").forget("another").unwrap());
        assert!(forgetting.join().unwrap().unwrap());
    });
    let begun = here.begin("key", request());
    assert!(matches!(begun, Ok(Begin::Fresh(_))), "a forgotten record was replayed: {begun:?}");
}
