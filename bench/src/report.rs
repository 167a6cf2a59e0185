//! The figures as Markdown and as JSON.

use crate::broker::Kind;
use crate::stream::Transport;
use crate::transports::Figure;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What a figure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) broker: Kind,
    pub(crate) transport: Transport,
    pub(crate) figure: Figure,
}

/// The figures of all rounds.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: BTreeMap<Key, Vec<f64>>,
    generator: BTreeMap<Key, Vec<Generator>>,
}

/// What the generator did in a case.
#[derive(Debug, Clone, Copy)]
struct Generator {
    /// Microseconds of its CPU per message.
    cpu_us: f64,
    /// Messages per second.
    rate: f64,
    /// The part of the time in which it was busy, 0 to 1.
    busy: f64,
}

impl Report {
    pub(crate) fn add(&mut self, key: Key, value: f64) {
        self.figures.entry(key).or_default().push(value);
    }

    /// What the generator used for so many messages in that time.
    pub(crate) fn generator(&mut self, key: Key, cpu_us: f64, count: f64, took: Duration) {
        let (cpu, seconds) = (cpu_us / count, took.as_secs_f64());
        let generator = Generator { cpu_us: cpu, rate: count / seconds, busy: cpu_us / 1e6 / seconds };
        self.generator.entry(key).or_default().push(generator);
    }

    fn of(&self, broker: Kind, transport: Transport, figure: Figure) -> Option<f64> {
        self.figures.get(&Key { broker, transport, figure }).map(|values| median(values.clone()))
    }

    fn of_generator(&self, key: Key, pick: impl Fn(&Generator) -> f64) -> Option<f64> {
        self.generator.get(&key).map(|runs| median(runs.iter().map(pick).collect()))
    }

    /// Every figure with all its values, in the order of brokers, transports and cases.
    pub(crate) fn json(&self) -> String {
        let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
        let line = |(key, values): (&Key, &Vec<f64>)| {
            let Key { broker, transport, figure } = key;
            let mut line = format!(
                "  {{\"broker\": \"{broker}\", \"transport\": \"{transport}\", \"figure\": \"{figure:?}\", \
                 \"median\": {}, \"values\": [{}]",
                median(values.clone()),
                list(values),
            );
            if let Some(runs) = self.generator.get(key) {
                let values = |pick: fn(&Generator) -> f64| list(&runs.iter().map(pick).collect::<Vec<_>>());
                line += &format!(", \"generator_us\": [{}]", values(|run| run.cpu_us));
                line += &format!(", \"per_second\": [{}]", values(|run| run.rate));
                line += &format!(", \"generator_busy\": [{}]", values(|run| run.busy));
            }
            line + "}"
        };
        format!("[\n{}\n]\n", self.figures.iter().map(line).collect::<Vec<_>>().join(",\n"))
    }

    fn table(&self, f: &mut fmt::Formatter<'_>, title: &str, columns: &[Column]) -> fmt::Result {
        writeln!(f, "{title}\n")?;
        write!(f, "| broker | transport |")?;
        columns.iter().try_for_each(|column| write!(f, " {} |", column.title))?;
        writeln!(f, "\n|---|---|{}", "---:|".repeat(columns.len()))?;
        for broker in Kind::ALL {
            for transport in Transport::ALL {
                let cells: Vec<_> =
                    columns.iter().map(|column| (column.value)(self, broker, transport)).collect();
                if cells.iter().all(Option::is_none) {
                    continue;
                }
                write!(f, "| {broker} | {transport} |")?;
                for (cell, column) in cells.iter().zip(columns) {
                    match cell {
                        Some(value) => write!(f, " {value:.*} |", column.digits)?,
                        None => write!(f, " – |")?,
                    }
                }
                writeln!(f)?;
            }
        }
        writeln!(f)
    }
}

struct Column {
    title: &'static str,
    digits: usize,
    value: fn(&Report, Kind, Transport) -> Option<f64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = |title, digits, value| Column { title, digits, value };
        self.table(
            f,
            "Broker CPU in µs per message delivered:",
            &[
                column("QoS 0", 2, |report, broker, transport| report.of(broker, transport, Figure::Qos0)),
                column("QoS 1", 2, |report, broker, transport| report.of(broker, transport, Figure::Qos1)),
                column("1 to 100", 2, |report, broker, transport| {
                    report.of(broker, transport, Figure::FanOut)
                }),
                column("one at a time", 1, |report, broker, transport| {
                    report.of(broker, transport, Figure::Single)
                }),
            ],
        )?;
        self.table(
            f,
            "Connections: bytes of memory while idle, CPU in µs for one (accept to end), and how many per second and core:",
            &[
                column("bytes", 0, |report, broker, transport| report.of(broker, transport, Figure::Idle)),
                column("CPU", 0, |report, broker, transport| report.of(broker, transport, Figure::Connect)),
                column("CPU, resumed", 0, |report, broker, transport| {
                    report.of(broker, transport, Figure::Resume)
                }),
                column("per second", 0, |report, broker, transport| {
                    report.of(broker, transport, Figure::Connect).map(|cpu| 1e6 / cpu)
                }),
            ],
        )?;
        self.table(
            f,
            "The generator: CPU in µs per message, and the part of the time it was busy:",
            &[
                column("QoS 0", 2, |report, broker, transport| {
                    report.of_generator(Key { broker, transport, figure: Figure::Qos0 }, |run| run.cpu_us)
                }),
                column("busy", 2, |report, broker, transport| {
                    report.of_generator(Key { broker, transport, figure: Figure::Qos0 }, |run| run.busy)
                }),
                column("1 to 100", 2, |report, broker, transport| {
                    report.of_generator(Key { broker, transport, figure: Figure::FanOut }, |run| run.cpu_us)
                }),
                column("busy", 2, |report, broker, transport| {
                    report.of_generator(Key { broker, transport, figure: Figure::FanOut }, |run| run.busy)
                }),
            ],
        )
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}
