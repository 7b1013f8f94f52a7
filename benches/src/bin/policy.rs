//! Nanoseconds per decision: policies, the limiter, head parsing; beside the bare library calls.
//!
//! `cargo run --release -p gateway-benches --bin policy -- [--json FILE] [--quick] [--only WORD]`

use anyhow::{Context, Result, anyhow, bail, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair, ParsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway::clock::Now;
use gateway::diagnose::{Compiler, Files};
use gateway::http::{HeadLimits, HeadScratch, HeaderSpace, Parsed, parse};
use gateway::limit::{LimitTable, Window};
use gateway::outcome::Rejection;
use gateway::policy::{
    Admission, Chain, Identity, Peer, PolicyCx, RawPolicy, api_key, compile_all,
};
use gateway::route::Params;
use gateway::units::Rate;
use gateway_benches::batches::Batches;
use gateway_benches::cpu::{self, Cores};
use gateway_benches::report::Row;
use gateway_benches::run::{Arguments, Report};
use serde_json::Value;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// A moment within the life of the token below.
const NOW: Now = Now::at(1_000_000_000_000, 1_800_000_000);
const PUBLIC_KEY_FILE: &str = "jwt.pub.pem";
const LIVE_KEYS: u64 = 1_000_000;

type Suite = fn(Batches, &mut Report) -> Result<()>;

const WORKS: &[(&str, Suite)] = &[
    ("chain-ip-key-role-limit", chain_of_four),
    ("jwt-cached", jwt_cached),
    ("jwt-es256-fresh", jwt_fresh),
    ("schema-512", schema),
    ("limiter-1m-keys", limiter),
    ("parse-head", parse_head),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    let batches = Batches::new(arguments.quick);
    // The core that a proxy would have; interrupts and other work gather on the first.
    if let Ok(cores) = Cores::pick() {
        cpu::pin_self(cores.proxy)?;
    }
    let mut report = Report::new(&arguments);
    for (work, suite) in WORKS.iter().filter(|(work, _)| arguments.wants(work)) {
        suite(batches, &mut report).context(*work)?;
    }
    report.finish()
}

fn ns(work: &str, subject: &str, value: f64) -> Row {
    Row::new(work, subject, "ns", value, "ns")
}

/// A chain compiled from config text, as a route has it.
fn chain(toml: &str, files: &Files) -> Result<Chain> {
    let mut document: toml::Table = toml.parse()?;
    let Some(toml::Value::Array(entries)) = document.remove("policies") else {
        bail!("no list of policies");
    };
    let mut compiler = Compiler::new(files);
    let parse = |entry| RawPolicy::parse(entry, &mut compiler);
    let raws: Vec<Option<RawPolicy>> = entries.into_iter().map(parse).collect();
    let all = compile_all(&raws, &mut compiler);
    ensure!(compiler.errors.is_empty(), "{:?}", compiler.errors);
    let in_order = raws.iter().flatten().map(|raw| all[raw.name()].clone());
    Ok(Chain::new(in_order.collect()))
}

/// One request and the chain that judges it, over and over. Nothing is allocated here between calls
/// that the data plane would not allocate too.
struct Judge<'a> {
    chain: Chain,
    request: &'a str,
    body: &'a [u8],
    limits: LimitTable,
}

