//! An upstream that does as scripted and keeps every byte it got.

use crate::bytes::{Ends, Head, Inbox, declared_end, split_head};
use crate::wait::until;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of one body that are kept; beyond that they are only counted.
const BODY_KEPT_MAX: usize = 1 << 20;
/// A peer that says nothing for this long is left.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// One step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads the request's body to its end.
    ReadBody,
    Send(Vec<u8>),
    /// The same, one byte in a write.
    Trickle(Vec<u8>),
    Wait(Duration),
    /// Nothing more until the gateway gives up.
    Stall,
    Close,
    Reset,
    /// Whatever arrives goes back, until the end.
    Echo,
}

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Numbered from 0, in the order of accept.
    pub connection: usize,
    pub raw_head: Vec<u8>,
    pub head: Head,
    /// Decoded; its first MiB.
    pub body: Vec<u8>,
    pub body_bytes: u64,
    /// The body came to its declared end.
    pub whole: bool,
}

impl Seen {
    pub fn method(&self) -> &str {
        self.head.first_line.split(' ').next().unwrap_or_default()
    }

    /// The request target.
    pub fn target(&self) -> &str {
        self.head.first_line.split(' ').nth(1).unwrap_or_default()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.one(name)
    }
}

type Script = dyn Fn(&Seen) -> Vec<Step> + Send + Sync;

struct Shared {
    script: Box<Script>,
    seen: Mutex<Vec<Seen>>,
    /// Bytes that were no request.
    noise: Mutex<Vec<String>>,
    open: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    stop: AtomicBool,
}

pub struct Upstream {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listener: TcpListener,
    accept: Option<JoinHandle<()>>,
}

impl Upstream {
    /// `script` sees the head (the body is read by [`Step::ReadBody`]) and says what to do.
    pub fn start(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind an upstream");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            noise: Mutex::default(),
            open: Mutex::default(),
            accepted: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let waker = listener.try_clone().expect("a copy of the listener");
        let accept = {
            let shared = shared.clone();
            std::thread::spawn(move || shared.accept(&listener))
        };
        Upstream {
            address,
            shared,
            listener: waker,
            accept: Some(accept),
        }
    }

    /// 200 with this body for every request.
    pub fn ok(body: &'static str) -> Upstream {
        Upstream::start(move |_| ok(body))
    }

    /// Requests so far, in the order in which they were complete.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("no panic").clone()
    }

    /// The only request so far, once it is there.
    pub fn only(&self) -> Seen {
        let mut seen = until("request at the upstream", || {
            Some(self.seen()).filter(|seen| !seen.is_empty())
        });
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.remove(0)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(SeqCst)
    }

    /// Fails if anything but whole, strict requests has arrived.
    pub fn assert_clean(&self) {
        let noise = self.shared.noise.lock().expect("no panic");
        assert!(
            noise.is_empty(),
            "the upstream got what is no request: {noise:#?}"
        );
    }

    pub fn assert_untouched(&self) {
        self.assert_clean();
        let seen = self.seen();
        assert!(seen.is_empty(), "the upstream got {seen:#?}");
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        // Wakes the accept, from whichever namespace.
        let _ =
            nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
        for stream in self.shared.open.lock().expect("no panic").iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            if self.stop.load(SeqCst) {
                return;
            }
            let number = self.accepted.fetch_add(1, SeqCst);
            if let Ok(copy) = stream.try_clone() {
                self.open.lock().expect("no panic").push(copy);
            }
            let shared = self.clone();
            std::thread::spawn(move || {
                // Broken connections are what half of the tests are about.
                let _ = shared.serve(&stream, number);
                // The copy kept for the end would hold the socket open.
                let peer = stream.peer_addr();
                let mut open = shared.open.lock().expect("no panic");
                open.retain(|s| s.peer_addr().ok() != peer.as_ref().ok().copied());
            });
        }
    }

    fn serve(&self, mut stream: &TcpStream, connection: usize) -> io::Result<()> {
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut inbox = Inbox::default();
        while let Some(raw_head) = inbox.head(&mut stream)? {
            let head = split_head(&raw_head).inspect_err(|e| self.note(&raw_head, e))?;
            let ends = declared_end(&head).inspect_err(|e| self.note(&raw_head, e))?;
            let mut seen = Seen {
                connection,
                raw_head,
                head,
                ..Seen::default()
            };
            let steps = (self.script)(&seen);
            let slot = {
                let mut all = self.seen.lock().expect("no panic");
                seen.whole = ends.is_none();
                all.push(seen);
                all.len() - 1
            };
            let mut body = ends;
            for step in steps {
                if !self.act(stream, &mut inbox, slot, &mut body, step)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// `false`: the connection is over.
    fn act(
        &self,
        mut stream: &TcpStream,
        inbox: &mut Inbox,
        slot: usize,
        body: &mut Option<Ends>,
        step: Step,
    ) -> io::Result<bool> {
        match step {
            Step::ReadBody => {
                if let Some(ends) = body.take() {
                    let keep = |part: &[u8]| self.keep(slot, part);
                    inbox.body(&mut stream, ends, keep)?;
                    self.seen.lock().expect("no panic")[slot].whole = true;
                }
            }
            Step::Send(bytes) => stream.write_all(&bytes)?,
            Step::Trickle(bytes) => {
                for byte in bytes {
                    stream.write_all(&[byte])?;
                }
            }
            Step::Wait(time) => std::thread::sleep(time),
            Step::Stall => {
                while inbox.fill(&mut stream)? {}
                return Ok(false);
            }
            Step::Close => return Ok(false),
            Step::Reset => {
                reset_on_close(stream);
                return Ok(false);
            }
            Step::Echo => {
                let mut back = stream;
                inbox.body(&mut stream, Ends::Closed, |part| {
                    let _ = back.write_all(part);
                })?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn keep(&self, slot: usize, part: &[u8]) {
        let mut all = self.seen.lock().expect("no panic");
        let seen = &mut all[slot];
        seen.body_bytes += part.len() as u64;
        let room = BODY_KEPT_MAX
            .saturating_sub(seen.body.len())
            .min(part.len());
        seen.body.extend_from_slice(&part[..room]);
    }

    fn note(&self, raw: &[u8], error: &io::Error) {
        let text = format!("{error}: {}", String::from_utf8_lossy(raw));
        self.noise.lock().expect("no panic").push(text);
    }
}

/// The next close sends RST.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the descriptor is open, and the kernel reads exactly one `linger`.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "SO_LINGER");
}

/// Reads the body and answers 200 with a length.
pub fn ok(body: &str) -> Vec<Step> {
    answer("200 OK", &[], body)
}

/// Reads the body and answers with a length.
pub fn answer(status: &str, fields: &[&str], body: &str) -> Vec<Step> {
    let fields: String = fields.iter().map(|f| format!("{f}\r\n")).collect();
    let text = format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    vec![Step::ReadBody, Step::Send(text.into_bytes())]
}

/// Reads the body and sends these bytes.
pub fn raw(bytes: impl AsRef<[u8]>) -> Vec<Step> {
    vec![Step::ReadBody, Step::Send(bytes.as_ref().to_vec())]
}
