//! What warden and worker say to each other over their socket pair: frames of a length, a kind and a body.
//! The worker is the side that strangers talk to, so what it may send is small and bounded; bundles, which can
//! be megabytes, only go the other way.

use crate::diagnose::{Diagnostic, Files};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A config and all files it names: the largest thing sent to the worker.
pub const TO_WORKER_BYTES_MAX: usize = 1 << 30;
/// Diagnostics of a failed reload: the largest thing the worker sends.
pub const TO_WARDEN_BYTES_MAX: usize = 1 << 20;

const HEAD_BYTES: usize = 5;

/// A config that compiled, and what it was compiled from.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    pub text: String,
    pub files: Files,
}

/// Warden to worker.
#[derive(Clone, Debug)]
pub enum ToWorker {
    /// Compile and publish. `ticket` is that of the [`ToWarden::Reload`] it answers, 0 for a signal; `number` is the
    /// bundle's own, to be echoed.
    Publish {
        ticket: u64,
        number: u64,
        bundle: Bundle,
    },
    /// The reload that was asked for did not happen.
    Refused {
        ticket: u64,
        errors: Vec<Diagnostic>,
    },
    /// Open the log files again.
    ReopenLogs,
    /// Finish what is in flight and exit.
    Drain,
}

/// Worker to warden.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ToWarden {
    /// All cores accept.
    Ready,
    /// An operator asks for a reload.
    Reload { ticket: u64 },
    /// The bundle is published, or (against expectation: the warden has compiled it) refused.
    Published {
        number: u64,
        errors: Vec<Diagnostic>,
    },
}

/// Why the other side cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is larger than allowed")]
    TooLarge(usize),
    #[error("a frame of kind {0} is malformed")]
    Malformed(u8),
}

const PUBLISH: u8 = 1;
const REFUSED: u8 = 2;
const REOPEN: u8 = 3;
const DRAIN: u8 = 4;
const REPORT: u8 = 16;

impl ToWorker {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            ToWorker::Publish {
                ticket,
                number,
                bundle,
            } => frame(PUBLISH, |out| {
                out.extend_from_slice(&ticket.to_le_bytes());
                out.extend_from_slice(&number.to_le_bytes());
                put(out, bundle.text.as_bytes());
                for (path, content) in &bundle.files.0 {
                    put(out, path.as_os_str().as_bytes());
                    put(out, content);
                }
            }),
            ToWorker::Refused { ticket, errors } => frame(REFUSED, |out| {
                out.extend_from_slice(&ticket.to_le_bytes());
                json(out, errors);
            }),
            ToWorker::ReopenLogs => frame(REOPEN, |_| {}),
            ToWorker::Drain => frame(DRAIN, |_| {}),
        }
    }

    pub fn decode(kind: u8, body: &[u8]) -> Result<ToWorker, FrameError> {
        decode_to_worker(kind, body).ok_or(FrameError::Malformed(kind))
    }
}

fn decode_to_worker(kind: u8, mut body: &[u8]) -> Option<ToWorker> {
    Some(match kind {
        PUBLISH => {
            let ticket = take_u64(&mut body)?;
            let number = take_u64(&mut body)?;
            let text = String::from_utf8(take(&mut body)?.to_vec()).ok()?;
            let mut files = Files::default();
            while !body.is_empty() {
                let path = PathBuf::from(OsString::from_vec(take(&mut body)?.to_vec()));
                files.0.insert(path, take(&mut body)?.into());
            }
            ToWorker::Publish {
                ticket,
                number,
                bundle: Bundle { text, files },
            }
        }
        REFUSED => ToWorker::Refused {
            ticket: take_u64(&mut body)?,
            errors: serde_json::from_slice(body).ok()?,
        },
        REOPEN => ToWorker::ReopenLogs,
        DRAIN => ToWorker::Drain,
        _ => return None,
    })
}

impl ToWarden {
    /// Diagnostics that would not fit are left out, the rest is sent.
    pub fn encode(&self) -> Vec<u8> {
        let whole = frame(REPORT, |out| json(out, self));
        if whole.len() <= TO_WARDEN_BYTES_MAX {
            return whole;
        }
        match self {
            ToWarden::Published { number, errors } => {
                let mut errors = errors.clone();
                errors.truncate(errors.len() / 2);
                ToWarden::Published {
                    number: *number,
                    errors,
                }
                .encode()
            }
            _ => whole,
        }
    }

    pub fn decode(kind: u8, body: &[u8]) -> Result<ToWarden, FrameError> {
        if kind != REPORT {
            return Err(FrameError::Malformed(kind));
        }
        serde_json::from_slice(body).map_err(|_| FrameError::Malformed(kind))
    }
}

/// Collects bytes until frames are whole.
pub struct Frames {
    buffer: Vec<u8>,
    bytes_max: usize,
}

