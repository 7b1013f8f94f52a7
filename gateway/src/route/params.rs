//! Values of a route's path parameters: inline, no allocation.

/// Parameters one path can have.
pub const PARAMS_MAX: usize = 8;

/// Name and value pairs in path order. Values are canonical: encoded bytes stay encoded.
#[derive(Clone, Default)]
pub struct Params<'a> {
    pairs: [(&'a str, &'a str); PARAMS_MAX],
    len: usize,
}

impl<'a> Params<'a> {
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.pairs[..self.len].iter().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Params<'a> {
    /// Takes the first [`PARAMS_MAX`] pairs; a route cannot have more.
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        let mut params = Params::default();
        for (slot, pair) in params.pairs.iter_mut().zip(pairs) {
            *slot = pair;
            params.len += 1;
        }
        params
    }
}

impl PartialEq for Params<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Params<'_> {}

impl std::fmt::Debug for Params<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
