//! Where the operator asks for it, keeps a flood of refusals from flushing the history: a rotated log of any size is
//! soon full of one client's attempts. The rule, for each second: a source's first refusals by one rule are recorded
//! one by one, within a total; the others are counted, and recorded as one `refusals-suppressed` with their number when
//! the second ends. So each refusal is a record of its own or counted in exactly one. By default there is no such
//! bound, and every refusal is a record of its own.

use super::AuditEvent;
use crate::clock::Now;
use crate::units::unmapped;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

const WINDOW_NS: u64 = 1_000_000_000;
/// Recorded one by one per second, of all sources, for each one of a single source.
pub(super) const SOURCES_AT_FULL_RATE: u64 = 20;
/// Sources and rules told apart in one second. Further ones are counted together, by kind of refusal.
pub(super) const SOURCES_MAX: usize = 256;

/// `None` as source and rule: all that found no place of their own.
type Key = (Option<(IpAddr, Arc<str>)>, &'static str);

#[derive(Default, Debug)]
struct Seen {
    recorded: u64,
    suppressed: u64,
}

/// One second's refusals.
#[derive(Default, Debug)]
pub(super) struct Flood {
    /// Recorded one by one per second, of one source by one rule; 0: all of them.
    of_one_source: u64,
    began_ns: u64,
    recorded: u64,
    seen: HashMap<Key, Seen>,
}

impl Flood {
    pub(super) fn new(of_one_source: u64) -> Flood {
        Flood {
            of_one_source,
            ..Flood::default()
        }
    }

    /// Whether the event is to be recorded by itself. If not, it is counted. Call [`Flood::end_second`] before.
    pub(super) fn admits(&mut self, event: &AuditEvent, now: Now) -> bool {
        let AuditEvent::Refusal {
            client, rule, slug, ..
        } = event
        else {
            return true;
        };
        if self.of_one_source == 0 {
            return true;
        }
        if self.seen.is_empty() {
            self.began_ns = now.mono_ns;
        }
        let mut key = (Some((source(*client), rule.clone())), *slug);
        if self.seen.len() >= SOURCES_MAX && !self.seen.contains_key(&key) {
            key.0 = None;
        }
        let own = key.0.is_some();
        let seen = self.seen.entry(key).or_default();
        let admitted = own
            && seen.recorded < self.of_one_source
            && self.recorded < self.of_one_source.saturating_mul(SOURCES_AT_FULL_RATE);
        if admitted {
            seen.recorded += 1;
            self.recorded += 1;
        } else {
            seen.suppressed += 1;
        }
        admitted
    }

    /// Hands out what the second counted, if it is over.
    pub(super) fn end_second(&mut self, now: Now, batch: &mut Vec<(Now, AuditEvent)>) {
        if now.mono_ns.saturating_sub(self.began_ns) >= WINDOW_NS {
            self.end(now, batch);
        }
    }

    pub(super) fn end(&mut self, now: Now, batch: &mut Vec<(Now, AuditEvent)>) {
        self.recorded = 0;
        for ((who, slug), seen) in self.seen.drain() {
            if seen.suppressed == 0 {
                continue;
            }
            let (source, rule) = who.unzip();
            let event = AuditEvent::RefusalsSuppressed {
                source: source.map(|ip| match ip {
                    IpAddr::V4(ip) => ip.to_string(),
                    IpAddr::V6(ip) => format!("{ip}/64"),
                }),
                rule,
                slug,
                count: seen.suppressed,
            };
            batch.push((now, event));
        }
    }
}

/// One subscriber has a whole /64, and so as many addresses as it likes.
fn source(client: IpAddr) -> IpAddr {
    match unmapped(client) {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & (!0 << 64)).into()),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::exchange::RequestId;
    use std::time::Duration;

    const OF_ONE_SOURCE: u64 = 10;

    fn refusal(client: &str, rule: &str) -> AuditEvent {
        AuditEvent::Refusal {
            id: RequestId(1),
            client: client.parse().unwrap(),
            route: None,
            rule: rule.into(),
            slug: "rate-limited",
        }
    }

    /// Recorded singly; and source, rule and count of what is told at the end.
    type Told = (u64, Vec<(Option<String>, Option<String>, u64)>);

    fn run(flood: &mut Flood, events: &[AuditEvent], now: Now) -> Told {
        let single = events.iter().filter(|e| flood.admits(e, now)).count();
        let mut batch = Vec::new();
        flood.end_second(now.plus(Duration::from_nanos(WINDOW_NS - 1)), &mut batch);
        assert_eq!(batch, []);
        flood.end_second(now.plus(Duration::from_nanos(WINDOW_NS)), &mut batch);
        let told = batch.into_iter().map(|(_, event)| match event {
            AuditEvent::RefusalsSuppressed {
                source,
                rule,
                count,
                ..
            } => (source, rule.map(|r| r.to_string()), count),
            other => panic!("{other:?}"),
        });
        let mut told: Vec<_> = told.collect();
        told.sort();
        (single as u64, told)
    }

    #[test]
    fn the_first_of_a_source_and_rule_are_single_and_the_rest_is_counted() {
        let now = Now::at(5, 1_700_000_000);
        let mut flood = Flood::new(OF_ONE_SOURCE);
        let few = vec![refusal("192.0.2.1", "a"); OF_ONE_SOURCE as usize];
        assert_eq!(run(&mut flood, &few, now), (OF_ONE_SOURCE, vec![]));
        let mut events = vec![refusal("192.0.2.1", "a"); 15];
        events.extend(vec![refusal("::ffff:192.0.2.1", "a"); 2]);
        events.extend(vec![refusal("192.0.2.1", "b"); 11]);
        events.extend(vec![refusal("192.0.2.2", "a"); 10]);
        events.extend(
            ["2001:db8::1", "2001:db8::2"]
                .map(|c| vec![refusal(c, "a"); 6])
                .concat(),
        );
        let some =
            |source: &str, rule: &str, n| (Some(source.to_owned()), Some(rule.to_owned()), n);
        let told = vec![
            some("192.0.2.1", "a", 7),
            some("192.0.2.1", "b", 1),
            some("2001:db8::/64", "a", 2),
        ];
        // The same again in the next second: nothing is carried over.
        for second in 1..3 {
            let now = now.plus(Duration::from_secs(second));
            assert_eq!(run(&mut flood, &events, now), (40, told.clone()));
        }
    }

    #[test]
    fn many_sources_stay_bounded_and_each_refusal_is_counted() {
        let now = Now::at(5, 1_700_000_000);
        let mut flood = Flood::new(OF_ONE_SOURCE);
        let clients = (0..2_000u32).map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n));
        let events: Vec<_> = clients
            .flat_map(|c| vec![refusal(&c.to_string(), "a"); 3])
            .collect();
        let (single, told) = run(&mut flood, &events, now);
        assert_eq!(single, OF_ONE_SOURCE * SOURCES_AT_FULL_RATE);
        assert!(told.len() <= SOURCES_MAX + 1);
        let counted: u64 = told.iter().map(|t| t.2).sum();
        assert_eq!(single + counted, events.len() as u64);
        let rest = told.iter().find(|t| t.0.is_none()).unwrap();
        assert_eq!(rest.2, 3 * (2_000 - SOURCES_MAX as u64));
    }

    #[test]
    fn without_a_bound_every_refusal_is_single() {
        let events = vec![refusal("192.0.2.1", "a"); 5_000];
        let told = run(&mut Flood::new(0), &events, Now::at(5, 1_700_000_000));
        assert_eq!(told, (5_000, vec![]));
    }

    #[test]
    fn other_events_pass() {
        let mut flood = Flood::new(OF_ONE_SOURCE);
        let event = AuditEvent::ReloadOk { by: "x".into() };
        assert!((0..1000).all(|_| flood.admits(&event, Now::at(1, 1))));
    }
}
