//! Which kernel modules a sandbox needs, and in which order they load.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::module;

/// The drivers of the virtual devices, in the groups in which guest-init loads them. What they need in turn is found in
/// the modules themselves.
pub(crate) const GROUPS: [(&str, &str); 4] =
    [("bus", "virtio_mmio"), ("disk", "virtio_blk"), ("net", "virtio_net"), ("late", "virtio_rng")];

/// No module is bigger; most are a thousandth of it.
const MAX_MODULE: u64 = 32 << 20;

/// A module ready to be put into an initramfs.
pub(crate) struct Chosen {
    pub(crate) group: &'static str,
    /// `NN-name.ko`: sorted by it, a group is in load order.
    pub(crate) file_name: String,
    pub(crate) content: Vec<u8>,
}

/// Chooses from `lib/modules/<release>` of a kernel package. A driver that is built into the kernel needs no module.
pub(crate) fn choose(dir: &Path) -> Result<Vec<Chosen>, String> {
    let built_in = fs::read_to_string(dir.join("modules.builtin"))
        .map_err(|error| format!("its list of built-in modules cannot be read: {error}"))?;
    let mut search = Search {
        files: HashMap::new(),
        done: built_in.lines().map(|line| name_of(Path::new(line))).collect(),
        chosen: Vec::new(),
    };
    search.index(dir).map_err(|error| format!("its modules cannot be listed: {error}"))?;
    for (group, name) in GROUPS {
        search.add(group, name)?;
    }
    Ok(search.chosen)
}

struct Search {
    files: HashMap<String, PathBuf>,
    /// Built in, or chosen already.
    done: HashSet<String>,
    chosen: Vec<Chosen>,
}

impl Search {
    fn index(&mut self, dir: &Path) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                self.index(&path)?;
            } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(".ko")) {
                self.files.insert(name_of(&path), path);
            }
        }
        Ok(())
    }

    /// Adds a module after everything that it needs.
    fn add(&mut self, group: &'static str, name: &str) -> Result<(), String> {
        if !self.done.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self.files.get(name).ok_or_else(|| format!("it has no module {name}"))?;
        let size = fs::metadata(path).map_or(0, |meta| meta.len());
        if size > MAX_MODULE {
            return Err(format!("its module {name} has {size} bytes, more than {MAX_MODULE}"));
        }
        let content = fs::read(path).map_err(|error| format!("its module {name} cannot be read: {error}"))?;
        let needs = module::dependencies(&content)
            .ok_or_else(|| format!("its module {} is no plain ELF module (compressed?)", path.display()))?;
        for needed in needs {
            self.add(group, &needed.replace('-', "_"))?;
        }
        self.chosen.push(Chosen {
            group,
            file_name: format!("{:02}-{name}.ko", self.chosen.len()),
            content: module::without_signature(&content).to_vec(),
        });
        Ok(())
    }
}

/// The kernel's name of a module: its file's, with underscores.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(".ko").next().unwrap_or_default().replace('-', "_")
}
