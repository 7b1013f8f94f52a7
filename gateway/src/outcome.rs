//! How an exchange can end when it is not simply answered, in one table: who is at fault, which
//! status the client sees, the slug that log, metric and response body share, and whether it counts
//! as a strike against the source.

use std::borrow::Cow;
use std::sync::Arc;

/// What kind of misbehaviour a refusal shows. Strikes of each kind carry their own weight in the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StrikeKind {
    /// Bytes that are not the protocol.
    Syntax,
    /// Credentials that are wrong (missing ones are no strike: browsers and probes do that).
    Authentication,
    /// A limit exceeded.
    Limit,
    /// A path that no route knows.
    NotFound,
    /// A validation rule or deny rule broken.
    Policy,
}

impl StrikeKind {
    pub const ALL: [StrikeKind; 5] = [
        StrikeKind::Syntax,
        StrikeKind::Authentication,
        StrikeKind::Limit,
        StrikeKind::NotFound,
        StrikeKind::Policy,
    ];

    pub fn slug(self) -> &'static str {
        match self {
            StrikeKind::Syntax => "syntax",
            StrikeKind::Authentication => "authentication",
            StrikeKind::Limit => "limit",
            StrikeKind::NotFound => "not-found",
            StrikeKind::Policy => "policy",
        }
    }
}

macro_rules! kinds {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $status:literal, $slug:literal, $title:literal, $strike:expr;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }

        impl $name {
            /// Every kind, in declaration order: index `kind as usize`.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The HTTP status the client gets.
            pub const fn status(self) -> u16 { match self { $($name::$variant => $status,)* } }
            /// The stable name in problem details, logs and metrics.
            pub const fn slug(self) -> &'static str { match self { $($name::$variant => $slug,)* } }
            /// The problem's `title` (RFC 9457 section 3.1.3).
            pub const fn title(self) -> &'static str { match self { $($name::$variant => $title,)* } }
            /// The strike it counts as, if any.
            pub const fn strike(self) -> Option<StrikeKind> { match self { $($name::$variant => $strike,)* } }
        }
    };
}

kinds! {
    /// The client's doing: a decision, not an error.
    RejectionKind {
        MalformedHead = 400, "malformed-head", "The request head is malformed", Some(StrikeKind::Syntax);
        MalformedBody = 400, "malformed-body", "The request body is malformed", Some(StrikeKind::Syntax);
        AmbiguousFraming = 400, "ambiguous-framing", "The length of the request is ambiguous", Some(StrikeKind::Syntax);
        AmbiguousPath = 400, "ambiguous-path", "The request target can be read in more than one way", Some(StrikeKind::Syntax);
        HostInvalid = 400, "host-invalid", "The host is missing, repeated or malformed", Some(StrikeKind::Syntax);
        PlainHttpOnTls = 400, "plain-http-on-tls", "Plain HTTP was sent to a TLS port", None;
        CredentialsMissing = 401, "credentials-missing", "Credentials are required", None;
        CredentialsInvalid = 401, "credentials-invalid", "The credentials are not valid", Some(StrikeKind::Authentication);
        CredentialsExpired = 401, "credentials-expired", "The credentials have expired", None;
        Forbidden = 403, "forbidden", "The caller may not do this", Some(StrikeKind::Policy);
        AddressDenied = 403, "address-denied", "The address is not allowed", Some(StrikeKind::Policy);
        Banned = 403, "banned", "The address is banned", None;
        NotFound = 404, "no-route", "No such resource", Some(StrikeKind::NotFound);
        MethodNotAllowed = 405, "method-not-allowed", "The method is not allowed here", None;
        RequestTimeout = 408, "request-timeout", "The request took too long to arrive", Some(StrikeKind::Syntax);
        BodyTooLarge = 413, "body-too-large", "The body is too large", Some(StrikeKind::Policy);
        TargetTooLong = 414, "target-too-long", "The request target is too long", Some(StrikeKind::Syntax);
        UnsupportedMediaType = 415, "unsupported-media-type", "The content type is not accepted", Some(StrikeKind::Policy);
        ExpectationFailed = 417, "expectation-failed", "The expectation cannot be met", Some(StrikeKind::Syntax);
        ParameterInvalid = 400, "parameter-invalid", "A parameter or header breaks a rule", Some(StrikeKind::Policy);
        BodyInvalid = 400, "body-invalid", "The body does not match its schema", Some(StrikeKind::Policy);
        RateLimited = 429, "rate-limited", "Too many requests", Some(StrikeKind::Limit);
        HeadTooLarge = 431, "head-too-large", "The request head is too large", Some(StrikeKind::Syntax);
        TransferCodingUnknown = 501, "transfer-coding-unknown", "The transfer coding is not implemented", Some(StrikeKind::Syntax);
        ConnectRefused = 405, "connect-refused", "CONNECT is not offered", Some(StrikeKind::Policy);
        VersionNotSupported = 505, "version-not-supported", "The HTTP version is not supported", Some(StrikeKind::Syntax);
    }
}

