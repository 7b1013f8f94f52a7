//! The admin API's client: one blocking HTTP/1.1 request per connection, all the CLI needs.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A reload compiles the config twice; nothing else takes longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: u64 = 64 << 20;
const FIELDS_MAX: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot connect to {}: {}\n  is the gateway running? name its socket with --admin-socket PATH", .socket.display(), .error)]
    Connect { socket: PathBuf, error: io::Error },
    #[error("no answer from the gateway: {0}")]
    Io(#[from] io::Error),
    #[error("the gateway's answer is not understood: {0}")]
    Answer(String),
    #[error("{reason} ({status})")]
    Refused { status: u16, reason: String },
}

pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: &Path) -> Client {
        Client {
            socket: socket.to_owned(),
        }
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask("GET", path, b"")
    }

    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send("POST", path, body)
    }

    pub fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send("DELETE", path, body)
    }

    fn send<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| ClientError::Answer(e.to_string()))?;
        self.ask(method, path, &body)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<T, ClientError> {
        let mut stream =
            UnixStream::connect(&self.socket).map_err(|error| ClientError::Connect {
                socket: self.socket.clone(),
                error,
            })?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // In one write: a handler that needs no body may answer and close before a second one.
        let request = [head.as_bytes(), body].concat();
        stream.write_all(&request)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        let (status, body) = parse(&answer).map_err(ClientError::Answer)?;
        read_answer(status, body)
    }
}

fn read_answer<T: DeserializeOwned>(status: u16, body: &[u8]) -> Result<T, ClientError> {
    if (200..300).contains(&status) {
        return serde_json::from_slice(body).map_err(|e| ClientError::Answer(e.to_string()));
    }
    let reason = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|problem| problem.get("error")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    Err(ClientError::Refused { status, reason })
}

/// Status and body of a whole answer: of the stated length, since the server knows its bodies beforehand.
fn parse(answer: &[u8]) -> Result<(u16, &[u8]), String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(at) = head.parse(answer).map_err(|e| e.to_string())? else {
        return Err("its head is cut short".into());
    };
    let status = head.code.ok_or("it has no status")?;
    let rest = &answer[at..];
    let field = |name: &str| {
        let mut all = head.headers.iter();
        all.find(|h| h.name.eq_ignore_ascii_case(name))
            .map(|h| h.value)
    };
    if field("transfer-encoding").is_some() {
        return Err("its body is in parts".into());
    }
    let Some(length) = field("content-length") else {
        return Ok((status, rest));
    };
    let length: usize = std::str::from_utf8(length)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or("its length is not a number")?;
    let body = rest.get(..length).ok_or("its body is cut short")?;
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_or_errors() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(whole), Ok((200, &b"{}"[..])));
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).is_err(), "{cut}");
        }
        for bad in [
            &b"nonsense\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            assert!(parse(bad).is_err());
        }
    }

    #[test]
    fn refusals_carry_their_reason() {
        let refused = read_answer::<()>(404, b"{\"error\":\"no such ban\"}").unwrap_err();
        assert_eq!(refused.to_string(), "no such ban (404)");
        let plain = read_answer::<()>(422, b"missing field\n").unwrap_err();
        assert_eq!(plain.to_string(), "missing field (422)");
    }

    #[test]
    fn a_gateway_that_is_not_there_is_said_so() {
        let error = Client::new(Path::new("/nonexistent/admin.sock"))
            .get::<()>("/status")
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("is the gateway running?") && text.contains("/nonexistent/admin.sock"),
            "{text}"
        );
    }
}
