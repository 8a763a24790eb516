//! `postroad tokens`: who may use the API.

use std::time::Duration;

use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use postroad_common::job::TenantName;
use postroad_common::store::{Changed, NewToken, Store};
use postroad_common::token::{Permission, Token};

use super::tenants::no_tenant;
use super::values::duration;
use crate::ask::Sure;
use crate::exit;
use crate::output::{self, Table, line, moment, moment_or, note};
use crate::setup::Setup;

/// Creates, lists and revokes tokens of the API.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Only a hash of a token is kept: it is shown once, when it is made.

Examples:
  postroad tokens create --tenant acme --name webshop
  postroad tokens list --tenant acme
  postroad tokens revoke 4fK2mZ9a";

/// As long as the longest that `expires_at` may sensibly lie ahead.
const EXPIRES_MAX: Duration = Duration::from_secs(3660 * 24 * 60 * 60);
const NAME_BYTES_MAX: usize = 100;

#[derive(Subcommand)]
enum Command {
    /// Makes a token and prints it, alone on standard output.
    #[command(after_long_help = "\
Without --scope a tenant's token may do everything but set queues and kinds, which all tenants
share; an operator's may do everything, for all tenants.

Examples:
  postroad tokens create --tenant acme --name webshop > webshop.token
  postroad tokens create --tenant acme --name reports --scope jobs:read --scope ledger:read --expires 90d
  postroad tokens create --operator --name on-call --expires 12h")]
    #[command(group = clap::ArgGroup::new("whose").required(true))]
    Create {
        /// For this tenant's jobs.
        #[arg(long, group = "whose")]
        tenant: Option<TenantName>,
        /// For the jobs of all tenants, and for queues and kinds.
        #[arg(long, group = "whose")]
        operator: bool,
        /// What people call it (at most 100 bytes).
        #[arg(long, value_parser = name)]
        name: String,
        /// What it may be used for; may be given several times.
        #[arg(long, value_name = "SCOPE", value_parser = scope())]
        scope: Vec<Permission>,
        /// How long it is good for, such as 90d [default: until it is revoked].
        #[arg(long, value_name = "DURATION", value_parser = expiry)]
        expires: Option<Duration>,
    },
    /// Lists tokens, oldest first, as a table or one JSON object a line.
    #[command(after_long_help = "\
Examples:
  postroad tokens list
  postroad tokens list --operator
  postroad tokens list --json | jq -r 'select(.last_used_at == null) | .id'")]
    List {
        /// Only this tenant's.
        #[arg(long, conflicts_with = "operator")]
        tenant: Option<TenantName>,
        /// Only operators'.
        #[arg(long)]
        operator: bool,
        /// One JSON object a line, with the fields of the API.
        #[arg(long)]
        json: bool,
    },
    /// Ends a token, for good: API processes refuse it within seconds.
    #[command(after_long_help = "\
Examples:
  postroad tokens revoke 4fK2mZ9a
  postroad tokens revoke 4fK2mZ9a --yes        without being asked")]
    Revoke {
        /// Its id: the eight characters after `prk_`. Not the token itself.
        // Checked later: clap would repeat what it was.
        id: String,
        #[command(flatten)]
        sure: Sure,
    },
}

fn name(text: &str) -> Result<String, String> {
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "1 to {NAME_BYTES_MAX} bytes without control characters are expected"
        ))
    }
}

fn scope() -> impl TypedValueParser<Value = Permission> {
    PossibleValuesParser::new(Permission::ALL.map(Permission::as_str))
        .map(|name| Permission::of_name(&name).expect("only names are let through"))
}

fn expiry(text: &str) -> Result<Duration, &'static str> {
    match duration(text)? {
        time if time <= EXPIRES_MAX => Ok(time),
        _ => Err("at most 3660d are expected"),
    }
}

/// Says nothing of what was given: it may be a whole token.
fn id(text: &str) -> Result<String, &'static str> {
    let id = text.strip_prefix("prk_").unwrap_or(text);
    if id.contains('_') {
        return Err(
            "only the id is expected, the eight characters between `prk_` and the next `_`; \
            others on this machine see arguments, so revoke this one",
        );
    }
    if id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        Ok(id.to_owned())
    } else {
        Err("eight letters and digits are expected")
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Create {
            tenant,
            operator: _,
            name,
            scope,
            expires,
        } => {
            let scopes = scopes(scope, tenant.is_some())?;
            let store = Setup::of_process()?.current_store().await?;
            create(&store, tenant.as_ref(), &name, &scopes, expires).await
        }
        Command::List {
            tenant,
            operator,
            json,
        } => {
            let store = Setup::of_process()?.current_store().await?;
            list(&store, tenant.as_ref(), operator, json).await
        }
        Command::Revoke { id, sure } => {
            let id = self::id(&id).map_err(exit::usage)?;
            let store = Setup::of_process()?.current_store().await?;
            revoke(&store, &id, sure).await
        }
    }
}

