//! What an expansion asks of whoever knows what campaigns say, and what it is answered.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::audience::Rule;
use crate::store::AudienceMember;

/// A campaign of which jobs are to be made.
#[derive(Clone, Debug)]
pub struct Expanding {
    /// Its number: what is known of it never changes once it runs.
    pub id: i64,
    /// What clients call it.
    pub public_id: Uuid,
    /// What it says, as JSON.
    pub content: String,
    /// When recipients may be reached, as JSON.
    pub reach: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The database's clock.
    pub now: Timestamp,
    /// The region of phone numbers that say none.
    pub region: Option<String>,
    /// The rules of whom it is for, as JSON. None: its recipients were uploaded.
    pub audience: Option<String>,
}

impl Expanding {
    /// Of a row that begins with its columns.
    pub(super) fn of(row: &Row) -> Self {
        Self {
            id: row.get(0),
            public_id: row.get(1),
            content: row.get(2),
            reach: row.get(3),
            created_at: row.get(4),
            now: row.get(5),
            region: row.get(6),
            audience: row.get(7),
        }
    }
}

/// Which recipients come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Those of this zone.
    Zone {
        /// As it was given.
        zone: String,
        /// From then on they may not be reached any more.
        closes_at: Option<Timestamp>,
    },
    /// None before then.
    NotBefore(Timestamp),
}

/// Where the jobs of a campaign go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlets {
    /// Their queues: the windows are the room that there is.
    pub queues: Vec<String>,
    /// Their kinds.
    pub kinds: Vec<String>,
}

/// A job for one recipient.
#[derive(Clone, Debug)]
pub struct Child {
    /// The same whenever it is made.
    pub id: Uuid,
    /// Whom it is for.
    pub recipient: String,
    /// Its kind.
    pub kind: String,
    /// Its queue.
    pub queue: String,
    /// Its input, as JSON.
    pub args: String,
    /// Its priority.
    pub priority: Option<i16>,
    /// Attempts before it is dead.
    pub max_attempts: Option<i32>,
}

/// What came of some recipients, in their order.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// Jobs for those of whom one can be made.
    pub jobs: Vec<Child>,
    /// Of how many recipients: from the first.
    pub taken: usize,
    /// Why there is none for the others.
    pub rejected: Vec<Rejected>,
}

/// A recipient of whom no job can be made.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// What the tenant calls it; none: it was uploaded, and has no name.
    pub key: Option<String>,
    /// Why.
    pub reason: String,
}

/// What knows campaigns.
pub trait Expand {
    /// The queues and the kinds of its jobs; or why nothing can be made of what it says.
    fn outlets(&mut self, campaign: &Expanding) -> Result<Outlets, String>;

    /// Whose turn it is, of these zones that have recipients left.
    fn turn(&mut self, campaign: &Expanding, zones: &[String]) -> Turn;

    /// Whom it is for. None: whoever was uploaded.
    fn rule(&mut self, campaign: &Expanding) -> Option<&Rule>;

    /// Jobs for some recipients of a chunk: `count` at most, behind the first `skip`.
    fn children(&mut self, campaign: &Expanding, body: &str, skip: usize, count: usize) -> Made;

    /// Jobs for these members of its audience, or the first of them.
    fn children_of(&mut self, campaign: &Expanding, members: &[AudienceMember]) -> Made;

    /// When a recipient of this zone may be reached again, and until when.
    fn reach(&mut self, campaign: &Expanding, zone: &str) -> (Timestamp, Option<Timestamp>);
}
