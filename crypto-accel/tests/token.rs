//! Tokens for enrolment.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use creto_crypto_accel::token::EnrolmentToken;
use zeroize::Zeroizing;

#[test]
fn a_token_has_one_spelling_and_is_not_printed_by_accident() {
    let token = EnrolmentToken::new(Zeroizing::new(std::array::from_fn(|index| 0xa0 + u8::try_from(index).unwrap())));
    let text = token.text().to_string();
    assert!(text.starts_with("creto-enrol-a0a1a2") && text.len() == 76, "{text}");
    let parsed = EnrolmentToken::parse(&text).unwrap();
    assert_eq!((parsed.hash(), parsed.expose()), (token.hash(), token.expose()));
    assert!(!format!("{token:?}").contains(&text[12..20]));
    let cut = &text[..text.len() - 1];
    for other in ["", "creto-enrol-", cut, &format!("{text}0"), &text.to_uppercase(), &text[12..], &format!("{cut}g")] {
        assert!(EnrolmentToken::parse(other).is_none(), "{other}");
    }
}
