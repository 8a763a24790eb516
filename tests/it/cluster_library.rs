//! A worker built from the library, with a kind that the product does not know.

use postroad_tests::harness::cluster::{Cluster, Program, job};
use serde_json::json;

#[tokio::test]
async fn a_kind_of_ones_own_runs_fails_and_is_retried_as_it_says() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().workers(0).start().await?;
    let greeter = cluster.start(Program::greeter()).await?;

    let greeted = job("greet", &json!({"name": "Ada"}));
    let nobody = job("greet", &json!({"name": ""}));
    let misfit = job("greet", &json!({"nom": "Ada"}));
    let ids = cluster.enqueue(&[greeted, nobody, misfit]).await?;

    let greeted = cluster.wait_for_job(ids[0], "completed").await?;
    assert_eq!(
        greeted.max_attempts, 5,
        "the policy of the kind is registered"
    );
    let rows = cluster
        .query(
            "select result from postroad.jobs where state = 'completed'",
            &[],
        )
        .await?;
    let result: String = rows[0].get(0);
    assert_eq!(result, "\"hello, Ada (attempt 1)\"");
    for id in &ids[1..] {
        let dead = cluster.wait_for_job(*id, "dead").await?;
        assert_eq!((dead.attempt, dead.reason.as_deref()), (1, Some("fatal")));
    }
    assert!(cluster.terminate(greeter).await?.success());
    cluster.finish().await
}
