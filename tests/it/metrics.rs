//! What programs serve at `/metrics` is what docs/METRICS.md says, and what deploy/ asks for.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use postroad_common::token::Permission;
use postroad_tests::harness::cluster::{Cluster, Program, eventually, many_sms};
use serde_json::json;

const METRICS: &str = include_str!("../../docs/METRICS.md");
const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");
const RULES: &str = include_str!("../../deploy/prometheus/rules.yml");
const RULES_TEST: &str = include_str!("../../deploy/prometheus/rules.test.yml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/dashboards/postroad.json");
const SCALED_OBJECT: &str = include_str!("../../deploy/kubernetes/operators/scaledobject.yaml");

/// A section of the page, and the files that name its metrics.
const SECTIONS: [(&str, &[&str]); 4] = [
    (
        "Every program",
        &[
            include_str!("../../common/src/health.rs"),
            include_str!("../../common/src/service.rs"),
            include_str!("../../common/src/changes.rs"),
            include_str!("../../common/src/cached.rs"),
        ],
    ),
    (
        "postroad-scheduler",
        &[include_str!("../../scheduler/src/metrics.rs")],
    ),
    (
        "postroad-worker",
        &[include_str!("../../worker/src/metrics.rs")],
    ),
    ("postroad-api", &[include_str!("../../api/src/metrics.rs")]),
];

/// Type and labels.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// What the page says under a heading.
fn documented(heading: &str) -> Metrics {
    let (_, section) = METRICS
        .split_once(&format!("## {heading}\n"))
        .unwrap_or_else(|| panic!("no heading {heading}"));
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let labels = cells[4].split('`').skip(1).step_by(2);
        let name = cells[1].trim_matches('`').to_owned();
        (
            name,
            (cells[2].to_owned(), labels.map(str::to_owned).collect()),
        )
    })
    .collect()
}

fn all_documented() -> BTreeSet<String> {
    let sections = SECTIONS.iter().map(|(heading, _)| documented(heading));
    sections.flat_map(BTreeMap::into_keys).collect()
}

/// What a program serves.
fn served(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in text.lines() {
        if let Some(what) = line.strip_prefix("# TYPE ") {
            let (name, kind) = what.split_once(' ').unwrap();
            metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            continue;
        }
        let Some((name, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let name = if metrics.contains_key(name) {
            name
        } else {
            family(name)
        };
        let (_, names) = metrics.get_mut(name).expect("a type comes first");
        names.extend(label_names(labels));
    }
    metrics
}

/// Of `queue="sms",state="due"} 1`; the values of labels here have no quotes in them.
fn label_names(labels: &str) -> impl Iterator<Item = String> {
    let names = labels.split('"').step_by(2);
    names
        .filter_map(|before| before.trim_start_matches(',').strip_suffix('='))
        .filter(|name| *name != "le")
        .map(str::to_owned)
}

/// The histogram that a series belongs to.
fn family(series: &str) -> &str {
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| series.strip_suffix(suffix))
        .unwrap_or(series)
}

/// Words that look like the name of one of our metrics.
fn mentioned(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'))
        .filter(|word| word.starts_with("postroad_") || word.starts_with("http_"))
        .collect()
}

#[test]
fn the_page_names_the_metrics_that_are_in_the_code() {
    for (heading, sources) in SECTIONS {
        let code: BTreeSet<_> = sources
            .iter()
            .flat_map(|source| source.split('"').skip(1).step_by(2).flat_map(mentioned))
            .map(str::to_owned)
            .collect();
        let page: BTreeSet<_> = documented(heading).into_keys().collect();
        assert_eq!(page, code, "{heading}");
    }
}

#[test]
fn alerts_dashboard_and_scaler_ask_only_for_metrics_that_exist() {
    let known = all_documented();
    for text in [RULES, RULES_TEST, DASHBOARD, SCALED_OBJECT] {
        let asked = mentioned(text);
        assert!(!asked.is_empty());
        for name in asked {
            assert!(
                known.contains(name) || known.contains(family(name)),
                "{name} is nowhere"
            );
        }
    }
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let asked = mentioned(DASHBOARD);
    for name in all_documented() {
        assert!(
            asked.iter().any(|one| *one == name || family(one) == name),
            "{name} is on no panel"
        );
    }
}

#[test]
fn every_alert_has_a_test_and_a_runbook() {
    let alerts = RULES
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let mut count = 0;
    for alert in alerts {
        count += 1;
        assert!(
            OPERATIONS.contains(&format!("\n### {alert}\n")),
            "{alert} has no section"
        );
        let anchor = format!("OPERATIONS.md#{}\n", alert.to_lowercase());
        assert!(RULES.contains(&anchor), "{alert} does not point to it");
        let test = format!("alertname: {alert}\n        exp_alerts:");
        assert!(RULES_TEST.contains(&test), "{alert} has no test");
    }
    assert!(count > 0);
}

#[tokio::test]
async fn programs_serve_what_the_page_says() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let id = cluster.start(Program::api()).await?;
    let api = cluster.client(id, Some("acme"), &Permission::ALL).await?;
    cluster.enqueue(&many_sms(5)).await?;
    api.post("/v1/jobs", &json!({"kind": "echo"})).await?;
    api.post("/v1/jobs", &json!({"kind": 1})).await?;
    cluster.wait_for("completed", 6).await?;

    let everywhere = documented("Every program");
    for (program, id) in [
        ("postroad-scheduler", cluster.scheduler(0)),
        ("postroad-worker", cluster.worker(0)),
        ("postroad-api", id),
    ] {
        let served = served(&cluster.metrics(id).await?);
        let mut page = documented(program);
        page.extend(everywhere.clone());
        ensure!(served.contains_key("postroad_build_info"), "{program}");
        for (name, (kind, labels)) in served {
            let Some((its_kind, its_labels)) = page.get(&name) else {
                anyhow::bail!("{program} serves {name}, of which the page says nothing");
            };
            ensure!(*its_kind == kind, "{name} is a {kind}");
            ensure!(
                *its_labels == labels,
                "{name} has {labels:?}, not {its_labels:?}"
            );
        }
    }
    let worker = cluster.metrics(cluster.worker(0)).await?;
    assert!(
        worker.contains("postroad_job_lateness_seconds_count 6\n"),
        "{worker}"
    );
    cluster.finish().await
}