kinds! {
    /// The upstream's doing.
    UpstreamFaultKind {
        NoTarget = 503, "upstream-no-target", "No upstream is available", None;
        ConnectFailed = 502, "upstream-connect-failed", "The upstream could not be reached", None;
        ConnectTimeout = 504, "upstream-connect-timeout", "The upstream did not accept in time", None;
        TlsFailed = 502, "upstream-tls-failed", "The upstream's identity could not be verified", None;
        ResponseTimeout = 504, "upstream-response-timeout", "The upstream did not answer in time", None;
        MalformedResponse = 502, "upstream-malformed-response", "The upstream's response is malformed", None;
        Reset = 502, "upstream-reset", "The upstream closed the connection", None;
    }
}

kinds! {
    /// Ours.
    FaultKind {
        Internal = 500, "internal", "Internal error", None;
        Overloaded = 503, "overloaded", "The gateway is at its limit", None;
    }
}

/// A refusal: which rule, and what the client may know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub kind: RejectionKind,
    /// The policy that refused, by its configured name, or a built-in rule such as `http.head`.
    pub rule: Arc<str>,
    /// One sentence for the client. Never echoes a value the client sent.
    pub detail: Cow<'static, str>,
    /// Extra response fields: `WWW-Authenticate`, `Retry-After`, `Allow`.
    pub fields: Vec<(&'static str, String)>,
    /// What is wrong where, for validation: JSON pointer (RFC 6901) and a short reason, capped.
    pub errors: Vec<(String, String)>,
    /// The connection cannot be used again.
    pub close: bool,
}

impl Rejection {
    pub fn new(
        kind: RejectionKind,
        rule: Arc<str>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Rejection {
        Rejection {
            kind,
            rule,
            detail: detail.into(),
            fields: Vec::new(),
            errors: Vec::new(),
            close: false,
        }
    }

    pub fn field(mut self, name: &'static str, value: impl Into<String>) -> Rejection {
        self.fields.push((name, value.into()));
        self
    }

    pub fn closing(mut self) -> Rejection {
        self.close = true;
        self
    }
}

/// The end of an exchange, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Decision {
    /// Nothing decided yet: the client left before its request was complete.
    #[default]
    Incomplete,
    Allowed,
    Refused {
        kind: RejectionKind,
        rule: Arc<str>,
    },
    UpstreamFault(UpstreamFaultKind),
    Fault(FaultKind),
}

impl Decision {
    /// `allowed`, `refused`, `upstream-fault`, `fault` or `incomplete`.
    pub fn verdict(&self) -> &'static str {
        match self {
            Decision::Incomplete => "incomplete",
            Decision::Allowed => "allowed",
            Decision::Refused { .. } => "refused",
            Decision::UpstreamFault(_) => "upstream-fault",
            Decision::Fault(_) => "fault",
        }
    }

    /// The slug of what went wrong, if anything did.
    pub fn slug(&self) -> Option<&'static str> {
        match self {
            Decision::Incomplete | Decision::Allowed => None,
            Decision::Refused { kind, .. } => Some(kind.slug()),
            Decision::UpstreamFault(kind) => Some(kind.slug()),
            Decision::Fault(kind) => Some(kind.slug()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_unique_and_statuses_are_errors() {
        let mut seen = std::collections::HashSet::new();
        let all = RejectionKind::ALL
            .iter()
            .map(|k| (k.slug(), k.status()))
            .chain(
                UpstreamFaultKind::ALL
                    .iter()
                    .map(|k| (k.slug(), k.status())),
            )
            .chain(FaultKind::ALL.iter().map(|k| (k.slug(), k.status())));
        for (slug, status) in all {
            assert!(seen.insert(slug), "{slug} stands twice");
            assert!((400..600).contains(&status), "{slug} has status {status}");
        }
    }
}
