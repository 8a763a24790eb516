//! What tests of the HTTP API share: an api with what it needs, a look at a job, and at a list.

use anyhow::Context as _;
use postroad_common::token::Permission;
use postroad_tests::harness::api::Api;
use postroad_tests::harness::cluster::{Builder, Cluster, Id, Program, eventually};
use serde_json::Value;

/// An api with a tenant's token, and no scheduler: jobs stay where they are put.
pub(crate) async fn quiet() -> (Cluster, Id, Api) {
    with_api(Cluster::builder().schedulers(0).workers(0)).await
}

/// The same with a scheduler and a worker.
pub(crate) async fn busy() -> (Cluster, Id, Api) {
    with_api(Cluster::builder()).await
}

async fn with_api(builder: Builder) -> (Cluster, Id, Api) {
    let mut cluster = builder.start().await.unwrap();
    let id = cluster.start(Program::api()).await.unwrap();
    let api = cluster.client(id, Some("acme"), &Permission::ALL).await;
    (cluster, id, api.unwrap())
}

pub(crate) fn id_of(job: &Value) -> String {
    job["id"].as_str().expect("a job has an id").to_owned()
}

pub(crate) async fn wait_for_state(api: &Api, id: &str, state: &str) -> Value {
    eventually(format_args!("job {id} is {state}"), async || {
        let job = api.get(&format!("/v1/jobs/{id}")).await?.json();
        anyhow::ensure!(job["state"] == state, "it is {job}");
        Ok(())
    })
    .await
    .unwrap();
    api.get(&format!("/v1/jobs/{id}")).await.unwrap().json()
}

/// All items of a list whose path has a query, page by page.
pub(crate) async fn pages(api: &Api, list: &str) -> anyhow::Result<Vec<Value>> {
    let (mut seen, mut path) = (Vec::new(), list.to_owned());
    loop {
        let page = api.get(&path).await?.json();
        let items = page["items"].as_array().context("a page has items")?;
        seen.extend(items.iter().cloned());
        let Some(cursor) = page["next_cursor"].as_str() else {
            return Ok(seen);
        };
        let cursor: String = cursor.bytes().map(|byte| format!("%{byte:02x}")).collect();
        path = format!("{list}&cursor={cursor}");
    }
}
