//! Decides what runs next. Any number of equal copies, no leader.
//!
//! | service | moves jobs |
//! |---|---|
//! | [`dispatcher`] | scheduled → dispatched, when due and in credit |
//! | [`dead_letters`], [`retrier`] | failed → scheduled or dead; dead-lettered → scheduled |
//! | [`watcher`] | none; calls silent processes lost |
//! | [`rescuer`] | dispatched or running under a lost process → scheduled, failed or held |
//! | [`expander`] | none; makes the jobs of campaigns, and says when recipients may be reached |
//! | [`expirer`] | scheduled → expired |
//! | [`operator`] | dead → scheduled, where somebody wants dead letters back |
//! | [`shedder`] | scheduled → cancelled, where more jobs wait in a queue than may |
//! | [`stopper`] | scheduled → cancelled, where a stop says so; brings back what stops have set aside |
//! | [`ticker`] | none; makes the jobs of recurring schedules |
//! | [`pruner`] | none; makes and drops partitions, and forgets finished jobs that their queue does not keep |
//! | [`declarer`] | none; has the broker's side of queues made |
//! | [`auditor`] | none; keeps the ledger and compares it with what is there |
//! | [`gauges`] | none; shows how much is where |

pub mod auditor;
mod bundling;
pub mod config;
pub mod dead_letters;
pub mod declarer;
pub mod dispatcher;
pub mod expander;
pub mod expirer;
pub mod gauges;
pub mod metrics;
mod of_tests;
pub mod operator;
pub mod pruner;
pub mod rescuer;
pub mod retrier;
pub mod shedder;
pub mod stopper;
pub mod ticker;
pub mod watcher;

use anyhow::{Context, bail};
use postroad_common::broker::{Broker, DepthReader, Publisher};
use postroad_common::health::{AdminPage, Health};
use postroad_common::membership::{Membership, host_name};
use postroad_common::service::{Nudge, Service, spawn};
use postroad_common::shutdown::Shutdown;
use postroad_common::startup;
use postroad_common::store::{Channel, Listener, NewProcess, Role, Store};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use auditor::Auditor;
use config::Config;
use dead_letters::DeadLetters;
use declarer::Declarer;
use dispatcher::{Dispatcher, Outlet};
use expander::Expander;
use expirer::Expirer;
use gauges::Gauges;
use operator::Operator;
use pruner::Pruner;
use rescuer::Rescuer;
use retrier::Retrier;
use shedder::Shedder;
use stopper::Stopper;
use ticker::Ticker;
use watcher::Watcher;

/// Runs a scheduler until it is asked to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    config.log.install();
    let shutdown = Shutdown::on_signals(config.grace).context("listening for signals")?;
    let health = Health::new();
    // From the start: a scheduler is ready when it works, not when its servers have answered.
    health.expect(Dispatcher::NAME);
    health.expect(Pruner::NAME);
    AdminPage::bind(config.admin_listen)
        .await?
        .serve(health.clone());
    metrics::describe();

    let listened = config.database.clone();
    let store = Store::new(config.database)?;
    let (host, pid) = (host_name(), std::process::id());
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("postroad-scheduler/{version} {host}:{pid}");
    let broker = Broker::new(config.broker, name);
    startup::postgres(&store, &health, &shutdown).await?;
    startup::rabbitmq(&broker, &health, &shutdown).await?;

    let process = NewProcess {
        role: Role::Scheduler,
        host,
        pid,
        version,
        queues: Vec::new(),
        lease: config.lease,
        prefetch: None,
    };
    let join = async || Membership::join(store.clone(), process.clone(), &health, &shutdown).await;
    let membership = startup::repeat(&health, &shutdown, join).await?;
    let names = startup::repeat(&health, &shutdown, async || store.queue_names().await).await?;
    let (queues, queues_seen) = watch::channel(names);
    let publisher = Publisher::spawn(
        broker.clone(),
        queues_seen,
        health.clone(),
        shutdown.clone(),
    );

    let publishing = TaskTracker::new();
    let (dispatch, rescue, other) = (Nudge::default(), Nudge::default(), Nudge::default());
    let mut calls = Listener::spawn(&listened, &[Channel::Due], &shutdown);
    let declarer = Declarer::new(store.clone(), queues.clone());
    let outlet = Outlet {
        publisher: publisher.clone(),
        queues,
        publishing: publishing.clone(),
        bundle_max: config.bundle_max,
        shared_pipe: config.shared_pipe,
    };
    let dispatcher = Dispatcher::new(
        store.clone(),
        outlet,
        membership.clone(),
        calls.called(),
        shutdown.clone(),
    );
    let auditor = Auditor::new(store.clone(), DepthReader::new(broker.clone()));
    let dead_letters = DeadLetters::new(store.clone(), broker, publisher);
    let watcher = Watcher::new(store.clone(), rescue.clone());
    let rescuer = Rescuer::new(store.clone(), dispatch.clone());
    let services = [
        spawn(dispatcher, dispatch.clone(), &health, &shutdown),
        spawn(
            Ticker::new(store.clone(), dispatch.clone()),
            other.clone(),
            &health,
            &shutdown,
        ),
        spawn(
            Operator::new(store.clone(), dispatch.clone()),
            other.clone(),
            &health,
            &shutdown,
        ),
        spawn(
            Expander::new(store.clone(), dispatch.clone()),
            other.clone(),
            &health,
            &shutdown,
        ),
        spawn(
            Shedder::new(store.clone()),
            other.clone(),
            &health,
            &shutdown,
        ),
        spawn(
            Stopper::new(store.clone(), dispatch.clone()),
            other.clone(),
            &health,
            &shutdown,
        ),
        spawn(declarer, other.clone(), &health, &shutdown),
        spawn(dead_letters, other.clone(), &health, &shutdown),
        spawn(
            Retrier::new(store.clone()),
            other.clone(),
            &health,
            &shutdown,
        ),
        spawn(watcher, other.clone(), &health, &shutdown),
        spawn(rescuer, rescue, &health, &shutdown),
        spawn(
            Expirer::new(store.clone()),
            other.clone(),
            &health,
            &shutdown,
        ),
        spawn(auditor, other.clone(), &health, &shutdown),
        spawn(
            Gauges::new(store.clone()),
            other.clone(),
            &health,
            &shutdown,
        ),
        spawn(
            Pruner::new(store, config.retention),
            other,
            &health,
            &shutdown,
        ),
    ];
    tokio::spawn(async move {
        loop {
            calls.next().await;
            dispatch.wake();
        }
    });
    tracing::info!("postroad-scheduler {version} is running");

    // What has been claimed is published and answered for before the process goes.
    let drained = async {
        for service in services {
            service
                .await
                .context("a service ended by a panic of its driver")?;
        }
        publishing.close();
        publishing.wait().await;
        anyhow::Ok(())
    };
    tokio::select! {
        drained = drained => drained?,
        // Not signing off has its claims released as soon as its lease is over.
        () = shutdown.cancel.cancelled() => bail!("stopped before everything was published"),
    }
    if let Err(error) = membership.leave().await {
        tracing::warn!("{error}: this scheduler will be called lost");
    }
    tracing::info!("stopped");
    Ok(())
}
