//! The settings of the program and of the broker, wherever they come from.

use crate::file::File;
use crate::listener::ListenerSettings;
use crate::log::Filter;
use crate::nearest::nearest;
use culex_core::Config;
use culex_core::config::SettingError;
use culex_core::store::Durability;
use culex_runtime::ListenUrl;
use std::fmt;
use std::path::Path;
use std::thread;

/// Everything `serve` needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    listen: Vec<ListenUrl>,
    /// Those that need more than a URL.
    listeners: Vec<ListenerSettings>,
    pub(crate) runtime: Runtime,
    /// `None`: as many as there are cores.
    shards: Option<usize>,
    pub(crate) log: Filter,
    pub(crate) allow_anonymous_remote: bool,
    /// Where recordings go; empty: nowhere.
    pub(crate) record: String,
    pub(crate) record_bytes_max: usize,
    /// Where durable state lies; empty: nowhere.
    pub(crate) data: String,
    /// What an acknowledged message survives; `None`: nothing.
    durability: Option<Durability>,
    /// Where backups go; empty: nowhere.
    pub(crate) backup_dir: String,
    pub(crate) config: Config,
    /// Where the value of a key comes from, if it was given.
    sources: Vec<(String, Source)>,
}

/// What carries the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    Tokio,
    Smol,
    Std,
}

/// One value that somebody gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) key: String,
    pub(crate) value: Value,
    pub(crate) source: Source,
}

/// A value before its setting understood it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// Text: quoted in TOML, or anything from the environment or the command line.
    Text(String),
    /// An integer or a boolean of TOML.
    Bare(String),
    /// Several texts.
    Many(Vec<String>),
    /// Something no setting takes, in words.
    Other(&'static str),
}

/// Where a value comes from; displays as the beginning of a line about it, with the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File { name: String, line: usize },
    Environment(String),
    Argument(&'static str),
}

/// A setting of the program, as opposed to the broker's own in [`Config`].
pub(crate) struct ProgramSetting {
    pub(crate) key: &'static str,
    pub(crate) default: &'static str,
    pub(crate) doc: &'static str,
}

/// Shards that a broker may have.
const SHARDS_MAX: usize = culex_tokio::Builder::SHARDS_MAX;

/// The settings of the program.
pub(crate) const PROGRAM: [ProgramSetting; 10] = [
    ProgramSetting {
        key: "listen",
        default: "mqtt://127.0.0.1:1883",
        doc: "Where to listen: mqtt://HOST:PORT, ws://HOST:PORT/PATH for WebSocket (the path is /mqtt unless given), \
              unix:PATH for a Unix socket, or an array of several; in the environment separated by commas. Port 0 takes \
              any free port.",
    },
    ProgramSetting {
        key: "allow_anonymous_remote",
        default: "false",
        doc: "Whether to listen beyond this machine although anyone who reaches the port may then read and write \
              every topic: there are no passwords yet. A listener with client_certificate = \"required\" needs it not.",
    },
    ProgramSetting {
        key: "runtime",
        default: "tokio",
        doc: "What carries the broker: tokio, smol, or std (a thread per connection).",
    },
    ProgramSetting {
        key: "shards",
        default: "auto",
        doc: "How many shards share the work, each in a thread of its own: 1 to 64, or auto for as many as there are cores. \
              With `data` it is 1.",
    },
    ProgramSetting {
        key: "log",
        default: "info",
        doc: "How much to log on standard error: off, error, warn, info, debug, trace, or a filter such as \
              info,culex_tokio=debug.",
    },
    ProgramSetting {
        key: "data",
        default: "",
        doc: "A directory: what has to survive is kept there, and nothing is acknowledged before it does. One broker at a time \
              uses it. Empty: everything is kept in memory, and gone when the broker stops.",
    },
    ProgramSetting {
        key: "durability",
        default: "disk",
        doc: "What a message survives that was acknowledged, if there is `data`: disk (a power cut), os (the end of the \
              program, kill -9 included); none is for brokers without `data`.",
    },
    ProgramSetting {
        key: "backup_dir",
        default: "",
        doc: "A directory: at SIGUSR2 a copy of `data` is written there while the broker goes on; each is a directory that \
              `data` may name. Empty: no backups.",
    },
    ProgramSetting {
        key: "record",
        default: "",
        doc: "A directory: what happens to the broker is kept in memory, and written there at a panic, at SIGUSR1 and \
              at the end, for `culex replay`. It holds all that clients send, passwords too: `culex redact` takes those \
              out. Empty: nothing is recorded.",
    },
    ProgramSetting {
        key: "record_bytes_max",
        default: "67108864",
        doc: "About how many bytes of what happened are kept for `record`; never less than the broker's own state twice.",
    },
];

