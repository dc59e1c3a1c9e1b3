use std::process::ExitCode;

fn main() -> ExitCode {
    blt::main()
}
