//! A library that is older than this crate is an error, told before anything else is called.

use std::path::PathBuf;
use std::process::Command;

use attn::{Context, Error, Tensor, TensorMut};

/// Runs in a process whose attn_version() is another one; see below.
#[test]
#[ignore = "run by the test below"]
fn with_the_older_library() {
    assert_eq!(
        attn::version(),
        "0.1.0",
        "the rest of the library is the real one"
    );
    let refused = |result: attn::Result<()>| {
        let Err(Error::Version(words)) = result else {
            panic!("{result:?}")
        };
        assert!(
            words.contains("0.0.9, which is older than 0.1.0"),
            "{words}"
        );
    };
    refused(Context::new().map(|_| ()));
    let (q, mut o) = ([0.0f32], [0.0f32]);
    let q = Tensor::new(&q, &[1, 1, 1, 1]).unwrap();
    let mut o = TensorMut::new(&mut o, &[1, 1, 1, 1]).unwrap();
    refused(attn::attention(&q, &q, &q, &mut o, false));
}

#[test]
#[cfg(not(feature = "vendored"))] // linked in, it cannot be another one
fn an_older_library_is_an_error() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, library) = (folder.join("older.c"), folder.join("older.so"));
    std::fs::write(&source, "int attn_version(void) { return 9; }\n").unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let built = Command::new(compiler)
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    assert!(built.unwrap().success());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "with_the_older_library"])
        .env("LD_PRELOAD", &library)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
