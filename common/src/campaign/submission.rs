//! A campaign as it is submitted: one document, of which everything is checked that can be without
//! servers. Whose it is, and whether its kinds are there, is not known here.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::address::Country;
use super::content::Content;
use super::problem::{Members, Problem, Problems, document};
use super::window::Reachable;
use crate::audience::{self, Rule};
use crate::job::ARGS_BYTES_MAX;

/// No name is longer, in bytes.
pub const NAME_BYTES_MAX: usize = 200;
/// The largest document: the largest content, with room for the other members.
pub const SUBMISSION_BYTES_MAX: usize = ARGS_BYTES_MAX + 16 * 1024;

const MEMBERS: [&str; 14] = [
    "name",
    "tenant",
    "content",
    "audience",
    "send_window",
    "quiet_hours",
    "timezone",
    "region",
    "start_at",
    "expires_at",
    "rate_per_second",
    "canary_share",
    "failure_max",
    "needs_approval",
];

/// What somebody wants to be a campaign, with the members of `POST /v1/campaigns`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submission {
    /// What people call it.
    pub name: Option<String>,
    /// Whose it is to be.
    pub tenant: Option<String>,
    /// What it says.
    pub content: Option<Value>,
    /// Whom it is for: the name of an audience, or rules.
    pub audience: Option<Value>,
    /// When recipients may be reached.
    pub send_window: Option<Value>,
    /// When they may not.
    pub quiet_hours: Option<Value>,
    /// The time zone of recipients that have none.
    pub timezone: Option<Value>,
    /// The region of phone numbers without a country's code.
    pub region: Option<String>,
    /// Not before then.
    pub start_at: Option<Timestamp>,
    /// From then on it is pointless.
    pub expires_at: Option<Timestamp>,
    /// Recipients a second, at most.
    pub rate_per_second: Option<i32>,
    /// The share of recipients that is made first.
    pub canary_share: Option<f64>,
    /// It is paused when a larger share of what has ended is dead.
    pub failure_max: Option<f64>,
    /// Whether somebody else must approve of it before it runs.
    pub needs_approval: bool,
}

/// Whom a campaign is for that gets no upload.
#[derive(Clone, Debug, PartialEq)]
pub enum Audience {
    /// Whom the audience of this name picks. Whether there is one is not known here.
    Named(String),
    /// Whom these rules pick.
    Rules(Rule),
}

impl Audience {
    fn read(given: &Value) -> Result<Self, Problem> {
        let wrong = |pointer: String, what: &str| Problem {
            pointer,
            what: what.to_owned(),
        };
        match given {
            Value::String(name) if audience::is_name(name) => Ok(Self::Named(name.clone())),
            Value::String(_) => Err(wrong("/audience".to_owned(), "is no name of an audience")),
            Value::Object(_) => Rule::parse(&given.to_string())
                .map(Self::Rules)
                .map_err(|invalid| invalid.within("/audience"))
                .map_err(|invalid| wrong(invalid.pointer, &invalid.message)),
            _ => {
                let what = "must be the name of an audience, or an object with one condition";
                Err(wrong("/audience".to_owned(), what))
            }
        }
    }
}

/// What of a submission is kept in another form than it was given in.
pub struct Checked {
    /// What it says.
    pub content: Content,
    /// The same as JSON.
    pub content_text: String,
    /// When recipients may be reached, as JSON.
    pub reach: String,
    /// Whom it is for. None: recipients are uploaded.
    pub audience: Option<Audience>,
}

/// What is wrong with a submission, in the order of its parts: name, content, hours, audience, the rest.
#[derive(Clone, Debug, Default)]
pub struct Invalid {
    parts: Vec<Vec<Problem>>,
}

impl Invalid {
    /// What is wrong with the first part in which anything is.
    pub fn first_part(self) -> Vec<Problem> {
        self.parts.into_iter().next().unwrap_or_default()
    }

    /// Everything.
    pub fn all(self) -> Vec<Problem> {
        self.parts.into_iter().flatten().collect()
    }

    /// The value, or nothing and one part more that is wrong.
    fn part<T>(&mut self, read: Result<T, Vec<Problem>>) -> Option<T> {
        read.map_err(|problems| self.parts.push(problems)).ok()
    }

    fn add(&mut self, is_wrong: bool, pointer: &str, what: impl AsRef<str>) {
        if is_wrong {
            self.parts.push(one(pointer, what));
        }
    }
}

fn one(pointer: &str, what: impl AsRef<str>) -> Vec<Problem> {
    vec![Problem {
        pointer: pointer.to_owned(),
        what: what.as_ref().to_owned(),
    }]
}

