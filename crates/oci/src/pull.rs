//! Getting an image.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use download::receive;
use http::Response;
use hyper::body::Incoming;
use serde::Deserialize;

use crate::reference::{Reference, is_digest};
use crate::registry::Registry;

/// No image has more.
const MAX_LAYERS: usize = 256;
/// What describes an image is short.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// An index, which has an image for each kind of machine, and an image, by the names of both families.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";
const ANYTHING: &str = "*/*";
/// How the types of layers end that are understood; with nothing behind it a layer is not compressed.
const LAYERS: [&str; 3] = [".tar", ".tar+gzip", ".tar.gzip"];

/// An image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name makes no sense.
    #[error("{name:?} is no name of an image: {why}")]
    Name {
        /// What it was.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// The registry, or what it gave.
    #[error("pulling {image}: {why}")]
    Registry {
        /// Which image.
        image: String,
        /// Why.
        why: String,
    },
}

/// An image that was pulled.
#[derive(Debug)]
pub struct Image {
    /// What it is called, with its registry.
    pub name: String,
    /// The digest of its manifest, which says all that is in it.
    pub digest: String,
    /// What its maker says about programs in it.
    pub config: Config,
    /// Its layers, compressed as they came, the lowest first.
    pub layers: Vec<PathBuf>,
}

/// What an image says about programs in it.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// Variables, as `NAME=value`.
    #[serde(default, deserialize_with = "or_none")]
    pub env: Vec<String>,
}

/// Makers write `null` for nothing.
fn or_none<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default, deserialize_with = "or_none")]
    config: Config,
}

/// An index or the manifest of an image.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Choice>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Choice {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
}

/// Gets the image of this name for Linux on this kind of processor, and keeps its layers as files in `dir`. All of them together
/// have at most `limit` bytes. `told` hears now and then what is being fetched. Everything but what a tag leads to is
/// verified by its digest.
///
/// Registries on this host are spoken to without TLS, as other clients do. What others on this host were told is how we say
/// who we are.
///
/// # Errors
/// See [`PullError`].
pub async fn pull(
    name: &str,
    dir: &Path,
    limit: u64,
    told: &mut dyn FnMut(&str),
) -> Result<Image, PullError> {
    let reference = Reference::parse(name).map_err(|why| PullError::Name { name: name.to_owned(), why })?;
    let image = reference.to_string();
    told(&image);
    let pulled = pull_from(reference, dir, limit, told).await;
    pulled.map_err(|why| PullError::Registry { image, why })
}

async fn pull_from(
    reference: Reference,
    dir: &Path,
    limit: u64,
    told: &mut dyn FnMut(&str),
) -> Result<Image, String> {
    let (name, mut which) = (reference.to_string(), reference.which.clone());
    let mut registry = Registry::new(reference)?;
    let (mut manifest, mut digest) = manifest(&mut registry, &which).await?;
    if !manifest.manifests.is_empty() {
        which = choose(&manifest.manifests)?;
        (manifest, digest) = self::manifest(&mut registry, &which).await?;
    }
    let config = manifest.config.ok_or("it is no image: its manifest has no configuration")?;
    let blob = format!("blobs/{}", config.digest);
    let (bytes, _) = document(&mut registry, &blob, ANYTHING, Some(&config.digest)).await?;
    let config: ConfigFile =
        serde_json::from_slice(&bytes).map_err(|error| format!("its configuration: {error}"))?;
    if manifest.layers.len() > MAX_LAYERS {
        return Err(format!("it has {} layers, more than {MAX_LAYERS}", manifest.layers.len()));
    }
    let bytes = manifest.layers.iter().fold(0_u64, |all, layer| all.saturating_add(layer.size));
    if bytes > limit {
        return Err(format!("its layers have {bytes} bytes, more than the {limit} allowed"));
    }
    let mut layers = Vec::new();
    for (number, layer) in manifest.layers.iter().enumerate() {
        told(&format!("layer {} of {}, {} MiB", number + 1, manifest.layers.len(), layer.size >> 20));
        if !LAYERS.iter().any(|kind| layer.media_type.ends_with(kind)) {
            return Err(format!("layer {} is a {}, which is not understood", layer.digest, layer.media_type));
        }
        let path = dir.join(format!("layer-{number}"));
        let mut file =
            File::create_new(&path).map_err(|error| format!("keeping it in {}: {error}", path.display()))?;
        let answer = registry.get(&format!("blobs/{}", layer.digest), ANYTHING).await?;
        take(answer, layer.size, Some(&layer.digest), &mut file).await?;
        layers.push(path);
    }
    Ok(Image { name, digest, config: config.config, layers })
}

/// What a tag or a digest leads to, and the digest of that.
async fn manifest(registry: &mut Registry, which: &str) -> Result<(Manifest, String), String> {
    let wanted = is_digest(which).then_some(which);
    let (bytes, digest) = document(registry, &format!("manifests/{which}"), MANIFESTS, wanted).await?;
    let manifest = serde_json::from_slice(&bytes).map_err(|error| format!("its manifest: {error}"))?;
    Ok((manifest, digest))
}

async fn document(
    registry: &mut Registry,
    path: &str,
    accept: &str,
    digest: Option<&str>,
) -> Result<(Vec<u8>, String), String> {
    let answer = registry.get(path, accept).await?;
    let mut bytes = Vec::new();
    let digest = take(answer, MAX_DOCUMENT_BYTES, digest, &mut bytes).await?;
    Ok((bytes, digest))
}

/// Of an index, the image for this kind of machine.
fn choose(choices: &[Choice]) -> Result<String, String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |choice: &&Choice| {
        choice.platform.as_ref().is_some_and(|it| it.os == "linux" && it.architecture == architecture)
    };
    match choices.iter().find(fits) {
        Some(choice) if is_digest(&choice.digest) => Ok(choice.digest.clone()),
        Some(choice) => Err(format!("{} is no digest", choice.digest)),
        None => Err(format!("it has no image for linux/{architecture}")),
    }
}

/// Writes a body of at most `limit` bytes, which has this digest. The digest that it has.
async fn take(
    answer: Response<Incoming>,
    limit: u64,
    digest: Option<&str>,
    into: &mut impl Write,
) -> Result<String, String> {
    let found = format!("sha256:{}", receive(answer, limit, into).await?);
    match digest {
        Some(wanted) if wanted != found => Err(format!("what came is {found}, and {wanted} was asked for")),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makers_leave_out_or_null_is_nothing() {
        let config = |text| serde_json::from_str::<ConfigFile>(text).unwrap().config;
        assert_eq!(config("{}"), Config::default());
        assert_eq!(config(r#"{"config": null}"#), Config::default());
        assert_eq!(config(r#"{"config": {"Env": null, "Cmd": ["x"]}}"#), Config::default());
        assert_eq!(config(r#"{"config": {"Env": ["A=1"]}}"#), Config { env: vec!["A=1".into()] });
    }

    #[test]
    fn of_several_that_of_this_kind_of_machine_is_taken() {
        let architecture = if std::env::consts::ARCH == "x86_64" { "amd64" } else { "arm64" };
        let digest = format!("sha256:{}", "1".repeat(64));
        let index = |os: &str, architecture: &str| {
            let text = format!(
                r#"[{{"digest": "x"}}, {{"digest": "{digest}", "platform": {{"os": "{os}", "architecture": "{architecture}"}}}}]"#
            );
            choose(&serde_json::from_str::<Vec<Choice>>(&text).unwrap())
        };
        assert_eq!(index("linux", architecture), Ok(digest.clone()));
        assert!(index("linux", "z80").is_err() && index("windows", architecture).is_err());
    }
}
