//! Sliding windows: what convolutions and pools share.
use crate::{Result, attributes, ensure};

attributes! {
    /// Geometry of a convolution. Padding cells hold real 0 (the zero point).
    pub struct ConvWindow {
        /// Step in rows and columns.
        pub stride: [usize; 2],
        /// Padding: top, left, bottom, right.
        pub pads: [usize; 4],
        /// Distance of taps in rows and columns.
        pub dilation: [usize; 2],
        /// Input and output channels split into this many independent groups.
        pub groups: usize,
    }
}

attributes! {
    /// Geometry of a pool.
    pub struct PoolWindow {
        /// Rows and columns of the window.
        pub kernel: [usize; 2],
        /// Step in rows and columns.
        pub stride: [usize; 2],
        /// Padding: top, left, bottom, right. Padding cells never win a maximum.
        pub pads: [usize; 4],
        /// Distance of taps in rows and columns.
        pub dilation: [usize; 2],
        /// Whether a last partial window gets an output (ONNX `ceil_mode`). A window that would start in the
        /// bottom or right padding or beyond is dropped.
        pub ceil_mode: bool,
        /// Average pools: whether padding cells count in the divisor. Cells beyond the padding (from `ceil_mode`)
        /// never do.
        pub count_include_pad: bool,
    }
}

/// Output length along one axis.
///
/// # Errors
/// A stride, dilation or kernel of 0, or a window larger than the padded input.
pub fn out_len(
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    (before, after): (usize, usize),
    ceil_mode: bool,
) -> Result<usize> {
    ensure!(kernel > 0 && stride > 0 && dilation > 0, "kernel, stride and dilation must be positive");
    let limit = 1 << 30;
    ensure!(
        kernel <= limit && stride <= limit && dilation <= limit,
        "kernel, stride or dilation is above {limit}"
    );
    ensure!(before <= limit && after <= limit, "padding is above {limit}");
    let extent = match (kernel - 1).checked_mul(dilation) {
        Some(e) => e + 1,
        None => crate::bail!("kernel {kernel} with dilation {dilation} is too large"),
    };
    let padded = input + before + after;
    ensure!(extent <= padded, "window of {extent} is larger than the padded input of {padded}");
    let span = padded - extent;
    if !ceil_mode {
        return Ok(span / stride + 1);
    }
    let len = span.div_ceil(stride) + 1;
    // The last window must start inside the input or the leading padding.
    Ok(if (len - 1) * stride >= input + before { len - 1 } else { len })
}

impl ConvWindow {
    /// Stride 1, no padding, one group.
    pub const fn unit() -> Self {
        Self { stride: [1, 1], pads: [0; 4], dilation: [1, 1], groups: 1 }
    }

    /// Output rows and columns.
    ///
    /// # Errors
    /// As [`out_len`].
    pub fn out_size(&self, input: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 2]> {
        let [t, l, b, r] = self.pads;
        Ok([
            out_len(input[0], kernel[0], self.stride[0], self.dilation[0], (t, b), false)?,
            out_len(input[1], kernel[1], self.stride[1], self.dilation[1], (l, r), false)?,
        ])
    }
}

impl PoolWindow {
    /// The whole plane as one window.
    pub const fn global(rows: usize, columns: usize) -> Self {
        Self {
            kernel: [rows, columns],
            stride: [1, 1],
            pads: [0; 4],
            dilation: [1, 1],
            ceil_mode: false,
            count_include_pad: false,
        }
    }

    /// Output rows and columns.
    ///
    /// # Errors
    /// As [`out_len`].
    pub fn out_size(&self, input: [usize; 2]) -> Result<[usize; 2]> {
        let [t, l, b, r] = self.pads;
        let axis = |i: usize, pads| {
            out_len(input[i], self.kernel[i], self.stride[i], self.dilation[i], pads, self.ceil_mode)
        };
        Ok([axis(0, (t, b))?, axis(1, (l, r))?])
    }

    /// Taps of the window of output `out` along `axis`: (input indices inside the input, number of cells that count
    /// in the divisor of an average).
    pub fn taps(&self, axis: usize, out: usize, input: usize) -> (Vec<usize>, usize) {
        let (before, after) = (self.pads[axis], self.pads[axis + 2]);
        let start = out * self.stride[axis];
        let cells = (0..self.kernel[axis]).map(|k| start + k * self.dilation[axis]);
        let inside: Vec<usize> =
            cells.clone().filter(|c| (before..before + input).contains(c)).map(|c| c - before).collect();
        let padded = cells.filter(|c| *c < before + input + after).count();
        let counted = if self.count_include_pad { padded } else { inside.len() };
        (inside, counted)
    }
}
