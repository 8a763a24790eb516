//! Recipients of campaigns → jobs, as room in the pipe becomes free; and jobs whose recipient may not
//! be reached any more today → later.
//!
//! What if the process dies in the middle? The jobs and how far the campaign is are one transaction
//! (see [`postroad_common::store`]): any scheduler goes on where it was. Of several, one at a time has
//! a campaign's row.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use postroad_common::audience::Rule;
use postroad_common::campaign::{
    Common, Content, Member, Members, Reach, Reachable, Recipient, child_id, suppressible,
};
use postroad_common::service::{Nudge, Progress, Service};
use postroad_common::store::{
    self, AudienceMember, Child, Expand, Expanding, Made, Outlets, Rejected, Store, Turn,
};

use crate::metrics;

/// Between two looks while campaigns run: what room may take to be seen.
const PERIOD: Duration = Duration::from_millis(50);
/// And while none does.
const IDLE_PERIOD: Duration = Duration::from_millis(500);
/// After the last step that did something, campaigns are taken to run for so long.
const BUSY_FOR: Duration = Duration::from_secs(5);
/// Between two looks for jobs whose recipients may not be reached any more.
const CLOSED_PERIOD: Duration = Duration::from_secs(1);
/// Such jobs in a transaction.
const CLOSED: i64 = 500;
/// Campaigns of which is remembered what they say. More that run at once are read again and again.
const KNOWN_MAX: usize = 64;
/// A template may be made to cost milliseconds for each recipient: what is made by then is one batch,
/// and others have their turn.
const RENDERING_MAX: Duration = Duration::from_millis(100);
/// So are so many bytes of args, and what is more by the last one.
const ARGS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Where nobody knows when a recipient may be reached, it is looked again after this.
const UNKNOWN_REST: Duration = Duration::from_secs(60 * 60);

/// The service.
pub struct Expander {
    store: Store,
    dispatch: Nudge,
    campaigns: Campaigns,
    busy_until: Option<Instant>,
    looked_for_closed: Option<Instant>,
}

impl Expander {
    /// `dispatch` is woken for jobs that are due.
    pub fn new(store: Store, dispatch: Nudge) -> Self {
        Self {
            store,
            dispatch,
            campaigns: Campaigns::default(),
            busy_until: None,
            looked_for_closed: None,
        }
    }

    async fn reopen(&mut self) -> Result<bool, store::Error> {
        let is_due = |at: Instant| at.elapsed() >= CLOSED_PERIOD;
        if !self.looked_for_closed.is_none_or(is_due) {
            return Ok(false);
        }
        let reopened = self
            .store
            .reopen_closed(&mut self.campaigns, CLOSED)
            .await?;
        let has_more = reopened as i64 == CLOSED;
        if !has_more {
            self.looked_for_closed = Some(Instant::now());
        }
        Ok(has_more)
    }
}

impl Service for Expander {
    const NAME: &'static str = "expander";
    type Error = store::Error;

    fn period(&self) -> Duration {
        let now = Instant::now();
        match self.busy_until {
            Some(until) if now < until => PERIOD,
            _ => IDLE_PERIOD,
        }
    }

    async fn run_once(&mut self) -> Result<Progress, store::Error> {
        // Each on its own: what one of them cannot do must not keep the other from it.
        let reopened = self.reopen().await;
        let expanded = self.store.expand_campaign(&mut self.campaigns).await?;
        if let Some(jobs) = expanded {
            self.busy_until = Some(Instant::now() + BUSY_FOR);
            if jobs > 0 {
                metrics::expanded(jobs);
                self.dispatch.wake();
            }
        }
        Ok(Progress::more_if(expanded.is_some() | reopened?))
    }
}

/// What running campaigns say, compiled once.
#[derive(Default)]
struct Campaigns {
    known: HashMap<i64, Known>,
}

/// A campaign, or why it cannot be used: it was checked when it was made, by a program that may have
/// been a newer one.
type Known = Result<Box<Campaign>, String>;

