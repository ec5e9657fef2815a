//! Waiting for a condition, for tests and set-up: with a limit, and with the last observation in the error.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How often a condition is looked at. Short, since the wait is part of what a user of `up` sees.
const INTERVAL: Duration = Duration::from_millis(20);

/// Calls `probe` until it returns `Ok`, at most for `limit`.
///
/// # Errors
/// After `limit`: what was waited for and what the last look said.
pub fn until<T, E: Display>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => {
                bail!("waited {} s for {what}: {error:#}", limit.as_secs());
            }
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}
