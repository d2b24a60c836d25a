//! The program's own code in memory.

use std::io;

use rustix::mm::{Advice, madvise};

/// The most of `/proc/self/maps` that is read, in bytes: a process of ours has a few dozen mappings.
const MAX_MAPS: usize = 1 << 20;

/// Gives back the pages of this program's code. What runs on is mapped again at its next use, from the page cache and
/// without I/O; what was only needed to start is not.
///
/// # Errors
/// When the process cannot look at its own mappings.
pub fn forget() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let program = program.to_string_lossy();
    let program = program.trim_end_matches(" (deleted)");
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for line in maps.get(..maps.len().min(MAX_MAPS)).unwrap_or_default().lines() {
        let Some((start, end)) = code_of(line, program) else { continue };
        // SAFETY: the range is a mapping of this program's file that can be executed and not written, as the kernel says.
        // Nothing private is in it, so every page of it can be had again from the file, unchanged, and dropping the pages
        // changes nothing that anybody reads. The mapping lasts as long as the process.
        unsafe { madvise(std::ptr::without_provenance_mut(start), end - start, Advice::LinuxDontNeed) }?;
    }
    Ok(())
}

/// The range of a mapping, if it is code of `program`.
fn code_of(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    // Private, executed, never written: no page of it can differ from the file.
    if rights != "r-xp" || !line.contains(program) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let hex = |text| usize::from_str_radix(text, 16).ok();
    Some((hex(start)?, hex(end)?)).filter(|(start, end)| start < end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn the_program_runs_on_with_less_of_it_in_memory() {
        let before = resident();
        forget().unwrap();
        let after = resident();
        assert!(after < before, "{before} KiB, then {after} KiB");
    }

    #[test]
    fn only_code_of_the_program_is_given_back() {
        let code = "55a7a5cc6000-55a7a6979000 r-xp 00976000 fe:00 9977884   /bin/coldframe";
        assert_eq!(code_of(code, "/bin/coldframe"), Some((0x55a7_a5cc_6000, 0x55a7_a697_9000)));
        assert_eq!(code_of(code, "/bin/other"), None);
        for rights in ["r--p", "rw-p", "rwxp", "r-xs"] {
            assert_eq!(code_of(&code.replace("r-xp", rights), "/bin/coldframe"), None, "{rights}");
        }
        assert_eq!(code_of("", "/bin/coldframe"), None);
    }
}
