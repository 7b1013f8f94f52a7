//! Names of the rules that the edge itself enforces.

use std::sync::{Arc, LazyLock};

pub fn head() -> Arc<str> {
    static NAME: LazyLock<Arc<str>> = LazyLock::new(|| "http.head".into());
    NAME.clone()
}

pub fn body() -> Arc<str> {
    static NAME: LazyLock<Arc<str>> = LazyLock::new(|| "http.body".into());
    NAME.clone()
}

pub fn send() -> Arc<str> {
    static NAME: LazyLock<Arc<str>> = LazyLock::new(|| "http.send".into());
    NAME.clone()
}
