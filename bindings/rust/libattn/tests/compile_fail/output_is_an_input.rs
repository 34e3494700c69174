use attn::{RunArgs, Tensor, TensorMut};

fn main() {
    let mut memory = [0.0f32; 8];
    let q = Tensor::new(&memory, &[1, 1, 1, 8]).unwrap();
    let mut o = TensorMut::new(&mut memory, &[1, 1, 1, 8]).unwrap();
    let _ = RunArgs::new(&q, &q, &q, &mut o);
}
