//! The worker's end of the channel to the warden. Reads in a task of its own, because bundles are megabytes and
//! the control loop must not lose a part when another branch of its `select!` wins.

use crate::warden::channel::{FrameError, Frames, TO_WORKER_BYTES_MAX, ToWarden, ToWorker};
use std::os::unix::net::UnixStream as StdStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;

/// Messages read and not yet acted on.
const INBOX_MAX: usize = 4;
/// Answers that wait for the warden to read.
const OUTBOX_MAX: usize = 64;

pub(super) struct Link {
    inbox: mpsc::Receiver<ToWorker>,
    outbox: mpsc::Sender<Vec<u8>>,
    closed: bool,
}

impl Link {
    /// Within a runtime.
    pub fn start(channel: StdStream) -> std::io::Result<Link> {
        channel.set_nonblocking(true)?;
        let (read, mut write) = UnixStream::from_std(channel)?.into_split();
        let (inward, inbox) = mpsc::channel(INBOX_MAX);
        let (outbox, mut outward) = mpsc::channel::<Vec<u8>>(OUTBOX_MAX);
        tokio::spawn(async move {
            if let Err(error) = receive(read, inward).await {
                tracing::error!(%error, "the warden is not understood");
            }
        });
        tokio::spawn(async move {
            while let Some(bytes) = outward.recv().await {
                if write.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        Ok(Link {
            inbox,
            outbox,
            closed: false,
        })
    }

    /// `None` once, when the warden has closed; afterwards never.
    pub async fn next(&mut self) -> Option<ToWorker> {
        if self.closed {
            return std::future::pending().await;
        }
        let message = self.inbox.recv().await;
        self.closed = message.is_none();
        message
    }

    /// Never waits: a warden that does not read is stuck or gone, and no answer helps it.
    pub fn send(&self, message: &ToWarden) {
        if self.outbox.try_send(message.encode()).is_err() {
            tracing::warn!("an answer to the warden was dropped");
        }
    }
}

async fn receive(
    mut channel: OwnedReadHalf,
    inward: mpsc::Sender<ToWorker>,
) -> Result<(), FrameError> {
    let mut frames = Frames::new(TO_WORKER_BYTES_MAX);
    let mut part = vec![0; 64 << 10];
    while let Ok(n @ 1..) = channel.read(&mut part).await {
        frames.feed(&part[..n]);
        while let Some(message) = frames.next(ToWorker::decode)? {
            if inward.send(message).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warden::channel::{Bundle, TO_WARDEN_BYTES_MAX};
    use std::io::{Read, Write};

    #[test]
    fn both_directions_and_the_end() {
        let (mut warden, worker) = StdStream::pair().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let large = Bundle {
            text: "x".repeat(1 << 20),
            ..Default::default()
        };
        let publish = ToWorker::Publish {
            ticket: 5,
            number: 6,
            bundle: large,
        };
        // From another thread: more than a socket's buffer.
        let peer = std::thread::spawn(move || {
            warden.write_all(&publish.encode()).unwrap();
            let mut frames = Frames::new(TO_WARDEN_BYTES_MAX);
            let mut part = [0; 64];
            let n = warden.read(&mut part).unwrap();
            frames.feed(&part[..n]);
            frames.next(ToWarden::decode).unwrap()
        });
        runtime.block_on(async {
            let mut link = Link::start(worker).unwrap();
            let message = link.next().await;
            let Some(ToWorker::Publish {
                ticket: 5,
                number: 6,
                bundle,
            }) = message
            else {
                panic!("{message:?}");
            };
            assert_eq!(bundle.text.len(), 1 << 20);
            link.send(&ToWarden::Ready);
            assert!(link.next().await.is_none());
        });
        assert_eq!(peer.join().unwrap(), Some(ToWarden::Ready));
    }
}
