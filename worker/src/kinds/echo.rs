//! `echo`: does nothing, and its result is its args. The kind to copy when writing your own.

use serde_json::value::RawValue;

use crate::{Done, Handler, JobContext, JobError};

/// The handler of `echo`.
#[derive(Debug, Default)]
pub struct Echo;

impl Handler for Echo {
    const KIND: &'static str = "echo";
    type Args = Box<RawValue>;

    async fn run(&self, _job: JobContext, args: Self::Args) -> Result<Done, JobError> {
        Ok(Done { result: Some(args) })
    }
}
