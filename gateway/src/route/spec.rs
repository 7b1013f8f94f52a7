//! What a route matches, parsed from its config into a form that can be compared.

use super::params::PARAMS_MAX;
use crate::http::{Header, path};

const SEGMENTS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Any,
    /// Lower case.
    Exact(Box<str>),
    /// `*.example.com` as `example.com`: every name below it, but not the name itself.
    Wildcard(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    Literal(Box<str>),
    Param(Box<str>),
}

/// A field that must be there, or must have one value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeaderRule {
    /// Lower case.
    pub name: Box<str>,
    pub equals: Option<Box<str>>,
}

impl HeaderRule {
    pub(super) fn matches(&self, headers: &[Header<'_>]) -> bool {
        let wanted = |value: &[u8]| self.equals.as_ref().is_none_or(|e| e.as_bytes() == value);
        headers.iter().any(|h| h.is(&self.name) && wanted(h.value))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    pub host: HostPattern,
    pub(super) segments: Vec<Segment>,
    /// The path ended with `/*`.
    pub(super) is_prefix: bool,
    /// Sorted; empty means any. GET includes HEAD.
    pub methods: Vec<Box<str>>,
    /// Sorted.
    pub headers: Vec<HeaderRule>,
}

/// What is wrong, and what to do about it.
type Flaw = (String, String);

impl RouteSpec {
    /// `host`: a name, `*.name`, `*` or nothing. `path`: `/a/b`, `/a/{id}`, `/a/*`. `headers`: name and, where it must equal one, a value.
    pub fn parse<S: AsRef<str>>(
        host: Option<&str>,
        path: &str,
        methods: &[S],
        headers: &[(String, Option<String>)],
    ) -> Result<RouteSpec, Flaw> {
        let (segments, is_prefix) = parse_path(path)?;
        let mut methods = methods
            .iter()
            .map(|m| parse_method(m.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        methods.sort();
        methods.dedup();
        let mut headers = headers
            .iter()
            .map(parse_header)
            .collect::<Result<Vec<_>, _>>()?;
        headers.sort();
        headers.dedup();
        Ok(RouteSpec {
            host: parse_host(host)?,
            segments,
            is_prefix,
            methods,
            headers,
        })
    }

    /// Names of the path parameters, in path order.
    pub fn param_names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|s| match s {
            Segment::Param(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }
}

fn parse_host(host: Option<&str>) -> Result<HostPattern, Flaw> {
    let Some(host) = host.filter(|h| *h != "*") else {
        return Ok(HostPattern::Any);
    };
    let (name, wildcard) = match host.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (host, false),
    };
    match crate::http::canonical_host_name(name) {
        Some(name) if wildcard && !name.starts_with('[') => Ok(HostPattern::Wildcard(name.into())),
        Some(name) if !wildcard => Ok(HostPattern::Exact(name.into())),
        _ => Err((
            format!("{host:?} is not a host"),
            "write a name without port, such as \"api.example.com\" or \"*.example.com\"".into(),
        )),
    }
}

fn parse_path(pattern: &str) -> Result<(Vec<Segment>, bool), Flaw> {
    let Some(rest) = pattern.strip_prefix('/') else {
        return Err((
            format!("the path {pattern:?} does not start with a slash"),
            format!("write \"/{pattern}\""),
        ));
    };
    let (rest, is_prefix) = match rest.strip_suffix('*') {
        Some("") => return Ok((Vec::new(), true)),
        Some(before) if before.ends_with('/') => (&before[..before.len() - 1], true),
        Some(_) => {
            return Err((
                format!("the * of {pattern:?} is not a whole segment"),
                "a prefix ends with \"/*\" and matches whole segments".into(),
            ));
        }
        None => (rest, false),
    };
    let segments = rest
        .split('/')
        .map(parse_segment)
        .collect::<Result<Vec<_>, _>>()?;
    let last = segments.len() - 1;
    let empty = |s: &Segment| matches!(s, Segment::Literal(l) if l.is_empty());
    if segments
        .iter()
        .enumerate()
        .any(|(i, s)| empty(s) && (i < last || is_prefix))
    {
        return Err((
            format!("the path {pattern:?} has an empty segment"),
            "write one slash only".into(),
        ));
    }
    let names: Vec<_> = segments
        .iter()
        .filter_map(|s| {
            if let Segment::Param(n) = s {
                Some(n)
            } else {
                None
            }
        })
        .collect();
    if names.len() > PARAMS_MAX || segments.len() > SEGMENTS_MAX {
        return Err((
            format!("the path {pattern:?} is too long"),
            format!("at most {PARAMS_MAX} parameters and {SEGMENTS_MAX} segments are possible"),
        ));
    }
    if let Some(twice) = names
        .iter()
        .enumerate()
        .find_map(|(i, n)| names[..i].contains(n).then_some(n))
    {
        return Err((
            format!("the parameter {twice:?} stands twice"),
            "give each parameter its own name".into(),
        ));
    }
    Ok((segments, is_prefix))
}

fn parse_segment(segment: &str) -> Result<Segment, Flaw> {
    if let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
        let valid = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        return if valid {
            Ok(Segment::Param(name.into()))
        } else {
            Err((
                format!("{segment:?} is not a parameter"),
                "a parameter is a whole segment: braces around letters, digits, \"_\" or \"-\""
                    .into(),
            ))
        };
    }
    if segment.contains(['{', '}', '*']) {
        return Err((
            format!("{segment:?} mixes text with a parameter or a star"),
            "a parameter or star takes a whole segment, such as \"/orders/{id}\"".into(),
        ));
    }
    let written = format!("/{segment}");
    let mut canonical = String::new();
    match path::canonicalize(
        written.as_bytes(),
        path::Kept {
            encoded_slash: true,
            parameters: true,
        },
        &mut canonical,
    ) {
        Ok(()) if canonical == written => Ok(Segment::Literal(segment.into())),
        Ok(()) => Err((
            format!("{segment:?} is not in canonical form, so no request can match it"),
            format!("write {:?}", &canonical[1..]),
        )),
        Err(refusal) => Err((
            format!("{segment:?} can never match: {}", refusal.detail),
            "write the path as clients send it, percent-encoded".into(),
        )),
    }
}

fn parse_method(method: &str) -> Result<Box<str>, Flaw> {
    let valid = !method.is_empty()
        && method.len() <= 32
        && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    if valid && method != "CONNECT" {
        return Ok(method.into());
    }
    Err((
        format!("{method:?} is not a method that can be routed"),
        "write it in capitals, such as \"GET\"".into(),
    ))
}

fn parse_header((name, equals): &(String, Option<String>)) -> Result<HeaderRule, Flaw> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if name.is_empty() || !name.bytes().all(token) {
        return Err((
            format!("{name:?} is not a field name"),
            "use letters, digits and \"-\"".into(),
        ));
    }
    let trimmed = |v: &String| v.trim() == v && !v.bytes().any(|b| b < 0x20 || b == 0x7f);
    if !equals.as_ref().is_none_or(trimmed) {
        return Err((
            format!("the value for {name:?} can never match"),
            "remove control characters and spaces at its ends".into(),
        ));
    }
    Ok(HeaderRule {
        name: name.to_ascii_lowercase().into(),
        equals: equals.as_deref().map(Into::into),
    })
}
