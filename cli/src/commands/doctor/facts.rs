//! What the environment and the servers say, gathered once. What could not be learnt is a fact, too.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use postroad_common::broker::{self, Broker, Diagnosis};
use postroad_common::config::{ConfigError, Env};
use postroad_common::membership::{LEASE_DEFAULT, LEASE_MAX, LEASE_MIN, host_name};
use postroad_common::shutdown::GRACE_DEFAULT;
use postroad_common::store::{
    self, KindRow, ProcessRow, QueueRow, RowSecurity, SchemaState, Server, Store, Totals, Unserved,
};
use postroad_common::telemetry::LogConfig;
use serde_json::Value;

use super::needs::PROGRAMS;
use crate::management::{self, Management};

/// A fact, or why it is not known.
pub(super) type Known<T> = Result<T, String>;

/// Everything that is judged.
pub(super) struct Facts {
    pub(super) environment: Environment,
    /// None: the configuration does not say where it is.
    pub(super) postgres: Option<Known<Postgres>>,
    pub(super) rabbitmq: Option<Known<Diagnosis>>,
    /// None: nobody said where RabbitMQ's pages are.
    pub(super) management: Option<Known<Pages>>,
}

/// What this process was given.
#[derive(Clone, Debug)]
pub(super) struct Environment {
    /// Variables that cannot be used, and why.
    pub(super) problems: Vec<String>,
    /// Variables that look like ours and mean nothing.
    pub(super) unknown: Vec<String>,
    pub(super) lease: Duration,
    pub(super) grace: Duration,
    pub(super) webhook_allow: Vec<String>,
}

/// The database.
pub(super) struct Postgres {
    pub(super) server: Server,
    /// Seconds that this machine's clock is ahead of the database's, and how exactly that is known.
    pub(super) clock_ahead: f64,
    pub(super) clock_precision: f64,
    pub(super) schema: Known<SchemaState>,
    /// Only where the schema is this program's.
    pub(super) content: Option<Content>,
}

/// What is in the database.
pub(super) struct Content {
    pub(super) owns_schema: Known<bool>,
    /// Programs, and what they would lack under this user.
    pub(super) lacks: Vec<(&'static str, Known<Vec<String>>)>,
    pub(super) row_security: Known<RowSecurity>,
    pub(super) queues: Known<Vec<QueueRow>>,
    pub(super) processes: Known<Vec<ProcessRow>>,
    pub(super) unserved: Known<Vec<Unserved>>,
    pub(super) unregistered: Known<Vec<String>>,
    pub(super) kinds: Known<Vec<KindRow>>,
    pub(super) totals: Known<Totals>,
}

/// What only RabbitMQ's pages say.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    pub(super) version: Option<String>,
    /// Nodes that are short of something.
    pub(super) alarms: Vec<String>,
    /// The shortest `consumer-timeout` that a policy of this vhost sets, in milliseconds.
    pub(super) consumer_timeout_ms: Option<u64>,
}

/// A queue that nobody serves is worth a word after this.
const UNSERVED_AFTER: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(60 * 60);

impl Facts {
    pub(super) async fn gather() -> Self {
        let mut env = Env::of_process();
        let database = store::Settings::read(&mut env, "postroad-doctor", 2);
        let amqp = broker::Settings::read(&mut env);
        let pages = env.text(management::VARIABLE).map(str::to_owned);
        let vhost = amqp.vhost().to_owned();
        let environment = Environment::read(env);
        let is_good = |name: &str| {
            let is_about = |problem: &String| problem.starts_with(name);
            !environment.problems.iter().any(is_about)
        };
        let postgres = match is_good("DATABASE_URL") {
            true => Some(postgres(database).await),
            false => None,
        };
        let queues = match &postgres {
            Some(Ok(Postgres {
                content: Some(content),
                ..
            })) => names(&content.queues),
            _ => Vec::new(),
        };
        let rabbitmq = match is_good("AMQP_URL") {
            true => Some(rabbitmq(amqp, &queues).await),
            false => None,
        };
        let management = match pages {
            Some(url) => Some(pages_of(&url, &vhost).await),
            None => None,
        };
        Self {
            environment,
            postgres,
            rabbitmq,
            management,
        }
    }
}

fn names(queues: &Known<Vec<QueueRow>>) -> Vec<String> {
    let name = |queue: &QueueRow| queue.name.clone();
    queues.iter().flatten().map(name).collect()
}

