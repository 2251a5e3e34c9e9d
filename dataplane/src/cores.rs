//! CPU lists (`--cores 0-3,5`) and pinning of workers.

use core_affinity::CoreId;
use std::str::FromStr;

/// Core numbers end here: the size of `cpu_set_t`, which libc's affinity calls take.
const MAX_CORE: usize = 1024;

/// Cores in the order given; worker `n` runs on the `n`th.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(Vec<usize>);

/// Why a list of cores is unusable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CoreError {
    /// A part between commas is not a number or a range.
    #[error("got '{got}' in the list of cores, expected core numbers and ranges like 0-3,5")]
    Syntax {
        /// The part.
        got: String,
    },
    /// A range that ends before it begins.
    #[error("got the range '{got}' in the list of cores, expected the smaller core first")]
    Backwards {
        /// The part.
        got: String,
    },
    /// A core twice: two workers on one core would halve each other.
    #[error("got core {core} twice in the list of cores, expected each core once")]
    Twice {
        /// Which.
        core: usize,
    },
    /// The machine does not have it, or this process may not use it (cpuset, taskset).
    #[error("got core {core}, expected one of the cores this process may use: {available}")]
    Unavailable {
        /// Which.
        core: usize,
        /// The cores that exist, as a list.
        available: String,
    },
    /// sched_setaffinity(2) refused.
    #[error(
        "cannot pin a worker to core {core}: the kernel refused; is the process in a cpuset or seccomp filter?"
    )]
    Pin {
        /// Which.
        core: usize,
    },
}

impl CoreList {
    /// The cores, in the order given.
    pub fn cores(&self) -> &[usize] {
        &self.0
    }

    /// Number of cores, at least 1.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true: a list holds at least one core.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fails if a core of the list cannot be used by this process.
    pub fn check_available(&self) -> Result<(), CoreError> {
        self.check_against(&available())
    }

    fn check_against(&self, available: &[usize]) -> Result<(), CoreError> {
        match self.0.iter().find(|core| !available.contains(core)) {
            None => Ok(()),
            Some(&core) => Err(CoreError::Unavailable {
                core,
                available: ranges(available),
            }),
        }
    }
}

impl FromStr for CoreList {
    type Err = CoreError;

    /// Parses `0-3,5`. Does not ask the machine: see [`CoreList::check_available`].
    fn from_str(text: &str) -> Result<Self, CoreError> {
        let mut cores = Vec::new();
        for part in text.split(',') {
            let syntax = || CoreError::Syntax {
                got: part.to_owned(),
            };
            let number = |s: &str| {
                let n: usize = s.trim().parse().map_err(|_| syntax())?;
                // Also bounds the work that a range like 0-99999999999 would make.
                if n < MAX_CORE { Ok(n) } else { Err(syntax()) }
            };
            let (first, last) = match part.split_once('-') {
                Some((a, b)) => (number(a)?, number(b)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(CoreError::Backwards {
                    got: part.to_owned(),
                });
            }
            for core in first..=last {
                if cores.contains(&core) {
                    return Err(CoreError::Twice { core });
                }
                cores.push(core);
            }
        }
        Ok(Self(cores))
    }
}

impl std::fmt::Display for CoreList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&ranges(&self.0))
    }
}

/// Cores that this process may use, ascending.
pub fn available() -> Vec<usize> {
    // Without an answer (a container that blocks the call) assume the one core that must exist.
    core_affinity::get_core_ids()
        .map_or_else(|| vec![0], |ids| ids.into_iter().map(|id| id.id).collect())
}

/// Binds the calling thread to `core`.
pub fn pin(core: usize) -> Result<(), CoreError> {
    // Asked first: core_affinity panics on numbers that `cpu_set_t` cannot hold.
    if core < MAX_CORE && core_affinity::set_for_current(CoreId { id: core }) {
        return Ok(());
    }
    let cores = available();
    if cores.contains(&core) {
        return Err(CoreError::Pin { core });
    }
    Err(CoreError::Unavailable {
        core,
        available: ranges(&cores),
    })
}

pub(crate) fn ranges(cores: &[usize]) -> String {
    let mut out = String::new();
    let mut i = 0;
    while i < cores.len() {
        let mut end = i;
        while end + 1 < cores.len() && cores[end + 1] == cores[end] + 1 {
            end += 1;
        }
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&cores[i].to_string());
        if end > i {
            out.push('-');
            out.push_str(&cores[end].to_string());
        }
        i = end + 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<usize>, CoreError> {
        text.parse::<CoreList>().map(|l| l.0)
    }

    #[test]
    fn lists_and_ranges() {
        assert_eq!(parse("0"), Ok(vec![0]));
        assert_eq!(parse("0-3,5"), Ok(vec![0, 1, 2, 3, 5]));
        assert_eq!(parse("5, 1-2"), Ok(vec![5, 1, 2]));
        assert_eq!(parse("2-2"), Ok(vec![2]));
        assert_eq!(
            "0-3,5".parse::<CoreList>().map(|l| l.to_string()),
            Ok("0-3,5".to_owned())
        );
    }

    #[test]
    fn errors_name_what_was_got() {
        for bad in [
            "",
            ",",
            "1,,2",
            "a",
            "-1",
            "1-",
            "-",
            "0x1",
            "1-2-3",
            "99999999999999999999",
        ] {
            let error = parse(bad).expect_err(bad);
            assert!(
                matches!(error, CoreError::Syntax { .. }),
                "{bad}: {error:?}"
            );
        }
        assert!(matches!(
            parse("0-99999999999"),
            Err(CoreError::Syntax { .. })
        ));
        assert_eq!(
            parse("3-1"),
            Err(CoreError::Backwards {
                got: "3-1".to_owned()
            })
        );
        assert_eq!(parse("0-2,1"), Err(CoreError::Twice { core: 1 }));
        assert_eq!(
            parse("x").expect_err("x").to_string(),
            "got 'x' in the list of cores, expected core numbers and ranges like 0-3,5"
        );
    }

    #[test]
    fn unavailable_cores_are_named_with_those_that_exist() {
        let list: CoreList = "0,7".parse().expect("list");
        let error = list.check_against(&[0, 1, 2, 5]).expect_err("core 7");
        assert_eq!(
            error.to_string(),
            "got core 7, expected one of the cores this process may use: 0-2,5"
        );
        assert_eq!(list.check_against(&[0, 7]), Ok(()));
    }

    #[test]
    fn a_pinned_thread_may_use_only_its_core() {
        let core = available()[0];
        std::thread::spawn(move || {
            pin(core).expect("pin");
            assert_eq!(available(), vec![core]);
            assert!(matches!(pin(MAX_CORE), Err(CoreError::Unavailable { .. })));
        })
        .join()
        .expect("thread");
    }
}
