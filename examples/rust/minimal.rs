// minimal.rs: the attention of 4 queries over 6 keys, in 2 heads of 8
use attn::{Tensor, TensorMut};

fn main() -> attn::Result<()> {
    let (mut q, mut k, mut v, mut o) = ([0f32; 64], [0f32; 96], [0f32; 96], [0f32; 64]);
    (q[0], k[0], v[0]) = (1.0, 2.0, 3.0);
    attn::attention(
        &Tensor::new(&q, &[1, 2, 4, 8])?, // [batch, heads, seqlen, head_dim]
        &Tensor::new(&k, &[1, 2, 6, 8])?,
        &Tensor::new(&v, &[1, 2, 6, 8])?,
        &mut TensorMut::new(&mut o, &[1, 2, 4, 8])?,
        false, // causal
    )?;
    println!("{:.6} {:.6}", o[0], o[8]);
    Ok(())
}
