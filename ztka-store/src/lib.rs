//! The store traits of the other crates over SQLite.
