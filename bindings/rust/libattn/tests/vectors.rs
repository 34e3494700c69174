//! The test vectors that all languages share; abi_tests/vectors/vectors.txt tells what they are.
#![cfg(feature = "half")]

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::str::SplitWhitespace;

use attn::{
    Alignment, Context, Dtype, Element, Error, F8E4M3, Plan, PlanBuilder, Result, RunArgs, Tensor,
    TensorMut, sys,
};
use half::{bf16, f16};

/// Memory of one of the types that tensors hold.
enum Memory {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    F8(Vec<F8E4M3>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

struct View {
    memory: Memory,
    shape: Vec<usize>,
    strides: Vec<isize>,
    first: usize,
}

struct Expected {
    columns: usize,
    values: Vec<f64>,
    tolerances: Vec<f64>,
}

#[derive(Default)]
struct Case {
    name: String,
    plan: HashMap<String, String>,
    inputs: HashMap<String, View>,
    outputs: Vec<(String, View)>,
    expected: HashMap<String, Expected>,
}

fn bytes<const N: usize>(digits: &str) -> Vec<[u8; N]> {
    if digits == "-" {
        return Vec::new();
    }
    assert_eq!(digits.len() % (2 * N), 0);
    let byte = |i: usize| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap();
    (0..digits.len() / (2 * N)).map(|n| std::array::from_fn(|i| byte(n * N + i))).collect()
}

fn numbers<const N: usize, T>(digits: &str, from: fn([u8; N]) -> T) -> Vec<T> {
    bytes(digits).into_iter().map(from).collect()
}

fn next<'a>(words: &mut SplitWhitespace<'a>) -> &'a str {
    words.next().expect("a word is missing")
}

fn view(words: &mut SplitWhitespace<'_>) -> View {
    let dtype: u32 = next(words).parse().unwrap();
    let rank: usize = next(words).parse().unwrap();
    let shape = (0..rank).map(|_| next(words).parse().unwrap()).collect();
    let strides = (0..rank).map(|_| next(words).parse().unwrap()).collect();
    let first = next(words).parse().unwrap();
    let count: usize = next(words).parse().unwrap();
    let size = match dtype {
        sys::ATTN_DTYPE_F8E4M3 | sys::ATTN_DTYPE_I8 | sys::ATTN_DTYPE_U8 => 1,
        sys::ATTN_DTYPE_F16 | sys::ATTN_DTYPE_BF16 => 2,
        sys::ATTN_DTYPE_I64 => 8,
        _ => 4,
    };
    let zeros = "0".repeat(2 * count * size);
    let digits = words.next().unwrap_or(if count == 0 { "-" } else { &zeros });
    let memory = match dtype {
        sys::ATTN_DTYPE_F32 => Memory::F32(numbers(digits, f32::from_le_bytes)),
        sys::ATTN_DTYPE_F16 => Memory::F16(numbers(digits, f16::from_le_bytes)),
        sys::ATTN_DTYPE_BF16 => Memory::Bf16(numbers(digits, bf16::from_le_bytes)),
        sys::ATTN_DTYPE_F8E4M3 => Memory::F8(numbers(digits, |[byte]| F8E4M3(byte))),
        sys::ATTN_DTYPE_I8 => Memory::I8(numbers(digits, i8::from_le_bytes)),
        sys::ATTN_DTYPE_U8 => Memory::U8(numbers(digits, u8::from_le_bytes)),
        sys::ATTN_DTYPE_I32 => Memory::I32(numbers(digits, i32::from_le_bytes)),
        sys::ATTN_DTYPE_I64 => Memory::I64(numbers(digits, i64::from_le_bytes)),
        _ => panic!("no dtype {dtype}"),
    };
    let view = View { memory, shape, strides, first };
    assert_eq!(view.len(), count);
    view
}

