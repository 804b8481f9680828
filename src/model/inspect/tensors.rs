//! A model's tensors, those of all layers taken together.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::model::hub::shards::Shards;
use crate::quant::bnb;

/// All tensors of a model's files.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tensors {
    pub files: usize,
    /// Of the files, their headers included.
    pub file_bytes: u64,
    pub count: usize,
    /// Weights' elements; a 4-bit weight has two in a byte, its scales are none.
    pub parameters: u64,
    /// By type, the largest first.
    pub dtypes: Vec<Dtype>,
    /// Tensors that differ in nothing but their layer, as one.
    pub groups: Vec<Group>,
}

/// What there is of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dtype {
    /// `BF16`, `Q4_K`, or `4 bits (bitsandbytes)` for the packed weights of a quantised model.
    pub dtype: String,
    pub tensors: usize,
    pub parameters: u64,
    pub bytes: u64,
}

/// One tensor of each layer, or one alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// `model.layers.*.self_attn.q_proj.weight`.
    pub name: String,
    pub tensors: usize,
    /// Every shape that occurs.
    pub shapes: Vec<Vec<usize>>,
    /// Every type that occurs.
    pub dtypes: Vec<String>,
    pub parameters: u64,
    pub bytes: u64,
}

/// One tensor, as both formats have it.
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    parameters: u64,
    bytes: u64,
}

/// What occurs in a group.
#[derive(Default)]
struct Kinds {
    shapes: BTreeSet<Vec<usize>>,
    dtypes: BTreeSet<String>,
}

impl Tensors {
    pub(super) fn of_shards(shards: &Shards) -> Self {
        let tensors = shards.names().filter_map(|name| {
            let raw = shards.get(name)?;
            // The scales of a 4-bit weight stand beside it, under its name.
            let packed = shards.get(&format!("{name}.absmax")).is_some();
            let companion = bnb::COMPANIONS.iter().any(|suffix| {
                name.strip_suffix(suffix)
                    .and_then(|rest| rest.strip_suffix('.'))
                    .is_some_and(|weight| shards.get(weight).is_some())
            });
            let (dtype, parameters) = match (packed, companion) {
                (true, _) => ("4 bits (bitsandbytes)".to_string(), 2 * raw.data.len() as u64),
                (_, true) => ("scales of 4-bit weights".to_string(), 0),
                _ => (format!("{:?}", raw.dtype), elements(&raw.shape)),
            };
            let bytes = raw.data.len() as u64;
            Some(Tensor { name: name.into(), dtype, shape: raw.shape.clone(), parameters, bytes })
        });
        let bytes = shards.files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        Self::of(shards.files.len(), bytes, tensors)
    }

    #[cfg(feature = "gguf")]
    pub(super) fn of_gguf(gguf: &crate::model::gguf::Gguf) -> Self {
        use crate::model::gguf::header::TYPES;

        let dtype = |kind: u32| TYPES.iter().find(|t| t.0 == kind).map_or("?", |t| t.1);
        let tensors = gguf.tensors.iter().map(|(name, info)| Tensor {
            name: name.clone(),
            dtype: dtype(info.kind).into(),
            shape: info.shape.clone(),
            parameters: elements(&info.shape),
            bytes: info.data.len() as u64,
        });
        let bytes = std::fs::metadata(&gguf.path).map_or(0, |metadata| metadata.len());
        Self::of(1, bytes, tensors)
    }

    fn of(files: usize, file_bytes: u64, tensors: impl Iterator<Item = Tensor>) -> Self {
        let mut all = Self { files, file_bytes, ..Self::default() };
        let mut dtypes: BTreeMap<String, Dtype> = BTreeMap::new();
        let mut groups: BTreeMap<String, (Group, Kinds)> = BTreeMap::new();
        for Tensor { name, dtype, shape, parameters, bytes } in tensors {
            all.count += 1;
            all.parameters += parameters;
            let none = Dtype { dtype: dtype.clone(), tensors: 0, parameters: 0, bytes: 0 };
            let of_type = dtypes.entry(dtype.clone()).or_insert(none);
            of_type.tensors += 1;
            of_type.parameters += parameters;
            of_type.bytes += bytes;
            let name = without_layer(&name);
            let (group, kinds) = groups.entry(name.clone()).or_insert_with(|| {
                let (shapes, dtypes) = (Vec::new(), Vec::new());
                let none = Group { name, tensors: 0, shapes, dtypes, parameters: 0, bytes: 0 };
                (none, Kinds::default())
            });
            group.tensors += 1;
            group.parameters += parameters;
            group.bytes += bytes;
            kinds.shapes.insert(shape);
            kinds.dtypes.insert(dtype);
        }
        all.dtypes = dtypes.into_values().collect();
        all.dtypes.sort_by_key(|dtype| std::cmp::Reverse(dtype.bytes));
        let listed = |(group, kinds): (Group, Kinds)| Group {
            shapes: kinds.shapes.into_iter().collect(),
            dtypes: kinds.dtypes.into_iter().collect(),
            ..group
        };
        all.groups = groups.into_values().map(listed).collect();
        all
    }
}

/// A shape in a file that was checked has a product.
fn elements(shape: &[usize]) -> u64 {
    shape.iter().map(|&dim| dim as u64).product()
}

/// `model.layers.12.mlp` is `model.layers.*.mlp`.
fn without_layer(name: &str) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = name.split('.').map(|p| if number(p) { "*" } else { p }).collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_one_group() {
        let tensor = |name: &str, rows: usize| Tensor {
            name: name.into(),
            dtype: if rows > 4 { "BF16" } else { "F32" }.into(),
            shape: vec![rows, 2],
            parameters: 2 * rows as u64,
            bytes: 4 * rows as u64,
        };
        let tensors = [
            tensor("model.layers.0.mlp.up_proj.weight", 8),
            tensor("model.layers.11.mlp.up_proj.weight", 8),
            tensor("model.layers.2.mlp.up_proj.weight", 4),
            tensor("model.norm.weight", 4),
        ];
        let all = Tensors::of(1, 99, tensors.into_iter());
        assert_eq!((all.count, all.parameters, all.file_bytes), (4, 48, 99));
        let up = &all.groups[0];
        assert_eq!((up.name.as_str(), up.tensors), ("model.layers.*.mlp.up_proj.weight", 3));
        assert_eq!(up.shapes, [[4, 2], [8, 2]]);
        assert_eq!(up.dtypes, ["BF16", "F32"]);
        assert_eq!(all.groups[1].name, "model.norm.weight");
        let dtypes: Vec<(&str, usize)> =
            all.dtypes.iter().map(|d| (d.dtype.as_str(), d.tensors)).collect();
        assert_eq!(dtypes, [("BF16", 2), ("F32", 2)]);
    }
}
