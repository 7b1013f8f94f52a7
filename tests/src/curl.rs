//! The real client: `curl`, with the test's authority and name.

use crate::bytes::{Head, split_head};
use crate::client::Response;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

#[derive(Clone, Debug)]
pub struct Curl {
    pub ca: PathBuf,
    pub https: SocketAddr,
    /// Runs in this namespace.
    pub namespace: Option<String>,
    pub max_seconds: f64,
}

/// What curl said.
#[derive(Clone, Debug)]
pub struct Said {
    /// 0 done, 7 refused, 28 timed out, 35 and 56 cut off.
    pub exit: i32,
    pub response: Response,
    pub error: String,
}

impl Curl {
    /// `arguments` are curl's own; the URL is `https://api.test` and `path`.
    pub fn get(&self, path: &str, arguments: &[&str]) -> Response {
        let said = self.run(path, arguments);
        assert_eq!(said.exit, 0, "curl {path} {arguments:?}: {}", said.error);
        said.response
    }

    pub fn run(&self, path: &str, arguments: &[&str]) -> Said {
        let port = self.https.port();
        let mut command = match &self.namespace {
            None => Command::new("curl"),
            Some(name) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", name, "curl"]);
                ip
            }
        };
        let output = command
            .args([
                "--silent",
                "--show-error",
                "--include",
                "--http1.1",
                "--path-as-is",
            ])
            .args([
                "--noproxy",
                "*",
                "--max-time",
                &self.max_seconds.to_string(),
            ])
            .arg("--cacert")
            .arg(&self.ca)
            .args(["--resolve", &format!("api.test:{port}:{}", self.https.ip())])
            .args(arguments)
            .arg(format!("https://api.test:{port}{path}"))
            .output()
            .expect("start curl");
        Said {
            exit: output.status.code().unwrap_or(-1),
            response: last_response(&output.stdout),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What `--include` prints: heads of interim responses, the head, the decoded body.
fn last_response(mut bytes: &[u8]) -> Response {
    let mut response = Response::default();
    while bytes.starts_with(b"HTTP/1.1 ") && (response.status == 0 || response.status < 200) {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            break;
        };
        let head: Head = split_head(&bytes[..end + 4]).expect("a clean head");
        response.status = head.first_line[9..12].parse().expect("a status");
        response.head = head;
        bytes = &bytes[end + 4..];
    }
    response.body = bytes.to_vec();
    response
}
