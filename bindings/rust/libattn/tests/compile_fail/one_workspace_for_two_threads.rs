use attn::{Plan, RunArgs, Workspace};

fn run(plan: &Plan, a: &mut RunArgs<'_>, b: &mut RunArgs<'_>, workspace: &mut Workspace<'_>) {
    std::thread::scope(|scope| {
        scope.spawn(|| plan.run(a, workspace).unwrap());
        scope.spawn(|| plan.run(b, workspace).unwrap());
    });
}

fn main() {}
