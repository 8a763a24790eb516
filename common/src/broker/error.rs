//! What can go wrong with the broker, by what it means for the caller.

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::config::ConfigError;

/// A call to the broker that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker refused, or the connection broke.
    #[error("{operation}: {source}")]
    Call {
        /// What was being done.
        operation: &'static str,
        /// What lapin said.
        source: lapin::Error,
    },
    /// The broker did not answer in time.
    #[error("{operation}: RabbitMQ did not answer in time")]
    Timeout {
        /// What was being done.
        operation: &'static str,
    },
    /// A stream of deliveries ended: the consumer was cancelled, or its channel is gone.
    #[error("the broker stopped delivering from {queue}")]
    DeliveriesEnded {
        /// From which queue.
        queue: String,
    },
    /// TLS cannot be set up on this machine.
    #[error("preparing TLS: {0}")]
    Tls(String),
}

impl Error {
    /// What is wrong with the configuration, if trying again cannot help: a refused user or
    /// password, or a vhost that is not there.
    pub fn as_config_error(&self) -> Option<ConfigError> {
        let text = self.to_string();
        let hint = match self.amqp_kind()? {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                "was refused by RabbitMQ: check user, password and permissions on the vhost"
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                "names a vhost that does not exist or that this user may not enter"
            }
            _ => return None,
        };
        Some(ConfigError::of("AMQP_URL", format_args!("{hint} ({text})")))
    }

    /// The user has no permission for this one operation.
    pub(super) fn is_access_refused(&self) -> bool {
        matches!(
            self.amqp_kind(),
            Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED))
        )
    }

    /// It exists already, with other arguments.
    pub(super) fn is_precondition_failed(&self) -> bool {
        matches!(
            self.amqp_kind(),
            Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED))
        )
    }

    /// There is no such exchange or queue.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(
            self.amqp_kind(),
            Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
        )
    }

    fn amqp_kind(&self) -> Option<&AMQPErrorKind> {
        match self {
            Self::Call { source, .. } => match source.kind() {
                ErrorKind::ProtocolError(error) => Some(error.kind()),
                _ => None,
            },
            _ => None,
        }
    }
}
