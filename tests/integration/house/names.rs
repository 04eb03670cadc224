//! One word for one thing: a type has a name of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

use super::matches::sources;

/// Rooms that speak of the same things in forms of their own: pages and tables show them, and the simulated vendor is a program of
/// its own.
const VIEWS: &[&str] =
    &["src/console", "src/console.rs", "src/cli", "src/cli.rs", "src/simulator", "src/simulator.rs"];

/// The names of the types of a file, without those of its tests.
#[derive(Default)]
struct Names(Vec<String>);

impl<'a> Visit<'a> for Names {
    fn visit_item_mod(&mut self, item: &'a syn::ItemMod) {
        if item.ident != "tests" {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_struct(&mut self, item: &'a syn::ItemStruct) {
        self.0.push(item.ident.to_string());
    }

    fn visit_item_enum(&mut self, item: &'a syn::ItemEnum) {
        self.0.push(item.ident.to_string());
    }

    fn visit_item_trait(&mut self, item: &'a syn::ItemTrait) {
        self.0.push(item.ident.to_string());
    }
}

fn is_view(path: &Path) -> bool {
    VIEWS.iter().any(|room| path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().starts_with(room))
}

#[test]
fn a_type_has_a_name_of_its_own() {
    let mut places: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for (path, file) in sources().into_iter().filter(|(path, _)| !is_view(path)) {
        let mut names = Names::default();
        names.visit_file(&file);
        for name in names.0 {
            places.entry(name).or_default().push(path.clone());
        }
    }
    assert!(
        places.len() > 500 && places.contains_key("Credits"),
        "these are not all types: {}",
        places.len()
    );
    let shared: Vec<_> = places.iter().filter(|(_, paths)| paths.len() > 1).collect();
    assert!(shared.is_empty(), "two things with one name: {shared:#?}");
}
