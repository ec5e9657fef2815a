//! Asks for the newest revision, many times at once and with few questions.
//!
//! Every consistent read of an API server needs it. An answer is good for whoever asked before its question was sent, so all
//! who ask while one question is under way share the next one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use crate::{Result, Revision};

type Answer = Shared<BoxFuture<'static, Result<Revision>>>;

/// Who asks.
#[derive(Debug, Default)]
pub(super) struct Newest(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Held by the question that is under way.
    turn: tokio::sync::Mutex<()>,
    /// The question that was not sent yet.
    next: Mutex<Option<Answer>>,
}

impl Newest {
    /// The answer to a question that is sent after this call; `question` sends it, unless somebody else's is shared.
    pub(super) fn ask<F>(&self, question: impl FnOnce() -> F) -> impl Future<Output = Result<Revision>> + Send
    where
        F: Future<Output = Result<Revision>> + Send + 'static,
    {
        let mut next = self.0.lock_next();
        if let Some(shared) = &*next {
            return shared.clone();
        }
        let (state, question) = (self.0.clone(), question());
        let answer = async move {
            let _turn = state.turn.lock().await;
            // From here on it is too late to share this one.
            *state.lock_next() = None;
            question.await
        };
        next.insert(answer.boxed().shared()).clone()
    }
}

impl State {
    /// No code panics while it holds this lock.
    fn lock_next(&self) -> MutexGuard<'_, Option<Answer>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        task::Poll,
    };

    use futures::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn who_comes_too_late_shares_the_next_question() {
        let newest = Newest::default();
        let (sent, answers) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
        let ask = || {
            let (sent, answers) = (sent.clone(), answers.clone());
            newest.ask(move || async move {
                let number = sent.fetch_add(1, Ordering::SeqCst) + 1;
                answers.acquire().await.unwrap().forget();
                Ok(number)
            })
        };
        let mut first = Box::pin(ask());
        assert!(matches!(futures::poll!(&mut first), Poll::Pending));
        assert_eq!(sent.load(Ordering::SeqCst), 1);
        let mut others: Vec<_> = (0..50).map(|_| Box::pin(ask())).collect();
        for other in &mut others {
            assert!(matches!(futures::poll!(other), Poll::Pending));
        }
        assert_eq!(sent.load(Ordering::SeqCst), 1, "one question at a time");
        // Some of them lose patience, also the one that came first.
        others.truncate(40);
        drop(others.remove(0));
        answers.add_permits(1);
        assert_eq!(first.await.unwrap(), 1);
        answers.add_permits(1);
        let told: Vec<_> = join_all(others).await;
        assert!(told.iter().all(|told| matches!(told, Ok(2))), "{told:?}");
        assert_eq!(sent.load(Ordering::SeqCst), 2);
        answers.add_permits(1);
        assert_eq!(ask().await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_question_that_is_given_up_is_asked_again() {
        let newest = Newest::default();
        let mut never = Box::pin(newest.ask(std::future::pending));
        assert!(matches!(futures::poll!(&mut never), Poll::Pending));
        drop(never);
        assert_eq!(newest.ask(async || Ok(7)).await.unwrap(), 7);
    }
}
