use attn::Tensor;

fn main() {
    let q;
    {
        let memory = vec![0.0f32; 8];
        q = Tensor::new(&memory, &[1, 1, 1, 8]).unwrap();
    }
    println!("{q:?}");
}
