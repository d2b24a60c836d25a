//! Which sources of a build are worth copying.
//!
//! Two things grow with every pause: what is kept for nothing, and the number of builds that are opened for an image. Both
//! are bounded, and so is the price, which is bytes that are written a second time:
//!
//! - **Space.** When the dead bytes are more than [`SPARE`] and a fifth of the live ones, the sources with the most dead
//!   bytes for each live one are copied until half of that is left. What is copied is live, and these have at least one dead
//!   byte for five live ones, so no more than five bytes are copied for each that is freed. A byte dies once, by a pause
//!   that writes in its place.
//! - **Number.** When there are more than [`MANY`] sources, all but the [`FEW`] largest are copied. As sources are merged
//!   with others of their size, a page is copied a logarithmic number of times however long the row of pauses is.
//!
//! This is how log-structured stores do it: the first is the cleaner of a log-structured file system with its choice by
//! benefit and cost, the second the size-tiered merge.
//!
//! Only sources that nobody else needs count. The others stay anyway: copying their pages would cost space instead of
//! freeing some.

use std::collections::BTreeSet;

use model::BuildId;

use crate::usage::Usage;

/// So many dead bytes are not worth anybody's time.
pub const SPARE: u64 = 4 << 20;
/// Beside these, one dead byte for so many live ones is allowed.
pub const LIVE_PER_DEAD: u64 = 5;
/// The most sources that only one build needs. Opening one takes some 20 microseconds, and an image is to open at the end
/// of a long row of pauses as it does at its start.
pub const MANY: usize = 12;
/// How many are left when there are more.
pub const FEW: usize = 3;

/// The sources that `build` should be made again without, in what it needs: see [`usage`](crate::usage()). `alone` says of
/// a source that nobody else needs it. None: it is good as it is.
#[must_use]
pub fn plan(build: &BuildId, sources: &[Usage], alone: impl Fn(&BuildId) -> bool) -> BTreeSet<BuildId> {
    let mut left: Vec<&Usage> =
        sources.iter().filter(|source| source.build != *build && alone(&source.build)).collect();
    let own = sources.iter().find(|source| source.build == *build).map_or(0, |own| own.used);
    let live = left.iter().fold(own, |live, source| live.saturating_add(source.used));
    let mut dead = left.iter().fold(0_u64, |dead, source| dead.saturating_add(source.dead()));
    let allowed = SPARE.saturating_add(live / LIVE_PER_DEAD);

    let mut without = BTreeSet::new();
    if dead > allowed {
        // The best at the end.
        left.sort_by(|a, b| worth(a).cmp(&worth(b)).then_with(|| a.build.cmp(&b.build)));
        while dead > allowed / 2
            && let Some(source) = left.pop()
        {
            dead = dead.saturating_sub(source.dead());
            without.insert(source.build.clone());
        }
    }
    if left.len() > MANY {
        left.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.build.cmp(&b.build)));
        without.extend(left.drain(FEW..).map(|source| source.build.clone()));
    }
    without
}

/// How many dead bytes are freed for each live one that is copied, as a number to compare.
fn worth(source: &Usage) -> u128 {
    (u128::from(source.dead()) << 64) / u128::from(source.used.max(1))
}
