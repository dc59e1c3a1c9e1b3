//! Parameters that several nodes have: what each means and its default, written once.

/// A parameter that several nodes have in common.
pub struct Shared {
    pub name: &'static str,
    /// The lines of the doc comment.
    pub doc: &'static [&'static str],
    /// A Rust expression; `None` for a parameter that must be given, or for an `Option` that is
    /// `None` where it is left out.
    pub default: Option<&'static str>,
    /// A Rust range, of a number.
    pub range: Option<&'static str>,
}

const SHARED: &[Shared] = &[
    Shared {
        name: "max_patch_length",
        doc: &["Longest patch in bytes; longer ones are split greedily from the left."],
        default: None,
        range: Some("1..=::blt::__macro::sizes::MAX_BYTES"),
    },
    Shared {
        name: "layers",
        doc: &["Transformer layers."],
        default: None,
        range: Some("1..=::blt::__macro::sizes::MAX_LAYERS"),
    },
    Shared {
        name: "heads",
        doc: &["Attention heads."],
        default: None,
        range: Some("1..=::blt::__macro::sizes::MAX_DIM"),
    },
    Shared {
        name: "kv_heads",
        doc: &["Key/value heads; as many as `heads` if left out."],
        default: None,
        range: Some("1..=::blt::__macro::sizes::MAX_DIM"),
    },
    Shared {
        name: "ffn",
        doc: &[
            "Width of the feed-forward layers; if left out, 8/3 of the width, rounded up to a multiple",
            "of 64.",
        ],
        default: None,
        range: Some("1..=::blt::__macro::sizes::MAX_FFN"),
    },
    Shared {
        name: "window",
        doc: &["How many bytes back a byte sees, itself included; null: the whole span."],
        default: Some("Some(512)"),
        range: Some("1..=::blt::__macro::sizes::MAX_BYTES"),
    },
    Shared {
        name: "column",
        doc: &["The column that holds the documents."],
        default: Some("\"text\".into()"),
        range: None,
    },
    Shared {
        name: "split",
        doc: &[
            "How documents are divided: `{valid: 0.1, by: id}` holds a tenth out, by the hash of column",
            "`id` (or of the `content`).",
        ],
        default: None,
        range: None,
    },
    Shared {
        name: "span_bytes",
        doc: &["Longer documents are cut into spans of this many bytes; a span sees no other."],
        default: Some("8192"),
        range: Some("1..=::blt::__macro::sizes::MAX_BYTES"),
    },
    Shared {
        name: "shuffle_buffer",
        doc: &["Documents in the buffer from which training draws at random."],
        default: Some("256"),
        range: Some("1..=::blt::__macro::sizes::MAX_BUFFER"),
    },
    Shared {
        name: "rope_theta",
        doc: &["Base of the rotary position embedding."],
        default: Some("500_000.0"),
        range: Some("1e-6..=1e15"),
    },
    Shared {
        name: "eps",
        doc: &["Epsilon of RMSNorm."],
        default: Some("1e-5"),
        range: Some("1e-30..=1.0"),
    },
];

/// The shared parameter `name`.
pub fn find(name: &str) -> Option<&'static Shared> {
    SHARED.iter().find(|shared| shared.name == name)
}

/// The names of all shared parameters, for a message.
pub fn names() -> String {
    SHARED.iter().map(|shared| shared.name).collect::<Vec<_>>().join(", ")
}