/// All keys, the program's and the broker's.
pub(crate) fn keys() -> impl Iterator<Item = &'static str> {
    PROGRAM.iter().map(|setting| setting.key).chain(Config::settings().iter().map(|setting| setting.key))
}

impl Default for Settings {
    fn default() -> Self {
        let mut settings = Self {
            listen: Vec::new(),
            listeners: Vec::new(),
            runtime: Runtime::Tokio,
            shards: None,
            log: Filter::default(),
            allow_anonymous_remote: false,
            record: String::new(),
            record_bytes_max: 0,
            data: String::new(),
            durability: None,
            backup_dir: String::new(),
            config: Config::default(),
            sources: Vec::new(),
        };
        for ProgramSetting { key, default, .. } in &PROGRAM {
            let applied = settings.set(key, &Value::Text((*default).to_owned()));
            debug_assert_eq!(applied, Ok(()), "the default of {key}");
        }
        settings
    }
}

impl Settings {
    /// Lays what one source gives over what is there.
    pub(crate) fn apply_all(&mut self, given: &[Given], mistakes: &mut Vec<String>) {
        for Given { key, value, source } in given {
            match self.set(key, value) {
                Ok(()) => self.sources.push((key.clone(), source.clone())),
                Err(mistake) => mistakes.push(source.line(key, &mistake)),
            }
        }
    }

    /// Lays what a file gives over what is there.
    pub(crate) fn apply_file(&mut self, file: &File, mistakes: &mut Vec<String>) {
        self.apply_all(&file.given, mistakes);
        for (source, given) in &file.listeners {
            match ListenerSettings::read(source, given) {
                Ok(listener) => self.listeners.push(listener),
                Err(lines) => mistakes.extend(lines),
            }
        }
    }

    /// Where durable state lies and what it survives, if there is any.
    pub(crate) fn durable(&self) -> Option<(&Path, Durability)> {
        let directory = (!self.data.is_empty()).then(|| Path::new(&self.data));
        directory.zip(self.durability)
    }

    /// How many shards share the work.
    pub(crate) fn shards(&self) -> usize {
        let cores = || thread::available_parallelism().map_or(1, usize::from).min(SHARDS_MAX);
        // What is stored is kept by one shard.
        let auto = || if self.data.is_empty() { cores() } else { 1 };
        self.shards.unwrap_or_else(auto)
    }

    /// The settings of the machine, with those of its listeners.
    pub(crate) fn whole_config(&self) -> Config {
        let listeners = self.listeners().into_iter().map(|listener| listener.config).collect();
        Config { listeners, ..self.config.clone() }
    }

    /// All listeners: those of `listen`, whose default is for who has no other, and those with tables of their own.
    pub(crate) fn listeners(&self) -> Vec<ListenerSettings> {
        let given = self.sources.iter().any(|(key, _)| key == "listen");
        let listen = if given || self.listeners.is_empty() { &self.listen[..] } else { &[] };
        let listen = listen.iter().cloned().map(ListenerSettings::new);
        listen.chain(self.listeners.iter().cloned()).collect()
    }

