//! Fields of `config.json` that do not change the forward pass of a BLT model, and fields that
//! change nothing at one value and are refused at others.

use super::HfError;
use super::fields::Fields;
use serde_json::json;

/// Fields of any configuration of that library that do not enter the forward pass of a BLT model:
/// what the process prints and returns, labels, storage types, initialisation, and how attention is
/// computed.
pub(super) const INERT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "bos_token_id",
    // Splits the feed-forward layer over rows; BLT never does.
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    // The reference drops activations in training alone; here nothing is dropped.
    "dropout",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "label2id",
    // Bounds nothing while rope_type is `default`.
    "max_position_embeddings",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefix",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tf_legacy_loss",
    "tie_last_hidden_states",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "use_bfloat16",
    "use_cache",
];

/// Parameters of generation that 4.x wrote into every configuration; 5.x drops them on loading.
pub(super) const INERT_GENERATION: &[&str] = &[
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "target_lookbehind",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// Fields of the original code's configuration that conversions to this layout carried along and
/// the library does not read. (`norm_eps` among them: the eps that counts is `rms_norm_eps`.)
pub(super) const INERT_CARRIED: &[&str] = &[
    "attn_bias_type",
    "attn_impl",
    "norm_eps",
    "patching_device",
    "patching_threshold_add",
    "pm_size",
    "realtime_patching",
];

/// At the top alone. Rotary embedding is made from each part's own configuration.
pub(super) const INERT_TOP: &[&str] =
    &["patching_batch_size", "rope_parameters", "rope_scaling", "rope_theta"];

/// In the parts. The encoder's and decoder's mask is made once, from `local_attention_window_len`;
/// ties are forced off in the parts; whether the latent has a projection follows from the widths;
/// only the decoder's `hidden_size_global` and the encoder's `vocab_size` shape a parameter.
pub(super) const INERT_ENCODER: &[&str] =
    &["hidden_size_global", "sliding_window", "tie_word_embeddings"];
pub(super) const INERT_DECODER: &[&str] = &["sliding_window", "tie_word_embeddings", "vocab_size"];
pub(super) const INERT_LATENT: &[&str] =
    &["encoder_cross_output_size", "sliding_window", "tie_word_embeddings"];
pub(super) const INERT_PATCHER: &[&str] = &["tie_word_embeddings"];

/// Fields that are inert at these values, and would ask for something else at any other.
pub(super) fn refuse_active(f: &Fields) -> Result<(), HfError> {
    for name in
        ["attention_bias", "mlp_bias", "use_bias", "bias", "is_encoder_decoder", "is_decoder"]
    {
        f.only(name, &[json!(false)])?;
    }
    for name in ["add_cross_attention", "tie_encoder_decoder", "monotonicity"] {
        f.only(name, &[json!(false)])?;
    }
    f.only("cross_attention_hidden_size", &[])?;
    f.only("pretraining_tp", &[json!(1)])?;
    f.only("pruned_heads", &[json!({})])?;
    f.only("quantization_config", &[])?;
    f.only("per_layer_config", &[json!({})])
}
