//! The compiled routes: per host a trie of path segments, so that the cost of a match does not grow with the number of routes.

use super::params::{PARAMS_MAX, Params};
use super::spec::{HeaderRule, HostPattern, RouteSpec, Segment};
use crate::http::RequestHead;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Two routes that some request would fit equally well, by their position in the specs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub first: usize,
    pub second: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<'a> {
    /// Position of the route in the specs.
    pub index: usize,
    pub params: Params<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRoute {
    NotFound,
    /// The path is known, the method is not; `allow` is the value of the `Allow` field.
    MethodNotAllowed {
        allow: String,
    },
}

#[derive(Debug, Default)]
pub struct RouteTable {
    exact: Map<Box<str>, Trie>,
    wildcard: Map<Box<str>, Trie>,
    /// Most labels of a wildcard's name: longer suffixes of a host need not be tried.
    wildcard_labels_max: usize,
    any: Trie,
}

// The keys come from the config, never from a peer, so that a quick hash is safe.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<Fnv>>;

#[derive(Debug, Default)]
struct Trie {
    /// The root is `nodes[0]`; none while no route is there.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: Map<Box<str>, usize>,
    param: Option<usize>,
    here: Leaf,
    below: Leaf,
}

/// The routes of one path pattern, the more specific first.
type Leaf = Vec<Entry>;

#[derive(Debug)]
struct Entry {
    index: usize,
    methods: Vec<Box<str>>,
    headers: Vec<HeaderRule>,
    names: Vec<Box<str>>,
}

impl RouteTable {
    pub fn build(specs: &[RouteSpec]) -> Result<RouteTable, Vec<Conflict>> {
        let mut table = RouteTable::default();
        let mut conflicts = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let trie = match &spec.host {
                HostPattern::Any => &mut table.any,
                HostPattern::Exact(host) => table.exact.entry(host.clone()).or_default(),
                HostPattern::Wildcard(suffix) => {
                    table.wildcard_labels_max =
                        table.wildcard_labels_max.max(suffix.split('.').count());
                    table.wildcard.entry(suffix.clone()).or_default()
                }
            };
            let leaf = trie.leaf(spec);
            if let Some(other) = leaf.iter().find(|entry| entry.overlaps(spec)) {
                conflicts.push(Conflict {
                    first: other.index,
                    second: index,
                });
                continue;
            }
            leaf.push(Entry {
                index,
                methods: spec.methods.clone(),
                headers: spec.headers.clone(),
                names: spec.param_names().map(Into::into).collect(),
            });
            leaf.sort_by_key(|e| (e.methods.is_empty(), usize::MAX - e.headers.len(), e.index));
        }
        if conflicts.is_empty() {
            Ok(table)
        } else {
            Err(conflicts)
        }
    }

    /// The route of a request. Allocates only to say which methods would have been allowed.
    pub fn find<'a>(&'a self, head: &'a RequestHead<'_>) -> Result<Match<'a>, NoRoute> {
        let Some(path) = head.path.strip_prefix('/') else {
            return Err(NoRoute::NotFound);
        };
        let tries = self
            .exact
            .get(head.host)
            .into_iter()
            .chain(self.wildcards(head.host))
            .chain([&self.any]);
        for trie in tries {
            let mut search = Search::default();
            if let Some(leaf) = search.run(trie, path) {
                return choose(leaf, &search, head);
            }
        }
        Err(NoRoute::NotFound)
    }

    /// Wildcards that cover the host, the longest first.
    fn wildcards<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Trie> {
        let labels = if self.wildcard.is_empty() {
            0
        } else {
            host.split('.').count()
        };
        let skip = labels.saturating_sub(self.wildcard_labels_max).max(1) - 1;
        host.match_indices('.')
            .skip(skip)
            .filter_map(|(at, _)| self.wildcard.get(&host[at + 1..]))
    }
}

impl Entry {
    /// Whether a request could fit both with equal right.
    fn overlaps(&self, spec: &RouteSpec) -> bool {
        let same_methods = self.methods.is_empty() && spec.methods.is_empty()
            || self.methods.iter().any(|m| spec.methods.contains(m));
        same_methods && self.headers == spec.headers
    }

