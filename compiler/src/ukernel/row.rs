//! What kernels that work along an output row have in common: depthwise convolutions and pools.
//!
//! A leaf computes one output row, all channels: (`rdi` = addresses of the input rows under the window, `rsi` = constants,
//! `rdx` = first output pixel). The caller chooses the rows, and passes a row of cells that do not count where the
//! window leaves the input above or below; to the left and right the kernel knows the borders.

/// Geometry along a row of u8 pixels. The output may be a part of a row: `pad` is then less, or negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// Channels of input and output.
    pub channels: usize,
    /// Rows and columns of the window, at most [`MAX_KERNEL`] each.
    pub kernel: [usize; 2],
    /// Input columns from one output to the next.
    pub stride: usize,
    /// Columns from the first output's window to the input's first column.
    pub pad: isize,
    /// Pixels of an input row.
    pub width: usize,
    /// Pixels of the output.
    pub out_width: usize,
}

/// Largest window: rows are addressed by a register each.
pub const MAX_KERNEL: usize = 5;

impl Row {
    /// Whether an input column exists.
    pub const fn inside(&self, column: isize) -> bool {
        0 <= column && column < self.width as isize
    }
}

/// A range of channels that is computed in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub first: usize,
    /// Channels of a block.
    pub channels: usize,
    pub blocks: usize,
    /// Neighbouring outputs of a vector.
    pub pixels: usize,
}

/// The steps in which a kernel walks along the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Events {
    pub count: usize,
    /// Outputs from one event to the next.
    pub pixels: usize,
    /// Those that differ by their addresses only.
    pub uniform: std::ops::Range<usize>,
    /// Events after which registers play the same parts again.
    pub period: usize,
}