impl<'a> Judge<'a> {
    fn new(chain: Chain, request: &'a str) -> Judge<'a> {
        Judge {
            chain,
            request,
            body: b"",
            limits: LimitTable::default(),
        }
    }

    /// Calls `timed` with a function that decides once; its argument numbers the calls, a microsecond apart.
    fn with<R>(&self, timed: impl FnOnce(&mut dyn FnMut(u64)) -> R) -> Result<R> {
        let (mut scratch, mut space) = (HeadScratch::new(), HeaderSpace::new());
        let parsed = parse(
            self.request.as_bytes(),
            &HeadLimits::default(),
            &mut scratch,
            &mut space,
        );
        let head = match parsed.map_err(|refusal| anyhow!("{refusal:?}"))? {
            Parsed::Complete { head, .. } => head,
            _ => bail!("the head is not complete"),
        };
        let params = Params::default();
        let (mut identity, mut response_fields, mut strip) =
            (None::<Arc<Identity>>, Vec::new(), Vec::new());
        let mut shadowed = Vec::new();
        let mut refusal: Option<Rejection> = None;
        let mut decide = |call: u64| {
            identity = None;
            response_fields.clear();
            strip.clear();
            let mut cx = PolicyCx {
                head: &head,
                peer: Peer {
                    ip: [192, 0, 2, 1].into(),
                    tls: None,
                },
                params: &params,
                route: "bench",
                now: NOW.plus(Duration::from_micros(call)),
                limits: &self.limits,
                identity: &mut identity,
                response_fields: &mut response_fields,
                strip: &mut strip,
            };
            let decided = match self.chain.check_head(&mut cx, &mut shadowed) {
                Ok(Admission::NeedsBody(pending)) => {
                    pending.check_body(&self.chain, &mut cx, self.body, &mut shadowed)
                }
                Ok(Admission::Permit(permit)) => Ok(permit),
                Err(refused) => Err(refused),
            };
            if let Err(refused) = black_box(decided) {
                refusal = Some(refused);
            }
        };
        let figure = timed(&mut decide);
        match refusal {
            Some(refused) => bail!("refused: {refused:?}"),
            None => Ok(figure),
        }
    }
}

fn chain_of_four(batches: Batches, report: &mut Report) -> Result<()> {
    let key = api_key::mint("bench")?;
    let mut keys = String::new();
    // A list as a small installation has it; the caller's key is the last.
    for i in 0..99 {
        keys += &format!("{},\n", api_key::mint(&format!("other-{i}"))?.inline_toml());
    }
    let config = format!(
        r#"
        [[policies]]
        type = "ip"
        name = "networks"
        deny = ["10.0.0.0/8", "198.51.100.0/24", "2001:db8::/32"]
        [[policies]]
        type = "api_key"
        name = "keys"
        keys = [{keys} {{ id = "{}", hash = "{}", owner = "bench", roles = ["reader", "writer"] }}]
        [[policies]]
        type = "access"
        name = "writers"
        roles_any = ["admin", "writer"]
        [[policies]]
        type = "rate_limit"
        name = "per-key"
        key = "api_key"
        rate = "1000000/s"
        "#,
        key.id, key.hash
    );
    let request = format!(
        "GET /orders/17 HTTP/1.1\r\nHost: api.example\r\nUser-Agent: bench\r\nAccept: */*\r\nX-Api-Key: {}\r\n\r\n",
        key.key
    );
    let judge = Judge::new(chain(&config, &Files::default())?, &request);
    let figure = judge.with(|decide| batches.ns_per_call(decide))?;
    report.add(ns("chain-ip-key-role-limit", "gateway", figure));
    Ok(())
}

/// An ES256 key pair and a token signed with it.
struct Token {
    public_key: Vec<u8>,
    public_key_pem: String,
    signed: String,
    signature: Vec<u8>,
    request: String,
}

impl Token {
    fn new() -> Result<Token> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let signer = EcdsaKeyPair::from_pkcs8(
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &pair.serialize_der(),
        )
        .map_err(|e| anyhow!("{e}"))?;
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"JWT","kid":"bench"}"#);
        let payload = URL_SAFE_NO_PAD.encode(format!(
            r#"{{"iss":"https://issuer.example","aud":"api","sub":"user-17","scope":"read write","roles":["writer"],"iat":{},"exp":{}}}"#,
            NOW.wall_secs(),
            NOW.wall_secs() + 86_400
        ));
        let signed = format!("{header}.{payload}");
        let signature = signer
            .sign(&SystemRandom::new(), signed.as_bytes())?
            .as_ref()
            .to_vec();
        let request = format!(
            "GET /orders/17 HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer {signed}.{}\r\n\r\n",
            URL_SAFE_NO_PAD.encode(&signature)
        );
        Ok(Token {
            public_key: signer.public_key().as_ref().to_vec(),
            public_key_pem: pair.public_key_pem(),
            signed,
            signature,
            request,
        })
    }

    fn judge(&self, cache: usize) -> Result<Judge<'_>> {
        let config = format!(
            r#"
            [[policies]]
            type = "jwt"
            name = "tokens"
            issuer = "https://issuer.example"
            audience = "api"
            roles_claim = "roles"
            cache = {cache}
            keys = [{{ kid = "bench", algorithm = "ES256", public_key_file = "{PUBLIC_KEY_FILE}" }}]
            "#
        );
        let pem = Arc::from(self.public_key_pem.as_bytes());
        let files = Files([(PUBLIC_KEY_FILE.into(), pem)].into());
        Ok(Judge::new(chain(&config, &files)?, &self.request))
    }
}

