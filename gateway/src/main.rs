//! Arguments -> command -> exit code.

fn main() -> std::process::ExitCode {
    gateway::cli::main()
}
