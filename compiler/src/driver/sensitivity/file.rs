//! Profile files: `magic, version, length, payload, SHA-256 of the payload`; the payload is a protobuf message
//! ([`super::message`]).
//!
//! The frame exists because protobuf itself accepts many cut-off or foreign files. A file is read only if every byte is
//! there and unchanged; each other case is refused with its reason.
use super::{message, state::State};
use crate::{Code, Error, Result, artifact};
use goshawk_passes::sensitivity::{Profile, profile::VERSION};
use prost::Message;
use sha2::{Digest, Sha256};
use std::path::Path;

/// First bytes of every file. The line feeds catch transfers in text mode, as PNG's do.
const MAGIC: &[u8; 12] = b"goshawk-s\r\n\n";
/// Version of the frame and of the messages' meaning.
const FORMAT: u32 = 1;
/// Frame before the payload.
const HEAD: usize = MAGIC.len() + 4 + 8;
/// Bytes of the check sum.
const SUM: usize = 32;

/// A file's content: the profile, and what an unfinished run needs to go on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    /// The result so far.
    pub profile: Profile,
    /// `None` when the run is done.
    pub state: Option<State>,
}

/// The bytes of a file.
pub fn encode(content: &Content) -> Vec<u8> {
    let payload = message::FileMsg {
        profile: Some(message::profile_out(&content.profile)),
        state: content.state.as_ref().map(message::state_out),
    }
    .encode_to_vec();
    let mut bytes = Vec::with_capacity(HEAD + payload.len() + SUM);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes.extend_from_slice(&Sha256::digest(&payload));
    bytes
}

/// The content of a file's bytes.
///
/// # Errors
/// [`Code::DATA`] with the reason: not a profile, another version, cut off, damaged.
pub fn decode(bytes: &[u8]) -> Result<Content> {
    let refuse = |why: String| {
        Error::new(Code::DATA, "this is not a usable sensitivity profile")
            .because(why)
            .help("make it again: goshawk sensitivity MODEL --data DATA -o FILE")
    };
    if !bytes.starts_with(MAGIC) {
        return Err(refuse(match MAGIC.starts_with(bytes) {
            true => format!("it ends after {} bytes", bytes.len()),
            false => "it does not begin like one; a profile in JSON is read with --import".into(),
        }));
    }
    let cut = || refuse(format!("it is cut off: {} bytes are there", bytes.len()));
    let (_, rest) = bytes.split_at(MAGIC.len());
    let (format, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let format = u32::from_le_bytes(*format);
    if format != FORMAT {
        return Err(refuse(format!("its format is {format}, this goshawk reads {FORMAT}")));
    }
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let length = u64::from_le_bytes(*length);
    let whole = length.checked_add(SUM as u64);
    if whole != Some(rest.len() as u64) {
        let have = rest.len();
        return Err(refuse(format!(
            "it should have {} bytes behind its head and has {have}: it is cut off or damaged",
            whole.map_or_else(|| "too many".into(), |w| w.to_string())
        )));
    }
    let (payload, sum) = rest.split_at(rest.len() - SUM);
    if Sha256::digest(payload)[..] != *sum {
        return Err(refuse("its check sum does not fit its content: it is damaged".into()));
    }
    let message = message::FileMsg::decode(payload).map_err(|e| refuse(e.to_string()))?;
    let profile = message::profile_in(message.profile.unwrap_or_default()).map_err(refuse)?;
    if profile.version != VERSION {
        return Err(refuse(format!("its version is {}, this goshawk reads {VERSION}", profile.version)));
    }
    let state = message.state.map(message::state_in).transpose().map_err(refuse)?;
    Ok(Content { profile, state })
}

/// Reads a file; it must belong to the model with this hash, if one is given.
///
/// # Errors
/// [`Code::FILE`] where it cannot be read, [`Code::DATA`] as [`decode`] and where it belongs to another model.
pub fn read(path: &Path, model_sha256: Option<&str>) -> Result<Content> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, "read", &e))?;
    let content = decode(&bytes).map_err(|e| e.in_file(path))?;
    check_model(&content.profile, model_sha256).map_err(|e| e.in_file(path))?;
    Ok(content)
}

/// Refuses a profile of another model. Imported profiles may not know their model.
///
/// # Errors
/// [`Code::DATA`].
pub fn check_model(profile: &Profile, model_sha256: Option<&str>) -> Result<()> {
    match model_sha256 {
        Some(wanted) if !profile.model_sha256.is_empty() && profile.model_sha256 != wanted => {
            Err(Error::new(Code::DATA, "the sensitivity profile belongs to another model")
                .because(format!(
                    "it was made from the model with hash {}, this one has {wanted}",
                    profile.model_sha256
                ))
                .help("make one of this model: goshawk sensitivity MODEL --data DATA -o FILE"))
        }
        _ => Ok(()),
    }
}

/// Reads a finished profile of the model with this hash.
///
/// # Errors
/// As [`read`], and [`Code::DATA`] where the run that wrote it was interrupted.
pub fn load(path: &Path, model_sha256: Option<&str>) -> Result<Profile> {
    let content = read(path, model_sha256)?;
    match content.state {
        None => Ok(content.profile),
        Some(_) => Err(Error::new(Code::DATA, "the sensitivity profile is not finished")
            .at(path.display().to_string())
            .because("the run that writes it was interrupted")
            .help("run the same `goshawk sensitivity` command again: it goes on where it stopped")),
    }
}

/// Writes a file, whole or not at all.
///
/// # Errors
/// [`Code::FILE`].
pub fn write(path: &Path, content: &Content) -> Result<()> {
    artifact::write_atomic(path, &encode(content))
}

/// Writes a finished profile.
///
/// # Errors
/// [`Code::FILE`].
pub fn save(path: &Path, profile: &Profile) -> Result<()> {
    write(path, &Content { profile: profile.clone(), state: None })
}

#[cfg(test)]
pub(super) mod tests;
