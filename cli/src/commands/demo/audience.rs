//! Recipients: the real sample where it is, a committed one of the same shape otherwise, and as
//! many more as were asked for, made from their number.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use postroad_common::job::{NewJob, QueueName, TenantName};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

const LARGE_SAMPLE: &str = "../shared/data/recipients.csv";
const SAMPLE: &str = include_str!("../../../data/recipients.sample.csv");
const BATCH: usize = 1000;

/// The recipients of a campaign, in order.
pub(super) struct Audience {
    rows: csv::DeserializeRecordsIntoIter<Box<dyn Read + Send>, Recipient>,
    next: u64,
    count: u64,
}

#[derive(Deserialize)]
struct Recipient {
    phone: String,
    language: String,
}

#[derive(Serialize)]
struct Sms<'a> {
    to: &'a str,
    text: &'a str,
}

impl Audience {
    pub(super) fn load(count: u64) -> anyhow::Result<Self> {
        let source: Box<dyn Read + Send> = if Path::new(LARGE_SAMPLE).exists() {
            Box::new(File::open(LARGE_SAMPLE).with_context(|| format!("opening {LARGE_SAMPLE}"))?)
        } else {
            Box::new(SAMPLE.as_bytes())
        };
        Ok(Self {
            rows: csv::Reader::from_reader(source).into_deserialize(),
            next: 0,
            count,
        })
    }

    pub(super) fn next_batch(&mut self) -> anyhow::Result<Vec<NewJob>> {
        let size = usize::try_from(self.count - self.next)
            .unwrap_or(BATCH)
            .min(BATCH);
        (0..size).map(|_| self.next_job()).collect()
    }

    fn next_job(&mut self) -> anyhow::Result<NewJob> {
        let recipient = match self.rows.next() {
            Some(row) => row.context("reading recipients")?,
            None => made_up(self.next),
        };
        self.next += 1;
        let text = greeting(&recipient.language);
        let mut job = NewJob::new(
            "sms".parse().expect("`sms` is a name"),
            to_raw_value(&Sms {
                to: &recipient.phone,
                text,
            })?,
        );
        job.queue = queue("sms");
        job.tenant = tenant();
        Ok(job)
    }
}

/// +999 is a country code that nobody has.
fn made_up(number: u64) -> Recipient {
    Recipient {
        phone: format!("+999{number:09}"),
        language: "en".to_owned(),
    }
}

fn greeting(language: &str) -> &'static str {
    match language {
        "fr" => "Bonjour ! Votre colis arrive aujourd'hui.",
        "es" => "¡Hola! Su paquete llega hoy.",
        "de" => "Hallo! Ihr Paket kommt heute.",
        _ => "Hello! Your parcel arrives today.",
    }
}

pub(super) fn queue(name: &str) -> QueueName {
    name.parse().expect("the demo's queues are names")
}

pub(super) fn tenant() -> TenantName {
    "demo".parse().expect("`demo` is a name")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_recipient_is_asked_for_once_beyond_the_sample_too() {
        let mut audience = Audience::load(6000).unwrap();
        let mut phones = HashSet::new();
        loop {
            let batch = audience.next_batch().unwrap();
            if batch.is_empty() {
                break;
            }
            phones.extend(batch.iter().map(|job| job.args.get().to_owned()));
        }
        assert_eq!(phones.len(), 6000);
    }
}
