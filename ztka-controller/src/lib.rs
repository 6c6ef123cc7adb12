//! The controller as a library: documents, change feed, enrolment, REST.
