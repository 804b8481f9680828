//! Every kernel against the f64 reference of its op, on the virtual GPU (or, with the feature
//! `gpu-tests`, on the machine's own). `DAYRUN_SHAPES=100 cargo test --test ops cuda` is the long sweep.

mod adamw;
mod attention;
mod attention_backward;
mod cross_entropy;
mod dropout;
mod embedding;
mod gemm_bf16;
mod head;
mod lora_down;
mod lora_grad;
mod neftune;
mod nf4_dequantize;
mod nf4_linear;
mod nf4_quantize;
mod reduce;
mod rms_norm;
mod rope;
mod swiglu;
