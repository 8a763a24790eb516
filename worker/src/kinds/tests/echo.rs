use super::{args, job};
use crate::kinds::echo::Echo;
use crate::{Handler, OnLost};

#[tokio::test]
async fn the_result_is_the_args_byte_for_byte() {
    for json in [
        "null",
        "[ 1.0, 1e5 ]",
        r#"{"b": "\u00e9", "a": 10000000000000000000000}"#,
    ] {
        let done = Echo.run(job(&Echo), args(json)).await.expect("done");
        assert_eq!(done.result(), Some(json));
    }
    assert_eq!(Echo.policy().on_lost, OnLost::Retry);
}
