//! The catalog against a real file.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use catalog::{Build, Catalog, CatalogError, LookupError, Team, TeamLimits, Template};
use jiff::Timestamp;
use model::{BuildId, MiB, Shape, TemplateId, VcpuCount};

use support::Scene;

const SHAPE: Shape = Shape { vcpus: VcpuCount(2), memory: MiB(512), disk: MiB(4096) };

impl Scene {
    async fn team(&self, slug: &str) -> Team {
        self.catalog.ensure_team(slug, slug).await.unwrap()
    }

    async fn put(&self, owner: Option<&Team>, aliases: &[&str]) -> Template {
        let template = template(owner, aliases);
        self.catalog.put_template(&template).await.unwrap();
        template
    }
}

fn template(owner: Option<&Team>, aliases: &[&str]) -> Template {
    let now = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap();
    Template {
        id: TemplateId::random(),
        team: owner.map(|team| team.id.clone()),
        team_slug: owner.map(|team| team.slug.clone()),
        aliases: aliases.iter().map(|&alias| alias.into()).collect(),
        public: owner.is_none(),
        build: BuildId::random(),
        shape: SHAPE,
        envd_version: model::ENVD_VERSION.into(),
        created_at: now,
        updated_at: now,
        build_count: 1,
        spawn_count: 0,
        last_spawned_at: None,
    }
}

#[tokio::test]
async fn the_files_are_private_and_survive_reopening() {
    let scene = Scene::new().await;
    let team = scene.team("garden").await;
    for file in std::fs::read_dir(scene.dir()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
    }
    scene.catalog.close().await;
    let again = scene.another_process().await;
    assert_eq!(again.team_by_slug("garden").await.unwrap(), Some(team.clone()));
    assert_eq!(again.team_by_id(&team.id).await.unwrap(), Some(team));
    assert_eq!(again.team_by_id(&model::TeamId::random()).await.unwrap(), None);
}

#[tokio::test]
async fn a_file_that_was_readable_by_others_is_closed_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    Catalog::open(&path).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_file_that_is_no_catalog_is_an_error_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    std::fs::write(&path, "this is not a database, it is a letter to my gardener".repeat(40)).unwrap();
    let error = Catalog::open(&path).await.unwrap_err().to_string();
    assert!(error.contains("catalog.db"), "{error}");
    let error = Catalog::open(&dir.path().join("missing/catalog.db")).await.unwrap_err();
    assert!(matches!(error, CatalogError::File { .. }), "{error}");
}

#[tokio::test]
async fn a_team_is_made_once() {
    let scene = Scene::new().await;
    let first = scene.team("garden").await;
    assert_eq!(scene.team("garden").await, first);
    let other = scene.team("alpine").await;
    assert_eq!(scene.catalog.list_teams().await.unwrap(), [other, first]);
    for bad in ["", "Upper", "a b", "a/b", "ä", &"a".repeat(64)] {
        let refused = scene.catalog.ensure_team(bad, "x").await;
        assert!(matches!(refused, Err(CatalogError::BadName { .. })), "{bad:?}");
    }
}

#[tokio::test]
async fn limits_change_at_the_next_question() {
    let scene = Scene::new().await;
    let team = scene.team("garden").await;
    let (_, key) = scene.catalog.create_key(&team.id, "k").await.unwrap();
    scene.catalog.team_by_key(key.expose()).await.unwrap().unwrap();
    let limits = TeamLimits { max_sandboxes: 3, max_hours: 1 };
    assert!(scene.catalog.set_team_limits(&team.id, limits).await.unwrap());
    assert_eq!(scene.catalog.team_by_key(key.expose()).await.unwrap().unwrap().limits, limits);
}

