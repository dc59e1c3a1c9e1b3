//! `#[params]`.

use crate::shared;
use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{
    Attribute, Error, ExprRange, Field, Fields, Ident, Item, ItemStruct, Meta, Result, Type,
    parse_quote,
};

/// How a parameter that is left out gets its value.
enum Default {
    /// It must be given.
    Required,
    /// `Default::default()`; of an `Option`, `None`.
    OfType,
    Expression(TokenStream),
}

pub fn expand(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let no_new = match args.to_string().as_str() {
        "" => false,
        "no_new" => true,
        _ => return Err(Error::new_spanned(args, "#[params] takes nothing, or `no_new`")),
    };
    let derives = quote! {
        #[derive(
            Clone,
            Debug,
            PartialEq,
            ::blt::__macro::serde::Serialize,
            ::blt::__macro::serde::Deserialize,
            ::blt::__macro::schemars::JsonSchema,
        )]
        #[serde(crate = "::blt::__macro::serde")]
        #[schemars(crate = "::blt::__macro::schemars")]
    };
    let mut item: ItemStruct = match syn::parse2(item)? {
        Item::Struct(item) => item,
        Item::Enum(item) => return Ok(quote!(#derives #[serde(rename_all = "snake_case")] #item)),
        other => return Err(Error::new_spanned(other, "#[params] stands on a struct or an enum")),
    };
    let Fields::Named(fields) = &mut item.fields else {
        return Err(Error::new_spanned(&item, "parameters are named fields: `struct X {}`"));
    };
    let mut made = Vec::new();
    for field in &mut fields.named {
        made.push((field.ident.clone().expect("a named field"), field.ty.clone(), take(field)?));
    }
    let name = &item.ident;
    let mut functions = Vec::new();
    for ((ident, ty, default), field) in made.iter().zip(&mut fields.named) {
        match default {
            Default::Required => {}
            Default::OfType => field.attrs.push(parse_quote!(#[serde(default)])),
            Default::Expression(value) => {
                let function = format_ident!("default_{ident}");
                let path = format!("{name}::{function}");
                field.attrs.push(parse_quote!(#[serde(default = #path)]));
                functions.push(quote! {
                    fn #function() -> #ty {
                        #value
                    }
                });
            }
        }
    }
    let new = if no_new { TokenStream::new() } else { constructor(&item, &made) };
    let functions = (!functions.is_empty()).then(|| quote!(impl #name { #(#functions)* }));
    Ok(quote! {
        #derives
        #item
        #functions
        #new
    })
}

/// `new`, or `Default` where every parameter may be left out.
fn constructor(item: &ItemStruct, fields: &[(Ident, Type, Default)]) -> TokenStream {
    let (name, visibility) = (&item.ident, &item.vis);
    let required = |default: &Default| matches!(default, Default::Required);
    let values = fields.iter().map(|(ident, ty, default)| match default {
        Default::Required if is_primitive(ty) => quote!(#ident),
        Default::Required => quote!(#ident: #ident.into()),
        Default::OfType => quote!(#ident: ::core::default::Default::default()),
        Default::Expression(_) => {
            let function = format_ident!("default_{ident}");
            quote!(#ident: Self::#function())
        }
    });
    let values = quote!(Self { #(#values),* });
    if !fields.iter().any(|(.., default)| required(default)) {
        return quote! {
            impl ::core::default::Default for #name {
                fn default() -> Self {
                    #values
                }
            }
        };
    }
    let arguments = fields.iter().filter(|(.., default)| required(default));
    let arguments = arguments.map(|(ident, ty, _)| match is_primitive(ty) {
        true => quote!(#ident: #ty),
        false => quote!(#ident: impl ::core::convert::Into<#ty>),
    });
    quote! {
        impl #name {
            /// With all other parameters at their defaults.
            #visibility fn new(#(#arguments),*) -> Self {
                #values
            }
        }
    }
}

/// Takes `#[default]`, `#[range]` and `#[shared]` off a field, and writes down what the latter two
/// say.
fn take(field: &mut Field) -> Result<Default> {
    let (mut default, mut range) = (None, None);
    let mut shared = None;
    let mut rest: Vec<Attribute> = Vec::new();
    for attribute in field.attrs.drain(..) {
        if attribute.path().is_ident("default") {
            default = Some(match &attribute.meta {
                Meta::Path(_) => Default::OfType,
                Meta::List(list) => Default::Expression(list.tokens.clone()),
                Meta::NameValue(_) => {
                    return Err(Error::new_spanned(attribute, "write `#[default(VALUE)]`"));
                }
            });
        } else if attribute.path().is_ident("range") {
            range = Some(attribute.parse_args::<ExprRange>()?);
        } else if attribute.path().is_ident("shared") {
            let name = field.ident.as_ref().expect("a named field").to_string();
            shared = Some(shared::find(&name).ok_or_else(|| {
                let names = shared::names();
                let what = format!("`{name}` is no shared parameter; there are {names}");
                Error::new_spanned(&attribute, what)
            })?);
        } else {
            rest.push(attribute);
        }
    }
    field.attrs = rest;
    if let Some(shared) = shared {
        if !field.attrs.iter().any(|attribute| attribute.path().is_ident("doc")) {
            let doc: Vec<Attribute> = shared
                .doc
                .iter()
                .map(|line| {
                    let line = format!(" {line}");
                    parse_quote!(#[doc = #line])
                })
                .collect();
            field.attrs.splice(0..0, doc);
        }
        if let (None, Some(value)) = (&default, shared.default) {
            default = Some(Default::Expression(value.parse()?));
        }
        if let (None, Some(of_all)) = (&range, shared.range) {
            range = Some(syn::parse_str(of_all)?);
        }
    }
    if let Some(range) = range {
        let (Some(least), Some(most)) = (&range.start, &range.end) else {
            return Err(Error::new_spanned(range, "write both ends: `#[range(1..=64)]`"));
        };
        let ranged = quote!(::blt::__macro::blt_graph::schema::ranged);
        field.attrs.push(parse_quote!(#[schemars(transform = #ranged(#least, #most))]));
    }
    Ok(default.unwrap_or(if is_option(&field.ty) { Default::OfType } else { Default::Required }))
}

fn last_segment(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) => Some(path.path.segments.last()?.ident.to_string()),
        _ => None,
    }
}

fn is_option(ty: &Type) -> bool {
    last_segment(ty).is_some_and(|name| name == "Option")
}

/// A number or a truth value: what a literal is inferred to be, so that `new` takes it as it is.
fn is_primitive(ty: &Type) -> bool {
    const PRIMITIVE: [&str; 13] = [
        "bool", "u8", "u16", "u32", "u64", "usize", "i8", "i16", "i32", "i64", "isize", "f32",
        "f64",
    ];
    last_segment(ty).is_some_and(|name| PRIMITIVE.contains(&name.as_str()))
}
