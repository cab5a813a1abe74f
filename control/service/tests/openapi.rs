//! The document of the API is what `docs/openapi.json` says, and what the service serves.
#![allow(clippy::unwrap_used, reason = "this file is all tests, also the functions that tests share")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use creto_envelope::TrustDomain;
use creto_service::api::ErrorCode;
use creto_service::{Service, ServiceOptions, openapi};
use serde_json::Value;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn document() -> Value {
    serde_json::to_value(openapi()).unwrap()
}

/// Path, method and operation, one after the other.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            METHODS
                .iter()
                .filter_map(move |method| item.get(method).map(|operation| (path.as_str(), *method, operation)))
        })
        .collect()
}

#[test]
fn the_file_in_docs_is_the_document() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let wanted = serde_json::to_string_pretty(&openapi()).unwrap() + "\n";
    if std::env::var_os("CRETO_WRITE_DOCS").is_some() {
        std::fs::write(&file, wanted).unwrap();
        return;
    }
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        wanted,
        "docs/openapi.json is out of date: CRETO_WRITE_DOCS=1 cargo test -p creto-service --test openapi"
    );
}

#[test]
fn every_operation_says_what_it_is_and_every_reference_leads_somewhere() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let at = format!("{method} {path}");
        assert!(operation["summary"].as_str().is_some_and(|summary| summary.len() > 8), "{at}");
        assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{at}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{at}: an id that is there twice");
        let is_described = operation["responses"].get("default").is_some();
        // What is not signed is not refused.
        assert_eq!(is_described, !["/live", "/ready"].contains(&path), "{at}");
        let parameters: BTreeSet<_> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .into_iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let in_path: BTreeSet<_> = path.split(['{', '}']).skip(1).step_by(2).collect();
        assert_eq!(parameters, in_path, "{at}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{at}: {parameter}");
        }
    }
    assert!(ids.len() > 20, "{ids:?}");
    let text = document.to_string();
    let references: BTreeSet<_> = text.split("\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}

/// The code of the refusal, if it is one.
fn code_of(socket: &Path, method: &str, path: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).unwrap();
    let method = method.to_uppercase();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    head.contains("application/problem+json")
        .then(|| serde_json::from_str::<Value>(body).unwrap()["code"].as_str().unwrap().to_owned())
}

#[test]
fn every_operation_of_the_document_is_served_and_no_other_method_is() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let options = ServiceOptions::new(folder.path().join("control.redb"), socket.clone(), TrustDomain::default());
    let handle = Service::open(options).unwrap().spawn(|_| ()).unwrap();
    let document = document();
    let named: BTreeSet<_> = operations(&document).into_iter().map(|(path, method, _)| (path, method)).collect();
    let paths: BTreeSet<_> = named.iter().map(|(path, _)| *path).collect();
    for path in paths {
        let filled = path.replace(['{', '}'], "");
        for method in METHODS {
            let code = code_of(&socket, method, &filled);
            assert_ne!(code.as_deref(), Some(ErrorCode::PathUnknown.as_str()), "{method} {path}");
            let is_served = code.as_deref() != Some(ErrorCode::Method.as_str());
            assert_eq!(is_served, named.contains(&(path, method)), "{method} {path}: {code:?}");
        }
    }
    assert_eq!(code_of(&socket, "get", "/v1/nothing").as_deref(), Some(ErrorCode::PathUnknown.as_str()));
    handle.shutdown().unwrap();
}