#[tokio::test]
async fn a_scheduler_shows_how_much_is_where() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let scheduler = cluster.scheduler(0);
    let shows = async |cluster: &Cluster, lines: &[&str]| {
        eventually(format_args!("it shows {lines:?}"), async || {
            let text = cluster.metrics(scheduler).await?;
            for line in lines {
                ensure!(text.contains(&format!("\n{line}\n")), "{line} in {text}");
            }
            Ok(())
        })
        .await
    };
    let pause = "update postroad.queue set paused_at = now() where name = 'default'";
    cluster.query(pause, &[]).await?;
    let sql =
        "select postroad.enqueue('echo', run_at => now() - interval '2 minutes' * n, priority => n)
        from generate_series(0, 2) n
        union all select postroad.enqueue('echo', run_at => now() + interval '1 day')";
    cluster.query(sql, &[]).await?;
    // As if they had been there when they became due.
    let sql = "update postroad.job set created_at = run_at where run_at < now()";
    cluster.query(sql, &[]).await?;

    shows(
        &cluster,
        &[
            r#"postroad_jobs{queue="default",state="due"} 3"#,
            r#"postroad_jobs{queue="default",state="dispatched"} 0"#,
            r#"postroad_queue_paused{queue="default"} 1"#,
            r#"postroad_processes{role="scheduler"} 1"#,
            r#"postroad_processes{role="worker"} 0"#,
        ],
    )
    .await?;
    let text = cluster.metrics(scheduler).await?;
    let oldest = text
        .lines()
        .find_map(|line| line.strip_prefix(r#"postroad_oldest_due_seconds{queue="default"} "#));
    let seconds: f64 = oldest.unwrap().parse()?;
    assert!((240.0..360.0).contains(&seconds), "{seconds}");

    let resume = "update postroad.queue set paused_at = null where name = 'default'";
    cluster.query(resume, &[]).await?;
    shows(
        &cluster,
        &[
            r#"postroad_jobs{queue="default",state="due"} 0"#,
            r#"postroad_jobs{queue="default",state="dispatched"} 3"#,
            r#"postroad_oldest_due_seconds{queue="default"} 0"#,
            r#"postroad_queue_paused{queue="default"} 0"#,
        ],
    )
    .await?;
    cluster.start_worker().await?;
    cluster.wait_for("completed", 3).await?;
    shows(
        &cluster,
        &[
            r#"postroad_jobs{queue="default",state="dispatched"} 0"#,
            r#"postroad_processes{role="worker"} 1"#,
        ],
    )
    .await?;
    cluster.finish().await
}
