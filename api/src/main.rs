//! `postroad-api`: reads its configuration, serves, and says how it ended.

use std::process::ExitCode;

use clap::Parser;
use postroad_api::config::Config;
use postroad_common::config::Env;
use postroad_common::program;

/// The HTTP API of Postroad: jobs in, and everything about them out.
///
/// Run as many as you like, behind any load balancer: they share nothing but Postgres, and need no
/// RabbitMQ.
#[derive(Parser)]
#[command(version, after_long_help = HELP)]
struct Args {
    /// Prints the OpenAPI description of what is served, and serves nothing.
    #[arg(long)]
    openapi: bool,
}

const HELP: &str = "\
Configured by environment:
  DATABASE_URL            Postgres 15+ [postgres://postroad:postroad@127.0.0.1:5432/postroad]
  POSTROAD_LISTEN         where to serve [127.0.0.1:8080]
  POSTROAD_WEBHOOK_ALLOW  private networks that webhooks may reach, as CIDR; as the workers have it
                          [none]
  POSTROAD_ADMIN_LISTEN   /healthz, /readyz, /metrics [a free port, logged]
  POSTROAD_GRACE          time to finish after SIGTERM [25s]
  POSTROAD_LOG            log filter [info]
  POSTROAD_LOG_FORMAT     text or json [text]

Examples:
  postroad-api
  POSTROAD_LISTEN=0.0.0.0:8080 DATABASE_URL=postgres://api@db/app postroad-api
  curl -H \"Authorization: Bearer $(postroad tokens create --tenant default --name me)\" \\
       -H 'Content-Type: application/json' -d '{\"kind\":\"echo\"}' http://127.0.0.1:8080/v1/jobs

Exit codes: 0 stopped as asked, 1 failed, 78 the configuration cannot be used.";

fn main() -> ExitCode {
    if Args::parse().openapi {
        print!("{}", postroad_api::openapi_text());
        return ExitCode::SUCCESS;
    }
    program::run(async { postroad_api::run(Config::read(Env::of_process())?).await })
}
