use attn::Plan;

fn name(plan: Plan) -> &'static str {
    let name = plan.info().backend;
    drop(plan);
    name
}

fn main() {}
