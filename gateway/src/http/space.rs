//! Where the fields of one head stand: on the stack, with room to grow for heads with many.

use super::head::Header;
use super::parse::HEADERS_CAP;

const INLINE: usize = 32;

/// Room for the fields of one head. Made on the stack for each parse (`&mut HeaderSpace::new()`): it
/// borrows from the same buffer as the head and lives as long.
pub struct HeaderSpace<'b> {
    inline: [Header<'b>; INLINE],
    // Only heads with more fields than usual pay for an allocation.
    spill: Vec<Header<'b>>,
    len: usize,
}

impl<'b> HeaderSpace<'b> {
    pub fn new() -> HeaderSpace<'b> {
        const EMPTY: Header<'_> = Header {
            name: "",
            value: b"",
        };
        HeaderSpace {
            inline: [EMPTY; INLINE],
            spill: Vec::new(),
            len: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.spill.clear();
        self.len = 0;
    }

    pub(super) fn push(&mut self, header: Header<'b>) {
        if let Some(slot) = self.inline.get_mut(self.len) {
            *slot = header;
        } else {
            if self.spill.is_empty() {
                self.spill.reserve_exact(HEADERS_CAP);
                self.spill.extend_from_slice(&self.inline);
            }
            self.spill.push(header);
        }
        self.len += 1;
    }

    /// Drops the fields with `_` in their name.
    pub(super) fn retain_without_underscore(&mut self) {
        if self.len > INLINE {
            self.spill.retain(|h| !h.name.contains('_'));
            self.len = self.spill.len();
            if self.len <= INLINE {
                self.inline[..self.len].copy_from_slice(&self.spill);
                self.spill.clear();
            }
            return;
        }
        let mut kept = 0;
        for i in 0..self.len {
            if !self.inline[i].name.contains('_') {
                self.inline[kept] = self.inline[i];
                kept += 1;
            }
        }
        self.len = kept;
    }

    pub(super) fn as_slice(&self) -> &[Header<'b>] {
        if self.len <= INLINE {
            &self.inline[..self.len]
        } else {
            &self.spill
        }
    }
}

impl Default for HeaderSpace<'_> {
    fn default() -> Self {
        HeaderSpace::new()
    }
}
