//! Static libraries: a GNU `ar` archive with a symbol index, so that `cc app.c libm.a` links without `ranlib`.
use crate::{Code, Error, Result};
use ar_archive_writer::{ArchiveKind, DEFAULT_OBJECT_READER, NewArchiveMember, write_archive_to_stream};
use std::io::Cursor;

/// An archive of ELF objects: (member name, bytes). Dates and owners are 0, so the same objects give the same bytes.
///
/// # Errors
/// A member is not an object file.
pub fn build(objects: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let members: Vec<_> = objects
        .iter()
        .map(|(name, bytes)| NewArchiveMember::new(*bytes, &DEFAULT_OBJECT_READER, (*name).to_owned()))
        .collect();
    let mut archive = Cursor::new(Vec::new());
    write_archive_to_stream(&mut archive, &members, ArchiveKind::Gnu, false, None).map_err(|e| {
        Error::new(Code::INTERNAL, "cannot write the archive")
            .because(e.to_string())
            .help("this is a defect of goshawk: please report it; a shared library (-o libmodel.so) may do")
    })?;
    Ok(archive.into_inner())
}
