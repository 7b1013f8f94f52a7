//! Names of the built-in rules, made once: a refusal clones a pointer and allocates nothing.

use crate::outcome::{Rejection, RejectionKind};
use std::sync::{Arc, LazyLock};

macro_rules! rules {
    ($($name:ident = $text:literal;)*) => {
        $(static $name: LazyLock<Arc<str>> = LazyLock::new(|| $text.into());)*
    };
}

rules! {
    HEAD = "http.head";
    FRAMING = "http.framing";
    PATH = "http.path";
    HOST = "http.host";
    CHUNKED = "http.chunked";
}

fn refuse(kind: RejectionKind, rule: &LazyLock<Arc<str>>, detail: &'static str) -> Rejection {
    Rejection::new(kind, Arc::clone(rule), detail).closing()
}

pub(super) fn head(detail: &'static str) -> Rejection {
    refuse(RejectionKind::MalformedHead, &HEAD, detail)
}

pub(super) fn head_kind(kind: RejectionKind, detail: &'static str) -> Rejection {
    refuse(kind, &HEAD, detail)
}

pub(super) fn framing(detail: &'static str) -> Rejection {
    refuse(RejectionKind::AmbiguousFraming, &FRAMING, detail)
}

pub(super) fn framing_kind(kind: RejectionKind, detail: &'static str) -> Rejection {
    refuse(kind, &FRAMING, detail)
}

pub(super) fn path(detail: &'static str) -> Rejection {
    refuse(RejectionKind::AmbiguousPath, &PATH, detail)
}

pub(super) fn host(detail: &'static str) -> Rejection {
    refuse(RejectionKind::HostInvalid, &HOST, detail)
}

pub(super) fn chunked(detail: &'static str) -> Rejection {
    refuse(RejectionKind::MalformedBody, &CHUNKED, detail)
}
