//! The operations of an OpenAPI document, so that a test can try each: one that is added is tried by that alone.

use std::fmt;

use reqwest::Method;
use serde_json::Value;

/// One operation.
#[derive(Debug, Clone)]
pub struct Operation {
    pub method: Method,
    /// With its parameters in braces.
    pub path: String,
    /// Whom it is for, in the document's words.
    pub roles: Vec<String>,
    pub takes_body: bool,
    /// The names of the parameters in its path.
    pub parameters: Vec<String>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Operation {
    /// Its path with a value for each parameter.
    pub fn path_with(&self, mut value: impl FnMut(&str) -> String) -> String {
        let fill = |path: String, name: &String| path.replace(&format!("{{{name}}}"), &value(name));
        self.parameters.iter().fold(self.path.clone(), fill)
    }
}

/// All of them, in the order of the document.
pub fn operations(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else { continue };
            let requirements = operation["security"].as_array().into_iter().flatten();
            let roles = requirements
                .flat_map(|requirement| requirement.as_object().unwrap().values())
                .flat_map(|roles| roles.as_array().unwrap())
                .map(|role| role.as_str().unwrap().to_owned());
            let parameters = path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap().to_owned());
            all.push(Operation {
                method,
                path: path.clone(),
                roles: roles.collect(),
                takes_body: operation.get("requestBody").is_some(),
                parameters: parameters.collect(),
            });
        }
    }
    all
}
