//! Finds or builds libattn, and makes the declarations of its header.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let sources = manifest.join("attn");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    let include = if env::var_os("DOCS_RS").is_some() {
        sources.join("include") // documentation needs no library
    } else if env::var_os("CARGO_FEATURE_VENDORED").is_some() {
        build(&sources)
    } else {
        find().unwrap_or_else(|error| {
            println!("cargo::warning=libattn is built from source, since {error}");
            build(&sources)
        })
    };
    let header = include.join("attn").join("attn.h");
    println!("cargo::rerun-if-changed={}", header.display());
    println!("cargo::metadata=include={}", include.display());
    println!("cargo::rustc-env=ATTN_INCLUDE={}", include.display()); // for the tests
    let bindings = PathBuf::from(env::var_os("OUT_DIR").unwrap()).join("bindings.rs");
    if !generate(&include, &header, &bindings) {
        copy(&manifest, &header, &bindings);
    }
}

/// The library that pkg-config knows, of this crate's minor version: its include directory. The
/// environment's `ATTN_STATIC` links it in.
fn find() -> Result<PathBuf, String> {
    let (major, minor) = (version("MAJOR"), version("MINOR"));
    let next = format!("{major}.{}", minor + 1);
    pkg_config::Config::new()
        .range_version(format!("{major}.{minor}").as_str()..next.as_str())
        .probe("attn")
        .map_err(|error| first_line(&error.to_string()))?;
    pkg_config::get_variable("attn", "includedir")
        .map(PathBuf::from)
        .map_err(|error| first_line(&error.to_string()))
}

fn first_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.next().unwrap_or_default().to_owned()
}

/// A part of this crate's version, which is that of the library.
fn version(part: &str) -> u32 {
    let value = env::var(format!("CARGO_PKG_VERSION_{part}")).unwrap();
    value.parse().unwrap()
}

/// The library from its sources, linked in: their include directory.
fn build(sources: &Path) -> PathBuf {
    for part in ["CMakeLists.txt", "include", "src"] {
        println!("cargo::rerun-if-changed={}", sources.join(part).display());
    }
    let out = cmake::Config::new(sources)
        .profile("Release") // an attention that is not optimised serves nobody
        .build_target("attn_static")
        .build();
    println!("cargo::rustc-link-search=native={}", out.join("build").display());
    println!("cargo::rustc-link-lib=static=attn");
    for library in ["m", "dl", "pthread"] {
        println!("cargo::rustc-link-lib={library}");
    }
    sources.join("include")
}

/// Writes the declarations with bindgen. False where that is not possible.
#[cfg(feature = "bindgen")]
fn generate(include: &Path, header: &Path, bindings: &Path) -> bool {
    if let Err(error) = clang_sys::load() {
        println!("cargo::warning=src/bindings.rs is used, since libclang is absent: {error}");
        return false;
    }
    let generated = bindgen::Builder::default()
        .header(header.display().to_string())
        .clang_arg(format!("-I{}", include.display()))
        .allowlist_item("(attn|ATTN)_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .layout_tests(true)
        .use_core()
        .rust_edition(bindgen::RustEdition::Edition2024)
        .rust_target(bindgen::RustTarget::stable(85, 0).unwrap())
        .formatter(bindgen::Formatter::Prettyplease)
        .disable_header_comment()
        .generate();
    match generated {
        Ok(generated) => {
            generated.write_to_file(bindings).unwrap();
            true
        }
        Err(error) => {
            println!("cargo::warning=src/bindings.rs is used, since bindgen failed: {error}");
            false
        }
    }
}

#[cfg(not(feature = "bindgen"))]
fn generate(_: &Path, _: &Path, _: &Path) -> bool {
    false
}

/// Takes the declarations that were generated before, if they are of the header's version.
fn copy(manifest: &Path, header: &Path, bindings: &Path) {
    let generated = manifest.join("src").join("bindings.rs");
    println!("cargo::rerun-if-changed={}", generated.display());
    let text = fs::read_to_string(header).unwrap();
    for part in ["MAJOR", "MINOR"] {
        let line = format!("#define ATTN_VERSION_{part} {}", version(part));
        if !text.lines().any(|found| found.trim() == line) {
            println!(
                "cargo::error={} is of another version than attn-sys {}: install libclang, so that \
                 its declarations can be made from it",
                header.display(),
                env::var("CARGO_PKG_VERSION").unwrap()
            );
            return;
        }
    }
    fs::copy(generated, bindings).unwrap();
}
