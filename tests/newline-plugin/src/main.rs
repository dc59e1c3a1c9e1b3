use newline_plugin as _;

fn main() -> std::process::ExitCode {
    blt::main()
}
