//! The log on standard error.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What to log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    text: String,
    targets: Targets,
}

impl FromStr for Filter {
    type Err = ();

    /// Understands a level or a list of `target=level` and levels. A bare word that is no level is a slip of the
    /// finger, not the name of a target.
    fn from_str(text: &str) -> Result<Self, ()> {
        let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
        let is_directive = |word: &str| word.contains('=') && !word.contains(char::is_whitespace);
        if !text.split(',').all(|word| is_level(word) || is_directive(word)) {
            return Err(());
        }
        Ok(Self { text: text.to_owned(), targets: text.parse().map_err(drop)? })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Starts logging.
pub(crate) fn start(filter: &Filter) {
    let color = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(color);
    tracing_subscriber::registry().with(filter.targets.clone()).with(lines).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_understood_and_slips_are_not() {
        for good in ["off", "info", "DEBUG", "warn,culex_tokio=trace"] {
            assert!(good.parse::<Filter>().is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,", "culex=loud", "warn culex=debug"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }
}
