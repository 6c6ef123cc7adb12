//! Audit of ZTKA: event, layer, spool, receipts, sinks.
