//! Campaigns: one message, in several languages and on several channels, for as many recipients as
//! there are. Pure: no tokio, no SQL, no AMQP, no clock.
//!
//! | | |
//! |---|---|
//! | [`AddressKind`] | addresses, checked and brought into the one form in which they are compared |
//! | [`Reachable`] | when a recipient may be reached, in their own time |
//! | [`child_id`] | the id of the job for a recipient: the same one however often it is made |

mod address;
mod child;
mod language;
mod problem;
mod window;

pub use address::{ADDRESS_BYTES_MAX, AddressKind, Country, InvalidAddress, InvalidCountry};
pub use child::child_id;
pub use language::{InvalidLanguage, LANGUAGE_BYTES_MAX, Language};
pub use problem::{PROBLEMS_MAX, Problem};
pub use window::{Reach, Reachable};
