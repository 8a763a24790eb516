//! What can be shown, and what is said of args that cannot.

use super::{args, refusal};
use crate::kinds::timeline::TimelineArgs;

#[test]
fn what_a_template_leaves_of_an_empty_variable_is_left_out() {
    let given = r#"{"recipient":"r","title":"t","url":"","language":"","ends_at":""}"#;
    let taken = format!("{:?}", args::<TimelineArgs>(given));
    assert!(!taken.contains("url"), "{taken}");
    assert!(taken.contains("language: None"), "{taken}");
}

#[test]
fn a_refusal_says_what_is_wrong_and_not_what_was_given() {
    for (json, expected) in [
        (r#"["s3cret","t"]"#, "expected an object"),
        (r#"{"recipient":"r"}"#, "/title: is required"),
        (r#"{"title":"t"}"#, "missing field `recipient`"),
        (
            r#"{"recipient":"","title":"s3cret"}"#,
            "recipient: not 1 to 255",
        ),
        (r#"{"recipient":"r","title":"s3cret\n"}"#, "/title: must be"),
        (
            r#"{"recipient":"r","title":"t","url":"javascript:s3cret"}"#,
            "/url: must be",
        ),
        (
            r#"{"recipient":"r","title":"t","language":"s3cret"}"#,
            "language: not a tag",
        ),
        (
            r#"{"recipient":"r","title":"t","html":"s3cret"}"#,
            "unknown field `html`",
        ),
        (
            r#"{"recipient":"r","title":"t","ends_at":"s3cret"}"#,
            "ends_at: not a time",
        ),
    ] {
        let refusal = refusal::<TimelineArgs>(json);
        assert!(refusal.contains(expected), "{json}: {refusal}");
        assert!(!refusal.contains("s3cret"), "{json}: {refusal}");
    }
}
