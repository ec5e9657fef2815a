//! Watches: who is to hear of a change, and how far each has read.
//!
//! A watch has two halves. What happened before it began is read from the store's history, page by page and only as fast
//! as the reader asks for it; what happens from then on is pushed into a bounded buffer by whoever learns of it first: the
//! embedded store's writer after its commit, or the one feed that follows an etcd cluster. The border between the two is
//! fixed while the list of subscriptions is locked, so nothing is lost or told twice.
//!
//! A reader that does not keep up with the present is cut off with [`Error::WatchOverflow`], one that is still in the past
//! is left there; memory never grows on behalf of either.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use futures::{Stream, StreamExt, stream::BoxStream};

use crate::{Error, Event, Result, Revision};

/// The changes below a prefix, in revision order, each exactly once, in the batches they were committed in (or smaller).
///
/// Never yields an empty batch. Ends after its first error; without an error it only ends when the store is dropped,
/// and then with [`Error::Closed`]. Must be polled inside a tokio runtime.
pub struct WatchStream {
    hub: Arc<Hub>,
    subscription: Arc<Subscription>,
    /// All events up to this revision were yielded.
    cursor: Revision,
    /// Where the past is read, until the subscription can take over.
    backlog: Option<Behind>,
    ended: bool,
}

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchStream")
            .field("subscription", &self.subscription)
            .field("cursor", &self.cursor)
            .field("backlog_end", &self.backlog.as_ref().map(|backlog| backlog.end))
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// A watch that has not reached the present.
struct Behind {
    pages: BoxStream<'static, Result<Backlog>>,
    /// Events later than this arrive in the subscription.
    end: Revision,
}

/// One page of the past as a watch sees it.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) events: Vec<Arc<Event>>,
    /// Everything up to here was looked at.
    pub(crate) end: Revision,
}

impl WatchStream {
    /// Every event below the prefix up to this revision has been yielded. It grows with the whole store's revision, so
    /// that a silent prefix still tells how far it has come.
    pub fn delivered(&self) -> Revision {
        if self.backlog.is_some() {
            return self.cursor;
        }
        // The order matters: what was published by then is in the queue, so an empty queue means it was taken.
        let published = self.hub.published();
        match self.subscription.lock().queue.front() {
            Some(event) => event.revision() - 1,
            None => published.max(self.cursor),
        }
    }

