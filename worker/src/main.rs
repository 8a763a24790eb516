//! `postroad-worker`: the built-in kinds, as a program.

use std::process::ExitCode;

use clap::Parser;
use postroad_common::config::{ConfigError, Env};
use postroad_common::program;
use postroad_worker::kinds::echo::Echo;
use postroad_worker::kinds::parse_allow;
use postroad_worker::kinds::sms::{InvalidToken, Sms, SmsConfig};
use postroad_worker::kinds::timeline::Timeline;
use postroad_worker::kinds::webhook::{Webhook, WebhookConfig};
use postroad_worker::{Config, Worker};

/// Runs jobs of the built-in kinds: echo, timeline, webhook, and, where a gateway is
/// configured, sms.
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
  POSTROAD_DESTINATION_MAX    calls at once to one host or gateway, at most; fewer as it answers,
                              0: no limit but the prefetch [1000]
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
            .register(Timeline::new(&config.database)?)
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
        let name = match error.is::<InvalidToken>() {
            true => "POSTROAD_SMS_GATEWAY_TOKEN",
            false => "POSTROAD_SMS_GATEWAY_URL",
        };
        env.problem(name, format_args!("cannot be used: {error:#}"));
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

    #[test]
    fn a_token_that_cannot_be_sent_is_not_blamed_on_the_url() {
        let env = [
            ("POSTROAD_SMS_GATEWAY_URL", "https://sms.example/"),
            ("POSTROAD_SMS_GATEWAY_TOKEN", "se\ncret"),
        ];
        let error = read(Env::of_map(env)).err().expect("it is wrong");
        let text = error.to_string();
        assert!(
            text.contains("\n  POSTROAD_SMS_GATEWAY_TOKEN cannot be used: "),
            "{text}"
        );
        assert!(
            !text.contains("cret") && !text.contains("GATEWAY_URL"),
            "{text}"
        );
    }

    mod fuzz {
        use proptest::prelude::*;

        use super::*;

        const SECRET: &str = "S3CRET";

        const OPEN: [&str; 8] = [
            "POSTROAD_QUEUES",
            "POSTROAD_PREFETCH",
            "POSTROAD_DESTINATION_MAX",
            "POSTROAD_ADMIN_LISTEN",
            "POSTROAD_LEASE",
            "POSTROAD_GRACE",
            "POSTROAD_WEBHOOK_ALLOW",
            "POSTROAD_LOG_FORMAT",
        ];

        const SECRET_ONES: [&str; 5] = [
            "DATABASE_URL",
            "AMQP_URL",
            "POSTROAD_WEBHOOK_SECRET",
            "POSTROAD_SMS_GATEWAY_URL",
            "POSTROAD_SMS_GATEWAY_TOKEN",
        ];

        fn open_text() -> impl Strategy<Value = String> {
            prop_oneof![
                "(?s).{0,30}",
                "[0-9]{1,20}(ms|s|m|h|d)?",
                "[0-9a-f.:/, ]{1,30}",
                "[a-z0-9,. _-]{0,30}",
            ]
        }

        fn secret_text() -> impl Strategy<Value = String> {
            let before = "(postgres|amqp|https?)://[a-z]{0,5}:?[!-~]{0,4}|(https?:)?/{0,2}|whsec_|(?s).{0,6}";
            let after =
                "[!-~]{0,4}@?[a-z0-9.\\[\\]]{0,8}(:[0-9a-z]{0,6})?(/[a-z%]{0,5})?|(?s).{0,6}";
            (before, after).prop_map(|(before, after)| format!("{before}{SECRET}{after}"))
        }

        proptest! {
            // A client for each gateway that is read, and each reads the root certificates.
            #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(2000), ..ProptestConfig::default() })]

            #[test]
            fn any_environment_is_a_configuration_or_a_list_of_its_problems(
                open in proptest::collection::btree_map(prop::sample::select(&OPEN[..]), open_text(), 0..4),
                secret in proptest::collection::btree_map(prop::sample::select(&SECRET_ONES[..]), secret_text(), 0..4),
            ) {
                let all = || open.iter().chain(&secret).map(|(name, value)| (*name, value.as_str()));
                if let Err(error) = read(Env::of_map(all())) {
                    let text = error.to_string();
                    prop_assert!(!text.contains(SECRET), "{text}");
                    for line in text.lines().skip(1) {
                        let is_named = all().any(|(name, _)| line.starts_with(&format!("  {name} ")));
                        prop_assert!(is_named, "{line:?}");
                    }
                }
            }
        }
    }
}
