//! Addresses of recipients, checked and brought into the one form in which they are compared.

use std::fmt;
use std::str::FromStr;

use rlibphonenumber::{NumberLengthType, PHONE_NUMBER_UTIL, PhoneNumberFormat, Region};
use rlibphonenumber::{ParseError, ValidationError};

use crate::text::one_line;

/// The longest address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// What an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// A phone number.
    Phone,
    /// An e-mail address.
    Email,
    /// Anything: the id of a user, the token of a device.
    Text,
}

/// A text that is no address, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(String);

impl InvalidAddress {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl AddressKind {
    /// The name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Email => "email",
            Self::Text => "text",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Phone, Self::Email, Self::Text]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }

    /// Checks an address and brings it into its one form.
    ///
    /// - A phone number becomes E.164 (`+33639980606`). One without `+` is read as it is dialled in
    ///   `region`. Checked are the country's code and how many digits its numbers have, and not
    ///   whether the number is in a range that is in use: ranges are opened every week, and those
    ///   that are kept for examples and tests never are.
    /// - An e-mail address keeps its local part, and its domain becomes lower case. Checked is the
    ///   shape that mail servers agree on (`name@host.example`: no quoted names, comments or
    ///   addresses of hosts), and not whether the domain exists.
    /// - A text is trimmed, and has no control characters.
    pub fn check(self, address: &str, region: Option<Country>) -> Result<String, InvalidAddress> {
        let address = address.trim();
        if address.is_empty() {
            return Err(InvalidAddress::new("is empty"));
        }
        if address.len() > ADDRESS_BYTES_MAX {
            let rule = format!("must be at most {ADDRESS_BYTES_MAX} bytes");
            return Err(InvalidAddress(rule));
        }
        if address.contains(char::is_control) {
            return Err(InvalidAddress::new("must not contain control characters"));
        }
        match self {
            Self::Phone => phone(address, region),
            Self::Email => email(address),
            Self::Text => Ok(address.to_owned()),
        }
    }
}

/// An address of whatever kind in the one form in which it is looked up among those that are to get
/// nothing any more: what can be read as a phone number with its country's code, or as an e-mail
/// address, is one.
pub fn suppressible(address: &str) -> Result<String, InvalidAddress> {
    let read = |kind: AddressKind| kind.check(address, None);
    read(AddressKind::Phone)
        .or_else(|_| read(AddressKind::Email))
        .or_else(|_| read(AddressKind::Text))
}

/// A country, by its two letters of ISO 3166-1: the plan by which national numbers are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Country(Region);

/// A text that names no country with phone numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the two letters of a country, such as FR, not `{0}`")]
pub struct InvalidCountry(String);

impl FromStr for Country {
    type Err = InvalidCountry;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_code = text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic());
        let region = is_code.then(|| text.to_ascii_uppercase().parse().ok());
        let region: Option<Region> = region.flatten();
        region
            .filter(|region| {
                PHONE_NUMBER_UTIL
                    .get_country_code_for_region(*region)
                    .is_some()
            })
            .map(Self)
            .ok_or_else(|| InvalidCountry(one_line(text).chars().take(20).collect()))
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === Phone numbers ===

/// The most digits that are dialled, and some for prefixes: 15 of E.164.
const DIGITS_MAX: usize = 20;

fn phone(address: &str, region: Option<Country>) -> Result<String, InvalidAddress> {
    let dialled = dialled(address)?;
    if region.is_none() && !dialled.starts_with('+') {
        return Err(InvalidAddress::new(
            "must begin with + and the code of a country, as no default region was given",
        ));
    }
    let number = PHONE_NUMBER_UTIL
        .parse(&dialled, region.map(|country| country.0))
        .map_err(|error| InvalidAddress::new(unread(&error)))?;
    match PHONE_NUMBER_UTIL.is_possible_number_with_reason(&number) {
        Ok(NumberLengthType::IsPossible) => Ok(PHONE_NUMBER_UTIL
            .format(&number, PhoneNumberFormat::E164)
            .into_owned()),
        Ok(NumberLengthType::IsPossibleLocalOnly) => Err(InvalidAddress::new(
            "is only a local number: its area is missing",
        )),
        Err(error) => Err(InvalidAddress(format!(
            "{} for a number of +{}",
            match error {
                ValidationError::TooShort => "has too few digits",
                ValidationError::TooLong => "has too many digits",
                ValidationError::InvalidLength => "has a wrong number of digits",
                ValidationError::InvalidCountryCode => "has an unknown code",
            },
            number.country_code
        ))),
    }
}

fn unread(error: &ParseError) -> &'static str {
    match error {
        ParseError::InvalidCountryCode => "begins with the code of no country",
        ParseError::TooShortNsn | ParseError::TooShortAfterIdd => "has too few digits",
        ParseError::TooLongNsn => "has too many digits",
        _ => "is not a phone number",
    }
}

