//! What one recipient sees: its entries and the announcements for it, newest first.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::content::Content;
use crate::audience::{Recipient, Rule};

/// Unread items are counted up to here: a badge that says more than this says "many".
pub const UNREAD_MAX: usize = 100;

/// Where an item stands among others, which it never leaves. Newer is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Since when it is shown, to the microsecond.
    pub at: Timestamp,
    /// Which of those of the same moment.
    pub id: Uuid,
}

impl Position {
    /// The one of this text, as `to_string` has written it.
    pub fn of_cursor(text: &str) -> Option<Self> {
        let (micros, id) = text.split_once('.')?;
        // Digits alone, so that there is one way to write it.
        if micros.is_empty() || !micros.bytes().all(|byte| byte.is_ascii_digit()) || id.len() != 36
        {
            return None;
        }
        Some(Self {
            at: Timestamp::from_microsecond(micros.parse().ok()?).ok()?,
            id: Uuid::try_parse(id).ok()?,
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.at.as_microsecond(), self.id)
    }
}

/// An announcement that has not ended: its rules read and its messages made, once for everybody.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Its id.
    pub id: Uuid,
    /// Not shown before then.
    pub starts_at: Timestamp,
    /// Nor from then on.
    pub ends_at: Timestamp,
    /// For whom it is.
    pub rule: Rule,
    /// What it says.
    pub content: Content,
}

impl Announcement {
    fn position(&self) -> Position {
        Position {
            at: self.starts_at,
            id: self.id,
        }
    }
}

/// All announcements of a tenant that had not ended when they were read.
#[derive(Clone, Debug, Default)]
pub struct Announcements {
    newest_first: Vec<Announcement>,
    bytes: usize,
}

impl Announcements {
    /// In any order; `bytes` is about what they take in memory.
    pub fn new(mut all: Vec<Announcement>, bytes: usize) -> Self {
        all.sort_unstable_by_key(|one| std::cmp::Reverse(one.position()));
        Self {
            newest_first: all,
            bytes,
        }
    }

    /// About what they take in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Something that is shown to one recipient alone.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its id.
    pub id: Uuid,
    /// Since when it is shown.
    pub created_at: Timestamp,
    /// Until when.
    pub ends_at: Timestamp,
    /// Whether it was marked by itself.
    pub is_marked: bool,
    /// The language that it is in, if that is known.
    pub language: Option<String>,
    /// What it says.
    pub message: Box<RawValue>,
}

impl Entry {
    fn position(&self) -> Position {
        Position {
            at: self.created_at,
            id: self.id,
        }
    }
}

/// What the database knows of one recipient at one moment.
#[derive(Clone, Debug)]
pub struct Glance {
    /// The moment.
    pub now: Timestamp,
    /// The version of the tenant's announcements.
    pub version: i64,
    /// The recipient. Of one that nobody has put, only the key is known.
    pub recipient: Recipient,
    /// What stands here or behind is read.
    pub read_to: Position,
    /// Announcements before it that are read, in order.
    pub read_ids: Vec<Uuid>,
    /// Its entries behind the cursor, newest first: one more than asked for, if there are more.
    pub entries: Vec<Entry>,
    /// Entries that are not read, counted up to [`UNREAD_MAX`].
    pub unread_entries: usize,
}

impl Glance {
    fn has_read(&self, one: Position, is_marked: impl FnOnce() -> bool) -> bool {
        one <= self.read_to || is_marked()
    }

    fn has_read_announcement(&self, one: &Announcement) -> bool {
        let is_marked = || self.read_ids.binary_search(&one.id).is_ok();
        self.has_read(one.position(), is_marked)
    }
}

/// What of a timeline is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Items on the page, at most.
    pub limit: usize,
    /// Only those behind it.
    pub before: Option<Position>,
    /// Only those that are not read.
    pub is_unread: bool,
}

/// Where an item comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// For all whom its rules pick.
    Announcement,
    /// For this recipient alone.
    Personal,
}

/// One thing that is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Item<'a> {
    /// Its id.
    pub id: Uuid,
    /// Where it comes from.
    pub source: Source,
    /// Since when it is shown.
    pub at: Timestamp,
    /// Until when.
    pub ends_at: Timestamp,
    /// Whether the recipient has read it.
    pub read: bool,
    /// The language that it is in.
    pub language: Option<&'a str>,
    /// What it says.
    pub message: &'a RawValue,
}

impl Item<'_> {
    fn position(&self) -> Position {
        Position {
            at: self.at,
            id: self.id,
        }
    }
}

/// A page of a timeline.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// Newest first.
    pub items: Vec<Item<'a>>,
    /// Items that are not read, on all pages together, counted up to [`UNREAD_MAX`].
    pub unread: usize,
    /// Where the next page begins.
    pub next: Option<Position>,
}

/// What the recipient of a glance sees of these announcements and of its entries.
pub fn page<'a>(glance: &'a Glance, announcements: &'a Announcements, asked: Asked) -> Page<'a> {
    let mut unread = glance.unread_entries;
    let announced = announced(glance, announcements, asked, &mut unread);
    let mut announced = announced.into_iter().peekable();
    let mut entries = glance.entries.iter().peekable();
    let mut items = Vec::with_capacity(asked.limit.min(announced.len() + entries.len()));
    while items.len() < asked.limit {
        let is_entry = match (entries.peek(), announced.peek()) {
            (Some(entry), Some(one)) => entry.position() > one.position(),
            (Some(_), None) => true,
            (None, _) => false,
        };
        let item = match is_entry {
            true => entries.next().map(|entry| of_entry(glance, entry)),
            false => announced.next(),
        };
        let Some(item) = item else { break };
        items.push(item);
    }
    let has_more = entries.peek().is_some() || announced.peek().is_some();
    Page {
        next: items.last().filter(|_| has_more).map(Item::position),
        items,
        unread: unread.min(UNREAD_MAX),
    }
}

/// The announcements of the page, and one more if there are more; counts all that are not read.
/// Judged is only what is needed for either.
fn announced<'a>(
    glance: &'a Glance,
    announcements: &'a Announcements,
    asked: Asked,
    unread: &mut usize,
) -> Vec<Item<'a>> {
    let today = glance.now.to_zoned(TimeZone::UTC).date();
    let language = glance.recipient.language.as_deref();
    let mut items = Vec::new();
    for one in &announcements.newest_first {
        if one.starts_at > glance.now || one.ends_at <= glance.now {
            continue;
        }
        let is_read = glance.has_read_announcement(one);
        let counts = !is_read && *unread < UNREAD_MAX;
        let is_wanted = items.len() <= asked.limit
            && asked.before.is_none_or(|before| one.position() < before)
            && !(asked.is_unread && is_read);
        if !counts && !is_wanted || !one.rule.matches(&glance.recipient, today) {
            continue;
        }
        *unread += usize::from(counts);
        if let Some((language, message)) = one.content.message_for(language).filter(|_| is_wanted) {
            items.push(Item {
                id: one.id,
                source: Source::Announcement,
                at: one.starts_at,
                ends_at: one.ends_at,
                read: is_read,
                language: Some(language),
                message,
            });
        }
    }
    items
}

fn of_entry<'a>(glance: &Glance, entry: &'a Entry) -> Item<'a> {
    Item {
        id: entry.id,
        source: Source::Personal,
        at: entry.created_at,
        ends_at: entry.ends_at,
        read: glance.has_read(entry.position(), || entry.is_marked),
        language: entry.language.as_deref(),
        message: &entry.message,
    }
}
