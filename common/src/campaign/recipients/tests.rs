use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;

static CONTENT: LazyLock<Content> = LazyLock::new(|| {
    let content = json!({
        "channels": {
            "sms": {"kind": "sms", "args": {"en": {"to": "{{to}}", "text": "{{name}} {{code}}"}}},
            "mail": {"kind": "mail", "address": "email", "args": {"en": {}}},
        },
        "channel": "sms",
        "language": "en",
        "variables": {"name": {"default": "friend"}, "code": {}},
    });
    Content::read(&content).unwrap()
});

/// Reads a whole upload in pieces of this size.
fn read_in(format: Format, bytes: &[u8], size: usize) -> (Vec<Line>, Result<Reader, Refused>) {
    let mut reader = Reader::new(format, &CONTENT, "FR".parse().ok());
    let mut lines = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        if let Err(refused) = reader.feed(piece, &mut lines) {
            assert_eq!(reader.feed(b"x", &mut lines), Err(refused.clone()));
            return (lines, Err(refused));
        }
        // A record and a byte, and the header while it comes: vectors double.
        let bound = 2 * (RECORD_BYTES_MAX + 1) + 8 * (COLUMNS_MAX + 1);
        assert!(reader.buffered() <= bound, "{}", reader.buffered());
    }
    let finished = reader.finish(&mut lines);
    (lines, finished.map(|()| reader))
}

/// Each line as `number: to` or `number! error`, however the upload is cut.
fn read(format: Format, bytes: &[u8]) -> Result<Vec<String>, String> {
    let show = |line: &Line| match &line.recipient {
        Ok(recipient) => format!(
            "{}: {}",
            line.number,
            serde_json::to_string(recipient).unwrap()
        ),
        Err(error) => format!("{}! {error}", line.number),
    };
    let (whole, finished) = read_in(format, bytes, usize::MAX);
    let sizes: &[usize] = if bytes.len() > 100_000 {
        &[4093]
    } else {
        &[1, 2, 3, 7, 4093]
    };
    for size in sizes {
        let (lines, other) = read_in(format, bytes, *size);
        assert_eq!(lines, whole, "in pieces of {size}");
        assert_eq!(
            other.as_ref().map(Reader::ignored_columns),
            finished.as_ref().map(Reader::ignored_columns)
        );
    }
    let lines = whole.iter().map(show).collect();
    finished
        .map(|_| lines)
        .map_err(|refused| refused.to_string())
}

fn csv(text: &str) -> Result<Vec<String>, String> {
    read(Format::Csv, text.as_bytes())
}

fn ndjson(text: &str) -> Result<Vec<String>, String> {
    read(Format::Ndjson, text.as_bytes())
}

const ONE: &str = r#"["+33639980606",null,null,null,"x"]"#;

#[test]
fn a_csv_is_read() {
    let text = "to,name,language,timezone,channel,code\n\
                06 39 98 06 06,Ana,fr_ca,europe/paris,,x\n\
                a@B.example,\"Bob \"\"B\"\", Jr.\",,,mail,y\n\
                +33639980607,,,,sms,z\n";
    assert_eq!(
        csv(text).unwrap(),
        [
            r#"2: ["+33639980606",null,"fr-CA","Europe/Paris","x","Ana"]"#,
            r#"3: ["a@b.example","mail",null,null,"y","Bob \"B\", Jr."]"#,
            r#"4: ["+33639980607",null,null,null,"z"]"#,
        ]
    );
}

