//! openraft's own deterministic runtime over tokio, with tasks that belong to a life.
//!
//! [`Runtime`] is `DeterministicRng<TokioRuntime>` in all but two things. What a node spawns dies with the node: a crash
//! drops every task of it at the await where it happens to be, and a pause (SIGSTOP) leaves them unpolled while time
//! passes. And its watch channels wake in order, see [`crate::watch`].

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft::OptionalSend;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt::deterministic_rng::DeterministicRng;
use tokio::task::{AbortHandle, JoinHandle};

use crate::watch::OrderedWatch;

/// Finished tasks are forgotten when a life has listed so many.
const SWEEP_TASKS: usize = 64;

type Inner = DeterministicRng<openraft::TokioRuntime>;

tokio::task_local! {
    static LIFE: Life;
}

/// Locks; one thread runs everything, so a poisoned lock only follows a panic that is reported anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `future` with openraft's random source started from `seed`.
pub(crate) fn seeded<F: Future>(seed: u64, future: F) -> impl Future<Output = F::Output> {
    Inner::scope(seed, future)
}

/// Spawns a task that belongs to the world, not to a node.
pub(crate) fn spawn<F>(future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    drop(Inner::spawn(Box::pin(future)));
}

/// The tasks of one node process, or of one machine between two power cuts.
#[derive(Clone, Default)]
pub(crate) struct Life(Arc<Mutex<Tasks>>);

#[derive(Default)]
struct Tasks {
    running: Vec<AbortHandle>,
    sweep_at: usize,
    ended: bool,
    paused: bool,
    parked: Vec<Waker>,
}

impl Life {
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let task = Inner::spawn(Inside {
            life: self.clone(),
            future: Box::pin(LIFE.scope(self.clone(), future)),
        });
        let mut tasks = lock(&self.0);
        if tasks.ended {
            task.abort();
            return task;
        }
        if tasks.running.len() > tasks.sweep_at {
            tasks.running.retain(|task| !task.is_finished());
            tasks.sweep_at = 2 * tasks.running.len() + SWEEP_TASKS;
        }
        tasks.running.push(task.abort_handle());
        task
    }

    /// Drops all tasks where they are; none is polled again.
    pub(crate) fn end(&self) {
        let mut tasks = lock(&self.0);
        tasks.ended = true;
        let running = std::mem::take(&mut tasks.running);
        drop(tasks);
        for task in running {
            task.abort();
        }
    }

    /// SIGSTOP, until [`Life::resume`].
    pub(crate) fn pause(&self) {
        lock(&self.0).paused = true;
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        let mut tasks = lock(&self.0);
        tasks.paused = false;
        let parked = std::mem::take(&mut tasks.parked);
        drop(tasks);
        parked.into_iter().for_each(Waker::wake);
    }

    fn park(&self, waker: &Waker) -> bool {
        let mut tasks = lock(&self.0);
        if tasks.paused {
            tasks.parked.push(waker.clone());
        }
        tasks.paused
    }
}

struct Inside<F> {
    life: Life,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Inside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.life.park(context.waker()) {
            return Poll::Pending;
        }
        self.future.as_mut().poll(context)
    }
}

/// The runtime that openraft is told to use.
#[derive(Debug)]
pub(crate) struct Runtime(Inner);

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = <Inner as AsyncRuntime>::Instant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = <Inner as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Inner as AsyncRuntime>::Mpsc;
    type Watch = OrderedWatch;
    type Oneshot = <Inner as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Inner as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match LIFE.try_with(Life::clone) {
            Ok(life) => life.spawn(future),
            Err(_outside_a_node) => Inner::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Inner::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Inner::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Inner::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Inner::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Inner::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(Inner::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use openraft_rt::testing::Suite;

    use super::*;

    #[test]
    fn openrafts_own_runtime_suite_passes() {
        // Without the part about random sources, which wraps one seeded runtime in another.
        Suite::<Runtime>::test_all_on(&mut Runtime::new(1));
    }
}