impl Submission {
    /// Reads JSON and checks it. All that is wrong is told at once.
    pub fn parse(json: &[u8], now: Timestamp) -> Result<(Self, Checked), Vec<Problem>> {
        let (submission, mut wrong) = Self::read(&document(json, SUBMISSION_BYTES_MAX)?);
        let checked = submission.check(now);
        match checked {
            Ok(checked) if wrong.is_empty() => Ok((submission, checked)),
            Ok(_) => Err(wrong),
            Err(invalid) => {
                // What could not even be read is left out by now, which is no second mistake.
                let told: Vec<_> = wrong.iter().map(|one| one.pointer.clone()).collect();
                let is_new = |problem: &Problem| !told.contains(&problem.pointer);
                wrong.extend(invalid.all().into_iter().filter(is_new));
                Err(wrong)
            }
        }
    }

    /// What can be read of a document, and what is wrong with the rest.
    fn read(document: &Value) -> (Self, Vec<Problem>) {
        let mut problems = Problems::default();
        let members = Members::read(document, String::new(), &MEMBERS, &mut problems);
        let whole = |key| members.get(key).cloned();
        let submission = Self {
            name: member(&members, "name", &mut problems),
            tenant: member(&members, "tenant", &mut problems),
            content: whole("content"),
            audience: whole("audience"),
            send_window: whole("send_window"),
            quiet_hours: whole("quiet_hours"),
            timezone: whole("timezone"),
            region: member(&members, "region", &mut problems),
            start_at: member(&members, "start_at", &mut problems),
            expires_at: member(&members, "expires_at", &mut problems),
            rate_per_second: member(&members, "rate_per_second", &mut problems),
            canary_share: member(&members, "canary_share", &mut problems),
            failure_max: member(&members, "failure_max", &mut problems),
            needs_approval: member(&members, "needs_approval", &mut problems).unwrap_or_default(),
        };
        let wrong = problems.or::<()>(None).err().unwrap_or_default();
        (submission, wrong)
    }

