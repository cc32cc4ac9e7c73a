//! How answers are printed: a table for people, JSON and YAML for programs, names for shells.
//!
//! A command answers a [`Report`] and prints nothing itself, except for streams, which print one report a record. Texts
//! in it come from brokers, clusters and other operators: control characters, which a terminal would act on, are shown
//! escaped. Values never get here: no type of this crate that has one can become a report.

mod yaml;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, TableStyle};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use crate::args::Format;
use crate::failure::{Exit, Failure};

/// What a command answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// For programs: the documented keys.
    pub data: Value,
    /// For shells: what was made, changed or listed.
    pub names: Vec<String>,
    /// For people.
    pub human: Human,
    /// How the command ends: [`Exit::Done`], or [`Exit::Found`] for a check.
    pub exit: Exit,
}

/// An answer as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Human {
    /// Many things of a kind.
    Table {
        /// The columns' heads.
        heads: &'static [&'static str],
        /// A row a thing.
        rows: Vec<Vec<String>>,
    },
    /// One thing: its properties, each with its name.
    Card(Vec<(&'static str, String)>),
    /// A sentence or two, on one line.
    Text(String),
    /// Several lines.
    Lines(Vec<String>),
    /// A program for a shell, which is made here and printed as it is.
    Script(String),
    /// Nothing, in any form: all has been printed.
    Nothing,
}

impl Report {
    /// Takes the data as they are serialized, and what people see.
    ///
    /// # Errors
    /// [`Exit::Failed`] when the data have no JSON form, which is a defect.
    pub fn new(data: &impl Serialize, names: Vec<String>, human: Human) -> Result<Self, Failure> {
        let data = serde_json::to_value(data).map_err(|error| {
            Failure::new(Exit::Failed, "the answer cannot be shown").caused_by(&error)
        })?;
        Ok(Self {
            data,
            names,
            human,
            exit: Exit::Done,
        })
    }

    /// The answer of a check that found something.
    #[must_use]
    pub fn found(mut self) -> Self {
        self.exit = Exit::Found;
        self
    }

    /// The answer of what was done in part.
    #[must_use]
    pub fn partly(mut self) -> Self {
        self.exit = Exit::Partly;
        self
    }

    /// The text to print, with a newline at its end unless it is empty. `wide`: how many columns there are; none where no
    /// terminal is.
    #[must_use]
    pub fn render(&self, format: Format, wide: Option<u16>, color: bool) -> String {
        if self.human == Human::Nothing {
            return String::new();
        }
        match format {
            Format::Table => self.human.render(wide, color),
            Format::Json => machine(&format!("{:#}\n", self.data)),
            Format::Yaml => machine(&yaml::document(&self.data)),
            Format::Name => self.names.iter().fold(String::new(), |mut text, name| {
                // Writing to a String does not fail.
                let _ = writeln!(text, "{}", visible(name));
                text
            }),
        }
    }

    /// As [`Report::render`], for one record of a stream: JSON on one line, YAML as one document of many.
    #[must_use]
    pub fn render_record(&self, format: Format) -> String {
        match format {
            Format::Json => machine(&format!("{}\n", self.data)),
            Format::Yaml => machine(&format!("---\n{}", yaml::document(&self.data))),
            Format::Table | Format::Name => self.render(format, None, false),
        }
    }
}

impl Human {
    fn render(&self, wide: Option<u16>, color: bool) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Script(script) => script.clone(),
            Self::Text(text) if text.is_empty() => String::new(),
            Self::Text(text) => format!("{}\n", visible(text)),
            Self::Lines(lines) => lines.iter().fold(String::new(), |mut text, line| {
                // Writing to a String does not fail.
                let _ = writeln!(text, "{}", visible(line));
                text
            }),
            Self::Card(properties) => card(properties, color),
            Self::Table { heads, rows } => table(heads, rows, wide, color),
        }
    }
}