    /// Sets one value, or says what was expected and what was found instead.
    fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        match key {
            "listen" => self.listen = listen_urls(value)?,
            "runtime" => {
                self.runtime = match value.text() {
                    Some("tokio") => Runtime::Tokio,
                    Some("smol") => Runtime::Smol,
                    Some("std") => Runtime::Std,
                    _ => return Err(expected("tokio, smol or std", value)),
                }
            }
            "shards" => {
                let number = |text: &str| text.parse().ok().filter(|count| (1..=SHARDS_MAX).contains(count));
                self.shards = match value.text() {
                    Some("auto") => None,
                    text => Some(text.and_then(number).ok_or_else(|| expected("auto or 1 to 64", value))?),
                }
            }
            "log" => {
                self.log = value.text().and_then(|text| text.parse().ok()).ok_or_else(|| {
                    expected(
                        "off, error, warn, info, debug, trace or a filter such as info,culex_tokio=debug",
                        value,
                    )
                })?;
            }
            "allow_anonymous_remote" => {
                self.allow_anonymous_remote = match value.text() {
                    Some("true") => true,
                    Some("false") => false,
                    _ => return Err(expected("true or false", value)),
                }
            }
            "data" => value.text().ok_or_else(|| expected("a directory", value))?.clone_into(&mut self.data),
            "durability" => {
                self.durability = match value.text() {
                    Some("none") => None,
                    Some("os") => Some(Durability::Os),
                    Some("disk") => Some(Durability::Disk),
                    _ => return Err(expected("none, os or disk", value)),
                }
            }
            "backup_dir" => {
                value.text().ok_or_else(|| expected("a directory", value))?.clone_into(&mut self.backup_dir)
            }
            "record" => {
                value.text().ok_or_else(|| expected("a directory", value))?.clone_into(&mut self.record)
            }
            "record_bytes_max" => {
                self.record_bytes_max = value
                    .text()
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| expected("a whole number", value))?;
            }
            _ => self.set_config(key, value)?,
        }
        Ok(())
    }

    fn set_config(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let result = self.config.set(key, value.text().unwrap_or_default());
        said_of(result, value, || match nearest(key, keys()) {
            Some(near) => format!("unknown key, did you mean {near}?"),
            None => "unknown key, `culex settings` prints all of them".to_owned(),
        })
    }

    /// What differs from the defaults: key, value, default. Where and on what the broker listens is not among it: that
    /// is told in any case.
    pub(crate) fn changed(&self) -> Vec<(&'static str, String, String)> {
        let default = Self::default();
        let (allow, log) = (self.allow_anonymous_remote, &self.log);
        let bytes = |settings: &Self| settings.record_bytes_max.to_string();
        let durability = |settings: &Self| named(settings.durability).to_owned();
        let shards =
            |settings: &Self| settings.shards.map_or_else(|| "auto".to_owned(), |count| count.to_string());
        // Where durable state lies is told in any case.
        let program = [
            ("allow_anonymous_remote", allow.to_string(), default.allow_anonymous_remote.to_string()),
            ("shards", shards(self), shards(&default)),
            ("log", log.to_string(), default.log.to_string()),
            ("durability", durability(self), durability(&default)),
            ("backup_dir", self.backup_dir.clone(), default.backup_dir.clone()),
            ("record", self.record.clone(), default.record.clone()),
            ("record_bytes_max", bytes(self), bytes(&default)),
        ];
        program
            .into_iter()
            .filter(|(_, value, default)| value != default)
            .chain(self.config.changed())
            .collect()
    }

    /// What contradicts each other, a line each.
    pub(crate) fn check(&self) -> Vec<String> {
        let mut mistakes = self.contradictions();
        if self.durability.is_none() && !self.data.is_empty() {
            mistakes.push(self.line("durability", "none contradicts data: expected os or disk"));
        }
        if let (Some(shards @ 2..), false) = (self.shards, self.data.is_empty()) {
            let line = format!("expected 1, because what data keeps is kept by one shard, found {shards}");
            mistakes.push(self.line("shards", &line));
        }
        if self.data.is_empty() && !self.backup_dir.is_empty() {
            mistakes.push(self.line("backup_dir", "there is nothing to back up without data"));
        }
        if !self.allow_anonymous_remote {
            let listeners = self.listeners();
            let remote =
                listeners.iter().find(|listener| !is_loopback(&listener.url) && !listener.is_guarded());
            mistakes.extend(remote.map(|listener| {
                let refused = format!(
                    "refusing {}: whoever reaches it could read and write every topic, because there are no \
                     passwords yet; set allow_anonymous_remote = true if that is what you want",
                    listener.url
                );
                if listener.is_table() {
                    listener.line("url", &refused)
                } else {
                    self.line("listen", &refused)
                }
            }));
        }
        mistakes
    }

    /// The machine names one contradiction at a time, the key first: go on with the default of that key.
    fn contradictions(&self) -> Vec<String> {
        let mut config = self.config.clone();
        let mut mistakes = Vec::new();
        while let Err(error) = config.check() {
            let text = error.to_string();
            let (key, mistake) = text.split_once(": ").unwrap_or(("", text.as_str()));
            let Some(found) = config.get(key) else {
                mistakes.push(text);
                break;
            };
            mistakes.push(self.line(key, &format!("{mistake}, found {found}")));
            let default = Config::default().get(key).unwrap_or_default();
            if found == default || config.set(key, &default).is_err() {
                break;
            }
        }
        mistakes
    }

    /// A line about the value of `key`, with where it comes from. A default contradicts what somebody gave: the file,
    /// if there is one.
    fn line(&self, key: &str, mistake: &str) -> String {
        if let Some((_, source)) = self.sources.iter().rev().find(|(given, _)| given == key) {
            return source.line(key, mistake);
        }
        let file = self.sources.iter().find_map(|(_, source)| match source {
            Source::File { name, .. } => Some(name),
            _ => None,
        });
        file.map_or_else(|| format!("{key}: {mistake}"), |name| format!("{name}: {key}: {mistake}"))
    }
}

