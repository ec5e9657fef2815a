//! Counting probe answers: when a run of them becomes the result. Pure.

use k8s_openapi::api::core::v1::Probe;

use super::ProbeKind;

/// The count of one probe of one container instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProbeState {
    kind: ProbeKind,
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
}

/// What an answer leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Below the threshold: the result stays what it is; go on.
    Undecided,
    /// This is the result now; go on.
    Decided(bool),
    /// This is the result, and there is nothing more to ask this instance: it has started, or is to be killed.
    Final(bool),
}

impl ProbeState {
    /// A count at its start.
    pub(super) fn new(kind: ProbeKind, probe: &Probe) -> Self {
        let threshold = |value: Option<i32>, default| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        Self {
            kind,
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, 3),
            last: None,
            run: 0,
        }
    }

    /// Counts one answer.
    pub(super) fn observe(&mut self, success: bool) -> Step {
        self.run = if self.last == Some(success) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = Some(success);
        let threshold = if success {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        if self.run < threshold {
            return Step::Undecided;
        }
        match (self.kind, success) {
            // Asking a container that is being killed can only do harm.
            (ProbeKind::Liveness | ProbeKind::Startup, false) | (ProbeKind::Startup, true) => {
                Step::Final(success)
            }
            _ => Step::Decided(success),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows follow upstream's `TestFailureThreshold`, `TestSuccessThreshold`, `TestOnHoldOnLivenessOrStartupCheckFailure`.
    #[test]
    fn thresholds() {
        use ProbeKind::{Liveness, Readiness, Startup};
        use Step::{Decided, Final, Undecided};
        let check = |kind, success, failure, answers: &[(bool, Step)]| {
            let probe = Probe {
                success_threshold: Some(success),
                failure_threshold: Some(failure),
                ..Default::default()
            };
            let mut state = ProbeState::new(kind, &probe);
            for (index, (answer, expect)) in answers.iter().enumerate() {
                assert_eq!(
                    state.observe(*answer),
                    *expect,
                    "{kind} {success}/{failure}, answer {index}"
                );
            }
        };
        check(
            Readiness,
            1,
            1,
            &[
                (true, Decided(true)),
                (false, Decided(false)),
                (true, Decided(true)),
            ],
        );
        check(
            Readiness,
            1,
            3,
            &[
                (true, Decided(true)),
                (false, Undecided),
                (false, Undecided),
                (false, Decided(false)),
                (false, Decided(false)),
                (true, Decided(true)),
            ],
        );
        check(
            Readiness,
            3,
            1,
            &[
                (true, Undecided),
                (true, Undecided),
                (false, Decided(false)),
                (true, Undecided),
                (true, Undecided),
                (true, Decided(true)),
            ],
        );
        check(
            Liveness,
            1,
            2,
            &[
                (false, Undecided),
                (true, Decided(true)),
                (false, Undecided),
                (false, Final(false)),
            ],
        );
        check(Startup, 1, 2, &[(false, Undecided), (true, Final(true))]);
        check(Startup, 1, 2, &[(false, Undecided), (false, Final(false))]);
        check(
            Liveness,
            0,
            0,
            &[(false, Undecided), (false, Undecided), (false, Final(false))],
        );
    }
}
