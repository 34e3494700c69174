use attn::Tensor;

fn main() {
    let mut lengths = [3i32];
    let seqlens_k = Tensor::new(&lengths, &[1]).unwrap();
    lengths[0] = 1000;
    println!("{seqlens_k:?}");
}
