//! The packages hold all that they need: a fresh project outside of this tree builds from them,
//! with the installed library, and with the one that they build themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of the fresh project. Its profile is this workspace's, so that what is built already serves.
const MANIFEST: &str = r#"
[package]
name = "fresh"
version = "0.0.0"
edition = "2024"

[features]
default = ["libattn/bindgen"]
vendored = ["libattn/vendored"]

[dependencies]
libattn = { path = "../packages/libattn-VERSION", default-features = false, features = ["half"] }

[patch.crates-io]
attn-sys = { path = "../packages/attn-sys-VERSION" }

[profile.dev]
debug = 0

[workspace]
"#;

/// A folder of this process in the system's temporary one, gone at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a command that must succeed; returns its stdout.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{stdout}\n{stderr}");
    stdout.into()
}

fn cargo(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(folder).arg("--offline"); // what is needed is here: this test was built
    command
}

#[test]
fn fresh_project() {
    let version = env!("CARGO_PKG_VERSION");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let scratch = Scratch(std::env::temp_dir().join(format!("attn-fresh-{}", std::process::id())));
    let (packages, project) = (scratch.0.join("packages"), scratch.0.join("project"));
    fs::create_dir_all(&packages).unwrap();
    fs::create_dir_all(project.join("src")).unwrap();

    let made = temporary.join("packages");
    let flags = ["--no-verify", "--allow-dirty", "-p", "attn-sys", "-p", "libattn"];
    run(cargo(workspace).args(["package", "--locked"]).args(flags).arg("--target-dir").arg(&made));
    for name in ["attn-sys", "libattn"] {
        let package = made.join("package").join(format!("{name}-{version}.crate"));
        run(Command::new("tar").arg("xzf").arg(package).arg("-C").arg(&packages));
    }
    fs::write(project.join("Cargo.toml"), MANIFEST.replace("VERSION", version)).unwrap();
    fs::copy(workspace.join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
    let minimal = workspace.join("../../examples/rust/minimal.rs");
    fs::copy(minimal, project.join("src/main.rs")).unwrap();

    let mut installed = cargo(&project);
    installed.args(["run", "--quiet"]).env("CARGO_TARGET_DIR", temporary.parent().unwrap());
    assert_eq!(run(&mut installed), "0.865715 0.500000\n");

    let mut vendored = cargo(&project);
    vendored
        .args(["run", "--quiet", "--no-default-features", "--features", "vendored"])
        .env("CARGO_TARGET_DIR", temporary.join("vendored"))
        .env("PKG_CONFIG_LIBDIR", "/nonexistent")
        .env_remove("PKG_CONFIG_PATH")
        .env_remove("LD_LIBRARY_PATH");
    assert_eq!(run(&mut vendored), "0.865715 0.500000\n");
}