fn jwt_cached(batches: Batches, report: &mut Report) -> Result<()> {
    let token = Token::new()?;
    let figure = token
        .judge(1024)?
        .with(|decide| batches.ns_per_call(decide))?;
    report.add(ns("jwt-cached", "gateway", figure));
    Ok(())
}

/// The whole verification (base64, JSON, signature, claims) beside the bare signature check with a parsed key.
fn jwt_fresh(batches: Batches, report: &mut Report) -> Result<()> {
    let token = Token::new()?;
    let key = ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &token.public_key)
        .map_err(|e| anyhow!("{e}"))?;
    let bare = |_| {
        let verified = key.verify_sig(black_box(token.signed.as_bytes()), &token.signature);
        assert!(verified.is_ok(), "the signature is good");
    };
    let (gateway, bare) = token
        .judge(0)?
        .with(|decide| batches.ns_per_call_of_two(decide, bare))?;
    report.add(ns("jwt-es256-fresh", "gateway", gateway));
    report.add(ns("jwt-es256-fresh", "aws-lc-rs", bare));
    Ok(())
}

const SCHEMA: &str = r##"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["id", "customer", "currency", "lines"],
  "additionalProperties": false,
  "properties": {
    "id": { "type": "string", "pattern": "^ord-[0-9]{6}$" },
    "customer": {
      "type": "object",
      "required": ["id", "email"],
      "properties": {
        "id": { "type": "integer", "minimum": 1 },
        "email": { "type": "string", "minLength": 3, "maxLength": 254 },
        "tags": { "type": "array", "maxItems": 8, "items": { "type": "string", "maxLength": 32 } }
      }
    },
    "currency": { "enum": ["EUR", "USD", "GBP"] },
    "note": { "type": "string", "maxLength": 500 },
    "lines": { "type": "array", "minItems": 1, "maxItems": 100, "items": { "$ref": "#/$defs/line" } }
  },
  "$defs": {
    "line": {
      "type": "object",
      "required": ["sku", "quantity", "price"],
      "properties": {
        "sku": { "type": "string", "minLength": 4, "maxLength": 16 },
        "quantity": { "type": "integer", "minimum": 1, "maximum": 999 },
        "price": { "type": "number", "exclusiveMinimum": 0 }
      }
    }
  }
}"##;

/// An order of exactly 512 bytes: the note fills up.
fn order() -> String {
    let line = |i: u32| {
        format!(
            r#"{{"sku":"sku-{i:04}","quantity":{i},"price":{}.25}}"#,
            i * 3
        )
    };
    let lines: Vec<String> = (1..=5).map(line).collect();
    let text = |note: &str| {
        format!(
            r#"{{"id":"ord-000017","customer":{{"id":17,"email":"someone@example.com","tags":["new","eu"]}},"currency":"EUR","note":"{note}","lines":[{}]}}"#,
            lines.join(",")
        )
    };
    text(&"n".repeat(512 - text("").len()))
}

