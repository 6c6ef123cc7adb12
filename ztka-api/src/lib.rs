//! REST wire types and typed client.