/// Whether only this machine can reach a listener. A name counts as what it resolves to; one that does not resolve
/// cannot be bound either and is reported then.
fn is_loopback(url: &ListenUrl) -> bool {
    let addresses = url.resolve().unwrap_or_default();
    addresses.iter().all(|address| address.ip().to_canonical().is_loopback())
}

fn listen_urls(value: &Value) -> Result<Vec<ListenUrl>, String> {
    let texts: Vec<&str> = match value {
        Value::Text(text) => text.split(',').map(str::trim).collect(),
        Value::Many(texts) if !texts.is_empty() => texts.iter().map(String::as_str).collect(),
        _ => {
            return Err(expected(
                "mqtt://HOST:PORT, ws://HOST:PORT/PATH, unix:PATH or an array of them",
                value,
            ));
        }
    };
    let parse = |text: &str| match text.parse::<ListenUrl>() {
        Ok(url) if url.transport().tls => Err(format!(
            "{url}: TLS needs a certificate: give it a [[listener]] table in the configuration file"
        )),
        parsed => parsed.map_err(|error| error.to_string()),
    };
    texts.into_iter().map(parse).collect()
}

/// What a setting of the machine said of a value, for the operator. A value that is no single text was given to it as none:
/// it still had to find out whether its key exists and what it wants.
pub(crate) fn said_of(
    result: Result<(), SettingError>,
    value: &Value,
    unknown: impl FnOnce() -> String,
) -> Result<(), String> {
    match result {
        Ok(()) if value.text().is_some() => Ok(()),
        Ok(()) => Err(expected("a single value", value)),
        Err(SettingError::UnknownKey) => Err(unknown()),
        Err(SettingError::Invalid { expected: what }) => Err(expected(what, value)),
        Err(other) => Err(other.to_string()),
    }
}

pub(crate) fn expected(what: &str, value: &Value) -> String {
    format!("expected {what}, found {value}")
}

impl Value {
    /// The single text of the value.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Bare(text) => Some(text),
            Self::Many(_) | Self::Other(_) => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Bare(text) => f.write_str(text),
            Self::Many(texts) if texts.is_empty() => f.write_str("an empty array"),
            Self::Many(_) => f.write_str("an array"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

fn named(durability: Option<Durability>) -> &'static str {
    match durability {
        None => "none",
        Some(Durability::Os) => "os",
        Some(Durability::Disk) => "disk",
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokio => "tokio",
            Self::Smol => "smol",
            Self::Std => "std",
        })
    }
}

impl Source {
    /// The line about a mistake in the value of `key`.
    pub(crate) fn line(&self, key: &str, mistake: &str) -> String {
        match self {
            Self::File { name, line } => format!("{name}:{line}: {key}: {mistake}"),
            Self::Environment(variable) => format!("{variable}: {mistake}"),
            Self::Argument(argument) => format!("{argument}: {mistake}"),
        }
    }
}
