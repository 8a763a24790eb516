//! Campaigns are called off while they are on their way, and resumed, and programs die meanwhile.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::ensure;
use postroad_tests::simulator::{Behaviour, Latency};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Acted, Acting, FaultRow, Field, Recovery, lasting};
use crate::campaigns::{self, Sending};
use crate::load::Load;
use crate::observer::now;
use crate::stage::{Role, Setup, Stage};

/// Of both campaigns together.
const RECIPIENTS: usize = 3000;
/// How many more have got it before they are called off again.
const SOME: i64 = 200;
/// What is called off is so when that is answered; a worker that was told before that it may start
/// takes until then to call.
const UNTIL_SILENT: Duration = Duration::from_secs(1);
/// How long it may take until so many have.
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long nobody may hear anything after all of it is over.
const SILENT: Duration = Duration::from_secs(1);

pub(super) fn rows() -> Vec<FaultRow> {
    vec![
        FaultRow::new(
            "cancel-campaigns",
            "campaigns are cancelled and resumed in the middle, three times; twice programs are killed then",
            cancel,
        )
        .recovery(Recovery::NotMeasured)
        .setup(few_places),
    ]
}

/// So that there is a middle: some 250 recipients get it in a second.
fn few_places() -> Setup {
    Setup {
        prefetch: 10,
        provider: Behaviour {
            latency: Latency::Uniform(Duration::from_millis(40), Duration::from_millis(120)),
            ..Behaviour::default()
        },
        load: Load {
            rate: 40,
            recipients: 0,
            ..Load::default()
        },
        ..Setup::default()
    }
}

fn cancel<'a>(stage: &'a mut Stage, _: &'a Field) -> Acting<'a> {
    Box::pin(async move {
        // Most have no job yet when they are called off.
        let few = "update postroad.queue set window_size = 100 where name = 'default'";
        stage.cluster.query(few, &[]).await?;
        let (store, url) = (&stage.cluster.store, stage.cluster.provider.url());
        let mut sendings = campaigns::create(store, &url, RECIPIENTS, Duration::ZERO).await?;
        for is_left_to_end in [true, false, true] {
            until_more_have_got_it(&sendings).await?;
            for sending in &sendings {
                sending.cancel().await?;
            }
            if is_left_to_end {
                die_and_hear_nothing(stage, &sendings).await?;
            }
            for sending in &mut sendings {
                sending.resume().await?;
            }
        }
        let submits = campaigns::until_made(sendings).await?;
        stage.handed_in.extend(submits);
        Ok(Acted::Done)
    })
}

async fn until_more_have_got_it(sendings: &[Sending]) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let before = delivered(sendings).await?;
    // Whose parts are not its recipients is red at once, and not looked at again.
    while delivered(sendings).await? < before + SOME {
        ensure!(Instant::now() < deadline, "nobody else has got it");
        lasting(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn delivered(sendings: &[Sending]) -> anyhow::Result<i64> {
    let mut delivered = 0;
    for sending in sendings {
        delivered += sending.progress().await?.delivered;
    }
    Ok(delivered)
}

/// Programs are killed, and others end what those had begun: nobody hears anything of that.
async fn die_and_hear_nothing(stage: &mut Stage, sendings: &[Sending]) -> anyhow::Result<()> {
    let cancelled = now();
    for role in Role::BOTH {
        let victim = stage.of(role)[0];
        stage.kill(victim).await?;
        stage.start(role).await?;
    }
    lasting(UNTIL_SILENT).await;
    let since = now();
    let mut called_off = 0;
    for sending in sendings {
        let progress = sending
            .until("nothing of it is on its way", |now| {
                now.scheduled + now.in_pipe + now.running + now.failed == 0
            })
            .await?;
        called_off += progress.cancelled;
    }
    ensure!(
        called_off > 0,
        "nothing was on its way when it was cancelled"
    );
    lasting(SILENT).await;
    let ids: HashSet<Uuid> = sendings.iter().flat_map(Sending::ids).collect();
    let records = stage.cluster.provider.records().into_iter();
    let late: Vec<_> = records
        .filter(|record| {
            let id = record.key.as_deref().and_then(|key| key.parse().ok());
            record.t >= since && id.is_some_and(|id| ids.contains(&id))
        })
        .map(|record| (record.t - cancelled, record.key))
        .collect();
    ensure!(
        late.is_empty(),
        "messages of campaigns that were cancelled came so many seconds later: {late:?}"
    );
    Ok(())
}
