//! A new kind of error is decided everywhere before it compiles: no match over our own errors has a `_` for the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

pub(super) fn sources() -> Vec<(PathBuf, syn::File)> {
    let (mut found, mut folders) = (Vec::new(), vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
                found.push((path, file));
            }
        }
    }
    found
}

/// The enums of errors.
#[derive(Default)]
struct Errors(BTreeSet<String>);

impl<'a> Visit<'a> for Errors {
    fn visit_item_enum(&mut self, item: &'a syn::ItemEnum) {
        let name = item.ident.to_string();
        if name.ends_with("Error") || name == "Problem" {
            self.0.insert(name);
        }
    }
}

/// Matches over errors that have an arm for whatever else there may be.
struct Matches<'a> {
    errors: &'a BTreeSet<String>,
    /// What `Self` is.
    own: Option<String>,
    wrong: Vec<String>,
}

impl Matches<'_> {
    /// The errors that a pattern names.
    fn named(&self, pattern: &syn::Pat) -> Vec<String> {
        let of_path = |path: &syn::Path| {
            let name = path.segments.iter().rev().nth(1).map(|segment| segment.ident.to_string());
            let name = name.and_then(|name| if name == "Self" { self.own.clone() } else { Some(name) });
            name.filter(|name| self.errors.contains(name)).into_iter().collect::<Vec<_>>()
        };
        let of_all =
            |patterns: Vec<&syn::Pat>| patterns.into_iter().flat_map(|inner| self.named(inner)).collect();
        match pattern {
            syn::Pat::Path(path) => of_path(&path.path),
            syn::Pat::Struct(inner) => of_path(&inner.path),
            syn::Pat::TupleStruct(inner) => {
                let mut found = of_path(&inner.path);
                found.extend(inner.elems.iter().flat_map(|inner| self.named(inner)));
                found
            }
            syn::Pat::Tuple(inner) => of_all(inner.elems.iter().collect()),
            syn::Pat::Or(inner) => of_all(inner.cases.iter().collect()),
            syn::Pat::Reference(inner) => self.named(&inner.pat),
            syn::Pat::Paren(inner) => self.named(&inner.pat),
            syn::Pat::Ident(inner) => inner.subpat.iter().flat_map(|(_, inner)| self.named(inner)).collect(),
            _ => Vec::new(),
        }
    }
}

/// `_` and `Err(_)`; a name stands for an error that is handed on as it is.
fn takes_the_rest(pattern: &syn::Pat) -> bool {
    match pattern {
        syn::Pat::Wild(_) => true,
        syn::Pat::Or(inner) => inner.cases.iter().any(takes_the_rest),
        syn::Pat::Paren(inner) => takes_the_rest(&inner.pat),
        syn::Pat::Reference(inner) => takes_the_rest(&inner.pat),
        syn::Pat::TupleStruct(inner) => {
            inner.path.is_ident("Err") && inner.elems.iter().all(|inner| matches!(inner, syn::Pat::Wild(_)))
        }
        _ => false,
    }
}

impl<'a> Visit<'a> for Matches<'_> {
    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        let name = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
            _ => None,
        };
        let before = std::mem::replace(&mut self.own, name);
        visit::visit_item_impl(self, item);
        self.own = before;
    }

    fn visit_expr_match(&mut self, expression: &'a syn::ExprMatch) {
        let named: BTreeSet<String> = expression.arms.iter().flat_map(|arm| self.named(&arm.pat)).collect();
        if !named.is_empty() && expression.arms.iter().any(|arm| takes_the_rest(&arm.pat)) {
            self.wrong.push(named.into_iter().collect::<Vec<_>>().join(", "));
        }
        visit::visit_expr_match(self, expression);
    }
}

fn wrong_in(file: &syn::File, errors: &BTreeSet<String>) -> Vec<String> {
    let mut matches = Matches { errors, own: None, wrong: Vec::new() };
    matches.visit_file(file);
    matches.wrong
}

#[test]
fn no_match_over_our_errors_has_an_arm_for_the_rest() {
    let sources = sources();
    let mut errors = Errors::default();
    for (_, file) in &sources {
        errors.visit_file(file);
    }
    assert!(errors.0.contains("GatewayError") && errors.0.len() > 5, "{:?}", errors.0);
    let wrong: Vec<String> = sources
        .iter()
        .flat_map(|(path, file)| {
            wrong_in(file, &errors.0).into_iter().map(|named| format!("{}: {named}", path.display()))
        })
        .collect();
    assert!(wrong.is_empty(), "say what each error is: {wrong:#?}");
}

#[test]
fn the_rule_finds_an_arm_for_the_rest_wherever_it_stands() {
    let errors = BTreeSet::from(["OurError".to_owned()]);
    let count = |arms: &str| {
        let text = format!("impl OurError {{ fn f(self) {{ match self {{ {arms} }} }} }}");
        wrong_in(&syn::parse_file(&text).unwrap(), &errors).len()
    };
    for arms in [
        "OurError::A => 1, _ => 2",
        "Self::A => 1, Self::B | _ => 2",
        "Ok(a) => a, Err(OurError::A(_)) => 1, Err(_) => 2",
        "&Self::A { b } => 1, _ if true => 2, other => 3",
    ] {
        assert_eq!(count(arms), 1, "{arms}");
    }
    for arms in [
        "OurError::A => 1, OurError::B(_) => 2",
        "Self::A => 1, other => other.into()",
        "sqlx::Error::A => 1, _ => 2",
        "Ok(_) => 1, Err(OurError::A(_)) => 2, Err(other) => 3",
    ] {
        assert_eq!(count(arms), 0, "{arms}");
    }
}
