//! Settings of tenants: in force everywhere within a second, and hardly a query.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use postroad_common::changes::TRUSTED;
use postroad_common::job::NewJob;
use postroad_common::token::Permission;
use postroad_tests::faults::postgres::terminate_backends;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::{Cluster, Id, Program, eventually, many_sms, sms};
use postroad_tests::harness::eventually::in_force_within;
use reqwest::Method;
use serde_json::{Value, json};

/// What may be under way, on top of what the promise is about.
const ON_THE_WAY: Duration = Duration::from_secs(1);

const QUERIES: &str = "postroad_settings_queries_total";
const ASKED: &str = "postroad_settings_asked_total";
const LOOKS: &str = r#"postroad_service_run_seconds_count{service="changes"} "#;

fn of(tenant: &str, job: NewJob) -> NewJob {
    let tenant = tenant.parse().expect("a name");
    NewJob { tenant, ..job }
}

/// Sends a text message of acme's; who it was from.
async fn sender(cluster: &Cluster) -> anyhow::Result<Option<String>> {
    let ids = cluster.enqueue(&[of("acme", sms())]).await?;
    cluster.wait_for_job(ids[0], "completed").await?;
    let calls = cluster.provider.calls(&ids[0].to_string());
    Ok(calls.first().context("it has arrived")?.sms_sender.clone())
}

/// Waits until `look` says so, for no longer than a change may take.
async fn in_time(what: &str, look: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    in_force_within(TRUSTED + ON_THE_WAY, what, look).await
}

/// A campaign that names no language, as this api takes it now.
async fn campaign(api: &Api) -> anyhow::Result<u16> {
    let args = json!({"fr": {"to": "{{to}}", "text": "bonjour"}});
    let content = json!({"channels": {"sms": {"kind": "sms", "args": args}}});
    let document = json!({"name": "c", "content": content});
    let made = api.post("/v1/campaigns", &document).await?;
    Ok(made.status.as_u16())
}

async fn set(api: &Api, settings: Value) -> anyhow::Result<()> {
    let set = api.call(Method::PATCH, "/v1/settings", &settings).await?;
    ensure!(set.status.as_u16() == 200, "{set:?}");
    Ok(())
}

async fn api(cluster: &mut Cluster) -> anyhow::Result<(Id, Api)> {
    let id = cluster.start(Program::api()).await?;
    let api = cluster.client(id, Some("acme"), &Permission::ALL).await?;
    Ok((id, api))
}

