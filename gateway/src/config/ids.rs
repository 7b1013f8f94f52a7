//! Numbers that stay the same for the same name across reloads, so that metrics, pools and health
//! survive one.

use crate::upstream::health::Health;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Default)]
pub struct Ids {
    routes: HashMap<String, u32>,
    targets: HashMap<String, (u32, Arc<Health>)>,
}

impl Ids {
    pub fn route(&mut self, name: &str) -> u32 {
        let next = self.routes.len() as u32;
        *self.routes.entry(name.to_owned()).or_insert(next)
    }

    /// `key` names everything that makes two connections interchangeable: address and TLS settings.
    pub fn target(&mut self, key: String) -> (u32, Arc<Health>) {
        let next = self.targets.len() as u32;
        self.targets
            .entry(key)
            .or_insert_with(|| (next, Arc::default()))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers() {
        let mut ids = Ids::default();
        assert_eq!([ids.route("a"), ids.route("b"), ids.route("a")], [0, 1, 0]);
        let (first, health) = ids.target("10.0.0.1:80".into());
        let (again, same) = ids.target("10.0.0.1:80".into());
        assert!(first == again && Arc::ptr_eq(&health, &same));
    }
}
