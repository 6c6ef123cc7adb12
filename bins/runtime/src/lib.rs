//! Configuration, telemetry, signals and health of every server process.
