//! `coldframe key`.

use std::path::Path;
use std::process::ExitCode;

use catalog::Catalog;

use crate::Outcome;
use crate::cli::Key;
use crate::state::StateDir;

pub(crate) fn run(command: &Key) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
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
    let team = catalog.ensure_team(team, team).await.map_err(|error| error.to_string())?;
    let (_, key) = catalog.create_key(&team.id, name).await.map_err(|error| error.to_string())?;
    println!("{}", key.expose());
    Ok(())
}

async fn list(dir: &Path) -> Result<(), String> {
    let catalog = open(dir).await?;
    println!("{:<22} {:<16} {:<20} {:<14} CREATED", "ID", "TEAM", "NAME", "KEY");
    for team in catalog.list_teams().await.map_err(|error| error.to_string())? {
        for key in catalog.list_keys(&team.id).await.map_err(|error| error.to_string())? {
            let shown = format!("e2b_{}...{}", key.mask.start, key.mask.end);
            println!("{:<22} {:<16} {:<20} {shown:<14} {}", key.id, team.slug, key.name, key.created_at);
        }
    }
    Ok(())
}

async fn delete(dir: &Path, id: &str) -> Result<(), String> {
    let id: model::KeyId = id.parse().map_err(|error| format!("{id}: {error}"))?;
    let catalog = open(dir).await?;
    for team in catalog.list_teams().await.map_err(|error| error.to_string())? {
        if catalog.delete_key(&team.id, &id).await.map_err(|error| error.to_string())? {
            return Ok(());
        }
    }
    Err(format!("there is no key {id}; `coldframe key list` shows them"))
}
