//! What recipients are shown in the product itself: announcements, each of them one thing for all
//! whom its rules pick, and entries, each for one recipient. Pure: no clock, no database.
//!
//! Nothing is written for a recipient when something is announced. What it may see is judged when it
//! looks ([`page`](fn@page)), by the rules of audiences, at the moment that the database says it is.

mod content;
mod message;
mod page;
mod period;
mod submission;

pub use content::{CONTENT_BYTES_MAX, Content, LANGUAGES_MAX};
pub use message::{
    BODY_CHARS_MAX, DATA_BYTES_MAX, Message, MessageInput, TITLE_CHARS_MAX, URL_BYTES_MAX,
};
pub use page::{
    Announcement, Announcements, Asked, Entry, Glance, Item, Page, Position, Source, UNREAD_MAX,
    page,
};
pub use period::{DAYS_DEFAULT, DAYS_MAX, Period};
pub(crate) use submission::no_audience;
pub use submission::{Correction, DEDUP_KEY_BYTES_MAX, Submission, Whom};

/// Announcements of a tenant that have not ended.
pub const ANNOUNCEMENTS_MAX: usize = 1000;

#[cfg(test)]
mod tests;
