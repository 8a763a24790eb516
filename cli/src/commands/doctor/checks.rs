//! The checks. Each is a function of the facts; what could not be learnt because something before it
//! fails is said there, once.

use std::fmt::Display;
use std::time::Duration;

use postroad_common::broker::{Diagnosis, Refused};
use postroad_common::store::{KindRow, SchemaState};

use super::Finding;
use super::facts::{Content, Facts, Known, Postgres, meant};
use crate::output::stretch;

/// A check: what it is about, and what it finds.
pub(super) struct Check {
    pub(super) what: &'static str,
    pub(super) look: fn(&Facts) -> Vec<Finding>,
}

const fn check(what: &'static str, look: fn(&Facts) -> Vec<Finding>) -> Check {
    Check { what, look }
}

/// In the order in which one thing needs another.
pub(super) const CHECKS: &[Check] = &[
    check("configuration", configuration),
    check("variables", variables),
    check("Postgres", postgres),
    check("Postgres version", postgres_version),
    check("session settings", session_settings),
    check("schema", schema),
    check("database permissions", database_permissions),
    check("row-level security", row_level_security),
    check("clock", clock),
    check("RabbitMQ", rabbitmq),
    check("RabbitMQ version", rabbitmq_version),
    check("RabbitMQ permissions", rabbitmq_permissions),
    check("topology", topology),
    check("RabbitMQ alarms", alarms),
    check("parked messages", parked),
    check("schedulers", schedulers),
    check("workers", workers),
    check("versions", versions),
    check("queues", queues),
    check("kinds", kinds),
    check("held jobs", held),
    check("dead letters", dead_letters),
    check("timeouts", timeouts),
    check("webhooks", webhooks),
];

/// The database, if it can be asked at all.
fn database(facts: &Facts) -> Option<&Postgres> {
    facts.postgres.as_ref()?.as_ref().ok()
}

/// What is in it, if its schema is ours.
fn content(facts: &Facts) -> Option<&Content> {
    database(facts)?.content.as_ref()
}

fn broker(facts: &Facts) -> Option<&Diagnosis> {
    facts.rabbitmq.as_ref()?.as_ref().ok()
}

/// Judges a fact that this user may not be allowed to know.
fn judge<T>(fact: &Known<T>, judge: impl FnOnce(&T) -> Vec<Finding>) -> Vec<Finding> {
    match fact {
        Ok(fact) => judge(fact),
        Err(error) => vec![Finding::warn(
            format_args!("not known: {error}"),
            "run doctor as an administrator to see it",
        )],
    }
}

fn list(names: impl IntoIterator<Item = impl Display>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| name.to_string()).collect();
    names.join(", ")
}

// === What this process was given ===

fn configuration(facts: &Facts) -> Vec<Finding> {
    let problems = &facts.environment.problems;
    if problems.is_empty() {
        return vec![Finding::ok("every variable can be used")];
    }
    let fail = |problem| {
        Finding::fail(
            problem,
            "correct the variable; every program would exit with 78",
        )
    };
    problems.iter().map(fail).collect()
}

fn variables(facts: &Facts) -> Vec<Finding> {
    let warn = |name: &String| {
        let remedy = match meant(name) {
            Some(known) => format!("did you mean {known}?"),
            None => "remove it".to_owned(),
        };
        Finding::warn(format_args!("{name} means nothing to any program"), remedy)
    };
    facts.environment.unknown.iter().map(warn).collect()
}

// === Postgres ===

fn postgres(facts: &Facts) -> Vec<Finding> {
    match &facts.postgres {
        None => Vec::new(),
        Some(Ok(postgres)) => {
            vec![Finding::ok(format_args!(
                "answers as user {}",
                postgres.server.user
            ))]
        }
        Some(Err(error)) => vec![Finding::fail(
            error,
            "see that it runs, and that DATABASE_URL names it, a database and a user it lets in",
        )],
    }
}

const POSTGRES_MIN: i32 = 15;

fn postgres_version(facts: &Facts) -> Vec<Finding> {
    let Some(Postgres { server, .. }) = database(facts) else {
        return Vec::new();
    };
    let version = &server.version;
    if server.version_number / 10_000 >= POSTGRES_MIN {
        vec![Finding::ok(version)]
    } else {
        vec![Finding::fail(
            version,
            format_args!("Postroad needs {POSTGRES_MIN} or newer"),
        )]
    }
}

