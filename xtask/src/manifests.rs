//! Rules about who may depend on whom, read from the manifests: a crate that does not depend on another cannot name it.

use toml::{Table, Value};

use crate::{Complaint, Tree};

/// Packages that only some folders may depend on. Tests may (dev-dependencies).
const FENCED: &[(&str, &[&str])] = &[
    ("glommio", &["engine/io", "engine/node"]),
    ("tokio", &["control/storage", "control/service", "agent", "cli", "loadgen", "benches"]),
];

/// What each crate of ours may depend on, where the direction of dependencies is a promise of ARCHITECTURE.md.
const ONE_WAY: &[(&str, &[&str])] = &[
    ("envelope", &[]),
    ("crypto-accel", &["creto-sha-lanes"]),
    ("crypto-accel/lanes", &[]),
    ("store", &[]),
    ("net", &["creto-envelope"]),
    ("control/policy", &["creto-envelope"]),
    ("control/storage", &[]),
    ("control/link", &["creto-envelope", "creto-policy"]),
    ("control/rego", &[]),
    ("control/metrics", &[]),
    ("control/audit", &["creto-envelope", "creto-crypto-accel"]),
    ("control/transparency", &["creto-envelope", "creto-crypto-accel", "creto-audit"]),
    ("engine/shard", &["creto-envelope", "creto-crypto-accel", "creto-store", "creto-policy", "creto-audit"]),
];

/// glommio and tokio stay behind their fences.
#[must_use]
pub fn fenced_packages_stay_inside(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (folder, manifest) in manifests(tree) {
        for (package, folders) in FENCED {
            if dependencies(&manifest).iter().any(|name| name == package) && !folders.contains(&folder.as_str()) {
                let text = format!("{package} is for {} only; take it out of [dependencies]", folders.join(", "));
                complaints.push(Complaint::new(&format!("{folder}/Cargo.toml"), 0, text));
            }
        }
    }
    complaints
}

/// Dependencies between our crates point one way.
#[must_use]
pub fn dependencies_point_one_way(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (folder, manifest) in manifests(tree) {
        let Some((_, allowed)) = ONE_WAY.iter().find(|(name, _)| *name == folder) else { continue };
        let ours = dependencies(&manifest).into_iter().filter(|name| name.starts_with("creto-"));
        complaints.extend(ours.filter(|name| !allowed.contains(&name.as_str())).map(|name| {
            Complaint::new(
                &format!("{folder}/Cargo.toml"),
                0,
                format!("{folder} must not know {name} (ARCHITECTURE.md)"),
            )
        }));
    }
    complaints
}

/// Folders of the workspace's crates.
#[must_use]
pub fn members(tree: &Tree) -> Vec<String> {
    let root: Option<Table> = tree.text("Cargo.toml").and_then(|text| text.parse().ok());
    let members = root.as_ref().and_then(|root| root.get("workspace")?.get("members")?.as_array().cloned());
    members.unwrap_or_default().iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Name of the package in `folder`.
#[must_use]
pub fn package_name(tree: &Tree, folder: &str) -> Option<String> {
    let manifest: Table = tree.text(&format!("{folder}/Cargo.toml"))?.parse().ok()?;
    Some(manifest.get("package")?.get("name")?.as_str()?.to_owned())
}

fn manifests(tree: &Tree) -> Vec<(String, Table)> {
    let parse = |folder: String| {
        let manifest = tree.text(&format!("{folder}/Cargo.toml"))?.parse().ok()?;
        Some((folder, manifest))
    };
    members(tree).into_iter().filter_map(parse).collect()
}

/// Names of what is built into the crate: dependencies and build dependencies, on any target, renamed or not.
fn dependencies(manifest: &Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(|targets| targets.values());
    let tables = targets.filter_map(Value::as_table).chain([manifest]);
    let sections = tables.flat_map(|table| ["dependencies", "build-dependencies"].map(|name| table.get(name)));
    let entries = sections.flatten().filter_map(Value::as_table).flat_map(|section| section.iter());
    let name =
        |(name, value): (&String, &Value)| value.get("package").and_then(Value::as_str).unwrap_or(name).to_owned();
    entries.map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(folder: &str, manifest: &str) -> Tree {
        let root = format!("[workspace]\nmembers = [\"{folder}\"]\n");
        Tree::of(&[("Cargo.toml", &root), (&format!("{folder}/Cargo.toml"), manifest)])
    }

    #[test]
    fn a_fenced_package_outside_its_fence_is_found() {
        for manifest in [
            "[dependencies]\nglommio.workspace = true\n",
            "[dependencies]\nruntime = { package = \"glommio\", version = \"0.9\" }\n",
            "[build-dependencies]\ntokio = \"1\"\n",
            "[target.'cfg(unix)'.dependencies]\ntokio = \"1\"\n",
        ] {
            assert_eq!(fenced_packages_stay_inside(&tree("store", manifest)).len(), 1, "{manifest}");
        }
        assert_eq!(fenced_packages_stay_inside(&tree("store", "[dev-dependencies]\ntokio = \"1\"\n")), []);
        assert_eq!(fenced_packages_stay_inside(&tree("engine/io", "[dependencies]\nglommio = \"0.9\"\n")), []);
    }

    #[test]
    fn a_dependency_against_the_direction_is_found() {
        let upward = "[dependencies]\ncreto-net.workspace = true\ncreto-store.workspace = true\n";
        let found = dependencies_point_one_way(&tree("engine/shard", upward));
        assert_eq!(found.len(), 1);
        assert!(found[0].text.contains("creto-net"));
        assert_eq!(dependencies_point_one_way(&tree("store", "[dependencies]\ncrc32c = \"0.6\"\n")), []);
        assert_eq!(
            dependencies_point_one_way(&tree("store", "[dependencies]\ncreto-envelope.workspace = true\n")).len(),
            1
        );
    }

    #[test]
    fn members_and_their_names_are_read() {
        let tree = tree("engine/io", "[package]\nname = \"creto-io\"\n");
        assert_eq!(members(&tree), ["engine/io"]);
        assert_eq!(package_name(&tree, "engine/io").as_deref(), Some("creto-io"));
    }
}
