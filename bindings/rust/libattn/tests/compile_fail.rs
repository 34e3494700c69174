//! Misuse does not compile. After a change of the compiler's words: TRYBUILD=overwrite.

#[test]
fn misuse_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