/// What was asked for; without that, everything that the holder may have.
fn scopes(mut asked: Vec<Permission>, is_tenants: bool) -> anyhow::Result<Vec<Permission>> {
    asked.sort_unstable();
    asked.dedup();
    if let Some(scope) = asked
        .iter()
        .find(|scope| is_tenants && scope.is_for_operators())
    {
        return Err(exit::usage(format_args!(
            "--scope {} is for operators only: queues and kinds are shared by all tenants",
            scope.as_str()
        )));
    }
    if asked.is_empty() {
        asked = Permission::ALL.into();
        asked.retain(|scope| !(is_tenants && scope.is_for_operators()));
    }
    Ok(asked)
}

async fn create(
    store: &Store,
    tenant: Option<&TenantName>,
    name: &str,
    scopes: &[Permission],
    expires_in: Option<Duration>,
) -> anyhow::Result<()> {
    let token = Token::generate();
    let new = NewToken {
        token: &token,
        tenant: tenant.map(TenantName::as_str),
        name,
        scopes,
        expires_in,
    };
    let names: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
    if !store.create_token(&new).await? {
        return Err(tenant.map_or_else(|| anyhow::anyhow!("the token was not kept"), no_tenant));
    }
    let whose = match tenant {
        Some(tenant) => format!("tenant `{tenant}`"),
        None => "operators, for all tenants".to_owned(),
    };
    let until = match expires_in {
        Some(time) => format!("for {}", output::stretch(time.as_secs_f64())),
        None => "until it is revoked".to_owned(),
    };
    note(format_args!(
        "token {} of {whose}, good {until}, for {}\nit is shown this once:",
        token.id(),
        names.join(" ")
    ));
    line(token.expose())
}

/// A token of the tenant `default` for whoever tries Postroad on this machine: good for a day.
pub(crate) async fn for_a_day(store: &Store, name: &str) -> anyhow::Result<String> {
    let token = Token::generate();
    let all = scopes(Vec::new(), true)?;
    let new = NewToken {
        token: &token,
        tenant: Some("default"),
        name,
        scopes: &all,
        expires_in: Some(Duration::from_secs(24 * 60 * 60)),
    };
    store.create_token(&new).await?;
    Ok(token.expose())
}

/// How to use the API at `url` with this token, to be pasted.
pub(crate) fn example(url: &str, token: &str) -> String {
    format!(
        "API: {url}\n  \
         curl -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' \\\n       \
         -d '{{\"kind\":\"echo\",\"args\":{{\"n\":1}}}}' {url}/v1/jobs"
    )
}

async fn list(
    store: &Store,
    tenant: Option<&TenantName>,
    only_operators: bool,
    json: bool,
) -> anyhow::Result<()> {
    let name = tenant.map(TenantName::as_str);
    if let Some(tenant) = tenant
        && store.tenant_of_name(tenant.as_str()).await?.is_none()
    {
        return Err(no_tenant(tenant));
    }
    let tokens = store.tokens(name, only_operators).await?;
    if json {
        return output::json_lines(&tokens);
    }
    let mut table = Table::new([
        "ID",
        "NAME",
        "TENANT",
        "STATE",
        "EXPIRES AT",
        "LAST USED AT",
        "CREATED AT",
        "SCOPES",
    ]);
    for token in &tokens {
        table.row([
            token.id.clone(),
            token.name.clone(),
            token
                .tenant
                .clone()
                .unwrap_or_else(|| "(operator)".to_owned()),
            token.state.clone(),
            moment_or(token.expires_at, "never"),
            moment_or(token.last_used_at, "never"),
            moment(token.created_at),
            token.scopes.join(" "),
        ]);
    }
    output::table(&table)
}

async fn revoke(store: &Store, id: &str, sure: Sure) -> anyhow::Result<()> {
    sure.of(&format!("end token {id} for good"))?;
    match store.revoke_token(id).await? {
        Changed::Done => note(format_args!("token {id} is revoked")),
        Changed::Already => note(format_args!("token {id} was revoked before")),
        Changed::NotThere => {
            return Err(exit::not_found(format_args!("there is no token {id}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_gets_everything_but_what_is_shared() {
        let of_tenant = scopes(Vec::new(), true).unwrap();
        assert_eq!(of_tenant.len(), Permission::ALL.len() - 1);
        assert!(!of_tenant.contains(&Permission::QueuesWrite));
        assert_eq!(scopes(Vec::new(), false).unwrap(), Permission::ALL);
        assert!(scopes(vec![Permission::QueuesWrite], true).is_err());
    }

    #[test]
    fn a_whole_token_is_no_id_and_is_not_repeated() {
        assert_eq!(id("4fK2mZ9a").unwrap(), "4fK2mZ9a");
        assert_eq!(id("prk_4fK2mZ9a").unwrap(), "4fK2mZ9a");
        for bad in ["", "4fK2mZ9", "4fK2mZ9a1", "4fK2mZ9ä"] {
            assert!(id(bad).is_err(), "{bad}");
        }
        assert!(
            id(&Token::generate().expose())
                .unwrap_err()
                .contains("revoke this one")
        );
    }
}
