//! The symbols of a kernel.
//!
//! | | where |
//! |---|---|
//! | 1 | the file that somebody names |
//! | 2 | beside the kernel |
//! | 3 | `vmlinux-BUILDID.debug` below the URL in `COLDFRAME_DEBUG_ARTIFACTS_URL`, see [`super::fetch`] |
//! | 4 | the Debian package that was made together with the kernel |
//!
//! What 3 and 4 have is kept beside the kernel. Whatever is found has to have the kernel's build id: with the symbols of
//! another one gdb would show what is not there.

use std::path::{Path, PathBuf};

use template::{Dirs, existing_symbols, fetch_symbols, keep_symbols};

use super::fetch::{Artifacts, VARIABLE};
use super::kernel::Kernel;
use crate::progress::Terminal;
use crate::state::StateDir;

/// A file with symbols, and why that one.
#[derive(Debug)]
pub(super) struct Symbols {
    pub(super) path: PathBuf,
    pub(super) origin: &'static str,
}

pub(super) fn find(named: Option<&Path>, state: &StateDir, kernel: &Kernel) -> Result<Symbols, String> {
    let url = std::env::var(VARIABLE).ok().filter(|url| !url.is_empty());
    find_at(named, state, kernel, url.as_deref())
}

fn find_at(
    named: Option<&Path>,
    state: &StateDir,
    kernel: &Kernel,
    url: Option<&str>,
) -> Result<Symbols, String> {
    if let Some(path) = named {
        return fitting(path.to_owned(), "named by --gdb-symbols", kernel);
    }
    if let Some(path) = existing_symbols(&kernel.path) {
        return fitting(path, "beside the kernel", kernel);
    }
    let (dirs, mut missed) = (Dirs::new(state.root()), String::new());
    if let Some(url) = url {
        let (artifacts, name) = (Artifacts::at(url)?, format!("vmlinux-{}.debug", kernel.build_id));
        if let Some(path) = keep_symbols(&dirs, &kernel.path, |file| artifacts.fetch(&name, file))? {
            return fitting(path, "from the URL of debug artifacts", kernel);
        }
        missed = format!("there is no {}", artifacts.location(&name));
        eprintln!("coldframe: {missed}; trying Debian's package");
        missed += "; ";
    }
    let fetched = fetch_symbols(&dirs, &kernel.path, &Terminal::new());
    let path =
        fetched.map_err(|error| format!("{missed}{error}; --gdb-symbols names a file that you have"))?;
    fitting(path, "from Debian's package", kernel)
}

fn fitting(path: PathBuf, origin: &'static str, kernel: &Kernel) -> Result<Symbols, String> {
    let found = Kernel::read(&path)?;
    if found.build_id != kernel.build_id {
        return Err(format!(
            "{} has the symbols of another kernel: its build id is {}, that of {} is {}",
            path.display(),
            found.build_id,
            kernel.path.display(),
            kernel.build_id
        ));
    }
    if !found.has_symbols {
        return Err(format!("{} is the right kernel, without debug symbols", path.display()));
    }
    Ok(Symbols { path, origin })
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// A kernel in a state directory, and a place for artifacts. This program is both an ELF file with a build id and one with
    /// symbols.
    struct Scene {
        directory: tempfile::TempDir,
        state: StateDir,
        kernel: Kernel,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let state = StateDir::open(&directory.path().join("state")).unwrap();
            let place = state.root().join("kernels/one");
            std::fs::create_dir_all(&place).unwrap();
            std::fs::create_dir_all(state.root().join("cache")).unwrap();
            std::fs::create_dir(directory.path().join("artifacts")).unwrap();
            let kernel = place.join("vmlinux");
            std::fs::copy(program(), &kernel).unwrap();
            Self { directory, state, kernel: Kernel::read(&kernel).unwrap() }
        }

        fn artifact(&self) -> PathBuf {
            self.directory.path().join(format!("artifacts/vmlinux-{}.debug", self.kernel.build_id))
        }

        fn publish(&self, sum: Option<&str>) {
            std::fs::copy(program(), self.artifact()).unwrap();
            if let Some(sum) = sum {
                std::fs::write(self.artifact().with_extension("debug.sha256"), sum).unwrap();
            }
        }

        fn find(&self, named: Option<&Path>) -> Result<Symbols, String> {
            let url = format!("file://{}/artifacts", self.directory.path().display());
            find_at(named, &self.state, &self.kernel, Some(&url))
        }

        fn beside(&self) -> PathBuf {
            self.kernel.path.with_file_name("vmlinux.debug")
        }
    }

    fn program() -> PathBuf {
        std::env::current_exe().unwrap()
    }

    fn digest() -> String {
        let digest = Sha256::digest(std::fs::read(program()).unwrap());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_is_named_wins_over_what_is_there_and_that_over_what_is_fetched() {
        let scene = Scene::new();
        scene.publish(Some(&format!("{}  vmlinux.debug\n", digest())));
        let fetched = scene.find(None).unwrap();
        assert_eq!((fetched.path, fetched.origin), (scene.beside(), "from the URL of debug artifacts"));
        std::fs::remove_file(scene.artifact()).unwrap();
        assert_eq!(scene.find(None).unwrap().origin, "beside the kernel");
        let named = scene.find(Some(&program())).unwrap();
        assert_eq!((named.path, named.origin), (program(), "named by --gdb-symbols"));
    }

    #[test]
    fn what_is_not_there_is_said_and_nothing_is_kept() {
        let scene = Scene::new();
        let error = scene.find(None).unwrap_err();
        // Debian's package cannot be told from this kernel, either.
        let wanted = format!("there is no {}", scene.artifact().display());
        assert!(error.starts_with(&wanted) && error.contains("--gdb-symbols"), "{error}");
        assert!(!scene.beside().exists());
    }

    #[test]
    fn what_is_damaged_is_refused_and_nothing_is_kept() {
        let scene = Scene::new();
        scene.publish(None);
        let error = scene.find(None).unwrap_err();
        assert!(error.contains("has no checksum") && error.contains(".debug.sha256"), "{error}");
        for sum in ["", "0123", "no digest at all"] {
            scene.publish(Some(sum));
            let error = scene.find(None).unwrap_err();
            assert!(error.contains("is damaged") && error.contains(&digest()), "{error}");
        }
        assert!(!scene.beside().exists());
        scene.publish(Some(&digest().to_uppercase()));
        scene.find(None).unwrap();
    }

    #[test]
    fn other_urls_are_refused() {
        for url in ["http://a/b", "file://a/b", "ftp://a", "/a", "x"] {
            let scene = Scene::new();
            let error = find_at(None, &scene.state, &scene.kernel, Some(url)).unwrap_err();
            assert!(error.starts_with("COLDFRAME_DEBUG_ARTIFACTS_URL is"), "{error}");
        }
    }
}
