//! Users, groups, credentials and login sessions.
