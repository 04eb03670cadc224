//! The crate's own sources, parsed: which paths, calls and texts a file holds, without what only looks like them in comments
//! and strings.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ExprMethodCall, ItemMod, ItemUse, Lit, LitFloat, LitStr, Macro, Meta, UseTree};

/// One file.
pub struct Source {
    /// Below the directory that was read.
    pub path: PathBuf,
    /// The first part of its module's path: `ledger` of `ledger/batch.rs`.
    pub room: String,
    pub file: syn::File,
    pub seen: Seen,
}

/// What stands in a file, macros' arguments included.
#[derive(Default)]
pub struct Seen {
    pub paths: Vec<NamedPath>,
    pub attributes: Vec<String>,
    /// Names of methods that are called.
    pub methods: Vec<String>,
    pub strings: Vec<String>,
    /// Float literals outside of tests.
    pub floats: Vec<String>,
}

/// A path as it is written, or from the crate's root.
pub struct NamedPath {
    /// Whether it leads into this crate: it began with `crate`, `self` or `super`, which are resolved.
    pub ours: bool,
    pub segments: Vec<String>,
    /// Within a module for tests.
    pub in_tests: bool,
}

impl NamedPath {
    pub fn ends_with(&self, end: &str) -> bool {
        let end: Vec<&str> = end.split("::").collect();
        self.segments.len() >= end.len() && self.segments[self.segments.len() - end.len()..] == end[..]
    }
}

impl Source {
    /// Every Rust file below this directory of the repository.
    pub fn all(directory: &str) -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let mut sources = Vec::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    sources.push(Self::read(&root, &path));
                }
            }
        }
        sources
    }

    fn read(root: &Path, path: &Path) -> Self {
        let inside = path.strip_prefix(root).unwrap().to_owned();
        let text = fs::read_to_string(path).unwrap();
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut module: Vec<String> = inside
            .with_extension("")
            .components()
            .map(|part| part.as_os_str().to_str().unwrap().to_owned())
            .collect();
        let room = module[0].clone();
        if ["lib", "main"].contains(&room.as_str()) {
            module.clear();
        }
        let mut look = Look { module, in_tests: 0, seen: Seen::default() };
        look.visit_file(&file);
        Self { path: inside, room, file, seen: look.seen }
    }
}

struct Look {
    module: Vec<String>,
    /// How many modules for tests we are in.
    in_tests: usize,
    seen: Seen,
}

impl Look {
    fn path(&mut self, written: Vec<String>) {
        let mut segments = written;
        let mut ours = true;
        match segments[0].as_str() {
            "crate" => drop(segments.remove(0)),
            "self" => drop(segments.splice(..1, self.module.iter().cloned())),
            "super" => {
                let ups = segments.iter().take_while(|segment| *segment == "super").count();
                let above = &self.module[..self.module.len().saturating_sub(ups)];
                drop(segments.splice(..ups, above.iter().cloned()));
            }
            _ => ours = false,
        }
        self.seen.paths.push(NamedPath { ours, segments, in_tests: self.in_tests > 0 });
    }

    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before, tree)),
            UseTree::Name(name) => self.path(with(&name.ident)),
            UseTree::Rename(rename) => self.path(with(&rename.ident)),
            UseTree::Glob(_) => self.path(before.to_vec()),
        }
    }

    /// What a macro is given has no grammar: names that are joined are a path, a name after a point is a method.
    fn tokens(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let is = |at: usize, sign: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == sign);
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Literal(literal) => match syn::parse_str(&literal.to_string()) {
                    Ok(Lit::Str(text)) => self.visit_lit_str(&text),
                    Ok(Lit::Float(float)) => self.visit_lit_float(&float),
                    _ => {}
                },
                TokenTree::Ident(name) if at > 0 && is(at - 1, '.') => {
                    self.seen.methods.push(name.to_string());
                }
                TokenTree::Ident(name) => {
                    let mut segments = vec![name.to_string()];
                    while is(at + 1, ':') && is(at + 2, ':') {
                        let Some(TokenTree::Ident(next)) = tokens.get(at + 3) else { break };
                        segments.push(next.to_string());
                        at += 3;
                    }
                    self.path(segments);
                }
                TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }
}

/// Whether a module or a function is for tests.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => attribute.path().is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

impl<'ast> Visit<'ast> for Look {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        let tests = usize::from(is_for_tests(&module.attrs));
        self.in_tests += tests;
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
        self.in_tests -= tests;
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        self.seen.attributes.extend(attribute.path().get_ident().map(ToString::to_string));
        match &attribute.meta {
            Meta::List(list) => self.tokens(list.tokens.clone()),
            Meta::NameValue(value) if !attribute.path().is_ident("doc") => self.visit_expr(&value.value),
            _ => {}
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.seen.methods.push(call.method.to_string());
        visit::visit_expr_method_call(self, call);
    }

    fn visit_lit_str(&mut self, text: &'ast LitStr) {
        // Some derives are given paths as texts.
        if text.value().starts_with("crate::")
            && let Ok(path) = text.parse::<syn::Path>()
        {
            self.path(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        self.seen.strings.push(text.value());
    }

    fn visit_lit_float(&mut self, float: &'ast LitFloat) {
        if self.in_tests == 0 {
            self.seen.floats.push(float.to_string());
        }
    }
}