impl View {
    fn len(&self) -> usize {
        match &self.memory {
            Memory::F32(x) => x.len(),
            Memory::F16(x) => x.len(),
            Memory::Bf16(x) => x.len(),
            Memory::F8(x) => x.len(),
            Memory::I8(x) => x.len(),
            Memory::U8(x) => x.len(),
            Memory::I32(x) => x.len(),
            Memory::I64(x) => x.len(),
        }
    }

    fn tensor(&self) -> Tensor<'_> {
        fn of<'a, T: Element>(memory: &'a [T], view: &View) -> Tensor<'a> {
            Tensor::strided(memory, view.first, &view.shape, &view.strides).unwrap()
        }
        match &self.memory {
            Memory::F32(x) => of(x, self),
            Memory::F16(x) => of(x, self),
            Memory::Bf16(x) => of(x, self),
            Memory::F8(x) => of(x, self),
            Memory::I8(x) => of(x, self),
            Memory::U8(x) => of(x, self),
            Memory::I32(x) => of(x, self),
            Memory::I64(x) => of(x, self),
        }
    }

    fn tensor_mut(&mut self) -> TensorMut<'_> {
        let View { memory, shape, strides, first } = self;
        let tensor = match memory {
            Memory::F32(x) => TensorMut::strided(x, *first, shape, strides),
            Memory::F16(x) => TensorMut::strided(x, *first, shape, strides),
            Memory::Bf16(x) => TensorMut::strided(x, *first, shape, strides),
            _ => panic!("an output of a type that none has"),
        };
        tensor.unwrap()
    }

    fn clear(&mut self) {
        match &mut self.memory {
            Memory::F32(x) => x.fill(0.0),
            Memory::F16(x) => x.fill(f16::ZERO),
            Memory::Bf16(x) => x.fill(bf16::ZERO),
            _ => panic!("an output of a type that none has"),
        }
    }

    fn le_bytes(&self) -> Vec<u8> {
        match &self.memory {
            Memory::F32(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Memory::F16(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Memory::Bf16(x) => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            _ => panic!("an output of a type that none has"),
        }
    }

    /// Element n in row-major order.
    fn element(&self, mut n: usize) -> f64 {
        let mut at = self.first as isize;
        for (extent, stride) in self.shape.iter().zip(&self.strides).rev() {
            at += (n % extent) as isize * stride;
            n /= extent;
        }
        match &self.memory {
            Memory::F32(x) => x[at as usize].into(),
            Memory::F16(x) => x[at as usize].into(),
            Memory::Bf16(x) => x[at as usize].into(),
            _ => panic!("an output of a type that none has"),
        }
    }
}

fn dtype(value: u32) -> Dtype {
    match value {
        sys::ATTN_DTYPE_F32 => Dtype::F32,
        sys::ATTN_DTYPE_F16 => Dtype::F16,
        sys::ATTN_DTYPE_BF16 => Dtype::Bf16,
        sys::ATTN_DTYPE_F8E4M3 => Dtype::F8E4M3,
        sys::ATTN_DTYPE_I8 => Dtype::I8,
        _ => panic!("no dtype {value}"),
    }
}

fn builder(case: &Case) -> PlanBuilder {
    let number = |name: &str| case.plan.get(name).map_or(0, |value| value.parse().unwrap());
    let mut plan = Plan::builder();
    for (name, value) in &case.plan {
        let real = || value.parse::<f32>().unwrap();
        let count = || value.parse::<usize>().unwrap();
        let bits = || value.parse::<u32>().unwrap();
        plan = match name.as_str() {
            "features" => features(plan, bits(), &number),
            "q_dtype" => plan.dtype(dtype(bits())),
            "k_dtype" => plan.k_dtype(dtype(bits())),
            "v_dtype" => plan.v_dtype(dtype(bits())),
            "o_dtype" => plan.o_dtype(dtype(bits())),
            "q_layout" => {
                assert_eq!(bits(), sys::ATTN_LAYOUT_PACKED);
                plan.packed_q()
            }
            "kv_layout" if bits() == sys::ATTN_LAYOUT_PACKED => plan.packed_kv(),
            "kv_layout" if bits() == sys::ATTN_LAYOUT_PAGED => plan.paged(number("page_size")),
            "alignment" => {
                assert_eq!(bits(), sys::ATTN_ALIGN_TOP_LEFT);
                plan.alignment(Alignment::TopLeft)
            }
            "scale" => plan.scale(real()),
            "softcap" => plan.softcap(real()),
            "heads_q" => plan.heads_q(count()),
            "heads_kv" => plan.heads_kv(count()),
            "head_dim" => plan.head_dim(count()),
            "head_dim_v" => plan.head_dim_v(count()),
            "max_batch" => plan.max_batch(count()),
            "max_seqlen_q" => plan.max_seqlen_q(count()),
            "max_seqlen_k" => plan.max_seqlen_k(count()),
            "max_total_q" => plan.max_total_q(count()),
            "max_total_k" => plan.max_total_k(count()),
            "page_size" | "bias_dtype" | "block_q" | "block_k" => plan, // with their features
            "window_left" | "window_right" => plan,
            _ => panic!("no plan field {name}"),
        };
    }
    plan
}

fn features(plan: PlanBuilder, bits: u32, number: &dyn Fn(&str) -> usize) -> PlanBuilder {
    (0..u32::BITS).map(|i| 1 << i).filter(|bit| bits & bit != 0).fold(plan, |plan, bit| match bit {
        sys::ATTN_CAUSAL => plan.causal(true),
        sys::ATTN_WINDOW_LEFT => plan.window_left(number("window_left")),
        sys::ATTN_WINDOW_RIGHT => plan.window_right(number("window_right")),
        sys::ATTN_SEQLENS_Q => plan.seqlens_q(),
        sys::ATTN_SEQLENS_K => plan.seqlens_k(),
        sys::ATTN_Q_START => plan.q_start(),
        sys::ATTN_K_START => plan.k_start(),
        sys::ATTN_BIAS => plan.bias(dtype(number("bias_dtype") as u32)),
        sys::ATTN_BIAS_RANGE => plan.bias_range(),
        sys::ATTN_MASK => plan.mask(),
        sys::ATTN_MASK_RANGE => plan.mask_range(),
        sys::ATTN_ALIBI => plan.alibi(),
        sys::ATTN_SINK => plan.sink(),
        sys::ATTN_BLOCK_MASK => plan.block_mask(number("block_q"), number("block_k")),
        _ => panic!("no feature {bit}"),
    })
}

fn run(case: &mut Case, plan: &Plan) -> Result<()> {
    let tensors: HashMap<&str, Tensor<'_>> =
        case.inputs.iter().map(|(name, view)| (name.as_str(), view.tensor())).collect();
    let mut outputs = case.outputs.iter_mut().map(|(name, view)| (name, view.tensor_mut()));
    let (o_name, mut o) = outputs.next().unwrap();
    assert_eq!(o_name, "o");
    let mut lse = outputs.next().map(|(name, tensor)| {
        assert_eq!(name, "lse");
        tensor
    });
    let mut args = RunArgs::new(&tensors["q"], &tensors["k"], &tensors["v"], &mut o);
    if let Some(lse) = &mut lse {
        args = args.lse(lse);
    }
    for (&name, tensor) in &tensors {
        args = match name {
            "q" | "k" | "v" => args,
            "seqlens_q" => args.seqlens_q(tensor),
            "seqlens_k" => args.seqlens_k(tensor),
            "cu_seqlens_q" => args.cu_seqlens_q(tensor),
            "cu_seqlens_k" => args.cu_seqlens_k(tensor),
            "block_table" => args.block_table(tensor),
            "q_start" => args.q_start(tensor),
            "k_start" => args.k_start(tensor),
            "bias" => args.bias(tensor),
            "bias_k0" => args.bias_k0(tensor),
            "mask" => args.mask(tensor),
            "mask_k0" => args.mask_k0(tensor),
            "alibi_slopes" => args.alibi_slopes(tensor),
            "sink" => args.sink(tensor),
            "block_mask" => args.block_mask(tensor),
            "k_scale" => args.k_scale(tensor),
            "v_scale" => args.v_scale(tensor),
            _ => panic!("no tensor {name}"),
        };
    }
    plan.run(&mut args, &mut plan.new_workspace()?)
}

fn compare(case: &Case, target: &str) {
    for (name, view) in &case.outputs {
        let expected = &case.expected[name];
        for (n, &right) in expected.values.iter().enumerate() {
            let (actual, tolerance) = (view.element(n), expected.tolerances[n / expected.columns]);
            let close = actual == right || (actual - right).abs() <= tolerance;
            assert!(
                close,
                "{target}: {name}[{n}] is {actual}, expected {right} within {tolerance}"
            );
        }
    }
}

fn hash(case: &Case) -> u64 {
    case.outputs
        .iter()
        .flat_map(|(_, view)| view.le_bytes())
        .fold(0xcbf29ce484222325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100000001b3))
}

