//! Code generation: [`goshawk_ir::IntGraph`] → machine code, through Cranelift.
