//! The proxy as a library: accepts users, serves the access stack, splices upgrades.
