//! Who a key belongs to, remembered for a moment so that a burst of requests asks the database once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Team;

/// How long an answer is used again. A key deleted by another process stops working within this time; the promise to
/// users is one second.
pub const KEY_CACHE_TTL: Duration = Duration::from_millis(500);
/// Keys remembered at once. Only keys that exist get in, so strangers cannot fill it.
const MAX_ENTRIES: usize = 1024;

/// SHA-256 of a whole key.
pub(crate) type KeyHash = [u8; 32];

#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// Grows with every [`KeyCache::clear`]: an answer read before a deletion must not be stored after it.
    generation: u64,
    by_hash: HashMap<KeyHash, (Instant, Team)>,
}

impl KeyCache {
    pub(crate) fn get(&self, hash: &KeyHash) -> Option<Team> {
        let entries = self.lock();
        let (since, team) = entries.by_hash.get(hash)?;
        (since.elapsed() < KEY_CACHE_TTL).then(|| team.clone())
    }

    /// To be called before the database is asked, and given to [`KeyCache::put`] with the answer.
    pub(crate) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Remembers an answer that was true at `asked`.
    pub(crate) fn put(&self, generation: u64, asked: Instant, hash: KeyHash, team: Team) {
        let mut entries = self.lock();
        if entries.generation != generation {
            return;
        }
        if entries.by_hash.len() >= MAX_ENTRIES {
            entries.by_hash.retain(|_, (since, _)| since.elapsed() < KEY_CACHE_TTL);
        }
        if entries.by_hash.len() < MAX_ENTRIES {
            entries.by_hash.insert(hash, (asked, team));
        }
    }

    pub(crate) fn clear(&self) {
        let mut entries = self.lock();
        entries.generation += 1;
        entries.by_hash.clear();
    }

    /// No code panics while it holds the lock, and if it did, the map would still be whole.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use model::TeamId;

    use super::*;
    use crate::DEFAULT_LIMITS;

    fn team() -> Team {
        Team { id: TeamId::random(), slug: "t".into(), name: "T".into(), limits: DEFAULT_LIMITS }
    }

    fn hash(n: usize) -> KeyHash {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&n.to_le_bytes());
        hash
    }

    #[test]
    fn an_answer_is_used_until_it_is_old() {
        let cache = KeyCache::default();
        cache.put(cache.generation(), Instant::now(), hash(1), team());
        assert!(cache.get(&hash(1)).is_some());
        let old = Instant::now().checked_sub(KEY_CACHE_TTL).unwrap();
        cache.put(cache.generation(), old, hash(1), team());
        assert!(cache.get(&hash(1)).is_none());
    }

    #[test]
    fn an_answer_from_before_a_deletion_is_not_stored_after_it() {
        let cache = KeyCache::default();
        let generation = cache.generation();
        cache.clear();
        cache.put(generation, Instant::now(), hash(1), team());
        assert!(cache.get(&hash(1)).is_none());
    }

    #[test]
    fn it_never_holds_more_than_its_limit_and_makes_room_from_old_answers() {
        let cache = KeyCache::default();
        let old = Instant::now().checked_sub(KEY_CACHE_TTL).unwrap();
        for n in 0..MAX_ENTRIES {
            cache.put(0, old, hash(n), team());
        }
        for n in 0..2 * MAX_ENTRIES {
            cache.put(0, Instant::now(), hash(n), team());
        }
        assert_eq!(cache.lock().by_hash.len(), MAX_ENTRIES);
        assert!(cache.get(&hash(0)).is_some());
    }
}
