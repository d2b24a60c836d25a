//! Snapshots in a real file: their names, their lists, and what is left when they go.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::ops::Deref;

use catalog::{
    Build, CatalogError, DeleteError, LookupError, NewSnapshot, Snapshot, SnapshotError, SnapshotFilter,
    Team, Template, TemplateName,
};
use jiff::Timestamp;
use model::{BuildId, MiB, SandboxId, Shape, TemplateId, VcpuCount};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

const SHAPE: Shape = Shape { vcpus: VcpuCount(2), memory: MiB(512), disk: MiB(4096) };

struct Scene {
    file: support::Scene,
    garden: Team,
    alpine: Team,
}

impl Deref for Scene {
    type Target = support::Scene;

    fn deref(&self) -> &support::Scene {
        &self.file
    }
}

impl Scene {
    async fn new() -> Self {
        let file = support::Scene::new().await;
        let garden = file.catalog.ensure_team("garden", "The garden").await.unwrap();
        let alpine = file.catalog.ensure_team("alpine", "The alpine house").await.unwrap();
        Self { file, garden, alpine }
    }

    /// Makes a snapshot of the first team; what comes back is as [`Catalog::put_snapshot`] gives it.
    async fn put(&self, wanted: Option<&str>) -> Result<(Snapshot, Vec<BuildId>), SnapshotError> {
        self.catalog.put_snapshot(&new(&self.garden, wanted)).await
    }

    /// The same, of which nothing is expected but to work.
    async fn made(&self, wanted: Option<&str>) -> Snapshot {
        self.put(wanted).await.unwrap().0
    }

    async fn delete(&self, team: &Team, text: &str) -> Result<Vec<BuildId>, DeleteError> {
        self.catalog.delete_template(&team.id, &name(text)).await
    }

    async fn list(&self, team: &Team, filter: &SnapshotFilter) -> Vec<Snapshot> {
        self.catalog.list_snapshots(&team.id, filter, None, 1000).await.unwrap()
    }

    async fn all(&self) -> Vec<Snapshot> {
        self.list(&self.garden, &SnapshotFilter::default()).await
    }

    async fn template(&self, owner: Option<&Team>, alias: &str) -> Template {
        let template = template(owner, alias);
        self.catalog.put_template(&template).await.unwrap();
        template
    }
}

fn name(text: &str) -> TemplateName {
    TemplateName::parse(text).unwrap()
}

fn build() -> Build {
    Build { id: BuildId::random(), shape: SHAPE, envd_version: model::ENVD_VERSION.into() }
}

fn new(team: &Team, wanted: Option<&str>) -> NewSnapshot {
    let name = wanted.map(name);
    NewSnapshot { team: team.id.clone(), name, source: SandboxId::random(), build: build() }
}

fn by_name(text: &str) -> SnapshotFilter {
    SnapshotFilter { source: None, name: Some(name(text)) }
}

fn template(owner: Option<&Team>, alias: &str) -> Template {
    Template {
        id: TemplateId::random(),
        team: owner.map(|team| team.id.clone()),
        team_slug: None,
        aliases: vec![alias.into()],
        public: owner.is_none(),
        build: BuildId::random(),
        shape: SHAPE,
        envd_version: model::ENVD_VERSION.into(),
        created_at: Timestamp::now(),
        updated_at: Timestamp::now(),
        build_count: 1,
        spawn_count: 0,
        last_spawned_at: None,
    }
}