/// A connection to which they did not arrive is refused when it opens: then Postgres fails above.
fn session_settings(facts: &Facts) -> Vec<Finding> {
    let Some(Postgres { server, .. }) = database(facts) else {
        return Vec::new();
    };
    let setting = &server.synchronous_commit;
    if setting == "on" {
        vec![Finding::ok("reach Postgres")]
    } else {
        vec![Finding::fail(
            format_args!("synchronous_commit is {setting}: what was committed may be lost"),
            "connect to Postgres itself, or through a pooler that passes `options` on",
        )]
    }
}

fn schema(facts: &Facts) -> Vec<Finding> {
    let Some(postgres) = database(facts) else {
        return Vec::new();
    };
    let newest = postroad_common::store::SCHEMA_VERSION;
    match &postgres.schema {
        Ok(SchemaState::Current) => vec![Finding::ok(format_args!("version {newest}"))],
        Ok(SchemaState::Older(0)) => {
            vec![Finding::fail("is not there", "run `postroad migrate`")]
        }
        Ok(SchemaState::Older(version)) => vec![Finding::fail(
            format_args!("version {version}, and this program needs {newest}"),
            "run `postroad migrate`",
        )],
        Ok(SchemaState::Newer(version)) => vec![Finding::fail(
            format_args!("version {version}, and this program knows {newest}"),
            "install the Postroad that migrated it",
        )],
        Err(error) => vec![Finding::fail(
            format_args!("cannot be read: {error}"),
            "give this user a role of `postroad migrate --roles`",
        )],
    }
}

fn database_permissions(facts: &Facts) -> Vec<Finding> {
    let (Some(postgres), Some(content)) = (database(facts), content(facts)) else {
        return Vec::new();
    };
    let user = &postgres.server.user;
    let (mut may, mut may_not) = (Vec::new(), Vec::new());
    for (program, lacks) in &content.lacks {
        match lacks {
            Ok(lacks) if lacks.is_empty() => may.push((*program).to_owned()),
            Ok(lacks) => may_not.push(format!("{program} (lacks {})", shortened(lacks))),
            Err(error) => may_not.push(format!("{program} (not known: {error})")),
        }
    }
    match content.owns_schema {
        Ok(true) => may.push("migrate".to_owned()),
        _ => may_not.push("migrate (does not own the schema)".to_owned()),
    }
    let text = match may_not.is_empty() {
        true => format!("user {user} may run {}", list(&may)),
        false => format!(
            "user {user} may run {}; not {}",
            or_nothing(&may),
            list(&may_not)
        ),
    };
    match may.is_empty() {
        false => vec![Finding::ok(text)],
        true => vec![Finding::fail(
            text,
            format_args!("grant {user} one of the roles of `postroad migrate --roles`"),
        )],
    }
}

fn or_nothing(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => list(names),
    }
}

/// The first few say what kind of thing is lacking.
fn shortened(lacks: &[String]) -> String {
    match lacks {
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        few => list(few),
    }
}

fn row_level_security(facts: &Facts) -> Vec<Finding> {
    let (Some(postgres), Some(content)) = (database(facts), content(facts)) else {
        return Vec::new();
    };
    const REMEDY: &str = "run `postroad migrate --roles`, and give each program a user of its own";
    judge(&content.row_security, |security| {
        let unbound: Vec<_> = security
            .programs
            .iter()
            .filter(|(program, _, is_bound)| program == "postroad-api" && !is_bound)
            .map(|(_, user, _)| user)
            .collect();
        if !unbound.is_empty() {
            return vec![Finding::warn(
                format_args!("does not bind {}, as whom the api runs", list(unbound)),
                REMEDY,
            )];
        }
        if !security.roles.iter().any(|role| role == "postroad_api") {
            return vec![Finding::warn(
                format_args!(
                    "one user for everything ({}): nothing stands behind the api's own conditions",
                    postgres.server.user
                ),
                REMEDY,
            )];
        }
        vec![Finding::ok("every program has a role of its own")]
    })
}

/// Far below any lease; jobs are due by the database's clock anyway.
const CLOCK_APART_MAX: f64 = 2.0;

