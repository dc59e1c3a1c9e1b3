//! `lr_by`: which parameters learn at another rate.

use crate::trained_graph::NodeParam;
use blt_graph::diagnostic::nearest;
use blt_graph::{NodeError, Plan};
use std::collections::BTreeMap;

/// Checks the names that stand for nodes. Names of parameters have dots, and are known when the
/// graph is built.
pub fn check(lr_by: &BTreeMap<String, f64>, plan: &Plan, goal: &str) -> Result<(), NodeError> {
    let nodes: Vec<&str> = plan.needs(&[goal])?.into_iter().map(|node| &*node.name).collect();
    match lr_by.keys().find(|name| !name.contains('.') && !nodes.contains(&name.as_str())) {
        Some(name) => Err(unknown(name, nodes)),
        None => Ok(()),
    }
}

/// The factor of each of `params`.
pub fn of(lr_by: &BTreeMap<String, f64>, params: &[NodeParam]) -> Result<Vec<f64>, NodeError> {
    for name in lr_by.keys() {
        if !params.iter().any(|p| p.node == *name || begins(&p.canonical.name, name)) {
            let nodes = params.iter().map(|p| p.node.as_str());
            let parts = params.iter().flat_map(|p| beginnings(&p.canonical.name));
            return Err(unknown(name, nodes.chain(parts)));
        }
    }
    let factor = |p: &NodeParam| {
        let named = lr_by.iter().filter(|(name, _)| begins(&p.canonical.name, name));
        let longest = named.max_by_key(|(name, _)| name.len()).map(|(_, factor)| factor);
        *longest.or_else(|| lr_by.get(&p.node)).unwrap_or(&1.0)
    };
    Ok(params.iter().map(factor).collect())
}

/// Whether `beginning` is a parameter's name, or the part of it before some dot.
fn begins(name: &str, beginning: &str) -> bool {
    beginnings(name).any(|part| part == beginning)
}

fn beginnings(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(dot, _)| &name[..dot]).chain([name])
}

fn unknown<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> NodeError {
    let msg = format!("no node with parameters and no parameter's name begins with `{name}`");
    let error = NodeError::param("lr_by", msg);
    match nearest(name, names) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help("a key is a node's name, or a parameter's name up to some dot"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blt_core::backend::ParamId;
    use blt_core::params::NamedParam;

    #[test]
    fn the_longest_name_of_a_parameter_wins_over_its_node() {
        let param = |node: &str, name: &str| {
            let canonical =
                NamedParam { name: name.to_owned(), id: ParamId(0), shape: [1, 1], vector: false };
            NodeParam { node: node.to_owned(), stored: canonical.clone(), canonical }
        };
        let params = [
            param("embed", "model.local_encoder.embed_tokens.weight"),
            param("embed", "model.encoder_hash_tok_embedding.weight"),
            param("encoder", "model.local_encoder.layers.0.norm.weight"),
            param("decoder", "lm_head.weight"),
        ];
        let rates = |named: &[(&str, f64)]| {
            let lr_by = named.iter().map(|(name, rate)| ((*name).to_owned(), *rate)).collect();
            of(&lr_by, &params)
        };
        assert_eq!(rates(&[]).unwrap(), [1.0; 4]);
        let named = [("embed", 2.0), ("model.local_encoder", 3.0), ("lm_head", 5.0)];
        assert_eq!(rates(&named).unwrap(), [3.0, 2.0, 3.0, 5.0]);
        let named = [("model.local_encoder", 3.0), ("model.local_encoder.layers.0", 0.0)];
        assert_eq!(rates(&named).unwrap(), [3.0, 1.0, 0.0, 1.0]);
        // A beginning ends at a dot.
        let error = rates(&[("model.local_encod", 1.0)]).unwrap_err();
        assert!(error.message().ends_with("begins with `model.local_encod`"));
    }
}
