//! Host -> path -> method -> header: which route a request takes. Pure.

/// Values of a route's path parameters, in path order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params<'a>(pub Vec<(&'a str, &'a str)>);

impl<'a> Params<'a> {
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}
