//! Samples of what a sandbox uses, kept in memory for as long as a sandbox may live.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use model::MetricSample;
use tokio::time::MissedTickBehavior;

use crate::guest::Guest;

const PERIOD: Duration = Duration::from_secs(5);
/// A day of samples, about a megabyte.
const MAX_SAMPLES: usize = 24 * 3600 / 5;

/// The kept samples, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Samples(RefCell<VecDeque<MetricSample>>);

impl Samples {
    pub(crate) fn all(&self) -> Vec<MetricSample> {
        self.0.borrow().iter().copied().collect()
    }

    fn push(&self, sample: MetricSample) {
        let mut samples = self.0.borrow_mut();
        if samples.len() == MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}

/// Takes a sample now and every five seconds, for ever.
pub(crate) async fn run(guest: Guest, samples: Rc<Samples>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match guest.metrics().await {
            Ok(sample) => samples.push(sample),
            // A busy guest misses a sample; the gap is what the client sees.
            Err(error) => tracing::debug!(error, "no metrics from the guest"),
        }
    }
}
