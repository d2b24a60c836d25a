use std::time::Instant;

use jiff::Timestamp;
use model::{KeyId, Secret, TeamId};
use sha2::{Digest, Sha256};
use sqlx::FromRow;

use crate::key_cache::KeyHash;
use crate::team::{TeamRow, check_name};
use crate::{Catalog, CatalogError, Team, time};

/// What every API key starts with.
pub const KEY_PREFIX: &str = "e2b_";
/// Hexadecimal characters after the prefix: 160 random bits.
pub const KEY_HEX_CHARS: usize = 40;
/// How many characters of the random part are kept readable, so that people can tell their keys apart.
const SHOWN_AT_START: usize = 2;
const SHOWN_AT_END: usize = 4;

/// What is kept of a key's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMask {
    /// First characters of the random part.
    pub start: String,
    /// Last characters of the random part.
    pub end: String,
}

/// An API key as it is listed; the key itself is shown once, when it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its identifier.
    pub id: KeyId,
    /// What it is called.
    pub name: String,
    /// What is kept of its text.
    pub mask: KeyMask,
    /// When it was made.
    pub created_at: Timestamp,
}

#[derive(FromRow)]
struct KeyRow {
    id: String,
    name: String,
    mask_prefix: String,
    mask_suffix: String,
    created_at: i64,
}

impl KeyRow {
    fn read(self) -> Result<ApiKey, CatalogError> {
        Ok(ApiKey {
            id: self.id.parse().map_err(CatalogError::damaged("key id"))?,
            name: self.name,
            mask: KeyMask { start: self.mask_prefix, end: self.mask_suffix },
            created_at: time::read("key creation time", self.created_at)?,
        })
    }
}

impl Catalog {
    /// Makes a key. Its text is in the answer and nowhere else: the catalog keeps a hash and the mask.
    ///
    /// # Errors
    /// When the name cannot be used, the team is not there, or the catalog fails.
    pub async fn create_key(&self, team: &TeamId, name: &str) -> Result<(KeyId, Secret), CatalogError> {
        check_name("key name", name)?;
        let id = KeyId::random();
        let key = Secret::random(KEY_PREFIX, KEY_HEX_CHARS / 2);
        let random = &key.expose()[KEY_PREFIX.len()..];
        sqlx::query(
            "INSERT INTO api_keys (id, team_id, name, hash, mask_prefix, mask_suffix, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(id.as_str())
        .bind(team.as_str())
        .bind(name)
        .bind(hex(&hash(key.expose())))
        .bind(&random[..SHOWN_AT_START])
        .bind(&random[random.len() - SHOWN_AT_END..])
        .bind(time::now().as_microsecond())
        .execute(&self.writer)
        .await
        .map_err(CatalogError::query("make a key"))?;
        Ok((id, key))
    }

    /// The keys of a team, oldest first.
    ///
    /// # Errors
    /// When the catalog fails.
    pub async fn list_keys(&self, team: &TeamId) -> Result<Vec<ApiKey>, CatalogError> {
        sqlx::query_as::<_, KeyRow>(
            "SELECT id, name, mask_prefix, mask_suffix, created_at FROM api_keys WHERE team_id = $1
             ORDER BY created_at, id",
        )
        .bind(team.as_str())
        .fetch_all(&self.reader)
        .await
        .map_err(CatalogError::query("list the keys"))?
        .into_iter()
        .map(KeyRow::read)
        .collect()
    }

    /// Deletes a key of a team: at once in this process, within [`crate::KEY_CACHE_TTL`] in others. `false` when the
    /// team has no such key.
    ///
    /// # Errors
    /// When the catalog fails.
    pub async fn delete_key(&self, team: &TeamId, key: &KeyId) -> Result<bool, CatalogError> {
        let done = sqlx::query("DELETE FROM api_keys WHERE id = $1 AND team_id = $2")
            .bind(key.as_str())
            .bind(team.as_str())
            .execute(&self.writer)
            .await
            .map_err(CatalogError::query("delete a key"))?;
        self.keys.clear();
        Ok(done.rows_affected() > 0)
    }

    /// Whose key this is; `None` when it is nobody's.
    ///
    /// # Errors
    /// When the catalog fails.
    pub async fn team_by_key(&self, key: &str) -> Result<Option<Team>, CatalogError> {
        if !has_key_form(key) {
            return Ok(None);
        }
        let hash = hash(key);
        if let Some(team) = self.keys.get(&hash) {
            return Ok(Some(team));
        }
        let (generation, asked) = (self.keys.generation(), Instant::now());
        let team = sqlx::query_as::<_, TeamRow>(
            "SELECT t.id, t.slug, t.name, t.max_sandboxes, t.max_hours
             FROM api_keys k JOIN teams t ON t.id = k.team_id WHERE k.hash = $1",
        )
        .bind(hex(&hash))
        .fetch_optional(&self.reader)
        .await
        .map_err(CatalogError::query("check a key"))?
        .map(TeamRow::read)
        .transpose()?;
        if let Some(team) = &team {
            self.keys.put(generation, asked, hash, team.clone());
        }
        Ok(team)
    }
}

/// Keeps nonsense away from the database.
fn has_key_form(key: &str) -> bool {
    key.strip_prefix(KEY_PREFIX).is_some_and(|random| {
        random.len() == KEY_HEX_CHARS && random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn hash(key: &str) -> KeyHash {
    Sha256::digest(key.as_bytes()).into()
}

fn hex(hash: &KeyHash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_form_of_a_key_reaches_the_database() {
        let good = format!("e2b_{}", "0a".repeat(20));
        assert!(has_key_form(&good));
        for bad in ["", "e2b_", "e2b_zz", &good[1..], &good.to_uppercase(), &format!("{good}0")] {
            assert!(!has_key_form(bad), "{bad}");
        }
    }

    #[test]
    fn the_hash_is_sha256_in_hexadecimal() {
        let text = hex(&hash("abc"));
        assert_eq!(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
