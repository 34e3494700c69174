//! ndarray's views as tensors.
#![cfg(feature = "ndarray")]

use attn::{Tensor, TensorMut};
use ndarray::{Array, Array4, ArrayD, Axis, s};

#[test]
fn any_strides() {
    // [batch, seqlen, heads, dim], keys backwards, half of the columns.
    let q = Array4::from_shape_fn((1, 3, 2, 8), |(_, i, h, x)| (i + 2 * h + x) as f32 * 0.1);
    let k = Array4::from_shape_fn((1, 2, 5, 16), |(_, h, j, x)| ((h + j * x) % 7) as f32 * 0.2);
    let q_turned = q.view().permuted_axes([0, 2, 1, 3]);
    let k_cut = k.slice(s![.., .., ..;-1, ..;2]);
    let mut o = Array4::<f32>::zeros((1, 3, 2, 8));
    let run = |q: Tensor<'_>, k: Tensor<'_>, o: &mut TensorMut<'_>| {
        attn::attention(&q, &k, &k, o, false).unwrap();
    };
    run(
        q_turned.try_into().unwrap(),
        k_cut.try_into().unwrap(),
        &mut o.view_mut().permuted_axes([0, 2, 1, 3]).try_into().unwrap(),
    );

    let (q_copy, k_copy) = (q_turned.as_standard_layout(), k_cut.as_standard_layout());
    let mut expected = Array4::<f32>::zeros((1, 2, 3, 8));
    run(
        Tensor::new(q_copy.as_slice().unwrap(), &[1, 2, 3, 8]).unwrap(),
        Tensor::new(k_copy.as_slice().unwrap(), &[1, 2, 5, 8]).unwrap(),
        &mut TensorMut::new(expected.as_slice_mut().unwrap(), &[1, 2, 3, 8]).unwrap(),
    );
    assert_eq!(o.permuted_axes([0, 2, 1, 3]), expected);
    assert!(expected.iter().any(|&x| x != 0.0));
}

#[test]
fn too_many_dimensions() {
    let array: ArrayD<f32> = Array::zeros(vec![1; 7]);
    assert!(Tensor::try_from(array.view()).is_err());
    let six = array.index_axis(Axis(0), 0);
    assert_eq!(Tensor::try_from(six).unwrap().shape(), [1; 6]);
}