/// The number without what only people need. Letters are refused: what the library would read as
/// digits, or as an extension, is nothing that a message can be sent to.
fn dialled(address: &str) -> Result<String, InvalidAddress> {
    let address = match address.get(..4) {
        Some(scheme) if scheme.eq_ignore_ascii_case("tel:") => &address[4..],
        _ => address,
    };
    let mut dialled = String::with_capacity(address.len().min(DIGITS_MAX + 1));
    for c in address.chars() {
        match c {
            '0'..='9' if dialled.len() > DIGITS_MAX => {
                return Err(InvalidAddress::new("has too many digits"));
            }
            '0'..='9' => dialled.push(c),
            '+' if dialled.is_empty() => dialled.push(c),
            ' ' | '-' | '.' | '/' | '(' | ')' | '\u{a0}' | '\u{202f}' | '\u{2010}'..='\u{2013}' => {
            }
            'E' | 'e' if address.contains("E+") || address.contains("e+") => {
                return Err(InvalidAddress::new(
                    "was rounded by a spreadsheet: format its column as text",
                ));
            }
            _ => {
                let rule = format!(
                    "is not a phone number: it contains `{}`",
                    one_line(c.encode_utf8(&mut [0; 4]))
                );
                return Err(InvalidAddress(rule));
            }
        }
    }
    Ok(dialled)
}

// === E-mail addresses ===

/// The longest address, name and part of a domain, in bytes (RFC 5321, RFC 1035).
const EMAIL_BYTES_MAX: usize = 254;
const LOCAL_BYTES_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 63;

fn email(address: &str) -> Result<String, InvalidAddress> {
    let Some((local, domain)) = address.rsplit_once('@') else {
        return Err(InvalidAddress::new("is not an e-mail address: it has no @"));
    };
    if address.len() > EMAIL_BYTES_MAX || local.len() > LOCAL_BYTES_MAX {
        return Err(InvalidAddress(format!(
            "must be at most {EMAIL_BYTES_MAX} bytes, {LOCAL_BYTES_MAX} of them before the @"
        )));
    }
    let is_atom = |atom: &str| !atom.is_empty() && atom.chars().all(is_atom_char);
    if !local.split('.').all(is_atom) {
        return Err(InvalidAddress::new(
            "is not an e-mail address: what is before the @ is not plain",
        ));
    }
    let is_host = domain.contains('.')
        && domain.split('.').all(is_label)
        && domain
            .rsplit('.')
            .next()
            .is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()));
    if !is_host {
        return Err(InvalidAddress::new(
            "is not an e-mail address: what is behind the @ is no domain",
        ));
    }
    Ok(format!("{local}@{}", domain.to_lowercase()))
}