fn clock(facts: &Facts) -> Vec<Finding> {
    let Some(postgres) = database(facts) else {
        return Vec::new();
    };
    let (ahead, precision) = (postgres.clock_ahead, postgres.clock_precision);
    let which = if ahead < 0.0 { "behind" } else { "ahead of" };
    let text = format!(
        "this machine is {:.3} s {which} Postgres (± {precision:.3} s)",
        ahead.abs()
    );
    if ahead.abs() - precision <= CLOCK_APART_MAX {
        vec![Finding::ok(text)]
    } else {
        vec![Finding::warn(
            text,
            "set the clocks by NTP: jobs are due by Postgres' clock, but logs, ids and --run-at are this machine's",
        )]
    }
}

// === RabbitMQ ===

fn rabbitmq(facts: &Facts) -> Vec<Finding> {
    match &facts.rabbitmq {
        None => Vec::new(),
        Some(Ok(_)) => vec![Finding::ok("answers, and lets this user into the vhost")],
        Some(Err(error)) => vec![Finding::fail(
            error,
            "see that it runs, and that AMQP_URL names it, a vhost and a user it lets in",
        )],
    }
}

const RABBITMQ_MIN: (u32, u32) = (3, 10);

fn rabbitmq_version(facts: &Facts) -> Vec<Finding> {
    let Some(diagnosis) = broker(facts) else {
        return Vec::new();
    };
    let pages = facts
        .management
        .as_ref()
        .and_then(|pages| pages.as_ref().ok());
    let told = diagnosis.version.as_ref();
    let Some(version) = told.or_else(|| pages.and_then(|pages| pages.version.as_ref())) else {
        return vec![Finding::warn(
            "not known over TLS",
            "set POSTROAD_MANAGEMENT_URL, or see that it is 3.10 or newer",
        )];
    };
    match major_minor(version) {
        Some(number) if number >= RABBITMQ_MIN => vec![Finding::ok(version)],
        Some(_) => vec![Finding::fail(version, "Postroad needs 3.10 or newer")],
        None => vec![Finding::warn(version, "see that it is as good as 3.10")],
    }
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn rabbitmq_permissions(facts: &Facts) -> Vec<Finding> {
    let Some(diagnosis) = broker(facts) else {
        return Vec::new();
    };
    let refused = &diagnosis.refused;
    let (mut may, mut may_not) = (Vec::new(), Vec::new());
    let all = [
        (Refused::Configure, "create queues (migrate)"),
        (Refused::Write, "publish jobs (scheduler)"),
        (Refused::Read, "consume jobs (worker)"),
    ];
    for (permission, what) in all {
        match refused.contains(&permission) {
            true => may_not.push(what.to_owned()),
            false => may.push(what.to_owned()),
        }
    }
    if may.is_empty() {
        return vec![Finding::fail(
            "this user may do nothing",
            "set its permissions, as docs/OPERATIONS.md lists them and `postroad migrate --broker-users` does",
        )];
    }
    let text = format!("this user may {}", list(&may));
    match may_not.is_empty() {
        true => vec![Finding::ok(text)],
        false => vec![Finding::ok(format_args!("{text}; not {}", list(&may_not)))],
    }
}

fn topology(facts: &Facts) -> Vec<Finding> {
    let Some(diagnosis) = broker(facts) else {
        return Vec::new();
    };
    match diagnosis.missing.is_empty() {
        true => vec![Finding::ok("every exchange and queue is there")],
        false => vec![Finding::fail(
            format_args!("{} not there", list(&diagnosis.missing)),
            "run `postroad migrate`, or start a scheduler that may create queues",
        )],
    }
}

fn alarms(facts: &Facts) -> Vec<Finding> {
    match &facts.management {
        None => vec![Finding::ok("not known without POSTROAD_MANAGEMENT_URL")],
        Some(Err(error)) => vec![Finding::warn(
            format_args!("not known: {error}"),
            "see that POSTROAD_MANAGEMENT_URL names RabbitMQ's pages and a user with the tag `monitoring`",
        )],
        Some(Ok(pages)) if pages.alarms.is_empty() => vec![Finding::ok("none")],
        Some(Ok(pages)) => vec![Finding::fail(
            list(&pages.alarms),
            "make room: RabbitMQ takes no message until then",
        )],
    }
}

fn parked(facts: &Facts) -> Vec<Finding> {
    let Some(depth) = broker(facts).and_then(|diagnosis| diagnosis.parked) else {
        return Vec::new();
    };
    match depth.ready {
        0 => vec![Finding::ok("none")],
        n => vec![Finding::warn(
            format_args!("{n} messages that nobody can read wait in postroad.parked"),
            "look at their header x-postroad-reason on RabbitMQ's pages, and find out who publishes them",
        )],
    }
}

// === Programs ===

fn schedulers(facts: &Facts) -> Vec<Finding> {
    let remedy = "start postroad-scheduler: nothing is dispatched, retried or rescued";
    running(facts, "scheduler", Finding::fail("none runs", remedy))
}

/// Jobs wait until there is one, and are late, and no more than that.
fn workers(facts: &Facts) -> Vec<Finding> {
    let remedy = "start postroad-worker: no job runs";
    running(facts, "worker", Finding::warn("none runs", remedy))
}

fn running(facts: &Facts, role: &str, none: Finding) -> Vec<Finding> {
    let Some(content) = content(facts) else {
        return Vec::new();
    };
    judge(&content.processes, |processes| {
        let count = |state: &str| {
            let is_meant =
                |one: &&postroad_common::store::ProcessRow| one.role == role && one.state == state;
            processes.iter().filter(is_meant).count()
        };
        let (running, silent) = (count("running"), count("silent"));
        let mut findings = match running {
            0 => vec![none],
            n => vec![Finding::ok(format_args!("{n} running"))],
        };
        if silent > 0 {
            findings.push(Finding::warn(
                format_args!("{silent} silent for longer than the lease"),
                "a scheduler calls them lost soon: `postroad workers list`",
            ));
        }
        findings
    })
}

fn versions(facts: &Facts) -> Vec<Finding> {
    let Some(content) = content(facts) else {
        return Vec::new();
    };
    let Ok(processes) = &content.processes else {
        return Vec::new();
    };
    let mut versions: Vec<_> = processes
        .iter()
        .filter(|one| one.state == "running")
        .map(|one| one.version.as_str())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    match versions[..] {
        [] => Vec::new(),
        [one] if one == env!("CARGO_PKG_VERSION") => vec![Finding::ok(one)],
        _ => vec![Finding::warn(
            format_args!(
                "{} run beside this {}",
                list(&versions),
                env!("CARGO_PKG_VERSION")
            ),
            "finish the upgrade",
        )],
    }
}

// === Jobs ===

fn queues(facts: &Facts) -> Vec<Finding> {
    let Some(content) = content(facts) else {
        return Vec::new();
    };
    let mut findings = judge(&content.unserved, |unserved| {
        let warn = |queue: &postroad_common::store::Unserved| {
            Finding::warn(
                format_args!(
                    "no worker consumes {}, where a job has been due for {}",
                    queue.queue,
                    stretch(queue.oldest_due_seconds)
                ),
                format_args!("start a worker with {} in POSTROAD_QUEUES", queue.queue),
            )
        };
        unserved.iter().map(warn).collect()
    });
    if let Ok(queues) = &content.queues {
        let paused = queues
            .iter()
            .filter(|queue| queue.paused_at.is_some() && queue.due > 0);
        findings.extend(paused.map(|queue| {
            Finding::warn(
                format_args!("{} is paused, with {} jobs due", queue.name, queue.due),
                format_args!("postroad queues resume {}", queue.name),
            )
        }));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("somebody serves every queue with due jobs"));
    }
    findings
}

