//! Sizes, offsets and constants are what the C compiler says.

use std::fmt::Write;
use std::mem::{align_of, offset_of, size_of};
use std::path::PathBuf;
use std::process::Command;

use attn_sys::*;

/// Appends static assertions about a struct. Not naming one of its fields does not compile.
macro_rules! layout {
    ($out:expr, $type:ident { $($field:ident),* $(,)? }) => {{
        let $type { $($field: _),* } = $type::default();
        size($out, stringify!($type), size_of::<$type>(), align_of::<$type>());
        $(offset($out, stringify!($type), stringify!($field), offset_of!($type, $field));)*
    }};
}

fn size(out: &mut String, name: &str, size: usize, align: usize) {
    writeln!(out, "_Static_assert(sizeof({name}) == {size}, \"size of {name}\");").unwrap();
    writeln!(out, "_Static_assert(_Alignof({name}) == {align}, \"alignment of {name}\");").unwrap();
}

fn offset(out: &mut String, name: &str, field: &str, offset: usize) {
    writeln!(out, "_Static_assert(offsetof({name}, {field}) == {offset}, \"{name}.{field}\");")
        .unwrap();
}

#[rustfmt::skip] // which would give each field a line
fn structs(out: &mut String) {
    layout!(out, attn_error { status, message });
    layout!(out, attn_tensor {
        data, byte_offset, dtype, device_type, device_id, rank, shape, strides, reserved,
    });
    layout!(out, attn_allocator { struct_size, reserved, user, allocate, deallocate });
    layout!(out, attn_executor { struct_size, concurrency, user, parallel_for });
    layout!(out, attn_context_config {
        struct_size, num_threads, isa, reserved, allocator, executor, backend_dir, log, log_user,
    });
    layout!(out, attn_plan_config {
        struct_size, kind, features, device_type, device_id, q_dtype, k_dtype, v_dtype, o_dtype,
        bias_dtype, q_layout, kv_layout, alignment, scale, softcap, page_size, block_q, block_k,
        heads_q, heads_kv, head_dim, head_dim_v, max_batch, max_seqlen_q, max_seqlen_k, max_total_q,
        max_total_k, window_left, window_right, backend, tile_k, kv_chunk, flags, reserved,
    });
    layout!(out, attn_run_args {
        struct_size, reserved, q, k, v, o, lse, seqlens_q, seqlens_k, cu_seqlens_q, cu_seqlens_k,
        block_table, q_start, k_start, bias, bias_k0, mask, mask_k0, alibi_slopes, sink, block_mask,
        k_scale, v_scale, workspace, workspace_size, stream,
    });
    layout!(out, attn_merge_args { struct_size, count, o_parts, lse_parts, o, lse, sink, stream });
    layout!(out, attn_context_info {
        struct_size, isa, isa_name, concurrency, reserved, l1_cache_size, l2_cache_size,
        l3_cache_size, backend_dir,
    });
    layout!(out, attn_isa_info { struct_size, isa, name, available, reserved, reason });
    layout!(out, attn_backend_info { struct_size, available, name, description, reason });
    layout!(out, attn_plan_info {
        struct_size, isa, backend, isa_name, tile_q, tile_k, kv_chunk, workspace_size,
        standard_workspace_size, request_status_count, kernel,
    });
    layout!(out, attn_autotune_info {
        struct_size, measured, tile_k, kv_chunk, default_ns, tuned_ns,
    });
}

const BINDINGS: &str = include_str!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// The lines `pub const NAME: TYPE = VALUE;` of the declarations.
fn constants() -> Vec<(&'static str, &'static str)> {
    let names = BINDINGS.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("pub const ")?.split_once(": ")?;
        let (_, value) = rest.strip_suffix(';')?.split_once(" = ")?;
        Some((name, value))
    });
    names.collect()
}

fn include_dir() -> PathBuf {
    // The header that the declarations were made from.
    PathBuf::from(env!("ATTN_INCLUDE"))
}

#[test]
fn layout_is_that_of_c() {
    let mut source = String::from("#include <attn/attn.h>\n");
    structs(&mut source);
    let structs_declared = BINDINGS.matches("pub struct ").count() - 2; // two are opaque
    assert_eq!(source.matches("size of ").count(), structs_declared);
    let constants = constants();
    assert!(constants.len() > 50, "{}", constants.len());
    for (name, value) in &constants {
        writeln!(source, "_Static_assert({name} == {value}, \"{name}\");").unwrap();
    }
    compile(&source).unwrap();
}

#[test]
fn every_enumerator_of_the_header_is_there() {
    let header = std::fs::read_to_string(include_dir().join("attn/attn.h")).unwrap();
    let known: Vec<_> = constants().into_iter().map(|(name, _)| name).collect();
    let mut found = 0;
    for line in header.lines() {
        let name = line.trim_start().trim_start_matches("enum { ");
        let Some((name, _)) = name.split_once(" = ") else {
            continue;
        };
        if name.starts_with("ATTN_") {
            assert!(known.contains(&name), "{name}");
            found += 1;
        }
    }
    assert!(found > 40, "{found}");
}

#[test]
fn a_wrong_layout_is_noticed() {
    let source = "#include <attn/attn.h>\n_Static_assert(sizeof(attn_tensor) == 140, \"\");\n";
    assert!(compile(source).unwrap_err().contains("static assertion failed"));
}

/// Compiles C; the compiler's words if it does not.
fn compile(source: &str) -> Result<(), String> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("layout-{:?}.c", std::thread::current().id()));
    std::fs::write(&file, source).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let output = Command::new(compiler)
        .args(["-std=c11", "-fsyntax-only", "-I"])
        .arg(include_dir())
        .arg(&file)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(words) }
}
