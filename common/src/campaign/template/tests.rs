use proptest::prelude::*;
use serde_json::json;

use super::*;

fn names(variables: &[&str]) -> Arc<[Box<str>]> {
    let names = variables.iter().chain(&BUILT_IN);
    names.map(|name| Box::from(*name)).collect()
}

/// Reads args, and renders them with these variables.
fn render(args: &Json, variables: &[(&str, &str)]) -> Result<Json, String> {
    let known: Vec<&str> = variables.iter().map(|(name, _)| *name).collect();
    let names = names(&known);
    let mut problems = Problems::default();
    let mut compiler = Compiler::new(names.clone(), &mut problems);
    let template = compiler.args(args, "");
    let engine = compiler.engine;
    problems
        .or(Some(()))
        .map_err(|problems| problems[0].to_string())?;
    let values = variables.iter().map(|(_, value)| *value);
    let values = values.chain(["+336", "fr", "Europe/Paris", "spring"]);
    let values = values.map(Value::from).collect();
    let json = template
        .render(&engine, Scope { names, values })
        .map_err(|failed| failed.to_string())?;
    Ok(serde_json::from_str(&json).expect("what is rendered is JSON"))
}

fn text(template: &str, variables: &[(&str, &str)]) -> Result<String, String> {
    let rendered = render(&json!(template), variables)?;
    Ok(rendered.as_str().expect("a text stays a text").to_owned())
}

#[test]
fn every_text_is_a_template_and_nothing_else_is() {
    let args = json!({
        "{{a}}": ["{{a}}", {"b": "x{{a}}y{{a}}"}, 1, 1.5, true, null, "", "plain \"{\" }}"],
        "n": 9_007_199_254_740_993_u64,
    });
    let rendered = json!({
        "{{a}}": ["1", {"b": "x1y1"}, 1, 1.5, true, null, "", "plain \"{\" }}"],
        "n": 9_007_199_254_740_993_u64,
    });
    assert_eq!(render(&args, &[("a", "1")]), Ok(rendered));
}

#[test]
fn expressions_are_those_of_jinja() {
    let variables = [("name", "ana"), ("none_given", ""), ("n", "7")];
    for (template, said) in [
        ("{{name}}", "ana"),
        ("{{ name|upper }}, {{name|title}}", "ANA, Ana"),
        ("{{ none_given|default(\"x\") }}{{ name|d('y') }}", "xana"),
        ("{{ none_given|default }}", ""),
        ("{{ 'Hi ' ~ name if name else 'Hi' }}", "Hi ana"),
        ("{{ name[:1]|upper }}.{{ to[-2:] }}", "A.36"),
        ("{{ n|int + 1 }} {{ (n|float / 2)|round(1) }}", "8 3.5"),
        ("{{ 'many' if n|int is ge(5) else 'few' }}", "many"),
        (
            "{{ name is startingwith('a') and name is not defined }}",
            "False",
        ),
        ("{{ 'y' if name in ['ana', 'bob'] else 'n' }}", "y"),
        ("{{ name|replace('a', '<')|e }}", "&lt;n&lt;"),
        ("{{ 'a b&c'|urlencode }}", "a%20b%26c"),
        ("{{ 'a,b'|split(',')|join(' ') }}", "a b"),
        ("{{ '}}' }} {{ \"{%\" }}", "}} {%"),
        ("{{ '\\'' }}", "'"),
        ("{# said to nobody #}x", "x"),
        ("a {{- name -}} b", "aanab"),
        ("line\n", "line\n"),
        ("{{name}}\n", "ana\n"),
        (
            "{{campaign}} {{language}} {{timezone}} {{to}}",
            "spring fr Europe/Paris +336",
        ),
        ("{ {name} } }}", "{ {name} } }}"),
        ("<b>{{ name }}</b>", "<b>ana</b>"),
    ] {
        assert_eq!(
            text(template, &variables).as_deref(),
            Ok(said),
            "{template}"
        );
    }
}

