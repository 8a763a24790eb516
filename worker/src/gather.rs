//! Batches under load: while many come, a statement waits a little for more of them.
//!
//! Batches form by themselves while one statement is under way. On a machine that is busy with
//! everything else that is not enough: statements stay small, and what each costs whatever its size
//! (planning, a commit, a round trip, an ack) is paid more often than need be.

use std::time::Duration;

use tokio::sync::mpsc::Receiver;

/// Fewer than this at once are no load: they are not kept waiting.
const LOAD: usize = 64;
/// How often it is looked at whether more have come.
const STEP: Duration = Duration::from_millis(2);
/// Fewer than this in a step are not waited for: slow jobs, or a prefetch that is used up, which no
/// waiting would fill.
const STEP_LEAST: usize = 8;
/// Whatever comes, a batch goes after so many steps.
const STEPS_MAX: u32 = 4;

/// Takes what there is into an empty `batch`, at most `most`, and under load what comes meanwhile,
/// until there is `enough`: more than half of what this worker runs at once would be waited for by
/// places that stand empty. 0 when nobody brings any more. Nothing is lost if this is given up: what was taken is in `batch`.
pub(crate) async fn gather<T>(
    from: &mut Receiver<T>,
    batch: &mut Vec<T>,
    most: usize,
    enough: usize,
) -> usize {
    let taken = from.recv_many(batch, most).await;
    if taken < LOAD {
        return taken;
    }
    for _ in 0..STEPS_MAX {
        let waiting = from.len();
        if batch.len() + waiting >= enough.min(most) {
            break;
        }
        tokio::time::sleep(STEP).await;
        if from.len() < waiting + STEP_LEAST {
            break;
        }
    }
    if !from.is_empty() && batch.len() < most {
        from.recv_many(batch, most - batch.len()).await;
    }
    batch.len()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_are_not_kept_waiting() {
        let (sender, mut receiver) = mpsc::channel(100);
        for n in 1..LOAD {
            sender.send(n).await.unwrap();
        }
        let (began, mut batch) = (Instant::now(), Vec::new());
        assert_eq!(gather(&mut receiver, &mut batch, 500, 500).await, LOAD - 1);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn while_many_come_more_are_waited_for() {
        let (sender, mut receiver) = mpsc::channel(1000);
        let began = Instant::now();
        tokio::spawn(async move {
            for n in 0..400 {
                sender.send(n).await.unwrap();
                // Faster than anybody looks, also where the clock rounds a step up.
                if n >= LOAD && n % 50 == 49 {
                    tokio::time::sleep(STEP / 2).await;
                }
            }
        });
        let mut batch = Vec::new();
        gather(&mut receiver, &mut batch, 200, 200).await;
        assert_eq!(batch, Vec::from_iter(0..200), "in order, and full");
        assert!(began.elapsed() <= STEP * STEPS_MAX, "{:?}", began.elapsed());
        let mut more = Vec::new();
        while gather(&mut receiver, &mut more, 1000, 1000).await > 0 {
            batch.append(&mut more);
        }
        assert_eq!(batch, Vec::from_iter(0..400), "and all of them");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_enough_is_not_kept_waiting() {
        let (sender, mut receiver) = mpsc::channel(200);
        for n in 0..150 {
            sender.send(n).await.unwrap();
        }
        let (began, mut batch) = (Instant::now(), Vec::new());
        assert_eq!(gather(&mut receiver, &mut batch, 500, 100).await, 150);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_not_waited_for() {
        let (sender, mut receiver) = mpsc::channel(100);
        for n in 0..50 {
            sender.send(n).await.unwrap();
        }
        let (began, mut batch) = (Instant::now(), Vec::new());
        assert_eq!(gather(&mut receiver, &mut batch, 500, 500).await, 50);
        assert!(began.elapsed() <= STEP + Duration::from_millis(1));
        drop(sender);
        assert_eq!(gather(&mut receiver, &mut Vec::new(), 500, 500).await, 0);
    }
}
