//! What can be wrong with a command line.

/// A value that was refused. Its text is one line: the flag, the value got, what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {problem}")]
pub struct UsageError {
    /// The flag as the help names it.
    pub flag: &'static str,
    /// The rest of the line.
    pub problem: String,
}

impl UsageError {
    /// Puts both together.
    pub fn new(flag: &'static str, problem: impl std::fmt::Display) -> Self {
        Self {
            flag,
            problem: problem.to_string(),
        }
    }
}
