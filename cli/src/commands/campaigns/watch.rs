//! A campaign until it has ended.

use indicatif::ProgressBar;
use postroad_common::store::{Campaign, Progress, Store};
use tokio::signal::unix::{SignalKind, signal};

use super::{find, state_of};
use crate::commands::operations::{LOOK, is_transient, warn_without_scheduler};
use crate::output::{self, note};

/// Watches until it has ended; none: Ctrl-C came first, and it goes on.
pub(super) async fn follow(store: &Store, campaign: Campaign) -> anyhow::Result<Option<Campaign>> {
    let id = campaign.id;
    // Before anything is shown: whoever sees it may press Ctrl-C.
    let mut interrupted = signal(SignalKind::interrupt())?;
    if !has_ended(&campaign) {
        warn_without_scheduler(store).await?;
    }
    let bar = output::bar(Some(planned(&campaign.progress)), "recipients");
    let watched = tokio::select! {
        ended = until_ended(store, campaign, &bar) => Some(ended?),
        _ = interrupted.recv() => None,
    };
    bar.finish_and_clear();
    if watched.is_none() {
        note(format_args!(
            "campaign {id} goes on.\nwatch it again:  postroad campaigns get {id} --watch\n\
             pause it:        postroad campaigns pause {id}"
        ));
    }
    Ok(watched)
}

async fn until_ended(
    store: &Store,
    mut campaign: Campaign,
    bar: &ProgressBar,
) -> anyhow::Result<Campaign> {
    let mut said = "running".to_owned();
    loop {
        bar.set_length(planned(&campaign.progress));
        bar.set_position(u64::try_from(ended(&campaign.progress)).unwrap_or(0));
        if has_ended(&campaign) {
            return Ok(campaign);
        }
        if campaign.state != said {
            bar.suspend(|| note(with_note(&campaign)));
            said.clone_from(&campaign.state);
        }
        tokio::time::sleep(LOOK).await;
        match find(store, campaign.id).await {
            Ok(now) => campaign = now,
            Err(error) if is_transient(&error) => {
                bar.suspend(|| note(format_args!("{error}: trying again")));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Its state, and why it is paused.
fn with_note(campaign: &Campaign) -> String {
    match campaign.note.as_str() {
        "" => state_of(campaign),
        why => format!("{}: {why}", state_of(campaign)),
    }
}

/// Whether nothing comes of it any more, and nothing is under way. What is held waits for people.
fn has_ended(campaign: &Campaign) -> bool {
    let progress = &campaign.progress;
    let is_over = ["cancelled", "expired", "finished"].contains(&campaign.state.as_str());
    is_over && progress.unfinished() == progress.held
}

/// Recipients that there are, as far as anybody knows.
fn planned(progress: &Progress) -> u64 {
    u64::try_from(progress.planned.unwrap_or_else(|| progress.known())).unwrap_or(0)
}

/// Recipients with whom it is over.
fn ended(progress: &Progress) -> i64 {
    progress.known() - progress.not_made.unwrap_or_default() - progress.unfinished()
}
