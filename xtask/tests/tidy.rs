//! The checks, on the repository itself.

use xtask::{Complaint, Tree, documents, manifests, source};

fn check(rule: fn(&Tree) -> Vec<Complaint>) {
    let complaints = rule(&Tree::of_repository());
    let list: String = complaints.iter().map(|complaint| format!("  {complaint}\n")).collect();
    assert!(complaints.is_empty(), "\n{list}");
}

#[test]
fn files_stay_short() {
    check(source::files_stay_short);
}

#[test]
fn nothing_is_left_for_later() {
    check(source::nothing_is_left_for_later);
}

#[test]
fn no_file_names_a_build_machine() {
    check(source::no_file_names_a_build_machine);
}

#[test]
fn fenced_packages_stay_inside() {
    check(manifests::fenced_packages_stay_inside);
}

#[test]
fn dependencies_point_one_way() {
    check(manifests::dependencies_point_one_way);
}

#[test]
fn links_lead_somewhere() {
    check(documents::links_lead_somewhere);
}
