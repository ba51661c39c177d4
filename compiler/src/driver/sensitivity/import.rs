//! Profiles of other tools, fitted to a model.
use super::{file, json, run};
use crate::{Code, Error, Result, driver::model::Model};
use goshawk_passes::sensitivity::{LayerProfile, Profile, layers};
use std::path::Path;

/// Reads a profile in JSON and completes it with what the model knows of its layers.
///
/// # Errors
/// [`Code::FILE`] or [`Code::DATA`]: damaged, of another model, or with layers that the model does not have.
pub fn load(path: &Path, model: &Model) -> Result<Profile> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, "read", &e))?;
    json::parse(&text).and_then(|p| fit(p, model)).map_err(|e| e.in_file(path))
}

fn fit(mut profile: Profile, model: &Model) -> Result<Profile> {
    file::check_model(&profile, Some(&model.sha256))?;
    let layers = layers::all(&model.graph).map_err(|e| Error::internal(&e))?;
    let mut described = run::describe(&model.graph, &layers);
    for layer in profile.layers {
        let own = described.iter_mut().find(|l| l.name == layer.name);
        let Some(own) = own else {
            let some: Vec<_> = layers.iter().map(|l| l.name.as_str()).take(5).collect();
            return Err(Error::new(Code::DATA, format!("the model has no layer {}", layer.name)).help(format!(
                "layers are named by their result tensor: {} … (`goshawk inspect MODEL --bits-template -` lists them)",
                some.join(", ")
            )));
        };
        for (what, theirs, ours) in [
            ("weights", layer.parameters, own.parameters),
            ("elements read", layer.input_elements, own.input_elements),
        ] {
            if theirs != 0 && theirs != ours {
                return Err(Error::new(
                    Code::DATA,
                    format!("layer {} has {ours} {what}, the profile says {theirs}", layer.name),
                ));
            }
        }
        let (parameters, macs, input, input_elements) =
            (own.parameters, own.macs, std::mem::take(&mut own.input), own.input_elements);
        *own = LayerProfile { parameters, macs, input, input_elements, ..layer };
    }
    profile.layers = described;
    profile.model_sha256.clone_from(&model.sha256);
    Ok(profile)
}