#[test]
fn what_is_refused_is_refused_with_its_place() {
    for (template, said) in [
        ("{{", "line 1, column 1: an expression is not closed"),
        ("x {{ name", "line 1, column 3: an expression is not closed"),
        ("{{ name }", "line 1, column 9: `}` is not allowed"),
        ("{{ 'x }}", "line 1, column 4: a text is not closed"),
        ("é\né {{ 'x }}", "line 2, column 6: a text is not closed"),
        ("{# x", "line 1, column 1: a comment is not closed"),
        ("{{ }}", "line 1, column"),
        ("{{ name name }}", "line 1, column"),
        ("{{ (name }} {{ ) }}", "line 1, column"),
        ("{{ name| }}", "line 1, column"),
        ("{{ ? }}", "line 1, column"),
        ("{{ é }}", "line 1, column"),
        (
            "{% for x in name %}{% endfor %}",
            "line 1, column 1: a block is not allowed",
        ),
        (
            "a{% set x = 1 %}",
            "line 1, column 2: a block is not allowed",
        ),
        (
            "a{%- include 'x' %}",
            "line 1, column 2: a block is not allowed",
        ),
        ("{% macro x() %}{% endmacro %}", "a block is not allowed"),
        ("{% raw %}{{ x }}{% endraw %}", "a block is not allowed"),
        ("{%", "a block is not allowed"),
        (
            "{{ nam }}",
            "line 1, column 4: unknown variable `nam`; known are name, to, language, timezone, campaign",
        ),
        (
            "{{ name if nam }}",
            "line 1, column 12: unknown variable `nam`",
        ),
        (
            "{{ name|uper }}",
            "line 1, column 9: unknown filter `uper`; known are abs, ",
        ),
        (
            "{{ name | tojson }}",
            "line 1, column 11: unknown filter `tojson`",
        ),
        (
            "{{ name is lovely }}",
            "line 1, column 12: unknown test `lovely`",
        ),
        (
            "{{ range(9) }}",
            "line 1, column 4: `range` is not allowed: there are no functions",
        ),
        ("{{ namespace }}", "unknown variable `namespace`"),
        ("{{ debug() }}", "there are no functions"),
        ("{{ name.upper() }}", "line 1, column 8: `.` is not allowed"),
        ("{{ {'a': 1} }}", "line 1, column 4: `{` is not allowed"),
        ("{{ name|replace }}", "missing argument"),
        ("{{ name|upper(1, 2, 3) }}", "too many arguments"),
        ("{{ name - 1 }}", "line 1, column"),
        ("{{ 'x' * 1000000000 }}", "is too much work"),
        ("{{ name|round }}", "line 1, column"),
    ] {
        let error = text(template, &[("name", "Ana")]).expect_err(template);
        assert!(error.contains(said), "{template}: {error}");
    }
}

#[test]
fn what_can_only_fail_for_some_is_an_error_of_theirs_that_names_the_text() {
    let args = json!({"a": [{"b": "{{ n|int }}"}]});
    assert_eq!(render(&args, &[("n", "5")]), Ok(json!({"a": [{"b": "5"}]})));
    let error = render(&args, &[("n", "five")]).unwrap_err();
    assert!(error.starts_with("/a/0/b: "), "{error}");
    assert!(error.len() < 500, "{error}");
}

