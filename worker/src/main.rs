//! `postroad-worker`: the built-in kinds, as a program.

use std::process::ExitCode;

use clap::Parser;
use postroad_common::config::{ConfigError, Env};
use postroad_common::program;
use postroad_worker::kinds::echo::Echo;
use postroad_worker::kinds::parse_allow;
use postroad_worker::kinds::sms::{Sms, SmsConfig};
use postroad_worker::kinds::webhook::{Webhook, WebhookConfig};
use postroad_worker::{Config, Worker};

/// Runs jobs of the built-in kinds: echo, webhook, and, where a gateway is configured, sms.
///
/// Run as many as you like. Kill one at any moment: what it had in hand is delivered again,
/// retried, or held for a decision, as each kind says.
#[derive(Parser)]
#[command(version, after_long_help = HELP)]
struct Args {}

const HELP: &str = "\
Configured by environment:
  DATABASE_URL                Postgres 15+ [postgres://postroad:postroad@127.0.0.1:5432/postroad]
  AMQP_URL                    RabbitMQ 3.10+ [amqp://postroad:postroad@127.0.0.1:5672/postroad]
  POSTROAD_QUEUES             queues to consume, comma separated [default]
  POSTROAD_PREFETCH           unacknowledged deliveries per queue = jobs at once [100]
  POSTROAD_WEBHOOK_SECRET     whsec_..., signs webhooks [none]
  POSTROAD_WEBHOOK_ALLOW      private networks that webhooks may reach, as CIDR [none]
  POSTROAD_SMS_GATEWAY_URL    where sms jobs go [none: this worker does not run them]
  POSTROAD_SMS_GATEWAY_TOKEN  bearer token for the gateway [none]
  POSTROAD_ADMIN_LISTEN       /healthz, /readyz, /metrics [a free port, logged]
  POSTROAD_LEASE              silence after which this process is called lost [30s]
  POSTROAD_GRACE              time to finish after SIGTERM [25s]
  POSTROAD_LOG                log filter [info]
  POSTROAD_LOG_FORMAT         text or json [text]

Examples:
  POSTROAD_QUEUES=default,webhooks postroad-worker
  POSTROAD_QUEUES=sms POSTROAD_SMS_GATEWAY_URL=https://sms.example/send postroad-worker

Exit codes: 0 stopped as asked, 1 failed, 78 the configuration cannot be used.";

fn main() -> ExitCode {
    let Args {} = Args::parse();
    program::run(async {
        let (config, builtin) = read(Env::of_process())?;
        let mut worker = Worker::builder()
            .register(Echo)
            .register(Webhook::new(builtin.webhook)?);
        if let Some(sms) = builtin.sms {
            worker = worker.register(Sms::new(sms)?);
        }
        worker.build()?.run(config).await
    })
}

/// What the built-in kinds need.
struct Builtin {
    webhook: WebhookConfig,
    sms: Option<SmsConfig>,
}

/// Everything in one reading, so that every problem is reported at once.
fn read(mut env: Env) -> Result<(Config, Builtin), ConfigError> {
    let config = Config::read_from(&mut env);
    let allow = env
        .text("POSTROAD_WEBHOOK_ALLOW")
        .unwrap_or_default()
        .to_owned();
    let allow = match allow.as_str() {
        "" => Vec::new(),
        text => parse_allow(text).unwrap_or_else(|error| {
            env.problem("POSTROAD_WEBHOOK_ALLOW", format_args!("is wrong: {error}"));
            Vec::new()
        }),
    };
    let webhook = WebhookConfig {
        secret: env.parse_optional("POSTROAD_WEBHOOK_SECRET"),
        allow,
    };
    let token = env.secret("POSTROAD_SMS_GATEWAY_TOKEN");
    let sms = env
        .parse_optional("POSTROAD_SMS_GATEWAY_URL")
        .map(|gateway| SmsConfig { gateway, token });
    if let Some(Err(error)) = sms.clone().map(Sms::new) {
        env.problem(
            "POSTROAD_SMS_GATEWAY_URL",
            format_args!("cannot be used: {error:#}"),
        );
    }
    env.finish()?;
    Ok((config, Builtin { webhook, sms }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_environment_runs_no_sms() {
        let (_, builtin) = read(Env::of_map([])).unwrap();
        assert!(builtin.sms.is_none());
    }

    #[test]
    fn every_wrong_variable_is_named() {
        let wrong = [
            ("POSTROAD_QUEUES", "No"),
            ("POSTROAD_WEBHOOK_ALLOW", "10.0.0.0/99"),
            ("POSTROAD_WEBHOOK_SECRET", "secret"),
            ("POSTROAD_SMS_GATEWAY_URL", "ftp://x"),
        ];
        let text = read(Env::of_map(wrong))
            .err()
            .expect("all are wrong")
            .to_string();
        for (name, _) in wrong {
            assert!(text.contains(&format!("\n  {name} ")), "{name} in {text}");
        }
    }
}