fn kinds(facts: &Facts) -> Vec<Finding> {
    let Some(content) = content(facts) else {
        return Vec::new();
    };
    judge(&content.unregistered, |kinds| match kinds.is_empty() {
        true => vec![Finding::ok(
            "a worker has registered every kind of which there are jobs",
        )],
        false => vec![Finding::warn(
            format_args!(
                "there are jobs of {}, which no worker ever registered",
                list(kinds)
            ),
            "deploy a worker that runs them, or correct the name",
        )],
    })
}

fn held(facts: &Facts) -> Vec<Finding> {
    let Some(content) = content(facts) else {
        return Vec::new();
    };
    judge(&content.queues, |queues| {
        match queues.iter().map(|queue| queue.held).sum() {
            0 => vec![Finding::ok("none")],
            held => vec![Finding::warn(
                format_args!("{held} jobs may or may not have taken effect"),
                "postroad jobs list --state held, then postroad jobs resolve",
            )],
        }
    })
}

/// Letters that schedulers had no time for yet are no finding.
const LETTERS_MAX: u32 = 1000;

fn dead_letters(facts: &Facts) -> Vec<Finding> {
    let mut findings = match content(facts) {
        None => Vec::new(),
        Some(content) => judge(&content.totals, |totals| match totals.dead {
            dead if dead <= 0 => vec![Finding::ok("no job is dead")],
            dead => vec![Finding::warn(
                format_args!("{dead} jobs are dead"),
                "postroad dead-letters list says why; postroad dead-letters redrive tries them again",
            )],
        }),
    };
    let waiting = broker(facts).and_then(|diagnosis| diagnosis.dead);
    if let Some(depth) = waiting {
        if depth.consumers == 0 && depth.ready > 0 {
            findings.push(Finding::warn(
                format_args!(
                    "{} failures wait in postroad.dead, and nobody takes them",
                    depth.ready
                ),
                "start a scheduler that reaches RabbitMQ",
            ));
        } else if depth.ready > LETTERS_MAX {
            findings.push(Finding::warn(
                format_args!("{} failures wait in postroad.dead", depth.ready),
                "schedulers are behind: look at their logs",
            ));
        }
    }
    findings
}

