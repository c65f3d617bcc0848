//! Schedules and samplers: pure arithmetic, one algorithm a file.
