//! Command lines that are wrong.

/// clap writes paragraphs; scripts and logs want the culprit in one line.
pub fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| {
            !l.is_empty() && !l.starts_with("Usage:") && !l.starts_with("For more information")
        })
        .collect();
    format!("{} (see --help)", lines.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_and_pointers_are_left_out() {
        let text = "error: the following required arguments were not provided:\n  --iface <NAME>\n\n\
                    Usage: program --iface <NAME>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_line(text),
            "the following required arguments were not provided: --iface <NAME> (see --help)"
        );
    }
}
