//! Artefacts: object, archive, shared library, C header, manifest; written atomically.
