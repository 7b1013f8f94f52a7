//! A TLS session without I/O: ciphertext is fed in and taken out, plaintext likewise.

use super::facts::TlsFacts;
use super::store::{ClientTls, ServerTls};
use rustls::{ClientConnection, Connection, ServerConnection};
use std::io::{self, Read, Write};
use std::sync::Arc;

/// Plaintext not yet sealed that the session may hold; the caller writes in parts no larger than this.
const BUFFER_BYTES_MAX: usize = 128 << 10;

pub struct Session {
    connection: Connection,
}

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// That many plaintext bytes were appended.
    Bytes(usize),
    /// The peer closed its side in order (`close_notify`).
    Closed,
    /// Nothing yet.
    Nothing,
}

impl Session {
    pub fn accept(tls: &ServerTls) -> io::Result<Session> {
        let mut connection = ServerConnection::new(tls.0.clone()).map_err(io::Error::other)?;
        connection.set_buffer_limit(Some(BUFFER_BYTES_MAX));
        Ok(Session {
            connection: connection.into(),
        })
    }

    pub fn connect(tls: &ClientTls) -> io::Result<Session> {
        let mut connection = ClientConnection::new(tls.config.clone(), tls.server_name.clone())
            .map_err(io::Error::other)?;
        connection.set_buffer_limit(Some(BUFFER_BYTES_MAX));
        Ok(Session {
            connection: connection.into(),
        })
    }

    /// Takes in ciphertext from the peer; all of it, or an error that ends the session. After an
    /// error [`take_cipher`](Self::take_cipher) still yields the alert that tells the peer why.
    pub fn feed(&mut self, mut cipher: &[u8], plain: &mut Vec<u8>) -> io::Result<Taken> {
        let before = plain.len();
        let mut closed = false;
        while !cipher.is_empty() {
            // rustls stops reading when its plaintext buffer is full, so drain between steps.
            self.connection.read_tls(&mut cipher)?;
            let state = self
                .connection
                .process_new_packets()
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            closed |= state.peer_has_closed();
            self.drain(state.plaintext_bytes_to_read(), plain)?;
            if closed {
                break;
            }
        }
        match plain.len() - before {
            0 if closed => Ok(Taken::Closed),
            0 => Ok(Taken::Nothing),
            n => Ok(Taken::Bytes(n)),
        }
    }

    fn drain(&mut self, mut bytes: usize, plain: &mut Vec<u8>) -> io::Result<()> {
        let mut at = plain.len();
        plain.resize(at + bytes, 0);
        while bytes > 0 {
            let n = self.connection.reader().read(&mut plain[at..])?;
            if n == 0 {
                break;
            }
            at += n;
            bytes -= n;
        }
        plain.truncate(at);
        Ok(())
    }

    /// Seals as much of `plain` as the session may buffer; returns how much.
    pub fn seal(&mut self, plain: &[u8]) -> io::Result<usize> {
        self.connection.writer().write(plain)
    }

    /// Appends ciphertext due to the peer.
    pub fn take_cipher(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(out)?;
        }
        Ok(())
    }

    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub fn close(&mut self) {
        self.connection.send_close_notify();
    }

    /// Known once the handshake is complete.
    pub fn facts(&self) -> Option<Arc<TlsFacts>> {
        let version = match self.connection.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_3 => "1.3",
            rustls::ProtocolVersion::TLSv1_2 => "1.2",
            _ => return None,
        };
        let cipher = self
            .connection
            .negotiated_cipher_suite()?
            .suite()
            .as_str()
            .unwrap_or("unknown");
        let sni = match &self.connection {
            Connection::Server(server) => server
                .server_name()
                .map(|name| name.to_ascii_lowercase().into()),
            Connection::Client(_) => None,
        };
        Some(Arc::new(TlsFacts {
            version,
            cipher,
            sni,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::Identity;
    use super::super::testing::issue;
    use super::*;

    fn pair(server_name: &str) -> (Session, Session) {
        let (cert, key) = issue(&["api.test"]);
        let server = ServerTls::new(
            vec![Identity::from_pem(cert.as_bytes(), key.as_bytes()).unwrap()],
            false,
        )
        .unwrap();
        let client = ClientTls::new(server_name, Some(cert.as_bytes())).unwrap();
        (
            Session::accept(&server).unwrap(),
            Session::connect(&client).unwrap(),
        )
    }

    /// Carries ciphertext both ways, `step` bytes at a time, until neither side has more.
    fn carry(a: &mut Session, b: &mut Session, step: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut plain_a, mut plain_b) = (Vec::new(), Vec::new());
        loop {
            let (mut from_a, mut from_b) = (Vec::new(), Vec::new());
            a.take_cipher(&mut from_a)?;
            b.take_cipher(&mut from_b)?;
            if from_a.is_empty() && from_b.is_empty() {
                return Ok((plain_a, plain_b));
            }
            for part in from_a.chunks(step) {
                b.feed(part, &mut plain_b)?;
            }
            for part in from_b.chunks(step) {
                a.feed(part, &mut plain_a)?;
            }
        }
    }

    #[test]
    fn bytes_pass_whatever_the_split() {
        for step in [1, 7, 4096, 1 << 20] {
            let (mut server, mut client) = pair("api.test");
            carry(&mut server, &mut client, step).unwrap();
            assert!(!server.is_handshaking() && !client.is_handshaking());
            let facts = server.facts().unwrap();
            assert_eq!(
                (facts.version, facts.sni.as_deref()),
                ("1.3", Some("api.test"))
            );
            let body = vec![7u8; 100_000];
            assert_eq!(client.seal(&body).unwrap(), body.len());
            let (at_server, _) = carry(&mut server, &mut client, step).unwrap();
            assert_eq!(at_server, body);
            client.close();
            let mut cipher = Vec::new();
            client.take_cipher(&mut cipher).unwrap();
            assert_eq!(
                server.feed(&cipher, &mut Vec::new()).unwrap(),
                Taken::Closed
            );
        }
    }

    #[test]
    fn an_upstream_with_another_name_is_refused() {
        let (mut server, mut client) = pair("other.test");
        assert!(carry(&mut server, &mut client, 4096).is_err());
        assert!(client.facts().is_none() || client.is_handshaking());
    }

    #[test]
    fn garbage_is_an_error_with_an_alert() {
        let (mut server, _) = pair("api.test");
        assert!(
            server
                .feed(b"GET / HTTP/1.1\r\n\r\n", &mut Vec::new())
                .is_err()
        );
        let mut alert = Vec::new();
        server.take_cipher(&mut alert).unwrap();
        assert_eq!(alert.first(), Some(&21)); // content type alert, RFC 8446 section 5.1
    }
}
