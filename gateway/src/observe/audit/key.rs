//! The audit log's Ed25519 key: made once by the privileged parent, read by it, handed to the worker in memory.

use crate::observe::file::{open_private, replace};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Signs seals. Not `Clone`, and its debug form is empty.
pub struct AuditKey(Ed25519KeyPair);

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditKey(…)")
    }
}

impl AuditKey {
    /// From PKCS#8 (RFC 8410), as [`ensure_key`] writes it.
    pub fn from_pkcs8(bytes: &[u8]) -> io::Result<AuditKey> {
        Ed25519KeyPair::from_pkcs8(bytes)
            .map(AuditKey)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not an Ed25519 key in PKCS#8"))
    }

    pub fn load(path: &Path) -> io::Result<AuditKey> {
        AuditKey::from_pkcs8(&fs::read(path)?)
    }

    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs `what` (which kind of seal) and the bytes it seals.
    pub(super) fn sign(&self, what: &str, sealed: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.0.sign(&message(what, sealed)).as_ref());
        signature
    }
}

/// Checks seals. In its file: 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    pub fn load(path: &Path) -> io::Result<PublicKey> {
        let text = fs::read_to_string(path)?;
        super::seal::unhex(text.trim().as_bytes())
            .map(PublicKey)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "not 64 hex digits of an Ed25519 public key",
                )
            })
    }

    pub fn to_hex(self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    pub(super) fn verifies(&self, what: &str, sealed: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(&message(what, sealed), signature)
            .is_ok()
    }
}

fn message(what: &str, sealed: &[u8]) -> Vec<u8> {
    let mut message = format!("gateway-audit-v1 {what}\n").into_bytes();
    message.extend_from_slice(sealed);
    message
}

/// Makes the key at `path`, mode 0600, unless one is there. For the privileged parent, before it drops.
pub fn ensure_key(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return AuditKey::load(path).map(|_| ());
    }
    let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new())
        .map_err(|_| io::Error::other("the system gave no randomness"))?;
    // Written aside and linked into place: an interrupted start leaves no half key, and no second start replaces one.
    let aside = crate::observe::file::beside(path, ".making");
    let _ = fs::remove_file(&aside);
    let mut file = open_private(&aside)?;
    file.write_all(pkcs8.as_ref())?;
    file.sync_all()?;
    let linked = fs::hard_link(&aside, path);
    fs::remove_file(&aside)?;
    linked
}

/// Writes the public key beside: what `gateway audit verify` needs. Best kept on another machine.
pub fn ensure_public(path: &Path, key: &AuditKey) -> io::Result<()> {
    let text = key.public().to_hex() + "\n";
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    replace(path, text.as_bytes())
}
