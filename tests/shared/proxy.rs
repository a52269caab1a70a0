//! A proxy that cuts connections on command: after the request and before the reply, or before
//! the request; or that stops passing anything on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

#[derive(Default)]
struct Orders {
    /// So many replies are cut off.
    replies: AtomicU32,
    /// So many requests are cut off.
    requests: AtomicU32,
    cuts: AtomicU32,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stalls: bool,
    mutes: bool,
    /// Requests with this text are not passed on.
    holds: Option<&'static str>,
    holds_of: Which,
    /// So many were held up.
    held: u32,
    /// This message of the server comes before each reply.
    says: Option<Vec<u8>>,
    /// Connections are closed as they are made.
    refuses: bool,
    /// So many connections were made.
    connections: u32,
}

/// The connections whose requests are held up.
#[derive(Default)]
enum Which {
    #[default]
    All,
    /// So many first ones.
    First(u32),
    /// The one that sends such a request first, by its number once there is one.
    One(Option<u32>),
}

impl Which {
    fn has(&self, number: u32) -> bool {
        match self {
            Self::All => true,
            Self::First(count) => number <= *count,
            Self::One(one) => one.is_none_or(|one| one == number),
        }
    }
}

impl Orders {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait_while(&self, is_so: impl Fn(&State) -> bool) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| is_so(state)).unwrap());
    }
}

pub struct Proxy {
    pub port: u16,
    orders: Arc<Orders>,
}

impl Proxy {
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let orders = Arc::new(Orders::default());
        let of_threads = Arc::clone(&orders);
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                of_threads.set(|state| state.connections += 1);
                let number = of_threads.state.lock().unwrap().connections;
                if of_threads.state.lock().unwrap().refuses {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
                client.set_nodelay(true).ok();
                server.set_nodelay(true).ok();
                let asked = Arc::new(AtomicBool::new(false));
                for (from, to, is_reply) in [(&client, &server, false), (&server, &client, true)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (orders, asked) = (Arc::clone(&of_threads), Arc::clone(&asked));
                    thread::spawn(move || pass(from, to, (is_reply, number), (&orders, &asked)));
                }
            }
        });
        Self { port, orders }
    }

    pub fn url(&self) -> String {
        format!("postgres://idemkv@127.0.0.1:{}/postgres", self.port)
    }

    /// Cuts the connection at its next reply: the request has been carried out.
    pub fn cut_reply(&self) {
        self.orders.replies.fetch_add(1, Ordering::SeqCst);
    }

    /// Cuts the connection at its next request, which never arrives.
    pub fn cut_request(&self) {
        self.orders.requests.fetch_add(1, Ordering::SeqCst);
    }

    /// Passes nothing on, or everything again.
    pub fn stall(&self, stalls: bool) {
        self.orders.set(|state| state.stalls = stalls);
    }

    /// Closes each new connection at once, or none any more.
    pub fn refuse(&self, refuses: bool) {
        self.orders.set(|state| state.refuses = refuses);
    }

    pub fn connections(&self) -> u32 {
        self.orders.state.lock().unwrap().connections
    }

    /// Waits until so many connections have been made in all.
    pub fn wait_for_connections(&self, connections: u32) {
        self.orders.wait_while(|state| state.connections < connections);
    }

    /// Puts this message before each reply of the server, or none any more.
    pub fn say(&self, message: Option<Vec<u8>>) {
        self.orders.set(|state| state.says = message);
    }

    /// Holds requests with this text up, or none any more. One that is held up arrives later, also
    /// if its client has gone.
    pub fn hold(&self, text: Option<&'static str>) {
        self.orders.set(|state| (state.holds, state.holds_of) = (text, Which::All));
    }

    /// The same for the connections that are there, and for none that comes.
    pub fn hold_of_present(&self, text: &'static str) {
        self.orders
            .set(|state| (state.holds, state.holds_of) = (Some(text), Which::First(state.connections)));
    }

    /// Holds up one request with this text, and its connection with it.
    pub fn hold_one(&self, text: &'static str) {
        self.orders.set(|state| (state.holds, state.holds_of) = (Some(text), Which::One(None)));
    }

    /// Waits until so many requests have been held up in all.
    pub fn wait_for_held(&self, requests: u32) {
        self.orders.wait_while(|state| state.held < requests);
    }

    /// Passes requests on, but no reply; or everything again.
    pub fn mute(&self, mutes: bool) {
        self.orders.set(|state| state.mutes = mutes);
    }

    pub fn cuts(&self) -> u32 {
        self.orders.cuts.load(Ordering::SeqCst)
    }
}

fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    (is_reply, number): (bool, u32),
    // A request was passed on, and no reply since.
    (orders, asked): (&Orders, &AtomicBool),
) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        orders.wait_while(|state| state.stalls || is_reply && state.mutes);
        let sent = &buffer[..read];
        let is_held = |state: &State| {
            let is_meant = !is_reply && state.holds_of.has(number);
            let holds = state.holds.filter(|_| is_meant).map(str::as_bytes);
            holds.is_some_and(|text| sent.windows(text.len()).any(|part| part == text))
        };
        orders.set(|state| {
            if is_held(state) {
                state.held += 1;
                if let Which::One(one) = &mut state.holds_of {
                    *one = Some(number);
                }
            }
        });
        orders.wait_while(is_held);
        let left = if is_reply { &orders.replies } else { &orders.requests };
        let is_cut =
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_cut {
            orders.cuts.fetch_add(1, Ordering::SeqCst);
            break;
        }
        // A client asks once the reply before is whole, so a reply starts here.
        let says = orders.state.lock().unwrap().says.clone();
        let is_first = asked.swap(!is_reply, Ordering::SeqCst) && is_reply;
        let message = says.filter(|_| is_first).unwrap_or_default();
        if to.write_all(&message).and_then(|()| to.write_all(&buffer[..read])).is_err() {
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}
