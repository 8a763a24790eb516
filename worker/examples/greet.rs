//! A worker with a kind of its own.
//!
//! ```sh
//! cargo run -p postroad-worker --example greet
//! postroad enqueue --kind greet --args '{"name": "Ada"}'
//! ```

use std::process::ExitCode;
use std::time::Duration;

use postroad_worker::{Config, Done, Env, Handler, JobContext, JobError, KindPolicy, OnLost};
use postroad_worker::{Worker, program};

struct Greet;

#[derive(serde::Deserialize)]
struct GreetArgs {
    name: String,
}

impl Handler for Greet {
    const KIND: &'static str = "greet";
    type Args = GreetArgs;

    fn policy(&self) -> KindPolicy {
        KindPolicy {
            // Greeting twice is harmless, so a lost worker means: greet again.
            on_lost: OnLost::Retry,
            max_attempts: 5,
            timeout: Duration::from_secs(10),
            ..KindPolicy::default()
        }
    }

    async fn run(&self, job: JobContext, args: GreetArgs) -> Result<Done, JobError> {
        if args.name.is_empty() {
            // No further attempt can find a name: the job is dead at once.
            return Err(JobError::fatal(anyhow::anyhow!("nobody to greet")));
        }
        let greeting = format!("hello, {} (attempt {})", args.name, job.attempt);
        println!("{greeting}");
        Done::with(&greeting)
    }
}

fn main() -> ExitCode {
    program::run(async {
        let config = Config::read(Env::of_process())?;
        Worker::builder().register(Greet).build()?.run(config).await
    })
}
