//! Prints the declarations that the build made, for `bindings/gen.sh`.
fn main() {
    print!("{}", include_str!(concat!(env!("OUT_DIR"), "/bindings.rs")));
}
