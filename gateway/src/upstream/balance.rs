//! Whose turn it is.

use super::{Target, Upstream};
use std::sync::Arc;

impl Upstream {
    /// The targets to try, in order, starting at this turn: those that are well, and when all rest,
    /// all of them: a guess beats a certain refusal.
    pub fn candidates(&self, turn: usize, now_ns: u64) -> impl Iterator<Item = &Arc<Target>> {
        let n = self.targets.len();
        let any_well = self.targets.iter().any(|t| !t.health.is_resting(now_ns));
        (0..n)
            .map(move |i| &self.targets[(turn.wrapping_add(i)) % n])
            .filter(move |t| !any_well || !t.health.is_resting(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::Health;
    use super::*;
    use std::time::Duration;

    fn group(n: u16) -> Upstream {
        let target = |i: u16| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9000 + i));
            Arc::new(Target {
                id: i.into(),
                label: address.to_string().into(),
                address,
                tls: None,
                health: Arc::new(Health::default()),
            })
        };
        Upstream {
            name: "u".into(),
            targets: (0..n).map(target).collect(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(1),
            idle_connections_max: 1,
            idle_timeout: Duration::from_secs(1),
        }
    }

    fn order(u: &Upstream, turn: usize, now: u64) -> Vec<u32> {
        u.candidates(turn, now).map(|t| t.id).collect()
    }

    #[test]
    fn turns_go_round_and_skip_who_rests() {
        let u = group(3);
        assert_eq!(order(&u, 0, 0), [0, 1, 2]);
        assert_eq!(order(&u, 4, 0), [1, 2, 0]);
        assert_eq!(order(&u, usize::MAX, 0).len(), 3);
        u.targets[1].health.failed(1);
        assert_eq!(order(&u, 1, 2), [2, 0]);
        u.targets[0].health.failed(1);
        u.targets[2].health.failed(1);
        assert_eq!(order(&u, 1, 2), [1, 2, 0], "all rest: all are tried");
    }
}
