//! Private PKI of ZTKA: CAs, enrolment, rotation, TLS configurations, verified peers.
