//! Campaigns are called off while they are on their way, and resumed, and programs die meanwhile.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::ensure;
use postroad_tests::simulator::{Behaviour, Latency};
use uuid::Uuid;

use super::{Acted, Acting, FaultRow, Field, Recovery, lasting};
use crate::campaigns::{self, Sending};
use crate::load::Load;
use crate::observer::now;
use crate::stage::{Role, Setup, Stage};

/// Of both campaigns together.
const RECIPIENTS: usize = 3000;
const TIMES: usize = 3;
/// How many more have got it before it is called off again.
const SOME: i64 = 100;
/// A call that has begun is not taken back, and takes this long at the most; and what is called off
/// is so within a second.
const UNTIL_SILENT: Duration = Duration::from_secs(1);
/// For how long nobody may hear anything then.
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

/// So that there is a middle: a campaign takes half a minute.
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
        let (store, url) = (&stage.cluster.store, stage.cluster.provider.url());
        let mut sendings = campaigns::create(store, &url, RECIPIENTS, Duration::ZERO).await?;
        let mut delivered = vec![0; sendings.len()];
        for n in 0..TIMES {
            for (sending, delivered) in sendings.iter().zip(&delivered) {
                let more = *delivered + SOME;
                sending
                    .until("more of it is delivered", |now| now.delivered >= more)
                    .await?;
            }
            let cancelled = now();
            for sending in &sendings {
                sending.cancel().await?;
            }
            if n % 2 == 0 {
                for role in Role::BOTH {
                    let victim = stage.of(role)[0];
                    stage.kill(victim).await?;
                    stage.start(role).await?;
                }
            }
            lasting(UNTIL_SILENT).await;
            let since = now();
            lasting(SILENT).await;
            ensure_silence(stage, &sendings, cancelled, since)?;
            for (sending, delivered) in sendings.iter().zip(&mut delivered) {
                let progress = sending
                    .until("nothing of it is on its way", |now| {
                        now.scheduled + now.in_pipe + now.running + now.failed == 0
                    })
                    .await?;
                ensure!(
                    progress.cancelled > 0,
                    "nothing was on its way when it was cancelled: {progress:?}"
                );
                *delivered = progress.delivered;
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

/// Of campaigns that were called off, nobody hears anything after a second; and until then, somebody
/// does whose call had begun.
fn ensure_silence(
    stage: &Stage,
    sendings: &[Sending],
    cancelled: f64,
    since: f64,
) -> anyhow::Result<()> {
    let ids: HashSet<Uuid> = sendings.iter().flat_map(Sending::ids).collect();
    let heard = stage
        .cluster
        .provider
        .records()
        .into_iter()
        .filter(|record| {
            let id = record.key.as_deref().and_then(|key| key.parse().ok());
            record.t >= since && id.is_some_and(|id| ids.contains(&id))
        });
    let late: Vec<_> = heard
        .map(|record| (record.t - cancelled, record.key))
        .collect();
    ensure!(
        late.is_empty(),
        "messages of campaigns that were cancelled came so many seconds later: {late:?}"
    );
    Ok(())
}
