//! Settings of tenants change, and nobody is told.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::ensure;
use postroad_tests::faults::postgres;

use super::{Acted, Acting, FaultRow, Field, Recovery, lasting};
use crate::observer::now;
use crate::stage::Stage;

const TIMES: usize = 5;
/// A change is in force everywhere after a second. What was under way may take as long, and whoever has
/// just lost its connections too.
const IN_FORCE: Duration = Duration::from_secs(3);
/// For how long nothing else may be seen then.
const LOOKED_AT: Duration = Duration::from_secs(2);

pub(super) fn rows() -> Vec<FaultRow> {
    vec![
        FaultRow::new(
            "lost-invalidations",
            "senders of all tenants change and nothing is called out, five times; twice nobody listens",
            lose,
        )
        .recovery(Recovery::Lease),
    ]
}

fn lose<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        for n in 0..TIMES {
            let sender = format!("SENDER{n}");
            let fault = stage.begin("lost invalidation", n % 2 == 1);
            if n % 2 == 1 {
                // Before the change: whoever listens anew looks at once.
                postgres::terminate_backends(stage.cluster.database_url(), "postroad-").await?;
            }
            change(stage, &sender).await?;
            stage.end(fault);
            lasting(IN_FORCE).await;
            let since = now();
            lasting(LOOKED_AT).await;
            check(stage, &sender, since)?;
        }
        Ok(Acted::Done)
    })
}

/// While the trigger is off, a change is not called out. It is back before anybody else sees the row.
async fn change(stage: &Stage, sender: &str) -> anyhow::Result<()> {
    let change = format!(
        "do $$ begin
            alter table postroad.tenant disable trigger tenant_is_told;
            update postroad.tenant set sms_sender = '{sender}';
            alter table postroad.tenant enable trigger tenant_is_told;
        end $$"
    );
    stage.cluster.query(&change, &[]).await.map(drop)
}

/// Every message that the provider was sent since then is from this sender, and there were some.
fn check(stage: &Stage, sender: &str, since: f64) -> anyhow::Result<()> {
    let records = stage.cluster.provider.records();
    // Only messages have one.
    let messages = records
        .iter()
        .filter(|record| record.t >= since && record.path == "/sms");
    let senders: HashSet<_> = messages
        .map(|message| message.sms_sender.as_deref())
        .collect();
    ensure!(
        senders == HashSet::from([Some(sender)]),
        "{IN_FORCE:?} after the sender is {sender}, messages are from {senders:?}"
    );
    Ok(())
}
