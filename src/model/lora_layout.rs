//! Where a model's adapters lie: in the flat f32 parameters, and in the working copy in `E`.
//!
//! The working copy is what the ops multiply with: rank padded with zeros to a multiple of 16, the
//! A's of linears that share an input stacked. It is written anew after each update.

use std::collections::HashMap;
use std::ops::Range;

use super::config::{Linear, LlamaConfig};
use super::program::Group;
use crate::adapter::{Adapter, LoraModule};
use crate::device::cpu::{Cpu, Element, chunks, pieces_mut};
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
    /// s.
    pub scale: f32,
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

    /// The columns of V by scale: neighbours that share one are one product.
    pub fn scaled(&self) -> impl Iterator<Item = (Range<usize>, f32)> {
        self.slots.chunk_by(|(_, a), (_, b)| a.scale == b.scale).map(|run| {
            let (first, last) = (&run[0].1, &run[run.len() - 1].1);
            (first.column..last.column + last.padded(), first.scale)
        })
    }

    /// Every A and B of the group: where the parameters go in the working copy.
    fn placed(&self) -> impl Iterator<Item = Placed> {
        self.slots.iter().flat_map(|(_, slot)| {
            let LoraModule { in_features, out_features, a, b, .. } = slot.module;
            let to = self.a + slot.column * in_features;
            [
                Placed { from: a, to, rows: slot.r, cols: in_features, pitch: in_features },
                Placed {
                    from: b,
                    to: slot.b,
                    rows: out_features,
                    cols: slot.r,
                    pitch: slot.padded(),
                },
            ]
        })
    }

    /// Where the group's dA's go in the flat gradients.
    pub fn a_parts(&self) -> impl Iterator<Item = Part> + Clone {
        self.slots.iter().map(|(_, slot)| Part { column: slot.column, ..slot.a_part() })
    }
}

impl Slot {
    /// Where dA goes in the flat gradients, for a left operand that begins at this slot's column.
    pub fn a_part(&self) -> Part {
        Part { column: 0, r: self.r, offset: self.module.a }
    }

    /// Where dB goes in the flat gradients, for a left operand that begins at this slot's column.
    pub fn b_part(&self) -> Part {
        Part { column: 0, r: self.r, offset: self.module.b }
    }

    /// The padded rank.
    pub fn padded(&self) -> usize {
        self.r.next_multiple_of(RANK)
    }
}

/// Where all of an adapter lies.
#[derive(Clone, Debug)]
pub struct AdapterLayout {
    /// The share of its inputs that an adapter in training drops.
    pub dropout: f64,
    groups: Vec<[GroupLayout; 4]>,
    /// Elements of the working copy.
    pub len: usize,
}

/// A matrix `[rows, cols]` in the flat parameters, from element `from` on without gaps, and its place in the
/// working copy, from `to` on, whose rows lie `pitch` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub from: usize,
    pub to: usize,
    pub rows: usize,
    pub cols: usize,
    pub pitch: usize,
}

impl AdapterLayout {
    /// Lays out `adapter` for a model.
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
                    let (column, module) = (layout.columns, module.clone());
                    let slot = Slot { column, r: module.r, scale: module.scale, b: 0, module };
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
        Ok(Self { dropout: adapter.config.lora_dropout, groups, len })
    }

    /// The layout of one group.
    pub fn group(&self, layer: usize, group: Group) -> &GroupLayout {
        &self.groups[layer][group as usize]
    }

    /// The slot of a linear if it is adapted, and the pitch of V and U of its group.
    pub fn slot(&self, layer: usize, linear: Linear) -> Option<(&Slot, usize)> {
        let group = self.group(layer, Group::of(linear));
        Some((group.slot(linear)?, group.columns))
    }

    /// The stacked A's `[columns, in]` of a group in the working copy.
    pub fn a(&self, layer: usize, group: Group, n_in: usize) -> Range<usize> {
        let layout = self.group(layer, group);
        layout.a..layout.a + layout.columns * n_in
    }

    /// A slot's A `[padded, in]` in the working copy.
    pub fn slot_a(&self, layer: usize, group: Group, slot: &Slot, n_in: usize) -> Range<usize> {
        let start = self.group(layer, group).a + slot.column * n_in;
        start..start + slot.padded() * n_in
    }

    /// A slot's B `[out, padded]` in the working copy.
    pub fn slot_b(&self, slot: &Slot) -> Range<usize> {
        slot.b..slot.b + slot.module.out_features * slot.padded()
    }

    /// Every A and B: where the parameters go in the working copy.
    pub fn placed(&self) -> impl Iterator<Item = Placed> {
        self.groups.iter().flatten().flat_map(GroupLayout::placed)
    }
}

/// The adapter's working copy in host memory.
pub struct AdapterCopy<E> {
    pub layout: AdapterLayout,
    data: Vec<E>,
    /// Where each group's part of `data` ends, layer by layer.
    ends: Vec<usize>,
}

impl<E: Element> AdapterCopy<E> {
    /// Lays out `adapter` for a model and copies its parameters.
    pub fn new(cpu: &Cpu, config: &LlamaConfig, adapter: &Adapter) -> Result<Self, LayoutError> {
        let layout = AdapterLayout::new(config, adapter)?;
        let begins = layout.groups.as_flattened().iter().skip(1).map(|group| group.a);
        let ends = begins.chain([layout.len]).collect();
        let mut copy = Self { data: vec![E::from_f32(0.0); layout.len], ends, layout };
        copy.update(cpu, &adapter.params);
        Ok(copy)
    }

    /// Rounds the flat f32 parameters into the working copy.
    pub fn update(&mut self, cpu: &Cpu, params: &[f32]) {
        let groups = chunks(self.layout.groups.as_flattened(), 1);
        cpu.blocks((groups, pieces_mut(&mut self.data, &self.ends)), |(group, data)| {
            let group = &group[0];
            for Placed { from, to, rows, cols, pitch } in group.placed() {
                let source = &params[from..from + rows * cols];
                let target = &mut data[to - group.a..];
                if cols == pitch {
                    E::round(cpu.level, source, &mut target[..rows * cols]);
                    continue;
                }
                for (to, from) in target.chunks_mut(pitch).zip(source.chunks_exact(cols)) {
                    E::round(cpu.level, from, &mut to[..cols]);
                }
            }
        });
    }

    /// All of it.
    pub fn as_slice(&self) -> &[E] {
        &self.data
    }

    /// The layout of one group.
    pub fn group(&self, layer: usize, group: Group) -> &GroupLayout {
        self.layout.group(layer, group)
    }

    /// The stacked A's `[columns, in]` of a group.
    pub fn a(&self, layer: usize, group: Group, n_in: usize) -> &[E] {
        &self.data[self.layout.a(layer, group, n_in)]
    }

    /// A slot's A `[padded, in]`.
    pub fn slot_a(&self, layer: usize, group: Group, slot: &Slot, n_in: usize) -> &[E] {
        &self.data[self.layout.slot_a(layer, group, slot, n_in)]
    }

    /// A slot's B `[out, padded]`.
    pub fn slot_b(&self, slot: &Slot) -> &[E] {
        &self.data[self.layout.slot_b(slot)]
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
