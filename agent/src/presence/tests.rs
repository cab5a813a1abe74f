#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use super::*;

const AGENT: AgentId = AgentId([7; 16]);

fn answer(state: PresenceState) -> PresenceAnswer {
    PresenceAnswer { agent: AGENT, state }
}

#[tokio::test]
async fn one_question_answers_all_who_ask_the_same_and_is_asked_again_on_a_new_connection() {
    let presences = Presences::new();
    let (first, second) = (presences.ask(AGENT).unwrap(), presences.ask(AGENT).unwrap());
    assert_eq!(presences.take_question(), Some(AGENT));
    assert_eq!(presences.take_question(), None);
    presences.connected();
    assert_eq!(presences.take_question(), Some(AGENT));
    presences.answered(answer(PresenceState::Online));
    for asked in [first, second] {
        assert_eq!(asked.await.unwrap().unwrap(), PresenceState::Online);
    }
    presences.answered(answer(PresenceState::Online));
    assert!(presences.state.lock().unwrap().questions.is_empty(), "what nobody asked for is ignored");
}

#[tokio::test]
async fn whoever_asks_too_often_waits_and_is_answered() {
    let presences = Presences::new();
    let asking = presences.of(AGENT);
    let answering = async {
        presences.next_frame().await;
        presences.answered(answer(PresenceState::Later { retry_after_ms: 1 }));
        presences.next_frame().await;
        presences.answered(answer(PresenceState::Seen { minutes: 3 }));
    };
    let (presence, ()) = tokio::join!(asking, answering);
    assert_eq!(presence.unwrap(), Presence::Seen { ago: Duration::from_secs(180) });
}

#[tokio::test]
async fn a_node_that_does_not_know_the_question_is_no_reason_to_wait() {
    let presences = Presences::new();
    let (asked, later) = (presences.ask(AGENT).unwrap(), presences.ask(AgentId([8; 16])).unwrap());
    assert_eq!(presences.take_question(), Some(AGENT));
    presences.ended_with(RejectCode::ShuttingDown);
    presences.ended_with(RejectCode::FrameUnknownType);
    assert!(matches!(asked.await.unwrap(), Err(PresenceError::Unsupported)));
    presences.close();
    assert!(matches!(later.await.unwrap(), Err(PresenceError::Closed)), "it was not asked yet");
    assert!(matches!(presences.ask(AGENT), Err(PresenceError::Closed)));
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_asked() {
    let presences = Presences::new();
    drop(presences.ask(AGENT).unwrap());
    assert_eq!(presences.take_question(), None);
    assert!(presences.state.lock().unwrap().questions.is_empty());
}
