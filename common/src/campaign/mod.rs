//! Campaigns: one message, in several languages and on several channels, for as many recipients as
//! there are. Pure: no tokio, no SQL, no AMQP, no clock.
//!
//! | | |
//! |---|---|
//! | [`Submission`] | all of it as one document, checked as a whole |
//! | [`Content`] | what is said: JSON with templates, read and compiled once, rendered per recipient |
//! | [`Reader`] | to whom: an upload in CSV or NDJSON, read as it streams in |
//! | [`Members`] | or to whom: members of an audience |
//! | [`AddressKind`] | addresses, checked and brought into the one form in which they are compared |
//! | [`Reachable`] | when a recipient may be reached, in their own time |
//! | [`child_id`] | the id of the job for a recipient: the same one however often it is made |
//!
//! Whether a recipient was given twice is not asked here: who makes the jobs finds out, by
//! [`Recipient::key`].

mod address;
mod child;
mod content;
mod language;
#[cfg(test)]
mod measure;
mod problem;
mod recipients;
mod submission;
mod template;
mod window;

pub use address::{
    ADDRESS_BYTES_MAX, AddressKind, Country, InvalidAddress, InvalidCountry, suppressible,
};
pub use child::child_id;
pub use content::{
    CHANNELS_MAX, CONTENT_BYTES_MAX, COST_MICROS_MAX, Channel, Common, Content, LANGUAGES_MAX,
    Message, RenderError, VARIABLE_BYTES_MAX, VARIABLES_MAX, Variable,
};
pub use language::{InvalidLanguage, LANGUAGE_BYTES_MAX, Language};
pub use problem::{PROBLEMS_MAX, Problem};
pub use recipients::{
    COLUMNS_MAX, Format, IGNORED_MAX, Line, LineError, Member, Members, RECORD_BYTES_MAX, Reader,
    Recipient, Refused,
};
pub use submission::{
    Audience, Checked, Invalid, NAME_BYTES_MAX, SUBMISSION_BYTES_MAX, Submission,
};
pub use template::{ALL_EXPRESSIONS_MAX, EXPRESSIONS_MAX, TEMPLATE_NESTING_MAX};
pub use window::{Reach, Reachable};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_documentation_shows_can_be_read() {
        let text = include_str!("../../../docs/CAMPAIGNS.md");
        let blocks = text.split("```").skip(1).step_by(2);
        let blocks: Vec<&str> = blocks.filter(|block| !block.starts_with("sh\n")).collect();
        let [content, csv, ndjson, window] = blocks[..] else {
            panic!("an example is missing, or one more than is read here: {blocks:?}");
        };
        let json = |block: &'static str| block.strip_prefix("json\n").unwrap();
        let content = Content::parse(json(content).as_bytes()).unwrap();
        Reachable::parse(json(window).as_bytes()).unwrap();
        let csv = (Format::Csv, csv.trim_start());
        for (format, upload) in [csv, (Format::Ndjson, json(ndjson))] {
            let mut reader = Reader::new(format, &content, "FR".parse().ok());
            let mut lines = Vec::new();
            reader.feed(upload.as_bytes(), &mut lines).unwrap();
            reader.finish(&mut lines).unwrap();
            assert_eq!(lines.len(), 2);
            let common = Common {
                campaign: "spring",
                timezone: "UTC",
            };
            for line in lines {
                content.render(&line.recipient.unwrap(), common).unwrap();
            }
        }
    }

    #[test]
    fn a_content_is_shared_and_a_reader_moves_between_threads() {
        fn is_shared<T: Send + Sync>() {}
        fn moves<T: Send>() {}
        is_shared::<Content>();
        is_shared::<Reachable>();
        moves::<Reader>();
    }
}
