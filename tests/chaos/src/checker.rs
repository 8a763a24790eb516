//! A history → figures and a verdict. Pure.
use serde::{Deserialize, Serialize};
/// stub
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Report {
    pub acknowledged: u64,
    pub recovered: u64,
    pub explained_duplicates: u64,
    pub ticks: u64,
    pub ticks_missed: u64,
    pub ticks_extra: u64,
}
#[allow(missing_docs)]
impl Report {
    pub fn complaints(&self) -> Vec<String> {
        vec![]
    }
    pub fn merge(&mut self, o: &Report) {
        self.acknowledged += o.acknowledged
    }
    pub fn zeros(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [].into_iter()
    }
}
#[allow(missing_docs)]
pub fn check(h: &crate::history::History) -> Report {
    Report {
        acknowledged: h.submits.len() as u64,
        ..Default::default()
    }
}
#[allow(missing_docs)]
pub fn bound_95(n: u64) -> f64 {
    3.0 / n as f64
}
