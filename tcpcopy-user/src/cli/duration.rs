//! Times as they are typed: `500ms`, `5s`, `2m`, `1h`, a bare number meaning seconds as in the C tools.

use std::time::Duration;

/// Longest time that is taken: larger ones are typing errors, and sums must not overflow.
const MAX: Duration = Duration::from_hours(366 * 24);

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
