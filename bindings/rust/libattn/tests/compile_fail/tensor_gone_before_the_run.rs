use attn::{RunArgs, Tensor, TensorMut};

fn args<'a>(q: &'a Tensor<'a>, o: &'a mut TensorMut<'a>) -> RunArgs<'a> {
    let lengths = [3i32];
    let seqlens_k = Tensor::new(&lengths, &[1]).unwrap();
    RunArgs::new(q, q, q, o).seqlens_k(&seqlens_k)
}

fn main() {}