fn table(heads: &[&str], rows: &[Vec<String>], wide: Option<u16>, color: bool) -> String {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new())
        .force_no_tty()
        .set_content_arrangement(ContentArrangement::Disabled);
    if let Some(wide) = wide {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(wide);
    }
    table.set_header(heads.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| visible(cell).into_owned()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for (index, line) in table.lines().enumerate() {
        let line = line.trim_end();
        let _ = if index == 0 {
            writeln!(text, "{}", bold(line, color))
        } else {
            writeln!(text, "{line}")
        };
    }
    text
}

fn card(properties: &[(&str, String)], color: bool) -> String {
    let width = properties
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or_default();
    properties
        .iter()
        .fold(String::new(), |mut text, (name, value)| {
            let name = format!("{name:<width$}");
            // Writing to a String does not fail.
            let _ = writeln!(text, "{}  {}", bold(&name, color), visible(value));
            text
        })
}

fn bold(text: &str, color: bool) -> Cow<'_, str> {
    if color {
        Cow::Owned(format!("\u{1b}[1m{text}\u{1b}[0m"))
    } else {
        Cow::Borrowed(text)
    }
}

/// A text as a terminal may see it: characters that steer a terminal or turn the direction of writing are escaped, line
/// ends too.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().fold(String::new(), |mut shown, c| {
        let _ = if steers(c) {
            write!(shown, "{}", c.escape_unicode())
        } else {
            write!(shown, "{c}")
        };
        shown
    }))
}

/// JSON and YAML may be looked at in a terminal too. The serializer escapes what is below U+0020; the others of
/// [`visible`] can stand in quoted strings only, where `\uXXXX` means the same in both.
fn machine(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut shown, c| {
            let _ = if c != '\n' && steers(c) {
                write!(shown, "\\u{:04x}", u32::from(c))
            } else {
                write!(shown, "{c}")
            };
            shown
        })
}

/// Control characters (C0, DEL, C1) and the invisible ones that reorder or separate text; all are below U+10000.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The process's streams, with what the command line says of them.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    /// How answers are printed.
    pub format: Format,
    /// Whether hints, warnings and progress are left out.
    pub quiet: bool,
    /// Whether a terminal shows the answers, and colors are wanted.
    pub color: bool,
    /// How many columns it has.
    pub wide: Option<u16>,
}

impl Console {
    /// Prints an answer on standard output.
    ///
    /// # Errors
    /// [`Exit::Failed`] when it cannot be written. A reader that has seen enough (`| head`) is no failure.
    pub fn answer(&self, report: &Report) -> Result<(), Failure> {
        print(report.render(self.format, self.wide, self.color).as_bytes()).map(drop)
    }

    /// Prints a record of a stream, and says whether anyone still reads.
    ///
    /// # Errors
    /// As [`Console::answer`].
    pub fn record(&self, report: &Report) -> Result<bool, Failure> {
        print(report.render_record(self.format).as_bytes())
    }

    /// A bar on standard error for work of a known size; hidden where nobody watches it.
    #[must_use]
    pub fn progress(&self, size: u64) -> ProgressBar {
        if self.quiet || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let template = "{bar:30} {pos}/{len}  {per_sec}  {eta} left";
        styled(ProgressBar::new(size), template)
    }

    /// As [`Console::progress`], of bytes.
    #[must_use]
    pub fn bytes_progress(&self, size: u64) -> ProgressBar {
        let template = "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
        styled(self.progress(size), template)
    }

    /// As [`Console::progress`], of work that somebody else does and may have begun long ago: how fast it is stands in the bar's
    /// message.
    #[must_use]
    pub fn joined_progress(&self) -> ProgressBar {
        styled(self.progress(0), "{bar:30} {pos}/{len}  {msg}")
    }

    /// Says something beside the answer, in one line on standard error.
    pub fn hint(&self, text: &str) {
        if !self.quiet {
            // Nobody may read standard error; the answer does not hang on it.
            let _ = writeln!(io::stderr().lock(), "{}", visible(text));
        }
    }
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Writes to standard output; `false` when its reader is gone.
///
/// # Errors
/// [`Exit::Failed`] when it cannot be written.
pub fn print(bytes: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(Failure::new(Exit::Failed, "the answer was not written").caused_by(&error))
        }
    }
}

#[cfg(test)]
mod tests;
