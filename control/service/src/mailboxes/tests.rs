use creto_policy::mailbox::SESSION_SPAN_MS;

use super::*;

const DAY_S: u32 = 86_400;

fn row() -> MailboxRow {
    MailboxRow {
        settings: MailboxSettings {
            retention_s: Some(3_600),
            messages_max: Some(5),
            bytes_max: Some(2 << 20),
            max_deliveries: Some(9),
        },
        lower: LowerRetention { retention_s: 1, until_ms: 2 },
    }
}

#[test]
fn a_row_comes_back_from_its_bytes_and_from_no_others() {
    for row in [row(), MailboxRow::default()] {
        let bytes = row.to_bytes();
        assert_eq!(MailboxRow::parse(&bytes), Some(row));
        for cut in 0..bytes.len() {
            assert_eq!(MailboxRow::parse(&bytes[..cut]), None);
        }
        // Another format, what must be zero, and values that nobody can have set.
        for (at, wrong) in [(0, 2), (2, 1), (3, 1), (15, 0xff), (16, 1)] {
            let mut changed = bytes;
            changed[at] = wrong;
            if at == 16 {
                changed[17..20].fill(0);
            }
            assert_eq!(MailboxRow::parse(&changed), None, "byte {at}");
        }
    }
}

/// It could be set once.
#[test]
fn a_row_that_gives_messages_up_after_one_delivery_reads_as_two() {
    let with = |max_deliveries| {
        let settings = MailboxSettings { max_deliveries: Some(max_deliveries), ..row().settings };
        MailboxRow { settings, ..row() }
    };
    assert_eq!(MailboxRow::parse(&with(1).to_bytes()), Some(with(2)));
    assert_eq!(MailboxRow::parse(&with(2).to_bytes()), Some(with(2)));
}

#[test]
fn what_is_left_out_of_a_change_stays_and_null_takes_back() {
    let read = |text| serde_json::from_str::<MailboxChange>(text);
    assert_eq!(read("{}").unwrap(), MailboxChange::default());
    let change = read(r#"{"messages_max":7,"bytes_max":null}"#).unwrap();
    let after = change.applied_to(&row().settings).unwrap();
    assert_eq!(after, MailboxSettings { messages_max: Some(7), bytes_max: None, ..row().settings });
    assert_eq!(serde_json::to_string(&change).unwrap(), r#"{"messages_max":7,"bytes_max":null}"#);
    assert_eq!(MailboxChange::ALL_DEFAULT.applied_to(&row().settings), Ok(MailboxSettings::default()));
    assert!(read(r#"{"messages":7}"#).is_err() && read(r#"{"messages_max":-1}"#).is_err());
    assert!(read(r#"{"retention_s":1}"#).unwrap().applied_to(&row().settings).is_err());
}

#[test]
fn a_default_that_was_raised_counts_for_the_mailboxes_that_follow_it() {
    let first = DefaultRetention::configured(None, DAY_S, 0);
    assert_eq!(first, DefaultRetention { retention_s: DAY_S, lower: LowerRetention::default() });
    assert_eq!(DefaultRetention::parse(&first.to_bytes()), Some(first));
    let raised = DefaultRetention::configured(Some(first), 7 * DAY_S, 1_000);
    assert_eq!(DefaultRetention::parse(&raised.to_bytes()), Some(raised));
    assert_eq!(DefaultRetention::configured(Some(raised), 7 * DAY_S, 2_000), raised, "a start without a change");
    let follows = MailboxRow::default();
    assert_eq!(follows.lower_with(raised.lower, 2_000).in_force_s(2_000), Some(DAY_S));
    let own = MailboxRow { lower: LowerRetention::default(), ..row() };
    assert_eq!(own.lower_with(raised.lower, 2_000).in_force_s(2_000), None, "it has its own");

    // One that followed it and is given its own: the sessions that are open began under the default.
    let settings = MailboxSettings { retention_s: Some(9 * DAY_S), ..MailboxSettings::default() };
    let changed = follows.changed(settings, 7 * DAY_S, raised.lower, 2_000);
    assert_eq!(changed.lower_with(raised.lower, 2_000).in_force_s(2_000), Some(DAY_S));
    assert_eq!(changed.lower.in_force_s(2_000 + SESSION_SPAN_MS), None);
    // And back: that it follows the default again is a change, too.
    let short = MailboxRow { lower: LowerRetention::default(), ..row() };
    let back = short.changed(MailboxSettings::default(), 7 * DAY_S, LowerRetention::default(), 5);
    assert_eq!(back.lower.in_force_s(5), Some(3_600));
}
