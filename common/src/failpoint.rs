//! Named places where a test can make a process die, so that what is repaired afterwards can be
//! looked at for every step. Compiled out of release builds: [`failpoint!`](crate::failpoint!) is
//! nothing there.
//!
//! `POSTROAD_FAILPOINT=<name>:<action>@<hit>`, for one process:
//!
//! | part | |
//! |---|---|
//! | action | `abort` ends the process at once, as SIGKILL would; `stop` suspends it until SIGCONT |
//! | hit | a number from 1; or `armed`: the first one after the file named by `POSTROAD_FAILPOINT_ARMED` exists |
//!
//! The points, and what must hold after a death at each, are the table in
//! `tests/chaos/src/crash/points.rs`; a test holds the two together.

/// A place where a test can make the process die. Nothing in a release build.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        $crate::failpoint::hit($name);
    };
}

#[cfg(debug_assertions)]
pub use debug::hit;

#[cfg(debug_assertions)]
mod debug {
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::config::Env;

    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| Plan::read(&Env::of_process()));

    /// Called where a `failpoint!` is passed.
    pub fn hit(name: &'static str) {
        if let Some(plan) = PLAN.as_ref()
            && plan.fires_at(name)
        {
            plan.action.take(name);
        }
    }

    struct Plan {
        name: String,
        action: Action,
        hit: Hit,
        count: AtomicU64,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Abort,
        Stop,
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Hit {
        Nth(u64),
        /// Once this file exists.
        Armed(PathBuf),
    }

    impl Plan {
        /// # Panics
        ///
        /// When the plan cannot be read: a test that breaks nothing would pass.
        fn read(env: &Env) -> Option<Self> {
            let text = env.text("POSTROAD_FAILPOINT")?;
            let plan = Self::parse(text, env.text("POSTROAD_FAILPOINT_ARMED"));
            Some(plan.unwrap_or_else(|| panic!("POSTROAD_FAILPOINT is not a plan: `{text}`")))
        }

        fn parse(text: &str, armed: Option<&str>) -> Option<Self> {
            let (name, rest) = text.split_once(':')?;
            let (action, hit) = rest.split_once('@')?;
            Some(Self {
                name: name.to_owned(),
                action: match action {
                    "abort" => Action::Abort,
                    "stop" => Action::Stop,
                    _ => return None,
                },
                hit: match hit {
                    "armed" => Hit::Armed(armed?.into()),
                    number => Hit::Nth(number.parse().ok()?),
                },
                count: AtomicU64::new(0),
            })
        }

        fn fires_at(&self, name: &str) -> bool {
            if self.name != name {
                return false;
            }
            let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
            match &self.hit {
                Hit::Nth(nth) => count == *nth,
                Hit::Armed(file) => file.exists(),
            }
        }
    }

    impl Action {
        fn take(self, name: &str) {
            eprintln!("failpoint {name}: {self:?}");
            match self {
                Self::Abort => std::process::abort(),
                Self::Stop => stop(),
            }
        }
    }

    /// Suspends the whole process; returns after SIGCONT.
    fn stop() {
        let pid = std::process::id().to_string();
        let status = std::process::Command::new("kill")
            .args(["-STOP", &pid])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "stopping process {pid}"
        );
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_plan_fires_at_its_hit_and_only_at_its_point() {
            let plan = Plan::parse("gate.granted:abort@2", None).unwrap();
            let hits = ["gate.granted", "other", "gate.granted", "gate.granted"];
            assert_eq!(
                hits.map(|name| plan.fires_at(name)),
                [false, false, true, false]
            );
        }

        #[test]
        fn an_armed_plan_waits_for_its_file() {
            let file = std::env::temp_dir().join(format!("failpoint-{}", std::process::id()));
            let plan = Plan::parse("x:stop@armed", file.to_str()).unwrap();
            assert!(!plan.fires_at("x"));
            std::fs::write(&file, "").unwrap();
            assert!(plan.fires_at("x"));
            std::fs::remove_file(&file).unwrap();
        }

        #[test]
        fn what_is_no_plan_is_refused() {
            for text in [
                "",
                "x",
                "x:abort",
                "x:die@1",
                "x:abort@first",
                "x:abort@armed",
            ] {
                assert!(Plan::parse(text, None).is_none(), "{text}");
            }
        }
    }
}
