//! What the metrics of this gateway say now, for the operation that shows pools and queues.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;

use super::gauges::Gauges;
use crate::store::Lease;

/// The state of this one gateway.
#[derive(Clone)]
pub struct Figures {
    pub gauges: Arc<Gauges>,
    pub metrics: PrometheusHandle,
    pub lease: Arc<Lease>,
}

/// The metrics at one moment, as Prometheus would read them.
pub(super) struct Reading(String);

/// One time series: its labels, and its value without fractions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Series<'a> {
    labels: &'a str,
    pub(super) value: i64,
}

impl Figures {
    pub(super) fn read(&self) -> Reading {
        self.gauges.show();
        Reading(self.metrics.render())
    }
}

impl Reading {
    /// The time series of one metric.
    pub(super) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Series<'a>> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let whole = value.split('.').next().unwrap_or_default();
            Some(Series { labels, value: whole.parse().ok()? })
        })
    }
}

impl Series<'_> {
    /// The value of a label. Labels have values from closed lists: none of them has a quotation mark.
    pub(super) fn label(&self, name: &str) -> String {
        let begin = format!("{name}=\"");
        let value = self.labels.split(',').find_map(|pair| pair.trim().strip_prefix(begin.as_str()));
        value.map(|value| value.trim_end_matches('"').to_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_with_their_labels() {
        let reading = Reading(
            "# HELP pool Connections\npool{pool=\"callers\",state=\"idle\"} 3\npool_max{pool=\"callers\"} 10\nheld 1.5\n".into(),
        );
        let found: Vec<Series<'_>> = reading.of("pool").collect();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].label("pool"), found[0].label("state"), found[0].value),
            ("callers".into(), "idle".into(), 3)
        );
        assert_eq!(found[0].label("other"), "");
        assert_eq!(reading.of("held").next().unwrap().value, 1);
    }
}
