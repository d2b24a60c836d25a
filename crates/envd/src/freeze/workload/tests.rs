use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// A group that stops when it has been looked at so many times.
#[derive(Debug, Clone, Default)]
struct Fake(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    asked: AtomicBool,
    looks_needed: AtomicUsize,
    refuses_freeze: AtomicBool,
    refuses_thaw: AtomicBool,
    thaws: AtomicUsize,
}

impl Freezable for Fake {
    fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        if !frozen {
            self.0.thaws.fetch_add(1, Ordering::SeqCst);
        }
        let refuses = if frozen { &self.0.refuses_freeze } else { &self.0.refuses_thaw };
        if refuses.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.0.asked.store(frozen, Ordering::SeqCst);
        Ok(())
    }

    fn is_frozen(&self) -> io::Result<bool> {
        let left = &self.0.looks_needed;
        let stopped =
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err();
        Ok(stopped && self.0.asked.load(Ordering::SeqCst))
    }
}

fn workload(groups: [Option<&Fake>; 2]) -> Arc<Workload> {
    let part = |fake: &Fake| Part(Box::new(fake.clone()));
    Arc::new(Workload::new(vec![("user", groups[0].map(part)), ("ptys", groups[1].map(part))]))
}

async fn freeze(workload: &Arc<Workload>, milliseconds: u64) -> Report {
    let wait = Some(Duration::from_millis(milliseconds));
    Arc::clone(workload).freeze(wait, || panic!("nobody forgot")).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_is_reported() {
    let (quick, slow) = (Fake::default(), Fake::default());
    slow.0.looks_needed.store(10, Ordering::SeqCst);
    let workload = workload([Some(&quick), Some(&slow)]);
    let report = freeze(&workload, 2000).await;
    assert_eq!((report.mode, report.requested, report.frozen, report.not_frozen), ("legacy", 2, 2, 0));
    assert!(report.wait_ms >= 18 && report.wait_ms < 100, "{report:?}");
    assert!(workload.is_frozen());
    workload.thaw().unwrap();
    slow.0.looks_needed.store(usize::MAX, Ordering::SeqCst);
    let report = freeze(&workload, 100).await;
    assert_eq!((report.frozen, report.not_frozen, report.failed), (1, 1, 0));
    assert!((100..120).contains(&report.wait_ms), "{report:?}");
    slow.0.refuses_freeze.store(true, Ordering::SeqCst);
    let report = freeze(&workload, 100).await;
    assert_eq!((report.requested, report.frozen, report.not_frozen, report.failed), (1, 1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn groups_that_do_not_exist_cannot_be_seen() {
    let begin = Instant::now();
    let workload = workload([None, None]);
    let report = freeze(&workload, 2000).await;
    let expected = Report { mode: "legacy", requested: 2, unobservable: 2, ..Report::default() };
    assert_eq!(report, expected);
    assert!(begin.elapsed() < Duration::from_millis(100));
    workload.thaw().unwrap();
    let names = serde_json::to_value(report).unwrap();
    assert_eq!(
        names,
        serde_json::json!({
            "mode": "legacy", "visited": 0, "allowlisted": 0, "truncated": false, "preFrozen": 0, "requested": 2,
            "frozen": 0, "notFrozen": 0, "failed": 0, "unobservable": 2, "sweepMs": 0, "waitMs": 0
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_thaw_is_attempted_for_all() {
    let (first, second) = (Fake::default(), Fake::default());
    let workload = workload([Some(&first), Some(&second)]);
    freeze(&workload, 10).await;
    first.0.refuses_thaw.store(true, Ordering::SeqCst);
    let error = workload.thaw().unwrap_err().to_string();
    assert!(error.contains("group user: permission denied"), "{error}");
    assert_eq!((first.0.thaws.load(Ordering::SeqCst), second.0.thaws.load(Ordering::SeqCst)), (1, 1));
    assert!(!second.0.asked.load(Ordering::SeqCst));
    // There is still something to do.
    assert!(workload.is_frozen());
    first.0.refuses_thaw.store(false, Ordering::SeqCst);
    workload.thaw().unwrap();
    assert!(!workload.is_frozen() && !first.0.asked.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn one_freeze_at_a_time_and_a_thaw_ends_it() {
    let never = Fake::default();
    never.0.looks_needed.store(usize::MAX, Ordering::SeqCst);
    let workload = workload([Some(&never), None]);
    let waiting = tokio::spawn({
        let workload = Arc::clone(&workload);
        async move { freeze(&workload, 60_000).await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let begin = Instant::now();
    assert!(Arc::clone(&workload).freeze(None, || {}).await.is_err());
    assert_eq!(begin.elapsed(), LOCK_PATIENCE);
    workload.thaw().unwrap();
    let report = waiting.await.unwrap();
    assert_eq!((report.frozen, report.not_frozen), (0, 1));
    assert!(report.wait_ms < 3000, "{report:?}");
    assert!(!never.0.asked.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn nobody_stays_frozen_for_ever() {
    let group = Fake::default();
    let workload = workload([Some(&group), None]);
    let (said, forgotten) = tokio::sync::oneshot::channel();
    freeze(&workload, 1).await;
    // Begins anew.
    tokio::time::sleep(LONGEST / 2).await;
    let begin = Instant::now();
    Arc::clone(&workload).freeze(None, || said.send(()).unwrap()).await.unwrap();
    workload.running().await;
    assert!((LONGEST..LONGEST + Duration::from_secs(1)).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    forgotten.await.unwrap();
    assert!(!group.0.asked.load(Ordering::SeqCst) && !workload.is_frozen());
}
