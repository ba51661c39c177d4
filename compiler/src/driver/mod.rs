//! The stages strung together: compile, evaluate, compare, bench.
