//! What the end-to-end tests stand on: a gateway process with a config of its own, upstreams that do as scripted,
//! clients that see every byte, namespaces, tokens good and forged.

pub mod bytes;
pub mod client;
pub mod config;
pub mod curl;
pub mod gateway;
pub mod kernel;
pub mod load;
pub mod material;
pub mod netns;
pub mod site;
pub mod skip;
pub mod tokens;
pub mod upstream;
pub mod wait;
