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
fn pure_crates_forbid_unsafe_code() {
    check(source::pure_crates_forbid_unsafe_code);
}

#[test]
fn architecture_names_every_crate() {
    check(documents::architecture_names_every_crate);
}

#[test]
fn architecture_names_what_exists() {
    check(documents::architecture_names_what_exists);
}

#[test]
fn the_protocol_page_lists_every_reject_code() {
    check(xtask::rejects::the_protocol_page_lists_every_reject_code);
}

#[test]
fn the_map_for_models_names_every_document() {
    check(documents::the_map_for_models_names_every_document);
}

#[test]
fn links_lead_somewhere() {
    check(documents::links_lead_somewhere);
}

#[test]
fn every_statement_names_the_test_that_holds_it() {
    check(xtask::security::every_statement_names_the_test_that_holds_it);
}

#[test]
fn every_figure_names_what_holds_it() {
    check(xtask::figures::every_figure_names_what_holds_it);
}