    /// Waits until [`Self::delivered`] is more than `known`, and returns the events that were yielded on the way: none when
    /// all that happened was below other prefixes.
    ///
    /// # Errors
    /// The error that ended the stream, [`Error::Closed`] when it had ended before.
    pub async fn advance(&mut self, known: Revision) -> Result<Vec<Arc<Event>>> {
        poll_fn(|cx| match self.poll_next_unpin(cx) {
            Poll::Ready(batch) => Poll::Ready(batch.unwrap_or(Err(Error::Closed))),
            Poll::Pending if self.delivered() > known => Poll::Ready(Ok(Vec::new())),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Arc<Event>>>> {
        let Some(behind) = &mut self.backlog else {
            return self.poll_subscription(cx);
        };
        // The store may close while the past is read.
        self.subscription.poll_failed(cx)?;
        let page = ready!(behind.pages.poll_next_unpin(cx)).unwrap_or(Err(Error::Closed))?;
        self.cursor = page.end;
        if self.cursor >= behind.end {
            match self.hub.join(&self.subscription, self.cursor) {
                Some(end) => behind.end = end,
                None => self.backlog = None,
            }
        }
        Poll::Ready(Ok(page.events))
    }

    fn poll_subscription(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Arc<Event>>>> {
        let taken = ready!(self.subscription.poll_take(cx))?;
        if let Some(last) = taken.last() {
            self.cursor = last.revision();
        }
        Poll::Ready(Ok(taken))
    }
}

impl Stream for WatchStream {
    type Item = Result<Vec<Arc<Event>>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            match ready!(this.poll_batch(cx)) {
                // A page of the past without a match.
                Ok(events) if events.is_empty() => {}
                batch => {
                    this.ended = batch.is_err();
                    return Poll::Ready(Some(batch));
                }
            }
        }
    }
}

/// All subscriptions of a store.
#[derive(Debug)]
pub(crate) struct Hub {
    subscriptions: Mutex<Vec<Weak<Subscription>>>,
    /// Everything up to this revision was handed to the subscriptions. Written with `subscriptions` locked.
    published: AtomicU64,
    capacity: usize,
}

impl Hub {
    pub(crate) fn new(published: Revision, capacity: usize) -> Hub {
        Hub {
            subscriptions: Mutex::default(),
            published: AtomicU64::new(published),
            capacity,
        }
    }

    pub(crate) fn published(&self) -> Revision {
        self.published.load(Ordering::Acquire)
    }

    /// Starts a watch whose first event is the first after `after`. `backlog` makes the pages that follow a revision, at
    /// least up to what is published by now; they may go on further.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        prefix: &str,
        after: Revision,
        backlog: impl FnOnce() -> BoxStream<'static, Result<Backlog>>,
    ) -> WatchStream {
        let mut subscriptions = lock(&self.subscriptions);
        let published = self.published();
        let behind = after < published;
        let subscription = Arc::new(Subscription {
            prefix: prefix.into(),
            capacity: self.capacity,
            state: Mutex::new(SubscriptionState {
                after: after.max(published),
                behind,
                ..SubscriptionState::default()
            }),
        });
        subscriptions.push(Arc::downgrade(&subscription));
        drop(subscriptions);
        WatchStream {
            hub: self.clone(),
            subscription,
            cursor: after,
            backlog: behind.then(|| Behind {
                pages: backlog(),
                end: published,
            }),
            ended: false,
        }
    }

    /// Lets the subscription take over from the backlog, whose reader is at `cursor`. When more happened meanwhile than the
    /// buffer holds, the backlog has to go on up to the revision returned.
    fn join(&self, subscription: &Subscription, cursor: Revision) -> Option<Revision> {
        // Nothing is published while this is locked.
        let _subscriptions = lock(&self.subscriptions);
        let published = self.published();
        let mut state = subscription.lock();
        let lapsed = std::mem::take(&mut state.lapsed);
        if lapsed {
            state.after = published;
            if cursor < published {
                return Some(published);
            }
        }
        state.behind = false;
        state.after = state.after.max(cursor);
        state.queue.retain(|event| event.revision() > cursor);
        None
    }

    /// Hands events, in order, to whom they concern; `revision` is that of the last, and everything up to it is told.
    pub(crate) fn publish(&self, events: &[Arc<Event>], revision: Revision) {
        let mut subscriptions = lock(&self.subscriptions);
        let mut wakers = Vec::new();
        subscriptions.retain(|subscription| match subscription.upgrade() {
            Some(subscription) => subscription.push(events, &mut wakers),
            None => false,
        });
        self.published.store(revision, Ordering::Release);
        drop(subscriptions);
        // Only now: who wakes finds the progress too, also where no event was its own.
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends every watch with an error and goes on from another revision: what lies between cannot be told.
    pub(crate) fn restart(&self, error: &Error, published: Revision) {
        let mut subscriptions = lock(&self.subscriptions);
        for subscription in subscriptions.drain(..).filter_map(|weak| weak.upgrade()) {
            subscription.fail(error.clone());
        }
        self.published.store(published, Ordering::Release);
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        self.restart(&Error::Closed, self.published());
    }
}

#[derive(Debug)]
struct Subscription {
    prefix: Arc<str>,
    capacity: usize,
    state: Mutex<SubscriptionState>,
}

#[derive(Debug, Default)]
struct SubscriptionState {
    /// Events up to here are none of this subscription's business.
    after: Revision,
    /// The reader has not reached the present.
    behind: bool,
    /// More happened than the buffer holds while the reader was behind; it reads that from the backlog too.
    lapsed: bool,
    queue: VecDeque<Arc<Event>>,
    /// Set once; what was queued before is dropped, since the reader has to list again anyway.
    failed: Option<Error>,
    waker: Option<Waker>,
}

impl Subscription {
    fn lock(&self) -> MutexGuard<'_, SubscriptionState> {
        lock(&self.state)
    }

    /// Returns whether the subscription still wants events.
    fn push(&self, events: &[Arc<Event>], wakers: &mut Vec<Waker>) -> bool {
        let mut state = self.lock();
        if state.lapsed {
            return true;
        }
        let after = state.after;
        let wanted = |event: &&Arc<Event>| event.revision() > after && event.key().starts_with(&*self.prefix);
        state.queue.extend(events.iter().filter(wanted).cloned());
        let buffered = state.queue.len();
        if buffered > self.capacity && state.behind {
            state.queue = VecDeque::new();
            state.lapsed = true;
            return true;
        }
        wakers.extend(state.waker.take());
        drop(state);
        if buffered > self.capacity {
            self.fail(Error::WatchOverflow { buffered });
        }
        buffered <= self.capacity
    }

    fn fail(&self, error: Error) {
        let mut state = self.lock();
        state.queue = VecDeque::new();
        state.failed.get_or_insert(error);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<Vec<Arc<Event>>>> {
        let mut state = self.lock();
        state.poll_failed(cx)?;
        if state.queue.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(std::mem::take(&mut state.queue).into()))
    }

    /// The error that ended the subscription; the task is woken when there is one.
    fn poll_failed(&self, cx: &mut Context<'_>) -> Result<()> {
        self.lock().poll_failed(cx)
    }
}

impl SubscriptionState {
    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.waker = Some(cx.waker().clone());
        Ok(())
    }
}

/// No code panics while it holds one of these locks; were it to, the data would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
