//! CPUs, as the kernel lists them.

use std::fs;

/// Number of CPU slots: one more than the highest possible CPU number.
pub(super) fn possible() -> u32 {
    list("possible").last().map_or(1, |last| last + 1)
}

/// CPUs that run now, ascending; never empty.
pub(super) fn online() -> Vec<u32> {
    list("online")
}

fn list(name: &str) -> Vec<u32> {
    let text = fs::read_to_string(format!("/sys/devices/system/cpu/{name}")).unwrap_or_default();
    let cpus = parse(&text);
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// `0-3,5` as numbers, ascending. What does not parse is left out.
fn parse(text: &str) -> Vec<u32> {
    let mut cpus: Vec<u32> = text
        .trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect();
    cpus.sort_unstable();
    cpus
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn ranges_and_single_numbers() {
        assert_eq!(parse("0\n"), [0]);
        assert_eq!(parse("0-3,5,8-9\n"), [0, 1, 2, 3, 5, 8, 9]);
        assert!(parse("").is_empty());
        assert_eq!(parse("x,2"), [2]);
    }
}