#[test]
fn csv_is_read_as_spreadsheets_write_it() {
    for text in [
        "to,code\n+33639980606,x\n",
        "to,code\n+33639980606,x",
        "to,code\r\n+33639980606,x\r\n",
        "to,code\r+33639980606,x\r",
        "to;code\n+33639980606;x\n",
        "to\tcode\n+33639980606\tx\n",
        "\u{feff}to,code\n+33639980606,x\n",
        "\u{feff}to;code\r\n+33639980606;x\r\n",
        "\"to\",\"code\"\n\"+33639980606\",\"x\"\n",
        " to , code \n +33639980606 ,x\n",
        "code,to\nx,+33639980606\n",
        "to,code,\n+33639980606,x,\n",
        "to,code,,\n+33639980606,x,,\n",
        "to,code,\"a,b;;;c\"\n+33639980606,x,\n",
        "to,code,n\n+33639980606,\"x\",5\"\" pipe\n",
        "to,code,n\n+33639980606,\"x\",\"\"\n",
    ] {
        assert_eq!(csv(text), Ok(vec![format!("2: {ONE}")]), "{text:?}");
    }
    // Lines that are blank are none, and are counted.
    let text = "\n\nto,code\n\n\n+33639980606,x\r\n\r\n+33639980606,x\n";
    assert_eq!(
        csv(text),
        Ok(vec![format!("6: {ONE}"), format!("8: {ONE}")])
    );
    // A text with line breaks is one field.
    let text = "to,code\n+33639980606,\"x\ny\r\nz\"\n+33639980606,x\n";
    let lines = csv(text).unwrap();
    assert_eq!(
        lines[0],
        r#"2: ["+33639980606",null,null,null,"x\ny\r\nz"]"#
    );
    assert_eq!(lines[1], format!("5: {ONE}"));
}

