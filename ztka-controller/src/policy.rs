//! Policy as a whole: what is written down, who may change what of it, and how it was.

mod change;
mod edits;
mod grants;
mod known;
mod offices;
mod written;

pub(crate) use self::{
    change::{Changed, Expecting},
    edits::{diff, put},
    known::{Known, KnownPolicies},
    offices::{Offices, Reach},
    written::check,
};