/// The policy reads the bytes strictly and validates; the bare call is serde_json's parser and the same validator.
fn schema(batches: Batches, report: &mut Report) -> Result<()> {
    let body = order();
    ensure!(body.len() == 512, "the body has {} bytes", body.len());
    let config = format!(
        "[[policies]]\ntype = \"json_schema\"\nname = \"orders\"\nschema = '''{SCHEMA}'''\n"
    );
    let request = "POST /orders HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\nContent-Length: 512\r\n\r\n";
    let mut judge = Judge::new(chain(&config, &Files::default())?, request);
    judge.body = body.as_bytes();
    let validator = jsonschema::options()
        .with_pattern_options(jsonschema::PatternOptions::regex())
        .build(&serde_json::from_str(SCHEMA)?)
        .map_err(|e| anyhow!("{e}"))?;
    let bare = |_| {
        let value: Value = serde_json::from_slice(black_box(body.as_bytes())).unwrap_or_default();
        assert!(validator.is_valid(&value), "the body is valid");
    };
    let (gateway, bare) = judge.with(|decide| batches.ns_per_call_of_two(decide, bare))?;
    report.add(ns("schema-512", "gateway", gateway));
    report.add(ns("schema-512", "jsonschema", bare));
    Ok(())
}

/// A million live callers, asked for in random order.
fn limiter(batches: Batches, report: &mut Report) -> Result<()> {
    let resident_before = resident_bytes();
    let table = LimitTable::new(2 * LIVE_KEYS as usize);
    let rate = Rate {
        count: 1000,
        per: Duration::from_secs(1),
    };
    let window = Window::new(rate, 1000);
    let key = |i: u64| (i as u32).to_be_bytes();
    for i in 0..LIVE_KEYS {
        table.check(1, &key(i), &window, 1, NOW.mono_ns);
    }
    ensure!(
        table.len() as u64 == LIVE_KEYS,
        "{} keys are live",
        table.len()
    );
    let bytes_per_key = (resident_bytes() - resident_before) / LIVE_KEYS as f64;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let figure = batches.ns_per_call(|call| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let caller = (random >> 33) % LIVE_KEYS;
        let now_ns = NOW.mono_ns + call * 100;
        black_box(table.check(1, &key(caller), &window, 1, now_ns));
    });
    report.add(ns("limiter-1m-keys", "gateway", figure));
    report.add(Row::new(
        "limiter-1m-keys",
        "gateway",
        "bytes_per_key",
        bytes_per_key,
        "B",
    ));
    Ok(())
}

fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm
        .split(' ')
        .nth(1)
        .and_then(|field| field.parse().ok())
        .unwrap_or(0.0);
    pages * 4096.0
}

/// A browser's call of an API: ten fields, some 500 bytes.
const HEAD: &str = "GET /api/v1/orders/17?expand=lines&limit=50 HTTP/1.1\r\n\
Host: api.example.com\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
Accept: application/json, text/plain, */*\r\n\
Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n\
Origin: https://www.example.com\r\n\
Referer: https://www.example.com/orders\r\n\
Connection: keep-alive\r\n\
Cookie: session=0123456789abcdef\r\n\r\n";

fn parse_head(batches: Batches, report: &mut Report) -> Result<()> {
    let limits = HeadLimits::default();
    let mut scratch = HeadScratch::new();
    let mut complete = true;
    let figure = batches.ns_per_call(|_| {
        let mut space = HeaderSpace::new();
        let parsed = parse(
            black_box(HEAD.as_bytes()),
            &limits,
            &mut scratch,
            &mut space,
        );
        complete &= matches!(black_box(parsed), Ok(Parsed::Complete { .. }));
    });
    ensure!(complete, "the head was refused");
    report.add(ns("parse-head", "gateway", figure));
    Ok(())
}
