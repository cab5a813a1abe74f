use std::sync::mpsc;

use super::*;
use crate::fixture::signed;

fn publication(answers: &mpsc::Sender<Answer>) -> Publication {
    let signed = signed("acme/a", 1);
    let answers = answers.clone();
    Publication {
        agent: signed.record.agent_id(),
        mode: RotationMode::Planned,
        record: Box::new(signed),
        reply: Reply::new(move |answer| answers.send(answer).unwrap()),
    }
}

#[test]
fn a_full_door_refuses_at_once_and_calls_no_reply() {
    let (answers, answered) = mpsc::channel();
    let (publisher, publications) = publications();
    for _ in 0..PUBLICATIONS_MAX {
        publisher.publish(publication(&answers)).unwrap();
    }
    let refused = publisher.publish(publication(&answers)).unwrap_err();
    assert_eq!(refused, Refused { code: RejectCode::Overloaded, retry_after_ms: RETRY_MS });
    assert!(answered.try_recv().is_err());
    // What was taken is answered, whatever happens to the service.
    drop(publications);
    assert_eq!(
        answered.try_iter().filter(|answer| *answer == Err(RejectCode::ShuttingDown.into())).count(),
        PUBLICATIONS_MAX
    );
    let refused = publisher.publish(publication(&answers)).unwrap_err();
    assert_eq!(refused.code, RejectCode::ShuttingDown);
    assert!(answered.try_recv().is_err());
}

#[test]
fn a_reply_is_called_once() {
    let (answers, answered) = mpsc::channel();
    publication(&answers).reply.send(Ok(2));
    drop(publication(&answers));
    assert_eq!(answered.try_iter().collect::<Vec<_>>(), [Ok(2), Err(RejectCode::ShuttingDown.into())]);
}