#[tokio::test]
async fn a_key_leads_to_its_team_and_its_text_is_nowhere_in_the_files() {
    let scene = Scene::new().await;
    let (garden, alpine) = (scene.team("garden").await, scene.team("alpine").await);
    let (id, key) = scene.catalog.create_key(&garden.id, "laptop").await.unwrap();
    assert_eq!(key.expose().len(), 44);
    assert!(key.expose().starts_with("e2b_"));
    assert_eq!(scene.catalog.team_by_key(key.expose()).await.unwrap(), Some(garden.clone()));
    assert_eq!(scene.catalog.team_by_key(&format!("e2b_{}", "0".repeat(40))).await.unwrap(), None);
    assert_eq!(scene.catalog.team_by_key("' OR 1=1 --").await.unwrap(), None);

    let listed = scene.catalog.list_keys(&garden.id).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].id, listed[0].name.as_str()), (&id, "laptop"));
    assert!(key.expose()[4..].starts_with(&listed[0].mask.start));
    assert!(key.expose().ends_with(&listed[0].mask.end));
    assert!(scene.catalog.list_keys(&alpine.id).await.unwrap().is_empty());

    let secret = &key.expose().as_bytes()[4..];
    for file in std::fs::read_dir(scene.dir()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

#[tokio::test]
async fn a_deleted_key_stops_working_at_once_here_and_within_a_second_elsewhere() {
    let scene = Scene::new().await;
    let elsewhere = scene.another_process().await;
    let (team, other) = (scene.team("garden").await, scene.team("alpine").await);
    let (id, key) = scene.catalog.create_key(&team.id, "k").await.unwrap();
    assert!(scene.catalog.team_by_key(key.expose()).await.unwrap().is_some());
    assert!(elsewhere.team_by_key(key.expose()).await.unwrap().is_some());

    assert!(!scene.catalog.delete_key(&other.id, &id).await.unwrap(), "another team must not delete it");
    assert!(scene.catalog.delete_key(&team.id, &id).await.unwrap());
    let deleted = Instant::now();
    assert!(scene.catalog.team_by_key(key.expose()).await.unwrap().is_none());
    while elsewhere.team_by_key(key.expose()).await.unwrap().is_some() {
        assert!(deleted.elapsed() < Duration::from_secs(1), "a deleted key still works after a second");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!scene.catalog.delete_key(&team.id, &id).await.unwrap());
}

#[tokio::test]
async fn a_template_is_found_by_every_name_it_has() {
    let scene = Scene::new().await;
    let team = scene.team("garden").await;
    let own = scene.put(Some(&team), &["rose", "tulip"]).await;
    let base = scene.put(None, &["base"]).await;
    for name in
        ["rose", "tulip", "ROSE", "garden/rose", "rose:default", "garden/tulip:default", own.id.as_str()]
    {
        assert_eq!(scene.catalog.template_by_name(&team.id, name).await.unwrap(), own, "{name}");
    }
    for name in ["base", "base:default", base.id.as_str()] {
        assert_eq!(scene.catalog.template_by_name(&team.id, name).await.unwrap().id, base.id, "{name}");
    }
}

#[tokio::test]
async fn a_team_sees_its_own_alias_before_the_built_in_one() {
    let scene = Scene::new().await;
    let (garden, alpine) = (scene.team("garden").await, scene.team("alpine").await);
    let built_in = scene.put(None, &["base"]).await;
    let own = scene.put(Some(&garden), &["base"]).await;
    assert_eq!(scene.catalog.template_by_name(&garden.id, "base").await.unwrap().id, own.id);
    assert_eq!(scene.catalog.template_by_name(&alpine.id, "base").await.unwrap().id, built_in.id);
}

#[tokio::test]
async fn another_teams_template_is_forbidden_until_it_is_public() {
    let scene = Scene::new().await;
    let (garden, alpine) = (scene.team("garden").await, scene.team("alpine").await);
    let mut theirs = scene.put(Some(&garden), &["rose"]).await;
    let by_id = theirs.id.to_string();
    for name in [by_id.as_str(), "garden/rose", "garden/rose:secret-tag"] {
        let refused = scene.catalog.template_by_name(&alpine.id, name).await;
        assert!(matches!(refused, Err(LookupError::Forbidden(_))), "{name}: {refused:?}");
    }
    let refused = scene.catalog.template_by_name(&alpine.id, "rose").await;
    assert!(matches!(refused, Err(LookupError::NotFound(_))), "{refused:?}");

    theirs.public = true;
    scene.catalog.put_template(&theirs).await.unwrap();
    assert_eq!(scene.catalog.template_by_name(&alpine.id, "garden/rose").await.unwrap(), theirs);
}

#[tokio::test]
async fn what_is_not_there_says_what_is_missing() {
    let scene = Scene::new().await;
    let team = scene.team("garden").await;
    scene.put(Some(&team), &["rose"]).await;
    for (name, text) in [
        ("lily", "template 'lily' not found"),
        ("garden/lily:v1", "template 'garden/lily' not found"),
        ("nobody/rose", "template 'nobody/rose' not found"),
        ("rose:v2", "tag 'v2' of template 'rose' not found"),
    ] {
        let error = scene.catalog.template_by_name(&team.id, name).await.unwrap_err();
        assert_eq!(error.to_string(), text);
    }
    let malformed = scene.catalog.template_by_name(&team.id, "a/b/c").await;
    assert!(matches!(malformed, Err(LookupError::Malformed(_))));
}

#[tokio::test]
async fn a_new_default_build_is_what_the_next_lookup_gives() {
    let scene = Scene::new().await;
    let team = scene.team("garden").await;
    let rose = scene.put(Some(&team), &["rose"]).await;
    let shape = Shape { memory: MiB(1024), ..SHAPE };
    let next = Build { id: BuildId::random(), shape, envd_version: "0.6.14".into() };
    assert!(scene.catalog.set_default_build(&rose.id, &next).await.unwrap());
    let found = scene.catalog.template_by_name(&team.id, "rose").await.unwrap();
    assert_eq!((found.build, found.shape, found.build_count), (next.id.clone(), shape, 2));
    assert_eq!(found.envd_version, "0.6.14");
    assert!(found.updated_at > rose.updated_at);

    assert!(!scene.catalog.set_default_build(&TemplateId::random(), &next).await.unwrap());
    let lily = scene.put(Some(&team), &["lily"]).await;
    let stolen = scene.catalog.set_default_build(&lily.id, &next).await;
    assert!(matches!(stolen, Err(CatalogError::BadName { .. })), "{stolen:?}");
    assert_eq!(scene.catalog.template_by_name(&team.id, "lily").await.unwrap().build, lily.build);
}

#[tokio::test]
async fn writing_a_template_again_keeps_its_counts_and_moves_its_aliases() {
    let scene = Scene::new().await;
    let team = scene.team("garden").await;
    let mut rose = scene.put(Some(&team), &["rose"]).await;
    scene.catalog.count_spawn(&rose.id).await.unwrap();
    scene.catalog.count_spawn(&rose.id).await.unwrap();
    rose.aliases = vec!["briar".into()];
    scene.catalog.put_template(&rose).await.unwrap();
    let found = scene.catalog.template_by_name(&team.id, "briar").await.unwrap();
    assert_eq!((found.spawn_count, found.build_count), (2, 1));
    assert!(found.last_spawned_at.is_some());
    assert!(scene.catalog.template_by_name(&team.id, "rose").await.is_err());
}

#[tokio::test]
async fn an_alias_has_one_holder_in_a_team() {
    let scene = Scene::new().await;
    let (garden, alpine) = (scene.team("garden").await, scene.team("alpine").await);
    let first = scene.put(Some(&garden), &["rose"]).await;
    scene.put(Some(&alpine), &["rose"]).await;
    let second = template(Some(&garden), &["lily", "rose"]);
    let refused = scene.catalog.put_template(&second).await;
    assert!(matches!(refused, Err(CatalogError::AliasTaken { holder, .. }) if holder == first.id.as_str()));
    let missing = scene.catalog.template_by_name(&garden.id, "lily").await;
    assert!(matches!(missing, Err(LookupError::NotFound(_))), "half of a template was written");
    for bad in ["", "Rose", "a/b", "a:b"] {
        let refused = scene.catalog.put_template(&template(Some(&garden), &[bad])).await;
        assert!(matches!(refused, Err(CatalogError::BadName { .. })), "{bad:?}");
    }
}

#[tokio::test]
async fn a_team_lists_its_own_templates_and_the_built_in_ones() {
    let scene = Scene::new().await;
    let (garden, alpine) = (scene.team("garden").await, scene.team("alpine").await);
    let base = scene.put(None, &["base"]).await;
    let rose = scene.put(Some(&garden), &["rose", "a-rose"]).await;
    scene.put(Some(&alpine), &["edelweiss"]).await;
    let listed = scene.catalog.list_templates(&garden.id).await.unwrap();
    let ids: Vec<_> = listed.iter().map(|template| &template.id).collect();
    assert_eq!(ids, [&rose.id, &base.id]);
    assert_eq!(listed[0].aliases, ["a-rose", "rose"]);
    assert_eq!(listed[0].team_slug.as_deref(), Some("garden"));
    assert!(listed[1].public && listed[1].team.is_none());
}

#[tokio::test]
async fn many_readers_and_writers_from_two_processes_get_along() {
    let scene = Scene::new().await;
    let elsewhere = scene.another_process().await;
    let team = scene.team("garden").await;
    let rose = scene.put(Some(&team), &["rose"]).await;
    let work = |catalog: &Catalog| {
        let (catalog, team, rose) = (catalog.clone(), team.id.clone(), rose.id.clone());
        tokio::spawn(async move {
            for _ in 0..10 {
                let (_, key) = catalog.create_key(&team, "k").await.unwrap();
                assert!(catalog.team_by_key(key.expose()).await.unwrap().is_some());
                catalog.template_by_name(&team, "rose").await.unwrap();
                catalog.count_spawn(&rose).await.unwrap();
            }
        })
    };
    let tasks: Vec<_> = (0..8).flat_map(|_| [work(&scene.catalog), work(&elsewhere)]).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(scene.catalog.list_keys(&team.id).await.unwrap().len(), 160);
    assert_eq!(scene.catalog.template_by_name(&team.id, "rose").await.unwrap().spawn_count, 160);
}
