//! What signs a tenant's webhooks, changed while a worker runs.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use postroad_common::job::NewJob;
use postroad_tests::harness::cluster::Cluster;
use postroad_tests::harness::eventually::in_force_within;
use postroad_tests::simulator::{Record, verify_signature};

/// What the worker's own environment says.
const WORKERS: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A second that a change may take, and what may be under way on top of it.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

/// Runs `postroad tenants secret` for acme; what it printed.
async fn secret(cluster: &Cluster, args: &[&str]) -> anyhow::Result<String> {
    let args = [&["tenants", "secret"], args].concat();
    let output = cluster.cli(&args).await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Sends a webhook for this tenant; how it arrived.
async fn send(cluster: &Cluster, tenant: &str) -> anyhow::Result<Record> {
    let webhook = NewJob {
        tenant: tenant.parse()?,
        ..cluster.webhook()
    };
    let ids = cluster.enqueue(&[webhook]).await?;
    cluster.wait_for_job(ids[0], "completed").await?;
    let calls = cluster.provider.calls(&ids[0].to_string());
    ensure!(calls.len() == 1, "{calls:?}");
    calls.into_iter().next().context("there is one")
}

/// That a webhook is signed by each of these secrets, and by nothing else.
fn check_signed_by(record: &Record, secrets: &[&str]) -> anyhow::Result<()> {
    for secret in secrets {
        verify_signature(record, b"hi", secret)?;
    }
    let signatures = record.webhook_signature.as_deref().unwrap_or_default();
    let count = signatures.split_whitespace().count();
    ensure!(count == secrets.len(), "{count} signatures: {record:?}");
    Ok(())
}

/// Sends webhooks of acme's until one is signed so.
async fn wait_until_signed_by(cluster: &Cluster, secrets: &[&str]) -> anyhow::Result<()> {
    in_force_within(SEEN_WITHIN, "acme's webhooks are signed anew", async || {
        check_signed_by(&send(cluster, "acme").await?, secrets)
    })
    .await
}

#[tokio::test]
async fn a_tenants_own_secret_signs_its_webhooks_and_every_change_is_in_force_in_a_running_worker()
-> anyhow::Result<()> {
    let mut cluster = Cluster::builder()
        .env("POSTROAD_WEBHOOK_SECRET", WORKERS)
        .start()
        .await?;
    check_signed_by(&send(&cluster, "acme").await?, &[WORKERS])?;

    let first = secret(&cluster, &["set", "acme"]).await?;
    wait_until_signed_by(&cluster, &[&first]).await?;

    let second = secret(&cluster, &["rotate", "acme"]).await?;
    wait_until_signed_by(&cluster, &[&second, &first]).await?;
    // Another tenant's are signed as before.
    check_signed_by(&send(&cluster, "umbrella").await?, &[WORKERS])?;

    // The day is over in which receivers were to change theirs.
    let over = "update postroad.tenant_secret set previous_until = now() - interval '1 s'";
    cluster.query(over, &[]).await?;
    wait_until_signed_by(&cluster, &[&second]).await?;

    secret(&cluster, &["clear", "acme", "--yes"]).await?;
    wait_until_signed_by(&cluster, &[WORKERS]).await?;

    // By the same process all the time.
    let worker = cluster.worker(0);
    cluster.check_runs(worker)?;
    cluster.finish().await
}