// === Settings that do not go together ===

/// A statement may take so long before it is given up.
const CALL_MAX: Duration = Duration::from_secs(10);
/// RabbitMQ's own, where no policy says otherwise.
const CONSUMER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30 * 60);

fn timeouts(facts: &Facts) -> Vec<Finding> {
    let environment = &facts.environment;
    let (lease, grace) = (environment.lease, environment.grace);
    let mut findings = Vec::new();
    if lease < 2 * CALL_MAX {
        findings.push(Finding::warn(
            format_args!(
                "POSTROAD_LEASE is {}: one slow statement ({} at most) stops a process from acting",
                seconds(lease),
                seconds(CALL_MAX)
            ),
            "set 20s or more",
        ));
    }
    let longest_ttl = content(facts).and_then(|content| {
        let ttls = content
            .queues
            .iter()
            .flatten()
            .map(|queue| queue.pipe_ttl_seconds);
        ttls.max_by(f64::total_cmp)
    });
    let short = content(facts).map(|content| {
        let queues = content.queues.iter().flatten();
        let is_short = |ttl: f64, than: Duration| ttl < than.as_secs_f64();
        queues
            .filter(|queue| is_short(queue.pipe_ttl_seconds, lease))
            .map(|queue| queue.name.clone())
            .collect::<Vec<_>>()
    });
    if let Some(short) = short.filter(|short| !short.is_empty()) {
        findings.push(Finding::warn(
            format_args!(
                "the pipe ttl of {} is shorter than the lease ({})",
                list(&short),
                seconds(lease)
            ),
            "postroad queues set QUEUE --pipe-ttl: else jobs in a silent worker's hands are sent again before it is called lost",
        ));
    }
    let pages = facts
        .management
        .as_ref()
        .and_then(|pages| pages.as_ref().ok());
    let told = pages
        .and_then(|pages| pages.consumer_timeout_ms)
        .map(Duration::from_millis);
    let consumer_timeout = told.unwrap_or(CONSUMER_TIMEOUT_DEFAULT);
    if grace >= consumer_timeout {
        findings.push(Finding::warn(
            format_args!(
                "POSTROAD_GRACE ({}) is longer than RabbitMQ's consumer timeout ({})",
                seconds(grace),
                seconds(consumer_timeout)
            ),
            "RabbitMQ takes deliveries from a draining worker before it is done: shorten one, or lengthen the other",
        ));
    }
    if longest_ttl.is_some_and(|ttl| ttl >= consumer_timeout.as_secs_f64()) {
        findings.push(Finding::warn(
            format_args!(
                "a pipe ttl ({}) is longer than RabbitMQ's consumer timeout ({})",
                stretch(longest_ttl.unwrap_or_default()),
                seconds(consumer_timeout)
            ),
            "RabbitMQ closes the channel of a worker that holds a delivery for so long: shorten the ttl, or lengthen the timeout by a policy",
        ));
    }
    let slow = slow_kinds(facts, consumer_timeout);
    if !slow.is_empty() {
        findings.push(Finding::warn(
            format_args!(
                "the timeout of {} is not below RabbitMQ's consumer timeout ({})",
                list(&slow),
                seconds(consumer_timeout)
            ),
            "RabbitMQ closes the channel of a worker whose job takes so long, and all its deliveries are made again: shorten the one, or lengthen the other by a policy",
        ));
    }
    if grace > 4 * lease {
        findings.push(Finding::warn(
            format_args!(
                "POSTROAD_GRACE ({}) is more than four leases ({})",
                seconds(grace),
                seconds(lease)
            ),
            "a worker that hangs while it stops holds its jobs so long: see that jobs need it",
        ));
    }
    if findings.is_empty() {
        let known = if told.is_some() {
            ""
        } else {
            ", by its default"
        };
        findings.push(Finding::ok(format_args!(
            "lease {}, grace {}, RabbitMQ's consumer timeout {}{known}",
            seconds(lease),
            seconds(grace),
            seconds(consumer_timeout)
        )));
    }
    findings
}

