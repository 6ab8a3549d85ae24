//! Memory in large pages.
//!
//! A world touches tens of megabytes without any order, more than the processor has translations for in pages of 4 KiB: a
//! tenth of a seed's time went into looking them up (docs/performance.md). glibc asks the system for large pages, and
//! keeps what a world gives back for the next one, when its environment says so, and reads that before `main`: so the
//! program begins once more with these words in it. What is simulated does not depend on it.

use std::process::Command;

const NAME: &str = "GLIBC_TUNABLES";
/// Large pages where the system lends them (1: `madvise`), memory taken 64 MiB at a time and not given back below 2 GB.
const WORDS: &str =
    "glibc.malloc.hugetlb=1:glibc.malloc.top_pad=67108864:glibc.malloc.trim_threshold=2000000000";

/// Begins the program once more with words for its allocator, unless somebody gave it some: then, and where that can't be
/// done, it goes on as it is.
pub fn prefer_large_pages() {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) || std::env::var_os(NAME).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut again = Command::new(program);
    again.args(std::env::args_os().skip(1)).env(NAME, WORDS);
    #[cfg(unix)]
    {
        // Returns only if it failed.
        let _ = std::os::unix::process::CommandExt::exec(&mut again);
    }
}
