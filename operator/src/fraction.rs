//! Factors as they are typed: `2`, `0.5`.

/// Parts of one: finer factors make no difference.
pub const PARTS: u64 = 1_000_000;
const DIGITS: usize = 6;

/// Reads a decimal number above zero, up to `max`, in millionths.
pub fn parse_factor(text: &str, max: u64) -> Result<u64, String> {
    let refused =
        || format!("got '{text}', expected a number above 0 and up to {max} such as 2 or 0.5");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > DIGITS {
        return Err(refused());
    }
    let whole: u64 = whole.parse().map_err(|_| refused())?;
    let part: u64 = format!("{part:0<DIGITS$}").parse().map_err(|_| refused())?;
    match whole.checked_mul(PARTS).and_then(|n| n.checked_add(part)) {
        Some(n) if n > 0 && n <= max.saturating_mul(PARTS) => Ok(n),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_and_fractions() {
        for (text, want) in [
            ("1", 1_000_000),
            ("2", 2_000_000),
            ("0.5", 500_000),
            ("2.25", 2_250_000),
            ("0.000001", 1),
            ("1000", 1_000_000_000),
        ] {
            assert_eq!(parse_factor(text, 1000), Ok(want), "{text}");
        }
        for text in [
            "",
            "0",
            "0.0",
            "-1",
            "1.",
            ".5",
            "1,5",
            "x",
            "1e3",
            "1001",
            "1000.1",
            "0.0000001",
            "99999999999999999999",
            "+1",
            " 1",
        ] {
            let error = parse_factor(text, 1000).expect_err(text);
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }
}