/// Waits until this program knows of every change so far: of two looks that end from now on, the second
/// has begun after now.
async fn know_everything(cluster: &Cluster, id: Id) -> anyhow::Result<()> {
    let looks = async || {
        let page = cluster.metrics(id).await?;
        let count = page.lines().find_map(|line| line.strip_prefix(LOOKS));
        anyhow::Ok(count.context("it has not looked yet")?.parse::<u64>()?)
    };
    let before = looks().await?;
    eventually("it has looked twice", async || {
        let since = looks().await? - before;
        ensure!(since >= 2, "{since} times");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_change_is_in_force_in_every_program_within_a_second_whether_or_not_it_is_called_out()
-> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let (_, one) = api(&mut cluster).await?;
    let (_, other) = api(&mut cluster).await?;
    ensure!(campaign(&other).await? == 422, "there is no language");
    ensure!(sender(&cluster).await?.is_none());

    set(&one, json!({"language": "fr", "sms_sender": "ACME"})).await?;
    in_time("another api speaks French", async || {
        ensure!(campaign(&other).await? == 201);
        Ok(())
    })
    .await?;
    in_time("messages are from ACME", async || {
        ensure!(sender(&cluster).await?.as_deref() == Some("ACME"));
        Ok(())
    })
    .await?;

    // Nothing is called out any more, and nothing that was under way to anybody arrives.
    cluster
        .query("drop trigger tenant_is_told on postroad.tenant", &[])
        .await?;
    set(
        &one,
        json!({"language": null, "sms_sender": "+33639980600"}),
    )
    .await?;
    for program in ["postroad-worker", "postroad-api"] {
        ensure!(terminate_backends(cluster.database_url(), program).await? >= 1);
    }
    in_time("messages are from the number", async || {
        ensure!(sender(&cluster).await?.as_deref() == Some("+33639980600"));
        Ok(())
    })
    .await?;
    in_time("another api speaks nothing", async || {
        ensure!(campaign(&other).await? == 422);
        Ok(())
    })
    .await?;
    cluster.finish().await
}

#[tokio::test]
async fn while_changes_cannot_be_seen_a_token_is_read_again_and_a_setting_goes_on()
-> anyhow::Result<()> {
    let mut cluster = Cluster::builder().schedulers(0).workers(0).start().await?;
    let (id, acme) = api(&mut cluster).await?;
    let revoked = cluster.client(id, Some("acme"), &Permission::ALL).await?;
    ensure!(revoked.get("/v1/queues").await?.status.as_u16() == 200);
    // That the tenant is new is a change, too: what was read before it was found is read again.
    know_everything(&cluster, id).await?;
    ensure!(campaign(&acme).await? == 422);

    let look = "execute on function postroad.changes_since(text)";
    cluster
        .query(&format!("revoke {look} from postroad_api"), &[])
        .await?;
    eventually("it cannot look any more", async || {
        let (is_ready, why) = cluster.readyz(id).await?;
        ensure!(!is_ready && why.to_string().contains("changes"), "{why}");
        Ok(())
    })
    .await?;
    let change = "with french as (update postroad.tenant set language = 'fr' where name = 'acme')
        update postroad.token set revoked_at = now() where id = $1";
    let token = postroad_common::token::Token::parse(revoked.token()).context("a token")?;
    cluster.query(change, &[&token.id()]).await?;
    in_time("the token is refused", async || {
        revoked.get("/v1/queues").await?.problem(401).map(drop)
    })
    .await?;
    ensure!(
        campaign(&acme).await? == 422,
        "an old setting is better than none"
    );

    cluster
        .query(&format!("grant {look} to postroad_api"), &[])
        .await?;
    in_time("it speaks French", async || {
        ensure!(campaign(&acme).await? == 201);
        Ok(())
    })
    .await?;
    cluster.take_down().await
}

#[tokio::test]
async fn thousands_of_jobs_ask_for_settings_and_hardly_one_asks_postgres() -> anyhow::Result<()> {
    const TENANTS: usize = 5;
    const JOBS: usize = 2000;
    let mut cluster = Cluster::builder().start().await?;
    let (id, acme) = api(&mut cluster).await?;
    let names: Vec<String> = (0..TENANTS).map(|n| format!("tenant-{n}")).collect();
    let jobs = many_sms(JOBS).into_iter().zip(names.iter().cycle());
    let jobs: Vec<NewJob> = jobs.map(|(job, tenant)| of(tenant, job)).collect();
    cluster.enqueue(&jobs).await?;
    let job = json!({"kind": "echo", "delay": "1h"});
    let requests = (0..200).map(|_| acme.post("/v1/jobs", &job));
    for answer in futures_util::future::try_join_all(requests).await? {
        ensure!(answer.status.as_u16() == 201, "{answer:?}");
    }
    cluster.wait_for("completed", i64::try_from(JOBS)?).await?;

    let worker = cluster.worker(0);
    let counted = async |program, name| {
        cluster
            .counted(program, name)
            .await
            .map(Option::unwrap_or_default)
    };
    let asked = counted(worker, ASKED).await?;
    ensure!(asked >= JOBS as u64, "{asked} were asked");
    // One for each tenant; and one more for those that were asked for before the first look.
    let queries = counted(worker, QUERIES).await?;
    ensure!(
        (1..=2 * TENANTS as u64).contains(&queries),
        "{queries} queries of the worker"
    );
    // A token and its tenant, once each, and as much again.
    let queries = counted(id, QUERIES).await?;
    ensure!((1..=4).contains(&queries), "{queries} queries of the api");
    cluster.query("delete from postroad.job", &[]).await?;
    cluster.take_down().await
}
