//! `#[node]` and `#[step]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    Error, Ident, ImplItem, ItemImpl, LitStr, Result, Token, Type, parse::ParseStream, parse_quote,
    punctuated::Punctuated,
};

/// The wires of each short form's example: names that stand for nodes in every example.
const FORMS: [(&str, &str); 4] = [
    ("Patcher", "in: docs"),
    ("StreamPatcher", "in: docs"),
    ("SpanPatcher", "in: docs"),
    ("Metric", "in: {logits: decoder, bytes: docs}"),
];

#[derive(Default)]
struct Args {
    name: Option<LitStr>,
    example: Option<LitStr>,
}

fn args(input: ParseStream) -> Result<Args> {
    let mut args = Args::default();
    let pair = |input: ParseStream| {
        let key: Ident = input.parse()?;
        input.parse::<Token![=]>()?;
        Ok((key, input.parse::<LitStr>()?))
    };
    for (key, value) in Punctuated::<_, Token![,]>::parse_terminated_with(input, pair)? {
        match key.to_string().as_str() {
            "name" => args.name = Some(value),
            "example" => args.example = Some(value),
            _ => return Err(Error::new_spanned(key, "expected `name` or `example`")),
        }
    }
    Ok(args)
}

pub fn expand(tokens: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let args = syn::parse::Parser::parse2(args, tokens)?;
    let mut item: ItemImpl = syn::parse2(item)?;
    let form = item.trait_.as_ref().and_then(|(path, _)| path.segments.last());
    let Some(form) = form.map(|segment| segment.ident.clone()) else {
        return Err(Error::new_spanned(&item, "#[node] stands on an `impl Node for ...`"));
    };
    let ty = item.self_ty.clone();
    let name = match &args.name {
        Some(name) => name.value(),
        None => type_name(&ty)?,
    };
    let example = args.example.as_ref().map(LitStr::value);
    let registered = quote!(::blt::__macro::blt_graph::node!(#ty););
    if form == "Node" {
        complete(&mut item, &name, example)?;
        return Ok(quote!(#item #registered));
    }
    let Some((_, wires)) = FORMS.iter().find(|(known, _)| form == known) else {
        let known = FORMS.map(|(form, _)| form).join(", ");
        return Err(Error::new_spanned(form, format!("a node is an impl of Node, {known}")));
    };
    let example = match example {
        None => wires.to_string(),
        Some(example) if example.starts_with("in:") => example,
        Some(example) => format!("{wires}, {example}"),
    };
    let example = format!("{{node: {name}, {example}}}");
    let form = quote!(<::blt::__macro::forms::#form as ::blt::__macro::ShortForm<#ty>>);
    let graph = quote!(::blt::__macro::blt_graph);
    Ok(quote! {
        #item

        impl #graph::Node for #ty {
            const NAME: &'static str = #name;
            const EXAMPLE: &'static str = #example;
            type In = #form::In;
            type Out = #form::Out;
            type State = ();

            fn check(
                &self,
                _: <Self::In as #graph::Ports>::Infos,
                _: &#graph::CheckCx,
            ) -> ::core::result::Result<<Self::Out as #graph::Ports>::Infos, #graph::NodeError> {
                #form::check(self)
            }

            fn build(
                &self,
                _: <Self::In as #graph::Ports>::Infos,
                cx: &mut #graph::BuildCx,
            ) -> ::core::result::Result<(), #graph::NodeError> {
                #form::build(self, cx);
                Ok(())
            }

            fn run(
                &self,
                _: &(),
                inputs: <Self::In as #graph::Ports>::Values,
                cx: &#graph::RunCx,
            ) -> ::core::result::Result<<Self::Out as #graph::Ports>::Values, #graph::NodeError> {
                #form::run(self, inputs, cx)
            }
        }

        #registered
    })
}

pub fn expand_step(tokens: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let args = syn::parse::Parser::parse2(args, tokens)?;
    let mut item: ItemImpl = syn::parse2(item)?;
    let ty = item.self_ty.clone();
    let name = match &args.name {
        Some(name) => name.value(),
        None => snake_case(&type_name(&ty)?),
    };
    let Some(example) = args.example.as_ref().map(LitStr::value) else {
        let what = "give an example for the step's help: `#[step(example = \"goal: loss\")]`";
        return Err(Error::new_spanned(&ty, what));
    };
    let example = format!("{name}: {{{example}}}");
    item.items.splice(
        0..0,
        [
            parse_quote!(const NAME: &'static str = #name;),
            parse_quote!(const EXAMPLE: &'static str = #example;),
        ],
    );
    Ok(quote!(#item ::blt::__macro::blt_graph::step!(#ty);))
}

fn type_name(ty: &Type) -> Result<String> {
    let named = match ty {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    };
    let none = || Error::new_spanned(ty, "give it a name: `name = \"...\"`");
    Ok(named.ok_or_else(none)?.ident.to_string())
}

/// `TopK` as `top_k`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

/// Adds the items of an `impl Node` that were left out.
fn complete(item: &mut ItemImpl, name: &str, example: Option<String>) -> Result<()> {
    let has = |wanted: &str| {
        item.items.iter().any(|item| match item {
            ImplItem::Const(item) => item.ident == wanted,
            ImplItem::Fn(item) => item.sig.ident == wanted,
            ImplItem::Type(item) => item.ident == wanted,
            _ => false,
        })
    };
    let mut added: Vec<ImplItem> = Vec::new();
    if !has("NAME") {
        added.push(parse_quote!(const NAME: &'static str = #name;));
    }
    match example {
        Some(example) => {
            let example = format!("{{node: {name}, {example}}}");
            added.push(parse_quote!(const EXAMPLE: &'static str = #example;));
        }
        None if has("EXAMPLE") => {}
        None => {
            let what = "give an example for the node's help: `#[node(example = \"in: docs\")]`";
            return Err(Error::new_spanned(&item.self_ty, what));
        }
    }
    let (stateless, builds, checks) = (!has("State"), has("build"), has("check"));
    if stateless {
        added.push(parse_quote!(
            type State = ();
        ));
    }
    if stateless && !builds {
        added.push(parse_quote! {
            fn build(
                &self,
                _: <Self::In as ::blt::__macro::blt_graph::Ports>::Infos,
                _: &mut ::blt::__macro::blt_graph::BuildCx,
            ) -> ::core::result::Result<(), ::blt::__macro::blt_graph::NodeError> {
                Ok(())
            }
        });
    }
    if !checks {
        added.push(parse_quote! {
            fn check(
                &self,
                _: <Self::In as ::blt::__macro::blt_graph::Ports>::Infos,
                _: &::blt::__macro::blt_graph::CheckCx,
            ) -> ::core::result::Result<
                <Self::Out as ::blt::__macro::blt_graph::Ports>::Infos,
                ::blt::__macro::blt_graph::NodeError,
            > {
                Ok(::core::default::Default::default())
            }
        });
    }
    item.items.splice(0..0, added);
    Ok(())
}