/// The kinds whose attempts may take as long as `most`.
fn slow_kinds(facts: &Facts, most: Duration) -> Vec<String> {
    let is_slow = |kind: &&KindRow| kind.timeout_seconds >= Some(most.as_secs_f64());
    let kinds = content(facts)
        .into_iter()
        .flat_map(|content| content.kinds.iter().flatten());
    kinds
        .filter(is_slow)
        .map(|kind| kind.name.clone())
        .collect()
}

fn seconds(time: Duration) -> String {
    stretch(time.as_secs_f64())
}

fn webhooks(facts: &Facts) -> Vec<Finding> {
    let allowed = &facts.environment.webhook_allow;
    match allowed.is_empty() {
        true => vec![Finding::ok("reach public addresses only")],
        false => vec![Finding::warn(
            format_args!("may reach {} although these are private", list(allowed)),
            "whoever enqueues reaches what is there: leave POSTROAD_WEBHOOK_ALLOW empty where you can",
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::facts::{Environment, Pages};
    use super::*;

    fn facts() -> Facts {
        Facts {
            environment: Environment {
                problems: Vec::new(),
                unknown: Vec::new(),
                lease: Duration::from_secs(30),
                grace: Duration::from_secs(25),
                webhook_allow: Vec::new(),
            },
            postgres: None,
            rabbitmq: None,
            management: None,
        }
    }

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn every_check_has_a_name_of_its_own_and_takes_a_world_where_nothing_is_known() {
        let mut names: Vec<_> = CHECKS.iter().map(|check| check.what).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for check in CHECKS {
            let worst = levels(&(check.look)(&facts())).into_iter().max();
            assert!(worst <= Some(Level::Ok), "{}", check.what);
        }
    }

    #[test]
    fn what_is_not_ok_says_what_to_do() {
        let mut facts = facts();
        facts
            .environment
            .problems
            .push("AMQP_URL is wrong".to_owned());
        facts.environment.unknown.push("POSTROAD_LEESE".to_owned());
        facts
            .environment
            .webhook_allow
            .push("10.0.0.0/8".to_owned());
        facts.environment.lease = Duration::from_secs(2);
        facts.environment.grace = Duration::from_secs(3600);
        facts.postgres = Some(Err("connecting to Postgres: refused".to_owned()));
        facts.rabbitmq = Some(Ok(Diagnosis {
            version: Some("3.9.1".to_owned()),
            missing: vec!["postroad.dead".to_owned()],
            refused: vec![Refused::Configure, Refused::Write, Refused::Read],
            parked: Some(postroad_common::broker::Depth {
                ready: 3,
                consumers: 0,
            }),
            dead: Some(postroad_common::broker::Depth {
                ready: 1,
                consumers: 0,
            }),
        }));
        facts.management = Some(Ok(Pages {
            alarms: vec!["rabbit@a is short of memory".to_owned()],
            consumer_timeout_ms: Some(10_000),
            version: None,
        }));
        let found: Vec<_> = CHECKS
            .iter()
            .flat_map(|check| (check.look)(&facts))
            .collect();
        let bad: Vec<_> = found.iter().filter(|one| one.level != Level::Ok).collect();
        assert!(bad.len() >= 12, "{bad:#?}");
        for finding in bad {
            assert!(!finding.remedy.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(major_minor("3.10.8"), Some((3, 10)));
        assert!(major_minor("3.9.29") < Some(RABBITMQ_MIN));
        assert!(major_minor("4.0.0-rc.1") > Some(RABBITMQ_MIN));
        assert_eq!(major_minor("unknown"), None);
    }
}
