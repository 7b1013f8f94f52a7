//! Keep-alive load from several threads, every response checked. What fails is reported, never retried.

use crate::client::{Client, get};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A load that nobody stops ends by itself.
const LONGEST: Duration = Duration::from_secs(90);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
    longest_us: AtomicU64,
}

pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

/// What clients do when the gateway says `Connection: close`, or closes between two requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum OnClose {
    /// Connect again: the gateway goes on.
    Reconnect,
    /// It drains: done.
    Stop,
}

impl Load {
    /// `clients` threads ask `path` one request at a time until told to stop.
    pub fn start(to: SocketAddr, path: &str, clients: usize, on_close: OnClose) -> Load {
        let shared = Arc::<Shared>::default();
        let threads = (0..clients).map(|_| {
            let (shared, request) = (shared.clone(), get(path));
            std::thread::spawn(move || shared.run(to, &request, on_close))
        });
        let threads = threads.collect();
        Load { shared, threads }
    }

    pub fn done(&self) -> u64 {
        self.shared.done.load(Relaxed)
    }

    /// The longest that a request took so far.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.shared.longest_us.load(Relaxed))
    }

    /// Responses got, and what went wrong.
    pub fn finish(self) -> (u64, Vec<String>) {
        self.shared.stop.store(true, Relaxed);
        let ends = self
            .threads
            .into_iter()
            .map(|t| t.join().expect("a client thread"));
        let failures = ends.filter_map(Result::err).collect();
        (self.shared.done.load(Relaxed), failures)
    }
}

impl Shared {
    fn run(&self, to: SocketAddr, request: &str, on_close: OnClose) -> Result<(), String> {
        let mut client = Client::try_connect(to).map_err(|e| format!("first connect: {e}"))?;
        let end = Instant::now() + LONGEST;
        let mut on_this = 0u64;
        while !self.stop.load(Relaxed) && Instant::now() < end {
            let begun = Instant::now();
            let answer = client
                .try_send(request)
                .and_then(|()| client.try_response("GET"));
            let took_us = begun.elapsed().as_micros() as u64;
            self.longest_us.fetch_max(took_us, Relaxed);
            match answer {
                Ok(response) if response.status == 200 => {
                    self.done.fetch_add(1, Relaxed);
                    on_this += 1;
                    if !response.closes() {
                        continue;
                    }
                }
                Ok(response) => {
                    return Err(format!("status {}: {}", response.status, response.text()));
                }
                Err(e) => return Err(format!("request {on_this} of its connection: {e}")),
            }
            if on_close == OnClose::Stop {
                return Ok(());
            }
            client = Client::try_connect(to).map_err(|e| format!("connect again: {e}"))?;
            on_this = 0;
        }
        Ok(())
    }
}