#[test]
fn a_broken_upload_is_refused() {
    let long = format!("to,code,{}\n", "x".repeat(RECORD_BYTES_MAX));
    let wide = format!("to,code{}\n", ",".repeat(COLUMNS_MAX));
    let utf16: Vec<u8> = "to,code\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let with_bom: Vec<u8> = [b"\xff\xfe", &utf16[..]].concat();
    for (bytes, said) in [
        (&b""[..], "is empty"),
        (b"\n\r\n  \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (&utf16, "is UTF-16: save it as UTF-8"),
        (&with_bom, "is UTF-16: save it as UTF-8"),
        (b"\xfe\xff\0t\0o", "is UTF-16: save it as UTF-8"),
        (b"to,code\0\n", "is UTF-16: save it as UTF-8"),
        (
            b"to,code,pr\xe9nom\n+33639980606,x,\n",
            "the header line is not UTF-8",
        ),
        (
            b"phone,code\n+33639980606,x\n",
            "one of them must be `to`; it is: phone, code",
        ),
        (
            b"+33639980606,x\n+33639980607,y\n",
            "one of them must be `to`",
        ),
        (b"To,code\n", "one of them must be `to`"),
        (b"to|code\n", "one of them must be `to`"),
        (
            b"to,name\n",
            "lacks columns for variables that have no default: code",
        ),
        (
            b"to",
            "lacks columns for variables that have no default: code",
        ),
        (b"to,code,code\n", "has the column `code` twice"),
        (b"to,code, to\n", "has the column `to` twice"),
        (
            b"to,code,\"x\n+33639980606,x,\n",
            "the header line has a quote that is not closed",
        ),
        (long.as_bytes(), "the header line is longer than 64 KiB"),
        (wide.as_bytes(), "has more than 256 columns"),
    ] {
        let error = read(Format::Csv, bytes).expect_err(said);
        assert!(error.contains(said), "{said}: {error}");
    }
    // Nobody is in it, and nothing is wrong with it.
    assert_eq!(csv("to,code"), Ok(vec![]));
}

#[test]
fn a_broken_record_is_a_bad_line_and_the_next_one_is_read() {
    let long_name = "x".repeat(4097);
    let long_to = "1".repeat(256);
    for (line, said) in [
        ("+33639980606", "2! has 1 fields, and the header 6"),
        ("+33639980606,x,,,,,", "2! has 7 fields, and the header 6"),
        (",x,,,,", "2! to: is empty"),
        ("+999,x,,,,", "2! to: begins with the code of no country"),
        ("nobody,x,,,,", "2! to: is not a phone number"),
        (
            &format!("{long_to},x,,,,"),
            "2! to: must be at most 255 bytes",
        ),
        ("+33639980606,,,,,", "2! code: is empty"),
        ("+33639980606,  ,,,,", "2! code: is empty"),
        (
            "+33639980606,x,french,,,",
            "2! language: must be the tag of a language",
        ),
        (
            "+33639980606,x,,CET,,",
            "2! timezone: must be UTC or a name",
        ),
        (
            "+33639980606,x,,Europe/Atlantis,,",
            "2! timezone: must be UTC or a name",
        ),
        (
            "+33639980606,x,,,fax,",
            "2! channel: unknown channel `fax`; known are mail, sms",
        ),
        ("+33639980606,x,,,mail,", "2! to: is not an e-mail address"),
        (
            &format!("+33639980606,x,,,,{long_name}"),
            "2! name: must be at most 4 KiB",
        ),
        ("+33639980606,a\0b,,,,", "2! contains a NUL byte"),
        (
            "+33639980606,\"a\"b,,,,",
            "2! has text behind a closing quote",
        ),
        (
            "+33639980606,\"a\"b\"\",,,,",
            "2! has text behind a closing quote",
        ),
    ] {
        let text = format!("to,code,language,timezone,channel,name\n{line}\n+33639980606,x,,,,\n");
        let lines = csv(&text).unwrap();
        assert_eq!(lines.len(), 2, "{line:.80}");
        assert!(lines[0].starts_with(said), "{said}: {}", lines[0]);
        assert_eq!(lines[1], format!("3: {ONE}"));
    }
}

#[test]
fn bytes_that_are_no_utf_8_are_a_bad_line() {
    for bytes in [&b"\xff"[..], b"Jos\xe9", b"\xc3", b"\xed\xa0\x80"] {
        let text = [b"to,code\n+33639980606,", bytes, b"\n+33639980606,x\n"].concat();
        let lines = read(Format::Csv, &text).unwrap();
        assert_eq!(lines, ["2! is not UTF-8".to_owned(), format!("3: {ONE}")]);
        let json = [br#"{"to":""#, bytes, b"\"}\n"].concat();
        assert_eq!(read(Format::Ndjson, &json).unwrap(), ["1! is not UTF-8"]);
    }
    // Two fields that are a letter only together.
    let lines = read(Format::Csv, b"to,code\n+33639980606\xc3,\xa9\n").unwrap();
    assert_eq!(lines, ["2! is not UTF-8"]);
}

#[test]
fn a_record_that_is_too_long_is_passed_over() {
    let row = |length: usize| {
        format!(
            "to,code\n+33639980606,{}\n+33639980606,x\n",
            "x".repeat(length)
        )
    };
    let fits = RECORD_BYTES_MAX - "+33639980606".len();
    let lines = csv(&row(fits)).unwrap();
    assert!(
        lines[0].starts_with("2! code: must be at most 4 KiB"),
        "{}",
        lines[0]
    );
    for length in [fits + 1, fits + 2, fits + 100_000] {
        let lines = csv(&row(length)).unwrap();
        assert_eq!(
            lines[0],
            "2! is longer than 64 KiB: skipped to the end of line 2"
        );
        assert_eq!(lines[1..], [format!("3: {ONE}")]);
    }
    // At the end of the file.
    let lines = csv(row(fits + 1).trim_end_matches("\n+33639980606,x\n")).unwrap();
    assert_eq!(lines.len(), 1);
    // Too many fields.
    let text = format!(
        "to,code\n+33639980606{}\n+33639980606,x\n",
        ",".repeat(100_000)
    );
    let lines = csv(&text).unwrap();
    assert_eq!(
        lines[0],
        "2! has more than 256 fields: skipped to the end of the line"
    );
    assert_eq!(lines[1..], [format!("3: {ONE}")]);
}

#[test]
fn a_quote_that_is_not_closed_costs_no_more_than_the_longest_record() {
    let rows = "+33639980606,x\n".repeat(10_000);
    let text = format!("to,code\n+33639980606,\"x\n{rows}");
    let lines = csv(&text).unwrap();
    let said = "2! is longer than 64 KiB: skipped to the end of line 4371 (it began at line 2: is a quote not closed?)";
    assert_eq!(lines[0], said);
    assert_eq!(lines[1], format!("4372: {ONE}"));
    assert_eq!(lines.len(), 1 + 10_002 - 4371);
    // Fewer lines than that are lost, and it is said.
    let lines = csv("to,code\n+33639980606,\"x\n+33639980606,y\n").unwrap();
    assert_eq!(lines, ["2! has a quote that is not closed"]);
    // Closed by the next quote that comes by.
    let text = "to,code\n+33639980606,\"x\n+33639980606,y\n+33639980606,\"z\"\n+33639980606,x\n";
    let said = "2! has text behind a closing quote: a quote in a text must be doubled (it began at \
                line 2: is a quote not closed?)";
    assert_eq!(csv(text).unwrap(), [said.to_owned(), format!("5: {ONE}")]);
}

#[test]
fn a_byte_order_mark_behind_a_long_record_is_no_matter_of_how_it_is_cut() {
    let text = format!("to,code\n{}\n\u{feff}+33639980606,x\n", "x".repeat(70_000));
    let lines = csv(&text).unwrap();
    assert!(lines[1].starts_with("3! to: "), "{}", lines[1]);
}

#[test]
fn a_gigabyte_without_an_end_needs_no_memory() {
    let piece = vec![b'x'; 1 << 20];
    for (format, start) in [
        (Format::Csv, &b"to,code\n\""[..]),
        (Format::Ndjson, b"{\"to\":\""),
    ] {
        let mut reader = Reader::new(format, &CONTENT, None);
        let mut lines = Vec::new();
        reader.feed(start, &mut lines).unwrap();
        for _ in 0..64 {
            reader.feed(&piece, &mut lines).unwrap();
            assert!(reader.buffered() <= 2 * (RECORD_BYTES_MAX + 1) + 8 * (COLUMNS_MAX + 1));
        }
        reader.finish(&mut lines).unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
}

#[test]
fn columns_that_mean_nothing_are_told_once() {
    let text = "to,code,age,plan,age2,\n+33639980606,x,1,,,\n";
    let (_, reader) = read_in(Format::Csv, text.as_bytes(), 5);
    assert_eq!(reader.unwrap().ignored_columns(), ["age", "plan", "age2"]);
    let text: String = (0..200)
        .map(|n| {
            format!("{{\"to\":\"+33639980606\",\"code\":1,\"n{n}\":[{{}}],\"\\u001b\":null}}\n")
        })
        .collect();
    let (lines, reader) = read_in(Format::Ndjson, text.as_bytes(), 100);
    assert!(
        lines.iter().all(|line| line.recipient.is_ok()),
        "{:?}",
        lines[0]
    );
    let reader = reader.unwrap();
    assert_eq!(reader.ignored_columns().len(), IGNORED_MAX);
    assert_eq!(reader.ignored_columns()[..2], ["n0", "\\u{1b}"]);
}

#[test]
fn everybody_of_the_demo_is_a_recipient() {
    let sample = include_str!("../../../../cli/data/recipients.sample.csv");
    let (_, rows) = sample.split_once('\n').unwrap();
    let text = format!("to,country,language,timezone,age,code\n{rows}");
    let (lines, reader) = read_in(Format::Csv, text.as_bytes(), 1000);
    assert_eq!(lines.len(), rows.lines().count());
    for line in lines {
        assert!(line.recipient.is_ok(), "{line:?}");
    }
    assert_eq!(reader.unwrap().ignored_columns(), ["country", "age"]);
}

#[test]
fn ndjson_is_read() {
    let text = "\u{feff}{\"to\":\"06 39 98 06 06\",\"name\":\"Ana\",\"language\":\"fr\",\"code\":12.50}\r\n\
                \n  \n\
                {\"to\":33639980606,\"code\":true,\"name\":null,\"channel\":null}\n\
                {\"to\":\"a@b.example\",\"channel\":\"mail\",\"code\":\"\\u00e9\\n\",\"x\":{\"y\":[]}}";
    assert_eq!(
        ndjson(text).unwrap(),
        [
            r#"1: ["+33639980606",null,"fr",null,"12.50","Ana"]"#,
            r#"4: ["+33639980606",null,null,null,"true"]"#,
            r#"5: ["a@b.example","mail",null,null,"é\n"]"#,
        ]
    );
}

#[test]
fn a_broken_line_of_ndjson_is_a_bad_line() {
    let good = "{\"to\":\"+33639980606\",\"code\":\"x\"}";
    for (line, said) in [
        ("{", "1! is not JSON: "),
        ("{}", "1! to: is empty"),
        ("[]", "1! invalid type: sequence, expected an object"),
        ("null", "1! invalid type: null, expected an object"),
        (r#"{"to":"+33639980606"}"#, "1! code: is empty"),
        (
            r#"{"to":"+33639980606","code":"x"}{}"#,
            "1! is not JSON: trailing characters",
        ),
        (
            r#"{"to":"+33639980606","code":"x","code":"y"}"#,
            "1! `code` is there twice",
        ),
        (
            r#"{"to":"+33639980606","code":["x"]}"#,
            "1! code: must be a text, a number or a bool",
        ),
        (
            r#"{"to":{},"code":"x"}"#,
            "1! to: must be a text, a number or a bool",
        ),
        (r#"{"to":"+33639980606","code":"\ud800"}"#, "1! code: "),
        (
            r#"{"to":"+33639980606","code":"a\u0000b"}"#,
            "1! code: must not contain a NUL",
        ),
        (
            r#"{"to":"+33639980606","code":"x","timezone":"CET"}"#,
            "1! timezone: must be UTC",
        ),
        ("to,code", "1! is not JSON: "),
    ] {
        let lines = ndjson(&format!("{line}\n{good}\n")).unwrap();
        assert_eq!(lines.len(), 2, "{line}");
        assert!(lines[0].starts_with(said), "{said}: {}", lines[0]);
        assert_eq!(lines[1], format!("2: {ONE}"));
    }
    let deep = "[".repeat(30_000);
    let lines = ndjson(&format!("{{\"to\":{deep}}}\n{{\"x\":{deep}}}\n{good}\n")).unwrap();
    assert_eq!(lines[2], format!("3: {ONE}"));
    for length in [RECORD_BYTES_MAX + 1, RECORD_BYTES_MAX + 2, 200_000] {
        let lines = ndjson(&format!("{}\r\n{good}\n", "x".repeat(length))).unwrap();
        assert_eq!(
            lines,
            [
                "1! is longer than 64 KiB: skipped".to_owned(),
                format!("2: {ONE}")
            ]
        );
    }
    for (bytes, said) in [
        (&b""[..], "is empty"),
        (b"\n \n", "is empty"),
        (b"\xff\xfe{\0}\0", "is UTF-16: save it as UTF-8"),
        (b"{\0}\0", "is UTF-16: save it as UTF-8"),
    ] {
        assert_eq!(read(Format::Ndjson, bytes), Err(said.to_owned()));
    }
}

#[test]
fn a_recipient_is_kept_in_few_bytes_and_comes_back() {
    let text = "to,code,language,timezone\n+33639980606,x,fr,Europe/Paris\n+33639980607,y,,\n";
    let (lines, _) = read_in(Format::Csv, text.as_bytes(), 1000);
    for line in lines {
        let recipient = line.recipient.unwrap();
        let json = serde_json::to_string(&recipient).unwrap();
        assert_eq!(
            serde_json::from_str::<Recipient>(&json).unwrap().to,
            recipient.to
        );
        let again: Recipient = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), json);
        assert_eq!(again.key(&CONTENT), recipient.key(&CONTENT));
    }
    for bad in [
        "[]",
        "[null]",
        "{}",
        "[1]",
        r#"["a",1]"#,
        &format!("[{}1]", "\"a\",".repeat(68)),
    ] {
        assert!(serde_json::from_str::<Recipient>(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_key_is_of_channel_and_address() {
    let key = |text: &str| {
        let text = format!("to,code,channel\n{text}\n");
        let (lines, _) = read_in(Format::Csv, text.as_bytes(), 1000);
        lines[0].recipient.clone().unwrap().key(&CONTENT)
    };
    assert_eq!(key("+33639980606,x,"), b"sms\0+33639980606");
    assert_eq!(key("06 39 98 06 06,y,sms"), b"sms\0+33639980606");
    assert_eq!(key("a@b.example,y,mail"), b"mail\0a@b.example");
}

#[test]
fn variables_have_their_names_back() {
    let (lines, _) = read_in(Format::Csv, b"to,name,code\n+33639980606,,x\n", 1000);
    let recipient = lines[0].recipient.clone().unwrap();
    let named: Vec<_> = recipient.named(&CONTENT).collect();
    assert_eq!(named, [("code", "x")]);
}

fn upload() -> impl Strategy<Value = Vec<u8>> {
    let parts = prop::sample::select(vec![
        &b"to"[..],
        b"code",
        b"name",
        b"language",
        b",",
        b";",
        b"\t",
        b"\n",
        b"\r\n",
        b"\r",
        b"\"",
        b"\"\"",
        b"+33639980606",
        b"x",
        b" ",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\0",
        b"{",
        b"}",
        b"{\"to\":\"+33639980606\",\"code\":1}",
        b"\\",
        b":",
        b"fr",
        b"\xc3",
        b"\xa9",
        b"to,code\n",
        b"[",
        b"null",
    ]);
    let soup = prop::collection::vec(parts, 0..30).prop_map(|parts| parts.concat());
    let start = prop::sample::select(vec![
        &b""[..],
        b"to,code\n",
        b"\xef\xbb\xbfto;code\r\n",
        b"to,code\n\"",
    ]);
    // Now and then with a field around the limit.
    let long = prop::option::weighted(0.05, RECORD_BYTES_MAX - 40..RECORD_BYTES_MAX + 40);
    (start, soup.clone(), long, soup).prop_map(|(start, before, long, after)| {
        let long = vec![b'y'; long.unwrap_or(0)];
        [start, &before, &long, &after].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_upload_in_any_cut_gives_the_same_lines(
        bytes in upload(), cuts in prop::collection::vec(1..50usize, 0..40), is_csv in any::<bool>(),
    ) {
        let format = if is_csv { Format::Csv } else { Format::Ndjson };
        let (whole, finished) = read_in(format, &bytes, usize::MAX);
        let mut reader = Reader::new(format, &CONTENT, "FR".parse().ok());
        let (mut lines, mut rest) = (Vec::new(), &bytes[..]);
        let mut fed = Ok(());
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() && fed.is_ok() {
            let size = cuts.next().map_or(rest.len(), |size| if rest.len() > 2_000 { size * 997 } else { *size });
            let (piece, after) = rest.split_at(size.min(rest.len()));
            fed = reader.feed(piece, &mut lines);
            rest = after;
        }
        let fed = fed.and_then(|()| reader.finish(&mut lines));
        prop_assert_eq!(fed.as_ref().err(), finished.as_ref().err());
        prop_assert_eq!(lines, whole);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for format in [Format::Csv, Format::Ndjson] {
            let (lines, _) = read_in(format, &bytes, 13);
            for line in lines {
                if let Err(error) = line.recipient {
                    prop_assert!(!error.to_string().contains(char::is_control));
                }
            }
        }
    }

    #[test]
    fn what_is_written_as_csv_is_read_as_it_was(
        code in "[^\0]{1,40}", quoted in any::<bool>(),
    ) {
        prop_assume!(!code.trim().is_empty());
        prop_assume!(quoted || !code.contains([',', '"', '\n', '\r', ';', '\t']));
        let field = if quoted { format!("\"{}\"", code.replace('"', "\"\"")) } else { code.clone() };
        let (lines, _) = read_in(Format::Csv, format!("to,code\n+33639980606,{field}\n").as_bytes(), 3);
        let recipient = lines[0].recipient.clone().unwrap();
        prop_assert_eq!(recipient.variables[0].as_deref(), Some(&*code));
    }
}
