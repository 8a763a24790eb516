//! What a request is part of, as W3C Trace Context has it: <https://www.w3.org/TR/trace-context/>.

use axum::http::{HeaderMap, HeaderName};
use postroad_common::job::TRACEPARENT_BYTES_MAX;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `00-`, trace, `-`, parent, `-`, flags: all that version 00 has, and what later ones begin with.
const FIELDS_BYTES: usize = 55;

/// The `traceparent` of a request. One that is not as the standard has it is none: whoever receives
/// it begins a trace of its own, and refuses nothing.
pub(crate) fn parent_of(headers: &HeaderMap) -> Option<&str> {
    let mut sent = headers.get_all(TRACEPARENT).iter();
    let (Some(header), None) = (sent.next(), sent.next()) else {
        return None;
    };
    header.to_str().ok().filter(|text| is_valid(text))
}

fn is_valid(text: &str) -> bool {
    let (Some(fields), true) = (
        text.get(..FIELDS_BYTES),
        text.len() <= TRACEPARENT_BYTES_MAX,
    ) else {
        return false;
    };
    let parts: Vec<&str> = fields.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else {
        return false;
    };
    let is_whole = match (version, &text[FIELDS_BYTES..]) {
        ("ff", _) => false,
        ("00", rest) => rest.is_empty(),
        // What later versions add is for those who know them.
        (_, rest) => rest.is_empty() || rest.starts_with('-'),
    };
    is_whole && is_hex(version, 2) && is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2)
}

/// Digits that are not all 0.
fn is_id(text: &str, digits: usize) -> bool {
    is_hex(text, digits) && text.bytes().any(|digit| digit != b'0')
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn with(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header");
            headers.append(TRACEPARENT, value);
        }
        headers
    }

    #[test]
    fn a_header_as_the_standard_has_it_is_taken_as_it_is() {
        let later = format!("01{}", &GOOD[2..]);
        let longer = format!("{later}-what-is-new");
        for value in [GOOD, &later, &longer] {
            assert_eq!(parent_of(&with(&[value])), Some(value));
        }
    }

    #[test]
    fn any_other_header_is_none() {
        let in_capitals = GOOD.to_uppercase();
        let too_long = format!("01{}-{}", &GOOD[2..], "x".repeat(TRACEPARENT_BYTES_MAX));
        for value in [
            "",
            "x",
            &GOOD[1..],
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &format!("01{}0", &GOOD[2..]),
            &format!("ff{}", &GOOD[2..]),
            &format!("0x{}", &GOOD[2..]),
            &in_capitals,
            &too_long,
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            "00-0af7651916cd43dd8448eb211c80319cb-7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            &GOOD.replace("c-b", "é-"),
        ] {
            assert_eq!(parent_of(&with(&[value])), None, "{value:?}");
        }
        assert_eq!(parent_of(&with(&[GOOD, GOOD])), None, "which of both?");
        assert_eq!(parent_of(&with(&[])), None);
    }
}
