#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use super::*;

const AGENT: AgentId = AgentId([7; 16]);

fn soon() -> Instant {
    Instant::now() + PRESENCE_TIMEOUT
}

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
    let asking = presences.of(AGENT, soon());
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

#[tokio::test]
async fn a_node_that_answers_nothing_is_waited_for_no_longer_than_that_and_nothing_is_kept_of_it() {
    let presences = Presences::new();
    // It takes every question, and says nothing.
    let silent = async {
        loop {
            presences.next_frame().await;
        }
    };
    let until = Instant::now() + Duration::from_millis(20);
    let asking = async { tokio::join!(presences.of(AGENT, until), presences.of(AgentId([8; 16]), until)) };
    let both = tokio::select! {
        both = asking => both,
        () = silent => unreachable!("it never ends"),
    };
    assert!(matches!(both, (Err(PresenceError::TimedOut), Err(PresenceError::TimedOut))), "{both:?}");
    assert!(presences.state.lock().unwrap().questions.is_empty(), "what was asked is forgotten with whoever asked");
    // An answer that comes too late is nobody's; one to a new question counts.
    presences.answered(answer(PresenceState::Online));
    let (presence, ()) = tokio::join!(presences.of(AGENT, soon()), async {
        presences.next_frame().await;
        presences.answered(answer(PresenceState::Unknown));
    });
    assert_eq!(presence.unwrap(), Presence::Unknown);
}

#[tokio::test]
async fn whoever_stops_waiting_takes_no_answer_from_the_others() {
    let presences = Presences::new();
    let mut first = Box::pin(presences.of(AGENT, soon()));
    let mut second = Box::pin(presences.of(AGENT, soon()));
    let both_wait = std::future::poll_fn(|context| {
        let waits = [first.as_mut().poll(context).is_pending(), second.as_mut().poll(context).is_pending()];
        std::task::Poll::Ready(waits == [true; 2])
    });
    assert!(both_wait.await);
    drop(first);
    assert_eq!(presences.take_question(), Some(AGENT));
    presences.answered(answer(PresenceState::Online));
    assert_eq!(second.await.unwrap(), Presence::Online);
}
