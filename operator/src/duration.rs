//! Times as they are typed: `500ms`, `5s`, `2m`, `1h`, a bare number meaning seconds as in the C tools.

use std::time::Duration;

/// Longest time that is taken: larger ones are typing errors, and sums must not overflow.
const MAX: Duration = Duration::from_hours(8784);

/// Reads a time above zero.
pub fn parse_positive(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    if time.is_zero() {
        return Err(format!("got '{text}', expected a time above 0 such as 5s"));
    }
    Ok(time)
}

/// Reads a time; the error names what was got and expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let expected =
        || format!("'{text}' is no time, expected a number with ms, s, m or h such as 5s");
    let number: u64 = number.parse().map_err(|_| expected())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    let time = Duration::from_millis(number.saturating_mul(unit_ms));
    if time > MAX {
        return Err(format!("'{text}' is too long, expected at most 8784h"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, ms) in [
            ("500ms", 500),
            ("0", 0),
            ("5", 5_000),
            ("5s", 5_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
    }

    #[test]
    fn zero_is_refused_where_it_makes_no_sense() {
        assert_eq!(parse_positive("1ms"), Ok(Duration::from_millis(1)));
        for text in ["0", "0s"] {
            let error = parse_positive(text).expect_err(text);
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }

    #[test]
    fn errors_quote_what_was_got() {
        for text in [
            "",
            "s",
            "5 s",
            "5d",
            "-1",
            "1.5s",
            "99999999999999999999",
            "9000h",
        ] {
            let error = parse_duration(text).expect_err(text);
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }
}