/// The variables of all programs, and those of `docker-compose.yml`; a test compares.
const VARIABLES: [&str; 22] = [
    "POSTROAD_QUEUES",
    "POSTROAD_PREFETCH",
    "POSTROAD_DESTINATION_MAX",
    "POSTROAD_LISTEN",
    "POSTROAD_WEBHOOK_SECRET",
    "POSTROAD_WEBHOOK_ALLOW",
    "POSTROAD_SMS_GATEWAY_URL",
    "POSTROAD_SMS_GATEWAY_TOKEN",
    "POSTROAD_ADMIN_LISTEN",
    "POSTROAD_LEASE",
    "POSTROAD_GRACE",
    "POSTROAD_RETENTION",
    "POSTROAD_BUNDLE",
    "POSTROAD_SHARED_PIPE",
    "POSTROAD_LOG",
    "POSTROAD_LOG_FORMAT",
    "POSTROAD_MANAGEMENT_URL",
    "POSTROAD_RABBITMQ_ADMIN_PORT",
    "POSTROAD_API_PORT",
    "POSTROAD_DEMO_RECIPIENTS",
    "POSTROAD_GRAFANA_PORT",
    "POSTROAD_PROMETHEUS_PORT",
];

impl Environment {
    /// Reads what all programs read the same way. What is one program's own, that program checks
    /// when it starts.
    fn read(mut env: Env) -> Self {
        LogConfig::read(&mut env, "warn");
        let lease = env.duration("POSTROAD_LEASE", LEASE_DEFAULT, LEASE_MIN, LEASE_MAX);
        let grace = env.duration("POSTROAD_GRACE", GRACE_DEFAULT, Duration::ZERO, HOUR);
        env.number("POSTROAD_PREFETCH", 100, 1, 2000);
        env.number("POSTROAD_DESTINATION_MAX", 1000, 0, 2000);
        let allow = env.text("POSTROAD_WEBHOOK_ALLOW").unwrap_or_default();
        let networks = allow
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty());
        let webhook_allow = networks.map(str::to_owned).collect();
        let unknown = env
            .names()
            .filter(|name| is_unknown(name))
            .map(str::to_owned)
            .collect();
        let problems = match env.finish() {
            Ok(()) => Vec::new(),
            // A line that says what follows, and one per problem.
            Err(error) => error
                .to_string()
                .lines()
                .skip(1)
                .map(|line| line.trim().to_owned())
                .collect(),
        };
        Self {
            problems,
            unknown,
            lease,
            grace,
            webhook_allow,
        }
    }
}

fn is_unknown(name: &str) -> bool {
    name.starts_with("POSTROAD_")
        && !VARIABLES.contains(&name)
        // Where tests make a program die.
        && !name.starts_with("POSTROAD_FAILPOINT")
        && !name.starts_with("POSTROAD_TEST")
}

/// The variable that was probably meant.
pub(super) fn meant(unknown: &str) -> Option<&'static str> {
    let nearest = VARIABLES
        .iter()
        .min_by_key(|known| distance(unknown, known))?;
    (distance(unknown, nearest) <= 3).then_some(*nearest)
}

/// Letters to be added, taken away or replaced.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (n, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = n + 1;
        for (m, opposite) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *opposite);
            diagonal = row[m + 1];
            row[m + 1] = replaced.min(diagonal + 1).min(row[m] + 1);
        }
    }
    row[other.len()]
}

async fn postgres(settings: store::Settings) -> Known<Postgres> {
    let store = Store::new(settings).map_err(|error| error.to_string())?;
    let told = |error: store::Error| match error.as_config_error() {
        Some(wrong) => wrong.to_string().lines().skip(1).map(str::trim).collect(),
        None => error.to_string(),
    };
    // The first call opens the connection; only the second tells the time.
    store.ping().await.map_err(told)?;
    let (before, asked) = (Timestamp::now(), Instant::now());
    let server = store.server().await.map_err(told)?;
    let took = asked.elapsed().as_secs_f64();
    let here = before.as_microsecond() as f64 / 1e6 + took / 2.0;
    let schema = store
        .schema_state()
        .await
        .map_err(|error| error.to_string());
    let content = match schema {
        Ok(SchemaState::Current) => Some(content(&store).await),
        _ => None,
    };
    Ok(Postgres {
        clock_ahead: here - server.clock_micros as f64 / 1e6,
        clock_precision: took / 2.0,
        server,
        schema,
        content,
    })
}

