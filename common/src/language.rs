//! Tags of languages, and which of several is the nearest.

use std::fmt;
use std::str::FromStr;

/// The longest tag, in bytes: as long as RFC 5646 asks everybody to accept.
pub const LANGUAGE_BYTES_MAX: usize = 35;

/// The tag of a language by BCP 47, such as `fr`, `fr-CA` or `zh-Hant-TW`. Only its shape is
/// checked: two or three letters, then subtags of one to eight letters and digits. In the case that
/// the RFC recommends, whatever was given; `_` is read as `-`, as POSIX and Java write it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Language(Box<str>);

/// A text that is no tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the tag of a language, such as fr or fr-CA")]
pub struct InvalidLanguage;

impl Language {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag, then without its last subtag, and so on: `zh-Hant-TW`, `zh-Hant`, `zh`.
    pub fn and_wider(tag: &str) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(tag), |tag| Some(tag.rsplit_once('-')?.0))
    }
}

impl FromStr for Language {
    type Err = InvalidLanguage;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > LANGUAGE_BYTES_MAX {
            return Err(InvalidLanguage);
        }
        let mut tag = String::with_capacity(text.len());
        for (place, subtag) in text.split(['-', '_']).enumerate() {
            let is_letters = subtag.bytes().all(|b| b.is_ascii_alphabetic());
            let is_subtag = (1..=8).contains(&subtag.len())
                && subtag.bytes().all(|b| b.is_ascii_alphanumeric());
            match (place, subtag.len()) {
                (0, 2 | 3) if is_letters => tag.push_str(&subtag.to_ascii_lowercase()),
                (0, _) => return Err(InvalidLanguage),
                _ if !is_subtag => return Err(InvalidLanguage),
                (1 | 2, 2) if is_letters => push(&mut tag, &subtag.to_ascii_uppercase()),
                (1, 4) if is_letters => {
                    let (first, rest) = subtag.split_at(1);
                    let script = first.to_ascii_uppercase() + &rest.to_ascii_lowercase();
                    push(&mut tag, &script);
                }
                _ => push(&mut tag, &subtag.to_ascii_lowercase()),
            }
        }
        Ok(Self(tag.into()))
    }
}

fn push(tag: &mut String, subtag: &str) {
    tag.push('-');
    tag.push_str(subtag);
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_written_in_one_way() {
        for (given, tag) in [
            ("fr", "fr"),
            ("FR_ca", "fr-CA"),
            ("zh-hANT-tw", "zh-Hant-TW"),
            ("es-419", "es-419"),
            ("sl-ROZAJ-biske", "sl-rozaj-biske"),
            ("gsw", "gsw"),
        ] {
            let read = given.parse::<Language>();
            assert_eq!(read.as_ref().map(Language::as_str), Ok(tag));
            assert_eq!(tag.parse(), read);
        }
        let long = format!("fr{}", "-abcdefgh".repeat(4));
        for bad in [
            "",
            "f",
            "french",
            "fr-",
            "-fr",
            "fr--CA",
            "f1",
            "fr CA",
            "fr-é",
            "fr-abcdefghi",
            &long,
        ] {
            assert_eq!(bad.parse::<Language>(), Err(InvalidLanguage), "{bad}");
        }
    }

    #[test]
    fn a_tag_gets_wider_by_subtags() {
        let tags: Vec<_> = Language::and_wider("zh-Hant-TW").collect();
        assert_eq!(tags, ["zh-Hant-TW", "zh-Hant", "zh"]);
    }
}
