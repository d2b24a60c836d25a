//! `coldframe key`.

use std::path::Path;
use std::process::ExitCode;

use catalog::Catalog;

use crate::Outcome;
use crate::cli::Key;
use crate::state::StateDir;

pub(crate) fn run(command: &Key) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        match command {
            Key::Create { state, team, name } => create(&state.dir, team, name).await,
            Key::List { state } => list(&state.dir).await,
            Key::Delete { state, id } => delete(&state.dir, id).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn open(dir: &Path) -> Result<Catalog, String> {
    Catalog::open(&StateDir::open(dir)?.catalog()).await.map_err(|error| error.to_string())
}

async fn create(dir: &Path, team: &str, name: &str) -> Result<(), String> {
    let catalog = open(dir).await?;
    let team = catalog.ensure_team(team).await.map_err(|error| error.to_string())?;
    let (_, key) = catalog.create_key(&team.id, name).await.map_err(|error| error.to_string())?;
    println!("{}", key.expose());
    Ok(())
}

async fn list(dir: &Path) -> Result<(), String> {
    let catalog = open(dir).await?;
    println!("{:<22} {:<16} {:<20} CREATED", "ID", "TEAM", "NAME");
    for (team, key) in catalog.all_keys().await.map_err(|error| error.to_string())? {
        println!("{:<22} {:<16} {:<20} {}", key.id, team.slug, key.name, key.created_at);
    }
    Ok(())
}

async fn delete(dir: &Path, id: &str) -> Result<(), String> {
    let id = id.parse().map_err(|error| format!("{id}: {error}"))?;
    match open(dir).await?.delete_key(&id).await.map_err(|error| error.to_string())? {
        true => Ok(()),
        false => Err(format!("there is no key {id}; `coldframe key list` shows them")),
    }
}
