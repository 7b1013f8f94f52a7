//! Buffers of one core. Idle connections hold none; busy ones take one, and give it back.

use std::cell::RefCell;

/// A head, a small body, a TLS record and its plaintext all fit.
pub const SMALL: usize = 16 << 10;
/// One part of a large body.
pub const LARGE: usize = 64 << 10;
/// Kept for reuse per class and core; what is returned beyond that is freed.
const KEPT: usize = 1024;

#[derive(Default)]
pub struct Buffers {
    small: RefCell<Vec<Vec<u8>>>,
    large: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    pub fn small(&self) -> Vec<u8> {
        self.small
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(SMALL))
    }

    pub fn large(&self) -> Vec<u8> {
        self.large
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(LARGE))
    }

    /// Takes a buffer back, whatever its size; odd ones are freed.
    pub fn give(&self, mut buf: Vec<u8>) {
        let class = match buf.capacity() {
            SMALL => &self.small,
            LARGE => &self.large,
            _ => return,
        };
        let mut class = class.borrow_mut();
        if class.len() < KEPT {
            buf.clear();
            class.push(buf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_grown_ones_are_freed() {
        let pool = Buffers::default();
        let mut buf = pool.small();
        buf.extend_from_slice(b"secret");
        let at = buf.as_ptr();
        pool.give(buf);
        let again = pool.small();
        assert_eq!((again.as_ptr(), again.len()), (at, 0));
        let mut grown = pool.large();
        grown.resize(LARGE + 1, 0);
        pool.give(grown);
        assert!(pool.large.borrow().is_empty());
    }
}