    fn lists(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|m| &**m == method)
    }

    /// GET includes HEAD where nothing lists HEAD itself.
    fn implies(&self, method: &str) -> bool {
        method == "HEAD" && !self.lists("HEAD") && self.lists("GET")
    }
}

impl Trie {
    fn leaf(&mut self, spec: &RouteSpec) -> &mut Leaf {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        for segment in &spec.segments {
            let new = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match segment {
                Segment::Literal(text) => *node.literals.entry(text.clone()).or_insert(new),
                Segment::Param(_) => *node.param.get_or_insert(new),
            };
            if at == new {
                self.nodes.push(Node::default());
            }
        }
        let node = &mut self.nodes[at];
        if spec.is_prefix {
            &mut node.below
        } else {
            &mut node.here
        }
    }
}

/// One walk through a trie: literals before parameters, whole paths before prefixes, deep prefixes before shallow ones.
#[derive(Default)]
struct Search<'a> {
    values: [&'a str; PARAMS_MAX],
    prefix: Option<(usize, &'a Leaf, [&'a str; PARAMS_MAX])>,
}

impl<'a> Search<'a> {
    fn run(&mut self, trie: &'a Trie, path: &'a str) -> Option<&'a Leaf> {
        let root = trie.nodes.first()?;
        if let Some(leaf) = self.walk(trie, root, Some(path), 0, 0) {
            return Some(leaf);
        }
        let (_, leaf, values) = self.prefix.take()?;
        self.values = values;
        Some(leaf)
    }

    /// `rest` is what follows the slash after `node`; `None` at the end. Depth is bounded by the longest pattern.
    fn walk(
        &mut self,
        trie: &'a Trie,
        node: &'a Node,
        rest: Option<&'a str>,
        depth: usize,
        params: usize,
    ) -> Option<&'a Leaf> {
        if !node.below.is_empty() && self.prefix.is_none_or(|(deepest, ..)| depth > deepest) {
            self.prefix = Some((depth, &node.below, self.values));
        }
        let Some(rest) = rest else {
            return (!node.here.is_empty()).then_some(&node.here);
        };
        let (segment, rest) = match memchr::memchr(b'/', rest.as_bytes()) {
            Some(slash) => (&rest[..slash], Some(&rest[slash + 1..])),
            None => (rest, None),
        };
        if let Some(&next) = node.literals.get(segment)
            && let Some(leaf) = self.walk(trie, &trie.nodes[next], rest, depth + 1, params)
        {
            return Some(leaf);
        }
        let next = node
            .param
            .filter(|_| !segment.is_empty() && params < PARAMS_MAX)?;
        self.values[params] = segment;
        self.walk(trie, &trie.nodes[next], rest, depth + 1, params + 1)
    }
}

fn choose<'a>(
    leaf: &'a Leaf,
    search: &Search<'a>,
    head: &RequestHead<'_>,
) -> Result<Match<'a>, NoRoute> {
    let mut method_known = false;
    let listed = leaf.iter().filter(|e| e.lists(head.method));
    let implied = leaf.iter().filter(|e| e.implies(head.method));
    for entry in listed.chain(implied) {
        method_known = true;
        if entry.headers.iter().all(|rule| rule.matches(head.headers)) {
            let names = entry.names.iter().map(|n| &**n);
            return Ok(Match {
                index: entry.index,
                params: names.zip(search.values).collect(),
            });
        }
    }
    if method_known {
        return Err(NoRoute::NotFound);
    }
    let mut allow: BTreeSet<&str> = leaf
        .iter()
        .flat_map(|e| e.methods.iter().map(|m| &**m))
        .collect();
    if allow.contains("GET") {
        allow.insert("HEAD");
    }
    Err(NoRoute::MethodNotAllowed {
        allow: allow.into_iter().collect::<Vec<_>>().join(", "),
    })
}

/// FNV-1a, over eight bytes at a time where there are as many.
#[derive(Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let word = word.iter().rev().fold(0u64, |w, &b| w << 8 | u64::from(b));
            self.0 = (self.0 ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
        }
        for &b in words.remainder() {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        // The table takes its tag from the top bits: spread them.
        (self.0 ^ self.0 >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
