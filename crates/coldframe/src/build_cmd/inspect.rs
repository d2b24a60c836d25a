//! `coldframe build inspect`: what a build is, where its pages are, and whether all of it is what was written.

use std::process::ExitCode;

use artifacts::{LocalStore, Store, load_header, load_manifest, verify};
use build::{Manifest, ObjectInfo, ObjectKind};
use model::BuildId;
use serde::Serialize;

use super::{names, range, size};
use crate::Outcome;
use crate::cli::Inspect;
use crate::state::StateDir;

/// All that there is to say.
#[derive(Serialize)]
struct Inspection {
    /// The whole manifest; `None` when it is damaged.
    manifest: Option<Manifest>,
    /// Of the images whose headers are whole.
    images: Vec<Image>,
    /// What is wrong, when that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Image {
    kind: ObjectKind,
    /// The size in pages of 4096 bytes.
    pages: u64,
    /// The pages that are stored in some build; all others are zero.
    stored: u64,
    /// How many images it was laid over.
    generation: u32,
    /// In how many pieces it is stored.
    extents: usize,
    /// Bytes of the data object of the build itself.
    own_bytes: u64,
    sources: Vec<Source>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

#[derive(Serialize)]
struct Source {
    build: BuildId,
    /// Pages of it that this image needs.
    needed: u64,
    /// Pages that it has.
    pages: u64,
}

/// Pages that follow each other in the image and in a data object.
#[derive(Serialize)]
struct Range {
    first: u64,
    pages: u64,
    build: BuildId,
    at: u64,
}

pub(super) fn run(options: &Inspect) -> Outcome {
    let state = StateDir::open(&options.state.dir)?;
    let store = LocalStore::open(&state.store()).map_err(|error| error.to_string())?;
    let build = names::find(&state, &store, &options.build)?;
    let inspection = if options.validate {
        let problems = verify(&store, &build).iter().map(ToString::to_string).collect();
        // What is damaged is among the problems.
        let manifest = load_manifest(&store, &build).ok();
        let images = manifest.iter().flat_map(images);
        let images = images.filter_map(|(kind, info)| image(&store, &build, kind, info, options.ranges).ok());
        Inspection { images: images.collect(), manifest, problems: Some(problems) }
    } else {
        let manifest = load_manifest(&store, &build).map_err(|error| error.to_string())?;
        let images = images(&manifest)
            .map(|(kind, info)| image(&store, &build, kind, info, options.ranges))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{error}; --validate shows all that is wrong"))?;
        Inspection { manifest: Some(manifest), images, problems: None }
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&inspection).map_err(|error| error.to_string())?);
    } else {
        print(&build, &inspection);
    }
    let whole = inspection.problems.is_none_or(|problems| problems.is_empty());
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn images(manifest: &Manifest) -> impl Iterator<Item = (ObjectKind, ObjectInfo)> + use<> {
    let memory = manifest.memory.map(|info| (ObjectKind::Memory, info));
    memory.into_iter().chain([(ObjectKind::Disk, manifest.disk)])
}

fn image(
    store: &dyn Store,
    build: &BuildId,
    kind: ObjectKind,
    info: ObjectInfo,
    with_ranges: bool,
) -> Result<Image, artifacts::ArtifactError> {
    let header = load_header(store, build, kind)?;
    let sources = header.sources().iter().zip(header.used_pages());
    let ranges = header.extents().filter(|_| with_ranges).map(|extent| Range {
        first: extent.first,
        pages: extent.pages,
        build: header.sources()[extent.source].build.clone(),
        at: extent.at,
    });
    Ok(Image {
        kind,
        pages: header.pages(),
        stored: header.stored_pages(),
        generation: header.generation(),
        extents: header.extents().len(),
        own_bytes: info.bytes,
        ranges: ranges.collect(),
        sources: sources
            .map(|(source, needed)| Source { build: source.build.clone(), needed, pages: source.pages })
            .collect(),
    })
}

fn print(build: &BuildId, inspection: &Inspection) {
    println!("build        {build}");
    if let Some(manifest) = &inspection.manifest {
        about(manifest);
    }
    for image in &inspection.images {
        let Image { kind, pages, stored, generation, extents, own_bytes, .. } = image;
        println!(
            "\n{kind}: {} of {} stored, in {extents} pieces; laid over {generation} others; {} of its own",
            size(*stored),
            size(*pages),
            crate::storage::size(*own_bytes)
        );
        for Source { build, needed, pages } in &image.sources {
            println!("  {:>10} of {:>10} of {build}", size(*needed), size(*pages));
        }
        for Range { first, pages, build, at } in &image.ranges {
            println!("  {:<31} at {:<31} of {build}", range(*first, *pages), range(*at, *pages));
        }
    }
    match inspection.problems.as_deref() {
        None => {}
        Some([]) => println!("\neverything that was written is there"),
        Some(problems) => {
            println!("\n{} problems:", problems.len());
            problems.iter().for_each(|problem| println!("  {problem}"));
        }
    }
}

fn about(manifest: &Manifest) {
    let owner = manifest.owner.as_ref().map_or("a template".into(), |owner| format!("sandbox {owner}"));
    println!("of           {owner}, made {}", manifest.created_at);
    if let Some(parent) = &manifest.parent {
        println!("continues    {parent}");
    }
    let (shape, vmm) = (manifest.shape, &manifest.vmm);
    println!("machine      {} processors, {} of memory, {} of disk", shape.vcpus.0, shape.memory, shape.disk);
    println!("vmm          {} {} with {}, {} on {}", vmm.name, vmm.version, vmm.accel, vmm.cpu, vmm.machine);
    println!("daemon       envd {}", manifest.envd_version);
    if let Some(boot) = &manifest.boot {
        println!("kernel       {}", boot.kernel);
    }
    if let Some(state) = &manifest.device_state {
        println!("devices      {}", crate::storage::size(state.bytes));
    }
    if !manifest.working_set.is_empty() {
        let pages = manifest.working_set.iter().map(|(_, pages)| pages).sum();
        println!("needed first {} in {} pieces", size(pages), manifest.working_set.len());
    }
}
