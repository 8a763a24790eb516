//! What is called out is heard, with the queues that it names.

use std::collections::BTreeSet;

use anyhow::ensure;
use postroad_common::job::QueueName;
use postroad_common::shutdown::Shutdown;
use postroad_common::store::{Channel, Listener, Settings};
use postroad_tests::harness::eventually::eventually;

use crate::store_fixture::Room;

#[tokio::test]
async fn a_call_names_its_queues_or_none_and_is_taken_once() -> anyhow::Result<()> {
    let room = Room::open().await;
    let settings = Settings::of_url(room.database.url(), "listener", 1)?;
    let mut listener = Listener::spawn(&settings, &[Channel::Due], &Shutdown::new());
    listener.next().await;
    let called = listener.called();
    assert_eq!(called.take(), BTreeSet::new(), "that it listens");

    let names = ["default", "sms"];
    let queues: Result<Vec<QueueName>, _> = names.iter().map(|name| name.parse()).collect();
    room.store.call_due(&queues?).await?;
    let heard = std::sync::Mutex::new(BTreeSet::new());
    eventually("both are called", async || {
        let mut heard = heard.lock().unwrap();
        heard.append(&mut called.take());
        ensure!(heard.len() == names.len(), "{heard:?}");
        Ok(())
    })
    .await?;
    assert!(heard.into_inner().unwrap().iter().eq(&names));
    assert_eq!(called.take(), BTreeSet::new(), "they are taken");

    let before = listener.count();
    room.store.call_due(&[]).await?;
    eventually("a call without a name", async || {
        ensure!(listener.count() > before, "nothing was called");
        Ok(())
    })
    .await?;
    assert_eq!(called.take(), BTreeSet::new(), "it names none");
    Ok(())
}
