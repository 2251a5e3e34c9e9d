//! What is done to which packets: `in/data/nth=2-2/drop`, `out/any/share=10000/after=3`.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use super::packet::Class;

/// Shares are in parts of this.
pub const MILLION: u32 = 1_000_000;

/// One rule; its text is its command-line form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which way the packets go.
    pub direction: Direction,
    /// Which kind of packets.
    pub class: Class,
    /// Which of them.
    pub select: Select,
    /// What is done to these.
    pub action: Action,
}

/// Seen from the host at the end of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Towards the host.
    In,
    /// From the host.
    Out,
}

/// Which packets of the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// So many of a million, by the seed.
    Share(u32),
    /// From this to that one of each direction of a connection, counted from 1.
    Nth(u32, u32),
}

/// What is done to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is lost.
    Drop,
    /// It arrives twice.
    Twice,
    /// So many later ones of its direction overtake it; it waits for them for a short while only.
    After(NonZeroU32),
    /// It arrives that much later.
    Delay(Duration),
    /// It gets IPv6 extension headers, each time others.
    Headers,
}

/// A word of a rule that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("got {got:?}, expected {expected}")]
pub struct BadWord {
    got: String,
    expected: &'static str,
}

impl BadWord {
    pub(super) fn new(got: &str, expected: &'static str) -> Self {
        Self {
            got: got.to_owned(),
            expected,
        }
    }
}

impl Rule {
    /// The packets numbered `nth` of `class` in each connection.
    pub fn nth(
        direction: Direction,
        class: Class,
        nth: std::ops::RangeInclusive<u32>,
        action: Action,
    ) -> Self {
        Self {
            direction,
            class,
            select: Select::Nth(*nth.start(), *nth.end()),
            action,
        }
    }

    /// A share of the packets of `class`, in parts of a million.
    pub fn share(direction: Direction, class: Class, parts: u32, action: Action) -> Self {
        Self {
            direction,
            class,
            select: Select::Share(parts),
            action,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::In => "in",
            Direction::Out => "out",
        };
        write!(formatter, "{direction}/{}/", self.class)?;
        match self.select {
            Select::Share(parts) => write!(formatter, "share={parts}/")?,
            Select::Nth(first, last) => write!(formatter, "nth={first}-{last}/")?,
        }
        match self.action {
            Action::Drop => formatter.write_str("drop"),
            Action::Twice => formatter.write_str("twice"),
            Action::After(others) => write!(formatter, "after={others}"),
            Action::Headers => formatter.write_str("headers"),
            Action::Delay(time) => write!(formatter, "delay={}", time.as_millis()),
        }
    }
}

impl FromStr for Rule {
    type Err = BadWord;

    fn from_str(text: &str) -> Result<Self, BadWord> {
        let words: Vec<&str> = text.split('/').collect();
        let [direction, class, select, action] = words[..] else {
            return Err(BadWord::new(text, "DIRECTION/CLASS/SELECT/ACTION"));
        };
        Ok(Self {
            direction: match direction {
                "in" => Direction::In,
                "out" => Direction::Out,
                _ => return Err(BadWord::new(direction, "`in` or `out`")),
            },
            class: class.parse()?,
            select: select.parse()?,
            action: action.parse()?,
        })
    }
}

impl FromStr for Select {
    type Err = BadWord;

    fn from_str(word: &str) -> Result<Self, BadWord> {
        let bad = || BadWord::new(word, "`share=PARTS_OF_A_MILLION` or `nth=FIRST-LAST`");
        match word.split_once('=').ok_or_else(bad)? {
            ("share", parts) => {
                let parts = parts.parse().map_err(|_| bad())?;
                (parts <= MILLION)
                    .then_some(Self::Share(parts))
                    .ok_or_else(bad)
            }
            ("nth", range) => {
                let (first, last) = range.split_once('-').ok_or_else(bad)?;
                let (first, last) = (
                    first.parse().map_err(|_| bad())?,
                    last.parse().map_err(|_| bad())?,
                );
                (1 <= first && first <= last)
                    .then_some(Self::Nth(first, last))
                    .ok_or_else(bad)
            }
            _ => Err(bad()),
        }
    }
}

impl FromStr for Action {
    type Err = BadWord;

    fn from_str(word: &str) -> Result<Self, BadWord> {
        let bad = || {
            BadWord::new(
                word,
                "`drop`, `twice`, `headers`, `after=OTHERS` or `delay=MILLISECONDS`",
            )
        };
        match word.split_once('=') {
            None if word == "drop" => Ok(Self::Drop),
            None if word == "twice" => Ok(Self::Twice),
            None if word == "headers" => Ok(Self::Headers),
            Some(("after", others)) => others.parse().map(Self::After).map_err(|_| bad()),
            Some(("delay", millis)) => millis
                .parse()
                .map(|millis| Self::Delay(Duration::from_millis(millis)))
                .map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        for text in [
            "in/any/share=10000/drop",
            "out/data/nth=2-2/twice",
            "out/any/share=1000000/headers",
            "out/syn-ack/nth=1-3/delay=3500",
            "in/window-opened/nth=1-1/after=4",
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_word_that_is_wrong_is_named() {
        for (text, word) in [
            ("in/any/share=1", "in/any/share=1"),
            ("up/any/share=1/drop", "up"),
            ("in/all/share=1/drop", "all"),
            ("in/any/share=1000001/drop", "share=1000001"),
            ("in/any/nth=0-1/drop", "nth=0-1"),
            ("in/any/nth=2-1/drop", "nth=2-1"),
            ("in/any/share=1/after=0", "after=0"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert_eq!(error.got, word, "{error}");
        }
    }
}
