//! The agent as a library: checks again, acts as a just-in-time account, forwards.
