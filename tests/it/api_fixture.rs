//! What tests of the HTTP API share: an api with what it needs, and a look at a job.

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
