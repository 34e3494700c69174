use attn::TensorMut;

fn view(memory: &[f32]) -> TensorMut<'_> {
    TensorMut::new(memory, &[8]).unwrap()
}

fn main() {}