    /// Checks what was given.
    pub fn check(&self, now: Timestamp) -> Result<Checked, Invalid> {
        let mut invalid = Invalid::default();
        let name = self.name.as_deref().unwrap_or_default();
        let is_name =
            (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
        let what = format!("must be 1 to {NAME_BYTES_MAX} bytes, without control characters");
        invalid.add(!is_name, "/name", what);
        let content = invalid.part(self.read_content());
        let reach = invalid.part(self.read_reach());
        let audience = self.audience.as_ref().map(Audience::read).transpose();
        let audience = invalid.part(audience.map_err(|problem| vec![problem]));
        self.check_rest(now, &mut invalid);
        match (content, reach, audience) {
            (Some((content, content_text)), Some(reach), Some(audience))
                if invalid.parts.is_empty() =>
            {
                Ok(Checked {
                    content,
                    content_text,
                    reach,
                    audience,
                })
            }
            _ => Err(invalid),
        }
    }

    fn read_content(&self) -> Result<(Content, String), Vec<Problem>> {
        let Some(content) = &self.content else {
            return Err(one("/content", "is missing"));
        };
        let read = Content::read(content).map_err(|problems| under("/content", problems))?;
        Ok((read, content.to_string()))
    }

    fn read_reach(&self) -> Result<String, Vec<Problem>> {
        let parts = [
            ("send_window", &self.send_window),
            ("quiet_hours", &self.quiet_hours),
            ("timezone", &self.timezone),
        ];
        let given = parts.into_iter().filter_map(|(name, value)| {
            let value = value.as_ref()?;
            Some((name.to_owned(), value.clone()))
        });
        let reach: Map<_, _> = given.collect();
        let is_empty = reach.is_empty();
        let reach = Value::Object(reach);
        if !is_empty {
            Reachable::read(&reach)?;
        }
        Ok(reach.to_string())
    }

    fn check_rest(&self, now: Timestamp, invalid: &mut Invalid) {
        if let Some(Err(error)) = self.region.as_deref().map(str::parse::<Country>) {
            invalid.add(true, "/region", error.to_string());
        }
        let is_rate = |rate: i32| (1..=1_000_000).contains(&rate);
        invalid.add(
            self.rate_per_second.is_some_and(|rate| !is_rate(rate)),
            "/rate_per_second",
            "must be from 1 to 1000000; to send nothing, pause the campaign",
        );
        let is_share = |share: f64| share > 0.0 && share < 1.0;
        invalid.add(
            self.canary_share.is_some_and(|share| !is_share(share)),
            "/canary_share",
            "must be between 0 and 1",
        );
        invalid.add(
            self.failure_max
                .is_some_and(|max| !(0.0..=1.0).contains(&max)),
            "/failure_max",
            "must be from 0 to 1",
        );
        let is_not_storable = |at: Option<Timestamp>| at.is_some_and(|at| !is_storable(at));
        let years = "must lie between the years 2000 and 2200";
        invalid.add(is_not_storable(self.start_at), "/start_at", years);
        invalid.add(is_not_storable(self.expires_at), "/expires_at", years);
        let starts = self.start_at.unwrap_or(now).max(now);
        let is_late = |at: Timestamp| !is_storable(at) || at > starts;
        invalid.add(
            self.expires_at.is_some_and(|at| !is_late(at)),
            "/expires_at",
            "must be later than the start, and than now",
        );
    }
}

fn under(prefix: &str, problems: Vec<Problem>) -> Vec<Problem> {
    let problems = problems.into_iter().map(|one| one.under(prefix));
    problems.collect()
}

/// A member as what it is to be, if it is there and is such a thing.
fn member<T: DeserializeOwned>(
    members: &Members<'_>,
    key: &str,
    problems: &mut Problems,
) -> Option<T> {
    let read = serde_json::from_value(members.get(key)?.clone());
    read.map_err(|error| problems.add(&members.at(key), error.to_string()))
        .ok()
}

/// Whether the database takes it for a time of a job.
fn is_storable(at: Timestamp) -> bool {
    const FIRST: i64 = 946_684_800;
    const LAST: i64 = 7_258_118_400;
    (FIRST..LAST).contains(&at.as_second())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "name": "spring",
            "content": {
                "channels": {"sms": {"kind": "sms", "args": {"en": {"to": "{{ to }}"}}}},
                "language": "en",
            },
        })
    }

    fn now() -> Timestamp {
        "2026-11-25T06:00:00Z".parse().unwrap()
    }

    fn pointers(document: &Value) -> Vec<String> {
        let parsed = Submission::parse(document.to_string().as_bytes(), now());
        let problems = parsed.err().unwrap_or_default();
        problems.into_iter().map(|one| one.pointer).collect()
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_and_nothing_twice() {
        assert_eq!(pointers(&document()), [""; 0]);
        let wrong = json!({
            "name": 5,
            "content": {"channels": {"sms": {"kind": "Sms", "args": {"en": {}}}}, "language": "english"},
            "quiet_hours": {"from": "21:00"},
            "timezone": "Mars",
            "region": "France",
            "start_at": "tomorrow",
            "expires_at": "2026-11-25T06:00:00Z",
            "rate_per_second": 0,
            "canary_share": 1,
            "failure_max": -0.1,
            "needs_approval": "yes",
            "colour": "red",
        });
        let mut told = pointers(&wrong);
        told.sort_unstable();
        assert_eq!(
            told,
            [
                "/canary_share",
                "/colour",
                "/content/channels/sms/kind",
                "/content/language",
                "/expires_at",
                "/failure_max",
                "/name",
                "/needs_approval",
                "/quiet_hours/until",
                "/rate_per_second",
                "/region",
                "/start_at",
                "/timezone",
            ]
        );
        assert_eq!(pointers(&json!({})), ["/name", "/content"]);
        assert_eq!(pointers(&json!([])), ["", "/name", "/content"]);
    }

    #[test]
    fn an_audience_is_a_name_or_rules_and_says_where_it_is_neither() {
        let read = |audience: Value| {
            let mut document = document();
            document["audience"] = audience;
            let parsed = Submission::parse(document.to_string().as_bytes(), now());
            let audience = parsed.map(|(_, checked)| checked.audience);
            audience.map_err(|problems| problems[0].pointer.clone())
        };
        assert_eq!(read(Value::Null), Ok(None));
        let named = Audience::Named("active".to_owned());
        assert_eq!(read(json!("active")), Ok(Some(named)));
        let rules = read(json!({"country": ["FR"]}));
        assert!(matches!(rules, Ok(Some(Audience::Rules(_)))), "{rules:?}");
        for (wrong, pointer) in [
            (json!(""), "/audience"),
            (json!("preview"), "/audience"),
            (json!("Active users"), "/audience"),
            (json!(["active"]), "/audience"),
            (json!(true), "/audience"),
            (json!({}), "/audience"),
            (json!({"country": ["France"]}), "/audience/country/0"),
            (json!({"and": [{"all": 1}]}), "/audience/and/0/all"),
        ] {
            assert_eq!(read(wrong.clone()), Err(pointer.to_owned()), "{wrong}");
        }
    }

    #[test]
    fn a_time_that_no_job_can_have_is_told_once() {
        for year in ["1999", "2200"] {
            let mut document = document();
            document["expires_at"] = json!(format!("{year}-06-01T00:00:00Z"));
            assert_eq!(pointers(&document), ["/expires_at"]);
        }
    }

    #[test]
    fn parts_are_told_in_their_order() {
        let submission = Submission {
            name: Some("n".repeat(NAME_BYTES_MAX + 1)),
            rate_per_second: Some(0),
            ..Submission::default()
        };
        let invalid = submission.check(now()).err().unwrap();
        assert_eq!(invalid.clone().first_part()[0].pointer, "/name");
        assert_eq!(invalid.all().len(), 3);
    }
}