impl Frames {
    pub fn new(bytes_max: usize) -> Frames {
        Frames {
            buffer: Vec::new(),
            bytes_max,
        }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Gives the next whole frame to `decode`. `None`: more bytes are needed.
    pub fn next<T>(
        &mut self,
        decode: impl FnOnce(u8, &[u8]) -> Result<T, FrameError>,
    ) -> Result<Option<T>, FrameError> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length > self.bytes_max {
            return Err(FrameError::TooLarge(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = decode(head[4], body)?;
        if self.buffer.len() == HEAD_BYTES + length {
            // A bundle's worth of memory is not kept for the next small message.
            self.buffer = Vec::new();
        } else {
            self.buffer.drain(..HEAD_BYTES + length);
        }
        Ok(Some(message))
    }
}

fn frame(kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; HEAD_BYTES];
    body(&mut out);
    // Bundles are held to `TO_WORKER_BYTES_MAX` when they are read; a longer one would be refused at the far end.
    let length = u32::try_from(out.len() - HEAD_BYTES).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_le_bytes());
    out[4] = kind;
    out
}

fn json<T: serde::Serialize>(out: &mut Vec<u8>, value: &T) {
    // Strings and numbers always serialize; were it otherwise the frame would be refused as malformed.
    let _ = serde_json::to_writer(out, value);
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take_u64(body: &mut &[u8]) -> Option<u64> {
    let (head, rest) = body.split_first_chunk::<8>()?;
    *body = rest;
    Some(u64::from_le_bytes(*head))
}

fn take<'b>(body: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(take_u64(body)?).ok()?;
    let (head, rest) = body.split_at_checked(length)?;
    *body = rest;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        let mut bundle = Bundle {
            text: "[server]\n".into(),
            files: Files::default(),
        };
        bundle
            .files
            .0
            .insert("a/key.pem".into(), b"secret"[..].into());
        bundle.files.0.insert("empty".into(), b""[..].into());
        bundle
    }

    #[test]
    fn messages_survive_any_split() {
        let sent = [
            ToWorker::Publish {
                ticket: 7,
                number: 9,
                bundle: bundle(),
            },
            ToWorker::Refused {
                ticket: 8,
                errors: vec![Diagnostic {
                    path: "routes[0]".into(),
                    reason: "no".into(),
                    hint: String::new(),
                }],
            },
            ToWorker::ReopenLogs,
            ToWorker::Drain,
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(ToWorker::encode).collect();
        for step in [1, 2, 3, 7, 64, bytes.len()] {
            let mut frames = Frames::new(TO_WORKER_BYTES_MAX);
            let mut got = Vec::new();
            for part in bytes.chunks(step) {
                frames.feed(part);
                while let Some(m) = frames.next(ToWorker::decode).unwrap() {
                    got.push(m);
                }
            }
            assert_eq!(format!("{got:?}").len(), format!("{sent:?}").len());
            let ToWorker::Publish {
                ticket: 7,
                number: 9,
                bundle: b,
            } = &got[0]
            else {
                panic!("{got:?}");
            };
            assert_eq!(b.text, bundle().text);
            assert_eq!(b.files.0, bundle().files.0);
        }
    }

    #[test]
    fn size_is_checked_before_anything_is_kept() {
        let mut at_limit = Frames::new(10);
        at_limit.feed(&[10, 0, 0, 0, REPORT]);
        assert_eq!(at_limit.next(ToWarden::decode), Ok(None));
        let mut beyond = Frames::new(10);
        beyond.feed(&[11, 0, 0, 0, REPORT]);
        assert_eq!(beyond.next(ToWarden::decode), Err(FrameError::TooLarge(11)));
    }

    #[test]
    fn malformed_frames_are_errors_not_panics() {
        let whole = ToWorker::Publish {
            ticket: 1,
            number: 1,
            bundle: bundle(),
        }
        .encode();
        let body = &whole[HEAD_BYTES..];
        for cut in 0..body.len() {
            // A cut between two files is a shorter bundle; any other is refused. None panics.
            let _ = ToWorker::decode(PUBLISH, &body[..cut]);
        }
        assert!(ToWorker::decode(PUBLISH, &[0xff; 40]).is_err());
        assert!(ToWorker::decode(99, b"").is_err());
        assert!(ToWarden::decode(PUBLISH, b"{}").is_err());
        assert!(ToWarden::decode(REPORT, b"{").is_err());
    }

    #[test]
    fn a_report_is_cut_to_what_the_warden_takes() {
        let long = Diagnostic {
            path: "p".into(),
            reason: "x".repeat(1000),
            hint: String::new(),
        };
        let sent = ToWarden::Published {
            number: 3,
            errors: vec![long; 3000],
        }
        .encode();
        assert!(sent.len() <= TO_WARDEN_BYTES_MAX);
        let mut frames = Frames::new(TO_WARDEN_BYTES_MAX);
        frames.feed(&sent);
        assert!(matches!(
            frames.next(ToWarden::decode),
            Ok(Some(ToWarden::Published { number: 3, errors })) if !errors.is_empty()
        ));
    }
}
