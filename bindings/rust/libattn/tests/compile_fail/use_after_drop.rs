use attn::{Context, Plan};

fn main() {
    let context = Context::new().unwrap();
    let plan = Plan::builder();
    drop(context);
    plan.build(&context).unwrap();
}