#[tokio::test]
async fn a_snapshot_is_found_by_its_id_and_by_every_form_of_its_name() {
    let scene = Scene::new().await;
    let bare = scene.made(None).await;
    assert_eq!((bare.id(), bare.name()), (format!("{}:default", bare.template), None));
    let named = scene.made(Some("Rose")).await;
    assert_eq!(named.id(), "garden/rose:default");
    assert_eq!(named.name().as_deref(), Some("garden/rose:default"));
    let tagged = scene.made(Some("garden/lily:v1.2")).await;
    assert_eq!(tagged.id(), "garden/lily:v1.2");

    scene.catalog.close().await;
    let catalog = scene.another_process().await;
    for (snapshot, names) in [
        (&bare, vec![bare.id(), bare.template.to_string()]),
        (
            &named,
            vec!["rose".into(), "rose:default".into(), "garden/rose".into(), named.template.to_string()],
        ),
        (&tagged, vec![tagged.id(), "lily:v1.2".into(), format!("{}:v1.2", tagged.template)]),
    ] {
        for name in names {
            let found = catalog.template_by_name(&scene.garden.id, &name).await.unwrap();
            assert_eq!((&found.id, &found.build), (&snapshot.template, &snapshot.build), "{name}");
            assert_eq!((found.shape, found.team.as_ref()), (SHAPE, Some(&scene.garden.id)), "{name}");
            assert!(!found.public, "{name}");
        }
    }
    // It has no such tag, which is another thing than not to be there.
    for missing in ["lily", "garden/lily:v2"] {
        let refused = catalog.template_by_name(&scene.garden.id, missing).await;
        assert!(matches!(refused, Err(LookupError::TagNotFound { .. })), "{missing}: {refused:?}");
    }
    for name in [bare.id(), "garden/rose".into(), "garden/lily".into(), "garden/lily:v1.2".into()] {
        let refused = catalog.template_by_name(&scene.alpine.id, &name).await;
        assert!(matches!(refused, Err(LookupError::Forbidden(_))), "{name}: {refused:?}");
    }
}

#[tokio::test]
async fn snapshots_are_not_among_the_templates() {
    let scene = Scene::new().await;
    let rose = scene.template(Some(&scene.garden), "rose").await;
    scene.made(None).await;
    scene.made(Some("lily")).await;
    let listed = scene.catalog.list_templates(&scene.garden.id).await.unwrap();
    assert_eq!(listed.iter().map(|template| &template.id).collect::<Vec<_>>(), [&rose.id]);
    assert_eq!(scene.all().await.len(), 2);
}

#[tokio::test]
async fn another_snapshot_of_the_same_name_takes_its_place() {
    let scene = Scene::new().await;
    let first = scene.made(Some("rose")).await;
    let bystander = scene.made(Some("rose:other")).await;
    let (second, unnamed) = scene.put(Some("garden/rose")).await.unwrap();
    assert_eq!(unnamed, std::slice::from_ref(&first.build));
    assert_eq!((&second.template, second.id()), (&first.template, first.id()));
    assert_ne!((&second.build, &second.source), (&first.build, &first.source));
    assert_eq!(bystander.template, first.template);
    let found = scene.catalog.template_by_name(&scene.garden.id, "rose").await.unwrap();
    assert_eq!((found.build, found.build_count), (second.build.clone(), 2));
    assert_eq!(found.updated_at, second.made_at);
    assert_eq!(scene.all().await, [second, bystander]);
}

#[tokio::test]
async fn an_unnamed_one_may_be_made_anew_by_its_id() {
    let scene = Scene::new().await;
    let first = scene.made(None).await;
    let (second, unnamed) = scene.put(Some(&first.id())).await.unwrap();
    assert_eq!(unnamed, std::slice::from_ref(&first.build));
    assert_eq!((second.id(), second.name()), (first.id(), None));
    assert_eq!(scene.all().await, [second]);
}

