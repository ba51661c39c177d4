//! Helpers shared by goshawk's integration tests.
