//! Many tasks, one thread, one virtual clock: the seed picks who takes the next step.
//!
//! An actor is an async function, and every await in it is a place where any other actor may come
//! between. Killing a process drops its tasks where they stand; pausing one leaves them there.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::model_store::{Millis, ModelStore};
use super::world::{Fate, ProcessNo, World};

/// One actor.
pub(super) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What a sleeping task may be woken by before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bell {
    /// Something happened at the broker.
    Broker,
    /// Something happened inside this process.
    Process(ProcessNo),
}

/// When a task goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) owner: ProcessNo,
    pub(super) wake_at: Millis,
    pub(super) bell: Option<Bell>,
}

/// A call to the database without an answer: whether it acted is not known.
#[derive(Debug)]
pub(super) struct NoAnswer;

/// A handle on the world for actors. Borrowed only between awaits.
#[derive(Clone)]
pub(super) struct Sim(Rc<RefCell<World>>);

impl Sim {
    pub(super) fn of(world: World) -> Self {
        Self(Rc::new(RefCell::new(world)))
    }

    /// Looks at the world, or changes it; nobody else comes between.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.0.borrow_mut())
    }

    /// The world when every actor is gone.
    pub(super) fn end(self) -> World {
        let world = Rc::into_inner(self.0).expect("the actors were dropped with the run");
        world.into_inner()
    }

    pub(super) fn now(&self) -> Millis {
        self.with(|world| world.now)
    }

    /// Starts an actor of this process.
    pub(super) fn spawn(&self, owner: ProcessNo, actor: impl Future<Output = ()> + 'static) {
        self.with(|world| world.spawned.push((owner, Box::pin(actor))));
    }

    /// Rests so long.
    pub(super) async fn sleep(&self, millis: Millis) {
        self.rest(millis, None).await;
    }

    /// Rests until the bell rings, but not longer than this.
    pub(super) async fn wait(&self, bell: Bell, at_most: Millis) {
        self.rest(at_most, Some(bell)).await;
    }

    async fn rest(&self, millis: Millis, bell: Option<Bell>) {
        self.with(|world| {
            let wake_at = world.now + millis;
            let slot = &mut world.slots[world.current];
            (slot.wake_at, slot.bell) = (wake_at, bell);
        });
        Once(false).await;
    }

    /// The time between two lines of code of one program.
    pub(super) async fn step(&self) {
        let millis = self.with(|world| world.chance.between(0, 2));
        self.sleep(millis).await;
    }

    /// The way to a server.
    async fn travel(&self) {
        let millis = self.with(|world| match world.chance.below(20) {
            0 => world.chance.between(30, 250),
            1..=4 => world.chance.between(3, 30),
            _ => world.chance.between(0, 3),
        });
        self.sleep(millis).await;
    }

    /// One statement: it acts and answers, or one of the two, or none, or it acts when nobody
    /// waits for it any more.
    pub(super) async fn call<T: 'static>(
        &self,
        me: ProcessNo,
        act: impl FnOnce(&mut ModelStore) -> T + 'static,
    ) -> Result<T, NoAnswer> {
        self.call_with(me, true, act).await
    }

    /// A transaction of several statements. It cannot act after its caller gave up, for the commit
    /// is the caller's.
    pub(super) async fn transact<T: 'static>(
        &self,
        me: ProcessNo,
        act: impl FnOnce(&mut ModelStore) -> T + 'static,
    ) -> Result<T, NoAnswer> {
        self.call_with(me, false, act).await
    }

    async fn call_with<T: 'static>(
        &self,
        me: ProcessNo,
        may_be_late: bool,
        act: impl FnOnce(&mut ModelStore) -> T + 'static,
    ) -> Result<T, NoAnswer> {
        self.travel().await;
        match self.with(|world| world.fate(me, may_be_late)) {
            Fate::Fine => {
                let answer = self.with(|world| world.act(act));
                self.travel().await;
                Ok(answer)
            }
            Fate::NotReached { wait } => {
                self.sleep(wait).await;
                Err(NoAnswer)
            }
            Fate::AnswerLost { wait } => {
                drop(self.with(|world| world.act(act)));
                self.sleep(wait).await;
                Err(NoAnswer)
            }
            Fate::Late { acts_after, wait } => {
                let late = Box::new(|store: &mut ModelStore| drop(act(store)));
                self.with(|world| world.late.push((world.now + acts_after, late)));
                self.sleep(wait).await;
                Err(NoAnswer)
            }
        }
    }

    /// Runs every actor until the world is over.
    pub(super) fn run(&self) {
        let mut tasks: Vec<Task> = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        loop {
            self.absorb(&mut tasks);
            if !self.with(World::pick) {
                // They hold on to the world.
                drop(self.with(|world| std::mem::take(&mut world.spawned)));
                return;
            }
            let current = self.with(|world| world.current);
            if tasks[current].as_mut().poll(&mut context).is_ready() {
                self.with(|world| world.slots.swap_remove(current));
                drop(tasks.swap_remove(current));
            }
            self.bury_killed(&mut tasks);
        }
    }

    fn absorb(&self, tasks: &mut Vec<Task>) {
        let spawned = self.with(|world| {
            let spawned = std::mem::take(&mut world.spawned);
            let wake_at = world.now;
            for (owner, _) in &spawned {
                world.slots.push(Slot {
                    owner: *owner,
                    wake_at,
                    bell: None,
                });
            }
            spawned
        });
        tasks.extend(spawned.into_iter().map(|(_, task)| task));
    }

    fn bury_killed(&self, tasks: &mut Vec<Task>) {
        let is_any = self.with(|world| std::mem::take(&mut world.has_killed));
        if !is_any {
            return;
        }
        for at in (0..tasks.len()).rev() {
            let is_dead = self.with(|world| !world.is_running(world.slots[at].owner));
            if is_dead {
                self.with(|world| world.slots.swap_remove(at));
                drop(tasks.swap_remove(at));
            }
        }
    }
}

/// Pending once.
struct Once(bool);

impl Future for Once {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match std::mem::replace(&mut self.0, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