/// Runs a case everywhere; returns how often it was computed.
fn run_everywhere(case: &mut Case, contexts: &[Context], hashes: &mut String) -> usize {
    let mut computed = 0;
    for context in contexts {
        for backend in context.backends().iter().filter(|backend| backend.available) {
            let target = format!("{} {} {}", case.name, backend.name, context.info().isa_name);
            let plan = match builder(case).backend(backend.name).build(context) {
                Err(Error::Unsupported(_)) if backend.name != "standard" => {
                    writeln!(hashes, "{target} unsupported").unwrap();
                    continue;
                }
                plan => plan.unwrap_or_else(|error| panic!("{target}: {error}")),
            };
            case.outputs.iter_mut().for_each(|(_, view)| view.clear());
            run(case, &plan).unwrap_or_else(|error| panic!("{target}: {error}"));
            compare(case, &target);
            writeln!(hashes, "{target} {:016x}", hash(case)).unwrap();
            computed += 1;
        }
    }
    computed
}

#[test]
fn vectors() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../abi_tests/vectors/vectors.txt");
    let text = std::fs::read_to_string(file).unwrap();
    let probe = Context::new().unwrap();
    let contexts: Vec<_> = probe
        .isas()
        .iter()
        .filter(|isa| isa.available)
        .map(|isa| Context::builder().isa(isa.isa).build().unwrap())
        .collect();
    let mut hashes = String::new();
    let mut case = Case::default();
    let (mut cases, mut computed) = (0, 0);
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (keyword, name) = (next(&mut words), words.next().unwrap_or_default().to_owned());
        match keyword {
            "case" => case = Case { name, ..Case::default() },
            "plan" => {
                case.plan.insert(name, next(&mut words).to_owned());
            }
            "input" => {
                case.inputs.insert(name, view(&mut words));
            }
            "output" => case.outputs.push((name, view(&mut words))),
            "expect" => {
                let rows: usize = next(&mut words).parse().unwrap();
                let expected = Expected {
                    columns: next(&mut words).parse().unwrap(),
                    values: numbers(next(&mut words), f64::from_le_bytes),
                    tolerances: numbers(next(&mut words), f64::from_le_bytes),
                };
                assert_eq!(expected.tolerances.len(), rows);
                assert_eq!(expected.values.len(), rows * expected.columns);
                case.expected.insert(name, expected);
            }
            "end" => {
                cases += 1;
                computed += run_everywhere(&mut case, &contexts, &mut hashes);
            }
            _ => panic!("no keyword {keyword}"),
        }
    }
    assert!(cases > 0 && computed >= cases * contexts.len());
    if let Some(folder) = std::env::var_os("ATTN_VECTORS_OUT") {
        std::fs::write(Path::new(&folder).join("rust.txt"), hashes).unwrap();
    }
}
