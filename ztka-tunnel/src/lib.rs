//! Reverse HTTP/2 tunnel: agents dial out, requests go in through them.