/// What may stand in a name without quotes (RFC 5322), and any letter beyond ASCII (RFC 6531).
fn is_atom_char(c: char) -> bool {
    match c {
        _ if c.is_ascii() => c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c),
        _ => c.is_alphanumeric(),
    }
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.chars().all(|c| c == '-' || c.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn country(code: &str) -> Option<Country> {
        Some(code.parse().unwrap())
    }

    #[test]
    fn an_address_of_any_kind_is_looked_up_as_campaigns_have_it() {
        for (given, form) in [
            (" +33 6 39 98 06 06", "+33639980606"),
            ("tel:+33639980606", "+33639980606"),
            ("Ana@EXAMPLE.org", "Ana@example.org"),
            ("06 39 98 06 06", "06 39 98 06 06"),
            ("user-17 ", "user-17"),
            ("+1", "+1"),
            ("@handle", "@handle"),
        ] {
            assert_eq!(suppressible(given).as_deref(), Ok(form));
        }
        for none in ["", " ", "a\nb", &"x".repeat(ADDRESS_BYTES_MAX + 1)] {
            assert!(suppressible(none).is_err(), "{none:?}");
        }
    }

    #[test]
    fn a_phone_number_has_one_form() {
        for (region, given, number) in [
            (None, "+33639980606", "+33639980606"),
            (None, " +33 (0)6 39-98.06/06 ", "+33639980606"),
            (None, "tel:+33-6-39-98-06-06", "+33639980606"),
            (None, "+33\u{202f}6\u{a0}39980606", "+33639980606"),
            (Some("FR"), "06 39 98 06 06", "+33639980606"),
            (Some("FR"), "639980606", "+33639980606"),
            (Some("FR"), "0033639980606", "+33639980606"),
            // What a spreadsheet leaves of +33639980606.
            (Some("FR"), "33639980606", "+33639980606"),
            (Some("FR"), "+447700900123", "+447700900123"),
            (Some("GB"), "07700 900123", "+447700900123"),
            (Some("US"), "(617) 555-0180", "+16175550180"),
            (Some("US"), "011 33 6 39 98 06 06", "+33639980606"),
            // Italy keeps its zero; without it, it is somebody else's number.
            (Some("IT"), "02 1234567", "+39021234567"),
            (None, "+39 02 1234567", "+39021234567"),
            (None, "+800 1234 5678", "+80012345678"),
        ] {
            let region = region.and_then(country);
            let read = AddressKind::Phone.check(given, region);
            assert_eq!(read.as_deref(), Ok(number), "{given}");
            // The one form is its own.
            assert_eq!(
                AddressKind::Phone.check(number, None).as_deref(),
                Ok(number)
            );
        }
    }

    #[test]
    fn what_is_no_phone_number_says_why() {
        for (given, why) in [
            ("", "is empty"),
            ("   ", "is empty"),
            ("0639980606", "must begin with +"),
            ("+999123456789", "code of no country"),
            ("+3363998060", "too few digits for a number of +33"),
            ("+336399806069", "too many digits for a number of +33"),
            ("+33", "is not a phone number"),
            ("+", "is not a phone number"),
            ("+1 617 555 0180 x123", "contains `x`"),
            ("1-800-FLOWERS", "contains `F`"),
            ("3.36E+10", "rounded by a spreadsheet"),
            ("++33639980606", "contains `+`"),
            ("+33 6 39 98 06 06 / +33 6 39 98 06 07", "contains `+`"),
            ("+33 6 39 98 06 06 / 06 39 98 06 07", "too many digits"),
            ("+٣٣٦٣٩٩٨٠٦٠٦", "contains `٣`"),
            ("+33639980606\u{200b}", "contains `\\u{200b}`"),
            ("+336\n39980606", "control characters"),
            ("555-0180", "must begin with +"),
        ] {
            let error = AddressKind::Phone
                .check(given, None)
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{given}: {error}");
        }
        let error = AddressKind::Phone
            .check("555-0180", country("US"))
            .unwrap_err();
        assert!(error.to_string().contains("area is missing"), "{error}");
    }

    #[test]
    fn a_country_has_phone_numbers() {
        for good in ["FR", "fr", "US", "XK"] {
            let country: Country = good.parse().unwrap();
            assert_eq!(country.to_string(), good.to_uppercase());
        }
        for bad in ["", "F", "FRA", "33", "ZZ", "é", "001"] {
            assert!(bad.parse::<Country>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_email_address_keeps_its_name_and_lowers_its_domain() {
        for (given, address) in [
            (" Ana.B@Example.COM ", "Ana.B@example.com"),
            ("a+b_c'd@sub.example.co.uk", "a+b_c'd@sub.example.co.uk"),
            ("jörg@bücher.example", "jörg@bücher.example"),
            ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ] {
            assert_eq!(
                AddressKind::Email.check(given, None).as_deref(),
                Ok(address)
            );
        }
        let long = format!("{}@example.com", "x".repeat(65));
        for bad in [
            "",
            "a",
            "@example.com",
            "a@",
            "a@b",
            "a@.com",
            "a@b..com",
            "a@-b.com",
            "a@b-.com",
            "a@b.com.",
            "a@10.0.0.1",
            "a@[10.0.0.1]",
            ".a@b.com",
            "a.@b.com",
            "a..b@c.com",
            "a b@c.com",
            "\"a b\"@c.com",
            "a@b@c.com",
            "<a@b.com>",
            "a@b.com,c@d.com",
            "a@b.com; c@d.com",
            "a@b_c.com",
            "a\u{200b}@b.com",
            &long,
        ] {
            assert!(AddressKind::Email.check(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_text_is_trimmed() {
        let check = |text: &str| AddressKind::Text.check(text, None);
        assert_eq!(check("  user 17 ").as_deref(), Ok("user 17"));
        assert!(check("a\tb").is_err());
        assert!(check("a\0").is_err());
        assert!(check(&"x".repeat(ADDRESS_BYTES_MAX)).is_ok());
        assert!(check(&"x".repeat(ADDRESS_BYTES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_not(
            text in prop_oneof![".{0,40}", "[+0-9 ()/.-]{0,30}", "[a-z@.]{0,20}"],
            region in prop::sample::select(vec![None, Some("FR"), Some("US"), Some("IT"), Some("AR")]),
        ) {
            let region = region.and_then(country);
            for kind in [AddressKind::Phone, AddressKind::Email, AddressKind::Text] {
                if let Ok(address) = kind.check(&text, region) {
                    prop_assert!((1..=ADDRESS_BYTES_MAX).contains(&address.len()));
                    prop_assert_eq!(kind.check(&address, region), Ok(address));
                }
            }
        }
    }
}
