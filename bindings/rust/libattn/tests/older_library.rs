//! A library that is older than this crate is an error, told before anything else is called.
#![cfg(not(feature = "vendored"))] // linked in, it cannot be another one

use std::path::PathBuf;
use std::process::Command;

use attn::{Context, Error, Tensor, TensorMut};

const NAME: &str = "an_older_library_is_an_error";

#[test]
fn an_older_library_is_an_error() {
    // This test again, in a process where attn_version() is another one.
    if std::env::var_os("LD_PRELOAD").is_some_and(|libraries| libraries == library().as_os_str()) {
        return with_the_older_library();
    }
    let source = library().with_extension("c");
    std::fs::write(&source, "int attn_version(void) { return 9; }\n").unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut compile = Command::new(compiler);
    let built = compile.args(["-shared", "-fPIC", "-o"]).arg(library()).arg(&source).status();
    assert!(built.unwrap().success());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env("LD_PRELOAD", library())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn library() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("older.so")
}

fn with_the_older_library() {
    let refused = |result: attn::Result<()>| {
        let Err(Error::Version(words)) = result else { panic!("{result:?}") };
        let compiled = concat!(
            "libattn is version 0.0.9; this program was compiled for ",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(&*words, compiled);
    };
    refused(Context::new().map(|_| ()));
    let (q, mut o) = ([0.0f32], [0.0f32]);
    let q = Tensor::new(&q, &[1, 1, 1, 1]).unwrap();
    let mut o = TensorMut::new(&mut o, &[1, 1, 1, 1]).unwrap();
    refused(attn::attention(&q, &q, &q, &mut o, false));
}
