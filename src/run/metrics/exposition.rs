//! Prometheus' text format, version 0.0.4: families of samples, each with its help and type.

use std::fmt::{Display, Write};

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text in the making.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// What a family's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They only grow while the process lives.
    Counter,
    /// They are what they are right now.
    Gauge,
}

/// One number of a family and its labels.
pub type Sample<'a> = (Vec<(&'a str, String)>, f64);

impl Exposition {
    /// Adds a family of one number without labels.
    pub fn one(&mut self, kind: Kind, name: &str, help: &str, value: impl Into<f64>) {
        self.family(kind, name, help, [(Vec::new(), value.into())]);
    }

    /// Adds a family; nothing where it has no samples.
    pub fn family<'a>(&mut self, kind: Kind, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<'a>>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
        self.line(format_args!("# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n")));
        self.line(format_args!("# TYPE {name} {kind}"));
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            self.line(format_args!("{name}{labels} {value}"));
        }
    }

    /// Returns the text.
    pub fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a string takes all");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_the_format_wants_it() {
        let mut text = Exposition::default();
        text.one(Kind::Gauge, "a", "What a is.", 1.5);
        let label = |name: &str| vec![("name", name.to_string())];
        text.family(Kind::Counter, "b_total", "Two\nlines.", [(label("x\"\\\n"), 2.0), (label("y"), 1e18)]);
        text.family(Kind::Gauge, "none", "Nothing.", []);
        let wanted = "# HELP a What a is.\n# TYPE a gauge\na 1.5\n\
            # HELP b_total Two\\nlines.\n# TYPE b_total counter\n\
            b_total{name=\"x\\\"\\\\\\n\"} 2\nb_total{name=\"y\"} 1000000000000000000\n";
        assert_eq!(text.into_text(), wanted);
    }
}
