use attn::{Plan, RunArgs, Tensor, TensorMut, Workspace};

fn run(plan: &Plan, q: &Tensor<'_>, memory: &mut [f32], workspace: &mut Workspace<'_>) {
    let mut o = TensorMut::new(memory, &[1, 1, 1, 8]).unwrap();
    let mut args = RunArgs::new(q, q, q, &mut o);
    println!("{}", memory[0]);
    plan.run(&mut args, workspace).unwrap();
}

fn main() {}