#[test]
fn work_and_size_are_bounded() {
    let long = "x".repeat(4096);
    let render = |args: &Json| render(args, &[("n", &long), ("w", "1")]).unwrap_err();
    // 65 × 4 KiB.
    let error = render(&json!("{{n}}".repeat(65)));
    assert_eq!(error, "become more than 256 KiB");
    let error = render(&json!(vec!["{{n}}"; 65]));
    assert_eq!(error, "become more than 256 KiB");
    // A filter that grows, on what it has grown.
    let error = render(&json!("{{ n|replace('x', n)|replace('x', n)|length }}"));
    assert!(error.ends_with("is too much work"), "{error}");
    let error = render(&json!(format!(
        "{{{{ ({})|length }}}}",
        ["n"; 90].join("~")
    )));
    assert!(error.ends_with("is too much work"), "{error}");
    // Each text is cheap, all of them are not.
    let error = render(&json!(vec![
        "{{ n|upper|lower|upper|lower|upper|lower|length }}";
        400
    ]));
    assert!(error.ends_with("is too much work"), "{error}");
    let error = render(&json!(vec!["{{w}}"; EXPRESSIONS_MAX + 1]));
    assert_eq!(error, "must have at most 500 expressions");
}

#[test]
fn depth_is_bounded() {
    let nested = |depth| (0..depth).fold(json!("{{to}}"), |inner, _| json!([inner]));
    assert!(render(&nested(TEMPLATE_NESTING_MAX), &[]).is_ok());
    let error = render(&nested(TEMPLATE_NESTING_MAX + 1), &[]).unwrap_err();
    assert!(error.contains("at most 100 levels"), "{error}");
    // In expressions, the engine stops.
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("-", ""),
        ("not ", ""),
        ("1 if ", ""),
    ] {
        for depth in [1_000, 20_000] {
            let deep = format!("{{{{ {}1{} }}}}", open.repeat(depth), close.repeat(depth));
            let _ = text(&deep, &[]);
        }
    }
    for chain in [
        "|d",
        "~1",
        "[:1]",
        " if 1 else 1",
        " and 1",
        " is defined",
        "==1",
        "-1",
    ] {
        let _ = text(&format!("{{{{ 1{} }}}}", chain.repeat(20_000)), &[]);
    }
}

#[test]
fn names_that_mean_something_are_no_variables() {
    for good in ["name", "Name", "_x", "a1", &"x".repeat(63)] {
        assert!(is_variable(good), "{good}");
    }
    for bad in [
        "",
        "to",
        "campaign",
        "channel",
        "if",
        "True",
        "1a",
        "a-b",
        "é",
        &"x".repeat(64),
    ] {
        assert!(!is_variable(bad), "{bad}");
    }
    // Any other name can be written.
    for name in [
        "loops",
        "range",
        "dict",
        "debug",
        "set",
        "for",
        "block",
        "upper",
        "recursive",
        "import",
        "with",
        "filter",
        "call",
        "defined",
    ] {
        assert_eq!(
            text(&format!("{{{{{name}}}}}"), &[(name, "x")]).as_deref(),
            Ok("x"),
            "{name}"
        );
    }
}

fn source() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "{{", "}}", "{%", "%}", "{#", "#}", "name", " ", "|", "upper", "(", ")", "[", "]", "'",
        "\"", "\\", "-", "~", "+", ":", ",", "1", "if", "else", "is", "not", "in", ".", "{", "}",
        "\n", "é", "=", "==", "default", "replace", "raw", "x", "0x", "1e9", "*", "**", "%", "/",
        "'a'",
    ]);
    prop_oneof![
        prop::collection::vec(parts.clone(), 0..20).prop_map(|parts| parts.concat()),
        prop::collection::vec(parts, 0..12).prop_map(|parts| format!("{{{{{}}}}}", parts.concat())),
        ".{0,30}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_template_is_refused_or_makes_a_text(source in source(), value in ".{0,12}") {
        if let Err(error) = text(&source, &[("name", &value)]) {
            prop_assert!(!error.contains(char::is_control), "{:?}", error);
        }
    }

    #[test]
    fn a_value_is_said_as_it_is(value in any::<String>()) {
        prop_assert_eq!(text("{{name}}", &[("name", &value)]), Ok(value));
    }

    #[test]
    fn a_text_without_marks_is_said_as_it_is(source in any::<String>()) {
        prop_assume!(!["{{", "{%", "{#"].iter().any(|mark| source.contains(mark)));
        prop_assert_eq!(text(&source, &[]), Ok(source));
    }
}
