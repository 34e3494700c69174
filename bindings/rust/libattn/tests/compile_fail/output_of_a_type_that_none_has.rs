use attn::TensorMut;

fn view(memory: &mut [i32]) -> TensorMut<'_> {
    TensorMut::new(memory, &[8]).unwrap()
}

fn main() {}