#[tokio::test]
async fn names_that_a_snapshot_cannot_have_change_nothing() {
    let scene = Scene::new().await;
    let own = scene.template(Some(&scene.garden), "rose").await;
    let built_in = scene.template(None, "base").await;
    let theirs = scene.catalog.put_snapshot(&new(&scene.alpine, Some("edelweiss"))).await.unwrap().0;
    for taken in
        ["rose", "garden/rose", "rose:v9", own.id.as_str(), "base", "garden/base", built_in.id.as_str()]
    {
        let early = scene.catalog.check_snapshot_name(&scene.garden.id, &name(taken)).await;
        assert!(matches!(early, Err(SnapshotError::NameTaken(_))), "{taken}: {early:?}");
        let refused = scene.put(Some(taken)).await;
        assert!(matches!(refused, Err(SnapshotError::NameTaken(_))), "{taken}: {refused:?}");
    }
    let by_id = scene.put(Some(theirs.template.as_str())).await;
    assert!(matches!(by_id, Err(SnapshotError::NameTaken(_))), "{by_id:?}");
    for foreign in ["alpine/edelweiss", "alpine/new", "nobody/new:v1"] {
        let refused = scene.put(Some(foreign)).await;
        assert!(matches!(refused, Err(SnapshotError::ForeignNamespace { .. })), "{foreign}: {refused:?}");
    }
    assert!(scene.all().await.is_empty());
    assert_eq!(scene.catalog.named_builds().await.unwrap().len(), 3);
    // What another team calls its own is free here.
    scene.catalog.check_snapshot_name(&scene.garden.id, &name("edelweiss")).await.unwrap();
    assert_ne!(scene.made(Some("edelweiss")).await.template, theirs.template);
    // And a template cannot take a snapshot's name.
    let refused = scene.catalog.put_template(&template(Some(&scene.garden), "edelweiss")).await;
    assert!(matches!(refused, Err(CatalogError::AliasTaken { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_build_that_is_another_templates_is_refused_whole() {
    let scene = Scene::new().await;
    let rose = scene.template(Some(&scene.garden), "rose").await;
    let stolen = NewSnapshot {
        build: Build { id: rose.build.clone(), ..build() },
        ..new(&scene.garden, Some("lily"))
    };
    let refused = scene.catalog.put_snapshot(&stolen).await;
    let Err(SnapshotError::Storage(CatalogError::BadName { .. })) = refused else { panic!("{refused:?}") };
    let missing = scene.catalog.template_by_name(&scene.garden.id, "lily").await;
    assert!(matches!(missing, Err(LookupError::NotFound(_))), "half of a snapshot was written");
}

#[tokio::test]
async fn lists_by_source_and_by_name_newest_first() {
    let scene = Scene::new().await;
    let bare = scene.made(None).await;
    let default = scene.made(Some("rose")).await;
    let tagged = scene.made(Some("rose:v1")).await;
    scene.catalog.put_snapshot(&new(&scene.alpine, Some("rose"))).await.unwrap();
    scene.template(None, "base").await;
    assert_eq!(scene.all().await, [tagged.clone(), default.clone(), bare.clone()]);
    for (text, found) in [
        ("rose", vec![&tagged, &default]),
        ("garden/rose", vec![&tagged, &default]),
        ("rose:default", vec![&default]),
        ("ROSE:v1", vec![&tagged]),
        ("rose:v2", vec![]),
        ("lily", vec![]),
        ("base", vec![]),
        (bare.template.as_str(), vec![&bare]),
        (bare.id().as_str(), vec![&bare]),
        (tagged.template.as_str(), vec![&tagged, &default]),
    ] {
        let listed = scene.list(&scene.garden, &by_name(text)).await;
        assert_eq!(listed.iter().collect::<Vec<_>>(), found, "{text}");
    }
    let of = |source: &SandboxId| SnapshotFilter { source: Some(source.clone()), name: None };
    assert_eq!(scene.list(&scene.garden, &of(&tagged.source)).await, std::slice::from_ref(&tagged));
    assert!(scene.list(&scene.garden, &of(&SandboxId::random())).await.is_empty());
    assert!(scene.list(&scene.alpine, &of(&tagged.source)).await.is_empty());
    assert!(scene.list(&scene.alpine, &by_name(bare.template.as_str())).await.is_empty());
    let both = SnapshotFilter { source: Some(bare.source.clone()), ..by_name("rose") };
    assert!(scene.list(&scene.garden, &both).await.is_empty());
    let foreign =
        scene.catalog.list_snapshots(&scene.garden.id, &by_name("alpine/rose"), None, 9).await.unwrap_err();
    assert!(matches!(foreign, SnapshotError::ForeignNamespace { .. }), "{foreign}");
}

#[tokio::test]
async fn pages_have_everything_once_also_when_all_were_made_at_one_moment() {
    let scene = Scene::new().await;
    for n in 0..23 {
        scene.made(Some(&format!("n{}:t{}", n / 3, n % 3))).await;
    }
    for one_moment in [false, true] {
        if one_moment {
            change(&scene, "UPDATE template_tags SET created_at = 1").await;
        }
        let everything = scene.all().await;
        assert_eq!(everything.len(), 23);
        let mut seen: Vec<Snapshot> = Vec::new();
        loop {
            let after = seen.last().map(Snapshot::position);
            let filter = SnapshotFilter::default();
            let page =
                scene.catalog.list_snapshots(&scene.garden.id, &filter, after.as_ref(), 5).await.unwrap();
            let full = page.len() == 5;
            seen.extend(page);
            if !full {
                break;
            }
        }
        assert_eq!(seen, everything);
    }
    // A page goes on after its last one even when that is gone.
    let second = scene.all().await[1].clone();
    scene.delete(&scene.garden, &second.id()).await.unwrap();
    let filter = SnapshotFilter::default();
    let rest =
        scene.catalog.list_snapshots(&scene.garden.id, &filter, Some(&second.position()), 99).await.unwrap();
    assert_eq!(rest.len(), 21);
}

#[tokio::test]
async fn what_is_deleted_gives_back_the_builds_that_nobody_names() {
    let scene = Scene::new().await;
    let bare = scene.made(None).await;
    let default = scene.made(Some("rose")).await;
    let tagged = scene.made(Some("rose:v1")).await;
    let stays = scene.made(Some("lily")).await;
    assert_eq!(scene.delete(&scene.garden, &bare.id()).await.unwrap(), std::slice::from_ref(&bare.build));
    // By one tag: the other stays.
    assert_eq!(scene.delete(&scene.garden, "rose:v1").await.unwrap(), std::slice::from_ref(&tagged.build));
    assert_eq!(scene.list(&scene.garden, &by_name("rose")).await, std::slice::from_ref(&default));
    assert_eq!(
        scene.delete(&scene.garden, "garden/rose:default").await.unwrap(),
        std::slice::from_ref(&default.build)
    );
    // With its last tag the name is free: a template may have it.
    scene.template(Some(&scene.garden), "rose").await;
    assert_eq!(scene.all().await, std::slice::from_ref(&stays));

    // By the bare name: all tags.
    let other = scene.made(Some("lily:v1")).await;
    let mut gone = scene.delete(&scene.garden, "lily").await.unwrap();
    gone.sort();
    let mut expected = vec![stays.build, other.build];
    expected.sort();
    assert_eq!(gone, expected);
    assert!(scene.all().await.is_empty());
    for again in [bare.id().as_str(), "lily", "lily:v1", "garden/lily"] {
        let refused = scene.delete(&scene.garden, again).await;
        assert!(matches!(refused, Err(DeleteError::NotFound(_))), "{again}: {refused:?}");
    }
}

#[tokio::test]
async fn a_build_that_has_another_tag_stays() {
    let scene = Scene::new().await;
    let first = NewSnapshot { build: build(), ..new(&scene.garden, Some("rose:a")) };
    let second = NewSnapshot { name: Some(name("rose:b")), ..first.clone() };
    scene.catalog.put_snapshot(&first).await.unwrap();
    assert!(scene.catalog.put_snapshot(&second).await.unwrap().1.is_empty());
    // Moving one of its tags away, or writing the same again, does not make it nobody's.
    assert!(scene.catalog.put_snapshot(&second).await.unwrap().1.is_empty());
    assert!(scene.put(Some("rose:a")).await.unwrap().1.is_empty());
    assert_eq!(scene.delete(&scene.garden, "rose:b").await.unwrap(), [first.build.id]);
}

#[tokio::test]
async fn what_a_team_cannot_delete() {
    let scene = Scene::new().await;
    let built_in = scene.template(None, "base").await;
    let theirs = scene.catalog.put_snapshot(&new(&scene.alpine, Some("edelweiss:v1"))).await.unwrap().0;
    let mut public = template(Some(&scene.alpine), "gentian");
    public.public = true;
    scene.catalog.put_template(&public).await.unwrap();
    let before = scene.catalog.named_builds().await.unwrap();
    for text in ["base", "base:default", "base:v9", built_in.id.as_str()] {
        let refused = scene.delete(&scene.garden, text).await;
        assert!(matches!(refused, Err(DeleteError::BuiltIn(_))), "{text}: {refused:?}");
    }
    for text in [
        "edelweiss",
        "alpine/edelweiss:v1",
        "alpine/gentian",
        theirs.template.as_str(),
        public.id.as_str(),
        "nothing",
    ] {
        let refused = scene.delete(&scene.garden, text).await;
        assert!(matches!(refused, Err(DeleteError::NotFound(_))), "{text}: {refused:?}");
    }
    let refused = scene.delete(&scene.alpine, "edelweiss:v2").await;
    assert!(matches!(refused, Err(DeleteError::TagNotFound { .. })), "{refused:?}");
    assert_eq!(scene.catalog.named_builds().await.unwrap(), before);
}

#[tokio::test]
async fn a_template_goes_with_its_earlier_builds() {
    let scene = Scene::new().await;
    let rose = scene.template(Some(&scene.garden), "rose").await;
    let next = build();
    scene.catalog.set_default_build(&rose.id, &next).await.unwrap();
    let mut gone = scene.delete(&scene.garden, "rose").await.unwrap();
    gone.sort();
    let mut expected = vec![rose.build, next.id];
    expected.sort();
    assert_eq!(gone, expected);
    assert!(scene.catalog.list_templates(&scene.garden.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn every_build_that_a_name_leads_to_is_named_once() {
    let scene = Scene::new().await;
    assert!(scene.catalog.named_builds().await.unwrap().is_empty());
    let base = scene.template(None, "base").await;
    let next = build();
    scene.catalog.set_default_build(&base.id, &next).await.unwrap();
    let snapshot = scene.made(None).await;
    let replaced = scene.made(Some("rose")).await;
    let replacing = scene.made(Some("rose")).await;
    let theirs = scene.catalog.put_snapshot(&new(&scene.alpine, None)).await.unwrap().0;
    let mut expected =
        [&base.build, &next.id, &snapshot.build, &replacing.build, &theirs.build].map(Clone::clone);
    expected.sort();
    let named = scene.another_process().await.named_builds().await.unwrap();
    assert_eq!(named, expected);
    assert!(!named.contains(&replaced.build));

    let names = scene.catalog.build_names().await.unwrap();
    let of = |build: &BuildId| {
        let mut found = names.iter().filter(|named| named.build == *build);
        let first = found.next().map(|named| (named.name.clone(), named.snapshot));
        assert!(found.next().is_none(), "one name each");
        first
    };
    assert_eq!(of(&next.id), Some(("base:default".into(), false)));
    assert_eq!(of(&base.build), None, "nothing leads to an earlier build of a template");
    assert_eq!(of(&replacing.build), Some(("garden/rose:default".into(), true)));
    let (unnamed, is_snapshot) = of(&snapshot.build).unwrap();
    assert!(is_snapshot && unnamed.starts_with("garden/") && unnamed.ends_with(":default"), "{unnamed}");
}

#[tokio::test]
async fn many_at_once_under_one_name_from_two_processes_leave_one() {
    let scene = Scene::new().await;
    let elsewhere = scene.another_process().await;
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let catalog = if n % 2 == 0 { scene.catalog.clone() } else { elsewhere.clone() };
            let wanted = new(&scene.garden, Some("rose"));
            tokio::spawn(
                async move { (wanted.build.id.clone(), catalog.put_snapshot(&wanted).await.unwrap().1) },
            )
        })
        .collect();
    let (mut made, mut unnamed) = (Vec::new(), Vec::new());
    for task in tasks {
        let (build, replaced) = task.await.unwrap();
        made.push(build);
        unnamed.extend(replaced);
    }
    let left = scene.all().await;
    assert_eq!(left.len(), 1);
    unnamed.push(left[0].build.clone());
    unnamed.sort();
    made.sort();
    assert_eq!(unnamed, made, "each is either the one that is left or was given back once");
}

/// Changes the file as no Coldframe does.
async fn change(scene: &Scene, statement: &'static str) {
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(scene.path())).await.unwrap();
    sqlx::query(statement).execute(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn a_catalog_from_before_snapshots_keeps_its_templates_as_templates() {
    let scene = Scene::new().await;
    let rose = scene.template(Some(&scene.garden), "rose").await;
    scene.catalog.close().await;
    for statement in [
        "DROP INDEX template_tags_by_build",
        "ALTER TABLE builds DROP COLUMN source_sandbox",
        "ALTER TABLE templates DROP COLUMN snapshot",
        "DELETE FROM _sqlx_migrations WHERE version = 3",
    ] {
        change(&scene, statement).await;
    }
    let newer = scene.another_process().await;
    let listed = newer.list_templates(&scene.garden.id).await.unwrap();
    assert_eq!(listed.iter().map(|template| &template.id).collect::<Vec<_>>(), [&rose.id]);
    assert!(
        newer.list_snapshots(&scene.garden.id, &SnapshotFilter::default(), None, 9).await.unwrap().is_empty()
    );
    newer.put_snapshot(&new(&scene.garden, Some("lily"))).await.unwrap();
}
