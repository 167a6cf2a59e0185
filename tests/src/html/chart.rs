//! The rows of the chart.

use super::{escape, thousandths};
use crate::runs::Story;
use crate::script::Op;
use crate::trace::{Entry, Kind};
use crate::words::version;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Milliseconds without an entry from which on they are a gap.
const GAP_MS: u64 = 250;
/// Characters of a label that surely fit; a longer one is also shown when pointed at.
const LABEL_FITS: usize = 34;

/// Draws the whole chart.
pub(super) fn draw(page: &mut String, story: &Story) {
    let clients = clients(story);
    writeln!(page, "<main style=\"--lanes:{}\">", clients.len()).ok();
    (0..clients.len()).for_each(|lane| {
        write!(page, "<i class=\"lane\" style=\"--c:{lane}\"></i>").ok();
    });
    page.push_str("<div class=\"names\"><span class=\"broker\">broker</span>");
    for (lane, client) in clients.into_iter().enumerate() {
        let name = story.trace.clients.get(client).map_or("?", String::as_str);
        write!(page, "<span style=\"--c:{lane}\">{}", escape(name)).ok();
        if let Some(plan) = story.script.clients.get(client) {
            let version = version(plan.version);
            write!(page, " <small title=\"{}\">{version}</small>", escape(&plan.to_string())).ok();
        }
        page.push_str("</span>");
    }
    page.push_str("</div>\n");
    let mut chart = Chart::new(page, story);
    let mut entries = story.trace.entries.as_slice();
    while let Some((entry, rest)) = entries.split_first() {
        let stored = entries.iter().take_while(|entry| is_stored(entry)).count();
        chart.pass(entry.at);
        if stored > 0 {
            chart.records(&entries[..stored]);
            entries = &entries[stored..];
        } else {
            chart.row(entry);
            entries = rest;
        }
    }
    page.push_str("</main>\n");
}

/// The clients that have something to show, in the order of their lanes.
fn clients(story: &Story) -> Vec<usize> {
    let shown: BTreeSet<usize> = story.trace.entries.iter().filter_map(|entry| entry.client).collect();
    shown.into_iter().collect()
}

struct Chart<'a> {
    page: &'a mut String,
    /// The lane of each client.
    lanes: BTreeMap<usize, usize>,
    /// What is done, by who does it and how the trace says it.
    ops: BTreeMap<(Option<usize>, String), &'a Op>,
    /// Virtual milliseconds of the row before, as it was written; what the faults of the script end at.
    time_ms: Option<u64>,
    end_ms: u64,
    is_over: bool,
    /// Until when no byte moves, and until when the client of which lane does not read: milliseconds.
    frozen_until: u64,
    stalled_until: Vec<u64>,
    down: bool,
    /// Connections that the broker has with the client of a lane.
    open: Vec<u32>,
    broken: bool,
}

impl<'a> Chart<'a> {
    fn new(page: &'a mut String, story: &'a Story) -> Self {
        let steps = &story.script.steps;
        let lanes: BTreeMap<usize, usize> =
            clients(story).into_iter().enumerate().map(|(lane, client)| (client, lane)).collect();
        let count = lanes.len();
        Self {
            page,
            lanes,
            ops: steps.iter().map(|step| ((step.op.client(), step.op.to_string()), &step.op)).collect(),
            time_ms: None,
            end_ms: steps.last().map_or(0, |step| step.at_ms) + 1_000,
            is_over: false,
            frozen_until: 0,
            stalled_until: vec![0; count],
            down: false,
            open: vec![0; count],
            broken: false,
        }
    }

    /// Time passes until the next entry: the end of the script, and gaps.
    fn pass(&mut self, at: u64) {
        let now = at / 1_000;
        if !self.is_over && now >= self.end_ms {
            self.is_over = true;
            self.gap(self.end_ms);
            self.open_row("over", self.end_ms);
            self.page.push_str(
                "<p class=\"all\">the script is over: faults end, those with a session come back</p>",
            );
            self.close_row();
            // Nothing goes wrong any more.
            self.frozen_until = 0;
            self.stalled_until.fill(0);
        }
        self.gap(now);
    }

    fn gap(&mut self, now: u64) {
        let Some(before) = self.time_ms else { return };
        if now >= before + GAP_MS {
            let length = thousandths(now - before);
            self.open("gap", before, "");
            write!(self.page, "<p class=\"all\">+{length} s</p>").ok();
            self.close_row();
        }
    }

    /// Opens a row that looks as things stand.
    fn open(&mut self, class: &str, now: u64, id: &str) {
        let down = if self.down { " down" } else { "" };
        let frozen = if now < self.frozen_until { " frozen" } else { "" };
        write!(self.page, "<div class=\"r {class}{down}{frozen}\"{id}>").ok();
        if !self.down {
            self.page.push_str("<b class=\"up\"></b>");
        }
        for (lane, open) in self.open.iter().enumerate() {
            if now < self.stalled_until[lane] {
                write!(self.page, "<b class=\"stall\" style=\"--c:{lane}\"></b>").ok();
            }
            if *open > 0 {
                write!(self.page, "<b style=\"--c:{lane}\"></b>").ok();
            }
        }
    }

