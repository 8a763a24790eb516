//! A worker that can be killed by a job: the built-in kinds `echo`, `webhook` and `sms`, and
//! `abort`, which ends the process that runs it.

use std::process::ExitCode;

use postroad_worker::kinds::echo::Echo;
use postroad_worker::kinds::parse_allow;
use postroad_worker::kinds::sms::{Sms, SmsConfig};
use postroad_worker::kinds::webhook::{Webhook, WebhookConfig};
use postroad_worker::{Config, Done, Env, Handler, JobContext, JobError, KindPolicy, Worker};

/// Ends the process.
struct Abort;

impl Handler for Abort {
    const KIND: &'static str = "abort";
    type Args = serde::de::IgnoredAny;

    fn policy(&self) -> KindPolicy {
        KindPolicy {
            backoff_base: std::time::Duration::from_millis(200),
            ..KindPolicy::default()
        }
    }

    async fn run(&self, _: JobContext, _: Self::Args) -> Result<Done, JobError> {
        std::process::abort()
    }
}

fn main() -> ExitCode {
    postroad_worker::program::run(async {
        let mut env = Env::of_process();
        let config = Config::read_from(&mut env);
        let allow = env
            .text("POSTROAD_WEBHOOK_ALLOW")
            .unwrap_or_default()
            .to_owned();
        let webhook = WebhookConfig {
            secret: None,
            allow: parse_allow(&allow).map_err(anyhow::Error::new)?,
        };
        let gateway = env.parse_optional("POSTROAD_SMS_GATEWAY_URL");
        env.finish()?;
        let gateway =
            gateway.ok_or_else(|| anyhow::anyhow!("POSTROAD_SMS_GATEWAY_URL is not set"))?;
        Worker::builder()
            .register(Echo)
            .register(Webhook::new(webhook)?)
            .register(Sms::new(SmsConfig {
                gateway,
                token: None,
            })?)
            .register(Abort)
            .build()?
            .run(config)
            .await
    })
}
