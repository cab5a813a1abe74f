//! Signals beside messages: they wait for nothing that messages wait for, and are never sent twice.

use super::*;

fn signal(n: u32, recipient: u8) -> (Message, Answer) {
    let (mut message, answer) = message(n, recipient, 0);
    (message.is_signal, message.retry_until_us) = (true, 0);
    (message, answer)
}

fn dropped(outbox: &mut Outbox) -> Vec<u32> {
    outbox.take_dropped().iter().map(|message| number(message.id)).collect()
}

#[test]
fn a_signal_opens_no_session_and_goes_in_none() {
    let mut outbox = connected();
    outbox.push(signal(0, 1).0);
    let job = outbox.next_job(0).unwrap();
    assert!(job.under[0].is_none());
    outbox.sealed(sealed(job));
    outbox.next_frame().unwrap();
    // The first message opens one, as if nothing had gone before it; the next signal leaves it alone.
    push(&mut outbox, 1..2, 1);
    outbox.push(signal(2, 1).0);
    let job = outbox.next_job(5_000).unwrap();
    assert_eq!(job.under.iter().map(|under| under.as_ref().map(|u| u.carries)).collect::<Vec<_>>(), [Some(true), None]);
}

#[test]
fn a_signal_passes_messages_that_wait_for_room_in_a_mailbox() {
    let mut outbox = connected();
    push(&mut outbox, 0..1, 1);
    pump(&mut outbox, 0);
    assert!(answered(&mut outbox, &ack(1, &[(1, 0, RejectCode::MailboxFull)]), 0).is_empty());
    push(&mut outbox, 1..2, 1);
    outbox.push(signal(2, 1).0);
    assert_eq!(pump(&mut outbox, 0), [(2, vec![(1, 2)])]);
}

#[test]
fn what_the_node_does_not_take_of_signals_now_it_is_not_asked_again() {
    let mut outbox = connected();
    outbox.push(signal(0, 1).0);
    pump(&mut outbox, 0);
    let answers = answered(&mut outbox, &ack(1, &[(1, 0, RejectCode::Overloaded)]), 0);
    assert!(matches!(answers[..], [(0, Err(SendError::Refused { code: RejectCode::Overloaded, .. }))]));
}

#[test]
fn a_signal_ends_with_the_connection_wherever_it_was_then() {
    let mut outbox = connected();
    outbox.push(signal(0, 1).0);
    pump(&mut outbox, 0);
    push(&mut outbox, 1..2, 1);
    outbox.push(signal(2, 1).0);
    let at_a_worker = outbox.next_job(5_000).unwrap();
    push(&mut outbox, 3..4, 1);
    outbox.push(signal(4, 1).0);
    outbox.lost();
    assert_eq!(outbox.unanswered(), 0, "no signal is sent again");
    assert_eq!(dropped(&mut outbox), [4], "it waited");
    outbox.connected(&ACCEPTED);
    assert!(pump(&mut outbox, 5_000).is_empty());
    outbox.sealed(sealed(at_a_worker));
    assert_eq!(dropped(&mut outbox), [0, 2]);
    assert_eq!(pump(&mut outbox, 5_000), [(1, vec![(1, 1), (1, 3)])], "messages are sent again");
    assert_eq!(outbox.give_up().len(), 2);
}

#[test]
fn a_signal_to_a_key_that_was_replaced_is_sealed_again() {
    let mut outbox = connected();
    outbox.push(signal(0, 1).0);
    pump(&mut outbox, 0);
    assert!(answered(&mut outbox, &ack(1, &[(1, 0, RejectCode::UnknownRecipientKey)]), 0).is_empty());
    assert_eq!(outbox.take_fetches(), [AgentId([1; 16])]);
    assert!(pump(&mut outbox, 0).is_empty(), "nobody knows the key yet");
    outbox.fetched(AgentId([1; 16]), Ok(identity(1)), &mut Vec::new());
    let job = outbox.next_job(5_000).unwrap();
    assert_eq!(job.messages[0].plain().key_id(), KeyId(identity(1).sealing.key_id()));
}