struct Campaign {
    content: Content,
    rule: Option<Rule>,
    members: Members,
    reach: Option<Reachable>,
    zones: HashMap<String, TimeZone>,
    /// Whose turn it was last.
    last_zone: String,
    name: String,
    timezone: String,
}

impl Campaigns {
    fn of(&mut self, campaign: &Expanding) -> &mut Known {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&campaign.id) {
            self.known.clear();
        }
        self.known
            .entry(campaign.id)
            .or_insert_with(|| Campaign::read(campaign).map(Box::new))
    }
}

impl Campaign {
    fn read(campaign: &Expanding) -> Result<Self, String> {
        let first = |problems: Vec<postroad_common::campaign::Problem>| {
            let first = problems.first().map(ToString::to_string);
            first.unwrap_or_else(|| "it cannot be read".to_owned())
        };
        let reach = match campaign.reach.as_str() {
            "{}" => None,
            reach => Some(Reachable::parse(reach.as_bytes()).map_err(first)?),
        };
        let rule = campaign.audience.as_deref().map(Rule::parse).transpose();
        let rule = rule.map_err(|invalid| format!("its audience cannot be read: {invalid}"))?;
        let content = Content::parse(campaign.content.as_bytes()).map_err(first)?;
        let region = campaign.region.as_deref();
        let region = region.and_then(|region| region.parse().ok());
        let timezone = reach.as_ref().and_then(|reach| reach.zone().iana_name());
        Ok(Self {
            members: Members::new(&content, region),
            content,
            rule,
            timezone: timezone.unwrap_or("UTC").to_owned(),
            reach,
            zones: HashMap::new(),
            last_zone: String::new(),
            name: campaign.public_id.to_string(),
        })
    }

    /// Whether somebody of a zone may be reached now. A zone that is not known is the campaign's own.
    fn at(&mut self, zone: &str, now: Timestamp) -> Reach {
        let Some(reach) = &self.reach else {
            return Reach::Open { closes_at: None };
        };
        if !zone.is_empty() && !self.zones.contains_key(zone) {
            let known = TimeZone::get(zone).unwrap_or_else(|_| reach.zone().clone());
            self.zones.insert(zone.to_owned(), known);
        }
        reach.at(self.zones.get(zone), now)
    }

    fn turn(&mut self, zones: &[String], now: Timestamp) -> Turn {
        let mut first = Timestamp::MAX;
        // One after the other, so that no zone waits for the end of another.
        let after = zones.partition_point(|zone| *zone <= self.last_zone);
        for zone in zones[after..].iter().chain(&zones[..after]) {
            match self.at(zone, now) {
                Reach::Open { closes_at } => {
                    self.last_zone.clone_from(zone);
                    return Turn::Zone {
                        zone: zone.clone(),
                        closes_at,
                    };
                }
                Reach::Closed { opens_at } => first = first.min(opens_at),
            }
        }
        Turn::NotBefore(first)
    }

    /// The job of somebody who was uploaded, or why there is none.
    fn child(&self, campaign: &Expanding, line: &str) -> Result<Child, Rejected> {
        let rejected = |reason: String| Rejected { key: None, reason };
        let recipient: Recipient =
            serde_json::from_str(line).map_err(|error| rejected(error.to_string()))?;
        let key = recipient.key(&self.content);
        self.job(campaign, recipient, &key).map_err(rejected)
    }

    /// The job of somebody in the audience, or why there is none.
    fn child_of(
        &mut self,
        campaign: &Expanding,
        member: &AudienceMember,
    ) -> Result<Child, Rejected> {
        let rejected = |reason: String| Rejected {
            key: Some(member.key.clone()),
            reason,
        };
        let member = Member {
            key: &member.key,
            addresses: &member.addresses,
            language: member.language.as_deref(),
            timezone: member.timezone.as_deref(),
            attributes: &member.attributes,
        };
        let recipient = self.members.recipient(&member);
        let recipient = recipient.map_err(|error| rejected(error.to_string()))?;
        self.job(campaign, recipient, &member.identity())
            .map_err(rejected)
    }

