//! Environments as a deployment may set them.

use proptest::prelude::*;

use super::*;

const SECRET: &str = "S3CRET";

const OPEN: [&str; 7] = [
    "POSTROAD_ADMIN_LISTEN",
    "POSTROAD_LEASE",
    "POSTROAD_GRACE",
    "POSTROAD_RETENTION",
    "POSTROAD_BUNDLE",
    "POSTROAD_SHARED_PIPE",
    "POSTROAD_LOG_FORMAT",
];

fn open_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "(?s).{0,30}",
        "[0-9]{1,20}(ms|s|m|h|d)?",
        "[0-9.:\\[\\]]{1,20}",
        "[a-z0-9_:=,\\[\\]{}/\"]{0,30}",
    ]
}

/// URLs, and what becomes of them when a character of the password was not escaped.
fn secret_url() -> impl Strategy<Value = String> {
    let before = "(postgres|postgresql|amqp|amqps|http|x)?:?/{0,3}[a-z]{0,5}:?[!-~]{0,4}|host=x password=|[!-~]{0,10}";
    let after = "[!-~]{0,4}@?[a-z0-9.\\[\\]]{0,8}(:[0-9a-z]{0,6})?(/[a-z%]{0,5}){0,2}(\\?[a-z_=&0-9]{0,30})?|(?s).{0,10}";
    (before, after).prop_map(|(before, after)| format!("{before}{SECRET}{after}"))
}

proptest! {
    #[test]
    fn any_environment_is_a_configuration_or_a_list_of_its_problems(
        open in proptest::collection::btree_map(prop::sample::select(&OPEN[..]), open_text(), 0..5),
        log in prop::option::of(open_text()),
        database in prop::option::of(secret_url()),
        broker in prop::option::of(secret_url()),
    ) {
        let secret = [("DATABASE_URL", database), ("AMQP_URL", broker), ("POSTROAD_LOG", log)];
        let secret = secret.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let open = open.iter().map(|(name, value)| (*name, value.as_str()));
        let names: Vec<_> = open.clone().chain(secret.clone()).map(|(name, _)| name).collect();
        if let Err(error) = Config::read(Env::of_map(open.chain(secret))) {
            let text = error.to_string();
            prop_assert!(!text.contains(SECRET), "{text}");
            for line in text.lines().skip(1) {
                let name = names.iter().find(|name| line.starts_with(&format!("  {name} ")));
                prop_assert!(name.is_some(), "{line:?}");
            }
        }
    }

    #[test]
    fn a_configuration_that_is_printed_has_no_passwords(around in "[a-z0-9._~!$&'()*+,;=-]{0,8}") {
        let password = format!("{around}{SECRET}{around}");
        let urls = ["postgres", "amqp"].map(|scheme| format!("{scheme}://user:{password}@host/name"));
        let env = Env::of_map([("DATABASE_URL", urls[0].as_str()), ("AMQP_URL", &urls[1])]);
        let printed = format!("{:?}", Config::read(env).expect("URLs as they should be"));
        prop_assert!(!printed.contains(SECRET), "{printed}");
    }
}
