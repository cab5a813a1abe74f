//! Reject codes are part of the protocol: a number that was published never changes its name or its meaning.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use creto_envelope::RejectCode;

/// Number, name, and whether the same message may be accepted later. A new code is a new line; no line ever changes.
const PUBLISHED: &str = include_str!("../golden/reject-codes.tsv");

#[test]
fn published_codes_keep_number_name_and_verdict_on_retries() {
    let current: String = RejectCode::ALL
        .iter()
        .map(|code| format!("{}\t{}\t{}\n", code.as_u16(), code.name(), code.is_retryable()))
        .collect();
    assert_eq!(current, PUBLISHED, "a code changed: the list in golden/reject-codes.tsv only grows");
}

#[test]
fn codes_are_unique_ascending_and_find_themselves() {
    for pair in RejectCode::ALL.windows(2) {
        assert!(pair[0].as_u16() < pair[1].as_u16(), "{:?} comes before {:?}", pair[0], pair[1]);
    }
    for number in 0..=u16::MAX {
        if let Some(code) = RejectCode::from_u16(number) {
            assert_eq!(code.as_u16(), number);
            assert!(RejectCode::ALL.contains(&code));
        }
    }
    assert_eq!(RejectCode::from_u16(0), None, "zero says that nothing is wrong");
}

#[test]
fn every_text_is_one_lower_case_sentence_that_says_what_to_do() {
    for code in RejectCode::ALL {
        let text = code.text();
        assert!(!text.ends_with('.') && text.len() < 130, "{code:?}: {text}");
        assert!(text.starts_with(|first: char| first.is_ascii_lowercase()), "{code:?}: {text}");
        assert!(code.to_string().contains(code.name()), "{code:?} is named in what is shown");
    }
}
