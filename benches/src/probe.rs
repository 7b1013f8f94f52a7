//! One request, looked at closely: a figure for the wrong answer is worth nothing.

use crate::load::Target;
use crate::tls;
use anyhow::{Context, Result, bail};
use memchr::memmem;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_secs(5);

/// Waits until the subject answers, then demands status 200 and exactly `body`.
pub fn expect(target: &Target, body: &[u8], within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    let response = loop {
        match exchange(target) {
            Ok(response) => break response,
            Err(e) if Instant::now() > deadline => {
                return Err(e).context("the subject does not answer");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let end = memmem::find(&response, b"\r\n\r\n").context("no end of the response head")?;
    let head = String::from_utf8_lossy(&response[..end]);
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("answered `{}`", head.lines().next().unwrap_or_default());
    }
    if response[end + 4..] != *body {
        bail!(
            "answered {} body bytes, or others than the upstream's {}",
            response.len() - end - 4,
            body.len()
        );
    }
    Ok(())
}

/// Sends the request with `Connection: close` added and reads to the end.
fn exchange(target: &Target) -> Result<Vec<u8>> {
    let mut request = target.request.clone();
    let end = memmem::find(&request, b"\r\n\r\n").context("no end of the request head")?;
    request.splice(end..end, b"\r\nConnection: close".iter().copied());

    let mut stream = TcpStream::connect(target.address)?;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    let mut response = Vec::new();
    match &target.tls {
        None => {
            stream.write_all(&request)?;
            stream.read_to_end(&mut response)?;
        }
        Some(client) => {
            let mut session = tls::session(client)?;
            let mut stream = rustls::Stream::new(&mut session, &mut stream);
            stream.write_all(&request)?;
            stream.read_to_end(&mut response)?;
            let suite = session
                .negotiated_cipher_suite()
                .context("no cipher suite")?;
            if session.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
                bail!("not TLS 1.3 but {:?}", suite.suite());
            }
        }
    }
    Ok(response)
}