async fn content(store: &Store) -> Content {
    let mut lacks = Vec::new();
    for program in PROGRAMS {
        lacks.push((program.name, known(store.lacks(program.needs)).await));
    }
    Content {
        owns_schema: known(store.owns_schema()).await,
        lacks,
        row_security: known(store.row_security()).await,
        queues: known(store.queues(None)).await,
        processes: known(store.processes(false, None)).await,
        unserved: known(store.unserved_queues(UNSERVED_AFTER)).await,
        unregistered: known(store.unregistered_kinds()).await,
        kinds: known(store.kinds(None)).await,
        totals: known(store.totals()).await,
    }
}

async fn known<T>(asked: impl Future<Output = Result<T, store::Error>>) -> Known<T> {
    asked.await.map_err(|error| error.to_string())
}

async fn rabbitmq(settings: broker::Settings, queues: &[String]) -> Known<Diagnosis> {
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("postroad/{version} {}:{}", host_name(), std::process::id());
    let diagnosis = Broker::new(settings, name).diagnose(queues).await;
    diagnosis.map_err(|error| match error.as_config_error() {
        Some(wrong) => wrong.to_string().lines().skip(1).map(str::trim).collect(),
        None => error.to_string(),
    })
}

async fn pages_of(url: &str, vhost: &str) -> Known<Pages> {
    let api = Management::of_url(url).map_err(told)?;
    let get = async |path: &[&str]| match api.get(path).await {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(format!("RabbitMQ's pages have no {}", path.join("/"))),
        Err(error) => Err(told(error)),
    };
    let overview = get(&["overview"]).await?;
    let nodes = get(&["nodes"]).await?;
    let policies = get(&["policies", vhost]).await?;
    Ok(Pages {
        version: overview["rabbitmq_version"].as_str().map(str::to_owned),
        alarms: alarms(&nodes),
        consumer_timeout_ms: consumer_timeout(&policies),
    })
}

/// Why a call failed; of what is wrong with the configuration, only that.
fn told(error: anyhow::Error) -> String {
    match error.downcast_ref::<ConfigError>() {
        Some(wrong) => wrong.to_string().lines().skip(1).map(str::trim).collect(),
        None => format!("{error:#}"),
    }
}

fn alarms(nodes: &Value) -> Vec<String> {
    let mut alarms = Vec::new();
    for node in nodes.as_array().into_iter().flatten() {
        let name = node["name"].as_str().unwrap_or("a node");
        for (field, what) in [("mem_alarm", "memory"), ("disk_free_alarm", "disk space")] {
            if node[field] == Value::Bool(true) {
                alarms.push(format!("{name} is short of {what}"));
            }
        }
        if node["running"] == Value::Bool(false) {
            alarms.push(format!("{name} does not run"));
        }
    }
    alarms
}

fn consumer_timeout(policies: &Value) -> Option<u64> {
    let policies = policies.as_array().into_iter().flatten();
    policies
        .filter_map(|policy| policy["definition"]["consumer-timeout"].as_u64())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_typing_error_finds_what_was_meant() {
        assert_eq!(meant("POSTROAD_PREFECTH"), Some("POSTROAD_PREFETCH"));
        assert_eq!(meant("POSTROAD_LEASES"), Some("POSTROAD_LEASE"));
        assert_eq!(meant("POSTROAD_SOMETHING_ELSE"), None);
    }

    #[test]
    fn every_variable_of_a_program_is_known() {
        let sources = [
            include_str!("../../../../api/src/config.rs"),
            include_str!("../../../../scheduler/src/config.rs"),
            include_str!("../../../../worker/src/config.rs"),
            include_str!("../../../../.env.sample"),
            include_str!("../../../../docker-compose.yml"),
        ];
        let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
        for source in sources {
            for (at, _) in source.match_indices("POSTROAD_") {
                let rest = &source[at..];
                let name = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
                assert!(VARIABLES.contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn alarms_and_timeouts_are_read_off_the_pages() {
        let nodes = json!([
            {"name": "rabbit@a", "running": true, "mem_alarm": true, "disk_free_alarm": false},
            {"name": "rabbit@b", "running": false},
        ]);
        assert_eq!(
            alarms(&nodes),
            ["rabbit@a is short of memory", "rabbit@b does not run"]
        );
        assert_eq!(alarms(&json!({"error": "x"})), [""; 0]);
        let policies = json!([
            {"definition": {"consumer-timeout": 60_000}},
            {"definition": {"max-length": 5}},
            {"definition": {"consumer-timeout": 30_000}},
        ]);
        assert_eq!(consumer_timeout(&policies), Some(30_000));
    }
}
