//! Tests that need rights say so and pass for a person; where `GATEWAY_E2E=1` they fail instead.

/// `true` when the caller should return. `needs` completes the sentence "SKIP: needs …".
pub fn skip_without_root(needs: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    let demanded = std::env::var("GATEWAY_E2E").is_ok_and(|v| v == "1");
    assert!(!demanded, "GATEWAY_E2E=1, but this test needs {needs}");
    println!("SKIP: needs {needs}");
    true
}