    fn open_row(&mut self, class: &str, now: u64) {
        let first = class == "broken" && !std::mem::replace(&mut self.broken, true);
        self.open(class, now, if first { " id=\"broken\"" } else { "" });
        if self.time_ms != Some(now) {
            write!(self.page, "<time>{}</time>", thousandths(now)).ok();
        }
        self.time_ms = Some(now);
    }

    fn close_row(&mut self) {
        self.page.push_str("</div>\n");
    }

    fn row(&mut self, entry: &Entry) {
        let now = entry.at / 1_000;
        self.learn(entry, now);
        let text = &entry.text;
        let class = class_of(entry);
        self.open_row(&class, now);
        let across = class == "broken" || class == "fault killed";
        if across {
            write!(self.page, "<p class=\"all\">{}</p>", escape(text)).ok();
        } else {
            let title = if text.chars().count() > LABEL_FITS {
                format!(" title=\"{}\"", escape(text))
            } else {
                String::new()
            };
            let lane = entry.client.and_then(|client| self.lanes.get(&client));
            let (tag, lane) = match (entry.kind, lane) {
                (Kind::In | Kind::Out, Some(lane)) => ("arrow", lane.to_string()),
                (_, Some(lane)) => ("at", lane.to_string()),
                (_, None) => ("at", "-1".into()),
            };
            let text = escape(text);
            write!(self.page, "<p class=\"{tag}\" style=\"--c:{lane}\"><span{title}>{text}</span></p>").ok();
        }
        self.close_row();
    }

    /// Several records in a row, folded.
    fn records(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let records: Vec<&str> = entries.iter().filter_map(|e| e.text.strip_prefix(STORED)).collect();
        self.open_row("note", first.at / 1_000);
        self.page.push_str("<details class=\"at\" style=\"--c:-1\"><summary>stored: ");
        let mut names: Vec<&str> = records.iter().map(|record| name_of(record)).collect();
        let count = names.len();
        names.truncate(6);
        self.page.push_str(&escape(&names.join(", ")));
        if count > names.len() {
            write!(self.page, " and {} more", count - names.len()).ok();
        }
        self.page.push_str("</summary><pre>");
        self.page.push_str(&escape(&records.join("\n")));
        self.page.push_str("</pre></details>");
        self.close_row();
    }

    /// What an entry changes in how things stand.
    fn learn(&mut self, entry: &Entry, now: u64) {
        let op = self.ops.get(&(entry.client, entry.text.clone())).copied();
        let lane = entry.client.and_then(|client| self.lanes.get(&client)).copied();
        match (op, lane) {
            (Some(Op::Partition { ms }), _) => self.frozen_until = now + ms,
            (Some(Op::Stall { ms, .. }), Some(lane)) => self.stalled_until[lane] = now + ms,
            _ => {}
        }
        match (entry.kind, entry.text.as_str()) {
            (Kind::Fault, KILLED) => {
                self.down = true;
                self.open.fill(0);
            }
            (Kind::Note, BACK) => self.down = false,
            _ => {}
        }
        let Some(open) = lane.and_then(|lane| self.open.get_mut(lane)) else { return };
        let cut = matches!(op, Some(Op::Cut { .. }));
        match entry.kind {
            Kind::In if entry.text.starts_with("CONNECT") => *open += 1,
            Kind::Note if entry.text.starts_with(CLOSES) => *open = open.saturating_sub(1),
            Kind::Fault if cut => *open = open.saturating_sub(1),
            _ => {}
        }
    }
}

/// How the world says what the chart has to know.
const STORED: &str = "store ";
const KILLED: &str = "the broker is killed";
const BACK: &str = "the broker is back";
const CLOSES: &str = "the broker closes the connection";

fn is_stored(entry: &Entry) -> bool {
    entry.kind == Kind::Note && entry.text.starts_with(STORED)
}

/// The name of a record: the first word of it, behind its number.
fn name_of(record: &str) -> &str {
    let record = record.split_once(": ").map_or(record, |(_, record)| record);
    record.split(|c: char| !c.is_alphanumeric()).next().unwrap_or(record)
}

fn class_of(entry: &Entry) -> String {
    let direction = match entry.kind {
        Kind::In => "in",
        Kind::Out => "out",
        Kind::Step => return "step".into(),
        Kind::Fault if entry.text == KILLED => return "fault killed".into(),
        Kind::Fault => return "fault".into(),
        Kind::Note => return "note".into(),
        Kind::Broken => return "broken".into(),
    };
    let word = entry.text.split(' ').next().unwrap_or_default();
    let sort = match word {
        "PUBLISH" if entry.text.contains(" dup ") => "pub dup",
        "PUBLISH" => "pub",
        "PUBACK" | "PUBREC" | "PUBREL" | "PUBCOMP" => "ack",
        "SUBSCRIBE" | "SUBACK" | "UNSUBSCRIBE" | "UNSUBACK" => "sub",
        "PINGREQ" | "PINGRESP" => "ping",
        "nonsense" => "bad",
        _ => "con",
    };
    format!("{direction} {sort}")
}
