//! The info block: what a compiled library says about itself, one position-independent object in `.rodata`.
//!
//! Layout: [`ModelRecord`], input records, output records, level records, manifest and a NUL, padded to 8 bytes. Little-endian, as all
//! targets are.
use super::network::{Network, PortFacts};
use crate::{Code, Error, Result};
use goshawk_ir::DType;
use goshawk_runtime::abi::{ABI_VERSION, ARENA_ALIGN, LevelRecord, MAX_RANK, ModelRecord, TensorRecord};
use std::mem::{offset_of, size_of};

/// Where the stack bound is: it is known only when the code is there.
const STACK_BYTES: usize = offset_of!(ModelRecord, stack_bytes);
const MODEL: usize = size_of::<ModelRecord>();
const TENSOR: usize = size_of::<TensorRecord>();
const LEVEL: usize = size_of::<LevelRecord>();

/// The info block of a network, its stack bound still 0: see [`set_stack_bytes`].
///
/// # Errors
/// The manifest is too large.
pub fn block(network: &Network, manifest: &str) -> Result<Vec<u8>> {
    let outputs = MODEL + TENSOR * network.inputs.len();
    let levels = outputs + TENSOR * network.outputs.len();
    let json = levels + LEVEL * network.origin.levels.len();
    let size = (json + manifest.len() + 1).next_multiple_of(8);
    let number = |value: usize| {
        u32::try_from(value)
            .map_err(|_| Error::new(Code::INTERNAL, "the description of the network exceeds 4 GiB"))
    };
    number(size)?;
    let mut b = Block(vec![0; size]);
    b.u32(offset_of!(ModelRecord, struct_size), number(MODEL)?);
    b.u32(offset_of!(ModelRecord, abi_version), ABI_VERSION);
    b.put(offset_of!(ModelRecord, arena_bytes), &(network.origin.arena_bytes as u64).to_le_bytes());
    b.u32(offset_of!(ModelRecord, arena_align), number(ARENA_ALIGN)?);
    b.u32(offset_of!(ModelRecord, input_count), number(network.inputs.len())?);
    b.u32(offset_of!(ModelRecord, output_count), number(network.outputs.len())?);
    b.u32(offset_of!(ModelRecord, tensor_size), number(TENSOR)?);
    b.u32(offset_of!(ModelRecord, inputs_offset), number(MODEL)?);
    b.u32(offset_of!(ModelRecord, outputs_offset), number(outputs)?);
    b.u32(offset_of!(ModelRecord, json_offset), number(json)?);
    b.u32(offset_of!(ModelRecord, json_bytes), number(manifest.len())?);
    b.u32(offset_of!(ModelRecord, level_count), number(network.origin.levels.len())?);
    b.u32(offset_of!(ModelRecord, level_size), number(LEVEL)?);
    b.u32(offset_of!(ModelRecord, levels_offset), number(levels)?);
    b.text(offset_of!(ModelRecord, name), 64, &network.name);
    b.text(offset_of!(ModelRecord, isa), 256, network.origin.isa());
    b.text(offset_of!(ModelRecord, model_sha256), 65, &network.origin.model_sha256);
    for (i, port) in network.inputs.iter().chain(&network.outputs).enumerate() {
        b.tensor(MODEL + i * TENSOR, port);
    }
    for (i, isa) in network.origin.levels.iter().enumerate() {
        let at = levels + i * LEVEL;
        b.u32(at + offset_of!(LevelRecord, struct_size), number(LEVEL)?);
        b.text(at + offset_of!(LevelRecord, isa), 256, isa);
    }
    b.put(json, manifest.as_bytes());
    Ok(b.0)
}

/// Enters the stack bound into a block made by [`block`].
pub fn set_stack_bytes(block: &mut [u8], stack_bytes: u32) {
    block[STACK_BYTES..STACK_BYTES + 4].copy_from_slice(&stack_bytes.to_le_bytes());
}

struct Block(Vec<u8>);

impl Block {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    /// Text in a field of `size` bytes, cut at a character boundary so that a NUL fits.
    fn text(&mut self, at: usize, size: usize, text: &str) {
        self.put(at, &text.as_bytes()[..text.floor_char_boundary(size - 1)]);
    }

    fn tensor(&mut self, at: usize, port: &PortFacts) {
        let dtype: i32 = match port.dtype {
            DType::F32 => 0,
            DType::I32 => 1,
            DType::I16 => 2,
            DType::I8 | DType::I4 => 3,
            DType::U8 | DType::U4 => 4,
        };
        self.u32(at + offset_of!(TensorRecord, struct_size), TENSOR as u32);
        self.put(at + offset_of!(TensorRecord, dtype), &dtype.to_le_bytes());
        self.put(at + offset_of!(TensorRecord, zero_point), &port.zero_point.to_le_bytes());
        self.put(at + offset_of!(TensorRecord, scale), &port.scale.to_le_bytes());
        self.u32(at + offset_of!(TensorRecord, bits), u32::from(port.bits));
        self.u32(at + offset_of!(TensorRecord, rank), port.dims.len() as u32);
        self.u32(at + offset_of!(TensorRecord, f32_rank), port.f32_dims.len() as u32);
        for (dims, offset) in [
            (&port.dims, offset_of!(TensorRecord, dims)),
            (&port.f32_dims, offset_of!(TensorRecord, f32_dims)),
        ] {
            for (i, d) in dims.iter().take(MAX_RANK).enumerate() {
                self.put(at + offset + 8 * i, &(*d as i64).to_le_bytes());
            }
        }
        self.text(at + offset_of!(TensorRecord, name), 128, &port.name);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::network::tests::sample, *};

    #[test]
    fn long_names_are_cut_between_characters_and_terminated() {
        let mut network = sample();
        network.name = "é".repeat(40);
        let bytes = block(&network, "{}").expect("fits");
        let name = &bytes[offset_of!(ModelRecord, name)..][..64];
        assert_eq!(name[..62], *"é".repeat(31).as_bytes());
        assert_eq!(name[62..], [0, 0]);
    }

    #[test]
    fn the_manifest_ends_the_block() {
        let mut bytes = block(&sample(), "{\"a\":1}").expect("fits");
        set_stack_bytes(&mut bytes, 0x1234);
        assert_eq!(bytes[STACK_BYTES..STACK_BYTES + 4], [0x34, 0x12, 0, 0]);
        assert_eq!(bytes.len() % 8, 0);
        let json = MODEL + 2 * TENSOR + LEVEL;
        assert_eq!(bytes[json..json + 8], *b"{\"a\":1}\0");
    }
}
