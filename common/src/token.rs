//! Tokens of the API: what they look like, how they are made, and what of them is kept.
//!
//! `prk_<id>_<secret>_<checksum>`: the prefix tells scanners for leaked secrets what they found, the
//! id (8 characters) finds the row, the secret (32 characters, 190 bits) is what nobody can guess,
//! and the checksum (CRC-32) refuses what was mistyped or cut before the database is asked.
//! Only the SHA-256 of the secret is kept: with that much entropy a slow hash would add nothing.

use std::fmt;

use rand::RngExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

const PREFIX: &str = "prk";
const ID_CHARS: usize = 8;
const SECRET_CHARS: usize = 32;
const CHECKSUM_CHARS: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Permission {
    /// Look at jobs, dead letters and operations.
    JobsRead,
    /// Enqueue, cancel, retry and resolve jobs.
    JobsWrite,
    /// Redrive dead letters, many at once.
    DeadLettersRedrive,
    /// Look at schedules.
    SchedulesRead,
    /// Create, change and delete schedules.
    SchedulesWrite,
    /// Look at queues and kinds.
    QueuesRead,
    /// Pause, resume and set queues and kinds: they are shared by all tenants, so operators only.
    QueuesWrite,
    /// Look at stops.
    StopsRead,
    /// Stop jobs from being started, and lift stops.
    StopsWrite,
    /// Look at campaigns and suppressed recipients.
    CampaignsRead,
    /// Make, fill, start, approve, pause, resume and cancel campaigns; suppress recipients.
    CampaignsWrite,
    /// Look at the ledger.
    LedgerRead,
    /// Look at recipients and audiences.
    AudiencesRead,
    /// Put and delete recipients and audiences.
    AudiencesWrite,
    /// Look at announcements.
    AnnouncementsRead,
    /// Make, change and withdraw announcements.
    AnnouncementsWrite,
    /// Look at the timeline of any recipient.
    TimelineRead,
    /// Mark as read what any recipient is shown.
    TimelineWrite,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::JobsRead,
        Self::JobsWrite,
        Self::DeadLettersRedrive,
        Self::SchedulesRead,
        Self::SchedulesWrite,
        Self::QueuesRead,
        Self::QueuesWrite,
        Self::StopsRead,
        Self::StopsWrite,
        Self::CampaignsRead,
        Self::CampaignsWrite,
        Self::LedgerRead,
        Self::AudiencesRead,
        Self::AudiencesWrite,
        Self::AnnouncementsRead,
        Self::AnnouncementsWrite,
        Self::TimelineRead,
        Self::TimelineWrite,
    ];

    /// Its name in a token's scopes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JobsRead => "jobs:read",
            Self::JobsWrite => "jobs:write",
            Self::DeadLettersRedrive => "dead-letters:redrive",
            Self::SchedulesRead => "schedules:read",
            Self::SchedulesWrite => "schedules:write",
            Self::QueuesRead => "queues:read",
            Self::QueuesWrite => "queues:write",
            Self::StopsRead => "stops:read",
            Self::StopsWrite => "stops:write",
            Self::CampaignsRead => "campaigns:read",
            Self::CampaignsWrite => "campaigns:write",
            Self::LedgerRead => "ledger:read",
            Self::AudiencesRead => "audiences:read",
            Self::AudiencesWrite => "audiences:write",
            Self::AnnouncementsRead => "announcements:read",
            Self::AnnouncementsWrite => "announcements:write",
            Self::TimelineRead => "timeline:read",
            Self::TimelineWrite => "timeline:write",
        }
    }

    /// The one of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }

    /// Whether only an operator's token may have it.
    pub fn is_for_operators(self) -> bool {
        self == Self::QueuesWrite
    }
}

/// A token as its holder sends it.
#[derive(Clone)]
pub struct Token {
    id: String,
    secret: SecretString,
}

impl Token {
    /// A new one, from the system's source of randomness.
    pub fn generate() -> Self {
        let mut rng = rand::rng();
        let mut text = |chars: usize| -> String {
            (0..chars)
                .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
                .collect()
        };
        Self {
            id: text(ID_CHARS),
            secret: text(SECRET_CHARS).into(),
        }
    }

    /// Reads a token; none if it cannot be one: a letter is wrong, or it was cut.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('_');
        let [prefix, id, secret, checksum] = [(); 4].map(|()| parts.next().unwrap_or_default());
        let is_whole = parts.next().is_none()
            && prefix == PREFIX
            && is_text(id, ID_CHARS)
            && is_text(secret, SECRET_CHARS)
            && is_text(checksum, CHECKSUM_CHARS)
            && checksum == checksum_of(id, secret);
        is_whole.then(|| Self {
            id: id.to_owned(),
            secret: secret.into(),
        })
    }

    /// What finds it in the database.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is kept of its secret.
    pub fn secret_hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret.expose_secret().as_bytes()).into()
    }

    /// Whether this hash is its secret's. Takes as long whether it is or not.
    pub fn matches(&self, secret_hash: &[u8]) -> bool {
        self.secret_hash()[..].ct_eq(secret_hash).into()
    }

    /// The whole text, to be shown once.
    pub fn expose(&self) -> String {
        let (id, secret) = (&self.id, self.secret.expose_secret());
        format!("{PREFIX}_{id}_{secret}_{}", checksum_of(id, secret))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}_{}_…", self.id)
    }
}

fn is_text(text: &str, chars: usize) -> bool {
    text.len() == chars && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// 62^6 is more than 2^32.
fn checksum_of(id: &str, secret: &str) -> String {
    let mut crc = crc32fast::Hasher::new();
    crc.update(id.as_bytes());
    crc.update(secret.as_bytes());
    let mut rest = crc.finalize() as usize;
    let mut text = [b'0'; CHECKSUM_CHARS];
    for place in text.iter_mut().rev() {
        *place = ALPHABET[rest % ALPHABET.len()];
        rest /= ALPHABET.len();
    }
    text.map(char::from).iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_from_its_text_and_matches_its_own_hash_only() {
        let (token, other) = (Token::generate(), Token::generate());
        let read = Token::parse(&token.expose()).expect("it was just made");
        assert_eq!(read.id(), token.id());
        assert!(read.matches(&token.secret_hash()));
        assert!(!read.matches(&other.secret_hash()));
        assert!(!read.matches(b"short"));
    }

    #[test]
    fn what_was_mistyped_or_cut_is_no_token() {
        let text = Token::generate().expose();
        for n in 0..text.len() {
            assert!(Token::parse(&text[..n]).is_none(), "{n} bytes");
            for wrong in ['0', 'x', '_', '-', 'é'] {
                let mut letters: Vec<char> = text.chars().collect();
                if letters[n] != wrong {
                    letters[n] = wrong;
                    let typo: String = letters.into_iter().collect();
                    assert!(Token::parse(&typo).is_none(), "{typo}");
                }
            }
        }
        assert!(Token::parse(&format!("{text}_")).is_none());
        assert!(Token::parse(&format!(" {text}")).is_none());
        assert!(Token::parse(&text.to_lowercase()).is_none());
    }

    #[test]
    fn a_token_does_not_print_its_secret() {
        let token = Token::generate();
        let secret = token.expose()[13..45].to_owned();
        assert!(!format!("{token:?}").contains(&secret));
    }

    #[test]
    fn every_permission_has_a_name_of_its_own() {
        for one in Permission::ALL {
            assert_eq!(Permission::of_name(one.as_str()), Some(one));
        }
        assert_eq!(Permission::of_name("jobs"), None);
    }
}
