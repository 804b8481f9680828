//! Where a model's adapters lie: in the flat f32 parameters, and in the working copy in `E`.
//!
//! The working copy is what the ops multiply with: rank padded with zeros to a multiple of 16, the
//! A's of linears that share an input stacked. It is written anew after each update.

use std::collections::HashMap;

use super::config::{Linear, LlamaConfig};
use super::program::Group;
use crate::adapter::{Adapter, LoraModule};
use crate::device::cpu::Element;
use crate::ops::lora_grad::Part;

/// Ranks are padded to a multiple of this.
const RANK: usize = 16;

/// An adapter names a module that the model does not have, or has in another shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("the adapter has {path}, which is not a linear of this model")]
    UnknownModule { path: String },
    #[error(
        "the adapter's {path} is {got_out} x {got_in}, the model's linear is {want_out} x {want_in}"
    )]
    Shape { path: String, got_out: usize, got_in: usize, want_out: usize, want_in: usize },
}

/// One adapted linear.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// First column of V and U in the group's stack.
    pub column: usize,
    /// True rank.
    pub r: usize,
    /// B `[out, r_padded]` in the working copy.
    b: usize,
    /// Offsets of A and B in the flat parameters (and gradients).
    module: LoraModule,
}

/// The adapters of one group of one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupLayout {
    /// Columns of V and U: the padded ranks together.
    pub columns: usize,
    /// The stacked A `[columns, in]` in the working copy.
    a: usize,
    slots: Vec<(Linear, Slot)>,
}

impl GroupLayout {
    /// The slot of a linear, if it is adapted.
    pub fn slot(&self, linear: Linear) -> Option<&Slot> {
        self.slots.iter().find(|(l, _)| *l == linear).map(|(_, slot)| slot)
    }

    /// Where the group's dA's go in the flat gradients.
    pub fn a_parts(&self) -> impl Iterator<Item = Part> + Clone {
        self.slots.iter().map(|(_, slot)| Part {
            column: slot.column,
            r: slot.r,
            offset: slot.module.a,
        })
    }
}

impl Slot {
    /// Where dB goes in the flat gradients, for a left operand that begins at this slot's column.
    pub fn b_part(&self) -> Part {
        Part { column: 0, r: self.r, offset: self.module.b }
    }

    /// The padded rank.
    pub fn padded(&self) -> usize {
        self.r.next_multiple_of(RANK)
    }
}

/// The whole adapter's layout, and its working copy.
pub struct AdapterCopy<E> {
    pub scale: f32,
    groups: Vec<[GroupLayout; 4]>,
    data: Vec<E>,
}

impl<E: Element> AdapterCopy<E> {
    /// Lays out `adapter` for a model and copies its parameters.
    pub fn new(config: &LlamaConfig, adapter: &Adapter) -> Result<Self, LayoutError> {
        let mut by_path: HashMap<&str, &LoraModule> =
            adapter.modules.iter().map(|module| (module.path.as_str(), module)).collect();
        let mut len = 0;
        let mut groups = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut layouts: [GroupLayout; 4] = Default::default();
            for (group, layout) in Group::ALL.into_iter().zip(&mut layouts) {
                for &linear in group.linears() {
                    let Some(module) = by_path.remove(linear.path(layer).as_str()) else {
                        continue;
                    };
                    check_shape(module, linear.shape(config))?;
                    let r = adapter.config.r;
                    let slot = Slot { column: layout.columns, r, b: 0, module: module.clone() };
                    layout.columns += slot.padded();
                    layout.slots.push((linear, slot));
                }
                layout.a = len;
                len += layout.columns * group.linears()[0].shape(config).1;
                for (linear, slot) in &mut layout.slots {
                    slot.b = len;
                    len += linear.shape(config).0 * slot.padded();
                }
            }
            groups.push(layouts);
        }
        if let Some(path) = by_path.into_keys().min() {
            return Err(LayoutError::UnknownModule { path: path.to_string() });
        }
        let mut copy =
            Self { scale: adapter.config.scale(), groups, data: vec![E::from_f32(0.0); len] };
        copy.update(&adapter.params);
        Ok(copy)
    }

    /// Rounds the flat f32 parameters into the working copy.
    pub fn update(&mut self, params: &[f32]) {
        for layouts in &self.groups {
            for layout in layouts {
                for (_, slot) in &layout.slots {
                    let LoraModule { in_features, out_features, a, b, .. } = slot.module;
                    let (r, padded) = (slot.r, slot.padded());
                    let target = &mut self.data[layout.a + slot.column * in_features..];
                    for (to, from) in target.iter_mut().zip(&params[a..a + r * in_features]) {
                        *to = E::from_f32(*from);
                    }
                    let target = &mut self.data[slot.b..slot.b + out_features * padded];
                    let source = params[b..b + out_features * r].chunks_exact(r);
                    for (to, from) in target.chunks_exact_mut(padded).zip(source) {
                        for (to, from) in to.iter_mut().zip(from) {
                            *to = E::from_f32(*from);
                        }
                    }
                }
            }
        }
    }

    /// The layout of one group.
    pub fn group(&self, layer: usize, group: Group) -> &GroupLayout {
        &self.groups[layer][group as usize]
    }

    /// The stacked A's `[columns, in]` of a group.
    pub fn a(&self, layer: usize, group: Group, n_in: usize) -> &[E] {
        let layout = self.group(layer, group);
        &self.data[layout.a..layout.a + layout.columns * n_in]
    }

    /// A slot's A `[padded, in]`.
    pub fn slot_a(&self, layer: usize, group: Group, slot: &Slot, n_in: usize) -> &[E] {
        &self.a(layer, group, n_in)[slot.column * n_in..(slot.column + slot.padded()) * n_in]
    }

    /// A slot's B `[out, padded]`.
    pub fn slot_b(&self, slot: &Slot) -> &[E] {
        &self.data[slot.b..slot.b + slot.module.out_features * slot.padded()]
    }
}

fn check_shape(module: &LoraModule, want: (usize, usize)) -> Result<(), LayoutError> {
    let got = (module.out_features, module.in_features);
    if got == want {
        return Ok(());
    }
    Err(LayoutError::Shape {
        path: module.path.clone(),
        got_out: got.0,
        got_in: got.1,
        want_out: want.0,
        want_in: want.1,
    })
}