    fn job(&self, campaign: &Expanding, recipient: Recipient, key: &[u8]) -> Result<Child, String> {
        let common = Common {
            campaign: &self.name,
            timezone: &self.timezone,
        };
        // Without the address, which is not everybody's to see.
        let message = self.content.render(&recipient, common);
        let message = message.map_err(|error| error.what)?;
        Ok(Child {
            id: child_id(campaign.public_id, key, campaign.created_at),
            kind: message.channel.kind.to_string(),
            queue: message.channel.queue.to_string(),
            args: message.args.get().to_owned(),
            priority: message.channel.priority,
            max_attempts: message.channel.max_attempts,
            recipient: suppressible(&recipient.to).unwrap_or(recipient.to),
        })
    }
}

/// Jobs of one after the other, until that has taken as long or become as much as one step may.
fn make<T>(
    recipients: impl Iterator<Item = T>,
    mut child: impl FnMut(T) -> Result<Child, Rejected>,
) -> Made {
    let begun = Instant::now();
    let (mut made, mut bytes) = (Made::default(), 0);
    for recipient in recipients {
        match child(recipient) {
            Ok(job) => {
                bytes += job.args.len();
                made.jobs.push(job);
            }
            Err(rejected) => made.rejected.push(rejected),
        }
        made.taken += 1;
        if begun.elapsed() > RENDERING_MAX || bytes > ARGS_BYTES_MAX {
            break;
        }
    }
    made
}

impl Expand for Campaigns {
    fn outlets(&mut self, campaign: &Expanding) -> Result<Outlets, String> {
        let known = self.of(campaign).as_ref().map_err(Clone::clone)?;
        let channels = known.content.channels().iter();
        Ok(Outlets {
            queues: channels.clone().map(|one| one.queue.to_string()).collect(),
            kinds: channels.map(|one| one.kind.to_string()).collect(),
        })
    }

    fn turn(&mut self, campaign: &Expanding, zones: &[String]) -> Turn {
        match self.of(campaign) {
            Ok(known) => known.turn(zones, campaign.now),
            // Whoever asks has asked for the outlets before.
            Err(_) => Turn::NotBefore(later(campaign.now)),
        }
    }

    fn rule(&mut self, campaign: &Expanding) -> Option<&Rule> {
        self.of(campaign).as_ref().ok()?.rule.as_ref()
    }

    fn children(&mut self, campaign: &Expanding, body: &str, skip: usize, count: usize) -> Made {
        match self.of(campaign) {
            Ok(known) => make(body.lines().skip(skip).take(count), |line| {
                known.child(campaign, line)
            }),
            Err(_) => Made::default(),
        }
    }

    fn children_of(&mut self, campaign: &Expanding, members: &[AudienceMember]) -> Made {
        match self.of(campaign) {
            Ok(known) => make(members.iter(), |member| known.child_of(campaign, member)),
            Err(_) => Made::default(),
        }
    }

    fn reach(&mut self, campaign: &Expanding, zone: &str) -> (Timestamp, Option<Timestamp>) {
        let now = campaign.now;
        let Ok(known) = self.of(campaign) else {
            return (later(now), None);
        };
        match known.at(zone, now) {
            Reach::Open { closes_at } => (now, closes_at),
            // It closes some time after it opens.
            Reach::Closed { opens_at } => match known.at(zone, opens_at) {
                Reach::Open { closes_at } => (opens_at, closes_at),
                Reach::Closed { .. } => (opens_at, Some(opens_at)),
            },
        }
    }
}

/// When it is looked again where nobody knows when somebody may be reached.
fn later(now: Timestamp) -> Timestamp {
    now.saturating_add(UNKNOWN_REST).unwrap_or(now)
}
